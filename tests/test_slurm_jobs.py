"""Names of dask's jobs, with SLURM's commands played by scripts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import dask
import pytest
import yaml

from pipeline.errors import SettingsError, TeselaError
from pipeline.parallel import engine
from pipeline.slurm_jobs import SlurmJobs

SHIPPED = Path(__file__).resolve().parents[1] / "slurm" / "dask" / "jobqueue.yaml"
SBATCH = "#!/bin/sh\ncp \"$1\" script\necho 'sbatch: error: not today' >&2\nexit 1\n"


@pytest.fixture(autouse=True)
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SLURM that keeps the script of a job and takes none, with the shipped configuration."""
    for name, text in (("sbatch", SBATCH), ("squeue", "#!/bin/sh\n"), ("scancel", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text, "utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "named"),
    [(("tesela-1a2b3c4d-tiles",), "tesela-1a2b3c4d-tiles"), ((), "tesela-tiles")],
)
def test_jobs_bear_the_name_of_their_run(
    tmp_path: Path, given: tuple[str, ...], named: str
) -> None:
    found = importlib.util.find_spec("dask_jobqueue")  # its import would take Ctrl-C
    assert found is not None
    assert found.origin is not None
    asked: dict[str, object] = {}
    for path in (Path(found.origin).with_name("jobqueue.yaml"), SHIPPED):
        asked |= yaml.safe_load(path.read_text("utf-8"))["jobqueue"]["slurm"]
    asked["interface"] = "lo"
    with (
        dask.config.set({"jobqueue.slurm": asked}),
        pytest.raises(SettingsError, match="takes none of the jobs"),
        engine("slurm", 1, 1, *given),
    ):
        pass
    script = (tmp_path / "script").read_text("utf-8")
    assert f"#SBATCH -J {named}\n" in script
    assert f"#SBATCH -e .snakemake/slurm_logs/tiles/{named}-%J.err\n" in script


def test_last_words_of_jobs_are_found_by_their_name(tmp_path: Path) -> None:
    class _Cluster:
        scheduler_address = "tcp://10.0.0.1:7"

    (tmp_path / "tesela-1a2b3c4d-tiles-7.err").write_text(
        "slurmstepd: error: TIME LIMIT\n", "utf-8"
    )
    jobs = SlurmJobs(_Cluster(), 1, ["7"], "tesela-1a2b3c4d-tiles")
    with (
        dask.config.set({"jobqueue.slurm.log-directory": "."}),
        pytest.raises(TeselaError) as told,
    ):
        jobs.hope(1.0)
    (item,) = told.value.items
    assert item == "job 7: tesela-1a2b3c4d-tiles-7.err: slurmstepd: error: TIME LIMIT"
