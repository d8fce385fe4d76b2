"""Training by two processes of this machine (gloo) against training by one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline import batch_statistics, devices
from pipeline.batch_statistics import RunningStatistics, SyncedBatchNorm
from pipeline.errors import SettingsError
from pipeline.sections import TrainingSettings
from tests import test_training as alone
from tests.test_training import WithEncoder, curves, write_shard

PROGRAM = """
import json, os, signal, sys
from pathlib import Path

import torch

torch.set_num_threads(1)
from pipeline import training
from pipeline.interruption import InterruptedTrainingError
from pipeline.sections import TrainingSettings
from tests import test_training as alone

shard, folder, changed, warned = sys.argv[1:]
name, _, method = warned.partition(" ")
if name:
    done = getattr(training._Run, method)

    def warned_too(self, *arguments):
        # Only one process gets the signal, as only the batch script does on a cluster.
        if self.state.step == (2 if method == "_step" else 8) and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.Signals[name])
        return done(self, *arguments)

    setattr(training._Run, method, warned_too)
training.ask_for_requeue = lambda further: f"rank {os.environ['RANK']}, further: {further}"
settings = TrainingSettings(**json.loads(changed))
try:
    done = alone.run(
        Path(shard), Path(folder), settings, {"same": 1}, alone.WithEncoder, alone.AERIAL
    )
except InterruptedTrainingError as error:
    print(*error.items, file=sys.stderr)
    sys.exit(error.exit_code)
