"""Engines: the same results in the same order from all of them, bounded, and gone at the end."""

from __future__ import annotations

import importlib.util
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import NamedTuple

import dask
import distributed
import psutil
import pytest
import yaml
from distributed import Client, LocalCluster

from pipeline import clusters, errors, slurm_jobs
from pipeline.errors import InputError, SettingsError, TeselaError
from pipeline.parallel import Engine, engine, in_order, ordered

ROOT = Path(__file__).resolve().parents[1]

SBATCH = """#!/bin/sh
cp "$1" "{folder}/$$.sh"
setsid bash "{folder}/$$.sh" > "{folder}/$$.out" 2>&1 < /dev/null &
echo $! > "{folder}/$$.pid"
echo "Submitted batch job $$"
"""

SQUEUE = """#!/bin/sh
for f in "{folder}"/*.pid; do
  case "$(ps -o stat= -p "$(cat "$f")")" in
    ""|Z*) ;;
    *) echo "$(basename "$f" .pid) RUNNING None" ;;
  esac
done
exit 0
"""

SCANCEL = """#!/bin/sh
echo "$@" >> "{folder}/cancelled"
for job in "$@"; do kill -KILL "-$(cat "{folder}/$job.pid")"; done
exit 0
"""


class Box(NamedTuple):
    """Windows are tuples of numbers, too."""

    row: int
    col: int


@dataclass(frozen=True)
class Blocks:
    """What a stage sends to its workers: paths and numbers, and something that is not small."""

    folder: Path
    ballast: bytes = b""

    def __call__(self, boxes: tuple[Box, ...]) -> list[bytes]:
        # Later items are done first: order is not by chance.
        time.sleep(0.02 if boxes[0].row % 3 == 0 else 0.0)
        return [bytes([box.row, box.col]) * 1000 for box in boxes]

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        (self.folder / f"unpickled-{os.getpid()}-{time.monotonic_ns()}").touch()


@dataclass(frozen=True)
class Fails:
    """Fails at one item, leaving a file of each that was begun."""

    folder: Path
    at: int

    def __call__(self, item: int) -> int:
        (self.folder / f"begun-{item}").touch()
        if item == self.at:
            raise InputError(f"block {item} cannot be read", ["row 3", "row 4"], "Copy it again.")
        time.sleep(0.05)
        return item


