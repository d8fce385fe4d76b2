"""The sub-commands that say how good maps are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline import progress
from pipeline.area_estimates import Sampling
from pipeline.cli.options import Config, Sheet, Threads, app, opened_run
from pipeline.errors import SettingsError
from pipeline.numerals import listed
from pipeline.sample_design import Rule


@app.command()
def evaluation(config: Config, sheet: Sheet, threads: Threads = 1) -> None:
    """Judge the map of a sheet on its test ground beyond its confusion matrix.

    Writes whether its confidence is right, how accurate it is near and far from the outlines of
    the labels, whether its own outlines meet them, its best and worst tiles (JSON), and a
    confusion matrix of each square of ground (Parquet).

    Example: python -m pipeline evaluation --config my_run.yaml --sheet 0722 --threads 4
    """
    stages, run = opened_run(config)
    stages.evaluation(run, sheet, threads)


@app.command()
def polygon_agreement(config: Config, sheet: Sheet, threads: Threads = 1) -> None:
    """Compare the shares mapped in each SIOSE polygon of a sheet with those that SIOSE says.

    Writes a GeoPackage with the polygons that differ the most (layer `worst`) and with those that
    seem to have changed (layer `candidates`), and the numbers behind as JSON.

    Example: python -m pipeline polygon-agreement --config my_run.yaml --sheet 0722
    """
    stages, run = opened_run(config)
    stages.polygon_agreement(run, sheet, threads)


@app.command()
def matrix(
    files: Annotated[
        list[Path], typer.Argument(help="Matrices of sheets, confusion/{sheet}.json of any runs.")
    ],
    layout: Annotated[
        Literal["study", "tesela"],
        typer.Option(
            "--layout",
            help="study: rows predicted, columns real, as the 2017 study printed it; tesela: rows "
            "reference, columns mapped.",
        ),
    ] = "study",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Add confusion matrices up and print them, counts and shares of each row.

    Example: python -m pipeline matrix run/demo/confusion/*.json
    """
    from pipeline import study_tables

    total = study_tables.read_sum(files)
    if layout == "study":
        text = study_tables.study_csv(total) if as_csv else study_tables.study_table(total)
    else:
        text = total.as_csv() if as_csv else study_tables.tesela_table(total)
    print(text, end="")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of two or more runs.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for index.html, compare.csv, compare.json.")
    ] = Path("compare"),
    baseline: Annotated[
        Path | None, typer.Option(help="The run that the others are held against; else the first.")
    ] = None,
    draws: Annotated[
        int, typer.Option(min=100, max=100_000, help="Draws of blocks of ground for intervals.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
) -> None:
    """Set runs side by side: scores with bootstrap intervals, differences, settings, time.

    A difference is more than chance where its interval, over blocks of ground that both runs were
    judged on, does not hold zero.

    Example: python -m pipeline compare run/unet run/segnet --out compare/networks
    """
    from pipeline import stages

    stages.compare(runs, out, baseline=baseline, draws=draws, seed=seed)


@app.command()
def sample(
    config: Annotated[
        list[Path] | None, typer.Option("--config", "-c", help="Settings of a run.")
    ] = None,
    sheets: Annotated[
        str | None, typer.Option(help="Sheets of the run, with commas between; all by default.")
    ] = None,
    map_files: Annotated[
        list[Path] | None, typer.Option("--map", help="Any class map instead; may be repeated.")
    ] = None,
    orthophotos: Annotated[
        list[Path] | None,
        typer.Option(
            "--orthophoto",
            help="Orthophoto of each map, for the image chips; of change maps two of each, before "
            "and after.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the sample of such maps.")
    ] = None,
    nomenclature: Annotated[
        Path | None,
        typer.Option("--nomenclature", "-n", help="Classes of maps that do not tell them."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Points in all, instead of --target-se.")
    ] = None,
    target_se: Annotated[
        float | None,
        typer.Option(help="Standard error wanted of the overall accuracy; 0.01 by default."),
    ] = None,
    allocation: Annotated[
        Rule,
        typer.Option(
            help="How points are dealt out to classes: equal, proportional (to their area) or "
            "neyman (also to how unsure they are)."
        ),
    ] = "neyman",
    minimum: Annotated[
        int, typer.Option(min=0, help="Points of each class, at least; 2 or more give intervals.")
    ] = 50,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the random numbers; that of the run by default.")
    ] = None,
    chips: Annotated[bool, typer.Option(help="Whether to write an image of each point.")] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a sample that has interpreted points.")
    ] = False,
    threads: Threads = 1,
) -> None:
    """Draw points of the maps at random, to see with one's own eyes what is there.

    Each class of the map is a stratum. Writes `sample.gpkg`, which opens in QGIS with a form for
    each point, and a folder `chips-...` with an image of each. Who interprets is not told what the
    map says. When `reference` of the points is filled, `assess` gives accuracies and areas with
    confidence intervals. Of a change map, whose strata are the changes, it gives the areas that
    have really changed; the images then show the ground before and after, side by side.

    Example: python -m pipeline sample --config my_run.yaml --sheets 0722,0723 --target-se 0.02

    Example: python -m pipeline sample --map 0722.tif --orthophoto 0722_ortho.tif --out sample

    Example: python -m pipeline sample --map changes.tif --orthophoto 2005.tif --orthophoto 2010.tif
    --out sample
    """
    if size is not None and target_se is not None:
        raise SettingsError("sample: --size and --target-se are two ways to say how many points.")
    if config:
        if map_files or orthophotos or out or nomenclature:
            raise SettingsError(
                "sample: a run's settings name its maps; --map, --orthophoto, --out and "
                "--nomenclature are for maps without a run."
            )
        stages, run = opened_run(config)
        plan = stages.SampleDesign(
            size, stages.SampleDesign.target_se if target_se is None else target_se, allocation,
            minimum, run.settings.seed if seed is None else seed,
        )  # fmt: skip
        names = [name.strip() for name in (sheets or "").split(",") if name.strip()]
        if sheets is not None and not names:
            raise SettingsError(
                f"sample: --sheets {sheets!r} names no sheet; leave it out for all."
            )
        stages.sample(
            run, plan, names, chips=chips, overwrite=overwrite, threads=threads, configs=config
        )
        return
    if not map_files or out is None or sheets is not None:
        raise SettingsError("sample: files ask for --map and --out; --sheets goes with --config.")
    if (out.suffix and not out.is_dir()) or out.is_file():
        raise SettingsError(
            f"sample: --out {out} is to be a folder: sample.gpkg and the image chips go there.",
            remedy=f"Name one, say {out.with_suffix('')}.",
        )
    from pipeline import stages as functions

    plan = functions.SampleDesign(
        size, functions.SampleDesign.target_se if target_se is None else target_se, allocation,
        minimum, seed or 0,
    )  # fmt: skip
    functions.sample_maps(
        map_files, orthophotos or [], out / "sample.gpkg", plan,
        classes=nomenclature, chips=chips, overwrite=overwrite, threads=threads,
    )  # fmt: skip


