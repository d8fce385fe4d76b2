"""The demo: four small sheets of a made-up province and the SIOSE AR base that covers them.

The base is what a province's download looks like, with what makes real ones hard: geographic
coordinates, polygons across sheet edges, composite and unknown polygons, empty labels, holes.

This module stands outside the data path. It writes its inputs itself, with rasterio, geopandas and
sqlite3, and takes nothing from the modules that read them: a reader's mistake is not repeated here.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.features import rasterize
from rasterio.transform import Affine

from pipeline import landscape, textures
from pipeline.nomenclature import UNKNOWN_COVER, siose_ar_codelist
from pipeline.publication import published

CRS = "EPSG:25830"
PIXEL = 0.5  # metres, as PNOA's
SHEETS = {"0722-1": (0, 0), "0722-2": (1, 0), "0722-3": (0, 1), "0722-4": (1, 1)}
"""Sheets and their place in the province: column and row."""
CUT_CORNER = "0722-4"
"""The sheet whose south-east corner the flight missed."""
NODATA = 0
BASE = "siose_ar.gpkg"
SHEET_PX = (1200, 900)
"""Columns and rows of a sheet."""
FILES = len(SHEETS) + 1
"""Files that :func:`write_demo` writes."""

_LEFT, _TOP = 716_400.0, 4_373_700.0
_PARCEL = 62.0  # metres from one parcel to the next
_YEAR = 2017
_STAMP = "2017-07-01T00:00:00.000Z"  # a file made twice is the same file
_LAYER, _VALUES, _CODELIST = "SAR_99_T_POLIGONOS", "SAR_99_T_VALORES", "LISTADO_COBERTURAS"

# What parcels are, from the hills down to the water: cover and share of the parcels.
_CATENA = (
    (textures.CONIFERS, 0.12),
    (textures.OAKS, 0.10),
    (textures.SCRUB, 0.18),
    (textures.PASTURE, 0.17),
    (textures.OLIVES, 0.09),
    (textures.VINES, 0.08),
    (textures.CEREAL, 0.09),
    (textures.PAVED, 0.09),
    (textures.RESERVOIR, 0.08),
)
# What grows side by side where an interpreter draws one outline round both.
_NEIGHBOURS = {
    textures.CONIFERS: textures.SCRUB,
    textures.OAKS: textures.PASTURE,
    textures.SCRUB: textures.PASTURE,
    textures.PASTURE: textures.SCRUB,
    textures.OLIVES: textures.VINES,
    textures.VINES: textures.SCRUB,
    textures.CEREAL: textures.PASTURE,
}
_COMPOSITE, _UNKNOWN, _EMPTY, _HOLE = 0.20, 0.04, 0.02, 0.04


@dataclass(frozen=True)
class Province:
    """The made-up province: its ground, and what SIOSE says of it.

    Attributes:
        sheet_px: Columns and rows of a sheet.
        outlines: Parcels in the CRS of the sheets, shape ``(n,)``.
        parcel: Index of each pixel's parcel over all sheets, int32, shape ``(rows, cols)``.
        cover: SIOSE cover of each pixel, shape ``(rows, cols)``.
        shares: Per cent of each cover of each parcel, largest first.
        labels: SIOSE label of each parcel; None where there is no polygon.
        picture: Red, green, blue, shape ``(3, rows, cols)``.
    """

    sheet_px: tuple[int, int]
    outlines: NDArray[np.object_]
    parcel: NDArray[np.int32]
    cover: NDArray[np.uint16]
    shares: list[dict[int, float]]
    labels: list[str | None]
    picture: NDArray[np.uint8]

    def sheet(self, name: str) -> tuple[slice, slice]:
        """Rows and columns of a sheet."""
        (width, height), (across, down) = self.sheet_px, SHEETS[name]
        return (
            slice(down * height, (down + 1) * height),
            slice(across * width, (across + 1) * width),
        )


def write_demo(
    folder: Path,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
    sheet_px: tuple[int, int] = SHEET_PX,
) -> list[Path]:
    """Make the demo's orthophotos and SIOSE base; the same seed gives the same bytes.

    Args:
        folder: Where they go: ``{sheet}.tif`` of :data:`SHEETS`, and ``siose_ar.gpkg``.
        seed: Chooses the province.
        advance: Told 1 for each of the :data:`FILES` files written.
        sheet_px: Columns and rows of a sheet.

    Returns:
        The files, sheets first.

    Raises:
        OutputError: If they cannot be written; none of them is there then.
    """
    base, sheets = folder / BASE, [folder / f"{name}.tif" for name in SHEETS]
    with published(base, *sheets) as (base_draft, *sheet_drafts):
        province = make_province(seed, sheet_px)
        for name, draft in zip(SHEETS, sheet_drafts, strict=True):
            _write_sheet(province, name, draft)
            if advance:
                advance(1)
        _write_base(province, seed, base_draft)
        if advance:
            advance(1)
    return [*sheets, base]


def make_province(seed: int, sheet_px: tuple[int, int] = SHEET_PX) -> Province:
    """Make the ground of all four sheets, its picture and its interpretation.

    Args:
        seed: Chooses the province.
        sheet_px: Columns and rows of a sheet.
    """
    rng = np.random.default_rng([seed, 722])
    columns, rows = 2 * sheet_px[0], 2 * sheet_px[1]
    width, height = columns * PIXEL, rows * PIXEL
    parcels = landscape.tessellate(width, height, _PARCEL, rng)
    outlines: NDArray[np.object_] = shapely.transform(
        parcels, lambda points: np.add(points, (_LEFT, _TOP - height)).round(3)
    )
    parcel = rasterize(
        ((outline, index) for index, outline in enumerate(outlines)),
        out_shape=(rows, columns),
        fill=-1,
        transform=Affine(PIXEL, 0, _LEFT, 0, -PIXEL, _TOP),
        dtype=np.int32,
    )
    main = _main_covers(outlines, (width / 2, height / 2), rng)
    ground = landscape.lay_out(parcel, len(outlines), rng)
    fate = rng.permutation(np.linspace(0, 1, len(outlines), endpoint=False))
    composite = fate < _COMPOSITE
    cover = _covers(parcel, main, composite, rng)
    built = cover == textures.PAVED
    cover[built] = textures.settle(ground.pixels(built))
    seen = _shares(parcel, cover, len(outlines))
    # Parcels beyond the sheets have no pixels: SIOSE knows them all the same.
    shares = [part or {int(main[index]): 100.0} for index, part in enumerate(seen)]
    names = {entry.id: entry.label for entry in siose_ar_codelist()}
    labels = [_label(part, luck, names) for part, luck in zip(shares, 1 - fate, strict=True)]
    picture = landscape.paint(ground, cover, rng)
    return Province(sheet_px, outlines, parcel, cover, shares, labels, picture)


def _main_covers(
    outlines: NDArray[np.object_], sheet: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.uint16]:
    """The cover that prevails in each parcel: zones from hill to valley, all on each sheet.

    Args:
        outlines: The parcels.
        sheet: Width and height of a sheet in metres.
        rng: Source of all that is random.
    """
    centres = shapely.get_coordinates(shapely.centroid(outlines))
    width, height = sheet
    across = np.clip((centres[:, 0] - _LEFT) // width, 0, 1)
    down = np.clip((_TOP - centres[:, 1]) // height, 0, 1)
    phase = rng.uniform(0, 2 * np.pi, 4)
    x, y = centres[:, 0] / 330, centres[:, 1] / 270
    altitude = np.sin(x + phase[0]) + np.sin(y + phase[1]) + np.sin(0.7 * (x + y) + phase[2])
    main = np.zeros(len(outlines), np.uint16)
    ends = np.cumsum([share for _, share in _CATENA])
    for quarter in range(4):
        here = np.flatnonzero(across + 2 * down == quarter)
        # Zones, but loose ones: neighbours differ often enough for edges of every kind.
        order = np.argsort(-altitude[here] + rng.normal(0, 0.7, len(here)), kind="stable")
        place = np.empty(len(here))
        place[order] = (np.arange(len(here)) + 0.5) / len(here)
        kind = np.minimum(np.searchsorted(ends, place), len(_CATENA) - 1)
        main[here] = np.asarray([cover for cover, _ in _CATENA], np.uint16)[kind]
    return main


def _covers(
    parcel: NDArray[np.int32],
    main: NDArray[np.uint16],
    composite: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.uint16]:
    """The cover of each pixel: the parcel's own, and in composites patches of a second one."""
    second = main.copy()
    for one, other in _NEIGHBOURS.items():
        second[main == one] = other
    part = np.where(composite, rng.choice([0.1, 0.2, 0.3, 0.4, 0.45], len(main)), 0.0)
    inside = landscape.patches(parcel, part, rng)
    return np.where(inside, second[parcel], main[parcel])


