"""The label: both grammars, exactly where it breaks, and that nothing else can happen."""

from __future__ import annotations

import os
import pickle
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.rotulo import LabelError, Leaf, Part, leaves, off_percentages, parse, written

# `TESELA_RANDOM_LABELS=1000000 pytest tests/test_rotulo.py -k random_labels` for the million.
RANDOM_LABELS = int(os.environ.get("TESELA_RANDOM_LABELS", "100000"))

A_PART = "a percentage and a cover such as 66PAV"
AN_OPENING = "A, R, I or a cover such as UCS before '('"
PAIRS = "attributes in pairs of letters such as pl"
NEXT = "'_' or the end of the label"
INSIDE = "'_' or ')'"


# Reading


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("CHE", [Part("CHE")]),
        ("100EDF", [Part("EDF", (), 100.0)]),
        ("66PAV_34EDF", [Part("PAV", (), 66.0), Part("EDF", (), 34.0)]),
        ("ARBfrpl", [Part("ARB", ("fr", "pl"))]),
        ("70FDPpl_30CNFpl", [Part("FDP", ("pl",), 70.0), Part("CNF", ("pl",), 30.0)]),
        ("UCS", [Part("UCS")]),
        (
            "A(60MTR_40PST)",
            [Part("A", (), None, (Part("MTR", (), 60.0), Part("PST", (), 40.0)))],
        ),
        (
            "R(55CHLsc_45LVI)",
            [Part("R", (), None, (Part("CHL", ("sc",), 55.0), Part("LVI", (), 45.0)))],
        ),
        (
            "UCS(70EDFea_20VAP_10ZAU)",
            [
                Part(
                    "UCS",
                    (),
                    None,
                    (Part("EDF", ("ea",), 70.0), Part("VAP", (), 20.0), Part("ZAU", (), 10.0)),
                )
            ],
        ),
        (
            "I(55SNE_45UDS(80VAP_20EDF))",
            [
                Part(
                    "I",
                    (),
                    None,
                    (
                        Part("SNE", (), 55.0),
                        Part("UDS", (), 45.0, (Part("VAP", (), 80.0), Part("EDF", (), 20.0))),
                    ),
                )
            ],
        ),
        ("100A(EDF)", [Part("A", (), 100.0, (Part("EDF"),))]),
        (
            "60A(EDF)_40SNE",
            [Part("A", (), 60.0, (Part("EDF"),)), Part("SNE", (), 40.0)],
        ),
        ("DHSab(80PST_20FDP)", [
            Part("DHS", ("ab",), None, (Part("PST", (), 80.0), Part("FDP", (), 20.0)))
        ]),
        ("A(R(I(UDS)))", [Part("A", (), None, (Part("R", (), None, (Part("I", (), None, (
            Part("UDS"),)),)),))]),
        ("00EDF_100SNE", [Part("EDF", (), 0.0), Part("SNE", (), 100.0)]),
    ],
)  # fmt: skip
def test_labels_are_read(label: str, parts: list[Part]) -> None:
    assert parse(label) == tuple(parts)


@pytest.mark.parametrize(
    ("label", "canonical"),
    [
        ("5EDF_95SNE", "05EDF_95SNE"),
        ("0005EDF_095SNE", "05EDF_95SNE"),
        (" CHE ", "CHE"),
        ("\t70 EDF _ 30\u00a0SNE\r\n", "70EDF_30SNE"),
        (" I ( 55 SNE_45 UDS ( 45VAP _55 EDF ) ) ", "I(55SNE_45UDS(45VAP_55EDF))"),
        ("ARB fr pl", "ARBfrpl"),
        ("ARBfr  pl", "ARBfrpl"),
        ("ucs(70edf_30vap)", "UCS(70EDF_30VAP)"),
        ("a(60mtr_40pst)", "A(60MTR_40PST)"),
        ("70edfea_30Vap", "70EDFea_30VAP"),
        ("CHLSC", "CHLsc"),
        ("33.3EDF_66,7SNE", "33.3EDF_66.7SNE"),
        ("5.5EDF_94.50SNE", "05.5EDF_94.5SNE"),
        ("0.00001EDF_99.99999SNE", "00.00001EDF_99.99999SNE"),
        ("100.0EDF", "100EDF"),
    ],
)
def test_slips_are_read_and_written_as_they_should_be(label: str, canonical: str) -> None:
    assert written(parse(label)) == canonical
    assert parse(canonical) == parse(label)


