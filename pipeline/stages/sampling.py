"""From maps to points that a person interprets."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import confusion, geotiff, imagery, progress, sample_design
from pipeline.class_rasters import (
    CHANGES_TAG,
    class_raster,
    masked_bytes,
)
from pipeline.comparison import common_pixels
from pipeline.errors import InputError, Problems, SettingsError
from pipeline.grid import PixelGrid, Window
from pipeline.map_digest import maps_digest
from pipeline.nomenclature import Nomenclature
from pipeline.numerals import percent, plural
from pipeline.own_ground import own_ground
from pipeline.paths import link
from pipeline.publication import published
from pipeline.run import Run
from pipeline.sample_draw import (
    SamplePoint,
    SheetMap,
    Strata,
    check_pixel_areas,
    count_strata,
    draw,
)
from pipeline.stages.assessed_maps import (
    MapClasses,
    classes_of,
    delivered_maps,
    maps_by_name,
    sheets_of_one_year,
)

log = logging.getLogger(__name__)

TARGET_SE = 0.01
"""Standard error of the overall accuracy that a sample is drawn for, unless told otherwise."""

_TITLES = ("before", "after")

_SHUFFLE = 255  # strata have the numbers below for random numbers of their own


@dataclass(frozen=True)
class SampleDesign:
    """How a sample is drawn.

    Attributes:
        size: Points in all; None for as many as the target asks for.
        target_se: Standard error of the overall accuracy, as a share.
        rule: How the points are dealt out to the classes.
        minimum: Points of each class, at least.
        seed: Of the random numbers.
    """

    size: int | None = None
    target_se: float = TARGET_SE
    rule: sample_design.Rule = "neyman"
    minimum: int = sample_design.MINIMUM
    seed: int = 0


@dataclass(frozen=True)
class _Output:
    file: Path
    chips: bool
    overwrite: bool
    threads: int
    then: str
    estimates: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Photo:
    """An orthophoto, and where the first pixel of its map lies on it."""

    path: Path
    title: str = ""
    row: int = 0
    col: int = 0


@dataclass(frozen=True)
class _Source:
    name: str
    raster: Path
    photos: tuple[_Photo, ...]
    grid: PixelGrid

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Class ids; the file is opened for each window: there may be more than can be open."""
        with geotiff.RasterReader(self.raster, [1]) as reader:
            if not reader.grid.same_pixels(self.grid):
                raise InputError(
                    f"{self.raster}: has changed while the sample was drawn.",
                    remedy="Draw it again when the map is finished.",
                )
            return masked_bytes(reader)(window)


def sample(
    run: Run,
    design: SampleDesign | None = None,
    sheets: Sequence[str] = (),
    *,
    chips: bool = True,
    overwrite: bool = False,
    threads: int = 1,
    configs: Sequence[Path] = (),
) -> None:
    """Draw a stratified random sample of the delivered maps, to be interpreted in QGIS.

    Args:
        run: The run.
        design: How; by default with the run's seed.
        sheets: Sheets to draw from; all where left out.
        chips: Whether to write an image chip of each point.
        overwrite: Whether a sample that somebody has begun to interpret may be replaced.
        threads: Threads.
        configs: The files of the run's settings, to tell how to assess the sample.

    Raises:
        SettingsError: If there are no such sheets, sheets show a place in several years, or the
            points are too few.
        InputError: If maps are missing, or with all maps and orthophotos that cannot be used,
            before anything is counted; if their pixels do not cover as much ground.
        OutputError: If interpreted points would be lost.
    """
    chosen = sheets_of_one_year(run, sheets)
    paths, known = run.paths, run.nomenclature
    rasters = delivered_maps(run, chosen)
    problems, sources = Problems(), []
    for name, sheet in chosen.items():
        grid = problems.tried(_image_grid if chips else geotiff.read_grid, sheet.orthophoto)
        if grid is not None:
            problems.tried(_check_map, rasters[name], grid, known)
            photos = (_Photo(sheet.orthophoto),) if chips else ()
            sources.append(_Source(name, rasters[name], photos, grid))
    problems.check("files cannot be used.")
    classes = MapClasses(known.names, known.colors, known.fingerprint)
    told = " ".join(f"--config {shlex.quote(str(path))}" for path in configs) or "--config SETTINGS"
    out = _Output(
        paths.sample, chips, overwrite, threads, told,
        (paths.area_estimates, paths.area_estimates_table),
    )  # fmt: skip
    _sampled(sources, classes, design or SampleDesign(seed=run.settings.seed), _matrix(run), out)


