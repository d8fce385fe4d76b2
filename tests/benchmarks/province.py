"""A made-up classic SIOSE base of any size: polygons that share their outlines, values, labels."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray

CRS = "EPSG:25830"
LEFT, BOTTOM = 400_000.0, 4_300_000.0
CELL = 80.0
"""Metres from one polygon to the next."""

_ROWS = 100  # rows of polygons written at a time
_IDS = {"SNE": 121, "AMO": 523, "VAP": 104, "ZAU": 102, "EDF": 101, "MTR": 320, "PST": 300,
        "CHL": 212, "LVI": 231, "CNF": 316, "DHS": 701, "FDP": 313, "UDS": 813, "A": 600,
        "I": 600, "R": 600}  # fmt: skip
_LABELS = (
    "SNE", "CNFpl", "MTR", "A({0}SNE_{1}VAP)", "I({0}SNE_{1}UDS(45VAP_35ZAU_20EDF))",
    "A({0}MTR_{1}PST)", "R({0}CHLsc_{1}LVI)", "DHS({0}PST_{1}FDP)",
    "I({0}UDS(40EDF_35VAP_25ZAU)_{1}SNE)",
)  # fmt: skip


def write_province(path: Path, columns: int, rows: int, bends: int = 6, seed: int = 1) -> int:
    """Write a base of ``columns`` x ``rows`` polygons of ``4 * bends`` vertices each.

    Returns:
        Number of rows of its values table, which has no index, as the distributed bases.
    """
    rng = np.random.default_rng(seed)
    jitter = rng.uniform(-0.25, 0.25, (2, rows + 1, columns + 1)) * CELL
    corner = np.stack(
        [
            LEFT + np.arange(columns + 1) * CELL + jitter[0],
            BOTTOM + np.arange(rows + 1)[:, None] * CELL + jitter[1],
        ],
        axis=-1,
    )
    across = _bent(corner[:, :-1], corner[:, 1:], bends, rng)
    up = _bent(corner[:-1], corner[1:], bends, rng)
    path.unlink(missing_ok=True)
    names: list[tuple[list[str], list[str]]] = []
    for first in range(0, rows, _ROWS):
        some = np.arange(first, min(first + _ROWS, rows))
        shapes = _polygons(corner, across, up, some)
        kinds = rng.integers(0, len(_LABELS), len(shapes))
        shares = rng.integers(50, 100, len(shapes))
        labels = [
            _LABELS[kind].format(f"{share:02d}", f"{100 - share:02d}")
            for kind, share in zip(kinds.tolist(), shares.tolist(), strict=True)
        ]
        start = first * columns
        ids = [_urn(number) for number in range(start, start + len(shapes))]
        pyogrio.raw.write(
            path,
            geometry=shapely.to_wkb(shapes),
            field_data=[np.array(ids, object), np.array(labels, object)],
            fields=["ID_POLYGON", "SIOSE_CODE"],
            layer="T_POLIGONOS",
            geometry_type="Polygon",
            crs=CRS,
            driver="GPKG",
            append=first > 0,
            geometry_name="geom",
        )
        names.append((ids, labels))
    with closing(sqlite3.connect(path)) as base:
        base.execute(
            "CREATE TABLE T_VALORES (ID_POLYGON TEXT, ID_COBERTURAS INTEGER, ID_ANCESTROS TEXT, "
            "INTER_ID INTEGER, INTER_ANCESTROS TEXT, ATRIBUTOS TEXT, SUPERF_POR REAL)"
        )
        base.executemany("INSERT INTO T_VALORES VALUES (?, ?, ?, ?, ?, ?, ?)", _values(names))
        base.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) "
            "VALUES ('T_VALORES', 'attributes', 'T_VALORES')"
        )
        base.commit()
        (count,) = base.execute("SELECT count(*) FROM T_VALORES").fetchone()
    return int(count)


def _bent(
    start: NDArray[np.float64], end: NDArray[np.float64], bends: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Edges from start to end, bent, without the end."""
    along = np.linspace(0, 1, bends, endpoint=False)[:, None]
    edge = start[..., None, :] + (end - start)[..., None, :] * along
    edge[..., 1:, :] += rng.normal(0, 1.5, edge[..., 1:, :].shape)
    return np.asarray(edge)


def _polygons(
    corner: NDArray[np.float64], across: NDArray[np.float64], up: NDArray[np.float64],
    rows: NDArray[np.int64],
) -> NDArray[np.object_]:  # fmt: skip
    """The polygons of some rows, counter-clockwise from their lower left corner."""
    top = np.concatenate([corner[rows + 1][:, 1:, None], across[rows + 1][:, :, :0:-1]], axis=-2)
    left = np.concatenate([corner[rows + 1][:, :-1, None], up[rows][:, :-1, :0:-1]], axis=-2)
    bottom, right = across[rows], up[rows][:, 1:]
    ring = np.concatenate([bottom, right, top, left, bottom[:, :, :1]], axis=-2)
    ring = ring.reshape(-1, *ring.shape[2:])
    ends = np.arange(len(ring) + 1) * ring.shape[1]
    shapes = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, ring.reshape(-1, 2), (ends, np.arange(len(ring) + 1))
    )
    return np.asarray(shapes)


def _urn(number: int) -> str:
    mixed = (number * 0x9E3779B97F4A7C15) % 2**64
    return f"urn:uuid:{number:08x}-{mixed >> 48:04x}-4000-8000-{mixed % 2**48:012x}"


@cache
def _rows(label: str) -> tuple[tuple[int, str, int, str, str, float], ...]:
    """Rows of the values table of a label: cover, ancestors, number, path, attributes, per cent."""
    found: list[tuple[int, str, int, str, str, float]] = []
    around: list[tuple[int, int, float]] = []
    for match in re.finditer(r"(\d*)([A-Z]{1,3})([a-z]*)(\()?|(\))", label):
        if match[5]:
            around.pop()
            continue
        percent = float(match[1] or 100) * (around[-1][2] / 100 if around else 1)
        number = len(found) + 1
        covers = ",".join(str(cover) for cover, _, _ in around)
        path = ",".join(str(place) for _, place, _ in around)
        found.append((_IDS[match[2]], covers, number, path, match[3], percent))
        if match[4]:
            around.append((_IDS[match[2]], number, percent))
    return tuple(found)


def _values(
    names: list[tuple[list[str], list[str]]],
) -> Iterator[tuple[str, int, str, int, str, str, float]]:
    for ids, labels in names:
        for name, label in zip(ids, labels, strict=True):
            for row in _rows(label):
                yield (name, *row)
