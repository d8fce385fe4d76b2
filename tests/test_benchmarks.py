"""The benchmark harness: what it measures is right; a tiny benchmark from start to end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import geopandas
import pytest

from pipeline import demo
from tests.benchmarks import __main__ as bench
from tests.benchmarks import full_sheet, harness, results
from tests.benchmarks.harness import Comparison, Prepared, Run
from tests.benchmarks.label_raster import GDAL_RASTERIZE

MACHINE = {
    "cpu": "one", "cores": 2, "memory_gb": 25.3, "disk": "ext4", "kernel": "6", "python": "3.11",
    "gdal": "3.10", "gdal_debian": "", "libraries": {"numpy": "2", "torch": ""},
}  # fmt: skip


def _python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_memory_is_of_the_whole_tree_and_of_nothing_before_it() -> None:
    parents_own = b"x" * 300_000_000  # not the child's, whatever ru_maxrss says
    hold = "import sys, time; held = b'x' * {}; time.sleep(0.6)"
    code = (
        "import subprocess, sys, time; held = b'x' * 60_000_000;"
        f"subprocess.run([sys.executable, '-c', {hold.format(90_000_000)!r}], check=True)"
    )
    found = harness.measure(Run(_python(code)))
    assert len(parents_own) == 300_000_000
    assert found["processes"] == 2
    assert 150 < found["tree_pss_mb"] < 200
    assert 90 < found["largest_vmhwm_mb"] < 130
    assert found["peak_mb"] == found["tree_pss_mb"]
    assert 0.6 < found["seconds"] == found["wall_seconds"] < 20


def test_a_process_that_times_itself_is_believed(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "result").write_text("of an earlier run", "utf-8")
    code = (
        "import pathlib; from tests.benchmarks import harness;"
        f"assert not pathlib.Path({str(old)!r}).exists();"
        "print('said before'); harness.answer(0.125, items=10, records=3)"
    )
    found = harness.measure(Run(_python(code), items=5, inside=True, removes=(old,)))
    assert (found["seconds"], found["items"], found["records"]) == (0.125, 10, 3)
    assert found["wall_seconds"] > 0.125


def test_a_process_that_fails_is_told_of() -> None:
    with pytest.raises(harness.BenchmarkFailedError, match=r"(?s)ended with 7.*no such thing"):
        harness.measure(Run(_python("import sys; print('no such thing'); sys.exit(7)")))


def _runs(seconds: list[float], items: int = 1, peak: float = 10.0) -> list[dict[str, Any]]:
    return [{"seconds": s, "items": items, "peak_mb": peak} for s in seconds]


def test_rows_compare_medians_an_item_with_the_bars() -> None:
    found = {
        "ours": _runs([30.0, 10.0, 20.0], items=100, peak=999.0),
        "read": _runs([0.1, 9.0, 0.2]),
        "put": _runs([0.3, 0.3, 0.3]),
    }
    comparison = Comparison("shard", "ours", ("read", "put"), bar=0.4, memory_mb=999)
    row = harness.compare(comparison, found, {})
    assert (row["seconds"], row["reference_seconds"], row["ratio"]) == (20.0, 0.5, 0.4)
    assert (row["met"], row["memory_met"], row["items_a_second"]) == (True, True, 5.0)
    assert (row["runs"], row["peak_mb"]) == (3, 999.0)

    within = harness.compare(Comparison("", "put", ("read",), within=0.4), found, {})
    assert within["ratio"] == pytest.approx(1.5)
    assert within["met"] is False
    gone = harness.compare(comparison, {"ours": found["ours"]}, {"read": "nobody made it"})
    assert (gone["seconds"], gone["ratio"], gone["met"]) == (20.0, None, None)
    assert gone["skipped"] == "nobody made it"


def test_runs_alternate() -> None:
    run = Run(_python("pass"))
    said: list[str] = []
    found = harness.measure_all(Prepared({}, {"a": run, "b": run}, ()), 2, said.append)
    assert [line.split(":")[0].strip() for line in said] == ["a 1/2", "b 1/2", "a 2/2", "b 2/2"]
    assert {name: len(runs) for name, runs in found.items()} == {"a": 2, "b": 2}


def test_results_of_one_machine_and_commit_are_added_to_and_others_put_aside(
    tmp_path: Path,
) -> None:
    path = tmp_path / "benchmarks.json"
    first = results.read(path, MACHINE, "abc")
    first["results"]["shard"] = {"skipped": "not today"}
    text = results.write(first, path)
    assert "## shard\n\nSkipped: not today\n" in text
    assert path.with_suffix(".md").read_text("utf-8") == text
    assert results.read(path, MACHINE, "abc")["results"] == first["results"]

    assert results.read(path, MACHINE | {"cores": 64}, "abc")["results"] == {}
    assert not path.exists()
    aside = json.loads((tmp_path / "benchmarks.abc.json").read_text("utf-8"))
    assert aside["results"] == first["results"]


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SHEET_PX", (300, 225))


@pytest.mark.usefixtures("small_demo")
def test_a_benchmark_from_start_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "benchmarks.json"
    arguments = [
        "--folder", str(tmp_path), "--out", str(out), "--only", "label_raster,chips",
        "--size", "1100x700", "--polygons", "53300", "--repeat", "1", "--threads", "1",
    ]  # fmt: skip
    assert bench.main(arguments) == 0
    content = json.loads(out.read_text("utf-8"))
    assert {"cpu", "cores", "memory_gb", "disk", "kernel", "gdal"} <= set(content["machine"])
    assert "PEERS" in content["results"]["chips 1100 x 700"]["skipped"]
    result = content["results"]["label_raster 1100 x 700"]
    rows = {row["title"].split(", ")[-1]: row for row in result["rows"][:2]}
    assert list(rows) == ["gdal_rasterize with ZSTD", "gdal_rasterize with DEFLATE"]
    row = rows["gdal_rasterize with ZSTD"]
    runs = result["runs"]["label-raster magnified"]
    assert row["runs"] == len(runs) == 1
    assert row["seconds"] == runs[0]["seconds"] > 0
    assert 30 < row["peak_mb"] == runs[0]["peak_mb"]
    if GDAL_RASTERIZE.exists():
        assert row["ratio"] > 0
        assert result["facts"]["different_pixels_magnified"] == 0
        assert result["facts"]["different_pixels_demo"] == 0
    else:
        assert "gdal-bin" in row["skipped"]
    assert capsys.readouterr().out.rstrip() == results.table(content).rstrip()


@pytest.mark.usefixtures("small_demo")
def test_outlines_are_magnified_until_as_many_polygons_as_asked_for(tmp_path: Path) -> None:
    sheets = [
        full_sheet.write_full_sheet(tmp_path, (900, 700), polygons=count)
        for count in (None, 40, 400)
    ]
    assert len({sheet.orthophoto for sheet in sheets}) == 1
    own, few, many = (
        geopandas.read_file(sheet.siose, layer="SAR_99_T_POLIGONOS").geometry for sheet in sheets
    )
    # More than asked for by those that the sheet's edges cut.
    assert 40 <= len(few) < 80
    assert 400 <= len(many) < 500
    # The same polygon in the sheet's corner.
    assert few.area[0] > own.area[0] > many.area[0]
    assert all(shapes.is_valid.all() for shapes in (own, few, many))
