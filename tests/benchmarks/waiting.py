"""Share of the time that training waits for data, with the smallest network on this processor.

ENet on tiles of 256 px, batches of 8, one worker, for a minute with each preset of augmentation:
the network that leaves the worker the least time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.benchmarks import harness, scenes
from tests.benchmarks.harness import BenchmarkFailedError, Setup

BAR = 0.02
PRESETS = ("geometric", "aerial")
MINUTES = 1.0


class Waiting:
    """The benchmark."""

    def measure(self, setup: Setup, say: Callable[[str], None]) -> dict[str, Any]:
        """Train with each preset."""
        made = scenes.prepared(setup)
        entries = []
        for preset in PRESETS:
            place = setup.folder / "networks" / "waiting" / preset
            harness.remove(place)
            settings = made.begin(place, sections(preset, min(MINUTES, setup.minutes)))
            command = harness.module("tests.benchmarks.train_and_map", "--config", str(settings))
            found = harness.told_by(command, place / "log.txt", setup.threads)
            entries.append({"preset": preset, **found, "met": found["waiting"] < BAR})
            speed = f"{found['tiles_per_second']:.1f} tiles/s"
            say(f"  {preset}: waiting {found['waiting']:.2%}, {speed}")
        return {"entries": entries, "table": table(entries)}


BENCHMARK: harness.Ranking = Waiting()


def sections(preset: str, minutes: float) -> dict[str, Any]:
    """Settings of the run."""
    return {
        "augmentation": {"preset": preset},
        "training": {
            "network": "enet",
            "max_minutes": minutes,
            "batch_size": 8,
            "workers": 1,
            "sample_tiles": 0,
            "tensorboard": False,
        },
    }


def table(entries: list[dict[str, Any]]) -> str:
    """What was found as Markdown."""
    if not entries:
        raise BenchmarkFailedError("nothing was measured")
    lines = [
        f"{entries[0]['network']} ({entries[0]['parameters'] / 1e6:.2f} M parameters), tiles of "
        "256 px, batches of 8, one worker beside the training process.",
        "",
        "| augmentation | tiles/s | waiting | bar |",
        "| --- | ---: | ---: | --- |",
    ]
    for entry in entries:
        met = "met" if entry["met"] else "NOT MET"
        lines.append(
            f"| {entry['preset']} | {entry['tiles_per_second']:.1f} | {entry['waiting']:.2%} | "
            f"< {BAR:.0%} {met} |"
        )
    return "\n".join(lines) + "\n"
