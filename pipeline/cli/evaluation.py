"""The sub-commands that say how good maps are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.cli.options import app


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
