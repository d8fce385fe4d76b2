"""Search spaces: what can be searched, what people are told, values and labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import config, search_space
from pipeline.config import Settings
from pipeline.errors import SettingsError
from pipeline.sections import Range, TrainingSettings


def settings(folder: Path, tuning: str, training: str = "{}") -> Settings:
    for name in ("sheets.csv", "nomenclature.yaml"):
        (folder / name).touch()
    path = folder / "run.yaml"
    path.write_text(f"training: {training}\ntuning: {tuning}\n", "utf-8")
    return config.load(path)


def mistakes(folder: Path, tuning: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        settings(folder, tuning)
    return list(caught.value.items)


def test_every_mistake_of_a_space_is_told_at_once(tmp_path: Path) -> None:
    text = """
  space:
    training.learning_rat: [0.1, 0.2]
    learning_rate: [0.1]
    tiling.tile_px: [128, 256]
    training.batch_size: {low: 1, high: 4.5}
    training.weight_decay: {low: 0.1, high: 0.01}
    training.gradient_clip: {low: 0, high: 1, log: true}
    training.network: {low: 0, high: 2}
    training.schedule: [cosine, cosin]
    training.workers: [1, 2]
    augmentation.rotation: {low: 0, high: 270}
    augmentation.preset: []
    training.epochs: [2, 2]
    training.class_weights.water: [1, 2]
    training.loss: [dice, {dice: 1, focal: -1}]
    training.loss.dice: [0.5, 1]
