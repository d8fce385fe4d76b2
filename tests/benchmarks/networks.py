"""Networks trained for the same minutes on the real scenes, and what they map.

Candidates and the settings of their runs are in ``networks.yaml``; two peers train for as long
(``peer_loops.py``). All map the test scene; the same code counts the same pixels of it.

What was measured lies in ``networks/networks.json`` below ``FOLDER=``, candidate by candidate: a
benchmark that was killed goes on where it stopped, in the midst of a training of ours as well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import class_rasters, config, confusion, geotiff, stages
from pipeline.nomenclature import IGNORE
from pipeline.publication import published, write_text
from tests.benchmarks import harness, machine, scenes, sheet_run
from tests.benchmarks.harness import BenchmarkFailedError, BenchmarkSkippedError, Setup
from tests.benchmarks.machine import ROOT
from tests.benchmarks.scenes import Scenes

CANDIDATES = ROOT / "tests" / "benchmarks" / "networks.yaml"
LOOPS = ROOT / "tests" / "benchmarks" / "peer_loops.py"
PEERS = {
    "smp": {"network": "segmentation-models-pytorch, plain loop: Unet", "encoder": "resnet34"},
    "torchgeo": {"network": "TorchGeo, SemanticSegmentationTask: unet", "encoder": "resnet50"},
}

LAYOUT = 2
"""Version of an entry; raised when its keys change their meaning. Older ones are not read."""

_COLUMNS = (
    "", "network", "encoder", "first weights", "parameters", "minutes", "accuracy", "mIoU",
    "fwIoU", "validation mIoU", "tiles/s", "waiting", "s/Mpx", "MB",
)  # fmt: skip
_TEXT = 4  # columns of text, the first ones
_SCORES = {
    "overall_accuracy": "accuracy",
    "mean_iou": "mIoU",
    "frequency_weighted_iou": "fwIoU",
}


@dataclass(frozen=True)
class Candidate:
    """One of our networks.

    Attributes:
        name: Its name in the table.
        sections: Settings of its run, by section.
    """

    name: str
    sections: Mapping[str, Mapping[str, Any]]

    @property
    def pretrained(self) -> bool:
        """Whether it needs a folder of weights."""
        return self.sections["training"].get("encoder_weights") == "imagenet"

    def for_setup(self, setup: Setup) -> dict[str, Any]:
        """Settings of its run with what is asked for."""
        asked: dict[str, Any] = {"max_minutes": setup.minutes}
        if self.pretrained:
            asked["weights_dir"] = str(setup.weights)
        found = {name: dict(section) for name, section in self.sections.items()}
        found["training"] |= asked
        return found


class Networks:
    """The benchmark."""

    def measure(self, setup: Setup, say: Callable[[str], None]) -> dict[str, Any]:
        """Train, map and score what is not measured yet."""
        known = candidates()
        names = [*known, *PEERS]
        if wrong := sorted(set(setup.networks) - set(names)):
            raise BenchmarkFailedError(f"no network of {CANDIDATES.name}: {', '.join(wrong)}")
        made = scenes.prepared(setup)
        store = setup.folder / "networks" / "networks.json"
        entries = read(store)
        for name in setup.networks or names:
            stamp = stamp_of(setup, made, known.get(name))
            key = f"{name}, {setup.minutes:g} min"
            if done(entries.get(key, {}), stamp, keep=setup.keep):
                say(f"  {name}: measured already")
                continue
            say(f"  {name}: {setup.minutes:g} minutes")
            place = setup.folder / "networks" / f"{setup.minutes:g}_min" / name
            try:
                if name in known:
                    found = self._ours(setup, made, known[name], place, stamp)
                else:
                    found = self._peer(setup, made, name, place)
            except BenchmarkSkippedError as reason:
                found = {"skipped": str(reason)}
            except BenchmarkFailedError as error:
                found = {"failed": str(error)}
            entries[key] = {
                "layout": LAYOUT,
                "name": name,
                "minutes": setup.minutes,
                "stamp": stamp,
                "commit": machine.commit(),
                "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                **found,
            }
            # After each, so that what was measured is kept when the next one is killed.
            write_text(store, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
            write_text(store.with_suffix(".md"), table(of_minutes(entries, setup), setup))
            say(f"  {name}: {_told(found)}")
        chosen = of_minutes(entries, setup)
        failed = [f"{e['name']}: {e['failed']}" for e in chosen if "failed" in e]
        return {
            "entries": chosen,
            "verdict": verdict(chosen),
            "table": table(chosen, setup),
            **({"failed": "\n\n".join(failed)} if failed else {}),
        }

    def _ours(
        self,
        setup: Setup,
        made: Scenes,
        candidate: Candidate,
        place: Path,
        stamp: Mapping[str, Any],
    ) -> dict[str, Any]:
        if candidate.pretrained and setup.weights is None:
            raise BenchmarkSkippedError("needs a folder of ImageNet weights (WEIGHTS=)")
        begun = place / "begun.json"
        if begun.exists() and not done(json.loads(begun.read_text("utf-8")), stamp, setup.keep):
            harness.remove(place)
        settings = made.begin(place, candidate.for_setup(setup))
        begun.write_text(json.dumps({"stamp": stamp}), "utf-8")
        command = harness.module(
            "tests.benchmarks.train_and_map", "--config", str(settings), "--map", scenes.TEST,
            "--threads", str(setup.threads),
        )  # fmt: skip
        found = harness.told_by(command, place / "log.txt", setup.threads)
        return found | scores(settings)

    def _peer(self, setup: Setup, made: Scenes, name: str, place: Path) -> dict[str, Any]:
        if setup.peers is None:
            raise BenchmarkSkippedError("no environment with peers is given (PEERS=)")
        harness.remove(place)
        settings = made.begin(place, {})
        listed = place / "scenes.json"
        listed.write_text(made.for_peers(), "utf-8")
        command = (
            str(setup.peers), str(LOOPS), name, "--scenes", str(listed), "--minutes",
            str(setup.minutes), "--out", str(place / "peer"),
        )  # fmt: skip
        found = harness.told_by(command, place / "log.txt", setup.threads)
        adopt_map(settings, place / "peer" / "map.npy", setup.threads)
        return {**PEERS[name], "weights": "none", "peer": True, **found, **scores(settings)}


BENCHMARK: harness.Ranking = Networks()


def candidates() -> dict[str, Candidate]:
    """The candidates of ``networks.yaml`` by name, each with the recipe under its own settings."""
    content = config.read_yaml(CANDIDATES)
    recipe = content["recipe"]
    found = {}
    for name, own in content["candidates"].items():
        sections = [*recipe, *(section for section in own if section not in recipe)]
        merged = {part: {**recipe.get(part, {}), **own.get(part, {})} for part in sections}
        found[name] = Candidate(name, merged)
    return found


def stamp_of(setup: Setup, made: Scenes, candidate: Candidate | None) -> dict[str, Any]:
    """What decides a result: of a candidate, or of the peers."""
    settings = candidate.for_setup(setup) if candidate else LOOPS.read_text("utf-8")
    return {
        "imagery": str(made.imagery),
        "threads": setup.threads,
        "settings": settings,
        # Peers run none of it; what makes their labels and counts their pixels, tests watch over.
        "code": sheet_run.code() if candidate else "",
    }


def read(store: Path) -> dict[str, Any]:
    """What was measured before, by name and minutes."""
    if not store.exists():
        return {}
    found: dict[str, Any] = json.loads(store.read_text("utf-8"))
    return {key: entry for key, entry in found.items() if entry.get("layout") == LAYOUT}


def of_minutes(entries: Mapping[str, Any], setup: Setup) -> list[dict[str, Any]]:
    """Entries of as many minutes as are asked for."""
    return [entry for entry in entries.values() if entry["minutes"] == setup.minutes]


def done(entry: Mapping[str, Any], stamp: Mapping[str, Any], keep: bool) -> bool:
    """Whether an entry is what would be measured now, and was."""
    if "stamp" not in entry or "failed" in entry or "skipped" in entry:
        return False
    told = json.loads(json.dumps(stamp))
    return all(entry["stamp"].get(k) == told[k] for k in told if k != "code" or not keep)


def adopt_map(settings: Path, ids: Path, threads: int) -> None:
    """Make a peer's class ids the map of a run, and count it as a map of ours."""
    run = stages.Run(config.load(settings))
    grid = geotiff.read_grid(run.paths.label_raster(scenes.TEST))
    tags = {class_rasters.NOMENCLATURE_TAG: run.nomenclature.fingerprint}
    with (
        geotiff.session(),
        published(run.paths.land_cover_map(scenes.TEST)) as (draft,),
        geotiff.RasterWriter(draft, grid, "uint8", IGNORE, run.nomenclature.colors, tags) as raster,
    ):
        raster.write(grid.window, np.load(ids))
    with geotiff.session():
        stages.confusion(run, scenes.TEST, threads)


