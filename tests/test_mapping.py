from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import SettingsError, TrainingError
from pipeline.grid import PixelGrid, Window
from pipeline.mapping import Inside, MappedBand, predicted_bands, sample_window
from pipeline.prediction import Member, Predictor
from pipeline.sections import MappingSettings
from pipeline.sheet_rows import Read
from pipeline.windows import axis_parts

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


def put_together(bands: Sequence[MappedBand], region: Window) -> dict[str, Image]:
    """The whole map; fails unless the bands cover each row once, top to bottom."""
    row = region.row
    for band in bands:
        assert band.window == Window(region.col, row, region.width, band.window.height)
        for pixels in band.layers.values():
            assert pixels.shape[-2:] == (band.window.height, region.width)
            assert pixels.dtype == np.uint8
        row += band.window.height
    assert row == region.bottom
    names = bands[0].layers
    return {name: np.concatenate([b.layers[name] for b in bands], axis=-2) for name in names}


def single(network: nn.Module, bands: int = 1, mean: float = 0.0) -> Member:
    return Member(network, (mean,) * bands, (1.0,) * bands)


def sheet_layers(
    network: nn.Module | Sequence[Member],
    image: Image,
    valid: Mask | None = None,
    *,
    classes: int = 2,
    precision: str = "float32",
    mean: float = 0.0,
    symmetries: bool = False,
    region: Window | None = None,
    inside: Inside | None = None,
    advance: Callable[[int], None] | None = None,
    threads: int = 1,
    **settings: Any,
) -> dict[str, Image]:
    bands, height, width = image.shape
    members = [single(network, bands, mean)] if isinstance(network, nn.Module) else network
    chosen = {"window_px": 32, "overlap_px": 8, "symmetries": symmetries, **settings}
    found = predicted_bands(
        Predictor(members, classes, precision=precision, symmetries=symmetries),
        reader(image, valid),
        sheet_grid(width, height),
        MappingSettings(**chosen),
        region=region,
        inside=inside,
        advance=advance,
        threads=threads,
    )
    return put_together(list(found), region or Window(0, 0, width, height))


def sheet_map(
    network: nn.Module, image: Image, valid: Mask | None = None, **options: Any
) -> tuple[Image, Image]:
    layers = sheet_layers(network, image, valid, **options)
    return layers["classes"], layers["confidence"]


class Noted(list[tuple[int, ...]]):
    """What a network saw: back ends run a copy of it."""

    def __deepcopy__(self, _: object) -> Noted:
        return self


