"""ModelCard and checkpoint: weights, and all that is needed to use them, in one safetensors file.

The card is JSON in the file's header: it is read without torch, and nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from safetensors import SafetensorError, safe_open

from pipeline import __version__, networks
from pipeline.errors import TrainingError
from pipeline.publication import published, unwritable

if TYPE_CHECKING:
    import torch

LAYOUT = 1
"""Version of the card; raised when a reader of today could not use it any more."""

_KEY = "tesela"
_PACKAGES = (
    "torch", "torchvision", "segmentation-models-pytorch", "timm", "lightning", "safetensors",
    "numpy", "rasterio", "geopandas", "lmdb",
)  # fmt: skip

# Pixel sizes of one product differ in the digits that a reprojection leaves; 1 % more or less
# makes no object look of another size.
_SAME_PIXEL = 0.01


class Environment(TypedDict):
    """What a checkpoint was made with; see :func:`environment`."""

    versions: dict[str, str]
    commit: str


@dataclass(frozen=True)
class ModelCard:
    """What a network is, what it was trained on, and how well it did.

    Attributes:
        network: Key of the registry.
        encoder: Encoder; the network's own where it brings one.
        bands: Bands of the orthophotos.
        pixel_size: Width and height of a pixel, in CRS units.
        classes: Class names in the order of their ids.
        colors: ``#RRGGBB`` of each class.
        nomenclature: Fingerprint of the nomenclature.
        mean: Mean of each band, of values from 0 to 255, over the training split.
        std: Standard deviation of each band, likewise.
        settings: Settings of the run.
        data: Sheets, splits and pixels that it was trained on.
        scores: Scores on the validation split; None where a class has no reference.
        versions: Packages by version.
        commit: Commit of Tesela; empty where it is not known.
    """

    network: str
    encoder: str
    bands: int
    pixel_size: tuple[float, float]
    classes: tuple[str, ...]
    colors: tuple[str, ...]
    nomenclature: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""

    def as_json(self) -> str:
        """The card as JSON; NaN, which JSON lacks, becomes null."""
        content = {"layout": LAYOUT, **asdict(self)}
        return json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, source: str) -> ModelCard:
        """Read what :meth:`as_json` wrote.

        Args:
            text: The card.
            source: What to call its file in messages.

        Raises:
            TrainingError: With everything that is missing or contradicts itself.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise TrainingError(f"{source}: its model card is no JSON ({error}).") from error
        if not isinstance(content, dict) or content.get("layout") != LAYOUT:
            layout = content.get("layout") if isinstance(content, dict) else None
            raise TrainingError(
                f"{source}: its model card has layout {layout}; this Tesela reads {LAYOUT}.",
                remedy="Use the version of Tesela that wrote it, or train anew.",
            )
        required = {f.name for f in fields(cls)} - {
            "settings", "data", "scores", "versions", "commit",
        }  # fmt: skip
        wrong = [f"{name}: is missing" for name in sorted(required - content.keys())]
        if not wrong:
            try:
                card = cls(**{f.name: _typed(f.name, content) for f in fields(cls)})
            except (TypeError, ValueError) as error:
                wrong = [str(error)]
            else:
                wrong = card._contradictions()
        if wrong:
            raise TrainingError(f"{source}: its model card cannot be used.", wrong)
        return card

    def check_fits(
        self, classes: Sequence[str], bands: int, pixel_size: tuple[float, float], what: str
    ) -> None:
        """Check that the network can be used for these data.

        Args:
            classes: Class names in the order of their ids.
            bands: Bands of the orthophoto.
            pixel_size: Its pixel's width and height, in CRS units.
            what: What the network is to be used for, ``sheet 0722`` say.

        Raises:
            TrainingError: With all mismatches at once.
        """
        wrong = []
        if bands != self.bands:
            wrong.append(f"bands: {bands}; the network takes {self.bands}")
        if not all(
            math.isclose(mine, theirs, rel_tol=_SAME_PIXEL)
            for mine, theirs in zip(self.pixel_size, pixel_size, strict=True)
        ):
            wrong.append(
                f"pixel size: {_size(pixel_size)}; the network learnt {_size(self.pixel_size)}"
            )
        if len(classes) != len(self.classes):
            wrong.append(f"classes: {len(classes)}; the network knows {len(self.classes)}")
        wrong += [
            f"class {number}: {given!r}; the network's is {mine!r}"
            for number, (given, mine) in enumerate(zip(classes, self.classes, strict=False))
            if given != mine
        ]
        if wrong:
            raise TrainingError(
                f"The checkpoint does not fit {what}.",
                wrong,
                "Train on such data, or use a checkpoint that was; a network's classes are those "
                "of its training nomenclature.",
            )

    def _contradictions(self) -> list[str]:
        wrong = []
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.bands:
                wrong.append(f"{name}: {len(getattr(self, name))} values for {self.bands} bands")
        if len(self.colors) != len(self.classes):
            wrong.append(f"colors: {len(self.colors)} for {len(self.classes)} classes")
        if len(self.pixel_size) != 2:
            wrong.append(f"pixel_size: {len(self.pixel_size)} values, needs width and height")
        if not all(value > 0 for value in (*self.std, *self.pixel_size)):
            wrong.append("std, pixel_size: have values that are not positive")
        return wrong


