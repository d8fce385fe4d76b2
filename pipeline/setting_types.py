"""Kinds of values that settings have: shares, pixels, metres, names, files, and how they are told.

Each says in a person's words what it takes; :mod:`pipeline.config` puts the setting's name before.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer
from pydantic_core import PydanticCustomError

ENGINES = ("threads", "processes", "slurm")
"""Who cuts the tiles of a sheet, unless it is an existing dask cluster."""

LOSSES = ("cross_entropy", "focal", "dice", "jaccard", "tversky", "lovasz")
"""Losses of ``training.loss``, alone or in weighted sums."""

UNFIT_OPTIMIZERS = {
    "Optimizer": "is no optimiser itself",
    "LBFGS": "asks for the loss several times a step",
    "SparseAdam": "is for sparse gradients, which networks of images do not have",
    "Muon": "takes matrices only, and convolutions have four dimensions",
    "Adafactor": "takes steps of its own lengths, whatever the schedule says",
}
"""Optimisers of torch that ``training.optimizer`` does not take, and why."""

_ADDRESS = re.compile(r"(tcp|tls|ucx)://[^\s/{}]+:\d{1,5}")

MOST_METRES = 1000.0
"""Wider strips along outlines are slips of the pen: the coarsest land-cover maps hold 100 m."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message: the known word that is nearest, or nothing."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def shown(value: object) -> str:
    """A value as its author wrote it in YAML."""
    if value is None:
        return "nothing"
    return (
        {True: "true or yes", False: "false or no"}[value]
        if isinstance(value, bool)
        else f"{value!r}"
    )


def quotable(value: object) -> str:
    """Advice for what YAML has read as a number or a truth value."""
    return "; put it in quotes" if isinstance(value, bool | int | float) else ""


def _share(value: float) -> float:
    if 0.0 <= value <= 1.0:
        return value
    if 1.0 < value <= 100.0:
        message = f"is a share from 0 to 1; for {value:g} % write {value / 100:g}"
    else:
        message = "is a share from 0 to 1"
    raise PydanticCustomError("share", "{message}", {"message": message})


def no_bool(value: object) -> object:
    """Refuse yes and no where a number is meant."""
    # YAML's `yes` is True and Python's True is 1: nobody means `epochs: 1` by it.
    if isinstance(value, bool):
        raise PydanticCustomError("number", "is a number, not yes or no")
    return value


def _written(value: object) -> object:
    # Numbers are names of files for YAML only if they are quoted; an empty name is the folder
    # that one happens to stand in; braces are wildcards to Snakemake.
    if isinstance(value, Path):
        return value
    message = ""
    if not isinstance(value, str):
        message = f"is the name of a file or folder, not {shown(value)}{quotable(value)}"
    elif not value.strip() or "\0" in value:
        message = f"is the name of a file or folder, not {shown(value)}"
    elif set(value) & set("{}"):
        message = f"{shown(value)} has braces in it; use a name without"
    if message:
        raise PydanticCustomError("path", "{message}", {"message": message})
    return value


def name_of(value: object) -> object:
    """A name, also where YAML has read a number."""
    # A layer may be called 2017, and YAML reads that as a number.
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        message = f"is a name, not {shown(value)}{quotable(value)}"
        raise PydanticCustomError("name", "{message}", {"message": message})
    return value.strip()


def _metres(value: object) -> float | str:
    # Here and not by the union of both types, which would tell each mistake twice.
    if value == "source":
        return "source"
    try:
        number = math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        number = math.nan
    if 0 <= number <= MOST_METRES:
        return number
    message = f"is metres from 0 to {MOST_METRES:g}, or source, not {shown(value)}"
    if "," in str(value):
        message += "; decimals take a point"
    raise PydanticCustomError("metres", "{message}", {"message": message})


