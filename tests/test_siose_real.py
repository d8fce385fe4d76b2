"""The real parcels: SIOSE AR and classic SIOSE say the same of them, in table, label and XML."""

from __future__ import annotations

import shutil
import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import siose, siose_values
from pipeline.codelists import built_in
from pipeline.nomenclature import Nomenclature, parse
from pipeline.rotulo import parse as parse_label
from pipeline.sections import SioseSettings
from pipeline.siose_covers import resolve_covers
from pipeline.siose_polygons import all_polygons
from tests.siose_xml_fixture import xml_of

pytestmark = pytest.mark.real_data

Base = Literal["parcels", "classic"]
Source = Literal["table", "label", "xml"]

DUBAI = {
    "classes": [
        {"name": "water", "covers": ["AMO"], "color": "#0000FF"},
        {"name": "land", "covers": ["SNE"], "color": "#E0C080"},
        {"name": "road", "covers": [104], "color": "#404040"},
        {"name": "building", "covers": ["EDF"], "color": "#C00000"},
        {"name": "vegetation", "covers": ["ZAU"], "color": "#206020"},
    ]
}

# Class of AMO 523, SNE 121, PAV or VAP 104, EDF 101 and ZAU 102, written by hand.
CLASS_OF = {
    "dubai": ("water", "land", "road", "building", "vegetation"),
    "forest": ("resto",) * 5,
    "corine1": ("water bodies", *["artificial surfaces"] * 4),
    "siose_ar_legend": (
        "Mares y océanos y estuarios",
        "Suelo no edificado",
        "Zonas pavimentadas",
        "Edificación y otras construcciones",
        "Zona verde artificial y arbolado urbano",
    ),
    "siose_classic": (
        "Mares, océanos y estuarios",
        "Suelo no edificado",
        "Vial, aparcamiento o zona peatonal",
        "Edificación y otras construcciones",
        "Zona verde artificial",
    ),
}
COVERS = (523, 121, 104, 101, 102)
FOLDER = Path(__file__).parents[1] / "configs" / "nomenclatures"


