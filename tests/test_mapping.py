from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import SettingsError, TrainingError
from pipeline.grid import PixelGrid, Window
from pipeline.mapping import MappedBand, Read, axis_parts, predicted_bands
from pipeline.sections import MappingSettings

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def sheet_grid(width: int, height: int) -> PixelGrid:
    return PixelGrid("EPSG:25830", 700_000.0, 4_400_000.0, 0.5, 0.5, width, height)


def reader(image: Image, valid: Mask | None = None) -> Read:
    sheet = Window(0, 0, image.shape[2], image.shape[1])
    known = np.ones(image.shape[1:], bool) if valid is None else valid

    def read(window: Window) -> tuple[Image, Mask]:
        assert sheet.intersection(window) == window, f"{window} leaves the sheet"
        rows, columns = window.slices()
        return image[:, rows, columns].copy(), known[rows, columns].copy()

    return read


def noise(bands: int, height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (bands, height, width), np.uint8)


def put_together(bands: Sequence[MappedBand], width: int, height: int) -> tuple[Image, Image]:
    """The whole map; fails unless the bands cover each row once, top to bottom."""
    row = 0
    for band in bands:
        assert band.window == Window(0, row, width, band.window.height)
        assert band.classes.shape == band.confidence.shape == (band.window.height, width)
        assert band.classes.dtype == band.confidence.dtype == np.uint8
        row += band.window.height
    assert row == height
    return (
        np.concatenate([band.classes for band in bands]),
        np.concatenate([band.confidence for band in bands]),
    )


def sheet_map(
    network: nn.Module,
    image: Image,
    valid: Mask | None = None,
    *,
    window_px: int = 32,
    overlap_px: int = 8,
    classes: int = 2,
    batch_size: int | None = None,
    precision: str = "float32",
    mean: float = 0.0,
    advance: Callable[[int], None] | None = None,
) -> tuple[Image, Image]:
    bands, height, width = image.shape
    found = predicted_bands(
        network,
        reader(image, valid),
        sheet_grid(width, height),
        MappingSettings(window_px=window_px, overlap_px=overlap_px),
        mean=(mean,) * bands,
        std=(1.0,) * bands,
        classes=classes,
        precision=precision,
        batch_size=batch_size,
        advance=advance,
    )
    return put_together(list(found), width, height)


class Threshold(nn.Module):
    """Class 1 where the first band is above a value; logits 3 apart a grey level."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 1)
        self.convolution.weight.data = torch.tensor([[[[0.0]]], [[[3.0]]]])
        self.convolution.bias = nn.Parameter(torch.tensor([0.0, -3.0 * value]))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        logits: Tensor = self.convolution(images)
        return logits


class Neighbourhood(nn.Module):
    """Two random 3 x 3 convolutions without padding tricks: 2 pixels of receptive field a side."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(bands, 8, 3, padding=1)
        self.second = nn.Conv2d(8, classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        # float64 inside: a map must not depend on the order in which float32 sums are made.
        self.double()
        logits: Tensor = self.second(self.first(images.double() / 64).tanh())
        return logits.float()


def one_piece(network: nn.Module, image: Image, margin: int) -> Image:
    """Classes of the whole sheet at once, with the ground mirrored around it."""
    pad = ((0, 0), (margin, margin), (margin, margin))
    around = np.pad(image, pad, mode="reflect").astype(np.float32)
    with torch.inference_mode():
        ids: Image = network(torch.from_numpy(around)[None]).argmax(1)[0].numpy().astype(np.uint8)
    inner = slice(margin, -margin)
    return ids[inner, inner]


def test_a_threshold_gives_the_pixels_that_are_above_it() -> None:
    image = np.array([[[0, 100, 101, 255], [99, 100, 102, 7]]], np.uint8)
    classes, confidence = sheet_map(Threshold(100.5), image)
    np.testing.assert_array_equal(classes, [[0, 0, 1, 1], [0, 0, 1, 0]])
    # softmax of (0, 1.5): 0.8176; of (0, 4.5): 0.989
    np.testing.assert_array_equal(confidence, [[100, 82, 82, 100], [99, 82, 99, 100]])


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (5, 3), (31, 33), (97, 65), (24, 24), (25, 49), (130, 7)]
)
@pytest.mark.parametrize(("window_px", "overlap_px"), [(32, 0), (32, 8), (40, 20), (512, 128)])
def test_a_map_of_single_pixels_does_not_depend_on_the_windows(
    width: int, height: int, window_px: int, overlap_px: int
) -> None:
    image = noise(1, height, width)
    expected = (image[0] > 127).astype(np.uint8)
    classes, _ = sheet_map(Threshold(127.5), image, window_px=window_px, overlap_px=overlap_px)
    np.testing.assert_array_equal(classes, expected)


