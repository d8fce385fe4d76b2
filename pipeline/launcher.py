"""Launcher: the words before a step's command that start it on several nodes at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import SettingsError


def launcher(resources: Mapping[str, Any], threads: int) -> str:
    """What starts the processes of a step, as its job was asked for.

    SLURM's variables do not reach a rule of Snakemake, so `srun` is told all numbers; and inside a
    job it takes no CPUs but those that it is told of.

    Args:
        resources: Of the job: ``mpi`` is the command that starts processes (``srun``, with words
            of one's own), ``nodes`` their number, ``tasks`` the processes on all of them.
        threads: CPUs of each process.

    Returns:
        Words to put before the command; none where the profile asks for no ``mpi``.

    Raises:
        SettingsError: If the processes are not as many on each node.
    """
    command = resources.get("mpi")
    if not command:
        return ""
    nodes, tasks = resources.get("nodes", 1), resources.get("tasks", 1)
    if tasks % nodes:
        raise SettingsError(
            f"tasks: {tasks} processes on {nodes} nodes.",
            remedy="In the profile's `set-resources`, `tasks` is `nodes` times the GPUs of each.",
        )
    # Without the last one, processes would wait for ever for one that has failed.
    return (
        f"{command} --nodes={nodes} --ntasks={tasks} --ntasks-per-node={tasks // nodes} "
        f"--cpus-per-task={threads} --kill-on-bad-exit=1"
    )
