"""Runs over full-size sheets, made ready up to the step that is measured.

What a run's earlier steps wrote is kept beside the sheet and made anew when the code has changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import geopandas
import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline import class_rasters, config, geotiff, labels, siose, stages, tiling
from pipeline.grid import Window
from pipeline.nomenclature import IGNORE
from pipeline.paths import RunPaths
from pipeline.publication import published
from tests.benchmarks import full_sheet, harness
from tests.benchmarks.harness import Setup
from tests.benchmarks.machine import ROOT

NAME = "full"
"""The sheet's name in its run."""

FULL = (54_000, 38_000)
TILE = 256
NOMENCLATURE = ROOT / "configs" / "nomenclatures" / "demo.yaml"

_SHARES = (("train", 0.8), ("validation", 0.9), ("test", 1.0))  # of the rows, up to here
_SHIFT = 13  # pixels of the map against the labels
_CELL = 8  # pixels a side of what the map takes for another class


@dataclass(frozen=True)
class SheetRun:
    """A run of one sheet.

    Attributes:
        sheet: Its files.
        settings: Its settings file.
        folder: The run's folder.
    """

    sheet: full_sheet.FullSheet
    settings: Path
    folder: Path

    @property
    def paths(self) -> RunPaths:
        """Its files."""
        return RunPaths(self.folder)

    @property
    def run(self) -> stages.Run:
        """The run as the stages take it."""
        return stages.Run(config.load(self.settings))

    @property
    def pixels(self) -> int:
        """Pixels of the sheet."""
        return self.sheet.size[0] * self.sheet.size[1]

    @property
    def label_files(self) -> tuple[Path, ...]:
        """What ``label_raster`` makes."""
        return tuple(self.paths.label_raster(NAME).parent.glob(f"{NAME}.*"))

    def command(self, step: str, threads: int) -> tuple[str, ...]:
        """A step as it is called from the command line."""
        sheet = () if step == "tile-plan" else ("--sheet", NAME)
        return harness.module(
            "pipeline", step, "--config", str(self.settings), *sheet, "--threads", str(threads)
        )

    def stage(self, step: str, threads: int) -> tuple[str, ...]:
        """A step that times its stage's function, in a process that has imported everything."""
        return harness.module(
            "tests.benchmarks.stage", "--config", str(self.settings), "--step", step,
            "--threads", str(threads),
        )  # fmt: skip


def density(setup: Setup, size: tuple[int, int]) -> int:
    """Polygons of a sheet, as dense as on a full one."""
    return max(1, round(setup.polygons * size[0] * size[1] / (FULL[0] * FULL[1])))


def with_proportions(
    setup: Setup,
    size: tuple[int, int] | None = None,
    polygons: int | None = None,
    *,
    outlines: str = "magnified",
    **tiling_settings: object,
) -> SheetRun:
    """A run that has its class proportions.

    Args:
        setup: What is asked for.
        size: Columns and rows; the setup's where left out.
        polygons: Polygons on it; the setup's density where left out.
        outlines: ``magnified``, or ``demo`` for outlines of the demo's own size.
        tiling_settings: Section ``tiling``; a run of its own for each.
    """
    size = size or setup.size
    count = None if outlines == "demo" else polygons or density(setup, size)
    sheet = full_sheet.write_full_sheet(setup.folder, size, polygons=count)
    named = "".join(f"_{key}-{value}" for key, value in tiling_settings.items())
    made = _begin(setup, sheet, f"{sheet.siose.stem}{named}", dict(tiling_settings))
    if not made.paths.proportions(NAME).exists():
        harness.execute(made.command("class-proportions", setup.threads))
    return made


def with_labels(setup: Setup, made: SheetRun) -> SheetRun:
    """The run with its label raster."""
    if not made.paths.label_raster(NAME).exists():
        harness.execute(made.command("label-raster", setup.threads))
    return made


def with_plan(setup: Setup, made: SheetRun, rows: float = 1.0) -> SheetRun:
    """A run of its own whose plan has all tiles of the sheet, labelled or not, without overlap.

    The first 80 % of the rows are training ground, then come validation and test.

    Args:
        setup: What is asked for.
        made: The run that has the labels.
        rows: Share of the sheet's rows, from the top, that has tiles.
    """
    part = _sharing(setup, made, f"tiles_{rows:g}")
    if part.paths.tile_plan.exists():
        return part
    run, grid = part.run, geotiff.read_grid(part.paths.label_raster(NAME))
    height = max(1, round(rows * grid.height / TILE)) * TILE if rows < 1 else grid.height
    edges = [0, *(round(share * height / (2 * TILE)) * 2 * TILE for _, share in _SHARES[:-1])]
    ground = tuple(
        tiling.Ground(NAME, Window(0, top, grid.width, bottom - top), split)
        for (split, _), top, bottom in zip(_SHARES, edges, [*edges[1:], height], strict=True)
    )
    with geotiff.RasterReader(part.paths.label_raster(NAME)) as label:
        tiles = [
            tiling.PlannedTile(NAME, window, piece.split, _class_pixels(label, window, run))
            for piece in ground
            for window in tiling.tile_windows(piece.window, grid.window, run.settings.tiling)
        ]
    plan = tiling.TilePlan(tuple(tiles), ground, run.nomenclature.fingerprint, TILE)
    with published(part.paths.tile_plan, part.paths.ground) as (draft, ground_draft):
        tiling.write_plan(plan, draft, ground_draft)
    return part


