"""``SIOSE_XML``: what it accepts, what it makes of percentages, and what it refuses to open."""

from __future__ import annotations

import pickle
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rotulo import Part, leaves, parse, written
from pipeline.siose_xml import XmlError, parse_xml
from tests.siose_xml_fixture import xml_of

IDS = {"A": 600, "I": 600, "SNE": 121, "UDS": 813, "VAP": 104, "ZAU": 102, "EDF": 101}
MOSAIC = "I(55SNE_45UDS(45VAP_35ZAU_20EDF))"


def read(xml: str) -> str:
    return written(parse_xml(xml))


# How a cover can be said


@pytest.mark.parametrize(
    ("xml", "label"),
    [
        ('<COBERTURA ID="EDF"/>', "EDF"),
        ('<COBERTURA ID="EDF" Desc="Edificación" Sup="100"/>', "EDF"),
        ('<POLIGONO Id="urn:uuid:1" code="EDF"><COBERTURA ID="EDF"/></POLIGONO>', "EDF"),
        ('<POLIGONO ID="7" SUPERF_POR="100"><COBERTURA ID="EDF"/></POLIGONO>', "EDF"),
        ("<COBERTURA><ID>edf</ID></COBERTURA>", "EDF"),
        ("<COBERTURA>EDF</COBERTURA>", "EDF"),
        ("<COBERTURA> EDF fr </COBERTURA>", "EDFfr"),
        ('<cobertura id="EDF"/>', "EDF"),
        ('<s:Cobertura xmlns:s="urn:s" s:Id="EDF"/>', "EDF"),
        ('<COBERTURA xmlns="urn:siose" ID="EDF"/>', "EDF"),
        ('<VALOR ID_COBERTURAS="101" CODE_ABREVIADO="EDF"/>', "EDF"),
        ('<VALOR ID="EDF" SUPERF_POR="100"/>', "EDF"),
        ("<VALOR><CODE_ABREV>100EDFfr</CODE_ABREV><SUPERF_HA>1.2</SUPERF_HA></VALOR>", "EDFfr"),
        ("<?xml version='1.0' encoding='UTF-16'?><COBERTURA ID='EDF'/>", "EDF"),
        ("\ufeff<?xml version='1.0'?>\n<COBERTURA ID='EDF'/>", "EDF"),
        ("<X><Y><!-- none --><COBERTURAS><COBERTURA ID='EDF'/></COBERTURAS></Y></X>", "EDF"),
        # attributes
        ('<COBERTURA ID="CNF"><ATRIBUTO ID="pl" Desc="plantación"/></COBERTURA>', "CNFpl"),
        (
            '<COBERTURA ID="CNF"><ATRIBUTOS><ATRIBUTO ID="FR"/><ATRIBUTO>pl</ATRIBUTO></ATRIBUTOS>'
            "</COBERTURA>",
            "CNFfrpl",
        ),
        ('<COBERTURA ID="CNF" ATRIBUTOS="fr, pl"/>', "CNFfrpl"),
        ('<COBERTURA ID="CNF" ATRIBUTOS="frpl"/>', "CNFfrpl"),
        ('<COBERTURA ID="CNFfr"><ATRIBUTOS>pl</ATRIBUTOS></COBERTURA>', "CNFfrpl"),
        ('<COBERTURA ID="CNF" ATRIBUTOS=""><ATRIBUTOS/></COBERTURA>', "CNF"),
        # composites
        (
            '<POLIGONO><COBERTURA ID="A"><COBERTURA ID="MTR" POR="60"/>'
            '<COBERTURA ID="PST" POR="40"/></COBERTURA></POLIGONO>',
            "A(60MTR_40PST)",
        ),
        (
            '<COBERTURA ID="600"><ATRIBUTO ID="R" Desc="Mosaico regular"/>'
            '<COBERTURA ID="CHL" ATRIBUTOS="sc" POR="55 %"/><COBERTURA ID="LVI" POR="45,0"/>'
            "</COBERTURA>",
            "R(55CHLsc_45LVI)",
        ),
        (
            '<COBERTURA><ATRIBUTO ID="i"/><COBERTURA ID="MTR" POR="60"/>'
            '<COBERTURA ID="PST" POR="40"/></COBERTURA>',
            "I(60MTR_40PST)",
        ),
        (
            '<COBERTURA ID="DHS" ATRIBUTOS="A"><COBERTURA ID="PST" POR="80"/>'
            '<COBERTURA ID="FDP" POR="20"/></COBERTURA>',
            "DHS(80PST_20FDP)",
        ),
        # flat, as in SIOSE AR
        (
            "<V><R><CODE_ABREV>66PAV</CODE_ABREV></R><R><CODE_ABREV>34EDF</CODE_ABREV></R></V>",
            "66PAV_34EDF",
        ),
        (
            '<V><R CODE_ABREV="66PAV" SUPERF_POR_SINREDONDEO="66.25"/>'
            '<R CODE_ABREV="34EDF" SUPERF_POR_SINREDONDEO="33.75"/></V>',
            "66.25PAV_33.75EDF",
        ),
    ],
)
def test_a_cover_can_be_said_in_many_ways(xml: str, label: str) -> None:
    assert read(xml) == label


