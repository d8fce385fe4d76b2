"""Mapping a sheet, against the network's own forward time and against a TorchGeo loop.

``map`` is the function behind ``map_sheet`` with all that it does: reading, network, classes and
confidence, compressing, overviews, publication; imports are not counted, loading the checkpoint is.
``forward`` gives as many windows of the same size to the same network in the same precision,
normalised, from memory, and does nothing with what it says. The peer is a loop as TorchGeo's
documentation has it: GridGeoSampler with the same windows, float32, classes put into an array.

    python -m tests.benchmarks.maps map --model M --orthophoto F --out DIR
    python -m tests.benchmarks.maps forward --model M --orthophoto F
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pipeline.sections import MappingSettings
from tests.benchmarks import full_sheet, harness
from tests.benchmarks.harness import Comparison, Prepared, Run, Setup
from tests.benchmarks.machine import ROOT

SIZE = (10_752, 9_728)
BAR, PEER_BAR, MEMORY_BAR = 1.05, 0.4, 1.05
WINDOWS = MappingSettings()
NETWORK, ENCODER, CLASSES = "unet", "resnet34", 5

_KEPT = 16  # windows in memory for `forward`: the caches hold none of them


class Maps:
    """The benchmark."""

    def prepare(self, setup: Setup) -> Prepared:
        """Sheets of about 100 and 400 megapixels, and a network."""
        size = (min(setup.size[0], SIZE[0]), min(setup.size[1], SIZE[1]))
        sheet = full_sheet.write_full_sheet(setup.folder, size, polygons=1).orthophoto
        large = (2 * size[0], 2 * size[1])
        four = full_sheet.write_full_sheet(setup.folder, large, polygons=1).orthophoto
        model = setup.folder / "maps" / "model.safetensors"
        _write_model(model, sheet, setup.model)
        out = setup.folder / "maps" / "out"

        def ours(step: str, orthophoto: Path) -> tuple[str, ...]:
            return harness.module(
                "tests.benchmarks.maps", step, "--model", str(model), "--orthophoto",
                str(orthophoto), "--out", str(out), "--threads", str(setup.threads),
            )  # fmt: skip

        pixels = size[0] * size[1]
        runs = {
            "map": Run(ours("map", sheet), pixels, inside=True, reads=(sheet,), removes=(out,)),
            "forward": Run(ours("forward", sheet), pixels, inside=True, reads=(sheet,)),
        }
        missing = {}
        if setup.peers is None:
            missing["torchgeo"] = "no environment of peers (PEERS=)"
        else:
            rows = max(WINDOWS.window_px, round(size[1] * setup.peer_share))
            runs["torchgeo"] = Run(
                (
                    str(setup.peers), str(ROOT / "tests" / "benchmarks" / "torchgeo_peer.py"),
                    "map", "--image", str(sheet), "--model", str(model), "--rows", str(rows),
                    "--workers", str(setup.threads), "--size", str(WINDOWS.window_px),
                    "--shared", str(WINDOWS.overlap_px),
                ),
                inside=True, reads=(sheet,),
            )  # fmt: skip
        runs["map, four times the pixels"] = Run(
            ours("map", four), 4 * pixels, inside=True, reads=(four,), removes=(out,)
        )
        comparisons = (
            Comparison("map of a sheet", "map", ("forward",), BAR),
            Comparison(
                "the same", "map", ("torchgeo",), PEER_BAR,
                note=f"TorchGeo in float32 on {100 * setup.peer_share:g} % of the rows",
            ),
            Comparison(
                "map of a sheet with four times the pixels", "map, four times the pixels",
                peak_of="map", peak_ratio=MEMORY_BAR,
            ),
        )  # fmt: skip
        sizes = {"size": size, "network": f"{NETWORK} {ENCODER}", "threads": setup.threads}
        return Prepared(sizes, runs, comparisons, missing)


def _write_model(path: Path, sheet: Path, given: Path | None) -> None:
    """A checkpoint for the sheet's pixels: a given one, or weights by chance."""
    from dataclasses import replace

    import torch

    from pipeline import checkpoint, geotiff, networks

    grid = geotiff.read_grid(sheet)
    pixel = (grid.pixel_width, grid.pixel_height)
    if given is not None:
        network, card = checkpoint.load(given)
        card = replace(card, pixel_size=pixel)
    else:
        torch.manual_seed(0)
        network = networks.build(
            NETWORK, encoder=ENCODER, encoder_weights="none", bands=3, classes=CLASSES
        )
        card = checkpoint.ModelCard(
            network=NETWORK, encoder=ENCODER, bands=3, pixel_size=pixel,
            classes=tuple(f"class {i}" for i in range(CLASSES)),
            colors=tuple(f"#{i:02X}{i:02X}80" for i in range(0, 50 * CLASSES, 50)),
            nomenclature="benchmark", mean=(100.0,) * 3, std=(50.0,) * 3,
        )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, network, card)


