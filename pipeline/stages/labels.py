"""From a SIOSE base to label rasters."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline import geotiff, labels, progress
from pipeline.block_raster import BlockRaster, EncodedWindow
from pipeline.class_rasters import (
    NOMENCLATURE_TAG,
    sidecars,
    write_sidecars,
)
from pipeline.errors import InputError, SettingsError
from pipeline.grid import Window
from pipeline.nomenclature import IGNORE
from pipeline.parallel import ordered
from pipeline.proportions import read_proportions
from pipeline.publication import published
from pipeline.run import Run

if TYPE_CHECKING:
    from pipeline.siose import SioseBase
    from pipeline.siose_values import ValuesIndex


log = logging.getLogger(__name__)

WINDOW = 2048
"""Pixels a side of the windows that labels go through; whole blocks."""


def index_values(run: Run, base: str) -> None:
    """Index the values table of a SIOSE base, so that a sheet reads its own polygons' rows only."""
    # GeoPandas is loaded where bases are read: labels and shards need not wait for it.
    from pipeline import siose, siose_values

    if base not in run.bases:
        raise SettingsError(
            f"{run.settings.sheets}: there is no SIOSE base {base!r}.",
            [f"bases: {', '.join(run.bases)}"],
        )
    path = run.bases[base]
    opened = siose.open_base(path, run.settings.siose)
    log.info("%s: %s", path, opened.description)
    table = siose_values.index_values(opened)
    with published(run.paths.values_index(base)) as (draft,):
        siose_values.write_index(table, draft)
    log.info("%s: covers of %d polygons indexed", path, len(table))


def class_proportions(run: Run, sheet: str, threads: int = 1) -> None:
    """Resolve the SIOSE polygons of one sheet to shares of the training classes."""
    from pipeline import siose

    row = run.sheet(sheet)
    orthophoto = geotiff.read_orthophoto(row.orthophoto)
    base = siose.open_base(row.siose, run.settings.siose)
    log.info("sheet %s: %s: %s", sheet, base.path, base.description)
    if not base.fast:
        log.warning(
            "%s has no spatial index: every sheet looks at all of its polygons. Make one, or use "
            "a GeoPackage.", base.path,
        )  # fmt: skip
    index = _values(run, row.base, base)
    bounds = geotiff.bounds_in(orthophoto.grid, base.crs)
    problems = run.paths.problems(sheet)
    problems.unlink(missing_ok=True)
    try:
        frame, odd = siose.class_proportions(
            base,
            bounds,
            orthophoto.grid.bounds,
            orthophoto.grid.crs,
            run.nomenclature,
            run.settings.siose,
            index,
            threads,
        )
    except siose.PolygonError as error:
        with published(problems) as (draft,):
            siose.write_problems(error.problems, draft)
        raise InputError(
            f"proportions of sheet {sheet}: {error.what}",
            error.items,
            f"{error.remedy}\nThe polygons are in {problems}.",
        ) from error
    except InputError as error:
        raise InputError(
            f"proportions of sheet {sheet}: {error.what}", error.items, error.remedy
        ) from error
    if len(odd):
        with published(problems) as (draft,):
            siose.write_problems(odd, draft)
        log.warning("sheet %s: %d polygons need a look: %s", sheet, len(odd), problems)
    with published(run.paths.proportions(sheet)) as (draft,):
        siose.write_proportions(frame, draft, run.nomenclature.fingerprint)
    log.info("sheet %s: %d polygons from %s", sheet, len(frame), base.path)


