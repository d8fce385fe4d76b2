"""Parameter counts, multiply-adds and parts of networks against what their authors published."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn
from torchvision.models import ViT_B_16_Weights, vit_b_16
from torchvision.models.segmentation import (
    DeepLabV3_ResNet50_Weights,
)
from typer.testing import CliRunner

from pipeline import networks
from pipeline.networks import NETWORKS, build, complexity, fcn
from pipeline.networks.complexity import multiply_adds_of, parameters_of
from pipeline.networks.enet import ENet
from pipeline.networks.fcn import Doubling, Fcn
from pipeline.networks.patches import PatchConvolution, keep_exact
from pipeline.networks.segnet import SegNet

README = Path(networks.__file__).with_name("README.md")


def millions(module: nn.Module, digits: int = 1) -> float:
    return round(parameters_of(module) / 1e6, digits)


def published_fcn(stride: int, encoder: str = "vgg16", classes: int = 21) -> Fcn:
    with torch.device("meta"):
        return Fcn(get_encoder(encoder, weights=None), stride, classes)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_fcn_has_the_published_size(stride: int) -> None:
    network = published_fcn(stride)
    # Table 1 of Long et al. (2015): 134 M for FCN-VGG16.
    assert parameters_of(network) // 1e6 == 134
    # 13 convolutions of VGG16, fc6, fc7, and 21 scores of the last features, pool4 and pool3.
    skips = {8: 512 * 21 + 256 * 21 + 2 * 21 + 2 * 21 * 21 * 16, 16: 512 * 21 + 21 + 21 * 21 * 16}
    fully = 512 * 49 * 4096 + 4096 + 4096 * 4096 + 4096
    expected = 14_714_688 + fully + 4096 * 21 + 21 + skips.get(stride, 0)
    assert parameters_of(network) == expected


@pytest.mark.parametrize(
    ("encoder", "channels"),
    [("resnet50", (2048, 1024, 512)), ("mobilenet_v2", (1280, 96, 32)), ("vgg16_bn", (512, 256))],
)
def test_fcn_scores_the_last_three_strides(encoder: str, channels: tuple[int, ...]) -> None:
    network = published_fcn(8, encoder)
    scored = [network.score, *network.skip_scores]
    found = tuple(layer.in_channels for layer in scored if isinstance(layer, nn.Conv2d))
    assert found == ((4096, *channels) if encoder == "vgg16_bn" else channels)


def test_fcn_scores_pool3_and_pool4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcn, "HIDDEN", 8)
    torch.manual_seed(0)
    network = Fcn(get_encoder("vgg16", weights=None), 8, 3).eval()
    seen: list[Tensor] = []
    for score in network.skip_scores:
        score.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        network(image)
        layers = network.encoder.features
        assert isinstance(layers, nn.Sequential)
        pool3, pool4 = layers[:17](image), layers[:24](image)
    assert isinstance(layers[16], nn.MaxPool2d)
    assert isinstance(layers[23], nn.MaxPool2d)
    assert torch.equal(seen[0], pool4)
    assert torch.equal(seen[1], pool3)


def test_fcn_starts_from_equal_scores_and_bilinear_interpolation() -> None:
    torch.manual_seed(0)
    network = Fcn(get_encoder("mobilenet_v2", weights=None), 8, 3).eval()
    with torch.inference_mode():
        assert not network(torch.randn(1, 3, 64, 64)).any()
        scores = torch.randn(2, 3, 5, 7)
        doubled = Doubling(3)(scores)
        expected = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(doubled, expected)


def test_fcns_convolutions_are_the_classifiers_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcn, "HIDDEN", 8)
    torch.manual_seed(0)
    network = Fcn(get_encoder("vgg11", weights=None), 32, 3).eval()
    classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU()
    ).eval()
    state = {f"classifier.{name}": value for name, value in classifier.state_dict().items()}
    assert network.take_classifier(state)
    assert not network.take_classifier({"classifier.0.weight": torch.zeros(1)})
    features = torch.randn(2, 512, 7, 7)
    with torch.inference_mode():
        middle = network.hidden(features)[:, :, 3, 3]
        torch.testing.assert_close(middle, classifier(features.flatten(1)))


def test_enet_has_the_published_size() -> None:
    # Table 3 of Paszke et al. (2016) says 0.37 M; with the encoder's own classifier of their
    # first stage of training, 128 -> 20 classes, which is dropped when the decoder is put on.
    network = ENet(bands=3, classes=20)
    assert millions(network, 2) == 0.36
    assert round((parameters_of(network) + 129 * 20) / 1e6, 2) == 0.37


def test_enet_has_the_published_features() -> None:
    with torch.device("meta"):
        network = ENet(bands=3, classes=7)
        sizes: dict[str, tuple[int, ...]] = {}
        for name, module in network.named_modules():
            if re.fullmatch(r"(encoder\.)?(initial|(down|stage|up)\d|logits)", name):
                module.register_forward_hook(
                    lambda _, __, out, name=name: sizes.update(
                        {name: tuple((out[0] if isinstance(out, tuple) else out).shape[1:])}
                    )
                )
        network(torch.zeros(1, 3, 512, 512))
    assert sizes == {  # their table 1
        "encoder.initial": (16, 256, 256),
        "encoder.down1": (64, 128, 128),
        "encoder.stage1": (64, 128, 128),
        "encoder.down2": (128, 64, 64),
        "encoder.stage2": (128, 64, 64),
        "encoder.stage3": (128, 64, 64),
        "up4": (64, 128, 128),
        "stage4": (64, 128, 128),
        "up5": (16, 256, 256),
        "stage5": (16, 256, 256),
        "logits": (7, 512, 512),
    }
    dilations = [m.dilation[0] for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [d for d in dilations if d > 1] == [2, 4, 8, 16, 2, 4, 8, 16]
    long = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 5)]
    assert len(long) == 4


def test_enet_puts_values_back_where_the_maxima_were() -> None:
    torch.manual_seed(0)
    network = ENet(bands=1, classes=2).eval()
    images = torch.randn(1, 1, 32, 48)
    with torch.inference_mode():
        features, first, second = network.encoder(images)
        widening = network.up4.extension[-2]  # the normalisation behind the last convolution
        assert isinstance(widening, nn.BatchNorm2d)
        widening.weight.zero_()
        raised = network.up4(features, second)
        main = network.up4.main(features)
        kept = network.up4.activation(main).flatten(2)
    torch.testing.assert_close(raised.flatten(2).gather(2, second.flatten(2)), kept)
    assert torch.count_nonzero(raised) == torch.count_nonzero(main)
    assert first.shape == (1, 16, 8, 12)


def test_segformer_has_the_published_size_and_cost() -> None:
    # Table 1 of Xie et al. (2021), ADE20K: 3.8 M, 8.4 G multiply-adds at 512 x 512.
    found = complexity.complexity("segformer", encoder="mit_b0", bands=3, classes=150)
    assert round(found.parameters / 1e6, 1) == 3.8
    assert round(found.multiply_adds / 1e9, 1) == 8.4


def test_deeplabv3_has_the_size_of_torchvisions() -> None:
    # torchvision's has another head, trained beside it and dropped afterwards.
    auxiliary = 1024 * 256 * 9 + 2 * 256 + 256 * 21 + 21
    published = DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["num_params"]
    found = complexity.complexity("deeplabv3", encoder="resnet50", bands=3, classes=21)
    assert found.parameters == published - auxiliary


def test_multiply_adds_are_counted_as_published() -> None:
    with torch.device("meta"):
        convolution = nn.Conv2d(3, 8, 3, padding=1)
        assert multiply_adds_of(convolution, 3, 10, 20) == 10 * 20 * 8 * 3 * 9
        upwards = nn.ConvTranspose2d(4, 2, 2, stride=2)
        assert multiply_adds_of(upwards, 4, 10, 20) == 10 * 20 * 4 * 2 * 4
        published = ViT_B_16_Weights.IMAGENET1K_V1.meta["_ops"]
        assert round(multiply_adds_of(vit_b_16(), 3, 224, 224) / 1e9, 3) == published
        # Table 3 of Paszke et al. (2016): SegNet takes 286.03 GFLOPs for 640 x 360, normalisation
        # and activations with them. Ours pads 360 rows to 384.
        operations = 2 * multiply_adds_of(SegNet(3, 12), 3, 384, 640) * 360 / 384 / 1e9
    assert operations == pytest.approx(286.03, rel=0.01)


def test_the_registry_is_told_whole_and_misfits_get_another_encoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = {name: NETWORKS[name] for name in ("enet", "fcn32s", "deeplabv3plus")}
    monkeypatch.setattr(complexity, "NETWORKS", few)
    rows = list(complexity.registry("densenet121", bands=2, classes=4))
    assert [(row.network, row.encoder) for row in rows] == [
        ("enet", "enet"), ("fcn32s", "densenet121"), ("deeplabv3plus", "resnet18"),
    ]  # fmt: skip
    assert all(0 < row.encoder_parameters < row.parameters for row in rows)


def test_the_command_prints_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import cli, progress

    monkeypatch.setattr(complexity, "NETWORKS", {"enet": NETWORKS["enet"]})
    with progress.stdout.capture() as captured:
        CliRunner().invoke(cli.app, ["networks", "--bands", "3"], catch_exceptions=False)
    row = next(line for line in captured.get().splitlines() if "Paszke" in line)
    assert re.findall(r"[\d.]+", row.split("enet")[-1]) == ["0.36", "0.34", "1.90"]


def rows_of_the_readme() -> dict[tuple[str, str], list[str]]:
    lines = README.read_text("utf-8").splitlines()
    cells = [[c.strip(" `") for c in line.split("|")[1:-1]] for line in lines if line[:3] == "| `"]
    # Six columns: the table of scores below it begins with names of networks too.
    return {(row[0], row[2]): row[3:6] for row in cells if len(row) == 6}


def test_the_readme_has_each_network() -> None:
    assert {name for name, _ in rows_of_the_readme()} == set(NETWORKS)


@pytest.mark.parametrize(
    ("network", "encoder"),
    [("enet", "enet"), ("fcn8s", "mobilenet_v2"), ("pspnet", "resnet18"), ("unet", "resnet34")],
)
def test_the_readmes_figures_are_true(network: str, encoder: str) -> None:
    found = complexity.complexity(network, encoder=encoder, bands=3, classes=5)
    assert rows_of_the_readme()[network, encoder] == [
        f"{found.parameters / 1e6:.2f}",
        f"{found.encoder_parameters / 1e6:.2f}",
        f"{found.multiply_adds / 1e9:.2f}",
    ]


@pytest.mark.parametrize(
    ("bands", "side", "misread"),
    [(4, 16, True), (8, 8, True), (2, 32, True), (3, 16, False), (4, 8, False), (32, 4, False)],
)
def test_convolutions_of_patches_are_right_in_bf16(bands: int, side: int, misread: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(bands, 64, side, stride=side))
    image = torch.randn(1, bands, 4 * side, 6 * side)
    expected = network(image)
    keep_exact(network)
    assert isinstance(network[0], PatchConvolution) == misread
    assert list(network.state_dict()) == ["0.weight", "0.bias"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        short = network(image).float()
    assert (short - expected).norm() < 0.01 * expected.norm()


def test_a_vision_transformer_for_four_bands_is_kept_exact() -> None:
    network = build(
        "dpt", encoder="tu-vit_tiny_patch16_224", encoder_weights="none", bands=4, classes=3
    )
    kept = [name for name, m in network.named_modules() if isinstance(m, PatchConvolution)]
    assert kept == ["network.encoder.model.patch_embed.proj"]
