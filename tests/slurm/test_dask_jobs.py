"""Tiles cut by jobs of SLURM: the bytes that threads cut, whatever happens to the jobs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import rasterio
import yaml

from pipeline import config, demo, stages
from pipeline.slurm_runs import tile_jobs
from tests.slurm.cluster import Cluster
from tests.slurm.workflow import ROOT, Workflow, drafts, same_files, wait_for

TALL = "tall"
"""Two of the demo's sheets as one: four strips of tiles."""

GATED = '''
"""Workers stop before each strip but the first until they may go on, and say which job stops."""
import os
import time
from pathlib import Path

from pipeline.strips import TileCutter

PLACE = Path(os.environ["TESELA_TEST_GATE"])
cut = getattr(TileCutter.__call__, "cut", TileCutter.__call__)  # dask loads this file twice


def stopped(self, strip):
    if strip.tiles[0].position:
        (PLACE / f"strip-{strip.tiles[0].position}-job-{os.environ['SLURM_JOB_ID']}").touch()
        while not (PLACE / "open").exists():
            time.sleep(0.02)
    return cut(self, strip)


stopped.cut = cut
TileCutter.__call__ = stopped
'''


@pytest.fixture(scope="module")
def planned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A run with its tile plan, and its one shard as threads cut it."""
    workflow = Workflow(tmp_path_factory.mktemp("tiles"))
    workflow.folder.mkdir(exist_ok=True)
    own = workflow.folder / "data"
    own.mkdir()
    for name in ("0722-2.tif", "0722-4.tif", demo.BASE):
        (own / name).symlink_to(data / name)
    _pile(own / f"{TALL}.tif", data / "0722-1.tif", data / "0722-3.tif")
    splits = {TALL: "train", "0722-2": "validation", "0722-4": "test"}
    workflow.prepare(own, splits)
    settings = config.load(workflow.folder / "run.yaml")
    run = stages.Run(settings.model_copy(update={"run": workflow.run}))
    for sheet in splits:
        stages.class_proportions(run, sheet)
        stages.label_raster(run, sheet)
    stages.tile_plan(run)
    stages.shard(run, TALL, threads=2)
    return workflow


def _pile(out: Path, *sheets: Path) -> None:
    """Put sheets of one width below each other."""
    opened = [rasterio.open(sheet) for sheet in sheets]
    height = sum(sheet.height for sheet in opened)
    with rasterio.open(out, "w", **{**opened[0].profile, "height": height}) as file:
        row = 0
        for sheet in opened:
            file.write(sheet.read(), window=((row, row + sheet.height), (0, sheet.width)))
            row += sheet.height
            sheet.close()


@dataclass
class Cut:
    """A shard that is being cut by jobs.

    Attributes:
        workflow: Its run.
        step: The process that collects the tiles.
        gate: Folder in which workers tell that they stop; None where they do not.
    """

    workflow: Workflow
    step: subprocess.Popen[str]
    gate: Path | None

    def stopped(self) -> dict[str, set[str]]:
        """Jobs that have stopped, and before which strips."""
        found: dict[str, set[str]] = {}
        for path in (self.gate or Path()).glob("strip-*"):
            _, strip, _, job = path.name.split("-")
            found.setdefault(job, set()).add(strip)
        return found

    def forget(self) -> None:
        """Forget which jobs have stopped."""
        for path in (self.gate or Path()).glob("strip-*"):
            path.unlink()

    def open(self) -> None:
        """Let the workers go on."""
        ((self.gate or Path()) / "open").touch()

    def done(self) -> str:
        """Wait for the step's good end, and return what it said."""
        said, _ = self.step.communicate(timeout=240)
        assert self.step.returncode == 0, said
        return said


Start = Callable[..., Cut]


