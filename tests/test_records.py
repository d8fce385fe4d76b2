"""Records: tiles come back bit for bit from every lossless codec, and damage is found."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.nomenclature import IGNORE
from pipeline.records import CODECS, Runs, Tile, decode, encode_tile, record_bound


def random_tile(
    seed: int, bands: int = 3, rows: int = 16, cols: int = 16, polygons: int = 5, classes: int = 3
) -> Tile:
    """A tile of noise: nothing in it compresses."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, polygons + 1, (rows, cols), dtype=np.uint32)
    known = np.unique(index)
    known = known[known > 0]
    label = rng.integers(0, classes, (rows, cols), dtype=np.uint8)
    label[rng.random((rows, cols)) < 0.3] = IGNORE
    return Tile(
        rng.integers(0, 256, (bands, rows, cols), dtype=np.uint8),
        label,
        index,
        known,
        rng.random((len(known), classes), dtype=np.float32),
    )


def assert_same(one: Tile, other: Tile) -> None:
    for field in dataclasses.fields(Tile):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        assert mine.dtype == theirs.dtype, field.name
        np.testing.assert_array_equal(mine, theirs, err_msg=field.name)


# Records


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.integers(1, 33),
    st.integers(1, 33),
    st.integers(0, 9),
    st.integers(1, 7),
)
@settings(max_examples=60, deadline=None)
def test_a_record_is_its_tile(
    seed: int, bands: int, rows: int, cols: int, polygons: int, classes: int
) -> None:
    tile = random_tile(seed, bands, rows, cols, polygons, classes)
    for codec in CODECS[:4]:
        again = decode(encode_tile(tile, codec))
        assert_same(again, tile)
        assert again.image.flags.writeable


@pytest.mark.parametrize("bands", [3, 4])
def test_jpeg_keeps_the_look_and_the_labels(bands: int) -> None:
    """The one codec that changes pixels: smooth ground stays within a few grey values."""
    rows, cols = np.mgrid[:64, :64]
    tile = random_tile(1, bands, 64, 64)
    ramps = [rows + cols, 200 - rows, cols * 2, 128 + rows // 2][:bands]
    tile = dataclasses.replace(tile, image=np.stack(ramps).astype(np.uint8))
    record = encode_tile(tile, "jpeg")
    again = decode(record)
    assert_same(dataclasses.replace(again, image=tile.image), tile)
    assert np.abs(again.image.astype(int) - tile.image).max() <= 6
    assert len(record) < len(encode_tile(tile, "raw"))


def test_codecs_make_ground_smaller_in_this_order() -> None:
    rng = np.random.default_rng(0)
    grey = rng.normal(0, 3, (128, 128)).cumsum(0).cumsum(1)
    grey = 128 + 100 * grey / np.abs(grey).max()
    colors = [grey + shift + rng.normal(0, 1, grey.shape) for shift in (-9, 0, 9)]
    tile = dataclasses.replace(
        random_tile(1, 3, 128, 128), image=np.stack(colors).clip(0, 255).astype(np.uint8)
    )
    sizes = [len(encode_tile(tile, codec)) for codec in ("raw", "zstd", "webp", "jpeg")]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4


def test_the_polygon_index_may_be_left_out() -> None:
    tile = random_tile(1)
    light = decode(encode_tile(tile), polygons=False)
    np.testing.assert_array_equal(light.image, tile.image)
    np.testing.assert_array_equal(light.label, tile.label)
    assert light.polygons.size == light.proportion_rows.size == light.proportions.size == 0


def test_the_same_tile_is_the_same_bytes() -> None:
    assert encode_tile(random_tile(4)) == encode_tile(random_tile(4))


def test_a_tile_whose_parts_do_not_fit_is_refused() -> None:
    tile = random_tile(2)
    for wrong in (
        dataclasses.replace(tile, label=tile.label[:-1]),
        dataclasses.replace(tile, polygons=tile.polygons[:, :-1]),
        dataclasses.replace(tile, image=tile.image.astype(np.uint16)),
        dataclasses.replace(tile, label=tile.label.astype(np.int64)),
        dataclasses.replace(tile, proportions=tile.proportions[:-1]),
    ):
        with pytest.raises(ValueError, match=r"image|rows|label"):
            encode_tile(wrong)


def test_every_flipped_bit_is_found() -> None:
    """Noise is stored as it is: without a checksum a damaged pixel would pass for one."""
    tile = random_tile(3, rows=12, cols=12)
    record = encode_tile(tile)
    found = 0
    for place in range(len(record)):
        damaged = bytearray(record)
        damaged[place] ^= 0x10
        try:
            decode(bytes(damaged))
        except ValueError:
            found += 1
    assert found == len(record)


@pytest.mark.parametrize("length", [0, 3, 20, 31, 32, 100, -1])
def test_a_short_record_is_refused(length: int) -> None:
    record = encode_tile(random_tile(3))
    with pytest.raises(ValueError, match=r".+"):
        decode(record[:length])


@pytest.mark.parametrize(("polygons", "classes"), [(0, 3), (50, 3), (4096, 12), (4096, 60)])
def test_the_bound_holds_for_records_that_do_not_compress(polygons: int, classes: int) -> None:
    for tile_px in (8, 64, 128):
        known = min(polygons, tile_px**2)
        tile = random_tile(5, 4, tile_px, tile_px, 2**32 - 2, classes)
        shares = np.random.default_rng(6).random((known, classes), dtype=np.float32)
        tile = dataclasses.replace(
            tile, proportion_rows=tile.proportion_rows[:known], proportions=shares
        )
        assert len(encode_tile(tile)) <= record_bound(tile_px, 4, classes)


# Runs


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_runs_are_the_raster(seed: int, rows: int, cols: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    raster = rng.integers(0, values, (rows, cols)).astype(np.uint8)
    runs = Runs.of(raster)
    np.testing.assert_array_equal(runs.raster((rows, cols)), raster)
    np.testing.assert_array_equal(runs.counts(), np.bincount(raster.ravel(), minlength=256))
    assert (np.diff(runs.values.astype(int)) != 0).all()
    assert runs.lengths.sum() == raster.size


def test_runs_that_do_not_fill_their_raster_are_refused() -> None:
    runs = Runs.of(np.array([[1, 1, 2], [2, 3, 3]], np.uint8))
    assert runs.ends.tolist() == [2, 4, 6]
    for ends in ([2, 4, 5], [2, 2, 6], [4, 2, 6]):
        with pytest.raises(ValueError, match="do not fill"):
            Runs(np.array(ends, np.uint32), runs.values).raster((2, 3))
