"""Weights that an encoder starts from: published ones already on this machine, or a file's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import TrainingError

IMAGENET = "imagenet"
"""Value of ``training.encoder_weights`` for the published ImageNet weights of the encoder."""

# segmentation-models-pytorch's own entry for vgg16_bn, repeated so that SegNet need not import it.
_VGG16 = ("smp-hub/vgg16_bn.imagenet", "2c186d02fb519e93219a99a1c2af6295aef0bf0d")

# A state dict of a whole network holds its encoder under one of these; the longest comes first.
_PREFIXES = ("network.encoder.", "encoder.", "module.", "")


def load_vgg16_weights(encoder: nn.Module, weights: str) -> None:
    """Give SegNet's encoder published or a file's weights.

    Args:
        encoder: :class:`pipeline.networks.segnet.Vgg16Encoder`.
        weights: ``imagenet`` or a file.

    Raises:
        TrainingError: As in :func:`cached_weights` and :func:`load_encoder_weights`.
    """
    path = cached_weights("vgg16_bn", *_VGG16) if weights == IMAGENET else Path(weights)
    load_encoder_weights(encoder, read_weights(path), f"vgg16_bn from {path}")


def cached_weights(encoder: str, repository: str, revision: str | None = None) -> Path:
    """Find published weights in the local cache; nothing is ever downloaded.

    Args:
        encoder: Its name, for the message.
        repository: Repository of the Hugging Face hub.
        revision: Commit of it; the newest in the cache where left out.

    Raises:
        TrainingError: If they are not on this machine.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for name in ("model.safetensors", "pytorch_model.bin"):
        try:
            found = hf_hub_download(repository, name, revision=revision, local_files_only=True)
        except LocalEntryNotFoundError:
            continue
        return Path(found)
    raise TrainingError(
        f"training.encoder_weights: the ImageNet weights of {encoder} are not on this machine.",
        [f"looked for: {repository}{f' at {revision}' if revision else ''} in the hub's cache"],
        "Fetch them where there is internet (huggingface-cli download "
        f"{repository}{f' --revision {revision}' if revision else ''}), copy the cache folder here "
        "and name it in HF_HOME; or name a state dict file; or train from scratch with "
        "`encoder_weights: none`.",
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running any code that the file may carry.

    Args:
        path: .safetensors, or what ``torch.save`` wrote of tensors alone (.pth, .pt, .bin).

    Returns:
        Tensors on the CPU by name.

    Raises:
        TrainingError: If there is no such file, or it holds anything but tensors by name.
    """
    if not path.is_file():
        raise TrainingError(
            f"training.encoder_weights: there is no file {path}.",
            remedy="Write none, imagenet, or the path of a .safetensors, .pth or .pt file.",
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's reader of tensors alone meets rubbish with whatever its byte codes lead to:
        # UnpicklingError, IndexError, KeyError, struct.error...
        raise TrainingError(
            f"training.encoder_weights: {path} is no readable state dict.",
            [f"{type(error).__name__}: {error}".splitlines()[0]],
            "The file is truncated, of another kind, or holds more than tensors. Save it again "
            "with safetensors.torch.save_file(encoder.state_dict(), ...).",
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise TrainingError(
            f"training.encoder_weights: {path} holds no state dict (tensors by name)."
        )
    return {str(name): value for name, value in content.items()}


def load_encoder_weights(encoder: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights into an encoder, for any number of bands.

    Weights of RGB images serve other bands by repeating red, green, blue, red... scaled so that
    the first layer's response keeps its size; a single band gets their sum. Layers that only a
    classifier has are left out.

    Args:
        encoder: The encoder.
        weights: Tensors by name: of the encoder, or of a whole network that has it.
        source: Whose weights they are, for messages.

    Raises:
        TrainingError: With every layer that is missing or of another shape.
    """
    wanted = encoder.state_dict()
    given = _of_encoder(weights, set(wanted))
    found: dict[str, Tensor] = {}
    wrong = []
    adapted = False
    for name, tensor in wanted.items():
        if name not in given:
            if name.endswith("num_batches_tracked"):  # weights from before torch 0.4.1 lack it
                found[name] = tensor
            else:
                wrong.append(f"{name}: is missing")
            continue
        value = given[name]
        if not adapted and _only_bands_differ(value, tensor):
            value, adapted = for_bands(value, tensor.shape[1]), True
        if value.shape != tensor.shape:
            wrong.append(f"{name}: is {tuple(value.shape)}, needs {tuple(tensor.shape)}")
        found[name] = value
    if wrong:
        raise TrainingError(
            f"training.encoder_weights: {source} does not fit; {len(wrong)} of {len(wanted)} "
            "layers differ.",
            wrong,
            "Name the encoder that the weights were made for in `training.encoder`.",
        )
    encoder.load_state_dict(found)


def for_bands(kernel: Tensor, bands: int) -> Tensor:
    """Make the kernel of a first convolution fit another number of bands.

    Args:
        kernel: Shape ``(features, given bands, rows, columns)``.
        bands: Bands wanted.

    Returns:
        Shape ``(features, bands, rows, columns)``; equal bands give the same response as before.

    Source:
        The rule of segmentation-models-pytorch and timm.
    """
    given = kernel.shape[1]
    if bands == 1:
        return kernel.sum(dim=1, keepdim=True)
    return kernel[:, [band % given for band in range(bands)]] * (given / bands)


def _of_encoder(weights: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """The entries below the prefix under which most of the wanted layers are."""
    best: dict[str, Tensor] = {}
    most = -1
    for prefix in _PREFIXES:
        part = {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        }
        if len(part.keys() & wanted) > most:
            best, most = part, len(part.keys() & wanted)
    return best


def _only_bands_differ(given: Tensor, wanted: Tensor) -> bool:
    return (
        given.ndim == wanted.ndim == 4
        and given.shape[1] == 3
        and given.shape[1] != wanted.shape[1]
        and given.shape[:1] + given.shape[2:] == wanted.shape[:1] + wanted.shape[2:]
    )
