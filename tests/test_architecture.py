"""Who may import whom, one home a library, and files that must say the same."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pipeline"

# In the order of the data: a module may import earlier ones, never a later one.
ORDER = [
    "errors",
    "named_systems",
    "grid",
    "ragged",
    "paths",
    "publication",
    "codelists",
    "cover_rules",
    "nomenclature",
    "cover_resolver",
    "setting_types",
    "sections",
    "search_space",
    "config",
    "sheets",
    "progress",
    "numerals",
    "ground_area",
    "styles",
    "geotiff",
    "block_raster",
    "block_reader",
    "resampling",
    "imagery",
    "orthophotos",
    "geopackage",
    "proportions",
    "rotulo",
    "siose_xml",
    "mending",
    "topology",
    "siose_files",
    "siose_tables",
    "siose_columns",
    "siose_codelists",
    "siose_base",
    "siose_polygons",
    "siose_rows",
    "siose_values",
    "siose_covers",
    "siose_problems",
    "siose",
    "counting",
    "overviews",
    "cog",
    "block_rows",
    "map_store",
    "block_sweep",
    "scanline",
    "labels",
    "area_of_interest",
    "siose_summary",
    "siose_check",
    "tiling",
    "records",
    "shards",
    "node_cache",
    "strips",
    "slurm_jobs",
    "heartbeats",
    "snakemake_start",
    "slurm_states",
    "slurm_runs",
    "unrecorded",
    "slurm_accounting",
    "launcher",
    "clusters",
    "parallel",
    "following",
    "diagnosis",
    "tuning_methods",
    "tuning_study",
    "tuning",
    "networks",
    "checkpoint",
    "draws",
    "augmentation",
    "class_balance",
    "training_data",
    "batches",
    "losses",
    "objective",
    "batch_statistics",
    "schedules",
    "optimizers",
    "gpus",
    "devices",
    "interruption",
    "training_state",
    "validation",
    "divergence",
    "training_course",
    "training",
    "onnx_graphs",
    "backends",
    "onnx_export",
    "windows",
    "sheet_rows",
    "blending",
    "prediction",
    "mapping",
    "majority",
    "patch_table",
    "borders",
    "patches",
    "generalisation",
    "cleaning",
    "chains",
    "pieces",
    "arcs",
    "arc_simplification",
    "patch_polygons",
    "vectors",
    "vector_files",
    "siose_shares",
    "backend_trials",
    "scores",
    "confusion",
    "study_tables",
    "judged_ground",
    "nearness",
    "outlines",
    "calibration",
    "ground_blocks",
    "evaluation",
    "tile_scores",
    "bootstrap",
    "sample_design",
    "stratified_shares",
    "area_estimates",
    "sample_draw",
    "full_reference",
    "area_tables",
    "own_ground",
    "map_digest",
    "sample_chips",
    "sample_form",
    "interpretation",
    "sample_files",
    "reference_points",
    "point_samples",
    "compared_polygons",
    "listed_polygons",
    "polygon_agreement",
    "agreement_layers",
    "figures",
    "svg",
    "evaluation_figures",
    "agreement_figures",
    "area_figures",
    "cost_figures",
    "changes",
    "change_styles",
    "comparison",
    "thumbnails",
    "class_overlays",
    "tile_pictures",
    "sample_pictures",
    "tensorboard_log",
    "contact_sheet",
    "compute_costs",
    "job_costs",
    "report_data",
    "report_gaps",
    "report_figures",
    "report_summary",
    "report_scores",
    "report_tables",
    "reporting",
    "run_comparison",
    "comparison_summary",
    "comparison_page",
    "tuning_records",
    "tuning_figures",
    "tuning_report",
    "map_pictures",
    "consistency",
    "evidence",
    "judged_runs",
    "textures",
    "landscape",
    "demo",
    "class_rasters",
    "disagreement",
    "mosaics",
    "themes",
    "qgis_project",
    "project_groups",
    "run",
    "stages",
    "cli",
    "__main__",
]

# Only these open the library; the demo makes inputs and stands beside the data path.
HOMES = {
    "rasterio": {"geotiff", "cog", "demo", "cli"},
    "geopandas": {"geopackage", "siose_problems", "siose", "siose_check", "demo"},
    # vector_files streams Arrow into GeoPackages; GeoPandas would hold all polygons of a map.
    "pyogrio": {
        "siose_files",
        "siose_tables",
        "siose_base",
        "siose_polygons",
        "vector_files",
        "area_of_interest",
        "reference_points",
        "demo",
    },
    "sqlite3": {"siose_tables", "geopackage", "sample_files", "demo"},
    "defusedxml": {"siose_xml"},
    "tifffile": {"block_raster", "block_reader"},
    "lmdb": {"shards"},
    "dask": {"clusters", "slurm_jobs"},
    "distributed": {"clusters", "slurm_jobs"},
    "dask_jobqueue": {"slurm_jobs"},
    "matplotlib": {
        "figures",
        "svg",
        "evaluation_figures",
        "agreement_figures",
        "area_figures",
        "cost_figures",
        "contact_sheet",
        "sample_pictures",
        "tuning_figures",
    },
    "scipy": {"stratified_shares"},
    "sklearn": set(),
    "torch": {
        "networks",
        "checkpoint",
        "augmentation",
        "batches",
        "losses",
        "objective",
        "batch_statistics",
        "optimizers",
        "gpus",
        "devices",
        "training_state",
        "validation",
        "divergence",
        "training",
        "onnx_graphs",
        "backends",
        "onnx_export",
        "blending",
        "prediction",
        "mapping",
        "backend_trials",
        "tensorboard_log",
        "cli",
    },
    "lightning": {"batches", "devices", "divergence", "training", "validation"},
    "segmentation_models_pytorch": {"networks", "losses"},
    "onnx": {"onnx_graphs", "onnx_export"},
    "onnxruntime": {"backends", "onnx_export"},
    "openvino": {"backends"},
    "optuna": {"tuning_methods", "tuning_study", "tuning", "tuning_records"},
    "snakemake": set(),
    "typer": {"cli"},
}


def _modules() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if name != "__init__":
            found.setdefault(name, []).append(path)
    return found


def _imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "pipeline":
                names |= {f"pipeline.{alias.name}" for alias in node.names}
            else:
                names.add(node.module)
    return names


def test_every_module_has_its_place_in_the_order() -> None:
    assert set(_modules()) <= set(ORDER)


@pytest.mark.parametrize("module", sorted(_modules()))
def test_modules_import_earlier_ones_only(module: str) -> None:
    for path in _modules()[module]:
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "pipeline" and len(parts) > 1 and parts[1] in ORDER:
                assert ORDER.index(parts[1]) <= ORDER.index(module), f"{path.name} imports {name}"


@pytest.mark.parametrize("module", sorted(_modules()))
def test_each_library_has_one_home(module: str) -> None:
    for path in _modules()[module]:
        for name in _imports(path):
            home = HOMES.get(name.split(".")[0])
            assert home is None or module in home, f"{path.name} imports {name}"


def test_values_import_nothing_heavy() -> None:
    """The Snakefile is parsed in every job: it may not pay for GDAL or torch."""
    code = (
        "import sys, pipeline.config, pipeline.paths;"
        "print([m for m in ('torch', 'rasterio', 'geopandas', 'dask') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_stages_load_torch_only_inside_train_and_map_sheet() -> None:
    code = "import sys, pipeline.stages; print('torch' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"


def test_settings_as_a_whole_are_seen_by_cli_and_stages_only() -> None:
    for module, paths in _modules().items():
        if module in ("config", "run", "stages", "cli"):
            continue
        for path in paths:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            assert "Settings" not in names, path.name


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.smk")), ids=lambda p: p.name)
def test_a_rule_is_one_command_with_one_log(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", text, flags=re.M):
        shell = re.search(r"    shell:\n((?:        .*\n)+)", body)
        assert shell, name
        command = "".join(re.findall(r'"(.*?)"', shell[1])).removeprefix("{params.launcher} ")
        assert command.startswith(
            f"python -m pipeline --log {{log:q}} {name.replace('_', '-')} "
        ), name
        assert not re.search(r"[;|<>]|&&", command), name
        for part in ("log:", "benchmark:", "conda:", "resources:"):
            assert f"    {part}\n" in body, f"{name} has no {part}"
        assert re.search(r'"""\w.*"""|"""\w', body), f"{name} does not say what it does"


