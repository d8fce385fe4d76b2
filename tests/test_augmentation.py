from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline.augmentation import (
    PRESETS,
    Blur,
    Displacement,
    Light,
    Strengths,
    Symmetries,
    _about_grey,
    augmentation,
    strengths,
    turned,
)
from pipeline.nomenclature import IGNORE
from pipeline.sections import AugmentationSettings

SIDE = 64
FILL = (11.0, 22.0, 33.0)
NEAREST = v2.InterpolationMode.NEAREST


def pair(image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
    if label is None:
        label = torch.zeros(image.shape[-2:], dtype=torch.uint8)
    return tv_tensors.Image(image), tv_tensors.Mask(label)


def noise(bands: int = 3, side: int = SIDE, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (bands, side, side), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, classes, (side, side), dtype=torch.uint8, generator=generator)
    return pair(image, label)


def test_a_strength_of_the_settings_replaces_the_presets_own() -> None:
    aerial = AugmentationSettings(preset="aerial", rotation=10, symmetries=False, hue=0)
    assert strengths(aerial) == PRESETS["aerial"]._replace(rotation=10, symmetries=False, hue=0)
    alone = AugmentationSettings(preset="none", rotation=30)
    assert strengths(alone) == Strengths(rotation=30)


def test_every_strength_is_a_setting() -> None:
    assert {"preset", *Strengths._fields} == set(AugmentationSettings.model_fields)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"preset": "none"}, []),
        ({"preset": "geometric"}, [Symmetries]),
        ({"preset": "aerial"}, [Symmetries, Light, Displacement]),
        ({"preset": "aerial", "blur": 1}, [Symmetries, Light, Blur, Displacement]),
        ({"preset": "none", "rotation": 30}, [Displacement]),
        ({"preset": "none", "scale": 1.5}, [Displacement]),
        ({"preset": "none", "shift": 0.1}, [Displacement]),
        ({"preset": "geometric", "symmetries": False}, []),
        *(
            (
                {"preset": "none", name: 1.2 if name in ("contrast", "gamma", "cast") else 0.2},
                [Light],
            )
            for name in ("brightness", "contrast", "gamma", "saturation", "hue", "cast")
        ),
    ],
)
def test_presets_and_strengths_decide_what_is_done(
    settings: dict[str, Any], parts: list[type]
) -> None:
    made: Any = augmentation(AugmentationSettings(**settings), FILL)
    if not parts:
        assert made is None
        return
    given = list(made.transforms) if isinstance(made, v2.Compose) else [made]
    flat = [t.transforms[0] if type(t) is v2.RandomApply else t for t in given]
    assert [type(part) for part in flat] == parts


def test_rotation_alone_keeps_values_and_size() -> None:
    rotated = augmentation(AugmentationSettings(preset="none", rotation=30), FILL)
    assert rotated is not None
    torch.manual_seed(0)
    seen = set()
    for _ in range(30):
        image, label = rotated(*pair(torch.full((3, SIDE, SIDE), 200, dtype=torch.uint8)))
        assert set(image[:, label == 0].flatten().tolist()) == {200}
        seen.add(int((label == IGNORE).sum()))
    # Half of the tiles stay as they are; a turn of 30 degrees cuts a known share off the corners.
    assert 0 in seen
    half = SIDE / 2
    cut = half * (1 / math.cos(math.radians(30)) + math.tan(math.radians(30)) - 1)
    assert len(seen) > 10
    assert max(seen) < SIDE * cut  # four triangles at most


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_pixels_turn_against_the_clock_and_are_mirrored_then(turns: int, mirrored: bool) -> None:
    # Taller than wide, and wider than a strip.
    pixels = np.random.default_rng(0).integers(0, 256, (3, 200, 130), dtype=np.uint8)
    expected = torch.rot90(torch.from_numpy(pixels), turns, (-2, -1))
    if mirrored:
        expected = expected.flip(-1)
    moved = turned(pixels, turns, mirrored)
    np.testing.assert_array_equal(moved, expected.numpy())
    assert moved.flags.c_contiguous
    assert not np.shares_memory(moved, pixels)


