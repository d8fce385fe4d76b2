"""A base's own lists of covers and of attributes, which win over the built-in ones."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.codelists import BUILT_IN, Cover, attribute_labels
from pipeline.errors import InputError, SettingsError
from pipeline.sections import SioseSettings
from pipeline.siose_columns import check_described, is_named
from pipeline.siose_tables import Table, batches, numbers, texts

log = logging.getLogger(__name__)

_COVERS = ("LISTADO_COBERTURAS", "TC_SIOSE_COBERTURAS")
_ATTRIBUTES = ("LISTADO_ATRIBUTOS", "TC_SIOSE_ATRIBUTOS")
_LABELS = ("ETIQUETA", "CODE_ABREVIADO", "CODE_ABREV")


def own_covers(path: Path, tables: Iterable[Table]) -> tuple[Cover, ...]:
    """The base's own list of covers, or none.

    Raises:
        InputError: If it has ids that are no numbers.
    """
    table = _listed(path, tables, _COVERS)
    if table is None:
        return ()
    number = table.column("ID_COBERTURA", "ID_COBERTURAS", "ID_COBER")
    label = table.column(*_LABELS)
    text = table.column("DESCRIPCION", "DESCRIPCION_COBERTURAS", "DESC_COBER")
    if not number or not label:
        log.warning(
            "%s: %s lacks ID_COBERTURA or its labels; the built-in codelist is used",
            path, table.name,
        )  # fmt: skip
        return ()
    covers, wrong = [], []
    for given, value, name, about in _rows(table, number, label, text):
        if value is None:
            wrong.append(f"{table.name}: {number} {given!r} of {name} is not a number")
        else:
            covers.append(Cover(value, name.upper(), about))
    if wrong:
        raise InputError(
            f"SIOSE base {path}: its codelist cannot be read.",
            wrong,
            "Mend the ids, or take the table out: the built-in codelist serves then.",
        )
    _say_ambiguous(path, table.name, covers)
    return tuple(covers)


def own_attributes(path: Path, tables: Iterable[Table]) -> dict[int, str]:
    """Labels of attributes by their id: the base's own, and of the built-in ones the others.

    Classic ``T_VALORES`` has attributes by their ids. ``A``, ``R`` and ``I``, which its list has,
    too, are kinds of composite and no attributes of ground.
    """
    labels = attribute_labels()
    table = _listed(path, tables, _ATTRIBUTES)
    if table is None:
        return labels
    number = table.column("ID_ATRIBUTO", "ID_ATRIBUTOS", "ID_ATRIB")
    label = table.column(*_LABELS)
    if not number or not label:
        log.warning(
            "%s: %s lacks ID_ATRIBUTO or its labels; the built-in attributes are used",
            path, table.name,
        )  # fmt: skip
        return labels
    own = {
        value: name.lower()
        for _, value, name, _ in _rows(table, number, label, None)
        if value is not None and re.fullmatch("[A-Za-z]{2}", name)
    }
    return labels | own


def check_codelist(path: Path, name: str, own: Sequence[Cover], settings: SioseSettings) -> None:
    """Refuse the name of a codelist that is none.

    Raises:
        SettingsError: If it is neither built in, nor that of the base's own list or codes.
    """
    if name in BUILT_IN or settings.codelist == "auto":
        return
    alike = difflib.get_close_matches(name, BUILT_IN, n=1, cutoff=0.7)
    if alike:
        raise SettingsError(
            f"siose.codelist: {name!r} is not built in; did you mean {alike[0]!r}?",
            [f"built in: {', '.join(BUILT_IN)}"],
        )
    if not own and not settings.code_column:
        raise SettingsError(
            f"siose.codelist: {name!r} is not built in, and {path} has none of its own.",
            [f"built in: {', '.join(BUILT_IN)}"],
            "A name of yours goes with `siose.code_column`.",
        )


def _listed(path: Path, tables: Iterable[Table], names: Sequence[str]) -> Table | None:
    """The first table of some names, if it has columns."""
    found = next((t for t in tables if any(is_named(t.name, name) for name in names)), None)
    if found is not None:
        check_described(path, found)
    return found


def _rows(
    table: Table, number: str, label: str, text: str | None
) -> Iterator[tuple[str, int | None, str, str]]:
    """Id as written and as a number, label and description of each row that has id and label."""
    for columns in batches(table, [number, label, *([text] if text else [])]):
        written: list[list[str | None]] = [texts(column).to_pylist() for column in columns]
        about = written[2] if text else [""] * len(written[0])
        for given, value, name, described in zip(
            written[0], numbers(columns[0]).tolist(), written[1], about, strict=True
        ):
            if given is not None and name:
                whole = value == value and value == int(value)
                yield given, int(value) if whole else None, name, described or ""


def _say_ambiguous(path: Path, name: str, covers: Iterable[Cover]) -> None:
    """Say which labels and ids of a codelist mean two things."""
    ids: dict[str, set[int]] = {}
    labels: dict[int, set[str]] = {}
    for cover in covers:
        ids.setdefault(cover.label, set()).add(cover.id)
        labels.setdefault(cover.id, set()).add(cover.label)
    twice = [
        f"{' and '.join(map(str, sorted(found)))} are both {label}"
        for label, found in ids.items()
        if len(found) > 1
    ] + [f"{n} is {' and '.join(sorted(found))}" for n, found in labels.items() if len(found) > 1]
    if twice:
        log.warning("%s: %s is ambiguous, and the last counts: %s", path, name, "; ".join(twice))
