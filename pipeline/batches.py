"""TileData: batches of tiles out of shards, as seed and epoch alone decide.

Draws carry their epoch with them, so that workers stay alive over epochs, any number of them gives
the same batches, and an epoch that is repeated after a kill is the same epoch. Images leave as
uint8; the network's device normalises them.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from statistics import median
from typing import NamedTuple

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline.config import TrainingSettings
from pipeline.errors import TrainingError
from pipeline.nomenclature import IGNORE
from pipeline.shards import Manifest, ShardReader, SplitCounts, combined

Batch = tuple[Tensor, Tensor]
"""Images, uint8 ``(tiles, bands, rows, cols)``, and labels, uint8 ``(tiles, rows, cols)``."""

Augmentation = Callable[[Tensor, Tensor], Batch]
"""Changes an image (a tv_tensors.Image) and its label (a Mask) together."""


class Draw(NamedTuple):
    """Which tile is wanted, and in which epoch.

    Attributes:
        epoch: From 0; decides the augmentation, together with ``tile``.
        tile: Index among the split's tiles of all shards.
    """

    epoch: int
    tile: int


class EpochSampler(Sampler[Draw]):
    """The draws of one epoch on one process.

    Args:
        tiles: Number of tiles of the split.
        seed: Seed of the run.
        shuffled: Whether the order is random; validation's is not.
        rank: Number of this process.
        world: Number of processes. Shuffled epochs are filled up from their beginning until all
            processes draw the same number, as torch's ``DistributedSampler`` does it; others are
            dealt out without repetition.
    """

    def __init__(
        self, tiles: int, seed: int, *, shuffled: bool, rank: int = 0, world: int = 1
    ) -> None:
        self.tiles, self.seed, self.shuffled = tiles, seed, shuffled
        self.rank, self.world = rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffled:
            return math.ceil(self.tiles / self.world)
        return len(range(self.rank, self.tiles, self.world))

    def __iter__(self) -> Iterator[Draw]:
        order = np.arange(self.tiles)
        if self.shuffled:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.tiles)
            order = np.resize(order, len(self) * self.world)
        for tile in order[self.rank :: self.world]:
            yield Draw(self.epoch, int(tile))


class TileDataset(Dataset[Batch]):
    """One split of many shards, addressed by draws.

    Args:
        readers: The shards.
        split: Which of their tiles.
        seed: Seed of the run.
        augment: Changes image and label together, or None.
    """

    def __init__(
        self,
        readers: Sequence[ShardReader],
        split: str,
        seed: int,
        augment: Augmentation | None = None,
    ) -> None:
        self._readers = [reader for reader in readers if split in reader.manifest.splits]
        ranges = [reader.manifest.splits[split] for reader in self._readers]
        self._firsts = [first for first, _ in ranges]
        # Ends of the shards' stretches in the split; the only index there is.
        self._ends = list(accumulate(end - first for first, end in ranges))
        self._seed = seed
        self._augment = augment

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, draw: Draw) -> Batch:
        shard = bisect.bisect_right(self._ends, draw.tile)
        before = self._ends[shard - 1] if shard else 0
        tile = self._readers[shard].read(self._firsts[shard] + draw.tile - before, polygons=False)
        # Copies: the record's memory is read-only, and gone with LMDB's transaction.
        image, label = torch.from_numpy(tile.image.copy()), torch.from_numpy(tile.label.copy())
        if self._augment is None:
            return image, label
        # torchvision draws from torch's global generator; forked, so that neither the network's
        # dropout nor the number of workers has a part in it.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(
                int(np.random.SeedSequence((self._seed, *draw)).generate_state(1, np.uint64)[0])
            )
            image, label = self._augment(tv_tensors.Image(image), tv_tensors.Mask(label))
        return image.as_subclass(Tensor), label.as_subclass(Tensor)


class Symmetries(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """One of the eight symmetries of the square, each as likely; pixels are only moved."""

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, int]:
        """Draw a number of quarter turns and whether to mirror."""
        return {"turns": int(torch.randint(4, ())), "mirrored": int(torch.randint(2, ()))}

    def transform(self, inpt: Tensor, params: dict[str, int]) -> Tensor:
        """Turn and mirror rows and columns."""
        moved = torch.rot90(inpt.as_subclass(Tensor), params["turns"], (-2, -1))
        if params["mirrored"]:
            moved = moved.flip(-1)
        wrapped: Tensor = tv_tensors.wrap(moved.contiguous(), like=inpt)
        return wrapped


class Light(v2.Transform):  # type: ignore[misc]
    """Another hour, haze, season or camera: a tone curve a band, then saturation and hue.

    Works with any number of bands: brightness, contrast and gamma are common to all, a slight cast
    is a band's own; saturation draws bands to or from their mean; hue turns the first three.

    Args:
        brightness: Largest shift, as a share of the value range.
        contrast: Largest factor about mid-grey.
        gamma: Largest exponent.
        cast: Largest factor of a single band.
        saturation: Smallest and largest factor of the distance to grey.
        hue: Largest turn about the grey axis, in degrees.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(
        self,
        brightness: float = 0.15,
        contrast: float = 1.4,
        gamma: float = 1.5,
        cast: float = 1.1,
        saturation: tuple[float, float] = (0.2, 1.8),
        hue: float = 15.0,
    ) -> None:
        super().__init__()
        self.brightness, self.contrast, self.gamma, self.cast = brightness, contrast, gamma, cast
        self.saturation, self.hue = saturation, hue

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, Tensor]:
        """Draw tone curves, shape ``(bands, 256)``, and a colour matrix ``(bands, bands)``."""
        bands = flat_inputs[0].shape[-3]
        gamma, contrast = (
            math.exp(math.log(most) * float(torch.empty(()).uniform_(-1, 1)))
            for most in (self.gamma, self.contrast)
        )
        shift = self.brightness * float(torch.empty(()).uniform_(-1, 1))
        cast = torch.empty(bands, 1).uniform_(-1, 1).mul_(math.log(self.cast)).exp_()
        values = torch.linspace(0, 1, 256) ** gamma
        curves = (((values - 0.5) * contrast + 0.5 + shift) * cast).clamp_(0, 1)
        strength = float(torch.empty(()).uniform_(*self.saturation))
        colors = strength * torch.eye(bands) + (1 - strength) / bands
        turn = math.radians(self.hue) * float(torch.empty(()).uniform_(-1, 1))
        if bands >= 3:
            rotation = torch.eye(bands)
            rotation[:3, :3] = _about_grey(turn)
            colors = rotation @ colors
        return {"curves": curves * 255, "colors": colors}

    def transform(self, inpt: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Look the values up in the curves and mix the bands."""
        values = inpt.as_subclass(Tensor)
        # A table of 256 values a band is far cheaper than powers of every pixel.
        toned = torch.stack(
            [curve[band.int()] for curve, band in zip(params["curves"], values, strict=True)]
        )
        mixed = params["colors"] @ toned.flatten(1)
        mixed = mixed.round_().clamp_(0, 255).to(torch.uint8)
        wrapped: Tensor = tv_tensors.wrap(mixed.view_as(values), like=inpt)
        return wrapped


def _about_grey(angle: float) -> Tensor:
    """Rotation about (1, 1, 1), Rodrigues' formula: grey stays grey."""
    axis = 1 / math.sqrt(3)
    cross = torch.tensor([[0.0, -axis, axis], [axis, 0.0, -axis], [-axis, axis, 0.0]])
    return torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)


