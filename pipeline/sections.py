"""The sections of the settings and their defaults: frozen, nothing unknown in them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
)

from pipeline.setting_types import (
    BelowOne,
    Count,
    Degrees,
    Factor,
    FilePath,
    Losses,
    Margin,
    Metres,
    NotNegative,
    Options,
    Pixels,
    Positive,
    Share,
    UpToOne,
    engine_of,
    name_of,
    no_bool,
    optimizer_of,
    searched,
)

Split = Literal["train", "validation", "test", "map"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Section(BaseModel):
    """A part of the settings: frozen, nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class SioseSettings(Section):
    """How SIOSE polygons, or those of another layer, become class proportions."""

    source: Literal["auto", "table", "label", "xml", "maximum", "code"] = "auto"
    layer: Annotated[str, BeforeValidator(name_of)] | None = None
    code_column: Annotated[str, BeforeValidator(name_of)] | None = None
    codelist: Annotated[str, BeforeValidator(name_of)] = "auto"
    unknown_covers: Literal["error", "ignore"] = "error"
    off_percentages: Literal["error", "ignore"] = "error"


class LabelSettings(Section):
    """How class proportions become one class a pixel."""

    composite: Literal["dominant", "mask"] = "dominant"
    min_share: Share = 0.5
    min_margin: Share = 0.0
    boundary_px: Margin = 0
    boundary_m: Metres = 0.0


class TilingSettings(Section):
    """How sheets are cut into tiles, and which ground trains and which tests."""

    tile_px: Pixels = 256
    stride_px: Pixels = 256
    min_labelled: Share = 0.5
    split: Literal["sheet", "blocks"] = "sheet"
    block_px: Pixels = 2048
    validation_share: Share = 0.15
    test_share: Share = 0.15
    codec: Literal["raw", "lz4", "zstd", "webp", "jpeg"] = "raw"
    dask: Annotated[str, BeforeValidator(engine_of)] = "threads"
    dask_workers: Count | None = None

    # What decides the plan, and what decides the tiles: who cuts them changes nothing.
    plan_ignores: ClassVar[set[str]] = {"codec", "dask", "dask_workers"}
    tiles_ignore: ClassVar[set[str]] = {"dask", "dask_workers"}


class AugmentationSettings(Section):
    """Changes of training tiles: a preset, and strengths where they are to differ from it."""

    preset: Literal["none", "geometric", "aerial"] = "geometric"
    symmetries: bool | None = None
    rotation: Degrees | None = None
    scale: Factor | None = None
    shift: Share | None = None
    brightness: Share | None = None
    contrast: Factor | None = None
    gamma: Factor | None = None
    saturation: Share | None = None
    hue: Degrees | None = None
    cast: Factor | None = None
    blur: NotNegative | None = None


class TrainingSettings(Section):
    """The network and how it is trained."""

    network: str = "unet"
    encoder: str = "resnet18"
    encoder_weights: str = "none"
    weights_dir: FilePath = Path("weights")
    freeze_encoder: Margin = 0
    encoder_rate: UpToOne = 1.0
    loss: Losses = {"cross_entropy": 1.0}
    focal_gamma: NotNegative = 2.0
    label_smoothing: BelowOne = 0.0
    class_weights: Literal["median_frequency", "inverse_frequency", "none"] = "median_frequency"
    oversample: Share = 0.0
    epochs: Count | None = None
    iterations: Count | None = None
    max_minutes: Positive | None = None
    validate_every: Count | None = None
    patience: Count = 20
    batch_size: Count = 8
    accumulate: Count = 1
    optimizer: Annotated[str, AfterValidator(optimizer_of)] = "AdamW"
    optimizer_options: Options = {}
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 1e-2
    schedule: Literal["cosine", "constant", "one_cycle", "polynomial"] = "cosine"
    warm_up: BelowOne = 0.05
    gradient_clip: Positive | None = None
    average_weights: bool = True
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    compile: bool = False
    deterministic: bool = False
    devices: Literal["auto"] | Count = "auto"
    nodes: Count = 1
    workers: Margin = 1
    shuffle: Literal["full", "local"] = "full"
    cache_dir: Annotated[str, BeforeValidator(name_of)] | None = None
    checkpoint_minutes: Positive = 10.0
    sample_tiles: Margin = 4
    tensorboard: bool = True

    # These may change between two starts of one training: the weights stay the same.
    result_ignores: ClassVar[set[str]] = {
        "weights_dir",
        "devices",
        "nodes",
        "workers",
        "cache_dir",
        "checkpoint_minutes",
        "sample_tiles",
        "tensorboard",
    }


