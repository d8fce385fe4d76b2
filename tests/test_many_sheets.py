"""A run of thousands of sheets: what Snakemake plans, and what it costs to plan it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipeline.sheets import digest_of, read_sheets

ROOT = Path(__file__).resolve().parents[1]
SNAKEMAKE = [str(Path(sys.executable).parent / "snakemake"), "--snakefile", str(ROOT / "Snakefile")]
SPLITS = ("train", "validation", "test", "map")
BASES = 5

PLAN = """
import json, sys
import snakemake.cli
from snakemake.dag import DAG

told = DAG.stats

def stats(dag):
    message, counts = told(dag)
    print(json.dumps(counts))
    return message, counts

DAG.stats = stats
sys.argv[0] = "snakemake"
snakemake.cli.main()
"""
"""Snakemake that tells how many jobs it plans where it is quiet, too: it need not list them all."""


def _prepare(folder: Path, sheets: int) -> None:
    """Write settings and a table of so many sheets, all of them on one orthophoto."""
    (folder / "one.tif").touch()
    rows = ["sheet,orthophoto,siose,split,year"]
    for number in range(sheets):
        base = folder / f"base_{number % BASES}.gpkg"
        base.touch()
        name = f"{number // 4:04d}-{number % 4 + 1}"
        rows.append(f"{name},{folder / 'one.tif'},{base},{SPLITS[number % 4]},2017")
    (folder / "sheets.csv").write_text("\n".join([*rows, ""]), "utf-8")
    nomenclature = ROOT / "configs" / "nomenclatures" / "demo.yaml"
    (folder / "run.yaml").write_text(f"run: run/many\nnomenclature: {nomenclature}\n", "utf-8")


def _planned(folder: Path, *arguments: str) -> tuple[Counter[str], float]:
    """Jobs by rule that Snakemake plans, and the processor time in seconds that it takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", PLAN, *SNAKEMAKE[1:], "--configfile", "run.yaml", "--dry-run",
         "--quiet", "rules", "progress", *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr + done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Counter(json.loads(line)), seconds


@pytest.mark.workflow
def test_four_thousand_sheets_are_planned_in_less_than_a_minute(tmp_path: Path) -> None:
    _prepare(tmp_path, 4_000)
    jobs, seconds = _planned(tmp_path, "--cores", "4")
    labelled = (
        "check_polygons", "class_proportions", "label_raster", "shard", "confusion", "evaluation",
        "polygon_agreement", "error_raster",
    )  # fmt: skip
    once = ("tile_plan", "train", "report", "mosaic", "qgis_project", "all")
    assert jobs == {
        **dict.fromkeys(labelled, 3_000),
        "map_sheet": 4_000,
        **dict.fromkeys(once, 1),
        "index_values": BASES,
        "total": 8 * 3_000 + 4_000 + 6 + BASES,
    }
    # Processor time and not time: other programs may run here as well.
    assert seconds < 60


@pytest.mark.workflow
def test_a_sheet_that_the_table_lacks_is_named(tmp_path: Path) -> None:
    _prepare(tmp_path, 4)
    done = subprocess.run(
        [*SNAKEMAKE, "--configfile", "run.yaml", "--dry-run", "--cores", "1",
         "run/many/maps/x.tif"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "sheet=x" in done.stderr + done.stdout


def test_a_table_of_absolute_paths_is_read_without_asking_for_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _prepare(tmp_path, 1_000)
    asked: list[Path] = []

    def exists(path: Path) -> bool:
        asked.append(path)
        return True

    monkeypatch.setattr("pipeline.config.exists", exists)
    sheets = read_sheets(tmp_path / "sheets.csv")
    assert len(sheets) == 1_000
    assert not asked
    assert {sheet.base.rpartition("-")[0] for sheet in sheets.values()} == {
        f"base_{number}" for number in range(BASES)
    }


def test_a_digest_of_sheets_changes_with_any_of_them_and_their_order(tmp_path: Path) -> None:
    _prepare(tmp_path, 8)
    sheets = list(read_sheets(tmp_path / "sheets.csv").values())
    text = (tmp_path / "sheets.csv").read_text("utf-8")
    (tmp_path / "sheets.csv").write_text(text.replace("test,2017", "test,2018", 1), "utf-8")
    edited = list(read_sheets(tmp_path / "sheets.csv").values())
    told = [
        digest_of(sheets, "year"), digest_of(edited, "year"), digest_of(sheets[::-1], "year"),
        digest_of(sheets[1:], "year"),
    ]  # fmt: skip
    assert len(set(told)) == 4
    assert digest_of(sheets, "split") == digest_of(edited, "split")
