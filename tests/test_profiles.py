"""The profiles for SLURM: what they name, and that nothing else names it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import read_yaml
from pipeline.launcher import launcher

ROOT = Path(__file__).resolve().parents[1]
PROFILES = (ROOT / "slurm" / "config.yaml", ROOT / "slurm" / "accelerated" / "config.yaml")
RULES = {
    name
    for path in (ROOT / "workflows").glob("*.smk")
    for name in re.findall(r"^rule (\w+):", path.read_text("utf-8"), flags=re.M)
}
OF_A_CLUSTER = (
    r"slurm_partition|slurm_account\b|slurm_extra|\bconstraint\s*[:=]|\bqos\b|\bgres\s*[:=]"
)


def read(path: Path) -> dict[str, Any]:
    """A profile; a key that stands twice is an error, which YAML itself would pass over."""
    content: dict[str, Any] = read_yaml(path)
    return content


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.parent.name)
def test_profiles_speak_of_rules_that_there_are(path: Path) -> None:
    profile = read(path)
    assert profile["set-resources"].keys() | profile["groups"].keys() <= RULES
    assert set(profile["group-components"]) <= set(profile["groups"].values())


def test_profiles_differ_in_what_a_cluster_has_only() -> None:
    one, other = map(read, PROFILES)
    differing = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    assert differing == {
        "jobs", "cores", "slurm-status-command", "latency-wait", "default-resources",
        "set-resources",
    }  # fmt: skip


def test_nothing_but_profiles_names_what_a_cluster_has() -> None:
    files = [ROOT / "Snakefile"]
    for folder in ("workflows", "pipeline", "configs"):
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    naming = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files
        if path.suffix in (".py", ".smk", ".yaml", ".csv", "")
        for line in path.read_text("utf-8").splitlines()
        if re.search(OF_A_CLUSTER, line)
    ]
    assert naming == []


def test_the_lines_for_several_nodes_are_those_of_the_example() -> None:
    """As they stand behind their `#`: taken in, a rule starts as many processes as GPUs."""
    text = PROFILES[0].read_text("utf-8")
    section = text[text.index("  train:\n") : text.index("  tune:\n")]
    lines = re.findall(r"^    # (\w+: .*)$", section, flags=re.M)
    hidden = yaml.safe_load("\n".join(lines))
    assert hidden.keys() == {"nodes", "gres", "tasks", "tasks_per_gpu", "mpi"}
    shown = read(PROFILES[1])["set-resources"]["train"]
    assert {**hidden, "gres": "gpu:v100:1"}.items() <= shown.items()
    assert launcher(hidden, 8).startswith("srun --nodes=2 --ntasks=2 --ntasks-per-node=1 ")
