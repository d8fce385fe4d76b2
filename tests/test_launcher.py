"""The words that start a step on several nodes."""

from __future__ import annotations

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


def test_words_of_ones_own_stay() -> None:
    words = launcher({"mpi": "srun --network=sn_all", "tasks": 2}, 1)
    assert words.startswith("srun --network=sn_all --nodes=1 --ntasks=2 --ntasks-per-node=2 ")


def test_processes_are_as_many_on_each_node() -> None:
    with pytest.raises(SettingsError, match="tasks: 3 processes on 2 nodes"):
        launcher({"mpi": "srun", "nodes": 2, "tasks": 3}, 1)
