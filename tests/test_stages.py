"""The stages on the demo's province: pixels, grids, the same bytes twice, kills, bad inputs."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import safetensors.numpy

from pipeline import checkpoint, config, demo, nomenclature, stages
from pipeline.confusion import from_json
from pipeline.errors import InputError, OutputError, SettingsError, TrainingError
from pipeline.labels import REASONS
from pipeline.shards import ShardReader

ROOT = Path(__file__).resolve().parents[1]
SHEETS = tuple(demo.SHEETS)
TINY: dict[str, dict[str, object]] = {
    "labels": {"min_share": 0.75, "boundary_px": 1},
    "tiling": {"tile_px": 128, "stride_px": 128, "min_labelled": 0.3},
    "training": {
        "encoder": "mobilenet_v2",
        "epochs": 2,
        "iterations": 40,
        "batch_size": 4,
        "workers": 0,
        "precision": "float32",
    },
    "mapping": {"window_px": 256, "overlap_px": 64},
}


def _settings(folder: Path, data: Path, run: str, **sections: dict[str, object]) -> config.Settings:
    table = folder / "sheets.csv"
    splits = dict(zip(SHEETS, ("train", "train", "validation", "test"), strict=True))
    rows = [f"{s},{data / s}.tif,{data / demo.BASE},{splits[s]},2017" for s in SHEETS]
    table.write_text("\n".join(["sheet,orthophoto,siose,split,year", *rows]), "utf-8")
    values: dict[str, object] = {
        "run": str(folder / run),
        "sheets": str(table),
        "nomenclature": str(ROOT / "configs" / "nomenclatures" / "demo.yaml"),
    }
    for name in TINY.keys() | sections.keys():
        values[name] = {**TINY.get(name, {}), **sections.get(name, {})}
    return config.from_mapping(values, "test settings")


def _until_shards(run: stages.Run, threads: int) -> None:
    for sheet in SHEETS:
        stages.class_proportions(run, sheet)
        stages.label_raster(run, sheet, threads)
    stages.tile_plan(run, threads)
    for sheet in SHEETS:
        stages.shard(run, sheet, threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("province")
    demo.write_demo(folder)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> stages.Run:
    """A whole run with a training of six steps."""
    folder = tmp_path_factory.mktemp("run")
    run = stages.Run(_settings(folder, data, "tiny"))
    config.claim(run.settings)
    _until_shards(run, threads=1)
    stages.train(run)
    for sheet in SHEETS:
        stages.map_sheet(run, sheet)
        stages.confusion(run, sheet)
    stages.report(run)
    return run


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("sheet", SHEETS)
def test_labels_and_maps_lie_on_the_orthophotos_grid(run: stages.Run, sheet: str) -> None:
    paths = run.paths
    outputs = [
        paths.label_raster(sheet),
        paths.polygon_index(sheet),
        paths.land_cover_map(sheet),
        paths.confidence(sheet),
    ]
    with rasterio.open(run.sheet(sheet).orthophoto) as source:
        wanted = (source.crs, source.transform, source.width, source.height)
    for path in outputs:
        with rasterio.open(path) as raster:
            assert (raster.crs, raster.transform, raster.width, raster.height) == wanted, path
            assert raster.dtypes == (("uint32",) if "polygons" in path.name else ("uint8",))


def test_label_counts_are_the_pixels_of_the_raster(run: stages.Run) -> None:
    for sheet in SHEETS:
        counts = json.loads(run.paths.label_counts(sheet).read_text("utf-8"))
        with rasterio.open(run.paths.label_raster(sheet)) as raster:
            found = np.bincount(raster.read(1).ravel(), minlength=256)
        assert list(counts["classes"].values()) == found[: len(run.nomenclature)].tolist()
        assert list(counts["masked"]) == list(REASONS)
        assert sum(counts["masked"].values()) == found[nomenclature.IGNORE]
        assert counts["pixels"] == found.sum()


def test_nothing_is_labelled_or_mapped_where_the_orthophoto_has_no_data(run: stages.Run) -> None:
    corners = 0
    for sheet in SHEETS:
        with rasterio.open(run.sheet(sheet).orthophoto) as source:
            empty = source.dataset_mask() == 0
        corners += int(empty.sum())
        for path in (
            run.paths.label_raster(sheet),
            run.paths.land_cover_map(sheet),
            run.paths.confidence(sheet),
        ):
            with rasterio.open(path) as raster:
                pixels = raster.read(1)
            assert (pixels[empty] == 255).all(), path
            if path != run.paths.label_raster(sheet):
                assert (pixels[~empty] != 255).all(), path
    assert corners > 1000  # one sheet of the demo has a corner that the flight missed


def test_maps_are_cogs_with_palette_overviews_and_statistics(run: stages.Run) -> None:
    with rasterio.open(run.paths.land_cover_map(SHEETS[3])) as raster:
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert raster.nodata == 255
        assert raster.overviews(1)
        assert "STATISTICS_MEAN" in raster.tags(1)
        for number, entry in enumerate(run.nomenclature.classes):
            assert raster.colormap(1)[number] == (*entry.rgb, 255)
        small = raster.read(1, out_shape=(raster.height // 4, raster.width // 4))
        assert set(np.unique(small)) <= {*range(len(run.nomenclature)), 255}
    with rasterio.open(run.paths.confidence(SHEETS[3])) as raster:
        values = raster.read(1)
        assert values[values != 255].max() <= 100


def test_confusion_counts_the_test_sheet_and_nothing_else(run: stages.Run) -> None:
    classes = len(run.nomenclature)
    for sheet in SHEETS:
        path = run.paths.confusion(sheet)
        matrix = from_json(path.read_text("utf-8"), str(path))
        with (
            rasterio.open(run.paths.label_raster(sheet)) as label,
            rasterio.open(run.paths.land_cover_map(sheet)) as mapped,
        ):
            reference, predicted = label.read(1), mapped.read(1)
        expected = np.zeros((classes, classes), np.int64)
        if run.sheet(sheet).split == "test":
            both = (reference != 255) & (predicted != 255)
            np.add.at(expected, (reference[both], predicted[both]), 1)
        np.testing.assert_array_equal(matrix.counts, expected)


def test_tiles_are_pixels_of_orthophoto_and_labels(run: stages.Run) -> None:
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(run.paths.tile_plan).to_pylist()
    for sheet in (SHEETS[0], SHEETS[3]):
        reader = ShardReader(run.paths.shard(sheet))
        mine = [row for row in rows if row["sheet"] == sheet]
        assert len(reader) == len(mine) > 4
        with (
            rasterio.open(run.sheet(sheet).orthophoto) as source,
            rasterio.open(run.paths.label_raster(sheet)) as label,
        ):
            image, classes = source.read(), label.read(1)
        for position in (0, len(mine) // 2, len(mine) - 1):
            row, tile = mine[position], reader.read(position)
            part = (
                slice(row["row"], row["row"] + row["height"]),
                slice(row["col"], row["col"] + row["width"]),
            )
            np.testing.assert_array_equal(tile.image, image[:, *part])
            np.testing.assert_array_equal(tile.label, classes[part])
            counted = np.bincount(tile.label[tile.label != 255], minlength=len(run.nomenclature))
            assert counted.tolist() == row["class_pixels"]


def test_the_same_run_twice_gives_the_same_bytes_with_any_number_of_threads(
    run: stages.Run, data: Path, tmp_path: Path
) -> None:
    again = stages.Run(_settings(tmp_path, data, "again"))
    _until_shards(again, threads=3)
    for part in ("proportions", "labels", "tiles", "shards"):
        first, second = _files(run.paths.run / part), _files(again.paths.run / part)
        assert first.keys() == second.keys()
        for name, content in first.items():
            assert content == second[name], f"{part}/{name}"


def test_other_processes_cut_the_same_bytes(run: stages.Run, data: Path, tmp_path: Path) -> None:
    """`tiling.dask` decides who cuts the tiles, and nothing else."""
    tiling = {"dask": "processes", "dask_workers": 2}
    other = stages.Run(_settings(tmp_path, data, "other", tiling=tiling))
    shutil.copytree(run.paths.run, other.paths.run, ignore=shutil.ignore_patterns("shards"))
    stages.shard(other, SHEETS[0])
    first, second = (_files(r.paths.shard(SHEETS[0])) for r in (run, other))
    assert first == second


def test_a_disk_that_is_too_small_is_told_before_tiles_are_cut(
    run: stages.Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = stages.Run(_settings(tmp_path, data, "other"))
    shutil.copytree(run.paths.run, other.paths.run, ignore=shutil.ignore_patterns("shards"))
    monkeypatch.setattr("pipeline.shards.free_bytes", lambda folder: 2**20)
    with pytest.raises(OutputError, match=rf"shard of sheet {SHEETS[0]}: needs about 0.0[0-9] GiB"):
        stages.shard(other, SHEETS[0])
    assert _files(other.paths.run / "shards") == {}


@pytest.mark.parametrize("codec", ["lz4", "zstd", "webp", "jpeg"])
def test_a_codec_changes_the_size_of_a_shard_and_not_its_tiles(
    run: stages.Run, data: Path, tmp_path: Path, codec: str
) -> None:
    other = stages.Run(_settings(tmp_path, data, "other", tiling={"codec": codec}))
    shutil.copytree(run.paths.run, other.paths.run, ignore=shutil.ignore_patterns("shards"))
    stages.shard(other, SHEETS[0])
    raw, packed = (ShardReader(r.paths.shard(SHEETS[0])) for r in (run, other))
    assert packed.manifest.codec == codec
    assert packed.manifest.counts == raw.manifest.counts
    sizes = [sum(map(len, _files(reader.folder).values())) for reader in (raw, packed)]
    # The demo's ground is noise to lz4, which finds repeated bytes only.
    assert sizes[1] <= sizes[0] if codec == "lz4" else sizes[1] < 0.9 * sizes[0]
    for position in range(0, len(raw), 5):
        one, two = raw.read(position), packed.read(position)
        difference = np.abs(one.image.astype(int) - two.image)
        assert difference.max() == 0 if codec != "jpeg" else difference.mean() < 6
        np.testing.assert_array_equal(one.label, two.label)
        np.testing.assert_array_equal(one.polygons, two.polygons)
        np.testing.assert_array_equal(one.proportions, two.proportions)


def test_the_report_names_the_accuracy_of_the_matrix(run: stages.Run) -> None:
    scores = json.loads(run.paths.scores.read_text("utf-8"))["scores"]
    summary = run.paths.summary.read_text("utf-8")
    assert f"{100 * scores['overall_accuracy']:.1f}" in summary
    assert str(run.paths.report) in summary
    assert run.paths.report.read_text("utf-8").count("data:image/") >= 4 * len(SHEETS)


@pytest.mark.parametrize("kind", ["maps", "labels"])
def test_a_real_qgis_shows_classes_and_colours_by_itself(
    run: stages.Run, kind: str, tmp_path: Path, shared_data: Path
) -> None:
    checker = shared_data.parent / "tools" / "check_qgis_layer.py"
    python = Path("/usr/bin/python3")
    qgis = [str(python), "-c", "import qgis.core"]
    if not python.exists() or subprocess.run(qgis, check=False, capture_output=True).returncode:
        pytest.skip("QGIS is not installed (Debian's python3-qgis)")
    sheet = SHEETS[3]
    path = run.paths.land_cover_map(sheet) if kind == "maps" else run.paths.label_raster(sheet)
    legend = {str(i): [c.name, c.color] for i, c in enumerate(run.nomenclature.classes)}
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps(legend), "utf-8")
    command = [str(python), str(checker), str(path), "--crs", "EPSG:25830", "--nodata", "255"]
    command += ["--res", "0.5", "--classes", str(classes), "--render", str(tmp_path / "map.png")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["layers"][0]["size"] == [1200, 900]


def test_a_map_needs_no_training_files_but_the_weights(run: stages.Run, tmp_path: Path) -> None:
    other = stages.Run(run.settings.model_copy(update={"run": tmp_path / "tiny"}))
    other.paths.best.parent.mkdir(parents=True)
    shutil.copy(run.paths.best, other.paths.best)
    stages.map_sheet(other, SHEETS[2])
    first, second = run.paths.land_cover_map(SHEETS[2]), other.paths.land_cover_map(SHEETS[2])
    assert first.read_bytes() == second.read_bytes()


# --- killed at any moment, started again ---------------------------------------------------------


def _command(run: stages.Run, name: str, sheet: str | None) -> list[str]:
    command = [sys.executable, "-m", "pipeline", name, "--config", str(run.paths.settings)]
    return command + (["--sheet", sheet] if sheet else [])


def _drafts(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if ".draft-" in path.name]


def _killed(command: list[str], when: Callable[[], bool]) -> None:
    """Start a step and kill it without warning as soon as ``when`` holds."""
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not when():
        assert process.poll() is None, f"ended before it was killed: {process.communicate()[1]}"
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()


# Nobody outside can tell when a quick step has its drafts and has not published them: it kills
# itself, at the moment when all of them are written.
_KILLED_BEFORE_PUBLISHING = """
import os, signal, sys
from pipeline import cli, publication
publication._renamed = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
cli.main()
"""


def _killed_before_publishing(command: list[str]) -> None:
    """Run a step that is killed without warning when all of its drafts are written."""
    command = [sys.executable, "-c", _KILLED_BEFORE_PUBLISHING, *command[3:]]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


STEPS = {
    "class_proportions": ("proportions", SHEETS[0]),
    "label_raster": ("labels", SHEETS[0]),
    "tile_plan": ("tiles", None),
    "shard": ("shards", SHEETS[0]),
    "map_sheet": ("maps", SHEETS[3]),
    "confusion": ("confusion", SHEETS[3]),
    "report": ("report", None),
}


@pytest.fixture
def copied(run: stages.Run, tmp_path: Path) -> Iterator[stages.Run]:
    """The finished run in a folder of its own, of the same name."""
    target = tmp_path / run.paths.run.name
    shutil.copytree(run.paths.run, target)
    settings = run.settings.model_copy(update={"run": target})
    (target / "settings.yaml").write_text(settings.as_yaml(), "utf-8")
    yield stages.Run(settings)
    shutil.rmtree(target)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_killed_in_the_middle_gives_the_same_files_when_run_again(
    run: stages.Run, copied: stages.Run, step: str
) -> None:
    part, sheet = STEPS[step]
    folder = copied.paths.run / part
    if step == "report":  # settings and paths stand in it: compare with a run of this very folder
        stages.report(copied)
        wanted = _files(folder)
    else:
        wanted = _files(run.paths.run / part)
    shutil.rmtree(folder)
    if sheet is not None and part != "report":  # the other sheets' files stay
        for name, content in wanted.items():
            if not name.startswith(sheet):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
    _killed_before_publishing(_command(copied, step, sheet))
    assert _drafts(folder)
    visible = {n for n in _files(folder) if ".draft-" not in n}
    assert visible == {n for n in wanted if sheet is not None and not n.startswith(sheet)}
    subprocess.run(_command(copied, step, sheet), cwd=ROOT, check=True, capture_output=True)
    assert _files(folder) == wanted  # drafts of the killed process are swept too


def test_training_killed_in_the_middle_goes_on_to_the_same_weights(
    run: stages.Run, copied: stages.Run
) -> None:
    models = copied.paths.models
    wanted = _files(run.paths.models)
    shutil.rmtree(models)
    _killed(_command(copied, "train", None), copied.paths.last.exists)
    assert not copied.paths.card.exists()
    done = subprocess.run(
        _command(copied, "train", None), cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert "going on after epoch" in done.stderr
    found = _files(models)
    for name in ("curves.csv", "curves.png"):
        assert found[name] == wanted[name], name
    # The commit in the card may have changed while the tests run; nothing else may.
    cards = [checkpoint.read_card(r.paths.best) for r in (run, copied)]
    assert replace(cards[0], commit="") == replace(cards[1], commit="")
    if cards[0].commit == cards[1].commit:
        assert found["best.safetensors"] == wanted["best.safetensors"]
    weights = [safetensors.numpy.load_file(r.paths.best) for r in (run, copied)]
    assert weights[0].keys() == weights[1].keys()
    for name, values in weights[0].items():
        np.testing.assert_array_equal(values, weights[1][name], name)


# --- bad inputs ----------------------------------------------------------------------------------


def test_a_checkpoint_of_other_classes_is_refused(
    run: stages.Run, copied: stages.Run, tmp_path: Path
) -> None:
    text = run.settings.nomenclature.read_text("utf-8").replace("forest", "woodland")
    other = tmp_path / "other.yaml"
    other.write_text(text, "utf-8")
    changed = stages.Run(copied.settings.model_copy(update={"nomenclature": other}))
    with pytest.raises(TrainingError, match="class"):
        stages.map_sheet(changed, SHEETS[3])
    with pytest.raises(InputError, match="another nomenclature"):
        stages.train(changed)
    with pytest.raises(InputError, match="another nomenclature"):
        stages.label_raster(changed, SHEETS[3])
    with pytest.raises(InputError, match="another nomenclature"):
        stages.confusion(changed, SHEETS[3])


def test_a_checkpoint_of_other_bands_or_pixel_size_is_refused(
    run: stages.Run, tmp_path: Path, data: Path
) -> None:
    source = data / f"{SHEETS[3]}.tif"
    with rasterio.open(source) as raster:
        image, profile = raster.read(), raster.profile
    profile = {k: profile[k] for k in ("driver", "width", "height", "dtype", "crs", "transform")}
    four = tmp_path / "four.tif"
    with rasterio.open(four, "w", **profile, count=4, photometric="MINISBLACK") as raster:
        raster.write(np.concatenate([image, image[:1]]))
        raster.colorinterp = [rasterio.enums.ColorInterp.gray] * 4
    coarse = tmp_path / "coarse.tif"
    profile["transform"] = profile["transform"] @ profile["transform"].scale(2)
    with rasterio.open(coarse, "w", **profile, count=3) as raster:
        raster.write(image)
    for path, word in ((four, "band"), (coarse, "pixel")):
        table = tmp_path / f"{path.stem}.csv"
        row = f"{SHEETS[3]},{path},{data / demo.BASE},test"
        table.write_text(f"sheet,orthophoto,siose,split\n{row}\n", "utf-8")
        changed = stages.Run(run.settings.model_copy(update={"sheets": table}))
        before = _files(run.paths.run / "maps")
        with pytest.raises(TrainingError, match=word):
            stages.map_sheet(changed, SHEETS[3])
        assert _files(run.paths.run / "maps") == before


def test_sheets_of_different_pixels_are_refused_together(
    run: stages.Run, tmp_path: Path, data: Path
) -> None:
    paths = {}
    for sheet in SHEETS[2:]:
        with rasterio.open(data / f"{sheet}.tif") as raster:
            image, profile = raster.read(), raster.profile
        profile["transform"] = profile["transform"] @ profile["transform"].scale(2)
        paths[sheet] = tmp_path / f"{sheet}.tif"
        with rasterio.open(paths[sheet], "w", **profile) as raster:
            raster.write(image)
    table = tmp_path / "sheets.csv"
    lines = run.settings.sheets.read_text("utf-8")
    for sheet, path in paths.items():
        lines = lines.replace(str(data / f"{sheet}.tif"), str(path))
    table.write_text(lines, "utf-8")
    changed = stages.Run(run.settings.model_copy(update={"sheets": table}))
    with pytest.raises(InputError) as caught:
        stages.tile_plan(changed)
    # Two against two: which are the odd ones is open, but both of one kind are named.
    assert str(caught.value).count("sheet 0722") == 2


def test_a_split_without_labels_and_an_absent_class_are_named(
    run: stages.Run, tmp_path: Path
) -> None:
    table = tmp_path / "sheets.csv"
    table.write_text(run.settings.sheets.read_text("utf-8").replace(",test,", ",train,"), "utf-8")
    changed = stages.Run(run.settings.model_copy(update={"sheets": table}))
    before = _files(run.paths.run / "tiles")
    with pytest.raises(InputError, match="split test"):
        stages.tile_plan(changed)
    assert _files(run.paths.run / "tiles") == before


def test_another_runs_folder_is_not_overwritten(run: stages.Run, tmp_path: Path) -> None:
    table = tmp_path / "other.csv"
    shutil.copy(run.settings.sheets, table)
    with pytest.raises(SettingsError, match="another run"):
        config.claim(run.settings.model_copy(update={"sheets": table}))


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))
sys.argv = ["pipeline", *sys.argv[2:]]
runpy.run_module("pipeline", run_name="__main__")
"""


