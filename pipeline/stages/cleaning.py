"""From maps to maps without their smallest parts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import cleaning, config, geotiff, nomenclature, progress, styles
from pipeline.class_rasters import (
    NOMENCLATURE_TAG,
    class_raster,
    masked_bytes,
    read_legend,
    sidecars,
)
from pipeline.errors import InputError, SettingsError
from pipeline.map_store import Layer, MapStore
from pipeline.nomenclature import IGNORE
from pipeline.publication import published, scratch
from pipeline.run import Run
from pipeline.sections import CleaningSettings

log = logging.getLogger(__name__)

CLEANING_TAG = "TESELA_CLEANING"
"""GeoTIFF tag with the rules that a map was cleaned by, JSON."""


def clean_map(run: Run, sheet: str, threads: int = 1) -> None:
    """Clean the map of one sheet: majority filter, minimum mapping unit, holes."""
    classes, paths = run.nomenclature, run.paths
    run.sheet(sheet)
    source = paths.land_cover_map(sheet)
    with class_raster(source, geotiff.read_grid(source), classes) as raster:
        legend = (classes.names, classes.colors)
        what = f"cleaned map of sheet {sheet}"
        _cleaned(what, raster, paths.cleaned_map(sheet), legend, run.settings.cleaning, threads)


def clean_raster(
    source: Path,
    out: Path,
    rules: CleaningSettings,
    *,
    classes: Path | None = None,
    threads: int = 1,
) -> None:
    """Clean any class map.

    Args:
        source: The map: uint8 class ids in its first band.
        out: Map to write; its side files lie beside it.
        rules: What is cleaned.
        classes: The nomenclature, for a map that does not say the names of its classes.
        threads: Threads.

    Raises:
        SettingsError: If ``out`` is the map, or the rules cannot be followed.
        InputError: If the map cannot be used, or has other classes.
    """
    cleaning.check(rules)
    if out.resolve() == source.resolve():
        raise SettingsError(f"--out: {out} is the map itself.", remedy="Name another file.")
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise SettingsError(f"--out: {out} is a GeoTIFF; its name ends in .tif.")
    grid = geotiff.read_grid(source)
    if classes is None:
        legend = read_legend(source)
    else:
        known = nomenclature.parse(config.read_yaml(classes), str(classes))
        legend = (known.names, known.colors)
    with geotiff.RasterReader(source, [1]) as raster:
        log.info("%s: %d x %d pixels", source, grid.width, grid.height)
        _cleaned(f"cleaned {source.name}", raster, out, legend, rules, threads)


def _cleaned(
    what: str,
    raster: geotiff.RasterReader,
    out: Path,
    legend: tuple[Sequence[str], Sequence[str]],
    rules: CleaningSettings,
    threads: int,
) -> None:
    """Clean a map, and publish it with its side files."""
    grid, (names, colors) = raster.grid, legend

    read = masked_bytes(raster)
    tags = {CLEANING_TAG: rules.model_dump_json()}
    for tag in (NOMENCLATURE_TAG, "TESELA_CHECKPOINT"):
        if tag in raster.tags:
            tags[tag] = raster.tags[tag]
    changed = 0
    total = grid.window.pixels * cleaning.passes(rules) // 10**6
    with (
        published(out, *sidecars(out)) as drafts,
        scratch(out.with_suffix(".patches"), out.with_suffix(".blocks")) as (patches, blocks),
        progress.track(what, total, "Mpx") as advance,
    ):
        store = MapStore(blocks, grid, [Layer("classes", colors=tuple(colors))], what)
        done = 0

        def passed(pixels: int) -> None:
            nonlocal done
            advance((done + pixels) // 10**6 - done // 10**6)
            done += pixels

        for band in cleaning.cleaned_bands(
            read, grid, rules, patches, threads=threads, advance=passed
        ):
            store.put(band.window.row, {"classes": band.classes})
            changed += band.changed
        counts = store.histogram("classes")
        _check_ids(counts, len(names), raster.path)
        store.write_cog("classes", drafts[0], tags)
        pixels = counts[: len(names)].tolist()
        drafts[1].write_text(styles.class_pam(names, colors, pixels), "utf-8")
        drafts[2].write_text(styles.class_qml(names, colors), "utf-8")
    mapped = int(counts[:IGNORE].sum())
    share = 100 * changed / mapped if mapped else 0.0
    log.info("%s: %.2f %% of %d pixels have another class than before", what, share, mapped)


def _check_ids(counts: NDArray[np.int64], classes: int, path: Path) -> None:
    unknown = [
        f"{number}: {counts[number]} pixels" for number in range(classes, IGNORE) if counts[number]
    ]
    if unknown:
        raise InputError(
            f"{path}: has ids that are no classes; there are {classes}, from 0 to {classes - 1}.",
            unknown,
            "Name the nomenclature that it was made with.",
        )
