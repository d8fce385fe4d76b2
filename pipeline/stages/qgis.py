"""From maps to what an analyst opens: errors, mosaics, a QGIS project."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import __version__, disagreement, geotiff, progress, styles
from pipeline import project_groups as groups_of
from pipeline.class_rasters import NOMENCLATURE_TAG, class_raster, label_blocks, sidecars
from pipeline.errors import InputError
from pipeline.grid import Window, split
from pipeline.map_store import Layer, MapStore
from pipeline.mosaics import kinds_of_grids
from pipeline.parallel import ordered
from pipeline.publication import published, scratch
from pipeline.qgis_project import Project, around, packed
from pipeline.run import Run
from pipeline.sheets import comparisons
from pipeline.themes import Photograph, Theme, themes, upwards

log = logging.getLogger(__name__)

CREDITS = (
    "Orthophotos and reference polygons remain their providers'. Where they are PNOA and SIOSE, "
    "say so: derived from PNOA and SIOSE, CC BY 4.0 scne.es."
)
"""What the project's properties say of the sources."""


def error_raster(run: Run, sheet: str, threads: int = 1) -> None:
    """Show where the delivered map of a sheet and its labels differ, and what belongs there."""
    run.labelled_sheet(sheet)
    classes, paths = run.nomenclature, run.paths
    grid = geotiff.read_grid(paths.label_raster(sheet))
    names, colors = disagreement.legend(classes.names, classes.colors)
    target = paths.errors(sheet)
    delivered = paths.delivered_map(sheet, run.settings.cleaning.asked)
    with (
        published(target, *sidecars(target)) as (draft, pam, qml),
        scratch(target.with_suffix(".rows")) as (folder,),
        label_blocks(paths.label_raster(sheet), grid, classes) as reference,
        class_raster(delivered, grid, classes) as mapped,
        progress.track(f"errors of sheet {sheet}", grid.height, "rows") as advance,
    ):
        store = MapStore(folder, grid, [Layer("errors", colors=colors)], classes.fingerprint)

        def compared(window: Window) -> NDArray[np.uint8]:
            labels, said = reference.read(window), mapped.read_band(window)
            return disagreement.disagreement(labels, said, len(classes))

        windows = split(grid.window, grid.width, geotiff.BLOCK)
        for window, wrong in ordered(compared, windows, threads):
            store.put(window.row, {"errors": wrong})
            advance(window.height)
        store.write_cog("errors", draft, {NOMENCLATURE_TAG: classes.fingerprint})
        counts = store.histogram("errors")[: len(names)].tolist()
        pam.write_text(styles.class_pam(names, colors, counts), "utf-8")
        qml.write_text(styles.class_qml(names, colors), "utf-8")
    labelled = sum(counts)
    if labelled:
        share = 100 * (labelled - counts[disagreement.RIGHT]) / labelled
        log.info("sheet %s: %.1f %% of %d labelled pixels are wrong", sheet, share, labelled)


def mosaic(run: Run) -> None:
    """Put the rasters of all sheets together as VRT files, one of each kind and grid."""
    photographs = _photographs(run)
    kinds = kinds_of_grids({name: p.orthophoto.grid for name, p in photographs.items()})
    listed = _themes(run)
    _check_rasters(run, listed, photographs)
    with published(run.paths.mosaics) as (folder,):
        folder.mkdir()
        for theme in listed:
            for kind in dict.fromkeys(kinds.values()):
                parts = [
                    theme.part(sheet.name, photographs[sheet.name], run.paths.mosaics)
                    for sheet in upwards(run.sheets)
                    if sheet.name in theme.files and kinds[sheet.name] == kind
                ]
                if parts:
                    file = folder / theme.mosaic_file(run.paths, kind).name
                    file.write_text(theme.mosaic(parts), "utf-8")
                    file.with_suffix(".qml").write_text(theme.mosaic_style(parts), "utf-8")
    log.info("mosaics of %d sheets: %s", len(photographs), run.paths.mosaics)


