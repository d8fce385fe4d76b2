"""Errors that people read: all problems at once, in one message."""

from __future__ import annotations

import pytest

from pipeline.errors import InputError, Problems, SettingsError


def read(name: str, remedy: str = "") -> str:
    """Read what has a good name."""
    if name.startswith("bad"):
        raise InputError(f"{name}: is bad.", [f"line 1 of {name}"], remedy)
    return name.upper()


def test_what_can_be_read_is_given_back() -> None:
    problems = Problems()
    assert problems.tried(read, "a") == "A"
    problems.check("cannot be used")


def test_a_single_problem_is_told_as_it_is() -> None:
    problems = Problems()
    assert problems.tried(read, "bad", remedy="Mend it.") is None
    with pytest.raises(InputError) as caught:
        problems.check("files cannot be used.")
    assert str(caught.value) == "bad: is bad.\n  line 1 of bad\nMend it."


def test_several_problems_are_told_at_once() -> None:
    problems = Problems()
    for name, remedy in (("bad 1", "Mend it."), ("good", ""), ("bad 2", "Mend it."), ("bad 3", "")):
        problems.tried(read, name, remedy)
    problems.found(InputError("bad 4: too.", remedy="Buy another."))
    with pytest.raises(InputError) as caught:
        problems.check("files cannot be used.")
    assert str(caught.value).splitlines() == [
        "4 files cannot be used.", "  bad 1: is bad.", "  line 1 of bad 1", "  bad 2: is bad.",
        "  line 1 of bad 2", "  bad 3: is bad.", "  line 1 of bad 3", "  bad 4: too.", "Mend it.",
        "Buy another.",
    ]  # fmt: skip


def test_what_is_no_input_is_raised_at_once() -> None:
    def wrong() -> None:
        raise SettingsError("not that")

    with pytest.raises(SettingsError, match="not that"):
        Problems().tried(wrong)
