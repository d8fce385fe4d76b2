"""Dask clusters that run tasks: processes of this machine, jobs of SLURM, or one that is there."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import dask
from distributed import Client, KilledWorker, LocalCluster, Security, WorkerPlugin, get_worker
from distributed import Future as Remote
from distributed.core import rpc
from distributed.deploy import Cluster
from distributed.versions import VersionMismatchWarning

from pipeline.errors import SettingsError, TeselaError
from pipeline.slurm_jobs import slurm_jobs

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

CONNECT = 15.0
"""Seconds that a scheduler has to answer."""

LOOK = 5.0
"""Seconds between two questions to the scheduler for its workers."""

SAY = 60.0
"""Seconds between two lines that say what is waited for."""

WITHOUT_WORKERS = 300.0
"""Seconds that a cluster without any worker has to bring one; those of SLURM have no limit."""

ATTEMPTS = 2
"""So often a task runs in processes that die of it: memory that lacks once, lacks again."""

_EVERYWHERE = ("python", "dask", "distributed", "cloudpickle", "msgpack", "tesela", "toolz")
# Of other versions, these decode or compress to other bytes.
_IN_WORKERS = (*_EVERYWHERE, "tornado", "numpy", "rasterio", "pyarrow", "pillow", "zstandard",
               "lz4", "xxhash")  # fmt: skip


@dataclass(frozen=True)
class _Cluster:
    """A cluster that is there.

    Attributes:
        client: Its client.
        slots: Tasks it will run at once when all of its workers are there, as far as is known.
        hope: Takes the seconds without any worker, and says what is waited for or raises
            TeselaError.
    """

    client: Client
    slots: int
    hope: Callable[[float], str]


@contextmanager
def cluster(
    name: str, workers: int, jobs: str = ""
) -> Iterator[tuple[Executor, int, Callable[[], None]]]:
    """Start a cluster or go to one, and wait for its first worker.

    Args:
        name: ``processes``, ``slurm``, or the address of a scheduler.
        workers: Number of processes or of jobs; of a cluster that is there, how many threads it
            will have at least.
        jobs: Name of the jobs of SLURM; empty for that of dask's configuration.

    Yields:
        What takes tasks, how many run at once, and a check that raises TeselaError when no
        result will come any more.

    Raises:
        SettingsError: If the cluster cannot be started or reached, or runs other versions.
        TeselaError: If no worker comes.
    """
    if name == "processes":
        started = _processes(workers)
    elif name == "slurm":
        started = _slurm(workers, jobs)
    else:
        started = _existing(name, workers)
    with started as found:
        check = _Check(found)
        while not (threads := found.client.nthreads()):
            check()
            time.sleep(0.2)
        _compare_versions(found.client, name)
        tasks = _Tasks(found.client)
        try:
            yield tasks, max(found.slots, sum(threads.values())), check
        finally:
            tasks.shutdown()


@contextmanager
def _processes(workers: int) -> Iterator[_Cluster]:
    quiet = {
        "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
        # Nobody looks at profiles, and they stop each worker a hundred times a second.
        "distributed.worker.profile.enabled": False,
        "distributed.admin.system-monitor.gil.enabled": False,
        "distributed.diagnostics.nvml": False,
    }
    with (
        _environment_restored(),
        tempfile.TemporaryDirectory(prefix="tesela-", ignore_cleanup_errors=True) as folder,
        dask.config.set(quiet),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            # 127.0.0.1 is there without any network, and no other machine reaches it.
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            memory_limit=0,
            local_directory=folder,
            silence_logs=logging.CRITICAL,
        ) as started,
        _client(started) as client,
    ):
        yield _Cluster(client, workers, _waiting("the processes of this machine"))


@contextmanager
def _environment_restored() -> Iterator[None]:
    """Dask leaves OMP_NUM_THREADS=1 and PYTHONHASHSEED to all that this process starts later."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _slurm(jobs: int, name: str) -> Iterator[_Cluster]:
    # A job whose node has died waits in the queue to run again: dask would cancel it, as one that
    # has lost its worker for 15 s.
    patient = {"distributed.deploy.lost-worker-timeout": "365 days"}
    with (
        dask.config.set(patient),
        slurm_jobs(jobs, name) as started,
        _client(started.cluster) as client,
    ):
        yield _Cluster(client, started.slots, started.hope)


@contextmanager
def _existing(address: str, workers: int) -> Iterator[_Cluster]:
    try:
        kind = asyncio.run(asyncio.wait_for(_kind(address), CONNECT))
        reason = "" if kind == "Scheduler" else f"it is a {kind.lower()} of one"
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
        # OSError: nobody there; the others: a protocol without its library or certificate.
        reason = (str(error) or f"no answer within {CONNECT:.0f} s").splitlines()[0]
    if reason:
        raise SettingsError(
            f"tiling.dask: there is no dask scheduler at {address}.",
            [reason],
            "Start one with `dask scheduler` and write the address that it prints.",
        )
    with _client(address) as client:
        yield _Cluster(client, workers, _waiting(f"the cluster at {address}"))


async def _kind(address: str) -> str:
    """Who answers at an address; a client that gets no answer there cannot be closed."""
    arguments = Security().get_connection_args("client")
    async with rpc(address, timeout=CONNECT, connection_args=arguments) as there:
        return str((await there.identity())["type"])


