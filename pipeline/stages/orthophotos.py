"""Maps of orthophotos that were never in a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.class_rasters import sidecars
from pipeline.errors import OutputError, SettingsError
from pipeline.sections import MappingSettings
from pipeline.stages.mapping import LAYERS, map_imagery

if TYPE_CHECKING:
    from pipeline.area_of_interest import Bounds


def map_orthophotos(
    models: Sequence[Path],
    orthophotos: Sequence[Path],
    out: Path,
    settings: MappingSettings,
    *,
    bands: Sequence[int] | None = None,
    resample: bool = False,
    bbox: Bounds | None = None,
    bbox_crs: str | None = None,
    area: Path | None = None,
    area_layer: str | None = None,
    overwrite: bool = False,
    threads: int = 1,
) -> None:
    """Map any orthophoto with checkpoints; classes, colours and pixel size are those of the model.

    A part of an image has the very pixels that the map of the whole has there. Where a job was
    killed, the same call goes on.

    Args:
        models: Checkpoints; of several, the mean of their probabilities counts.
        orthophotos: Files, and folders of files, as one image.
        out: Class raster to write; the other layers lie beside it: ``out.confidence.tif``.
        settings: Section ``mapping``.
        bands: Band numbers to give to the network; all of the imagery where left out.
        resample: Whether to bring the image to the network's pixel size.
        bbox: Box to map: west, south, east, north; all of the image where left out.
        bbox_crs: CRS of the box; the image's where left out.
        area: Polygons to map, in any CRS.
        area_layer: Their layer, of several.
        overwrite: Whether a map that is there may be replaced.
        threads: Threads that read.

    Raises:
        SettingsError: If ``out`` is no name for it.
        OutputError: If the map is there already, or cannot be written.
        InputError: If the image or the area cannot be used.
        TrainingError: If a checkpoint cannot be used.
    """
    # Imported here: they load PROJ and GDAL's vector half, which no other stage of maps needs.
    from pipeline import area_of_interest, checkpoint
    from pipeline import orthophotos as images

    outputs = _outputs(out, settings)
    files = images.listed(orthophotos)
    progress_folder = out.with_name(f".{out.name}.progress")
    replaced = out.exists()
    _check_free(out, outputs, orthophotos, files, overwrite or progress_folder.exists())
    card = checkpoint.read_card(models[0])
    imagery = images.open_imagery(
        files, bands=card.bands, pixel_size=card.pixel_size, chosen=bands, resample=resample
    )
    try:
        region, polygons = None, None
        if bbox is not None:
            crs = bbox_crs or imagery.grid.crs
            region = area_of_interest.box(bbox, crs, imagery.grid, imagery.what)
        if area is not None:
            polygons = area_of_interest.polygons(area, imagery.grid, imagery.what, area_layer)
            region = polygons.region
        map_imagery(
            imagery,
            models,
            outputs,
            settings,
            what=imagery.what,
            files=files,
            progress_folder=progress_folder,
            region=region,
            inside=polygons.inside if polygons else None,
            decided_by={
                "bands": list(bands or ()),
                "area": polygons.fingerprint if polygons else "",
            },
            threads=threads,
        )
    finally:
        imagery.close()
    for layer in set(LAYERS) - set(settings.layers) if overwrite and replaced else ():
        # Of an earlier map: it would be shown beside this one.
        stale = _layer(out, layer)
        stale.unlink(missing_ok=True)
        stale.with_suffix(".qml").unlink(missing_ok=True)


def _outputs(out: Path, settings: MappingSettings) -> dict[str, Path]:
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise SettingsError(
            f"--out: {out} is no name of a GeoTIFF.", remedy=f"Write {out.with_suffix('.tif')}."
        )
    return {layer: _layer(out, layer) for layer in settings.layers}


def _layer(out: Path, layer: str) -> Path:
    return out if layer == "classes" else out.with_suffix(f".{layer}{out.suffix}")


def _check_free(
    out: Path,
    outputs: dict[str, Path],
    orthophotos: Sequence[Path],
    files: Sequence[Path],
    overwrite: bool,
) -> None:
    """Check that the map replaces nothing that it should not."""
    layers = {_layer(out, layer) for layer in ("classes", *LAYERS)}
    if {path.resolve() for path in layers} & {path.resolve() for path in files}:
        raise SettingsError(
            f"--out: {out} would replace an orthophoto that it is made of.",
            remedy="Choose another name.",
        )
    if out.parent.resolve() in {path.resolve() for path in orthophotos}:
        raise SettingsError(
            f"--out: {out} lies in the folder of the orthophotos.",
            remedy="Next time it would be taken for one of them; choose another folder.",
        )
    styles = {path.with_suffix(".qml").resolve() for path in outputs.values()}
    styled = [path for path in files if path.with_suffix(".qml").resolve() in styles]
    if styled:
        raise SettingsError(
            f"--out: {out} would lend its style in QGIS to an orthophoto of the same name.",
            [str(path) for path in styled],
            f"Choose another name, such as {out.with_suffix(f'.map{out.suffix}')}.",
        )
    beside = [path.with_suffix(".qml") for path in outputs.values()]
    there = [p for p in dict.fromkeys((*outputs.values(), *sidecars(out), *beside)) if p.exists()]
    if there and not overwrite:
        raise OutputError(
            f"{there[0]}: is there already.",
            [str(path) for path in there[1:]],
            "Choose another name, or replace it with --overwrite.",
        )