@app.command()
def assess(
    config: Annotated[
        list[Path] | None,
        typer.Option("--config", "-c", help="Settings of a run, with a sample or with --points."),
    ] = None,
    sample_file: Annotated[
        Path | None, typer.Option("--sample", help="Any interpreted sample instead (.gpkg).")
    ] = None,
    map_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--map", help="Any class map instead, with --reference; with --points, several."
        ),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Class raster that says what every pixel really is.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="JSON to write, a CSV lies beside it; with --points, a folder."
        ),
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(help="Points drawn elsewhere: GeoPackage, GeoJSON, Shapefile or CSV."),
    ] = None,
    field: Annotated[
        str | None, typer.Option(help="Field of --points with the class, by its name or id.")
    ] = None,
    sampling: Annotated[
        Sampling | None,
        typer.Option(
            help="How --points were drawn: at random over all of the maps (simple), on a regular "
            "grid, or at random in each class of these very maps.",
            show_default="simple",
        ),
    ] = None,
    sheets: Annotated[
        str | None,
        typer.Option(help="Sheets of the run that --points are of, with commas; all by default."),
    ] = None,
    points_crs: Annotated[
        str | None,
        typer.Option(help="Coordinate reference system of --points that do not say it."),
    ] = None,
    points_layer: Annotated[
        str | None, typer.Option(help="Layer of --points; the only one by default.")
    ] = None,
    nomenclature: Annotated[
        Path | None,
        typer.Option("--nomenclature", "--classes", "-n", help="Classes of a map without names."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out points that are not interpreted.")
    ] = False,
    finite: Annotated[
        bool,
        typer.Option("--finite", help="Correct for the share of the pixels in the sample."),
    ] = False,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Draw so many points of --map too: what they would have said."),
    ] = None,
    allocation: Annotated[
        Rule | None,
        typer.Option(help="Of these points, as in `sample`.", show_default="neyman"),
    ] = None,
    minimum: Annotated[
        int | None,
        typer.Option(min=0, help="Of these points in each class.", show_default="50"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of these points.", show_default="0")
    ] = None,
    threads: Threads = 1,
) -> None:
    """Accuracies and areas with 95 % intervals, from a sample that was interpreted.

    Areas are those of the ground, not of the map: what the map confuses is put right by what was
    seen at the points (Olofsson et al. 2014). Where a raster says what every pixel really is,
    --map and --reference count it all.

    --points are of Collect Earth Online, AcATaMa, SEPAL or the field: a simple random or a
    systematic sample of the ground of the maps, or one that was drawn in each class of these very
    maps. Points that were drawn in other strata, several in a plot, or by hand, do not tell areas
    with these formulas. Of a CSV, columns lon and lat are WGS 84; x and y ask for --points-crs.

    Example: python -m pipeline assess --config my_run.yaml

    Example: python -m pipeline assess --config my_run.yaml --points plots.gpkg --field class

    Example: python -m pipeline assess --map 0722.tif --points ceo.csv --field Cover --out ceo

    Example: python -m pipeline assess --sample sample/sample.gpkg --out sample/estimates.json

    Example: python -m pipeline assess --map 0722.tif --reference truth.tif --size 640
    """
    from pipeline import area_tables

    asked = (
        "assess: asks for one of --config, --sample, or --map with --reference; or for --points "
        "with --config or --map."
    )
    if sum([bool(config), sample_file is not None, bool(map_files)]) != 1:
        raise SettingsError(asked)
    of_points = {
        "--field": field, "--sampling": sampling, "--points-crs": points_crs,
        "--points-layer": points_layer, "--sheets": sheets,
    }  # fmt: skip
    drawing = {"--allocation": allocation, "--minimum": minimum, "--seed": seed}
    if points is not None:
        others = {
            "--sample": sample_file, "--reference": reference, "--finite": finite or None,
            "--size": size, **drawing,
        }  # fmt: skip
        _refuse(others, "not of points drawn elsewhere; leave {} out")
        if field is None:
            raise SettingsError("assess: --points asks for --field, which says their classes.")
        if config and nomenclature:
            raise SettingsError("assess: --nomenclature is of maps without a run; it has its own.")
        if map_files and sheets is not None:
            raise SettingsError("assess: --sheets goes with --config; name the files with --map.")
        from pipeline import stages as functions

        foreign = functions.PointSample(
            points, field, sampling or functions.PointSample.sampling, points_crs, points_layer
        )
        if config:
            names = _sheet_names("assess", sheets)
            _, run = opened_run(config)
            estimates = functions.assess_points(
                run, foreign, names, out, partial=partial, threads=threads
            )
        else:
            estimates = functions.assess_map_points(
                map_files or [], foreign, out, classes=nomenclature, partial=partial,
                threads=threads,
            )  # fmt: skip
        progress.stdout.print(area_tables.area_tables(estimates))
        return
    _refuse(of_points, "of points drawn elsewhere; name them with --points, or leave out {}")
    if size is None:
        _refuse(drawing, "of the points that --size draws; say how many, too, or leave out {}")
    if bool(map_files) != (reference is not None):
        raise SettingsError(asked)
    if map_files and reference is not None:
        if len(map_files) > 1:
            raise SettingsError("assess: --reference is compared with one --map; name one.")
        if partial or finite:
            raise SettingsError("assess: --partial and --finite are of interpreted samples.")
        from pipeline import stages as functions

        usual = functions.SampleDesign()
        design = functions.SampleDesign(
            size, rule=allocation or usual.rule,
            minimum=usual.minimum if minimum is None else minimum, seed=seed or usual.seed,
        )  # fmt: skip
        found = functions.assess_reference(
            map_files[0], reference, out,
            classes=nomenclature, design=design if size else None, threads=threads,
            counted=lambda exact: progress.stdout.print(area_tables.area_tables(exact)),
        )  # fmt: skip
        if found.sampled is not None:
            progress.stdout.print(area_tables.area_tables(found.sampled, found.exact))
        return
    if nomenclature or size is not None:
        raise SettingsError("assess: --nomenclature and --size go with --map and --reference.")
    if sample_file is not None:
        from pipeline import stages as functions

        estimates = functions.assess_sample(sample_file, out, partial=partial, finite=finite)
    else:
        if out is not None:
            raise SettingsError("assess: a run says itself where its estimates lie; leave --out.")
        stages, run = opened_run(config or [])
        estimates = stages.assess(run, partial=partial, finite=finite)
    progress.stdout.print(area_tables.area_tables(estimates))


def _refuse(options: Mapping[str, object], why: str) -> None:
    """Refuse options that were given and mean nothing, all at once.

    Args:
        options: Options with their values; None where they were not given.
        why: What they are, with ``{}`` for them.

    Raises:
        SettingsError: If any was given.
    """
    given = [option for option, value in options.items() if value is not None]
    if given:
        is_are = "is" if len(given) == 1 else "are"
        them = "it" if len(given) == 1 else "them"
        raise SettingsError(f"assess: {listed(given)} {is_are} {why.format(them)}.")


def _sheet_names(command: str, sheets: str | None) -> list[str]:
    """Names of sheets with commas between them; none for all."""
    names = [name.strip() for name in (sheets or "").split(",") if name.strip()]
    if sheets is not None and not names:
        raise SettingsError(f"{command}: --sheets {sheets!r} names no sheet; leave it out for all.")
    return names
