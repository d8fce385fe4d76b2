"""One function a rule, in the order of the data: open, call, publish.

Each takes the run and writes its outputs at the paths of :mod:`pipeline.paths`. A stage that is
killed leaves nothing that looks finished, and may be started again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline import (
    config,
    geotiff,
    labels,
    nomenclature,
    progress,
    records,
    search_space,
    sections,
    shards,
    strips,
    styles,
    tiling,
)
from pipeline.block_raster import BlockRaster, EncodedWindow
from pipeline.block_reader import BlockReader
from pipeline.block_sweep import TileCounter, block_windows
from pipeline.config import Settings
from pipeline.confusion import ConfusionMatrix
from pipeline.counting import id_counts
from pipeline.errors import InputError, SettingsError
from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import IGNORE, Nomenclature
from pipeline.parallel import engine, in_order, ordered
from pipeline.paths import RunPaths
from pipeline.proportions import read_proportions
from pipeline.publication import published, scratch, write_text
from pipeline.sheets import Sheet, read_sheets

if TYPE_CHECKING:
    from pipeline.following import Follower
    from pipeline.siose import SioseBase
    from pipeline.siose_values import ValuesIndex
    from pipeline.training import FitSummary
    from pipeline.tuning_study import Search

log = logging.getLogger(__name__)

WINDOW = 2048
"""Pixels a side of the windows that labels go through; whole blocks."""

SAMPLED = 8
"""Tiles that are cut beforehand to estimate the room that a shard takes."""

NOMENCLATURE_TAG = "TESELA_NOMENCLATURE"
"""GeoTIFF tag with the fingerprint of the nomenclature that a class raster was made with."""


@dataclass(frozen=True)
class Run:
    """A run: its settings, and what they name.

    Attributes:
        settings: The settings.
    """

    settings: Settings

    @property
    def paths(self) -> RunPaths:
        """Its files."""
        return RunPaths(self.settings.run)

    @cached_property
    def sheets(self) -> dict[str, Sheet]:
        """Its sheets by name."""
        return read_sheets(self.settings.sheets)

    @cached_property
    def nomenclature(self) -> Nomenclature:
        """Its training classes."""
        path = self.settings.nomenclature
        return nomenclature.parse(config.read_yaml(path), str(path))

    def sheet(self, name: str) -> Sheet:
        """A sheet by name.

        Raises:
            SettingsError: If the sheets table has none of that name.
        """
        if name not in self.sheets:
            raise SettingsError(
                f"{self.settings.sheets}: there is no sheet {name!r}.",
                [f"sheets: {', '.join(self.sheets)}"],
            )
        return self.sheets[name]

    @cached_property
    def bases(self) -> dict[str, Path]:
        """SIOSE bases of the sheets that have labels, by their name in file names."""
        sheets = (self.sheets[name] for name in self.labelled_sheets)
        return {sheet.base: sheet.siose for sheet in sheets}

    @property
    def labelled_sheets(self) -> list[str]:
        """Sheets that have labels: all but those of split ``map``."""
        return [sheet.name for sheet in self.sheets.values() if sheet.split != "map"]


def index_values(run: Run, base: str) -> None:
    """Index the values table of a SIOSE base, so that a sheet reads its own polygons' rows only."""
    # GeoPandas is loaded where bases are read: labels and shards need not wait for it.
    from pipeline import siose, siose_values

    if base not in run.bases:
        raise SettingsError(
            f"{run.settings.sheets}: there is no SIOSE base {base!r}.",
            [f"bases: {', '.join(run.bases)}"],
        )
    path = run.bases[base]
    opened = siose.open_base(path, run.settings.siose)
    log.info("%s: %s", path, opened.description)
    table = siose_values.index_values(opened)
    with published(run.paths.values_index(base)) as (draft,):
        siose_values.write_index(table, draft)
    log.info("%s: covers of %d polygons indexed", path, len(table))