def test_symmetries_are_the_eight_of_the_square_and_move_label_with_image() -> None:
    image = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4)
    expected = {
        tuple(torch.rot90(side, turns, (-2, -1)).flatten().tolist())
        for side in (image, image.flip(-1))
        for turns in range(4)
    }
    seen = set()
    torch.manual_seed(0)
    for _ in range(200):
        moved, label = Symmetries()(*pair(image, image[0]))
        assert torch.equal(moved[0], label)
        seen.add(tuple(moved.flatten().tolist()))
    assert seen == expected
    assert len(seen) == 8


def drawn_by_torchvision(settings: tuple[float, float, float], seed: int) -> dict[str, Any]:
    rotation, scale, shift = settings
    theirs = v2.RandomAffine(rotation, translate=(shift, shift), scale=(1 / scale, scale))
    torch.manual_seed(seed)
    params: dict[str, Any] = theirs.make_params([torch.empty(1, SIDE, SIDE)])
    return params


@pytest.mark.parametrize("seed", range(8))
def test_displacement_moves_labels_where_torchvision_moves_them(seed: int) -> None:
    settings = (45.0, 2.0, 0.1)
    _, label = noise()
    params = drawn_by_torchvision(settings, seed)
    expected = v2.functional.affine(label, **params, interpolation=NEAREST, fill=IGNORE)
    torch.manual_seed(seed)
    _, moved = Displacement(*settings, FILL)(*pair(torch.zeros(3, SIDE, SIDE).byte(), label))
    assert torch.equal(moved, expected)


@pytest.mark.parametrize("seed", range(8))
def test_an_edge_stays_on_the_same_pixels_in_image_and_label(seed: int) -> None:
    # Bilinear values pass the middle of a step where the nearest pixel changes sides.
    across = (torch.arange(SIDE) > 37).to(torch.uint8).expand(SIDE, SIDE)
    for ids in (across, across.T):
        torch.manual_seed(seed)
        image, moved = Displacement(45, 2, 0.2, (0, 0, 0))(*pair(200 * ids.repeat(3, 1, 1), ids))
        inside = moved != IGNORE
        assert 0 < int((moved[inside] == 1).sum()) < int(inside.sum())
        for band in image:
            assert torch.equal((band > 100)[inside], (moved == 1)[inside])


@pytest.mark.parametrize("seed", range(8))
def test_away_from_edges_the_image_is_that_of_its_label(seed: int) -> None:
    label = torch.arange(64, dtype=torch.uint8).reshape(8, 8)
    label = label.repeat_interleave(8, 0).repeat_interleave(8, 1)
    torch.manual_seed(seed)
    image, moved = Displacement(45, 1.5, 0.2, (0,))(*pair(4 * label[None], label))
    around = torch.nn.functional.unfold(moved[None, None].float(), 3, padding=1)
    flat = (around == around[:, 4:5]).all(1).view(SIDE, SIDE) & (moved != IGNORE)
    assert int(flat.sum()) > 100
    assert torch.equal(image[0][flat], 4 * moved[flat])


def test_a_marked_pixel_is_found_where_the_geometry_says() -> None:
    # A turn of 30 degrees with the clock and a zoom of 1.25 about the middle of the tile, then a
    # shift by 5 pixels to the right and 3 up: worked out for the centre of one pixel.
    image = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    image[0, 10, 40] = 250
    label = (image[0] > 0).to(torch.uint8)

    class Fixed(Displacement):
        def make_params(self, flat_inputs: list[Tensor]) -> dict[str, Any]:
            return {"angle": 30.0, "scale": 1.25, "translate": (5, -3), "shear": (0.0, 0.0)}

    moved, ids = Fixed(45, 2, 0.1, (0,))(*pair(image, label))
    x, y, turn = 40.5 - SIDE / 2, 10.5 - SIDE / 2, math.radians(30)
    column = SIDE / 2 + 5 + 1.25 * (math.cos(turn) * x - math.sin(turn) * y)
    row = SIDE / 2 - 3 + 1.25 * (math.sin(turn) * x + math.cos(turn) * y)
    place = (int(row), int(column))
    assert place == (11, 59)  # 59.64 and 11.04 pixels from the tile's corner
    assert ids[place] == 1
    assert divmod(int(moved[0].argmax()), SIDE) == place
    assert int(moved.max()) > 125


