from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline import networks
from pipeline.errors import SettingsError, TrainingError
from pipeline.networks import NETWORKS, build, encoder_of, precision, resolve_precision
from pipeline.networks.padding import AnySize, padded
from pipeline.networks.segnet import SegNet, Vgg16Encoder
from pipeline.networks.weights import for_bands, load_encoder_weights, read_weights

CLASSES = 5


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    # Threads that wait for each other on a busy machine make these small networks 20 times slower.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(
    network: str, bands: int = 3, encoder: str = "resnet18", weights: str = "none"
) -> nn.Module:
    torch.manual_seed(0)
    return build(network, encoder=encoder, encoder_weights=weights, bands=bands, classes=CLASSES)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_takes_odd_sizes_and_trains_all_its_parameters(network: str) -> None:
    module = make(network)
    images = torch.randn(2, 3, 65, 97)
    logits = module(images)
    assert logits.shape == (2, CLASSES, 65, 97)
    assert logits.dtype == torch.float32
    # A sum of squares, not the mean: a final normalisation would have no gradient in its mean.
    logits.square().sum().backward()
    without = [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is None or not torch.isfinite(parameter.grad).all()
    ]
    assert without == []
    reached = [p.grad is not None and bool(p.grad.any()) for p in module.parameters()]
    assert sum(reached) > 0.6 * len(reached)  # zero: biases in front of a normalisation, dead ReLU


@pytest.mark.parametrize("bands", [1, 4])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_takes_other_bands_and_is_deterministic_in_evaluation(
    network: str, bands: int
) -> None:
    module = make(network, bands).eval()
    images = torch.randn(1, bands, 65, 97)
    with torch.inference_mode():
        first, second = module(images), module(images)
        other = module(images.roll(1, dims=1) if bands > 1 else images + 1)
    assert first.shape == (1, CLASSES, 65, 97)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)  # the bands are looked at, each for itself


def test_an_encoder_of_timm_serves_a_unet() -> None:
    logits = make("unet", encoder="tu-resnet18").eval()(torch.zeros(1, 3, 33, 40))
    assert logits.shape == (1, CLASSES, 33, 40)


