"""A checkpoint as the ONNX file that the Deepness plugin runs inside QGIS."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline import __version__, checkpoint
from pipeline.checkpoint import ModelCard
from pipeline.errors import OutputError, SettingsError
from pipeline.onnx_graphs import INPUT, OPSET, graph_of, missing
from pipeline.publication import published

# The plugin installs ONNX Runtime 1.17, which reads files up to this version of the format.
_IR_VERSION = 8

# Networks halve their input five times; other sizes would be padded in the graph.
_STRIDE = 32

# A pixel of less than this is no pixel of metres (2 mm), a larger one none of degrees (220 m).
_LEAST_METRES = 0.002

_SQUARE = 0.01
_LEAST_AGREEMENT = 0.999

log = logging.getLogger(__name__)


def export_onnx(
    model: Path,
    out: Path,
    *,
    tile: int = 512,
    overlap: int = 15,
    opset: int = OPSET,
    resolution: float | None = None,
    batch: int = 1,
) -> None:
    """Write a checkpoint as ONNX, for the Deepness plugin of QGIS.

    The file is run once on noise before it appears, and compared with the network itself.

    Args:
        model: The checkpoint.
        out: The file; an older one is replaced.
        tile: Rows and columns of a tile, a multiple of 32.
        overlap: Per cent of a tile that neighbours share, from 0 to 90.
        opset: Version of the operators.
        resolution: Centimetres a pixel; the checkpoint's own where left out.
        batch: Tiles at once; 0 leaves it open, which plugins before 0.6 refuse.

    Raises:
        SettingsError: If an option is out of range, a package is missing, the pixel size is not
            one of metres, or the network has operations that ONNX lacks.
        TrainingError: If the checkpoint cannot be read.
        OutputError: If the file cannot be written, or does not compute what the network does.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise missing(error.name or "onnx", "onnx") from error
    wrong = []
    if tile % _STRIDE or tile <= 0:
        wrong.append(f"--tile: {tile} is no multiple of {_STRIDE}")
    if not 0 <= overlap <= 90:
        wrong.append(f"--overlap: {overlap} is not from 0 to 90 (per cent)")
    if not 13 <= opset <= OPSET:
        wrong.append(f"--opset: {opset} is not from 13 to {OPSET}, which the plugin reads")
    if out.suffix != ".onnx":
        wrong.append(f"--out: {out} does not end in .onnx")
    if batch < 0:
        wrong.append(f"--batch: {batch} is negative")
    if wrong:
        raise SettingsError("export-onnx: these options cannot be used.", wrong)
    network, card = checkpoint.load(model)
    metadata = deepness_metadata(card, tile=tile, overlap=overlap, resolution=resolution)
    shape = (batch or 1, card.bands, tile, tile)
    graph = onnx.load_from_string(
        graph_of(network, shape, probabilities=True, any_batch=not batch, opset=opset)
    )
    graph.ir_version = _IR_VERSION
    graph.producer_name, graph.producer_version = "tesela", __version__
    for node in graph.graph.node:
        node.doc_string = ""  # where in the source it comes from: paths of this machine
    onnx.helper.set_model_props(graph, metadata)
    onnx.checker.check_model(graph, full_check=True)
    content = graph.SerializeToString(deterministic=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    agreement = _agreement(session, network, card, shape)
    if agreement < _LEAST_AGREEMENT:
        raise OutputError(
            f"{out}: is not written: the graph gives other classes than the network.",
            [f"of a tile of noise, {100 * agreement:.2f} % get the same class"],
            "That is a defect of Tesela or of ONNX Runtime; `python -m pipeline map-sheet` maps "
            "with the network itself.",
        )
    with published(out) as (draft,):
        draft.write_bytes(content)
    log.info(
        "%s: %s with %s, %d bands of %s cm a pixel in tiles of %d px to %d classes; of a tile of "
        "noise, %.2f %% get the class that the network gives",
        out, card.network, card.encoder, card.bands, metadata["resolution"], tile,
        len(card.classes), 100 * agreement,
    )  # fmt: skip


def deepness_metadata(
    card: ModelCard, *, tile: int, overlap: int, resolution: float | None = None
) -> dict[str, str]:
    """What the plugin wants to know of a model, each value as JSON.

    The plugin divides bytes by 255, subtracts ``standardization_mean`` and divides by
    ``standardization_std``. With the card's divided by 255 that is the network's own
    normalisation: ``(x / 255 - mean / 255) / (std / 255) = (x - mean) / std``.

    Args:
        card: The model card.
        tile: Rows and columns of a tile.
        overlap: Per cent of a tile that neighbours share.
        resolution: Centimetres a pixel; the card's where left out.

    Raises:
        SettingsError: If there is no resolution, and the card's is not one of metres, or not
            that of square pixels.
    """
    values: dict[str, Any] = {
        "model_type": "Segmentor",
        "class_names": {str(number): name for number, name in enumerate(card.classes)},
        "resolution": _centimetres(card) if resolution is None else resolution,
        # The plugin's own code reads the one, its documentation names the other.
        "tile_size": tile,
        "tiles_size": tile,
        "tiles_overlap": overlap,
        "standardization_mean": [value / 255 for value in card.mean],
        "standardization_std": [value / 255 for value in card.std],
        # Every pixel has the class of the largest probability, and no patch is too small.
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
    }
    return {name: json.dumps(value) for name, value in values.items()}


def _centimetres(card: ModelCard) -> float:
    width, height = card.pixel_size
    remedy = "Give the centimetres of a pixel on the ground: --resolution 25, say."
    if min(width, height) < _LEAST_METRES:
        raise SettingsError(
            f"The network learnt pixels of {width:g} x {height:g}, which are degrees rather than "
            "metres, and the plugin counts in metres.",
            remedy=f"{remedy} In QGIS, load orthophotos in a projected system.",
        )
    if not math.isclose(width, height, rel_tol=_SQUARE):
        raise SettingsError(
            f"The network learnt pixels of {width:g} x {height:g}, and the plugin has square ones.",
            remedy=remedy,
        )
    # Without the digits that a reprojection leaves.
    return round(100 * width, 3)


def _agreement(
    session: Any,  # noqa: ANN401 - ONNX Runtime has no types
    network: nn.Module,
    card: ModelCard,
    shape: tuple[int, int, int, int],
) -> float:
    """Share of the pixels of a tile of noise that the file gives the network's class."""
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    mean, std = (np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (card.mean, card.std))
    images = (pixels - mean) / std
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).argmax(dim=1).numpy()
    found = session.run(None, {INPUT: images})[0].argmax(axis=1)
    return float((found == expected).mean())
