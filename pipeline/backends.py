"""What computes a network: torch, torch.compile, OpenVINO or ONNX Runtime, behind one call."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import SettingsError
from pipeline.networks.folding import shorten_weights
from pipeline.networks.precision import Precision, autocast, resolve_precision
from pipeline.onnx_graphs import INPUT, OUTPUT, graph_of, missing

BACKENDS = ("torch", "compile", "openvino", "onnxruntime")

Run = Callable[[Tensor], Tensor]
"""Normalised images ``(N, bands, H, W)`` to logits ``(N, classes, H, W)``."""

_EXTRAS = {"openvino": "openvino", "onnxruntime": "onnx"}
_SHORT = {"bf16": torch.bfloat16, "fp16": torch.float16}


def backend_precision(backend: str, precision: str, device: str | torch.device) -> Precision:
    """Decide in which precision a back end computes, and whether it can be had at all.

    Args:
        backend: One of :data:`BACKENDS`.
        precision: ``auto``, ``float32``, ``bf16`` or ``fp16``, as in ``mapping.precision``.
            ``auto`` is float32 for ONNX Runtime, which has no bf16 on processors.
        device: Where it would run.

    Raises:
        SettingsError: If there is no such back end, its package or a compiler is missing, or it
            cannot compute in this precision or on this device.
    """
    if backend not in BACKENDS:
        raise SettingsError(
            f"mapping.backend: there is no back end {backend!r}.",
            remedy=f"Back ends: {', '.join(BACKENDS)}.",
        )
    if backend in _EXTRAS:
        if torch.device(device).type != "cpu":
            raise SettingsError(
                f"mapping.backend: {backend} computes on the processor here, and the device is "
                f"{device}.",
                remedy="Write mapping.backend: torch or compile for a GPU, or hide the GPU from "
                "the job (CUDA_VISIBLE_DEVICES=).",
            )
        for package in dict.fromkeys((backend, "onnx")):  # both read the network as ONNX
            if importlib.util.find_spec(package) is None:
                raise missing(package, _EXTRAS[backend])
    if backend == "compile" and torch.device(device).type == "cpu" and not _has_compiler():
        raise SettingsError(
            "mapping.backend: compile needs a C++ compiler, and this machine has none.",
            remedy="Install g++ (apt-get install g++, or gxx of conda-forge), or write "
            "mapping.backend: torch.",
        )
    if backend == "onnxruntime":
        if precision not in ("auto", "float32"):
            raise SettingsError(
                f"mapping.precision: {precision} is not for onnxruntime, which computes in "
                "float32.",
                remedy="Write mapping.precision: auto or float32, or another mapping.backend.",
            )
        return "float32"
    return resolve_precision(precision, device)


def runner(
    backend: str,
    network: nn.Module,
    *,
    precision: Precision,
    device: str | torch.device,
) -> Run:
    """Make what computes a network's logits.

    Args:
        backend: One of :data:`BACKENDS`.
        network: Images ``(N, bands, H, W)`` to logits; it is not changed, and may be forgotten.
        precision: As :func:`backend_precision` decided.
        device: Where the images will be.

    Returns:
        Normalised float32 images on the device to logits ``(N, classes, H, W)`` of any floating
        type there. Its first call for a shape may take long (compiling, converting); N may differ
        between calls. Calls run one at a time, on as many threads as torch has.

    Raises:
        SettingsError: If the back end cannot be had, compute in this precision or on this device
            (told here), or convert the network (told by the first call).
    """
    backend_precision(backend, precision, device)
    device = torch.device(device)
    # Weights copied in inference mode could not be traced or compiled.
    with torch.inference_mode(False):
        if backend == "openvino":
            return _OpenVino(network, precision)
        if backend == "onnxruntime":
            return _OnnxRuntime(network)
        return _Torch(network, precision, device, compiled=backend == "compile")


class _Torch:
    """torch itself: channels-last, weights in the precision once for all."""

    def __init__(
        self, network: nn.Module, precision: Precision, device: torch.device, *, compiled: bool
    ) -> None:
        self.precision, self.device = precision, device
        own = copy.deepcopy(network).to(device).eval().requires_grad_(False)
        if precision != "float32":
            shorten_weights(own, _SHORT[precision])
        self.run: Run = own.to(memory_format=torch.channels_last)
        if compiled:
            # Frozen: weights are laid out for the kernels once, and normalisations folded.
            self.run = torch.compile(own, dynamic=False, options={"freezing": True})

    # Only here and not around a generator: there it would hold for the caller's code as well.
    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        with autocast(self.precision, self.device):
            return self.run(images.contiguous(memory_format=torch.channels_last))


class _OnnxRuntime:
    """ONNX Runtime on the processor, float32; one graph a size of image."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.sessions: dict[tuple[int, ...], Any] = {}

    def __call__(self, images: Tensor) -> Tensor:
        key = tuple(images.shape[1:])
        if key not in self.sessions:
            self.sessions[key] = _session(_graph(self.network, images))
        logits = self.sessions[key].run(None, {INPUT: images.contiguous().numpy()})[0]
        return torch.from_numpy(logits)


class _OpenVino:
    """OpenVINO on the processor; one compiled model a shape, which makes it plan its memory."""

    def __init__(self, network: nn.Module, precision: Precision) -> None:
        self.network = network
        self.precision = {"float32": "f32", "bf16": "bf16"}[precision]
        self.models: dict[tuple[int, ...], Any] = {}

    def __call__(self, images: Tensor) -> Tensor:
        key = tuple(images.shape)
        if key not in self.models:
            self.models[key] = self._compiled(images)
        # A copy: the next call writes into the same memory.
        logits = self.models[key]({INPUT: images.contiguous().numpy()})[OUTPUT].copy()
        return torch.from_numpy(logits)

    def _compiled(self, images: Tensor) -> Any:  # noqa: ANN401 - OpenVINO has no types
        import openvino

        model = openvino.Core().read_model(_graph(self.network, images, any_batch=False), b"")
        options = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            # Pinned, the threads of two jobs on one machine would all be on its first cores.
            "ENABLE_CPU_PINNING": False,
        }
        return openvino.Core().compile_model(model, "CPU", options)


def _graph(network: nn.Module, images: Tensor, *, any_batch: bool = True) -> bytes:
    count, bands, rows, cols = images.shape
    with torch.inference_mode(False):
        return graph_of(network, (count, bands, rows, cols), any_batch=any_batch)


def _session(graph: bytes) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # its warnings are about the graph, which users cannot change
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _has_compiler() -> bool:
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([named] if named else ["g++", "clang++", "c++"]))
