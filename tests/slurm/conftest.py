"""A cluster for the tests of this folder, its data, and a run without SLURM to compare with."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing
from tests.slurm.workflow import Workflow, make_data


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A SLURM of two nodes with two fake GPUs each; skips where none can be started."""
    if why := missing():
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="tesela-slurm-"))  # short: sockets lie in it
    own = Cluster(folder)
    try:
        own.start()
        yield own
    finally:
        own.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with all its nodes up and no job of another test, and so it is left."""
    yield cluster
    if jobs := cluster.jobs():
        cluster.run("scancel", *jobs, check=False)
    for node in cluster.nodes:
        cluster.start_node(node)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's province, sheets of 1200 by 900 pixels."""
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Workflow:
    """A small run from nothing to its report without SLURM, and without any network.

    It runs in a network namespace with nothing but the loopback device, so it also shows that no
    step asks the network for anything.
    """
    if shutil.which("unshare") is None or _refused():
        pytest.skip("this machine grants no network namespace (unshare --net)")
    alone = Workflow(
        tmp_path_factory.mktemp("local"),
        profile=None,
        before=("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "alone"),
    )
    alone.prepare(data)
    done = alone.snakemake()
    assert done.returncode == 0, done.stderr + done.stdout
    return alone


def _refused() -> bool:
    done = subprocess.run(
        ["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True, check=False
    )
    return done.returncode != 0