def nomenclature_of(name: str) -> Nomenclature:
    if name == "dubai":
        return parse(DUBAI, name)
    return parse(yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")), name)


def shares_of(path: Path, name: str, source: Source | None = None) -> pd.DataFrame:
    """Shares of classes by polygon: their names, ``unmapped`` and ``unknown``, and ``source``."""
    nomenclature = nomenclature_of(name)
    base = siose.open_base(path, SioseSettings(source=source or "auto"))
    index = siose_values.opened(siose_values.index_values(base))
    frames = []
    for polygons, _ in all_polygons(base, base.crs):
        resolver = siose.resolver_of(base, nomenclature, polygons.labels)
        resolved = resolve_covers(base, polygons, index, resolver)
        assert resolved.problems == []
        shares = resolved.shares(len(polygons), len(nomenclature))
        frame = pd.DataFrame(shares, columns=[*nomenclature.names, "unmapped", "unknown"])
        frame.insert(0, "source", resolved.sources)
        # The two have the same ids, and classic ones say what kind of id it is.
        frame.index = pd.Index([i.removeprefix("urn:uuid:") for i in polygons.ids])
        frames.append(frame)
    return pd.concat(frames)


def query(path: Path, text: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as base:
        return base.execute(text).fetchall()


AR_ROWS = "SELECT ID_POLYGON, ID_COBERTURA, SUPERF_POR_SINREDONDEO FROM SAR_99_T_VALORES"
CLASSIC_LEAVES = """
    SELECT ID_POLYGON, ID_COBERTURAS, SUPERF_POR FROM T_VALORES AS own
    WHERE NOT EXISTS (
        SELECT 1 FROM T_VALORES AS other
        WHERE other.ID_POLYGON = own.ID_POLYGON
        AND ',' || other.INTER_ANCESTROS || ',' LIKE '%,' || own.INTER_ID || ',%'
    ) ORDER BY rowid
"""


def tabled(path: Path, name: str, rows: str) -> dict[str, dict[str, float]]:
    """Shares by the table alone, added up in its order."""
    classes = dict(zip(COVERS, CLASS_OF[name], strict=True))
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for polygon, cover, percent in query(path, rows):
        assert isinstance(polygon, str)
        assert isinstance(cover, int)
        assert isinstance(percent, float)
        shares = found[polygon.removeprefix("urn:uuid:")]
        shares[classes.get(cover, "unmapped")] += percent / 100
        if cover == 999:
            shares["unknown"] += percent / 100
    return found


@pytest.fixture(scope="module")
def indexed(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies of the bases with SIOSE_XML, and an index that the queries of this test need."""
    folder = tmp_path_factory.mktemp("real")
    paths = {}
    for name, layer, column, values in (
        ("parcels", "SAR_99_T_POLIGONOS", "ROTULO", "SAR_99_T_VALORES"),
        ("classic", "T_POLIGONOS", "SIOSE_CODE", "T_VALORES"),
    ):
        ids = {c.label: c.id for c in built_in(f"siose_{'ar' if name == 'parcels' else name}")}
        if name == "classic":
            ids |= dict.fromkeys("ARI", 600)
        path = Path(shutil.copy(shared_data / "dubai" / f"{name}.gpkg", folder))
        path.chmod(0o644)
        with closing(sqlite3.connect(path)) as base:
            # They keep the spatial index, by functions that SQLite alone does not have.
            for (trigger,) in base.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall():
                base.execute(f'DROP TRIGGER "{trigger}"')
            base.execute(f"ALTER TABLE {layer} ADD COLUMN SIOSE_XML TEXT")
            base.create_function("xml", 1, lambda label, ids=ids: xml_of(parse_label(label), ids))
            base.execute(f"UPDATE {layer} SET SIOSE_XML = xml({column})")
            base.execute(f"CREATE INDEX own ON {values} (ID_POLYGON)")
            base.commit()
        paths[name] = path
    return paths


@pytest.mark.parametrize("name", CLASS_OF)
def test_both_models_agree_on_every_parcel(shared_data: Path, name: str) -> None:
    ar = shares_of(shared_data / "dubai" / "parcels.gpkg", name)
    classic = shares_of(shared_data / "dubai" / "classic.gpkg", name)
    assert len(ar) == 2933
    assert len(classic) == 2875
    # Unknown ones are missing in the classic base, and nothing else is.
    missing = ar.index.difference(classic.index)
    assert (ar.loc[missing, "unknown"] == 1).all()
    assert (ar["unknown"] > 0).sum() == len(missing) == 58
    difference = (
        ar.loc[classic.index].drop(columns="source") - classic.drop(columns="source")
    ).abs()
    assert difference.to_numpy().max() <= 0.04 + 1e-9
    if name == "dubai":
        # Composites inside composites are rounded again: they do differ, and few by as much.
        assert difference.to_numpy().max() > 0.03
        assert (difference.max(axis=1) > 1e-9).sum() > 100
    assert set(ar["source"]) == set(classic["source"]) == {"table"}


@pytest.mark.parametrize("name", CLASS_OF)
@pytest.mark.parametrize(("base", "rows"), [("parcels", AR_ROWS), ("classic", CLASSIC_LEAVES)])
def test_each_base_is_its_own_table_exactly(
    indexed: dict[str, Path], name: str, base: Base, rows: str
) -> None:
    found = shares_of(indexed[base], name)
    expected = tabled(indexed[base], name, rows)
    assert set(found.index) == set(expected)
    columns = [*nomenclature_of(name).names, "unmapped", "unknown"]
    assert {
        polygon: dict(zip(columns, shares, strict=True))
        for polygon, shares in zip(found.index, found[columns].to_numpy().tolist(), strict=True)
    } == {
        polygon: {column: shares.get(column, 0.0) for column in columns}
        for polygon, shares in expected.items()
    }


@pytest.mark.parametrize("name", ["dubai", "siose_classic"])
@pytest.mark.parametrize("base", ["parcels", "classic"])
def test_table_label_and_xml_agree(indexed: dict[str, Path], base: Base, name: str) -> None:
    """The table of both bases is made of the label: percentages are in steps of five."""
    sources: tuple[Source, ...] = ("table", "label", "xml")
    found = {source: shares_of(indexed[base], name, source) for source in sources}
    for source, frame in found.items():
        assert set(frame["source"]) == {source}
        # Products of percentages, or their sums in another order: the last bits may differ.
        np.testing.assert_allclose(
            frame.drop(columns="source"), found["table"].drop(columns="source"), rtol=0, atol=1e-12
        )
