"""How Snakemake was called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "words", [["--sdm", "conda"], ["--use-conda"], ["--sdm", "apptainer", "conda"]]
)
def test_environments_that_no_rule_would_use_are_not_built(
    tmp_path: Path, words: list[str]
) -> None:
    done = called(tmp_path, *words)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "rules run in the environment of Snakemake itself" in said
    assert "conda env create -f environment.yml" in said
    assert "Traceback" not in said
    assert "Creating conda environment" not in said


def test_without_them_it_goes_on(tmp_path: Path) -> None:
    done = called(tmp_path, "--sdm", "apptainer")
    assert done.returncode == 0, done.stderr


def called(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / "snakemake")
    return subprocess.run(
        [program, "demo_data", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1", "--dry-run",
         *words],
        cwd=folder, env={**os.environ, "SLURM_CONF": "/dev/null"}, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
