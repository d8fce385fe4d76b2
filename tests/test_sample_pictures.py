"""Pictures of sample predictions: what each column shows, and which pictures stay."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.following import Samples, Validation
from pipeline.sample_pictures import SamplePictures, heading, kept, sample_picture

CLASSES, COLORS = ("forest", "5 $ & $"), ("#108040", "#0000FF")
FOREST, WATER, RED = (16, 128, 64), (0, 0, 255), (0xD7, 0x19, 0x1C)
SIDE, LEFT, TOP, NEXT = 192, 16, 16 + 3 * 22, 192 + 8


def samples(tiles: int = 1, side: int = 64, bands: int = 3) -> Samples:
    """The left half is forest but for its first eight rows, which have no label."""
    labels = np.ones((tiles, side, side), np.uint8)
    labels[..., : side // 2] = 0
    labels[:, :8, : side // 2] = 255
    predictions = np.zeros_like(labels)
    images = np.zeros((tiles, bands, side, side), np.uint8)
    images[:, 0] = 200
    confidences = np.full_like(labels, 100)
    return Samples([f"tile {n}" for n in range(tiles)], images, labels, predictions, confidences)


def pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def cell(picture: NDArray[np.uint8], column: int) -> NDArray[np.uint8]:
    """A tile of the first line."""
    left = LEFT + column * NEXT
    return picture[TOP : TOP + SIDE, left : left + SIDE]


def test_the_columns_are_image_label_prediction_difference_and_confidence() -> None:
    picture = pixels(sample_picture(samples(), CLASSES, COLORS, "Epoch 1"))
    image, label, prediction, differ, confidence = (cell(picture, n) for n in range(5))
    assert np.unique(image.reshape(-1, 3), axis=0).tolist() == [[200, 0, 0]]
    # Tiles of 64 pixels are shown three times as large.
    assert (label[24:, :96] == FOREST).all()
    assert (label[:, 96:] == WATER).all()
    stripes = np.unique(label[:24, :96].reshape(-1, 3), axis=0)
    assert stripes.tolist() == [[0xB0] * 3, [0xEE] * 3]
    assert (prediction == FOREST).all()
    grey = differ[24:, :96]
    assert (grey == grey[0, 0, 0]).all()  # where both agree: the image, pale
    wrong = differ[:, 96:].astype(int)
    assert (wrong == wrong[0, 0]).all()
    assert wrong[0, 0, 0] > wrong[0, 0, 1] + 100
    assert (differ[:24, :96] == label[:24, :96]).all()
    assert (confidence == (0xFD, 0xE7, 0x24)).all()


def test_rare_bands_and_large_tiles_are_drawn() -> None:
    grey = pixels(sample_picture(samples(bands=2), CLASSES, COLORS, ""))
    assert (cell(grey, 0) == 200).all()
    many = pixels(sample_picture(samples(bands=8), CLASSES, COLORS, ""))
    assert (cell(many, 0) == (200, 0, 0)).all()
    large = pixels(sample_picture(samples(side=512), CLASSES, COLORS, ""))
    assert large.shape[1] == 2 * 16 + 5 * 256 + 4 * 8
    assert (large[TOP + 30, LEFT + 264 : LEFT + 264 + 128] == FOREST).all()


def test_the_same_values_give_the_same_bytes_and_each_tile_its_line() -> None:
    one = sample_picture(samples(), CLASSES, COLORS, "Epoch 1")
    assert sample_picture(samples(), CLASSES, COLORS, "Epoch 1") == one
    three = sample_picture(samples(3), CLASSES, COLORS, "Epoch 1")
    assert pixels(three).shape[0] - pixels(one).shape[0] == 2 * (SIDE + 22 + 8)


def test_samples_that_do_not_fit_are_refused() -> None:
    good = samples()
    with pytest.raises(ValueError, match="no tile"):
        sample_picture(samples(0), CLASSES, COLORS, "")
    with pytest.raises(ValueError, match="1 class names and 2 colours"):
        sample_picture(good, CLASSES[:1], COLORS, "")
    with pytest.raises(ValueError, match="predictions"):
        sample_picture(replace(good, predictions=good.predictions[:, :9]), CLASSES, COLORS, "")
    with pytest.raises(ValueError, match="images"):
        sample_picture(replace(good, names=[]), CLASSES, COLORS, "")
    with pytest.raises(ValueError, match="class id 2 is none of the 2"):
        sample_picture(replace(good, predictions=good.predictions + 2), CLASSES, COLORS, "")


@pytest.mark.parametrize(
    ("validations", "expected"),
    [
        (1, [0]),
        (16, list(range(16))),
        (17, list(range(0, 17, 2))),
        (18, [*range(0, 18, 2), 17]),
        (34, [*range(0, 34, 4), 33]),
        (10_000, [*range(0, 10_000, 1024), 9999]),
    ],
)
def test_pictures_are_thinned_out(validations: int, expected: list[int]) -> None:
    steps = [10 * n for n in range(validations)]
    assert sorted(kept(steps)) == [10 * n for n in expected]


def test_what_is_kept_later_was_kept_before() -> None:
    there: set[int] = set()
    for n in range(1, 3000):
        now = kept(range(n))
        assert now <= there | {n - 1}
        assert len(now) <= 17
        there = now


def validate(
    follower: SamplePictures, steps: Sequence[int], best: bool, drawn: Samples | None
) -> None:
    rows = [{"epoch": n + 1, "step": step, "val_loss": 1.0} for n, step in enumerate(steps)]
    matrix = np.zeros((2, 2), np.int64)
    follower.validated(Validation(rows[-1], rows, matrix, CLASSES, best, drawn))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def test_the_best_the_last_and_an_even_choice_of_the_rest_stay(tmp_path: Path) -> None:
    follower = SamplePictures(tmp_path / "samples", COLORS)
    drawn = samples(side=96)
    for n in range(18):
        validate(follower, range(1, n + 2), best=n == 3, drawn=drawn)
        if n == 3:
            best = (tmp_path / "samples" / "step_000004.png").read_bytes()
    expected = [*range(1, 19, 2), 18]
    assert names(tmp_path / "samples") == ["best.png", *(f"step_{s:06d}.png" for s in expected)]
    assert (tmp_path / "samples" / "best.png").read_bytes() == best
    follower.closed()
    # The training goes on in another process.
    validate(SamplePictures(tmp_path / "samples", COLORS), range(1, 20), best=False, drawn=drawn)
    assert "step_000019.png" in names(tmp_path / "samples")
    assert "step_000018.png" not in names(tmp_path / "samples")


def test_pictures_of_another_training_are_removed_and_no_other_file(tmp_path: Path) -> None:
    for name in ("step_000001.png", "step_000900.png", "best.png", "mine.png", "step_1.txt"):
        (tmp_path / name).write_bytes(b"old")
    validate(SamplePictures(tmp_path, COLORS), [1], best=True, drawn=samples())
    assert names(tmp_path) == ["best.png", "mine.png", "step_000001.png", "step_1.txt"]
    assert (tmp_path / "best.png").read_bytes().startswith(b"\x89PNG")
    validate(SamplePictures(tmp_path, COLORS), [1], best=True, drawn=None)
    assert names(tmp_path) == ["mine.png", "step_1.txt"]


def test_the_heading_says_when_and_how_good() -> None:
    row = {"epoch": 2.5, "step": 500, "val_accuracy": 0.8125, "val_miou": 0.5}
    validation = Validation(row, [row], np.zeros((2, 2), np.int64), CLASSES, True, None)
    assert heading(validation) == (
        "Epoch 2.5, step 500: validation accuracy 81.2\u202f%, mean IoU 50.0\u202f% (best so far)"
    )
    row = {"epoch": 3, "step": 600}
    assert heading(replace(validation, row=row, best=False)) == "Epoch 3, step 600"
