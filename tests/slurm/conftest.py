"""A cluster for the tests of this folder, and what they compare with, made once for all processes.

TESELA_SLURM says whether they run: ``make test`` only names them, ``make test-slurm`` skips what
this machine cannot run, and with ``required``, as in ``.ci/run``, that fails.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing
from tests.slurm.steps import whole_run
from tests.slurm.workflow import Workflow, demo_run, make_data

ASKED = os.environ.get("TESELA_SLURM", "")

FIRST = (
    "test_demo",
    "test_air_gap",
    "test_warnings",
    "test_training_nodes",
    "test_batch_scripts",
    "test_node_killed",
    "test_snakemake_killed",
)
"""Files that take long, those that wait for what others make behind them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and put those first that take long."""
    if ASKED not in ("", "1", "required"):
        raise pytest.UsageError(f"TESELA_SLURM={ASKED}: is 1 or required")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            if not ASKED:
                item.add_marker(pytest.mark.skip(reason="on a real SLURM: make test-slurm"))
    if ASKED:
        order = {name: place for place, name in enumerate(FIRST)}
        items.sort(key=lambda item: order.get(item.path.stem, len(FIRST)))


def refuse(why: str) -> None:
    """Skip the tests of a fixture that this machine cannot make, or fail where they are a must."""
    if ASKED == "required":
        pytest.fail(f"TESELA_SLURM=required, but {why}")
    pytest.skip(why)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A SLURM of two nodes with two fake GPUs each."""
    if why := missing():
        refuse(why)
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


Once = Callable[[str, Callable[[Path], object]], Path]
"""Makes a folder of a name, unless a process of this session has made it, and tells its path."""


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """For folders that all processes of the session read: the first that asks makes them."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = place / f"once-{name}", place / f"once-{name}.done"
        with (place / f"once-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that has failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def data(once: Once) -> Path:
    """The demo's province, sheets of 1200 by 900 pixels."""
    return once("data", make_data)


@pytest.fixture(scope="session")
def whole(once: Once) -> Workflow:
    """The run that nobody has interrupted, of small sheets: two rows of blocks each."""
    return Workflow(once("whole", lambda folder: whole_run(folder, (640, 704))), profile=None)


@pytest.fixture(scope="session")
def local(once: Once) -> Workflow:
    """The demo from nothing to its report without SLURM, and without any network.

    It runs in a network namespace with nothing but the loopback device, so it also shows that no
    step asks the network for anything.
    """
    if shutil.which("unshare") is None or _refused():
        refuse("this machine grants no network namespace (unshare --net)")
    before = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "alone")

    def make(folder: Path) -> None:
        done = demo_run(folder, profile=None, before=before).snakemake()
        assert done.returncode == 0, done.stderr + done.stdout

    return demo_run(once("local", make), profile=None, before=before)


def _refused() -> bool:
    done = subprocess.run(
        ["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True, check=False
    )
    return done.returncode != 0
