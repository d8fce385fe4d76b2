"""What ``fetch-weights`` does: ImageNet weights into the folder that jobs read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from pipeline import networks
from pipeline.errors import SettingsError, TrainingError
from pipeline.networks import IMAGENET, weights_store
from pipeline.networks.weights import load_encoder_weights
from pipeline.networks.weights_sources import Source, UnreachableError, new_encoder, sources_of
from pipeline.publication import published
from pipeline.sections import TrainingSettings, TuningSettings

# VGG's fully connected layers, which FCN makes convolutions of.
_KEPT = ("classifier.0.", "classifier.3.")


@dataclass(frozen=True)
class _Given:
    """Weights that a source gave, in the names of the encoder's layers."""

    source: Source
    revision: str
    state: Mapping[str, Tensor]


def encoders_named(training: TrainingSettings, tuning: TuningSettings) -> list[str]:
    """The encoders whose ImageNet weights a run may need, those that a search tries included.

    Raises:
        SettingsError: If no setting asks for ImageNet weights, or a network does not exist.
    """

    def tried(key: str, one: str) -> list[str]:
        given = tuning.space.get(f"training.{key}", [one])
        return [str(value) for value in given] if isinstance(given, list) else [one]

    if IMAGENET not in tried("encoder_weights", training.encoder_weights):
        raise SettingsError(
            f"training.encoder_weights: is {training.encoder_weights}; there is nothing to fetch.",
            remedy=f"Write `encoder_weights: {IMAGENET}`, or name encoders with --encoder.",
        )
    return encoders_of(tried("network", training.network), tried("encoder", training.encoder))


def encoders_of(architectures: Sequence[str], encoders: Sequence[str]) -> list[str]:
    """The encoders of some networks: their own, or the chosen ones; each once.

    Raises:
        SettingsError: If a network does not exist, or none of them has published weights.
    """
    every = [(name, networks.encoder_of(name, one)) for name in architectures for one in encoders]
    found = [encoder for name, encoder in every if networks.NETWORKS[name].pretrained]
    if not found:
        raise SettingsError(
            f"training.network: {', '.join(architectures)} starts from no published weights.",
            remedy="Write `encoder_weights: none`, or choose another network.",
        )
    return list(dict.fromkeys(found))


def fetch(encoders: Sequence[str], folder: Path, tell: Callable[[str], None]) -> None:
    """Store the ImageNet weights of encoders; what is there and whole stays as it is.

    Several of these may run at once: files appear whole or not at all.

    Args:
        encoders: Names, as in ``training.encoder``.
        folder: ``training.weights_dir``; made if it is not there.
        tell: Takes one line of text an encoder.

    Raises:
        TrainingError: With all encoders that no source gave, after the others are stored.
        OutputError: If the folder cannot be written.
    """
    folder = weights_store.expanded(folder)
    failed: list[str] = []
    unreachable: set[str] = set()
    for encoder in encoders:
        path = weights_store.found(folder, encoder)
        if path is not None and not weights_store.damage(path):
            own = "" if weights_store.record_of(path).is_file() else ", your own file"
            tell(f"{encoder}: is there ({path}{own})")
            continue
        try:
            given, reasons = _first_that_works(encoder, unreachable)
        except SettingsError as error:  # no such encoder, or nothing published
            given, reasons = None, [f"{encoder}: {error.what}"]
        if given is None:
            failed += reasons
            continue
        for reason in reasons:
            tell(reason)
        path = _store(given, folder, encoder)
        tell(f"{encoder}: from {given.source.name}, {path.stat().st_size / 1e6:.1f} MB ({path})")
    if failed:
        raise TrainingError(
            "Some ImageNet weights could not be fetched.",
            failed,
            "Try again where there is internet (HF_ENDPOINT names a mirror of the hub), or put a "
            f"state dict of your own into {folder}, named as the encoder "
            "(resnet18.safetensors, .pth or .pt).",
        )


def _first_that_works(encoder: str, unreachable: set[str]) -> tuple[_Given | None, list[str]]:
    """Take an encoder's weights from the first source that has them; tell why others did not."""
    network = new_encoder(encoder)
    reasons = []
    for source in sources_of(encoder, network):
        if source.site in unreachable:
            reasons.append(f"{encoder}: {source.name}: cannot be reached, as above")
            continue
        try:
            with tempfile.TemporaryDirectory() as scratch:
                state, revision = source.load(Path(scratch))
                load_encoder_weights(network, state, source.name)
        except UnreachableError as error:
            unreachable.add(source.site)
            reasons.append(f"{encoder}: {source.name}: {error}")
        except TrainingError as error:
            reasons.append(f"{encoder}: {source.name}: {'; '.join([error.what, *error.items[:3]])}")
        except (OSError, RuntimeError, ValueError) as error:
            reasons.append(f"{encoder}: {source.name}: {f'{error}'.splitlines()[0]}")
        else:
            kept = {name: value for name, value in state.items() if name.startswith(_KEPT)}
            return _Given(source, revision, {**network.state_dict(), **kept}), reasons
    return None, reasons


def _store(given: _Given, folder: Path, encoder: str) -> Path:
    """Publish weights and the JSON that tells of them."""
    path = folder / f"{encoder}{weights_store.SUFFIXES[0]}"
    source = given.source
    told = {
        "encoder": encoder,
        "source": source.name,
        "revision": given.revision,
        "license": source.license,
    }
    state = {name: tensor.contiguous() for name, tensor in given.state.items()}
    # The JSON comes first: weights without one would pass for the user's own.
    with published(path, weights_store.record_of(path)) as (draft, record):
        # Not save_file, whose files only their owner may read. One key of metadata, since several
        # come in any order, and two fetches at once must write the same bytes.
        draft.write_bytes(save(state, {"origin": json.dumps(told)}))
        origin = weights_store.Origin(
            **told,
            sha256=weights_store.sha256_of(draft),
            bytes=draft.stat().st_size,
        )
        record.write_text(origin.as_json(), encoding="utf-8")
    return path
