"""One stage's function, timed in a process that has imported all that it needs.

python -m tests.benchmarks.stage --config SETTINGS --step label_raster [--threads 2]
"""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

from pipeline import config, geotiff, stages
from tests.benchmarks import harness
from tests.benchmarks.sheet_run import NAME

# What stages import when they come to it.
_LATE = (
    "PIL.Image", "dask", "geopandas", "lmdb", "pyarrow.parquet", "pyproj", "rasterio.features",
    "shapely", "tifffile", "zstandard",
)  # fmt: skip


def main() -> None:
    """Run it as the command line says."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--config", type=Path, required=True)
    arguments.add_argument("--step", required=True)
    arguments.add_argument("--threads", type=int, default=2)
    given = arguments.parse_args()
    for name in _LATE:
        importlib.import_module(name)
    run = stages.Run(config.load(given.config))
    step = getattr(stages, given.step)
    sheet = () if given.step == "tile_plan" else (NAME,)
    with geotiff.session():
        began = time.perf_counter()
        step(run, *sheet, given.threads)
        seconds = time.perf_counter() - began
    harness.answer(seconds)


if __name__ == "__main__":
    main()