def augmentation(preset: str, fill: Sequence[float]) -> Augmentation | None:
    """The transforms of ``training.augment``.

    Args:
        preset: ``none``; ``geometric``, the eight symmetries; ``aerial``, with them any rotation
            and zoom, and another light.
        fill: Value of each band for image pixels from outside the tile; their label is 255.

    Raises:
        ValueError: If there is no such preset.
    """
    if preset == "none":
        return None
    if preset == "geometric":
        symmetries: Augmentation = Symmetries()
        return symmetries
    if preset == "aerial":
        outside = {tv_tensors.Image: [round(v) for v in fill], tv_tensors.Mask: IGNORE}
        aerial: Augmentation = v2.Compose(
            [
                Symmetries(),
                v2.RandomApply(
                    [
                        v2.RandomAffine(
                            45,
                            translate=(0.1, 0.1),
                            scale=(0.6, 2.0),
                            interpolation=v2.InterpolationMode.BILINEAR,
                            fill=outside,
                        )
                    ],
                    p=0.5,
                ),
                v2.RandomApply([Light()], p=0.8),
            ]
        )
        return aerial
    raise ValueError(f"no augmentation {preset!r}")


class TileData(lightning.LightningDataModule):  # type: ignore[misc]  # nor lightning
    """Training and validation tiles, and what the training split says about them.

    Args:
        readers: The shards of the run, of any sheets.
        settings: Section ``training``.
        seed: Seed of the run.

    Attributes:
        bands: Bands of the images.
        classes: Class names in the order of their ids.
        nomenclature: Fingerprint of the nomenclature.
        pixel_size: Width and height of a pixel in CRS units.
        tile_px: Pixels a side.
        mean: Mean of each band over the training split, of 0..255 values.
        std: Standard deviation of each band, likewise.

    Raises:
        TrainingError: If the shards do not fit together, a split has no labelled tiles, or a
            class is absent from the training split.
    """

    def __init__(
        self, readers: Sequence[ShardReader], settings: TrainingSettings, seed: int
    ) -> None:
        super().__init__()
        # In an order of their own: the list's must not decide what is drawn.
        self._readers = sorted(readers, key=lambda reader: reader.manifest.sheet)
        self.settings, self.seed = settings, seed
        self._rank, self._world = 0, 1
        manifests = [reader.manifest for reader in self._readers]
        check_agreement(manifests)
        counts = {split: _counts(manifests, split) for split in ("train", "validation")}
        first, train = manifests[0], counts["train"]
        self.bands, self.classes, self.tile_px = first.bands, first.classes, first.tile_px
        self.nomenclature = first.nomenclature
        self.pixel_size = (first.grid.pixel_width, first.grid.pixel_height)
        self._frequencies = class_frequencies(train, self.classes)
        self.mean, self.std = band_statistics(train)
        self.train_tiles = TileDataset(
            self._readers, "train", seed, augmentation(settings.augment, self.mean)
        )
        self.validation_tiles = TileDataset(self._readers, "validation", seed)

    @property
    def class_weights(self) -> tuple[float, ...]:
        """Weight of each class in the loss, as ``training.class_weights`` asks for."""
        if self.settings.class_weights == "none":
            return (1.0,) * len(self.classes)
        return median_frequency_weights(self._frequencies)

    def share(self, rank: int, world: int) -> None:
        """Deal the tiles out to ``world`` processes, of which this is number ``rank``."""
        self._rank, self._world = rank, world

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the training split; ``loader.sampler.set_epoch`` chooses the epoch.

        The last batch is left out where it would be a smaller one: batch normalisation would take
        its few tiles for the whole.
        """
        return self._loader(self.train_tiles, shuffled=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the validation split, each tile once over all processes."""
        return self._loader(self.validation_tiles, shuffled=False)

    def _loader(self, tiles: TileDataset, *, shuffled: bool) -> DataLoader[Batch]:
        sampler = EpochSampler(
            len(tiles), self.seed, shuffled=shuffled, rank=self._rank, world=self._world
        )
        workers = self.settings.workers
        return DataLoader(
            tiles,
            batch_size=self.settings.batch_size,
            sampler=sampler,
            num_workers=workers,
            drop_last=shuffled and len(sampler) >= self.settings.batch_size,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_one_thread,
            # Of its own: the loader takes a seed for its workers from the global one otherwise.
            generator=torch.Generator(),
        )