def mapped(given: argparse.Namespace) -> float:
    """Map the sheet as a run does; returns the seconds."""
    from pipeline import geotiff
    from pipeline.imagery import SheetImagery
    from pipeline.stages.mapping import map_imagery

    began = time.perf_counter()
    imagery = SheetImagery(geotiff.read_orthophoto(given.orthophoto))
    settings = MappingSettings()
    map_imagery(
        imagery,
        [given.model],
        {layer: given.out / f"map.{layer}.tif" for layer in settings.layers},
        settings,
        what="benchmark",
        files=[given.orthophoto],
        progress_folder=given.out / ".progress",
        threads=given.threads,
    )
    imagery.close()
    return time.perf_counter() - began


def forward(given: argparse.Namespace) -> float:
    """Give as many windows as a map has to the network, from memory; returns the seconds."""
    import numpy as np
    import torch

    from pipeline import backends, checkpoint, geotiff, mapping
    from pipeline.grid import Window
    from pipeline.imagery import SheetImagery
    from pipeline.windows import axis_parts

    settings = MappingSettings()
    size, overlap = settings.window_px, settings.overlap_px
    imagery = SheetImagery(geotiff.read_orthophoto(given.orthophoto))
    network, card = checkpoint.load(given.model)
    device = mapping.best_device()
    precision = backends.backend_precision(settings.backend, settings.precision, device)
    run = backends.runner(settings.backend, network.to(device), precision=precision, device=device)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (card.mean, card.std))
    rng = np.random.default_rng(0)
    windows = []
    for _ in range(_KEPT):
        col, row = (int(rng.integers(0, length - size)) for length in _sides(imagery.grid))
        image = torch.from_numpy(imagery.read(Window(col, row, size, size))[0])[None]
        normal = ((image.float() - mean) / std).to(device)
        windows.append(normal.contiguous(memory_format=torch.channels_last))
    count = 1
    for length in _sides(imagery.grid):
        count *= len(axis_parts(length, size, overlap))
    began = time.perf_counter()
    with torch.inference_mode():
        for number in range(count):
            run(windows[number % _KEPT])
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _sides(grid: object) -> tuple[int, int]:
    return grid.width, grid.height  # type: ignore[attr-defined]


def main() -> None:
    """Do what the command line says."""
    import torch

    from pipeline import (  # noqa: F401 - not counted
        backends,
        checkpoint,
        geotiff,
        mapping,
        networks,
        progress,
        stages,
    )

    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("step", choices=["map", "forward"])
    arguments.add_argument("--model", type=Path, required=True)
    arguments.add_argument("--orthophoto", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--threads", type=int, default=2)
    given = arguments.parse_args()
    import segmentation_models_pytorch  # noqa: F401 - 10 s

    torch.set_num_threads(given.threads)
    progress.start_logging()
    with geotiff.session():
        seconds = {"map": mapped, "forward": forward}[given.step](given)
    harness.answer(seconds)


BENCHMARK: harness.Benchmark = Maps()

if __name__ == "__main__":
    main()