class Range(Section):
    """Numbers that a search tries, both ends included."""

    low: Annotated[float, BeforeValidator(no_bool), Field(allow_inf_nan=False)]
    high: Annotated[float, BeforeValidator(no_bool), Field(allow_inf_nan=False)]
    log: bool = False
    step: Positive | None = None


# By its looks, so that a mistake is told once and not of both kinds.
Searched = Annotated[
    Annotated[Range, Tag("<range>")] | Annotated[list[Any], Tag("<list>")],
    Discriminator(lambda value: "<list>" if isinstance(value, list) else "<range>"),
    BeforeValidator(searched),
]


class TuningSettings(Section):
    """The search for better settings."""

    space: dict[str, Searched] = {}
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Literal["none", "median", "successive_halving", "hyperband"] = "median"
    metric: Literal["mean_iou", "overall_accuracy", "loss"] = "mean_iou"
    trials: Count = 20
    workers: Count = 1


class MappingSettings(Section):
    """How the network's windows are put together to a map."""

    window_px: Annotated[int, BeforeValidator(no_bool), Field(ge=32)] = 1024
    overlap_px: Margin = 256
    seams: Literal["crop", "blend"] = "crop"
    symmetries: bool = False
    ensemble: tuple[FilePath, ...] = ()
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    backend: Literal["torch", "compile", "openvino", "onnxruntime"] = "torch"
    batch_size: Count | None = None
    confidence: bool = True
    probabilities: bool = False
    entropy: bool = False

    # Windows at once change nothing but the speed.
    result_ignores: ClassVar[set[str]] = {"batch_size"}

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the rasters that a map consists of."""
        asked = {name: getattr(self, name) for name in ("confidence", "probabilities", "entropy")}
        return ("classes", *(name for name, wanted in asked.items() if wanted))


class CleaningSettings(Section):
    """What small things of a map are smoothed away."""

    majority_px: Margin = 0
    min_area_m2: NotNegative = 0.0
    max_hole_m2: NotNegative = 0.0

    @property
    def asked(self) -> bool:
        """Whether anything is to be cleaned."""
        return bool(self.majority_px or self.min_area_m2 or self.max_hole_m2)


class VectorSettings(Section):
    """The map as polygons."""

    format: Literal["none", "gpkg", "parquet"] = "none"
    simplify_m: NotNegative = 0.0
    siose_shares: bool = False


class EvaluationSettings(Section):
    """How good the map is said to be."""

    boundary_px: Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=32)] = 3
    block_px: Annotated[int, BeforeValidator(no_bool), Field(ge=128)] = 512
    draws: Annotated[int, BeforeValidator(no_bool), Field(ge=100, le=100_000)] = 1000
    target_accuracy: Share = 0.95
    min_confidence: Annotated[int, BeforeValidator(no_bool), Field(ge=0, le=100)] = 70
    min_change: Share = 0.5
    worst_polygons: Count = 200
    shown_tiles: Annotated[int, BeforeValidator(no_bool), Field(ge=0, le=12)] = 6

    # What counts pixels, what looks at polygons, and what only the report asks.
    of_pixels: ClassVar[set[str]] = {"boundary_px", "block_px"}
    of_polygons: ClassVar[set[str]] = {"min_confidence", "min_change", "worst_polygons"}
    of_report: ClassVar[set[str]] = {"draws", "target_accuracy", "shown_tiles"}


class ChangeSettings(Section):
    """What a change between two years is."""

    min_confidence: Annotated[int, BeforeValidator(no_bool), Field(ge=0, le=100)] = 0
