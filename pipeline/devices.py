"""Devices: which processes train together, and who starts them.

Lightning's Fabric does the work. Under torchrun and under ``srun`` with several tasks the
processes are there already and say how many they are; otherwise this process starts the others of
its node.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import lightning
import torch
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.fabric.utilities.warnings import PossibleUserWarning

from pipeline import gpus
from pipeline.errors import SettingsError
from pipeline.networks import resolve_precision

_PRECISIONS: dict[str, Any] = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def launched(
    *, devices: Literal["auto"] | int, nodes: int, precision: str, deterministic: bool
) -> lightning.Fabric:
    """Start the processes of a training; behind this call each of them runs.

    Args:
        devices: Processes on each node, a GPU each; ``auto`` for all GPUs there are.
        nodes: Number of nodes.
        precision: As in ``training.precision``.
        deterministic: Whether GPUs shall give the same bits each time.

    Raises:
        SettingsError: If there are not so many GPUs, several nodes and nobody who has started
            their processes, or not as many processes on each node.
    """
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    kind = gpus.accelerator(tell=local == "0")
    own: list[Any] = []
    around = _started_by(os.environ)
    if around is not None:
        count, started = around
        if nodes not in (1, started):
            raise SettingsError(
                f"training.nodes: {nodes}, but processes were started on {started}.",
                remedy="Start them on as many nodes, or leave the setting out.",
            )
        nodes = started
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            own = [_srun(count, nodes)]
    else:
        # In a job of one task Fabric would wait for tasks that SLURM never starts.
        own = [LightningEnvironment()]
        if nodes > 1:
            raise SettingsError(
                f"training.nodes: {nodes} nodes, but only this process was started.",
                remedy="Start one task a GPU on each node with `srun`, or use torchrun.",
            )
        count = max(1, torch.cuda.device_count()) if devices == "auto" else devices
    if kind == "cuda" and count > torch.cuda.device_count():
        raise SettingsError(
            f"training.devices: {count} on a node; it has {torch.cuda.device_count()} GPUs.",
            remedy="Write `auto`, or ask SLURM for as many that each process sees "
            "(`--gpus-per-node`, not `--gpus-per-task`).",
        )
    if deterministic:
        # cuBLAS wants to be told before its first call.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    fabric = lightning.Fabric(
        accelerator=kind,
        devices=count,
        num_nodes=nodes,
        strategy="ddp" if count * nodes > 1 else "auto",
        precision=_PRECISIONS[resolve_precision(precision, kind)],
        plugins=own,
    )
    fabric.launch()
    return fabric


def started_its_own() -> bool:
    """Whether the first process has started the others, and ends with them."""
    return _started_by(os.environ) is None


def take_gpu(number: int) -> None:
    """Give one of several workers on a machine a GPU of its own.

    What a batch system has chosen, by ``CUDA_VISIBLE_DEVICES``, stays.

    Args:
        number: Of the worker, from 1; before anything has used a GPU.
    """
    count = torch.cuda.device_count()
    if count > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = str((number - 1) % count)


def _started_by(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Processes a node and nodes as torchrun or srun started them; None where nobody did.

    Raises:
        SettingsError: If srun started more of them on one node than on another.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        local = int(environment["LOCAL_WORLD_SIZE"])
        return local, int(environment["WORLD_SIZE"]) // local
    # The step's variables: those of the job, which a job script or a shell of `salloc` has too, say
    # how many tasks there may be. Such a shell may be a step, of one task.
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks == 1 or "SLURM_PROCID" not in environment:
        return None
    nodes = int(environment.get("SLURM_STEP_NUM_NODES", environment.get("SLURM_NNODES", "1")))
    spread = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    if tasks % nodes or "," in spread:
        raise SettingsError(
            f"srun started {tasks} processes on {nodes} nodes ({spread or 'unevenly'}).",
            remedy="Training takes as many on each node: write `--ntasks-per-node`.",
        )
    return tasks // nodes, nodes


def _srun(tasks: int, nodes: int) -> SLURMEnvironment:
    """Lightning's view of a step of srun, which it gets from the job's variables otherwise.

    Those have other numbers where a job has several steps, and none of tasks a node without
    ``--ntasks-per-node``; ``interactive``, the name of a job of ``salloc``, is no srun to it.
    """
    os.environ["SLURM_NTASKS"] = str(tasks * nodes)
    os.environ["SLURM_NTASKS_PER_NODE"] = str(tasks)
    os.environ["SLURM_NNODES"] = str(nodes)
    if "SLURM_STEP_NODELIST" in os.environ:
        os.environ["SLURM_NODELIST"] = os.environ["SLURM_STEP_NODELIST"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)  # that srun is not used
        return SLURMEnvironment(auto_requeue=False)
