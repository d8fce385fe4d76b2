"""Weights that an encoder starts from: state dicts read from files, and made to fit its bands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import TrainingError

# A state dict of a whole network holds its encoder under one of these; the longest comes first.
_PREFIXES = ("network.encoder.", "encoder.", "module.", "")


def start_encoder(encoder: nn.Module, name: str, path: Path) -> None:
    """Give an encoder a file's weights.

    Args:
        encoder: The encoder of any network.
        name: Its name, for messages.
        path: As in :func:`read_weights`.

    Raises:
        TrainingError: As in :func:`read_weights` and :func:`load_encoder_weights`.
    """
    load_encoder_weights(encoder, read_weights(path), f"{name} from {path}")


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

    Weights of RGB images serve other bands as in :func:`for_bands`. Layers that only a classifier
    has are left out. Names may be those of the encoder here, of a whole network that has it, or of
    timm's classifier.

    Args:
        encoder: The encoder.
        weights: Tensors by name: of the encoder, or of a whole network that has it.
        source: Whose weights they are, for messages.

    Raises:
        TrainingError: With every layer that is missing or of another shape.
    """
    wanted = encoder.state_dict()
    given = _of_encoder(weights, set(wanted))
    alike = {_alike(name): value for name, value in given.items()}
    found: dict[str, Tensor] = {}
    wrong = []
    for name, tensor in wanted.items():
        value = given.get(name, alike.get(_alike(name)))
        if value is None:
            if name.endswith("num_batches_tracked"):  # weights from before torch 0.4.1 lack it
                found[name] = tensor
            else:
                wrong.append(f"{name}: is missing")
            continue
        if _only_bands_differ(value, tensor):
            value = for_bands(value, tensor.shape[1])
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

    One band gets the sum of red, green and blue; more bands repeat them in turn (red, green, blue,
    red...), scaled by the share of bands, so that the response keeps its size.

    Args:
        kernel: Shape ``(features, given bands, rows, columns)``.
        bands: Bands wanted.

    Returns:
        Shape ``(features, bands, rows, columns)``. Of 1, 3 or 6 equal bands the response is what
        it was to grey; of other numbers, about that.

    Source:
        The rule of segmentation-models-pytorch and timm.
    """
    given = kernel.shape[1]
    if bands == 1:
        return kernel.sum(dim=1, keepdim=True)
    return kernel[:, [band % given for band in range(bands)]] * (given / bands)


def _of_encoder(weights: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """The entries below the prefix under which most of the wanted layers are."""
    alike = {_alike(name) for name in wanted}
    best: dict[str, Tensor] = {}
    most = -1
    for prefix in _PREFIXES:
        part = {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        }
        fitting = len({_alike(name) for name in part} & alike)
        if fitting > most:
            best, most = part, fitting
    return best


def _alike(name: str) -> str:
    # timm's features are called `model.stages_0.blocks.0...` where its classifiers, and so its
    # published files, have `stages.0.blocks.0...`.
    return name.removeprefix("model.").replace("_", ".")


def _only_bands_differ(given: Tensor, wanted: Tensor) -> bool:
    return (
        given.ndim == wanted.ndim == 4
        and given.shape[1] == 3
        and given.shape[1] != wanted.shape[1]
        and given.shape[:1] + given.shape[2:] == wanted.shape[:1] + wanted.shape[2:]
    )
