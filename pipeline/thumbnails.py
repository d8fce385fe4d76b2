"""Thumbnails of a sheet: small pictures of orthophoto, labels, map and errors for a page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.grid import Window
from pipeline.nomenclature import IGNORE
from pipeline.styles import CONFIDENCE_STOPS

SIDE_PX = 480
"""Longest side of a thumbnail."""

BUDGET_BYTES = 9 * 2**20
"""All thumbnails of a report together: 12 MB once in base64, which leaves room for the rest."""

CORRECT, WRONG, UNMAPPED = "#BFD3E6", "#D7191C", "#636363"
"""Colours of the errors: they differ in lightness too, for eyes that do not see red."""

_SMALLEST_PX = 32
_NODATA_GREY = 128
_CONFIDENCE_STEP = 5  # per cent; finer steps double the file and cannot be told apart


@dataclass(frozen=True, eq=False)
class SheetThumbnails:
    """A sheet, already decimated, every array of the same rows and columns.

    Attributes:
        orthophoto: Red, green, blue, uint8, shape ``(rows, cols, 3)``.
        valid: Where the orthophoto has data, bool.
        labels: Reference class ids, uint8; 255 = no usable label.
        mapped: Mapped class ids, uint8; 255 = nodata. None where there is no map.
        confidence: Per cent, uint8; 255 = nodata. None where it was not written.
        judged: Where the map is judged, bool; None where that is all labelled ground.

    Raises:
        ValueError: If shapes or types do not fit.
    """

    orthophoto: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    labels: NDArray[np.uint8]
    mapped: NDArray[np.uint8] | None = None
    confidence: NDArray[np.uint8] | None = None
    judged: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        shape = self.labels.shape
        if self.orthophoto.shape != (*shape, 3) or len(shape) != 2 or 0 in shape:
            raise ValueError(f"orthophoto {self.orthophoto.shape} and labels {shape} differ")
        layers = {"labels": self.labels, "map": self.mapped, "confidence": self.confidence}
        for name, layer in layers.items():
            if layer is not None and (layer.shape != shape or layer.dtype != np.uint8):
                raise ValueError(f"{name}: {layer.dtype} {layer.shape}, not uint8 {shape}")
        for name, where in (("valid", self.valid), ("judged", self.judged)):
            if where is not None and (where.shape != shape or where.dtype != np.bool_):
                raise ValueError(f"{name}: {where.dtype} {where.shape}, not bool {shape}")
        if self.orthophoto.dtype != np.uint8:
            raise ValueError(f"orthophoto: {self.orthophoto.dtype}, not uint8")

    @property
    def judged_labels(self) -> NDArray[np.uint8]:
        """The labels by which the map is judged; 255 elsewhere."""
        if self.judged is None:
            return self.labels
        return np.where(self.judged, self.labels, np.uint8(IGNORE))


@dataclass(frozen=True)
class Picture:
    """One encoded thumbnail.

    Attributes:
        kind: ``orthophoto``, ``labels``, ``map``, ``confidence`` or ``errors``.
        width: Columns.
        height: Rows.
        media_type: ``image/jpeg`` or ``image/png``.
        content: The file.
    """

    kind: str
    width: int
    height: int
    media_type: str
    content: bytes

    @property
    def uri(self) -> str:
        """The picture as a ``data:`` address."""
        return data_uri(self.content, self.media_type)


def data_uri(content: bytes, media_type: str = "image/png") -> str:
    """A file as a ``data:`` address, so that a page needs no other file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def fitted(picture: bytes, budget: int) -> tuple[bytes, str]:
    """A picture for a page: as it is, or as a JPEG, smaller if need be, to stay within a size.

    Args:
        picture: PNG.
        budget: Bytes, not to be passed (down to a width of 32 pixels).

    Returns:
        The file and its media type.
    """
    if len(picture) <= budget:
        return picture, "image/png"
    whole = Image.open(io.BytesIO(picture)).convert("RGB")
    scale = 1.0
    while True:
        size = (max(1, round(whole.width * scale)), max(1, round(whole.height * scale)))
        file = io.BytesIO()
        # Full colour resolution: half of it blurs the edges of class colours. Not optimised: the
        # buffer that Pillow has for that is too small for very detailed pictures.
        whole.resize(size, Image.Resampling.BOX).save(file, "JPEG", quality=85, subsampling=0)
        if file.tell() <= budget or size[0] <= _SMALLEST_PX:
            return file.getvalue(), "image/jpeg"
        scale *= 0.9 * min(1.0, math.sqrt(budget / file.tell()))


def encode(
    sheets: Sequence[SheetThumbnails],
    colors: Sequence[str],
    side: int = SIDE_PX,
    budget: int = BUDGET_BYTES,
) -> list[tuple[Picture, ...]]:
    """Encode the thumbnails of all sheets, smaller if need be to stay within a size.

    Args:
        sheets: One entry a sheet.
        colors: ``#RRGGBB`` of each class.
        side: Longest side in pixels; no picture is enlarged.
        budget: Bytes of all files together, not to be passed (down to pictures of 32 pixels).

    Returns:
        The pictures of each sheet: orthophoto (JPEG), labels, map, confidence and errors
        (palette PNG), those that there are.

    Raises:
        ValueError: If an array holds an id that is neither a class nor 255.
    """
    while True:
        encoded = [_pictures(sheet, colors, side) for sheet in sheets]
        size = sum(len(picture.content) for pictures in encoded for picture in pictures)
        if size <= budget or side <= _SMALLEST_PX:
            return encoded
        # Files shrink a little less than their area does, hence the extra tenth.
        side = max(_SMALLEST_PX, min(side - 1, int(side * 0.9 * math.sqrt(budget / size))))