def sample_maps(
    maps: Sequence[Path],
    orthophotos: Sequence[Path],
    out: Path,
    design: SampleDesign | None = None,
    *,
    classes: Path | None = None,
    chips: bool = True,
    overwrite: bool = False,
    threads: int = 1,
) -> None:
    """Draw a stratified random sample of any class maps, to be interpreted in QGIS.

    Args:
        maps: The maps; ground that several show counts for the first of them.
        orthophotos: The orthophoto of each, for the chips; or, of change maps, two of each one
            after the other: before and after. They may reach beyond the map.
        out: GeoPackage to write; the chips lie beside it.
        design: How.
        classes: The nomenclature, for maps that do not say the names of their classes.
        chips: Whether to write an image chip of each point.
        overwrite: Whether a sample that somebody has begun to interpret may be replaced.
        threads: Threads.

    Raises:
        SettingsError: If maps and orthophotos are not as many, or the points are too few.
        InputError: With all maps and orthophotos that cannot be used, before anything is counted.
            If the maps have other classes than each other, other pixels than their orthophotos, or
            pixels that do not cover as much ground.
        OutputError: If interpreted points would be lost.
    """
    if chips and len(orthophotos) not in (len(maps), 2 * len(maps)):
        raise SettingsError(
            f"{plural(len(maps), 'map')} and {plural(len(orthophotos), 'orthophoto')}: each map "
            "has its own, or two: before and after.",
            remedy="Name them in the same order, or leave the image chips out with --no-chips.",
        )
    dates = len(orthophotos) // len(maps) if chips else 0
    given = [orthophotos[i * dates : (i + 1) * dates] for i in range(len(maps))]
    same = [
        f"{path}: {paths[0]}"
        for path, paths in zip(maps, given, strict=True)
        if dates == len(_TITLES) and paths[0].resolve() == paths[1].resolve()
    ]
    if same:
        raise SettingsError(
            "Maps have the same orthophoto before and after.", same, "Name that of each date."
        )
    named = maps_by_name(maps)
    problems, other = Problems(), []
    sources = []
    for (name, path), paths in zip(named.items(), given, strict=True):
        grid = problems.tried(_map_grid, path)
        images = [problems.tried(_image_grid, photo) for photo in paths]
        if grid is None:
            continue
        photos = []
        for photo, image, title in zip(paths, images, _TITLES, strict=False):
            place = _place(grid, image) if image is not None else (0, 0)
            if place is None:
                other.append(f"{path}: {grid}; {photo}: {image}")
            else:
                photos.append(_Photo(photo, title, *place))
        sources.append(_Source(name, path, tuple(photos), grid))
    if other:
        problems.found(
            InputError(
                "Maps have other pixels than their orthophotos.",
                other,
                "Name the orthophotos that each was made from, in the order of the maps: one of "
                "each, or two, before and after.",
            )
        )
    legend = classes_of(
        [source.raster for source in sources],
        classes,
        problems,
        "Draw a sample of each, or map all with one network.",
    )
    output = _Output(out, chips, overwrite, threads, f"--sample {shlex.quote(str(out))}")
    _sampled(sources, legend, design or SampleDesign(), None, output)


