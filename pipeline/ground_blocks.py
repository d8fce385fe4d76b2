"""BlockMatrices: a confusion matrix of each square of judged ground.

Neighbouring pixels are alike: a million of them in one field say little more than one. Squares of
ground are what a bootstrap draws instead of pixels.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from pipeline.confusion import confusion_counts
from pipeline.errors import InputError
from pipeline.grid import Window

LAYOUT = 1
"""Version of the Parquet file; raised when its columns change their meaning."""

Cut = tuple[int, int, int]
"""First row or column of a square, the one behind the last, and the square's number."""

_REMEDY = "Delete the file; the rule `evaluation` writes it again."


@dataclass(frozen=True, eq=False)
class BlockMatrices:
    """Confusion matrices of squares of ground; those without a judged pixel are left out.

    Attributes:
        names: Class names in the order of their ids.
        places: Column and row of each square, int64, shape ``(squares, 2)``, sorted by row and
            column, in a lattice whose origin is the CRS's; rows are counted southwards. Sheets of
            the same ground, CRS and ``side_m`` share places.
        crs: CRS as WKT.
        counts: Pixels, int64, shape ``(squares, classes, classes)``: row = reference, column =
            mapped.
        side_m: Side of a square in units of the CRS.

    Raises:
        ValueError: If the shapes do not fit.
    """

    names: tuple[str, ...]
    places: NDArray[np.int64]
    crs: str
    counts: NDArray[np.int64]
    side_m: float

    def __post_init__(self) -> None:
        places, counts = np.asarray(self.places), np.asarray(self.counts)
        size, squares = len(self.names), len(places)
        if places.shape != (squares, 2) or counts.shape != (squares, size, size):
            raise ValueError(
                f"places {places.shape} and counts {counts.shape} are of other squares or classes "
                f"than {size}"
            )

    @classmethod
    def of(
        cls,
        names: tuple[str, ...],
        matrices: Mapping[tuple[int, int], NDArray[np.int64]],
        crs: str,
        side_m: float,
    ) -> BlockMatrices:
        """From the matrix of each place; matrices without a pixel are left out."""
        found = [place for place, counts in matrices.items() if counts.any()]
        found.sort(key=lambda place: (place[1], place[0]))
        size = len(names)
        counts = np.array([matrices[place] for place in found], np.int64)
        places = np.array(found, np.int64)
        return cls(names, places.reshape(-1, 2), crs, counts.reshape(-1, size, size), side_m)

    def coarser(self, times: int) -> BlockMatrices:
        """The same ground in squares whose sides are so many times as long.

        Raises:
            ValueError: If that is no whole number of sides.
        """
        if times < 1:
            raise ValueError(f"sides {times} times as long: at least once")
        size = len(self.names)
        # From the lattice's own origin, so that sheets go on sharing places.
        keys, into = np.unique((self.places // times)[:, ::-1], axis=0, return_inverse=True)
        counts = np.zeros((len(keys), size, size), np.int64)
        np.add.at(counts, into.reshape(-1), self.counts)
        return BlockMatrices(self.names, keys[:, ::-1], self.crs, counts, self.side_m * times)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BlockMatrices):
            return NotImplemented
        mine, theirs = (self.names, self.crs, self.side_m), (other.names, other.crs, other.side_m)
        return (
            mine == theirs
            and np.array_equal(self.places, other.places)
            and np.array_equal(self.counts, other.counts)
        )

    __hash__ = None  # type: ignore[assignment]


def square_counts(
    window: Window,
    reference: NDArray[np.uint8],
    mapped: NDArray[np.uint8],
    cuts: tuple[Sequence[Cut], Sequence[Cut]],
    classes: int,
) -> dict[tuple[int, int], NDArray[np.int64]]:
    """Count what a window has of each square, reference class against mapped class.

    Args:
        window: A window of the sheet.
        reference: Class ids of its pixels; 255 where a pixel is not judged.
        mapped: Class ids of the map; 255 where it has no data.
        cuts: Where the lattice cuts the sheet; see :func:`pipeline.tiling.lattice_cuts`.
        classes: Number of classes.

    Returns:
        By place of the square, shape ``(classes, classes)``; those without pixels are left out.

    Raises:
        ValueError: If an id is neither a class nor 255.
    """
    found = {}
    columns = _met(cuts[1], window.col, window.right)
    for top, bottom, down in _met(cuts[0], window.row, window.bottom):
        for left, right, across in columns:
            part = Window(left, top, right - left, bottom - top).intersection(window)
            assert part is not None
            pixels = part.slices(window)
            counts = confusion_counts(reference[pixels], mapped[pixels], classes)
            if counts.any():
                found[across, down] = counts
    return found


def _met(cuts: Sequence[Cut], first: int, behind: int) -> Sequence[Cut]:
    """Squares that have a row or column of a range; a sheet has far more than a window meets."""
    start = bisect_right(cuts, first, key=lambda cut: cut[1])
    return cuts[start : bisect_left(cuts, behind, key=lambda cut: cut[0])]


def write_blocks(blocks: BlockMatrices, draft: Path) -> None:
    """Write matrices as Parquet, a row a square; the same matrices give the same bytes."""
    size = len(blocks.names)
    cells = pyarrow.array(blocks.counts.reshape(-1), pyarrow.int64())
    table = pyarrow.table(
        {
            "column": pyarrow.array(blocks.places[:, 0], pyarrow.int64()),
            "row": pyarrow.array(blocks.places[:, 1], pyarrow.int64()),
            # Of the matrix row by row: row = reference, column = mapped.
            "counts": pyarrow.FixedSizeListArray.from_arrays(cells, size * size),
        }
    )
    told = {"layout": LAYOUT, "classes": blocks.names, "crs": blocks.crs, "side": blocks.side_m}
    metadata = {b"tesela": json.dumps(told, sort_keys=True, ensure_ascii=False).encode()}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), draft, compression="zstd")


def read_blocks(path: Path) -> BlockMatrices:
    """Read what :func:`write_blocks` wrote.

    Raises:
        InputError: If it is missing, damaged or another kind of file.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file.", remedy="Run evaluation first.")
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read ({error}).", remedy=_REMEDY) from error
    told = json.loads((table.schema.metadata or {}).get(b"tesela", b"{}"))
    if told.get("layout") != LAYOUT or table.column_names != ["column", "row", "counts"]:
        raise InputError(
            f"{path}: holds no matrices of squares of layout {LAYOUT}, the one this version reads.",
            remedy=_REMEDY,
        )
    names = tuple(told["classes"])
    places = np.stack([table[name].to_numpy() for name in ("column", "row")], axis=1)
    cells = table["counts"].combine_chunks().flatten().to_numpy()
    counts = cells.reshape(-1, len(names), len(names))
    return BlockMatrices(names, places, told["crs"], counts, float(told["side"]))
