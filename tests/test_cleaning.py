"""Cleaning: small pictures whose pixels are known, and an independent judge on random maps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.cleaning import cleaned_bands, pixel_units
from pipeline.errors import InputError, SettingsError
from pipeline.grid import PixelGrid, Window
from pipeline.sections import CleaningSettings

_ = 255


def grid_of(pixels: NDArray[np.uint8], crs: str = "EPSG:25830", side: float = 0.5) -> PixelGrid:
    rows, cols = pixels.shape
    left, top = (-3.0, 40.0) if crs == "EPSG:4258" else (700_000.0, 4_400_000.0)
    return PixelGrid(crs, left, top, side, side, cols, rows)


def cleaned(
    pixels: NDArray[np.uint8],
    folder: Path,
    grid: PixelGrid | None = None,
    *,
    threads: int = 1,
    band_rows: int = 512,
    strip_px: int = 2**22,
    **rules: Any,
) -> NDArray[np.uint8]:
    number = len(list(folder.iterdir())) if folder.exists() else 0
    grid = grid or grid_of(pixels)

    def read(window: Window) -> NDArray[np.uint8]:
        assert window.intersection(grid.window) == window
        return pixels[window.slices()]

    bands = list(
        cleaned_bands(
            read, grid, CleaningSettings.model_validate(rules), folder / str(number),
            threads=threads, band_rows=band_rows, strip_px=strip_px,
        )
    )  # fmt: skip
    result = np.concatenate([band.classes for band in bands])
    assert [band.window.row for band in bands] == list(range(0, grid.height, band_rows))
    assert sum(band.changed for band in bands) == np.count_nonzero(result != pixels)
    return result


def picture(*lines: str) -> NDArray[np.uint8]:
    """Class ids as digits, a dot for no data."""
    return np.array([[_ if c == "." else int(c) for c in line] for line in lines], np.uint8)


def equal(found: NDArray[np.uint8], *lines: str) -> None:
    np.testing.assert_array_equal(found, picture(*lines))


# What a pixel of half a metre has, in m².
PIXEL = 0.25


def test_the_majority_decides_and_ties_keep_the_class(tmp_path: Path) -> None:
    found = cleaned(picture("00111", "02111", "00211", "3300."), tmp_path, majority_px=3)
    # Corners have four votes, sides six: what is beyond the sheet does not vote. The 2 in the third
    # row has two votes, 0 and 1 three; the 3 in the corner has as many as 0, and keeps its class.
    equal(found, "00111", "00111", "00011", "3000.")


def test_a_tie_among_others_goes_to_the_smallest_class(tmp_path: Path) -> None:
    found = cleaned(picture("212", "505", "121"), tmp_path, majority_px=3)
    assert found[1, 1] == 1  # three votes each of 1 and of 2, two of 5, one of 0


def test_small_patches_join_the_neighbour_of_the_longest_border(tmp_path: Path) -> None:
    # 2 has two sides with 0 and six with 1, though 0 is the larger patch.
    found = cleaned(
        picture("000000", "000000", "122111", "111111"), tmp_path, min_area_m2=3 * PIXEL
    )
    equal(found, "000000", "000000", "111111", "111111")


def test_equal_borders_go_to_the_larger_then_the_smaller_class_then_the_first(
    tmp_path: Path,
) -> None:
    unit = 2 * PIXEL
    equal(cleaned(picture("0002111"), tmp_path, min_area_m2=unit), "0000111")
    equal(cleaned(picture("0021111"), tmp_path, min_area_m2=unit), "0011111")
    equal(cleaned(picture("1112000"), tmp_path, min_area_m2=unit), "1110000")
    # Of one class both: they become one whichever it is, and its class is theirs.
    equal(cleaned(picture("1112111"), tmp_path, min_area_m2=unit), "1111111")


def test_small_ones_beside_each_other_become_one_that_stays(tmp_path: Path) -> None:
    # Round by round: single pixels choose each other, the first of two equal ones wins.
    rows = picture("....", ".12.", ".21.", "....")
    equal(cleaned(rows, tmp_path, min_area_m2=4 * PIXEL), "....", ".11.", ".11.", "....")


def test_who_is_large_enough_after_a_round_stays(tmp_path: Path) -> None:
    # Below two pixels there is 1 alone: it joins 2, which has four pixels then and stays. In one
    # round of four pixels 2 would have joined 0, its longest border, and taken 1 with it.
    rows = picture("000000", "002200", "002100", "......")
    equal(cleaned(rows, tmp_path, min_area_m2=4 * PIXEL), *rows_of(rows, 1, 2))


def test_a_patch_of_exactly_the_unit_stays_and_an_isolated_one_too(tmp_path: Path) -> None:
    rows = picture("00000", "01100", "00000", ".....", "..2..")
    equal(
        cleaned(rows, tmp_path, min_area_m2=2 * PIXEL), "00000", "01100", "00000", ".....", "..2.."
    )
    equal(
        cleaned(rows, tmp_path, min_area_m2=2 * PIXEL + 0.01),
        *("00000", "00000", "00000", ".....", "..2.."),
    )


def test_corners_do_not_connect(tmp_path: Path) -> None:
    rows = picture("1000", "0100", "0010", "0001")
    # As one patch the diagonal would have four pixels.
    equal(cleaned(rows, tmp_path, min_area_m2=2 * PIXEL), "0000", "0000", "0000", "0000")


def test_holes_are_filled_up_to_their_limit(tmp_path: Path) -> None:
    rows = picture("00000000", "01100220", "00000220", "03000000", "03000.40", "00000000")
    found = cleaned(rows, tmp_path, max_hole_m2=2 * PIXEL)
    # 4 touches pixels without data; 2 is too large.
    equal(found, "00000000", "00000220", "00000220", "00000000", "00000.40", "00000000")
    rows = picture("0010", "0000", "0220", "0120")
    # At the sheet's edge nobody knows what is around them; 1 and 2 have two neighbours.
    equal(cleaned(rows, tmp_path, max_hole_m2=9.0), "0010", "0000", "0220", "0120")


def test_a_hole_in_a_hole_is_filled_first(tmp_path: Path) -> None:
    rows = picture("000000", "011110", "012210", "011110", "000000")
    equal(cleaned(rows, tmp_path, max_hole_m2=2 * PIXEL), *rows_of(rows, 2, 1))
    equal(cleaned(rows, tmp_path, max_hole_m2=11 * PIXEL), *rows_of(rows, 2, 1))
    equal(cleaned(rows, tmp_path, max_hole_m2=12 * PIXEL), *["000000"] * 5)


def rows_of(pixels: NDArray[np.uint8], old: int, new: int) -> list[str]:
    lines = np.where(pixels == old, new, pixels).tolist()
    return ["".join("." if value == _ else str(value) for value in line) for line in lines]


# The judge: pixel by pixel, with sets and dictionaries, by the words of the documentation.


class Judge:
    def __init__(self, pixels: NDArray[np.uint8], areas: list[int], across: int, down: int) -> None:
        self.pixels = pixels.copy()
        self.areas, self.across, self.down = areas, across, down

    def patches(self) -> tuple[list[list[tuple[int, int]]], dict[tuple[int, int], int]]:
        rows, cols = self.pixels.shape
        found: list[list[tuple[int, int]]] = []
        number: dict[tuple[int, int], int] = {}
        for row in range(rows):
            for col in range(cols):
                if self.pixels[row, col] == _ or (row, col) in number:
                    continue
                stack, members = [(row, col)], []
                number[row, col] = len(found)
                while stack:
                    place = stack.pop()
                    members.append(place)
                    for near, _side in self.near(*place):
                        if near not in number and self.pixels[near] == self.pixels[place]:
                            number[near] = len(found)
                            stack.append(near)
                found.append(sorted(members))
        return found, number

    def near(self, row: int, col: int) -> Iterator[tuple[tuple[int, int], int]]:
        rows, cols = self.pixels.shape
        for r, c, side in (
            (row - 1, col, self.across), (row + 1, col, self.across),
            (row, col - 1, self.down), (row, col + 1, self.down),
        ):  # fmt: skip
            if 0 <= r < rows and 0 <= c < cols:
                yield (r, c), side

    def area(self, members: list[tuple[int, int]]) -> int:
        return sum(self.areas[row] for row, col in members)

    def round(self, limit: int) -> None:
        found, number = self.patches()
        area = [self.area(members) for members in found]
        kind = [int(self.pixels[members[0]]) for members in found]
        chosen: dict[int, int] = {}
        for mine, members in enumerate(found):
            if area[mine] >= limit:
                continue
            borders: Counter[int] = Counter()
            for place in members:
                for near, side in self.near(*place):
                    if near in number and number[near] != mine:
                        borders[number[near]] += side
            if borders:
                chosen[mine] = min(borders, key=lambda n: (-borders[n], -area[n], kind[n], n))
        for mine, members in enumerate(found):
            chain = [mine]
            while chain[-1] in chosen and (len(chain) < 2 or chosen[chain[-1]] != chain[-2]):
                chain.append(chosen[chain[-1]])
            end = chain[-1]
            if end in chosen:  # it and the one before have chosen each other
                end = min(chain[-2:], key=lambda n: (-area[n], kind[n], n))
            for place in members:
                self.pixels[place] = kind[end]

    def reach(self, unit: int) -> None:
        limits = [unit]
        while limits[-1] > 1:
            limits.append(math.ceil(limits[-1] / 2))
        for limit in reversed(limits):
            self.round(limit)

    def fill(self, largest: int) -> None:
        rows, cols = self.pixels.shape
        again = True
        while again:
            again = False
            found, number = self.patches()
            for members in found:
                around = [
                    near for place in members for near, _side in self.near(*place)
                    if number.get(near) != number[place]
                ]  # fmt: skip
                edge = any(r in (0, rows - 1) or c in (0, cols - 1) for r, c in members)
                numbers = {number.get(near) for near in around}
                hole = not edge and None not in numbers and len(numbers) == 1
                if hole and self.area(members) <= largest:
                    kind = self.pixels[around[0]]
                    for place in members:
                        self.pixels[place] = kind
                    again = True
                    break


def judged_majority(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    result = pixels.copy()
    margin = size // 2
    for row, col in np.ndindex(pixels.shape):
        if pixels[row, col] == _:
            continue
        part = pixels[
            max(0, row - margin) : row + margin + 1, max(0, col - margin) : col + margin + 1
        ]
        votes = Counter(int(v) for v in part.ravel() if v != _)
        most = max(votes.values())
        if votes[int(pixels[row, col])] < most:
            result[row, col] = min(v for v, count in votes.items() if count == most)
    return result


def random_map(seed: int) -> NDArray[np.uint8]:
    draw = np.random.default_rng(seed)
    rows, cols = draw.integers(1, 26, 2)
    classes = int(draw.integers(2, 6))
    pixels = draw.integers(0, classes, (rows, cols)).astype(np.uint8)
    if seed % 3:  # larger patches with noise on them
        coarse = draw.integers(0, classes, (rows // 4 + 1, cols // 4 + 1)).astype(np.uint8)
        coarse = coarse.repeat(4, 0).repeat(4, 1)[:rows, :cols]
        pixels = np.where(draw.random((rows, cols)) < 0.75, coarse, pixels)
    if seed % 2:
        pixels[draw.random((rows, cols)) < draw.choice([0.02, 0.3])] = _
    return pixels


@pytest.mark.parametrize("seed", range(60))
def test_random_maps_are_cleaned_as_the_judge_says(seed: int, tmp_path: Path) -> None:
    pixels = random_map(seed)
    draw = np.random.default_rng(seed + 1000)
    unit, hole = (int(draw.choice([0, 2, 3, 5, 8, 13, 40])) for _side in range(2))
    size = int(draw.choice([0, 3, 5, 7]))
    if not (unit or hole or size):
        unit = 6
    expected = judged_majority(pixels, size) if size else pixels
    judge = Judge(expected, [1] * len(pixels), 1, 1)
    if unit:
        judge.reach(unit)
    if hole:
        judge.fill(hole)
    rules: dict[str, Any] = {
        "majority_px": size,
        "min_area_m2": unit * PIXEL,
        "max_hole_m2": hole * PIXEL,
    }
    for number, (bands, strip, threads) in enumerate([(512, 2**22, 1), (1, 1, 2), (7, 60, 2)]):
        found = cleaned(
            pixels,
            tmp_path / str(number),
            threads=threads,
            band_rows=bands,
            strip_px=strip,
            **rules,
        )
        np.testing.assert_array_equal(found, judge.pixels)
    if unit:
        patches, numbers = Judge(found, [1] * len(found), 1, 1).patches()
        for members in patches:
            alone = all(
                near not in numbers or numbers[near] == numbers[place]
                for place in members for near, _side in judge.near(*place)
            )  # fmt: skip
            assert len(members) >= unit or alone


@pytest.mark.parametrize("seed", range(6))
def test_pixels_of_degrees_have_areas_and_sides_of_their_own(seed: int, tmp_path: Path) -> None:
    pixels = random_map(seed * 3 + 1)
    # A pixel of a tenth of a degree: rows differ by a thousandth and more.
    grid = grid_of(pixels, "EPSG:4258", 0.1)
    units = pixel_units(grid)
    assert units.down == 4096
    assert units.across == pytest.approx(
        4096 * math.cos(math.radians(40 - len(pixels) / 20)), rel=0.01
    )
    assert (np.diff(units.areas) > 0).all()
    unit = int(units.areas[-1]) * 6
    judge = Judge(pixels, units.areas.tolist(), units.across, units.down)
    limits = [unit]
    while limits[-1] > units.areas.min():
        limits.append(-(-limits[-1] // 2))
    for limit in reversed(limits):
        judge.round(limit)
    found = cleaned(pixels, tmp_path, grid, min_area_m2=unit * units.unit_m2, band_rows=3)
    np.testing.assert_array_equal(found, judge.pixels)


def test_feet_are_feet(tmp_path: Path) -> None:
    pixels = picture("0000", "0110", "0000")
    # EPSG:2229 is in US survey feet: a pixel of 2 ft has 0.3716 m².
    grid = PixelGrid("EPSG:2229", 6_400_000.0, 1_800_000.0, 2.0, 2.0, 4, 3)
    assert pixel_units(grid).unit_m2 == pytest.approx(4 * (1200 / 3937) ** 2)
    equal(cleaned(pixels, tmp_path, grid, min_area_m2=0.74), "0000", "0110", "0000")
    equal(cleaned(pixels, tmp_path, grid, min_area_m2=0.75), "0000", "0000", "0000")


def test_pixels_that_are_not_square_have_longer_and_shorter_sides(tmp_path: Path) -> None:
    wide = PixelGrid("EPSG:25830", 0.0, 4e6, 3.0, 1.0, 4, 3)
    high = PixelGrid("EPSG:25830", 0.0, 4e6, 1.0, 3.0, 4, 3)
    assert (pixel_units(wide).across, pixel_units(wide).down) == (4096, 1365)
    # 2 lies below one pixel of 1 and beside one of 3, and behind it is nothing.
    pixels = picture("1110", "332.", "33..")
    equal(cleaned(pixels, tmp_path, wide, min_area_m2=5.0), "1111", "331.", "33..")
    equal(cleaned(pixels, tmp_path, high, min_area_m2=5.0), "1111", "333.", "33..")


def test_an_area_without_a_coordinate_system_is_refused(tmp_path: Path) -> None:
    pixels = picture("01")
    with pytest.raises(InputError, match="no area can be told"):
        cleaned(pixels, tmp_path, PixelGrid("", 0.0, 0.0, 1.0, 1.0, 2, 1), min_area_m2=5.0)


@pytest.mark.parametrize(
    ("rules", "message"), [({}, "nothing to clean"), ({"majority_px": 4}, "even")]
)
def test_rules_that_cannot_be_followed_are_refused(
    rules: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        cleaned(picture("01"), tmp_path, **rules)
