"""Compute nodes reach no network: neither does any step."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from tests.slurm.workflow import Workflow, change_settings

SEARCH: dict[str, dict[str, object]] = {
    "tuning": {"space": {"training.learning_rate": [0.001, 0.003]}, "trials": 2, "workers": 1},
    "training": {"iterations": 2},
}


def test_from_nothing_to_the_report_without_a_network(local: Workflow) -> None:
    seen = subprocess.run(
        [*local.before, "cat", "/proc/net/dev"], capture_output=True, text=True, check=True
    )
    assert [line.split(":")[0].strip() for line in seen.stdout.splitlines()[2:]] == ["lo"]
    for name in ("report/index.html", "models/demo/best.safetensors", "maps/0722-4.tif"):
        assert (local.run / name).stat().st_size > 0


def test_a_search_without_a_network(local: Workflow, tmp_path: Path) -> None:
    """The search works on the shards of a run that is there."""
    shutil.copytree(local.folder, tmp_path, dirs_exist_ok=True)
    search = replace(local, folder=tmp_path)
    change_settings(tmp_path / "short.yaml", SEARCH)
    done = search.snakemake("tuning")
    assert done.returncode == 0, done.stderr + done.stdout
    assert (search.run / "tuning" / "best.yaml").exists()
