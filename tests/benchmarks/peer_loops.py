"""What people write without Tesela, on the same scenes, in an environment of its own (peers.txt).

    PEERS_PYTHON tests/benchmarks/peer_loops.py smp --scenes scenes.json --minutes 6 --out DIR
    PEERS_PYTHON tests/benchmarks/peer_loops.py torchgeo --scenes scenes.json --minutes 6 --out DIR

``smp``: segmentation-models-pytorch's Unet as it comes (resnet34) in a plain loop of torch.
``torchgeo``: RandomGeoSampler and SemanticSegmentationTask as it comes (Unet, resnet50) under
Lightning's Trainer. Both from scratch in float32, batches of 8 random crops of 256 px, rate 1e-3,
cross-entropy; an epoch is as many crops as cover the ground once. Both keep the weights with the
best validation and map the test scene with them into ``DIR/map.npy``.

The time counts from the first batch, with validations; the last validation, and what else begins
before the time is up, is finished. The last line tells what was found, as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

TILE = 256
BATCH = 8
RATE = 1e-3
IGNORE = 255

# Of ImageNet, as segmentation-models-pytorch's own examples normalise.
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

_WINDOW, _OVERLAP = 512, 128  # of the map; neighbours keep half of the overlap each

Scene = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Image ``(bands, rows, cols)`` and class ids ``(rows, cols)``."""


class RandomCrops(Dataset[tuple[Tensor, Tensor]]):
    """Crops of scenes in memory, from anywhere, larger scenes more often.

    Args:
        scenes: The scenes.
        mean: Of each band, of values from 0 to 1.
        std: Likewise.
    """

    def __init__(self, scenes: list[Scene], mean: list[float], std: list[float]) -> None:
        self.scenes, self.mean, self.std = scenes, mean, std
        self.areas = torch.tensor([float(label.size) for _, label in scenes])

    def __len__(self) -> int:
        return int(self.areas.sum()) // TILE**2

    def __getitem__(self, _: int) -> tuple[Tensor, Tensor]:
        image, label = self.scenes[int(torch.multinomial(self.areas, 1))]
        top, left = (int(torch.randint(side - TILE + 1, (1,))) for side in label.shape)
        place = (slice(top, top + TILE), slice(left, left + TILE))
        pixels = torch.from_numpy(normalised(image[(slice(None), *place)], self.mean, self.std))
        return pixels, torch.from_numpy(label[place].astype(np.int64))


class Stopwatch(lightning.pytorch.Callback):  # type: ignore[misc]
    """Where the time of a Lightning training goes."""

    def __init__(self) -> None:
        self.batches = 0
        self.waiting = self.validating = 0.0
        self._last = self._validation = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._last = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        self.waiting += time.perf_counter() - self._last

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1
        self._last = time.perf_counter()

    def on_validation_start(self, *_: Any) -> None:
        self._validation = time.perf_counter()

    def on_validation_end(self, *_: Any) -> None:
        self.validating += time.perf_counter() - self._validation


def normalised(
    image: NDArray[np.uint8], mean: Iterable[float], std: Iterable[float]
) -> NDArray[np.float32]:
    """Image of 0 to 255 as the network takes it."""
    centre, spread = (np.array(list(v), np.float32)[:, None, None] for v in (mean, std))
    return np.asarray((image.astype(np.float32) / 255 - centre) / spread, np.float32)


def read_scenes(pairs: Iterable[tuple[str, str]]) -> list[Scene]:
    """Scenes by the paths of orthophoto and label raster."""
    found = []
    for image, label in pairs:
        with rasterio.open(image) as pixels, rasterio.open(label) as ids:
            found.append((pixels.read(), ids.read(1)))
    return found