class Threshold(nn.Module):
    """Class 1 where the first band is above a value; logits 3 apart a grey level."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 1)
        self.convolution.weight.data = torch.tensor([[[[0.0]]], [[[3.0]]]])
        self.convolution.bias = nn.Parameter(torch.tensor([0.0, -3.0 * value]))
        self.seen = Noted()

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


def test_each_row_is_read_once_and_the_next_band_is_read_ahead() -> None:
    image = noise(1, 1000, 60)
    read = reader(image)
    windows: list[Window] = []

    def watched(window: Window) -> tuple[Image, Mask]:
        windows.append(window)
        return read(window)

    bands = predicted_bands(
        Predictor([single(Threshold(1))], 2, precision="float32"), watched,
        sheet_grid(60, 1000), MappingSettings(window_px=256, overlap_px=64), block_height=256,
    )  # fmt: skip
    assert windows == []
    assert next(bands).window == Window(0, 0, 60, 192)
    del bands
    assert windows in ([Window(0, 0, 60, 256)], [Window(0, 0, 60, 256), Window(0, 256, 60, 256)])
    windows.clear()
    classes, _ = sheet_map(Threshold(1), image, window_px=256, overlap_px=64)
    bands = predicted_bands(
        Predictor([single(Threshold(1))], 2, precision="float32"), watched,
        sheet_grid(60, 1000), MappingSettings(window_px=256, overlap_px=64), block_height=256,
    )  # fmt: skip
    found = put_together(list(bands), Window(0, 0, 60, 1000))
    assert windows == [Window(0, row, 60, min(256, 1000 - row)) for row in range(0, 1000, 256)]
    np.testing.assert_array_equal(found["classes"], classes)


def test_the_caller_is_not_in_inference_mode_between_bands() -> None:
    image = noise(1, 60, 20)
    bands = predicted_bands(
        Predictor([single(Threshold(1))], 2, precision="float32"), reader(image),
        sheet_grid(20, 60), MappingSettings(overlap_px=480),
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
    sheet_layers([Member(Watching(), (0.0, 20.0, 100.0), (10.0, 5.0, 50.0))], image)
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
        sheet_layers([single(Threshold(1))], noise(2, 5, 5))


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


class Pyramid(nn.Module):
    """Max-pools five times by two and goes up again: blocks of 32 x 32 pixels count."""

    def forward(self, images: Tensor) -> Tensor:
        blocks = F.max_pool2d(images.double(), 32)
        brightest = F.interpolate(blocks, scale_factor=32, mode="nearest")
        # With the neighbouring blocks: 16 + 31 pixels of receptive field.
        around = F.avg_pool2d(F.pad(brightest, (16, 16, 16, 16)), 33, stride=1)
        return torch.cat([around + images.double(), torch.full_like(around, 60)], dim=1).float()


@pytest.mark.parametrize(("width", "height"), [(300, 210), (257, 97), (500, 131), (96, 64)])
@pytest.mark.parametrize(("window_px", "overlap_px"), [(192, 128), (320, 128), (256, 128)])
def test_networks_that_halve_see_windows_in_the_phase_of_the_whole(
    width: int, height: int, window_px: int, overlap_px: int
) -> None:
    rare = np.random.default_rng(1).random((1, height, width)) < 1 / 1500
    image = np.where(rare, noise(1, height, width), noise(1, height, width) // 16)
    whole = sheet_layers(Pyramid(), image, window_px=2048, overlap_px=overlap_px)
    parts = sheet_layers(Pyramid(), image, window_px=window_px, overlap_px=overlap_px)
    assert 0.2 < (whole["classes"] == 1).mean() < 0.8
    np.testing.assert_array_equal(parts["classes"], whole["classes"])
    np.testing.assert_array_equal(parts["confidence"], whole["confidence"])


def blended(network: nn.Module, image: Image, window_px: int, overlap_px: int, classes: int) -> Any:
    """Probabilities of the whole sheet by the book: all windows in memory, sums divided."""
    height, width = image.shape[1:]
    sums, weights = np.zeros((classes, height, width)), np.zeros((height, width))
    for rows in axis_parts(height, window_px, overlap_px):
        for cols in axis_parts(width, window_px, overlap_px):
            pixels = image[:, rows.mirrored(height)][:, :, cols.mirrored(width)]
            with torch.inference_mode():
                logits = network(torch.from_numpy(pixels.astype(np.float32))[None])
                found = logits.double().softmax(1)[0].numpy()
            near = [np.minimum(i := np.arange(p.seen) + 0.5, p.seen - i) ** 4 for p in (rows, cols)]
            down = slice(max(0, rows.first), min(height, rows.behind))
            across = slice(max(0, cols.first), min(width, cols.behind))
            here = (
                slice(down.start - rows.first, down.stop - rows.first),
                slice(across.start - cols.first, across.stop - cols.first),
            )
            weight = np.outer(*near)[here]
            sums[:, down, across] += weight * found[:, here[0], here[1]]
            weights[down, across] += weight
    return sums / weights


@pytest.mark.parametrize(("width", "height"), [(30, 25), (70, 50), (57, 81)])
@pytest.mark.parametrize("overlap_px", [0, 8, 16])
def test_blending_is_the_mean_of_windows_weighted_by_the_distance_to_their_edges(
    width: int, height: int, overlap_px: int
) -> None:
    network, image = Neighbourhood(bands=3, classes=4), noise(3, height, width)
    expected = blended(network, image, 32, overlap_px, 4)
    layers = sheet_layers(
        network, image, classes=4, overlap_px=overlap_px, seams="blend", probabilities=True,
        entropy=True,
    )  # fmt: skip
    assert np.abs(layers["probabilities"] - 100 * expected).max() < 0.501
    best = np.sort(expected, axis=0)
    clear = best[-1] - best[-2] > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(layers["classes"][clear], expected.argmax(0)[clear])
    entropy = -(expected * np.log(expected)).sum(0) / np.log(4) * 100
    assert np.abs(layers["entropy"] - entropy).max() < 0.501


@pytest.mark.parametrize("seams", ["crop", "blend"])
def test_a_map_that_goes_on_is_the_map_that_was_not_stopped(seams: str) -> None:
    network, image = Neighbourhood(bands=3, classes=4), noise(3, 150, 70)
    valid = np.ones((150, 70), bool)
    valid[30:90, :45] = False
    settings = MappingSettings(window_px=32, overlap_px=16, seams=seams, probabilities=True)
    predictor = Predictor([single(network, 3)], 4, precision="float32")
    arguments = (predictor, reader(image, valid), sheet_grid(70, 150), settings)
    whole = put_together(list(predicted_bands(*arguments)), Window(0, 0, 70, 150))
    for first in (0, 1, 16, 31, 64, 100, 133, 149):
        steps: list[int] = []
        bands = list(predicted_bands(*arguments, first_row=first, advance=steps.append))
        begun = bands[0].window.row
        assert begun <= first < bands[0].window.bottom
        rest = put_together(bands, Window(0, begun, 70, 150 - begun))
        for name, pixels in rest.items():
            np.testing.assert_array_equal(pixels, whole[name][..., begun:, :])
        assert sum(steps) == 70 * (150 - begun)
    assert list(predicted_bands(*arguments, first_row=150)) == []


@pytest.mark.parametrize("seams", ["crop", "blend"])
@pytest.mark.parametrize(
    "place", [(0, 0, 9, 9), (20, 31, 40, 77), (69, 0, 1, 150), (3, 140, 60, 10)]
)
def test_a_region_gives_the_pixels_of_the_whole_map(
    seams: str, place: tuple[int, int, int, int]
) -> None:
    network, image, region = Neighbourhood(bands=3, classes=4), noise(3, 150, 70), Window(*place)
    options: Any = {"classes": 4, "overlap_px": 16, "seams": seams, "probabilities": True}
    whole = sheet_layers(network, image, **options)
    steps: list[int] = []
    part = sheet_layers(network, image, region=region, advance=steps.append, **options)
    assert sum(steps) == region.pixels
    rows, cols = region.slices()
    for name, pixels in part.items():
        np.testing.assert_array_equal(pixels, whole[name][..., rows, cols])


def test_of_a_region_only_its_windows_are_computed() -> None:
    network = Threshold(127.5)
    sheet_layers(network, noise(1, 120, 120), region=Window(50, 50, 20, 20), batch_size=1)
    assert len(network.seen) == 1  # the window that keeps 48 to 72
    asked = np.zeros((120, 120), bool)
    asked[50, 50] = asked[119, 3] = True

    def inside(window: Window) -> Mask:
        rows, cols = window.slices()
        return asked[rows, cols]

    network.seen.clear()
    image = noise(1, 120, 120)
    classes, _ = sheet_map(network, image, inside=inside, batch_size=1)
    assert len(network.seen) == 2
    np.testing.assert_array_equal(classes != 255, asked)
    assert classes[119, 3] == (image[0, 119, 3] > 127)


def test_blended_windows_without_a_valid_pixel_are_not_computed() -> None:
    network, image = Threshold(127.5), noise(1, 48, 120)
    valid = np.ones((48, 120), bool)
    valid[:, 40:] = False
    options: Any = {"overlap_px": 8, "seams": "blend", "batch_size": 1}
    classes, _ = sheet_map(network, image, valid, **options)
    assert len(network.seen) == 4  # of two rows of five
    np.testing.assert_array_equal(classes[:, :40], image[0, :, :40] > 127)
    assert (classes[:, 40:] == 255).all()


class Slanted(nn.Module):
    """Looks at the pixel above: its eight symmetries look at all four sides, twice each."""

    def forward(self, images: Tensor) -> Tensor:
        above = F.pad(images, (0, 0, 1, 0))[:, :, :-1]
        return torch.cat([above, -above], dim=1) / 64


def test_symmetries_are_the_mean_of_all_eight() -> None:
    image = noise(1, 40, 90)
    layers = sheet_layers(Slanted(), image, symmetries=True, probabilities=True)
    around = np.pad(image[0].astype(float), 1, mode="reflect")
    sides = [around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]]
    expected = np.mean([1 / (1 + np.exp(-2 * side / 64)) for side in sides], axis=0)
    assert np.abs(layers["probabilities"][0] - 100 * expected).max() < 0.501


def test_an_ensemble_is_the_mean_of_probabilities_each_with_its_own_normalisation() -> None:
    image = noise(1, 20, 50)
    members = [Member(Slanted(), (0.0,), (1.0,)), Member(Slanted(), (128.0,), (4.0,))]
    layers = sheet_layers(members, image, probabilities=True)
    alone = [sheet_layers([member], image, probabilities=True) for member in members]
    total = sum(layer["probabilities"].astype(int) for layer in alone)
    assert np.abs(2 * layers["probabilities"].astype(int) - total).max() <= 2
    assert (layers["probabilities"] != alone[0]["probabilities"]).any()
    with pytest.raises(ValueError, match="different numbers of bands"):
        Predictor([members[0], Member(Slanted(), (0.0, 1.0), (1.0, 1.0))], 2)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_the_map(threads: int) -> None:
    image = noise(1, 70, 5000)
    classes, _ = sheet_map(Threshold(127.5), image, threads=threads, window_px=64)
    np.testing.assert_array_equal(classes, image[0] > 127)


def test_a_precision_that_differs_is_told_and_auto_goes_back_to_float32(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Close(nn.Module):
        """Two classes that bf16 cannot tell apart."""

        def forward(self, images: Tensor) -> Tensor:
            kind = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
            near = (images / 255 * 0.001 + 1).to(kind)
            return torch.cat([near, torch.full_like(near, 1.0005)], dim=1)

    monkeypatch.setattr("pipeline.networks.precision._has_bf16", lambda kind: True)
    image = noise(1, 128, 128)[None]
    valid = np.ones((1, 128, 128), bool)
    caplog.set_level("INFO", logger="pipeline")
    logging.getLogger("pipeline").propagate = True
    predictor = Predictor([single(Close())], 2, precision="auto")
    precisions: list[str] = [predictor.precision]
    assert 0.3 < predictor.check(image, valid) < 0.7
    precisions.append(predictor.precision)
    assert precisions == ["bf16", "float32"]
    expected = (image[:, 0] / np.float32(255) * 0.001 + 1 < 1.0005).astype(np.uint8)
    assert (predictor(image, valid)[0].argmax(0).numpy() == expected[0]).mean() > 0.99
    assert "This map is made in float32" in caplog.text
    few = Predictor([single(Threshold(128))], 2, precision="auto")
    assert np.isnan(few.check(image[:, :, :9], valid[:, :9]))
    assert few.precision == "float32"
    kept = Predictor([single(Close())], 2, precision="bf16")
    kept.check(image, valid)
    assert kept.precision == "bf16"
    assert Predictor([single(Threshold(100))], 2, precision="float32").check(image, valid) == 1


def test_the_sample_lies_on_valid_ground() -> None:
    grid, settings = sheet_grid(900, 700), MappingSettings(window_px=256)
    image = noise(1, 700, 900)
    assert sample_window(reader(image), grid.window, settings) == Window(322, 222, 256, 256)
    part = sample_window(reader(image), Window(10, 20, 300, 100), settings)
    assert part == Window(32, 20, 256, 100)
    valid = np.zeros((700, 900), bool)
    assert sample_window(reader(image, valid), grid.window, settings) is None
    valid[:, 700:] = True
    found = sample_window(reader(image, valid), grid.window, settings)
    assert found is not None
    assert found.col == 483


def test_the_precision_is_compared_without_symmetries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.networks.precision._has_bf16", lambda kind: True)
    image = (noise(1, 128, 128) // 64 * 64)[None]  # exact in bf16, and another class by each side
    valid = np.ones((1, 128, 128), bool)
    predictor = Predictor([single(Slanted(), mean=100.0)], 2, symmetries=True)
    assert predictor.check(image, valid) == 1
    assert predictor.precision == "bf16"
    turned = torch.stack(predictor(image, valid)).argmax(1)
    plain = Predictor([single(Slanted(), mean=100.0)], 2, precision="float32")
    assert (turned != torch.stack(plain(image, valid)).argmax(1)).any()


def test_blended_windows_that_an_area_does_not_touch_are_not_computed() -> None:
    network, image = Threshold(127.5), noise(1, 300, 300)
    asked = np.zeros((300, 300), bool)
    asked[:10, :10] = asked[-10:, -10:] = True

    def inside(window: Window) -> Mask:
        rows, cols = window.slices()
        return asked[rows, cols]

    options: Any = {"overlap_px": 8, "seams": "blend", "batch_size": 1, "inside": inside}
    classes, _ = sheet_map(network, image, **options)
    assert len(network.seen) == 5  # of 169; both last rows and columns see the lower corner
    np.testing.assert_array_equal(classes[asked], image[0][asked] > 127)
    assert (classes[~asked] == 255).all()


def test_back_ends_of_one_size_get_full_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "one_size", property(lambda self: True))
    network, image = Threshold(127.5), noise(1, 30, 110)
    classes, _ = sheet_map(network, image, batch_size=3)
    assert network.seen == [(3, 1, 32, 32)] * 4  # five windows a row
    np.testing.assert_array_equal(classes, image[0] > 127)
