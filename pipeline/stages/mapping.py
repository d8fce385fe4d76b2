"""From a checkpoint to maps."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from pipeline import geotiff, progress, styles
from pipeline.class_rasters import (
    NOMENCLATURE_TAG,
    checksum,
    sidecars,
    write_sidecars,
)
from pipeline.counting import id_counts
from pipeline.grid import Window
from pipeline.nomenclature import IGNORE
from pipeline.publication import published, scratch
from pipeline.run import Run

log = logging.getLogger(__name__)


def map_sheet(run: Run, sheet: str) -> None:
    """Predict the class of every pixel of one sheet, as a COG on the orthophoto's grid."""
    from pipeline import checkpoint, mapping

    settings, classes, paths = run.settings.mapping, run.nomenclature, run.paths
    orthophoto = geotiff.read_orthophoto(run.sheet(sheet).orthophoto)
    grid = orthophoto.grid
    network, card = checkpoint.load(paths.best)
    card.check_fits(
        classes.names,
        len(orthophoto.bands),
        (grid.pixel_width, grid.pixel_height),
        f"orthophoto {orthophoto.path}",
    )
    target, confidence = paths.land_cover_map(sheet), paths.confidence(sheet)
    outputs = [target, *sidecars(target)]
    if settings.confidence:
        outputs += [confidence, confidence.with_suffix(".qml")]
    else:  # of an earlier map: it would be shown beside this one
        confidence.unlink(missing_ok=True)
        confidence.with_suffix(".qml").unlink(missing_ok=True)
    tags = {NOMENCLATURE_TAG: classes.fingerprint, "TESELA_CHECKPOINT": checksum(paths.best)}
    class_pixels = np.zeros(256, np.int64)
    # The COG driver copies a finished raster: the plain ones live as drafts beside the target.
    plain = [target.with_suffix(".plain.tif"), confidence.with_suffix(".plain.tif")]
    with (
        published(*outputs) as drafts,
        scratch(*plain) as (map_plain, confidence_plain),
        geotiff.RasterReader(orthophoto.path, orthophoto.bands) as source,
        progress.track(f"map of sheet {sheet}", grid.window.pixels // 10**6, "Mpx") as advance,
    ):
        pixels = 0

        def done(count: int) -> None:
            nonlocal pixels
            advance((pixels + count) // 10**6 - pixels // 10**6)
            pixels += count

        def read(window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
            return source.read(window), source.valid(window)

        bands = mapping.predicted_bands(
            network,
            read,
            grid,
            settings,
            mean=card.mean,
            std=card.std,
            classes=len(classes),
            precision=run.settings.training.precision,
            device=mapping.best_device(),
            advance=done,
        )
        with (
            geotiff.RasterWriter(map_plain, grid, "uint8", IGNORE, classes.colors, tags) as raster,
            geotiff.RasterWriter(confidence_plain, grid, "uint8", IGNORE, (), tags) as sureness,
        ):
            for band in bands:
                raster.write(band.window, band.classes)
                sureness.write(band.window, band.confidence)
                class_pixels += id_counts(band.classes)
        geotiff.write_cog(map_plain, drafts[0], "mode")
        write_sidecars(drafts[1:3], classes, class_pixels[: len(classes)].tolist())
        if settings.confidence:
            geotiff.write_cog(confidence_plain, drafts[3], "average")
            drafts[4].write_text(styles.confidence_qml(), "utf-8")
