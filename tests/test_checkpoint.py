from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline import __version__, checkpoint, networks
from pipeline.checkpoint import ModelCard, environment, load, read_card, save
from pipeline.errors import OutputError, TeselaError, TrainingError

CARD = ModelCard(
    network="unet",
    encoder="resnet18",
    bands=3,
    pixel_size=(0.25, 0.25),
    classes=("Edificación", "Olivar", "Agua"),
    colors=("#FF0000", "#50B051", "#0000FF"),
    nomenclature="0123456789abcdef",
    mean=(100.5, 90.25, 80.0),
    std=(20.0, 21.0, 22.0),
    settings={"training": {"epochs": 3}},
    data={"train": ["0722"], "pixels": 12},
    scores={"mean_iou": 0.48, "iou": [0.5, 0.4, None]},
    versions={"torch": "2.14.1"},
    commit="abc",
)


def built(card: ModelCard) -> torch.nn.Module:
    torch.manual_seed(0)
    return networks.build(
        card.network, encoder=card.encoder, encoder_weights="none", bands=card.bands,
        classes=len(card.classes),
    )  # fmt: skip


@pytest.fixture(scope="module")
def unet() -> torch.nn.Module:
    network = built(CARD)
    with torch.no_grad():
        network(torch.randn(2, 3, 32, 32))  # moves the running statistics off their start
    return network.eval()


@pytest.fixture
def checkpoint_file(tmp_path: Path, unet: torch.nn.Module) -> Path:
    path = tmp_path / "models" / "best.safetensors"
    save(path, unet, CARD)
    return path


def test_a_loaded_network_predicts_what_the_saved_one_did(
    checkpoint_file: Path, unet: torch.nn.Module
) -> None:
    network, card = load(checkpoint_file)
    assert card == CARD
    assert not network.training
    images = torch.randn(1, 3, 40, 33)
    with torch.inference_mode():
        assert torch.equal(network(images), unet(images))


def test_segnet_goes_in_and_out(tmp_path: Path) -> None:
    card = replace(CARD, network="segnet", encoder="vgg16_bn", bands=1, mean=(1.0,), std=(2.0,))
    network = built(card)
    save(tmp_path / "x.safetensors", network, card)
    found, read = load(tmp_path / "x.safetensors")
    assert read == card
    for name, tensor in network.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def test_saving_leaves_one_file_and_the_same_bytes_each_time(
    checkpoint_file: Path, unet: torch.nn.Module
) -> None:
    first = checkpoint_file.read_bytes()
    save(checkpoint_file, unet, CARD)
    assert checkpoint_file.read_bytes() == first
    assert [path.name for path in checkpoint_file.parent.iterdir()] == [checkpoint_file.name]


