"""TorchGeo on the same sheet, in an environment of its own (``peers.txt``); not of this project.

    PEERS_PYTHON tests/benchmarks/torchgeo_peer.py chips --image A.tif --label B.tif --out DIR
    PEERS_PYTHON tests/benchmarks/torchgeo_peer.py samples --image A.tif --label B.tif
    PEERS_PYTHON tests/benchmarks/torchgeo_peer.py map --image A.tif --model M.safetensors

``chips``: GridGeoSampler over image and labels, each chip written as a pair of PNGs by the worker
that read it. ``samples``: batches of RandomGeoSampler. ``map``: windows of GridGeoSampler through a
network of segmentation-models-pytorch with the weights of a checkpoint, in float32, put into an
array. The last line is seconds and items, imports not counted.
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


def maps(data: Any, given: argparse.Namespace) -> int:
    """Map the first rows of the sheet; returns the pixels."""
    import segmentation_models_pytorch as smp
    from safetensors import safe_open

    with safe_open(given.model, framework="pt") as file:
        card = json.loads(file.metadata()["tesela"])
        names = file.keys()
        weights = {name.removeprefix("network."): file.get_tensor(name) for name in names}
    network = smp.create_model(
        card["network"], card["encoder"], encoder_weights=None, in_channels=card["bands"],
        classes=len(card["classes"]),
    ).eval()  # fmt: skip
    network.load_state_dict(weights)
    mean, std = (torch.tensor(card[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    left, bottom, right, top = data.index.total_bounds
    bottom = max(bottom, top - given.rows * data.res[1])
    across, down = data.res
    rows: int = round((top - bottom) / down)
    cols: int = round((right - left) / across)
    # The sampler begins at the lower left: its windows reach over the other edges.
    size, cut = given.size, given.shared // 2
    found = np.zeros((rows + 2 * size, cols + 2 * size), np.uint8)
    part = shapely.box(left, bottom, right, top)
    sampler = GridGeoSampler(data, size=given.size, stride=given.size - given.shared, roi=part)
    loader = DataLoader(
        data, batch_size=1, sampler=sampler, num_workers=given.workers, collate_fn=list
    )
    with torch.inference_mode():
        for (sample,) in loader:
            ids = network((sample["image"][None].float() - mean) / std).argmax(1)[0].numpy()
            x, y, _ = sample["bounds"]
            col, row = round((x.start - left) / data.res[0]), round((top - y.stop) / data.res[1])
            row, col = row + size + cut, col + size + cut
            inner = ids[cut:-cut, cut:-cut]
            found[row : row + len(inner), col : col + len(inner)] = inner
    return rows * cols


def main() -> None:
    """Do what the command line says."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("step", choices=["chips", "samples", "map"])
    arguments.add_argument("--image", type=Path, required=True)
    arguments.add_argument("--label", type=Path)
    arguments.add_argument("--model", type=Path)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--rows", type=int, default=10**9)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--size", type=int, default=1024)
    arguments.add_argument("--shared", type=int, default=256)
    arguments.add_argument("--items", type=int, default=1000)
    given = arguments.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    if given.out:
        given.out.mkdir(parents=True)
    began = time.perf_counter()
    image = RasterDataset(paths=given.image)
    data = IntersectionDataset(image, Labels(paths=given.label)) if given.label else image
    count = {"chips": chips, "samples": samples, "map": maps}[given.step](data, given)
    print(json.dumps({"seconds": time.perf_counter() - began, "items": count}))


if __name__ == "__main__":
    main()
