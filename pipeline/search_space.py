"""What a search for settings may try: ranges and lists, checked against the settings they name.

Of the training only: what decides the tiles or their labels stays the same for all trials.
"""

from __future__ import annotations

import copy
import difflib
import itertools
import json
import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError

from pipeline.sections import Range, Section, TuningSettings

SEARCHED = ("training", "augmentation")
"""Sections whose settings can be searched."""

# A loss is no score of another loss.
_SHAPES_LOSS = ("loss", "focal_gamma", "label_smoothing", "class_weights")


@dataclass(frozen=True)
class Axis:
    """What a search may try of one setting.

    Attributes:
        low: Least value of a range.
        high: Greatest value of a range.
        log: Whether a range is even in the logarithm.
        step: Distance of a range's values; None where any value may be tried.
        whole: Whether a range has whole numbers only.
        choices: Labels of a list's choices and what each stands for; empty for a range.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False
    choices: Mapping[Any, Any] = field(default_factory=dict)

    def labels(self) -> list[Any]:
        """All that can be tried, as a study stores it; of ranges with a step and lists."""
        if self.choices:
            return list(self.choices)
        found = steps(Range(low=self.low, high=self.high, step=self.step))
        return [int(value) for value in found] if self.whole else found

    def value(self, stored: object) -> Any:  # noqa: ANN401 - settings have many types
        """What the setting is to be, from what the study stores."""
        return self.choices[stored] if self.choices else stored


def axes(tuning: TuningSettings, sections: Mapping[str, Section]) -> dict[str, Axis]:
    """What is searched, by dotted name; the settings are checked by :func:`mistakes`."""
    found = {}
    for key, entry in tuning.space.items():
        name, _, setting = key.partition(".")
        if isinstance(entry, Range):
            is_whole = bool(whole(sections[name], setting))
            step = 1.0 if is_whole and not entry.log and entry.step is None else entry.step
            found[key] = Axis(entry.low, entry.high, entry.log, step, is_whole)
        else:
            found[key] = Axis(choices=choices(sections[name], setting, entry))
    return found


def mistakes(
    tuning: TuningSettings,
    sections: Mapping[str, Section],
    others: Sequence[str],
    tell: Callable[[dict[str, Any]], str],
) -> list[str]:
    """What of the section ``tuning`` cannot be used, all of it.

    Args:
        tuning: The section; each kind of value in it is right by itself.
        sections: The settings that can be searched, by section, as the run has them.
        others: Names of the sections and keys that cannot.
        tell: Puts a mistake as pydantic gives it into words.
    """
    wrong = []
    for key, entry in tuning.space.items():
        name, _, rest = key.partition(".")
        where = f"tuning.space.{key}"
        own = rest.partition(".")[0]
        if problem := _unknown(key, sections, others):
            wrong.append(f"{where}: {problem}")
        elif own in getattr(sections[name], "result_ignores", ()):
            wrong.append(f"{where}: changes nothing of the result; leave it out")
        elif problem := _entry(entry, whole(sections[name], rest), tuning.sampler == "grid"):
            wrong.append(f"{where}: {problem}")
        else:
            told = [
                tell({**item, "loc": ("tuning", "space", name, *item["loc"])})
                for candidate in _candidates(entry)
                for item in _tried(sections[name], rest, candidate)
            ]
            wrong += dict.fromkeys(told)
    for key in tuning.space:
        if [other for other in tuning.space if other.startswith(f"{key}.")]:
            wrong.append(f"tuning.space.{key}: is searched as a whole and in parts; remove one")
    shaping = [k for k in tuning.space if k.split(".")[:2][-1] in _SHAPES_LOSS]
    if tuning.metric == "loss" and shaping:
        wrong.append(
            f"tuning.metric: losses cannot be compared where {', '.join(shaping)} differs; "
            "write mean_iou or overall_accuracy"
        )
    if not wrong and tuning.space and tuning.sampler == "grid":
        count = math.prod(len(axis.labels()) for axis in axes(tuning, sections).values())
        if count > tuning.trials:
            wrong.append(
                f"tuning.trials: the grid has {count} cells, more than {tuning.trials} trials; "
                f"write {count}, or sampler: random"
            )
    return wrong


def label(value: object) -> bool | int | float | str | None:
    """A choice as the study stores it: plain values themselves, all others as JSON."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def choices(section: Section, setting: str, values: Sequence[Any]) -> dict[Any, Any]:
    """Labels of a list's choices and what each stands for.

    Args:
        section: The section that has the setting.
        setting: Its name below the section, such as ``batch_size`` or ``loss.dice``.
        values: The list; checked by :func:`mistakes`.
    """
    found = {}
    for value in values:
        checked: Any = type(section).model_validate(with_value(section, setting, value))
        for part in setting.split("."):
            checked = checked.get(part) if isinstance(checked, dict) else getattr(checked, part)
        # YAML reads 1e-3 as text, the setting takes it as a number; a loss by its name becomes a
        # mapping there, which nobody wants to read in a table.
        plain = value if isinstance(checked, dict) else checked
        found[label(plain)] = plain
    return found


