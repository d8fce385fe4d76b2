from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typer.testing import CliRunner

from pipeline import cli, geotiff
from pipeline.backends import runner
from pipeline.checkpoint import ModelCard, load, save
from pipeline.errors import OutputError, SettingsError
from pipeline.grid import Window
from pipeline.networks import NETWORKS, build, encoder_of
from pipeline.onnx_export import deepness_metadata, export_onnx
from pipeline.onnx_graphs import INPUT, OUTPUT, Equivalents, graph_of

ROOT = Path(__file__).resolve().parents[1]
BANDS, CLASSES, SIDE = 4, 5, 64
MEAN, STD = (110.0, 100.5, 90.25, 121.0), (40.0, 50.5, 60.25, 45.0)
NAMES = ("agua", "suelo", "vía", "edificio", "vegetación")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(name: str, bands: int = BANDS) -> nn.Module:
    torch.manual_seed(0)
    encoder = encoder_of(name, "tu-vit_tiny_patch16_224" if name == "dpt" else "resnet18")
    network = build(name, encoder=encoder, encoder_weights="none", bands=bands, classes=CLASSES)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():  # FCN's scores start from zero, and all classes would be alike
                parameter.normal_(std=0.05)
    return network.eval()


def card_of(network: str = "unet", bands: int = BANDS, **changes: Any) -> ModelCard:
    values: dict[str, Any] = {
        "network": network,
        "encoder": "resnet18",
        "bands": bands,
        "pixel_size": (0.25, 0.25),
        "classes": NAMES,
        "colors": ("#0000FF", "#AA8800", "#888888", "#FF0000", "#00FF00"),
        "nomenclature": "n",
        "mean": MEAN[:bands],
        "std": STD[:bands],
    }
    return ModelCard(**(values | changes))


def session_of(model: bytes | str) -> Any:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_the_same_as_onnx(name: str) -> None:
    network = make(name)
    session = session_of(graph_of(network, (1, BANDS, SIDE, SIDE), probabilities=True))
    images = torch.randn(2, BANDS, SIDE, SIDE)  # more than the graph was made with
    with torch.inference_mode():
        expected = network(images).softmax(dim=1).numpy()
    found = session.run([OUTPUT], {INPUT: images.numpy()})[0]
    assert found.shape == (2, CLASSES, SIDE, SIDE)
    assert found.std() > 0.001
    near = np.abs(found - expected) < 1e-4
    # Unpooling: where two of four values differ in their last digits, rounding decides where the
    # maximum goes back to.
    assert near.mean() >= (0.999 if name in ("segnet", "enet") else 1.0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, ModelCard]:
    folder = tmp_path_factory.mktemp("deepness")
    save(folder / "best.safetensors", make("unet"), card_of())
    export_onnx(folder / "best.safetensors", folder / "model.onnx", tile=SIDE, overlap=20)
    network, card = load(folder / "best.safetensors")
    return folder / "model.onnx", network, card


def test_the_file_is_what_deepness_wants(exported: tuple[Path, nn.Module, ModelCard]) -> None:
    path, _, _ = exported
    model = onnx.load(path)
    assert model.ir_version == 8
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    session = session_of(str(path))
    (image,), (output,) = session.get_inputs(), session.get_outputs()
    assert (image.type, image.shape) == ("tensor(float)", [1, BANDS, SIDE, SIDE])
    assert (output.type, output.shape) == ("tensor(float)", [1, CLASSES, SIDE, SIDE])
    told = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert told == {
        "model_type": "Segmentor",
        "class_names": dict(zip("01234", NAMES, strict=True)),
        "resolution": 25.0,
        "tile_size": SIDE,
        "tiles_size": SIDE,
        "tiles_overlap": 20,
        "standardization_mean": [m / 255 for m in MEAN],
        "standardization_std": [s / 255 for s in STD],
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
    }
    noise = np.random.default_rng(1).normal(size=(1, BANDS, SIDE, SIDE)).astype(np.float32)
    probabilities = session.run(None, {image.name: noise})[0]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_the_same_checkpoint_gives_the_same_bytes_without_paths_of_this_machine(
    exported: tuple[Path, nn.Module, ModelCard], tmp_path: Path
) -> None:
    path, _, _ = exported
    again = tmp_path / "again.onnx"
    export_onnx(path.with_name("best.safetensors"), again, tile=SIDE, overlap=20)
    assert again.read_bytes() == path.read_bytes()
    assert str(ROOT).encode() not in again.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["again.onnx"]


