"""Pictures of tiles, read back."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.grid import Window
from pipeline.thumbnails import CORRECT, WRONG, Picture
from pipeline.tile_pictures import BUDGET_BYTES, SIDE_PX, TilePixels, encode_tiles

COLORS = ("#A0C800", "#0000FF", "#787878")
_ = 255


def tile(rows: int = 4, cols: int = 6) -> TilePixels:
    labels = np.zeros((rows, cols), np.uint8)
    labels[:, cols // 2 :] = 1
    mapped = labels.copy()
    mapped[0, 0] = 2
    labels[-1, -1] = _
    photo = np.full((rows, cols, 3), (200, 100, 50), np.uint8)
    window = Window(512, 1024, cols, rows)
    return TilePixels("0722", window, 0.9, photo, np.ones((rows, cols), bool), labels, mapped)


def noise(seed: int, side: int = 512) -> TilePixels:
    rng = np.random.default_rng(seed)
    photo = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    labels, mapped = rng.integers(0, 3, (2, side, side), dtype=np.uint8)
    valid = np.ones((side, side), bool)
    return TilePixels("0722", Window(0, 0, side, side), 0.3, photo, valid, labels, mapped)


def rgba(picture: Picture) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(picture.content)).convert("RGBA"))


def of(color: str) -> tuple[int, ...]:
    return (*bytes.fromhex(color[1:]), 255)


def test_a_small_tile_is_shown_pixel_by_pixel() -> None:
    ((photo, labels, mapped, errors),) = encode_tiles([tile()], COLORS)
    assert [p.kind for p in (photo, labels, mapped, errors)] == [
        "orthophoto", "labels", "map", "errors",
    ]  # fmt: skip
    assert [p.media_type for p in (photo, labels)] == ["image/jpeg", "image/png"]
    assert {(p.width, p.height) for p in (photo, labels, mapped, errors)} == {(6, 4)}
    assert np.abs(rgba(photo)[..., :3].astype(int) - (200, 100, 50)).max() <= 3
    assert tuple(rgba(labels)[0, 0]) == of(COLORS[0])
    assert tuple(rgba(labels)[0, 5]) == of(COLORS[1])
    assert rgba(labels)[3, 5, 3] == 0
    assert tuple(rgba(mapped)[0, 0]) == of(COLORS[2])
    assert tuple(rgba(mapped)[3, 5]) == of(COLORS[1])
    assert tuple(rgba(errors)[0, 0]) == of(WRONG)
    assert (rgba(errors)[1:3] == of(CORRECT)).all()
    assert rgba(errors)[3, 5, 3] == 0


def test_a_large_tile_is_shown_smaller_and_its_classes_are_not_mixed() -> None:
    ((photo, labels, *_others),) = encode_tiles([tile(512, 1024)], COLORS)
    assert (photo.width, photo.height) == (SIDE_PX, SIDE_PX // 2)
    assert {tuple(pixel) for pixel in rgba(labels).reshape(-1, 4)} <= {
        of(COLORS[0]), of(COLORS[1]), (128, 128, 128, 0),
    }  # fmt: skip


def test_twelve_tiles_of_noise_stay_within_the_budget() -> None:
    encoded = encode_tiles([noise(seed % 2) for seed in range(12)], COLORS)
    assert len(encoded) == 12
    total = sum(len(picture.content) for pictures in encoded for picture in pictures)
    assert total <= BUDGET_BYTES
    tight = encode_tiles([noise(0), noise(1)], COLORS, budget=50_000)
    assert sum(len(picture.content) for pictures in tight for picture in pictures) <= 50_000
    assert tight[0][0].width == tight[1][0].width < SIDE_PX


def test_no_tiles_are_no_pictures() -> None:
    assert encode_tiles([], COLORS) == []


def test_arrays_are_of_the_window() -> None:
    one = tile()
    with pytest.raises(ValueError, match="window"):
        replace(one, window=Window(0, 0, 5, 4))
    with pytest.raises(ValueError, match="differ"):
        replace(one, orthophoto=one.orthophoto[:2])
    with pytest.raises(ValueError, match="map"):
        replace(one, mapped=one.mapped.astype(np.int16))
    with pytest.raises(ValueError, match="none of the 2 classes"):
        encode_tiles([one], COLORS[:2])
