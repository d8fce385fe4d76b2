"""Contact sheet: training tiles as they are stored and as the network sees them, with their labels.

The draws are those of the run's first epochs: tiles come out of the same data set, with the same
seeds, as in training.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from pipeline.augmentation import BLURRED, LIT, MOVED, Strengths, strengths
from pipeline.batches import TileData
from pipeline.draws import Draw
from pipeline.errors import InputError
from pipeline.nomenclature import IGNORE, Nomenclature
from pipeline.paths import RunPaths
from pipeline.sections import AugmentationSettings, TrainingSettings
from pipeline.shards import ShardReader
from pipeline.tiling import read_plan

_AGAIN = "Run `shard` again, or choose another `run` folder."
_CANDIDATES = 16  # tiles looked at for each one shown

# Pixels of the picture.
_LARGEST, _SMALLEST, _GAP, _MARGIN, _LINE, _FONT = 256, 128, 6, 16, 20, 13
_NARROWEST = 560
_CHARACTER = 0.6 * _FONT  # width of a letter, on average
_IGNORED = ((0xE6, 0xE6, 0xE6), (0x8C, 0x8C, 0x8C))  # stripes: no class is striped


@dataclass(frozen=True, eq=False)
class Specimen:
    """A training tile, as it is stored and then as it is drawn.

    Attributes:
        name: Where it lies.
        images: uint8, shape ``(1 + draws, bands, rows, cols)``.
        labels: Class ids, 255 ignored, uint8, shape ``(1 + draws, rows, cols)``.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def contact_sheet(
    paths: RunPaths,
    sheets: Sequence[str],
    classes: Nomenclature,
    training: TrainingSettings,
    changes: AugmentationSettings,
    seed: int,
    *,
    tiles: int = 6,
    draws: int = 5,
) -> bytes:
    """Draw some training tiles of a run.

    Args:
        paths: Files of the run.
        sheets: Its sheets with labels.
        classes: Its nomenclature.
        training: Section ``training``.
        changes: Section ``augmentation``.
        seed: Decides tiles and draws; with the seed of the run they are those of its epochs.
        tiles: Number of tiles.
        draws: Epochs of each.

    Returns:
        PNG.

    Raises:
        InputError: If a sheet has no shard, or one of another nomenclature or tile plan.
        TrainingError: If the shards cannot be trained on.
    """
    missing = [str(paths.shard(sheet)) for sheet in sheets if not paths.shard(sheet).is_dir()]
    if missing:
        raise InputError(
            f"There is no shard yet of {len(missing)} of {len(sheets)} sheets.",
            missing,
            "A contact sheet shows the tiles that are trained on: run `shard` for them first "
            "(snakemake does, before it trains).",
        )
    readers = {sheet: ShardReader(paths.shard(sheet)) for sheet in sheets}
    old = [
        str(reader.folder)
        for reader in readers.values()
        if reader.manifest.nomenclature != classes.fingerprint
    ]
    if old:
        raise InputError(
            f"{len(old)} of {len(sheets)} shards were made with another nomenclature.", old, _AGAIN
        )
    # How often a tile comes in an epoch has no part in how it looks.
    data = TileData(
        list(readers.values()), training.model_copy(update={"oversample": 0.0}), changes, seed
    )
    chosen = chosen_tiles(data, readers, tiles)
    places = [data.train_tiles.place(tile) for tile in chosen]
    plans = {
        sheet: read_plan(paths.tile_plan, paths.ground, classes, sheet)
        for sheet in dict.fromkeys(sheet for sheet, _ in places)
    }
    moved = [sheet for sheet, plan in plans.items() if len(plan.tiles) != len(readers[sheet])]
    if moved:
        raise InputError(
            "These shards were not cut by the tile plan as it is now.",
            [str(paths.shard(sheet)) for sheet in moved],
            _AGAIN,
        )
    specimens = []
    for tile, (sheet, position) in zip(chosen, places, strict=True):
        window = plans[sheet].tiles[position].window
        stored = readers[sheet].read(position, polygons=False)
        seen = [data.train_tiles[Draw(epoch, tile)] for epoch in range(draws)]
        specimens.append(
            Specimen(
                f"sheet {sheet}, rows {window.row}-{window.bottom}, columns {window.col}-"
                f"{window.right}",
                np.stack([stored.image, *(image.numpy() for image, _ in seen)]),
                np.stack([stored.label, *(label.numpy() for _, label in seen)]),
            )
        )
    lines = [f"augmentation of run {paths.name}, preset {changes.preset}, seed {seed}"]
    lines += in_words(strengths(changes))
    if data.bands > 3:
        lines.append(f"of {data.bands} bands the first three are shown, as red, green and blue")
    elif data.bands == 2:
        lines.append("of two bands the first is shown")
    return picture(specimens, classes.names, classes.colors, lines)