def engine_of(value: object) -> object:
    """Check who is to cut tiles: an engine's name or a scheduler's address."""
    if value in ENGINES or (isinstance(value, str) and _ADDRESS.fullmatch(value)):
        return value
    message = (
        f"is {', '.join(ENGINES)} or the address of a dask scheduler such as "
        f"tcp://node1:8786, not {shown(value)}"
    )
    if isinstance(value, str) and (near := difflib.get_close_matches(value, ENGINES, 1)):
        message += f"; did you mean {near[0]!r}?"
    raise PydanticCustomError("engine", "{message}", {"message": message})


def optimizer_of(value: str) -> str:
    """Check that an optimiser is none that is known not to do; torch says whether it has it."""
    for name, why in UNFIT_OPTIMIZERS.items():
        if value.lower() == name.lower():
            message = f"{shown(value)} {why}; choose another, such as AdamW"
            raise PydanticCustomError("optimizer", "{message}", {"message": message})
    return value


def searched(value: object) -> object:
    """Check what a search is to try: a range or a list, by their looks."""
    if isinstance(value, dict) and any(isinstance(part, dict | list) for part in value.values()):
        message = "names a setting with its section, by a dot, such as training.learning_rate"
    elif isinstance(value, str | bytes | int | float | None):
        message = "is a list of values or a range such as {low: 1.0e-4, high: 1.0e-2, log: true}"
        message += f", not {shown(value)}"
    else:
        return value
    raise PydanticCustomError("searched", "{message}", {"message": message})


def _losses(value: object) -> dict[str, float]:
    given = {value: 1.0} if isinstance(value, str) else value
    if isinstance(given, dict):
        # A file that is read behind another one takes a loss out of its sum by null.
        given = {name: weight for name, weight in given.items() if weight is not None}
    wrong = []
    if not isinstance(given, dict) or not given:
        given = {}
        wrong = [f"is a loss or a mapping of losses to their weights, not {shown(value)}"]
    else:
        for name, weight in given.items():
            if name not in LOSSES:
                meant = did_you_mean(str(name), LOSSES)
                wrong.append(f"there is no loss {name!r}{meant} (losses: {', '.join(LOSSES)})")
            elif isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
                wrong.append(f"the weight of {name} is a number above 0, not {shown(weight)}")
    if wrong:
        raise PydanticCustomError("loss", "{message}", {"message": "; ".join(wrong)})
    return {str(name): float(weight) for name, weight in given.items()}


def _without_nulls(value: object) -> object:
    # A file that is read behind another one takes an option out by null.
    if isinstance(value, dict):
        return {name: option for name, option in value.items() if option is not None}
    return value


def _one_or_all(losses: dict[str, float]) -> str | dict[str, float]:
    # A single loss is written as people write it.
    return next(iter(losses)) if list(losses.values()) == [1.0] else losses


FilePath = Annotated[Path, BeforeValidator(_written)]
Share = Annotated[float, BeforeValidator(no_bool), AfterValidator(_share)]
Pixels = Annotated[int, BeforeValidator(no_bool), Field(ge=1)]
Margin = Annotated[int, BeforeValidator(no_bool), Field(ge=0)]
Count = Annotated[int, BeforeValidator(no_bool), Field(ge=1)]
Positive = Annotated[float, BeforeValidator(no_bool), Field(gt=0, allow_inf_nan=False)]
Metres = Annotated[float | Literal["source"], BeforeValidator(_metres)]
NotNegative = Annotated[float, BeforeValidator(no_bool), Field(ge=0, allow_inf_nan=False)]
Factor = Annotated[float, BeforeValidator(no_bool), Field(ge=1, allow_inf_nan=False)]
Degrees = Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=180)]
UpToOne = Annotated[float, BeforeValidator(no_bool), Field(gt=0, le=1)]
BelowOne = Annotated[float, BeforeValidator(no_bool), Field(ge=0, lt=1)]
Options = Annotated[dict[str, Any], BeforeValidator(_without_nulls)]
Losses = Annotated[dict[str, float], BeforeValidator(_losses), PlainSerializer(_one_or_all)]
