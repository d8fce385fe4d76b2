"""A network as an ONNX graph of one image size, whatever the network is made of.

torch's exporter knows no unpooling, no pooling to sizes that do not divide, and no interpolation
with antialiasing; each is written as operations that it knows and that give the same numbers.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.onnx.errors import OnnxExporterError
from torch.overrides import TorchFunctionMode

from pipeline.errors import SettingsError
from pipeline.networks.patches import PatchConvolution

OPSET = 17
"""Version of the operators; the newest that ONNX Runtime 1.17 reads in a file of IR 8."""

INPUT, OUTPUT = "images", "classes"
"""Names of the graph's input and output."""

Masks = tuple[Tensor, ...]
"""Where each of the four pixels of 2 x 2 was the first maximum, row by row."""


def graph_of(
    network: nn.Module,
    images: tuple[int, int, int, int],
    *,
    probabilities: bool = False,
    any_batch: bool = True,
    opset: int = OPSET,
) -> bytes:
    """Write a network as an ONNX graph.

    The graph computes in float32, and is the same each time for the same weights.

    Args:
        network: Images to logits, on any device; it stays as it is.
        images: Shape ``(N, bands, rows, cols)`` that the graph is for.
        probabilities: Whether a softmax over the classes ends the graph.
        any_batch: Whether N may differ from that of ``images``.
        opset: Version of the operators.

    Returns:
        The ONNX model: ``images`` ``(N, bands, rows, cols)`` to ``classes``
        ``(N, classes, rows, cols)``.

    Raises:
        SettingsError: If the onnx package is missing, or the network has an operation that this
            version of the operators lacks.
    """
    try:
        import onnx  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise missing("onnx", "onnx") from error
    # A copy: the exporter sees plain memory order, and the caller's network stays in its own.
    plain = copy.deepcopy(network).to("cpu", torch.float32)
    plain = plain.to(memory_format=torch.contiguous_format)
    graph = _Graph(plain, probabilities).eval()
    example = torch.zeros(images)
    with torch.no_grad():
        graph(example)  # once as it is: matrices are made here, and are constants in the graph
    written = io.BytesIO()
    try:
        with torch.no_grad(), _quiet():
            torch.onnx.export(
                graph,
                (example,),
                cast(Any, written),  # takes what can be written into, whatever its hint says
                dynamo=False,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "N"}, OUTPUT: {0: "N"}} if any_batch else None,
            )
    except (OnnxExporterError, RuntimeError, TypeError) as error:
        raise SettingsError(
            f"This network cannot be written as ONNX of opset {opset}.",
            [str(error).splitlines()[0]],
            "Another encoder may do, or mapping.backend: torch, which runs every network.",
        ) from error
    return written.getvalue()


def missing(package: str, extra: str) -> SettingsError:
    """The error of a package that only an extra of Tesela brings."""
    return SettingsError(
        f"The package {package} is not installed.",
        remedy=f"Install it: pip install 'tesela[{extra}]', or with conda as environment.yml says.",
    )


class _Graph(nn.Module):
    def __init__(self, network: nn.Module, probabilities: bool) -> None:
        super().__init__()
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, PatchConvolution):
                    setattr(parent, name, _Patches(child))
        self.network = network
        self.probabilities = probabilities
        self.equivalents = Equivalents()

    def forward(self, images: Tensor) -> Tensor:
        with self.equivalents:
            logits: Tensor = self.network(images)
        return logits.softmax(dim=1) if self.probabilities else logits