def test_the_plugin_s_standardisation_is_that_of_the_training() -> None:
    told = deepness_metadata(card_of(), tile=512, overlap=15)
    mean = np.array(json.loads(told["standardization_mean"]), np.float32)
    std = np.array(json.loads(told["standardization_std"]), np.float32)
    values = np.repeat(np.arange(256, dtype=np.uint8)[:, None], BANDS, axis=1)
    plugin = (np.float32(values * 1.0 / 255.0) - mean) / std
    ours = (values.astype(np.float64) - MEAN) / STD
    np.testing.assert_allclose(plugin, ours, atol=1e-6)


def test_mean_pooling_to_any_size_and_antialiasing_are_products_with_matrices() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 14, 10)
    for size in ((3, 6), (6, 4), (14, 10), (1, 1)):
        expected = F.adaptive_avg_pool2d(features, size)
        with Equivalents():
            torch.testing.assert_close(F.adaptive_avg_pool2d(features, size), expected)
            torch.testing.assert_close(F.interpolate(features, size, mode="area"), expected)
    for mode in ("bilinear", "bicubic"):
        smaller = F.interpolate(features, (6, 20), mode=mode, antialias=True)
        with Equivalents():
            found = F.interpolate(features, size=(6, 20), mode=mode, antialias=True)
        torch.testing.assert_close(found, smaller)


def test_unpooling_puts_the_first_of_equal_maxima_back() -> None:
    image = torch.tensor([[1.0, 1, 0, 2], [1, 1, 2, 0], [-3, -1, 5, 5], [-2, -1, 4, 5]])[None, None]
    with Equivalents():
        pooled, places = F.max_pool2d(image, 2, return_indices=True)
        found = F.max_unpool2d(pooled * 10, places, [2, 2])
    _: Any = 0
    expected = [[10, _, _, 20], [_, _, _, _], [_, -10, 50, _], [_, _, _, _]]
    assert found[0, 0].tolist() == expected
    reference = F.max_unpool2d(pooled * 10, F.max_pool2d(image, 2, return_indices=True)[1], [2, 2])
    assert torch.equal(found, reference)


