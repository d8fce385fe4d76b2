"""Maps whose accuracy is told by points: those of a run's sheets, or any files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import config, geotiff, nomenclature
from pipeline.class_rasters import NOMENCLATURE_TAG, check_nomenclature, read_legend
from pipeline.errors import InputError, Problems, SettingsError
from pipeline.nomenclature import Nomenclature
from pipeline.numerals import listed
from pipeline.run import Run
from pipeline.sheets import Sheet, comparisons


@dataclass(frozen=True)
class MapClasses:
    """Classes that maps share.

    Attributes:
        names: Names in the order of the ids.
        colors: ``#RRGGBB`` of each.
        fingerprint: Of the nomenclature that the maps were made with, "" where they do not say.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...]
    fingerprint: str


def sheets_of_one_year(run: Run, names: Sequence[str]) -> Mapping[str, Sheet]:
    """Sheets of a run by name; all where none is named.

    Raises:
        SettingsError: With all names that no sheet has, or if sheets show a place in several years.
    """
    unknown = [name for name in dict.fromkeys(names) if name not in run.sheets]
    if len(unknown) > 1:
        raise SettingsError(
            f"{run.settings.sheets}: there are no sheets {listed([*map(repr, unknown)])}.",
            [f"sheets: {', '.join(run.sheets)}"],
        )
    chosen = {name: run.sheet(name) for name in names} or run.sheets
    if years := comparisons(chosen):
        raise SettingsError(
            "Areas are of one year: they are those of the ground, once.",
            [f"{place}: sheets of {before} and {after}" for place, before, after in years],
            f"Name the sheets of one year with --sheets; all are {', '.join(chosen)}.",
        )
    return chosen


def delivered_maps(run: Run, sheets: Mapping[str, Sheet]) -> dict[str, Path]:
    """The map of each sheet.

    Raises:
        InputError: With all that are missing.
    """
    maps = {name: run.paths.delivered_map(name, run.settings.cleaning.asked) for name in sheets}
    missing = [f"sheet {name}: {path}" for name, path in maps.items() if not path.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(maps)} sheets have no map yet.",
            missing,
            "Map them first, or name those that are mapped with --sheets.",
        )
    return maps


def maps_by_name(maps: Sequence[Path]) -> dict[str, Path]:
    """Map files by their names without folder and suffix.

    Raises:
        SettingsError: If several have one name.
    """
    names = [path.stem for path in maps]
    doubled = [str(path) for path in maps if names.count(path.stem) > 1]
    if doubled:
        raise SettingsError(
            "Maps are told apart by the names of their files.",
            doubled,
            "Rename them, or leave out those that are named twice.",
        )
    return dict(zip(names, maps, strict=True))


def classes_of(
    maps: Sequence[Path], chosen: Path | None, problems: Problems, remedy: str
) -> MapClasses:
    """Classes of maps that must all have the same.

    Args:
        maps: The maps.
        chosen: The nomenclature, for maps that do not say the names of their classes.
        problems: What is wrong already, to be told with what is found here.
        remedy: What to do where maps have other classes than each other.

    Raises:
        InputError: If they have not; or with the problems.
    """
    made_with = {path: problems.tried(_fingerprint, path) for path in maps}
    readable = {path: mark for path, mark in made_with.items() if mark is not None}
    if chosen is not None:
        known = nomenclature.parse(config.read_yaml(chosen), str(chosen))
        for path, fingerprint in readable.items():
            if fingerprint:  # maps of others have none: whoever names the classes vouches for them
                problems.tried(check_nomenclature, fingerprint, path, known)
        problems.check("files cannot be used.")
        return MapClasses(known.names, known.colors, known.fingerprint)
    found = {path: problems.tried(read_legend, path) for path in readable}
    problems.check("files cannot be used.")
    legends = {path: legend for path, legend in found.items() if legend is not None}
    if len({names for names, _ in legends.values()}) > 1 or len(set(readable.values())) > 1:
        raise InputError(
            "The maps have other classes than each other.",
            [
                f"{path}: {', '.join(names)} (nomenclature {readable[path] or 'not told'})"
                for path, (names, _) in legends.items()
            ],
            remedy,
        )
    first = maps[0]
    return MapClasses(*legends[first], readable[first])


def check_made_with(path: Path, known: Nomenclature) -> None:
    """Check that a map was made with a nomenclature.

    Raises:
        InputError: If it cannot be read, or was made with another one.
    """
    check_nomenclature(_fingerprint(path), path, known)


def _fingerprint(path: Path) -> str:
    with geotiff.RasterReader(path, [1]) as reader:
        return reader.tags.get(NOMENCLATURE_TAG, "")
