"""What is stored survives kills and damage, and the rasters are the same whatever happened."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rio_cogeo.cogeo import cog_validate

from pipeline import geotiff, map_store, styles
from pipeline.errors import OutputError
from pipeline.grid import PixelGrid
from pipeline.map_store import Layer, MapStore
from pipeline.publication import published
from tests.test_overviews import defined

CLASSES = Layer("classes", colors=("#FF0000", "#00FF00", "#0000FF"))
CONFIDENCE = Layer("confidence", overviews="average")
PROBABILITIES = Layer("probabilities", 3, "average", (), ("a", "b", "c"))
LAYERS = (CLASSES, CONFIDENCE, PROBABILITIES)
Pixels = dict[str, NDArray[np.uint8]]


def grid(width: int, height: int) -> PixelGrid:
    return PixelGrid("EPSG:25830", 700_000.0, 4_400_000.0, 0.5, 0.5, width, height)


def pixels_of(where: PixelGrid, layers: Sequence[Layer] = LAYERS) -> Pixels:
    random = np.random.default_rng(where.width)
    missing = random.random((where.height, where.width)) < 0.2
    missing[: where.height // 3, : where.width // 2] = True
    made = {}
    for layer in layers:
        most = 3 if layer.overviews == "mode" else 101
        shape = (layer.bands, where.height // 9 + 1, where.width // 9 + 1)
        values = random.integers(0, most, shape).astype(np.uint8)
        values = values.repeat(9, axis=1).repeat(9, axis=2)[:, : where.height, : where.width]
        values[:, missing] = 255
        made[layer.name] = values if layer.bands > 1 else values[0]
    return made


def put(store: MapStore, pixels: Pixels, heights: Iterator[int], row: int = 0) -> None:
    end = next(iter(pixels.values())).shape[-2]
    while row < end:
        bottom = min(end, row + next(heights))
        store.put(row, {name: p[..., row:bottom, :] for name, p in pixels.items()})
        row = bottom


def every(height: int) -> Iterator[int]:
    while True:
        yield height


def uneven() -> Iterator[int]:
    random = np.random.default_rng(5)
    while True:
        yield int(random.integers(1, 900))


def written(store: MapStore, folder: Path, layers: Sequence[Layer] = LAYERS) -> list[bytes]:
    found = []
    for layer in layers:
        with published(folder / f"{layer.name}.tif") as (draft,):
            store.write_cog(layer.name, draft, {"MADE_WITH": "x"})
        found.append((folder / f"{layer.name}.tif").read_bytes())
    return found


def in_one_go(folder: Path, where: PixelGrid, pixels: Pixels) -> list[bytes]:
    store = MapStore(folder / "one-go", where, LAYERS, "f")
    store.put(0, pixels)
    (folder / "whole").mkdir(exist_ok=True)
    return written(store, folder / "whole")


def stored(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.blocks"))


# What is written


@pytest.mark.parametrize(
    "size", [(1, 1), (511, 3), (512, 512), (513, 511), (3, 513), (1500, 700), (700, 1537)]
)
def test_pixels_and_what_describes_them(tmp_path: Path, size: tuple[int, int]) -> None:
    where = grid(*size)
    pixels = pixels_of(where)
    store = MapStore(tmp_path / "store", where, LAYERS, "f")
    put(store, pixels, every(384))
    assert store.rows_done == where.height
    written(store, tmp_path)
    for layer in LAYERS:
        path = tmp_path / f"{layer.name}.tif"
        expected = pixels[layer.name].reshape(layer.bands, *size[::-1])
        with rasterio.open(path) as back:
            np.testing.assert_array_equal(back.read(), expected)
            assert (back.nodata, back.tags()["MADE_WITH"]) == (255, "x")
            if layer.colors:
                assert back.colormap(1)[2] == (0, 0, 255, 255)
            if layer.descriptions:
                assert back.descriptions == layer.descriptions
        assert geotiff.read_grid(path) == where
        assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
        counts = np.bincount(expected.ravel(), minlength=256)
        np.testing.assert_array_equal(store.histogram(layer.name), counts)


def test_overviews_are_of_the_whole_raster_not_of_rows_of_blocks(tmp_path: Path) -> None:
    where = grid(2100, 2570)  # three levels; the last row of blocks has ten rows
    pixels = pixels_of(where, [CLASSES, CONFIDENCE])
    store = MapStore(tmp_path / "store", where, [CLASSES, CONFIDENCE], "f")
    put(store, pixels, uneven())
    written(store, tmp_path, [CLASSES, CONFIDENCE])
    for level in (1, 2, 3):
        for layer in (CLASSES, CONFIDENCE):
            expected = defined(pixels[layer.name], level, layer.overviews)
            with rasterio.open(tmp_path / f"{layer.name}.tif", overview_level=level - 1) as back:
                np.testing.assert_array_equal(back.read(1), expected)


@pytest.mark.parametrize("heights", [1024, 512, 100, 0])
def test_the_same_bytes_whatever_the_heights_of_the_bands(tmp_path: Path, heights: int) -> None:
    where = grid(700, 1537)
    pixels = pixels_of(where)
    store = MapStore(tmp_path / "store", where, LAYERS, "f")
    put(store, pixels, every(heights) if heights else uneven())
    assert written(store, tmp_path) == in_one_go(tmp_path, where, pixels)


def test_rows_are_done_in_whole_rows_of_blocks(tmp_path: Path) -> None:
    where = grid(600, 1100)
    pixels = pixels_of(where, [CLASSES])
    store = MapStore(tmp_path / "store", where, [CLASSES], "f")
    done = []
    for row in range(0, 1100, 300):
        store.put(row, {"classes": pixels["classes"][row : row + 300]})
        done.append(store.rows_done)
    assert done == [0, 512, 512, 1100]
    assert MapStore(tmp_path / "store", where, [CLASSES], "f").rows_done == 1100


def test_no_rasters_of_half_a_map(tmp_path: Path) -> None:
    where = grid(600, 1100)
    store = MapStore(tmp_path / "store", where, LAYERS, "f")
    store.put(0, {name: p[..., :600, :] for name, p in pixels_of(where).items()})
    with pytest.raises(ValueError, match="512 of 1100 rows are there"):
        store.write_cog("classes", tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("row", "change", "said"),
    [
        (7, lambda p: p, "row 0 comes next"),
        (0, lambda p: {"classes": p["classes"]}, r"layers \['classes'\], not"),
        (0, lambda p: p | {"classes": p["classes"].astype(np.uint16)}, "classes: uint16 pixels"),
        (0, lambda p: p | {"classes": p["classes"][:, :-1]}, "classes: uint8 pixels of shape"),
        (0, lambda p: p | {"classes": p["classes"][:-1]}, "classes: uint8 pixels of shape"),
        (0, lambda p: p | {"probabilities": p["classes"]}, r"not uint8 \(3, 40, 50\)"),
        (0, lambda p: {n: v.repeat(2, axis=-2) for n, v in p.items()}, "rows 0 to 80 of 40"),
    ],
)
def test_rows_that_do_not_fit(
    tmp_path: Path, row: int, change: Callable[[Pixels], Pixels], said: str
) -> None:
    where = grid(50, 40)
    store = MapStore(tmp_path / "store", where, LAYERS, "f")
    with pytest.raises(ValueError, match=said):
        store.put(row, change(pixels_of(where)))


# Cut off and taken up again


class Cut(BaseException):
    """A kill."""


@pytest.mark.parametrize("after", [0, 7, 12, 17])
@pytest.mark.parametrize("again", ["the first row", "the next row"])
def test_a_store_that_was_cut_off_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, again: str
) -> None:
    """Four rows of blocks of three layers, and what is cut off is the writing of any of them."""
    where = grid(700, 1800)
    pixels = pixels_of(where)
    count = 0

    def cutting(handle: int) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise Cut

    store = MapStore(tmp_path / "store", where, LAYERS, "f")
    monkeypatch.setattr(os, "fsync", cutting)
    with pytest.raises(Cut):
        put(store, pixels, every(384))
    monkeypatch.undo()
    store = MapStore(tmp_path / "store", where, LAYERS, "f")
    # Two fsyncs a file: its own and its folder's.
    assert store.rows_done == (after + 1) // 2 // 3 * 512
    for layer in LAYERS:
        above = pixels[layer.name][..., : store.rows_done, :]
        counts = np.bincount(above.ravel(), minlength=256)
        np.testing.assert_array_equal(store.histogram(layer.name), counts)
    row = 0 if again == "the first row" else store.rows_done
    put(store, pixels, uneven(), row)
    assert written(store, tmp_path) == in_one_go(tmp_path, where, pixels)


def test_a_killed_process_leaves_what_it_had_stored(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys\n"
        "import numpy as np\n"
        "from pipeline.grid import PixelGrid\n"
        "from pipeline.map_store import Layer, MapStore\n"
        "grid = PixelGrid('EPSG:25830', 700_000.0, 4_400_000.0, 0.5, 0.5, 600, 1300)\n"
        "store = MapStore(pathlib.Path(sys.argv[1]), grid, [Layer('classes')], 'f')\n"
        "store.put(0, {'classes': np.ones((1000, 600), np.uint8)})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(map_store.__file__).parents[1]
    command = [sys.executable, "-c", code, str(tmp_path / "store")]
    assert subprocess.run(command, cwd=root, check=False).returncode == -9
    store = MapStore(tmp_path / "store", grid(600, 1300), [Layer("classes")], "f")
    assert store.rows_done == 512
    assert store.histogram("classes")[1] == 512 * 600


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut short":
        path.write_bytes(data[:-1])
    elif how == "cut to its beginning":
        path.write_bytes(data[:11])
    else:
        place = {"first byte": 0, "length": 3, "index": 30, "middle": len(data) // 2}
        data[place.get(how, len(data) - 1)] ^= 255
        path.write_bytes(data)


@pytest.mark.parametrize(
    ("how", "row"),
    [("removed", 0), ("empty", 3), ("cut short", 2), ("cut to its beginning", 1),
     ("first byte", 2), ("length", 2), ("index", 3), ("middle", 4), ("last byte", 0)],
)  # fmt: skip
def test_a_damaged_row_of_blocks_is_made_anew(tmp_path: Path, how: str, row: int) -> None:
    where, layers = grid(600, 2300), [CLASSES, CONFIDENCE]
    pixels = pixels_of(where, layers)
    store = MapStore(tmp_path / "store", where, layers, "f")
    put(store, pixels, every(512))
    sound = written(store, tmp_path, layers)
    damage(stored(tmp_path / "store")[5 + row], how)  # of the confidence
    store = MapStore(tmp_path / "store", where, layers, "f")
    assert store.rows_done == row * 512
    # Rows behind the damaged one are whole, but what is put is what counts.
    put(store, pixels, every(512), store.rows_done)
    assert written(store, tmp_path, layers) == sound


def test_a_file_that_belongs_elsewhere_does_not_count(tmp_path: Path) -> None:
    where = grid(600, 1100)
    MapStore(tmp_path / "store", where, LAYERS, "f").put(0, pixels_of(where))
    first, second = stored(tmp_path / "store")[:2]
    second.write_bytes(first.read_bytes())
    assert MapStore(tmp_path / "store", where, LAYERS, "f").rows_done == 512


def test_what_is_there_of_another_fingerprint_is_removed(tmp_path: Path) -> None:
    where = grid(600, 600)
    pixels = pixels_of(where)
    others: list[tuple[PixelGrid, Sequence[Layer], str]] = [
        (where, LAYERS, "g"),
        (grid(600, 601), LAYERS, "f"),
        (where, [CLASSES], "f"),
        (where, [CLASSES, CONFIDENCE, Layer("probabilities", 4, "average")], "f"),
    ]
    for other in others:
        MapStore(tmp_path / "store", where, LAYERS, "f").put(0, pixels)
        assert len(stored(tmp_path / "store")) == 6
        assert MapStore(tmp_path / "store", *other).rows_done == 0
        assert stored(tmp_path / "store") == []
    # What the blocks do not depend on may change.
    MapStore(tmp_path / "store", where, LAYERS, "f").put(0, pixels)
    recoloured = [Layer("classes", colors=("#123456",)), CONFIDENCE, PROBABILITIES]
    assert MapStore(tmp_path / "store", where, recoloured, "f").rows_done == 600


def test_a_file_that_is_damaged_after_it_was_stored_makes_no_raster(tmp_path: Path) -> None:
    where = grid(600, 1100)
    for how in ("removed", "index", "middle"):
        store = MapStore(tmp_path / "store", where, [CLASSES], "f")
        store.put(0, pixels_of(where, [CLASSES]))
        damage(stored(tmp_path / "store")[1], how)
        with pytest.raises(OutputError, match="was lost or damaged") as caught, published(
            tmp_path / "a.tif"
        ) as (draft,):  # fmt: skip
            store.write_cog("classes", draft)
        assert "000001.blocks" in caught.value.what
        assert not (tmp_path / "a.tif").exists()


# Others, and disks


def test_two_writers_of_one_store_do_no_harm(tmp_path: Path) -> None:
    where = grid(700, 1800)
    pixels = pixels_of(where)
    results: list[list[bytes]] = []

    def job(name: str) -> None:
        store = MapStore(tmp_path / "store", where, LAYERS, "f")
        put(store, pixels, every(200) if name == "a" else every(512))
        (tmp_path / name).mkdir()
        results.append(written(store, tmp_path / name))

    threads = [threading.Thread(target=job, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [in_one_go(tmp_path, where, pixels)] * 2
    assert [path.name for path in (tmp_path / "store").iterdir() if path.suffix != ".blocks"] == []


def test_opening_a_store_that_another_writes_takes_nothing_from_it(tmp_path: Path) -> None:
    where = grid(700, 1100)
    pixels = pixels_of(where)
    first = MapStore(tmp_path / "store", where, LAYERS, "f")
    first.put(0, {name: p[..., :600, :] for name, p in pixels.items()})
    # As when the other has just stored the first layer of the row, and not yet the rest.
    stored(tmp_path / "store")[2].unlink()
    assert MapStore(tmp_path / "store", where, LAYERS, "f").rows_done == 0
    assert len(stored(tmp_path / "store")) == 2


def test_a_full_disk_is_told_and_the_store_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = grid(700, 1800)
    pixels = pixels_of(where)
    count = 0

    def full(handle: int) -> None:
        nonlocal count
        count += 1
        if count > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = MapStore(tmp_path / "store", where, LAYERS, "f")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        put(store, pixels, every(384))
    monkeypatch.undo()
    store = MapStore(tmp_path / "store", where, LAYERS, "f")
    assert store.rows_done == 512
    put(store, pixels, every(384), store.rows_done)
    assert written(store, tmp_path) == in_one_go(tmp_path, where, pixels)


def test_a_disk_that_is_full_at_the_end_is_told(tmp_path: Path) -> None:
    code = (
        "import pathlib, resource, sys\n"
        "import numpy as np\n"
        "from pipeline.errors import OutputError\n"
        "from pipeline.grid import PixelGrid\n"
        "from pipeline.map_store import Layer, MapStore\n"
        "from pipeline.publication import published\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "grid = PixelGrid('EPSG:25830', 700_000.0, 4_400_000.0, 0.5, 0.5, 600, 1536)\n"
        "store = MapStore(folder / 'store', grid, [Layer('classes')], 'f')\n"
        "noise = np.random.default_rng(0).integers(0, 250, (1536, 600)).astype(np.uint8)\n"
        "store.put(0, {'classes': noise})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "try:\n"
        "    with published(folder / 'a.tif') as (draft,):\n"
        "        store.write_cog('classes', draft)\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    root = Path(map_store.__file__).parents[1]
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "a.tif: cannot be written (File too large)." in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    store = MapStore(tmp_path / "store", grid(600, 1536), [Layer("classes")], "f")
    store.write_cog("classes", tmp_path / "a.tif")
    assert cog_validate(tmp_path / "a.tif", strict=True, quiet=True)[0]


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    store = MapStore(tmp_path / "store", grid(10, 10), [CLASSES], "f")
    with pytest.raises(OutputError, match="cannot be written"):
        store.put(0, pixels_of(grid(10, 10), [CLASSES]))


def test_nothing_is_left_of_a_store_that_was_removed(tmp_path: Path) -> None:
    store = MapStore(tmp_path / "store", grid(10, 10), [CLASSES], "f")
    store.remove()  # of which nothing was written
    store.put(0, pixels_of(grid(10, 10), [CLASSES]))
    store.remove()
    assert list(tmp_path.iterdir()) == []


def test_memory_is_a_few_rows_of_blocks_however_high_the_sheet(tmp_path: Path) -> None:
    peaks = []
    for height in (1536, 6144):
        where = grid(1024, height)
        pixels = {name: p[..., :256, :] for name, p in pixels_of(grid(1024, 257)).items()}
        tracemalloc.start()
        store = MapStore(tmp_path / f"{height}", where, LAYERS, "f")
        for row in range(0, height, 256):
            store.put(row, pixels)
        for layer in LAYERS:
            store.write_cog(layer.name, tmp_path / f"{height}.{layer.name}.tif")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    row_of_blocks = 5 * 512 * 1024  # five bands in three layers
    assert peaks[0] < 4 * row_of_blocks + 2 * 2**20
    assert peaks[1] < 1.15 * peaks[0]  # one more level of overviews waits


def test_a_real_qgis_opens_them_and_writes_nothing_beside_them(
    tmp_path: Path, shared_data: Path
) -> None:
    checker = shared_data.parent / "tools" / "check_qgis_layer.py"
    python = Path("/usr/bin/python3")
    qgis = [str(python), "-c", "import qgis.core"]
    if not checker.exists() or not python.exists() or subprocess.run(
        qgis, check=False, capture_output=True
    ).returncode:  # fmt: skip
        pytest.skip("QGIS is not installed (Debian's python3-qgis)")
    where = grid(1500, 700)
    store = MapStore(tmp_path / "store", where, LAYERS, "f")
    store.put(0, pixels_of(where))
    written(store, tmp_path)
    store.remove()
    (tmp_path / "classes.qml").write_text(styles.class_qml(("a", "b", "c"), CLASSES.colors))
    there = sorted(path.name for path in tmp_path.iterdir())
    paths = [str(tmp_path / f"{layer.name}.tif") for layer in LAYERS]
    asked = ["--in-place", "--crs", "EPSG:25830", "--nodata", "255", "--res", "0.5"]
    done = subprocess.run(
        [str(python), str(checker), *asked, *paths],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('"valid": true') == len(LAYERS)
    assert sorted(path.name for path in tmp_path.iterdir()) == there
