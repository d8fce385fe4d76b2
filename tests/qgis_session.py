"""Opens layers and projects in a real QGIS and tells what it shows; no part of the test process.

Run by the Python that has QGIS (Debian's), which has a GDAL of its own. Reads JSON from standard
input: ``layers`` (raster files, or ``file.gpkg|layername=...``) and ``projects`` (files), and
``pictures``: of each project or layer the PNG to draw it to. Writes what it found as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["QT_QPA_PLATFORM"] = "offscreen"
# Settings of a person's own QGIS would change what is shown.
os.environ["QGIS_CUSTOM_CONFIG_PATH"] = tempfile.mkdtemp(prefix="qgis-config-")
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="qgis-runtime-"))
# Those of another environment's GDAL and PROJ would break this one's.
for variable in ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA", "PYTHONPATH"):
    os.environ.pop(variable, None)

from qgis.core import (  # type: ignore[import-not-found]  # noqa: E402
    QgsApplication,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.gui import QgsMapCanvas  # type: ignore[import-not-found]  # noqa: E402
from qgis.PyQt.QtCore import QSize  # type: ignore[import-not-found]  # noqa: E402
from qgis.PyQt.QtGui import QColor  # type: ignore[import-not-found]  # noqa: E402


def described(layer: Any) -> dict[str, Any]:
    """What QGIS shows of a layer."""
    found = {"name": layer.name(), "valid": layer.isValid(), "crs": layer.crs().authid()}
    if not layer.isValid():
        return {**found, "error": layer.error().message()}
    box = layer.extent()
    renderer = layer.renderer()
    found |= {
        "extent": [box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum()],
        "renderer": renderer.type() if renderer else None,
        "abstract": layer.abstract(),
        "source": layer.source(),
    }
    if isinstance(layer, QgsVectorLayer):
        found |= {"features": layer.featureCount(), "fields": [f.name() for f in layer.fields()]}
        if found["renderer"] == "categorizedSymbol":
            found["classes"] = {
                str(c.value()): [c.label(), c.symbol().color().name()]
                for c in renderer.categories()
            }
        return found
    provider = layer.dataProvider()
    bands = range(1, layer.bandCount() + 1)
    found |= {
        "size": [layer.width(), layer.height()],
        "pixel": [layer.rasterUnitsPerPixelX(), layer.rasterUnitsPerPixelY()],
        "bands": [layer.bandName(band) for band in bands],
        "nodata": [
            provider.sourceNoDataValue(band) if provider.sourceHasNoDataValue(band) else None
            for band in bands
        ],
        "shown_bands": list(renderer.usesBands()),
        "pyramids": any(p.getExists() for p in provider.buildPyramidList()),
    }
    if found["renderer"] == "paletted":
        found["classes"] = {
            str(int(c.value)): [c.label, c.color.name()] for c in renderer.classes()
        }
    if found["renderer"] == "singlebandpseudocolor":
        items = renderer.shader().rasterShaderFunction().colorRampItemList()
        found["stops"] = [[item.value, item.color.name(), item.label] for item in items]
    if found["renderer"] == "multibandcolor":
        found["alpha"] = renderer.alphaBand()
    return found


def tree(group: Any) -> list[Any]:
    """Groups and layers of a project: name, checked, open, and what is in a group."""
    return [
        {
            "name": node.name(),
            "checked": node.itemVisibilityChecked(),
            "open": node.isExpanded(),
            **({"entries": tree(node)} if node.nodeType() == 0 else {}),
        }
        for node in group.children()
    ]


def drawn(layers: list[Any], crs: Any, extent: Any, file: str) -> list[str]:
    """Draw layers to a PNG; what went wrong."""
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setDestinationCrs(crs)
    settings.setExtent(extent)
    settings.setBackgroundColor(QColor("white"))
    settings.setOutputSize(QSize(900, max(1, round(900 * extent.height() / extent.width()))))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(file)
    return [error.message for error in job.errors()]


def opened_project(file: str, picture: str | None) -> dict[str, Any]:
    """What QGIS shows of a project."""
    project = QgsProject.instance()
    canvas = QgsMapCanvas()
    read = project.read(file)
    layers = project.layerTreeRoot().layerOrder()
    view, first = project.viewSettings().defaultViewExtent(), canvas.extent()
    visible = project.layerTreeRoot().checkedLayers()
    found = {
        "read": read,
        "title": project.title(),
        "abstract": project.metadata().abstract(),
        "author": project.metadata().author(),
        "crs": project.crs().authid(),
        "extent": [view.xMinimum(), view.yMinimum(), view.xMaximum(), view.yMaximum()],
        "view": [first.xMinimum(), first.yMinimum(), first.xMaximum(), first.yMaximum()],
        "tree": tree(project.layerTreeRoot()),
        "layers": [described(layer) for layer in layers],
        "visible": [layer.name() for layer in layers if layer in visible],
    }
    if picture:
        shown = [layer for layer in layers if layer in visible]
        found["errors"] = drawn(shown, project.crs(), view, picture)
    project.clear()
    return found


def opened_layer(source: str, picture: str | None) -> dict[str, Any]:
    """What QGIS shows of a file by itself."""
    name = Path(source).name
    vector = ".gpkg" in source or ".parquet" in source
    layer = QgsVectorLayer(source, name, "ogr") if vector else QgsRasterLayer(source, name)
    found = described(layer)
    # Rows without geometry have no extent, and nothing to draw.
    if picture and layer.isValid() and layer.extent().isFinite() and not layer.extent().isEmpty():
        found["errors"] = drawn([layer], layer.crs(), layer.extent(), picture)
    return found


asked = json.load(sys.stdin)
application = QgsApplication([], True)
application.initQgis()
pictures = asked.get("pictures", {})
answer = {
    "layers": {name: opened_layer(name, pictures.get(name)) for name in asked.get("layers", [])},
    "projects": {
        name: opened_project(name, pictures.get(name)) for name in asked.get("projects", [])
    },
}
print(json.dumps(answer))
sys.stdout.flush()
# Taking QGIS down while layers still live crashes it.
os._exit(0)
