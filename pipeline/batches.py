"""TileData: batches of tiles out of shards, as seed and epoch alone decide.

Images leave as uint8; the network's device normalises them.
"""

from __future__ import annotations

import bisect
import logging
import math
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision import tv_tensors

from pipeline.augmentation import Augmentation, augmentation
from pipeline.class_balance import (
    class_frequencies,
    class_shares,
    inverse_frequency_weights,
    median_frequency_weights,
    repeat_factors,
)
from pipeline.draws import Draw, EpochSampler, Shuffle
from pipeline.errors import TrainingError
from pipeline.node_cache import node_memory, shard_bytes
from pipeline.records import Tile
from pipeline.sections import AugmentationSettings, TrainingSettings
from pipeline.shards import ShardReader
from pipeline.training_data import band_statistics, check_agreement, split_counts

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]
"""Images, uint8 ``(tiles, bands, rows, cols)``, and labels, uint8 ``(tiles, rows, cols)``."""


class TileDataset(Dataset[Batch]):
    """One split of many shards, addressed by draws.

    What it holds grows with the shards and not with their tiles, and is sent to workers without
    any open store.

    Args:
        readers: The shards; their tiles have one size and number of bands.
        split: Which of their tiles.
        seed: Seed of the run.
        augment: Changes image and label together, or None.

    Attributes:
        stretches: Number of tiles of the split in each shard that has any.
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
        self.stretches = [end - first for first, end in ranges]
        self._firsts = [first for first, _ in ranges]
        # Ends of the shards' stretches in the split; the only index there is.
        self._ends = list(accumulate(self.stretches))
        self._seed = seed
        self._augment = augment

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, draw: Draw) -> Batch:
        """Image ``(bands, rows, cols)`` and label ``(rows, cols)`` of one draw."""
        images, labels = self.__getitems__([draw])
        return images[0], labels[0]

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """The batch of some draws: what a DataLoader calls where a dataset has it.

        Tiles are put where the batch is to lie, which in a worker is memory shared with the
        training process: nothing is stacked or sent.
        """
        manifest = self._readers[0].manifest
        side = manifest.tile_px
        images = _empty(len(draws), manifest.bands, side, side)
        labels = _empty(len(draws), side, side)
        pixels, ids = images.numpy(), labels.numpy()
        with _torch_generator_kept():
            for place, draw in enumerate(draws):
                tile = self._read(draw)
                if self._augment is None:
                    pixels[place], ids[place] = tile.image, tile.label
                else:
                    pixels[place], ids[place] = self._augmented(draw, tile, self._augment)
        return images, labels

    def place(self, tile: int) -> tuple[str, int]:
        """Sheet of one of the split's tiles, and the tile's position in its shard."""
        shard, position = self._found(tile)
        return self._readers[shard].manifest.sheet, position

    def _read(self, draw: Draw) -> Tile:
        shard, position = self._found(draw.tile)
        return self._readers[shard].read(position, polygons=False)

    def _found(self, tile: int) -> tuple[int, int]:
        shard = bisect.bisect_right(self._ends, tile)
        before = self._ends[shard - 1] if shard else 0
        return shard, self._firsts[shard] + tile - before

    def _augmented(
        self, draw: Draw, tile: Tile, augment: Augmentation
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        # Of the tile's own: the number of workers and the tiles before it have no part in it. Not
        # torch.manual_seed, which asks after every kind of device.
        seed = np.random.SeedSequence((self._seed, *draw)).generate_state(1, np.uint64)[0]
        torch.default_generator.manual_seed(int(seed))
        image, label = augment(
            tv_tensors.Image(torch.from_numpy(tile.image)),
            tv_tensors.Mask(torch.from_numpy(tile.label)),
        )
        return image.numpy(), label.numpy()


def _empty(*shape: int) -> Tensor:
    """Memory for a part of a batch, shared with the training process if this is a worker."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    # As torch's own default_collate does it.
    storage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


@contextmanager
def _torch_generator_kept() -> Iterator[None]:
    """Leave torch's generator as it was: augmenting has no part in the network's dropout."""
    state = torch.default_generator.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def _as_it_is(batch: Any) -> Any:  # noqa: ANN401 - torch takes it for a list of samples
    return batch


