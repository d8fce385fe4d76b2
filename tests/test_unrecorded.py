"""Outputs that nobody has noted the settings of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SNAKEFILE = """
from pipeline import unrecorded

rule all:
    input: expand("{name}.txt", name=config["names"].split()), "last.txt"

rule one:
    output: "{name}.txt", "{name}.csv"
    shell: "touch {output}"

rule last:
    output: "last.txt"
    shell: "touch {output}"

onstart:
    unrecorded.warn(workflow)
"""
ROOT = Path(__file__).parents[1]


def test_each_start_names_what_was_finished_without_snakemake_until_it_is_made_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE, "utf-8")
    for name in ("a.txt", "a.csv"):
        (tmp_path / name).touch()
    warned = (
        "Outputs of 1 jobs (one) were finished while no Snakemake was there. They are used as they "
        "are, also if settings have changed since or will change. To make them again: --forcerun "
        "a.txt"
    )
    assert warned in _started(tmp_path, "a b")
    (tmp_path / "last.txt").unlink()
    assert warned in _started(tmp_path, "a b")
    assert "finished while" not in _started(tmp_path, "a b", "--forcerun", "a.txt")
    (tmp_path / "last.txt").unlink()
    assert "finished while" not in _started(tmp_path, "a b")


def test_many_are_named_by_their_rules(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE, "utf-8")
    names = [f"s{number}" for number in range(11)]
    for name in names:
        (tmp_path / f"{name}.txt").touch()
        (tmp_path / f"{name}.csv").touch()
    said = _started(tmp_path, " ".join(names))
    assert "Outputs of 11 jobs (one) were finished" in said
    assert "--forcerun one\n" in said


def _started(folder: Path, names: str, *arguments: str) -> str:
    program = str(Path(sys.executable).parent / "snakemake")
    done = subprocess.run(
        [program, "--cores", "1", *arguments, "--config", f"names={names}"], cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr
