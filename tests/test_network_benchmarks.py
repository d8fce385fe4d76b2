"""The benchmark of networks: what is trained, what is taken up again, what is compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import config
from pipeline.networks import NETWORKS
from pipeline.sections import AugmentationSettings, MappingSettings, Section, TrainingSettings
from tests.benchmarks import __main__ as bench
from tests.benchmarks import harness, networks, peer_loops, scenes, train_and_map, waiting
from tests.benchmarks.harness import BenchmarkFailedError, Setup
from tests.benchmarks.scenes import Scenes

_SECTIONS: dict[str, type[Section]] = {
    "augmentation": AugmentationSettings,
    "training": TrainingSettings,
    "mapping": MappingSettings,
}
_SPEED = {"tiles_per_second": 8.0, "waiting": 0.01, "map_seconds": 13.0, "map_pixels": 6_500_000}


def entry(name: str, miou: float, accuracy: float = 0.8, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "network": "unet", "encoder": "resnet18", "weights": "none", "minutes": 6,
        "parameters": 14_330_000, "overall_accuracy": accuracy, "mean_iou": miou,
        "frequency_weighted_iou": 0.7, "validation_mean_iou": 0.5, "checkpoint_bytes": 57_400_000,
        "trained_seconds": 363.0,
        **_SPEED, **more,
    }  # fmt: skip


def test_every_candidate_has_settings_that_a_run_can_use(tmp_path: Path) -> None:
    setup = Setup(tmp_path, minutes=2.5, weights=tmp_path / "weights")
    found = networks.candidates()
    assert len({c.sections["training"]["network"] for c in found.values()}) >= 6
    for candidate in found.values():
        sections = candidate.for_setup(setup)
        for name, values in sections.items():
            config.section(_SECTIONS[name], values, candidate.name)
        assert sections["training"]["network"] in NETWORKS
        assert sections["training"]["max_minutes"] == 2.5
    pretrained = found["unet_imagenet"]
    assert pretrained.for_setup(setup)["training"]["weights_dir"] == str(tmp_path / "weights")
    assert "weights_dir" not in found["unet"].for_setup(setup)["training"]
    for preset in waiting.PRESETS:
        for name, values in waiting.sections(preset, 1.0).items():
            config.section(_SECTIONS[name], values, "waiting")


def test_a_candidate_overrides_the_recipe_key_by_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "networks.yaml"
    path.write_text(
        "recipe: {training: {patience: 9, epochs: 3}}\n"
        "candidates: {a: {training: {epochs: 4}, mapping: {window_px: 256}}}\n",
        "utf-8",
    )
    monkeypatch.setattr(networks, "CANDIDATES", path)
    assert networks.candidates()["a"].sections == {
        "training": {"patience": 9, "epochs": 4},
        "mapping": {"window_px": 256},
    }


def test_pace_weighs_each_line_by_its_seconds() -> None:
    rows = [
        {"seconds": "10", "tiles_per_second": "8", "waiting": "0.1"},
        {"seconds": "30", "tiles_per_second": "4", "waiting": "0.02"},
    ]
    assert train_and_map.pace(rows) == {"tiles_per_second": 5.0, "waiting": pytest.approx(0.04)}


def test_a_result_of_other_settings_or_code_is_measured_again() -> None:
    stamp = {"settings": {"training": {"epochs": 1}}, "code": "new"}
    old = {"stamp": {**stamp, "code": "old"}, "mean_iou": 0.5}
    assert networks.done({"stamp": stamp, "mean_iou": 0.5}, stamp, keep=False)
    assert not networks.done(old, stamp, keep=False)
    assert networks.done(old, stamp, keep=True)
    assert not networks.done({"stamp": stamp, "failed": "no"}, stamp, keep=True)
    assert not networks.done({"stamp": stamp, "skipped": "no"}, stamp, keep=True)
    assert not networks.done({"stamp": {**stamp, "settings": {}}}, stamp, keep=True)
    assert not networks.done({}, stamp, keep=True)


@pytest.fixture
def began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was trained, in order; nothing really is. ENet fails."""
    ran: list[str] = []

    def told_by(command: tuple[str, ...], log: Path, threads: int) -> dict[str, Any]:
        ran.append(log.parent.name)
        if log.parent.name == "enet":
            raise BenchmarkFailedError("out of memory")
        found = entry("", 0.0)
        return {key: found[key] for key in found if key not in ("name", "minutes")}

    made = Scenes(tmp_path / "dubai", tmp_path / "networks" / "scenes")
    monkeypatch.setattr(scenes, "prepared", lambda setup: made)
    monkeypatch.setattr(harness, "told_by", told_by)
    monkeypatch.setattr(networks, "scores", lambda settings: {"mean_iou": 0.6})
    return ran


def test_a_killed_benchmark_goes_on_and_failures_are_told(tmp_path: Path, began: list[str]) -> None:
    def measure(*names: str) -> dict[str, Any]:
        return networks.BENCHMARK.measure(Setup(tmp_path, networks=names), lambda line: None)

    assert "failed" not in measure("unet")
    found = measure("unet", "enet", "unet_imagenet", "smp")
    assert began == ["unet", "enet"]  # the first one was measured already, two were skipped
    by_name = {e["name"]: e for e in found["entries"]}
    assert by_name["unet"]["mean_iou"] == 0.6
    assert "WEIGHTS=" in by_name["unet_imagenet"]["skipped"]
    assert "PEERS=" in by_name["smp"]["skipped"]
    assert found["failed"] == "enet: out of memory"
    assert "- enet: failed, out of memory\n" in found["table"]
    store = tmp_path / "networks" / "networks.json"
    kept = json.loads(store.read_text("utf-8"))
    assert set(kept) == {f"{name}, 6 min" for name in by_name}
    assert store.with_suffix(".md").read_text("utf-8") == found["table"]

    measure("enet")  # what failed is tried again
    assert began == ["unet", "enet", "enet"]
    kept["unet, 6 min"]["layout"] = 1  # of an older state of the code
    store.write_text(json.dumps(kept), "utf-8")
    assert "unet, 6 min" not in networks.read(store)
    with pytest.raises(BenchmarkFailedError, match=r"no network of networks\.yaml: unett"):
        measure("unett")