def test_shifts_are_of_whole_pixels_and_change_no_value() -> None:
    image, label = noise()
    shifts = set()
    for seed in range(10):
        torch.manual_seed(seed)
        moved, ids = Displacement(0, 1, 0.25, FILL)(image, label)
        right, down = drawn_by_torchvision((0, 1, 0.25), seed)["translate"]
        shifts.add((right, down))
        expected = torch.tensor(FILL).byte()[:, None, None].repeat(1, SIDE, SIDE)
        expected_ids = torch.full((SIDE, SIDE), IGNORE, dtype=torch.uint8)
        to = np.s_[..., max(down, 0) : SIDE + min(down, 0), max(right, 0) : SIDE + min(right, 0)]
        of = np.s_[..., max(-down, 0) : SIDE - max(down, 0), max(-right, 0) : SIDE - max(right, 0)]
        expected[to], expected_ids[to] = image[of], label[of]
        assert torch.equal(moved, expected)
        assert torch.equal(ids, expected_ids)
    assert len(shifts) == 10
    assert max(abs(pixels) for shift in shifts for pixels in shift) <= 16


def test_a_displacement_of_nothing_gives_the_same_tile() -> None:
    image, label = noise(bands=5)
    same, ids = Displacement(0, 1, 0, [0] * 5)(image, label)
    assert torch.equal(same, image)
    assert torch.equal(ids, label)


def test_what_lies_outside_the_tile_has_the_fill_and_nothing_is_mixed_with_it() -> None:
    image, label = pair(torch.full((3, SIDE, SIDE), 100, dtype=torch.uint8))
    corners = 0
    for seed in range(20):
        torch.manual_seed(seed)
        moved, ids = Displacement(45, 2, 0.1, FILL)(image, label)
        assert set(ids.flatten().tolist()) <= {0, IGNORE}
        for band, value in zip(moved, FILL, strict=True):
            assert bool((band[ids == IGNORE] == value).all())
            assert bool((band[ids == 0] == 100).all())
        corners += int((ids[[0, 0, -1, -1], [0, -1, 0, -1]] == IGNORE).sum())
    assert corners > 20


def test_the_highest_class_and_what_was_ignored_stay_what_they_are() -> None:
    ids = torch.tensor([0, 239, 254, IGNORE], dtype=torch.uint8).repeat_interleave(16)
    image, label = pair(torch.zeros((1, SIDE, SIDE), dtype=torch.uint8), ids.expand(SIDE, SIDE))
    torch.manual_seed(0)
    _, moved = Displacement(10, 1.1, 0, (7,))(image, label)
    assert set(moved.flatten().tolist()) == {0, 239, 254, IGNORE}


def test_aerial_marks_what_lies_outside_the_tile_as_ignored() -> None:
    augment = augmentation(AugmentationSettings(preset="aerial"), FILL)
    assert augment is not None
    image = torch.full((3, SIDE, SIDE), 120, dtype=torch.uint8)
    inside = []
    torch.manual_seed(0)
    for _ in range(60):
        changed, moved = augment(*pair(image, torch.ones((SIDE, SIDE), dtype=torch.uint8)))
        assert set(moved.flatten().tolist()) <= {1, IGNORE}
        # Means of the bands, whatever the light: it comes first.
        for band, value in zip(changed, FILL, strict=True):
            assert bool((band[moved == IGNORE] == value).all())
        inside.append(float((moved == 1).float().mean()))
    assert 0.2 < min(inside) < 0.9
    assert max(inside) == 1.0


@pytest.mark.parametrize("preset", ["geometric", "aerial"])
@pytest.mark.parametrize("bands", range(1, 9))
def test_bytes_in_bytes_out_for_any_number_of_bands(preset: str, bands: int) -> None:
    settings = AugmentationSettings.model_validate({"preset": preset, "blur": 1.5})
    augment = augmentation(settings, [100.0] * bands)
    assert augment is not None
    image, label = noise(bands)
    before = image.clone(), label.clone()
    torch.manual_seed(0)
    for _ in range(8):
        changed, ids = augment(image, label)
        assert isinstance(changed, tv_tensors.Image)
        assert isinstance(ids, tv_tensors.Mask)
        assert changed.dtype == ids.dtype == torch.uint8
        assert changed.shape == image.shape
        assert ids.shape == label.shape
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])


