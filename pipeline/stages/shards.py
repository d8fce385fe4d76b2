"""From label rasters to tiles in shards."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import (
    geotiff,
    progress,
    records,
    sections,
    shards,
    strips,
    tiling,
)
from pipeline.block_reader import BlockReader
from pipeline.block_sweep import TileCounter
from pipeline.class_rasters import (
    label_blocks,
)
from pipeline.grid import PixelGrid, Window
from pipeline.parallel import engine, in_order, ordered
from pipeline.proportions import read_proportions
from pipeline.publication import published
from pipeline.run import Run
from pipeline.slurm_runs import tile_jobs
from pipeline.stages.changes import check_places

log = logging.getLogger(__name__)

SAMPLED = 8
"""Tiles that are cut beforehand to estimate the room that a shard takes."""


def tile_plan(run: Run, threads: int = 1) -> None:
    """Choose the windows that become tiles, and the split of the ground they lie on."""
    settings, classes = run.settings.tiling, run.nomenclature
    names = run.labelled_sheets
    orthophotos = {name: geotiff.read_orthophoto(run.sheets[name].orthophoto) for name in names}
    geotiff.check_alike(orthophotos)
    check_places(run)
    grids = {name: orthophoto.grid for name, orthophoto in orthophotos.items()}
    ground = tiling.plan_ground(run.sheets, grids, settings, run.settings.seed)
    tiles: list[tiling.PlannedTile] = []
    with (
        ExitStack() as opened,
        progress.track("tile plan", len(names), "sheets") as advance,
    ):

        def begun(name: str) -> _SheetTiles:
            mine = [part for part in ground if part.sheet == name]
            foreign = _foreign_ground(name, grids, ground)
            candidates = tiling.candidate_tiles(grids[name], mine, foreign, settings)
            raster = label_blocks(run.paths.label_raster(name), grids[name], classes)
            opened.callback(raster.close)
            block = (geotiff.BLOCK, geotiff.BLOCK)
            windows = [window for _, window in candidates]
            counter = TileCounter(windows, grids[name].window, len(classes), block)
            return _SheetTiles(name, candidates, raster, counter)

        # Windows of all sheets in one row: the threads are busy with one sheet as with many. The
        # None behind a sheet's windows says that it is done.
        def parts() -> Iterator[tuple[_SheetTiles, Window | None]]:
            for name in names:
                sheet = begun(name)
                for window in sheet.counter.windows:
                    yield sheet, window
                yield sheet, None

        def counted(part: tuple[_SheetTiles, Window | None]) -> NDArray[np.int64] | None:
            sheet, window = part
            if window is None:
                return None
            return sheet.counter.count(window, sheet.raster.read(window))

        for (sheet, window), counts in ordered(counted, parts(), threads):
            if window is not None and counts is not None:
                sheet.counter.add(window, counts)
                continue
            sheet.raster.close()
            pixels = sheet.counter.class_pixels
            tiles += tiling.enough_labelled(sheet.name, sheet.candidates, pixels, settings)
            advance(1)
    tiling.check_plan(tiles, run.sheets, classes, settings)
    plan = tiling.TilePlan(tuple(tiles), ground, classes.fingerprint, settings.tile_px)
    with published(run.paths.tile_plan, run.paths.ground) as (draft, ground_draft):
        tiling.write_plan(plan, draft, ground_draft)
    for name in sections.SPLITS:
        count = sum(tile.split == name for tile in tiles)
        log.info("%s: %d tiles of %d px", name, count, settings.tile_px)


def shard(run: Run, sheet: str, threads: int = 1) -> None:
    """Cut the tiles of one sheet out of orthophoto and labels into an LMDB."""
    classes, settings, paths = run.nomenclature, run.settings.tiling, run.paths
    orthophoto = geotiff.read_orthophoto(run.sheet(sheet).orthophoto)
    grid, bands = orthophoto.grid, len(orthophoto.bands)
    plan = tiling.read_plan(paths.tile_plan, paths.ground, classes, sheet)
    proportions = read_proportions(paths.proportions(sheet), classes)
    shares = np.concatenate([np.zeros((1, len(classes))), proportions.shares]).astype(np.float32)
    tiles = plan.of_sheet(sheet)
    label_blocks(paths.label_raster(sheet), grid, classes).close()
    with geotiff.RasterReader(orthophoto.path) as source:
        block = (source.block_height, source.block_width)
    placed = [
        strips.Placed(position, tile.split, tile.window) for position, tile in enumerate(tiles)
    ]
    tasks = strips.plan_strips(placed, grid, *block)
    target = paths.shard(sheet)
    with (
        published(target) as (draft,),
        strips.TileCutter(
            orthophoto.path,
            orthophoto.bands,
            paths.label_raster(sheet),
            paths.polygon_index(sheet),
            shares,
            settings.codec,
            kept=2 * threads + max((len(strip.units) for strip in tasks), default=0),
        ) as cutter,
        progress.track(f"shard of sheet {sheet}", len(tiles), "tiles") as advance,
    ):
        sample = strips.plan_strips(placed[:: -(-len(placed) // SAMPLED) or 1], grid, *block)
        rooms = [shards.room_of(len(part)) for s in sample for _, part in cutter(s).records]
        needed = sum(rooms) * len(tiles) // max(1, len(rooms))
        shards.check_room(target.parent, needed, f"shard of sheet {sheet}")
        counts = {
            name: shards.SplitCounts.nothing(bands, len(classes))
            for name in dict.fromkeys(tile.split for tile in tiles)
        }
        bound = records.record_bound(plan.tile_px, bands, len(classes))
        with (
            engine(
                settings.dask if tiles else "threads",
                settings.dask_workers or threads,
                threads,
                tile_jobs(paths.run),
            ) as pool,
            shards.ShardWriter(draft, len(tiles), bound) as writer,
        ):
            # Of a large cluster not all results at once: they wait here for the one writer.
            ahead = pool.slots + min(pool.slots, 16) + 1
            for strip, cut in in_order(cutter, tasks, pool, ahead):
                for position, record in cut.records:
                    writer.put(position, record)
                for name, counted in cut.counts.items():
                    counts[name] += counted
                advance(len(strip.tiles))
            writer.finish(
                shards.Manifest(
                    layout=shards.LAYOUT,
                    sheet=sheet,
                    grid=grid,
                    bands=bands,
                    tile_px=plan.tile_px,
                    classes=classes.names,
                    nomenclature=classes.fingerprint,
                    codec=settings.codec,
                    splits=shards.split_ranges([tile.split for tile in tiles]),
                    counts=counts,
                    records=writer.checksum,
                )
            )


@dataclass(frozen=True)
class _SheetTiles:
    """A sheet that is being counted for the plan."""

    name: str
    candidates: Sequence[tuple[sections.Split, Window]]
    raster: BlockReader
    counter: TileCounter


def _foreign_ground(
    name: str, grids: Mapping[str, PixelGrid], ground: Iterable[tiling.Ground]
) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Split and bounds, in the sheet's CRS, of other sheets' ground that may overlap it."""
    mine = grids[name]
    left, bottom, right, top = mine.bounds
    found = []
    near: dict[str, bool] = {}
    for part in ground:
        if part.sheet == name:
            continue
        other = grids[part.sheet]
        if part.sheet not in near:
            bounds = geotiff.bounds_in(other, mine.crs)
            near[part.sheet] = (
                bounds[0] < right and left < bounds[2] and bounds[1] < top and bottom < bounds[3]
            )
        if near[part.sheet]:
            found.append((part.split, geotiff.window_bounds_in(other, part.window, mine.crs)))
    return found
