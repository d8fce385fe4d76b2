"""The profiles for SLURM: what they name, and that nothing else names it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import snakemake_executor_plugin_slurm.utils as plugin  # type: ignore[import-untyped]
import yaml
from snakemake_executor_plugin_slurm.validation import (  # type: ignore[import-untyped]
    validate_slurm_extra,
)
from snakemake_executor_plugin_slurm_jobstep import (  # type: ignore[import-untyped]
    get_cpu_setting,
)
from snakemake_interface_common.exceptions import WorkflowError

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


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.parent.name)
def test_cpus_by_gpu_are_for_gpus_that_the_step_knows_of(path: Path) -> None:
    """Inside a job the executor knows those of `gpu`, not those of `gres`."""
    for rule, asked in read(path)["set-resources"].items():
        assert not ({"gres", "cpus_per_gpu"} <= asked.keys()), rule
        assert not ({"gres", "gpu"} <= asked.keys()), rule


class _Job:
    """A job of the plugin that asks for these."""

    def __init__(self, **asked: Any) -> None:
        self.threads = 8
        self.resources = _Resources(asked)


class _Resources(dict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def test_the_page_is_right_about_cpus_and_kinds_of_gpus() -> None:
    page = (ROOT / "slurm" / "README.md").read_text("utf-8")
    for text in ("gres: gpu:1g.10gb:1", "gres: gpu:a100:1", "gpu_model", "cpus_per_task: 32"):
        assert text in page
    for kind in ("gpu:1g.10gb:1", "gpu:a100:1"):
        assert plugin.set_gres_string(_Job(gres=kind)) == f" --gres={kind}"
    hyphens = "nvidia_a100-sxm4-40gb"
    for asked in ({"gres": f"gpu:{hyphens}:1"}, {"gpu": 1, "gpu_model": hyphens}):
        with pytest.raises(WorkflowError, match="Invalid G"):
            plugin.set_gres_string(_Job(**asked))
    instead = f"--signal=USR1@120 --gpus-per-node={hyphens}:1"
    assert f"slurm_extra: {instead}" in page
    validate_slurm_extra(_Job(slurm_extra=instead))
    # Of four GPUs by `gres`, inside the job (no SLURM_GPUS): those of one, and those of all.
    assert get_cpu_setting(_Job(gres="gpu:a100:4", cpus_per_gpu=8), None) == "--cpus-per-task=8"
    assert get_cpu_setting(_Job(gres="gpu:a100:4", cpus_per_task=32), None) == "--cpus-per-task=32"
    assert get_cpu_setting(_Job(gpu=4, cpus_per_gpu=8), "4") == "--cpus-per-gpu=8"