def chosen_tiles(data: TileData, readers: dict[str, ShardReader], count: int) -> list[int]:
    """Training tiles at random, but so that rare classes and all sheets are seen too.

    Of more tiles than are wanted, each next one is that with the most classes not yet seen, and
    of several such one from the sheet with the fewest.
    """
    rng = np.random.default_rng(data.seed)
    known = len(data.train_tiles)
    drawn = rng.choice(known, min(known, _CANDIDATES * count), replace=False).tolist()
    present, sheet_of = {}, {}
    for tile in drawn:
        sheet, position = data.train_tiles.place(tile)
        label = readers[sheet].read(position, polygons=False).label
        sheet_of[tile] = sheet
        present[tile] = set(np.unique(label).tolist()) - {IGNORE}
    chosen: list[int] = []
    shown: Counter[str] = Counter()
    unseen = set(range(len(data.classes)))
    while drawn and len(chosen) < count:
        best = max(drawn, key=lambda tile: (len(present[tile] & unseen), -shown[sheet_of[tile]]))
        drawn.remove(best)
        chosen.append(best)
        shown[sheet_of[best]] += 1
        unseen = (unseen - present[best]) or set(range(len(data.classes)))
    return sorted(chosen)


def in_words(used: Strengths) -> list[str]:
    """What is changed and how much, a line for each group of changes."""
    groups: list[tuple[float, list[str]]] = [
        (1.0, ["one of the eight turns and mirrors"] if used.symmetries else []),
        (
            MOVED,
            [
                f"rotation up to {used.rotation:g}°" if used.rotation else "",
                f"zoom {1 / used.scale:.2g} to {used.scale:g}" if used.scale > 1 else "",
                f"shift up to {100 * used.shift:g} % of the side" if used.shift else "",
            ],
        ),
        (
            LIT,
            [
                f"brightness ±{100 * used.brightness:g} %" if used.brightness else "",
                f"contrast ×{1 / used.contrast:.2g} to {used.contrast:g}"
                if used.contrast > 1
                else "",
                f"gamma {1 / used.gamma:.2g} to {used.gamma:g}" if used.gamma > 1 else "",
                f"saturation ×{1 - used.saturation:.2g} to {1 + used.saturation:.2g}"
                if used.saturation
                else "",
                f"hue ±{used.hue:g}°" if used.hue else "",
                f"each band ×{1 / used.cast:.2g} to {used.cast:g}" if used.cast > 1 else "",
            ],
        ),
        (BLURRED, [f"Gaussian blur up to {used.blur:g} px" if used.blur else ""]),
    ]
    told = []
    for share, changes in groups:
        whose = "every tile" if share == 1 else f"{100 * share:g} % of the tiles"
        if named := ", ".join(filter(None, changes)):
            told.append(f"{whose}: {named}")
    return told or ["no change: the network sees the tiles as they are stored"]