@pytest.mark.parametrize(
    ("label", "position", "expected"),
    [
        # nothing, or no cover
        ("", 1, A_PART),
        ("  ", 3, A_PART),
        ("?EDF", 1, A_PART),
        ("70", 3, "a cover such as PAV"),
        ("70_30EDF", 3, "a cover such as PAV"),
        ("70EDF_30", 9, "a cover such as PAV"),
        ("33.EDF", 3, "a cover such as PAV"),
        ("33 .3EDF", 4, "a cover such as PAV"),
        ("7 0EDF", 3, "a cover such as PAV"),
        ("-5EDF", 1, A_PART),
        ("70EDF_", 7, A_PART),
        ("70EDF__30SNE", 7, A_PART),
        ("_70EDF", 1, A_PART),
        ("70EDF_30SN", 7, A_PART),
        ("ED", 1, A_PART),
        ("E DF", 1, A_PART),
        ("A B(EDF)", 1, AN_OPENING),
        ("٧٠EDF", 1, A_PART),  # digits, but not ASCII's
        ("70ÉDF", 3, "a cover such as PAV"),
        ("70EDF_30ŚNE", 9, "a cover such as PAV"),
        # percentages
        ("EDF_SNE", 1, "a percentage"),
        ("EDF_30SNE", 1, "a percentage"),
        ("70EDF_SNE", 7, "a percentage"),
        ("70EDF_ SNE", 8, "a percentage"),
        ("A(EDF_SNE)", 3, "a percentage"),
        ("A(70EDF_SNE)", 9, "a percentage"),
        ("I(UDS(70EDF_30SNE)_40PST)", 3, "a percentage"),
        ("A(EDF)_30SNE", 1, "a percentage"),
        ("70SNE_A(EDF)", 7, "a percentage"),
        ("101EDF", 1, "a percentage of at most 100"),
        ("70EDF_100.1SNE", 7, "a percentage of at most 100"),
        ("A(70EDF_999SNE)", 9, "a percentage of at most 100"),
        ("9" * 400 + "EDF", 1, "a percentage of at most 100"),
        # attributes
        ("EDFe", 4, PAIRS),
        ("70EDFeab_30SNE", 8, PAIRS),
        ("70EDF_30SNEx", 12, PAIRS),
        ("UDSx(EDF)", 4, PAIRS),
        ("ARBfr p", 7, PAIRS),
        ("ARB f r", 5, PAIRS),
        ("EDFVAP", 6, PAIRS),
        # what follows a cover
        ("70EDF30SNE", 6, NEXT),
        ("70EDF 30SNE", 7, NEXT),
        ("70EDF-30SNE", 6, NEXT),
        ("EDF.", 4, NEXT),
        ("EDFñ", 4, NEXT),
        ("A(70EDF30SNE)", 8, INSIDE),
        ("A(70EDF_30SNE)x", 15, NEXT),
        ("A(70EDF_30SNE) 30PST", 16, NEXT),
        ("A(EDF)(SNE)", 7, NEXT),
        ("A(70B01_30SNE)", 3, A_PART),
        # parentheses
        ("A(70EDF_30SNE", 14, INSIDE),
        ("I(70SNE_30UDS(EDF)", 19, INSIDE),
        ("70EDF)", 6, NEXT),
        ("A(EDF))", 7, NEXT),
        ("A()", 3, A_PART),
        ("A( )", 4, A_PART),
        ("A(70EDF_)", 9, A_PART),
        ("A(", 3, A_PART),
        ("(EDF)", 1, AN_OPENING),
        ("70(EDF)", 3, "a cover such as PAV"),
        ("M(60EDF_40SNE)", 1, AN_OPENING),
        ("70SNE_30UC(EDF)", 7, AN_OPENING),
        ("A", 2, "'('"),
        ("70SNE_30a", 10, "'('"),
        ("70A_30SNE", 4, "'('"),
        ("A(70I_30SNE)", 6, "'('"),
    ],
)
def test_an_error_names_the_place_and_what_should_be_there(
    label: str, position: int, expected: str
) -> None:
    with pytest.raises(LabelError) as caught:
        parse(label)
    assert (caught.value.position, caught.value.expected) == (position, expected)
    assert str(caught.value) == f"label {label!r}, position {position}: expected {expected}"