def test_each_rule_is_a_sub_command_and_a_stage() -> None:
    from pipeline import cli, stages

    rules = set()
    for path in (ROOT / "workflows").glob("*.smk"):
        rules |= set(re.findall(r"^rule (\w+):", path.read_text(encoding="utf-8"), flags=re.M))
    commands = {
        command.callback.__name__ for command in cli.app.registered_commands if command.callback
    }
    assert rules <= commands
    for name in rules - {"demo_data"}:
        assert callable(getattr(stages, name)), name


def test_conda_and_pip_name_the_same_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    # The same package under conda-forge's name.
    names = {
        "pytorch": "torch",
        "python-lmdb": "lmdb",
        "python-xxhash": "xxhash",
        "matplotlib-base": "matplotlib",
    }

    def split(requirement: str) -> tuple[str, str]:
        match = re.fullmatch(r"([A-Za-z0-9_-]+)\s*(.*)", requirement)
        assert match, requirement
        name = match[1].lower()
        return names.get(name, name), match[2].replace(" ", "")

    pip = dict(split(r) for r in _requirements(project))
    listed = dict(split(r) for r in conda if isinstance(r, str) and r != "pip")
    assert listed.pop("python") == project["requires-python"].replace(" ", "")
    assert listed == pip


def test_pins_cover_and_satisfy_what_the_project_asks_for() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    plain = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    for text in _requirements(project):
        requirement = Requirement(text)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in plain, f"{name} is not pinned"
        assert requirement.specifier.contains(plain[name]), text


def _requirements(project: dict[str, Any]) -> list[str]:
    """What the project asks for, with all its extras."""
    extras: dict[str, list[str]] = project["optional-dependencies"]
    return sum(extras.values(), list(project["dependencies"]))


def test_nothing_names_a_registry_or_a_path_of_one_machine() -> None:
    # Written in parts, so that this file does not find itself.
    hosts = "|".join(["py" + r"pi\.org", "python" + "hosted", "npm" + "js", "deb" + r"\.debian"])
    folders = "|".join(["wo" + "rk", "fa" + "rm", "ro" + "ot", "home/" + "[a-z]+"])
    pattern = re.compile(rf"(^|[^\w.{{}}/])/({folders})/|{hosts}")
    answer = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if answer.returncode:
        pytest.skip("not a git checkout")
    for name in answer.stdout.split():
        text = (ROOT / name).read_text(encoding="utf-8", errors="ignore")
        assert not pattern.search(text), f"{name}: {pattern.search(text)}"