class TileData:
    """Training and validation tiles, and what the training split says about them.

    Args:
        readers: The shards of the run, of any sheets.
        settings: Section ``training``.
        changes: Section ``augmentation``.
        seed: Seed of the run.
        presence: Of each sheet, whether a class occurs in a tile of its shard, bool
            ``(tiles, classes)``; needed by ``training.oversample`` only.

    Attributes:
        bands: Bands of the images.
        classes: Class names in the order of their ids.
        nomenclature: Fingerprint of the nomenclature.
        pixel_size: Width and height of a pixel in CRS units.
        tile_px: Pixels a side.
        mean: Mean of each band over the training split, of 0..255 values.
        std: Standard deviation of each band, likewise.
        train_tiles: The training split.
        validation_tiles: The validation split.

    Raises:
        TrainingError: If the shards do not fit together, a split has no labelled tiles, or a
            class is absent from the training split.
    """

    def __init__(
        self,
        readers: Sequence[ShardReader],
        settings: TrainingSettings,
        changes: AugmentationSettings,
        seed: int,
        presence: Mapping[str, NDArray[np.bool_]] | None = None,
    ) -> None:
        # In an order of their own: the list's must not decide what is drawn.
        readers = sorted(readers, key=lambda reader: reader.manifest.sheet)
        self.settings, self.seed = settings, seed
        self._rank, self._world = 0, 1
        manifests = [reader.manifest for reader in readers]
        check_agreement(manifests)
        counts = {split: split_counts(manifests, split) for split in ("train", "validation")}
        first, train = manifests[0], counts["train"]
        self.bands, self.classes, self.tile_px = first.bands, first.classes, first.tile_px
        self.nomenclature = first.nomenclature
        self.pixel_size = (first.grid.pixel_width, first.grid.pixel_height)
        _tell_of_memory(readers, settings)
        self._frequencies = class_frequencies(train, self.classes)
        self._shares = class_shares(train, self.classes)
        self.mean, self.std = band_statistics(train)
        changed = augmentation(changes, self.mean)
        self.train_tiles = TileDataset(readers, "train", seed, changed)
        self.validation_tiles = TileDataset(readers, "validation", seed)
        self._repeats: NDArray[np.float64] | None = None
        if settings.oversample:
            if presence is None:
                raise ValueError("training.oversample needs the classes of each tile")
            ranges = [(m.sheet, *m.splits["train"]) for m in manifests if "train" in m.splits]
            present = [presence[sheet][begin:end] for sheet, begin, end in ranges]
            self._repeats = repeat_factors(np.concatenate(present), settings.oversample)

    @property
    def class_weights(self) -> tuple[float, ...]:
        """Weight of each class in the loss, as ``training.class_weights`` asks for."""
        match self.settings.class_weights:
            case "median_frequency":
                return median_frequency_weights(self._frequencies)
            case "inverse_frequency":
                return inverse_frequency_weights(self._shares)
            case "none":
                return (1.0,) * len(self.classes)

    def share(self, rank: int, world: int) -> None:
        """Deal the tiles out to ``world`` processes, of which this is number ``rank``.

        Raises:
            TrainingError: If there are not as many training tiles as processes.
        """
        if len(self.train_tiles) < world:
            raise TrainingError(
                f"{world} processes cannot share {len(self.train_tiles)} training tiles.",
                remedy="Train with fewer devices (`training.devices`).",
            )
        self._rank, self._world = rank, world

    def train_batches(self) -> TileLoader:
        """Batches of the training split; ``.draws.set_epoch`` chooses the epoch."""
        return self._loader(self.train_tiles, self.settings.shuffle)

    def validation_batches(self) -> TileLoader:
        """Batches of the validation split, each tile once over all processes."""
        return self._loader(self.validation_tiles, None)

    def _loader(self, tiles: TileDataset, shuffle: Shuffle | None) -> TileLoader:
        training = shuffle is not None
        draws = EpochSampler(
            tiles.stretches,
            self.seed,
            shuffle=shuffle,
            batch_size=self.settings.batch_size,
            accumulate=self.settings.accumulate if training else 1,
            rank=self._rank,
            world=self._world,
            repeats=self._repeats if training else None,
        )
        _allow_open_files()
        return TileLoader(tiles, draws, self.settings.workers)


class TileLoader(DataLoader[Batch]):
    """Batches as their draws say.

    Args:
        tiles: Where they come from.
        draws: Which ones.
        workers: Processes that read, beside this one; 0 to read here.

    Attributes:
        draws: Which ones; ``draws.set_epoch`` chooses the epoch.
    """

    def __init__(self, tiles: TileDataset, draws: EpochSampler, workers: int) -> None:
        super().__init__(
            tiles,
            batch_sampler=draws,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_start_worker,
            # Of its own: the loader takes a seed for its workers from the global one otherwise.
            generator=torch.Generator(),
        )
        self.draws = draws

    def __iter__(self) -> Any:  # noqa: ANN401 - a class of torch without a public name
        if sys.platform == "darwin":  # has no batch system, and does not tell who sent a signal
            return super().__iter__()
        # Workers that it starts are deaf to SIGTERM from the first, until they listen themselves.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(worker: int) -> None:
    # Beside a training process: more threads would only take its cores away.
    torch.set_num_threads(1)
    _allow_open_files()
    _leave_warnings_to_the_parent()


def _leave_warnings_to_the_parent() -> None:
    """Let a batch system's signals, which go to all processes of a job, not end this worker.

    The training process still needs its batches to get to the end of a step, and a worker that is
    killed is an error there. Not by ignoring SIGTERM: the training process ends by it a worker that
    hangs. Of one that was killed itself, torch's worker takes notice.
    """
    if sys.platform == "darwin":
        return
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey, args=(os.getppid(),), name="signals", daemon=True).start()


def _obey(parent: int) -> None:
    """End at once when the parent says so."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _allow_open_files() -> None:
    """Raise the limit of open files, usually 1024, as far as it goes: each shard is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@rank_zero_only  # type: ignore[untyped-decorator]
def _tell_of_memory(readers: Sequence[ShardReader], settings: TrainingSettings) -> None:
    """Warn where tiles drawn from anywhere will not come from memory."""
    if settings.shuffle != "full" or settings.cache_dir is not None:
        return
    size, memory = sum(shard_bytes(reader.folder) for reader in readers), node_memory()
    if size > memory:
        log.warning(
            "the shards take %.1f GiB and memory is %.1f GiB: with `training.shuffle: full` most "
            "tiles come from the disk, one by one. Write `training.shuffle: local`, which reads "
            "near ones together, or name a folder on the node's own disk in `training.cache_dir`.",
            *(size / 2**30, memory / 2**30),
        )
