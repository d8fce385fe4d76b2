"""`slurm/*.sbatch`: what they start, with srun played by a script that tells its words."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOLD = '#!/bin/sh\necho "$@"\nenv | grep "^SLURM_CPUS" || true\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where it is submitted from, with a Python that knows Tesela."""
    for name, text in (("srun", TOLD), ("python", "#!/bin/sh\n")):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text, "utf-8")
        program.chmod(0o755)
    (tmp_path / "run.yaml").touch()
    (tmp_path / "sheets.txt").write_text("0722-1\n\n  0722-3\t\r\n0722 2\n", "utf-8")
    return tmp_path


def called(folder: Path, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    own |= {"PATH": f"{folder / 'bin'}:{own['PATH']}", "SLURM_JOB_ID": "17", **variables}
    words = ["run.yaml", "sheets.txt"] if name == "map" else ["run.yaml"]
    return subprocess.run(
        ["bash", str(ROOT / "slurm" / f"{name}.sbatch"), *words], cwd=folder, env=own,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def mapped(folder: Path, task: str) -> subprocess.CompletedProcess[str]:
    return called(folder, "map", SLURM_ARRAY_TASK_ID=task, SLURM_CPUS_PER_TASK="8")


@pytest.mark.parametrize(("task", "sheet"), [("1", "0722-1"), ("3", "0722-3")])
def test_a_task_maps_the_sheet_of_its_line(folder: Path, task: str, sheet: str) -> None:
    done = mapped(folder, task)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == (
        f"--cpus-per-task=8 python -m pipeline --log ./logs/map_sheet/{sheet}.log "
        f"map-sheet --config run.yaml --sheet {sheet} --threads 8"
    )


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("0", "lines are counted from 1: sbatch --array=1-4 slurm/map.sbatch run.yaml sheets.txt"),
        ("2", "sheets.txt has no sheet on line 2; it has 4 lines"),
        ("4", "sheets.txt has more than the name of a sheet on line 4: 0722 2"),
        ("5", "sheets.txt has no sheet on line 5; it has 4 lines"),
    ],
)
def test_a_line_that_is_no_sheet_is_told(folder: Path, task: str, says: str) -> None:
    done = mapped(folder, task)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"map.sbatch: {says}\n"


@pytest.mark.parametrize(
    ("name", "asked", "cpus"),
    [
        ("map", {"SLURM_CPUS_PER_TASK": "8", "SLURM_CPUS_ON_NODE": "16"}, 8),
        # --cpus-per-gpu=16, or nothing at all, as on clusters that give CPUs with GPUs
        ("map", {"SLURM_CPUS_PER_GPU": "16", "SLURM_CPUS_ON_NODE": "16"}, 16),
        ("tune", {"SLURM_CPUS_PER_GPU": "16", "SLURM_CPUS_ON_NODE": "16"}, 16),
        ("tune", {"SLURM_CPUS_ON_NODE": "2"}, 2),
        ("train", {"SLURM_CPUS_PER_GPU": "8", "SLURM_CPUS_ON_NODE": "32",
                   "SLURM_NTASKS_PER_NODE": "4"}, 8),
        ("train", {"SLURM_CPUS_PER_TASK": "6", "SLURM_CPUS_ON_NODE": "32",
                   "SLURM_NTASKS_PER_NODE": "4"}, 6),
    ],
)  # fmt: skip
def test_a_process_gets_the_cpus_of_the_job(
    folder: Path, name: str, asked: dict[str, str], cpus: int
) -> None:
    done = called(folder, name, SLURM_ARRAY_TASK_ID="1", **asked)
    assert (done.returncode, done.stderr) == (0, "")
    words, *variables = done.stdout.splitlines()
    assert words.startswith(f"--cpus-per-task={cpus} ")
    assert (" --threads " in words) == (name == "map")
    if name == "map":
        assert words.endswith(f" --threads {cpus}")
    # Not every srun takes both.
    assert not [line for line in variables if line.startswith("SLURM_CPUS_PER_GPU")]
