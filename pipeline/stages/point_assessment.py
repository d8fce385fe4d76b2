"""From points that were drawn elsewhere, and what is there, to accuracies and areas."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import area_estimates, geotiff
from pipeline.area_estimates import AreaEstimates, Sampling
from pipeline.class_rasters import masked_bytes
from pipeline.errors import InputError, Problems, SettingsError
from pipeline.grid import PixelGrid, Window
from pipeline.map_digest import maps_digest
from pipeline.numerals import count, listed, percent, plural
from pipeline.own_ground import own_ground
from pipeline.point_samples import (
    OUTSIDE,
    MappedPoints,
    chance_of,
    classes_under,
    in_systems,
    tabulated,
)
from pipeline.publication import published
from pipeline.reference_points import EMPTY, ReferencePoints, read_points
from pipeline.run import Run
from pipeline.sample_draw import SheetMap, Strata, count_strata
from pipeline.stages.assessed_maps import (
    check_made_with,
    classes_of,
    delivered_maps,
    maps_by_name,
    sheets_of_one_year,
)
from pipeline.stages.assessment import points_table, warn_of_gaps

log = logging.getLogger(__name__)

_OTHERS = (
    "Assess each by itself, or name the nomenclature of all (--nomenclature) if their ids mean the "
    "same."
)

_STRANGE = 0.001
"""Samples are told of that chance would spread as they are more rarely than that."""


@dataclass(frozen=True)
class PointSample:
    """Points that somebody has drawn and interpreted.

    Attributes:
        file: GeoPackage, GeoJSON, Shapefile, whatever GDAL reads, or CSV.
        field: The field with the class of each, by its name or its id.
        sampling: How they were drawn: in each class of the very maps that are assessed, at random
            over all of them, or on a regular grid. Whatever else they were drawn by, nothing can be
            said with these formulas.
        crs: Coordinate reference system, of files that do not say it.
        layer: Name of the layer; the only one where left out.
    """

    file: Path
    field: str
    sampling: Sampling = "simple"
    crs: str | None = None
    layer: str | None = None


@dataclass(frozen=True)
class _Files:
    """What is written."""

    estimates: Path
    table: Path
    points: Path


def assess_points(
    run: Run,
    points: PointSample,
    sheets: Sequence[str] = (),
    out: Path | None = None,
    *,
    partial: bool = False,
    threads: int = 1,
) -> AreaEstimates:
    """Estimate accuracies and areas of a run's delivered maps from points drawn elsewhere.

    Args:
        run: The run.
        points: The points.
        sheets: Sheets that they were drawn from; all where left out.
        out: Folder to write to instead of the run's own, from which the report reads.
        partial: As in :func:`assess_map_points`.
        threads: Threads.

    Raises:
        SettingsError: If there is no such sheet, or sheets show a place in several years.
        InputError: If a map is missing or of other classes; and as :func:`assess_map_points`.
    """
    chosen = sheets_of_one_year(run, sheets)
    maps = delivered_maps(run, chosen)
    problems = Problems()
    for path in maps.values():
        problems.tried(check_made_with, path, run.nomenclature)
    problems.check("maps cannot be used.")
    if out is None:
        files = _Files(
            run.paths.area_estimates, run.paths.area_estimates_table,
            points_table(run.paths.area_estimates),
        )  # fmt: skip
        if run.paths.sample.exists():
            log.info(
                "estimates by %s, if there are any, are replaced; `assess` without --points makes "
                "them again",
                run.paths.sample,
            )
    else:
        files = _in_folder(out)
    splits = tuple(sheet.split for sheet in chosen.values())
    return _assessed(maps, run.nomenclature.names, points, files, partial, threads, splits)


def assess_map_points(
    maps: Sequence[Path],
    points: PointSample,
    out: Path | None = None,
    *,
    classes: Path | None = None,
    partial: bool = False,
    threads: int = 1,
) -> AreaEstimates:
    """Estimate accuracies and areas of any class maps from points drawn elsewhere.

    Args:
        maps: The maps; ground that several show counts for the first of them.
        points: The points.
        out: Folder for ``estimates.json``, ``estimates.csv`` and ``estimates.points.csv``, which
            has both classes of each point; nothing is written where it is left out.
        classes: The nomenclature, for maps that do not say the names of their classes.
        partial: Whether points without a class may be left out. That is right where chance has
            left them out, which nobody can tell from such a file.
        threads: Threads.

    Returns:
        The estimates, of a simple random or systematic sample given how many points lie on each
        class of the maps (post-stratified).

    Raises:
        SettingsError: If two maps have one name, or ``out`` is no folder.
        InputError: With all that is wrong with the points, by row; if the maps have other classes
            than each other; if no point lies on them, or none on one of their classes.

    Source:
        Olofsson et al. (2014), equations 1 to 11, and section 5.1 for samples that are not
        stratified; Card (1982).
    """
    named = maps_by_name(maps)
    files = None if out is None else _in_folder(out)
    names = classes_of(maps, classes, Problems(), _OTHERS).names
    return _assessed(named, names, points, files, partial, threads)


def _assessed(
    maps: Mapping[str, Path],
    names: tuple[str, ...],
    points: PointSample,
    files: _Files | None,
    partial: bool,
    threads: int,
    splits: tuple[str, ...] = (),
) -> AreaEstimates:
    written = (files.estimates, files.table, files.points) if files else ()
    if points.file.resolve() in {path.resolve() for path in written}:
        raise SettingsError(f"{points.file}: would be replaced by what is written; move it away.")
    known = read_points(points.file, points.field, names, crs=points.crs, layer=points.layer)
    log.info(
        "%s: %s in %s", points.file, plural(len(known.names), "point"), known.crs.split("\n")[0]
    )
    empty = known.seen == EMPTY
    if empty.all() or (empty.any() and not partial):
        raise InputError(
            f"points {points.file}: {count(int(empty.sum()))} of "
            f"{plural(len(empty), 'point')} have no class in {points.field!r}.",
            [known.names[k] for k in np.flatnonzero(empty).tolist()],
            "Fill it" + ("." if empty.all() else ", or leave them out with --partial."),
        )
    digest = maps_digest(maps)
    sheets = [_sheet_map(name, path) for name, path in maps.items()]
    strata = count_strata(own_ground(sheets), len(names), threads)
    if not strata.pixels.any():
        raise InputError("The maps have no mapped pixel.")
    found = classes_under(sheets, known.x, known.y, known.crs, threads)
    _check_on_maps(known, found, sheets, points.file)
    on_map = found.mapped
    if points.sampling != "stratified":
        bare = [name for k, name in enumerate(maps) if not (found.maps[on_map] == k).any()]
        _check_spread(found.classes[on_map], strata, names, points, bare)
    used = on_map & ~empty
    if (empty & on_map).any():
        _tell_empty(found.classes[on_map], empty[on_map], names)
    matrix = tabulated(found.classes[used], known.seen[used], len(names))
    # Without the numbers of pixels: places were drawn, not pixels, and one may hold several.
    estimates = replace(
        area_estimates.estimate(
            names, matrix, strata.area_m2, pending=int((empty & on_map).sum())
        ),
        sheets=tuple(maps), splits=splits, maps=digest, outside=int((~on_map).sum()),
        sampling=points.sampling,
    )  # fmt: skip
    warn_of_gaps(estimates)
    if files is not None:
        with published(*written) as drafts:
            drafts[0].write_text(estimates.as_json(), "utf-8")
            drafts[1].write_text(estimates.as_csv(), "utf-8")
            drafts[2].write_text(_table(known, found, sheets, names), "utf-8")
        log.info("%s, %s and %s", files.estimates, files.table, files.points)
    return estimates


def _check_on_maps(
    known: ReferencePoints, found: MappedPoints, sheets: Sequence[SheetMap], file: Path
) -> None:
    """Tell which points have no class of the maps; refuse points of which none has."""
    outside = found.classes == OUTSIDE
    masked = ~outside & ~found.mapped
    if found.mapped.any():
        for left, where in ((outside, "outside of the maps"), (masked, "where nothing is mapped")):
            if left.any():
                first = [known.names[k] for k in np.flatnonzero(left)[:5].tolist()]
                log.warning(
                    "%s of %s lie %s and are left out: %s%s",
                    count(int(left.sum())), plural(len(left), "point"), where, ", ".join(first),
                    ", ..." * (int(left.sum()) > len(first)),
                )  # fmt: skip
        return
    items = []
    if outside.any():
        # In the maps' own numbers, side by side: a wrong coordinate system shows at once.
        for sheet in sheets:
            x, y = in_systems(known.x, known.y, known.crs, [sheet.grid.crs])[sheet.grid.crs]
            fine = np.isfinite(x) & np.isfinite(y)
            reach = (x[fine].min(), y[fine].min(), x[fine].max(), y[fine].max())
            items += [
                f"map {sheet.sheet}: from {_place(sheet.grid.bounds[:2])} to "
                f"{_place(sheet.grid.bounds[2:])}; points there: from {_place(reach[:2])} to "
                f"{_place(reach[2:])}"
            ]
    raise InputError(
        f"points {file}: none of {plural(len(outside), 'point')} lies on a mapped pixel "
        f"({count(int(outside.sum()))} outside of the maps, {count(int(masked.sum()))} where "
        "nothing is mapped).",
        items,
        f"They were read as {known.crs.splitlines()[0]}; if that is not theirs, --points-crs says "
        "another. Or they are of other maps.",
    )


def _check_spread(
    classes: NDArray[np.int64],
    strata: Strata,
    names: Sequence[str],
    points: PointSample,
    bare: Sequence[str],
) -> None:
    """Tell of points that chance can hardly have spread over the classes as they are.

    ``bare`` are the maps that no point lies on.
    """
    counts = np.bincount(classes, minlength=len(names))
    if chance_of(counts, strata.area_m2) >= _STRANGE:
        return
    expected = counts.sum() * strata.area_m2 / strata.area_m2.sum()
    order = np.argsort(-np.abs(counts - expected) / np.sqrt(np.maximum(expected, 1e-9)))
    worst = [f"{names[k]} {counts[k]}, not about {expected[k]:.3g}" for k in order[:3].tolist()]
    log.warning(
        "%s: these points are no %s sample of the maps, or a very rare one: it has as uneven "
        "numbers in less than one of 1000 cases (%s). Points drawn in each class of these maps "
        "ask for --sampling stratified; of those that were drawn in other strata, on a part of the "
        "maps, or by hand, areas and accuracies are wrong by more than their intervals say%s",
        points.file, "simple random" if points.sampling == "simple" else "systematic",
        "; ".join(worst),
        f"; no point lies on {listed(bare)}: leave them out if they were not drawn from"
        if bare else "",
    )  # fmt: skip


def _tell_empty(classes: NDArray[np.int64], empty: NDArray[np.bool_], names: Sequence[str]) -> None:
    """Say which classes of the map the points hit that have no class."""
    of_all, left = (np.bincount(ids, minlength=len(names)) for ids in (classes, classes[empty]))
    log.warning(
        "%s of %s have no class and are left out (mapped as %s). That is right if chance left "
        "them out; if they were hard to tell, areas and accuracies are wrong by more than their "
        "intervals say",
        count(int(empty.sum())), plural(len(empty), "point"),
        ", ".join(
            f"{names[k]}: {left[k]} of {of_all[k]}, {percent(left[k] / of_all[k])}"
            for k in np.flatnonzero(left).tolist()
        ),
    )  # fmt: skip


def _table(
    known: ReferencePoints, found: MappedPoints, sheets: Sequence[SheetMap], names: Sequence[str]
) -> str:
    """The points with the class of the map and the one that was seen, as CSV."""
    told = io.StringIO()
    writer = csv.writer(told, lineterminator="\n")
    writer.writerow(["point", "x", "y", "sheet", "map", "reference"])
    rows = zip(known.names, known.x.tolist(), known.y.tolist(), strict=True)
    for k, (name, x, y) in enumerate(rows):
        number, mapped, seen = int(found.maps[k]), int(found.classes[k]), int(known.seen[k])
        writer.writerow(
            [
                name, repr(x), repr(y),
                "" if number == OUTSIDE else sheets[number].sheet,
                names[mapped] if found.mapped[k] else "",
                "" if seen == EMPTY else names[seen],
            ]
        )  # fmt: skip
    return told.getvalue()


def _sheet_map(name: str, path: Path) -> SheetMap:
    grid = geotiff.read_grid(path)

    def read(window: Window) -> NDArray[np.uint8]:
        # Opened for each window: there may be more maps than files that can be open.
        with geotiff.RasterReader(path, [1]) as reader:
            _check_same(reader.grid, grid, path)
            return masked_bytes(reader)(window)

    return SheetMap(name, grid, read)


def _check_same(now: PixelGrid, before: PixelGrid, path: Path) -> None:
    if not now.same_pixels(before):
        raise InputError(
            f"{path}: has changed while it was read.", remedy="Start again when it is finished."
        )


def _in_folder(out: Path) -> _Files:
    if (out.suffix and not out.is_dir()) or out.is_file():
        raise SettingsError(
            f"assess: --out {out} is to be a folder: estimates.json and .csv and "
            "estimates.points.csv go there.",
            remedy=f"Name one, say {out.with_suffix('')}.",
        )
    estimates = out / "estimates.json"
    return _Files(estimates, estimates.with_suffix(".csv"), points_table(estimates))


def _place(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:.10g}" for number in numbers)
