from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from pipeline.augmentation import Light, Symmetries, augmentation, turned
from pipeline.nomenclature import IGNORE
from pipeline.sections import AugmentationSettings


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
        moved, label = Symmetries()(tv_tensors.Image(image), tv_tensors.Mask(image[0]))
        assert torch.equal(moved[0], label)
        seen.add(tuple(moved.flatten().tolist()))
    assert seen == expected
    assert len(seen) == 8


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_light_keeps_labels_and_changes_any_number_of_bands(bands: int) -> None:
    torch.manual_seed(0)
    image = tv_tensors.Image(torch.randint(0, 256, (bands, 16, 16), dtype=torch.uint8))
    label = tv_tensors.Mask(torch.randint(0, 3, (16, 16), dtype=torch.uint8))
    changed, same = Light(0.15, 1.4, 1.5, 0.8, 15, 1.1)(image, label)
    assert changed.dtype == torch.uint8
    assert changed.shape == image.shape
    assert not torch.equal(changed, image)
    assert torch.equal(same, label)


def test_light_that_changes_nothing_gives_the_same_values() -> None:
    image = tv_tensors.Image(torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8))
    still = Light()
    assert torch.equal(still(image), image)


def test_light_keeps_grey_grey_without_a_cast() -> None:
    image = tv_tensors.Image(
        torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).repeat(3, 1, 1)
    )
    torch.manual_seed(3)
    changed = Light(0.15, 1.4, 1.5, 0.8, 30)(image)
    assert int((changed.int() - changed[:1].int()).abs().max()) <= 1  # rounding
    assert not torch.equal(changed, image)


def test_aerial_marks_what_lies_outside_the_tile_as_ignored() -> None:
    augment = augmentation(AugmentationSettings(preset="aerial"), [200.0] * 3)
    assert augment is not None
    image = tv_tensors.Image(torch.zeros((3, 32, 32), dtype=torch.uint8))
    label = tv_tensors.Mask(torch.ones((32, 32), dtype=torch.uint8))
    ids, inside = set(), []
    torch.manual_seed(0)
    for _ in range(40):
        _, moved = augment(image, label)
        assert moved.shape == (32, 32)
        ids |= set(moved.flatten().tolist())
        inside.append(float((moved == 1).float().mean()))
    assert ids == {1, IGNORE}
    assert min(inside) > 0.2
    assert max(inside) == 1.0
