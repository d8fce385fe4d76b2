"""The words that start a step on several nodes."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import SettingsError
from pipeline.launcher import launcher


def test_a_job_of_one_process_is_started_by_nobody() -> None:
    assert launcher({"gpu": 4, "mem_mb": 12_000}, 8) == ""


def test_srun_is_told_nodes_processes_and_cpus() -> None:
    asked = {"mpi": "srun", "nodes": 2, "tasks": 8, "gres": "gpu:4"}
    assert launcher(asked, 6) == (
        "srun --nodes=2 --ntasks=8 --ntasks-per-node=4 --cpus-per-task=6 --kill-on-bad-exit=1"
    )


@pytest.mark.parametrize("nodes", [1, 3])
def test_processes_of_each_node_are_as_good(nodes: int) -> None:
    asked = {"mpi": "srun", "nodes": nodes, "tasks_per_node": 4, "gres": "gpu:4"}
    assert launcher(asked, 6) == (
        f"srun --nodes={nodes} --ntasks={4 * nodes} --ntasks-per-node=4 --cpus-per-task=6 "
        "--kill-on-bad-exit=1"
    )


@pytest.mark.parametrize(
    ("asked", "cpus"),
    [
        ({"cpus_per_task": 4}, " --cpus-per-task=4"),
        ({"cpus_per_task": 16}, " --cpus-per-task=16"),
        ({"cpus_per_task": 4, "cpus_per_gpu": 6}, " --cpus-per-task=4"),
        ({"cpus_per_gpu": 6}, " --cpus-per-task=6"),
        ({"cpus_per_gpu": 16}, " --cpus-per-task=8"),
        ({}, " --cpus-per-task=8"),
        # As in the executor: the cluster decides.
        ({"cpus_per_task": -1}, ""),
        ({"cpus_per_gpu": -1}, ""),
    ],
)
def test_processes_get_the_cpus_that_the_job_has(asked: dict[str, Any], cpus: str) -> None:
    own = {"mpi": "srun", "nodes": 1, "tasks": 2, "gres": "gpu:2", **asked}
    assert launcher(own, 8).endswith(f"--ntasks-per-node=2{cpus} --kill-on-bad-exit=1")


def test_without_gpus_nothing_is_reckoned_by_them() -> None:
    own = {"mpi": "srun", "nodes": 1, "tasks": 2, "cpus_per_gpu": 2}
    assert " --cpus-per-task=8 " in launcher(own, 8)


def test_words_of_ones_own_stay() -> None:
    words = launcher({"mpi": "srun --network=sn_all", "tasks": 2}, 1)
    assert words.startswith("srun --network=sn_all --nodes=1 --ntasks=2 --ntasks-per-node=2 ")


def test_processes_are_as_many_on_each_node() -> None:
    with pytest.raises(SettingsError, match="tasks: 3 processes on 2 nodes"):
        launcher({"mpi": "srun", "nodes": 2, "tasks": 3}, 1)


@pytest.mark.parametrize("asked", [{}, {"tasks": 4, "tasks_per_node": 2}])
def test_how_many_processes_is_said_once(asked: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="mpi: srun asks for") as error:
        launcher({"mpi": "srun", "nodes": 2, "gres": "gpu:2", **asked}, 1)
    assert "`tasks` (on all nodes) or `tasks_per_node`, one of them" in str(error.value)