def counts_of(label: NDArray[np.integer[Any]], ids: NDArray[np.integer[Any]], classes: int) -> Any:
    """Pixels of each pair of label and predicted class, shape ``(classes, classes)``."""
    known = label != IGNORE
    pairs = classes * label[known].astype(np.int64) + ids[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def mean_iou(counts: NDArray[np.int64]) -> float:
    """Mean IoU of the classes that the labels have."""
    correct, label, ids = counts.diagonal(), counts.sum(1), counts.sum(0)
    there = label > 0
    return float((correct[there] / (label + ids - correct)[there]).mean())


@torch.inference_mode()
def validated(
    network: nn.Module, scenes: list[Scene], mean: list[float], std: list[float], classes: int
) -> float:
    """Mean IoU on the whole tiles of scenes."""
    network.eval()
    counts = np.zeros((classes, classes), np.int64)
    for image, label in scenes:
        places = [
            (slice(top, top + TILE), slice(left, left + TILE))
            for top in range(0, label.shape[0] - TILE + 1, TILE)
            for left in range(0, label.shape[1] - TILE + 1, TILE)
        ]
        for first in range(0, len(places), BATCH):
            part = places[first : first + BATCH]
            pixels = np.stack([normalised(image[(slice(None), *p)], mean, std) for p in part])
            ids = network(torch.from_numpy(pixels)).argmax(1).numpy()
            counts += counts_of(np.stack([label[p] for p in part]), ids, classes)
    return mean_iou(counts)


@torch.inference_mode()
def mapped(
    network: nn.Module, image: NDArray[np.uint8], mean: list[float], std: list[float]
) -> NDArray[np.uint8]:
    """Class of each pixel of a scene, by a sliding window; ground is mirrored at the edges."""
    network.eval()
    half, kept = _OVERLAP // 2, _WINDOW - _OVERLAP
    _, rows, cols = image.shape
    beyond = [(half, -side % kept + half) for side in (rows, cols)]
    ground = np.pad(image, [(0, 0), *beyond], "reflect")
    ids = np.zeros((rows, cols), np.uint8)
    for top in range(0, rows, kept):
        for left in range(0, cols, kept):
            window = ground[:, top : top + _WINDOW, left : left + _WINDOW]
            logits = network(torch.from_numpy(normalised(window, mean, std)[None]))
            inner = logits[0].argmax(0)[half : half + kept, half : half + kept].numpy()
            part = ids[top : top + kept, left : left + kept]
            part[:] = inner[: part.shape[0], : part.shape[1]]
    return ids


def waited(loader: Iterable[Any], spent: list[float]) -> Iterator[Any]:
    """The batches of a loader; the seconds waited for each are put into ``spent``."""
    batches = iter(loader)
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        spent.append(time.perf_counter() - began)
        if batch is None:
            return
        yield batch


def smp_loop(scenes: dict[str, Any], minutes: float, out: Path) -> dict[str, Any]:
    """Train a Unet of segmentation-models-pytorch in a plain loop, and map with it."""
    import segmentation_models_pytorch as smp

    classes = int(scenes["classes"])
    train, validation = read_scenes(scenes["train"]), read_scenes(scenes["validation"])
    loader = DataLoader(
        RandomCrops(train, MEAN, STD), batch_size=BATCH, num_workers=1, persistent_workers=True
    )
    network: Any = smp.Unet(encoder_weights=None, classes=classes)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    loss_of = nn.CrossEntropyLoss(ignore_index=IGNORE)
    waits: list[float] = []
    tiles, best, validating = 0, -1.0, 0.0
    weights = out / "best.pt"
    began = time.perf_counter()
    while (ran := time.perf_counter() - began) < 60 * minutes:
        network.train()
        for images, labels in waited(loader, waits):
            optimizer.zero_grad()
            loss_of(network(images), labels).backward()
            optimizer.step()
            tiles += len(images)
            if time.perf_counter() - began >= 60 * minutes:
                break
        checked = time.perf_counter()
        score = validated(network, validation, MEAN, STD, classes)
        if score > best:
            best = score
            torch.save(network.state_dict(), weights)
        validating += time.perf_counter() - checked
    ran = time.perf_counter() - began
    network.load_state_dict(torch.load(weights, weights_only=True))
    return {
        "trained_seconds": ran,
        "tiles": tiles,
        "tiles_per_second": tiles / (ran - validating),
        "waiting": sum(waits) / (ran - validating),
        "validation_mean_iou": best,
        **written(network, scenes, MEAN, STD, out, weights),
    }


def torchgeo_loop(scenes: dict[str, Any], minutes: float, out: Path) -> dict[str, Any]:
    """Train TorchGeo's task with its own sampler and defaults, and map with it."""
    from torchgeo.datasets import (  # type: ignore[import-not-found]
        IntersectionDataset,
        RasterDataset,
        stack_samples,
    )
    from torchgeo.samplers import (  # type: ignore[import-not-found]
        GridGeoSampler,
        RandomGeoSampler,
    )
    from torchgeo.trainers import SemanticSegmentationTask  # type: ignore[import-not-found]

    class Labels(RasterDataset):  # type: ignore[misc]
        is_image = False

    def scaled(sample: dict[str, Any]) -> dict[str, Any]:
        return {"image": sample["image"] / 255, "mask": sample["mask"]}

    def dataset(split: str) -> Any:
        images, labels = zip(*scenes[split], strict=True)
        return IntersectionDataset(
            RasterDataset(paths=list(images)), Labels(paths=list(labels)), transforms=scaled
        )

    def loader(data: Any, sampler: Any) -> Any:
        return DataLoader(
            data, batch_size=BATCH, sampler=sampler, num_workers=1, persistent_workers=True,
            collate_fn=stack_samples,
        )  # fmt: skip

    classes = int(scenes["classes"])
    train, validation = dataset("train"), dataset("validation")
    task = SemanticSegmentationTask(num_classes=classes, ignore_index=IGNORE)
    best = lightning.pytorch.callbacks.ModelCheckpoint(monitor="val_loss", dirpath=out)
    watch = Stopwatch()
    trainer = lightning.pytorch.Trainer(
        accelerator="cpu",
        max_time=timedelta(minutes=minutes),
        callbacks=[best, watch],
        default_root_dir=out,
        enable_progress_bar=False,
    )
    began = time.perf_counter()
    trainer.fit(
        task,
        loader(train, RandomGeoSampler(train, size=TILE)),
        loader(validation, GridGeoSampler(validation, size=TILE, stride=TILE)),
    )
    ran = time.perf_counter() - began
    weights = Path(best.best_model_path)
    # Written a moment ago by this process.
    task = SemanticSegmentationTask.load_from_checkpoint(weights, weights_only=False)
    mean, std = [0.0] * 3, [1.0] * 3
    score = validated(task, read_scenes(scenes["validation"]), mean, std, classes)
    return {
        "trained_seconds": ran,
        "tiles": BATCH * watch.batches,
        "tiles_per_second": BATCH * watch.batches / (ran - watch.validating),
        "waiting": watch.waiting / (ran - watch.validating),
        "validation_mean_iou": score,
        **written(task, scenes, mean, std, out, weights),
    }


def written(
    network: nn.Module,
    scenes: dict[str, Any],
    mean: list[float],
    std: list[float],
    out: Path,
    weights: Path,
) -> dict[str, Any]:
    """Map the test scene; what is told of the network and of the map."""
    began = time.perf_counter()
    ((image, _),) = read_scenes(scenes["test"])
    ids = mapped(network, image, mean, std)
    seconds = time.perf_counter() - began
    np.save(out / "map.npy", ids)
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "checkpoint_bytes": weights.stat().st_size,
        "map_seconds": seconds,
        "map_pixels": ids.size,
    }


def main() -> None:
    """Do what the command line says."""
    arguments = argparse.ArgumentParser(description=__doc__)
    loops = {"smp": smp_loop, "torchgeo": torchgeo_loop}
    arguments.add_argument("loop", choices=list(loops))
    arguments.add_argument("--scenes", type=Path, required=True)
    arguments.add_argument("--minutes", type=float, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    given = arguments.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    given.out.mkdir(parents=True)
    scenes = json.loads(given.scenes.read_text("utf-8"))
    print(json.dumps(loops[given.loop](scenes, given.minutes, given.out)))


if __name__ == "__main__":
    main()
