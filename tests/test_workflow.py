"""The workflow as people start it: the demo by Snakemake, edits, kills, wrong settings."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline.paths import REPORT_FIGURES, REPORT_TABLES

ROOT = Path(__file__).resolve().parents[1]
SNAKEMAKE = str(Path(sys.executable).parent / "snakemake")

SHORT = """
training: {epochs: 1, iterations: 8, encoder: mobilenet_v2, batch_size: 4}
tiling: {tile_px: 128, stride_px: 128}
mapping: {window_px: 256, overlap_px: 64}
"""


def _snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SNAKEMAKE, "--snakefile", str(ROOT / "Snakefile"), "--cores", "2", *arguments],
        cwd=folder, capture_output=True, text=True, check=False, env=_environment(),
    )  # fmt: skip


def _environment() -> dict[str, str]:
    # As on a fresh shell: neither the environment's bin nor the project is on a path.
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    return {k: v for k, v in os.environ.items() if k not in hidden}


AFTER_MAPS = (
    "confusion",
    "evaluation",
    "polygon_agreement",
    "report",
    "error_raster",
    "mosaic",
    "qgis_project",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the demo ran from nothing to its report, with a training of eight steps."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "short.yaml").write_text(SHORT, "utf-8")
    done = _snakemake(folder, "--configfile", *_configs(folder))
    assert done.returncode == 0, done.stderr + done.stdout
    (folder / "said.txt").write_text(done.stdout + done.stderr, "utf-8")
    return folder


def _configs(folder: Path) -> tuple[str, str]:
    return str(ROOT / "configs" / "demo.yaml"), str(folder / "short.yaml")


def _planned(folder: Path, *arguments: str) -> set[str]:
    """Rules that a dry run would run."""
    done = _snakemake(
        folder, "--dry-run", "--quiet", "rules", "--configfile", *_configs(folder), *arguments
    )
    assert done.returncode == 0, done.stderr
    table = re.findall(r"^(\w+) +\d+$", done.stdout + done.stderr, flags=re.M)
    return set(table) - {"total", "all"}


@pytest.mark.workflow
def test_the_demo_ends_with_its_accuracy_and_report(finished: Path) -> None:
    said = (finished / "said.txt").read_text("utf-8")
    run = finished / "run" / "demo"
    scores = json.loads((run / "report" / "scores.json").read_text("utf-8"))["scores"]
    assert f"{100 * scores['overall_accuracy']:.1f}" in said
    assert "run/demo/report/index.html" in said
    for sheet in ("0722-1", "0722-2", "0722-3", "0722-4"):
        for name in (
            f"proportions/{sheet}.parquet",
            f"labels/{sheet}.tif",
            f"labels/{sheet}.polygons.tif",
            f"shards/{sheet}.lmdb/data.mdb",
            f"shards/{sheet}.lmdb/manifest.json",
            f"maps/{sheet}.tif",
            f"maps/{sheet}.confidence.tif",
            f"maps/{sheet}.qml",
            f"confusion/{sheet}.json",
            f"evaluation/{sheet}.json",
            f"evaluation/{sheet}.blocks.parquet",
            f"agreement/{sheet}.gpkg",
            f"agreement/{sheet}.json",
        ):
            assert (run / name).stat().st_size > 0, name
    models = ("best.safetensors", "last.ckpt", "card.json", "curves.csv", "curves.png")
    for name in ("tiles/plan.parquet", *(f"models/demo/{file}" for file in models)):
        assert (run / name).stat().st_size > 0, name
    assert not [path for path in run.rglob(".*") if ".draft-" in path.name]


@pytest.mark.workflow
def test_snakemakes_own_report_has_the_figures_with_captions(finished: Path) -> None:
    done = _snakemake(finished, "--configfile", *_configs(finished), "--report", "own.html")
    assert done.returncode == 0, done.stderr + done.stdout
    page = (finished / "own.html").read_text("utf-8")
    for name in REPORT_FIGURES:
        assert f"report/figures/{name}.svg" in page, name
    for name in REPORT_TABLES:
        assert f"report/tables/{name}.csv" in page, name
    captions = (ROOT / "workflows" / "captions").glob("*.rst")
    for caption in captions:
        words = re.findall(r"[a-z]{5,}", caption.read_text("utf-8").replace("&", " "))[:3]
        assert all(word in page for word in words), caption.name


@pytest.mark.workflow
def test_a_finished_run_has_nothing_to_do(finished: Path) -> None:
    assert _planned(finished) == set()


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("setting", "rules"),
    [
        ("{mapping: {overlap_px: 32}}", {"map_sheet", *AFTER_MAPS}),
        ("{training: {learning_rate: 0.005}}", {"train", "map_sheet", *AFTER_MAPS}),
        (
            "{tiling: {min_labelled: 0.7}}",
            {"tile_plan", "shard", "train", "map_sheet", *AFTER_MAPS},
        ),
        ("{cleaning: {min_area_m2: 9}}", {"clean_map", *AFTER_MAPS}),
        ("{vectors: {format: gpkg}}", {"vector_map", "qgis_project"}),
        ("{training: {workers: 0}}", set()),
        ("{evaluation: {boundary_px: 2}}", {"evaluation", "report"}),
        ("{evaluation: {min_change: 0.4}}", {"polygon_agreement", "report", "qgis_project"}),
        ("{evaluation: {draws: 200}}", {"report"}),
    ],
)
def test_an_edit_reruns_what_it_touches_and_nothing_else(
    finished: Path, setting: str, rules: set[str]
) -> None:
    before = yaml.safe_load((finished / "short.yaml").read_text("utf-8"))
    for section, values in yaml.safe_load(setting).items():
        before.setdefault(section, {}).update(values)
    edited = finished / "edited.yaml"
    edited.write_text(yaml.safe_dump(before), "utf-8")
    assert _planned(finished, str(edited)) == rules


@pytest.mark.workflow
def test_a_workflow_killed_without_warning_goes_on_to_the_same_files(
    finished: Path, tmp_path: Path
) -> None:
    """SIGKILL to Snakemake and its jobs while labels are burnt; then the same command again."""
    shutil.copytree(finished / "run" / "demo" / "data", tmp_path / "run" / "demo" / "data")
    (tmp_path / "short.yaml").write_text(SHORT, "utf-8")
    labels = tmp_path / "run" / "demo" / "labels"
    command = [SNAKEMAKE, "--snakefile", str(ROOT / "Snakefile"), "--cores", "2"]
    command += ["--configfile", *_configs(tmp_path), "--until", "shard"]
    process = subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, env=_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (labels.exists() and any(".draft-" in path.name for path in labels.iterdir())):
        assert process.poll() is None, "ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    arguments = ("--configfile", *_configs(tmp_path), "--until", "shard", "--rerun-incomplete")
    _snakemake(tmp_path, "--unlock", "--configfile", *_configs(tmp_path))
    done = _snakemake(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    for part in ("proportions", "labels", "tiles", "shards"):
        names = sorted(
            path.relative_to(finished) for path in (finished / "run" / "demo" / part).rglob("*")
        )
        found = sorted(
            path.relative_to(tmp_path) for path in (tmp_path / "run" / "demo" / part).rglob("*")
        )
        assert found == names
        for name in names:
            if (finished / name).is_file():
                assert (finished / name).read_bytes() == (tmp_path / name).read_bytes(), name


@pytest.mark.workflow
def test_wrong_settings_are_told_before_anything_runs(tmp_path: Path) -> None:
    settings = tmp_path / "wrong.yaml"
    settings.write_text(
        "run: run/wrong\nsheets: none.csv\ntiling: {tile_pixels: 256, min_labelled: 60}\n", "utf-8"
    )
    done = _snakemake(tmp_path, "--configfile", str(settings))
    assert done.returncode != 0
    said = done.stderr + done.stdout
    assert "did you mean 'tile_px'" in said
    assert "for 60 % write 0.6" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.workflow
def test_missing_inputs_are_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "sheets.csv").write_text(
        "sheet,orthophoto,siose,split\na,a.tif,base.gpkg,train\nb,b.tif,base.gpkg,test\n", "utf-8"
    )
    settings = tmp_path / "run.yaml"
    nomenclature = ROOT / "configs" / "nomenclatures" / "demo.yaml"
    settings.write_text(f"run: run/missing\nnomenclature: {nomenclature}\n", "utf-8")
    done = _snakemake(tmp_path, "--configfile", str(settings))
    assert done.returncode != 0
    said = done.stderr + done.stdout
    for text in ("line 2, sheet a: orthophoto a.tif", "line 3, sheet b: siose base.gpkg"):
        assert text in said
    assert not (tmp_path / "run").exists()


@pytest.mark.workflow
def test_snakemakes_own_lint_is_clean() -> None:
    done = subprocess.run(
        [SNAKEMAKE, "--lint"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("profile", "partition", "train"),
    [
        ("slurm", "gpu", "Shell command:  python -m pipeline --log "),
        ("slurm/accelerated", "accelerated", "Shell command: srun --nodes=2 --ntasks=2 "),
    ],
)
def test_the_slurm_profiles_are_valid(
    finished: Path, profile: str, partition: str, train: str
) -> None:
    done = subprocess.run(
        [SNAKEMAKE, "--snakefile", str(ROOT / "Snakefile"), "--profile", str(ROOT / profile),
         "--dry-run", "--configfile", *_configs(finished), "--forceall"],
        cwd=finished, capture_output=True, text=True, check=False, env=_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = done.stdout + done.stderr
    assert f"slurm_partition={partition}" in told
    (rule,) = re.findall(r"rule train:.*?Shell command:[^\n]*", told, flags=re.S)
    assert train in rule


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("training: {network: unett}", "unet"),
        ("seed: 1\nseed: 2", "stands in line 1 already"),
        ("nomenclature: bad.yaml", "classes: is a list"),
    ],
)
def test_networks_nomenclatures_and_doubled_keys_are_checked_before_anything_runs(
    tmp_path: Path, setting: str, text: str
) -> None:
    (tmp_path / "bad.yaml").write_text("classes: nonsense\n", "utf-8")
    settings = tmp_path / "wrong.yaml"
    settings.write_text(f"{setting}\n", "utf-8")
    done = _snakemake(tmp_path, "--dry-run", "--configfile", _configs(tmp_path)[0], str(settings))
    assert done.returncode != 0
    assert text in done.stderr + done.stdout


@pytest.mark.workflow
def test_a_run_folder_with_spaces_reaches_the_commands_whole(finished: Path) -> None:
    done = _snakemake(
        finished, "--dry-run", "--printshellcmds", "--configfile", *_configs(finished),
        "--config", "run=my runs/the $one", "--until", "class_proportions",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--config 'my runs/the $one/settings.yaml'" in done.stdout + done.stderr


@pytest.mark.workflow
def test_a_sheet_that_is_only_mapped_reruns_no_training(finished: Path) -> None:
    table = (ROOT / "configs" / "demo_sheets.csv").read_text("utf-8")
    added = finished / "added.csv"
    added.write_text(f"{table.rstrip()}\n0722-9,run/demo/data/0722-1.tif,,map,\n", "utf-8")
    edited = finished / "added.yaml"
    edited.write_text(f"sheets: {added}\n", "utf-8")
    settings = finished / "run" / "demo" / "settings.yaml"
    before = settings.read_text("utf-8")
    settings.write_text(
        before.replace(str(ROOT / "configs" / "demo_sheets.csv"), str(added)), "utf-8"
    )
    try:
        assert _planned(finished, str(edited)) == {"map_sheet", "report", "mosaic", "qgis_project"}
    finally:
        settings.write_text(before, "utf-8")
