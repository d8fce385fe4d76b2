from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import geotiff
from pipeline.backend_trials import Trial, recommended, table, trials_of, tried
from pipeline.backends import BACKENDS, backend_precision, runner
from pipeline.checkpoint import ModelCard, save
from pipeline.errors import InputError, SettingsError, TrainingError
from pipeline.grid import PixelGrid, Window
from pipeline.networks import NETWORKS, autocast, build, encoder_of
from pipeline.networks.folding import shorten_weights

# Where OpenVINO has used the processor's matrix unit, a signal that other tests handle (a worker
# that ends, say) kills the process.
pytestmark = pytest.mark.own_process

BANDS, CLASSES = 3, 5


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
    return network.eval()


def logits_of(backend: str, network: nn.Module, images: Tensor, precision: Any) -> Tensor:
    run = runner(backend, network, precision=precision, device="cpu")
    with torch.inference_mode():
        logits = run(images)
    assert logits.shape == (len(images), CLASSES, *images.shape[2:])
    return logits.float()


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    """Normalised to images like those of the tests: trained networks have such numbers."""
    network = make("unet")
    torch.manual_seed(1)
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.randn(2, BANDS, 64, 64))
    return network.eval()


@pytest.mark.parametrize("backend", ["torch", "openvino", "onnxruntime"])
def test_float32_is_the_network_s_own_of_any_number_of_windows(
    backend: str, unet: nn.Module
) -> None:
    run = runner(backend, unet, precision="float32", device="cpu")
    torch.manual_seed(2)
    for count in (2, 1, 2):
        images = torch.randn(count, BANDS, 64, 96).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            torch.testing.assert_close(run(images), unet(images), rtol=1e-3, atol=1e-4)


def test_torch_in_float32_is_the_network_bit_for_bit(unet: nn.Module) -> None:
    images = torch.randn(1, BANDS, 64, 64).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = unet.to(memory_format=torch.channels_last)(images)
    assert torch.equal(logits_of("torch", unet, images, "float32"), expected)


