"""Columns of a base's polygons and of its values table, by any of the names they go by."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError, SettingsError
from pipeline.sections import SioseSettings
from pipeline.siose_files import check_whole
from pipeline.siose_tables import Table, chosen

LABELS = {"SIOSE_CODE": "siose_classic", "ROTULO": "siose_ar"}
"""Columns of labels, and the codelist that each is of."""


@dataclass(frozen=True)
class PolygonColumns:
    """Columns of the polygons' layer, as it writes them; None where it has none.

    Attributes:
        polygon: ``ID_POLYGON``.
        label: ``ROTULO`` or ``SIOSE_CODE``.
        xml: ``SIOSE_XML``.
        maximum: ``ID_COBERTURA_MAX``.
        code: The column of codes that the settings name.
    """

    polygon: str | None = None
    label: str | None = None
    xml: str | None = None
    maximum: str | None = None
    code: str | None = None


@dataclass(frozen=True)
class ValueColumns:
    """Columns of the values table, as it writes them; None where it has none.

    Attributes:
        polygon: ``ID_POLYGON``.
        percent: ``SUPERF_POR_SINREDONDEO`` or ``SUPERF_POR``.
        cover: ``ID_COBERTURA`` or ``ID_COBERTURAS``.
        label: ``CODE_ABREV``.
        attributes: ``ATRIBUTOS``.
        row: ``INTER_ID``.
        above: ``INTER_ANCESTROS``.
    """

    polygon: str
    percent: str
    cover: str | None
    label: str | None
    attributes: str | None
    row: str | None
    above: str | None


def polygon_columns(
    path: Path, layer: str, fields: Mapping[str, str], settings: SioseSettings
) -> PolygonColumns:
    """The columns of a layer that resolve its polygons.

    Raises:
        SettingsError: If the column of codes that the settings name is not there.
    """
    code = None
    if settings.code_column:
        code = chosen(fields, [settings.code_column.upper()])
        if code is None:
            raise SettingsError(
                f"siose.code_column: layer {layer} of {path} has no column "
                f"{settings.code_column!r}{near(settings.code_column, fields.values())}",
                [f"columns: {', '.join(fields.values())}"],
            )
    return PolygonColumns(
        polygon=chosen(fields, ["ID_POLYGON"]),
        label=chosen(fields, list(LABELS)),
        xml=chosen(fields, ["SIOSE_XML"]),
        maximum=chosen(fields, ["ID_COBERTURA_MAX"]),
        code=code,
    )


def values_table(
    path: Path,
    layer: str,
    columns: PolygonColumns,
    tables: Iterable[Table],
    settings: SioseSettings,
) -> tuple[Table | None, ValueColumns | None]:
    """The values table and its columns, where there is one."""
    if settings.source not in ("auto", "table"):
        return None, None
    named = [table for table in tables if is_named(table.name, "T_VALORES")]
    # SAR_46_T_POLIGONOS and SAR_46_T_VALORES belong together.
    partner = re.sub("T_POLIGONOS|T_COMBINADA", "T_VALORES", layer.upper())
    found = [table for table in named if table.name.upper() == partner]
    found = found or [table for table in named if table.name.upper().endswith("T_VALORES")] or named
    if len(found) > 1:
        raise InputError(
            f"SIOSE base {path}: has more than one table of values.",
            [f"{table.name} ({table.path.name})" for table in found],
            f"Leave the one that belongs to layer {layer}.",
        )
    if not found:
        return None, None
    table = found[0]
    check_described(path, table)
    polygon = table.column("ID_POLYGON")
    percent = table.column("SUPERF_POR_SINREDONDEO", "SUPERF_POR")
    cover = table.column("ID_COBERTURA", "ID_COBERTURAS", "ID_COBER")
    label = table.column("CODE_ABREV", "CODE_ABREVIADO")
    row, above = table.column("INTER_ID"), table.column("INTER_ANCESTROS", "INTER_ANC")
    missing = [] if columns.polygon else [f"{layer}: column ID_POLYGON is missing"]
    if not polygon:
        missing.append(f"{table.name}: column ID_POLYGON is missing")
    if not percent:
        missing.append(
            f"{table.name}: column SUPERF_POR_SINREDONDEO (SIOSE AR) or SUPERF_POR (classic) is "
            "missing"
        )
    if not cover and not label:
        missing.append(
            f"{table.name}: neither ID_COBERTURA (ID_COBERTURAS) nor CODE_ABREV is there"
        )
    if bool(row) != bool(above):
        missing.append(
            f"{table.name}: column {'INTER_ANCESTROS' if row else 'INTER_ID'} is missing, and with "
            "it what is inside what"
        )
    if missing:
        others = [
            name
            for name, column in (
                ("label", columns.label), ("xml", columns.xml), ("maximum", columns.maximum)
            )
            if column
        ]  # fmt: skip
        without = (
            f", or resolve it without the table: `siose.source: {others[0]}`" if others else ""
        )
        raise InputError(
            f"SIOSE base {path}: its values table {table.name} cannot be used.",
            [*missing, f"{table.path.name}: {table.name} has {', '.join(table.columns.values())}"],
            f"Mend the base{without}.",
        )
    assert polygon is not None
    assert percent is not None
    return table, ValueColumns(
        polygon, percent, cover, label, table.column("ATRIBUTOS"), row, above
    )


def is_named(name: str, kind: str) -> bool:
    """Whether a layer or table is of a kind, with whatever stands before it, and behind it ``_``.

    ``SAR_46_T_VALORES`` and ``T_VALORES_2014`` are ``T_VALORES``.
    """
    return re.search(rf"{kind}(_|$)", name.upper()) is not None


def check_described(path: Path, table: Table) -> None:
    """Refuse a table without columns: it is empty, or damaged."""
    check_whole(table.path)
    if not table.columns:
        raise InputError(
            f"SIOSE base {path}: its table {table.name} ({table.path.name}) has no columns.",
            remedy="It is empty, or no CSV, DBF or table: copy or export it again.",
        )


def near(name: str, there: Iterable[str]) -> str:
    """``; did you mean 'CODE_18'?``, or the end of the sentence."""
    written = {other.upper(): other for other in there}
    found = difflib.get_close_matches(name.upper(), list(written), n=1)
    return f"; did you mean {written[found[0]]!r}?" if found else "."
