"""The nomenclatures that come with Tesela: what they gather, in each codelist."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.codelists import built_in
from pipeline.errors import SettingsError
from pipeline.nomenclature import Nomenclature, Resolver, parse

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "nomenclatures"
FILES = ("forest", "siose_ar_legend", "corine1", "siose_classic")
WORKS_ON = [
    *((name, codelist) for name in FILES for codelist in ("siose_ar", "siose_classic")),
    ("forest", "corine"),
    ("corine1", "corine"),
]

# The official legend of SIOSE AR, without Desconocido: name, colour, covers.
LEGEND = [
    ("Edificación y otras construcciones", "#E65069", "101 111"),
    ("Zona verde artificial y arbolado urbano", "#64B482", "102"),
    ("Zonas pavimentadas", "#CCCCCC", "104"),
    ("Piscinas, balsas y estanques", "#4696FF", "105 106"),
    ("Construcción deportiva", "#FF8296", "112"),
    ("Suelo no edificado", "#F4F0E1", "121"),
    ("Zona abierta", "#A0A0A0", "122"),
    ("Zonas de extracción y vertido", "#A07878", "132 133"),
    ("Red de transporte terrestre", "#A0A0A0", "140 141 142 143 144 145"),
    ("Cultivos y cultivos herbáceos y prados", "#F2EAAE", "200 210 219"),
    ("Frutales y asociaciones", "#E6AA5A", "222 223 224 253 254 255 258 259 260"),
    ("Viñedo y asociaciones", "#C8A68C", "231 251 252"),
    ("Olivar y asociaciones", "#D9D97D", "232 256 257"),
    ("Otros cultivos permanentes", "#C8AA50", "241"),
    ("Huerta", "#DDED8E", "280"),
    ("Prados", "#EDED5F", "290"),
    ("Pastizal y pastizal-matorral", "#BEED5F", "300 301"),
    ("Arbolado y pasto arbolado", "#38A65D", "302 310 317"),
    ("Frondosas", "#50B051", "312 313"),
    ("Coníferas", "#109C69", "316"),
    ("Matorral", "#82D957", "320"),
    ("Terrenos con escasa o nula vegetación y acantilados marinos", "#D7C29E", "330 351 352"),
    ("Playas, dunas y arenales", "#F0C864", "331"),
    ("Glaciares, nieves permanentes", "#A6E6CC", "335"),
    ("Coladas lávicas", "#6E6E96", "354"),
    ("Coberturas húmedas, marismas", "#A6A6FF", "400 421"),
    ("Turberas", "#6464FF", "412"),
    ("Salinas", "#E6E6FF", "423"),
    ("Cursos de agua, lagos, lagunas, embalses y canales", "#61AAF2", "500 511 513 514 515"),
    ("Mares y océanos y estuarios", "#E6F2FF", "522 523"),
]

# Covers of SIOSE AR, and those of SIOSE 2005 to 2014 that say the same.
ALIKE = [
    ("EDF", "EDF"), ("ZAU", "ZAU"), ("PAV", "VAP"), ("OCT", "OCT"), ("SNE", "SNE"),
    ("PSC", "LAA"), ("BET", "LAA"), ("ZEX", "ZEV"), ("ZEV", "ZEV"), ("CHE", "CHL"),
    ("CHE", "CHA"), ("LFC", "LFC"), ("LFN", "LFN"), ("LVI", "LVI"), ("LOL", "LOL"),
    ("LOP", "LOC"), ("LVO", "OVD"), ("HUE", "UER"), ("PRD", "PRD"), ("PST", "PST"),
    ("PPA", "DHS"), ("FDC", "FDC"), ("FDP", "FDP"), ("CNF", "CNF"), ("MTR", "MTR"),
    ("TEV", "SDN"), ("PDA", "PDA"), ("GNP", "GNP"), ("ACM", "ACM"), ("COL", "CLC"),
    ("HUM", "HPA"), ("HTU", "HTU"), ("HMA", "HMA"), ("HSA", "HSA"), ("HSA", "HSM"),
    ("ACU", "ACU"), ("ALG", "ALG"), ("AEM", "AEM"), ("AES", "AES"), ("AMO", "AMO"),
]  # fmt: skip

# Classes by a word of their name; None for what is ignored.
CLASSES: dict[tuple[str, str], dict[str, str | None]] = {
    ("forest", "siose_ar"): {
        "ARB FDC FDP CNF": "arbolado forestal",
        "EDF ZAU CAM CUL LFS LOC LOL HUE PRD PST PMT MTR TEV GNP COL HUM HSA AGU BET": "resto",
        "PPA": None,
    },
    ("forest", "siose_classic"): {
        "FDC FDP CNF": "arbolado forestal",
        "EDF ZAU LAA VAP ZEV CHA LFC LOC PRD PST MTR ZQM RMB CLC HPA AMO UCS UDS EPU NVE UER "
        "OVD": "resto",
        "DHS": None,
    },
    ("forest", "corine"): {
        "311 312 313": "arbolado forestal",
        "111 141 142 211 222 223 231 241 242 243 321 322 323 331 334 335 411 422 512 523": "resto",
        "244 324": None,
    },
    ("siose_ar_legend", "siose_ar"): {
        "EDF OCT": "Edificación y otras construcciones",
        "LOC LOF": "Olivar y asociaciones",
        "LFV LCV LFS": "Frutales y asociaciones",
        "LVO LVF": "Viñedo y asociaciones",
        "LOP": "Otros cultivos permanentes",
        "RTT AUT CAM VFC": "Red de transporte terrestre",
        "PMT": "Pastizal y pastizal-matorral",
        "PPA ARB": "Arbolado y pasto arbolado",
        "ACM TEV": "Terrenos con escasa o nula vegetación y acantilados marinos",
        "ACA AGU AEM": "Cursos de agua, lagos, lagunas, embalses y canales",
        "AES": "Mares y océanos y estuarios",
        "DSC": None,
    },
    ("siose_ar_legend", "siose_classic"): {
        "EDF UCS UEN UDS IPO TCO ECL NSL NTC NCC NPT": "Edificación y otras construcciones",
        "ECG EPU": "Zona verde artificial y arbolado urbano",
        "VAP NPO": "Zonas pavimentadas",
        "EDP": "Construcción deportiva",
        "NRV NRF": "Red de transporte terrestre",
        "PMX NVE ZEV": "Zonas de extracción y vertido",
        "LOC": "Otros cultivos permanentes",
        "AAR UER": "Huerta",
        "DHS": "Arbolado y pasto arbolado",
        "ARR CCH RMB ZQM": "Terrenos con escasa o nula vegetación y acantilados marinos",
        "ALG AEM ALC": "Cursos de agua, lagos, lagunas, embalses y canales",
        "AMO": "Mares y océanos y estuarios",
    },
    ("corine1", "siose_ar"): {
        "EDF ZAU PAV DEP SNE ZAB ZEX VFC CAM": "artificial surfaces",
        "CUL CHE LOC HUE PRD PPA": "agricultural areas",
        "PST PMT ARB CNF MTR TEV PDA GNP COL": "forest and semi-natural areas",
        "HUM HTU HMA HSA": "wetlands",
        "PSC BET AGU ACA AMO": "water bodies",
        "DSC": None,
    },
    ("corine1", "siose_classic"): {
        "EDF VAP SNE ZEV UCS UDS IPO EPU NRV NCC NVE": "artificial surfaces",
        "CHA LOC PRD DHS OVD AAR UER": "agricultural areas",
        "PST FDC CNF MTR SDN ZQM RMB ARR CLC": "forest and semi-natural areas",
        "HPA HTU HSA HMA HSM": "wetlands",
        "LAA ACU ALG AEM ALC AES AMO": "water bodies",
    },
    ("corine1", "corine"): {
        "111 122 133 142": "artificial surfaces",
        "211 223 231 244": "agricultural areas",
        "311 321 324 334 335": "forest and semi-natural areas",
        "411 412 421 422 423": "wetlands",
        "511 512 521 523": "water bodies",
    },
    ("siose_classic", "siose_ar"): {
        "EDF DEP": "Edificación y otras construcciones",
        "PSC BET": "Lámina de agua artificial",
        "PAV RTT CAM": "Vial, aparcamiento o zona peatonal",
        "ZAB": "Suelo no edificado",
        "CUL CHE": "Cultivos herbáceos",
        "LFV LFF": "Frutales",
        "LOC": "Olivar",
        "LOP": "Otros cultivos leñosos",
        "HUE": "Huerta y asentamiento agrícola",
        "PMT": "Pastizal",
        "PPA": "Dehesa y pasto arbolado",
        "TEV ACM": "Suelo desnudo, ramblas y roquedo",
        "COL": "Coladas lávicas",
        "HUM HTU": "Humedales y turberas",
        "ACA": "Cursos de agua",
        "AGU AEM": "Lagos, lagunas y embalses",
        "ARB DSC": None,
    },
    ("siose_classic", "siose_classic"): {
        "EDF UCS UDS EDP NSL": "Edificación y otras construcciones",
        "ZAU EPU": "Zona verde artificial",
        "VAP NRV NAP": "Vial, aparcamiento o zona peatonal",
        "ZEV PMX": "Zonas de extracción o vertido",
        "CHA CHL": "Cultivos herbáceos",
        "LVI OVD": "Viñedo",
        "LOC": "Otros cultivos leñosos",
        "UER AAR": "Huerta y asentamiento agrícola",
        "DHS": "Dehesa y pasto arbolado",
        "FDC": "Frondosas caducifolias",
        "FDP": "Frondosas perennifolias",
        "ZQM": "Zonas quemadas",
        "RMB CCH": "Suelo desnudo, ramblas y roquedo",
        "HSM HSA": "Salinas",
        "ALG AEM ALC": "Lagos, lagunas y embalses",
        "AES": "Mares, océanos y estuarios",
    },
}

# Cover, attributes, composites around it, class; on classic SIOSE.
CONDITIONS = [
    ("forest", "CNF", "", "", "arbolado forestal"),
    ("forest", "CNF", "pl", "", "arbolado forestal"),
    ("forest", "FDC", "ct pl", "", None),
    ("forest", "CNF", "zq", "UDS", None),
    ("forest", "FDP", "", "DHS", "arbolado forestal"),
    ("forest", "PST", "", "DHS", "resto"),
    ("siose_ar_legend", "FDP", "", "DHS", "Frondosas"),
    ("siose_ar_legend", "EDF", "", "UDS", "Edificación y otras construcciones"),
    ("siose_ar_legend", "ZAU", "", "UDS", "Zona verde artificial y arbolado urbano"),
    ("corine1", "PST", "", "", "forest and semi-natural areas"),
    ("corine1", "PST", "", "DHS", "agricultural areas"),
    ("corine1", "FDP", "", "DHS", "agricultural areas"),
    ("corine1", "SNE", "", "UDS", "artificial surfaces"),
    ("siose_classic", "FDP", "", "DHS", "Dehesa y pasto arbolado"),
    ("siose_classic", "FDP", "pl", "DHS", "Plantación forestal"),
    ("siose_classic", "CNF", "fr pl", "", "Plantación forestal"),
    ("siose_classic", "CNF", "fr", "", "Coníferas"),
    ("siose_classic", "CHL", "", "UER", "Huerta y asentamiento agrícola"),
    ("siose_classic", "LFN", "rr", "AAR", "Huerta y asentamiento agrícola"),
    ("siose_classic", "EDF", "", "UER", "Edificación y otras construcciones"),
    ("siose_classic", "CHL", "fz rr", "UER", "Cultivos forzados"),
    ("siose_classic", "CHL", "fz", "", "Cultivos forzados"),
    ("siose_classic", "CHL", "rr", "", "Cultivos herbáceos"),
    ("siose_classic", "VAP", "", "UDS", "Vial, aparcamiento o zona peatonal"),
]


def read(name: str) -> Nomenclature:
    path = FOLDER / f"{name}.yaml"
    return parse(yaml.safe_load(path.read_text(encoding="utf-8")), path.name)


def class_name(
    resolver: Resolver, label: str, attributes: str = "", within: str = ""
) -> str | None:
    ids = [resolver.id_of(part) for part in (label, *within.split())]
    cover, *composites = [number for number in ids if number is not None]
    assert len(composites) == len(within.split())
    assert resolver.is_mapped(cover, attributes.split(), composites)
    number = resolver.class_of(cover, attributes.split(), composites)
    return None if number is None else resolver.nomenclature.names[number]


def test_the_tables_know_every_file() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*FILES, "demo"}
    assert set(CLASSES) == set(WORKS_ON)


@pytest.mark.parametrize(("name", "codelist"), WORKS_ON)
def test_every_cover_is_in_a_class_or_ignored(name: str, codelist: str) -> None:
    resolver = read(name).resolver(built_in(codelist))
    assert resolver.unassigned == ()
    # Branches have no label, and need not be listed; the files list them all the same.
    branches = [cover.id for cover in built_in(codelist) if cover.id in (512, 810)]
    assert all(resolver.class_of(cover) is not None for cover in branches)


@pytest.mark.parametrize(("name", "codelist"), WORKS_ON)
def test_covers_are_in_the_class_that_an_analyst_expects(name: str, codelist: str) -> None:
    resolver = read(name).resolver(built_in(codelist))
    for labels, expected in CLASSES[name, codelist].items():
        assert {label: class_name(resolver, label) for label in labels.split()} == dict.fromkeys(
            labels.split(), expected
        )


@pytest.mark.parametrize("name", FILES)
def test_corresponding_covers_of_both_models_are_in_one_class(name: str) -> None:
    modern = read(name).resolver(built_in("siose_ar"))
    classic = read(name).resolver(built_in("siose_classic"))
    found = [(class_name(modern, a), class_name(classic, b)) for a, b in ALIKE]
    assert [pair for pair, (a, b) in zip(ALIKE, found, strict=True) if a != b] == []


@pytest.mark.parametrize(("name", "label", "attributes", "within", "expected"), CONDITIONS)
def test_conditions(
    name: str, label: str, attributes: str, within: str, expected: str | None
) -> None:
    resolver = read(name).resolver(built_in("siose_classic"))
    assert class_name(resolver, label, attributes, within) == expected


def test_burnt_and_forced_covers_of_siose_ar() -> None:
    resolver = read("siose_classic").resolver(built_in("siose_ar"))
    assert class_name(resolver, "CNF", "zq") == "Zonas quemadas"
    assert class_name(resolver, "ARB", "zq") == "Zonas quemadas"
    assert class_name(resolver, "ARB", "pl") == "Plantación forestal"
    assert class_name(resolver, "CHE", "fz rr") == "Cultivos forzados"


@pytest.mark.parametrize("name", FILES)
def test_colours_tell_classes_apart(name: str) -> None:
    colors = list(read(name).colors)
    if name == "siose_ar_legend":
        # The official legend has one grey for open ground and for roads.
        assert colors.count("#A0A0A0") == 2
        colors.remove("#A0A0A0")
    assert len(set(colors)) == len(colors)


def test_the_legend_is_the_official_one() -> None:
    legend = read("siose_ar_legend")
    assert [(c.name, c.color) for c in legend.classes] == [(name, c) for name, c, _ in LEGEND]
    resolver = legend.resolver(built_in("siose_ar"))
    for number, (_, _, covers) in enumerate(LEGEND):
        given = {int(cover) for cover in covers.split()}
        found = {
            cover.id for cover in built_in("siose_ar") if resolver.class_of(cover.id) == number
        }
        # The legend names three covers that the published codelist does not have.
        assert found == given - {219, 317, 352}


@pytest.mark.parametrize("name", ["siose_ar_legend", "siose_classic"])
def test_siose_nomenclatures_are_not_for_corine(name: str) -> None:
    with pytest.raises(SettingsError, match="has no covers for the codelist 'corine'"):
        read(name).resolver(built_in("corine"))
