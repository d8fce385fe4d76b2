"""The fingerprint of maps: what changes it, and what does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.geotiff import RasterWriter
from pipeline.grid import PixelGrid
from pipeline.map_digest import maps_digest
from pipeline.nomenclature import IGNORE


def write_map(path: Path, ids: np.ndarray, checkpoint: str = "a") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = PixelGrid("EPSG:25830", 700_000.0, 4_400_000.0, 0.5, 0.5, ids.shape[1], ids.shape[0])
    tags = {"TESELA_CHECKPOINT": checkpoint}
    with RasterWriter(path, grid, "uint8", IGNORE, ("#109C69", "#DC1E1E"), tags) as raster:
        raster.write(grid.window, ids)
    return path


def test_the_same_maps_have_the_same_fingerprint_wherever_they_lie(tmp_path: Path) -> None:
    ids = np.random.default_rng(1).integers(0, 2, (600, 700), np.uint8)
    first = {s: write_map(tmp_path / "one" / f"{s}.tif", ids) for s in ("west", "east")}
    again = {s: write_map(tmp_path / "two" / f"{s}.tif", ids) for s in ("east", "west")}
    assert maps_digest(first) == maps_digest(again)
    assert len(maps_digest(first)) == 16
    assert int(maps_digest(first), 16) >= 0


def test_other_networks_pixels_sheets_and_missing_maps_change_it(tmp_path: Path) -> None:
    ids = np.zeros((600, 700), np.uint8)
    other = ids.copy()
    other[300, 400] = 1
    paths = [
        write_map(tmp_path / "a.tif", ids),
        write_map(tmp_path / "b.tif", ids, checkpoint="b"),
        write_map(tmp_path / "c.tif", other),
        tmp_path / "missing.tif",
    ]
    found = [maps_digest({"west": path}) for path in paths]
    found += [
        maps_digest({"east": paths[0]}), maps_digest({}),
        maps_digest({"west": paths[0], "east": paths[0]}),
    ]  # fmt: skip
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("place", [0, 131_071, 1_000_000 - 4096, 999_999])
def test_large_files_are_read_in_parts(tmp_path: Path, place: int) -> None:
    path = tmp_path / "a.tif"
    content = bytearray(1_000_000)
    path.write_bytes(content)
    before = maps_digest({"s": path})
    content[place] = 1
    path.write_bytes(content)
    assert maps_digest({"s": path}) != before
