"""From a checkpoint to maps."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline import __version__, config, geotiff, progress, styles
from pipeline.block_rows import LostRowsError
from pipeline.class_rasters import NOMENCLATURE_TAG, checksum, sidecars
from pipeline.errors import OutputError, TrainingError
from pipeline.grid import PixelGrid, Window
from pipeline.imagery import Imagery, SheetImagery
from pipeline.interruption import InterruptedMapError, Interruption, ask_for_requeue
from pipeline.map_store import Layer, MapStore
from pipeline.publication import published
from pipeline.run import Run
from pipeline.sections import MappingSettings

if TYPE_CHECKING:
    from pipeline.checkpoint import ModelCard
    from pipeline.mapping import MappedBand
    from pipeline.prediction import Predictor

log = logging.getLogger(__name__)

Inside = Callable[[Window], NDArray[np.bool_]]

LAYERS = ("confidence", "probabilities", "entropy")
"""Rasters that a map may have beside its classes."""


def map_sheet(run: Run, sheet: str, threads: int = 1) -> None:
    """Predict the class of every pixel of one sheet, as a COG on the orthophoto's grid."""
    settings, paths = run.settings.mapping, run.paths
    orthophoto = geotiff.read_orthophoto(run.sheet(sheet).orthophoto)
    imagery = SheetImagery(orthophoto)
    try:
        map_imagery(
            imagery,
            [paths.best, *settings.ensemble],
            {layer: paths.map_layer(sheet, layer) for layer in settings.layers},
            settings,
            what=f"sheet {sheet}",
            files=[orthophoto.path],
            progress_folder=paths.map_progress(sheet),
            classes=run.nomenclature.names,
            threads=threads,
        )
    finally:
        imagery.close()
    for layer in set(LAYERS) - set(settings.layers):
        # Of an earlier map: it would be shown beside this one.
        stale = paths.map_layer(sheet, layer)
        stale.unlink(missing_ok=True)
        stale.with_suffix(".qml").unlink(missing_ok=True)