def test_where_only_ids_are_there_they_stay_ids() -> None:
    xml = (
        '<COBERTURA ID_COBERTURAS="813" ATRIBUTOS="A"><COBERTURA ID="101.0" SUPERF_POR="60">'
        '<ATRIBUTOS>28, 031</ATRIBUTOS></COBERTURA><COBERTURA ID="0121" SUPERF_POR="40"/>'
        "</COBERTURA>"
    )
    assert parse_xml(xml) == (
        Part("813", (), None, (Part("101", ("28", "31"), 60.0), Part("121", (), 40.0))),
    )


# How much


def nested(*percentages: object, key: str = "SUPERF_POR", polygon: str = "") -> str:
    """A mosaic of SNE and a UDS of VAP and EDF, with what each of the four has."""
    sne, uds, vap, edf = percentages
    return (
        f'<POLIGONO {polygon}><COBERTURA ID="I"><COBERTURA ID="SNE" {key}="{sne}"/>'
        f'<COBERTURA ID="UDS" {key}="{uds}"><COBERTURA ID="VAP" {key}="{vap}"/>'
        f'<COBERTURA ID="EDF" {key}="{edf}"/></COBERTURA></COBERTURA></POLIGONO>'
    )


@pytest.mark.parametrize(
    ("xml", "label"),
    [
        # of the polygon, as in T_VALORES; of the composite; and each within rounding
        (nested(55, 45, 36, 9), "I(55SNE_45UDS(80VAP_20EDF))"),
        (nested(55, 45, 80, 20), "I(55SNE_45UDS(80VAP_20EDF))"),
        (nested(55, 45, 33, 11), "I(55SNE_45UDS(75VAP_25EDF))"),
        (nested(55, 45, 80, 19), "I(55SNE_45UDS(80VAP_19EDF))"),
        (nested(99, 1, 60, 40), "I(99SNE_01UDS(60VAP_40EDF))"),
        (nested(99, 1, 0.5, 0.5), "I(99SNE_01UDS(50VAP_50EDF))"),
        # the closer of the two counts where both are near
        (nested(1, 99, 60, 39), "I(01SNE_99UDS(60.606060606VAP_39.393939394EDF))"),
        (nested(1, 99, 60, 40), "I(01SNE_99UDS(60VAP_40EDF))"),
        # nothing of it is left
        (nested(100, 0, 0, 0), "I(100SNE_00UDS(00VAP_00EDF))"),
        # areas, of the polygon's or of their sum
        (nested(5.5, 4.5, 3.6, 0.9, key="SUPERF_HA"), "I(55SNE_45UDS(80VAP_20EDF))"),
        (
            nested(5.5, 4.5, 3.6, 0.9, key="Sup_ha", polygon='Sup_ha="20"'),
            "I(27.5SNE_22.5UDS(80VAP_20EDF))",
        ),
        (nested(5500, 4500, 3600, 900, key="SUPERF_M2"), "I(55SNE_45UDS(80VAP_20EDF))"),
        # Sup may be either
        (nested(5.5, 4.5, 3.6, 0.9, key="Sup"), "I(55SNE_45UDS(80VAP_20EDF))"),
        (nested(55, 45, 80, 20, key="Sup"), "I(55SNE_45UDS(80VAP_20EDF))"),
        (nested(55, 44.5, 80, 20, key="Sup", polygon='Sup="3"'), "I(55SNE_44.5UDS(80VAP_20EDF))"),
        # a percentage is asked before an area
        (
            nested(55, 45, 36, 9).replace("SUPERF_POR", 'SUPERF_HA="1" SUPERF_POR'),
            "I(55SNE_45UDS(80VAP_20EDF))",
        ),
    ],
)
def test_percentages_are_of_what_their_sum_fits(xml: str, label: str) -> None:
    assert read(xml) == label


