"""Nomenclature files, and their join with a SIOSE codelist."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pipeline.codelists import BUILT_IN, Codelist, Cover, built_in, completed
from pipeline.cover_rules import CoverRule
from pipeline.errors import SettingsError
from pipeline.nomenclature import (
    MOST_CLASSES,
    Nomenclature,
    Resolver,
    TrainingClass,
    parse,
    siose_ar_codelist,
)

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
    - {name: Built, covers: [NO, 1.5, null, ''], color: '#fff'}
    - {name: '', covers: EDF, color: 112233}
    - {name: no, cover: [A], color: "#000000"}
    - roads
    ignore: NO
    aliases: [a]
    clases: []
    """
    covers = "is a list of covers, such as [EDF, 111, 31*], or lists by codelist"
    assert mistakes(text) == [
        "clases: is not known here; a nomenclature has classes, ignore and aliases",
        "classes[0].color: 'red' is not a colour such as '#50B051' (in quotes)",
        "classes[1].name: 'Built' is the name of an earlier class",
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


def test_one_class_is_too_few_and_241_too_many() -> None:
    one = "classes: [{name: a, covers: [EDF], color: '#ff0000'}]"
    assert mistakes(one) == [
        "classes: one class alone leaves nothing to tell apart; name at least two"
    ]
    many = {
        "classes": [
            {"name": f"c{i}", "covers": [i], "color": "#000000"} for i in range(MOST_CLASSES + 1)
        ]
    }  # fmt: skip
    with pytest.raises(SettingsError, match="241 are too many; 240 are the most"):
        parse(many, "classes.yaml")
    assert len(parse({"classes": many["classes"][:MOST_CLASSES]}, "classes.yaml")) == 240


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


def trees(covers: str, rest: str = "[MTR]", more: str = "") -> Resolver:
    """Classes ``trees`` (0), ``rest`` (1) and ``town`` (2) on classic SIOSE."""
    text = (
        f"classes:\n- {{name: trees, covers: {covers}, color: '#00ff00'}}\n"
        f"- {{name: rest, covers: {rest}, color: '#ffff00'}}\n"
        f"- {{name: town, covers: [EDF], color: '#ff0000'}}\n{more}"
    )
    return nomenclature(text).resolver(built_in("siose_classic"))


def wrong(covers: str, rest: str = "[MTR]", more: str = "") -> list[str]:
    with pytest.raises(SettingsError) as caught:
        trees(covers, rest, more)
    return list(caught.value.items)


CNF, FDP, PST, MTR, EDF, DHS, UDS, MOSAIC = 316, 313, 300, 320, 101, 701, 813, 600


def test_a_branch_is_all_covers_whose_id_begins_so() -> None:
    resolver = trees('["31*"]', '["32*", "9*"]')
    assert [resolver.class_of(i) for i in (312, 313, 316, 320, 300, 331)] == [
        0, 0, 0, 1, None, None,
    ]  # fmt: skip
    # SIOSE's unknown is never a branch's.
    assert nomenclature(classes("EDF", "'9*', AGU")).resolver(CODELIST).class_of(999) is None


def test_a_condition_on_attributes_asks_for_all_of_them() -> None:
    resolver = trees("[{cover: FDP, with: PL}, {cover: FDC, with: [pl, fr]}]", '["31*"]')
    given = [(), ("pl",), ("pl", "fr"), ("fr", "pl", "ct")]
    assert [resolver.class_of(CNF, a) for a in given] == [1, 1, 1, 1]
    assert [resolver.class_of(FDP, a) for a in given] == [1, 0, 0, 0]
    assert [resolver.class_of(312, a) for a in given] == [1, 1, 0, 0]


def test_the_rule_with_the_most_conditions_decides() -> None:
    covers = "[{cover: CNF, with: [pl, fr]}, {cover: CNF, with: zq, within: DHS}]"
    rest = "[CNF, {cover: CNF, with: pl}, MTR, {cover: '*', with: [pl, ct], within: '7*'}]"
    resolver = trees(covers, rest, "ignore: [{cover: CNF, within: DHS}]")
    assert resolver.class_of(CNF) == 1
    assert resolver.class_of(CNF, ["fr"]) == 1
    assert resolver.class_of(CNF, ["pl"]) == 1
    assert resolver.class_of(CNF, ["fr", "pl"]) == 0
    assert resolver.class_of(CNF, ["fr", "pl", "sc"]) == 0
    # One condition each: the first in the file, and `ignore` comes last.
    assert resolver.class_of(CNF, ["pl"], [DHS]) == 1
    assert resolver.class_of(CNF, [], [DHS]) is None
    assert resolver.is_mapped(CNF, [], [DHS])
    assert resolver.class_of(CNF, ["zq"], [DHS]) == 0
    # Three conditions.
    assert resolver.class_of(CNF, ["ct", "fr", "pl"], [DHS]) == 1
    assert resolver.class_of(CNF, ["ct", "fr", "pl"], [UDS]) == 0
    # `*` with conditions is any cover, also one that nothing else gathers.
    assert resolver.class_of(PST, ["ct", "pl"], [MOSAIC, DHS]) == 1
    assert not resolver.is_mapped(PST, ["ct", "pl"])


def test_within_is_at_any_depth_and_not_the_cover_itself() -> None:
    resolver = trees("[{cover: PST, within: 701}]")
    assert resolver.class_of(PST, within=[DHS]) == 0
    assert resolver.class_of(PST, within=(UDS, DHS, MOSAIC)) == 0
    assert not resolver.is_mapped(PST, within=[UDS])
    assert not resolver.is_mapped(PST)
    assert not resolver.is_mapped(DHS)


def test_a_whole_composite_takes_what_is_inside_and_the_innermost_wins() -> None:
    resolver = trees("[{cover: DHS, whole: true}, {cover: PST, with: pl}]", "[CNF, PST, UDS]")
    assert resolver.class_of(DHS) == 0
    assert resolver.class_of(PST) == 1
    assert resolver.class_of(PST, within=[MOSAIC, DHS, MOSAIC]) == 0
    assert resolver.class_of(PST, ["pl"], [UDS]) == 0
    # A plain UDS is one that stands alone: what is inside another counts for itself.
    assert resolver.class_of(UDS) == 1
    assert resolver.class_of(EDF, within=[UDS]) == 2
    # Neither gathered nor known by itself, but inside a dehesa.
    assert resolver.class_of(MTR, within=[DHS]) == 0
    assert not resolver.is_mapped(MTR)
    both = trees("[{cover: DHS, whole: true}]", "[{cover: '81*', whole: true}]")
    assert both.class_of(PST, within=[UDS, DHS]) == 0
    assert both.class_of(PST, within=[DHS, UDS]) == 1
    ignored = trees("[CNF]", "[MTR]", "ignore: [{cover: 600, whole: true}]")
    assert ignored.class_of(CNF, within=[MOSAIC]) is None
    assert ignored.is_mapped(PST, within=[MOSAIC])


def test_the_star_alone_is_all_the_rest() -> None:
    resolver = trees("['31*']", "['*']")
    assert [resolver.class_of(i) for i in (CNF, PST, EDF, DHS, 512)] == [0, 1, 2, 1, 1]
    assert not resolver.is_mapped(MOSAIC)
    assert not resolver.is_mapped(77777)
    assert resolver.unassigned == ()
    ignored = trees("['31*']", "[MTR]", "ignore: ['*']")
    assert ignored.class_of(PST) is None
    assert ignored.is_mapped(PST)
    assert wrong("['*']", "['*']") == [
        "class 'rest': '*', all the rest, is in class 'trees' already"
    ]


def test_a_plain_entry_of_another_built_in_codelist_does_not_apply() -> None:
    text = classes("EDF, PAV, VAP, {cover: PST, within: DHS}", "AGU, 511, 219")
    with pytest.raises(SettingsError) as caught:
        nomenclature(text).resolver(built_in("siose_ar"))
    assert list(caught.value.items) == ["class 'water': cover 219 is not in the codelist"]
    text = text.replace("219", "{cover: 219, optional: true}")
    modern = nomenclature(text).resolver(built_in("siose_ar"))
    classic = nomenclature(text).resolver(built_in("siose_classic"))
    assert [modern.id_of(label) for label in ("PAV", "VAP", "DHS")] == [104, None, None]
    assert [modern.class_of(i) for i in (104, 300, 500)] == [0, None, 1]
    assert [classic.class_of(i) for i in (104, 300, 500, 511)] == [0, None, None, 1]
    assert classic.class_of(300, within=[DHS]) == 0


def test_composites_that_a_codelist_lacks_are_not_the_same_one() -> None:
    """SIOSE AR has neither DHS nor UDS: both entries are for other bases."""
    text = classes("EDF, {cover: PST, within: DHS}", "AGU, {cover: PST, within: UDS}")
    modern = nomenclature(text).resolver(built_in("siose_ar"))
    assert not modern.is_mapped(PST)
    classic = nomenclature(text.replace("AGU", "ACU")).resolver(built_in("siose_classic"))
    assert [classic.class_of(PST, within=[i]) for i in (DHS, UDS)] == [0, 1]


def test_lists_by_codelist_apply_to_theirs_alone() -> None:
    text = """
    classes:
    - {name: olives, covers: {siose_ar: [LOL, 257], Corine: ["223"]}, color: '#00ff00'}
    - {name: other, covers: {siose_ar: [LOP], siose_classic: [LOC], mine: [223, "x*"]},
       color: '#ff0000'}
    ignore: {siose_classic: ["22*"], mine: ["*"]}
    """
    found = nomenclature(text)
    assert found.codelists == ("siose_ar", "corine", "siose_classic", "mine")
    assert found.classes[0].covers[2] == CoverRule(223, "corine")
    assert found.resolver(built_in("siose_ar")).class_of(257) == 0
    classic = found.resolver(built_in("siose_classic"))
    assert classic.class_of(241) == 1
    assert [classic.is_mapped(i) for i in (222, 232)] == [True, False]
    assert found.resolver(built_in("corine")).class_of(223) == 0
    own = Codelist("mine", (Cover(1, "223"), Cover(2, "x7"), Cover(3, "X8"), Cover(4, "y")), True)
    assert [found.resolver(own).class_of(i) for i in (1, 2, 3, 4)] == [1, 1, 1, None]
    assert found.resolver(own).is_mapped(4)


def test_a_file_without_a_list_for_the_codelist_at_hand_is_refused() -> None:
    text = classes("1", "2").replace("covers: [", "covers: {siose_ar: [1").replace("]", "]}")
    text = text.replace("[11]", "[EDF]").replace("[12]", "[AGU]") + "ignore: ['*']"
    with pytest.raises(SettingsError) as caught:
        nomenclature(text).resolver(built_in("corine"))
    assert str(caught.value) == (
        "The nomenclature has no covers for the codelist 'corine'.\n"
        "  it has lists for siose_ar\n"
        "Add `corine: [...]` under the `covers` of its classes."
    )
    with pytest.raises(SettingsError, match="no covers for the codelist 'mine'") as caught:
        nomenclature(text).resolver(Codelist("mine", (), open=True))
    assert caught.value.remedy == (
        "Add `mine: [...]` under the `covers` of its classes. "
        "Or say what the codes are: `siose.codelist: siose_ar`."
    )


def test_classes_that_gather_nothing_at_hand_are_refused_unless_the_list_is_open() -> None:
    found = nomenclature(classes("EDF", "AGU", "ignore: ['*']"))
    with pytest.raises(SettingsError) as caught:
        found.resolver(built_in("corine"))
    assert caught.value.what == "The nomenclature gathers no cover of the codelist 'corine'."
    assert caught.value.items[0].startswith("the codelist has 111 Continuous urban fabric, 112 ")
    assert found.resolver(Codelist("mine", (Cover(1, "z"),), open=True)).class_of(1) is None
    assert found.resolver(Codelist("mine", (), open=True)).id_of("EDF") is None


def test_mistakes_of_conditions_are_told_at_once() -> None:
    text = """
    classes:
    - name: a
      covers:
      - {with: pl}
      - {cover: CNF, width: pl, foo: 1}
      - {cover: NO}
      - {cover: CNF, with: plfr}
      - {cover: CNF, with: [p, 3, NO]}
      - {cover: CNF, with: []}
      - {cover: DHS, whole: yes please, optional: 1}
      - {cover: DHS, whole: true, within: UDS}
      - {cover: PST, within: [DHS]}
      - "3*1"
      color: '#000000'
    - {name: b, covers: {cover: CNF, with: pl}, color: '#000001'}
    - {name: c, covers: {siose_clasic: [EDF], siose_ar: EDF, 1: [EDF]}, color: '#000002'}
    - {name: d, covers: {siose_ar: [], corine: []}, color: '#000003'}
    - {name: e, covers: {}, color: '#000004'}
    """
    covers = "is a list of covers, such as [EDF, 111, 31*], or lists by codelist"
    assert mistakes(text) == [
        "classes[0].covers: {with: pl} names no cover; write {cover: EDF, ...}",
        "classes[0].covers[CNF].width: is not known; did you mean 'with'?",
        "classes[0].covers[CNF].foo: is not known; an entry has cover, with, within, whole, "
        "optional",
        "classes[0].covers[False]: false (or NO) is neither a label nor an id; quote it",
        "classes[0].covers[CNF].with: 'plfr' is more than one attribute; write [pl, fr]",
        "classes[0].covers[CNF].with: 'p' is not an attribute such as pl: two letters",
        "classes[0].covers[CNF].with: 3 is not an attribute such as pl: two letters",
        "classes[0].covers[CNF].with: false (or NO) is not an attribute such as pl: two letters",
        "classes[0].covers[CNF].with: names no attribute; leave it out",
        "classes[0].covers[DHS].whole: is true or false, not 'yes please'",
        "classes[0].covers[DHS].optional: is true or false, not 1",
        "classes[0].covers[DHS]: whole takes all that is inside; it goes without with and within",
        "classes[0].covers[PST].within: ['DHS'] is neither a label nor an id; quote it",
        "classes[0].covers: '3*1' is not a branch; the * comes last, as in 31*",
        "classes[1].covers: is a list; write [{cover: CNF, with: pl}]",
        "classes[2].covers: 'siose_clasic' is not a codelist; did you mean 'siose_classic'?",
        f"classes[2].covers.siose_ar: {covers}",
        "classes[2].covers: 1 is not the name of a codelist",
        "classes[3].covers: has no cover in any codelist",
        "classes[4].covers: has no cover in any codelist",
    ]


def test_what_does_not_fit_the_codelist_is_told_at_once() -> None:
    covers = "[CNFF, '77*', {cover: PST, within: DHSS}, {cover: PST, within: CNF}, '31*']"
    rest = "[CNF, {cover: EDF, whole: true}, {cover: MTR, with: pl}]"
    more = "ignore: [{cover: MTR, with: [PL]}, {cover: 999999, optional: true}]\naliases: {X: EDFF}"
    assert wrong(covers, rest, more) == [
        "class 'trees': cover 'CNFF' is not in the codelist; did you mean 'CNF'?",
        "class 'trees': cover '77*' is not in the codelist",
        "class 'trees': cover 'DHSS' is not in the codelist; did you mean 'DHS'?",
        "class 'trees': cover 'CNF' is not a composite: nothing is inside it",
        "class 'rest': cover CNF (316) is in class 'trees' already",
        "class 'rest': cover 'EDF' is not a composite: nothing is inside it",
        "ignore: MTR with pl: cover MTR (320) is in class 'rest' already",
        "aliases: 'EDFF' is not in the codelist; did you mean 'EDF'?",
    ]


def test_a_list_of_another_codelist_is_checked_too() -> None:
    covers = (
        "{siose_classic: [CNF], corine: [3111], mine: [q], "
        "siose_ar: [VAP, ARB, {cover: ARB, within: DHS}, {cover: ABC, optional: true}]}"
    )
    assert wrong(covers) == [
        "class 'trees': cover 3111 is not in the codelist corine; did you mean '311'?",
        "class 'trees': cover 'VAP' is not in the codelist siose_ar; it is of siose_classic",
        "class 'trees': cover 'DHS' is not in the codelist siose_ar; it is of siose_classic",
    ]
    assert wrong("{siose_classic: [ARB]}") == [
        "class 'trees': cover 'ARB' is not in the codelist siose_classic; it is of siose_ar"
    ]


def test_unassigned_covers_are_the_check_of_the_other_way() -> None:
    resolver = trees(
        "['31*', '32*']",
        "['102', '103', '104', '11*', '12*', '13*', '2*', '33*', '35*', '4*', '5*', '8*', '9*']",
    )
    assert [cover.label for cover in resolver.unassigned] == ["PST", "DHS", "OVD", "AAR", "UER"]
    conditional = trees("['31*', {cover: '*', with: pl}, {cover: '7*', whole: true}]", "['32*']")
    labels = {cover.label for cover in conditional.unassigned}
    assert {"PST", "UDS"} < labels
    assert not {"DHS", "EDF", "CNF", "DSC", ""} & labels
    assert [c.label for c in nomenclature(classes("EDF", "AGU")).resolver(CODELIST).unassigned] == [
        "MTR"
    ]


def test_own_codes_are_text() -> None:
    own = Codelist(
        "mine", (Cover(1, "010"), Cover(2, "10"), Cover(3, "Oak"), Cover(999, "oak")), open=True
    )
    found = nomenclature(classes('"010"', "10, pine, 4")).resolver(own)
    assert [found.class_of(i) for i in (1, 2, 3, 999)] == [0, 1, None, None]
    # 999 is SIOSE's unknown in SIOSE only.
    assert not found.is_mapped(999)
    assert [cover.id for cover in found.unassigned] == [3, 999]
    assert [found.id_of(label) for label in ("Oak", "oak", "010", "10", "OAK")] == [
        3,
        999,
        1,
        2,
        999,
    ]
    assert found.name_of(1) == "010"
    # Ids come second, and as text.
    assert [[c.id for c in own.find(entry)] for entry in (10, 3, "003")] == [[2], [3], []]
    both = nomenclature(classes("oak", "pine")).resolver(own)
    assert [both.class_of(i) for i in (3, 999)] == [0, 0]


def test_names_are_labels_with_their_description() -> None:
    resolver = nomenclature(classes("EDF", "AGU")).resolver(CODELIST)
    assert resolver.name_of(101) == "EDF Edificación"
    assert resolver.name_of(4242) == "4242"
    assert trees("[CNF]").name_of(600) == "600 No predefinida (asociación o mosaico)"


def test_the_fingerprint_knows_conditions_and_their_order() -> None:
    def of(covers: str) -> str:
        return nomenclature(
            f"classes:\n- {{name: a, covers: {covers}, color: '#000000'}}\n"
            "- {name: b, covers: [EDF], color: '#000001'}"
        ).fingerprint

    different = [
        "[CNF]",
        "['CNF*']",
        "[{cover: CNF, with: pl}]",
        "[{cover: CNF, with: [pl, fr]}]",
        "[{cover: CNF, within: DHS}]",
        "[{cover: CNF, with: pl, within: DHS}]",
        "[{cover: CNF, whole: true}]",
        "{siose_ar: [CNF]}",
        "{siose_classic: [CNF]}",
        "[{cover: CNF, with: pl}, {cover: CNF, with: fr}]",
        "[{cover: CNF, with: fr}, {cover: CNF, with: pl}]",
    ]
    assert len({of(covers) for covers in different}) == len(different)
    assert of("[{cover: CNF, with: [pl, fr]}]") == of("[{cover: cnf, with: [FR, pl]}]")
    assert of("[{cover: CNF, optional: true}]") == of("[CNF]")
    assert of("{siose_ar: [CNF, FDC]}") == of("{siose_ar: [FDC, CNF]}")


def test_rules_may_be_written_in_python() -> None:
    classes = (
        TrainingClass("plantation", (CoverRule("CNF", attributes=("pl",)),), "#109C69"),
        TrainingClass("conifers", ("CNF",), "#50B051"),
    )
    resolver = Nomenclature(classes).resolver(siose_ar_codelist())
    assert [resolver.class_of(316, a) for a in ((), ("pl",))] == [1, 0]


@pytest.mark.parametrize(("name", "covers", "composites"), [
    ("siose_ar", 62, 0), ("siose_classic", 88, 47), ("corine", 44, 0),
])  # fmt: skip
def test_built_in_codelists_name_each_cover_once(name: str, covers: int, composites: int) -> None:
    codelist = built_in(name)
    labels = [cover.label for cover in codelist if cover.label]
    assert len(codelist) == len(codelist.by_id) == covers
    assert len(set(labels)) == len(labels)
    assert sum(cover.composite for cover in codelist) == composites
    assert all(cover.description for cover in codelist)
    assert built_in(name) is codelist


def test_built_in_codelists_say_what_their_sources_say() -> None:
    assert Cover(101, "EDF", "Edificación") in siose_ar_codelist()
    assert built_in("siose_ar").covers == siose_ar_codelist()
    classic = built_in("siose_classic")
    assert classic.by_id[813] == Cover(813, "UDS", "Discontinuo", composite=True)
    assert [cover.id for cover in classic if cover.is_free_composite] == [600]
    assert [cover.id for cover in classic if not cover.label] == [512, 600, 810]
    assert built_in("corine").by_id[523] == Cover(523, "523", "Sea and ocean")
    with pytest.raises(KeyError):
        built_in("mine")
    assert set(BUILT_IN) == {"siose_ar", "siose_classic", "corine"}


def test_covers_are_found_by_label_before_id() -> None:
    codelist = Codelist(
        "mine", (Cover(111, "222"), Cover(222, "abc"), Cover(7, "9"), Cover(9, "z"))
    )
    assert [c.id for c in codelist.find(222)] == [111]
    assert [c.id for c in codelist.find("ABC")] == [222]
    assert [c.id for c in codelist.find("0007")] == [7]
    assert [c.id for c in codelist.find("2*")] == [111, 222]
    assert codelist.find("0") == ()
    assert codelist.near("abd") == "; did you mean 'ABC'?"


def test_a_bases_own_list_wins_and_the_built_in_one_completes_it() -> None:
    own = (
        Cover(512, "ALG", "Lagos"),
        Cover(513, "AEM", "Embalses"),
        Cover(811, "uds", "Discontinuo"),
        Cover(600, "", "No predefinida"),
        Cover(760, "XYZ", "of a region"),
        Cover(101, "EDF", "Edificios"),
    )
    codelist = completed(own, built_in("siose_classic"))
    assert codelist.name == "siose_classic"
    assert not codelist.open
    assert [cover.id for cover in codelist][:6] == [512, 513, 811, 600, 760, 101]
    ids = {cover.label: cover.id for cover in codelist if cover.label}
    assert (ids["ALG"], ids["AEM"], ids["uds"], ids["UEN"]) == (512, 513, 811, 812)
    # Its numbers 811 and 513 are taken, and so are the labels UDS and AEM.
    assert not {"UDS", "UCS"} & set(ids)
    assert not {514, 813} & set(codelist.by_id)
    composites = {cover.id for cover in codelist.covers[:6] if cover.composite}
    assert composites == {811, 600, 760}
    assert codelist.by_id[810].composite
    assert completed((), built_in("corine")) == built_in("corine")
    assert not completed(own, built_in("siose_ar")).by_id[760].composite
