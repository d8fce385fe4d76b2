"""QGIS styles and GDAL side files as text: a map opens with named, coloured classes, no click.

QGIS reads ``map.qml`` beside ``map.tif`` by itself. The ``.tif.aux.xml`` says the same to GDAL
and to what else reads it. Class ids are 0 to N-1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from pipeline.nomenclature import IGNORE

CONFIDENCE_STOPS = (
    (0, "#440154"),
    (25, "#3B528B"),
    (50, "#21918C"),
    (75, "#5EC962"),
    (100, "#FDE725"),
)
"""Per cent and colour: viridis, which keeps its order for every kind of colour vision."""

_VERSION = "3.22.0"
"""The oldest QGIS that these styles were opened with; newer ones read them."""

# Usage and type of the columns of a raster attribute table: GDALRATFieldUsage, GDALRATFieldType.
_RAT_COLUMNS = (
    ("Value", 5, 0),
    ("Count", 1, 0),
    ("Class", 2, 2),
    ("R", 6, 0),
    ("G", 7, 0),
    ("B", 8, 0),
    ("A", 9, 0),
)


def class_qml(names: Sequence[str], colors: Sequence[str]) -> str:
    """QGIS style of a class map: one legend entry a class, nothing else drawn.

    Args:
        names: Class names in the order of their ids.
        colors: ``#RRGGBB`` of each.

    Returns:
        XML text for ``map.qml`` beside ``map.tif``.

    Raises:
        ValueError: If names and colours do not pair up.
    """
    _check(names, colors)
    renderer = _renderer("paletted")
    palette = ET.SubElement(renderer, "colorPalette")
    for number, (name, color) in enumerate(zip(names, colors, strict=True)):
        entry = {"value": str(number), "color": color.lower(), "label": _printable(name)}
        ET.SubElement(palette, "paletteEntry", entry, alpha="255")
    return _qml(renderer)


def confidence_qml() -> str:
    """QGIS style of a confidence raster: fixed stops from 0 to 100 per cent.

    Fixed, and not stretched to each sheet's own range, so that sheets compare by eye.

    Returns:
        XML text for ``map.confidence.qml`` beside ``map.confidence.tif``.
    """
    low, high = str(CONFIDENCE_STOPS[0][0]), str(CONFIDENCE_STOPS[-1][0])
    renderer = _renderer("singlebandpseudocolor")
    renderer.attrib.update(classificationMin=low, classificationMax=high)
    ramp = ET.SubElement(
        ET.SubElement(renderer, "rastershader"),
        "colorrampshader",
        colorRampType="INTERPOLATED",
        classificationMode="1",
        clip="0",
        minimumValue=low,
        maximumValue=high,
    )
    for value, color in CONFIDENCE_STOPS:
        entry = {"value": str(value), "color": color.lower(), "label": f"{value} %"}
        ET.SubElement(ramp, "item", entry, alpha="255")
    return _qml(renderer)


def class_pam(names: Sequence[str], colors: Sequence[str], pixels: Sequence[int] = ()) -> str:
    """GDAL's side file of a class map: colour table, category names, attribute table.

    Args:
        names: Class names in the order of their ids.
        colors: ``#RRGGBB`` of each.
        pixels: Pixels of each class on the map, where they are known; 0 otherwise.

    Returns:
        XML text for ``map.tif.aux.xml``.

    Raises:
        ValueError: If names, colours and pixels do not pair up.
    """
    _check(names, colors)
    counts = list(pixels) or [0] * len(names)
    if len(counts) != len(names):
        raise ValueError(f"{len(names)} classes and {len(counts)} pixel counts")
    dataset = ET.Element("PAMDataset")
    band = ET.SubElement(dataset, "PAMRasterBand", band="1")
    # N entries, not 256: QGIS lists as many classes as this table has entries.
    table = ET.SubElement(band, "ColorTable")
    categories = ET.SubElement(band, "CategoryNames")
    attributes = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (field, usage, kind) in enumerate(_RAT_COLUMNS):
        column = ET.SubElement(attributes, "FieldDefn", index=str(index))
        ET.SubElement(column, "Name").text = field
        ET.SubElement(column, "Type").text = str(kind)
        ET.SubElement(column, "Usage").text = str(usage)
    for number, (name, color) in enumerate(zip(names, colors, strict=True)):
        red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
        ET.SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4="255")
        ET.SubElement(categories, "Category").text = _printable(name)
        row = ET.SubElement(attributes, "Row", index=str(number))
        for value in (number, counts[number], _printable(name), red, green, blue, 255):
            ET.SubElement(row, "F").text = str(value)
    ET.indent(dataset)
    return ET.tostring(dataset, encoding="unicode") + "\n"


def _renderer(kind: str) -> ET.Element:
    renderer = ET.Element(
        "rasterrenderer", type=kind, band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    ET.SubElement(renderer, "rasterTransparency")
    limits = ET.SubElement(renderer, "minMaxOrigin")
    ET.SubElement(limits, "limits").text = "None"
    ET.SubElement(limits, "extent").text = "WholeRaster"
    ET.SubElement(limits, "statAccuracy").text = "Estimated"
    return renderer


def _qml(renderer: ET.Element) -> str:
    style = ET.Element("qgis", version=_VERSION, styleCategories="AllStyleCategories")
    pipe = ET.SubElement(style, "pipe")
    # Nearest at every scale: between two class ids there is no class to interpolate.
    nearest = {
        "enabled": "false",
        "zoomedInResamplingMethod": "nearestNeighbour",
        "zoomedOutResamplingMethod": "nearestNeighbour",
        "maxOversampling": "2",
    }
    ET.SubElement(ET.SubElement(pipe, "provider"), "resampling", nearest)
    pipe.append(renderer)
    ET.indent(style)
    return "<!DOCTYPE qgis>\n" + ET.tostring(style, encoding="unicode") + "\n"


def _printable(name: str) -> str:
    # XML 1.0 has no way to write most control characters, escaped or not.
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", name)


def _check(names: Sequence[str], colors: Sequence[str]) -> None:
    if len(names) != len(colors) or not 0 < len(names) <= IGNORE:
        raise ValueError(f"{len(names)} class names and {len(colors)} colours")
    for color in colors:
        if not re.fullmatch(r"#[0-9A-Fa-f]{6}", color):
            raise ValueError(f"{color!r} is not #RRGGBB")