@dataclass(frozen=True)
class Dies:
    """Takes its process along, so many times."""

    folder: Path
    times: int

    def __call__(self, item: int) -> int:
        if item == 2 and len(list(self.folder.glob("died-*"))) < self.times:
            (self.folder / f"died-{time.monotonic_ns()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item


def _tasks_of_scheduler(dask_scheduler: distributed.Scheduler) -> int:
    return len(dask_scheduler.tasks)


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def _gone(pids: set[int], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        alive = [p for p in pids if psutil.pid_exists(p)]
        if all(psutil.Process(p).status() == psutil.STATUS_ZOMBIE for p in alive):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import this module by its name."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks for workers all the time, and gives up soon."""
    monkeypatch.setattr(clusters, "LOOK", 0.1)
    monkeypatch.setattr(clusters, "WITHOUT_WORKERS", 0.3)
    monkeypatch.setattr(clusters, "CONNECT", 2.0)


@pytest.fixture(scope="module", autouse=True)
def _surroundings() -> Iterator[None]:
    """Workers find these tests, and what dask itself leaves in the environment goes away."""
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = str(ROOT)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def running() -> Iterator[LocalCluster]:
    """A cluster that is there before and after each step."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def processes() -> Iterator[Engine]:
    with engine("processes", 2, 1) as pool:
        yield pool


def test_processes_leave_no_trace_in_the_environment() -> None:
    """OMP_NUM_THREADS=1 in what is started later gives other sums, and slow networks."""
    before = dict(os.environ)
    with engine("processes", 1, 1) as pool:
        assert pool.executor.submit(abs, -3).result() == 3
    assert dict(os.environ) == before


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A SLURM of three shell scripts that run each job at once, on this machine."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL}.items():
        (folder / name).write_text(text.format(folder=folder))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    found = importlib.util.find_spec("dask_jobqueue")  # not imported: that is the engine's part
    assert found is not None
    assert found.origin is not None
    defaults = Path(found.origin).with_name("jobqueue.yaml")
    asked: dict[str, object] = {}
    for path in (defaults, ROOT / "slurm" / "dask" / "jobqueue.yaml"):
        asked |= yaml.safe_load(path.read_text("utf-8"))["jobqueue"]["slurm"]
    asked |= {"interface": "lo", "cores": 1, "local-directory": str(folder)}
    asked |= {"log-directory": str(folder / "logs")}
    with dask.config.set({"jobqueue": {"slurm": asked}}):
        yield folder


def _slurm(jobs: int) -> AbstractContextManager[Engine]:
    return engine("slurm", jobs, 1)


def _jobs(queue: Path) -> dict[str, int]:
    return {path.stem: int(path.read_text()) for path in queue.glob("*.pid")}


BOXES = [tuple(Box(row, col) for col in range(3)) for row in range(20)]


def _expected() -> list[list[bytes]]:
    return [[bytes([row, col]) * 1000 for col in range(3)] for row in range(20)]


def test_threads_give_all_results_in_order(tmp_path: Path) -> None:
    with engine("threads", 1, 4) as pool:
        assert pool.slots == 4
        pairs = list(in_order(Blocks(tmp_path), BOXES, pool, 6))
    assert [item for item, _ in pairs] == BOXES
    assert [result for _, result in pairs] == _expected()
    assert list(ordered(Blocks(tmp_path), BOXES, 3)) == pairs
    assert list(tmp_path.iterdir()) == []  # nothing was pickled


def test_processes_give_the_same_results_in_order(processes: Engine, tmp_path: Path) -> None:
    assert processes.slots == 2
    pairs = list(in_order(Blocks(tmp_path), BOXES, processes, 5))
    assert [item for item, _ in pairs] == BOXES
    assert [result for _, result in pairs] == _expected()


def test_a_running_cluster_gives_the_same_results_and_the_function_goes_to_a_worker_once(
    running: LocalCluster, tmp_path: Path
) -> None:
    with engine(running.scheduler_address, 1, 1) as pool:
        assert pool.slots == 2
        blocks = Blocks(tmp_path, ballast=bytes(3_000_000))
        pairs = list(in_order(blocks, BOXES, pool, 5))
        assert list(in_order(blocks, BOXES[:4], pool, 5)) == pairs[:4]
    assert [item for item, _ in pairs] == BOXES
    assert [result for _, result in pairs] == _expected()
    unpickled = [path.name.split("-")[1] for path in tmp_path.glob("unpickled-*")]
    in_workers = [pid for pid in unpickled if pid != str(os.getpid())]
    assert len(in_workers) == len(set(in_workers)) == 2
    with Client(running.scheduler_address, set_as_default=False) as client:
        assert len(client.nthreads()) == 2  # the cluster stays
        plugins = client.run(lambda dask_worker: list(dask_worker.plugins))
        assert [p for names in plugins.values() for p in names if p.startswith("tesela")] == []


def test_jobs_of_slurm_give_the_same_results_and_are_cancelled(queue: Path, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with engine("slurm", 2, 1) as pool:
        assert pool.slots == 2
        pairs = list(in_order(Blocks(tmp_path), BOXES, pool, 5))
        jobs = _jobs(queue)
    assert [item for item, _ in pairs] == BOXES
    assert [result for _, result in pairs] == _expected()
    assert len(jobs) == 2
    assert sorted((queue / "cancelled").read_text().splitlines()[0].split()) == sorted(jobs)
    assert _gone(set(jobs.values()))
    script = (queue / f"{min(jobs)}.sh").read_text()
    for line in ("-p cpu", "--cpus-per-task=1", "--mem=2G", "-t 01:00:00", "-J tesela-tiles"):
        assert f"#SBATCH {line}\n" in script
    assert "#SBATCH -A" not in script
    assert signal.getsignal(signal.SIGINT) is handler  # dask-jobqueue's import takes Ctrl-C


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_no_more_than_so_many_are_submitted_and_not_handed_on(
    running: LocalCluster, ahead: int
) -> None:
    """Counted in the scheduler: what it does not know lies in no worker's memory."""
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(12):
            taken += 1
            yield item

    with (
        Client(running.scheduler_address, set_as_default=False) as client,
        engine(running.scheduler_address, 1, 1) as pool,
    ):
        most = 0
        for done, (item, result) in enumerate(in_order(str, items(), pool, ahead), start=1):
            assert result == str(item)
            assert taken - done <= ahead - 1  # the one that is handed on does not wait any more
            # Also the results that are here already, and were forgotten there.
            most = max(most, client.run_on_scheduler(_tasks_of_scheduler))
        assert most <= ahead
        end = time.monotonic() + 5
        while client.run_on_scheduler(_tasks_of_scheduler) and time.monotonic() < end:
            time.sleep(0.05)
        assert client.run_on_scheduler(_tasks_of_scheduler) == 0


def test_the_bound_of_threads_counts_what_was_begun(tmp_path: Path) -> None:
    begun: list[int] = []

    def note(item: int) -> int:
        begun.append(item)
        return item

    with engine("threads", 1, 2) as pool:
        results = in_order(note, range(100), pool, 3)
        for done in range(1, 10):
            next(results)
            time.sleep(0.005)
            assert len(begun) - done <= 2
        del results
    assert len(begun) <= 12  # what was not begun was cancelled


@pytest.mark.parametrize("name", ["threads", "processes"])
def test_an_error_of_a_task_arrives_as_it_is(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    def run(pool: Engine) -> None:
        with pytest.raises(InputError) as caught:
            list(in_order(Fails(tmp_path, at=2), range(50), pool, 4))
        error = caught.value
        assert type(error) is InputError
        assert error.what == "block 2 cannot be read"
        assert error.items == ("row 3", "row 4")
        assert error.remedy == "Copy it again."
        assert str(error) == "block 2 cannot be read\n  row 3\n  row 4\nCopy it again."

    if name == "threads":
        with engine("threads", 1, 2) as pool:
            run(pool)
    else:
        run(request.getfixturevalue("processes"))
    time.sleep(0.3)
    begun = {int(path.name.split("-")[1]) for path in tmp_path.glob("begun-*")}
    assert begun >= {0, 1, 2}
    assert max(begun) <= 5  # 2 was waited for with three more submitted


@pytest.mark.parametrize(
    "kind", [TeselaError, SettingsError, InputError, errors.OutputError, errors.TrainingError]
)
def test_errors_for_people_keep_all_they_say_between_processes(kind: type[TeselaError]) -> None:
    error = kind("what", (f"item {n}" for n in range(25)), "remedy")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.what, again.items, again.remedy) == ("what", error.items, "remedy")
    assert str(again) == str(error)
    assert again.exit_code == kind.exit_code


def test_a_task_whose_worker_was_killed_is_done_again(processes: Engine, tmp_path: Path) -> None:
    results = [result for _, result in in_order(Dies(tmp_path, 1), range(6), processes, 3)]
    assert results == [0, 1, 2, 3, 4, 5]
    assert len(list(tmp_path.glob("died-*"))) == 1


def test_a_task_that_kills_all_its_workers_ends_with_one_error(tmp_path: Path) -> None:
    before = _children()
    with (
        pytest.raises(TeselaError, match=r"2 workers died of the same task"),
        engine("processes", 2, 1) as pool,
    ):
        list(in_order(Dies(tmp_path, 99), range(6), pool, 3))
    assert len(list(tmp_path.glob("died-*"))) == 2
    assert _gone(_children() - before)


def test_nothing_is_left_of_processes_when_the_step_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    resource_tracker.ensure_running()  # Python's own, which ends with the process that has it
    before = _children()
    began = time.monotonic()
    started: set[int] = set()

    def interrupted() -> None:
        with engine("processes", 2, 1) as pool:
            started.update(_children() - before)
            for _ in in_order(time.sleep, [0, 60, 60, 60], pool, 3):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(started) >= 2
    assert time.monotonic() - began < 15
    assert _gone(started)
    assert list(tmp_path.glob("tesela-*")) == []


def test_nobody_at_an_address_is_told_with_what_to_do(quick: None) -> None:
    with (
        pytest.raises(SettingsError, match=r"no dask scheduler at tcp://127.0.0.1:9\.") as caught,
        engine("tcp://127.0.0.1:9", 1, 1),
    ):
        pass
    assert "dask scheduler" in caught.value.remedy
    assert len(caught.value.items) == 1


def test_a_worker_is_no_scheduler(running: LocalCluster) -> None:
    worker = next(iter(running.scheduler_info["workers"]))
    with pytest.raises(SettingsError) as caught, engine(worker, 1, 1):
        pass
    assert caught.value.items == ("it is a worker of one",)


def test_other_versions_are_refused_by_name(
    running: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = distributed.Client.get_versions

    def other(client: Client, packages: tuple[str, ...]) -> dict[str, dict[str, object]]:
        found = asked(client, packages=packages)
        found["scheduler"]["packages"] |= {"dask": "2024.1.0", "rasterio": None, "python": "3.9.1"}
        for answer in found["workers"].values():
            answer["packages"] |= {"numpy": "1.26.4", "pandas": "1.0"}
            answer["packages"]["python"] = ".".join([*map(str, sys.version_info[:2]), "99"])
        return dict(found)

    monkeypatch.setattr(distributed.Client, "get_versions", other)
    with (
        pytest.raises(SettingsError, match="other versions") as caught,
        engine(running.scheduler_address, 1, 1),
    ):
        pass
    first = min(running.scheduler_info["workers"])
    dask_here, numpy_here = (_installed(name) for name in ("dask", "numpy"))
    assert caught.value.items == (
        f"dask: {dask_here} here, 2024.1.0 on the scheduler",
        f"numpy: {numpy_here} here, 1.26.4 on {first} and 1 more",
        f"python: {sys.version_info[0]}.{sys.version_info[1]} here, 3.9 on the scheduler",
    )


def _installed(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def test_workers_may_come_late_and_a_cluster_may_have_none(
    quick: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    ) as cluster:
        address = cluster.scheduler_address
        with (
            caplog.at_level(logging.INFO, "pipeline"),
            pytest.raises(TeselaError, match=f"no worker of the cluster at {address}"),
            engine(address, 1, 1),
        ):
            pass
        assert [r.getMessage() for r in caplog.records if r.name == clusters.__name__] == [
            f"waiting for a worker of the cluster at {address}"
        ]
        monkeypatch.setattr(clusters, "WITHOUT_WORKERS", 60.0)
        late = threading.Timer(0.5, cluster.scale, [1])
        late.start()
        with engine(address, 3, 1) as pool:
            assert pool.slots == 3  # as the settings say: two more will come
            assert [r for _, r in in_order(str, range(3), pool, 2)] == ["0", "1", "2"]
        late.join()


def test_a_scheduler_that_dies_ends_the_step(quick: None) -> None:
    code = (
        "from distributed import LocalCluster; import time\n"
        "if __name__ == '__main__':\n"
        "    c = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address='127.0.0.1:0')\n"
        "    print(c.scheduler_address, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    with closing(process.stdout):
        address = process.stdout.readline().strip()
        with engine(address, 1, 1) as pool:
            results = in_order(time.sleep, [0, 30, 30], pool, 2)
            next(results)
            process.kill()
            with pytest.raises(TeselaError, match="the dask scheduler is gone"):
                next(results)
        process.wait()


def test_slurm_that_refuses_says_why(queue: Path) -> None:
    (queue / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition specified: cpu' >&2\nexit 1\n"
    )
    with pytest.raises(SettingsError, match="takes none of the jobs") as caught, _slurm(3):
        pass
    assert caught.value.items == ("invalid partition specified: cpu",)
    assert "DASK_CONFIG=slurm/dask" in caught.value.remedy


def test_jobs_that_end_before_the_step_end_it(queue: Path, quick: None) -> None:
    with engine("slurm", 1, 1) as pool:
        (job,) = _jobs(queue)
        results = in_order(time.sleep, [0, 30, 30], pool, 2)
        next(results)
        subprocess.run([queue / "scancel", job], check=True)
        with pytest.raises(TeselaError, match="all jobs of the step have ended") as caught:
            next(results)
    assert len(caught.value.items) == 1
    assert caught.value.items[0].startswith(f"job {job}: ")


def test_a_machine_without_slurm_or_sizes_is_told_so(
    queue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        dask.config.set({"jobqueue.slurm.cores": None}),
        pytest.raises(SettingsError) as caught,
        _slurm(1),
    ):
        pass
    assert caught.value.items == ("jobqueue.slurm.cores",)
    with (
        dask.config.set({"jobqueue.slurm.memory": "lots"}),
        pytest.raises(SettingsError) as caught,
        _slurm(1),
    ):
        pass
    assert "lots" in caught.value.items[0]
    (queue / "sbatch").unlink()
    (queue / "squeue").unlink()
    monkeypatch.setenv("PATH", str(queue))
    with pytest.raises(SettingsError, match="this machine has no sbatch, squeue"), _slurm(1):
        pass
    assert _jobs(queue) == {}


def test_a_controller_that_does_not_answer_is_waited_for(queue: Path) -> None:
    jobs = slurm_jobs.SlurmJobs(None, 1, ["7"])
    (queue / "squeue").write_text(
        "#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n"
    )
    assert jobs.hope(3.0) == "squeue (Unable to contact slurm controller)"
    (queue / "squeue").write_text("#!/bin/sh\necho '6 RUNNING None'\necho '7 PENDING Priority'\n")
    assert jobs.hope(3.0) == "a worker since 3 s; jobs: 7 PENDING Priority"


def test_threads_do_not_load_dask() -> None:
    code = (
        "import sys; from pipeline.parallel import engine, in_order\n"
        "with engine('threads', 1, 2) as pool:\n"
        "    assert [r for _, r in in_order(str, range(9), pool, 3)] == list('012345678')\n"
        "print([m for m in ('dask', 'distributed', 'dask_jobqueue') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
