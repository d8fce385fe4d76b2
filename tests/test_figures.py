"""Pictures of matrices and curves: same bytes for the same values, and colours that mean them."""

from __future__ import annotations

import io
import math

import matplotlib as mpl
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline import figures
from pipeline.confusion import ConfusionMatrix

MATRIX = ConfusionMatrix(("olive", "5 $ & $"), np.array([[900, 100], [0, 0]]))
CURVES = [
    {
        "epoch": str(epoch),
        "step": str(epoch * 10),
        "train_loss": str(2 / epoch),
        "val_loss": "" if epoch == 1 else "0.5",
        "val_accuracy": "0.7",
        "val_miou": str(0.1 * epoch),
        "val_iou_olive": "0.25",
        "val_iou_road": "",
        "learning_rate": "0.001",
    }
    for epoch in (1, 2, 3)
]


def pixels(png: bytes) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(png))
    image.verify()
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def has(png: bytes, color: tuple[int, int, int]) -> bool:
    return bool((pixels(png) == color).all(axis=-1).any())


def test_the_same_values_give_the_same_bytes_whatever_the_users_own_style() -> None:
    matrix, curves = figures.confusion_picture(MATRIX), figures.curves_picture(CURVES)
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "image.cmap": "jet"}):
        assert figures.confusion_picture(MATRIX) == matrix
        assert figures.curves_picture(CURVES) == curves
    assert b"matplotlib" not in matrix.lower()


def test_cells_have_the_colour_of_their_share() -> None:
    png = figures.confusion_panel(MATRIX, "by_reference")
    scale = mpl.colormaps["Blues"]
    for share in (0.9, 0.1):
        red, green, blue, _alpha = scale(share, bytes=True)
        assert has(png, (int(red), int(green), int(blue)))
    red, green, blue, _alpha = scale(1.0, bytes=True)
    assert not has(png, (int(red), int(green), int(blue)))
    by_mapped = figures.confusion_panel(MATRIX, "by_mapped")
    assert has(by_mapped, (int(red), int(green), int(blue)))


def test_the_picture_has_all_three_panels() -> None:
    whole = pixels(figures.confusion_picture(MATRIX))
    one = pixels(figures.confusion_panel(MATRIX, "counts"))
    assert whole.shape[0] == pytest.approx(3 * one.shape[0], abs=3)
    assert whole.shape[1] == one.shape[1]


@pytest.mark.parametrize("classes", [2, 70])
def test_matrices_of_many_classes_and_of_no_pixels_are_drawn(classes: int) -> None:
    empty = ConfusionMatrix.empty([f"class {number}" for number in range(classes)])
    image = pixels(figures.confusion_panel(empty, "by_mapped"))
    assert max(image.shape[:2]) < 2000


def test_each_group_of_columns_gets_its_panel() -> None:
    panels = figures.curves_panels(CURVES)
    assert list(panels) == [
        "Loss",
        "Accuracy and mean IoU",
        "Validation IoU per class",
        "Learning rate",
    ]
    assert list(figures.curves_panels([{"epoch": 1, "train_loss": 0.5}])) == ["Loss"]


def test_lines_follow_their_values() -> None:
    rising = figures.curves_panels([{"epoch": e, "val_miou": 0.1 * e} for e in range(1, 8)])
    image = pixels(rising["Accuracy and mean IoU"])
    orange = np.abs(image.astype(int) - (0xD5, 0x5E, 0x00)).max(axis=-1) < 40
    left, right = image.shape[1] // 4, 3 * image.shape[1] // 4
    assert (
        np.flatnonzero(orange[60:-90, left]).mean() > np.flatnonzero(orange[60:-90, right]).mean()
    )


def test_speed_and_waiting_are_drawn_where_they_are_known() -> None:
    rows = [{"epoch": 0.5 * e, "tiles_per_second": 40, "waiting": 0.01} for e in (1, 2, 3)]
    rows[1] |= {"train_accuracy": 0.5}
    assert list(figures.curves_panels(rows)) == [
        "Accuracy and mean IoU",
        "Tiles a second",
        "Waiting for data",
    ]


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ([143.0, 2.6, 1.4, 0.8], 2.6),
        ([0.8, 143.0, 0.9, 1.0], 1.0),
        ([3.0, 1.0, 0.9], math.inf),  # three times is not more than three times
        ([3.1, 1.0, 0.9], 1.0),
        ([0.9**k for k in range(100)], math.inf),
        ([143.0, 140.0] + [1.0] * 18, 1.0),
        ([143.0, 140.0] + [1.0] * 17, math.inf),  # two of nineteen are not a few
        ([72.4, 11.6] + [1.5] * 18, 1.5),
        ([5.0], math.inf),
        ([0.4, 0.0], math.inf),
    ],
)
def test_wild_values_are_told_from_a_curve(values: list[float], limit: float) -> None:
    assert figures.wild_above(np.array(values)) == limit


def test_one_wild_first_epoch_does_not_flatten_the_losses() -> None:
    rows = [{"epoch": e, "train_loss": 1 / e, "val_loss": 1.1 / e} for e in range(1, 9)]
    tame = pixels(figures.curves_panels(rows)["Loss"])
    rows[0]["val_loss"] = 143.0
    wild = pixels(figures.curves_panels(rows)["Loss"])

    def height(image: NDArray[np.uint8]) -> int:
        blue = np.abs(image.astype(int) - (0x00, 0x72, 0xB2)).max(axis=-1) < 40
        rows, cols = np.nonzero(blue[90:-90])
        falling = rows[cols > image.shape[1] // 3]
        return int(falling.max() - falling.min())

    assert height(wild) > 0.9 * height(tame)


@pytest.mark.parametrize("rows", [[], [{"epoch": 1, "val_miou": ""}], [{"epoch": 1}]])
def test_no_curve_to_draw_is_refused(rows: list[dict[str, object]]) -> None:
    with pytest.raises(ValueError, match="to draw"):
        figures.curves_picture(rows)


def test_counts_are_written_short() -> None:
    written = [
        figures.short(n) for n in (0, 999, 1000, 9949, 12_345, 999_999, 3_400_000, 2 * 10**9)
    ]
    assert written == ["0", "999", "1.0k", "9.9k", "12k", "1000k", "3.4M", "2.0G"]
