"""A sheet of full size on disk: the demo's ground mirrored across it, with all of its polygons.

    python -m tests.benchmarks.full_sheet --folder DIR [--size 54000 38000] [--polygons 20000]

Mirroring keeps texture and outlines as they are at the joints, so that nothing gets easier to
compress or to burn than on the demo. With ``--polygons`` the outlines are magnified (the picture is
not) until about that many lie on the sheet; without it a full sheet has 149 000.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window

from pipeline import demo
from pipeline.publication import published

CRS = demo.CRS
LEFT, TOP = 700_000.0, 4_400_000.0
BLOCK = 512

OPTIONS = {
    "jpeg": {"compress": "jpeg", "jpeg_quality": 90, "photometric": "ycbcr"},
    "deflate": {"compress": "deflate", "zlevel": 1, "predictor": 2},
    "none": {},
}


@dataclass(frozen=True)
class FullSheet:
    """Files of a full-size sheet.

    Attributes:
        orthophoto: RGB GeoTIFF.
        siose: SIOSE AR base in the sheet's CRS.
        size: Columns and rows.
    """

    orthophoto: Path
    siose: Path
    size: tuple[int, int]


def write_full_sheet(
    folder: Path, size: tuple[int, int], compress: str = "jpeg", polygons: int | None = None
) -> FullSheet:
    """Write a sheet, or find the one that was written before.

    Args:
        folder: Where it goes; the demo that it is made of goes to ``demo`` in it.
        size: Columns and rows.
        compress: One of :data:`OPTIONS`.
        polygons: Least number of polygons on the sheet; None for outlines of the demo's own size.
    """
    name = f"sheet_{size[0]}x{size[1]}"
    base = f"{name}.gpkg" if polygons is None else f"{name}_{polygons}polygons.gpkg"
    sheet = FullSheet(folder / f"{name}_{compress}.tif", folder / base, size)
    source = folder / "demo"
    if not (source / demo.BASE).exists():
        source.mkdir(parents=True, exist_ok=True)
        demo.write_demo(source, sheet_px=demo.SHEET_PX)
    picture = _ground(source)
    if not sheet.orthophoto.exists():
        with published(sheet.orthophoto) as (draft,):
            _write_orthophoto(draft, size, picture, compress)
    if not sheet.siose.exists():
        with published(sheet.siose) as (draft,):
            _write_base(draft, size, source / demo.BASE, picture.shape[1:], polygons)
    return sheet


def _ground(source: Path) -> NDArray[np.uint8]:
    """The demo's four sheets as one picture, shape ``(3, rows, cols)``."""
    width, height = demo.SHEET_PX
    picture = np.zeros((3, 2 * height, 2 * width), np.uint8)
    for name, (across, down) in demo.SHEETS.items():
        with rasterio.open(source / f"{name}.tif") as sheet:
            part = sheet.read([1, 2, 3])
        picture[:, down * height : (down + 1) * height, across * width : (across + 1) * width] = (
            np.maximum(part, 1)  # the demo's nodata would be a hole a tile
        )
    return picture


def _write_orthophoto(
    draft: Path, size: tuple[int, int], picture: NDArray[np.uint8], compress: str
) -> None:
    width, height = size
    with rasterio.open(
        draft, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8",
        crs=CRS, transform=from_origin(LEFT, TOP, demo.PIXEL, demo.PIXEL), tiled=True,
        blockxsize=BLOCK, blockysize=BLOCK, bigtiff="if_safer", num_threads="all_cpus",
        **OPTIONS[compress],
    ) as target:  # fmt: skip
        columns = _mirrored(np.arange(width), picture.shape[2])
        for row in range(0, height, BLOCK):
            rows = _mirrored(np.arange(row, min(row + BLOCK, height)), picture.shape[1])
            strip = picture[:, rows][:, :, columns]
            target.write(strip, window=Window(0, row, width, len(rows)))


