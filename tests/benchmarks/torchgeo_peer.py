"""TorchGeo on the same sheet, in an environment of its own (``peers.txt``); not of this project.

    PEERS_PYTHON tests/benchmarks/torchgeo_peer.py chips --image A.tif --label B.tif --out DIR
    PEERS_PYTHON tests/benchmarks/torchgeo_peer.py samples --image A.tif --label B.tif

``chips``: GridGeoSampler over image and labels, each chip written as a pair of PNGs by the worker
that read it. ``samples``: batches of RandomGeoSampler. The last line is seconds and items, imports
not counted.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchgeo.datasets import (  # type: ignore[import-not-found]
    IntersectionDataset,
    RasterDataset,
    stack_samples,
)
from torchgeo.samplers import (  # type: ignore[import-not-found]
    GridGeoSampler,
    RandomGeoSampler,
)

TILE = 256


class Labels(RasterDataset):  # type: ignore[misc]
    """Class ids."""

    is_image = False


class ChipWriter:
    """Writes the chips of a batch as PNGs: image ``{number}.png`` and mask ``{number}_mask.png``.

    Args:
        folder: Where they go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, samples: list[dict[str, Any]]) -> int:
        for sample in samples:
            x, y, _ = sample["bounds"]
            place = self.folder / f"{x.start:.1f}_{y.start:.1f}"
            image = sample["image"].permute(1, 2, 0).numpy().astype(np.uint8)
            mask = sample["mask"].numpy().astype(np.uint8)
            Image.fromarray(image).save(f"{place}.png")
            Image.fromarray(mask).save(f"{place}_mask.png")
        return len(samples)


def chips(data: Any, given: argparse.Namespace) -> int:
    """Write the chips of the first rows of the sheet; returns how many."""
    left, bottom, right, top = data.index.total_bounds
    bottom = max(bottom, top - given.rows * data.res[1])
    part = shapely.box(left, bottom, right, top)
    sampler = GridGeoSampler(data, size=TILE, stride=TILE, roi=part)
    loader = DataLoader(
        data, batch_size=32, sampler=sampler, num_workers=given.workers,
        collate_fn=ChipWriter(given.out),
    )  # fmt: skip
    return sum(loader)


def samples(data: Any, given: argparse.Namespace) -> int:
    """Draw batches of random samples; returns how many samples."""
    sampler = RandomGeoSampler(data, size=TILE, length=given.items)
    loader = DataLoader(
        data, batch_size=given.batch, sampler=sampler, num_workers=given.workers,
        collate_fn=stack_samples,
    )  # fmt: skip
    count = 0
    for batch in loader:
        assert batch["image"].shape[1:] == (3, TILE, TILE), batch["image"].shape
        count += len(batch["image"])
    return count


def main() -> None:
    """Do what the command line says."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("step", choices=["chips", "samples"])
    arguments.add_argument("--image", type=Path, required=True)
    arguments.add_argument("--label", type=Path, required=True)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--rows", type=int, default=10**9)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--items", type=int, default=1000)
    given = arguments.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    if given.out:
        given.out.mkdir(parents=True)
    began = time.perf_counter()
    image, label = RasterDataset(paths=given.image), Labels(paths=given.label)
    data = IntersectionDataset(image, label)
    count = {"chips": chips, "samples": samples}[given.step](data, given)
    print(json.dumps({"seconds": time.perf_counter() - began, "items": count}))


if __name__ == "__main__":
    main()