def test_what_is_off_100_at_the_top_is_left_for_others_to_tell() -> None:
    xml = '<P><COBERTURA ID="EDF" POR="60"/><COBERTURA ID="SNE" POR="30"/></P>'
    assert read(xml) == "60EDF_30SNE"
    assert read(f'<COBERTURA ID="A">{xml}</COBERTURA>') == "A(60EDF_30SNE)"


# Errors


@pytest.mark.parametrize(
    ("xml", "line", "column", "problem"),
    [
        ("", 1, 1, "is not XML: no element found"),
        ("EDF", 1, 1, "is not XML: syntax error"),
        ("<A>\n <B>\n</A>", 3, 3, "is not XML: mismatched tag"),
        ("<A>&uno;</A>", 1, 4, "is not XML: undefined entity"),
        ("<A>\x00</A>", 1, 4, "is not XML: not well-formed (invalid token)"),
        ("<A>\n\ud800</A>", 2, 1, "is not XML: reference to invalid character number"),
        ("<POLIGONO/>", 1, 1, "has no cover"),
        ("<COBERTURA Desc='x'/>", 1, 1, "COBERTURA names no cover"),
        ("<A>\n  <B POR='60'/></A>", 2, 3, "B names no cover"),
        ("<A><B ATRIBUTOS='pl'/></A>", 1, 4, "B names no cover"),
        ("<COBERTURA ID='ED'/>", 1, 1, "'ED' is neither the id nor the label of a cover"),
        ("<COBERTURA ID='٣'/>", 1, 1, "'٣' is neither the id nor the label of a cover"),
        (
            "<COBERTURA ID='60EDF_40SNE'/>", 1, 1,
            "'60EDF_40SNE' is neither the id nor the label of a cover",
        ),
        ("<COBERTURA ID='A'/>", 1, 1, "composite A has no covers inside"),
        ("<COBERTURA ID='600' ATRIBUTOS='I'/>", 1, 1, "composite I has no covers inside"),
        (
            "<COBERTURA ID='CNF' ATRIBUTOS='p'/>", 1, 1,
            "'p' is neither an attribute's id nor pairs of letters",
        ),
        (
            "<COBERTURA ID='CNF' POR='101'/>", 1, 1,
            "POR is '101'; expected a percentage from 0 to 100",
        ),
        (
            "<COBERTURA ID='CNF' POR='-1'/>", 1, 1,
            "POR is '-1'; expected a percentage from 0 to 100",
        ),
        ("<COBERTURA ID='CNF' SUP='nan'/>", 1, 1, "SUP is 'nan'; expected an area"),
        ("<COBERTURA ID='CNF'><POR>1</POR><POR>2</POR></COBERTURA>", 1, 1, "COBERTURA has two POR"),
        (
            "<P>\n<COBERTURA ID='EDF' POR='60'/>\n<COBERTURA ID='SNE'/></P>", 3, 1,
            "SNE stands beside others and has no percentage",
        ),
        (
            "<P><COBERTURA ID='EDF' SUP='0'/></P>", 1, 4, "SUP of the covers sums to 0",
        ),
        (
            nested(55, 45, 60, 10), 1, 67,
            "the covers of UDS sum to 70 %; expected 45 (of the polygon) or 100 (of the composite)",
        ),
    ],
)  # fmt: skip
def test_an_error_names_the_place_and_what_is_wrong(
    xml: str, line: int, column: int, problem: str
) -> None:
    with pytest.raises(XmlError) as caught:
        parse_xml(xml)
    error = caught.value
    assert (error.line, error.column, error.problem) == (line, column, problem)
    # dask pickles errors with what led to them, once it is imported.
    assert error.__context__ is None
    assert str(pickle.loads(pickle.dumps(error))) == (
        f"SIOSE_XML, line {line}, column {column}: {problem}"
    )


