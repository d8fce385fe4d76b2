"""Classes out of balance: their frequencies, weights in the loss, and how often tiles come."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TrainingError
from pipeline.shards import SplitCounts


def class_frequencies(counts: SplitCounts, classes: Sequence[str]) -> tuple[float, ...]:
    """Frequency of each class: its pixels among the labelled ones of the tiles where it occurs.

    It is how rare a class is where it occurs, whether that is in few tiles or in many.

    Raises:
        TrainingError: With all classes that do not occur.

    Source:
        Eigen & Fergus (2015), section 6.3.2.
    """
    _check_present(counts, classes)
    pairs = zip(counts.class_pixels, counts.present_pixels, strict=True)
    return tuple(pixels / present for pixels, present in pairs)


def class_shares(counts: SplitCounts, classes: Sequence[str]) -> tuple[float, ...]:
    """Share of each class in the labelled pixels of all tiles; they sum to 1.

    Raises:
        TrainingError: With all classes that do not occur.
    """
    _check_present(counts, classes)
    labelled = sum(counts.class_pixels)
    return tuple(pixels / labelled for pixels in counts.class_pixels)


def _check_present(counts: SplitCounts, classes: Sequence[str]) -> None:
    absent = [name for name, n in zip(classes, counts.class_pixels, strict=True) if not n]
    if absent:
        raise TrainingError(
            f"{len(absent)} of {len(classes)} classes have no pixel in the training split.",
            absent,
            "Give a sheet that has them the split `train`, lower `labels.min_share`, or leave "
            "them out of the nomenclature (or gather their covers in another class).",
        )


def median_frequency_weights(frequencies: Sequence[float]) -> tuple[float, ...]:
    """Class weights that balance frequencies: the median frequency over the class's own.

    Args:
        frequencies: Of :func:`class_frequencies`, above 0.

    Source:
        Eigen & Fergus (2015), section 6.3.2; Badrinarayanan, Kendall & Cipolla (2017).
    """
    middle = median(frequencies)
    return tuple(middle / frequency for frequency in frequencies)


def inverse_frequency_weights(shares: Sequence[float]) -> tuple[float, ...]:
    """Class weights with which all classes count alike in the loss.

    ``1 / (classes * share)``: the mean weight of a labelled pixel (of the weights, weighted with
    the shares) is 1, and all pixels of a class together weigh ``pixels / classes``, however few
    they are. Compared with the median frequency a class is raised further if its tiles are few.

    Args:
        shares: Of :func:`class_shares`, above 0. The frequencies of :func:`class_frequencies`
            would give the weights of the median frequency again, but for a common factor.

    Source:
        King & Zeng (2001), as ``balanced`` in scikit-learn.
    """
    return tuple(1.0 / (len(shares) * share) for share in shares)


def repeat_factors(present: NDArray[np.bool_], share: float) -> NDArray[np.float64]:
    """How often each tile comes in an epoch, so that rare classes come more often.

    A class in a share ``f`` of the tiles has the factor ``max(1, sqrt(share / f))``: nothing is
    done about classes in ``share`` of the tiles or more, and a class four times rarer comes twice
    as often, not four times. A tile has the largest factor of its classes.

    Args:
        present: Whether a class occurs in a tile, shape ``(tiles, classes)``.
        share: Share of the tiles below which a class is rare; 0 for none.

    Returns:
        At least 1, shape ``(tiles,)``.

    Source:
        Gupta, Dollár & Girshick (2019), LVIS, section 4.1 (repeat factor sampling).
    """
    tiles = len(present)
    containing = present.sum(axis=0)
    # A class in no tile has no tile to repeat: any factor does.
    rarity = share * tiles / np.maximum(containing, 1)
    factors = np.maximum(1.0, np.sqrt(rarity))
    repeats: NDArray[np.float64] = np.where(present, factors, 1.0).max(axis=1, initial=1.0)
    return repeats
