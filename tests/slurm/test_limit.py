"""No more jobs at once than the profile, or the command line, allows."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline import demo
from tests.slurm.attempts import attempts
from tests.slurm.cluster import Cluster
from tests.slurm.workflow import Workflow

BASES = 3
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

    done = workflow.snakemake("--jobs", str(LIMIT), "--until", "index_values")
    assert done.returncode == 0, done.stderr + done.stdout
    assert len(list((workflow.run / "siose").glob("*.arrow"))) == BASES

    events = []
    for job in attempts(nodes, tmp_path):
        assert job.state == "COMPLETED"
        events += [(job.time("Submit"), 1), (job.time("End"), -1)]
    assert len(events) == 2 * BASES
    at_once, most = 0, 0
    for _, change in sorted(events):  # of one second, ends come first: they made the room
        at_once += change
        most = max(most, at_once)
    assert most == LIMIT