def _one_thread(worker: int) -> None:
    # Workers beside a training process: more threads would only take its cores away.
    torch.set_num_threads(1)


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


def _counts(manifests: Sequence[Manifest], split: str) -> SplitCounts:
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


def class_frequencies(counts: SplitCounts, classes: Sequence[str]) -> tuple[float, ...]:
    """Frequency of each class: its pixels among the labelled ones of the tiles where it occurs.

    Raises:
        TrainingError: With all classes that do not occur.
    """
    absent = [name for name, n in zip(classes, counts.class_pixels, strict=True) if not n]
    if absent:
        raise TrainingError(
            f"{len(absent)} of {len(classes)} classes have no pixel in the training split.",
            absent,
            "Give a sheet that has them the split `train`, lower `labels.min_share`, or leave "
            "them out of the nomenclature (or gather their covers in another class).",
        )
    pairs = zip(counts.class_pixels, counts.present_pixels, strict=True)
    return tuple(pixels / present for pixels, present in pairs)


def median_frequency_weights(frequencies: Sequence[float]) -> tuple[float, ...]:
    """Class weights that balance frequencies: the median frequency over the class's own.

    Source:
        Eigen & Fergus (2015), section 6.3.2; Badrinarayanan, Kendall & Cipolla (2017).
    """
    middle = median(frequencies)
    return tuple(middle / frequency for frequency in frequencies)
