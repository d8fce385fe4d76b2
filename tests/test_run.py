"""What a run says of sheets that its table does not have, or has without labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import config, stages
from pipeline.errors import SettingsError
from pipeline.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of a test sheet and of one that is only mapped, of which no step was made."""
    (tmp_path / "sheets.csv").write_text(
        "sheet,orthophoto,siose,split\nt,t.tif,t.gpkg,test\nm,m.tif,,map\n", "utf-8"
    )
    (tmp_path / "classes.yaml").write_text(
        'classes:\n  - {name: Forest, covers: [FDC], color: "#109C69"}\n'
        '  - {name: Water, covers: [AEM], color: "#0000FF"}\n',
        "utf-8",
    )
    values = {
        "run": str(tmp_path / "run"), "sheets": str(tmp_path / "sheets.csv"),
        "nomenclature": str(tmp_path / "classes.yaml"),
    }  # fmt: skip
    return Run(config.from_mapping(values, "test settings"))


def test_a_sheet_that_has_labels_is_given(run: Run) -> None:
    assert run.labelled_sheet("t") == run.sheets["t"]


@pytest.mark.parametrize("step", [stages.confusion, stages.evaluation, stages.error_raster])
def test_steps_that_judge_a_map_refuse_a_sheet_without_labels(
    run: Run, step: Callable[[Run, str], None]
) -> None:
    with pytest.raises(SettingsError) as refused:
        step(run, "m")
    assert str(refused.value) == (
        "sheet m: has no labels to judge its map by (split map).\n"
        f"Name a sheet that has another `split` in {run.settings.sheets}."
    )


@pytest.mark.parametrize("step", [stages.confusion, stages.evaluation, stages.error_raster])
def test_steps_that_judge_a_map_refuse_a_sheet_that_the_table_lacks(
    run: Run, step: Callable[[Run, str], None]
) -> None:
    with pytest.raises(SettingsError, match="there is no sheet 'x'"):
        step(run, "x")