def _shares(
    parcel: NDArray[np.int32], cover: NDArray[np.uint16], parcels: int
) -> list[dict[int, float]]:
    """Per cent of each cover in the pixels of each parcel, largest first."""
    covers, which = np.unique(cover, return_inverse=True)
    counts = np.bincount(
        parcel.ravel().astype(np.int64) * len(covers) + which.ravel(),
        minlength=parcels * len(covers),
    ).reshape(parcels, len(covers))
    shares = []
    for row in counts:
        present = sorted(np.flatnonzero(row).tolist(), key=lambda i: (-row[i], i))
        shares.append({int(covers[i]): float(100.0 * row[i] / row.sum()) for i in present})
    return shares


def _label(shares: dict[int, float], luck: float, names: dict[int, str]) -> str | None:
    """The label as SIOSE AR writes it: whole per cents that sum to 100, largest first.

    The luckless parcels have no polygon (None), an empty label, or the unknown cover.
    """
    if luck < _HOLE:
        return None
    if luck < _HOLE + _EMPTY:
        return ""
    if luck < _HOLE + _EMPTY + _UNKNOWN:
        return names[UNKNOWN_COVER]
    whole = {cover: int(share) for cover, share in shares.items()}
    by_rest = sorted(shares, key=lambda cover: whole[cover] - shares[cover])
    for cover in by_rest[: 100 - sum(whole.values())]:
        whole[cover] += 1
    ranked = sorted((cover for cover in whole if whole[cover]), key=lambda cover: -whole[cover])
    if len(ranked) == 1:  # the rest is less than half a per cent
        return names[ranked[0]]
    return "_".join(f"{whole[cover]}{names[cover]}" for cover in ranked)


