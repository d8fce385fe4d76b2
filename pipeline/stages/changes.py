"""From the maps of two years to what has changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline import change_styles, config, geotiff, nomenclature, progress
from pipeline.changes import HECTARE, ChangeCode, ChangeCounts, summed
from pipeline.class_rasters import (
    CHANGES_TAG,
    NOMENCLATURE_TAG,
    check_nomenclature,
    class_raster,
    masked_bytes,
    read_legend,
    sidecars,
)
from pipeline.comparison import CommonPixels, MapOfYear, changed_bands, common_pixels
from pipeline.errors import InputError, SettingsError
from pipeline.grid import PixelGrid, Window
from pipeline.map_store import Layer, MapStore
from pipeline.publication import published, scratch
from pipeline.run import Run
from pipeline.sheets import Comparison, Sheet, comparisons

log = logging.getLogger(__name__)

TOLD = 3
"""So many of the largest changes are told."""


def change_map(run: Run, place: str, before: str, after: str, threads: int = 1) -> None:
    """Compare the maps of a place in two years: a map of the changes, and their areas."""
    paths, classes = run.paths, run.nomenclature
    pair = run.comparison(place, before, after)
    least = run.settings.changes.min_confidence
    sheets = pair.sheets
    outputs = _Outputs(
        paths.change_map(*pair.key), paths.change_areas(*pair.key), paths.change_balance(*pair.key)
    )
    grids = [geotiff.read_grid(sheet.orthophoto) for sheet in sheets]
    common = _common(pair)
    with ExitStack() as opened:
        years = []
        for sheet, grid in zip(sheets, grids, strict=True):
            path = paths.delivered_map(sheet.name, run.settings.cleaning.asked)
            raster = opened.enter_context(class_raster(path, grid, classes))
            sure = _confidence(paths.confidence(sheet.name), raster) if least else None
            years.append(_year(raster, opened.enter_context(sure) if sure else None))
        code = ChangeCode(tuple(classes.names), tuple(classes.colors))
        tags = {"TESELA_PLACE": place, CHANGES_TAG: classes.fingerprint}
        what = f"changes of {place}, {before} to {after}"
        _compared(what, (years[0], years[1]), common, code, outputs, tags, least, threads)


def compare_maps(
    before: Path,
    after: Path,
    out: Path,
    *,
    classes: Path | None = None,
    confidences: tuple[Path, Path] | None = None,
    min_confidence: int = 0,
    threads: int = 1,
) -> None:
    """Compare any two class maps of the same classes.

    Args:
        before: The earlier map.
        after: The later map.
        out: Change map to write; its tables and side files lie beside it.
        classes: The nomenclature, for maps that do not say the names of their classes.
        confidences: Confidence rasters of both.
        min_confidence: Per cent that both need at a pixel.
        threads: Threads.

    Raises:
        SettingsError: If ``out`` is one of the maps or no name of a GeoTIFF, or if a confidence is
            asked for and not given.
        InputError: If the maps have other classes or pixels than each other.
    """
    if out.resolve() in {before.resolve(), after.resolve()}:
        raise SettingsError(f"--out: {out} is one of the maps.", remedy="Name another file.")
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise SettingsError(f"--out: {out} is the change map, a GeoTIFF; its name ends in .tif.")
    if min_confidence and confidences is None:
        raise SettingsError(
            "--min-confidence: needs both maps' confidence.",
            remedy="Name the rasters with --before-confidence and --after-confidence.",
        )
    outputs = _Outputs(out, out.with_suffix(".csv"), out.with_suffix(".classes.csv"))
    with ExitStack() as opened:
        rasters = [opened.enter_context(geotiff.RasterReader(path)) for path in (before, after)]
        code, fingerprint = _code(rasters, classes)
        names = (str(before), str(after))
        common = common_pixels(geotiff.read_grid(before), geotiff.read_grid(after), names)
        years = []
        for raster, path in zip(rasters, confidences or (None, None), strict=True):
            sure = _confidence(path, raster) if path and min_confidence else None
            years.append(_year(raster, opened.enter_context(sure) if sure else None))
        tags = {CHANGES_TAG: fingerprint}
        what = f"changes from {before.name} to {after.name}"
        pair = years[0], years[1]
        _compared(what, pair, common, code, outputs, tags, min_confidence, threads)


def check_places(run: Run) -> None:
    """Check that sheets of a place can be compared, before hours go into their maps.

    Raises:
        InputError: With all that cannot.
    """
    wrong = []
    for pair in comparisons(run.sheets).values():
        try:
            _common(pair)
        except InputError as error:
            wrong.append(error)
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        items = [line for error in wrong for line in (error.what, *error.items)]
        raise InputError(
            f"{len(wrong)} changes cannot be mapped.", items, f"Of the first: {wrong[0].remedy}"
        )


def _common(pair: Comparison) -> CommonPixels:
    before, after = (geotiff.read_grid(sheet.orthophoto) for sheet in pair.sheets)
    return common_pixels(before, after, (_named(pair.before), _named(pair.after)))


@dataclass(frozen=True)
class _Outputs:
    raster: Path
    areas: Path
    balance: Path


def _compared(
    what: str,
    years: tuple[MapOfYear, MapOfYear],
    common: CommonPixels,
    code: ChangeCode,
    outputs: _Outputs,
    tags: Mapping[str, str],
    min_confidence: int,
    threads: int,
) -> None:
    """Compare, and publish map and tables."""
    grid, parts = common.grid, []
    tags = {**tags, "TESELA_MIN_CONFIDENCE": str(min_confidence)}
    with (
        published(
            outputs.raster, *sidecars(outputs.raster), outputs.areas, outputs.balance
        ) as drafts,
        progress.track(what, grid.height, "rows") as advance,
        _writer(outputs.raster, drafts[0], grid, code, tags) as write,
    ):
        for band in changed_bands(
            *years, common, code, min_confidence=min_confidence, threads=threads
        ):
            write(band.window, band.values)
            parts.append(band.counts)
            advance(band.window.height)
        counts = summed(code, parts)
        drafts[1].write_text(change_styles.change_pam(counts), "utf-8")
        drafts[2].write_text(change_styles.change_qml(counts), "utf-8")
        drafts[3].write_text(counts.as_csv(), "utf-8")
        drafts[4].write_text(counts.balance_csv(), "utf-8")
    for line in _told(what, counts):
        log.info("%s", line)


@contextmanager
def _writer(
    target: Path, draft: Path, grid: PixelGrid, code: ChangeCode, tags: Mapping[str, str]
) -> Iterator[Callable[[Window, NDArray[Any]], None]]:
    """What takes the bands of a change map; at the end, the draft is whole."""
    with scratch(target.with_suffix(".blocks"), target.with_suffix(".plain.tif")) as drafts:
        if code.dtype == "uint8":
            store = MapStore(drafts[0], grid, [Layer("changes", colors=code.palette)], "")
            yield lambda window, values: store.put(window.row, {"changes": values})
            store.write_cog("changes", draft, tags)
        else:
            with geotiff.RasterWriter(drafts[1], grid, code.dtype, code.nodata, (), tags) as raster:
                yield raster.write
            geotiff.write_cog(drafts[1], draft, "mode")


def _told(what: str, counts: ChangeCounts) -> list[str]:
    area = counts.areas.sum() / HECTARE
    if not area:
        return [f"{what}: no pixel has a class in both years"]
    lines = [f"{what}: {100 * counts.changed_share:.2f} % of {area:.2f} ha"]
    for change in [c for c in counts.changes if c.before != c.after][:TOLD]:
        lines.append(f"{change.before} to {change.after}: {change.area_m2 / HECTARE:.2f} ha")
    if counts.unsure:
        lines.append(f"{counts.unsure} pixels were not compared: too little confidence")
    return lines


def _year(raster: geotiff.RasterReader, sure: geotiff.RasterReader | None) -> MapOfYear:
    return MapOfYear(masked_bytes(raster), masked_bytes(sure) if sure else None, raster.path)


def _named(sheet: Sheet) -> str:
    return f"sheet {sheet.name} ({sheet.year})"


def _confidence(path: Path, raster: geotiff.RasterReader) -> geotiff.RasterReader:
    """Open the confidence of a map."""
    reader = geotiff.RasterReader(path)
    if not reader.grid.same_pixels(raster.grid):
        reader.close()
        raise InputError(
            f"{path}: has other pixels than the map.",
            [f"confidence: {reader.grid}", f"map: {raster.grid}"],
            "It is of another map; map the sheet again.",
        )
    return reader


def _code(rasters: list[geotiff.RasterReader], classes: Path | None) -> tuple[ChangeCode, str]:
    """Classes of two maps that must have the same, and the hash of their nomenclature."""
    made_with = [raster.tags.get(NOMENCLATURE_TAG, "") for raster in rasters]
    if classes is not None:
        chosen = nomenclature.parse(config.read_yaml(classes), str(classes))
        for raster, fingerprint in zip(rasters, made_with, strict=True):
            if fingerprint:  # maps of others have none: whoever names the classes vouches for them
                check_nomenclature(fingerprint, raster.path, chosen)
        return ChangeCode(tuple(chosen.names), tuple(chosen.colors)), chosen.fingerprint
    legends = [read_legend(raster.path) for raster in rasters]
    if made_with[0] != made_with[1] or legends[0][0] != legends[1][0]:
        raise InputError(
            "The maps have other classes than each other.",
            [
                f"{raster.path}: {', '.join(names)} (nomenclature {fingerprint or 'not told'})"
                for raster, (names, _), fingerprint in zip(rasters, legends, made_with, strict=True)
            ],
            "Map both sheets with one network.",
        )
    return ChangeCode(*legends[1]), made_with[0]
