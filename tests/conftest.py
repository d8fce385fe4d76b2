"""Fixtures that more than one test module uses."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.grid import PixelGrid

# Snakemake's executor for SLURM asks `scontrol` whenever it is imported, and where its programs
# are installed and no SLURM answers that takes ten seconds. Tests on SLURM name their own.
os.environ["SLURM_CONF"] = "/dev/null"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave modules marked ``own_process`` to ``test_own_process.py``, unless run by themselves."""
    if len({item.path for item in items}) > 1:
        left = [item for item in items if item.get_closest_marker("own_process")]
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=left)


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All that tests and what they start put in the temporary folder goes with the last test.

    QGIS, browsers, and Snakemake or workers that a test kills leave their files there.
    """
    tmp_path_factory.getbasetemp()  # first: what failed tests leave is to be looked at
    # Short, and not below that one: sockets lie in it.
    folder = tempfile.mkdtemp(prefix="tesela-tests-")
    patch = pytest.MonkeyPatch()
    patch.setenv("TMPDIR", folder)
    patch.setattr(tempfile, "tempdir", None)
    yield
    patch.undo()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real scenes: ``shared/data`` beside the checkout, or TESELA_SHARED_DATA."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TESELA_SHARED_DATA", default))
    if not (folder / "dubai").is_dir():
        pytest.skip(f"the real scenes are not here ({folder}); set TESELA_SHARED_DATA")
    return folder


@pytest.fixture
def grid() -> PixelGrid:
    """Six columns and four rows of half a metre."""
    return PixelGrid("EPSG:25830", 700_000.0, 4_400_000.0, 0.5, 0.5, 6, 4)
