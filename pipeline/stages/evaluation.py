"""From maps to matrices."""

from __future__ import annotations

import logging
import math

from pipeline import geotiff
from pipeline.block_sweep import block_windows
from pipeline.class_rasters import (
    class_raster,
    label_blocks,
)
from pipeline.confusion import ConfusionMatrix
from pipeline.grid import Window
from pipeline.judged_ground import read_judged_ground
from pipeline.parallel import ordered
from pipeline.publication import write_text
from pipeline.run import Run

log = logging.getLogger(__name__)


def confusion(run: Run, sheet: str, threads: int = 1) -> None:
    """Count reference against map on the test ground that no earlier sheet has."""
    classes, paths = run.nomenclature, run.paths
    grid = geotiff.read_grid(paths.label_raster(sheet))
    ground = read_judged_ground(paths.ground, grid, classes, run.sheets, sheet)
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