@pytest.mark.parametrize(("width", "height"), [(9, 12), (31, 33), (97, 65), (49, 25)])
@pytest.mark.parametrize(("window_px", "overlap_px"), [(32, 4), (33, 8), (48, 24), (256, 128)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_no_seam_where_the_overlap_covers_the_receptive_field(
    width: int, height: int, window_px: int, overlap_px: int, batch_size: int
) -> None:
    network = Neighbourhood(bands=3, classes=5)
    image = noise(3, height, width)
    expected = one_piece(network, image, margin=6)
    classes, _ = sheet_map(
        network, image, window_px=window_px, overlap_px=overlap_px, classes=5,
        batch_size=batch_size,
    )  # fmt: skip
    assert len(np.unique(expected)) > 2
    np.testing.assert_array_equal(classes, expected)


def test_an_overlap_smaller_than_the_receptive_field_shows_seams() -> None:
    # Otherwise the test above could not fail.
    network = Neighbourhood(bands=3, classes=5)
    image = noise(3, 64, 64)
    classes, _ = sheet_map(network, image, window_px=32, overlap_px=0, classes=5)
    differ = classes != one_piece(network, image, margin=6)
    assert differ.any()
    assert not differ[2:30, 2:30].any()
    assert not differ[34:62, 34:62].any()


def test_pixels_without_data_have_no_class_and_look_as_they_do_in_tiles() -> None:
    network = Neighbourhood(bands=1, classes=4)
    image = noise(1, 40, 50)
    valid = np.ones((40, 50), bool)
    valid[:, :20] = False
    valid[30, 33] = False
    filled = np.where(valid, image, 0).astype(np.uint8)
    expected, expected_confidence = sheet_map(network, filled, classes=4, mean=90.0)
    image[:, ~valid] = 255
    classes, confidence = sheet_map(network, image, valid, classes=4, mean=90.0)
    assert (classes[~valid] == 255).all()
    assert (confidence[~valid] == 255).all()
    np.testing.assert_array_equal(classes[valid], expected[valid])
    np.testing.assert_array_equal(confidence[valid], expected_confidence[valid])


def test_windows_without_a_valid_pixel_are_not_computed() -> None:
    network = Threshold(127.5)
    image = noise(1, 48, 72)  # 2 x 3 windows that keep 24 x 24 pixels
    valid = np.zeros((48, 72), bool)
    valid[0, 50] = True
    valid[24, 0] = True
    valid[47, 71] = True
    classes, _ = sheet_map(network, image, valid, window_px=32, overlap_px=8, batch_size=1)
    assert network.seen == [(1, 1, 32, 32)] * 3
    assert (classes != 255).sum() == 3
    assert classes[47, 71] == (image[0, 47, 71] > 127)


def test_a_sheet_without_any_data_needs_no_network() -> None:
    network = Threshold(127.5)
    image = noise(1, 10, 10)
    classes, confidence = sheet_map(network, image, np.zeros((10, 10), bool))
    assert network.seen == []
    assert (classes == 255).all()
    assert (confidence == 255).all()


def test_all_windows_have_one_size_and_go_in_batches() -> None:
    network = Threshold(127.5)
    sheet_map(network, noise(1, 30, 110), window_px=32, overlap_px=8, batch_size=2)
    # rows keep 24 + 6, columns 24 * 4 + 14
    assert network.seen == [(2, 1, 32, 32), (2, 1, 32, 32), (1, 1, 32, 32)] * 2
    small = Threshold(127.5)
    sheet_map(small, noise(1, 10, 40), window_px=512, overlap_px=8)
    assert small.seen == [(1, 1, 32, 64)]  # 10 + 8 and 40 + 8, in multiples of 32


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_batches_do_not_change_the_map(batch_size: int) -> None:
    network = Neighbourhood(bands=3, classes=5)
    image = noise(3, 50, 120)
    expected = sheet_map(network, image, classes=5, batch_size=100)
    found = sheet_map(network, image, classes=5, batch_size=batch_size)
    np.testing.assert_array_equal(found, expected)


def test_progress_counts_every_pixel_once_those_without_data_too() -> None:
    image = noise(1, 50, 70)
    valid = np.ones((50, 70), bool)
    valid[:, 30:] = False
    steps: list[int] = []
    sheet_map(Threshold(1), image, valid, advance=steps.append)
    assert sum(steps) == 50 * 70
    assert min(steps) > 0


def test_a_band_is_read_once_and_no_more_than_its_windows_need() -> None:
    image = noise(1, 200, 60)
    read = reader(image)
    windows: list[Window] = []

    def watched(window: Window) -> tuple[Image, Mask]:
        windows.append(window)
        return read(window)

    bands = predicted_bands(
        Threshold(1), watched, sheet_grid(60, 200), MappingSettings(window_px=64, overlap_px=16),
        mean=(0.0,), std=(1.0,), classes=2, precision="float32",
    )  # fmt: skip
    assert windows == []
    first = next(bands)
    assert first.window == Window(0, 0, 60, 48)
    assert windows == [Window(0, 0, 60, 56)]  # nothing is read ahead
    list(bands)
    assert windows[1:] == [
        Window(0, 40, 60, 64), Window(0, 88, 60, 64), Window(0, 136, 60, 64), Window(0, 144, 60, 56)
    ]  # fmt: skip


def test_the_caller_is_not_in_inference_mode_between_bands() -> None:
    image = noise(1, 60, 20)
    bands = predicted_bands(
        Threshold(1), reader(image), sheet_grid(20, 60), MappingSettings(overlap_px=480),
        mean=(0.0,), std=(1.0,), classes=2, precision="float32",
    )  # fmt: skip
    for _ in bands:
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


def test_bands_are_normalised_each_with_its_own_mean_and_deviation() -> None:
    seen: list[Tensor] = []

    class Watching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.clone())
            return images[:, :2]

    image = np.array([[[10]], [[30]], [[200]]], np.uint8)
    list(
        predicted_bands(
            Watching(), reader(image), sheet_grid(1, 1), MappingSettings(),
            mean=(0.0, 20.0, 100.0), std=(10.0, 5.0, 50.0), classes=2, precision="float32",
        )
    )  # fmt: skip
    assert seen[0][0, :, 0, 0].tolist() == [1.0, 2.0, 2.0]
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_bf16_is_used_when_asked_for() -> None:
    kinds: list[torch.dtype] = []

    class Watching(Threshold):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            kinds.append(logits.dtype)
            return logits

    image = noise(1, 20, 20)
    image[image == 128] = 0  # at the threshold, where 8 bits decide either way
    classes, _ = sheet_map(Watching(128), image, precision="bf16")
    assert kinds == [torch.bfloat16]
    np.testing.assert_array_equal(classes, image[0] > 128)


def test_the_network_is_in_evaluation_mode() -> None:
    network = nn.Sequential(Threshold(127.5), nn.Dropout(0.9)).train()
    image = noise(1, 20, 20)
    classes, _ = sheet_map(network, image)
    np.testing.assert_array_equal(classes, image[0] > 127)


def test_a_network_that_does_not_fit_is_told() -> None:
    image = noise(1, 20, 20)
    with pytest.raises(TrainingError, match=r"gives \(1, 2, 32, 32\), not \(1, 3, 32, 32\)"):
        sheet_map(Threshold(1), image, classes=3)
    with pytest.raises(SettingsError, match="fp16"):
        sheet_map(Threshold(1), image, precision="fp16")
    with pytest.raises(ValueError, match="2 bands read, means of 1"):
        list(
            predicted_bands(
                Threshold(1), reader(noise(2, 5, 5)), sheet_grid(5, 5), MappingSettings(),
                mean=(0.0,), std=(1.0,), classes=2,
            )
        )  # fmt: skip


def test_a_network_that_diverged_and_a_device_that_is_full_are_told() -> None:
    network = Threshold(1)
    network.convolution.weight.data[0] = float("nan")
    with pytest.raises(TrainingError, match="no numbers"):
        sheet_map(network, noise(1, 20, 20))

    class Greedy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise torch.OutOfMemoryError

    with pytest.raises(TrainingError, match="does not hold 1 windows of 32 x 32"):
        sheet_map(Greedy(), noise(1, 20, 20))


@pytest.mark.parametrize("length", [1, 2, 23, 24, 25, 48, 49, 1000])
@pytest.mark.parametrize(("window_px", "overlap_px"), [(32, 0), (32, 8), (32, 16), (100, 50)])
def test_parts_of_an_axis_keep_each_pixel_once_with_its_surroundings(
    length: int, window_px: int, overlap_px: int
) -> None:
    parts = axis_parts(length, window_px, overlap_px)
    halo = overlap_px // 2
    kept = [position for part in parts for position in range(*part.kept)]
    assert kept == list(range(length))
    assert len({part.seen for part in parts}) == 1
    assert parts[0].seen <= window_px
    for part in parts:
        assert part.first <= part.kept[0] - halo
        assert part.first + part.seen >= part.kept[1] + halo
        seen = part.mirrored(length)
        assert seen.min() >= 0
        assert seen.max() < length
        inside = slice(part.kept[0] - part.first, part.kept[1] - part.first)
        assert seen[inside].tolist() == list(range(*part.kept))


def test_narrow_sheets_are_mirrored_again_and_again() -> None:
    (part,) = axis_parts(3, 16, 8)
    assert part.first == -4
    assert part.mirrored(3)[:12].tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]
    (pixel,) = axis_parts(1, 16, 8)
    assert set(pixel.mirrored(1).tolist()) == {0}


@pytest.mark.parametrize("overlap_px", [7, 32, 40])
def test_overlaps_that_keep_nothing_are_refused(overlap_px: int) -> None:
    with pytest.raises(ValueError, match="is even and smaller"):
        axis_parts(100, 32, overlap_px)
