"""Thumbnails, read back pixel by pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.thumbnails import (
    CORRECT,
    UNMAPPED,
    WRONG,
    Picture,
    SheetThumbnails,
    data_uri,
    encode,
    error_ids,
    fitted,
)

COLORS = ("#A0C800", "#0000FF")
_ = 255
LABELS = np.array([[0, 0, 1], [1, _, 0]], np.uint8)
MAPPED = np.array([[0, 1, 1], [_, 1, 0]], np.uint8)


def sheet(
    labels: NDArray[np.uint8] = LABELS,
    mapped: NDArray[np.uint8] | None = MAPPED,
    confidence: NDArray[np.uint8] | None = None,
) -> SheetThumbnails:
    rows, cols = labels.shape
    photo = np.full((rows, cols, 3), 200, np.uint8)
    return SheetThumbnails(photo, np.ones((rows, cols), bool), labels, mapped, confidence)


def rgba(picture: Picture) -> list[list[tuple[int, int, int, int]]]:
    pixels = np.asarray(Image.open(io.BytesIO(picture.content)).convert("RGBA"))
    return [[(int(r), int(g), int(b), int(a)) for r, g, b, a in row] for row in pixels]


def of(color: str) -> tuple[int, int, int, int]:
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue, 255


NOTHING = (128, 128, 128, 0)


def test_classes_keep_their_colours_and_255_is_transparent() -> None:
    photo, labels, mapped, errors = encode([sheet()], COLORS)[0]
    assert [p.kind for p in (photo, labels, mapped, errors)] == [
        "orthophoto",
        "labels",
        "map",
        "errors",
    ]
    a, b = of(COLORS[0]), of(COLORS[1])
    assert rgba(labels) == [[a, a, b], [b, NOTHING, a]]
    assert rgba(mapped) == [[a, b, b], [NOTHING, b, a]]
    assert (photo.width, photo.height, photo.media_type) == (3, 2, "image/jpeg")


def test_errors_are_shown_on_labelled_ground_only() -> None:
    np.testing.assert_array_equal(error_ids(LABELS, MAPPED), [[0, 1, 0], [2, _, 0]])
    errors = encode([sheet()], COLORS)[0][3]
    right, wrong, unmapped = of(CORRECT), of(WRONG), of(UNMAPPED)
    assert rgba(errors) == [[right, wrong, right], [unmapped, NOTHING, right]]


def test_confidence_goes_from_violet_to_yellow() -> None:
    confidence = np.array([[0, 50, 100], [_, 52, 99]], np.uint8)
    pixels = rgba(encode([sheet(confidence=confidence)], COLORS)[0][-1])
    assert pixels[0] == [of("#440154"), of("#21918C"), of("#FDE725")]
    assert pixels[1][:2] == [NOTHING, of("#21918C")]


def test_nodata_of_the_orthophoto_is_grey() -> None:
    photo = np.full((16, 32, 3), 255, np.uint8)
    valid = np.zeros((16, 32), bool)
    valid[:, 16:] = True
    whole = SheetThumbnails(photo, valid, np.zeros((16, 32), np.uint8))
    (picture, _labels) = encode([whole], COLORS)[0]
    pixels = np.asarray(Image.open(io.BytesIO(picture.content)))
    assert abs(int(pixels[8, 4].mean()) - 128) <= 2
    assert pixels[8, 28].min() >= 253


def test_decimation_takes_the_pixel_at_the_centre_and_mixes_no_ids() -> None:
    labels = np.zeros((90, 30), np.uint8)
    labels[45:] = 1
    encoded = encode([sheet(labels, None)], COLORS, side=6)[0][1]
    assert (encoded.width, encoded.height) == (2, 6)
    a, b = of(COLORS[0]), of(COLORS[1])
    assert rgba(encoded) == [[a, a]] * 3 + [[b, b]] * 3


def test_pictures_shrink_together_to_stay_within_the_budget() -> None:
    noise = np.random.default_rng(0).integers(0, 2, (200, 200)).astype(np.uint8)
    sheets = [sheet(noise, noise[::-1].copy()) for _unused in range(3)]
    full = encode(sheets, COLORS, side=200)
    size = sum(len(p.content) for pictures in full for p in pictures)
    small = encode(sheets, COLORS, side=200, budget=size // 3)
    assert sum(len(p.content) for pictures in small for p in pictures) <= size // 3
    widths = {p.width for pictures in small for p in pictures}
    assert len(widths) == 1
    assert 60 < widths.pop() < 200


def test_an_id_that_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"map: ids \[7\]"):
        encode([sheet(mapped=np.full((2, 3), 7, np.uint8))], COLORS)


@pytest.mark.parametrize(
    ("mapped", "confidence", "message"),
    [
        (np.zeros((3, 2), np.uint8), None, "map: uint8"),
        (np.zeros((2, 3), np.int64), None, "map: int64"),
        (MAPPED, np.zeros((1, 3), np.uint8), "confidence"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    mapped: NDArray[np.uint8], confidence: NDArray[np.uint8] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sheet(mapped=mapped, confidence=confidence)


def test_data_addresses() -> None:
    assert data_uri(b"\x00\xff", "image/png") == "data:image/png;base64,AP8="


def test_a_large_picture_is_fitted_into_a_page() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 240, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    png = file.getvalue()
    assert fitted(png, len(png)) == (png, "image/png")
    content, media_type = fitted(png, len(png) - 1)
    assert media_type == "image/jpeg"
    assert Image.open(io.BytesIO(content)).size == (240, 120)
    small, _ = fitted(png, 5000)
    assert len(small) <= 5000
    width, height = Image.open(io.BytesIO(small)).size
    assert 40 < width < 120
    assert width == pytest.approx(2 * height, abs=2)
    assert Image.open(io.BytesIO(fitted(png, 1)[0])).width <= 32
