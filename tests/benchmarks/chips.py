"""Training tiles of a sheet against TorchGeo's way to chips: one pair of PNGs a tile.

TorchGeo's GridGeoSampler reads tiles of 256 px of image and labels, in as many worker processes
as ours has threads, and each worker writes its chips. Both do the same rows of the sheet; TorchGeo
is timed without its imports, ours is the whole command.
"""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks import harness, sheet_run
from tests.benchmarks.harness import Comparison, Prepared, Run, Setup
from tests.benchmarks.shard import tiles_of
from tests.benchmarks.sheet_run import NAME

BAR = 0.2
PEER = Path(__file__).with_name("torchgeo_peer.py")


class Chips:
    """The benchmark."""

    def prepare(self, setup: Setup) -> Prepared:
        """A run whose plan has the tiles of some of the rows."""
        if setup.peers is None:
            raise harness.BenchmarkSkippedError(
                "no environment with TorchGeo is given: see tests/benchmarks/peers.txt, "
                "then PEERS=its python"
            )
        labelled = sheet_run.with_labels(setup, sheet_run.with_proportions(setup))
        made = sheet_run.with_plan(setup, labelled, setup.peer_share)
        tiles = tiles_of(made)
        label, image = made.paths.label_raster(NAME), made.sheet.orthophoto
        rows = round(setup.peer_share * setup.size[1] / sheet_run.TILE) * sheet_run.TILE
        out = made.folder / "chips"
        theirs = (
            str(setup.peers), str(PEER), "chips", "--image", str(image), "--label", str(label),
            "--workers", str(setup.threads), "--out", str(out), "--rows", str(rows),
        )  # fmt: skip
        shard = made.paths.shard(NAME)
        index = made.paths.polygon_index(NAME)
        runs = {
            "TorchGeo chips": Run(theirs, inside=True, reads=(image, label), removes=(out,)),
            "shard": Run(
                made.command("shard", setup.threads), tiles, reads=(image, label, index),
                removes=(shard,),
            ),
        }  # fmt: skip
        whole = setup.peer_share >= 1
        note = "all rows" if whole else f"first {setup.peer_share:g} of the rows, time a tile"
        rows_of = (Comparison("shard against chips", "shard", ("TorchGeo chips",), BAR, note=note),)
        sizes = {"size": setup.size, "rows": rows, "tiles": tiles, "threads": setup.threads}

        def facts() -> dict[str, object]:
            written = list(out.glob("*.png"))
            size = sum(path.stat().st_size for path in written)
            harness.remove(out)
            return {"chip_files": len(written), "chips_mb": round(size / 1e6)}

        return Prepared(sizes, runs, rows_of, facts=facts)


BENCHMARK: harness.Benchmark = Chips()