def _mirrored(places: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    inside = places % (2 * size)
    return np.where(inside < size, inside, 2 * size - 1 - inside)


def _write_base(
    draft: Path, size: tuple[int, int], base: Path, shape: tuple[int, ...], least: int | None
) -> None:
    """Mirror the demo's polygons as its picture, each with an id of its own and its own values."""
    layer = "SAR_99_T_POLIGONOS"
    frame = geopandas.read_file(base, layer=layer).to_crs(CRS)
    height, width = (side * demo.PIXEL for side in shape)
    # The demo's own corner: its sheets lie side by side from there.
    with rasterio.open(base.parent / f"{next(iter(demo.SHEETS))}.tif") as first:
        left, top = first.transform.c, first.transform.f
    ground = shapely.box(left, top - height, left + width, top)
    frame = frame.assign(geometry=shapely.intersection(frame.geometry.to_numpy(), ground))
    frame = frame[frame.geometry.area > 1].explode(ignore_index=True)
    frame = frame.set_geometry(shapely.transform(frame.geometry.to_numpy(), lambda points: (
        np.column_stack([(points[:, 0] - left) / width, (top - points[:, 1]) / height])
    )))  # fmt: skip
    # What a magnification leaves is known when it is done: polygons on the edges count as well.
    magnification = 1.0
    if least is not None:
        magnification = math.sqrt(len(frame) * size[0] * size[1] / (shape[0] * shape[1] * least))
    cell = width * magnification, height * magnification
    mirrored = _mirrored_polygons(frame, size, cell)
    while least is not None and len(mirrored) < least:
        cell = cell[0] * 0.98, cell[1] * 0.98
        mirrored = _mirrored_polygons(frame, size, cell)
    mirrored.to_file(draft, layer=layer, driver="GPKG", geometry_name="geom")
    with closing(sqlite3.connect(base)) as source:
        rows = source.execute(
            "SELECT ID_POLYGON, ROTULO, CODE_ABREV, ID_COBERTURA, SUPERF_POR_SINREDONDEO "
            "FROM SAR_99_T_VALORES"
        ).fetchall()
    _write_values(draft, rows, dict.fromkeys(mirrored["ID_POLYGON"]))


def _mirrored_polygons(
    frame: geopandas.GeoDataFrame, size: tuple[int, int], cell: tuple[float, float]
) -> geopandas.GeoDataFrame:
    """Polygons of the unit square in every cell of the sheet, cells of so many metres."""
    extent = size[0] * demo.PIXEL, size[1] * demo.PIXEL
    whole = shapely.box(LEFT, TOP - extent[1], LEFT + extent[0], TOP)
    parts = []
    for down, across in itertools.product(
        range(math.ceil(extent[1] / cell[1])), range(math.ceil(extent[0] / cell[0]))
    ):

        def placed(
            points: NDArray[np.float64], place: tuple[int, int] = (across, down)
        ) -> NDArray[np.float64]:
            flips = np.array(place) % 2 == 1
            inside = np.where(flips, 1 - points, points)
            east, south = ((inside + place) * cell).T
            return np.column_stack([LEFT + east, TOP - south])

        part = frame.assign(
            ID_POLYGON=[f"{name}-{down}-{across}" for name in frame["ID_POLYGON"]]
        ).set_geometry(shapely.transform(frame.geometry.to_numpy(), placed))
        parts.append(part[part.geometry.intersects(whole)])
    return geopandas.GeoDataFrame(pd.concat(parts, ignore_index=True), crs=CRS)


def _write_values(draft: Path, rows: list[tuple[str, ...]], ids: Iterable[str]) -> None:
    """Values of the mirrored polygons: those of the polygon that each is made of."""
    values: dict[str, list[tuple[str, ...]]] = {}
    for polygon, *rest in rows:
        values.setdefault(polygon, []).append(tuple(rest))
    with closing(sqlite3.connect(draft)) as target:
        target.execute(
            "CREATE TABLE SAR_99_T_VALORES (ID_POLYGON TEXT, ROTULO TEXT, CODE_ABREV TEXT, "
            "ID_COBERTURA INTEGER, SUPERF_POR_SINREDONDEO REAL)"
        )
        target.executemany(
            "INSERT INTO SAR_99_T_VALORES VALUES (?, ?, ?, ?, ?)",
            ((name, *row) for name in ids for row in values.get(name.rsplit("-", 2)[0], [])),
        )
        target.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) "
            "VALUES ('SAR_99_T_VALORES', 'attributes', 'SAR_99_T_VALORES')"
        )
        target.commit()


def main() -> None:
    """Write a sheet as the command line says."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--folder", type=Path, required=True)
    arguments.add_argument("--size", type=int, nargs=2, default=(54_000, 38_000))
    arguments.add_argument("--compress", choices=OPTIONS, default="jpeg")
    arguments.add_argument("--polygons", type=int)
    given = arguments.parse_args()
    print(write_full_sheet(given.folder, tuple(given.size), given.compress, given.polygons))


if __name__ == "__main__":
    main()
