"""QGIS styles and GDAL side files as text: a map opens with named, coloured classes, no click.

QGIS reads ``map.qml`` beside ``map.tif`` by itself. The ``.tif.aux.xml`` says the same to GDAL
and to what else reads it. Class ids are 0 to N-1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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

ENTROPY_STOPS = (
    (0, "#000004"),
    (25, "#51127C"),
    (50, "#B73779"),
    (75, "#FC8961"),
    (100, "#FCFDBF"),
)
"""Per cent and colour: magma, so that bright is doubtful and nobody takes it for confidence."""

QGIS_VERSION = "3.22.0"
"""The oldest QGIS that these styles were opened with; newer ones read them."""

RAT_COLUMNS = (
    ("Value", 5, 0),
    ("Count", 1, 0),
    ("Class", 2, 2),
    ("R", 6, 0),
    ("G", 7, 0),
    ("B", 8, 0),
    ("A", 9, 0),
)
"""Columns of a class map's attribute table: name, GDALRATFieldUsage, GDALRATFieldType."""


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
    return legend_qml(list(zip(range(len(names)), names, colors, strict=True)))


def legend_qml(entries: Sequence[tuple[int, str, str]]) -> str:
    """QGIS style of a raster of some values: one legend entry each, nothing else drawn.

    Args:
        entries: Value, label and ``#RRGGBB``, in the order of the legend.

    Returns:
        XML text.
    """
    renderer = _renderer("paletted")
    palette = ET.SubElement(renderer, "colorPalette")
    for value, label, color in entries:
        entry = {"value": str(value), "color": color.lower(), "label": printable(label)}
        ET.SubElement(palette, "paletteEntry", entry, alpha="255")
    return _qml(renderer)


def confidence_qml() -> str:
    """QGIS style of a confidence raster: fixed stops from 0 to 100 per cent.

    Fixed, and not stretched to each sheet's own range, so that sheets compare by eye.

    Returns:
        XML text for ``map.confidence.qml`` beside ``map.confidence.tif``.
    """
    return _per_cent_qml(CONFIDENCE_STOPS, 1)


def probability_qml(band: int = 1) -> str:
    """QGIS style of one class's probability, with the stops of :func:`confidence_qml`.

    Args:
        band: Band of the class, from 1; another one is chosen in QGIS by the name of its class.

    Returns:
        XML text for ``map.probabilities.qml`` beside ``map.probabilities.tif``.
    """
    return _per_cent_qml(CONFIDENCE_STOPS, band)


def entropy_qml() -> str:
    """QGIS style of an entropy raster: fixed stops from 0 to 100 per cent of its greatest value.

    Returns:
        XML text for ``map.entropy.qml`` beside ``map.entropy.tif``.
    """
    return _per_cent_qml(ENTROPY_STOPS, 1)


def orthophoto_qml(bands: Sequence[int], alpha: int | None = None) -> str:
    """QGIS style of an orthophoto: its values as they are, not stretched.

    Args:
        bands: Bands for red, green and blue, from 1.
        alpha: Band with what is transparent, if there is one.

    Returns:
        XML text.
    """
    renderer = _renderer("multibandcolor")
    del renderer.attrib["band"]
    renderer.set("alphaBand", str(-1 if alpha is None else alpha))
    for color, band in zip(("red", "green", "blue"), bands, strict=True):
        renderer.set(f"{color}Band", str(band))
        contrast = ET.SubElement(renderer, f"{color}ContrastEnhancement")
        ET.SubElement(contrast, "minValue").text = "0"
        ET.SubElement(contrast, "maxValue").text = "255"
        ET.SubElement(contrast, "algorithm").text = "NoEnhancement"
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
    rows = [
        (number, counts[number], name, *rgb(color), 255)
        for number, (name, color) in enumerate(zip(names, colors, strict=True))
    ]
    return legend_pam(names, colors, RAT_COLUMNS, rows)


def legend_pam(
    names: Sequence[str],
    colors: Sequence[str],
    columns: Sequence[tuple[str, int, int]],
    rows: Iterable[Sequence[object]],
) -> str:
    """GDAL's side file of a raster whose values have names.

    Args:
        names: Names of the values from 0 on; none are written where there are none.
        colors: ``#RRGGBB`` of each.
        columns: Name, usage (``GDALRATFieldUsage``) and type (``GDALRATFieldType``) of each column
            of the attribute table.
        rows: Its rows.

    Returns:
        XML text.
    """
    dataset = ET.Element("PAMDataset")
    band = ET.SubElement(dataset, "PAMRasterBand", band="1")
    if names:
        # N entries, not 256: QGIS lists as many classes as this table has entries.
        table = ET.SubElement(band, "ColorTable")
        categories = ET.SubElement(band, "CategoryNames")
        for name, color in zip(names, colors, strict=True):
            parts = {f"c{i}": str(part) for i, part in enumerate((*rgb(color), 255), 1)}
            ET.SubElement(table, "Entry", parts)
            ET.SubElement(categories, "Category").text = printable(name)
    attributes = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (field, usage, kind) in enumerate(columns):
        column = ET.SubElement(attributes, "FieldDefn", index=str(index))
        ET.SubElement(column, "Name").text = field
        ET.SubElement(column, "Type").text = str(kind)
        ET.SubElement(column, "Usage").text = str(usage)
    for index, values in enumerate(rows):
        row = ET.SubElement(attributes, "Row", index=str(index))
        for value in values:
            ET.SubElement(row, "F").text = printable(str(value))
    ET.indent(dataset)
    return ET.tostring(dataset, encoding="unicode") + "\n"


def rgb(color: str) -> tuple[int, int, int]:
    """Red, green and blue of ``#RRGGBB``, 0 to 255."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _per_cent_qml(stops: Sequence[tuple[int, str]], band: int) -> str:
    low, high = str(stops[0][0]), str(stops[-1][0])
    renderer = _renderer("singlebandpseudocolor")
    renderer.attrib.update(classificationMin=low, classificationMax=high, band=str(band))
    ramp = ET.SubElement(
        ET.SubElement(renderer, "rastershader"),
        "colorrampshader",
        colorRampType="INTERPOLATED",
        classificationMode="1",
        clip="0",
        minimumValue=low,
        maximumValue=high,
    )
    for value, color in stops:
        entry = {"value": str(value), "color": color.lower(), "label": f"{value} %"}
        ET.SubElement(ramp, "item", entry, alpha="255")
    return _qml(renderer)


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
    style = ET.Element("qgis", version=QGIS_VERSION, styleCategories="AllStyleCategories")
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


def printable(name: str) -> str:
    """A text without what XML cannot hold."""
    # XML 1.0 has no way to write most control characters, escaped or not.
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", name)


def _check(names: Sequence[str], colors: Sequence[str]) -> None:
    if len(names) != len(colors) or not 0 < len(names) <= IGNORE:
        raise ValueError(f"{len(names)} class names and {len(colors)} colours")
    for color in colors:
        if not re.fullmatch(r"#[0-9A-Fa-f]{6}", color):
            raise ValueError(f"{color!r} is not #RRGGBB")
