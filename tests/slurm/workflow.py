"""The workflow as the tests on SLURM start it: the shipped profile, only quicker in its waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from pipeline import demo

ROOT = Path(__file__).resolve().parents[2]
SNAKEMAKE = str(Path(sys.executable).parent / "snakemake")
EAGER = (sys.executable, str(Path(__file__).with_name("eager_snakemake.py")))
PROFILE = ROOT / "slurm"

SETTINGS: Mapping[str, Mapping[str, object]] = {
    "labels": {"min_share": 0.75, "boundary_px": 1},
    "tiling": {"tile_px": 128, "stride_px": 128, "min_labelled": 0.3},
    "training": {
        "encoder": "mobilenet_v2",
        "epochs": 1,
        "iterations": 8,
        "batch_size": 4,
        "workers": 0,
        "precision": "float32",
    },
    "mapping": {"window_px": 256, "overlap_px": 64, "precision": "float32"},
}
"""Sections of a run that is over in a minute; values of the tests go over them."""

DEMO_TRAINING = {"encoder": "mobilenet_v2", "epochs": 1, "iterations": 8, "batch_size": 4}
"""All that the demo of the tests has of its own."""

QUICK = (
    "--slurm-init-seconds-before-status-checks", "1",
    "--latency-wait", "10",
)  # fmt: skip
"""What tests say besides the profile: on this machine nobody need be spared questions."""


THREADS = ("--set-threads", "train=2", "map_sheet=2")
"""As many as this machine has processors, everywhere: on CPUs they decide the order of sums."""


@dataclass
class Workflow:
    """A run in a folder of its own: data, sheets table, settings.

    Attributes:
        folder: Working directory of Snakemake.
        environment: Variables, of a cluster or of this process.
        profile: Profile of Snakemake; None to run here without SLURM.
        before: Words before the command, such as those of ``unshare``.
        settings: Its settings files.
        name: The run's name.
    """

    folder: Path
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    profile: Path | None = PROFILE
    before: Sequence[str] = ()
    settings: Sequence[str] = ("run.yaml",)
    name: str = "small"

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder / "run" / self.name

    def prepare(
        self,
        data: Path,
        sheets: Mapping[str, str] | None = None,
        **sections: Mapping[str, object],
    ) -> None:
        """Write the sheets table and the settings.

        Args:
            data: Folder with the demo's orthophotos and base, as :func:`make_data` wrote it.
            sheets: Split of each sheet that takes part; all four if not told.
            sections: Values over those of :data:`SETTINGS`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        splits = sheets or dict(
            zip(demo.SHEETS, ("train", "train", "validation", "test"), strict=True)
        )
        rows = [
            f"{s},{data / s}.tif,{data / demo.BASE},{split},2017" for s, split in splits.items()
        ]
        (self.folder / "sheets.csv").write_text(
            "\n".join(["sheet,orthophoto,siose,split,year", *rows, ""]), "utf-8"
        )
        settings: dict[str, object] = {
            "run": "run/small",
            "sheets": "sheets.csv",
            "nomenclature": str(ROOT / "configs" / "nomenclatures" / "demo.yaml"),
        }
        for name in SETTINGS.keys() | sections.keys():
            settings[name] = {**SETTINGS.get(name, {}), **sections.get(name, {})}
        (self.folder / "run.yaml").write_text(yaml.safe_dump(settings), "utf-8")

    def command(self, *arguments: str) -> list[str]:
        """Snakemake with what tests always say; ``arguments`` come last and win."""
        snakemake = [SNAKEMAKE] if self.profile is None else EAGER
        words = [*self.before, *snakemake, "--snakefile", str(ROOT / "Snakefile"), *THREADS]
        if self.profile is None:
            words += ["--cores", "2"]
        else:
            words += ["--profile", str(self.profile), *QUICK]
        return [*words, *arguments, "--configfile", *self.settings]

    def snakemake(self, *arguments: str, seconds: float = 1200) -> subprocess.CompletedProcess[str]:
        """Run Snakemake to its end."""
        return subprocess.run(
            self.command(*arguments), cwd=self.folder, env=self.environment, capture_output=True,
            text=True, check=False, timeout=seconds,
        )  # fmt: skip

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Snakemake in a process group of its own; what it says goes to ``said.txt``."""
        with (self.folder / "said.txt").open("ab") as said:
            return subprocess.Popen(
                self.command(*arguments), cwd=self.folder, env=self.environment, text=True,
                stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def said(self) -> str:
        """What :meth:`started` processes have said."""
        return (self.folder / "said.txt").read_text("utf-8", errors="replace")


def demo_run(
    folder: Path,
    environment: Mapping[str, str] = os.environ,
    profile: Path | None = PROFILE,
    before: Sequence[str] = (),
) -> Workflow:
    """The demo as it is shipped, but for a shorter training: the workflow makes its data, too."""
    folder.mkdir(exist_ok=True)
    short = folder / "short.yaml"
    if not short.exists():
        short.write_text(yaml.safe_dump({"training": DEMO_TRAINING}), "utf-8")
    settings = (str(ROOT / "configs" / "demo.yaml"), short.name)
    return Workflow(folder, environment, profile, before, settings, "demo")


def make_data(folder: Path, sheet_px: tuple[int, int] = demo.SHEET_PX) -> Path:
    """Write the demo's province, of sheets of this size."""
    demo.write_demo(folder, sheet_px=sheet_px)
    return folder


def change_settings(file: Path, sections: Mapping[str, Mapping[str, object]]) -> None:
    """Put values over those of a settings file."""
    settings = yaml.safe_load(file.read_text("utf-8"))
    for name, values in sections.items():
        settings[name] = {**settings.get(name, {}), **values}
    file.write_text(yaml.safe_dump(settings), "utf-8")


def wait_for(what: str, reached: Callable[[], bool], seconds: float = 300) -> None:
    """Wait until something is so.

    Raises:
        AssertionError: If it is not within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL to a process that :meth:`Workflow.started` started, and all of its group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def same_files(one: Path, other: Path, *parts: str) -> None:
    """Assert that folders of two runs hold the same files, byte by byte.

    Args:
        one: Folder of a run.
        other: That of the other.
        parts: Folders or files in both.
    """
    for part in parts:
        found = [
            {
                path.relative_to(run): path.read_bytes()
                for path in (run / part, *(run / part).rglob("*"))
                if path.is_file()
            }
            for run in (one, other)
        ]
        assert found[0], part
        assert found[0].keys() == found[1].keys()
        differing = [str(name) for name in found[0] if found[0][name] != found[1][name]]
        assert not differing


def drafts(run: Path) -> list[Path]:
    """Half-written files of a run."""
    return [path for path in run.rglob(".*") if ".draft-" in path.name]
