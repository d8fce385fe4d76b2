"""GPUs: whether torch sees any, and a word where a job was given some and it sees none."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

_DRIVER = Path("/proc/driver/nvidia/version")
_NONE = ("", "-1", "NoDevFiles")  # of SLURM, for CUDA_VISIBLE_DEVICES of a job without GPUs

log = logging.getLogger(__name__)


def accelerator(*, tell: bool = True) -> Literal["cuda", "cpu"]:
    """What there is to compute on: GPUs where torch sees any, else the CPU.

    Args:
        tell: Whether to warn, once, of GPUs that the job was given and torch does not see.
    """
    if torch.cuda.is_available():
        return "cuda"
    if tell:
        _tell_of_unseen()
    return "cpu"


@functools.cache
def _tell_of_unseen() -> None:
    given = _given(os.environ)
    if not given:
        return
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    log.warning(
        "this job was given GPUs (%s), but torch sees none and computes on CPUs, which takes many "
        "times as long: %s. torch %s is built for %s; %s. Cancel the job unless you want that. "
        "Then install a torch that is built for a CUDA of that driver, or have the driver renewed; "
        "let a container see GPUs (`--nv`); or ask for none.",
        given, _reason(), torch.__version__, built, _driver(),
    )  # fmt: skip


def _given(environment: Mapping[str, str]) -> str:
    """By which variable a batch system, or a person, gives this process GPUs; empty if none does.

    ``CUDA_VISIBLE_DEVICES`` decides where it is set: a step may be denied the GPUs of its job.
    """
    names = ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")
    if environment.get(names[0]) in _NONE:
        return ""
    for name in names:
        value = environment.get(name, "")
        if value and not (name == "SLURM_GPUS_ON_NODE" and value == "0"):
            return f"{name}={value}"
    return ""


def _reason() -> str:
    """Why torch sees no GPU, in its own words."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:  # the latter of a build without CUDA
        return str(error).splitlines()[0].rstrip(". ")
    return "it does not say why"


def _driver() -> str:
    """Version of the machine's NVIDIA driver, in words."""
    try:
        text = _DRIVER.read_text("utf-8", "replace")
    except OSError:
        return "this machine has no NVIDIA driver"
    found = re.search(r"\s(\d+(?:\.\d+)+)\s", text)
    return f"the NVIDIA driver is {found[1] if found else 'of an unknown version'}"
