"""QGIS projects, written as text: what lies where, in groups, styled, with relative paths.

No QGIS is needed to write one. A project (``.qgz``) is a zip with one XML document in it; what is
left out of that document QGIS fills with its defaults.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree as ET

from pipeline.errors import InputError
from pipeline.styles import QGIS_VERSION, printable


@dataclass(frozen=True)
class ProjectLayer:
    """A layer of a project.

    Attributes:
        name: What the panel of layers says.
        source: The file as the project names it, relative to the project's folder or absolute;
            of a GeoPackage with ``|layername=``.
        crs: Its coordinate reference system, an authority's code or WKT.
        style: QGIS style (QML), which the project keeps for itself.
        kind: Raster or vector.
        shown: Whether it is checked; it is drawn where its groups are checked too.
        expanded: Whether its legend is open.
        note: What the panel says of it on hovering.
    """

    name: str
    source: str
    crs: str
    style: str
    kind: Literal["raster", "vector"] = "raster"
    shown: bool = True
    expanded: bool = False
    note: str = ""


@dataclass(frozen=True)
class Group:
    """A group of layers and groups, the uppermost first.

    Attributes:
        name: What the panel of layers says.
        entries: What is in it.
        shown: Whether it is checked.
        expanded: Whether it is open.
    """

    name: str
    entries: Sequence[ProjectLayer | Group]
    shown: bool = False
    expanded: bool = False

    def layers(self) -> Iterator[ProjectLayer]:
        """All layers in it, the uppermost first."""
        for entry in self.entries:
            if isinstance(entry, Group):
                yield from entry.layers()
            else:
                yield entry


@dataclass(frozen=True)
class Project:
    """A QGIS project.

    Attributes:
        title: Title of the window.
        abstract: What it shows and where it is from, for its properties.
        author: Who made it.
        crs: Coordinate reference system of the map view.
        extent: What is seen at first: left, bottom, right, top in that system.
        groups: The uppermost first.
    """

    title: str
    abstract: str
    author: str
    crs: str
    extent: tuple[float, float, float, float]
    groups: Sequence[Group]


def packed(project: Project) -> bytes:
    """Content of a ``.qgz`` file; of the same project always the same bytes."""
    # Any name will do that ends so; a fixed one has no characters that some zip reader mistakes.
    entry = zipfile.ZipInfo("project.qgs", date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system = 3  # Unix, wherever it is written
    entry.external_attr = 0o644 << 16
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(entry, document(project))
    return content.getvalue()


def document(project: Project) -> str:
    """The XML document of a project.

    Raises:
        InputError: If a layer's style cannot be read.
    """
    root = ET.Element("qgis", projectname=printable(project.title), version=QGIS_VERSION)
    ET.SubElement(root, "title").text = printable(project.title)
    _system(ET.SubElement(root, "projectCrs"), project.crs)
    tree = ET.SubElement(root, "layer-tree-group")
    layers = ET.Element("projectlayers")
    # Numbered in the order of the panel: names of layers are not unique, and these are.
    numbers = iter(range(10**9))
    for group in project.groups:
        _group(tree, layers, group, numbers)
    _canvas(root, project)
    root.append(layers)
    properties = ET.SubElement(root, "properties")
    paths = ET.SubElement(properties, "Paths")
    ET.SubElement(paths, "Absolute", type="bool").text = "false"
    systems = ET.SubElement(properties, "SpatialRefSys")
    # Without it QGIS does not read the project's own system.
    ET.SubElement(systems, "ProjectionsEnabled", type="int").text = "1"
    metadata = ET.SubElement(root, "projectMetadata")
    for key, text in (
        ("title", project.title), ("abstract", project.abstract), ("author", project.author),
    ):  # fmt: skip
        ET.SubElement(metadata, key).text = printable(text)
    view = ET.SubElement(ET.SubElement(root, "ProjectViewSettings"), "DefaultViewExtent")
    for key, number in zip(("xmin", "ymin", "xmax", "ymax"), project.extent, strict=True):
        view.set(key, repr(number))
    _system(view, project.crs)
    ET.indent(root)
    kind = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return kind + ET.tostring(root, encoding="unicode") + "\n"


def around(
    boxes: Iterable[tuple[float, float, float, float]], margin: float = 0.02
) -> tuple[float, float, float, float]:
    """Bounds of several boxes, each left, bottom, right, top, and a share more on each side."""
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    left, bottom, right, top = min(lefts), min(bottoms), max(rights), max(tops)
    wide, high = margin * (right - left), margin * (top - bottom)
    return left - wide, bottom - high, right + wide, top + high


def _group(parent: ET.Element, layers: ET.Element, group: Group, numbers: Iterator[int]) -> None:
    node = ET.SubElement(
        parent, "layer-tree-group", name=printable(group.name), checked=_checked(group.shown),
        expanded=str(int(group.expanded)),
    )  # fmt: skip
    for entry in group.entries:
        if isinstance(entry, Group):
            _group(node, layers, entry, numbers)
            continue
        identity = f"layer_{next(numbers):09d}"  # QGIS throws away ids of ten letters or less
        ET.SubElement(
            node, "layer-tree-layer", id=identity, name=printable(entry.name),
            source=entry.source, providerKey=_provider(entry), checked=_checked(entry.shown),
            expanded=str(int(entry.expanded)),
        )  # fmt: skip
        layers.append(_layer(entry, identity))


def _layer(layer: ProjectLayer, identity: str) -> ET.Element:
    node = ET.Element("maplayer", type=layer.kind, styleCategories="AllStyleCategories")
    if layer.kind == "vector":
        node.set("geometry", "Polygon")
    for key, text in (
        ("id", identity), ("datasource", layer.source), ("layername", printable(layer.name)),
        ("abstract", printable(layer.note)),
    ):  # fmt: skip
        ET.SubElement(node, key).text = text
    _system(ET.SubElement(node, "srs"), layer.crs)
    provider = ET.SubElement(node, "provider")
    provider.text = _provider(layer)
    if layer.kind == "vector":
        provider.set("encoding", "UTF-8")
    try:
        style = ET.fromstring(layer.style)
    except ET.ParseError as error:
        raise InputError(
            f"{layer.source}: its style cannot be read ({error}).",
            remedy="Remove its .qml file and let its rule make it again.",
        ) from error
    node.extend(style)
    return node


def _provider(layer: ProjectLayer) -> str:
    return "gdal" if layer.kind == "raster" else "ogr"


def _checked(shown: bool) -> str:
    return "Qt::Checked" if shown else "Qt::Unchecked"


def _canvas(root: ET.Element, project: Project) -> None:
    canvas = ET.SubElement(root, "mapcanvas", name="theMapCanvas")
    extent = ET.SubElement(canvas, "extent")
    for key, number in zip(("xmin", "ymin", "xmax", "ymax"), project.extent, strict=True):
        ET.SubElement(extent, key).text = repr(number)
    _system(ET.SubElement(canvas, "destinationsrs"), project.crs)


def _system(parent: ET.Element, crs: str) -> None:
    system = ET.SubElement(parent, "spatialrefsys")
    if crs.startswith(("EPSG:", "ESRI:", "IGNF:")):
        # QGIS looks at the code only where it finds a number of its own table; any number will do.
        ET.SubElement(system, "srsid").text = "1"
        ET.SubElement(system, "authid").text = crs
    else:
        ET.SubElement(system, "wkt").text = crs
