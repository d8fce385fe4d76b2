"""From maps to what they say of SIOSE's polygons."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline import geotiff, progress, tiling
from pipeline.class_rasters import class_raster, raster_beside
from pipeline.grid import PixelGrid, Window
from pipeline.judged_ground import Bounds, read_other_ground
from pipeline.nomenclature import IGNORE
from pipeline.proportions import read_proportions
from pipeline.publication import published
from pipeline.run import Run
from pipeline.sections import SPLITS

if TYPE_CHECKING:
    from pipeline.compared_polygons import ComparedPolygons
    from pipeline.siose_shares import MappedPolygons
    from pipeline.tiling import Ground
    from pipeline.vectors import ClassMap

log = logging.getLogger(__name__)

NO_CONFIDENCE = "Maps have no confidence (mapping.confidence), so no update candidates are known."


def polygon_agreement(run: Run, sheet: str, threads: int = 1) -> None:
    """Compare the shares mapped in each SIOSE polygon of a sheet with those that SIOSE says.

    The counts are of the sheet's test ground. The layers are of all its ground: a polygon of
    training ground is listed too, and says in which split it lies, for a network that has learnt
    what SIOSE says of it may repeat that. A polygon that several sheets of a year show is counted,
    and listed, on the first of them in the table that shows nearly all of it.
    """
    # Imported here: other steps need neither GEOS nor GDAL's vectors.
    from pipeline import agreement_layers, vector_files
    from pipeline.compared_polygons import changes, compare, shown, sizes
    from pipeline.polygon_agreement import SHOWN, AgreementCounts

    run.labelled_sheet(sheet)
    classes, paths, settings = run.nomenclature, run.paths, run.settings.evaluation
    known = read_proportions(paths.proportions(sheet), classes)
    grid = geotiff.read_grid(paths.polygon_index(sheet))
    whole = sizes(known.geometry, grid)
    others = read_other_ground(
        paths.ground, whole.bounds, grid.crs, classes, run.sheets, sheet,
        lambda name: geotiff.read_grid(paths.label_raster(name)),
    )  # fmt: skip
    found = _count(run, sheet, grid, len(known.shares), threads)

    def compared(
        pixels: NDArray[np.int64], unmapped: NDArray[np.int64], splits: Sequence[str]
    ) -> ComparedPolygons:
        earlier, later = (
            shown(known, _places(parts, splits)) for parts in (others.earlier, others.later)
        )
        return compare(known, pixels, unmapped, whole.pixels, earlier, later)

    assert found.judged is not None
    judged = compared(found.judged[1:, :-1], found.judged[1:, -1], ["test"])
    tested = judged.compared
    counts = AgreementCounts.of(
        classes.names, judged.mapped[tested], judged.siose[tested], whole.area_m2[tested],
        judged.left_out,
    )  # fmt: skip
    del judged

    everywhere = compared(found.pixels[1:], found.unmapped[1:], SPLITS)
    pixels = found.pixels[1:].sum(axis=1)
    changed = None
    if found.confident is not None:
        changed = changes(everywhere, found.confident[1:] / np.maximum(pixels, 1)[:, None])
    listed = agreement_layers.ListedSheet(
        sheet, paths.proportions(sheet), grid.crs, classes.names, known, everywhere, changed,
        whole.area_m2, pixels, found.confidence[1:], _splits(found.grounds[1:]),
    )  # fmt: skip
    worst = listed.worst(settings.worst_polygons)
    candidates = listed.candidates(settings.min_change)
    counts = dataclasses.replace(
        counts,
        worst=agreement_layers.worst_list(listed, worst[:SHOWN]),
        searched=int(everywhere.compared.sum()) if changed else 0,
        candidates=agreement_layers.candidate_list(listed, candidates[:SHOWN]),
        candidate_count=len(candidates),
        candidate_splits=dict(Counter(listed.splits[candidates].tolist())),
        candidate_m2=float(listed.changed_m2()[candidates].sum()) if changed else 0.0,
        no_search="" if changed else NO_CONFIDENCE,
    )
    layers = (
        (agreement_layers.WORST, worst, agreement_layers.worst_schema(classes.names),
         agreement_layers.worst_style()),
        (agreement_layers.CANDIDATES, candidates, agreement_layers.candidate_schema(classes.names),
         agreement_layers.candidate_style(classes.names, classes.colors)),
    )  # fmt: skip
    out = paths.polygon_agreement_counts(sheet), paths.polygon_agreement(sheet)
    with published(*out) as (text, package):
        for name, rows, schema, style in layers:
            batches = agreement_layers.layer_rows(listed, rows, schema)
            vector_files.write_geopackage(batches, schema, package, name, grid.crs, style)
        text.write_text(counts.as_json(), "utf-8")

    if counts.polygons[0]:
        off = 100 * counts.statistics().difference
        log.info(
            "sheet %s: shares differ by %.1f %% in %d polygons", sheet, off, counts.polygons[0]
        )
    else:
        log.info("sheet %s: no polygon on test ground can be compared", sheet)
    if changed:
        area = counts.candidate_m2 / 1e4
        log.info("sheet %s: %d update candidates, %.2f ha", sheet, len(candidates), area)
    else:
        log.info("sheet %s: %s", sheet, NO_CONFIDENCE)


def _count(run: Run, sheet: str, grid: PixelGrid, polygons: int, threads: int) -> MappedPolygons:
    """Count the delivered map in the sheet's polygons."""
    from pipeline.siose_shares import count_polygons

    classes, paths = run.nomenclature, run.paths
    parts = tiling.read_ground(paths.ground, classes, sheet)
    grounds = [[p.window for p in parts if p.split == split] for split in SPLITS]
    done, total = 0, grid.window.pixels // 10**6
    with ExitStack() as stack:
        source = _opened_map(run, sheet, grid, stack)
        index = stack.enter_context(raster_beside(paths.polygon_index(sheet), grid))
        advance = stack.enter_context(progress.track(source.what, total, "Mpx"))

        def passed(pixels: int) -> None:
            nonlocal done
            advance((done + pixels) // 10**6 - done // 10**6)
            done += pixels

        return count_polygons(
            source, index.read_band, polygons, threads, passed,
            min_confidence=run.settings.evaluation.min_confidence,
            # All test ground, that of earlier sheets too: what lies across their edge is whole here
            # alone. Which sheet has a polygon is decided for whole ones.
            judged=grounds[SPLITS.index("test")], grounds=grounds,
        )  # fmt: skip


def _opened_map(run: Run, sheet: str, grid: PixelGrid, stack: ExitStack) -> ClassMap:
    """Open the delivered map with the confidence of its pixels."""
    from pipeline.vectors import ClassMap

    classes, paths, settings = run.nomenclature, run.paths, run.settings
    delivered = paths.delivered_map(sheet, settings.cleaning.asked)
    mapped = stack.enter_context(class_raster(delivered, grid, classes))
    sure: Callable[[Window], NDArray[np.uint8]] | None = None
    if settings.mapping.confidence:
        sure = stack.enter_context(raster_beside(paths.confidence(sheet), grid)).read_band
    if sure is not None and settings.cleaning.asked:
        raw = stack.enter_context(class_raster(paths.land_cover_map(sheet), grid, classes))
        of_raw = sure

        def of_kept(window: Window) -> NDArray[np.uint8]:
            # What cleaning has changed has another class than the one that the network was sure of.
            kept = raw.read_band(window) == mapped.read_band(window)
            return np.where(kept, of_raw(window), np.uint8(IGNORE))

        sure = of_kept
    what = f"polygons of sheet {sheet}"
    return ClassMap(grid, mapped.read_band, len(classes.names), sure, what)


def _places(parts: Iterable[Ground], splits: Sequence[str]) -> list[list[Bounds]]:
    """Where each of some sheets has ground of some splits."""
    found: dict[str, list[Bounds]] = {}
    for part in parts:
        if part.split in splits and part.bounds is not None:
            found.setdefault(part.sheet, []).append(part.bounds)
    return list(found.values())


def _splits(grounds: NDArray[np.int64]) -> NDArray[np.object_]:
    """Split that each polygon has the most pixels in, an empty text where it has none in any."""
    names = np.array([*SPLITS, ""], object)
    most = np.where(grounds.any(axis=1), grounds.argmax(axis=1), len(SPLITS))
    return np.asarray(names[most])