# What it must not do

LAUGHS = "".join(f'<!ENTITY lol{n} "{f"&lol{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    "xml",
    [
        f'<!DOCTYPE l [<!ENTITY lol0 "lol">{LAUGHS}]><COBERTURA ID="EDF">&lol9;</COBERTURA>',
        '<!DOCTYPE x [<!ENTITY e "EDF">]><COBERTURA>&e;</COBERTURA>',
        '<!DOCTYPE x [<!ENTITY e SYSTEM "FILE">]><COBERTURA>&e;</COBERTURA>',
        '<!DOCTYPE x [<!ENTITY % e SYSTEM "FILE"> %e;]><COBERTURA ID="EDF"/>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/siose.dtd"><COBERTURA ID="EDF"/>',
        '<!DOCTYPE x><COBERTURA ID="EDF"/>',
    ],
    ids=["billion laughs", "entity", "external", "parameter", "external DTD", "empty DTD"],
)
def test_a_document_type_is_refused_before_anything_is_opened(xml: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("EDF", encoding="utf-8")
    with pytest.raises(XmlError) as caught:
        parse_xml(xml.replace("FILE", secret.as_uri()))
    assert caught.value.problem == "has a document type, with entities or without; it is not read"
    assert caught.value.line == 1


def test_xinclude_and_stylesheets_are_text_like_any_other() -> None:
    xml = (
        '<?xml-stylesheet href="file:///etc/hostname"?>'
        '<P xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="/etc/hostname"/>'
        '<COBERTURA ID="EDF"/></P>'
    )
    assert read(xml) == "EDF"


@pytest.mark.parametrize("element", ["X", "COBERTURAS", "COBERTURA ID='UDS'", "ATRIBUTOS"])
def test_deep_elements_do_not_crash(element: str) -> None:
    levels = 10_000
    inside = "<COBERTURA ID='EDF'/>"
    xml = f"<{element}>" * levels + inside + f"</{element.split()[0]}>" * levels
    if element == "ATRIBUTOS":
        assert read(f"<COBERTURA ID='CNF'>{xml}</COBERTURA>").startswith("CNF")
    elif "ID" in element:
        parts = parse_xml(xml)
        assert written(parts) == "UDS(" * levels + "EDF" + ")" * levels
        assert len(leaves(parts)[0].within) == levels
        with pytest.raises(XmlError, match="covers are too deep inside one another"):
            parse_xml(f"<{element}>" * levels + xml + "</COBERTURA>" * levels)
    else:
        assert read(xml) == "EDF"


def test_random_texts_never_crash_it() -> None:
    chance = random.Random(5)
    good = xml_of(parse(MOSAIC), IDS).replace("><", ">\n<")
    read_at_all = 0
    for _ in range(10_000):
        xml = good
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(xml))
            put = chance.choice(["", *"<>/=&\"'01AI_ .\n", "<A>", "</COBERTURA>", "EDF", "100"])
            xml = xml[:place] + put + xml[place + chance.randrange(3) :]
        try:
            parts = parse_xml(xml)
        except XmlError as error:
            told = error
        else:
            assert all(leaf.share >= 0 for leaf in leaves(parts))
            read_at_all += 1
            continue
        lines = xml.split("\n")
        assert 1 <= told.line <= len(lines)
        assert 1 <= told.column <= len(lines[told.line - 1]) + 1
    assert 500 < read_at_all < 9_500