def class_proportions(run: Run, sheet: str, threads: int = 1) -> None:
    """Resolve the SIOSE polygons of one sheet to shares of the training classes."""
    from pipeline import siose

    row = run.sheet(sheet)
    orthophoto = geotiff.read_orthophoto(row.orthophoto)
    base = siose.open_base(row.siose, run.settings.siose)
    log.info("sheet %s: %s: %s", sheet, base.path, base.description)
    if not base.fast:
        log.warning(
            "%s has no spatial index: every sheet looks at all of its polygons. Make one, or use "
            "a GeoPackage.", base.path,
        )  # fmt: skip
    index = _values(run, row.base, base)
    bounds = geotiff.bounds_in(orthophoto.grid, base.crs)
    problems = run.paths.problems(sheet)
    problems.unlink(missing_ok=True)
    try:
        frame, odd = siose.class_proportions(
            base,
            bounds,
            orthophoto.grid.bounds,
            orthophoto.grid.crs,
            run.nomenclature,
            run.settings.siose,
            index,
            threads,
        )
    except siose.PolygonError as error:
        with published(problems) as (draft,):
            siose.write_problems(error.problems, draft)
        raise InputError(
            f"proportions of sheet {sheet}: {error.what}",
            error.items,
            f"{error.remedy}\nThe polygons are in {problems}.",
        ) from error
    except InputError as error:
        raise InputError(
            f"proportions of sheet {sheet}: {error.what}", error.items, error.remedy
        ) from error
    if len(odd):
        with published(problems) as (draft,):
            siose.write_problems(odd, draft)
        log.warning("sheet %s: %d polygons need a look: %s", sheet, len(odd), problems)
    with published(run.paths.proportions(sheet)) as (draft,):
        siose.write_proportions(frame, draft, run.nomenclature.fingerprint)
    log.info("sheet %s: %d polygons from %s", sheet, len(frame), base.path)


