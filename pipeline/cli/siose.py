"""The sub-commands that look at SIOSE bases without a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pipeline import config, progress, sections
from pipeline.cli.options import Threads, app
from pipeline.errors import InputError, SettingsError
from pipeline.sheets import siose_files

if TYPE_CHECKING:
    from pipeline.nomenclature import Nomenclature
    from pipeline.siose import SioseBase


BasePath = Annotated[Path, typer.Argument(help="SIOSE base, or another layer of polygons.")]


Classes = Annotated[
    Path | None, typer.Option("--nomenclature", "-n", help="Nomenclature (YAML) to check against.")
]


Source = Annotated[str, typer.Option(help="As `siose.source` of a run's settings.")]


Layer = Annotated[str | None, typer.Option(help="As `siose.layer`.")]


CodeColumn = Annotated[str | None, typer.Option(help="As `siose.code_column`.")]


CodelistName = Annotated[str, typer.Option("--codelist", help="As `siose.codelist`.")]


@app.command()
def siose_check(
    base: BasePath,
    nomenclature: Classes = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="GeoPackage of problems; {base}.problems.gpkg here."),
    ] = None,
    overlap: Annotated[float, typer.Option(min=1e-3, help="Least overlap told, in m².")] = 1.0,
    sliver: Annotated[
        float | None,
        typer.Option(min=0, help="Width of slivers, in m; the base's tolerance by default."),
    ] = None,
    gap: Annotated[float, typer.Option(min=0, help="Largest gap told, in m²; 0 for none.")] = 100,
    source: Source = "auto",
    layer: Layer = None,
    code_column: CodeColumn = None,
    codelist: CodelistName = "auto",
    threads: Threads = 1,
) -> None:
    """Check a SIOSE base without a run: covers, labels, table, geometry, overlaps, gaps.

    Prints what was found and writes it as a GeoPackage that opens in QGIS. Exits with 3 where a
    run on the base would stop.

    Example: python -m pipeline siose-check SAR_46.gpkg -n configs/nomenclatures/forest.yaml
    """
    from pipeline import siose
    from pipeline import siose_check as checking
    from pipeline.publication import published

    target = out or Path(f"{base.stem}.problems.gpkg")
    _keep_apart(target, base)
    settings, opened, classes = _opened(base, nomenclature, source, layer, code_column, codelist)
    limits = checking.CheckLimits(overlap, sliver, gap)
    count = 2 * siose.polygon_count(opened)
    with progress.track(f"check of {base.name}", count, "checks of polygons") as advance:
        found = checking.check(opened, settings, classes, limits, threads=threads, advance=advance)
    for line in checking.told(found):
        print(line)
    if found.problems.empty:
        target.unlink(missing_ok=True)
        return
    with published(target) as (draft,):
        siose.write_problems(found.problems, draft)
    print(f"All {len(found.problems)} are in {target}.")
    if found.stops:
        sys.exit(InputError.exit_code)


@app.command()
def siose_summary(
    base: BasePath,
    nomenclature: Classes = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The same as CSV.")] = None,
    composite: Annotated[str, typer.Option(help="As `labels.composite`.")] = "dominant",
    min_share: Annotated[float, typer.Option(help="As `labels.min_share`.")] = 0.5,
    min_margin: Annotated[float, typer.Option(help="As `labels.min_margin`.")] = 0.0,
    source: Source = "auto",
    layer: Layer = None,
    code_column: CodeColumn = None,
    codelist: CodelistName = "auto",
    threads: Threads = 1,
) -> None:
    """Print area and polygons per cover and class of a SIOSE base; composites; what is masked.

    Example: python -m pipeline siose-summary SAR_46.gpkg -n configs/nomenclatures/forest.yaml
    """
    from pipeline import siose_summary as summing
    from pipeline.publication import write_text

    if out is not None:
        _keep_apart(out, base)
    settings, opened, classes = _opened(base, nomenclature, source, layer, code_column, codelist)
    given = {"composite": composite, "min_share": min_share, "min_margin": min_margin}
    labels = config.section(sections.LabelSettings, given, "command line")
    summary = summing.summarise(opened, settings, classes, labels, threads)
    table = Table(title=f"{base.name}: {summary.base}", title_justify="left")
    for name, side in (("", "left"), ("name", "left"), ("km²", "right"), ("%", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    table.add_column("polygons", justify="right")
    before, whole = "", max(summary.whole.area_m2, 1e-9)
    for what, name, area, polygons in summary.rows():
        if before and what != before:
            table.add_section()
        table.add_row(
            what if what != before else "", name, f"{area / 1e6:.3f}",
            f"{100 * area / whole:.2f}", str(polygons),
        )  # fmt: skip
        before = what
    progress.stdout.print(table)
    if out is not None:
        write_text(out, summary.as_csv())


def _opened(
    path: Path,
    classes: Path | None,
    source: str,
    layer: str | None,
    code_column: str | None,
    codelist: str,
) -> tuple[sections.SioseSettings, SioseBase, Nomenclature | None]:
    """A base by its path and what the command line says of it."""
    from pipeline import nomenclature, siose

    given = {"source": source, "layer": layer, "code_column": code_column, "codelist": codelist}
    settings = config.section(sections.SioseSettings, given, "command line")
    chosen = None
    if classes is not None:
        chosen = nomenclature.parse(config.read_yaml(classes), str(classes))
    return settings, siose.open_base(path, settings), chosen


def _keep_apart(out: Path, base: Path) -> None:
    """Refuse a result in the place of the base or of a table that belongs to it."""
    if out.resolve() in {file.resolve() for file in siose_files(base)}:
        raise SettingsError(
            f"--out: {out} belongs to the base itself.", remedy="Name another file."
        )
