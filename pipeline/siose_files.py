"""Files of a SIOSE base: whether they are whole, and what to do where they cannot be read."""

from __future__ import annotations

from pathlib import Path

import pyogrio

from pipeline.errors import InputError

READ_ERRORS = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.FeatureError,
    pyogrio.errors.FieldError,
)
"""What pyogrio raises where GDAL cannot read a file."""


def check_readable(path: Path) -> None:
    """Refuse what GDAL cannot read, or would read in part without a word.

    Raises:
        InputError: If the file is missing, empty, truncated, of a format that has to be exported
            first, or a folder.
    """
    if not path.exists():
        raise InputError(f"SIOSE base {path}: there is no such file.")
    kind = path.suffix.lower()
    if kind in (".mdb", ".accdb"):
        raise InputError(
            f"SIOSE base {path}: is an Access database, which GDAL reads on Windows only.",
            remedy="Export it there to a GeoPackage (ogr2ogr base.gpkg base.mdb), or its polygons "
            "to a Shapefile and its tables to CSV beside it (mdb-export base.mdb T_VALORES > "
            "T_VALORES.csv).",
        )
    if kind == ".zip":
        raise InputError(
            f"SIOSE base {path}: is a ZIP archive.",
            remedy="Unpack it: reading a sheet's footprint from it would unpack it every time.",
        )
    if not path.is_dir() and path.stat().st_size == 0:
        raise InputError(f"SIOSE base {path}: is empty.", remedy="Copy or download it again.")
    if path.is_dir() and kind != ".gdb":
        kinds = (".gpkg", ".shp", ".gdb")
        files = sorted(f.name for f in path.iterdir() if f.suffix.lower() in kinds)
        raise InputError(
            f"SIOSE base {path}: is a folder.",
            files or ["it holds no GeoPackage, Shapefile or geodatabase"],
            "Name the file in it." if files else "",
        )
    if kind == ".shp":
        lacking = [
            path.with_suffix(suffix).name
            for suffix in (".shx", ".dbf")
            if not any(path.with_suffix(s).exists() for s in (suffix, suffix.upper()))
        ]
        if lacking:
            raise InputError(
                f"SIOSE base {path}: is a Shapefile without {' and '.join(lacking)}.",
                remedy="Copy all files of the Shapefile.",
            )
        for suffix in (".shx", ".dbf", ".SHX", ".DBF"):
            check_whole(path.with_suffix(suffix))
    check_whole(path)


def remedy_of(error: str) -> str:
    """What to do about an error of GDAL or SQLite."""
    if "locked" in error:
        return "Another program is writing it: close it there (QGIS, ArcGIS), and start again."
    return "If other programs cannot read it either, copy or download it again: it is damaged."


def is_sqlite(path: Path) -> bool:
    """Whether a file is a GeoPackage or another SQLite database."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\x00"


def check_whole(path: Path) -> None:
    """Refuse a file that ends too early: GDAL would leave polygons or rows out and say nothing.

    Args:
        path: A base, or a file of one; only SQLite, Shapefile and DBF say how long they are.

    Raises:
        InputError: If it is truncated.

    Source:
        https://www.sqlite.org/fileformat2.html, "In-header database size"; "ESRI Shapefile
        Technical Description", 1998; dBASE III file header.
    """
    if not path.is_file():
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(100)
    kind = path.suffix.lower()
    wanted = 0
    if header.startswith(b"SQLite format 3\x00"):
        page = int.from_bytes(header[16:18], "big")
        page = 65_536 if page == 1 else page
        # The number of pages counts only where the last writer kept it.
        if header[24:28] == header[92:96]:
            wanted = max(100, page * int.from_bytes(header[28:32], "big"))
    elif kind in (".shp", ".shx"):
        wanted = max(100, 2 * int.from_bytes(header[24:28], "big"))
    elif kind == ".dbf":
        rows = int.from_bytes(header[4:8], "little")
        first, length = (int.from_bytes(header[i : i + 2], "little") for i in (8, 10))
        wanted = max(32, first + rows * length)
    if size < wanted:
        raise InputError(
            f"SIOSE base {path}: is truncated.",
            [f"it has {size} bytes of {wanted}"],
            "Copy or download it again.",
        )