def test_segnet_has_the_published_size() -> None:
    network = SegNet(bands=3, classes=11)  # the 11 classes of CamVid
    encoder = sum(parameter.numel() for parameter in network.encoder.parameters())
    total = sum(parameter.numel() for parameter in network.parameters())
    assert round(encoder / 1e6, 1) == 14.7
    assert round(total / 1e6, 1) in (29.4, 29.5)
    assert [
        sum(isinstance(module, nn.Conv2d) for module in part.modules())
        for part in (network.encoder, network.decoder)
    ] == [13, 13]
    channels = [
        (module.in_channels, module.out_channels)
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    mirrored = [(out, into) for into, out in reversed(channels[:13])]
    assert channels[13:-1] == mirrored[:-1]
    assert channels[-1] == (64, 11)


def test_segnets_encoder_has_the_layers_of_torchvisions_vgg16() -> None:
    from torchvision.models import vgg16_bn

    published = vgg16_bn(weights=None).features.eval()
    encoder = Vgg16Encoder(bands=3).eval()
    encoder.features.load_state_dict(published.state_dict())
    images = torch.randn(1, 3, 64, 32)
    with torch.inference_mode():
        features, indices = encoder(images)
        torch.testing.assert_close(features, published(images))
    assert [tuple(positions.shape[1:]) for positions in indices] == [
        (64, 32, 16), (128, 16, 8), (256, 8, 4), (512, 4, 2), (512, 2, 1)
    ]  # fmt: skip


def test_segnets_decoder_puts_values_back_where_the_maxima_were() -> None:
    network = SegNet(bands=1, classes=2).eval()
    seen: list[Tensor] = []
    deepest = network.decoder[0]
    assert isinstance(deepest, nn.Sequential)
    deepest[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        network(images)
        features, indices = network.encoder(images)
    unpooled = seen[0].flatten(2)  # (1, 512, 4 * 4)
    positions = indices[-1].flatten(2)
    assert torch.equal(unpooled.gather(2, positions), features.flatten(2))
    assert torch.count_nonzero(unpooled) == torch.count_nonzero(features)


def test_padding_mirrors_the_ground_and_repeats_the_last_pixel_of_narrow_images() -> None:
    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    expected = torch.tensor([[0.0, 1, 2, 1], [3, 4, 5, 4]])
    assert torch.equal(padded(image, 2)[0, 0], expected)
    assert torch.equal(padded(image[..., :1], 4)[0, 0, 0], torch.zeros(4))
    assert padded(image[..., :2], 2) is not None
    assert torch.equal(padded(image[..., :2], 2), image[..., :2])


def test_any_size_crops_back_to_the_same_pixels() -> None:
    class NeedsFours(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert images.shape[-2] % 4 == images.shape[-1] % 4 == 0
            return 2 * images

    image = torch.randn(1, 2, 5, 7)
    assert torch.equal(AnySize(NeedsFours(), 4)(image), 2 * image)


@pytest.mark.parametrize(
    ("network", "encoder", "hint"),
    [
        ("u-net", "resnet18", "did you mean 'unet'"),
        ("segnets", "resnet18", "did you mean 'segnet'"),
        ("unet", "resnet-18", "did you mean 'resnet18'"),
        ("unet", "tu-resnet_18", "did you mean 'resnet18'"),
        ("deeplabv3", "vgg16_bn", "cannot serve DeepLabV3"),
        ("unet", "tu-swin_tiny_patch4_window7_224", "cannot serve Unet"),
    ],
)
def test_unknown_names_and_misfits_are_settings_errors(
    network: str, encoder: str, hint: str
) -> None:
    with pytest.raises(SettingsError, match=hint):
        make(network, encoder=encoder)


def test_bands_and_classes_out_of_range() -> None:
    with pytest.raises(TrainingError, match="1 to 8 bands; these have 9"):
        make("segnet", bands=9)
    with pytest.raises(TrainingError, match="two classes"):
        build("segnet", encoder="vgg16_bn", encoder_weights="none", bands=3, classes=1)


def test_segnet_says_that_it_brings_its_own_encoder(caplog: pytest.LogCaptureFixture) -> None:
    assert encoder_of("segnet", "resnet18") == "vgg16_bn"
    assert encoder_of("unet", "resnet18") == "resnet18"
    with caplog.at_level("INFO", logger="pipeline.networks"):
        make("segnet", encoder="resnet18")
    assert "segnet brings its own encoder, vgg16_bn" in caplog.text


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_an_encoder_starts_from_a_files_weights(suffix: str, tmp_path: Path) -> None:
    donor = make("unet").get_submodule("network.encoder")
    path = tmp_path / f"encoder{suffix}"
    state = {name: tensor + 1 for name, tensor in donor.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    encoder = make("fpn", weights=str(path)).get_submodule("network.encoder")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_an_encoder_starts_from_a_whole_networks_weights(tmp_path: Path) -> None:
    donor = make("segnet")
    path = tmp_path / "best.safetensors"
    save_file(donor.state_dict(), path)
    torch.manual_seed(1)
    network = build("segnet", encoder="", encoder_weights=str(path), bands=4, classes=2)
    given = donor.state_dict()["encoder.features.0.weight"]
    first = network.state_dict()["encoder.features.0.weight"]
    assert torch.equal(first, given[:, [0, 1, 2, 0]] * 0.75)
    deep = "encoder.features.40.weight"
    assert torch.equal(network.state_dict()[deep], donor.state_dict()[deep])


def test_other_bands_keep_the_response_of_the_first_layer() -> None:
    kernel = torch.randn(8, 3, 3, 3)
    gray = torch.randn(1, 1, 9, 9)
    expected = nn.functional.conv2d(gray.expand(-1, 3, -1, -1), kernel)
    one = nn.functional.conv2d(gray, for_bands(kernel, 1))
    six = nn.functional.conv2d(gray.expand(-1, 6, -1, -1), for_bands(kernel, 6))
    torch.testing.assert_close(one, expected)
    torch.testing.assert_close(six, expected)


def test_all_layers_that_do_not_fit_are_told_at_once() -> None:
    encoder = Vgg16Encoder(bands=3)
    state = encoder.state_dict()
    del state["features.0.bias"]
    state["features.3.weight"] = torch.zeros(64, 64, 5, 5)
    with pytest.raises(TrainingError) as raised:
        load_encoder_weights(encoder, state, "vgg16_bn from x.pth")
    assert raised.value.items == (
        "features.0.bias: is missing",
        "features.3.weight: is (64, 64, 5, 5), needs (64, 64, 3, 3)",
    )


class Explosive:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


def test_weights_files_that_carry_code_or_rubbish_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Explosive()}, "code.pth")
    torch.save([1, 2], "list.pth")
    Path("rubbish.pth").write_bytes(b"\x80\x04rubbish")
    Path("short.safetensors").write_bytes(b"\x10\x00")
    for name in ("code.pth", "rubbish.pth", "short.safetensors"):
        with pytest.raises(TrainingError, match=rf"{name} is no readable state dict"):
            read_weights(Path(name))
    with pytest.raises(TrainingError, match="holds no state dict"):
        read_weights(Path("list.pth"))
    with pytest.raises(TrainingError, match="there is no file"):
        read_weights(Path("missing.pth"))
    assert not Path("exploded").exists()


def test_precision_is_asked_of_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("float32", "cpu") == "float32"
    assert resolve_precision("bf16", "cpu") == "bf16"
    assert resolve_precision("fp16", "cuda") == "fp16"
    for flags, expected in [
        ({"avx512_f": True}, "float32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags, raising=False)
        assert resolve_precision("auto", "cpu") == expected
    with pytest.raises(SettingsError, match="fp16 is for GPUs"):
        resolve_precision("fp16", "cpu")
    with pytest.raises(SettingsError, match="'half' is none of"):
        resolve_precision("half", "cpu")


def test_autocast_computes_in_the_precision_and_leaves_the_weights() -> None:
    layer = nn.Conv2d(3, 2, 1)
    image = torch.randn(1, 3, 4, 4)
    with precision.autocast("bf16", "cpu"):
        assert layer(image).dtype == torch.bfloat16
    with precision.autocast("float32", "cpu"):
        assert layer(image).dtype == torch.float32
    assert layer.weight.dtype == torch.float32
    half, full = layer(image.bfloat16().float()), layer(image)
    np.testing.assert_allclose(half.detach(), full.detach(), atol=0.05)


def test_importing_the_registry_loads_neither_torch_nor_the_library_of_networks() -> None:
    code = (
        "import sys, pipeline.networks;"
        "print([m for m in ('torch', 'segmentation_models_pytorch', 'timm') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(networks.__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_building_segnet_does_not_load_the_library_of_networks() -> None:
    code = (
        "import sys; from pipeline.networks import build;"
        "build('segnet', encoder='', encoder_weights='none', bands=3, classes=4);"
        "print('segmentation_models_pytorch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(networks.__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.strip() == "False"