def test_a_run_of_its_own_shares_the_shards(tmp_path: Path) -> None:
    made = Scenes(tmp_path / "dubai", tmp_path / "scenes")
    shard = made.paths.shard("scene_1")
    shard.mkdir(parents=True)
    for text in ("first", "again"):
        settings = made.begin(tmp_path / "unet", {"training": {"network": text}})
    assert config.read_yaml(settings)["training"] == {"network": "again"}
    assert (tmp_path / "unet" / "unet" / "shards" / "scene_1.lmdb").samefile(shard)


def test_the_best_is_compared_with_the_most_of_any_peer() -> None:
    entries = [
        entry("unet", 0.61, 0.80),
        entry("segnet", 0.40, 0.99),
        entry("smp", 0.50, 0.70, peer=True),
        entry("torchgeo", 0.55, 0.60, peer=True, frequency_weighted_iou=0.2),
        {"name": "enet", "minutes": 6, "skipped": "not today"},
    ]
    found = networks.verdict(entries)
    assert found["best"] == "unet"
    assert found["peers"] == ["smp", "torchgeo"]
    assert found["most_of_peers"] == {
        "overall_accuracy": 0.70, "mean_iou": 0.55, "frequency_weighted_iou": 0.7,
    }  # fmt: skip
    assert found["met"] is False  # fwIoU is the same as that of the better peer
    entries[2]["frequency_weighted_iou"] = 0.6
    assert networks.verdict(entries)["met"] is True
    assert networks.verdict(entries[:2]) == {}

    lines = networks.table(entries, Setup(Path())).splitlines()
    assert [line.split(" | ")[0] for line in lines[4:8]] == [
        "| unet", "| *torchgeo*", "| *smp*", "| segnet",
    ]  # fmt: skip
    assert lines[4] == (
        "| unet | unet | resnet18 | random | 14.33 M | 6.0 | 80.0 | 61.0 | 70.0 | 50.0 | "
        "8.0 | 1.0 % | 2.00 | 57.4 |"
    )
    assert lines[9] == (
        "unet against the best of smp and torchgeo: accuracy 80.0 against 70.0, mIoU 61.0 against "
        "55.0, fwIoU 70.0 against 60.0; better in all three: met."
    )
    assert lines[-1] == "- enet: skipped, not today"


def test_waiting_is_told_with_its_bar() -> None:
    found = [
        {"preset": p, "network": "enet", "parameters": 360_000, "tiles_per_second": 20.0,
         "waiting": w, "met": w < waiting.BAR}
        for p, w in (("geometric", 0.0123), ("aerial", 0.03))
    ]  # fmt: skip
    lines = waiting.table(found).splitlines()
    assert lines[-2] == "| geometric | 20.0 | 1.23% | < 2% met |"
    assert lines[-1] == "| aerial | 20.0 | 3.00% | < 2% NOT MET |"


def test_without_the_scenes_both_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--folder", str(tmp_path), "--out", str(tmp_path / "benchmarks.json")]
    assert bench.main([*arguments, "--only", "waiting,networks", "--minutes", "0.5"]) == 0
    content = json.loads((tmp_path / "benchmarks.json").read_text("utf-8"))
    assert list(content["results"]) == ["waiting", "networks 0.5 minutes"]
    assert capsys.readouterr().out.count("(IMAGERY=), not None") == 2


class _Brightness(nn.Module):
    """Logits that say the value of the first band, as a class."""

    def forward(self, images: Tensor) -> Tensor:
        values = (images[:, :1] * 255).round()
        return -(values - torch.arange(256.0).view(1, -1, 1, 1)).abs()


def test_peers_map_each_pixel_where_it_lies() -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 500, 391), np.uint8)
    found = peer_loops.mapped(_Brightness(), image, [0.0] * 3, [1.0] * 3)
    np.testing.assert_array_equal(found, image[0])
    label = image[0].copy()
    label[:256, :100] = 255
    scene = (image, label)
    assert peer_loops.validated(_Brightness(), [scene], [0.0] * 3, [1.0] * 3, 256) == 1.0
    counts = np.array([[2, 2, 0], [0, 4, 0], [0, 0, 0]])
    assert peer_loops.mean_iou(counts) == pytest.approx((2 / 4 + 4 / 6) / 2)


def test_crops_of_peers_are_of_one_place() -> None:
    values = np.random.default_rng(0).integers(0, 5, (300, 290), np.uint8)
    crops = peer_loops.RandomCrops([(values[None].repeat(3, 0), values)] * 2, [0.0] * 3, [1.0] * 3)
    assert len(crops) == 2 * 300 * 290 // 256**2
    image, label = crops[0]
    assert (image.shape, label.shape) == ((3, 256, 256), (256, 256))
    assert torch.equal((image[1] * 255).round().long(), label)