def steps(entry: Range | list[Any]) -> list[Any]:
    """All values of a list, or of a range with a step."""
    if not isinstance(entry, Range):
        return list(entry)
    low, step = Decimal(repr(entry.low)), Decimal(repr(entry.step))
    count = int((Decimal(repr(entry.high)) - low) // step)
    # In decimals: 0.1 + 2 * 0.1 is 0.3 and nothing near it.
    return [float(low + number * step) for number in range(count + 1)]


def cells(values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """All combinations of the values of a grid."""
    for combination in itertools.product(*values.values()):
        yield dict(zip(values, combination, strict=True))


def with_value(section: Section, setting: str, value: object) -> dict[str, Any]:
    """A section's values with one setting changed; ``loss.dice`` is a part of a setting."""
    values = {name: getattr(section, name) for name in type(section).model_fields}
    inside: dict[str, Any] = values
    *above, last = setting.split(".")
    for name in above:
        inside[name] = dict(inside[name])
        inside = inside[name]
    inside[last] = value
    return values


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name as the sections of a settings file."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        inside = tree
        *above, last = key.split(".")
        for name in above:
            inside = inside.setdefault(name, {})
        inside[last] = value
    return tree


def without(values: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Nested settings but for those of some dotted names."""
    left: dict[str, Any] = copy.deepcopy(dict(values))
    for key in keys:
        inside: Any = left
        *above, last = key.split(".")
        for name in above:
            inside = inside.get(name) if isinstance(inside, dict) else None
        if isinstance(inside, dict):  # a single loss is written without its weight
            inside.pop(last, None)
    return left


def whole(section: Section, setting: str) -> bool | None:
    """Whether a setting takes whole numbers; None if it takes no numbers."""
    name, _, part = setting.partition(".")
    kinds = _kinds(type(section).model_fields[name].annotation)
    if part:  # of a mapping: weights of losses, options of optimisers
        return False
    if float in kinds:
        return False
    return True if int in kinds else None


def _unknown(key: str, sections: Mapping[str, Section], others: Sequence[str]) -> str:
    """Why a key names nothing that can be searched; empty if it does."""
    name, _, rest = key.partition(".")
    known = [f"{s}.{own}" for s, kind in sections.items() for own in type(kind).model_fields]
    if name in others:
        return f"cannot be searched, only settings of {' and '.join(sections)} can"
    for section, kind in sections.items():
        if key in type(kind).model_fields:
            return f"is not a setting; write '{section}.{key}'"
    own, _, part = rest.partition(".")
    if f"{name}.{own}" not in known:
        near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)
        return "is not a setting" + (f"; did you mean {near[0]!r}?" if near else "")
    if "." in part or (part and not isinstance(getattr(sections[name], own), dict)):
        return f"is not a setting; {name}.{own} has no parts"
    return ""


def _entry(entry: Range | list[Any], whole_numbers: bool | None, grid: bool) -> str:
    """What is wrong with a range or a list by itself; empty if nothing is."""
    if not isinstance(entry, Range):
        if not entry:
            return "is a list without values"
        # As JSON, where 1, 1.0 and true are three values.
        texts = [json.dumps(value, sort_keys=True, default=str) for value in entry]
        doubled = sorted({text for text in texts if texts.count(text) > 1})
        return f"{', '.join(doubled)} stands twice in the list" if doubled else ""
    numbers = [n for n in (entry.low, entry.high, entry.step) if n is not None]
    if whole_numbers is None:
        return "takes no numbers; write a list of its values"
    if entry.low >= entry.high:
        return f"low is less than high, not {entry.low:g} and {entry.high:g}"
    if whole_numbers and not all(number.is_integer() for number in numbers):
        return "takes whole numbers: low, high and step are whole"
    if entry.log and entry.step is not None:
        return "is log or has a step, not both"
    if entry.log and entry.low <= 0:
        return f"low is more than 0 where log is true, not {entry.low:g}"
    if entry.step is not None and entry.step > entry.high - entry.low:
        return f"a step of {entry.step:g} is longer than the range"
    if grid and entry.step is None and (entry.log or not whole_numbers):
        return "has no steps, and a grid needs them: write step, or a list of values"
    return ""


def _candidates(entry: Range | list[Any]) -> list[Any]:
    return [entry.low, entry.high] if isinstance(entry, Range) else list(entry)


def _tried(section: Section, setting: str, value: object) -> list[dict[str, Any]]:
    """Pydantic's mistakes of a section with one setting changed."""
    try:
        type(section).model_validate(with_value(section, setting, value))
    except ValidationError as error:
        return [dict(item) for item in error.errors() if "literal['auto']" not in item["loc"]]
    return []


def _kinds(annotation: object) -> set[Any]:
    """Plain types in an annotation."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*(_kinds(part) for part in get_args(annotation)))
    return {annotation}
