"""How QGIS shows the points of a sample: symbols, labels, and the form to interpret them with.

The form does not tell what the map says: who interprets a point shall not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from pipeline.sample_chips import HEIGHT

CERTAINTIES = ("sure", "unsure")
"""How certain an interpretation is."""

_NULL = "{2839923C-8B7D-419E-B84B-CA2FE9B80EC7}"  # QGIS's own word for NULL in a list of values
_UNKNOWN = "(not interpreted)"
_UNTOLD = "(not told)"

FIELDS = (
    "id", "reference", "certainty", "comment", "interpreter", "chip", "sheet", "row", "col",
    "stratum",
)  # fmt: skip
"""Fields of the layer, behind the ``fid`` that every GeoPackage has."""

FILLED = ("reference", "certainty", "comment", "interpreter")
"""Those that an interpreter fills in."""

_FIELDS = ("fid", *FIELDS)
_FIXED = ("id", "sheet", "row", "col")
_HIDDEN = ("fid", "stratum")

_EDGE = 5  # what the widget takes of the height; without it, it shrinks the picture

_OPEN = "coalesce(trim(\"reference\"), '') = ''"
# Colours that differ for eyes that see no red or no green; open points are the largest.
_RULES = (
    ("to interpret", _OPEN, "216,27,96", "4.6"),
    ("unsure", f"NOT ({_OPEN}) AND lower(trim(\"certainty\")) = 'unsure'", "255,193,7", "3.6"),
    ("interpreted", "ELSE", "30,136,229", "3.6"),
)

# Of the layer's own file, wherever it was moved to; a project's folder may be another one.
_FOLDER = "file_path(layer_property(@layer, 'path'))"


def sample_style(names: Sequence[str], chips: bool = True, rows: int = HEIGHT) -> str:
    """QGIS style of a sample: symbols by what is interpreted, ids as labels, the form.

    Args:
        names: Names of the classes that a point may be.
        chips: Whether there are image chips to show.
        rows: Their height.

    Returns:
        XML text for ``layer_styles.styleQML``, as QGIS 3.22 writes it.
    """
    style = ET.Element(
        "qgis",
        version="3.22.0",
        labelsEnabled="1",
        styleCategories="Symbology|Labeling|Fields|Forms|AttributeTable|MapTips",
    )
    _renderer(style)
    _labels(style)
    _widgets(style, names, chips, rows)
    _table(style, chips)
    _form(style, chips)
    ET.SubElement(style, "previewExpression").text = '"id"'
    ET.SubElement(style, "mapTip").text = '<b>[% "id" %]</b> [% "reference" %]'
    ET.indent(style)
    return "<!DOCTYPE qgis>\n" + ET.tostring(style, encoding="unicode") + "\n"


def _renderer(style: ET.Element) -> None:
    renderer = ET.SubElement(
        style, "renderer-v2", type="RuleRenderer", forceraster="0", symbollevels="0",
        enableorderby="0",
    )  # fmt: skip
    rules = ET.SubElement(renderer, "rules", key="sample")
    symbols = ET.SubElement(renderer, "symbols")
    for number, (label, condition, color, size) in enumerate(_RULES):
        ET.SubElement(
            rules, "rule", key=f"rule{number}", filter=condition, label=label, symbol=str(number)
        )
        symbol = ET.SubElement(
            symbols, "symbol", name=str(number), type="marker", alpha="1", clip_to_extent="1",
            force_rhr="0",
        )  # fmt: skip
        # Rings, which leave the pixel to be seen; the white one below is for dark ground.
        for outline, width in (("255,255,255,255", "1.1"), (f"{color},255", "0.6")):
            ring = ET.SubElement(
                symbol, "layer", {"class": "SimpleMarker", "enabled": "1", "pass": "0"}
            )
            for key, setting in (
                ("name", "circle"),
                ("color", "0,0,0,0"),
                ("outline_color", outline),
                ("outline_style", "solid"),
                ("outline_width", width),
                ("outline_width_unit", "MM"),
                ("size", size),
                ("size_unit", "MM"),
            ):
                ET.SubElement(ring, "prop", k=key, v=setting)


def _labels(style: ET.Element) -> None:
    labeling = ET.SubElement(style, "labeling", type="simple")
    settings = ET.SubElement(labeling, "settings")
    text = ET.SubElement(
        settings, "text-style", fieldName="id", isExpression="0", fontSize="9",
        fontSizeUnit="Point", fontFamily="Sans Serif", fontWeight="75", textColor="30,30,30,255",
        textOpacity="1",
    )  # fmt: skip
    ET.SubElement(
        text, "text-buffer", bufferDraw="1", bufferSize="0.8", bufferSizeUnits="MM",
        bufferColor="255,255,255,255", bufferOpacity="1",
    )  # fmt: skip
    ET.SubElement(settings, "placement", placement="6", dist="0.6", distUnits="MM",
                  predefinedPositionOrder="TR,TL,BR,BL,R,L,TSR,BSR", offsetType="1")  # fmt: skip
    ET.SubElement(settings, "rendering", drawLabels="1", displayAll="0", obstacle="0")


def _widgets(style: ET.Element, names: Sequence[str], chips: bool, rows: int) -> None:
    fields = ET.SubElement(style, "fieldConfiguration")
    for name in _FIELDS:
        field = ET.SubElement(fields, "field", name=name, configurationFlags="None")
        if name in _HIDDEN or (name == "chip" and not chips):
            _widget(field, "Hidden")
        elif name == "reference":
            _choice(field, [(_UNKNOWN, _NULL), *((name, name) for name in names)])
        elif name == "certainty":
            _choice(field, [(_UNTOLD, _NULL), *((word, word) for word in CERTAINTIES)])
        elif name == "chip":
            _picture(field, rows)
        else:
            _widget(field, "TextEdit")
    aliases = ET.SubElement(style, "aliases")
    for name, alias in (("chip", "Image"), ("reference", "Class that you see"), ("col", "column")):
        ET.SubElement(
            aliases, "alias", field=name, name=alias, index=str(_FIELDS.index(name))
        )  # fmt: skip


def _widget(
    field: ET.Element, kind: str, settings: Mapping[str, tuple[str, str]] | None = None
) -> ET.Element:
    """Add the widget of a field; its settings, by name their type and value."""
    config = ET.SubElement(ET.SubElement(field, "editWidget", type=kind), "config")
    options = ET.SubElement(config, "Option", type="Map")
    for name, (type_, value) in (settings or {}).items():
        ET.SubElement(options, "Option", name=name, type=type_, value=value)
    return options


def _choice(field: ET.Element, entries: Sequence[tuple[str, str]]) -> None:
    listed = ET.SubElement(_widget(field, "ValueMap"), "Option", name="map", type="List")
    for shown, value in entries:
        entry = ET.SubElement(listed, "Option", type="Map")
        ET.SubElement(entry, "Option", name=shown, type="QString", value=value)


def _picture(field: ET.Element, rows: int) -> None:
    options = _widget(
        field,
        "ExternalResource",
        {
            "DocumentViewer": ("int", "1"),  # a picture
            "DocumentViewerHeight": ("int", str(rows + _EDGE)),
            "DocumentViewerWidth": ("int", "0"),
            "FileWidget": ("bool", "false"),
            "FileWidgetButton": ("bool", "false"),
            "RelativeStorage": ("int", "2"),  # from the root below
            "StorageMode": ("int", "0"),
        },
    )
    collection = ET.SubElement(options, "Option", name="PropertyCollection", type="Map")
    ET.SubElement(collection, "Option", name="name", type="QString", value="")
    ET.SubElement(collection, "Option", name="type", type="QString", value="collection")
    properties = ET.SubElement(collection, "Option", name="properties", type="Map")
    root = ET.SubElement(properties, "Option", name="propertyRootPath", type="Map")
    ET.SubElement(root, "Option", name="active", type="bool", value="true")
    ET.SubElement(root, "Option", name="expression", type="QString", value=_FOLDER)
    ET.SubElement(root, "Option", name="type", type="int", value="3")  # an expression


def _table(style: ET.Element, chips: bool) -> None:
    table = ET.SubElement(style, "attributetableconfig", sortExpression='"id"', sortOrder="0")
    columns = ET.SubElement(table, "columns")
    for name in _FIELDS:
        hidden = name in _HIDDEN or (name == "chip" and not chips)
        ET.SubElement(columns, "column", type="field", name=name, hidden=str(int(hidden)))
    ET.SubElement(columns, "column", type="actions", hidden="1")


def _form(style: ET.Element, chips: bool) -> None:
    ET.SubElement(style, "editorlayout").text = "tablayout"
    form = ET.SubElement(style, "attributeEditorForm")
    parts: list[tuple[str, tuple[str, ...], str]] = [
        ("Interpretation", FILLED, "1"),
        ("Point", _FIXED, str(len(_FIXED))),
    ]
    if chips:
        parts.insert(0, ("Image", ("chip",), "1"))
    for title, names, columns in parts:
        group = ET.SubElement(
            form, "attributeEditorContainer", name=title, groupBox="1", showLabel="1",
            columnCount=columns, visibilityExpressionEnabled="0", visibilityExpression="",
        )  # fmt: skip
        for name in names:
            ET.SubElement(
                group, "attributeEditorField", name=name, index=str(_FIELDS.index(name)),
                showLabel=str(int(name != "chip")),
            )  # fmt: skip
    editable = ET.SubElement(style, "editable")
    for name in _FIELDS:
        ET.SubElement(editable, "field", name=name, editable=str(int(name in FILLED)))
