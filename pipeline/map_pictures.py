"""Map pictures: what the report shows of rasters, whole sheets decimated and tiles as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline import geotiff
from pipeline.evaluation import TileScore
from pipeline.judged_ground import read_judged_ground
from pipeline.nomenclature import IGNORE, Nomenclature
from pipeline.paths import RunPaths
from pipeline.report_data import SheetReport
from pipeline.sheets import Sheet
from pipeline.thumbnails import SIDE_PX, SheetThumbnails, decimated
from pipeline.tile_pictures import TilePixels


def sheet_thumbnails(
    paths: RunPaths,
    sheets: Mapping[str, Sheet],
    report: SheetReport,
    classes: Nomenclature,
    cleaned: bool,
) -> SheetThumbnails:
    """A sheet decimated: orthophoto, and of labels, map and confidence those that there are.

    Args:
        paths: Files of the run.
        sheets: The sheets table.
        report: The sheet. Where its map is judged is read only if it has judged pixels.
        classes: The training classes.
        cleaned: Whether the maps that are delivered are the cleaned ones.

    Raises:
        InputError: If a file is damaged, or the plan's ground of a judged sheet is missing.
    """
    sheet = sheets[report.name]
    orthophoto = geotiff.read_orthophoto(sheet.orthophoto)
    with geotiff.RasterReader(orthophoto.path, orthophoto.bands[:3]) as reader:
        image = reader.thumbnail(SIDE_PX, average=True).transpose(1, 2, 0)
        valid = reader.thumbnail_valid(SIDE_PX)
    layers = {}
    for name, path in (
        ("labels", paths.label_raster(sheet.name)),
        ("mapped", paths.delivered_map(sheet.name, cleaned)),
        ("confidence", paths.confidence(sheet.name)),
    ):
        if path.exists() and (name != "labels" or sheet.split != "map"):
            with geotiff.RasterReader(path) as reader:
                layers[name] = reader.thumbnail(SIDE_PX)[0]
    if "labels" not in layers:
        layers["labels"] = (valid * 0 + IGNORE).astype("uint8")
    judged = None
    if report.matrix:
        grid = geotiff.read_grid(paths.label_raster(sheet.name))
        ground = read_judged_ground(
            paths.ground,
            grid,
            classes,
            sheets,
            sheet.name,
            lambda name: geotiff.read_grid(paths.label_raster(name)),
        )
        judged = decimated(ground, (grid.height, grid.width), valid.shape)
    return SheetThumbnails(orthophoto=image, valid=valid, judged=judged, **layers)


def shown_tiles(
    paths: RunPaths,
    sheets: Mapping[str, Sheet],
    reports: Sequence[SheetReport],
    cleaned: bool,
    most: int,
) -> tuple[list[TilePixels], list[TilePixels]]:
    """The worst tiles of all test ground and the best, at full resolution.

    Returns:
        ``most`` of each; none where some of the test ground was not evaluated: of the rest they
        would be other tiles.
    """
    found = [report.evaluation for report in reports if report.evaluation]
    if not found or any(report.matrix and not report.evaluation for report in reports):
        return [], []
    judged = sum(found[1:], found[0])

    def pixels(tile: TileScore) -> TilePixels:
        return _tile(paths, sheets[tile.sheet], tile, cleaned)

    return list(map(pixels, judged.worst(most))), list(map(pixels, judged.best(most)))


def _tile(paths: RunPaths, sheet: Sheet, tile: TileScore, cleaned: bool) -> TilePixels:
    orthophoto = geotiff.read_orthophoto(sheet.orthophoto)
    with (
        geotiff.RasterReader(orthophoto.path, orthophoto.bands[:3]) as image,
        geotiff.RasterReader(paths.label_raster(sheet.name)) as labels,
        geotiff.RasterReader(paths.delivered_map(sheet.name, cleaned)) as mapped,
    ):
        bands, valid = image.read_valid(tile.window)
        return TilePixels(
            sheet.name,
            tile.window,
            tile.accuracy,
            bands.transpose(1, 2, 0),
            valid,
            labels.read_band(tile.window),
            mapped.read_band(tile.window),
        )
