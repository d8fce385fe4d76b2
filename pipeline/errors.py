"""What went wrong, where, and what to do: the errors that people read.

Everything a user can cause ends as one of these; the command line prints the message alone and
exits with the class's code. Anything else is a defect of Tesela and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")

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


class Problems:
    """Collects what is wrong with several inputs, to tell all of it at once."""

    def __init__(self) -> None:
        self._errors: list[InputError] = []

    def tried(
        self, read: Callable[_Given, _Found], *args: _Given.args, **named: _Given.kwargs
    ) -> _Found | None:
        """Read something.

        Returns:
            What was read; None where it cannot be used, which :meth:`check` will tell.
        """
        try:
            return read(*args, **named)
        except InputError as error:
            self.found(error)
            return None

    def found(self, error: InputError) -> None:
        """Keep a problem, to tell it with the others."""
        self._errors.append(error)

    def check(self, what: str) -> None:
        """See to it that nothing is wrong.

        Args:
            what: The end of the sentence that begins with the number of problems.

        Raises:
            InputError: The only problem as it is; of several, what each says.
        """
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            items = [line for error in self._errors for line in (error.what, *error.items)]
            remedies = dict.fromkeys(error.remedy for error in self._errors if error.remedy)
            raise InputError(f"{len(self._errors)} {what}", items, "\n".join(remedies))
