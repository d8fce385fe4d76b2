"""What a benchmark ran on: processor, memory, disk, versions, state of the code."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import rasterio

ROOT = Path(__file__).resolve().parents[2]

_LIBRARIES = (
    "numpy", "rasterio", "geopandas", "pyogrio", "shapely", "pyarrow", "tifffile", "zstandard",
    "lmdb", "dask", "distributed", "torch", "torchvision",
)  # fmt: skip


def describe(folder: Path) -> dict[str, Any]:
    """The machine, as far as it decides how fast things are.

    Args:
        folder: Where the inputs and results lie: whose disk is meant.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9, 1),
        "disk": _disk(folder),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "gdal": rasterio.__gdal_version__,
        "gdal_debian": gdal_debian(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def commit() -> tuple[str, bool]:
    """The checked-out commit, and whether files differ from it; empty outside of a checkout."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return "", False
    head = _output([git, "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"])
    changed = _output([git, "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"])
    return head, bool(changed)


def gdal_debian() -> str:
    """Version of the system's GDAL; empty where it has none."""
    tool = Path("/usr/bin/gdal_rasterize")
    return _output([str(tool), "--version"]) if tool.exists() else ""


def _output(command: list[str]) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _disk(folder: Path) -> str:
    """File system and device of a folder, and what the kernel says of the device."""
    place = folder.resolve()
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines()]
    around = [fields for fields in mounts if place.is_relative_to(fields[4])]
    if not around:
        return "unknown"
    fields = max(around, key=lambda fields: len(fields[4]))
    kind, device = fields[fields.index("-") + 1 : fields.index("-") + 3]
    rotational = Path(f"/sys/dev/block/{fields[2]}/queue/rotational")
    if not rotational.exists():
        return f"{kind} on {device}"
    turns = "said to rotate" if rotational.read_text("ascii").strip() == "1" else "no moving parts"
    return f"{kind} on {device} ({turns})"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