# Label and XML say the same


def test_the_xml_of_a_label() -> None:
    assert xml_of(parse("I(55SNE_45CNFpl)"), IDS) == (
        '<POLIGONO code="I(55SNE_45CNFpl)"><COBERTURA ID="600" SUPERF_POR="100.00">'
        '<ATRIBUTO ID="I"/><COBERTURA ID="121" SUPERF_POR="55.00"></COBERTURA>'
        '<COBERTURA ID="CNF" SUPERF_POR="45.00"><ATRIBUTO ID="pl"/></COBERTURA>'
        "</COBERTURA></POLIGONO>"
    )
    label = xml_of(parse(MOSAIC), IDS)
    assert 'ID="104" SUPERF_POR="20.25"' in label


@pytest.mark.parametrize(
    "label", ["EDF", "70FDPpl_30CNFpl", MOSAIC, "UCS(70EDFea_20VAP_10ZAU)", "R(55CHLsc_45LVI)"]
)
def test_a_label_comes_back_from_its_xml(label: str) -> None:
    assert read(xml_of(parse(label), {})) == label


COVERS = st.sampled_from(["EDF", "VAP", "SNE", "CNF", "PST", "UCS"])


@st.composite
def whole_labels(draw: st.DrawFn, depth: int = 3) -> tuple[Part, ...]:
    """Parts whose percentages are whole numbers of 5 and more that sum to 100."""
    cuts = sorted(draw(st.sets(st.integers(1, 19), max_size=4)))
    percentages = [float(5 * (b - a)) for a, b in zip([0, *cuts], [*cuts, 20], strict=True)]
    found = []
    for percent in percentages:
        inside = draw(whole_labels(depth=depth - 1)) if depth and draw(st.booleans()) else ()
        cover = draw(st.sampled_from(["A", "I", "UDS"]) if inside else COVERS)
        found.append(Part(cover, (), None if len(percentages) == 1 else percent, inside))
    return tuple(found)


@given(whole_labels())
def test_shares_from_the_xml_are_those_of_the_label(parts: tuple[Part, ...]) -> None:
    found = leaves(parse_xml(xml_of(parts, {})))
    wanted = leaves(parts)
    assert [leaf[1:] for leaf in found] == [leaf[1:] for leaf in wanted]
    # Each percentage is rounded to 0.01 of the polygon, on each of up to five levels.
    assert [leaf.share for leaf in found] == pytest.approx(
        [leaf.share for leaf in wanted], abs=0.001
    )


@pytest.mark.real_data
def test_label_and_xml_agree_over_a_whole_base(shared_data: Path) -> None:
    path = shared_data / "dubai" / "classic.gpkg"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as base:
        labels = [row[0] for row in base.execute("SELECT DISTINCT SIOSE_CODE FROM T_POLIGONOS")]
    read_at_all = 0
    for label in filter(None, labels):
        parts = parse(label)
        assert written(parse_xml(xml_of(parts, {}))) == label
        found = leaves(parse_xml(xml_of(parts, IDS)))
        assert [leaf.cover for leaf in found] == [
            str(IDS.get(leaf.cover, leaf.cover)) for leaf in leaves(parts)
        ]
        assert [leaf.share for leaf in found] == pytest.approx(
            [leaf.share for leaf in leaves(parts)], abs=1e-4
        )
        read_at_all += 1
    assert read_at_all > 700
