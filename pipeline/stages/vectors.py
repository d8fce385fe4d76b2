"""From maps to polygons."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline import config, geotiff, nomenclature, progress
from pipeline.class_rasters import class_raster, masked_bytes, raster_beside, read_legend
from pipeline.errors import SettingsError
from pipeline.grid import PixelGrid, Window
from pipeline.proportions import read_proportions
from pipeline.publication import published, scratch
from pipeline.run import Run

if TYPE_CHECKING:
    from pipeline.vectors import PatchBatch

log = logging.getLogger(__name__)

PATCHES, SIOSE = "patches", "siose"
"""Layers of a GeoPackage, in their order."""

Read = Callable[[Window], NDArray[np.uint8]]


@dataclass(frozen=True)
class _Map:
    """A map that is open: where its polygons go, and how to read it."""

    what: str
    out: Path
    grid: PixelGrid
    names: Sequence[str]
    colors: Sequence[str]
    read: Read
    confidence: Read | None
    simplify_m: float
    threads: int


def vector_map(run: Run, sheet: str, threads: int = 1) -> None:
    """Make polygons of the map of one sheet, and, if asked, of what it has in SIOSE's polygons."""
    settings, classes, paths = run.settings.vectors, run.nomenclature, run.paths
    if settings.format == "none":
        raise SettingsError(
            "vectors.format: is none; no polygons are asked for.", remedy="Set gpkg or parquet."
        )
    grid = geotiff.read_grid(run.sheet(sheet).orthophoto)
    path = paths.delivered_map(sheet, run.settings.cleaning.asked)
    out = paths.vectors(sheet, settings.format)
    with ExitStack() as stack:
        raster = stack.enter_context(class_raster(path, grid, classes))
        sure = None
        if run.settings.mapping.confidence:
            sure = stack.enter_context(raster_beside(paths.confidence(sheet), grid)).read_band
        opened = _Map(
            f"polygons of sheet {sheet}", out, grid, classes.names, classes.colors,
            raster.read_band, sure, settings.simplify_m, threads,
        )  # fmt: skip
        if not (settings.siose_shares and sheet in run.labelled_sheets):
            _write(opened)
            return
        index = stack.enter_context(raster_beside(paths.polygon_index(sheet), grid)).read_band
        _write(opened, _Shares(paths.proportions(sheet), run.nomenclature, index))


def vector_raster(
    source: Path,
    out: Path,
    *,
    confidence: Path | None = None,
    simplify_m: float = 0.0,
    classes: Path | None = None,
    threads: int = 1,
) -> None:
    """Make polygons of any class map.

    Args:
        source: The map: uint8 class ids in its first band.
        out: File to write: ``.gpkg`` or ``.parquet``.
        confidence: Its confidence in per cent, 255 where not known.
        simplify_m: How far outlines may move, in metres.
        classes: The nomenclature, for a map that does not say the names of its classes.
        threads: Threads.

    Raises:
        SettingsError: If ``out`` is of another format.
        InputError: If the map cannot be used, or has other classes.
    """
    if out.suffix not in (".gpkg", ".parquet"):
        raise SettingsError(
            f"--out: {out} is neither .gpkg (GeoPackage) nor .parquet (GeoParquet).",
            remedy="End its name in one of them.",
        )
    if out.suffix == ".parquet" and out.with_suffix(".qml") == source.with_suffix(".qml"):
        raise SettingsError(
            f"--out: the style beside {out} would replace that of {source}.",
            remedy=f"Name it {out.with_suffix('.polygons.parquet')}.",
        )
    grid = geotiff.read_grid(source)
    if classes is None:
        names, colors = read_legend(source)
    else:
        known = nomenclature.parse(config.read_yaml(classes), str(classes))
        names, colors = known.names, known.colors
    with ExitStack() as stack:
        read = masked_bytes(stack.enter_context(geotiff.RasterReader(source, [1])))
        sure = None
        if confidence is not None:
            sure = masked_bytes(stack.enter_context(raster_beside(confidence, grid)))
        what = f"polygons of {source.name}"
        _write(_Map(what, out, grid, names, colors, read, sure, simplify_m, threads))


@dataclass(frozen=True)
class _Shares:
    """What it takes to count a map in SIOSE's polygons."""

    proportions: Path
    classes: nomenclature.Nomenclature
    index: Callable[[Window], NDArray[np.uint32]]


def _write(source: _Map, shares: _Shares | None = None) -> None:
    """Write and publish the files of a map's polygons."""
    # Imported here: other steps need neither GEOS nor GDAL's vectors.
    from pipeline import siose_shares, vector_files
    from pipeline.vectors import ClassMap, patch_batches

    class_map = ClassMap(
        source.grid, source.read, len(source.names), source.confidence, source.what
    )
    style = vector_files.class_style(source.names, source.colors)
    files = vector_files.targets(source.out, shares is not None)
    for old in {*vector_files.targets(source.out, True)} - {*files}:
        old.unlink(missing_ok=True)  # of earlier settings: it would be taken for one of these
    count = 0

    def told() -> Iterator[PatchBatch]:
        nonlocal count
        for batch in batches:
            count += len(batch.classes)
            yield batch

    with (
        published(*files) as drafts,
        scratch(source.out.with_suffix(".arcs")) as (folder,),
        _megapixels(source, 3 if shares else 2) as advance,
    ):
        folder.mkdir()
        batches = patch_batches(
            class_map, folder, source.simplify_m, source.threads, advance=advance
        )
        vector_files.write(
            vector_files.patch_rows(told(), source.names), vector_files.patch_schema(),
            drafts, PATCHES, source.grid.crs, style,
        )  # fmt: skip
        if shares is not None:
            known = read_proportions(shares.proportions, shares.classes)
            mapped = siose_shares.count_polygons(
                class_map, shares.index, len(known.shares), source.threads, advance
            )
            vector_files.write(
                siose_shares.share_rows(shares.proportions, known, mapped, source.names),
                siose_shares.share_schema(source.names),
                drafts[len(files) // 2 :] if len(files) > 1 else drafts,
                SIOSE, source.grid.crs, style,
            )  # fmt: skip
    log.info("%s: %d", source.what, count)


@contextmanager
def _megapixels(source: _Map, passes: int) -> Iterator[Callable[[int], None]]:
    """Progress of so many passes over a map, told in pixels."""
    total, done = source.grid.window.pixels * passes // 10**6, 0
    with progress.track(source.what, total, "Mpx") as advance:

        def passed(pixels: int) -> None:
            nonlocal done
            advance((done + pixels) // 10**6 - done // 10**6)
            done += pixels

        yield passed
