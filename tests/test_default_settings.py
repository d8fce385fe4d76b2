"""configs/default.yaml names every setting with its default and one comment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from pipeline import config, nomenclature, sections
from pipeline.sheets import read_sheets

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def leaves(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Settings by dotted name."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def commented(text: str) -> dict[str, int]:
    """Comment lines directly above each setting, and behind it, by dotted name."""
    counts: dict[str, int] = {}
    section, above = "", 0
    for line in text.splitlines():
        content = line.strip()
        if content.startswith("#"):
            above += 1
            continue
        if content:
            key, value = content.split(":", 1)
            if not line.startswith(" "):
                section = ""
            if value.split("#")[0].strip():
                counts[section + key] = above + ("#" in value)
            else:
                section = f"{key}."
        above = 0
    return counts


def test_the_file_has_every_default_and_nothing_else() -> None:
    written = yaml.safe_load((CONFIGS / "default.yaml").read_text(encoding="utf-8"))
    assert leaves(written) == leaves(config.Settings().model_dump(mode="json"))


def test_the_file_has_the_order_of_the_sections() -> None:
    written = yaml.safe_load((CONFIGS / "default.yaml").read_text(encoding="utf-8"))
    assert list(leaves(written)) == list(leaves(config.Settings().model_dump(mode="json")))


def test_every_setting_has_exactly_one_comment() -> None:
    counts = commented((CONFIGS / "default.yaml").read_text(encoding="utf-8"))
    names = set(leaves(config.Settings().model_dump(mode="json")))
    assert set(counts) == names
    assert {name: count for name, count in counts.items() if count != 1} == {}


def test_comments_name_the_choices() -> None:
    text = (CONFIGS / "default.yaml").read_text(encoding="utf-8").splitlines()
    above = {line.split(":")[0].strip(): text[i - 1] for i, line in enumerate(text) if ":" in line}
    missing = []
    kinds: list[type[BaseModel]] = [
        sections.SioseSettings,
        sections.LabelSettings,
        sections.TilingSettings,
        sections.AugmentationSettings,
        sections.TrainingSettings,
        sections.TuningSettings,
        sections.MappingSettings,
    ]
    for section in kinds:
        for key, prop in section.model_json_schema()["properties"].items():
            missing += [f"{key}: {c}" for c in prop.get("enum", []) if c not in above[key]]
    assert missing == []


def test_counting_sees_a_missing_and_a_doubled_comment() -> None:
    text = "# one\na: 1\nb: 2\ns:\n  # one\n  # two\n  c: 3\n  d: 4  # behind\n"
    assert commented(text) == {"a": 1, "b": 0, "s.c": 2, "s.d": 1}


def test_the_demo_settings_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    settings = config.load(Path("configs/default.yaml"), Path("configs/demo.yaml"))
    assert settings == config.load(Path("configs/demo.yaml"))
    sheets = read_sheets(settings.sheets)
    assert [sheet.split for sheet in sheets.values()] == ["train", "train", "validation", "test"]
    assert settings.training.max_minutes is None
    classes = nomenclature.parse(config.read_yaml(settings.nomenclature), "demo")
    assert len(classes) == 6
    resolver = classes.resolver(nomenclature.siose_ar_codelist())
    assert resolver.class_of(101) == classes.names.index("built-up")
