"""Modules whose libraries do not bear other tests in their process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MARK = "pytestmark = pytest.mark.own_process"
MODULES = sorted(
    p.name for p in ROOT.glob("tests/test_*.py") if f"\n{MARK}\n" in p.read_text("utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_in_a_process_of_its_own(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"tests/{name}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_there_are_such_modules() -> None:
    assert MODULES == ["test_backends.py"]