def test_a_failed_save_leaves_the_older_checkpoint(
    checkpoint_file: Path, unet: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    before = checkpoint_file.read_bytes()

    def full_disk(_: object, path: Path, **__: object) -> None:
        path.write_bytes(before[:100])
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    with pytest.raises(OutputError, match="cannot be written"):
        save(checkpoint_file, unet, CARD)
    assert checkpoint_file.read_bytes() == before
    assert [path.name for path in checkpoint_file.parent.iterdir()] == [checkpoint_file.name]


def test_a_card_survives_json_and_nan_becomes_null() -> None:
    card = replace(CARD, scores={"iou": [math.nan, 0.5], "run": Path("run/x")})
    text = card.as_json()
    assert json.loads(text)["scores"] == {"iou": [None, 0.5], "run": "run/x"}
    assert ModelCard.from_json(CARD.as_json(), "card") == CARD
    assert "Edificación" in text


def test_reading_a_card_does_not_load_torch(checkpoint_file: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.checkpoint import read_card;"
        f"print(read_card(Path({str(checkpoint_file)!r})).network, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(checkpoint.__file__).parents[1],
    )  # fmt: skip
    assert done.stdout.split() == ["unet", "False"]


def test_files_that_are_no_checkpoint_are_told(checkpoint_file: Path, tmp_path: Path) -> None:
    whole = checkpoint_file.read_bytes()
    files = {
        "empty": b"",
        "header_cut": whole[:500],
        "weights_cut": whole[:-1],
        "pickle": b"\x80\x02}q\x00.",
        "text": b"not a checkpoint at all, but long enough to have a header length",
    }
    for name, content in files.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        for reader in (read_card, load):
            with pytest.raises(TrainingError, match=rf"{name}.safetensors: is no checkpoint"):
                reader(path)
    with pytest.raises(TrainingError, match="there is no such checkpoint"):
        read_card(tmp_path / "missing.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(TrainingError, match="no model card of Tesela"):
        read_card(foreign)


def with_card(path: Path, text: str) -> Path:
    save_file(load_file(path), path, metadata={"tesela": text})
    return path


def test_cards_that_cannot_be_used_are_told(checkpoint_file: Path) -> None:
    content = json.loads(CARD.as_json())
    later = json.dumps({**content, "layout": 99})
    with pytest.raises(TrainingError, match="layout 99; this Tesela reads 1"):
        read_card(with_card(checkpoint_file, later))
    with pytest.raises(TrainingError, match="is no JSON"):
        read_card(with_card(checkpoint_file, "{"))
    without = {key: value for key, value in content.items() if key not in ("mean", "network")}
    with pytest.raises(TrainingError) as raised:
        read_card(with_card(checkpoint_file, json.dumps(without)))
    assert raised.value.items == ("mean: is missing", "network: is missing")
    wrong = {**content, "std": [1.0, 0.0], "colors": []}
    with pytest.raises(TrainingError) as raised:
        read_card(with_card(checkpoint_file, json.dumps(wrong)))
    assert raised.value.items == (
        "std: 2 values for 3 bands",
        "colors: 0 for 3 classes",
        "std, pixel_size: have values that are not positive",
    )


def test_weights_of_another_network_are_told_layer_by_layer(checkpoint_file: Path) -> None:
    weights = load_file(checkpoint_file)
    first = "network.encoder.conv1.weight"
    weights["extra"] = torch.zeros(1)
    weights[first] = torch.zeros(64, 4, 7, 7)
    del weights["network.encoder.bn1.weight"]
    save_file(weights, checkpoint_file, metadata={"tesela": CARD.as_json()})
    with pytest.raises(TrainingError, match="not those of unet with resnet18") as raised:
        load(checkpoint_file)
    assert raised.value.items == (
        "network.encoder.bn1.weight: is missing",
        "extra: is not a layer of it",
        f"{first}: is (64, 4, 7, 7), needs (64, 3, 7, 7)",
    )


def test_a_card_of_an_unknown_network_is_told(tmp_path: Path, unet: torch.nn.Module) -> None:
    path = tmp_path / "x.safetensors"
    save(path, unet, replace(CARD, network="unett"))
    with pytest.raises(TeselaError, match="no network 'unett'; did you mean 'unet'"):
        load(path)


def test_all_mismatches_with_the_data_are_told_at_once() -> None:
    CARD.check_fits(CARD.classes, 3, (0.2501, 0.25), "sheet 0722")
    with pytest.raises(TrainingError, match="does not fit sheet 0722") as raised:
        CARD.check_fits(("Edificación", "Viñedo"), 4, (0.5, 0.5), "sheet 0722")
    assert raised.value.items == (
        "bands: 4; the network takes 3",
        "pixel size: 0.5 x 0.5; the network learnt 0.25 x 0.25",
        "classes: 2; the network knows 3",
        "class 1: 'Viñedo'; the network's is 'Olivar'",
    )


def test_the_order_of_the_classes_matters() -> None:
    with pytest.raises(TrainingError) as raised:
        CARD.check_fits(CARD.classes[::-1], 3, CARD.pixel_size, "sheet 0722")
    assert len(raised.value.items) == 2


def test_the_environment_names_versions_and_a_commit() -> None:
    found = environment()
    assert found["versions"]["torch"] == metadata.version("torch")
    assert found["versions"]["python"] == sys.version.split()[0]
    card = replace(CARD, **found)
    assert card.versions["tesela"] == __version__


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_repository_that_tracks_the_module(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    module, copy = tmp_path / "checkpoint.py", tmp_path / "installed.py"
    module.write_text("one\n")
    git("init", "-q")
    git("add", "checkpoint.py")
    git("commit", "-qm", "one")
    copy.write_text("one\n")
    commit = git("rev-parse", "HEAD")
    assert checkpoint._commit(module) == commit
    assert checkpoint._commit(copy) == ""  # lies in a repository that is not its own
    module.write_text("two\n")
    assert checkpoint._commit(module) == f"{commit}+"


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = environment()
    assert found["commit"] == ""
    assert "torch" in found["versions"]