def test_an_error_survives_the_way_from_another_process() -> None:
    error = pickle.loads(pickle.dumps(LabelError("70EDF_SNE", 7, "a percentage")))
    assert str(error) == "label '70EDF_SNE', position 7: expected a percentage"


# Shares


def test_shares_multiply_down_the_tree() -> None:
    found = leaves(parse("I(70UDS(40EDFea_60ZAU)_30SNE)"))
    assert [(leaf.cover, leaf.attributes, leaf.within) for leaf in found] == [
        ("EDF", ("ea",), ("I", "UDS")),
        ("ZAU", (), ("I", "UDS")),
        ("SNE", (), ("I",)),
    ]
    assert [leaf.share for leaf in found] == pytest.approx([0.28, 0.42, 0.30], abs=1e-15)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("CHE", [1.0]),
        ("UCS", [1.0]),
        ("66PAV_34EDF", [0.66, 0.34]),
        ("A(EDF)", [1.0]),
        ("A(100EDF)", [1.0]),
        ("50A(EDF)_50SNE", [0.5, 0.5]),
        # rounded percentages are divided by their sum
        ("33EDF_33SNE_33PAV", [1 / 3] * 3),
        ("A(34EDF_34SNE_33PAV)", [34 / 101, 34 / 101, 33 / 101]),
        ("A(50UDS(33EDF_33SNE_33PAV)_50PST)", [1 / 6, 1 / 6, 1 / 6, 1 / 2]),
        ("17EDF_17SNE_17PAV_17PST_17MTR_17CNF", [1 / 6] * 6),
        ("99EDF", [1.0]),
        # beyond rounding they are used as they are
        ("60EDF_30SNE", [0.6, 0.3]),
        ("70EDF", [0.7]),
        ("A(50UDS(60EDF_20SNE)_50PST)", [0.3, 0.1, 0.5]),
        ("98EDF", [0.98]),
        ("00EDF_00SNE", [0.0, 0.0]),
    ],
)
def test_shares_of_the_polygon(label: str, expected: list[float]) -> None:
    assert [leaf.share for leaf in leaves(parse(label))] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("label", "off"),
    [
        ("CHE", []),
        ("33EDF_33SNE_33PAV", []),
        ("I(55SNE_45UDS(45VAP_35ZAU_20EDF))", []),
        ("A(33.3EDF_33.3SNE_33.3PAV)", []),
        ("60EDF_30SNE", ["the label sums to 90 %"]),
        ("70EDF", ["the label sums to 70 %"]),
        ("A(60MTR_30PST)", ["A sums to 90 %"]),
        ("A(60.5MTR_30PST)", ["A sums to 90.5 %"]),
        ("I(55SNE_45UDS(45VAP_35ZAU))", ["UDS in I sums to 80 %"]),
        (
            "60I(60SNE_45UDS(45VAP)_10UCS(50EDF))_30A(EDF)",
            [
                "the label sums to 90 %",
                "I sums to 115 %",
                "UDS in I sums to 45 %",
                "UCS in I sums to 50 %",
            ],
        ),
        # two parts round to 99 or 101, seven to 96.5 or 103.5
        ("A(49EDF_50SNE)", []),
        ("A(49EDF_49SNE)", ["A sums to 98 %"]),
        ("14EDF_14SNE_14PAV_14PST_14MTR_14CNF_13LVI", []),
        ("14EDF_14SNE_14PAV_14PST_14MTR_14CNF_12LVI", ["the label sums to 96 %"]),
    ],
)
def test_percentages_off_100_are_told(label: str, off: list[str]) -> None:
    assert off_percentages(parse(label)) == off