def check_polygons(run: Run, sheet: str, threads: int = 1) -> None:
    """Tell all that is wrong with the SIOSE polygons of one sheet, as a map and in numbers."""
    from pipeline import siose, siose_check

    row = run.sheet(sheet)
    grid = geotiff.read_orthophoto(row.orthophoto).grid
    base = siose.open_base(row.siose, run.settings.siose)
    check = siose_check.check(
        base,
        run.settings.siose,
        run.nomenclature,
        bounds=geotiff.bounds_in(grid, base.crs),
        index=_values(run, row.base, base),
        threads=threads,
    )
    counts = {"sheet": sheet, "polygons": check.polygons, "problems": check.counts()}
    outputs = (run.paths.polygon_check(sheet), run.paths.polygon_check_counts(sheet))
    with published(*outputs) as (draft, counts_draft):
        siose.write_problems(check.problems, draft)
        counts_draft.write_text(json.dumps(counts, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for line in siose_check.told(check, shown=3):
        log.info("sheet %s: %s", sheet, line)


def label_raster(run: Run, sheet: str, threads: int = 1) -> None:
    """Burn the SIOSE classes of one sheet onto the pixels of its orthophoto."""
    settings, classes = run.settings.labels, run.nomenclature
    orthophoto = geotiff.read_orthophoto(run.sheet(sheet).orthophoto)
    grid = orthophoto.grid
    proportions = read_proportions(run.paths.proportions(sheet), classes)
    shapes = labels.label_shapes(proportions, grid, settings)
    margin = labels.outline_margin(settings, grid, proportions.tolerance_m)
    class_pixels = np.zeros(len(classes), np.int64)
    masked_pixels = np.zeros(len(labels.REASONS), np.int64)
    outputs = (
        run.paths.label_raster(sheet),
        run.paths.polygon_index(sheet),
        run.paths.label_counts(sheet),
        *_sidecars(run.paths.label_raster(sheet)),
    )
    with (
        published(*outputs) as (draft, index_draft, counts_draft, *side_drafts),
        geotiff.RasterReader(orthophoto.path, orthophoto.bands) as source,
        BlockRaster(
            draft, grid, "uint8", IGNORE, classes.colors, {NOMENCLATURE_TAG: classes.fingerprint}
        ) as raster,
        BlockRaster(index_draft, grid, "uint32", 0) as index,
        progress.track(f"labels of sheet {sheet}", grid.window.pixels // 10**6, "Mpx") as advance,
    ):

        def labelled(
            window: Window,
        ) -> tuple[EncodedWindow, EncodedWindow, NDArray[np.int64], NDArray[np.int64]]:
            valid = source.valid(window)
            found = labels.label_window(shapes, window, valid, margin, len(classes))
            # Compressed here, in the thread that has the pixels: the writer appends bytes.
            return (
                raster.encode(window, found.label),
                index.encode(window, found.polygons),
                found.class_pixels,
                found.masked_pixels,
            )

        pixels = 0
        for window, (label, polygons, of_class, masked) in ordered(
            labelled, grid.blocks(WINDOW), threads
        ):
            raster.put(label)
            index.put(polygons)
            class_pixels += of_class
            masked_pixels += masked
            advance((pixels + window.pixels) // 10**6 - pixels // 10**6)
            pixels += window.pixels
        counts = {
            "sheet": sheet,
            "pixels": grid.window.pixels,
            "classes": dict(zip(classes.names, class_pixels.tolist(), strict=True)),
            "masked": dict(zip(labels.REASONS, masked_pixels.tolist(), strict=True)),
        }
        counts_draft.write_text(json.dumps(counts, indent=1, ensure_ascii=False) + "\n", "utf-8")
        _write_sidecars(side_drafts, classes, class_pixels.tolist())
    share = 100 * class_pixels.sum() / grid.window.pixels
    log.info("sheet %s: %.1f %% of the pixels have a class", sheet, share)


def tile_plan(run: Run, threads: int = 1) -> None:
    """Choose the windows that become tiles, and the split of the ground they lie on."""
    settings, classes = run.settings.tiling, run.nomenclature
    names = run.labelled_sheets
    orthophotos = {name: geotiff.read_orthophoto(run.sheets[name].orthophoto) for name in names}
    geotiff.check_alike(orthophotos)
    grids = {name: orthophoto.grid for name, orthophoto in orthophotos.items()}
    ground = tiling.plan_ground(run.sheets, grids, settings, run.settings.seed)
    tiles: list[tiling.PlannedTile] = []
    with (
        ExitStack() as opened,
        progress.track("tile plan", len(names), "sheets") as advance,
    ):

        def begun(name: str) -> _SheetTiles:
            mine = [part for part in ground if part.sheet == name]
            foreign = _foreign_ground(name, grids, ground)
            candidates = tiling.candidate_tiles(grids[name], mine, foreign, settings)
            raster = _label_blocks(run.paths.label_raster(name), grids[name], classes)
            opened.callback(raster.close)
            block = (geotiff.BLOCK, geotiff.BLOCK)
            windows = [window for _, window in candidates]
            counter = TileCounter(windows, grids[name].window, len(classes), block)
            return _SheetTiles(name, candidates, raster, counter)

        # Windows of all sheets in one row: the threads are busy with one sheet as with many. The
        # None behind a sheet's windows says that it is done.
        def parts() -> Iterator[tuple[_SheetTiles, Window | None]]:
            for name in names:
                sheet = begun(name)
                for window in sheet.counter.windows:
                    yield sheet, window
                yield sheet, None

        def counted(part: tuple[_SheetTiles, Window | None]) -> NDArray[np.int64] | None:
            sheet, window = part
            if window is None:
                return None
            return sheet.counter.count(window, sheet.raster.read(window))

        for (sheet, window), counts in ordered(counted, parts(), threads):
            if window is not None and counts is not None:
                sheet.counter.add(window, counts)
                continue
            sheet.raster.close()
            pixels = sheet.counter.class_pixels
            tiles += tiling.enough_labelled(sheet.name, sheet.candidates, pixels, settings)
            advance(1)
    tiling.check_plan(tiles, run.sheets, classes, settings)
    plan = tiling.TilePlan(tuple(tiles), ground, classes.fingerprint, settings.tile_px)
    with published(run.paths.tile_plan, run.paths.ground) as (draft, ground_draft):
        tiling.write_plan(plan, draft, ground_draft)
    for name in sections.SPLITS:
        count = sum(tile.split == name for tile in tiles)
        log.info("%s: %d tiles of %d px", name, count, settings.tile_px)


def shard(run: Run, sheet: str, threads: int = 1) -> None:
    """Cut the tiles of one sheet out of orthophoto and labels into an LMDB."""
    classes, settings, paths = run.nomenclature, run.settings.tiling, run.paths
    orthophoto = geotiff.read_orthophoto(run.sheet(sheet).orthophoto)
    grid, bands = orthophoto.grid, len(orthophoto.bands)
    plan = tiling.read_plan(paths.tile_plan, paths.ground, classes, sheet)
    proportions = read_proportions(paths.proportions(sheet), classes)
    shares = np.concatenate([np.zeros((1, len(classes))), proportions.shares]).astype(np.float32)
    tiles = plan.of_sheet(sheet)
    _label_blocks(paths.label_raster(sheet), grid, classes).close()
    with geotiff.RasterReader(orthophoto.path) as source:
        block = (source.block_height, source.block_width)
    placed = [
        strips.Placed(position, tile.split, tile.window) for position, tile in enumerate(tiles)
    ]
    tasks = strips.plan_strips(placed, grid, *block)
    target = paths.shard(sheet)
    with (
        published(target) as (draft,),
        strips.TileCutter(
            orthophoto.path,
            orthophoto.bands,
            paths.label_raster(sheet),
            paths.polygon_index(sheet),
            shares,
            settings.codec,
            kept=2 * threads + max((len(strip.units) for strip in tasks), default=0),
        ) as cutter,
        progress.track(f"shard of sheet {sheet}", len(tiles), "tiles") as advance,
    ):
        sample = strips.plan_strips(placed[:: -(-len(placed) // SAMPLED) or 1], grid, *block)
        rooms = [shards.room_of(len(part)) for s in sample for _, part in cutter(s).records]
        needed = sum(rooms) * len(tiles) // max(1, len(rooms))
        shards.check_room(target.parent, needed, f"shard of sheet {sheet}")
        counts = {
            name: shards.SplitCounts.nothing(bands, len(classes))
            for name in dict.fromkeys(tile.split for tile in tiles)
        }
        bound = records.record_bound(plan.tile_px, bands, len(classes))
        with (
            engine(
                settings.dask if tiles else "threads", settings.dask_workers or threads, threads
            ) as pool,
            shards.ShardWriter(draft, len(tiles), bound) as writer,
        ):
            # Of a large cluster not all results at once: they wait here for the one writer.
            ahead = pool.slots + min(pool.slots, 16) + 1
            for strip, cut in in_order(cutter, tasks, pool, ahead):
                for position, record in cut.records:
                    writer.put(position, record)
                for name, counted in cut.counts.items():
                    counts[name] += counted
                advance(len(strip.tiles))
            writer.finish(
                shards.Manifest(
                    layout=shards.LAYOUT,
                    sheet=sheet,
                    grid=grid,
                    bands=bands,
                    tile_px=plan.tile_px,
                    classes=classes.names,
                    nomenclature=classes.fingerprint,
                    codec=settings.codec,
                    splits=shards.split_ranges([tile.split for tile in tiles]),
                    counts=counts,
                    records=writer.checksum,
                )
            )


def train(run: Run) -> None:
    """Train the network on all shards; go on where a killed training stopped."""
    # Torch is loaded here and in map_sheet only: a CPU job never pays for it.
    from pipeline import checkpoint, diagnosis, evidence, figures, sample_pictures

    paths, settings, colors = run.paths, run.settings.training, run.nomenclature.colors
    followers: list[Follower] = [diagnosis.Diagnosis(paths.findings)]
    if settings.sample_tiles:
        followers.append(sample_pictures.SamplePictures(paths.samples, colors))
    if settings.tensorboard:
        from pipeline import tensorboard_log

        followers.append(tensorboard_log.TensorBoardLog(paths.tensorboard, colors))
    summary = _trained(run, run.settings, paths.models, followers)
    if not summary.first:
        return
    write_text(paths.card, checkpoint.read_card(paths.best).as_json())
    if not paths.findings.exists():
        # Ended already when it was started: the curves alone say most of it.
        rows = evidence.read_curves(paths.curves, paths.speed)
        diagnosis.publish(paths.findings, diagnosis.findings(rows, None, run.nomenclature.names))
    # Without speeds, which stand in the report: the same training gives the same picture.
    picture = figures.curves_picture(evidence.read_curves(paths.curves))
    with published(paths.curves_picture) as (draft,):
        draft.write_bytes(picture)
    log.info(
        "%d epochs, %d steps (%s); best: epoch %g",
        summary.epochs,
        summary.steps,
        summary.stopped_because,
        summary.best_epoch,
    )


def _trained(
    run: Run, chosen: Settings, folder: Path, followers: Sequence[Follower] = ()
) -> FitSummary:
    """Train on the shards of a run.

    Args:
        run: Whose shards and classes.
        chosen: Settings of the run, or of a trial of a search.
        folder: Folder of the checkpoints.
        followers: Are told of steps and validations.
    """
    from pipeline import batches, checkpoint, networks, node_cache, training
    from pipeline.networks import weights_store

    settings, classes, paths = chosen.training, run.nomenclature, run.paths
    networks.check_batch(settings.network, settings.batch_size)
    tiles_ignore = chosen.tiling.tiles_ignore
    cache = node_cache.NodeCache(settings.cache_dir)
    readers = [cache.reader(paths.shard(name)) for name in run.labelled_sheets]
    for reader in readers:
        _check_nomenclature(reader.manifest.nomenclature, reader.folder, classes)
    presence = (
        tiling.read_class_presence(paths.tile_plan, run.labelled_sheets, classes)
        if settings.oversample
        else None
    )
    data = batches.TileData(readers, settings, chosen.augmentation, chosen.seed, presence)
    training.seed_weights(chosen.seed)
    network = networks.build(
        settings.network,
        encoder=settings.encoder,
        encoder_weights=settings.encoder_weights,
        bands=data.bands,
        classes=len(classes),
        weights_dir=settings.weights_dir,
    )
    encoder = networks.encoder_of(settings.network, settings.encoder)
    origin: dict[str, Any] = {}
    for path in networks.first_weights(settings):
        origin = weights_store.origin_of(path)
    manifests = {reader.manifest.sheet: reader.manifest for reader in readers}
    pixels = {
        name: dict(zip(classes.names, total.class_pixels, strict=True))
        for name in ("train", "validation")
        if (total := shards.combined(manifests.values(), name)) is not None
    }
    used = {
        name: [sheet for sheet, manifest in manifests.items() if name in manifest.splits]
        for name in ("train", "validation")
    }

    def card(scores: Mapping[str, Any]) -> checkpoint.ModelCard:
        return checkpoint.ModelCard(
            network=settings.network,
            encoder=encoder,
            bands=data.bands,
            pixel_size=data.pixel_size,
            classes=classes.names,
            colors=classes.colors,
            nomenclature=classes.fingerprint,
            mean=data.mean,
            std=data.std,
            settings=chosen.model_dump(
                mode="json",
                include={"seed", "labels", "tiling", "augmentation", "training"},
                exclude={"training": settings.result_ignores, "tiling": tiles_ignore},
            ),
            data={"sheets": used, "pixels": pixels, "first_weights": origin},
            scores=dict(scores),
            **checkpoint.environment(),
        )

    # What decides the result; on how many devices and workers may change between two starts.
    fingerprint = config.fingerprint(
        {"seed": chosen.seed, "nomenclature": classes.fingerprint},
        {"augmentation": chosen.augmentation.model_dump(mode="json")},
        {"training": settings.model_dump(mode="json", exclude=settings.result_ignores)},
        {"weights": origin.get("sha256", settings.encoder_weights)},
        {"shards": {sheet: _manifest_hash(m) for sheet, m in sorted(manifests.items())}},
    )
    with cache.filling():
        return training.fit(
            data,
            network,
            settings=settings,
            seed=chosen.seed,
            folder=folder,
            fingerprint=fingerprint,
            make_card=card,
            name_of=partial(tiling.tile_name, paths.tile_plan),
            followers=followers,
        )


def tune(run: Run, worker: int = 1, most: int | None = None) -> None:
    """Search for better settings: join the run's study, or start it, and train its trials.

    Args:
        run: The run.
        worker: Number of this worker; any number of them work on one study.
        most: Most trials of this worker; None until the study has all of its own.
    """
    from pipeline import devices, training, tuning

    devices.take_gpu(worker)

    paths, limits = run.paths, ("epochs", "iterations", "max_minutes", "validate_every")
    searched = any(f"training.{limit}" in run.settings.tuning.space for limit in limits)
    search = _search(run, None if searched else training.most_validations(run.settings.training))

    def trained(
        number: int, values: Mapping[str, Any], followers: Sequence[Follower]
    ) -> Mapping[str, Any]:
        # Side by side are the workers: a trial has one device, and nobody looks at its pictures.
        alone = {"devices": 1, "nodes": 1, "sample_tiles": 0, "tensorboard": False}
        alone = {f"training.{key}": value for key, value in alone.items()}
        chosen = config.overridden(run.settings, {**values, **alone}, f"trial {number}")
        return _trained(run, chosen, paths.trial(number), followers).best_scores

    ended = tuning.work(search, trained, worker=worker, most=most)
    said = f"worker {worker} ended {ended} of {search.limit} trials"
    if most is None:  # otherwise there may be trials left, and this tells that there are none
        write_text(paths.tuning_worker(worker), f"{said}\n")
    log.info("%s; `python -m pipeline tuning-report` writes %s", said, paths.tuning_report)


def tuning_report(run: Run) -> None:
    """Put the trials of a search together in one page, a table and the best settings."""
    from pipeline import tuning_records, tuning_report

    paths = run.paths
    study = tuning_records.read(_search(run))
    text = run.settings.as_yaml("tuning")
    named = partial(tuning_records.best_yaml, study, str(paths.tuning), run.settings.training)
    best = named() if study.best else ""
    with published(paths.tuning_report, paths.tuning_table) as (page, table):
        page.write_text(tuning_report.render(study, paths.name, text, best), "utf-8")
        table.write_text(tuning_records.table_csv(study), "utf-8")
    # Last, and with an error where there is none: the page tells why.
    write_text(paths.best_settings, best or named())
    for line in tuning_report.summary(study):
        log.info("%s", line)
    log.info("Page: %s", paths.tuning_report)
    log.info("Best settings: %s", paths.best_settings)


def _search(run: Run, validations: int | None = None) -> Search:
    """The search that a run's settings describe.

    Args:
        run: The run.
        validations: Most validations of a training, if known.

    Raises:
        SettingsError: If a network of the space does not exist.
        InputError: If a shard is missing.
    """
    from pipeline import networks
    from pipeline.tuning_study import Search

    tuning, classes, paths = run.settings.tuning, run.nomenclature, run.paths
    parts = {name: getattr(run.settings, name) for name in search_space.SEARCHED}
    axes = search_space.axes(tuning, parts)
    for network in axes["training.network"].labels() if "training.network" in axes else ():
        networks.encoder_of(network, "")
    manifests = [shards.ShardReader(paths.shard(name)).manifest for name in run.labelled_sheets]
    kept = {
        name: part.model_dump(mode="json", exclude=getattr(part, "result_ignores", None))
        for name, part in parts.items()
    }
    weights = Path(run.settings.training.encoder_weights)
    return Search(
        folder=paths.tuning,
        trial_folder=paths.trial,
        settings=tuning,
        axes=axes,
        seed=run.settings.seed,
        validations=validations,
        fingerprint=config.fingerprint(
            {"seed": run.settings.seed, "nomenclature": classes.fingerprint},
            search_space.without(kept, axes),
            {"weights": _checksum(weights)} if weights.is_file() else {},
            {"shards": {m.sheet: _manifest_hash(m) for m in manifests}},
            {"space": tuning.model_dump(mode="json")["space"], "metric": tuning.metric},
        ),
    )


def map_sheet(run: Run, sheet: str) -> None:
    """Predict the class of every pixel of one sheet, as a COG on the orthophoto's grid."""
    from pipeline import checkpoint, mapping

    settings, classes, paths = run.settings.mapping, run.nomenclature, run.paths
    orthophoto = geotiff.read_orthophoto(run.sheet(sheet).orthophoto)
    grid = orthophoto.grid
    network, card = checkpoint.load(paths.best)
    card.check_fits(
        classes.names,
        len(orthophoto.bands),
        (grid.pixel_width, grid.pixel_height),
        f"orthophoto {orthophoto.path}",
    )
    target, confidence = paths.land_cover_map(sheet), paths.confidence(sheet)
    outputs = [target, *_sidecars(target)]
    if settings.confidence:
        outputs += [confidence, confidence.with_suffix(".qml")]
    else:  # of an earlier map: it would be shown beside this one
        confidence.unlink(missing_ok=True)
        confidence.with_suffix(".qml").unlink(missing_ok=True)
    tags = {NOMENCLATURE_TAG: classes.fingerprint, "TESELA_CHECKPOINT": _checksum(paths.best)}
    class_pixels = np.zeros(256, np.int64)
    # The COG driver copies a finished raster: the plain ones live as drafts beside the target.
    plain = [target.with_suffix(".plain.tif"), confidence.with_suffix(".plain.tif")]
    with (
        published(*outputs) as drafts,
        scratch(*plain) as (map_plain, confidence_plain),
        geotiff.RasterReader(orthophoto.path, orthophoto.bands) as source,
        progress.track(f"map of sheet {sheet}", grid.window.pixels // 10**6, "Mpx") as advance,
    ):
        pixels = 0

        def done(count: int) -> None:
            nonlocal pixels
            advance((pixels + count) // 10**6 - pixels // 10**6)
            pixels += count

        def read(window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
            return source.read(window), source.valid(window)

        bands = mapping.predicted_bands(
            network,
            read,
            grid,
            settings,
            mean=card.mean,
            std=card.std,
            classes=len(classes),
            precision=run.settings.training.precision,
            device=mapping.best_device(),
            advance=done,
        )
        with (
            geotiff.RasterWriter(map_plain, grid, "uint8", IGNORE, classes.colors, tags) as raster,
            geotiff.RasterWriter(confidence_plain, grid, "uint8", IGNORE, (), tags) as sureness,
        ):
            for band in bands:
                raster.write(band.window, band.classes)
                sureness.write(band.window, band.confidence)
                class_pixels += id_counts(band.classes)
        geotiff.write_cog(map_plain, drafts[0], "mode")
        _write_sidecars(drafts[1:3], classes, class_pixels[: len(classes)].tolist())
        if settings.confidence:
            geotiff.write_cog(confidence_plain, drafts[3], "average")
            drafts[4].write_text(styles.confidence_qml(), "utf-8")


def confusion(run: Run, sheet: str, threads: int = 1) -> None:
    """Count reference against map on the sheet's test ground."""
    classes, paths = run.nomenclature, run.paths
    grid = geotiff.read_grid(paths.label_raster(sheet))
    parts = tiling.read_ground(paths.ground, classes, sheet)
    ground = [part.window for part in parts if part.split == "test"]
    total = ConfusionMatrix.empty(classes.names)
    with (
        _label_blocks(paths.label_raster(sheet), grid, classes) as reference,
        _class_raster(paths.land_cover_map(sheet), grid, classes) as mapped,
    ):
        # Whole blocks of both: each is decoded once, also where ground ends inside of one.
        height = math.lcm(geotiff.BLOCK, mapped.block_height)
        width = math.lcm(geotiff.BLOCK, mapped.block_width)

        def counted(window: Window) -> ConfusionMatrix:
            true, said = reference.read(window), mapped.read_band(window)
            matrix = ConfusionMatrix.empty(classes.names)
            for part in ground:
                inside = part.intersection(window)
                if inside is not None:
                    pixels = inside.slices(window)
                    matrix += ConfusionMatrix.of(classes.names, true[pixels], said[pixels])
            return matrix

        windows = block_windows(grid.window, ground, height, width)
        for _, matrix in ordered(counted, windows, threads):
            total += matrix
    write_text(paths.confusion(sheet), total.as_json())
    if total.pixels:
        accuracy = 100 * total.scores().overall_accuracy
        log.info("sheet %s: accuracy %.1f %% of %d pixels", sheet, accuracy, total.pixels)
    else:
        log.info("sheet %s: no test ground", sheet)


def report(run: Run) -> None:
    """Put matrices, curves, maps and data together in one page."""
    from pipeline import evidence, figures, reporting

    paths = run.paths
    blocks = run.settings.tiling.split == "blocks"
    text = run.settings.as_yaml()
    data = evidence.report_data(paths, run.sheets, run.nomenclature, text, blocks)
    matrix = data.matrix or ConfusionMatrix.empty(run.nomenclature.names)
    scores = matrix.scores()
    lines = [
        *reporting.summary(data, matrix, scores),
        f"Report: {paths.report}",
        f"Maps: {paths.land_cover_map('*')}",
    ]
    outputs = (paths.report, paths.scores, paths.matrix, paths.matrix_picture, paths.summary)
    with published(*outputs) as (page, numbers, table, picture, brief):
        page.write_text(reporting.render_report(data), "utf-8")
        numbers.write_text(matrix.as_json(), "utf-8")
        table.write_text(matrix.as_csv(), "utf-8")
        picture.write_bytes(figures.confusion_picture(matrix))
        brief.write_text("\n".join(lines) + "\n", "utf-8")
    for line in lines:
        log.info("%s", line)


def _values(run: Run, name: str, base: SioseBase) -> ValuesIndex | None:
    """The base's values, indexed: here where it was not done, or the base has changed since."""
    from pipeline import siose_values

    path = run.paths.values_index(name)
    index = siose_values.open_index(path, base)
    if index is None and base.table is not None:
        index_values(run, name)
        index = siose_values.open_index(path, base)
    return index


@dataclass(frozen=True)
class _SheetTiles:
    """A sheet that is being counted for the plan."""

    name: str
    candidates: Sequence[tuple[sections.Split, Window]]
    raster: BlockReader
    counter: TileCounter


def _class_raster(path: Path, grid: PixelGrid, classes: Nomenclature) -> geotiff.RasterReader:
    """Open a class raster of this run, and check that it is one.

    Raises:
        InputError: If it is missing, has other pixels, or was made with another nomenclature.
    """
    reader = geotiff.RasterReader(path)
    try:
        if not reader.grid.same_pixels(grid):
            raise InputError(
                f"{path}: has other pixels than the orthophoto.",
                [f"raster: {reader.grid}", f"orthophoto: {grid}"],
                "It is of another run or of an older orthophoto; remove it and run its rule again.",
            )
        _check_nomenclature(reader.tags.get(NOMENCLATURE_TAG, ""), path, classes)
    except InputError:
        reader.close()
        raise
    return reader


def _label_blocks(path: Path, grid: PixelGrid, classes: Nomenclature) -> BlockReader:
    """Open a label raster of this run to read it in whole blocks.

    Raises:
        InputError: As :func:`_class_raster`.
    """
    _class_raster(path, grid, classes).close()
    return BlockReader(path)


def _check_nomenclature(made_with: str, path: Path, classes: Nomenclature) -> None:
    if made_with != classes.fingerprint:
        raise InputError(
            f"{path}: was made with another nomenclature ({made_with or 'none'}, now "
            f"{classes.fingerprint}).",
            remedy="Run its rule again, or choose another `run` folder.",
        )


def _foreign_ground(
    name: str, grids: Mapping[str, PixelGrid], ground: Iterable[tiling.Ground]
) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Split and bounds, in the sheet's CRS, of other sheets' ground that may overlap it."""
    mine = grids[name]
    left, bottom, right, top = mine.bounds
    found = []
    near: dict[str, bool] = {}
    for part in ground:
        if part.sheet == name:
            continue
        other = grids[part.sheet]
        if part.sheet not in near:
            bounds = geotiff.bounds_in(other, mine.crs)
            near[part.sheet] = (
                bounds[0] < right and left < bounds[2] and bounds[1] < top and bottom < bounds[3]
            )
        if near[part.sheet]:
            found.append((part.split, geotiff.window_bounds_in(other, part.window, mine.crs)))
    return found


def _checksum(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _manifest_hash(manifest: shards.Manifest) -> str:
    return hashlib.blake2b(manifest.as_json().encode(), digest_size=16).hexdigest()


def _sidecars(raster: Path) -> tuple[Path, Path]:
    """Names of a class raster's side files: GDAL's and QGIS's."""
    return raster.with_name(f"{raster.name}.aux.xml"), raster.with_suffix(".qml")


def _write_sidecars(drafts: Sequence[Path], classes: Nomenclature, pixels: Sequence[int]) -> None:
    drafts[0].write_text(styles.class_pam(classes.names, classes.colors, pixels), "utf-8")
    drafts[1].write_text(styles.class_qml(classes.names, classes.colors), "utf-8")
