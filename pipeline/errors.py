"""What went wrong, where, and what to do: the errors that people read.

Everything a user can cause ends as one of these; the command line prints the message alone and
exits with the class's code. Anything else is a defect of Tesela and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SHOWN_ITEMS = 20
"""So many items of one kind are listed; the rest is counted."""


class TeselaError(Exception):
    """A problem that a person can mend.

    Args:
        what: One sentence: what is wrong, and of which file, sheet or setting.
        items: The places, one a line, all of them: never only the first.
        remedy: What to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, items: Iterable[str] = (), remedy: str = "") -> None:
        self.what = what
        self.items: Sequence[str] = tuple(items)
        self.remedy = remedy
        super().__init__(self._message())

    def _message(self) -> str:
        lines = [self.what]
        lines += [f"  {item}" for item in self.items[:SHOWN_ITEMS]]
        if len(self.items) > SHOWN_ITEMS:
            lines.append(f"  ... and {len(self.items) - SHOWN_ITEMS} more")
        if self.remedy:
            lines.append(self.remedy)
        return "\n".join(lines)


class SettingsError(TeselaError):
    """A settings file, sheets table or nomenclature that cannot be used."""

    exit_code = 2


class InputError(TeselaError):
    """An orthophoto or a SIOSE base that cannot be used."""

    exit_code = 3


class OutputError(TeselaError):
    """A result that cannot be written: disk full, no permission, or another run's file."""

    exit_code = 4


class TrainingError(TeselaError):
    """Training that cannot start or go on, or a checkpoint that does not fit."""

    exit_code = 5
