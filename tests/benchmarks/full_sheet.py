"""A sheet of full size on disk: the demo's ground mirrored across it, with all of its polygons.

    python -m tests.benchmarks.full_sheet --folder DIR [--size 54000 38000] [--compress jpeg]

Mirroring keeps texture and outlines as they are at the joints, so that nothing gets easier to
compress or to burn than on the demo.
"""

from __future__ import annotations

import argparse
import math
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window

from pipeline import demo

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


def write_full_sheet(folder: Path, size: tuple[int, int], compress: str = "jpeg") -> FullSheet:
    """Write a sheet, or find the one that was written before."""
    name = f"sheet_{size[0]}x{size[1]}"
    sheet = FullSheet(folder / f"{name}_{compress}.tif", folder / f"{name}.gpkg", size)
    source = folder / "demo"
    if not (source / demo.BASE).exists():
        source.mkdir(parents=True, exist_ok=True)
        demo.write_demo(source)
    picture = _ground(source)
    if not sheet.orthophoto.exists():
        _write_orthophoto(sheet, picture, compress)
    if not sheet.siose.exists():
        _write_base(sheet, source / demo.BASE, picture.shape[1:])
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


def _write_orthophoto(sheet: FullSheet, picture: NDArray[np.uint8], compress: str) -> None:
    width, height = sheet.size
    with rasterio.open(
        sheet.orthophoto, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8",
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


def _write_base(sheet: FullSheet, base: Path, shape: tuple[int, ...]) -> None:
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
    with closing(sqlite3.connect(base)) as source:
        rows = source.execute(
            "SELECT ID_POLYGON, ROTULO, CODE_ABREV, ID_COBERTURA, SUPERF_POR_SINREDONDEO "
            "FROM SAR_99_T_VALORES"
        ).fetchall()
    values: dict[str, list[tuple[object, ...]]] = {}
    for polygon, *rest in rows:
        values.setdefault(polygon, []).append(tuple(rest))
    whole = shapely.box(
        LEFT, TOP - sheet.size[1] * demo.PIXEL, LEFT + sheet.size[0] * demo.PIXEL, TOP
    )
    parts, table = [], []
    for down in range(math.ceil(sheet.size[1] / shape[0])):
        for across in range(math.ceil(sheet.size[0] / shape[1])):
            flip_x, flip_y = across % 2, down % 2

            def placed(
                points: NDArray[np.float64],
                x: float = LEFT + across * width,
                y: float = TOP - down * height,
                flips: tuple[int, int] = (flip_x, flip_y),
            ) -> NDArray[np.float64]:
                east, south = points[:, 0] - left, top - points[:, 1]
                east = width - east if flips[0] else east
                south = height - south if flips[1] else south
                return np.column_stack([x + east, y - south])

            ids = [f"{name}-{down}-{across}" for name in frame["ID_POLYGON"]]
            part = frame.assign(
                ID_POLYGON=ids, geometry=shapely.transform(frame.geometry.to_numpy(), placed)
            )
            parts.append(part[part.geometry.intersects(whole)])
            for name, new in zip(frame["ID_POLYGON"], ids, strict=True):
                table += [(new, *row) for row in values.get(name, [])]
    for number, part in enumerate(parts):
        part.to_file(
            sheet.siose, layer=layer, driver="GPKG", geometry_name="geom",
            mode="a" if number else "w",
        )  # fmt: skip
    with closing(sqlite3.connect(sheet.siose)) as target:
        target.execute(
            "CREATE TABLE SAR_99_T_VALORES (ID_POLYGON TEXT, ROTULO TEXT, CODE_ABREV TEXT, "
            "ID_COBERTURA INTEGER, SUPERF_POR_SINREDONDEO REAL)"
        )
        # A polygon of several parts is several features, whose values are the same.
        target.executemany(
            "INSERT INTO SAR_99_T_VALORES VALUES (?, ?, ?, ?, ?)", dict.fromkeys(table)
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
    given = arguments.parse_args()
    print(write_full_sheet(given.folder, tuple(given.size), given.compress))


if __name__ == "__main__":
    main()
