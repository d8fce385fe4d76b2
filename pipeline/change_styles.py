"""What shows a change map: QGIS style and GDAL side file of the changes that occur."""

from __future__ import annotations

from pipeline.changes import HECTARE, ChangeCounts
from pipeline.styles import RAT_COLUMNS, legend_pam, legend_qml, rgb

# A string, a string and a number, of no usage that GDAL knows.
_COLUMNS = (*RAT_COLUMNS, ("From", 0, 2), ("To", 0, 2), ("Area_ha", 0, 1))


def change_qml(counts: ChangeCounts) -> str:
    """QGIS style of a change map.

    Args:
        counts: What is on the map.

    Returns:
        XML text: an entry for each change that occurs, the largest first, then, pale, for the
        classes that have not changed. No data is transparent.
    """
    code = counts.code
    return legend_qml([(c.value, code.label(c.value), code.color(c.value)) for c in counts.changes])


def change_pam(counts: ChangeCounts) -> str:
    """GDAL's side file of a change map.

    Args:
        counts: What is on the map.

    Returns:
        XML text: colours and names of all values (of ``uint8``), and an attribute table of those
        that occur, with both classes, pixels and area in ha.
    """
    code = counts.code
    rows = [
        (
            c.value, c.pixels, code.label(c.value), *rgb(code.color(c.value)), 255,
            c.before, c.after, f"{c.area_m2 / HECTARE:.6f}",
        )
        for c in sorted(counts.changes, key=lambda change: change.value)
    ]  # fmt: skip
    labels = [code.label(value) for value in range(len(code.palette))]
    return legend_pam(labels, code.palette, _COLUMNS, rows)
