"""Snakemake that asks SLURM for its jobs every two seconds.

Its executor waits ten seconds longer each time that no job has ended, up to three minutes, which
nothing sets. The jobs, which start Snakemake again, do not go through here.
"""

from __future__ import annotations

import asyncio

from snakemake.cli import main  # type: ignore[import-untyped]
from snakemake_interface_executor_plugins.executors import (  # type: ignore[import-untyped]
    remote,
)


async def _sleep(self: object) -> None:
    await asyncio.sleep(2)


if __name__ == "__main__":
    assert hasattr(remote.RemoteExecutor, "sleep"), "the executor waits in another way now"
    remote.RemoteExecutor.sleep = _sleep
    main()