@pytest.mark.parametrize(("step", "limit"), [("label_raster", 4096), ("shard", 100_000)])
def test_a_disk_that_fills_up_leaves_nothing(copied: stages.Run, step: str, limit: int) -> None:
    part, sheet = STEPS[step]
    assert sheet is not None
    folder = copied.paths.run / part
    for path in folder.glob(f"{sheet}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = _files(folder)
    arguments = _command(copied, step, sheet)[3:]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "cannot be written" in done.stderr
    assert "GiB are free" in done.stderr
    assert "Traceback" not in done.stderr
    assert _files(folder) == before


def test_a_map_without_confidence_leaves_no_older_one_beside_it(copied: stages.Run) -> None:
    mapping = copied.settings.mapping.model_copy(update={"confidence": False})
    changed = stages.Run(copied.settings.model_copy(update={"mapping": mapping}))
    before = copied.paths.land_cover_map(SHEETS[3]).read_bytes()
    stages.map_sheet(changed, SHEETS[3])
    assert not copied.paths.confidence(SHEETS[3]).exists()
    assert not copied.paths.confidence(SHEETS[3]).with_suffix(".qml").exists()
    assert copied.paths.land_cover_map(SHEETS[3]).read_bytes() == before
    stages.report(changed)


def test_a_run_split_by_blocks_says_so_in_its_report(data: Path, tmp_path: Path) -> None:
    tiling = {"split": "blocks", "block_px": 300, "test_share": 0.3, "validation_share": 0.2}
    run = stages.Run(_settings(tmp_path, data, "blocks", tiling=tiling))
    _until_shards(run, threads=2)
    stages.train(run)
    splits = set()
    for sheet in SHEETS:
        splits |= set(ShardReader(run.paths.shard(sheet)).manifest.splits)
        stages.map_sheet(run, sheet)
        stages.confusion(run, sheet)
    assert splits == {"train", "validation", "test"}
    stages.report(run)
    page = run.paths.report.read_text("utf-8")
    assert "blocks" in page
    total = 0
    for sheet in SHEETS:
        matrix = from_json(run.paths.confusion(sheet).read_text("utf-8"), sheet)
        total += matrix.pixels
    scores = json.loads(run.paths.scores.read_text("utf-8"))["scores"]
    assert 0 < total == scores["pixels"]
