"""A session of tests leaves nothing in the temporary folder but what failed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LITTER = """
import subprocess
import sys
import tempfile

import pytest


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    (folder / "large").touch()


def test_good(shared, tmp_path):
    (tmp_path / "good").touch()
    tempfile.mkdtemp()
    leaves = "import tempfile; tempfile.mkdtemp(); tempfile.mkstemp()"
    subprocess.run([sys.executable, "-c", leaves], check=True)


def test_other(tmp_path):
    (tmp_path / "other").touch()
    assert {ends_well}
"""


@pytest.mark.parametrize("ends_well", [True, False])
def test_only_files_of_tests_that_failed_stay(tmp_path: Path, ends_well: bool) -> None:
    (tmp_path / "test_litter.py").write_text(LITTER.format(ends_well=ends_well), "utf-8")
    folder = tmp_path / "tmp"
    folder.mkdir()
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider",
        "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"),
        str(tmp_path / "test_litter.py"),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"TMPDIR": str(folder)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == (0 if ends_well else 1), done.stdout + done.stderr
    assert len(list(folder.iterdir())) == 1, "that of pytest"
    left = {path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    # Folders of a module are kept with what failed in it.
    assert left == (set() if ends_well else {"large", "other"})