"""
    where = "tuning.space"
    assert mistakes(tmp_path, text) == [
        f"{where}.training.learning_rat: is not a setting; did you mean 'training.learning_rate'?",
        f"{where}.learning_rate: is not a setting; write 'training.learning_rate'",
        f"{where}.tiling.tile_px: cannot be searched, only settings of training and augmentation "
        "can",
        f"{where}.training.batch_size: takes whole numbers: low, high and step are whole",
        f"{where}.training.weight_decay: low is less than high, not 0.1 and 0.01",
        f"{where}.training.gradient_clip: low is more than 0 where log is true, not 0",
        f"{where}.training.network: takes no numbers; write a list of its values",
        f"{where}.training.schedule: is one of 'cosine', 'constant', 'one_cycle', 'polynomial', "
        "not 'cosin'",
        f"{where}.training.workers: changes nothing of the result; leave it out",
        f"{where}.augmentation.rotation: is at most 180, not 270.0",
        f"{where}.augmentation.preset: is a list without values",
        f"{where}.training.epochs: 2 stands twice in the list",
        f"{where}.training.class_weights.water: is not a setting; training.class_weights has no "
        "parts",
        f"{where}.training.loss: the weight of focal is a number above 0, not -1",
        f"{where}.training.loss: is searched as a whole and in parts; remove one",
    ]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("training.dropout: 0.5", "is a list of values or a range such as"),
        ("training: {learning_rate: [1, 2]}", "by a dot, such as training.learning_rate"),
        ("training.epochs: {low: 1, hihg: 5}", "did you mean 'high'?"),
        ("training.epochs: {low: a, high: 5}", "training.epochs.low: is a number, not 'a'"),
        ("training.epochs: {low: 1, high: 5, step: 9}", "a step of 9 is longer than the range"),
        ("training.epochs: {low: 1, high: 5, step: 2, log: yes}", "is log or has a step, not both"),
    ],
)
def test_a_range_is_told_from_what_is_none(tmp_path: Path, entry: str, told: str) -> None:
    (mistake, *_) = [m for m in mistakes(tmp_path, f"{{space: {{{entry}}}}}") if told in m]
    assert mistake.startswith("tuning.space.training")


def test_a_grid_has_steps_and_no_more_cells_than_trials(tmp_path: Path) -> None:
    assert mistakes(
        tmp_path, "{sampler: grid, space: {training.learning_rate: {low: 0.1, high: 0.2}}}"
    ) == [
        "tuning.space.training.learning_rate: has no steps, and a grid needs them: write step, or "
        "a list of values"
    ]
    grid = "{sampler: grid, trials: %d, space: {training.batch_size: [1, 2, 4], " \
        "training.label_smoothing: {low: 0, high: 0.3, step: 0.1}}}"  # fmt: skip
    assert mistakes(tmp_path, grid % 11) == [
        "tuning.trials: the grid has 12 cells, more than 11 trials; write 12, or sampler: random"
    ]
    settings(tmp_path, grid % 12)


def test_losses_of_other_losses_are_not_compared(tmp_path: Path) -> None:
    text = "{metric: loss, space: {training.loss.dice: [0.5, 1], augmentation.blur: [0, 1]}}"
    assert mistakes(tmp_path, text) == [
        "tuning.metric: losses cannot be compared where training.loss.dice differs; write mean_iou "
        "or overall_accuracy"
    ]


def test_steps_are_decimal() -> None:
    assert search_space.steps(Range(low=0.1, high=0.5, step=0.1)) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert search_space.steps(Range(low=1, high=6, step=2)) == [1.0, 3.0, 5.0]
    assert search_space.steps(["a", None]) == ["a", None]


def test_choices_are_as_the_setting_takes_them() -> None:
    section = TrainingSettings()
    both = {"dice": 1, "cross_entropy": 0.5}
    assert search_space.choices(section, "loss", ["dice", both]) == {
        "dice": "dice",
        '{"cross_entropy": 0.5, "dice": 1}': both,
    }
    # YAML reads 1e-3 as text.
    assert search_space.choices(section, "learning_rate", ["1e-3", 1]) == {0.001: 0.001, 1.0: 1.0}
    assert search_space.choices(section, "gradient_clip", [None, 1]) == {None: None, 1.0: 1.0}
    assert search_space.choices(section, "loss.dice", [0.5]) == {0.5: 0.5}


@pytest.mark.parametrize(
    ("setting", "whole"),
    [
        ("batch_size", True),
        ("epochs", True),
        ("learning_rate", False),
        ("gradient_clip", False),
        ("optimizer_options.momentum", False),
        ("network", None),
        ("average_weights", None),
    ],
)
def test_whole_numbers_are_known_by_their_setting(setting: str, whole: bool | None) -> None:
    assert search_space.whole(TrainingSettings(), setting) is whole


def test_cells_are_all_combinations_once() -> None:
    found = list(search_space.cells({"a": [1, 2], "b": ["x", "y", "z"]}))
    assert len(found) == 6
    assert found[0] == {"a": 1, "b": "x"}
    assert found[-1] == {"a": 2, "b": "z"}
    assert len({tuple(cell.values()) for cell in found}) == 6


def test_a_trial_has_the_run_s_settings_but_for_its_own(tmp_path: Path) -> None:
    base = settings(tmp_path, "{}", "{loss: {focal: 2, dice: 1}, epochs: 3}")
    changes = {"training.loss.dice": 0.25, "training.batch_size": 4, "augmentation.blur": 0.5}
    trial = config.overridden(base, changes, "trial 7")
    assert trial.training.loss == {"focal": 2.0, "dice": 0.25}
    assert (trial.training.batch_size, trial.augmentation.blur) == (4, 0.5)
    undone = trial.model_copy(update={"training": base.training, "augmentation": base.augmentation})
    assert undone == base
    with pytest.raises(SettingsError, match=r"trial 8: .*\n  training.batch_size: is at least 1"):
        config.overridden(base, {"training.batch_size": 0}, "trial 8")


def test_dotted_names_become_sections() -> None:
    values = {"training.loss.dice": 0.5, "training.epochs": 3, "augmentation.blur": 1.0}
    assert search_space.nested(values) == {
        "training": {"loss": {"dice": 0.5}, "epochs": 3},
        "augmentation": {"blur": 1.0},
    }
