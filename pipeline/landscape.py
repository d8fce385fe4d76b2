"""Landscape: the parcels of the demo's made-up ground, and its picture from the air.

Colours belong to parcels, not to covers: each parcel draws one soil and one leaf tone. A pixel
alone tells little; its surroundings tell what it is (see :mod:`pipeline.textures`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline.textures import PAINTERS, TABLE, Flags, Floats, Pixels

_SOILS = ((206, 186, 150), (176, 128, 92), (160, 148, 128), (224, 210, 182))
_LEAVES = ((112, 116, 78), (84, 104, 64), (150, 142, 98), (100, 108, 62))


@dataclass(frozen=True)
class Ground:
    """The parcels of the province on its pixels.

    Attributes:
        parcel: Index of each pixel's parcel, shape ``(rows, cols)``.
        angle: Direction of each parcel's rows of plants or streets in radians, shape ``(n,)``.
        soil: Tone of each parcel's bare ground, shape ``(n, 3)``.
        leaf: Tone of each parcel's leaves, shape ``(n, 3)``.
        trait: A random number of each parcel from 0 to 1, shape ``(n,)``.
        vigour: Growth, about 0 to 1, shape ``(rows, cols)``.
        relief: Slopes and haze, about -1 to 1, shape ``(rows, cols)``.
        grain: Roughness of the ground at a metre, about -1 to 1, shape ``(rows, cols)``.
        table: Random numbers for cells, shape ``(5, 256, 256)``.
    """

    parcel: NDArray[np.int32]
    angle: Floats
    soil: Floats
    leaf: Floats
    trait: Floats
    vigour: Floats
    relief: Floats
    grain: Floats
    table: Floats

    def pixels(self, where: Flags) -> Pixels:
        """The pixels of a mask of shape ``(rows, cols)``, in row order."""
        rows, cols = np.nonzero(where)
        x, y = cols.astype(np.float32), rows.astype(np.float32)
        parcel = self.parcel[where]
        grain = self.grain[where]
        rough = 1 + 0.07 * grain[:, None]
        return Pixels(
            x=x,
            y=y,
            cos=np.cos(self.angle)[parcel],
            sin=np.sin(self.angle)[parcel],
            soil=self.soil[parcel] * rough,
            leaf=self.leaf[parcel] * rough,
            grain=grain,
            vigour=self.vigour[where],
            trait=self.trait[parcel],
            table=self.table,
        )


def tessellate(
    width: float, height: float, spacing: float, rng: np.random.Generator
) -> NDArray[np.object_]:
    """Cut the ground into irregular parcels without gaps or overlaps.

    Args:
        width: Extent eastwards in metres, from 0; parcels reach beyond it.
        height: Extent northwards in metres, from 0; likewise.
        spacing: Mean distance from one parcel to the next in metres.
        rng: Source of all that is random.

    Returns:
        Polygons with coordinates in whole millimetres, shape ``(n,)``, by place.
    """
    # Longer than wide, and askew to the sheets: fields are not laid out by mapmakers.
    long, wide, askew = 1.3 * spacing, spacing / 1.3, 0.35
    reach = int(np.hypot(width, height) / wide)
    place, row = np.meshgrid(np.arange(-reach, reach), np.arange(-reach, reach))
    along = (place + 0.5 * (row % 2) + rng.uniform(-0.42, 0.42, row.shape)) * long
    across = (row + rng.uniform(-0.42, 0.42, row.shape)) * wide
    x = along * np.cos(askew) - across * np.sin(askew) + width / 2
    y = along * np.sin(askew) + across * np.cos(askew) + height / 2
    far = 4 * spacing
    near = (np.abs(x - width / 2) < width / 2 + far) & (np.abs(y - height / 2) < height / 2 + far)
    cells = shapely.get_parts(
        shapely.voronoi_polygons(shapely.multipoints(np.column_stack([x[near], y[near]])))
    )
    cells = cells[shapely.intersects(cells, shapely.box(-10, -10, width + 10, height + 10))]
    order = np.lexsort(shapely.get_coordinates(shapely.centroid(cells)).round(3).T)
    # Straight edges are bent by moving every vertex by a field of its place alone, so that
    # neighbours keep their common edge.
    phases = rng.uniform(0, 2 * np.pi, (3, 2))
    cells = shapely.segmentize(cells[order], 6.0)
    result: NDArray[np.object_] = shapely.transform(cells, lambda points: _bent(points, phases))
    return result


def lay_out(parcel: NDArray[np.int32], parcels: int, rng: np.random.Generator) -> Ground:
    """Draw the tones and directions of parcels and the growth and relief of the ground.

    Args:
        parcel: Index of each pixel's parcel, shape ``(rows, cols)``.
        parcels: Number of parcels.
        rng: Source of all that is random.
    """
    return Ground(
        parcel=parcel,
        angle=rng.uniform(0, np.pi, parcels).astype(np.float32),
        soil=_tones(_SOILS, parcels, rng),
        leaf=_tones(_LEAVES, parcels, rng),
        trait=rng.uniform(0, 1, parcels).astype(np.float32),
        vigour=np.clip(0.5 + 0.28 * noise(parcel.shape, 28.0, rng), 0, 1),
        relief=np.clip(0.5 * noise(parcel.shape, 160.0, rng), -1, 1),
        grain=noise(parcel.shape, 1.6, rng),
        table=rng.uniform(0, 1, (5, TABLE, TABLE)).astype(np.float32),
    )


def patches(
    parcel: NDArray[np.int32], share: NDArray[np.float64], rng: np.random.Generator
) -> Flags:
    """Mark patches that make up an exact share of each parcel's pixels.

    Args:
        parcel: Index of each pixel's parcel, shape ``(rows, cols)``.
        share: The share wanted of each parcel, from 0 to 1, shape ``(n,)``.
        rng: Source of the patches.

    Returns:
        The patches, shape ``(rows, cols)``.
    """
    # Smooth noise is ranked within each parcel: its lowest ranks are patches.
    order = np.lexsort((noise(parcel.shape, 11.0, rng).ravel(), parcel.ravel()))
    size = np.bincount(parcel.ravel(), minlength=len(share))
    rank = np.empty(parcel.size, np.int64)
    rank[order] = np.arange(parcel.size) - np.repeat(np.cumsum(size) - size, size)
    inside: Flags = rank.reshape(parcel.shape) < np.rint(share * size)[parcel]
    return inside


def noise(shape: tuple[int, ...], pixels: float, rng: np.random.Generator) -> Floats:
    """Gaussian noise that is smooth over a distance.

    Args:
        shape: Rows and columns.
        pixels: Standard deviation of the Gaussian that smooths it, in pixels.
        rng: Source of the noise.

    Returns:
        Mean 0 and standard deviation 1, shape ``(rows, cols)``.
    """
    smooth = blurred(rng.standard_normal(shape, dtype=np.float32), pixels)
    result: Floats = (smooth - smooth.mean()) / smooth.std()
    return result


def blurred(image: Floats, pixels: float) -> Floats:
    """A Gaussian blur by way of frequencies; it wraps around at the edges.

    Args:
        image: Shape ``(rows, cols)``.
        pixels: Standard deviation in pixels.
    """
    rows, cols = image.shape
    down = np.fft.fftfreq(rows).astype(np.float32)[:, None]
    across = np.fft.rfftfreq(cols).astype(np.float32)[None, :]
    keep = np.exp(-2 * np.float32(np.pi * pixels) ** 2 * (down**2 + across**2))
    result: Floats = np.fft.irfft2(np.fft.rfft2(image) * keep, s=image.shape).astype(np.float32)
    return result


def paint(ground: Ground, cover: NDArray[np.uint16], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Take the picture of the ground from the air.

    Args:
        ground: The parcels.
        cover: SIOSE cover id of each pixel, shape ``(rows, cols)``.
        rng: Source of the sensor's noise.

    Returns:
        Red, green, blue from 1 to 255 (0 is left to nodata), shape ``(3, rows, cols)``.

    Raises:
        ValueError: If there is a cover that nobody paints.
    """
    unknown = set(np.unique(cover).tolist()) - set(PAINTERS)
    if unknown:
        raise ValueError(f"covers {sorted(unknown)} have no painter")
    picture = np.empty((3, *cover.shape), np.float32)
    for number, painter in PAINTERS.items():
        where = cover == number
        if where.any():
            picture[:, where] = painter(ground.pixels(where)).T
    shaded = 1 + 0.06 * ground.relief
    for band in picture:
        # Optics first, noise after: neighbouring pixels share light, not noise.
        band[:] = blurred(band * shaded, 0.6)
        band += rng.normal(0, 3.0, band.shape)
    return np.clip(np.rint(picture), 1, 255).astype(np.uint8)


def _tones(anchors: tuple[tuple[int, ...], ...], count: int, rng: np.random.Generator) -> Floats:
    """Random mixtures of a few tones, shape ``(count, 3)``."""
    shares = rng.dirichlet([0.6] * len(anchors), count)
    brightness = rng.normal(1.0, 0.06, (count, 1))
    tones: Floats = (shares @ np.asarray(anchors) * brightness).astype(np.float32)
    return tones


def _bent(points: NDArray[np.float64], phases: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points moved by waves 140, 61 and 17 m long and 6, 3 and 0.7 m high."""
    moved = points.copy()
    waves = zip(phases, (140.0, 61.0, 17.0), (6.0, 3.0, 0.7), strict=True)
    for (one, other), length, reach in waves:
        x, y = points[:, 0] * (2 * np.pi / length), points[:, 1] * (2 * np.pi / length)
        moved[:, 0] += reach * np.sin(y + 0.4 * x + one)
        moved[:, 1] += reach * np.sin(x - 0.3 * y + other)
    return moved.round(3)
