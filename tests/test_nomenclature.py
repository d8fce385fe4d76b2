"""Nomenclature files, and their join with a SIOSE codelist."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pipeline.errors import SettingsError
from pipeline.nomenclature import IGNORE, Cover, Nomenclature, parse, siose_ar_codelist

CODELIST = (
    Cover(101, "EDF", "Edificación"),
    Cover(500, "AGU", "Aguas"),
    Cover(320, "MTR", "Matorral"),
    Cover(999, "DSC", "Desconocido"),
)


def nomenclature(text: str) -> Nomenclature:
    return parse(yaml.safe_load(text), "classes.yaml")


def mistakes(text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        nomenclature(text)
    assert caught.value.what == "classes.yaml: the nomenclature cannot be used."
    return list(caught.value.items)


def classes(first: str, second: str, more: str = "") -> str:
    return (
        f"classes:\n- {{name: built, covers: [{first}], color: '#ff0000'}}\n"
        f"- {{name: water, covers: [{second}], color: '#0000ff'}}\n{more}"
    )


def test_classes_keep_their_order_and_colours() -> None:
    found = nomenclature(classes("edf, 102", "' agu '"))
    assert found.names == ("built", "water")
    assert found.colors == ("#FF0000", "#0000FF")
    assert [c.covers for c in found.classes] == [("EDF", 102), ("AGU",)]
    assert [c.rgb for c in found.classes] == [(255, 0, 0), (0, 0, 255)]
    assert len(found) == 2


def test_every_mistake_of_the_file_is_told_at_once() -> None:
    text = """
    classes:
    - {name: built, covers: [EDF], color: red}
    - {name: built, covers: [NO, 1.5, null, ''], color: '#fff'}
    - {name: '', covers: EDF, color: 112233}
    - {name: no, cover: [A], color: "#000000"}
    - roads
    ignore: NO
    aliases: [a]
    clases: []
    """
    covers = "is a list of SIOSE covers, labels or ids, such as [EDF, 111]"
    assert mistakes(text) == [
        "clases: is not known here; a nomenclature has classes, ignore and aliases",
        "classes[0].color: 'red' is not a colour such as '#50B051' (in quotes)",
        "classes[1].name: 'built' is the name of an earlier class",
        "classes[1].color: '#fff' is not a colour such as '#50B051' (in quotes)",
        "classes[1].covers: false (or NO) is neither a label nor an id; quote it",
        "classes[1].covers: 1.5 is neither a label nor an id; quote it",
        "classes[1].covers: nothing is neither a label nor an id; quote it",
        "classes[1].covers: '' is neither a label nor an id; quote it",
        "classes[2].name: is missing",
        "classes[2].color: '112233' is not a colour such as '#50B051' (in quotes)",
        f"classes[2].covers: {covers}",
        "classes[3].cover: is not known; a class has name, covers, color",
        "classes[3].name: false (or NO) is not a name; put it in quotes",
        f"classes[3].covers: {covers}",
        "classes[4]: is not {name, covers, color}",
        f"ignore: {covers}",
        "aliases: is a mapping, label: label",
    ]


@pytest.mark.parametrize("content", [{}, {"classes": None}, {"classes": []}, {"classes": {"a": 1}}])
def test_classes_are_a_list(content: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"classes: is a list of \{name, covers, color\}"):
        parse(content, "classes.yaml")


def test_one_class_is_too_few_and_256_too_many() -> None:
    one = "classes: [{name: a, covers: [EDF], color: '#ff0000'}]"
    assert mistakes(one) == [
        "classes: one class alone leaves nothing to tell apart; name at least two"
    ]
    many = {
        "classes": [
            {"name": f"c{i}", "covers": [i], "color": "#000000"} for i in range(IGNORE + 1)
        ]
    }  # fmt: skip
    with pytest.raises(SettingsError, match="256 are too many; ids run from 0 to 254"):
        parse(many, "classes.yaml")
    assert len(parse({"classes": many["classes"][:IGNORE]}, "classes.yaml")) == 255


def test_aliases_are_labels_whatever_their_case_and_spaces() -> None:
    resolver = nomenclature(classes("EDF", "AGU", "aliases: {' edif ': ' edf '}")).resolver(
        CODELIST
    )
    assert resolver.id_of("Edif") == 101
    assert resolver.id_of(" agu ") == 500
    assert resolver.id_of("XYZ") is None
    assert mistakes(classes("EDF", "AGU", "aliases: {NO: EDF, x: [1], y: ''}")) == [
        "aliases: false (or NO) is not a label; put it in quotes",
        "aliases: [1] is not a label; put it in quotes",
        "aliases: '' is not a label; put it in quotes",
    ]


def test_covers_are_found_by_label_or_id() -> None:
    resolver = nomenclature(classes("EDF", "'0500'", "ignore: [320]")).resolver(CODELIST)
    assert [resolver.class_of(cover.id) for cover in CODELIST] == [0, 1, None, None]
    assert resolver.is_mapped(320)
    assert resolver.is_mapped(999)
    assert not resolver.is_mapped(102)


def test_unknown_and_double_covers_are_told_at_once() -> None:
    text = classes("EDFF, EDF, 77777, '²'", "101, MTR", "ignore: [mtr, EDF]")
    with pytest.raises(SettingsError) as caught:
        nomenclature(text).resolver(CODELIST)
    assert list(caught.value.items) == [
        "class 'built': cover 'EDFF' is not in the codelist; did you mean 'EDF'?",
        "class 'built': cover 77777 is not in the codelist",
        "class 'built': cover '²' is not in the codelist",
        "class 'water': cover EDF (101) is in class 'built' already",
        "ignore: cover MTR (320) is in class 'water' already",
        "ignore: cover EDF (101) is in class 'built' already",
    ]


def test_a_cover_given_twice_in_one_class_is_that_class() -> None:
    resolver = nomenclature(classes("EDF, 101, edf", "AGU")).resolver(CODELIST)
    assert resolver.class_of(101) == 0


def test_the_fingerprint_is_of_what_decides_a_class_and_not_of_colours() -> None:
    plain = nomenclature(classes("EDF, MTR", "AGU"))
    recoloured = nomenclature(classes("EDF, MTR", "AGU").replace("ff0000", "00ff00"))
    reordered = nomenclature(classes("mtr, edf", "AGU"))
    assert plain.fingerprint == recoloured.fingerprint == reordered.fingerprint
    others = [
        nomenclature(classes("EDF", "AGU, MTR")),
        nomenclature(classes("EDF, MTR", "AGU", "ignore: [DSC]")),
        nomenclature(classes("EDF, MTR", "AGU", "aliases: {X: EDF}")),
        nomenclature(classes("EDF, MTR", "AGU").replace("water", "lakes")),
        Nomenclature(plain.classes[::-1]),
    ]
    assert len({plain.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_the_codelist_of_siose_ar_names_each_cover_once() -> None:
    covers = siose_ar_codelist()
    assert len({cover.id for cover in covers}) == len(covers)
    assert len({cover.label for cover in covers}) == len(covers)
    assert Cover(101, "EDF", "Edificación") in covers
