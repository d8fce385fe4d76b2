"""What shards say about a training together: whether they fit, and their counts by split."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.errors import TrainingError
from pipeline.shards import Manifest, SplitCounts, combined


def check_agreement(manifests: Sequence[Manifest]) -> None:
    """Check that shards can be trained on together.

    Raises:
        TrainingError: With all disagreements at once, or if there is no shard.
    """
    if not manifests:
        raise TrainingError("There is no shard to train on.", remedy="Run `shard` first.")
    first = manifests[0]

    def traits(manifest: Manifest) -> dict[str, object]:
        grid = manifest.grid
        return {
            "layout": manifest.layout,
            "bands": manifest.bands,
            "tile_px": manifest.tile_px,
            "classes": ", ".join(manifest.classes),
            "nomenclature": manifest.nomenclature,
            # Seven digits: the same half metre comes with other last bits from other files.
            "pixel size": f"{grid.pixel_width:.7g} x {grid.pixel_height:.7g}",
        }

    expected = traits(first)
    wrong = [
        f"sheet {manifest.sheet}: {trait} {value}, but {expected[trait]} in sheet {first.sheet}"
        for manifest in manifests[1:]
        for trait, value in traits(manifest).items()
        if value != expected[trait]
    ]
    if wrong:
        raise TrainingError(
            "The shards do not fit together.",
            wrong,
            "Make the shards of all sheets again with one nomenclature and one tiling, from "
            "orthophotos of the same bands and pixel size.",
        )


def split_counts(manifests: Sequence[Manifest], split: str) -> SplitCounts:
    """Counts of one split over all shards.

    Raises:
        TrainingError: If the split has no tile, or nothing in it is labelled.
    """
    counts = combined(manifests, split)
    if counts is None or not sum(counts.class_pixels):
        sheets = ", ".join(manifest.sheet for manifest in manifests)
        what = "tiles" if counts is None else "labelled pixels"
        raise TrainingError(
            f"The split {split!r} has no {what} in any sheet ({sheets}).",
            remedy=f"Give a sheet the split `{split}` in the sheets table, choose "
            "`tiling.split: blocks`, or lower `tiling.min_labelled`.",
        )
    return counts


def band_statistics(counts: SplitCounts) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each band, of 0..255 values.

    A constant band, which says nothing, gets 1 as its deviation: it becomes 0 everywhere.

    Raises:
        TrainingError: If there is no valid pixel.
    """
    n = counts.pixels
    if not n:
        raise TrainingError("The training tiles have no valid image pixel.")
    means = tuple(total / n for total in counts.band_sum)
    # Whole numbers up to the root: n * squares - sum ** 2 cancels badly in floating point.
    variances = (
        n * squares - total * total
        for total, squares in zip(counts.band_sum, counts.band_sum_squares, strict=True)
    )
    return means, tuple(math.sqrt(v) / n if v else 1.0 for v in variances)