def test_torchs_generator_alone_decides() -> None:
    augment = augmentation(AugmentationSettings(preset="aerial", blur=1), FILL)
    assert augment is not None
    image, label = noise()
    drawn = []
    for seed, other in ((5, 1), (5, 2), (6, 1)):
        torch.manual_seed(seed)
        random.seed(other)
        np.random.seed(other)  # noqa: NPY002 - the generator that nothing may ask
        drawn.append(
            [torch.cat([i, ids[None]]) for i, ids in (augment(image, label) for _ in "1234")]
        )
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(drawn[0], drawn[2], strict=True))


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 8])
def test_light_keeps_labels_and_changes_any_number_of_bands(bands: int) -> None:
    torch.manual_seed(0)
    image, label = noise(bands)
    changed, same = Light(*PRESETS["aerial"][4:10])(image, label)
    assert all(not torch.equal(a, b) for a, b in zip(changed, image, strict=True))
    assert torch.equal(same, label)


def test_light_that_changes_nothing_gives_the_same_values() -> None:
    image, label = noise()
    assert torch.equal(Light()(image, label)[0], image)
    # Nor does the way over colours, where the draw is next to nothing.
    assert torch.equal(Light(saturation=1e-6, hue=1e-6)(image, label)[0], image)


def test_light_keeps_grey_grey_without_a_cast() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    torch.manual_seed(3)
    changed, _ = Light(0.15, 1.4, 1.5, 0.8, 30)(*pair(values.repeat(3, 1, 1)))
    assert int((changed.int() - changed[:1].int()).abs().max()) <= 1  # rounding
    assert not torch.equal(changed[:1], values)


def test_brightness_shifts_all_bands_by_one_value_within_its_strength() -> None:
    image, label = pair(torch.arange(100, 164, dtype=torch.uint8).repeat(2, 64, 1))
    shifts = set()
    torch.manual_seed(0)
    for _ in range(50):
        changed, _ = Light(brightness=0.2)(image, label)
        shift = (changed.int() - image.int()).unique().tolist()
        assert len(shift) == 1
        shifts.add(shift[0])
    assert -51 <= min(shifts) < -30
    assert 30 < max(shifts) <= 51


def test_saturation_and_hue_are_of_the_first_three_bands() -> None:
    torch.manual_seed(0)
    for bands in (1, 2, 3, 4, 8):
        image, label = noise(bands)
        changed, _ = Light(saturation=0.8, hue=90)(image, label)
        colored = bands >= 3
        assert torch.equal(changed[:3], image[:3]) is not colored
        assert torch.equal(changed[3:], image[3:])


def test_saturation_draws_colours_to_their_grey() -> None:
    image, label = pair(
        torch.tensor([120, 90, 150], dtype=torch.uint8)[:, None, None].repeat(1, 8, 8)
    )
    torch.manual_seed(0)
    factors = []
    for _ in range(50):
        changed, _ = Light(saturation=0.8)(image, label)
        red, green, blue = changed[:, 0, 0].tolist()
        assert abs(red - 120) <= 1  # the mean of the three
        assert abs((green + blue) / 2 - 120) <= 1
        factors.append((blue - 120) / 30)
    assert 0.15 < min(factors) < 0.5
    assert 1.5 < max(factors) < 1.85


def test_a_third_of_a_turn_about_grey_passes_colours_on() -> None:
    np.testing.assert_allclose(
        _about_grey(2 * math.pi / 3) @ [1, 2, 3], [3, 1, 2], atol=1e-12
    )  # red goes to green, green to blue


@pytest.mark.parametrize("bands", [1, 4])
def test_blur_is_that_of_torchvision(bands: int) -> None:
    image, label = noise(bands)
    torch.manual_seed(4)
    sigma = 2 * float(torch.rand(()))
    size = 2 * math.ceil(3 * sigma) + 1
    expected = v2.functional.gaussian_blur(image.float(), [size, size], [sigma, sigma])
    torch.manual_seed(4)
    blurred, same = Blur(2)(image, label)
    assert sigma > 0.5
    assert float((blurred.float() - expected).abs().max()) <= 0.501  # rounding
    assert torch.equal(same, label)


@pytest.mark.parametrize("side", [1, 2, 5])
def test_blur_wider_than_the_tile_keeps_plain_tiles_plain(side: int) -> None:
    image, label = pair(torch.full((3, side, side), 77, dtype=torch.uint8))
    torch.manual_seed(0)
    for _ in range(10):
        assert torch.equal(Blur(4)(image, label)[0], image)