def test_what_cannot_be_exported_is_told_with_its_reason() -> None:
    class Odd(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            odd: Tensor = torch.special.i0(images)
            return odd

    with pytest.raises(SettingsError, match=r"(?s)written as ONNX of opset 17.*aten::i0"):
        graph_of(Odd(), (1, 3, 32, 32))


def test_a_file_that_computes_something_else_never_appears(
    exported: tuple[Path, nn.Module, ModelCard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, network, _ = exported
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    wrong = graph_of(network, (1, BANDS, SIDE, SIDE), probabilities=True)
    monkeypatch.setattr("pipeline.onnx_export.graph_of", lambda *_, **__: wrong)
    with pytest.raises(OutputError, match="gives other classes than the network"):
        export_onnx(path.with_name("best.safetensors"), tmp_path / "model.onnx", tile=SIDE)
    assert list(tmp_path.iterdir()) == []


def test_degrees_and_oblong_pixels_ask_for_a_resolution() -> None:
    degrees = card_of(pixel_size=(2.2e-6, 2.2e-6))
    with pytest.raises(SettingsError, match=r"(?s)degrees rather than metres.*--resolution 25"):
        deepness_metadata(degrees, tile=512, overlap=15)
    assert deepness_metadata(degrees, tile=512, overlap=15, resolution=25)["resolution"] == "25"
    with pytest.raises(SettingsError, match=r"0.25 x 0.5, and the plugin has square ones"):
        deepness_metadata(card_of(pixel_size=(0.25, 0.5)), tile=512, overlap=15)
    reprojected = card_of(pixel_size=(0.250000013, 0.249999992))
    assert deepness_metadata(reprojected, tile=512, overlap=15)["resolution"] == "25.0"


def test_mistaken_options_are_told_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        export_onnx(
            tmp_path / "none", tmp_path / "model.pt", tile=500, overlap=95, opset=18, batch=-1
        )
    assert len(caught.value.items) == 5


def test_a_missing_package_is_told_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SettingsError, match=r"onnxruntime is not installed(?s:.*)'tesela\[onnx\]'"):
        export_onnx(tmp_path / "none", tmp_path / "model.onnx")


def test_the_command_writes_what_its_options_say(
    exported: tuple[Path, nn.Module, ModelCard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _, _ = exported
    logger = logging.getLogger("pipeline")
    monkeypatch.setattr(logger, "handlers", [])  # the command's end with its output
    arguments = ["export-onnx", "-m", str(path.with_name("best.safetensors")), "--tile", "32"]
    done = CliRunner().invoke(
        cli.app, [*arguments, "-o", str(tmp_path / "a.onnx"), "--batch", "0", "--resolution", "10"]
    )
    assert done.exit_code == 0, done.output
    session = session_of(str(tmp_path / "a.onnx"))
    assert session.get_inputs()[0].shape == ["N", BANDS, 32, 32]
    assert session.get_modelmeta().custom_metadata_map["resolution"] == "10.0"


@pytest.fixture(scope="module")
def plugin_s_python() -> str:
    """An interpreter with the ONNX Runtime that the Deepness plugin pins; `.ci/run` makes one."""
    own = ROOT / ".venv-deepness" / "bin" / "python"
    python = os.environ.get("TESELA_DEEPNESS_PYTHON", str(own))
    code = "import onnxruntime as o; print(o.__version__)"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"{python} has no onnxruntime 1.17.0; .ci/run says how to make it")
    assert done.stdout.strip() == "1.17.0"
    return python


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "least"), [("unet", 1.0), ("enet", 0.999)])
def test_deepness_gives_a_real_scene_the_classes_that_we_give_it(
    name: str, least: float, plugin_s_python: str, shared_data: Path, tmp_path: Path
) -> None:
    scene = geotiff.read_orthophoto(shared_data / "dubai" / "ortho" / "scene_6.tif")
    with geotiff.RasterReader(scene.path, scene.bands) as source:
        tiles = [source.read(Window(col, row, 128, 128)) for col, row in ((0, 0), (700, 500))]
    pixels = np.stack(tiles)
    card = card_of(name, bands=3)
    network = make(name, bands=3)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (card.mean, card.std))
    images = (torch.from_numpy(pixels).float() - mean) / std
    with torch.no_grad():  # normalisations learn the scene: it looks like more than one class
        for _ in range(3):
            network.train()(images)
    save(tmp_path / "best.safetensors", network.eval(), card)
    export_onnx(tmp_path / "best.safetensors", tmp_path / "model.onnx", tile=128)
    np.save(tmp_path / "tiles.npy", pixels.transpose(0, 2, 3, 1))
    script = Path(__file__).with_name("deepness_run.py")
    files = [str(tmp_path / file) for file in ("model.onnx", "tiles.npy", "classes.npy")]
    subprocess.run([plugin_s_python, str(script), *files], check=True, capture_output=True)
    found = np.load(tmp_path / "classes.npy")
    run = runner("torch", network, precision="float32", device="cpu")
    probabilities = run(images).softmax(dim=1)
    expected = probabilities.argmax(dim=1).numpy()
    assert (np.bincount(expected.ravel(), minlength=CLASSES) > 500).sum() >= 3
    best = probabilities.topk(2, dim=1).values
    clear = (best[:, 0] - best[:, 1] > 1e-5).numpy()
    assert clear.mean() > 0.999
    # Unpooling again: of nearly equal maxima, the last digit decides which goes back.
    assert (found == expected)[clear].mean() >= least