def check_polygons(run: Run, sheet: str, threads: int = 1) -> None:
    """Tell all that is wrong with the SIOSE polygons of one sheet, as a map and in numbers."""
    from pipeline import siose, siose_check

    row = run.sheet(sheet)
    grid = geotiff.read_orthophoto(row.orthophoto).grid
    base = siose.open_base(row.siose, run.settings.siose)
    check = siose_check.check(
        base,
        run.settings.siose,
        run.nomenclature,
        bounds=geotiff.bounds_in(grid, base.crs),
        index=_values(run, row.base, base),
        threads=threads,
    )
    counts = {"sheet": sheet, "polygons": check.polygons, "problems": check.counts()}
    outputs = (run.paths.polygon_check(sheet), run.paths.polygon_check_counts(sheet))
    with published(*outputs) as (draft, counts_draft):
        siose.write_problems(check.problems, draft)
        counts_draft.write_text(json.dumps(counts, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for line in siose_check.told(check, shown=3):
        log.info("sheet %s: %s", sheet, line)


def label_raster(run: Run, sheet: str, threads: int = 1) -> None:
    """Burn the SIOSE classes of one sheet onto the pixels of its orthophoto."""
    settings, classes = run.settings.labels, run.nomenclature
    orthophoto = geotiff.read_orthophoto(run.sheet(sheet).orthophoto)
    grid = orthophoto.grid
    proportions = read_proportions(run.paths.proportions(sheet), classes)
    shapes = labels.label_shapes(proportions, grid, settings)
    margin = labels.outline_margin(settings, grid, proportions.tolerance_m)
    class_pixels = np.zeros(len(classes), np.int64)
    masked_pixels = np.zeros(len(labels.REASONS), np.int64)
    outputs = (
        run.paths.label_raster(sheet),
        run.paths.polygon_index(sheet),
        run.paths.label_counts(sheet),
        *sidecars(run.paths.label_raster(sheet)),
    )
    with (
        published(*outputs) as (draft, index_draft, counts_draft, *side_drafts),
        geotiff.RasterReader(orthophoto.path, orthophoto.bands) as source,
        BlockRaster(
            draft, grid, "uint8", IGNORE, classes.colors, {NOMENCLATURE_TAG: classes.fingerprint}
        ) as raster,
        BlockRaster(index_draft, grid, "uint32", 0) as index,
        progress.track(f"labels of sheet {sheet}", grid.window.pixels // 10**6, "Mpx") as advance,
    ):

        def labelled(
            window: Window,
        ) -> tuple[EncodedWindow, EncodedWindow, NDArray[np.int64], NDArray[np.int64]]:
            valid = source.valid(window)
            found = labels.label_window(shapes, window, valid, margin, len(classes))
            # Compressed here, in the thread that has the pixels: the writer appends bytes.
            return (
                raster.encode(window, found.label),
                index.encode(window, found.polygons),
                found.class_pixels,
                found.masked_pixels,
            )

        pixels = 0
        for window, (label, polygons, of_class, masked) in ordered(
            labelled, grid.blocks(WINDOW), threads
        ):
            raster.put(label)
            index.put(polygons)
            class_pixels += of_class
            masked_pixels += masked
            advance((pixels + window.pixels) // 10**6 - pixels // 10**6)
            pixels += window.pixels
        counts = {
            "sheet": sheet,
            "pixels": grid.window.pixels,
            "classes": dict(zip(classes.names, class_pixels.tolist(), strict=True)),
            "masked": dict(zip(labels.REASONS, masked_pixels.tolist(), strict=True)),
        }
        counts_draft.write_text(json.dumps(counts, indent=1, ensure_ascii=False) + "\n", "utf-8")
        write_sidecars(side_drafts, classes, class_pixels.tolist())
    share = 100 * class_pixels.sum() / grid.window.pixels
    log.info("sheet %s: %.1f %% of the pixels have a class", sheet, share)


def _values(run: Run, name: str, base: SioseBase) -> ValuesIndex | None:
    """The base's values, indexed: here where it was not done, or the base has changed since."""
    from pipeline import siose_values

    path = run.paths.values_index(name)
    index = siose_values.open_index(path, base)
    if index is None and base.table is not None:
        index_values(run, name)
        index = siose_values.open_index(path, base)
    return index
