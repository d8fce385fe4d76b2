"""Losses: the published formulas, sums that add up, and nothing from ignored pixels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.losses import PIXEL_LOSSES, Loss
from pipeline.nomenclature import IGNORE
from pipeline.setting_types import LOSSES

Floats = NDArray[np.float64]
Labels = NDArray[np.uint8]
WEIGHTS = (0.5, 2.0, 3.5, 1.0, 0.25, 7.0)
REGIONS = tuple(name for name in LOSSES if name not in PIXEL_LOSSES)


# The formulas of the papers, in numpy, pixel by pixel in float64.


def labelled(logits: Floats, labels: Labels) -> tuple[Floats, Labels]:
    """Probabilities ``(pixels, classes)`` and labels of the labelled pixels."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    known = labels != IGNORE
    return np.moveaxis(shares, 1, -1)[known], labels[known]


def cross_entropy(logits: Floats, labels: Labels, smoothing: float = 0.0) -> float:
    shares, ids = labelled(logits, labels)
    classes = shares.shape[1]
    total = 0.0
    for p, label in zip(shares, ids, strict=True):
        wanted = np.full(classes, smoothing / classes)
        wanted[label] += 1 - smoothing
        total -= float((wanted * np.array(WEIGHTS[:classes]) * np.log(p)).sum())
    return total


def focal(logits: Floats, labels: Labels, gamma: float = 2.0) -> float:
    shares, ids = labelled(logits, labels)
    p = shares[np.arange(len(ids)), ids]
    return float((-np.array(WEIGHTS)[ids] * (1 - p) ** gamma * np.log(p)).sum())


def over_classes(
    logits: Floats, labels: Labels, of_class: Callable[[Floats, NDArray[np.bool_]], float]
) -> float:
    """Mean over the classes that occur."""
    shares, ids = labelled(logits, labels)
    return float(np.mean([of_class(shares[:, c], ids == c) for c in np.unique(ids)]))


def tversky_of(false_alarms: float, misses: float) -> Callable[[Floats, Labels], float]:
    def of_class(p: Floats, truth: NDArray[np.bool_]) -> float:
        hits = p[truth].sum()
        wrong = false_alarms * p[~truth].sum() + misses * (1 - p[truth]).sum()
        return float(1 - hits / (hits + wrong))

    return lambda logits, labels: over_classes(logits, labels, of_class)


def lovasz(logits: Floats, labels: Labels) -> float:
    """Berman, Triki & Blaschko (2018), equations 6, 8 and 9, with the sets written out."""

    def of_class(p: Floats, truth: NDArray[np.bool_]) -> float:
        errors = np.where(truth, 1 - p, p)
        foreground = set(np.flatnonzero(truth).tolist())
        total, before, mistaken = 0.0, 0.0, set[int]()
        for pixel in np.argsort(-errors).tolist():
            mistaken.add(pixel)
            index_loss = len(mistaken) / len(foreground | mistaken)
            total += float(errors[pixel]) * (index_loss - before)
            before = index_loss
        return total

    return over_classes(logits, labels, of_class)


FORMULAS: Mapping[str, Callable[[Floats, Labels], float]] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "dice": tversky_of(0.5, 0.5),
    "jaccard": tversky_of(1.0, 1.0),
    "tversky": tversky_of(0.3, 0.7),
    "lovasz": lovasz,
}


# Samples


def sample(
    shape: tuple[int, int, int, int], seed: int = 0, ignored: float = 0.3, spread: float = 2.0
) -> tuple[Floats, Labels]:
    """Logits that float32 holds, and labels of which a share is ignored."""
    rng = np.random.default_rng(seed)
    tiles, classes, rows, cols = shape
    logits = rng.normal(0, spread, shape).astype(np.float32).astype(np.float64)
    labels = rng.integers(0, classes, (tiles, rows, cols)).astype(np.uint8)
    labels[rng.random(labels.shape) < ignored] = IGNORE
    return logits, labels


def loss_of(name: str, classes: int, **options: Any) -> Loss:
    return Loss({name: 1.0}, WEIGHTS[:classes], **options)


