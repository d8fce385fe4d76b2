"""Groups of a run's QGIS project: mosaics first, single sheets below them, closed.

A group that is not checked holds layers that are: one click shows a theme. What is laid over maps
stands above them, so that it is seen when it is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline import styles
from pipeline.grid import PixelGrid
from pipeline.mosaics import kinds_of_grids
from pipeline.paths import RunPaths, link
from pipeline.qgis_project import Group, ProjectLayer
from pipeline.sheets import Comparison, Sheet
from pipeline.themes import Photograph, Theme

_OPEN = ("maps",)
"""Groups that are open and checked at first."""


def raster_group(
    theme: Theme,
    name: str,
    paths: RunPaths,
    sheets: Mapping[str, Sheet],
    photographs: Mapping[str, Photograph],
    beside: Sequence[Group] = (),
) -> Group:
    """The rasters of a theme.

    Args:
        theme: The theme.
        name: Name of the group.
        paths: The run's files.
        sheets: Its sheets.
        photographs: Orthophoto of each sheet.
        beside: Groups that go below.

    Returns:
        The only raster, or mosaics with a closed group of the single rasters.
    """
    here = paths.project.parent
    shown = name in _OPEN
    grids = {sheet: photograph.orthophoto.grid for sheet, photograph in photographs.items()}
    kinds = kinds_of_grids(grids)
    singles = [
        ProjectLayer(
            _titled(sheets[sheet]),
            link(theme.files[sheet], here),
            grids[sheet].crs,
            theme.style_of(photographs[sheet]),
            note=theme.note,
        )
        for sheet in sheets
        if sheet in theme.files
    ]
    if len(singles) == 1:
        (only,) = (sheet for sheet in sheets if sheet in theme.files)
        main = _main(theme, singles[0].name, theme.files[only], here, singles[0].style, grids[only])
        return Group(name, [*main, *beside], shown, shown)
    main = []
    for kind in dict.fromkeys(kinds[sheet] for sheet in theme.files):
        members = [sheet for sheet in theme.files if kinds[sheet] == kind]
        parts = [theme.part(sheet, photographs[sheet], paths.mosaics) for sheet in members]
        file = theme.mosaic_file(paths, kind)
        title = f"all sheets, {kind}" if kind else "all sheets"
        main += _main(theme, title, file, here, theme.mosaic_style(parts), grids[members[0]])
    return Group(name, [*main, *beside, Group("sheets", singles)], shown, shown)


def plain_group(
    name: str,
    files: Mapping[str, Path],
    paths: RunPaths,
    sheets: Mapping[str, Sheet],
    photographs: Mapping[str, Photograph],
    style: str,
) -> Group:
    """Rasters of sheets that have no mosaic."""
    here = paths.project.parent
    return Group(
        name,
        [
            ProjectLayer(
                _titled(sheets[sheet]),
                link(file, here),
                photographs[sheet].orthophoto.grid.crs,
                style,
            )
            for sheet, file in files.items()
        ],
    )


def polygon_group(name: str, files: Iterable[tuple[str, Path]], paths: RunPaths) -> Group:
    """Layers of GeoPackages, with the styles that are in them; the first of each file is checked.

    Args:
        name: Name of the group.
        files: What each is called, and the file.
        paths: The run's files.
    """
    # GeoPandas is at home where GeoPackages are: loaded only where there are any.
    from pipeline.geopackage import styled_layers

    entries = []
    for title, file in files:
        layers = [layer for layer in styled_layers(file) if layer.features]
        for layer in layers:
            shown = layer is layers[0]
            source = f"{link(file, paths.project.parent)}|layername={layer.name}"
            called = title if len(layers) == 1 else f"{title}: {layer.name}"
            style = layer.style or "<qgis/>"
            entries.append(ProjectLayer(called, source, layer.crs, style, "vector", shown))
    return Group(name, entries)


def change_group(
    compared: Iterable[Comparison],
    paths: RunPaths,
    grids: Mapping[str, PixelGrid],
) -> Group:
    """Change maps between two years of a place; the first of each place is checked."""
    entries: list[ProjectLayer] = []
    places: set[str] = set()
    for comparison in compared:
        place, before, after = comparison.key
        first = place not in places  # the others would lie under it
        places.add(place)
        file = paths.change_map(place, before, after)
        entries.append(
            ProjectLayer(
                f"{place}, {before} to {after}",
                link(file, paths.project.parent),
                grids[comparison.after.name].crs,
                file.with_suffix(".qml").read_text("utf-8"),
                shown=first,
                note="Class before and class after",
            )
        )
    return Group("changes", entries)


def _main(
    theme: Theme, title: str, file: Path, here: Path, style: str, grid: PixelGrid
) -> list[ProjectLayer]:
    """The layers that stand for a whole theme: one, or one a band with the first one checked."""
    source = link(file, here)
    opened = theme.name == "classes"
    if not theme.bands:
        return [ProjectLayer(title, source, grid.crs, style, expanded=opened, note=theme.note)]
    return [
        ProjectLayer(
            f"{band}, {title}",
            source,
            grid.crs,
            styles.probability_qml(number),
            shown=number == 1,
            note=f"{theme.note}: {band}",
        )
        for number, band in enumerate(theme.bands, start=1)
    ]


def _titled(sheet: Sheet) -> str:
    return f"{sheet.name} ({sheet.year})" if sheet.year else sheet.name
