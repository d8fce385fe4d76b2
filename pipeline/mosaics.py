"""Mosaics of sheets as VRT files: small texts that GDAL and QGIS open as one raster.

Nothing is copied: pixels and overviews come from the sheets. Where sheets overlap, the later part
lies on top, and ground without data hides nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from pipeline.geotiff import BLOCK
from pipeline.grid import PixelGrid
from pipeline.nomenclature import IGNORE
from pipeline.styles import printable


@dataclass(frozen=True)
class Part:
    """A raster of a mosaic.

    Attributes:
        path: The file as the mosaic names it, relative to its own folder or absolute.
        grid: Its pixel grid.
        bands: Its bands that the mosaic shows, from 1, in the mosaic's order.
        block: Columns and rows of its blocks.
        masked: Whether it may have pixels without data.
    """

    path: str
    grid: PixelGrid
    bands: tuple[int, ...] = (1,)
    block: tuple[int, int] = (BLOCK, BLOCK)
    masked: bool = True


def kinds_of_grids(grids: Mapping[str, PixelGrid]) -> dict[str, str]:
    """Sort sheets into those that one mosaic can show: same CRS, same pixel size.

    Args:
        grids: Pixel grid of each sheet.

    Returns:
        Of each sheet what distinguishes its mosaic's name: nothing where all sheets are alike,
        else ``epsg25830`` where they differ in CRS, ``0.25`` where they differ in pixel size,
        ``epsg25830.0.25`` where they differ in both.
    """
    systems = {sheet: _system(grid.crs) for sheet, grid in grids.items()}
    # Six digits, as where sheets are compared: rounding is no difference.
    sizes = {
        sheet: "x".join(
            dict.fromkeys((f"{grid.pixel_width:.6g}", f"{grid.pixel_height:.6g}"))
        )
        for sheet, grid in grids.items()
    }  # fmt: skip
    telling = [kind for kind in (systems, sizes) if len(set(kind.values())) > 1]
    return {sheet: ".".join(kind[sheet] for kind in telling) for sheet in grids}


def class_mosaic(
    parts: Sequence[Part],
    names: Sequence[str],
    colors: Sequence[str],
    tags: Mapping[str, str] | None = None,
) -> str:
    """Mosaic of class rasters, with their names and colours.

    Args:
        parts: Rasters of one kind of grid, those on top last.
        names: Class names in the order of their ids.
        colors: ``#RRGGBB`` of each.
        tags: Metadata of the file.

    Returns:
        XML text of a VRT file.
    """
    root, grid = _mosaic(parts, tags or {})
    band = _band(root, 1, "Palette")
    ET.SubElement(band, "NoDataValue").text = str(IGNORE)
    table = ET.SubElement(band, "ColorTable")
    categories = ET.SubElement(band, "CategoryNames")
    for name, color in zip(names, colors, strict=True):
        red, green, blue = (str(int(color[i : i + 2], 16)) for i in (1, 3, 5))
        ET.SubElement(table, "Entry", c1=red, c2=green, c3=blue, c4="255")
        ET.SubElement(categories, "Category").text = printable(name)
    for part in parts:
        source = _source(band, "ComplexSource", part, "1", grid)
        ET.SubElement(source, "NODATA").text = str(IGNORE)
    return _text(root)


def measure_mosaic(parts: Sequence[Part], descriptions: Sequence[str]) -> str:
    """Mosaic of rasters of per cents: confidence, entropy, probabilities.

    Args:
        parts: Rasters of one kind of grid, those on top last.
        descriptions: What each band says.

    Returns:
        XML text of a VRT file.
    """
    root, grid = _mosaic(parts, {})
    for number, description in enumerate(descriptions):
        band = _band(root, number + 1, "Gray" if number == 0 else "Undefined", description)
        ET.SubElement(band, "NoDataValue").text = str(IGNORE)
        for part in parts:
            source = _source(band, "ComplexSource", part, str(part.bands[number]), grid)
            ET.SubElement(source, "NODATA").text = str(IGNORE)
    return _text(root)


def orthophoto_mosaic(parts: Sequence[Part]) -> str:
    """Mosaic of orthophotos, with a band that says where there are none.

    Args:
        parts: Orthophotos of one kind of grid, those on top last. Bands that not all of them have
            are left out.

    Returns:
        XML text of a VRT file; its last band is alpha.
    """
    root, grid = _mosaic(parts, {})
    bands = min(len(part.bands) for part in parts)
    meanings = ("Red", "Green", "Blue") + ("Undefined",) * (bands - 3)
    for number in range(bands):
        band = _band(root, number + 1, meanings[number])
        for part in parts:
            kind = "ComplexSource" if part.masked else "SimpleSource"
            source = _source(band, kind, part, str(part.bands[number]), grid)
            if part.masked:
                ET.SubElement(source, "UseMaskBand").text = "true"
    alpha = _band(root, bands + 1, "Alpha")
    for part in parts:
        # A pixel has data where one of its bands has: a nodata value masks band by band.
        for number in part.bands if part.masked else part.bands[:1]:
            source = _source(alpha, "ComplexSource", part, f"mask,{number}", grid)
            ET.SubElement(source, "NODATA").text = "0"
    return _text(root)


def mosaic_grid(grids: Sequence[PixelGrid]) -> PixelGrid:
    """The pixels that a mosaic has: those of the first grid, on around all of them.

    Args:
        grids: Of one CRS and pixel size; they may lie a part of a pixel beside each other.
    """
    first = grids[0]
    offsets = [_offset(grid, first) for grid in grids]
    left, top = (min(_whole(place[axis], down=True) for place in offsets) for axis in (0, 1))
    right = max(
        _whole(col + grid.width, down=False) for (col, _), grid in zip(offsets, grids, strict=True)
    )
    bottom = max(
        _whole(row + grid.height, down=False)
        for (_, row), grid in zip(offsets, grids, strict=True)
    )  # fmt: skip
    return PixelGrid(
        first.crs,
        first.left + left * first.pixel_width,
        first.top - top * first.pixel_height,
        first.pixel_width,
        first.pixel_height,
        right - left,
        bottom - top,
    )


def _system(crs: str) -> str:
    if re.fullmatch(r"\w+:\w+", crs):
        return crs.replace(":", "").lower()
    return f"crs{hashlib.sha256(crs.encode()).hexdigest()[:8]}"


def _offset(grid: PixelGrid, origin: PixelGrid) -> tuple[float, float]:
    """Columns and rows from one grid's corner to another's, whole where they nearly are."""
    found = (
        (grid.left - origin.left) / origin.pixel_width,
        (origin.top - grid.top) / origin.pixel_height,
    )
    # Coordinates of a mosaic of a country have ten digits: what is left of them is rounding.
    return tuple(float(round(v)) if abs(v - round(v)) < 1e-3 else v for v in found)  # type: ignore[return-value]


def _whole(value: float, *, down: bool) -> int:
    return int(value // 1) if down else -int(-value // 1)


def _mosaic(parts: Sequence[Part], tags: Mapping[str, str]) -> tuple[ET.Element, PixelGrid]:
    grid = mosaic_grid([part.grid for part in parts])
    root = ET.Element(
        "VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height)
    )  # fmt: skip
    ET.SubElement(root, "SRS").text = grid.crs
    numbers = (
        grid.left, grid.pixel_width, 0.0, grid.top, 0.0, -grid.pixel_height
    )  # fmt: skip
    ET.SubElement(root, "GeoTransform").text = ", ".join(map(repr, numbers))
    if tags:
        metadata = ET.SubElement(root, "Metadata")
        for key, value in tags.items():
            ET.SubElement(metadata, "MDI", key=key).text = value
    return root, grid


def _band(root: ET.Element, number: int, meaning: str, description: str = "") -> ET.Element:
    band = ET.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(number))
    if description:
        ET.SubElement(band, "Description").text = printable(description)
    ET.SubElement(band, "ColorInterp").text = meaning
    return band


def _source(
    band: ET.Element, kind: str, part: Part, source_band: str, mosaic: PixelGrid
) -> ET.Element:
    grid = part.grid
    width, height = str(grid.width), str(grid.height)
    source = ET.SubElement(band, kind)
    absolute = part.path.startswith("/")
    ET.SubElement(source, "SourceFilename", relativeToVRT="0" if absolute else "1").text = part.path
    ET.SubElement(source, "SourceBand").text = source_band
    # With these GDAL opens a sheet when its pixels are asked for, not all of them at once.
    ET.SubElement(
        source, "SourceProperties", RasterXSize=width, RasterYSize=height, DataType="Byte",
        BlockXSize=str(part.block[0]), BlockYSize=str(part.block[1]),
    )  # fmt: skip
    col, row = _offset(grid, mosaic)
    ET.SubElement(source, "SrcRect", xOff="0", yOff="0", xSize=width, ySize=height)
    ET.SubElement(source, "DstRect", xOff=repr(col), yOff=repr(row), xSize=width, ySize=height)
    return source


def _text(root: ET.Element) -> str:
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"