@contextmanager
def _client(where: str | Cluster) -> Iterator[Client]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VersionMismatchWarning)  # an error, soon
        # Results come from the workers: by way of the scheduler they would fill its memory.
        client = Client(where, timeout=CONNECT, set_as_default=False, direct_to_workers=True)
    try:
        yield client
    finally:
        # A scheduler that is gone cannot be told.
        with suppress(OSError, CancelledError):
            client.close(timeout=CONNECT)


def _waiting(of_whom: str) -> Callable[[float], str]:
    def hope(seconds: float) -> str:
        if seconds > WITHOUT_WORKERS:
            raise TeselaError(
                f"tiling.dask: no worker of {of_whom} for {seconds:.0f} s.",
                remedy="Start workers with `dask worker ADDRESS`; where there were some, their "
                "logs say why they went. The same command starts the step again.",
            )
        return f"a worker of {of_whom}"

    return hope


class _Check:
    """Says what is waited for when there is no worker, and ends what has no hope."""

    def __init__(self, found: _Cluster) -> None:
        self._cluster = found
        self._began = time.monotonic()
        self._looked = self._said = float("-inf")

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        try:
            there = bool(self._cluster.client.nthreads())
        except (OSError, RuntimeError, CancelledError):
            return  # once it is sure that the scheduler is gone, all results say so
        if there:
            self._began, self._said = now, float("-inf")
            return
        what = self._cluster.hope(now - self._began)
        if now - self._said >= SAY:
            self._said = now
            log.info("waiting for %s", what)


def _compare_versions(client: Client, name: str) -> None:
    """Refuse a cluster of other versions: it fails in odd ways, or cuts other bytes."""
    # Python is told unasked; asked for, it would be looked for among the packages.
    found = client.get_versions(packages=_IN_WORKERS[1:])
    ours = found["client"]["packages"]
    answers = {"the scheduler": found["scheduler"]} | dict(sorted(found["workers"].items()))
    others: dict[tuple[str, str, str], list[str]] = {}
    for place, answer in answers.items():
        for package in _IN_WORKERS if place in found["workers"] else _EVERYWHERE:
            here, there = _version(ours, package), _version(answer["packages"], package)
            if here != there:
                others.setdefault((package, here, there), []).append(place)
    if others:
        items = [
            f"{package}: {here} here, {there} on {at[0]}"
            + (f" and {len(at) - 1} more" if len(at) > 1 else "")
            for (package, here, there), at in sorted(others.items())
        ]
        raise SettingsError(
            f"tiling.dask: {name} runs other versions than this process.",
            items,
            "Start its scheduler and its workers in the environment that Tesela runs in.",
        )


def _version(packages: dict[str, str | None], name: str) -> str:
    version = packages.get(name) or "none"
    # Python 3.11.2 and 3.11.9 read each other's pickles.
    return ".".join(version.split(".")[:2]) if name == "python" else version


class _Tasks(Executor):
    """Tasks for a cluster; a result is fetched once, as soon as it is there, and forgotten there.

    A function goes to each worker once, whenever that comes, and not with each task.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._functions: list[tuple[Callable[..., object], str]] = []

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        # Pickled here: dask looks for things of its own inside lists and tuples.
        given = pickle.dumps((args, kwargs))
        remote = self._client.submit(_run, self._registered(fn), given, pure=False)
        local: Future[T] = Future()
        local.add_done_callback(lambda _: remote.release())
        remote.add_done_callback(lambda _: _hand_over(remote, local))
        return local

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for _, name in self._functions:
            # A scheduler that is gone has forgotten it.
            with suppress(OSError, RuntimeError, CancelledError, KeyError):
                self._client.unregister_worker_plugin(name)
        self._functions = []

    def _registered(self, function: Callable[..., object]) -> str:
        for known, name in self._functions:
            if known is function:
                return name
        name = f"tesela-{uuid.uuid4().hex}"
        self._client.register_plugin(_Function(function), name=name)
        self._functions.append((function, name))
        return name


class _Function(WorkerPlugin):  # type: ignore[misc]
    """What dask calls a plugin: the way to give something to present and future workers."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function


def _run(name: str, given: bytes) -> object:
    args, kwargs = pickle.loads(given)
    function: Callable[..., object] = get_worker().plugins[name].function
    return function(*args, **kwargs)


def _hand_over(remote: Remote, local: Future[T]) -> None:
    if not local.set_running_or_notify_cancel():
        return
    try:
        local.set_result(remote.result())
    except KilledWorker as error:
        failure = TeselaError(
            f"tiling.dask: {error.allowed_failures + 1} workers died of the same task, the last "
            f"one at {error.last_worker.address}.",
            remedy="Mostly that is memory: ask for more of it, or for fewer workers "
            "(tiling.dask_workers) or smaller ones. Their logs, or `dmesg`, say what killed them.",
        )
        failure.__cause__ = error
        local.set_exception(failure)
    except CancelledError as error:
        gone = TeselaError(
            "tiling.dask: the dask scheduler is gone, and with it the tasks that it had.",
            remedy="Its log says why. The same command starts the step again.",
        )
        gone.__cause__ = error
        local.set_exception(gone)
    except BaseException as error:  # the task's own: it belongs to whoever waits for the result
        local.set_exception(error)
