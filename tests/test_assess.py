"""From interpreted samples and full references to estimates; and whether their intervals hold."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from pipeline import area_estimates, cli, config, geotiff, stages, styles
from pipeline.area_estimates import Z
from pipeline.class_rasters import NOMENCLATURE_TAG, sidecars
from pipeline.counting import pair_counts
from pipeline.errors import InputError, SettingsError, TeselaError
from pipeline.full_reference import count_pairs
from pipeline.geotiff import RasterWriter
from pipeline.grid import PixelGrid, Window
from pipeline.ground_area import row_areas_m2
from pipeline.map_digest import maps_digest
from pipeline.nomenclature import IGNORE
from pipeline.reporting import render_report
from pipeline.run import Run
from pipeline.sample_design import Rule, allocate, expected_se, least_size
from pipeline.sample_draw import SheetMap, count_strata, draw
from pipeline.sample_files import read_sample
from pipeline.stages import SampleDesign
from pipeline.stratified_shares import stratified_shares
from tests.report_values import full_report

NAMES, COLORS = ("Forest", "Built-up", "Water"), ("#109C69", "#DC1E1E", "#0000FF")
NOMENCLATURE = "classes:\n" + "".join(
    f'  - {{name: {name}, covers: [{cover}], color: "{color}"}}\n'
    for name, cover, color in zip(NAMES, ("FDC", "EDF", "AEM"), COLORS, strict=True)
)
GRID = PixelGrid("EPSG:25830", 700_000.0, 4_400_000.0, 0.5, 0.5, 90, 70)

Raster = Callable[..., Path]


def _truth() -> NDArray[np.uint8]:
    ids = np.zeros((GRID.height, GRID.width), np.uint8)
    ids[10:40, 20:70] = 1
    ids[50:65, 5:80] = 2
    return ids


def _map() -> NDArray[np.uint8]:
    """The truth two pixels further down and five further right, with a gap."""
    ids = np.roll(_truth(), (2, 5), (0, 1))
    ids[:4, :9] = IGNORE
    return ids


@pytest.fixture
def raster(tmp_path: Path) -> Raster:
    def write(
        name: str,
        ids: NDArray[np.uint8],
        tag: str = "",
        grid: PixelGrid = GRID,
        legend: bool = True,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tags = {NOMENCLATURE_TAG: tag} if tag else {}
        with RasterWriter(path, grid, "uint8", IGNORE, COLORS, tags) as target:
            target.write(grid.window, ids)
        if legend:
            sidecars(path)[0].write_text(styles.class_pam(NAMES, COLORS), "utf-8")
        return path

    return write


@pytest.fixture
def run(tmp_path: Path, raster: Raster) -> Run:
    """A run of one sheet that is mapped, with a sample of 60 points drawn from it."""
    raster("data/s.tif", _truth())
    (tmp_path / "sheets.csv").write_text(
        "sheet,orthophoto,siose,split\ns,data/s.tif,,map\n", "utf-8"
    )
    (tmp_path / "classes.yaml").write_text(NOMENCLATURE, "utf-8")
    values = {
        "run": str(tmp_path / "run"), "sheets": str(tmp_path / "sheets.csv"),
        "nomenclature": str(tmp_path / "classes.yaml"),
    }  # fmt: skip
    run = Run(config.from_mapping(values, "test settings"))
    raster("run/maps/s.tif", _map(), run.nomenclature.fingerprint)
    stages.sample(run, SampleDesign(size=60, minimum=10, seed=2), chips=False)
    return run


def _without_triggers(base: sqlite3.Connection) -> None:
    """The index of geometries is nothing that plain SQLite knows."""
    for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        base.execute(f'DROP TRIGGER "{name}"')


def _interpret(sample: Path, most: int = 1000) -> NDArray[np.int64]:
    """Fill the points up to an id with the truth; the matrix of what was filled."""
    seen, matrix = _truth(), np.zeros((3, 3), np.int64)
    with closing(sqlite3.connect(sample)) as base:
        _without_triggers(base)
        points = base.execute("SELECT id, row, col, stratum FROM sample").fetchall()
        for number, row, col, stratum in points:
            if number <= most:
                name = NAMES[seen[row, col]]
                base.execute("UPDATE sample SET reference = ? WHERE id = ?", (name, number))
                matrix[stratum, seen[row, col]] += 1
        base.commit()
    return matrix


# Samples


def test_a_runs_sample_is_assessed(run: Run) -> None:
    matrix = _interpret(run.paths.sample)
    beside = run.paths.area_estimates.with_suffix(".points.csv")
    beside.write_text("of points that were drawn elsewhere", "utf-8")
    estimates = stages.assess(run)
    assert not beside.exists()
    ids = _map()
    mapped = np.bincount(ids[ids != IGNORE], minlength=3) * 0.25
    expected = replace(
        area_estimates.estimate(NAMES, matrix, mapped, pixels=(mapped * 4).astype(int)),
        sheets=("s",), splits=("map",), maps=maps_digest({"s": run.paths.land_cover_map("s")}),
        interpretation=read_sample(run.paths.sample).digest,
    )  # fmt: skip
    assert estimates.as_json() == expected.as_json()
    assert run.paths.area_estimates.read_text("utf-8") == expected.as_json()
    assert run.paths.area_estimates_table.read_text("utf-8") == expected.as_csv()
    assert matrix.sum() == estimates.points == 60
    assert (np.diagonal(matrix) < matrix.sum(axis=1)).any()


def test_points_that_nobody_has_interpreted_are_told_with_their_ids(run: Run) -> None:
    with pytest.raises(InputError, match=r"60 of 60 points are not interpreted yet") as caught:
        stages.assess_sample(run.paths.sample, partial=True)
    assert "--partial" not in str(caught.value)
    matrix = _interpret(run.paths.sample, most=35)
    with pytest.raises(InputError, match=r"25 of 60 points are not interpreted yet") as caught:
        stages.assess(run)
    assert caught.value.items == tuple(f"id {number}" for number in range(36, 61))
    assert "--partial" in caught.value.remedy
    assert not run.paths.area_estimates.exists()
    estimates = stages.assess(run, partial=True)
    np.testing.assert_array_equal(estimates.sample, matrix)
    assert (estimates.points, estimates.pending) == (35, 25)
    assert json.loads(run.paths.area_estimates.read_text("utf-8"))["pending"] == 25


def test_points_that_were_skipped_are_told_with_the_classes_they_hit(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """All but one point of a class left empty: that is no chance."""
    _interpret(run.paths.sample)
    with closing(sqlite3.connect(run.paths.sample)) as base:
        mapped = [row[0] for row in base.execute("SELECT id FROM sample WHERE stratum = 2")]
        base.execute(
            "UPDATE sample SET reference = ' ' WHERE stratum = 2 AND id > ? OR id > 58",
            (min(mapped),),
        )
        base.commit()
    skipped = sorted(number for number in mapped if min(mapped) < number <= 58)
    assert len(skipped) > 5
    estimates = stages.assess(run, partial=True)
    assert estimates.skipped == (0, 0, len(skipped))
    assert estimates.pending == len({*skipped, 59, 60})
    first = ", ".join(map(str, skipped[:5]))
    assert f"{len(skipped)} points were skipped" in caplog.text
    assert f"mapped as Water: {len(skipped)}; ids {first}, ..." in caplog.text
    assert json.loads(run.paths.area_estimates.read_text("utf-8"))["skipped"] == [
        0, 0, len(skipped),
    ]  # fmt: skip
    text = run.paths.area_estimates.read_text("utf-8")
    assert area_estimates.from_json(text, "e.json").as_json() == text


def test_the_report_tells_of_points_that_were_skipped() -> None:
    data = full_report()
    assert data.estimates is not None
    skipped = replace(data.estimates, pending=9, skipped=(0, 4, 1))
    told = "5 of them were skipped, though points behind them are interpreted"
    assert told in render_report(replace(data, estimates=skipped))
    assert told not in render_report(replace(data, estimates=replace(skipped, skipped=())))


def test_a_sample_that_was_stopped_midway_has_no_skipped_points(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    _interpret(run.paths.sample, most=35)
    assert stages.assess(run, partial=True).skipped == ()
    assert "the last 25 of 60 points by id are not interpreted" in caplog.text
    assert "skipped" not in caplog.text


def test_unknown_classes_are_told_all_at_once(run: Run) -> None:
    _interpret(run.paths.sample)
    with closing(sqlite3.connect(run.paths.sample)) as base:
        base.execute("UPDATE sample SET reference = 'Forrest' WHERE id IN (3, 9)")
        base.commit()
    with pytest.raises(InputError) as caught:
        stages.assess(run)
    assert len(caught.value.items) == 2
    assert "id 3" in caught.value.items[0]
    assert "did you mean 'Forest'" in caught.value.items[1]


def test_the_sample_of_other_classes_is_not_that_of_the_run(run: Run) -> None:
    _interpret(run.paths.sample)
    with closing(sqlite3.connect(run.paths.sample)) as base:
        base.execute("UPDATE design SET value = 'other' WHERE key = 'nomenclature'")
        base.commit()
    with pytest.raises(InputError, match="made with another nomenclature"):
        stages.assess(run)
    assert stages.assess_sample(run.paths.sample).points == 60


def test_the_sample_of_maps_that_were_made_anew_is_refused(
    run: Run, raster: Raster, caplog: pytest.LogCaptureFixture
) -> None:
    _interpret(run.paths.sample)
    first = stages.assess(run)
    raster("run/maps/s.tif", _map(), run.nomenclature.fingerprint)  # the same once more
    assert stages.assess(run).as_json() == first.as_json()
    raster("run/maps/s.tif", _truth(), run.nomenclature.fingerprint)
    with pytest.raises(InputError, match="made anew since the sample was drawn") as caught:
        stages.assess(run)
    assert caught.value.items == ("sheets: s",)
    assert stages.assess_sample(run.paths.sample).maps == first.maps
    run.paths.land_cover_map("s").unlink()
    with pytest.raises(InputError, match="made anew since the sample was drawn"):
        stages.assess(run)
    with closing(sqlite3.connect(run.paths.sample)) as base:
        base.execute("DELETE FROM design WHERE key = 'maps_digest'")
        base.commit()
    assert stages.assess(run).maps == ""
    assert "does not say which maps it was drawn from" in caplog.text
    with closing(sqlite3.connect(run.paths.sample)) as base:
        base.execute("UPDATE design SET value = '{' WHERE key = 'maps'")
        base.commit()
    with pytest.raises(InputError, match="does not say its maps"):
        stages.assess(run)


def test_the_finite_population_correction_shortens_the_papers_intervals(run: Run) -> None:
    _interpret(run.paths.sample)
    plain, finite = (stages.assess_sample(run.paths.sample, finite=f) for f in (False, True))
    assert (finite.area_ci_m2 < plain.area_ci_m2).all()
    np.testing.assert_array_equal(finite.area_m2, plain.area_m2)


# Full references


@pytest.mark.parametrize("crs", ["EPSG:25830", "EPSG:4258"])
def test_all_pairs_are_counted_whatever_the_bands(crs: str) -> None:
    size = 0.5 if crs == "EPSG:25830" else 0.01
    grid = PixelGrid(crs, -1.0, 40.0, size, size, GRID.width, GRID.height)
    mapped, real = _map(), _truth()
    real[:, 80:] = IGNORE
    sheet = SheetMap("s", grid, lambda window: mapped[window.slices()])
    found = [
        count_pairs(sheet, lambda window: real[window.slices()], 3, threads, rows)
        for threads, rows in ((1, 1), (2, 13), (1, 512))
    ]
    area = np.broadcast_to(row_areas_m2(grid)[:, None], mapped.shape)
    for one in found:
        for i, j in np.ndindex(3, 3):
            pair = (mapped == i) & (real == j)
            assert one.pixels[i, j] == pair.sum()
            assert one.areas_m2[i, j] == pytest.approx(area[pair].sum(), rel=1e-12)
        assert one.unmapped == ((mapped == IGNORE) & (real != IGNORE)).sum() == 36
        assert one.unreferenced == ((mapped != IGNORE) & (real == IGNORE)).sum() == 700
        np.testing.assert_array_equal(one.areas_m2, found[0].areas_m2)


def test_a_full_reference_is_counted_and_sampled(tmp_path: Path, raster: Raster) -> None:
    map_file, reference = raster("m.tif", _map(), "a"), raster("t.tif", _truth(), legend=False)
    out = tmp_path / "out" / "e.json"
    found = stages.assess_reference(
        map_file, reference, out, design=SampleDesign(size=400, minimum=50, seed=1)
    )
    pairs = pair_counts(_map(), _truth())[:3, :3]
    np.testing.assert_array_equal(found.exact.sample, pairs)
    np.testing.assert_allclose(found.exact.area_m2, pairs.sum(axis=0) / 4)
    assert found.exact.overall == pytest.approx(np.trace(pairs) / pairs.sum())
    assert found.exact.overall_ci == 0
    assert found.sampled is not None
    assert found.sampled.points == 400
    assert (found.sampled.sample <= pairs).all()
    assert abs(found.sampled.overall - found.exact.overall) < 2 * found.sampled.overall_ci
    files = {path.name: path.read_text("utf-8") for path in out.parent.iterdir()}
    assert files == {
        "e.json": found.exact.as_json(), "e.csv": found.exact.as_csv(),
        "e.sample.json": found.sampled.as_json(), "e.sample.csv": found.sampled.as_csv(),
    }  # fmt: skip
    again = stages.assess_reference(
        map_file, reference, design=SampleDesign(size=400, minimum=50, seed=1), threads=3
    )
    assert again.sampled is not None
    assert again.sampled.as_json() == files["e.sample.json"]


@pytest.mark.parametrize(("size", "minimum"), [(20, 50), (12, 0), (10**6, 50)])
def test_the_exact_result_outlives_a_sample_that_cannot_be_drawn(
    tmp_path: Path, raster: Raster, size: int, minimum: int
) -> None:
    ids = _map()
    ids[ids == 2] = 0
    ids[0, 10:14] = 2
    map_file, reference = raster("m.tif", ids, "a"), raster("t.tif", _truth(), legend=False)
    files = ["assess", "--map", str(map_file), "--reference", str(reference)]
    options = ["--out", str(tmp_path / "e.json"), "--size", str(size), "--minimum", str(minimum)]
    answer = CliRunner().invoke(cli.app, [*files, *options])
    assert isinstance(answer.exception, SettingsError)
    pairs = pair_counts(ids, _truth())[:3, :3]
    text = (tmp_path / "e.json").read_text("utf-8")
    exact = area_estimates.from_json(text, "e.json")
    np.testing.assert_array_equal(exact.sample, pairs)
    assert (exact.sheets, exact.maps) == (("m",), maps_digest({"m": map_file}))
    assert "Overall accuracy" in answer.stdout
    assert not (tmp_path / "e.sample.json").exists()


def test_a_sample_of_rows_that_do_not_cover_as_much_ground_is_refused(raster: Raster) -> None:
    grid = PixelGrid("EPSG:4258", -6.0, 43.5, 0.01, 0.01, 90, 70)
    told: list[area_estimates.AreaEstimates] = []
    with pytest.raises(InputError, match="near the equator"):
        stages.assess_reference(
            raster("m.tif", _map(), grid=grid), raster("t.tif", _truth(), grid=grid),
            design=SampleDesign(400), counted=told.append,
        )  # fmt: skip
    assert len(told) == 1


def test_a_sample_of_all_pixels_is_the_reference(raster: Raster) -> None:
    pixels = int((_map() != IGNORE).sum())
    found = stages.assess_reference(
        raster("m.tif", _map()), raster("t.tif", _truth()), design=SampleDesign(size=pixels)
    )
    assert found.sampled is not None
    np.testing.assert_array_equal(found.sampled.sample, found.exact.sample)
    assert found.sampled.area_ci_m2.tolist() == [0, 0, 0]


def test_a_reference_may_be_of_a_part_of_the_map(raster: Raster) -> None:
    part = PixelGrid("EPSG:25830", 700_010.0, 4_399_990.0, 0.5, 0.5, 40, 30)
    place = Window(20, 20, 40, 30)
    reference = raster("t.tif", _truth()[place.slices()], grid=part)
    found = stages.assess_reference(raster("m.tif", _map()), reference)
    expected = pair_counts(_map()[place.slices()], _truth()[place.slices()])[:3, :3]
    np.testing.assert_array_equal(found.exact.sample, expected)


def test_references_that_do_not_fit_are_refused(tmp_path: Path, raster: Raster) -> None:
    map_file = raster("m.tif", _map(), "a")
    strange = _truth()
    strange[0, :7] = 9
    with pytest.raises(InputError) as caught:
        stages.assess_reference(map_file, raster("strange.tif", strange))
    assert caught.value.items == ("reference: 7 pixels of 9",)
    shifted = PixelGrid("EPSG:25830", 700_000.2, 4_400_000.0, 0.5, 0.5, 90, 70)
    with pytest.raises(InputError, match=r"shifted by 0\.4 columns") as caught:
        stages.assess_reference(map_file, raster("shifted.tif", _truth(), grid=shifted))
    assert "gdalwarp -r near" in caught.value.remedy
    with pytest.raises(InputError, match="have other classes than each other"):
        stages.assess_reference(map_file, raster("other.tif", _truth(), "b"))
    with pytest.raises(InputError, match="no pixel that both say a class of"):
        stages.assess_reference(map_file, raster("empty.tif", np.full_like(_truth(), IGNORE)))
    with pytest.raises(SettingsError, match="map and reference at once"):
        stages.assess_reference(map_file, map_file)
    with pytest.raises(SettingsError, match=r"its name ends in \.json"):
        stages.assess_reference(map_file, raster("t.tif", _truth()), tmp_path / "m.tif")


# The command


def test_the_command_prints_hectares_and_per_cent(
    run: Run, tmp_path: Path, raster: Raster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.progress.stdout.width", 120)
    runner = CliRunner()
    settings = tmp_path / "run.yaml"
    settings.write_text(
        f"run: {run.paths.run}\nsheets: {tmp_path / 'sheets.csv'}\n"
        f"nomenclature: {tmp_path / 'classes.yaml'}\n", "utf-8",
    )  # fmt: skip
    _interpret(run.paths.sample)
    answers = [
        runner.invoke(cli.app, ["assess", *options])
        for options in (
            ["--config", str(settings)],
            ["--sample", str(run.paths.sample), "--out", str(tmp_path / "e.json")],
        )
    ]
    assert [answer.exit_code for answer in answers] == [0, 0]
    assert answers[0].stdout == answers[1].stdout
    of_run = run.paths.area_estimates.read_text("utf-8")
    of_file = (tmp_path / "e.json").read_text("utf-8")
    assert of_file == of_run.replace('"splits": ["map"]', '"splits": []')
    estimates = area_estimates.from_json((tmp_path / "e.json").read_text("utf-8"), "e.json")
    forest = next(line for line in answers[0].stdout.splitlines() if "Forest" in line).split()
    low, high = estimates.area_limits_m2[0] / 1e4
    assert forest[2:9] == [
        f"{estimates.mapped_area_m2[0] / 1e4:.2f}", f"{estimates.area_m2[0] / 1e4:.2f}", "±",
        f"{estimates.area_ci_m2[0] / 1e4:.2f}", f"{low:.2f}", "to", f"{high:.2f}",
    ]  # fmt: skip
    assert f"Overall accuracy: {100 * estimates.overall:.1f}" in answers[0].stdout
    files = [
        "--map",
        str(run.paths.land_cover_map("s")),
        "--reference",
        str(raster("t.tif", _truth())),
    ]
    both = runner.invoke(cli.app, ["assess", *files, "--size", "200", "--minimum", "20"])
    assert both.exit_code == 0
    assert "from 200 points" in both.stdout
    assert "in truth" in both.stdout


@pytest.mark.parametrize(
    "options",
    [
        [], ["--map", "a.tif"], ["--reference", "a.tif"], ["--sample", "a", "--map", "b"],
        ["--sample", "a", "--size", "9"], ["--map", "a", "--reference", "b", "--partial"],
        ["--config", "a.yaml", "--out", "b.json"],
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(options: list[str]) -> None:
    answer = CliRunner().invoke(cli.app, ["assess", *options])
    assert isinstance(answer.exception, SettingsError)
    assert isinstance(answer.exception, TeselaError)


@pytest.mark.parametrize(
    "files", [["--config", "a"], ["--sample", "a"], ["--map", "a", "--reference", "b"]]
)
@pytest.mark.parametrize(
    "option", [["--allocation", "equal"], ["--minimum", "50"], ["--seed", "0"]], ids=" ".join
)
def test_options_of_a_drawing_ask_for_its_size(files: list[str], option: list[str]) -> None:
    answer = CliRunner().invoke(cli.app, ["assess", *files, *option])
    assert isinstance(answer.exception, SettingsError)
    assert option[0] in str(answer.exception)
    assert "--size" in str(answer.exception)


# Whether the intervals hold


@pytest.fixture(scope="module")
def scene(shared_data: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A real scene's truth, and a map of it: shifted, and one square in sixteen confused."""
    with geotiff.RasterReader(shared_data / "dubai" / "truth" / "scene_6.tif") as reader:
        truth = reader.read_band(reader.grid.window)
    mapped = np.roll(truth, (3, 4), (0, 1))
    random = np.random.default_rng(7)
    for window in PixelGrid("", 0, 0, 1, 1, truth.shape[1], truth.shape[0]).blocks(48):
        if random.random() < 1 / 16:
            mapped[window.slices()] = random.choice(5, p=[0.3, 0.35, 0.05, 0.05, 0.25])
    mapped[truth == IGNORE] = IGNORE
    truth[mapped == IGNORE] = IGNORE
    return mapped, truth