def planned_sizes(
    strata: Strata, users: NDArray[np.float64], design: SampleDesign, names: Sequence[str]
) -> NDArray[np.int64]:
    """Points of each stratum.

    Args:
        strata: The strata.
        users: User's accuracies that are expected of them.
        design: How the points are dealt out.
        names: Names of the strata.

    Raises:
        SettingsError: If points are too few, in all or in a stratum, or more than pixels.
    """
    weights, plan = strata.area_m2, (design.rule, design.minimum)
    size = design.size or sample_design.least_size(
        weights, users, design.target_se, *plan, strata.pixels
    )
    sizes = sample_design.allocate(weights, size, *plan, users, strata.pixels)
    sample_design.check_sizes(names, sizes, weights, *plan, users, strata.pixels)
    return sizes


def _matrix(run: Run) -> NDArray[np.int64] | None:
    """What the run's own test ground says of its maps, where it has any."""
    names, total = run.nomenclature.names, None
    for sheet in run.labelled_sheets:
        path = run.paths.confusion(sheet)
        if not path.is_file():
            continue
        matrix = confusion.from_json(path.read_text("utf-8"), str(path))
        if matrix.names != names:
            raise InputError(
                f"{path}: has other classes than the run.",
                [f"matrix: {', '.join(matrix.names)}", f"run: {', '.join(names)}"],
                "Run the rule `confusion` again.",
            )
        total = matrix.counts if total is None else total + matrix.counts
    return total


def _image_grid(orthophoto: Path) -> PixelGrid:
    """Pixels of an orthophoto that chips can be made of."""
    return geotiff.read_orthophoto(orthophoto).grid


def _place(grid: PixelGrid, image: PixelGrid) -> tuple[int, int] | None:
    """Row and column of an orthophoto that a map's first pixel is on; None on other pixels."""
    try:
        shared = common_pixels(grid, image, ("map", "orthophoto"))
    except InputError:
        return None
    return (shared.after.row, shared.after.col) if shared.before == grid.window else None


def _map_grid(path: Path) -> PixelGrid:
    """Pixels of a class map, whose values are checked to be bytes."""
    with geotiff.RasterReader(path, [1]) as reader:
        if CHANGES_TAG in reader.tags and reader.read(Window(0, 0, 1, 1)).dtype != np.uint8:
            raise InputError(
                f"{path}: is a change map of 16 classes or more, and has too many values to be "
                "strata of a sample.",
                remedy="Gather the changes that matter into fewer values (gdal_calc), or map both "
                "years with 15 classes at most.",
            )
        masked_bytes(reader)
    return geotiff.read_grid(path)


def _check_map(path: Path, grid: PixelGrid, classes: Nomenclature) -> None:
    with class_raster(path, grid, classes) as reader:
        masked_bytes(reader)


