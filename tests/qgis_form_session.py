"""Opens a sample in a real QGIS, tells what its form has, and fills some points in.

Run by the Python that has QGIS, as ``qgis_session.py``. Reads JSON from standard input: ``file``,
``picture`` (PNG to draw the form of the first point to) and ``edits`` (id to fields and values).
Writes what it found as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

os.environ["QT_QPA_PLATFORM"] = "offscreen"
os.environ["QGIS_CUSTOM_CONFIG_PATH"] = tempfile.mkdtemp(prefix="qgis-config-")
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="qgis-runtime-"))
for variable in ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA", "PYTHONPATH"):
    os.environ.pop(variable, None)

from qgis.core import (  # type: ignore[import-not-found]  # noqa: E402
    QgsApplication,
    QgsProject,
    QgsRenderContext,
    QgsVectorLayer,
)
from qgis.gui import (  # type: ignore[import-not-found]  # noqa: E402
    QgsAttributeEditorContext,
    QgsAttributeForm,
    QgsGui,
)
from qgis.PyQt.QtCore import QThread  # type: ignore[import-not-found]  # noqa: E402
from qgis.PyQt.QtWidgets import QComboBox  # type: ignore[import-not-found]  # noqa: E402

asked = json.load(sys.stdin)
application = QgsApplication([], True)
application.initQgis()
QgsGui.editorWidgetRegistry().initEditors()
layer = QgsVectorLayer(f"{asked['file']}|layername=sample", "sample", "ogr")
# A project elsewhere: what is relative must be so to the layer.
QgsProject.instance().addMapLayer(layer)
names = [field.name() for field in layer.fields()]
form = layer.editFormConfig()


def symbols() -> dict[int, list[str]]:
    """Of each point the names of the rules that draw it."""
    renderer, context, found = layer.renderer().clone(), QgsRenderContext(), {}
    context.setExpressionContext(layer.createExpressionContext())
    renderer.startRender(context, layer.fields())
    labels = {rule.ruleKey(): rule.label() for rule in renderer.rootRule().descendants()}
    for feature in layer.getFeatures():
        context.expressionContext().setFeature(feature)
        keys = renderer.legendKeysForFeature(feature, context)
        found[feature["id"]] = sorted(labels[key] for key in keys if key in labels)
    renderer.stopRender(context)
    return found


answer = {
    "valid": layer.isValid(),
    "crs": layer.crs().authid(),
    "features": layer.featureCount(),
    "labels": layer.labelsEnabled() and layer.labeling().settings().fieldName,
    "layout": int(form.layout()),
    "groups": {group.name(): [part.name() for part in group.children()] for group in form.tabs()},
    "widgets": {
        name: [QgsGui.editorWidgetRegistry().findBest(layer, name).type(), form.readOnly(number)]
        for number, name in enumerate(names)
    },
    "hidden_columns": [
        column.name for column in layer.attributeTableConfig().columns() if column.hidden
    ],
    "before": symbols(),
}
answer["editing"] = layer.startEditing()
shown = QgsAttributeForm(layer, next(layer.getFeatures()), QgsAttributeEditorContext(), None)
shown.resize(1000, 760)
shown.show()
for _ in range(10):
    application.processEvents()
    QThread.msleep(20)
shown.grab().save(asked["picture"])
answer["choices"] = [
    [box.itemText(number) for number in range(box.count())] for box in shown.findChildren(QComboBox)
]
features = {feature["id"]: feature.id() for feature in layer.getFeatures()}
for number, values in asked["edits"].items():
    for name, value in values.items():
        layer.changeAttributeValue(features[int(number)], names.index(name), value)
answer["saved"] = layer.commitChanges()
answer["after"] = symbols()
print(json.dumps(answer))
sys.stdout.flush()
# As if it were killed: what was saved lies in the journal, perhaps.
os._exit(0)