def _held(limits: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """In which share of the samples the truth lies between the limits."""
    return np.asarray(((limits[..., 0] <= truth) & (truth <= limits[..., 1])).mean(axis=0))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("rule", "target", "minimum"),
    [("proportional", 0.01, 50), ("neyman", 0.01, 50), ("neyman", 0.015, 50), ("equal", 0.01, 0)],
)
def test_intervals_hold_the_truth_in_93_to_97_of_100_samples_of_a_real_scene(
    scene: tuple[NDArray[np.uint8], NDArray[np.uint8]], rule: Rule, target: float, minimum: int
) -> None:
    """2000 samples, as simple random sampling without replacement in each class gives them."""
    pairs = pair_counts(*scene)[:5, :5]
    mapped, real, right = pairs.sum(axis=1), pairs.sum(axis=0), np.diagonal(pairs)
    size = least_size(mapped, right / mapped, target, rule, minimum, mapped)
    sizes = allocate(mapped, size, rule, minimum, right / mapped, mapped)
    random = np.random.default_rng(1)
    samples = np.stack(
        [
            random.multivariate_hypergeometric(row, n, size=2000, method="marginals")
            for row, n in zip(pairs, sizes, strict=True)
        ],
        axis=1,
    )
    shares = stratified_shares(samples, mapped)
    area, overall = real / pairs.sum(), np.asarray(right.sum() / pairs.sum())
    for held in (
        _held(shares.area_limits, area),
        _held(shares.producers_limits, right / real),
        _held(shares.overall_limits, overall),
    ):
        assert ((held >= 0.93) & (held <= 0.97)).all(), held
    # The user's accuracy is a single binomial share: it goes in steps of a point, and what of them
    # lies between the limits changes by some hundredths with each.
    held = _held(shares.users_limits, right / mapped)
    assert ((held >= 0.92) & (held <= 0.98)).all(), held
    # The sample has the standard error that it was planned for.
    assert expected_se(mapped, right / mapped, sizes) == pytest.approx(target, rel=0.01)
    assert shares.overall.std() == pytest.approx(target, rel=0.05)
    # The estimates are right on average, within three of their means' own standard errors.
    mean_error = np.abs(shares.area.mean(axis=0) - area)
    assert (mean_error < 3 * shares.area.std(axis=0) / np.sqrt(2000)).all()
    # The paper's intervals hold the overall accuracy and the areas of what is common. Roads and
    # buildings, 0.8 and 1.8 % of the ground, hide in large strata: there they are too short.
    papers = np.abs(shares.area - area) <= Z * shares.area_se
    common = area > 0.1
    assert common.tolist() == [True, True, False, False, True]
    assert ((papers.mean(axis=0)[common] >= 0.93) & (papers.mean(axis=0)[common] <= 0.97)).all()
    assert (papers.mean(axis=0)[~common] < 0.93).all()
    accuracies = np.abs(shares.overall - overall) <= Z * shares.overall_se
    assert 0.93 <= accuracies.mean() <= 0.97


@pytest.mark.real_data
def test_samples_that_are_really_drawn_from_a_real_scene_hold_its_areas(
    scene: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    mapped, truth = scene
    grid = PixelGrid("EPSG:32640", 368_000.0, 2_790_000.0, 0.5, 0.5, *mapped.shape[::-1])
    strata = count_strata([SheetMap("s", grid, lambda window: mapped[window.slices()])], 5)
    sizes = allocate(strata.area_m2, 500, "proportional", 50)
    area = np.bincount(truth[truth != IGNORE]) / (truth != IGNORE).sum()
    held = np.zeros(5, np.int64)
    for seed in range(20):
        sample = np.zeros((5, 5), np.int64)
        for point in draw(strata, sizes, seed):
            sample[point.stratum, truth[point.row, point.col]] += 1
        assert sample.sum(axis=1).tolist() == sizes.tolist()
        shares = stratified_shares(sample, strata.area_m2)
        held += (shares.area_limits[:, 0] <= area) & (area <= shares.area_limits[:, 1])
    # Of 20 intervals of 95 %, fewer than 16 hold once in 400 times.
    assert (held >= 16).all()