def with_shard(setup: Setup) -> SheetRun:
    """A run with a shard of all tiles."""
    made = with_plan(setup, with_labels(setup, with_proportions(setup)))
    if not made.paths.shard(NAME).exists():
        harness.execute(made.command("shard", setup.threads))
    return made


def with_map(setup: Setup, made: SheetRun) -> SheetRun:
    """A run of its own, all of it test ground, with a map that differs from the labels."""
    part = _sharing(setup, made, "test")
    run, grid = part.run, geotiff.read_grid(part.paths.label_raster(NAME))
    classes, target = run.nomenclature, part.paths.land_cover_map(NAME)
    if not part.paths.tile_plan.exists():
        ground = (tiling.Ground(NAME, grid.window, "test"),)
        plan = tiling.TilePlan((), ground, classes.fingerprint, TILE)
        with published(part.paths.tile_plan, part.paths.ground) as (draft, ground_draft):
            tiling.write_plan(plan, draft, ground_draft)
    if target.exists():
        return part
    tags = {class_rasters.NOMENCLATURE_TAG: classes.fingerprint}
    plain = part.folder / "plain.tif"
    rng = np.random.default_rng(0)
    with (
        geotiff.session(),
        geotiff.RasterReader(part.paths.label_raster(NAME)) as label,
        geotiff.RasterWriter(plain, grid, "uint8", IGNORE, classes.colors, tags) as raster,
    ):
        for row in range(0, grid.height, geotiff.BLOCK):
            window = Window(0, row, grid.width, min(geotiff.BLOCK, grid.height - row))
            raster.write(window, _mapped(label.read_band(window), len(classes), rng))
    with published(target) as (draft,), geotiff.session():
        geotiff.write_cog(plain, draft, "mode")
    plain.unlink()
    return part


def write_class_polygons(made: SheetRun, path: Path) -> tuple[int, int]:
    """The polygons that have a class, as a GeoPackage with the column ``class``.

    Returns:
        How many polygons the sheet has, and how many of them have a class.
    """
    run = made.run
    known = siose.read_proportions(made.paths.proportions(NAME), run.nomenclature)
    classes, _ = labels.polygon_classes(known, run.settings.labels)
    there = classes != IGNORE
    if not path.exists():
        outlines = geopandas.read_parquet(made.paths.proportions(NAME), columns=["geometry"])
        frame = outlines.assign(**{"class": classes.astype(np.int32)})[there]
        with published(path) as (draft,):
            frame.to_file(draft, layer="classes", driver="GPKG")
    return len(there), int(there.sum())


def _class_pixels(label: geotiff.RasterReader, window: Window, run: stages.Run) -> tuple[int, ...]:
    classes = len(run.nomenclature)
    inside = window.intersection(label.grid.window)
    assert inside is not None
    counts = np.bincount(label.read_band(inside).ravel(), minlength=classes)[:classes]
    return tuple(map(int, counts))


def _mapped(label: NDArray[np.uint8], classes: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Labels as a network would map them: outlines a little off, a class everywhere, some wrong."""
    shifted = np.roll(label, _SHIFT, axis=1)
    rows, cols = label.shape
    shape = (-(-rows // _CELL), -(-cols // _CELL))
    other = rng.integers(0, classes, shape, np.uint8)
    wrong = rng.random(shape) < 0.02

    def pixels(cells: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.repeat(np.repeat(cells, _CELL, axis=0), _CELL, axis=1)[:rows, :cols]

    found = np.where(pixels(wrong), pixels(other), shifted)
    return np.where(found == IGNORE, 0, found).astype(np.uint8)


def _begin(
    setup: Setup, sheet: full_sheet.FullSheet, name: str, tiling_settings: dict[str, object]
) -> SheetRun:
    """Settings and folder of a run; its results go where another state of the code made them."""
    place = setup.folder / "runs" / name
    stamp = place / "code"
    if not setup.keep and (not stamp.exists() or stamp.read_text("ascii") != code()):
        harness.remove(place)
    place.mkdir(parents=True, exist_ok=True)
    stamp.write_text(code(), "ascii")
    table = place / "sheets.csv"
    table.write_text(
        f"sheet,orthophoto,siose,split\n{NAME},{sheet.orthophoto},{sheet.siose},train\n", "utf-8"
    )
    made = SheetRun(sheet, place / "settings.yaml", place / "run")
    settings = {
        "run": str(made.folder),
        "sheets": str(table),
        "nomenclature": str(NOMENCLATURE),
        # One sheet has all splits: what `tile_plan` asks for. A small one has few large blocks.
        "tiling": {
            "split": "blocks",
            "block_px": 2048 if min(sheet.size) >= 8192 else 512,
            **tiling_settings,
        },
    }
    made.settings.write_text(yaml.safe_dump(settings), "utf-8")
    return made


def _sharing(setup: Setup, made: SheetRun, name: str) -> SheetRun:
    """Another run with the same proportions and labels."""
    section = yaml.safe_load(made.settings.read_text("utf-8"))["tiling"]
    other = _begin(setup, made.sheet, f"{made.settings.parent.name}_{name}", section)
    find: tuple[Callable[[RunPaths], Path], ...] = (
        lambda paths: paths.proportions(NAME),
        lambda paths: paths.label_raster(NAME),
        lambda paths: paths.polygon_index(NAME),
    )
    for place in find:
        source, target = place(made.paths), place(other.paths)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or not target.samefile(source):
            harness.remove(target)
            os.link(source, target)
    return other


@cache
def code() -> str:
    """Hash of the code and the classes that the results come from."""
    digest = hashlib.sha256(NOMENCLATURE.read_bytes())
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
