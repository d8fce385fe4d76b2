from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline import networks
from pipeline.errors import SettingsError, TrainingError
from pipeline.networks import NETWORKS, build, encoder_of, fcn, precision, resolve_precision
from pipeline.networks.padding import AnySize, padded
from pipeline.networks.segnet import SegNet, Vgg16Encoder
from pipeline.networks.trial import drop_idle
from pipeline.networks.weights import for_bands, load_encoder_weights, read_weights

BANDS, CLASSES = 4, 5
OWN = ("segnet", "enet")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    # Threads that wait for each other on a busy machine make these small networks 20 times slower.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def encoder_of_test(network: str) -> str:
    return encoder_of(network, "tu-vit_tiny_patch16_224" if network == "dpt" else "resnet18")


def make(network: str, bands: int = 3, encoder: str = "", weights: str = "none") -> nn.Module:
    torch.manual_seed(0)
    chosen = encoder or encoder_of_test(network)
    return build(network, encoder=chosen, encoder_weights=weights, bands=bands, classes=CLASSES)


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    """Each network with four bands, after a step's gradients."""
    name: str = request.param
    module = make(name, BANDS)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():  # FCN's scores start from zero, and let no gradient through
                parameter.normal_(std=0.05)
    logits = module(torch.randn(2, BANDS, 70, 93))
    assert logits.shape == (2, CLASSES, 70, 93)
    assert logits.dtype == torch.float32
    # A sum of squares, not the mean: a final normalisation would have no gradient in its mean.
    logits.square().sum().backward()
    return name, module


def test_every_parameter_of_every_network_gets_a_gradient(trained: tuple[str, nn.Module]) -> None:
    _, module = trained
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    without = [name for name, grad in gradients.items() if grad is None]
    endless = [n for n, grad in gradients.items() if grad is not None and not grad.isfinite().all()]
    assert (without, endless) == ([], [])
    reached = [grad is not None and bool(grad.any()) for grad in gradients.values()]
    assert sum(reached) > 0.6 * len(reached)  # zero: biases in front of a normalisation, dead ReLU


def test_every_network_tells_how_many_images_a_step_needs(trained: tuple[str, nn.Module]) -> None:
    name, module = trained
    module.train()
    if NETWORKS[name].least_batch == 1:
        assert module(torch.randn(1, BANDS, 64, 64)).shape == (1, CLASSES, 64, 64)
    else:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            module(torch.randn(1, BANDS, 64, 64))