@pytest.mark.parametrize("function", [written, leaves, off_percentages])
def test_parts_side_by_side_need_percentages(function: object) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match="SNE stands beside others and has no percentage"):
        function((Part("EDF", (), 60.0), Part("SNE")))


# What holds for every label

NAMES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=3, max_size=3)
ATTRIBUTES = st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=2, max_size=2), max_size=3)
PERCENTAGES = st.one_of(st.integers(0, 100).map(float), st.floats(0, 100, allow_nan=False).map(abs))


def _siblings(covers: st.SearchStrategy[Part]) -> st.SearchStrategy[tuple[Part, ...]]:
    """One cover with or without a percentage, or several with."""

    def with_percentage(part: Part, percent: float | None) -> Part:
        return Part(part.cover, part.attributes, percent, part.parts)

    some = st.builds(with_percentage, covers, PERCENTAGES)
    alone = st.builds(with_percentage, covers, st.one_of(st.none(), PERCENTAGES))
    return st.one_of(st.tuples(alone), st.lists(some, min_size=2, max_size=4).map(tuple))


COVERS = st.recursive(
    st.builds(Part, NAMES, ATTRIBUTES.map(tuple)),
    lambda inner: st.one_of(
        st.builds(Part, st.sampled_from("ARI"), st.just(()), st.none(), _siblings(inner)),
        st.builds(Part, NAMES, ATTRIBUTES.map(tuple), st.none(), _siblings(inner)),
    ),
    max_leaves=12,
)
LABELS = _siblings(COVERS)


@given(LABELS)
def test_print_and_parse_are_inverse(parts: tuple[Part, ...]) -> None:
    label = written(parts)
    assert parse(label) == parts
    assert written(parse(label)) == label


@given(LABELS, st.randoms(use_true_random=False))
def test_case_and_white_space_say_nothing(parts: tuple[Part, ...], chance: random.Random) -> None:
    label = written(parts)
    other = label.upper() if chance.random() < 0.5 else label.lower()
    for mark in "_()":
        other = other.replace(mark, f"{chance.choice(['', ' '])}{mark}{chance.choice(['', '  '])}")
    assert parse(other) == parts


