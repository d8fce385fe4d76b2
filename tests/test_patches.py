"""Patches of a map: their numbers, areas and borders, and the files that hold them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import borders as border_files
from pipeline import patch_table
from pipeline.borders import BorderStore
from pipeline.errors import InputError
from pipeline.patch_table import PatchTable
from pipeline.patches import NOWHERE, PatchFinder, PixelUnits

_ = 255
# A ring of 1 whose ends meet in the last row, in it 0 with a hole; beside it no data.
MAP = np.array(
    [
        [1, 1, 1, 1, _, 2],
        [1, 0, 0, 1, _, 2],
        [1, 0, 2, 1, 2, 2],
        [1, 0, 0, 1, 2, 0],
        [1, 1, 1, 1, 1, 0],
    ],
    np.uint8,
)


def found(
    pixels: NDArray[np.uint8], folder: Path, strip_rows: int, limit: int = 10**6
) -> tuple[PatchTable, BorderStore, NDArray[np.int64]]:
    """Patches of a map, and the patch of each pixel."""
    folder.mkdir(exist_ok=True)
    table, borders = PatchTable(folder), BorderStore(folder / "borders", 3)
    rows = len(pixels)
    finder = PatchFinder(
        table, borders, rows, PixelUnits(np.ones(rows, np.int64), 1, 1, 1.0), limit
    )
    numbers = np.empty(pixels.shape, np.int64)
    for row in range(0, rows, strip_rows):
        part = numbers[row : row + strip_rows]
        runs = finder.add(pixels[row : row + strip_rows])
        assert runs.starts[0] == 0
        part[:] = np.repeat(runs.patches, np.diff(runs.starts, append=part.size)).reshape(
            part.shape
        )
    some = numbers != NOWHERE
    np.testing.assert_array_equal(some, pixels != _)
    numbers[some] = table.own(numbers[some])
    return table, borders, numbers


def lengths(borders: BorderStore, table: PatchTable) -> dict[tuple[int, int], int]:
    total: dict[tuple[int, int], int] = defaultdict(int)
    for rows in borders.read():
        owners, neighbours = table.own(rows.owners), table.own(rows.neighbours)
        for owner, neighbour, length in zip(owners, neighbours, rows.lengths, strict=True):
            total[int(owner), int(neighbour)] += int(length)
    return dict(total)


@pytest.mark.parametrize("strip_rows", [1, 2, 3, 5])
def test_areas_edges_and_borders_do_not_depend_on_strips(strip_rows: int, tmp_path: Path) -> None:
    table, borders, numbers = found(MAP, tmp_path / "files", strip_rows)
    ring, two, zero, hole, corner = (
        int(numbers[place]) for place in ((0, 0), (0, 5), (1, 1), (2, 2), (3, 5))
    )
    # In the order of their first pixels.
    assert ring < two < zero < hole < corner
    assert table.patches == 5
    places = [ring, two, zero, hole, corner]
    assert table.areas[places].tolist() == [15, 5, 5, 1, 2]
    assert table.classes[places].tolist() == [1, 2, 0, 2, 0]
    assert table.outside[places].tolist() == [True, True, False, False, True]
    assert (numbers[:, 0] == ring).all()
    assert (numbers[0:3, 5] == two).all()
    inside = {(ring, zero): 9, (zero, hole): 3, (ring, hole): 1, (ring, two): 3, (two, corner): 2}
    expected = {**inside, (ring, corner): 1}
    assert lengths(borders, table) == expected | {(b, a): n for (a, b), n in expected.items()}


def test_borders_between_large_patches_are_not_kept(tmp_path: Path) -> None:
    table, borders, numbers = found(MAP, tmp_path / "files", 5, limit=5)
    ring, hole, corner = (int(numbers[place]) for place in ((0, 0), (2, 2), (3, 5)))
    owners = {owner for owner, _neighbour in lengths(borders, table)}
    assert owners == {hole, corner}
    assert lengths(borders, table)[hole, ring] == 1


def test_a_table_grows_and_hands_on_what_patches_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patch_table, "_FIRST", 2)
    monkeypatch.setattr(patch_table, "_CHUNK", 3)
    table = PatchTable(tmp_path)
    for first in range(0, 10, 5):
        numbers = table.add(np.full(5, first, np.uint8))
        assert numbers.tolist() == list(range(first, first + 5))
        table.areas[numbers] = 10**numbers
    table.outside[9] = True
    table.unite(np.array([9, 7, 6]), np.array([8, 6, 9]))  # 6 to 9, by way of each other
    table.unite(np.array([3, 3]), np.array([3, 2]))
    assert table.own(np.arange(10)).tolist() == [0, 1, 2, 2, 4, 5, 6, 6, 6, 6]
    assert table.areas[[2, 4, 6]].tolist() == [1100, 10**4, 1111 * 10**6]
    assert table.outside[:10].tolist() == [False] * 6 + [True, False, False, True]
    assert (table.patches, table.rows) == (6, 10)
    table.classes[6] = 3
    table.settle()
    assert table.classes[:10].tolist() == [0] * 5 + [5, 3, 3, 3, 3]
    assert table.column("more", np.uint32)[:10].tolist() == [0] * 10


def test_a_map_of_more_patches_than_numbers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patch_table, "MOST", 4)
    table = PatchTable(tmp_path)
    table.add(np.zeros(4, np.uint8))
    with pytest.raises(InputError, match="more than 4 patches"):
        table.add(np.zeros(1, np.uint8))


def test_borders_come_back_summed_and_all_of_an_owner_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(border_files, "_HELD", 7)  # so that it is written many times
    store = BorderStore(tmp_path / "borders", 4)
    draw = np.random.default_rng(0)
    expected: dict[tuple[int, int], int] = defaultdict(int)
    for _round in range(40):
        # Numbers of more than 31 bits too.
        owners = draw.integers(2**32 - 12, 2**32 - 2, 5)
        neighbours, some = draw.integers(0, 6, 5), draw.integers(1, 9, 5)
        store.add(owners, neighbours, some)
        for owner, neighbour, length in zip(owners, neighbours, some, strict=True):
            expected[int(owner), int(neighbour)] += int(length)
    read: dict[tuple[int, int], int] = {}
    seen: set[int] = set()
    for rows in store.read():
        owners_here = rows.owners[rows.firsts].tolist()
        assert owners_here == sorted(set(rows.owners.tolist()))
        assert not seen & set(owners_here)
        seen |= set(owners_here)
        pairs = list(zip(rows.owners.tolist(), rows.neighbours.tolist(), strict=True))
        assert pairs == sorted(set(pairs))
        read |= dict(zip(pairs, rows.lengths.tolist(), strict=True))
    assert read == expected
    assert len(seen) == 10
    store.remove()
    assert not (tmp_path / "borders").exists()