class _Patches(nn.Module):
    """A convolution of patches as one of single pixels, which have the patch in their channels.

    OpenVINO's bf16 kernels get the one wrong that torch's get wrong, and this one right.
    """

    def __init__(self, layer: PatchConvolution) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        layer = self.layer
        side = layer.kernel_size[0]
        plain = (side, side) == layer.kernel_size == layer.stride and layer.groups == 1
        if not plain or layer.padding not in (0, (0, 0)):
            return cast(Tensor, layer(images))
        height, width = (length // side * side for length in _size(images))
        folded = F.pixel_unshuffle(images[..., :height, :width], side)
        return F.conv2d(folded, layer.weight.flatten(1)[..., None, None], layer.bias)


class Equivalents(TorchFunctionMode):
    """While it is entered, operations that ONNX lacks are computed by operations that it has.

    The same numbers but for rounding. What 2 x 2 max-pooling tells of its maxima is four masks
    instead of positions; the unpooling here is all that understands them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._matrices: dict[tuple[str, int, int], Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever torch's function returns
        """Compute one of torch's functions, or what stands for it."""
        kwargs = kwargs or {}
        if func is F.max_pool2d_with_indices and _by_twos(*args[1:], **kwargs):
            return _pooled(args[0])
        if func is F.max_unpool2d and isinstance(args[1], tuple):
            return _unpooled(args[0], args[1])
        if func is F.adaptive_avg_pool2d:
            return self._adaptive(*args, **kwargs)
        if func is F.interpolate:
            return self._interpolated(*args, **kwargs)
        return func(*args, **kwargs)

    def _adaptive(self, features: Tensor, output_size: Any) -> Tensor:  # noqa: ANN401
        rows, cols = output_size if isinstance(output_size, Sequence) else [output_size] * 2
        height, width = _size(features)
        size = (int(rows or height), int(cols or width))
        if height % size[0] == 0 and width % size[1] == 0:
            return F.adaptive_avg_pool2d(features, size)
        return self._separably("mean", F.adaptive_avg_pool2d, features, size)

    def _interpolated(self, features: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        names = ("size", "scale_factor", "mode", "align_corners", "recompute", "antialias")
        given = dict(zip(names, args, strict=False)) | kwargs
        size, mode = given.get("size"), given.get("mode", "nearest")
        if size is not None and features.ndim == 4:
            if mode == "area":
                return self._adaptive(features, size)
            if given.get("antialias"):
                corners = given.get("align_corners")

                def along(lines: Tensor, to: tuple[int, int]) -> Tensor:
                    return F.interpolate(
                        lines, size=to, mode=mode, align_corners=corners, antialias=True
                    )

                rows, cols = size if isinstance(size, Sequence) else [size] * 2
                name = f"{mode} {corners}"
                return self._separably(name, along, features, (int(rows), int(cols)))
        return F.interpolate(features, *args, **kwargs)

    def _separably(
        self,
        name: str,
        resize: Callable[[Tensor, tuple[int, int]], Tensor],
        features: Tensor,
        size: tuple[int, int],
    ) -> Tensor:
        """Resize rows, then columns, by the matrices of what the operation does to unit vectors."""
        height, width = _size(features)
        rows, cols = (
            self._matrix(name, resize, inside, outside)
            for inside, outside in ((height, size[0]), (width, size[1]))
        )
        return rows @ features @ cols.T

    def _matrix(
        self,
        name: str,
        resize: Callable[[Tensor, tuple[int, int]], Tensor],
        inside: int,
        outside: int,
    ) -> Tensor:
        key = (name, inside, outside)
        if key not in self._matrices:
            # One image whose columns are the unit vectors, not many images of one column: torch
            # 2.14 resizes the latter wrongly with antialiasing.
            units = torch.eye(inside).reshape(1, 1, inside, inside)
            self._matrices[key] = resize(units, (outside, inside)).reshape(outside, inside)
        return self._matrices[key]


def _size(features: Tensor) -> tuple[int, int]:
    # Plain numbers, also in a trace: the graph is of one size.
    return int(features.shape[-2]), int(features.shape[-1])


def _by_twos(
    kernel_size: Any,  # noqa: ANN401 - a number or several, as torch takes them
    stride: Any = None,  # noqa: ANN401
    padding: Any = 0,  # noqa: ANN401
    dilation: Any = 1,  # noqa: ANN401
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> bool:
    asked = (kernel_size, stride or kernel_size, padding, dilation)
    plain = (value if isinstance(value, int) else set(value) for value in asked)
    wanted = ((2, {2}), (2, {2}), (0, {0}), (1, {1}))
    return not ceil_mode and all(value in pair for value, pair in zip(plain, wanted, strict=True))


def _pooled(features: Tensor) -> tuple[Tensor, Masks]:
    height, width = (length // 2 * 2 for length in _size(features))
    parts = [features[..., row:height:2, col:width:2] for row in (0, 1) for col in (0, 1)]
    best = F.max_pool2d(features, 2)
    # Of equal ones torch takes the first.
    masks, free = [], None
    for part in parts[:-1]:
        here = part == best
        masks.append(here if free is None else here & free)
        free = ~here if free is None else free & ~here
    return best, (*masks, cast(Tensor, free))


def _unpooled(features: Tensor, masks: Masks) -> Tensor:
    nothing = torch.zeros((), dtype=features.dtype, device=features.device)
    spread = torch.stack([torch.where(mask, features, nothing) for mask in masks], dim=2)
    return F.pixel_shuffle(spread.flatten(1, 2), 2)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells users of torch what users of Tesela cannot change."""
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(before)