def _sampled(
    sources: Sequence[_Source],
    classes: MapClasses,
    design: SampleDesign,
    matrix: NDArray[np.int64] | None,
    out: _Output,
) -> None:
    """Draw and publish a sample."""
    # Imported here: no other step draws pictures or looks into GeoPackages.
    from pipeline import sample_files
    from pipeline.interpretation import Stratum

    sample_files.check_replaceable(out.file, out.overwrite)
    maps = [SheetMap(source.name, source.grid, source.read) for source in sources]
    check_pixel_areas(maps)
    digest = maps_digest({source.name: source.raster for source in sources})
    strata = count_strata(own_ground(maps), len(classes.names), out.threads)
    if not strata.pixels.any():
        raise InputError("The maps have no mapped pixel to draw from.")
    users = sample_design.expected_users(matrix, len(classes.names))
    sizes = planned_sizes(strata, users, design, classes.names)
    points, crs = sample_files.in_one_system(
        draw(strata, sizes, design.seed, out.threads), {s.name: s.grid.crs for s in sources}
    )
    shuffled = np.random.default_rng((design.seed, _SHUFFLE)).permutation(len(points)).tolist()
    points = [points[place] for place in shuffled]
    told = {
        "allocation": design.rule,
        "minimum": str(design.minimum),
        "target_se": "" if design.size else repr(design.target_se),
        "seed": str(design.seed),
        "expected_users": json.dumps(dict(zip(classes.names, users.tolist(), strict=True))),
        "nomenclature": classes.fingerprint,
        "maps": json.dumps({s.name: link(s.raster, out.file.parent) for s in sources}),
        "maps_digest": digest,
    }
    entries = [
        Stratum(name, color, int(pixels), float(area), int(drawn))
        for name, color, pixels, area, drawn in zip(
            classes.names, classes.colors, strata.pixels, strata.area_m2, sizes, strict=True
        )
    ]
    chips = out.file.parent / sample_files.chips_name(points) if out.chips else None
    with (
        _no_empty_folder(out.file.parent),
        published(out.file, *([chips] if chips else [])) as drafts,
    ):
        name = chips.name if chips else None
        dates = max(len(source.photos) for source in sources)
        sample_files.write_sample(drafts[0], points, entries, crs, told, name, max(1, dates))
        if chips:
            drafts[1].mkdir()
            _write_chips(drafts[1], points, sources, out.threads)
        # Somebody may have begun in the meantime.
        sample_files.check_replaceable(out.file, out.overwrite)
    # Of the sample that is replaced, so not before it is: a job that is killed between both leaves
    # them beside a sample whose interpretation has another digest, and the report says so.
    for path in out.estimates:
        path.unlink(missing_ok=True)
    for folder in sample_files.chips_folders(out.file):
        if folder != chips:
            shutil.rmtree(folder)
    _tell(strata, sizes, users, design, classes, out)


@contextmanager
def _no_empty_folder(folder: Path) -> Iterator[None]:
    """Remove the folders that were made on the way to something that fails."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    except BaseException:
        for each in made:
            with suppress(OSError):  # not made yet, or others have put something in
                each.rmdir()
        raise


def _write_chips(
    folder: Path, points: Sequence[SamplePoint], sources: Sequence[_Source], threads: int
) -> None:
    from pipeline.sample_chips import View, write_chips
    from pipeline.sample_files import chip_name

    places: dict[str, dict[Path, tuple[int, int]]] = {}
    for number, point in enumerate(points, start=1):
        file = folder / Path(chip_name(number, folder.name)).name
        places.setdefault(point.sheet, {})[file] = (point.row, point.col)
    with progress.track("image chips", len(points), "chips") as advance:
        for source in sources:
            if source.name not in places:
                continue
            with ExitStack() as opened:
                views = []
                for photo in source.photos:
                    orthophoto = geotiff.read_orthophoto(photo.path)
                    image = imagery.SheetImagery(orthophoto, orthophoto.bands[:3])
                    opened.callback(image.close)
                    views.append(View(image, photo.title, photo.row, photo.col))
                for _ in write_chips(views, places[source.name], threads):
                    advance(1)


def _tell(
    strata: Strata,
    sizes: NDArray[np.int64],
    users: NDArray[np.float64],
    design: SampleDesign,
    classes: MapClasses,
    out: _Output,
) -> None:
    error = sample_design.expected_se(strata.area_m2, users, sizes)
    goal = "" if design.size else f" ({100 * design.target_se:g} % were asked for)"
    log.info(
        "sample of %s; expected standard error of the overall accuracy: %.2f %%%s",
        plural(int(sizes.sum()), "point"), 100 * error, goal,
    )  # fmt: skip
    area = strata.area_m2.sum()
    for k, name in enumerate(classes.names):
        if strata.pixels[k]:
            log.info(
                "%s: %s in %s of the area; expected user's accuracy %s",
                name, plural(int(sizes[k]), "point"), percent(float(strata.area_m2[k] / area)),
                percent(float(users[k])),
            )  # fmt: skip
        else:
            log.info("%s: mapped nowhere; points may be interpreted as it all the same", name)
    log.info(
        "%s: open it in QGIS, fill `reference` of every point, save, then run "
        "`python -m pipeline assess %s`",
        out.file, out.then,
    )  # fmt: skip