def tensor(logits: Floats) -> Tensor:
    return torch.tensor(logits, dtype=torch.float32, requires_grad=True)


def value(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    terms = loss(logits, labels)
    assert terms.pixels.dtype == terms.regions.dtype == torch.float32
    assert terms.pixels.shape == terms.regions.shape == ()
    total: Tensor = terms.pixels + terms.regions
    return total


# Values


@pytest.mark.parametrize("name", LOSSES)
@given(
    st.tuples(st.integers(1, 3), st.integers(2, 6), st.integers(1, 7), st.integers(1, 7)),
    st.integers(0, 999),
    st.sampled_from([0.0, 0.4, 0.9]),
)
@settings(max_examples=40, deadline=None)
def test_a_loss_is_its_formula(
    name: str, shape: tuple[int, int, int, int], seed: int, ignored: float
) -> None:
    logits, labels = sample(shape, seed, ignored)
    labels[0, 0, 0] = 1
    found = value(loss_of(name, shape[1]), tensor(logits), torch.from_numpy(labels))
    assert found.item() == pytest.approx(FORMULAS[name](logits, labels), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_the_formula(name: str) -> None:
    logits, labels = sample((2, 3, 2, 3), seed=5)
    values = tensor(logits)
    (found,) = torch.autograd.grad(
        value(loss_of(name, 3), values, torch.from_numpy(labels)), values
    )
    expected, step = np.zeros_like(logits), 1e-6
    for place in np.ndindex(*logits.shape):
        around = []
        for shift in (step, -step):
            moved = logits.copy()
            moved[place] += shift
            around.append(FORMULAS[name](moved, labels))
        expected[place] = (around[0] - around[1]) / (2 * step)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_by_hand() -> None:
    """Two pixels of equal shares: each class has half of what it should and half too much."""
    logits = torch.zeros(1, 2, 1, 3)
    labels = torch.tensor([[[0, 1, IGNORE]]], dtype=torch.uint8)
    expected = {
        "cross_entropy": 2.5 * np.log(2),
        "focal": 2.5 * 0.25 * np.log(2),
        "dice": 0.5,
        "jaccard": 2 / 3,
        "tversky": 0.5,
        "lovasz": 0.5,
    }
    for name, number in expected.items():
        assert value(loss_of(name, 2), logits, labels).item() == pytest.approx(number, abs=1e-6)
    assert loss_of("dice", 2).weight(labels).item() == 2.5


@pytest.mark.parametrize("name", ["jaccard", "lovasz"])
def test_of_certain_predictions_they_are_one_minus_the_mean_iou(name: str) -> None:
    rng = np.random.default_rng(1)
    _, labels = sample((2, 4, 9, 8), seed=1)
    mapped = rng.integers(0, 4, labels.shape)
    logits = 200.0 * F.one_hot(torch.from_numpy(mapped), 4).permute(0, 3, 1, 2).float()
    ious = []
    for c in range(4):
        truth, found = labels == c, (mapped == c) & (labels != IGNORE)
        ious.append((truth & found).sum() / (truth | found).sum())
    found = value(loss_of(name, 4), logits, torch.from_numpy(labels))
    assert found.item() == pytest.approx(1 - np.mean(ious), abs=1e-6)


def test_a_sum_has_its_weights() -> None:
    logits, labels = sample((2, 4, 6, 5))
    values, ids = tensor(logits), torch.from_numpy(labels)
    parts = {name: 0.5 + i for i, name in enumerate(LOSSES)}
    terms = Loss(parts, WEIGHTS[:4])(values, ids)
    alone = {name: loss_of(name, 4)(values, ids) for name in LOSSES}
    pixels = sum(parts[name] * alone[name].pixels.item() for name in PIXEL_LOSSES)
    regions = sum(parts[name] * alone[name].regions.item() for name in REGIONS)
    assert terms.pixels.item() == pytest.approx(pixels, rel=1e-6)
    assert terms.regions.item() == pytest.approx(regions, rel=1e-6)
    assert all(alone[name].regions.item() == 0 for name in PIXEL_LOSSES)
    assert all(alone[name].pixels.item() == 0 for name in REGIONS)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_cross_entropy_over_the_weight_is_torchs_weighted_mean(smoothing: float) -> None:
    logits, labels = sample((3, 5, 8, 7))
    values, ids = tensor(logits), torch.from_numpy(labels)
    loss = loss_of("cross_entropy", 5, label_smoothing=smoothing)
    found = loss(values, ids).pixels / loss.weight(ids)
    expected = F.cross_entropy(
        values,
        ids.long(),
        torch.tensor(WEIGHTS[:5]),
        ignore_index=IGNORE,
        label_smoothing=smoothing,
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    by_formula = cross_entropy(logits, labels, smoothing)
    assert loss(values, ids).pixels.item() == pytest.approx(by_formula, rel=1e-5)


def test_smoothing_is_of_cross_entropy_alone() -> None:
    logits, labels = sample((2, 3, 5, 5))
    values, ids = tensor(logits), torch.from_numpy(labels)
    for name in set(LOSSES) - {"cross_entropy"}:
        plain, smooth = loss_of(name, 3), loss_of(name, 3, label_smoothing=0.4)
        assert torch.equal(value(plain, values, ids), value(smooth, values, ids))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_loss_of_any_exponent(gamma: float) -> None:
    logits, labels = sample((2, 3, 5, 5))
    values, ids = tensor(logits), torch.from_numpy(labels)
    found = value(loss_of("focal", 3, focal_gamma=gamma), values, ids)
    assert found.item() == pytest.approx(focal(logits, labels, gamma), rel=1e-5)
    if gamma == 0:
        entropy = value(loss_of("cross_entropy", 3), values, ids)
        assert found.item() == pytest.approx(entropy.item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_certain_pixels_have_finite_losses_and_gradients(name: str, gamma: float) -> None:
    """Shares of exactly 0 and 1, of the right class and of the wrong one."""
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 0, 0] = 300.0
    logits[:, 2, 1] = -300.0
    logits.requires_grad_()
    labels = torch.tensor([[[0, 1], [0, 2]]], dtype=torch.uint8)
    found = value(loss_of(name, 3, focal_gamma=gamma), logits, labels)
    (gradient,) = torch.autograd.grad(found, logits)
    assert found.isfinite()
    assert gradient.isfinite().all()
    assert gradient[..., 1].any()


# Sums that add up


@given(
    st.integers(2, 6), st.integers(1, 9), st.integers(1, 9), st.integers(2, 6), st.integers(0, 999)
)
@settings(max_examples=40, deadline=None)
def test_pixels_and_weight_add_up_over_batches(
    tiles: int, rows: int, cols: int, classes: int, seed: int
) -> None:
    logits, labels = sample((tiles, classes, rows, cols), seed)
    values, ids = tensor(logits), torch.from_numpy(labels)
    loss = Loss(
        {"cross_entropy": 1.0, "focal": 0.7, "dice": 2.0}, WEIGHTS[:classes], label_smoothing=0.1
    )
    whole = loss(values, ids).pixels
    halves = [slice(0, tiles // 2), slice(tiles // 2, None)]
    parts = [loss(values[half], ids[half]).pixels for half in halves]
    weights = [loss.weight(ids[half]).item() for half in halves]
    assert sum(part.item() for part in parts) == pytest.approx(whole.item(), rel=1e-6)
    assert sum(weights) == pytest.approx(loss.weight(ids).item(), rel=1e-6)
    (expected,) = torch.autograd.grad(whole, values)
    (found,) = torch.autograd.grad(torch.stack(parts).sum(), values)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_many_pixels_lose_nothing() -> None:
    """A sum of a million pixels one after another would be off in the fourth digit."""
    logits, labels = sample((1, 3, 1024, 1024), ignored=0.01)
    loss = loss_of("cross_entropy", 3)
    values, ids = torch.tensor(logits, dtype=torch.float32), torch.from_numpy(labels)
    shares, known = labelled(logits, labels)
    weights = np.array(WEIGHTS)[known]
    expected = -(weights * np.log(shares[np.arange(len(known)), known])).sum()
    assert loss(values, ids).pixels.item() == pytest.approx(expected, rel=1e-6)
    assert loss.weight(ids).item() == pytest.approx(weights.sum(), rel=1e-6)


# Ignored pixels, absent classes, kinds of numbers


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_labelled_is_nothing_with_a_graph(name: str) -> None:
    values = tensor(sample((2, 3, 4, 5))[0])
    labels = torch.full((2, 4, 5), IGNORE, dtype=torch.uint8)
    loss = loss_of(name, 3)
    terms = loss(values, labels)
    assert terms.pixels.item() == terms.regions.item() == loss.weight(labels).item() == 0.0
    (gradient,) = torch.autograd.grad(terms.pixels + terms.regions, values)
    assert torch.equal(gradient, torch.zeros_like(values))


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_have_no_part(name: str) -> None:
    logits, labels = sample((2, 4, 6, 5))
    ids, loss = torch.from_numpy(labels), loss_of(name, 4)
    values = tensor(logits)
    expected = value(loss, values, ids)
    other = logits.copy()
    other[:, 1] += 50.0 * (labels == IGNORE)
    assert value(loss, tensor(other), ids).item() == pytest.approx(expected.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(expected, values)
    assert not gradient.movedim(1, -1)[ids == IGNORE].any()
    assert gradient.movedim(1, -1)[ids != IGNORE].all()


@pytest.mark.parametrize("name", REGIONS)
def test_absent_classes_are_no_perfect_overlap(name: str) -> None:
    """All of the one class is called another: the worst there is, whatever other classes are."""
    for classes in (2, 3, 6):
        labels = torch.zeros((1, 4, 4), dtype=torch.uint8)
        labels[0, 0] = IGNORE
        logits = torch.zeros(1, classes, 4, 4)
        logits[:, 1] = 200.0
        assert value(loss_of(name, classes), logits, labels).item() == pytest.approx(1.0)
        assert value(loss_of(name, classes), -logits, labels).item() == pytest.approx(
            FORMULAS[name](-logits.numpy().astype(np.float64), labels.numpy()), abs=1e-6
        )


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_float32(name: str) -> None:
    logits, labels = sample((2, 4, 6, 5))
    ids, loss = torch.from_numpy(labels), loss_of(name, 4)
    half = torch.tensor(logits, dtype=torch.bfloat16, requires_grad=True)
    expected = value(loss, half.detach().float(), ids)
    assert torch.equal(value(loss, half, ids), expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = value(loss, half, ids)
    assert torch.equal(found, expected)
    (gradient,) = torch.autograd.grad(found, half)
    assert gradient.dtype == torch.bfloat16
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_labels_and_memory_of_any_kind(name: str) -> None:
    logits, labels = sample((2, 4, 6, 5))
    values, ids, loss = tensor(logits), torch.from_numpy(labels), loss_of(name, 4)
    expected = value(loss, values, ids).item()
    assert value(loss, values, ids.long()).item() == pytest.approx(expected, rel=1e-6)
    last = values.contiguous(memory_format=torch.channels_last)
    assert value(loss, last, ids).item() == pytest.approx(expected, rel=1e-6)
    assert loss.weight(ids).item() == loss.weight(ids.long()).item()


# The module


def test_a_loss_has_no_part_in_a_checkpoint() -> None:
    loss = Loss({"cross_entropy": 1.0, "dice": 1.0}, WEIGHTS)
    assert loss.state_dict() == {}
    assert not list(loss.parameters())


@pytest.mark.parametrize("parts", [{}, {"crossentropy": 1.0}, {"dice": 1.0, "iou": 0.5}])
def test_what_is_no_loss(parts: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="one or more of cross_entropy, focal, dice"):
        Loss(parts, WEIGHTS)


def test_losses_of_pixels_do_not_import_what_they_do_not_need() -> None:
    code = (
        "import sys; from pipeline.losses import Loss;"
        "Loss({'cross_entropy': 1.0, 'focal': 1.0}, [1.0, 2.0]);"
        "print('segmentation_models_pytorch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"