def picture(
    specimens: Sequence[Specimen], names: Sequence[str], colors: Sequence[str], lines: Sequence[str]
) -> bytes:
    """Draw tiles in rows, image above label, with a legend.

    Args:
        specimens: The tiles, of one size.
        names: Class names in the order of their ids.
        colors: Their colours.
        lines: What is written on top.

    Returns:
        PNG. Tiles of up to 256 px are shown pixel by pixel, small ones enlarged.
    """
    columns, side = len(specimens[0].images), _shown_side(specimens[0].labels.shape[-1])
    width = max(2 * _MARGIN + columns * (side + _GAP) - _GAP, _NARROWEST)
    letters = int((width - 2 * _MARGIN) / _CHARACTER)
    texts: list[tuple[int, int, str, str]] = []
    y = _MARGIN
    for number, line in enumerate(lines):
        for part in textwrap.wrap(line, letters):
            texts.append((_MARGIN, y, part, "bold" if number == 0 else "normal"))
            y += _LINE
    ids = sorted({int(i) for specimen in specimens for i in np.unique(specimen.labels)} - {IGNORE})
    entries = [*((i, names[i]) for i in ids), (IGNORE, "ignored: no label, or outside the tile")]
    legend = []
    left, y = _MARGIN, y + _GAP
    for i, name in entries:
        entry_width = 2 * _FONT + _GAP + int(len(name) * _CHARACTER) + _LINE
        if left + entry_width > width and left > _MARGIN:
            left, y = _MARGIN, y + _LINE
        legend.append((i, left, y))
        texts.append((left + 2 * _FONT + _GAP, y, name, "normal"))
        left += entry_width
    y += _LINE + _GAP
    heading = y
    y += _LINE
    height = y + len(specimens) * (_LINE + 2 * side + 3 * _GAP) + _MARGIN
    canvas = np.full((height, width, 3), 255, np.uint8)
    lookup = _palette(colors)
    for i, left, top in legend:
        swatch = np.full((_FONT, 2 * _FONT), i, np.uint8)
        canvas[top : top + _FONT, left : left + 2 * _FONT] = _painted(swatch, lookup)
    for column in range(columns):
        text = f"in epoch {column}" if column else "as stored"
        texts.append((_MARGIN + column * (side + _GAP), heading, text, "bold"))
    for specimen in specimens:
        texts.append((_MARGIN, y, specimen.name, "normal"))
        y += _LINE
        for column, (image, label) in enumerate(zip(specimen.images, specimen.labels, strict=True)):
            left = _MARGIN + column * (side + _GAP)
            canvas[y : y + side, left : left + side] = _shown_image(image, side)
            below = y + side + _GAP // 2
            shown = np.asarray(
                Image.fromarray(label).resize((side, side), Image.Resampling.NEAREST)
            )
            canvas[below : below + side, left : left + side] = _painted(shown, lookup)
        y += 2 * side + 3 * _GAP
    return _written(canvas, texts)


def _shown_side(side: int) -> int:
    """Pixels a side of the picture that a tile takes: its own where that is legible."""
    if side >= _SMALLEST:
        return min(side, _LARGEST)
    return side * math.ceil(_SMALLEST / side)


def _shown_image(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The first three bands as red, green, blue, or the first as grey: ``(side, side, 3)``."""
    bands = image[:3] if len(image) >= 3 else image[[0, 0, 0]]
    shown = Image.fromarray(np.ascontiguousarray(np.moveaxis(bands, 0, -1)))
    way = Image.Resampling.BOX if side < image.shape[-1] else Image.Resampling.NEAREST
    return np.asarray(shown.resize((side, side), way))


def _palette(colors: Sequence[str]) -> NDArray[np.uint8]:
    lookup = np.zeros((256, 3), np.uint8)
    lookup[: len(colors)] = [list(bytes.fromhex(color[1:])) for color in colors]
    return lookup


def _painted(labels: NDArray[np.uint8], lookup: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels in their colours, and stripes where they are ignored."""
    painted = lookup[labels]
    rows, cols = np.indices(labels.shape)
    stripes = np.array(_IGNORED, np.uint8)[((rows + cols) % 8 < 2).astype(np.intp)]
    return np.where((labels == IGNORE)[..., None], stripes, painted)


def _written(canvas: NDArray[np.uint8], texts: Sequence[tuple[int, int, str, str]]) -> bytes:
    """The canvas with texts on it; each has its left and upper end, in pixels."""
    height, width = canvas.shape[:2]
    with mpl.rc_context():
        mpl.rcdefaults()
        dpi = 100
        figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
        figure.figimage(canvas, origin="upper")
        for left, top, text, weight in texts:
            figure.text(
                left / width,
                1 - top / height,
                text,
                va="top",
                fontsize=_FONT * 72 / dpi,
                fontweight=weight,
                parse_math=False,  # a class may be called "5 $"
            )
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
        return file.getvalue()
