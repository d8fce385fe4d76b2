"""Themes of a run: all rasters of one kind, with the style and the mosaic that show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline import disagreement, mosaics, styles
from pipeline.class_rasters import NOMENCLATURE_TAG
from pipeline.geotiff import Orthophoto, RasterReader, read_orthophoto
from pipeline.mosaics import Part
from pipeline.nomenclature import Nomenclature
from pipeline.paths import RunPaths, link
from pipeline.sheets import Sheet


@dataclass(frozen=True)
class Photograph:
    """An orthophoto and what a mosaic has to know of its file.

    Attributes:
        orthophoto: The orthophoto.
        block: Columns and rows of its blocks.
        alpha: Band that says what is transparent, if there is one.
    """

    orthophoto: Orthophoto
    block: tuple[int, int]
    alpha: int | None

    @classmethod
    def read(cls, path: Path) -> Photograph:
        """Look at an orthophoto.

        Raises:
            InputError: If it cannot be used.
        """
        orthophoto = read_orthophoto(path)
        with RasterReader(path) as reader:
            others = [band for band in reader.bands if band not in orthophoto.bands]
            block = (reader.block_width, reader.block_height)
        return cls(orthophoto, block, others[0] if others else None)

    @property
    def style(self) -> str:
        """QGIS style."""
        return styles.orthophoto_qml(self.orthophoto.bands[:3], self.alpha)


@dataclass(frozen=True)
class Theme:
    """Rasters of one kind, one a sheet at most.

    Attributes:
        name: Its name, in names of mosaics too.
        files: Raster of each sheet that has one.
        note: What its pixels say.
        style: QGIS style of each raster; of orthophotos each has its own.
        classes: Whether its rasters are class rasters of the nomenclature.
        bands: Names of its bands, where each is a layer of its own.
        mosaic: Makes the text of a mosaic from its parts.
    """

    name: str
    files: Mapping[str, Path]
    note: str
    style: str
    mosaic: Callable[[Sequence[Part]], str]
    classes: bool = False
    bands: tuple[str, ...] = ()

    def style_of(self, photograph: Photograph) -> str:
        """QGIS style of a sheet's raster."""
        return self.style or photograph.style

    def mosaic_style(self, parts: Sequence[Part]) -> str:
        """QGIS style of a mosaic."""
        bands = min(len(part.bands) for part in parts)
        return self.style or styles.orthophoto_qml((1, 2, 3), bands + 1)

    def part(self, sheet: str, photograph: Photograph, folder: Path) -> Part:
        """A sheet's raster as a part of a mosaic in a folder."""
        orthophoto = photograph.orthophoto
        path = link(self.files[sheet], folder)
        if not self.style:
            return Part(
                path, orthophoto.grid, orthophoto.bands, photograph.block, orthophoto.masked
            )
        return Part(path, orthophoto.grid, tuple(range(1, max(1, len(self.bands)) + 1)))

    def mosaic_file(self, paths: RunPaths, kind: str) -> Path:
        """A mosaic's file.

        Args:
            paths: The run's files.
            kind: Kind of grid, as :func:`pipeline.mosaics.kinds_of_grids` names it.
        """
        parts = [paths.name, self.name, *([kind] if kind else [])]
        return paths.mosaics / f"{'.'.join(parts)}.vrt"


def themes(
    paths: RunPaths,
    sheets: Mapping[str, Sheet],
    classes: Nomenclature,
    layers: Sequence[str],
    *,
    cleaned: bool,
) -> list[Theme]:
    """Themes that a run has by its settings.

    Args:
        paths: The run's files.
        sheets: Its sheets.
        classes: Its classes.
        layers: Names of the rasters that its maps consist of.
        cleaned: Whether its maps are cleaned.

    Returns:
        ``errors``, ``labels``, those of ``layers``, and ``orthophotos``, from the upper to the
        lower in a project. ``classes`` is the delivered map.
    """
    tags = {NOMENCLATURE_TAG: classes.fingerprint}
    labelled = [sheet.name for sheet in sheets.values() if sheet.split != "map"]
    class_style = styles.class_qml(classes.names, classes.colors)
    class_mosaic = partial(
        mosaics.class_mosaic, names=classes.names, colors=classes.colors, tags=tags
    )
    errors = disagreement.legend(classes.names, classes.colors)
    per_cent = {
        "confidence": ("Confidence of the predicted class in per cent", styles.confidence_qml()),
        "entropy": (
            "Entropy of the probabilities in per cent of its greatest value: bright is doubtful",
            styles.entropy_qml(),
        ),
        "probabilities": ("Probability of each class in per cent", styles.probability_qml()),
    }
    found = []
    if labelled:
        found = [
            Theme(
                "errors",
                {name: paths.errors(name) for name in labelled},
                "Where map and labels differ: the class that belongs there",
                styles.class_qml(*errors),
                partial(mosaics.class_mosaic, names=errors[0], colors=errors[1], tags=tags),
                classes=True,
            ),
            Theme(
                "labels",
                {name: paths.label_raster(name) for name in labelled},
                "Class of the SIOSE polygon that a pixel lies in",
                class_style,
                class_mosaic,
                classes=True,
            ),
        ]
    for layer, (note, style) in per_cent.items():
        if layer not in layers:
            continue
        bands = classes.names if layer == "probabilities" else ()
        files = {name: paths.map_layer(name, layer) for name in sheets}
        written = partial(mosaics.measure_mosaic, descriptions=bands or (layer,))
        found.append(Theme(layer, files, note, style, written, bands=bands))
    found.append(
        Theme(
            "classes",
            {name: paths.delivered_map(name, cleaned) for name in sheets},
            "Predicted class of each pixel" + (", small patches cleaned away" if cleaned else ""),
            class_style,
            class_mosaic,
            classes=True,
        )
    )
    photos = {name: sheet.orthophoto for name, sheet in sheets.items()}
    found.append(Theme("orthophotos", photos, "Orthophoto", "", mosaics.orthophoto_mosaic))
    return found


def upwards(sheets: Mapping[str, Sheet]) -> list[Sheet]:
    """Sheets in the order in which a mosaic lays them on top of each other: later years last."""
    return sorted(sheets.values(), key=lambda sheet: (sheet.year or 0, sheet.name))