print("writes" if done.first else "waits", done.steps)
"""

SETTINGS: dict[str, Any] = {
    "epochs": 3, "workers": 0, "precision": "float32", "learning_rate": 0.01, "batch_size": 2,
    "encoder_rate": 0.5, "gradient_clip": 1.0, "weight_decay": 0.1,
}  # fmt: skip


def two(
    shard: Path,
    folder: Path,
    settings: dict[str, Any],
    warned: str = "",
    srun: Mapping[str, str] | None = None,
) -> list[Any]:
    """Train by two processes, started as torchrun starts them, or srun in a step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    ranks = ("SLURM_PROCID", "SLURM_LOCALID") if srun else ("RANK", "LOCAL_RANK")
    shared |= srun or {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_RUN_ID": "test",
        "GROUP_RANK": "0",
    }
    command = [sys.executable, "-c", PROGRAM, str(shard), str(folder), json.dumps(settings), warned]
    running = [
        subprocess.Popen(
            command,
            env=shared | dict.fromkeys(ranks, str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [process.communicate(timeout=300) for process in running]
    return [
        (process.returncode, output.split("\n")[0] if not process.returncode else errors[-500:])
        for process, (output, errors) in zip(running, told, strict=True)
    ]


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("processes") / "a.lmdb")


def test_two_processes_train_as_one_with_twice_the_batch(shard: Path, tmp_path: Path) -> None:
    """With batch statistics, a frozen encoder, accumulated batches, an odd number of tiles.

    Not with AdamW: it divides by the gradients' size, which for a bias before batch normalisation
    is rounding alone.
    """
    settings = SETTINGS | {
        "optimizer": "SGD", "optimizer_options": {"momentum": 0.9},
        "accumulate": 2, "freeze_encoder": 1, "oversample": 0.9,
        "loss": {"cross_entropy": 1.0, "focal": 0.5},
    }  # fmt: skip
    changed = settings | {"batch_size": 4}
    one = alone.run(
        shard, tmp_path / "one", TrainingSettings(**changed), {"same": 1}, WithEncoder,
        alone.AERIAL,
    )  # fmt: skip
    outcome = two(shard, tmp_path / "two", settings)
    assert outcome == [(0, f"writes {one.steps}"), (0, f"waits {one.steps}")]
    theirs, mine = (load_file(tmp_path / name / "best.safetensors") for name in ("two", "one"))
    assert theirs.keys() == mine.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=2e-4, atol=2e-5, msg=name)
    for a, b in zip(curves(tmp_path / "one"), curves(tmp_path / "two"), strict=True):
        assert {k: float(v) for k, v in a.items()} == pytest.approx(
            {k: float(v) for k, v in b.items()}, rel=2e-3
        )


def test_a_warning_to_one_process_ends_all_and_they_go_on_to_the_same_bytes(
    shard: Path, tmp_path: Path
) -> None:
    """In a step or a validation; SIGTERM alone is not known to be of SLURM."""
    settings = SETTINGS | {"batch_size": 1}
    whole = two(shard, tmp_path / "whole", settings)
    for name, method, further in (("SIGTERM", "_step", False), ("SIGUSR1", "_between", True)):
        warned = two(shard, tmp_path / "warned", settings, warned=f"{name} {method}")
        (code, told), (other, _) = warned
        assert (code, other) == (75, 75), told
        assert f"rank 0, further: {further}\n" in told
    assert two(shard, tmp_path / "warned", settings) == whole
    assert alone.published(tmp_path / "warned") == alone.published(tmp_path / "whole")


def test_batch_statistics_of_one_process_are_those_of_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The formulas; that processes are summed is seen in the test of two."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda _: None)
    theirs = nn.BatchNorm2d(4, momentum=0.3)
    with torch.no_grad():
        theirs.weight.uniform_(0.5, 2)
        theirs.bias.uniform_(-1, 1)
    mine = SyncedBatchNorm(nn.BatchNorm2d(4, momentum=0.3))
    mine.load_state_dict(theirs.state_dict())
    images = torch.randn(3, 4, 5, 6) * 3 + 50
    outputs = []
    for layer in (theirs, mine):
        given = images.clone().requires_grad_()
        output = layer(given)
        (output * torch.arange(6.0)).square().sum().backward()
        assert given.grad is not None
        assert layer.weight.grad is not None
        assert layer.bias.grad is not None
        outputs.append((output, given.grad, layer.weight.grad, layer.bias.grad))
    for a, b in zip(*outputs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    for (name, a), b in zip(theirs.state_dict().items(), mine.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    torch.testing.assert_close(theirs.eval()(images), mine.eval()(images))


def test_layers_with_an_activation_keep_it() -> None:
    import timm.layers

    kind: Any = getattr(timm.layers, "BatchNormAct2d")  # noqa: B009 - untyped
    network = nn.Sequential(nn.Conv2d(3, 4, 1), kind(4))
    names = list(network.state_dict())
    images = torch.randn(2, 3, 4, 4)
    before = network.eval()(images)
    changed = batch_statistics.synced(network, torch.device("cpu")).eval()
    assert list(changed.state_dict()) == names
    torch.testing.assert_close(changed(images), before)
    assert float(changed(images).detach().min()) == 0.0
    assert sum(isinstance(layer, SyncedBatchNorm) for layer in changed.modules()) == 1


@pytest.mark.parametrize("momentum", [0.1, 0.01])
def test_first_steps_count_alike_in_running_statistics(momentum: float) -> None:
    layer = nn.BatchNorm2d(1, momentum=momentum)
    statistics = RunningStatistics(layer)
    means = []
    for step in range(14):
        statistics.before(step)
        images = torch.full((1, 1, 2, 2), float(step))
        layer(images)
        means.append(float(layer.running_mean))  # type: ignore[arg-type]
    assert means[:10] == pytest.approx([step / 2 for step in range(10)])
    assert layer.momentum == 0.1
    resumed = nn.BatchNorm2d(1, momentum=momentum)
    RunningStatistics(resumed).before(13)
    assert resumed.momentum == layer.momentum
    assert means[13] == pytest.approx(0.9 * means[12] + 0.1 * 13)


ALLOCATED = {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "interactive", "SLURM_NNODES": "2"}
SHELL = {
    "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_PROCID": "0",
}  # fmt: skip
STEP = {
    "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        # The job script itself, before any srun, or Snakemake there.
        ({"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "0"}, None),
        # A shell of `salloc` on the login node, and one that is a step of its own on the first.
        ({**ALLOCATED, "SLURM_NTASKS": "8"}, None),
        ({**ALLOCATED, **SHELL, "SLURM_NTASKS": "8"}, None),
        ({**ALLOCATED, **SHELL, "SLURM_NTASKS": "8", "SLURM_JOB_NAME": "bash"}, None),
        # srun, in a script, and in such a shell, whatever Lightning thinks of the job's name.
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "3", **STEP}, (4, 2)),
        ({**ALLOCATED, **SHELL, "SLURM_NTASKS": "8", "SLURM_PROCID": "0", **STEP}, (4, 2)),
        # A job of fewer tasks than its step.
        ({**ALLOCATED, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", **STEP}, (4, 2)),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2"}, (2, 3)),
    ],
)
def test_who_has_started_the_processes(
    environment: dict[str, str], expected: tuple[int, int] | None
) -> None:
    assert devices._started_by(environment) == expected


@pytest.mark.parametrize(("tasks", "spread"), [("3", "2,1"), ("4", "3,1")])
def test_processes_that_srun_has_spread_unevenly_are_told(tasks: str, spread: str) -> None:
    step = {"SLURM_STEP_NUM_TASKS": tasks, "SLURM_STEP_TASKS_PER_NODE": spread}
    with pytest.raises(SettingsError, match=rf"{tasks} processes on 2 nodes \({spread}\)") as told:
        devices._started_by({**ALLOCATED, **STEP, **step, "SLURM_PROCID": "0"})
    assert "--ntasks-per-node" in told.value.remedy


@pytest.mark.parametrize("name", ["interactive", "train"])
def test_two_processes_that_srun_started_train_together(
    shard: Path, tmp_path: Path, name: str
) -> None:
    """In a job of `salloc`, whose name is `interactive`, and by `srun -n 2`, in a job of one."""
    step = {
        "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": name, "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_NNODES": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0",
        "SLURM_STEP_NODELIST": "127.0.0.1",
    }  # fmt: skip
    told = two(shard, tmp_path, SETTINGS | {"epochs": 1}, srun=step)
    assert told == [(0, "writes 2"), (0, "waits 2")]


def test_nodes_that_nobody_started_are_told() -> None:
    with pytest.raises(SettingsError, match="only this process was started"):
        devices.launched(devices=1, nodes=2, precision="float32", deterministic=False)


def test_other_nodes_than_were_started_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    started = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="2, but processes were started on 3"):
        devices.launched(devices=1, nodes=2, precision="float32", deterministic=False)
    assert not devices.started_its_own()


def test_fewer_gpus_than_asked_for_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SettingsError, match="4 on a node; it has 2 GPUs"):
        devices.launched(devices=4, nodes=1, precision="float32", deterministic=False)


@pytest.mark.parametrize(
    ("gpus", "chosen", "expected"), [(4, None, "1"), (4, "3", "3"), (1, None, None)]
)
def test_workers_take_gpus_in_turn(
    monkeypatch: pytest.MonkeyPatch, gpus: int, chosen: str | None, expected: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    # Set and then taken away: so that it is put back in any case.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen or "")
    if chosen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    devices.take_gpu(6)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == expected


def test_all_gpus_are_used_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Fabric:
        def __init__(self, **options: Any) -> None:
            asked.update(options)

        def launch(self) -> None: ...

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(lightning, "Fabric", Fabric)
    devices.launched(devices="auto", nodes=1, precision="fp16", deterministic=False)
    assert (asked["devices"], asked["strategy"], asked["precision"]) == (4, "ddp", "16-mixed")
    assert asked["accelerator"] == "cuda"
