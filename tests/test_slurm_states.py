"""States of jobs by the executor's own class, with SLURM's commands played by scripts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_slurm as plugin  # type: ignore[import-untyped]
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo  # type: ignore[import-untyped]
from throttler import Throttler  # type: ignore[import-untyped]

from pipeline.errors import SettingsError
from pipeline.slurm_runs import begin, job_prefix

RUN = Path("run/a")
STATUS = """#!/bin/sh
[ -e "$STATES" ] && exec cat "$STATES"
echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2
exit 1
"""
CONFIG = "#!/bin/sh\necho 'MinJobAge               = 300 sec'\n"


class _Start:
    """A start of Snakemake with the plugin's executor and three jobs: 11, 12, 13."""

    def __init__(self, command: str) -> None:
        settings = plugin.ExecutorSettings(status_command=command)
        self.executor = plugin.Executor.__new__(plugin.Executor)
        self.executor.run_uuid = "4711"
        self.executor.logger = logging.getLogger("snakemake")
        self.executor.workflow = SimpleNamespace(executor_settings=settings)
        self.executor.status_rate_limiter = Throttler(rate_limit=100, period=1)
        self.executor._status_query_calls = self.executor._status_query_failures = 0
        self.executor._status_query_total_seconds = 0.0
        self.executor._status_query_min_seconds = None
        self.executor._status_query_max_seconds = 0.0
        self.executor._status_query_cycle_rows = []
        self.executor._preemption_warning = False
        self.executor._next_seconds_between_status_checks = 170
        self.finished: list[str] = []
        self.failed: list[str] = []
        self.executor.report_job_success = self._told(self.finished)
        self.executor.report_job_error = self._told(self.failed)
        begin(SimpleNamespace(scheduler=SimpleNamespace(_executor=self.executor)), RUN)

    @staticmethod
    def _told(where: list[str]) -> Callable[..., None]:
        return lambda job, **_: where.append(job.external_jobid)

    def look(self) -> list[str]:
        """Ask once for the state of all jobs; returns those that are asked for again."""
        aux = {"slurm_logfile": Path("none.log")}
        jobs = [SubmittedJobInfo(None, number, aux) for number in ("11", "12", "13")]

        async def looked() -> list[str]:
            return [job.external_jobid async for job in self.executor.check_active_jobs(jobs)]

        return asyncio.run(looked())


@pytest.fixture
def states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What squeue and sacct tell; they fail while it is not there."""
    for name, script in (("squeue", STATUS), ("sacct", STATUS), ("scontrol", CONFIG)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(script, "utf-8")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setenv("STATES", str(tmp_path / "states"))
    monkeypatch.setattr(plugin, "query_job_status", plugin.query_job_status)  # put back later
    monkeypatch.chdir(tmp_path)
    return tmp_path / "states"


@pytest.mark.parametrize("command", ["squeue", "sacct"])
def test_jobs_outlast_a_controller_that_does_not_answer(
    states: Path, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    start = _Start(command)
    began = time.monotonic()
    for _ in range(3):
        assert start.look() == ["11", "12", "13"]
        # A job that ends meanwhile is seen before squeue forgets it: no more growing pauses.
        assert start.executor.next_seconds_between_status_checks == 10
    assert time.monotonic() - began < 30  # each look ends, so Ctrl-C is heeded
    assert [record.getMessage() for record in caplog.records if record.levelno >= 30] == [
        f"SLURM does not answer `{command}`: jobs are taken to be as they were, and asked for "
        "again every 10 s."
    ]
    caplog.clear()
    states.write_text("11|COMPLETED\n12|RUNNING\n13|TIMEOUT\n", "utf-8")
    with caplog.at_level(logging.INFO):
        assert start.look() == ["12"]
    assert (start.finished, start.failed) == (["11"], ["13"])
    assert "SLURM answers again." in caplog.messages
    states.unlink()
    caplog.clear()
    assert start.look() == ["11", "12", "13"]
    assert "SLURM does not answer" in caplog.text  # the next outage is told as well


@pytest.mark.parametrize("command", ["squeue", "sacct"])
@pytest.mark.parametrize("state", ["CANCELLED", "CANCELLED by 1000"])
def test_a_job_that_somebody_cancels_has_failed(states: Path, command: str, state: str) -> None:
    start = _Start(command)
    states.write_text(f"11|{state}\n12|PENDING\n13|\n", "utf-8")
    assert start.look() == ["12", "13"]
    assert (start.finished, start.failed) == ([], ["11"])


def test_an_executor_of_another_version_is_refused(
    states: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(plugin, "query_job_status")
    with pytest.raises(SettingsError, match="executor for SLURM is of a version"):
        _Start("squeue")


def test_jobs_are_asked_for_by_the_name_of_their_run(states: Path) -> None:
    start = _Start("squeue")
    squeue = states.parent / "bin" / "squeue"
    squeue.write_text(f'#!/bin/sh\necho "$@" > {states}.asked\n', "utf-8")
    assert start.look() == ["11", "12", "13"]
    assert f"--name {job_prefix(RUN)}_4711" in Path(f"{states}.asked").read_text("utf-8")
    assert start.executor.next_seconds_between_status_checks == 180
