"""From what was seen at sample points, or everywhere, to accuracies and areas with intervals."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline import area_estimates, config, full_reference, geotiff, nomenclature, sample_design
from pipeline.area_estimates import AreaEstimates
from pipeline.class_rasters import (
    NOMENCLATURE_TAG,
    check_nomenclature,
    masked_bytes,
    read_legend,
    sidecars,
)
from pipeline.comparison import common_pixels
from pipeline.errors import InputError, SettingsError
from pipeline.grid import Window
from pipeline.interpretation import InterpretedSample
from pipeline.map_digest import maps_digest
from pipeline.numerals import count, listed, plural
from pipeline.publication import published
from pipeline.run import Run
from pipeline.sample_draw import Read, SheetMap, check_pixel_areas, count_strata, draw
from pipeline.stages.sampling import SampleDesign, planned_sizes

log = logging.getLogger(__name__)

_SHOWN_IDS = 5

_Targets = tuple[Path, Path] | None
"""JSON and CSV to write; None for none."""


@dataclass(frozen=True)
class ReferenceAssessment:
    """What a full reference says of a map.

    Attributes:
        exact: Areas and accuracies of all pixels.
        sampled: What a sample would have said; only where one was asked for.
    """

    exact: AreaEstimates
    sampled: AreaEstimates | None


def assess(run: Run, *, partial: bool = False, finite: bool = False) -> AreaEstimates:
    """Estimate accuracies and areas from the interpreted sample of a run.

    Args:
        run: The run.
        partial: As in :func:`assess_sample`.
        finite: The same.

    Raises:
        InputError: As there; and if the sample has other classes than the run, or was drawn from
            maps that have been made anew since.
    """
    targets = (run.paths.area_estimates, run.paths.area_estimates_table)
    estimates = _assessed(run.paths.sample, targets, partial, finite, run)
    points_table(targets[0]).unlink(missing_ok=True)  # of points that were drawn elsewhere
    return estimates


def points_table(estimates: Path) -> Path:
    """The table of points that were drawn elsewhere, beside their estimates."""
    return estimates.with_suffix(".points.csv")


def assess_sample(
    sample: Path, out: Path | None = None, *, partial: bool = False, finite: bool = False
) -> AreaEstimates:
    """Estimate accuracies and areas from any interpreted sample.

    Args:
        sample: GeoPackage that :func:`pipeline.stages.sample` wrote.
        out: JSON to write, with a CSV beside it; nothing is written where it is left out.
        partial: Whether points that nobody has interpreted may be left out. That is right as long
            as chance has left them out: points have been gone through in the order of their ids,
            which is random, and none was skipped for being hard to tell.
        finite: Correct the variances for the share of the pixels in the sample.

    Returns:
        The estimates.

    Raises:
        SettingsError: If ``out`` is no name of a JSON file.
        InputError: If points are not interpreted, or not as classes that there are; if a class of
            the map has no interpreted point at all.
    """
    return _assessed(sample, _targets(out), partial, finite)


def assess_reference(
    map_file: Path,
    reference: Path,
    out: Path | None = None,
    *,
    classes: Path | None = None,
    design: SampleDesign | None = None,
    threads: int = 1,
    counted: Callable[[AreaEstimates], None] | None = None,
) -> ReferenceAssessment:
    """Count accuracies and areas where a raster says what every pixel really is.

    Args:
        map_file: A class map.
        reference: Class raster on the same pixels, perhaps of other extent, 255 where nothing is
            known. Only ground that both say a class of is spoken of.
        out: JSON to write, with a CSV beside it; nothing is written where it is left out.
        classes: The nomenclature, for maps that do not say the names of their classes.
        design: Draw a sample too, and read the reference at its points: what it would have said
            goes to ``.sample.json`` and ``.sample.csv``.
        threads: Threads.
        counted: Is told the exact result as soon as it is written, before a sample is drawn.

    Raises:
        SettingsError: If ``out`` is no name of a JSON file. If the sample cannot be drawn: the
            exact result is written all the same.
        InputError: If the rasters have other pixels or classes than each other; if a sample is
            asked for, and pixels do not cover as much ground.
    """
    targets = _targets(out)
    if map_file.resolve() == reference.resolve():
        raise SettingsError(f"{map_file}: is map and reference at once; name two files.")
    with ExitStack() as stack:
        rasters = [
            stack.enter_context(geotiff.RasterReader(path, [1])) for path in (map_file, reference)
        ]
        names = _names(rasters, classes)
        sheet, real = _common(rasters)
        pairs = full_reference.count_pairs(sheet, real, len(names), threads)
        if not pairs.pixels.any():
            raise InputError(f"{map_file} and {reference} have no pixel that both say a class of.")
        for pixels, what in (
            (pairs.unreferenced, "mapped pixels have no reference"),
            (pairs.unmapped, "pixels of the reference are not mapped"),
        ):
            if pixels:
                log.info("%s %s; they are left out", count(pixels), what)
        exact = replace(
            area_estimates.exact(names, pairs.pixels, pairs.areas_m2),
            sheets=(map_file.stem,), maps=maps_digest({map_file.stem: map_file}),
        )  # fmt: skip
        _write(exact, targets)
        if counted is not None:
            counted(exact)
        if design is None:
            return ReferenceAssessment(exact, None)
        known = full_reference.where_known(sheet, real)
        sampled = _sampled(known, real, exact, design, threads)
    if out is not None:
        _write(sampled, _targets(out.with_suffix(".sample.json")))
    return ReferenceAssessment(exact, sampled)


def _assessed(
    sample: Path,
    targets: _Targets,
    partial: bool,
    finite: bool,
    run: Run | None = None,
) -> AreaEstimates:
    # Imported here: no other step looks into samples.
    from pipeline.sample_files import read_sample

    found = read_sample(sample)
    sheets = tuple(_sheets(found.design, sample))
    splits: tuple[str, ...] = ()
    if run is not None:
        check_nomenclature(found.design.get("nomenclature", ""), sample, run.nomenclature)
        splits = tuple(run.sheet(name).split for name in sheets)
        _check_maps(run, sheets, found.design.get("maps_digest", ""))
    done, pending = int(found.matrix.sum()), len(found.unlabelled)
    if pending and not (partial and done):
        raise InputError(
            f"{sample}: {count(pending)} of {plural(done + pending, 'point')} "
            f"{'is' if pending == 1 else 'are'} not interpreted yet.",
            [f"id {number}" for number in found.unlabelled],
            "Fill `reference` of each in QGIS and save the layer"
            + ("; or leave them out with --partial." if done else "."),
        )
    _tell_left_out(found)
    if found.unsure:
        unsure = plural(len(found.unsure), "point is", "points are")
        log.info("%s marked as unsure; they count like the others", unsure)
    estimates = area_estimates.estimate(
        found.names, found.matrix, found.mapped_area_m2,
        pixels=found.mapped_pixels, finite=finite, pending=pending,
    )  # fmt: skip
    estimates = replace(
        estimates, sheets=sheets, splits=splits, maps=found.design.get("maps_digest", ""),
        skipped=_skipped(found), interpretation=found.digest,
    )  # fmt: skip
    warn_of_gaps(estimates)
    _write(estimates, targets)
    return estimates


def _skipped(found: InterpretedSample) -> tuple[int, ...]:
    """Points of each stratum that were skipped; empty where none was."""
    counts = Counter(found.skipped.values())
    return tuple(counts[stratum] for stratum in range(len(found.names))) if counts else ()


def _tell_left_out(found: InterpretedSample) -> None:
    """Say which points are not interpreted, and whether chance can have left them out."""
    ids, points = found.skipped, int(found.matrix.sum()) + len(found.unlabelled)
    behind = len(found.unlabelled) - len(ids)
    if behind:
        log.warning(
            "the last %s of %s points by id are not interpreted and are left out",
            count(behind), count(points),
        )  # fmt: skip
    if not ids:
        return
    hit = [
        f"mapped as {name}: {count(number)}"
        for name, number in zip(found.names, _skipped(found), strict=True)
        if number
    ]
    first = ", ".join(map(str, [*ids][:_SHOWN_IDS])) + ", ..." * (len(ids) > _SHOWN_IDS)
    log.warning(
        "%s: empty, though points with higher ids are interpreted (%s; ids %s). What is hard to "
        "tell is not left out by chance: accuracies and areas may be wrong by more than their "
        "intervals say. Interpret them, as unsure where it is so",
        plural(len(ids), "point was skipped", "points were skipped"), ", ".join(hit), first,
    )  # fmt: skip


def _sheets(design: Mapping[str, str], sample: Path) -> list[str]:
    """Sheets that a sample was drawn from."""
    try:
        return [str(name) for name in json.loads(design.get("maps", "{}"))]
    except (json.JSONDecodeError, TypeError) as error:
        raise InputError(
            f"{sample}: the table `design` does not say its maps ({error}).",
            remedy="Nothing but the layer `sample` is to be edited; take the table from a copy.",
        ) from error


def _check_maps(run: Run, sheets: Sequence[str], drawn_from: str) -> None:
    """Check that the maps of a run are those that its sample was drawn from."""
    if not drawn_from:
        log.warning(
            "%s: does not say which maps it was drawn from (it is of an older version); if they "
            "have been made anew since, draw another sample",
            run.paths.sample,
        )
        return
    cleaned = run.settings.cleaning.asked
    if maps_digest({n: run.paths.delivered_map(n, cleaned) for n in sheets}) != drawn_from:
        raise InputError(
            f"{run.paths.sample}: the maps have been made anew since the sample was drawn; its "
            "accuracies would be those of the old ones.",
            [f"sheets: {', '.join(sheets)}"],
            "Draw a sample of the new maps (`sample --overwrite`; move the old one away to keep "
            "it). `assess --sample FILE --out FILE.json` assesses the old maps all the same.",
        )


def _sampled(
    sheet: SheetMap, real: Read, exact: AreaEstimates, design: SampleDesign, threads: int
) -> AreaEstimates:
    """What a sample of the map would have said."""
    classes = len(exact.names)
    check_pixel_areas([sheet])
    strata = count_strata([sheet], classes, threads)
    users = sample_design.expected_users(exact.sample.T, classes)
    sizes = planned_sizes(strata, users, design, exact.names)
    points = draw(strata, sizes, design.seed, threads)
    seen = full_reference.truth_at(points, real, classes)
    estimates = area_estimates.estimate(exact.names, seen, strata.area_m2, pixels=strata.pixels)
    warn_of_gaps(estimates)
    return replace(estimates, sheets=exact.sheets, maps=exact.maps)


def _common(rasters: list[geotiff.RasterReader]) -> tuple[SheetMap, Read]:
    """Map and reference on the pixels that both have."""
    paths = [str(raster.path) for raster in rasters]
    try:
        shared = common_pixels(rasters[0].grid, rasters[1].grid, (paths[0], paths[1]))
    except InputError as error:
        remedy = "Bring the reference to the pixels of the map: gdalwarp -r near -tr ... -te ..."
        raise InputError(error.what, error.items, remedy) from error
    mapped, real = (masked_bytes(raster) for raster in rasters)

    def shifted(read: Read, place: Window) -> Read:
        return lambda part: read(part._replace(col=part.col + place.col, row=part.row + place.row))

    sheet = SheetMap(rasters[0].path.stem, shared.grid, shifted(mapped, shared.before))
    return sheet, shifted(real, shared.after)


def _names(rasters: list[geotiff.RasterReader], classes: Path | None) -> tuple[str, ...]:
    """Names of the classes, which map and reference must share."""
    made_with = [raster.tags.get(NOMENCLATURE_TAG, "") for raster in rasters]
    if classes is not None:
        chosen = nomenclature.parse(config.read_yaml(classes), str(classes))
        for raster, fingerprint in zip(rasters, made_with, strict=True):
            if fingerprint:  # those of others have none: whoever names the classes vouches for them
                check_nomenclature(fingerprint, raster.path, chosen)
        return chosen.names
    names, _ = read_legend(rasters[0].path)
    theirs = names
    if sidecars(rasters[1].path)[0].exists() and made_with[1]:
        theirs, _ = read_legend(rasters[1].path)
    if names != theirs or (all(made_with) and made_with[0] != made_with[1]):
        raise InputError(
            "Map and reference have other classes than each other.",
            [
                f"{raster.path}: {', '.join(legend)} (nomenclature {fingerprint or 'not told'})"
                for raster, legend, fingerprint in zip(
                    rasters, (names, theirs), made_with, strict=True
                )
            ],
            "Name the nomenclature of both (--nomenclature) if their ids mean the same.",
        )
    return names


def _targets(out: Path | None) -> _Targets:
    if out is None:
        return None
    if out.suffix.lower() != ".json":
        raise SettingsError(
            f"--out: {out} is to hold JSON, with a CSV beside it; its name ends in .json."
        )
    return out, out.with_suffix(".csv")


def _write(estimates: AreaEstimates, targets: _Targets) -> None:
    if targets is None:
        return
    with published(*targets) as drafts:
        drafts[0].write_text(estimates.as_json(), "utf-8")
        drafts[1].write_text(estimates.as_csv(), "utf-8")
    log.info("%s and %s", *targets)


def warn_of_gaps(estimates: AreaEstimates) -> None:
    """Say what the intervals cannot be trusted with."""
    points = estimates.sample.sum(axis=1)
    single = [estimates.names[k] for k in np.flatnonzero(points == 1)]
    if single and np.isnan(estimates.area_ci_m2).any():
        log.warning("%s: a single point gives no standard error", listed(single))
    unseen = (estimates.sample.sum(axis=0) == 0) & (estimates.mapped_area_m2 > 0)
    if unseen.any():
        names = [estimates.names[k] for k in np.flatnonzero(unseen)]
        log.warning("%s: mapped, and found at no point", listed(names))