@pytest.mark.parametrize("name", ["unet", "dpt"])
def test_weights_shortened_once_give_the_bits_of_autocast(name: str) -> None:
    network = make(name).to(memory_format=torch.channels_last)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images = torch.randn(1, BANDS, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), autocast("bf16", "cpu"):
        expected = network(images).float()
    assert torch.equal(logits_of("torch", network, images, "bf16"), expected)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    shorten_weights(network, torch.bfloat16)
    short = sum(p.numel() for p in network.parameters() if p.dtype is torch.bfloat16)
    assert short > 0.95 * sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bf16_is_near_float32(backend: str, unet: nn.Module) -> None:
    images = torch.randn(1, BANDS, 64, 64)
    with torch.inference_mode():
        expected = unet(images)
    found = logits_of(backend, unet, images, "bf16")
    assert (found - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("backend", ["torch", "openvino"])
@pytest.mark.parametrize("bands", [4, 6])
def test_patches_of_few_bands_are_right_in_bf16(backend: str, bands: int) -> None:
    """What oneDNN gets wrong where the processor has AMX: see networks/patches.py."""
    network = make("dpt", bands)
    images = torch.randn(1, bands, 64, 64)
    with torch.inference_mode():
        expected = network(images)
    found = logits_of(backend, network, images, "bf16")
    assert (found - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("name", ["segnet", "upernet", "segformer"])
def test_openvino_reads_every_kind_of_network(name: str) -> None:
    assert name in NETWORKS
    network = make(name)
    images = torch.randn(1, BANDS, 64, 64)
    with torch.inference_mode():
        expected = network(images)
    found = logits_of("openvino", network, images, "float32")
    near = (found - expected).abs() < 1e-3 * expected.abs().max()
    # SegNet's unpooling: of nearly equal maxima, the last digit decides which goes back.
    assert near.float().mean() > (0.98 if name == "segnet" else 0.9999)


def test_what_is_compiled_is_the_network() -> None:
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = network.eval()(images)
    torch.testing.assert_close(logits_of("compile", network, images, "float32"), expected)


def test_a_back_end_computes_in_what_it_can_or_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend_precision("onnxruntime", "auto", "cpu") == "float32"
    assert backend_precision("openvino", "bf16", "cpu") == "bf16"
    assert backend_precision("torch", "float32", "cpu") == "float32"
    with pytest.raises(SettingsError, match="bf16 is not for onnxruntime"):
        backend_precision("onnxruntime", "bf16", "cpu")
    with pytest.raises(SettingsError, match="fp16 is for GPUs"):
        backend_precision("openvino", "fp16", "cpu")
    for backend in ("openvino", "onnxruntime"):
        with pytest.raises(SettingsError, match=f"{backend} computes on the processor"):
            backend_precision(backend, "auto", "cuda")
    with pytest.raises(SettingsError, match="Back ends: torch, compile, openvino, onnxruntime"):
        backend_precision("tensorrt", "auto", "cpu")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SettingsError, match=r"(?s)needs a C\+\+ compiler.*install g\+\+"):
        backend_precision("compile", "auto", "cpu")


@pytest.mark.parametrize(
    ("backend", "absent", "extra"),
    [("openvino", "openvino", "openvino"), ("onnxruntime", "onnx", "onnx")],
)
def test_a_missing_package_is_told_before_anything_runs(
    backend: str, absent: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == absent else there(name)
    )
    with pytest.raises(
        SettingsError, match=rf"{absent} is not installed(?s:.*)'tesela\[{extra}\]'"
    ):
        runner(backend, nn.Identity(), precision="float32", device="cpu")


def test_importing_back_ends_loads_none_of_their_packages() -> None:
    code = (
        "import sys, pipeline.backends;"
        "print([m for m in ('onnx', 'onnxruntime', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_trials_compare_with_torch_in_float32(
    unet: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.backend_trials.BACKENDS", ("torch", "onnxruntime", "openvino"))
    trials = list(tried(unet, torch.randn(3, BANDS, 64, 64), seconds=0))
    by_name = {(t.backend, t.precision): t for t in trials}
    assert len(by_name) == 6
    exact = by_name["torch", "float32"]
    assert (exact.noise, exact.real) == (1.0, 1.0)
    assert by_name["onnxruntime", "bf16"].skipped.startswith("mapping.precision: bf16 is not for")
    for trial in trials:
        if not trial.skipped:
            assert trial.agreement > 0.97
            assert trial.speed > 0
    shown = table(trials)
    assert shown.row_count == 5
    assert "Not tried, onnxruntime in bf16: mapping.precision: bf16" in str(shown.caption)


def test_the_recommended_back_end_is_the_soonest_of_those_that_agree() -> None:
    trials = [
        Trial("torch", "float32", speed=0.5, start=0, noise=1.0, real=1.0),
        Trial("compile", "float32", speed=1.0, start=50, noise=1.0, real=1.0),
        Trial("compile", "bf16", speed=2.0, start=60, noise=1.0, real=0.98),
        Trial("openvino", "float32", speed=1.0, start=49.6, noise=0.9, real=0.99),
        Trial("openvino", "bf16", skipped="the package openvino is not installed"),
    ]
    text = recommended(trials)
    assert text.splitlines() == [
        "Soonest for a sheet of 100 Mpx, 150 s:",
        "mapping:",
        "  backend: openvino",
        "  precision: float32",
    ]
    assert recommended(trials[:3]).splitlines()[2:] == [
        "  backend: compile",
        "  precision: float32",
    ]


def test_trials_read_windows_of_the_orthophoto(
    unet: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.backend_trials.BACKENDS", ("torch",))
    colors = ("#000000",) * CLASSES
    card = ModelCard(
        "unet", "resnet18", BANDS, (0.5, 0.5), tuple("abcde"), colors, "n",
        (128.0,) * BANDS, (74.0,) * BANDS,
    )  # fmt: skip
    save(tmp_path / "best.safetensors", unet, card)

    def orthophoto(size: float) -> Path:
        import rasterio

        path = tmp_path / f"{size}.tif"
        grid = PixelGrid("EPSG:25830", 700_000.0, 4_400_000.0, size, size, 80, 70)
        pixels = np.random.default_rng(0).integers(1, 256, (3, 70, 80), dtype=np.uint8)
        with rasterio.open(
            path, "w", driver="GTiff", width=80, height=70, count=3, dtype="uint8", crs=grid.crs,
            transform=rasterio.Affine(size, 0, 700_000.0, 0, -size, 4_400_000.0),
        ) as raster:  # fmt: skip
            raster.write(pixels)
        assert geotiff.read_orthophoto(path).grid.window == Window(0, 0, 80, 70)
        return path

    model, image = tmp_path / "best.safetensors", orthophoto(0.5)
    trials = list(trials_of(model, image, window=64, seconds=0))
    assert [(t.backend, t.real is not None) for t in trials] == [("torch", True)] * 2
    with pytest.raises(InputError, match=r"smaller than a window \(80 x 70 px\)"):
        list(trials_of(model, image, window=96, seconds=0))
    with pytest.raises(TrainingError, match="pixel size"):
        list(trials_of(model, orthophoto(1.0), window=64, seconds=0))


def test_all_settings_of_back_ends_are_known_here() -> None:
    from pipeline.sections import MappingSettings

    for backend in BACKENDS:
        assert MappingSettings.model_validate({"backend": backend}).backend == backend
    with pytest.raises(ValueError, match="'torch', 'compile', 'openvino' or 'onnxruntime'"):
        MappingSettings.model_validate({"backend": "tensorrt"})
