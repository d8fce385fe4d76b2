"""From shards to checkpoints: one training, or the trials of a search."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import config, search_space, shards, tiling
from pipeline.class_rasters import (
    check_nomenclature,
    checksum,
)
from pipeline.config import Settings
from pipeline.publication import published, write_text
from pipeline.run import Run

if TYPE_CHECKING:
    from pipeline.following import Follower
    from pipeline.training import FitSummary
    from pipeline.tuning_study import Search


log = logging.getLogger(__name__)


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
        check_nomenclature(reader.manifest.nomenclature, reader.folder, classes)
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
            {"weights": checksum(weights)} if weights.is_file() else {},
            {"shards": {m.sheet: _manifest_hash(m) for m in manifests}},
            {"space": tuning.model_dump(mode="json")["space"], "metric": tuning.metric},
        ),
    )


def _manifest_hash(manifest: shards.Manifest) -> str:
    return hashlib.blake2b(manifest.as_json().encode(), digest_size=16).hexdigest()