def qgis_project(run: Run) -> None:
    """Write a QGIS project of all that the run has made, in groups and styled."""
    paths, sheets, classes = run.paths, run.sheets, run.nomenclature
    photographs = _photographs(run)
    grids = {name: photograph.orthophoto.grid for name, photograph in photographs.items()}
    listed = _themes(run)
    _check_rasters(run, listed, photographs)
    compared = list(comparisons(sheets).values())
    raw = {sheet: paths.land_cover_map(sheet) for sheet in sheets}
    vectors = _vectors(run)
    _check_there(
        run,
        [
            ("mosaics", paths.mosaics),
            *((f"map of sheet {sheet}", file) for sheet, file in raw.items()),
            *((f"changes of {c.place}", paths.change_map(*c.key)) for c in compared),
            *((f"polygons of sheet {sheet}", file) for sheet, file in vectors),
        ],
    )
    crs = Counter(grid.crs for grid in grids.values()).most_common(1)[0][0]
    groups = [
        groups_of.polygon_group("problems", _problems(run), paths),
        groups_of.polygon_group("agreement", _agreement(run), paths),
        groups_of.polygon_group("vectors", vectors, paths),
        groups_of.change_group(compared, paths, grids),
    ]
    for theme in listed:
        name = "maps" if theme.name == "classes" else theme.name
        beside = []
        if name == "maps" and run.settings.cleaning.asked:
            beside.append(
                groups_of.plain_group("as predicted", raw, paths, sheets, photographs, theme.style)
            )
        groups.append(groups_of.raster_group(theme, name, paths, sheets, photographs, beside))
    training = run.settings.training
    counted = "1 sheet" if len(grids) == 1 else f"{len(grids)} sheets"
    project = Project(
        title=f"{paths.name}: land cover of {counted}",
        abstract=f"Land cover of {counted}, mapped with {training.network} ({training.encoder}). "
        f"Classes: {', '.join(classes.names)}. {CREDITS}",
        author=f"Tesela {__version__}",
        crs=crs,
        extent=around(geotiff.bounds_in(grid, crs) for grid in grids.values()),
        groups=[group for group in groups if group.entries],
    )
    with published(paths.project) as (draft,):
        draft.write_bytes(packed(project))
    log.info("QGIS project: %s", paths.project)


def _themes(run: Run) -> list[Theme]:
    return themes(
        run.paths,
        run.sheets,
        run.nomenclature,
        run.settings.mapping.layers,
        cleaned=run.settings.cleaning.asked,
    )


def _photographs(run: Run) -> dict[str, Photograph]:
    return {name: Photograph.read(sheet.orthophoto) for name, sheet in run.sheets.items()}


def _check_rasters(
    run: Run, listed: Sequence[Theme], photographs: Mapping[str, Photograph]
) -> None:
    """Check that all rasters are there, and that those of classes are of this run.

    Raises:
        InputError: If they are not.
    """
    files = [(theme, sheet, file) for theme in listed for sheet, file in theme.files.items()]
    _check_there(run, [(f"{theme.name} of sheet {sheet}", file) for theme, sheet, file in files])
    for theme, sheet, file in files:
        if theme.classes:
            grid = photographs[sheet].orthophoto.grid
            class_raster(file, grid, run.nomenclature).close()


def _check_there(run: Run, files: Iterable[tuple[str, Path]]) -> None:
    missing = [f"{what}: {file}" for what, file in files if not file.exists()]
    if missing:
        raise InputError(
            f"{run.paths.run}: results of the run are missing.",
            missing,
            "Let the workflow make them first: snakemake --cores 4 --configfile ...",
        )


def _problems(run: Run) -> list[tuple[str, Path]]:
    """Polygons that need an eye: what the run met, and all that its check found."""
    paths = run.paths
    listed = [
        (f"{sheet}, {what}", file)
        for sheet in run.labelled_sheets
        for what, file in (
            ("met by the run", paths.problems(sheet)),
            ("checked", paths.polygon_check(sheet)),
        )
    ]
    return [(name, file) for name, file in listed if file.exists()]


def _agreement(run: Run) -> list[tuple[str, Path]]:
    """Polygons of SIOSE that differ from the map; not there where steps are run by hand."""
    listed = [(sheet, run.paths.polygon_agreement(sheet)) for sheet in run.labelled_sheets]
    return [(sheet, file) for sheet, file in listed if file.exists()]


def _vectors(run: Run) -> list[tuple[str, Path]]:
    """GeoPackages of maps; GeoParquet is left out, which QGIS may not be able to read."""
    if run.settings.vectors.format != "gpkg":
        return []
    return [(sheet, run.paths.vectors(sheet, "gpkg")) for sheet in run.sheets]