def scores(settings: Path) -> dict[str, Any]:
    """Scores of a run's map of the test scene, IoU by class among them."""
    path = stages.Run(config.load(settings)).paths.confusion(scenes.TEST)
    matrix = confusion.from_json(path.read_text("utf-8"), str(path))
    found = matrix.scores()
    return {
        **{key: getattr(found, key) for key in ("pixels", *_SCORES)},
        "iou": {of.name: of.iou for of in found.classes},
        "counts": matrix.counts.tolist(),
    }


def verdict(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Our best network by mIoU against the best of the peers; nothing where one side is missing."""
    measured = [entry for entry in entries if "mean_iou" in entry]
    sides = {
        peer: [entry for entry in measured if entry.get("peer", False) is peer]
        for peer in (False, True)
    }
    if not all(sides.values()):
        return {}
    best = max(sides[False], key=lambda entry: float(entry["mean_iou"]))
    most = {key: max(float(e[key]) for e in sides[True]) for key in _SCORES}
    return {
        "best": best["name"],
        "peers": sorted(entry["name"] for entry in sides[True]),
        "scores": {key: float(best[key]) for key in _SCORES},
        "most_of_peers": most,
        "met": all(float(best[key]) > most[key] for key in _SCORES),
    }


def table(entries: Sequence[Mapping[str, Any]], setup: Setup) -> str:
    """All entries as Markdown, the best mIoU first."""
    measured = [entry for entry in entries if "mean_iou" in entry]
    measured.sort(key=lambda entry: -float(entry["mean_iou"]))
    lines = [
        f"Each trained for {setup.minutes:g} minutes with {setup.threads} threads, validations "
        "included, on scenes 1, 2, 4 and 5; scores in per cent on the map of scene 6, validation "
        "on scene 3; seconds of mapping with all that it reads and writes. Peers in italics: what "
        "they begin in time they finish, TorchGeo's checkpoint holds the optimiser as well.",
        "",
        _line(_COLUMNS),
        _line(["---"] * _TEXT + ["---:"] * (len(_COLUMNS) - _TEXT)),
        *(_line(_cells(entry)) for entry in measured),
    ]
    missing = [
        f"- {entry['name']}: {reason}, {entry[reason].splitlines()[0]}"
        for entry in entries
        for reason in ("skipped", "failed")
        if reason in entry
    ]
    found = verdict(entries)
    if found:
        best, most = found["scores"], found["most_of_peers"]
        compared = ", ".join(
            f"{title} {100 * best[key]:.1f} against {100 * most[key]:.1f}"
            for key, title in _SCORES.items()
        )
        told = "better in all three: met" if found["met"] else "NOT MET: not better in all three"
        lines += ["", f"{found['best']} against the best of {' and '.join(found['peers'])}: "
                  f"{compared}; {told}."]  # fmt: skip
    return "\n".join([*lines, *([""] if missing else []), *missing]) + "\n"


def _cells(entry: Mapping[str, Any]) -> list[str]:
    name = f"*{entry['name']}*" if entry.get("peer") else str(entry["name"])
    weights = {"none": "random", "imagenet": "ImageNet"}
    return [
        name,
        str(entry["network"]),
        str(entry["encoder"]),
        weights.get(entry["weights"], str(entry["weights"])),
        f"{entry['parameters'] / 1e6:.2f} M",
        f"{entry['trained_seconds'] / 60:.1f}",
        *(f"{100 * entry[key]:.1f}" for key in (*_SCORES, "validation_mean_iou")),
        f"{entry['tiles_per_second']:.1f}",
        f"{100 * entry['waiting']:.1f} %",
        f"{entry['map_seconds'] / entry['map_pixels'] * 1e6:.2f}",
        f"{entry['checkpoint_bytes'] / 1e6:.1f}",
    ]


def _told(found: Mapping[str, Any]) -> str:
    for reason in ("skipped", "failed"):
        if reason in found:
            return f"{reason}: {found[reason]}"
    scored = ", ".join(f"{title} {100 * found[key]:.1f} %" for key, title in _SCORES.items())
    return f"{scored}; {found['tiles_per_second']:.1f} tiles/s, waiting {found['waiting']:.1%}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