def _of_100(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The same label with percentages that sum to 100."""
    total = sum(part.percent or 0.0 for part in parts)
    return tuple(
        Part(
            part.cover,
            part.attributes,
            (part.percent or 0.0) / total * 100 if total else 100 / len(parts),
            _of_100(part.parts),
        )
        for part in parts
    )


@given(LABELS)
def test_shares_are_never_negative_and_sum_to_1_where_percentages_sum_to_100(
    parts: tuple[Part, ...],
) -> None:
    assert all(leaf.share >= 0 for leaf in leaves(parts))
    whole = _of_100(parts)
    assert off_percentages(whole) == []
    found = leaves(whole)
    assert all(leaf.share >= 0 for leaf in found)
    assert sum(leaf.share for leaf in found) == pytest.approx(1.0, abs=1e-12)


ALPHABET = "0123456789" + "ARIEDFUCSNE" + "aedfsc" + "__(())., " + "\n\u00a0é٧Ǆ½🌲-"


def _either_parses_or_names_the_place(label: str) -> bool:
    """Whether the label is one; if not, the error must lie within it."""
    try:
        parts = parse(label)
    except LabelError as error:
        told = error
    else:
        assert parse(written(parts)) == parts
        assert all(leaf.share >= 0 for leaf in leaves(parts))
        off_percentages(parts)
        return True
    assert told.label == label
    assert 1 <= told.position <= len(label) + 1, told
    return False


@settings(max_examples=500)
@given(st.text(ALPHABET))
def test_a_string_is_a_label_or_an_error_within_it(label: str) -> None:
    _either_parses_or_names_the_place(label)


@settings(max_examples=200)
@given(st.text())
def test_any_text_is_a_label_or_an_error_within_it(label: str) -> None:
    _either_parses_or_names_the_place(label)


def _random_labels(count: int) -> Iterator[str]:
    """Half soup, half labels with up to three characters put in, taken out or changed."""
    chance = random.Random(20_17)
    good = [
        "70SNE_15AMO_15PAV", "I(55SNE_45UDS(45VAP_35ZAU_20EDF))", "UCS(70EDFea_20VAP_10ZAU)",
        "70FDPpl_30CNFpl", "R(55CHLsc_45LVI)", "A(33.3EDF_66,7SNE)", "ARBfrpl", "100A(EDF)",
    ]  # fmt: skip
    for number in range(count):
        if number % 2:
            yield "".join(chance.choices(ALPHABET, k=chance.randrange(24)))
            continue
        label = chance.choice(good)
        for _ in range(chance.randrange(4)):
            place = chance.randrange(len(label) + 1)
            taken = chance.randrange(2)
            put = chance.choice(ALPHABET) if chance.randrange(3) else ""
            label = label[:place] + put + label[place + taken :]
        yield label


def test_random_labels_never_crash_it() -> None:
    read = sum(map(_either_parses_or_names_the_place, _random_labels(RANDOM_LABELS)))
    # Both ways must be walked often for this to mean anything.
    assert 0.1 * RANDOM_LABELS < read < 0.9 * RANDOM_LABELS


# Size


def test_nesting_costs_no_stack() -> None:
    label = "A(R(50UDS(" * 3_334 + "UCS" + ")_50EDF))" * 3_334
    parts = parse(label)
    assert written(parts) == label
    assert off_percentages(parts) == []
    found = leaves(parts)
    assert len(found) == 3_335
    assert found[-1] == Leaf(0.5, "EDF", (), ("A", "R"))
    assert found[-2] == Leaf(0.25, "EDF", (), ("A", "R", "UDS", "A", "R"))
    assert (found[0].cover, len(found[0].within)) == ("UCS", 10_002)


def test_a_label_too_deep_to_resolve_is_an_error() -> None:
    with pytest.raises(LabelError) as caught:
        parse("A(50EDF_50" * 70_000 + "EDF" + ")" * 70_000)
    assert caught.value.position == 109_529  # the "50A" of composite 10 954
    assert caught.value.expected == "fewer composites inside one another"


MILLION = 1_000_000
LONG = {
    "many parts": "01EDF_" * (MILLION // 6) + "01SNE",
    "many composites": "01A(EDF)_" * (MILLION // 9) + "01SNE",
    "spaces": " " * (MILLION // 2) + "EDF" + " " * (MILLION // 2),
    "spaces only": " " * MILLION,
    "spaces inside": "70" + " " * MILLION + "?",
    "digits": "0" * MILLION + "EDF",
    "digits only": "1" * MILLION,
    "decimals": "1." + "3" * MILLION + "EDF",
    "letters": "A" * (MILLION + 1),
    "pairs": "EDF" + " pl" * (MILLION // 3),
    "opening": "A(" * (MILLION // 2),
    "closing": ")" * MILLION,
    "after closing": "A(EDF" + ")" + " " * MILLION + "x",
    "underscores": "_" * MILLION,
    "no marks": "70EDF30SNE" * (MILLION // 10),
}


@pytest.mark.parametrize("label", LONG.values(), ids=LONG)
def test_a_million_characters_do_not_hang_it(label: str) -> None:
    began = time.perf_counter()
    _either_parses_or_names_the_place(label)
    # Hundredths of a second to one; a parser that goes back over what it read takes hours.
    assert time.perf_counter() - began < 20


# A real base


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("base", "table", "column", "count"),
    [
        ("parcels.gpkg", "SAR_99_T_POLIGONOS", "ROTULO", 2933),
        ("classic.gpkg", "T_POLIGONOS", "SIOSE_CODE", 2875),
    ],
)
def test_labels_of_a_base_are_written_as_they_were(
    shared_data: Path, base: str, table: str, column: str, count: int
) -> None:
    path = shared_data / "dubai" / base
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        labels = [row[0] for row in connection.execute(f"SELECT {column} FROM {table}")]
    assert len(labels) == count
    for label in filter(None, labels):
        parts = parse(label)
        assert written(parts) == label
        assert off_percentages(parts) == []
        assert sum(leaf.share for leaf in leaves(parts)) == pytest.approx(1.0, abs=1e-12)