def save(path: Path, network: torch.nn.Module, card: ModelCard) -> None:
    """Publish a network and its card as one safetensors file.

    Same weights and card give the same bytes.

    Args:
        path: The file; an older one is replaced in one step.
        network: Of the architecture that the card names; on any device.
        card: Its card.

    Raises:
        OutputError: If the file cannot be written; an older one stays as it was.
    """
    from safetensors.torch import save_file

    weights = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    with published(path) as (draft,):
        try:
            save_file(weights, draft, metadata={_KEY: card.as_json()})
        except SafetensorError as error:
            # The library reports a full disk by an error of its own, without errno.
            raise unwritable(path) from error


def read_card(path: Path) -> ModelCard:
    """Read the card of a checkpoint; neither torch nor the weights are loaded.

    Raises:
        TrainingError: If there is no such file, or it is truncated or no checkpoint of Tesela.
    """
    if not path.is_file():
        raise TrainingError(
            f"{path}: there is no such checkpoint.", remedy="The rule `train` makes it."
        )
    try:
        # Opening compares the lengths that the header tells with the file's.
        with safe_open(path, framework="numpy") as file:
            described = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise TrainingError(
            f"{path}: is no checkpoint that can be read: truncated, or another kind of file.",
            [str(error)],
            "Train anew, or copy the file again from where it is whole.",
        ) from error
    if _KEY not in described:
        raise TrainingError(
            f"{path}: holds weights but no model card of Tesela.",
            remedy="Weights of others can be named in `training.encoder_weights`, "
            "if they are an encoder's.",
        )
    return ModelCard.from_json(described[_KEY], str(path))


def load(path: Path, device: str | torch.device = "cpu") -> tuple[torch.nn.Module, ModelCard]:
    """Rebuild a network from its checkpoint.

    Args:
        path: What :func:`save` wrote.
        device: Where the network shall be.

    Returns:
        The network in evaluation mode, and its card.

    Raises:
        TrainingError: If the file cannot be read (:func:`read_card`), or its weights are not
            those of the network that its card names.
        SettingsError: If this Tesela does not know the network or the encoder.
    """
    from safetensors.torch import load_file

    card = read_card(path)
    network = networks.build(
        card.network,
        encoder=card.encoder,
        encoder_weights=networks.NO_WEIGHTS,
        bands=card.bands,
        classes=len(card.classes),
    )
    weights = load_file(path)
    wanted = network.state_dict()
    wrong = [f"{name}: is missing" for name in wanted if name not in weights]
    wrong += [f"{name}: is not a layer of it" for name in weights if name not in wanted]
    wrong += [
        f"{name}: is {tuple(weights[name].shape)}, needs {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if wrong:
        made = card.versions.get("segmentation-models-pytorch", "an unknown version")
        raise TrainingError(
            f"{path}: its weights are not those of {card.network} with {card.encoder}.",
            wrong,
            f"It was made with segmentation-models-pytorch {made}; install that version.",
        )
    network.load_state_dict(weights)
    return network.to(device).eval(), card


def environment() -> Environment:
    """What this process runs on, for a card: ``ModelCard(..., **environment())``."""
    versions = {"tesela": __version__, "python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"versions": versions, "commit": _commit(Path(__file__))}


def _commit(module: Path) -> str:
    """Commit of the repository that tracks the module, with ``+`` where it was edited since."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(module.parent), *arguments],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
        return done.stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository, which does not track it.
        git("ls-files", "--error-unmatch", module.name)
        commit = git("rev-parse", "HEAD")
        edited = git("status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}+" if edited else commit


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def _typed(name: str, content: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if name in ("classes", "colors"):
        return tuple(str(item) for item in content[name])
    if name in ("pixel_size", "mean", "std"):
        return tuple(float(item) for item in content[name])
    if name == "bands":
        return int(content[name])
    if name in ("settings", "data", "scores", "versions"):
        return dict(content.get(name) or {})
    return str(content.get(name, ""))


def _size(pixel: tuple[float, float]) -> str:
    return f"{pixel[0]:g} x {pixel[1]:g}"