def map_imagery(
    imagery: Imagery,
    checkpoints: Sequence[Path],
    outputs: Mapping[str, Path],
    settings: MappingSettings,
    *,
    what: str,
    files: Sequence[Path],
    progress_folder: Path,
    classes: Sequence[str] | None = None,
    region: Window | None = None,
    inside: Inside | None = None,
    decided_by: Mapping[str, object] | None = None,
    threads: int = 1,
) -> None:
    """Map an image with one network or several, and publish the map.

    What is done of a map is kept beside it until the map is whole: a map that was killed goes on
    behind its last whole row of blocks.

    Args:
        imagery: The image.
        checkpoints: Of networks with the same classes; the map is made of the mean of their
            probabilities.
        outputs: File of each layer of ``settings.layers``.
        settings: Section ``mapping``.
        what: What to call it in messages: ``sheet 0722``.
        files: Files that the image is made of: with newer ones the map is made anew.
        progress_folder: Folder of what is done.
        classes: Names that the classes must have; the first checkpoint's own where left out.
        region: Pixels of the image that are mapped; all where left out.
        inside: Which pixels of a window are asked for; all where left out.
        decided_by: What else decides the result: another area of interest makes the map anew.
        threads: Threads that read.

    Raises:
        TrainingError: If a checkpoint does not fit the image or the others.
        InputError: If the image cannot be read.
        OutputError: If the map cannot be written.
        InterruptedMapError: If a batch system ends the job; whole rows of blocks are kept.
    """
    from pipeline import mapping

    cards, predictor = _predictor(imagery, checkpoints, settings, classes)
    card, grid = cards[0], _part(imagery.grid, region)
    sample = mapping.sample_window(imagery.read, region or imagery.grid.window, settings)
    image, valid = imagery.read(sample or Window(0, 0, 1, 1))
    predictor.check(image[None], valid[None])
    tags = {
        NOMENCLATURE_TAG: card.nomenclature,
        "TESELA_CHECKPOINT": " ".join(checksum(path) for path in checkpoints),
        "TESELA_PRECISION": f"{settings.backend} {predictor.precision}",
    }
    parts = [part for path in files for part in geotiff.source_files(path)]
    states = [(part, part.stat()) for part in parts]
    decided = config.fingerprint(
        {
            "version": __version__,
            "torch": metadata.version("torch"),
            "device": predictor.device.type,
        },
        {"grid": str(grid), "tags": tags},
        {"files": [[str(p.resolve()), s.st_size, s.st_mtime_ns] for p, s in states]},
        {"mapping": settings.model_dump(mode="json", exclude=settings.result_ignores)},
        dict(decided_by or {}),
    )
    fingerprint = json.dumps(decided, sort_keys=True)

    def made() -> None:
        store = MapStore(progress_folder, grid, _layers(settings, card), fingerprint)
        if store.rows_done:
            log.info("%s: going on behind row %d of %d", what, store.rows_done, grid.height)
        begun, warned = store.rows_done, Interruption()

        def between() -> None:
            if warned.signal:
                raise _WarnedError

        left = (grid.height - begun) * grid.width
        unit, pixels = ("Mpx", 10**6) if left >= 10**7 else ("kpx", 10**3)
        with progress.track(f"map of {what}", left // pixels, unit) as advance, warned:
            bands = mapping.predicted_bands(
                predictor,
                imagery.read,
                imagery.grid,
                settings,
                region=region,
                inside=inside,
                first_row=begun,
                block_height=imagery.block_height,
                threads=threads,
                advance=_Counted(advance, left, pixels),
                between=between,
            )
            try:
                _store(bands, store, region.row if region else 0)
            except _WarnedError:
                raise _interrupted(what, warned.signal, begun, store) from None
        _publish(store, outputs, card, tags)
        store.remove()

    try:
        try:
            made()
        except LostRowsError:
            # Another copy of the job has ended meanwhile, and has taken them away.
            log.warning("%s: what was stored has been removed; it is mapped again", what)
            made()
    except OutputError as error:
        kept = f"What is done is kept in {progress_folder}: the same command goes on."
        raise OutputError(error.what, error.items, f"{error.remedy}\n{kept}") from error


class _WarnedError(Exception):
    """A warning of the batch system came."""


def _interrupted(what: str, cause: str, begun: int, store: MapStore) -> InterruptedMapError:
    """Ask SLURM for another start; what is stored is whole."""
    answer = ask_for_requeue(further=store.rows_done > begun and cause != "SIGTERM")
    return InterruptedMapError(
        f"The map of {what} was interrupted ({cause}); {store.rows_done} of {store.rows} rows "
        "are kept.",
        [answer] if answer else [],
        "Start it again: it goes on from there.",
    )


def _predictor(
    imagery: Imagery,
    checkpoints: Sequence[Path],
    settings: MappingSettings,
    classes: Sequence[str] | None,
) -> tuple[list[ModelCard], Predictor]:
    """The networks of the checkpoints, as one."""
    from pipeline import checkpoint, mapping, prediction

    loaded = [checkpoint.load(path) for path in checkpoints]
    cards = [card for _, card in loaded]
    size = (imagery.grid.pixel_width, imagery.grid.pixel_height)
    for path, card in zip(checkpoints, cards, strict=True):
        what = imagery.what if len(cards) == 1 else f"{imagery.what} ({path})"
        card.check_fits(classes or cards[0].classes, imagery.bands, size, what)
        if card.nomenclature != cards[0].nomenclature:
            raise TrainingError(
                f"{path}: was trained with another nomenclature than {checkpoints[0]}.",
                [f"{card.nomenclature}, not {cards[0].nomenclature}"],
                "An ensemble is of networks that were trained for the same classes.",
            )
    members = [prediction.Member(network, card.mean, card.std) for network, card in loaded]
    return cards, prediction.Predictor(
        members,
        len(cards[0].classes),
        device=mapping.best_device(),
        precision=settings.precision,
        backend=settings.backend,
        symmetries=settings.symmetries,
    )


def _part(grid: PixelGrid, region: Window | None) -> PixelGrid:
    """The grid of a part of an image."""
    if region is None:
        return grid
    left, _, _, top = grid.bounds_of(region)
    return replace(grid, left=left, top=top, width=region.width, height=region.height)


def _layers(settings: MappingSettings, card: ModelCard) -> list[Layer]:
    layers = []
    for name in settings.layers:
        if name == "classes":
            layers.append(Layer(name, overviews="mode", colors=card.colors))
        elif name == "probabilities":
            layers.append(
                Layer(name, bands=len(card.classes), overviews="average", descriptions=card.classes)
            )
        else:
            layers.append(Layer(name, overviews="average"))
    return layers


class _Counted:
    """Tells whole units of pixels, and never more than there are.

    A map that goes on computes some rows again that are there already.
    """

    def __init__(self, advance: Callable[[int], None], most: int, unit: int) -> None:
        self._advance, self._most, self._unit, self._done = advance, most, unit, 0

    def __call__(self, pixels: int) -> None:
        before, self._done = self._done, min(self._most, self._done + pixels)
        self._advance(self._done // self._unit - before // self._unit)


def _store(bands: Generator[MappedBand, None, None], store: MapStore, first: int) -> None:
    """Store bands while the next one is computed; at most one waits."""
    # Closed whatever happens: its threads read from files that the caller closes next.
    with closing(bands), ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
        stored: Future[None] | None = None
        for band in bands:
            if stored is not None:
                stored.result()
            stored = writer.submit(store.put, band.window.row - first, band.layers)
        if stored is not None:
            stored.result()


def _publish(
    store: MapStore, outputs: Mapping[str, Path], card: ModelCard, tags: Mapping[str, str]
) -> None:
    """Put the rasters together, each with what shows it."""
    targets: list[Path] = []
    for layer, path in outputs.items():
        beside = sidecars(path) if layer == "classes" else (path.with_suffix(".qml"),)
        targets += [path, *beside]
    with published(*targets) as drafts:
        waiting = iter(drafts)
        for layer in outputs:
            store.write_cog(layer, next(waiting), tags)
            if layer == "classes":
                pixels = store.histogram(layer)[: len(card.classes)].tolist()
                pam, qml = next(waiting), next(waiting)
                pam.write_text(styles.class_pam(card.classes, card.colors, pixels), "utf-8")
                qml.write_text(styles.class_qml(card.classes, card.colors), "utf-8")
            else:
                next(waiting).write_text(_QML[layer](), "utf-8")


_QML: Mapping[str, Callable[[], str]] = {
    "confidence": styles.confidence_qml,
    "probabilities": styles.probability_qml,
    "entropy": styles.entropy_qml,
}
