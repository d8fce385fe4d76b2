"""No more jobs at once than the profile, or the command line, allows."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

from pipeline import demo
from tests.slurm.cluster import Cluster
from tests.slurm.workflow import Workflow

BASES = 4
LIMIT = 2


def test_never_more_jobs_are_in_the_queue_than_the_limit(
    nodes: Cluster, data: Path, tmp_path: Path
) -> None:
    workflow = Workflow(tmp_path, nodes.environment)
    workflow.prepare(data)
    rows = ["sheet,orthophoto,siose,split,year"]
    for number in range(BASES):  # a job each, that waits for nothing
        base = tmp_path / f"base_{number}.gpkg"
        shutil.copyfile(data / demo.BASE, base)
        rows.append(f"{number},{data / '0722-1.tif'},{base},train,2017")
    (tmp_path / "sheets.csv").write_text("\n".join([*rows, ""]), "utf-8")

    done = workflow.snakemake(
        "--profile", str(workflow.profile), "--jobs", str(LIMIT), "--until", "index_values"
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert len(list((workflow.run / "siose").glob("*.arrow"))) == BASES

    events = []
    for submitted, ended in _times(nodes, workflow):
        events += [(submitted, 1), (ended, -1)]
    assert len(events) == 2 * BASES
    at_once, most = 0, 0
    for _, change in sorted(events):  # of one second, ends come first: they made the room
        at_once += change
        most = max(most, at_once)
    assert most == LIMIT


def _times(cluster: Cluster, workflow: Workflow) -> list[tuple[datetime, datetime]]:
    """When each job of a workflow was submitted, and when it ended, by SLURM's accounting."""
    told = cluster.run(
        "sacct", "-X", "-P", "-n", "--starttime", "now-1days", "--delimiter=\x1f",
        "--format", "Submit,End,State,SubmitLine",
    )  # fmt: skip
    lines = [line.split("\x1f") for line in told.splitlines() if f"-D {workflow.folder}" in line]
    assert {line[2] for line in lines} == {"COMPLETED"}
    return [(datetime.fromisoformat(line[0]), datetime.fromisoformat(line[1])) for line in lines]
