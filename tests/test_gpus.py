"""GPUs that a job was given and torch does not see."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from pipeline import devices, gpus, mapping

NAMES = ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus._tell_of_unseen.cache_clear()
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def old_driver() -> None:
    raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nMore.")


def test_gpus_that_torch_does_not_see_are_told_once_with_driver_and_cuda(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """By training and by mapping; GPU hours are paid for whoever computes."""
    driver = tmp_path / "version"
    driver.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC 2021\n"
        "GCC version:  gcc version 9.3.0\n",
        "utf-8",
    )
    monkeypatch.setattr(gpus, "_DRIVER", driver)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", old_driver)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert mapping.best_device() == torch.device("cpu")
    devices.launched(devices=1, nodes=1, precision="float32", deterministic=False)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    told = record.getMessage()
    assert "given GPUs (CUDA_VISIBLE_DEVICES=0,1), but torch sees none" in told
    assert "The NVIDIA driver on your system is too old (found version 11040). torch" in told
    assert "is built for CUDA 13.0; the NVIDIA driver is 470.57.02." in told


@pytest.mark.parametrize(
    ("environment", "given"),
    [
        ({}, ""),
        ({"CUDA_VISIBLE_DEVICES": "2"}, "CUDA_VISIBLE_DEVICES=2"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937"}, "CUDA_VISIBLE_DEVICES=GPU-8932f937"),
        ({"SLURM_GPUS_ON_NODE": "4"}, "SLURM_GPUS_ON_NODE=4"),
        ({"SLURM_GPUS_ON_NODE": "0"}, ""),
        ({"SLURM_JOB_GPUS": "0"}, "SLURM_JOB_GPUS=0"),  # number 0, not none
        # Turned off, by somebody or by SLURM for this step.
        ({"CUDA_VISIBLE_DEVICES": "", "SLURM_GPUS_ON_NODE": "4"}, ""),
        ({"CUDA_VISIBLE_DEVICES": "-1", "SLURM_JOB_GPUS": "0"}, ""),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ""),
    ],
)
def test_what_gives_a_process_gpus(environment: dict[str, str], given: str) -> None:
    assert gpus._given(environment) == given


@pytest.mark.parametrize(("there", "tell"), [(True, True), (False, False)])
def test_gpus_that_are_seen_are_not_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, there: bool, tell: bool
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert gpus.accelerator(tell=tell) == ("cuda" if there else "cpu")
    assert not caplog.records


def test_torch_says_why_where_there_is_no_driver(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def without() -> None:
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "1")
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path / "none")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "init", without)
    assert gpus.accelerator() == "cpu"
    assert "Torch not compiled with CUDA enabled. torch" in caplog.text
    assert "is built for no CUDA; this machine has no NVIDIA driver." in caplog.text
