"""From maps to matrices."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline import geotiff, ground_blocks
from pipeline.block_sweep import block_windows
from pipeline.class_rasters import (
    class_raster,
    label_blocks,
)
from pipeline.confusion import ConfusionMatrix
from pipeline.evaluation import Evaluation
from pipeline.grid import PixelGrid, Window
from pipeline.ground_blocks import BlockMatrices, square_counts
from pipeline.judged_ground import read_judged_ground
from pipeline.nomenclature import IGNORE
from pipeline.outlines import reach
from pipeline.parallel import ordered
from pipeline.publication import published, write_text
from pipeline.run import Run
from pipeline.tile_scores import TileRow, TileScorer
from pipeline.tiling import lattice_cuts

log = logging.getLogger(__name__)

# Windows are read with a rim of pixels that reaches into the blocks around: the higher they are,
# the fewer blocks are decoded again.
_BLOCKS_HIGH = 2

Matrices = dict[tuple[int, int], NDArray[np.int64]]


def confusion(run: Run, sheet: str, threads: int = 1) -> None:
    """Count reference against map on the test ground that no earlier sheet has."""
    run.labelled_sheet(sheet)
    classes, paths = run.nomenclature, run.paths
    grid = geotiff.read_grid(paths.label_raster(sheet))
    ground = _judged_ground(run, grid, sheet)
    total = ConfusionMatrix.empty(classes.names)
    delivered = paths.delivered_map(sheet, run.settings.cleaning.asked)
    with (
        label_blocks(paths.label_raster(sheet), grid, classes) as reference,
        class_raster(delivered, grid, classes) as mapped,
    ):
        # Whole blocks of both: each is decoded once, also where ground ends inside of one.
        height = math.lcm(geotiff.BLOCK, mapped.block_height)
        width = math.lcm(geotiff.BLOCK, mapped.block_width)

        def counted(window: Window) -> ConfusionMatrix:
            true, said = reference.read(window), mapped.read_band(window)
            matrix = ConfusionMatrix.empty(classes.names)
            for part in ground:
                inside = part.intersection(window)
                if inside is not None:
                    pixels = inside.slices(window)
                    matrix += ConfusionMatrix.of(classes.names, true[pixels], said[pixels])
            return matrix

        windows = block_windows(grid.window, ground, height, width)
        for _, matrix in ordered(counted, windows, threads):
            total += matrix
    write_text(paths.confusion(sheet), total.as_json())
    if total.pixels:
        accuracy = 100 * total.scores().overall_accuracy
        log.info("sheet %s: accuracy %.1f %% of %d pixels", sheet, accuracy, total.pixels)
    else:
        log.info("sheet %s: no test ground of its own", sheet)


def evaluation(run: Run, sheet: str, threads: int = 1) -> None:
    """Judge the map of a sheet by confidence, by distance to outlines, by tile and by square.

    The ground is that of :func:`confusion`. Confidence is that of the map before cleaning: a pixel
    to which cleaning has given another class has none.
    """
    run.labelled_sheet(sheet)
    classes, paths, settings = run.nomenclature, run.paths, run.settings
    grid = geotiff.read_grid(paths.label_raster(sheet))
    ground = _judged_ground(run, grid, sheet)
    tolerance, side = settings.evaluation.boundary_px, settings.evaluation.block_px
    halo, size = reach(tolerance), len(classes)
    total = Evaluation.empty(classes.names, tolerance)
    tiles = TileScorer(sheet, grid.window, settings.tiling.tile_px, size)
    cuts = lattice_cuts(grid, side)
    matrices: Matrices = {}
    with ExitStack() as stack:
        labels = stack.enter_context(label_blocks(paths.label_raster(sheet), grid, classes))
        delivered = paths.delivered_map(sheet, settings.cleaning.asked)
        mapped = stack.enter_context(class_raster(delivered, grid, classes))
        confidence = raw = None
        if settings.mapping.confidence:
            confidence = stack.enter_context(class_raster(paths.confidence(sheet), grid, classes))
            if settings.cleaning.asked:
                path = paths.land_cover_map(sheet)
                raw = stack.enter_context(class_raster(path, grid, classes))

        def judged(window: Window) -> tuple[Evaluation, list[TileRow], Matrices]:
            seen = window.grown(halo)
            inner = window.slices(seen)
            every = _around(labels.read, seen, grid.window)
            true = _on_ground(every, seen, ground)
            if (true[inner] == IGNORE).all():
                return Evaluation.empty(classes.names, tolerance), [], {}
            said = _around(mapped.read_band, seen, grid.window)
            sure = None
            if confidence is not None:
                sure = _around(confidence.read_band, seen, grid.window)
                if raw is not None:
                    sure[_around(raw.read_band, seen, grid.window) != said] = IGNORE
            return (
                Evaluation.of(classes.names, true, said, sure, tolerance, every),
                tiles.count(window, true[inner], said[inner]),
                square_counts(window, true[inner], said[inner], cuts, size),
            )

        height = _BLOCKS_HIGH * math.lcm(geotiff.BLOCK, mapped.block_height)
        width = math.lcm(geotiff.BLOCK, mapped.block_width)
        windows = block_windows(grid.window, ground, height, width)
        for window, (found, rows, counted) in ordered(judged, windows, threads):
            total += found
            tiles.add(window, rows)
            for place, counts in counted.items():
                matrices[place] = matrices[place] + counts if place in matrices else counts
    total = replace(total, tiles=tiles.scores(ground))
    squares = BlockMatrices.of(classes.names, matrices, grid.crs, side * grid.pixel_width)
    with published(paths.evaluation(sheet), paths.block_matrices(sheet)) as (draft, beside):
        draft.write_text(total.as_json(), encoding="utf-8")
        ground_blocks.write_blocks(squares, beside)
    if total.pixels:
        shares = {
            "expected calibration error": total.calibration.ece(),
            "mean boundary F-score": total.outlines.boundary_f().mean,
        }
        told = [
            f"{what} {100 * share:.1f} %" for what, share in shares.items() if not math.isnan(share)
        ]
        log.info("sheet %s: %s", sheet, ", ".join([f"{total.pixels} pixels judged", *told]))
    else:
        log.info("sheet %s: no test ground of its own", sheet)


def _judged_ground(run: Run, grid: PixelGrid, sheet: str) -> list[Window]:
    return read_judged_ground(
        run.paths.ground,
        grid,
        run.nomenclature,
        run.sheets,
        sheet,
        lambda name: geotiff.read_grid(run.paths.label_raster(name)),
    )


def _around(
    read: Callable[[Window], NDArray[np.uint8]], seen: Window, sheet: Window
) -> NDArray[np.uint8]:
    """Pixels of a window that may reach beyond the sheet, where they are 255."""
    pixels = np.full((seen.height, seen.width), IGNORE, np.uint8)
    inside = seen.intersection(sheet)
    assert inside is not None
    pixels[inside.slices(seen)] = read(inside)
    return pixels


def _on_ground(
    labels: NDArray[np.uint8], seen: Window, ground: Sequence[Window]
) -> NDArray[np.uint8]:
    """The labels of a window, 255 off the ground."""
    kept = np.full_like(labels, IGNORE)
    for part in ground:
        inside = part.intersection(seen)
        if inside is not None:
            pixels = inside.slices(seen)
            kept[pixels] = labels[pixels]
    return kept
