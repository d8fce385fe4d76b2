"""Numeric precision: what this machine computes well, asked of the hardware, never assumed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

from pipeline.errors import SettingsError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bf16", "fp16"]


def resolve_precision(precision: str, device: str | torch.device) -> Precision:
    """Decide in which precision a network runs.

    Args:
        precision: ``auto``, ``float32``, ``bf16`` or ``fp16``, as in ``training.precision``.
            ``auto`` is bf16 where the device has instructions for it, else float32.
        device: ``cpu``, ``cuda``, ``cuda:1``...

    Raises:
        SettingsError: If the precision has no such name or the device cannot do it.
    """
    import torch

    kind = torch.device(device).type
    if precision == "float32":
        return "float32"
    if precision == "bf16":
        # Asked for by name it runs everywhere; without the instructions it is merely slow.
        return "bf16"
    if precision == "fp16":
        if kind == "cpu":
            raise SettingsError(
                "precision: fp16 is for GPUs; this machine computes on its processor.",
                remedy="Write auto, bf16 or float32.",
            )
        return "fp16"
    if precision == "auto":
        return "bf16" if _has_bf16(kind) else "float32"
    raise SettingsError(f"precision: {precision!r} is none of auto, float32, bf16, fp16.")


def autocast(precision: Precision, device: str | torch.device) -> AbstractContextManager[object]:
    """The context in which a network computes in this precision; weights stay float32."""
    import torch

    if precision == "float32":
        return nullcontext()
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(torch.device(device).type, dtype=kinds[precision])


def _has_bf16(kind: str) -> bool:
    import torch

    if kind == "cuda":
        # Emulated bf16 (before Ampere) is slower than float32.
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        flags = torch.cpu.get_capabilities()
        return bool(flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("bf16"))
    # torch before 2.10 answers under private names only.
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name)() for name in asked if hasattr(torch.cpu, name))
