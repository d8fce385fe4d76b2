"""Textures: how SIOSE covers look from the air at half a metre.

A painter takes a list of pixels of one cover and gives their red, green and blue. Covers share
their colours and differ in texture: every parcel draws one soil and one leaf tone from ranges that
all covers have in common, water is as dark and green as the shade between crowns, roofs have the
reds and greys of bare soil.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

CONIFERS, OAKS, SCRUB, PASTURE = 316, 313, 320, 300
CEREAL, VINES, OLIVES = 210, 231, 232
RESERVOIR = 514
BUILDING, PAVED, GARDEN = 101, 104, 102


# Late morning in summer: the sun stands in the south-east, shadows fall to the north-west.
# Columns grow eastwards, rows southwards.
_SUN = (0.45, 0.50, 0.74)
TABLE = 256
"""Side of the tables of random numbers that cells are looked up in; a power of two."""

_ROOFS = ((182, 104, 78), (168, 120, 96), (196, 186, 172), (150, 146, 142), (214, 204, 190))


@dataclass(frozen=True)
class Pixels:
    """A list of pixels of one cover and what their painter needs to know of them.

    Attributes:
        x: Column, from the province's left edge, shape ``(n,)``.
        y: Row, from its upper edge, shape ``(n,)``.
        cos: Cosine of the direction of the parcel's rows of plants or streets, shape ``(n,)``.
        sin: Its sine, shape ``(n,)``.
        soil: Tone of bare ground, 0 to 255, shape ``(n, 3)``.
        leaf: Tone of grass and leaves, 0 to 255, shape ``(n, 3)``.
        grain: Roughness of the ground at a metre, about -1 to 1, shape ``(n,)``.
        vigour: Growth, about 0 to 1 and smooth over tens of metres, shape ``(n,)``.
        trait: A random number of the parcel from 0 to 1, shape ``(n,)``.
        table: Random numbers from 0 to 1 for cells, shape ``(5, 256, 256)``.
    """

    x: Floats
    y: Floats
    cos: Floats
    sin: Floats
    soil: Floats
    leaf: Floats
    grain: Floats
    vigour: Floats
    trait: Floats
    table: Floats

    @cached_property
    def u(self) -> Floats:
        """Distance along the rows of plants or streets in pixels, shape ``(n,)``."""
        return self.x * self.cos + self.y * self.sin

    @cached_property
    def v(self) -> Floats:
        """Distance across them in pixels, shape ``(n,)``."""
        return self.y * self.cos - self.x * self.sin

    def towards_sun(self, pixels: float) -> Pixels:
        """The points so far towards the sun: what stands there casts its shadow here."""
        return replace(self, x=self.x + _SUN[0] * pixels, y=self.y + _SUN[1] * pixels)


def settle(pixels: Pixels) -> NDArray[np.uint16]:
    """What the ground of built-up parcels is, cover ids: buildings, paving or gardens."""
    house, _ = _plots(pixels)
    green = _lookup(pixels.table[4], *_plot_cells(pixels)) < 0.45
    paved = np.where(~_streets(pixels) & green, GARDEN, PAVED)
    return np.where(house, BUILDING, paved).astype(np.uint16)


def _lookup(table: Floats, cell_x: NDArray[np.int32], cell_y: NDArray[np.int32]) -> Floats:
    result: Floats = table[cell_y & (TABLE - 1), cell_x & (TABLE - 1)]
    return result


def _crowns(
    pixels: Pixels, spacing: float, radius: float, present: Floats | float
) -> tuple[Floats, Floats, Floats]:
    """The nearest of many round crowns, one in each cell of a jittered grid.

    Args:
        pixels: Where to look.
        spacing: Side of a cell in pixels.
        radius: Mean radius of a crown in pixels.
        present: Share of the cells that hold a crown.

    Returns:
        Offset from the crown's centre eastwards and southwards in radii, and a random number of
        the crown; the offset is at least 1 long where there is no crown.

    Source:
        Worley, "A cellular texture basis function", SIGGRAPH 1996.
    """
    x, y, table = pixels.x, pixels.y, pixels.table
    cell_x = np.floor(x / spacing).astype(np.int32)
    cell_y = np.floor(y / spacing).astype(np.int32)
    nearest = np.full(x.shape, np.inf, np.float32)
    east, south, random = np.full_like(x, 9.0), np.full_like(x, 9.0), np.zeros_like(x)
    for step_y in (-1, 0, 1):
        for step_x in (-1, 0, 1):
            here = (cell_x + step_x, cell_y + step_y)
            size = radius * (0.7 + 0.6 * _lookup(table[2], *here))
            dx = (x - (here[0] + _lookup(table[0], *here)) * spacing) / size
            dy = (y - (here[1] + _lookup(table[1], *here)) * spacing) / size
            length = np.where(_lookup(table[3], *here) < present, dx * dx + dy * dy, np.inf)
            closer = length < nearest
            nearest = np.where(closer, length, nearest)
            east, south = np.where(closer, dx, east), np.where(closer, dy, south)
            random = np.where(closer, _lookup(table[4], *here), random)
    return east, south, random


def _light(east: Floats, south: Floats) -> tuple[Flags, Floats]:
    """Which pixels a dome covers, and how brightly the sun lights it there (0 to 1)."""
    squared = east * east + south * south
    up = np.sqrt(np.clip(1 - squared, 0, 1))
    return squared < 1, np.clip(east * _SUN[0] + south * _SUN[1] + up * _SUN[2], 0, 1)


def _trees(
    pixels: Pixels,
    under: Floats,
    spacing: float,
    radius: float,
    present: Floats | float,
    tint: tuple[float, float, float] = (0.62, 0.70, 0.66),
) -> Floats:
    """Crowns with their shadows over whatever grows below, shape ``(n, 3)``."""
    east, south, _ = _crowns(pixels.towards_sun(1.3 * radius), spacing, radius, present)
    shadow, _ = _light(east, south)
    east, south, random = _crowns(pixels, spacing, radius, present)
    crown, light = _light(east, south)
    tone = pixels.leaf * np.asarray(tint, np.float32) * (0.8 + 0.4 * random)[:, None]
    leaves = tone * (0.45 + 0.85 * light)[:, None]
    below = under * np.where(shadow, 0.42, 1.0)[:, None].astype(np.float32)
    return np.where(crown[:, None], leaves, below)


def _mixed(first: Floats, second: Floats, share: Floats | float) -> Floats:
    """``share`` of the second tone in the first, pixel by pixel."""
    part = np.broadcast_to(np.asarray(share, np.float32), first.shape[:1])[:, None]
    return first * (1 - part) + second * part


def _conifers(pixels: Pixels) -> Floats:
    under = _mixed(pixels.soil, pixels.leaf, 0.5) * 0.8
    return _trees(pixels, under, 7.0, 4.0, 0.55 + 0.5 * pixels.vigour)


def _oaks(pixels: Pixels) -> Floats:
    under = _mixed(pixels.soil, pixels.leaf, 0.6) * 0.85
    return _trees(pixels, under, 11.0, 6.4, 0.5 + 0.55 * pixels.vigour, (0.78, 0.82, 0.74))


def _scrub(pixels: Pixels) -> Floats:
    under = _mixed(pixels.soil, pixels.leaf, 0.25 + 0.3 * pixels.vigour)
    return _trees(pixels, under, 3.6, 1.5, 0.35 + 0.45 * pixels.vigour, (0.72, 0.78, 0.72))


def _pasture(pixels: Pixels) -> Floats:
    # From bleached straw to lush and dark as water: the parcel's trait decides.
    grass = pixels.leaf * (1.25 - 0.75 * pixels.trait)[:, None]
    return _mixed(grass, pixels.soil, 0.45 * (1 - pixels.trait) * (1 - 0.6 * pixels.vigour))


def _cereal(pixels: Pixels) -> Floats:
    # Drill rows of 3.5 m of stubble and regrowth, and the wheel tracks of the sprayer.
    row = np.cos(pixels.v * (2 * np.pi / 7.0))
    grown = np.clip(0.25 + 0.7 * pixels.trait + 0.3 * (pixels.vigour - 0.5) + 0.28 * row, 0, 1)
    field = _mixed(pixels.soil, pixels.leaf * 1.08, grown)
    track = np.abs(np.mod(pixels.v, 56.0) - 28.0) < 1.2
    return np.where(track[:, None], pixels.soil * 0.92, field)


def _vines(pixels: Pixels) -> Floats:
    # Rows 3 m apart with gaps where vines died.
    row = np.mod(pixels.v, 6.0)
    cell = (np.floor(pixels.u / 3).astype(np.int32), np.floor(pixels.v / 6).astype(np.int32))
    alive = _lookup(pixels.table[0], *cell) < 0.93
    vine = alive & (row < 2.6)
    shade = alive & (row >= 2.6) & (row < 3.4)
    field = np.where(shade[:, None], pixels.soil * 0.55, pixels.soil)
    return np.where(vine[:, None], pixels.leaf * 0.82, field)


def _olives(pixels: Pixels) -> Floats:
    # The harrowed ground between the trees is bare.
    shadow, _ = _light(*_plantation(pixels.towards_sun(5.0)))
    east, south = _plantation(pixels)
    crown, light = _light(east, south)
    tone = pixels.leaf * np.asarray((0.80, 0.84, 0.82), np.float32)
    field = pixels.soil * np.where(shadow, 0.5, 1.0)[:, None].astype(np.float32)
    return np.where(crown[:, None], tone * (0.5 + 0.7 * light)[:, None], field)


def _plantation(pixels: Pixels, spacing: float = 14.0) -> tuple[Floats, Floats]:
    """Offset from the tree of a square plantation of 7 m, eastwards and southwards in radii."""
    cell = (
        np.floor(pixels.u / spacing).astype(np.int32),
        np.floor(pixels.v / spacing).astype(np.int32),
    )
    size = 4.3 * (0.8 + 0.35 * _lookup(pixels.table[2], *cell))
    along = np.mod(pixels.u, spacing) - spacing / 2 + 1.2 * (_lookup(pixels.table[0], *cell) - 0.5)
    across = np.mod(pixels.v, spacing) - spacing / 2 + 1.2 * (_lookup(pixels.table[1], *cell) - 0.5)
    east = (along * pixels.cos - across * pixels.sin) / size
    south = (along * pixels.sin + across * pixels.cos) / size
    return east, south


def _reservoir(pixels: Pixels) -> Floats:
    # Murky: the colour of leaves in shade, a little bluer, and smooth.
    calm = pixels.leaf / (1 + 0.07 * pixels.grain[:, None])
    murk = calm * np.asarray((0.50, 0.60, 0.72), np.float32)
    return murk * (0.85 + 0.45 * pixels.trait + 0.10 * pixels.vigour)[:, None]


def _plot_cells(pixels: Pixels) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    return (
        np.floor(pixels.u / 34.0).astype(np.int32),
        np.floor(pixels.v / 30.0).astype(np.int32),
    )


def _streets(pixels: Pixels) -> Flags:
    return (np.mod(pixels.u, 136.0) < 11.0) | (np.mod(pixels.v, 60.0) < 9.0)


def _plots(pixels: Pixels) -> tuple[Flags, Floats]:
    """Which pixels have a house, and a random number of the house."""
    cell = _plot_cells(pixels)
    half_u = 7.5 + 7.0 * _lookup(pixels.table[0], *cell)
    half_v = 5.5 + 5.0 * _lookup(pixels.table[1], *cell)
    house = (
        (np.abs(pixels.u - (cell[0] + 0.56) * 34.0) < half_u)
        & (np.abs(pixels.v - (cell[1] + 0.62) * 30.0) < half_v)
        & (_lookup(pixels.table[3], *cell) < 0.92)
        & ~_streets(pixels)
    )
    return house, _lookup(pixels.table[2], *cell)


def _built(pixels: Pixels, under: Floats) -> Floats:
    """Ground between houses, in their shadow where they throw one."""
    shadow, _ = _plots(pixels.towards_sun(9.0))
    return under * np.where(shadow, 0.42, 1.0)[:, None].astype(np.float32)


def _buildings(pixels: Pixels) -> Floats:
    _, random = _plots(pixels)
    roofs: Floats = np.asarray(_ROOFS, np.float32)
    tone = roofs[(random * len(roofs)).astype(np.int32)]
    # A gable roof has a bright and a dark half.
    bright = np.where(np.mod(pixels.v, 30.0) > 0.62 * 30.0, 1.09, 0.91).astype(np.float32)
    return tone * bright[:, None]


def _paved(pixels: Pixels) -> Floats:
    asphalt = np.full_like(pixels.soil, 132.0) + 0.12 * pixels.soil
    ground = _mixed(pixels.soil, asphalt, 0.45)
    return _built(pixels, np.where(_streets(pixels)[:, None], asphalt, ground))


def _gardens(pixels: Pixels) -> Floats:
    lawn = _mixed(pixels.leaf, pixels.soil, 0.35)
    return _built(pixels, _trees(pixels, lawn, 11.0, 3.4, 0.5))


PAINTERS: dict[int, Callable[[Pixels], Floats]] = {
    CONIFERS: _conifers,
    OAKS: _oaks,
    SCRUB: _scrub,
    PASTURE: _pasture,
    CEREAL: _cereal,
    VINES: _vines,
    OLIVES: _olives,
    RESERVOIR: _reservoir,
    BUILDING: _buildings,
    PAVED: _paved,
    GARDEN: _gardens,
}