def test_every_network_has_an_encoder_of_its_own_parameters(
    trained: tuple[str, nn.Module],
) -> None:
    _, module = trained
    assert isinstance(module.encoder, nn.Module)
    inner = {id(parameter) for parameter in module.encoder.parameters()}
    others = [parameter for parameter in module.parameters() if id(parameter) not in inner]
    assert inner <= {id(parameter) for parameter in module.parameters()}
    assert inner
    assert others
    taking = [m for m in module.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert taking[0].in_channels == BANDS


def test_every_network_is_deterministic_in_evaluation_and_looks_at_each_band(
    trained: tuple[str, nn.Module],
) -> None:
    _, module = trained
    module.eval()
    image = torch.randn(BANDS, 33, 60)
    changes = torch.eye(BANDS)[[0, 3], :, None, None]  # one in the first band, one in the last
    images = torch.stack([image, *(image + changes)])
    with torch.inference_mode():
        first, second = module(images), module(images)
    assert first.shape == (3, CLASSES, 33, 60)
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_every_network_computes_in_bf16_and_in_channels_last(
    trained: tuple[str, nn.Module],
) -> None:
    name, module = trained
    module.eval()
    images = torch.randn(1, BANDS, 50, 64)
    with torch.inference_mode():
        expected = module(images)
        module.to(memory_format=torch.channels_last)
        last = images.contiguous(memory_format=torch.channels_last)
        other_order = module(last)
        with precision.autocast("bf16", "cpu"):
            short = module(last)
        module.to(memory_format=torch.contiguous_format)
    size = expected.abs().max().item()
    torch.testing.assert_close(other_order, expected, rtol=1e-3, atol=1e-4 * size)
    assert short.shape == expected.shape
    # With weights as random as these, bf16 rounds many of the maxima to unpool to equal values.
    limit = {"segnet": 0.6, "enet": 0.3}.get(name, 0.1)
    assert (short.float() - expected).norm() < limit * expected.norm()


def test_every_network_is_the_same_from_its_state(trained: tuple[str, nn.Module]) -> None:
    _, module = trained
    module.eval()
    other = copy.deepcopy(module)
    for tensor in other.state_dict().values():
        tensor.zero_()
    images = torch.randn(1, BANDS, 64, 64)
    with torch.inference_mode():
        assert not torch.equal(other(images), module(images))
        other.load_state_dict(module.state_dict())
        assert torch.equal(other(images), module(images))


@pytest.mark.parametrize("bands", [1, 8])
def test_every_network_takes_other_bands(trained: tuple[str, nn.Module], bands: int) -> None:
    name, module = trained
    other = make(name, bands).eval()
    with torch.inference_mode():
        assert other(torch.randn(1, bands, 32, 40)).shape == (1, CLASSES, 32, 40)
    assert other.state_dict().keys() == module.state_dict().keys()


@pytest.mark.parametrize(
    ("network", "encoder"),
    [
        ("unet", "mobilenet_v2"),
        ("unet", "efficientnet-b0"),
        ("unet", "mit_b0"),
        ("unet", "timm-tf_efficientnet_lite0"),
        ("unet", "tu-convnext_atto"),
        ("unet", "tu-swin_tiny_patch4_window7_224"),
        ("fpn", "densenet121"),
        ("pspnet", "mobilenet_v2"),
        ("segformer", "mit_b0"),
        ("deeplabv3plus", "tu-mobilenetv3_small_050"),
        ("fcn8s", "vgg11_bn"),
        ("fcn8s", "mobilenet_v2"),
        ("fcn16s", "mit_b0"),
        ("fcn32s", "resnet50"),
    ],
)
def test_encoders_of_all_kinds_serve(
    network: str, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcn, "HIDDEN", 32)
    check_encoder(network, encoder)


# Encoders that cannot be dilated.
UNDILATED = ("densenet", "inception", "vgg", "xception")
UNFIT: dict[str, tuple[str, ...]] = {
    "deeplabv3": UNDILATED,
    "deeplabv3plus": UNDILATED,
    "linknet": ("mit_",),
    "unetplusplus": ("mit_",),
}
ALL_ENCODERS = smp.encoders.get_encoder_names() if os.environ.get("TESELA_ALL_ENCODERS") else []


@pytest.mark.parametrize("encoder", ALL_ENCODERS)
@pytest.mark.parametrize("network", [name for name in NETWORKS if name not in (*OWN, "dpt")])
def test_every_encoder_serves_or_says_why_not(network: str, encoder: str) -> None:
    if any(encoder.startswith(kind) for kind in UNFIT.get(network, ())):
        with pytest.raises(SettingsError, match=f"{encoder} cannot serve"):
            make(network, encoder=encoder)
    else:
        check_encoder(network, encoder)


def check_encoder(network: str, encoder: str) -> None:
    module = make(network, BANDS, encoder)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    logits = module(torch.randn(2, BANDS, 65, 64))
    assert logits.shape == (2, CLASSES, 65, 64)
    logits.square().sum().backward()
    trainable = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    assert [name for name, grad in trainable.items() if grad is None] == []
    frozen = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    # EfficientNet's deep stages look into each other: in PSPNet they stay, without a gradient.
    least = 0.5 if network == "pspnet" and "efficientnet" in encoder else 1e-3
    assert frozen <= least * sum(p.numel() for p in module.parameters())


def test_pspnet_has_only_the_stages_that_it_uses() -> None:
    module = make("pspnet")
    assert isinstance(module.encoder, nn.Module)
    inner = {name.split(".")[0] for name, _ in module.encoder.named_parameters()}
    assert inner == {"conv1", "bn1", "layer1", "layer2"}


def test_pan_enlarges_small_images_for_its_three_poolings() -> None:
    module = make("pan")
    assert isinstance(module, AnySize)
    assert (module.stride, module.least) == (16, 128)
    densely = make("pan", encoder="densenet121")
    assert isinstance(densely, AnySize)
    assert (densely.stride, densely.least) == (32, 256)  # cannot be dilated


class WithIdleParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Conv2d(1, 2, 1)
        self.never_run = nn.Sequential(nn.Conv2d(2, 9, 1), nn.BatchNorm2d(9))
        self.thrown_away = nn.Conv2d(2, 2, 3)
        self.looked_into = nn.Conv2d(2, 2, 1)
        self.token = nn.Parameter(torch.zeros(5))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.used(images)
        self.thrown_away(logits)
        return logits * self.looked_into.weight.shape[2]


def test_idle_parts_go_and_what_cannot_go_is_frozen() -> None:
    module = WithIdleParts()
    module.used.eval()
    images = torch.randn(1, 1, 6, 6)
    expected = module(images)
    drop_idle(module, images)
    assert torch.equal(module(images), expected)
    left = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    assert left == {
        "used.weight": True,
        "used.bias": True,
        "token": False,
        "looked_into.weight": False,
        "looked_into.bias": False,
    }
    assert module.training


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
    from torchvision.models.vgg import cfgs, make_layers

    published = make_layers(cfgs["D"], batch_norm=True).eval()
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
        ("deeplabv3", "densenet121", "cannot serve DeepLabV3"),
        ("unet", "tu-hiera_tiny_224", "cannot serve Unet"),
        ("fcn16s", "tu-vit_tiny_patch16_224", "cannot serve FCN-16s"),
        ("deeplabv3", "tu-pvt_v2_b0", "it cannot be dilated"),
        ("linknet", "mit_b0", "not supported for Linknet"),
        ("dpt", "resnet18", "takes encoders of timm only"),
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


def test_importing_the_registry_loads_no_torch_and_building_ours_no_other_library() -> None:
    code = (
        "import sys, pipeline.networks;"
        "print('torch' in sys.modules);"
        "pipeline.networks.build("
        "'enet', encoder='enet', encoder_weights='none', bands=3, classes=4);"
        "print([m for m in ('segmentation_models_pytorch', 'timm') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(networks.__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.split() == ["False", "[]"]
