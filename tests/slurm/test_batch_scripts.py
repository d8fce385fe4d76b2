"""`slurm/*.sbatch`: single steps as batch jobs, without Snakemake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.slurm.cluster import Cluster
from tests.slurm.steps import (
    held,
    restarts,
    resumed,
    started_again,
    steps,
    validations,
    went,
    without,
)
from tests.slurm.workflow import PROFILE, Workflow, drafts, same_files, wait_for

SETTINGS = "run/small/settings.yaml"
SHEETS = ("0722-1", "0722-2")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY"}


def submitted(cluster: Cluster, workflow: Workflow, *words: str) -> str:
    """Submit from a workflow's folder, with this Python as the activated one."""
    environment = dict(workflow.environment)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["sbatch", "--parsable", *words], cwd=workflow.folder, env=environment,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ended(cluster: Cluster, *jobs: str, seconds: float = 300) -> None:
    """Wait until jobs have ended for good."""

    def over() -> bool:
        return all(cluster.job(job)["JobState"] in ENDED for job in jobs)

    wait_for(f"jobs {' '.join(jobs)} end", over, seconds)


def script(name: str) -> str:
    return str(PROFILE / f"{name}.sbatch")


# Wrong calls


@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        ("train", [], "one settings file is asked for"),
        ("train", ["none.yaml"], "there is no settings file none.yaml"),
        ("train", ["run.yaml", "more"], "one settings file is asked for"),
        ("train", ["run.yaml"], "is for SLURM: sbatch slurm/train.sbatch run.yaml"),
        ("map", ["run.yaml"], "a settings file and a list of sheets are asked for"),
        ("map", ["none.yaml", "sheets.txt"], "there is no settings file none.yaml"),
        ("map", ["run.yaml", "none.txt"], "there is no list of sheets none.txt"),
        ("map", ["run.yaml", "sheets.txt"], "is for an array: sbatch --array=1-2 slurm/map.sbatch"),
        ("tune", [], "one settings file is asked for"),
        ("tune", ["none.yaml"], "there is no settings file none.yaml"),
        ("tune", ["run.yaml"], "is for an array: sbatch --array=1-8 slurm/tune.sbatch run.yaml"),
    ],
)
def test_a_wrong_call_is_told_in_one_line(
    tmp_path: Path, name: str, words: list[str], says: str
) -> None:
    (tmp_path / "run.yaml").touch()
    (tmp_path / "sheets.txt").write_text("0722-1\n0722-2", "utf-8")  # no end of the last line
    own = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    done = called(tmp_path, own, name, *words)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{name}.sbatch: {says}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["train", "map", "tune"])
