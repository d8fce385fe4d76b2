"""The real scenes of ``IMAGERY=`` as a run: labels, plan and shards, shared by many trainings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.paths import RunPaths
from tests.benchmarks import harness, sheet_run
from tests.benchmarks.harness import Setup

SPLITS = {
    "scene_1": "train",
    "scene_2": "train",
    "scene_3": "validation",
    "scene_4": "train",
    "scene_5": "train",
    "scene_6": "test",
}
TEST = "scene_6"
CLASSES = (
    {"name": "water", "covers": ["AMO"], "color": "#0000FF"},
    {"name": "land", "covers": ["SNE"], "color": "#E0C080"},
    {"name": "road", "covers": ["PAV"], "color": "#404040"},
    {"name": "building", "covers": ["EDF"], "color": "#C00000"},
    {"name": "vegetation", "covers": ["ZAU"], "color": "#206020"},
)

_SHARED = ("labels", "tiles", "shards")


@dataclass(frozen=True)
class Scenes:
    """The scenes, up to their shards.

    Attributes:
        imagery: Folder with ``ortho/scene_1.tif`` and so on, and ``exact.gpkg``.
        folder: Where the run and its files are.
    """

    imagery: Path
    folder: Path

    @property
    def paths(self) -> RunPaths:
        """Files of the run that made the shards."""
        return RunPaths(self.folder / "run")

    def orthophoto(self, sheet: str) -> Path:
        """A scene's orthophoto."""
        return self.imagery / "ortho" / f"{sheet}.tif"

    def settings(self, run: Path, sections: Mapping[str, Any]) -> str:
        """Text of a settings file for a run on the scenes."""
        places = {
            "run": str(run),
            "sheets": str(self.folder / "sheets.csv"),
            "nomenclature": str(self.folder / "classes.yaml"),
        }
        return yaml.safe_dump({**places, **sections}, sort_keys=False)

    def begin(self, place: Path, sections: Mapping[str, Any]) -> Path:
        """Begin a run of its own that has the same labels, plan and shards.

        Args:
            place: Its folder: ``settings.yaml``, and the run in a folder of the same name.
            sections: Its settings.

        Returns:
            The settings file.
        """
        run = place / place.name
        run.mkdir(parents=True, exist_ok=True)
        for name in _SHARED:
            if not (run / name).is_symlink():
                (run / name).symlink_to(self.paths.run / name, target_is_directory=True)
        settings = place / "settings.yaml"
        settings.write_text(self.settings(run, sections), "utf-8")
        return settings

    def for_peers(self) -> str:
        """Orthophotos and label rasters by split, as JSON."""
        found: dict[str, Any] = {"classes": len(CLASSES)}
        for sheet, split in SPLITS.items():
            pair = [str(self.orthophoto(sheet)), str(self.paths.label_raster(sheet))]
            found.setdefault(split, []).append(pair)
        return json.dumps(found, indent=1)


def prepared(setup: Setup) -> Scenes:
    """The scenes with their shards, made anew when the code has changed.

    Raises:
        BenchmarkSkippedError: If they are not there.
        BenchmarkFailedError: If a step fails.
    """
    if setup.imagery is None or not (setup.imagery / "exact.gpkg").exists():
        raise harness.BenchmarkSkippedError(
            f"needs a folder with exact.gpkg and ortho/{TEST}.tif (IMAGERY=), not {setup.imagery}"
        )
    scenes = Scenes(setup.imagery.resolve(), setup.folder / "networks" / "scenes")
    stamp = scenes.folder / "made.json"
    made = {"imagery": str(scenes.imagery), "code": sheet_run.code()}
    if stamp.exists():
        found = json.loads(stamp.read_text("utf-8"))
        if found == made or (setup.keep and found["imagery"] == made["imagery"]):
            return scenes
    harness.remove(scenes.folder)
    scenes.folder.mkdir(parents=True)
    base = scenes.imagery / "exact.gpkg"
    rows = [f"{name},{scenes.orthophoto(name)},{base},{split}" for name, split in SPLITS.items()]
    table = "\n".join(["sheet,orthophoto,siose,split", *rows, ""])
    (scenes.folder / "sheets.csv").write_text(table, "utf-8")
    (scenes.folder / "classes.yaml").write_text(yaml.safe_dump({"classes": list(CLASSES)}), "utf-8")
    settings = scenes.folder / "settings.yaml"
    settings.write_text(scenes.settings(scenes.paths.run, {}), "utf-8")
    steps = [(step, name) for step in ("class-proportions", "label-raster") for name in SPLITS]
    steps += [("tile-plan", ""), *(("shard", name) for name in SPLITS)]
    for step, name in steps:
        sheet = ("--sheet", name) if name else ()
        harness.execute(harness.module("pipeline", step, "--config", str(settings), *sheet))
    stamp.write_text(json.dumps(made), "utf-8")
    return scenes
