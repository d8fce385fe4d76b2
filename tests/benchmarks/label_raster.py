"""Label raster of a sheet against the system's ``gdal_rasterize`` of the same polygons.

Both write a tiled uint8 raster with blocks of 512, 255 where there is no class. ``gdal_rasterize``
is given the polygons that have a class, with their class; ours decides the class, and writes the
polygon index (uint32) as well. Ours is the whole command, from the start of Python.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline import geotiff
from pipeline.demo import PIXEL
from tests.benchmarks import harness, machine, sheet_run
from tests.benchmarks.harness import Comparison, Prepared, Run, Setup
from tests.benchmarks.sheet_run import NAME, SheetRun

GDAL_RASTERIZE = Path("/usr/bin/gdal_rasterize")
BAR, MEMORY_MB = 0.35, 1000

_COMPRESSION = {
    "zstd": ("COMPRESS=ZSTD", "ZSTD_LEVEL=1"),
    "deflate": ("COMPRESS=DEFLATE",),
}


class LabelRaster:
    """The benchmark."""

    def prepare(self, setup: Setup) -> Prepared:
        """A sheet with magnified outlines, and one with the demo's own."""
        runs: dict[str, Run] = {}
        comparisons: list[Comparison] = []
        sizes: dict[str, Any] = {"size": setup.size, "threads": setup.threads}
        pairs: list[tuple[str, SheetRun, Path]] = []
        for kind in ("magnified", "demo"):
            made = sheet_run.with_proportions(setup, outlines=kind)
            vector = made.settings.parent / "classes.gpkg"
            polygons, with_class = sheet_run.write_class_polygons(made, vector)
            sizes |= {f"polygons_{kind}": polygons, f"polygons_with_class_{kind}": with_class}
            ours = f"label-raster {kind}"
            for compression, options in _COMPRESSION.items():
                if kind == "demo" and compression == "deflate":
                    continue
                out = made.settings.parent / f"gdal_{compression}.tif"
                theirs = f"gdal_rasterize {compression} {kind}"
                if GDAL_RASTERIZE.exists():
                    runs[theirs] = Run(
                        _gdal_rasterize(made, vector, out, options), reads=(vector,), removes=(out,)
                    )
                comparisons.append(
                    Comparison(
                        f"label raster, {polygons} polygons, gdal_rasterize with "
                        f"{compression.upper()}",
                        ours,
                        (theirs,),
                        BAR if compression == "zstd" and kind == "magnified" else None,
                        memory_mb=MEMORY_MB,
                    )
                )
                if compression == "zstd":
                    pairs.append((kind, made, out))
            sheet_run.with_labels(setup, made)
            runs[ours] = Run(
                made.command("label-raster", setup.threads),
                reads=(made.paths.proportions(NAME), made.sheet.orthophoto),
                removes=made.label_files,
            )
        gone = "there is no /usr/bin/gdal_rasterize: apt install gdal-bin"
        missing = {} if GDAL_RASTERIZE.exists() else {c.reference[0]: gone for c in comparisons}

        def facts() -> dict[str, Any]:
            if missing:
                return {}
            return {
                f"different_pixels_{kind}": _different(made.paths.label_raster(NAME), out)
                for kind, made, out in pairs
            } | {
                f"file_mb_{kind}": [
                    round(path.stat().st_size / 1e6, 1)
                    for path in (
                        made.paths.label_raster(NAME), made.paths.polygon_index(NAME), out
                    )
                ]
                for kind, made, out in pairs
            }  # fmt: skip

        sizes["gdal"] = machine.gdal_debian()
        return Prepared(sizes, runs, tuple(comparisons), missing, facts)


BENCHMARK: harness.Benchmark = LabelRaster()


def _gdal_rasterize(
    made: SheetRun, vector: Path, out: Path, compression: tuple[str, ...]
) -> tuple[str, ...]:
    left, bottom, right, top = geotiff.read_grid(made.sheet.orthophoto).bounds
    # One thread for DEFLATE: with more, Debian's GDAL 3.6.2 was seen to stop for good.
    threads = "ALL_CPUS" if "COMPRESS=ZSTD" in compression else "1"
    options = ("TILED=YES", "BLOCKXSIZE=512", "BLOCKYSIZE=512", f"NUM_THREADS={threads}")
    return (
        str(GDAL_RASTERIZE), "-q", "-a", "class", "-l", "classes", "-init", "255", "-a_nodata",
        "255", "-ot", "Byte", "-tr", str(PIXEL), str(PIXEL), "-te", str(left), str(bottom),
        str(right), str(top), *(part for o in (*options, *compression) for part in ("-co", o)),
        str(vector), str(out),
    )  # fmt: skip


def _different(ours: Path, theirs: Path) -> int:
    """Pixels of two rasters that differ."""
    with geotiff.RasterReader(ours) as a, geotiff.RasterReader(theirs) as b:
        return sum(
            int(np.count_nonzero(a.read_band(window) != b.read_band(window)))
            for window in a.grid.blocks(4096)
        )
