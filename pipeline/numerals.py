"""Numbers as a report writes them: thin spaces, units, one decimal, a dash where there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence

THIN = "\u202f"
"""Narrow no-break space: between thousands, and before units."""

NONE = "–"
"""What is shown where there is no number."""


def count(number: float) -> str:
    """A whole number with thin spaces between the thousands."""
    return f"{round(number):,}".replace(",", THIN)


def percent(share: float) -> str:
    """A share from 0 to 1 in per cent, one decimal; a dash for NaN."""
    return NONE if math.isnan(share) else f"{100 * share:.1f}{THIN}%"


def decimal(number: float, digits: int = 2) -> str:
    """A number with so many decimals, without a sign where it rounds to nothing; a dash for NaN."""
    if math.isnan(number):
        return NONE
    text = f"{number:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def signed(number: float, digits: int = 1) -> str:
    """A difference with its sign, and without one where it rounds to nothing; a dash for NaN."""
    if math.isnan(number):
        return NONE
    text = f"{number:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def area(pixels: int, pixel_area: float) -> str:
    """The area of so many pixels, in km² or, below 0.1 km², in hectares."""
    km2 = pixels * pixel_area / 1e6
    if km2 < 0.1:
        return f"{100 * km2:.2f}{THIN}ha"
    return f"{km2:.2f}{THIN}km²" if km2 < 100 else f"{count(km2)}{THIN}km²"


def hectares(number: float | str) -> str:
    """A number of hectares, or its text, with two decimals; the unit stands elsewhere."""
    return f"{float(number):,.2f}".replace(",", THIN)


def duration(seconds: float) -> str:
    """A time in the two units that matter."""
    if math.isnan(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.1f}{THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{THIN}min {rest:02d}{THIN}s"
    return f"{minutes // 60}{THIN}h {minutes % 60:02d}{THIN}min"


def hours(number: float) -> str:
    """A number of hours with two decimals, three of few; the unit stands elsewhere."""
    return f"{number:.2f}" if number >= 0.1 or not number else f"{number:.3f}"


def plain(value: object) -> str:
    """Any plain value, as a model card holds them."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NONE
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or NONE
    return str(value)


def plural(number: int, one: str, many: str | None = None) -> str:
    """A count and its noun."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def listed(items: Sequence[str]) -> str:
    """Items with commas, and "and" before the last."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