def _write_sheet(province: Province, name: str, path: Path) -> None:
    rows, cols = province.sheet(name)
    picture = province.picture[:, rows, cols].copy()
    # Each flight line has its own exposure.
    exposure = 1 + 0.03 * (list(SHEETS).index(name) - 1.5) / 1.5
    picture = np.clip(np.rint(picture * exposure), 1, 255).astype(np.uint8)
    if name == CUT_CORNER:
        height, width = picture.shape[1:]
        row, col = np.mgrid[:height, :width]
        picture[:, (width - col) + 1.6 * (height - row) < 0.34 * width] = NODATA
    transform = Affine(PIXEL, 0, _LEFT + cols.start * PIXEL, 0, -PIXEL, _TOP - rows.start * PIXEL)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=3,
        height=picture.shape[1],
        width=picture.shape[2],
        dtype="uint8",
        crs=CRS,
        transform=transform,
        nodata=NODATA,
        photometric="rgb",
        tiled=True,
        blockxsize=256,
        blockysize=256,
        compress="deflate",  # lossless: JPEG would blur the edge of nodata into the picture
        predictor=2,
        interleave="pixel",
    ) as file:
        file.write(picture)


def _write_base(province: Province, seed: int, path: Path) -> None:
    there = [index for index, label in enumerate(province.labels) if label is not None]
    outlines = province.outlines[there]
    area = shapely.area(outlines).round(2)
    names = {entry.id: entry.label for entry in siose_ar_codelist()}
    urns = [uuid.uuid5(uuid.NAMESPACE_URL, f"tesela:demo:{seed}:{index}").urn for index in there]
    values = list(_values(province, there, urns, area.tolist(), names))
    largest: dict[str, int] = {}
    for urn, _, _, cover, *_ in values:
        largest.setdefault(urn, cover)
    to_degrees = Transformer.from_crs(CRS, "EPSG:4258", always_xy=True)
    frame = geopandas.GeoDataFrame(
        {
            "ID_POLYGON": urns,
            "ROTULO": [province.labels[index] or None for index in there],
            "ID_COBERTURA_MAX": [largest.get(urn, UNKNOWN_COVER) for urn in urns],
            "SUPERF_M2": area,
            "FECHA_REF": _YEAR,
        },
        geometry=shapely.transform(
            outlines,
            # 1e-9 degrees are a tenth of a millimetre.
            lambda points: np.column_stack(to_degrees.transform(*points.T)).round(9),
        ),
        crs="EPSG:4258",
    )
    frame.to_file(path, layer=_LAYER, engine="pyogrio", driver="GPKG", geometry_name="geom")
    with closing(sqlite3.connect(path)) as base:
        base.execute(
            f"CREATE TABLE {_VALUES} (ID_POLYGON TEXT, ROTULO TEXT, CODE_ABREV TEXT, "
            "ID_COBERTURA INTEGER, SUPERF_POR_SINREDONDEO REAL, SUPERF_M2 REAL)"
        )
        base.executemany(f"INSERT INTO {_VALUES} VALUES (?, ?, ?, ?, ?, ?)", values)
        base.execute(
            f"CREATE TABLE {_CODELIST} (ID_COBERTURA INTEGER, ETIQUETA TEXT, DESCRIPCION TEXT)"
        )
        base.executemany(
            f"INSERT INTO {_CODELIST} VALUES (?, ?, ?)",
            [(entry.id, entry.label, entry.description) for entry in siose_ar_codelist()],
        )
        base.executemany(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, last_change) "
            "VALUES (?, 'attributes', ?, ?)",
            [(table, table, _STAMP) for table in (_VALUES, _CODELIST)],
        )
        base.execute("UPDATE gpkg_contents SET last_change = ?", (_STAMP,))
        base.commit()
        base.execute("VACUUM")  # or the true time stays behind in freed space


def _values(
    province: Province,
    there: list[int],
    urns: list[str],
    areas: list[float],
    names: dict[int, str],
) -> Iterator[tuple[str, str, str, int, float, float]]:
    """Rows of the values table: one a cover of a polygon, shares not rounded."""
    for index, urn, area in zip(there, urns, areas, strict=True):
        label = province.labels[index]
        if not label:
            continue
        shares = province.shares[index]
        if label == names[UNKNOWN_COVER]:
            shares = {UNKNOWN_COVER: 100.0}
        for cover, share in shares.items():
            abbreviation = names[cover] if len(shares) == 1 else f"{share:.0f}{names[cover]}"
            yield urn, label, abbreviation, cover, share, share / 100 * area