def error_ids(labels: NDArray[np.uint8], mapped: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Where the map is right (0), wrong (1) or has nodata (2); 255 where nothing is labelled."""
    errors = np.where(labels == mapped, 0, 1).astype(np.uint8)
    errors[mapped == IGNORE] = 2
    errors[labels == IGNORE] = IGNORE
    return errors


def nearest(ids: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The pixel nearest to each centre: between two ids there is nothing to average.

    Args:
        ids: Shape ``(rows, cols)``.
        size: Width and height that are wanted, in pixels.
    """
    rows, cols = ids.shape
    width, height = size
    row = ((np.arange(height) + 0.5) * rows / height).astype(np.intp)
    col = ((np.arange(width) + 0.5) * cols / width).astype(np.intp)
    nearest: NDArray[np.uint8] = ids[row[:, None], col]
    return nearest


def decimated(
    ground: Iterable[Window], shape: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Which pixels of a decimated sheet lie on some ground, going by their centres.

    Args:
        ground: Windows of the sheet.
        shape: Rows and columns of the sheet.
        size: Rows and columns that it was decimated to.
    """
    row, col = (
        ((np.arange(few) + 0.5) * many / few).astype(np.intp)
        for few, many in zip(size, shape, strict=True)
    )
    inside = np.zeros(size, np.bool_)
    for window in ground:
        rows = (window.row <= row) & (row < window.bottom)
        cols = (window.col <= col) & (col < window.right)
        inside |= rows[:, None] & cols
    return inside


def palette_png(ids: NDArray[np.uint8], colors: Sequence[str], kind: str) -> bytes:
    """Ids as a PNG of as few bits a pixel as they need.

    Args:
        ids: Shape ``(rows, cols)``; 255 becomes transparent.
        colors: ``#RRGGBB`` of the ids 0, 1, ...
        kind: What to call the picture in messages.

    Raises:
        ValueError: If an id has no colour.
    """
    wrong = sorted({int(value) for value in np.unique(ids)} - {*range(len(colors)), IGNORE})
    if wrong:
        raise ValueError(f"{kind}: ids {wrong} are none of the {len(colors)} classes, nor {IGNORE}")
    # The transparent entry comes right behind the classes: a short palette packs more pixels
    # into a byte than one of 256 entries.
    packed = np.where(ids == IGNORE, len(colors), ids).astype(np.uint8)
    image = Image.fromarray(packed)
    image.putpalette(b"".join(bytes.fromhex(color[1:]) for color in colors) + b"\x80\x80\x80")
    file = io.BytesIO()
    image.save(file, "PNG", transparency=len(colors), compress_level=7)
    return file.getvalue()


def _pictures(sheet: SheetThumbnails, colors: Sequence[str], side: int) -> tuple[Picture, ...]:
    rows, cols = sheet.labels.shape
    scale = min(1.0, side / max(rows, cols))
    size = (max(1, round(cols * scale)), max(1, round(rows * scale)))
    pixels = np.where(sheet.valid[..., None], sheet.orthophoto, np.uint8(_NODATA_GREY))
    photo = Image.fromarray(pixels)
    if size != photo.size:
        photo = photo.resize(size, Image.Resampling.BOX)
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=80, optimize=True)
    pictures = [Picture("orthophoto", *size, "image/jpeg", file.getvalue())]

    def add(kind: str, ids: NDArray[np.uint8], palette: Sequence[str]) -> None:
        pictures.append(Picture(kind, *size, "image/png", palette_png(ids, palette, kind)))

    labels = nearest(sheet.labels, size)
    add("labels", labels, colors)
    if sheet.mapped is not None:
        mapped = nearest(sheet.mapped, size)
        add("map", mapped, colors)
        add("errors", error_ids(labels, mapped), (CORRECT, WRONG, UNMAPPED))
    if sheet.confidence is not None:
        confidence = nearest(sheet.confidence, size)
        steps = np.where(confidence == IGNORE, IGNORE, confidence // _CONFIDENCE_STEP)
        add("confidence", steps.astype(np.uint8), _confidence_colors())
    return tuple(pictures)


def _confidence_colors() -> tuple[str, ...]:
    stops = [stop for stop, _ in CONFIDENCE_STOPS]
    channels = np.array([list(bytes.fromhex(color[1:])) for _, color in CONFIDENCE_STOPS])
    values = np.arange(0, 100 + 1, _CONFIDENCE_STEP)
    mixed = [np.interp(values, stops, channels[:, i]).round().astype(int) for i in range(3)]
    return tuple(
        f"#{red:02X}{green:02X}{blue:02X}" for red, green, blue in zip(*mixed, strict=True)
    )