@pytest.fixture
def cut(nodes: Cluster, planned: Workflow, tmp_path: Path) -> Iterator[Start]:
    """Starts the step on a copy of the run, with the shipped configuration of dask's jobs."""
    steps: list[subprocess.Popen[str]] = []

    def start(gated: bool = False) -> Cut:
        other = Workflow(tmp_path / "other")
        shutil.copytree(planned.folder, other.folder, ignore=shutil.ignore_patterns("shards"))
        settings = yaml.safe_load((other.folder / "run.yaml").read_text("utf-8"))
        settings["tiling"] |= {"dask": "slurm", "dask_workers": 2}
        settings["run"] = str(other.run)
        (other.folder / "run.yaml").write_text(yaml.safe_dump(settings), "utf-8")
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        own = {
            "DASK_CONFIG": str(ROOT / "slurm" / "dask"),
            # All nodes are this machine, and it may have no other network.
            "DASK_JOBQUEUE__SLURM__INTERFACE": "lo",
            "DASK_JOBQUEUE__SLURM__CORES": "1",
            "TMPDIR": str(scratch),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        gate = None
        if gated:
            gate = tmp_path / "gate"
            gate.mkdir()
            (gate / "gated.py").write_text(GATED, "utf-8")
            own["TESELA_TEST_GATE"] = str(gate)
            own["DASK_DISTRIBUTED__WORKER__PRELOAD"] = f"['{gate / 'gated.py'}']"
        step = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "shard", "--config", "run.yaml", "--sheet", TALL],
            cwd=other.folder, env={**nodes.environment, **own}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        steps.append(step)
        return Cut(other, step, gate)

    yield start
    for step in steps:
        step.kill()
        step.communicate()


def whole(cut: Cut, planned: Workflow, cluster: Cluster) -> None:
    """Assert that the shard is that of threads, and that nothing is left of the jobs."""
    shard = f"shards/{TALL}.lmdb"
    same_files(planned.run, cut.workflow.run, shard)
    assert not drafts(cut.workflow.run)
    wait_for("no jobs", lambda: not cluster.jobs(), 30)


def test_jobs_cut_the_bytes_of_threads(cut: Start, planned: Workflow, nodes: Cluster) -> None:
    started = cut()
    said = started.done()
    whole(started, planned, nodes)
    jobs = re.search(r"jobs of SLURM: (\d+), (\d+)", said)
    assert jobs is not None, said
    for job in jobs.groups():
        told = nodes.job(job)
        assert told["JobName"] == tile_jobs(started.workflow.run)
        assert (told["Partition"], told["NumCPUs"]) == ("cpu", "1")
        assert told["JobState"] in ("CANCELLED", "COMPLETED")


def test_a_killed_nodes_jobs_run_again_and_a_cancelled_ones_strips_go_to_the_others(
    cut: Start, planned: Workflow, nodes: Cluster
) -> None:
    started = cut(gated=True)
    wait_for("two jobs stop in the middle", lambda: len(started.stopped()) == 2, 120)
    places = {job: nodes.job(job)["NodeList"] for job in started.stopped()}
    # SLURM fills one node before the next: no worker is left.
    assert len(set(places.values())) == 1
    nodes.kill_node(places[min(places)])
    started.forget()
    wait_for("both have come so far again", lambda: started.stopped().keys() == places.keys(), 120)
    for job, place in places.items():
        told = nodes.job(job)
        assert told["Restarts"] == "1"
        assert told["NodeList"] != place

    victim, other = sorted(places)
    lost = started.stopped()[victim]
    nodes.run("scancel", victim)
    wait_for("it is gone", lambda: nodes.jobs() == [other], 60)
    assert nodes.job(victim)["JobState"] == "CANCELLED"
    started.open()
    started.done()
    assert lost <= started.stopped()[other]
    whole(started, planned, nodes)


def test_a_step_that_is_ended_takes_its_jobs_along(cut: Start, nodes: Cluster) -> None:
    started = cut(gated=True)
    wait_for("two jobs stop in the middle", lambda: len(started.stopped()) == 2, 120)
    started.step.terminate()
    said, _ = started.step.communicate(timeout=60)
    assert started.step.returncode not in (0, None), said
    wait_for("no jobs", lambda: not nodes.jobs(), 30)
    assert not (started.workflow.run / "shards" / f"{TALL}.lmdb").exists()
    assert list((started.workflow.run / "shards").iterdir()) == []
