"""Class rasters of a run: opened with a check that they are, written with what shows them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from pipeline import geotiff, styles
from pipeline.block_reader import BlockReader
from pipeline.errors import InputError
from pipeline.grid import PixelGrid, Window
from pipeline.nomenclature import IGNORE, Nomenclature

NOMENCLATURE_TAG = "TESELA_NOMENCLATURE"
"""GeoTIFF tag with the fingerprint of the nomenclature that a class raster was made with."""

CHANGES_TAG = "TESELA_CHANGES_OF"
"""The same of a change map, whose values are no classes but pairs of them."""


def class_raster(path: Path, grid: PixelGrid, classes: Nomenclature) -> geotiff.RasterReader:
    """Open a class raster of this run, and check that it is one.

    Raises:
        InputError: If it is missing, has other pixels, or was made with another nomenclature.
    """
    reader = geotiff.RasterReader(path)
    try:
        if not reader.grid.same_pixels(grid):
            raise InputError(
                f"{path}: has other pixels than the orthophoto.",
                [f"raster: {reader.grid}", f"orthophoto: {grid}"],
                "It is of another run or of an older orthophoto; remove it and run its rule again.",
            )
        check_nomenclature(reader.tags.get(NOMENCLATURE_TAG, ""), path, classes)
    except InputError:
        reader.close()
        raise
    return reader


def raster_beside(path: Path, grid: PixelGrid) -> geotiff.RasterReader:
    """Open a raster that lies beside a map.

    Raises:
        InputError: If it has other pixels.
    """
    raster = geotiff.RasterReader(path, [1])
    if raster.grid.same_pixels(grid):
        return raster
    raster.close()
    raise InputError(
        f"{path}: has other pixels than the map.",
        [f"raster: {raster.grid}", f"map: {grid}"],
        "It is of another map; make it again, or name the right one.",
    )


def label_blocks(path: Path, grid: PixelGrid, classes: Nomenclature) -> BlockReader:
    """Open a label raster of this run to read it in whole blocks.

    Raises:
        InputError: As :func:`class_raster`.
    """
    class_raster(path, grid, classes).close()
    return BlockReader(path)


def masked_bytes(raster: geotiff.RasterReader) -> Callable[[Window], NDArray[np.uint8]]:
    """Reads windows of the first band of a raster of class ids or per cent.

    Returns:
        Window to pixels, shape ``(rows, cols)``; 255 where the raster says that it has no data.

    Raises:
        InputError: If its pixels are no bytes.
    """
    kind = raster.read(Window(0, 0, 1, 1)).dtype
    if kind != np.uint8:
        raise InputError(
            f"{raster.path}: its pixels are {kind}; class ids and per cent are uint8.",
            remedy="gdal_translate -ot Byte converts.",
        )

    def read(window: Window) -> NDArray[np.uint8]:
        pixels, valid = raster.read_valid(window)
        found: NDArray[np.uint8] = pixels[0]
        found[~valid] = IGNORE
        return found

    return read


def check_nomenclature(made_with: str, path: Path, classes: Nomenclature) -> None:
    """Check the fingerprint of the nomenclature that something was made with.

    Raises:
        InputError: If it is not this one's.
    """
    if made_with != classes.fingerprint:
        raise InputError(
            f"{path}: was made with another nomenclature ({made_with or 'none'}, now "
            f"{classes.fingerprint}).",
            remedy="Run its rule again, or choose another `run` folder.",
        )


def sidecars(raster: Path) -> tuple[Path, Path]:
    """Names of a class raster's side files: GDAL's and QGIS's."""
    return raster.with_name(f"{raster.name}.aux.xml"), raster.with_suffix(".qml")


def write_sidecars(drafts: Sequence[Path], classes: Nomenclature, pixels: Sequence[int]) -> None:
    """Write both side files of a class raster.

    Args:
        drafts: Their drafts, in the order of :func:`sidecars`.
        classes: The classes.
        pixels: Pixels of each class.
    """
    drafts[0].write_text(styles.class_pam(classes.names, classes.colors, pixels), "utf-8")
    drafts[1].write_text(styles.class_qml(classes.names, classes.colors), "utf-8")


def read_legend(raster: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and colours of a class raster, from its side file.

    Returns:
        Names and ``#RRGGBB`` in the order of the ids.

    Raises:
        InputError: If there is no side file, or it does not say them.
    """
    path = sidecars(raster)[0]
    try:
        band = ET.parse(path).find("PAMRasterBand")
    except (OSError, ET.ParseError):
        band = None
    names = (
        [name.text or "" for name in band.iterfind("CategoryNames/Category")]
        if band is not None
        else []
    )
    entries = list(band.iterfind("ColorTable/Entry")) if band is not None else []
    if not names or len(names) != len(entries):
        raise InputError(
            f"{raster}: does not say the names and colours of its classes.",
            [f"{path}: is missing, or has no category names and a colour of each"],
            "Name the nomenclature (--nomenclature), or copy that file too.",
        )
    colors = ("".join(f"{int(entry.get(f'c{i}', 0)):02X}" for i in (1, 2, 3)) for entry in entries)
    return tuple(names), tuple(f"#{color}" for color in colors)


def checksum(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
