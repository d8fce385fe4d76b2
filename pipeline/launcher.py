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
            of one's own), ``nodes`` their number, ``tasks`` the processes on all of them or
            ``tasks_per_node`` those on each; ``cpus_per_task`` and ``cpus_per_gpu`` as SLURM was
            asked for them.
        threads: CPUs of each process where those do not say otherwise.

    Returns:
        Words to put before the command; none where the profile asks for no ``mpi``.

    Raises:
        SettingsError: If the number of processes is not said, or they are not as many on each node.

    Source:
        snakemake-executor-plugin-slurm 2.8.0, ``get_submit_command`` and ``get_cpu_setting``, for
        what the job has.
    """
    command = resources.get("mpi")
    if not command:
        return ""
    nodes: int = resources.get("nodes") or 1
    tasks: int = resources.get("tasks") or 0
    on_each: int = resources.get("tasks_per_node") or 0
    if bool(tasks) == bool(on_each):
        raise SettingsError(
            f"mpi: {command} asks for processes, and "
            f"{'two lines say' if tasks else 'nothing says'} how many.",
            remedy="In the profile's `set-resources`, write `tasks` (on all nodes) or "
            "`tasks_per_node`, one of them: a process for each GPU.",
        )
    tasks = tasks or nodes * on_each
    if tasks % nodes:
        raise SettingsError(
            f"tasks: {tasks} processes on {nodes} nodes.",
            remedy="In the profile's `set-resources`, `tasks` is `nodes` times the GPUs of each.",
        )
    # Without the last one, processes would wait for ever for one that has failed.
    return (
        f"{command} --nodes={nodes} --ntasks={tasks} --ntasks-per-node={tasks // nodes}"
        f"{_cpus(resources, threads)} --kill-on-bad-exit=1"
    )


def _cpus(resources: Mapping[str, Any], threads: int) -> str:
    """CPUs of each process, no more than the job has for it; nothing where the cluster decides."""
    cpus = resources.get("cpus_per_task")
    if not cpus:
        of_gpu = resources.get("gpu") or "gpu" in resources.get("gres", "")
        cpus = min(threads, (of_gpu and resources.get("cpus_per_gpu")) or threads)
    return f" --cpus-per-task={cpus}" if cpus > 0 else ""