def test_without_the_environment_the_scripts_say_so(tmp_path: Path, name: str) -> None:
    (tmp_path / "run.yaml").touch()
    (tmp_path / "sheets.txt").write_text("0722-1\n", "utf-8")
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n", "utf-8")
    (tmp_path / "python").chmod(0o755)
    job = {"SLURM_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "1"}
    words = ("run.yaml", "sheets.txt") if name == "map" else ("run.yaml",)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = called(tmp_path, {**os.environ, **job, "PATH": path}, name, *words)
    assert (done.returncode, done.stderr) == (
        2,
        f"{name}.sbatch: python knows no Tesela: activate its environment before sbatch\n",
    )


@pytest.mark.parametrize("line", ["3", "4"])
def test_a_task_beyond_the_list_says_so(tmp_path: Path, line: str) -> None:
    (tmp_path / "run.yaml").touch()
    (tmp_path / "sheets.txt").write_text("0722-1\n0722-2\n\n", "utf-8")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    task = {"SLURM_ARRAY_TASK_ID": line, "PATH": path}
    done = called(tmp_path, {**os.environ, **task}, "map", "run.yaml", "sheets.txt")
    assert (done.returncode, done.stderr) == (
        2,
        f"map.sbatch: sheets.txt has no sheet on line {line}; it has 3 lines\n",
    )


def called(
    folder: Path, environment: dict[str, str], name: str, *words: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", script(name), *words], cwd=folder, env=environment, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip


# On the cluster


def test_two_nodes_train_together_and_go_on_after_a_requeue(
    nodes: Cluster, whole: Workflow, tmp_path: Path
) -> None:
    both = [without(whole, tmp_path / name, nodes, "models", "maps") for name in ("a", "b")]
    wide = ("--nodes=2", "--ntasks-per-node=1", script("train"), SETTINGS)
    job = submitted(nodes, both[0], *wide)
    wait_for("the job runs", lambda: nodes.job(job)["JobState"] == "RUNNING", 60)
    processes = [held(job, "train", lambda: validations(both[0].run) >= 2)]
    assert len([*steps(job, "train")]) == 2
    nodes.run("scontrol", "requeue", job)
    wait_for("both have ended", lambda: not processes[0].is_running(), 60)
    started_again(nodes, job, 1)
    never = submitted(nodes, both[1], *wide)
    ended(nodes, job, never)
    went(nodes, job, "REQUEUED", "COMPLETED")
    went(nodes, never, "COMPLETED")
    assert nodes.job(job)["NumNodes"] == "2"
    for name in ("best.safetensors", "card.json", "curves.csv"):
        same_files(both[0].run, both[1].run, f"models/small/{name}")
    assert "going on" in (both[0].run / "logs" / "train" / "all.log").read_text("utf-8")


def test_a_training_that_is_cancelled_is_not_started_again(
    nodes: Cluster, whole: Workflow, tmp_path: Path
) -> None:
    workflow = without(whole, tmp_path / "w", nodes, "models", "maps")
    job = submitted(nodes, workflow, script("train"), SETTINGS)
    wait_for("the job runs", lambda: nodes.job(job)["JobState"] == "RUNNING", 60)
    held(job, "train", lambda: validations(workflow.run) >= 1)
    nodes.run("scancel", job)  # which lets what was stopped run again
    wait_for("it has ended", lambda: nodes.job(job)["JobState"] == "CANCELLED", 60)
    went(nodes, job, "CANCELLED")
    assert (workflow.run / "models" / "small" / "last.ckpt").exists()


def test_a_list_of_sheets_is_mapped_and_snakemake_takes_the_maps(
    nodes: Cluster, whole: Workflow, tmp_path: Path
) -> None:
    workflow = without(whole, tmp_path / "w", nodes, "maps")
    (workflow.folder / "sheets.txt").write_text("\n".join(SHEETS), "utf-8")
    array = submitted(nodes, workflow, "--array=1-2%2", script("map"), SETTINGS, "sheets.txt")
    # The last task has the number of the array, with which all would be requeued.
    wait_for("both run", lambda: len(nodes.jobs("RUNNING")) == 2, 90)
    assert nodes.job(f"{array}_2")["JobId"] == array
    progress = workflow.run / "maps" / f".{SHEETS[1]}.progress"
    step = held(array, "map-sheet", lambda: len([*progress.glob("[!.]*.000000.blocks")]) == 2)
    nodes.run("scancel", "--signal=USR1", f"{array}_2")
    resumed(step, signal.SIGUSR1)
    wait_for("it is requeued", lambda: restarts(nodes, f"{array}_2") == 1, 60)
    ended(nodes, f"{array}_1", f"{array}_2")
    went(nodes, f"{array}_2", "REQUEUED", "COMPLETED")
    went(nodes, f"{array}_1", "COMPLETED")
    log = workflow.run / "logs" / "map_sheet" / f"{SHEETS[1]}.log"
    assert "going on behind row 512 of 704" in log.read_text("utf-8")
    told = (workflow.folder / f"tesela-map-{array}.log").read_text("utf-8")
    assert f"SLURM starts job {array} again." in told
    same_files(whole.run, workflow.run, "maps")
    assert not drafts(workflow.run)
    done = workflow.snakemake("--dry-run", *(f"run/small/maps/{sheet}.tif" for sheet in SHEETS))
    assert "Nothing to be done" in done.stdout + done.stderr, done.stdout


def test_workers_of_an_array_search_together_and_one_goes_on_after_a_warning(
    nodes: Cluster, whole: Workflow, tmp_path: Path
) -> None:
    workflow = without(whole, tmp_path / "w", nodes, "models", "maps")
    settings = workflow.run / "settings.yaml"
    values = yaml.safe_load(settings.read_text("utf-8"))
    space = {"training.learning_rate": [0.001, 0.002, 0.003]}
    values["tuning"] |= {"space": space, "sampler": "grid", "trials": 3, "workers": 2}
    for path in (settings, workflow.folder / "run.yaml"):
        path.write_text(yaml.safe_dump(values), "utf-8")
    array = submitted(nodes, workflow, "--array=1-2%2", script("tune"), SETTINGS)
    wait_for("both run", lambda: len(nodes.jobs("RUNNING")) == 2, 90)
    trials = workflow.run / "tuning"
    step = held(array, "tune", lambda: len([*trials.rglob("curves.csv")]) >= 2)
    nodes.run("scancel", "--signal=USR1", f"{array}_2")
    resumed(step, signal.SIGUSR1)
    wait_for("it is requeued", lambda: restarts(nodes, f"{array}_2") == 1, 90)
    ended(nodes, f"{array}_1", f"{array}_2")
    went(nodes, f"{array}_2", "REQUEUED", "COMPLETED")
    went(nodes, f"{array}_1", "COMPLETED")
    done = workflow.snakemake("--dry-run", "--quiet", "rules", "tuning")
    assert "rule tune:" not in done.stdout + done.stderr
    same_workers = sorted(path.name for path in (trials / "workers").iterdir())
    assert same_workers == ["1.txt", "2.txt"]
