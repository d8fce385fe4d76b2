from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import networks
from pipeline.errors import SettingsError, TrainingError
from pipeline.networks import build, weights_store
from pipeline.networks.segnet import Vgg16Encoder
from pipeline.networks.weights import load_encoder_weights
from pipeline.sections import TrainingSettings

ENCODER = "tu-resnet10t"
"""A small one of timm's, with three convolutions at its start."""

FIRST = "model.conv1.0.weight"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs download nothing, whatever the hub's variables say."""

    def refused(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a job has opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def started(
    folder: Path | None, network: str = "unet", encoder: str = ENCODER, bands: int = 3
) -> nn.Module:
    torch.manual_seed(1)
    return build(
        network, encoder=encoder, encoder_weights="imagenet", bands=bands, classes=2,
        weights_dir=folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Weights of the encoder that no seed gives."""
    torch.manual_seed(0)
    network = build("unet", encoder=ENCODER, encoder_weights="none", bands=3, classes=2)
    encoder = network.get_submodule("network.encoder")
    return {
        name: tensor + 1 if tensor.is_floating_point() else tensor
        for name, tensor in encoder.state_dict().items()
    }


@pytest.fixture
def folder(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    """A folder as ``fetch-weights`` leaves it."""
    path = tmp_path / f"{ENCODER}.safetensors"
    save_file(state, path)
    origin = weights_store.Origin(
        ENCODER,
        "hub timm/resnet10t",
        "abc",
        "",
        weights_store.sha256_of(path),
        path.stat().st_size,
    )
    weights_store.record_of(path).write_text(origin.as_json(), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("network", ["unet", "fpn", "deeplabv3plus"])
def test_networks_start_from_the_folder_without_a_connection(
    network: str, folder: Path, state: dict[str, Tensor]
) -> None:
    encoder = started(folder, network).get_submodule("network.encoder")
    given = encoder.state_dict()
    assert set(given) == set(state)
    assert [name for name, tensor in given.items() if not torch.equal(tensor, state[name])] == []


@pytest.mark.parametrize("bands", [1, 2, 4, 8])
def test_the_first_layer_answers_equal_bands_as_it_answered_grey(
    bands: int, folder: Path, state: dict[str, Tensor]
) -> None:
    encoder = started(folder, bands=bands).get_submodule("network.encoder")
    kernel = encoder.state_dict()[FIRST]
    assert kernel.shape[1] == bands
    grey = torch.randn(1, 1, 9, 9)
    expected = F.conv2d(grey.expand(-1, 3, -1, -1), state[FIRST])
    given = F.conv2d(grey.expand(-1, bands, -1, -1), kernel)
    if bands == 2:  # red and green, for three
        expected = F.conv2d(grey.expand(-1, 2, -1, -1), state[FIRST][:, :2]) * 1.5
    elif bands > 3:
        turns = state[FIRST][:, [band % 3 for band in range(bands)]]
        expected = F.conv2d(grey.expand(-1, bands, -1, -1), turns) * 3 / bands
    torch.testing.assert_close(given, expected, atol=1e-3, rtol=1e-5)


def test_every_first_layer_of_an_encoder_is_adapted() -> None:
    import segmentation_models_pytorch as smp

    # MobileOne reads its bands by two branches side by side.
    published = smp.encoders.get_encoder("mobileone_s0", weights=None).state_dict()
    encoder = smp.encoders.get_encoder("mobileone_s0", in_channels=4, weights=None)
    load_encoder_weights(encoder, published, "mobileone_s0")
    given = encoder.state_dict()
    firsts = ["stage0.rbr_conv.0.conv.weight", "stage0.rbr_scale.conv.weight"]
    for name in firsts:
        assert torch.equal(given[name], published[name][:, [0, 1, 2, 0]] * 0.75)
    same = [name for name in given if torch.equal(given[name], published[name])]
    assert set(given) - set(same) == set(firsts)


def test_missing_weights_name_encoder_folder_and_command(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as raised:
        started(tmp_path / "my weights")
    message = str(raised.value)
    assert f"ImageNet weights of {ENCODER} are not in {tmp_path}/my weights" in message
    command = f"python -m pipeline fetch-weights --encoder {ENCODER} --out '{tmp_path}/my weights'"
    assert command in message
    with pytest.raises(TrainingError, match=r"no folder is named.*resnet10t"):
        started(None)
    with pytest.raises(TrainingError, match="weights of vgg16_bn are not in"):
        started(tmp_path, "segnet")


def test_first_weights_are_known_before_anything_runs(folder: Path, tmp_path: Path) -> None:
    asked = TrainingSettings(encoder=ENCODER, encoder_weights="imagenet", weights_dir=folder)
    assert networks.first_weights(asked) == [folder / f"{ENCODER}.safetensors"]
    elsewhere = asked.model_copy(update={"weights_dir": tmp_path / "empty"})
    with pytest.raises(TrainingError, match="are not in"):
        networks.first_weights(elsewhere)
    assert networks.first_weights(TrainingSettings()) == []
    missing = TrainingSettings(encoder_weights=str(tmp_path / "typo.pth"))
    with pytest.raises(TrainingError, match=r"there is no file .*typo\.pth"):
        networks.first_weights(missing)


def test_a_job_never_loads_what_fetches(tmp_path: Path) -> None:
    save_file(Vgg16Encoder(3).state_dict(), tmp_path / "vgg16_bn.safetensors")
    code = (
        "import sys; from pathlib import Path; from pipeline.networks import build;"
        "build('segnet', encoder='', encoder_weights='imagenet', bands=3, classes=2,"
        f" weights_dir=Path({str(tmp_path)!r}));"
        "print([name for name in sys.modules if 'weights_' in name and 'pipeline' in name],"
        "'huggingface_hub' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(networks.__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.strip() == "['pipeline.networks.weights_store'] False"


def test_truncated_and_altered_files_are_told(folder: Path) -> None:
    path = folder / f"{ENCODER}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(
        TrainingError, match=rf"it has {len(whole) - 1} bytes, .* says {len(whole)}"
    ):
        started(folder)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(TrainingError, match="is not as it was fetched") as raised:
        started(folder)
    assert "its sha256 is" in raised.value.items[0]
    assert f"delete {ENCODER}.json beside it" in raised.value.remedy
    path.write_bytes(whole)
    started(folder)
    weights_store.record_of(path).write_text('{"bytes": ')
    with pytest.raises(TrainingError, match="cannot be read"):
        started(folder)


def test_a_truncated_file_of_the_users_own_is_told(folder: Path) -> None:
    path = folder / f"{ENCODER}.safetensors"
    weights_store.record_of(path).unlink()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TrainingError, match="no readable state dict"):
        started(folder)


def test_weights_of_another_encoder_are_told(folder: Path) -> None:
    state = load_file(folder / f"{ENCODER}.safetensors")
    del state[FIRST]
    save_file(state, folder / f"{ENCODER}.safetensors")
    weights_store.record_of(folder / f"{ENCODER}.safetensors").unlink()
    with pytest.raises(TrainingError, match=f"{ENCODER} from .* does not fit") as raised:
        started(folder)
    assert raised.value.items == (f"{FIRST}: is missing",)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_file_of_the_users_own_is_used(
    suffix: str, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    # As timm publishes it: a classifier's names, and layers that no encoder has.
    own = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    own["fc.weight"] = torch.zeros(1000, 512)
    path = tmp_path / f"{ENCODER}{suffix}"
    save_file(own, path) if suffix == ".safetensors" else torch.save(own, path)
    given = started(tmp_path).get_submodule("network.encoder").state_dict()
    assert [name for name in given if not torch.equal(given[name], state[name])] == []


def test_names_of_timms_stages_are_matched() -> None:
    import segmentation_models_pytorch as smp
    import timm

    published = timm.create_model("convnext_atto").state_dict()
    encoder = smp.encoders.get_encoder("tu-convnext_atto", weights=None)
    load_encoder_weights(encoder, published, "timm")
    given = encoder.state_dict()
    assert "model.stages_1.blocks.0.mlp.fc1.weight" in given
    for name, tensor in given.items():
        twin = name.removeprefix("model.").replace("stages_", "stages.").replace("stem_", "stem.")
        assert torch.equal(tensor, published[twin]), name


def test_folders_may_be_written_with_variables(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH", str(folder))
    found = weights_store.weights_file(Path("$SCRATCH"), ENCODER)
    assert found == folder / f"{ENCODER}.safetensors"


def test_the_json_says_where_weights_come_from(folder: Path) -> None:
    told = json.loads((folder / f"{ENCODER}.json").read_text(encoding="utf-8"))
    assert told["weights"] == "imagenet"
    assert told["source"] == "hub timm/resnet10t"
    assert told["revision"] == "abc"
    assert told["bytes"] == (folder / f"{ENCODER}.safetensors").stat().st_size
    assert len(told["sha256"]) == 64


def test_an_unknown_network_is_told_before_its_weights_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean 'unet'"):
        started(tmp_path, "u-net")
