"""The demo's files: what SIOSE says of the ground is so, and colour alone does not tell it."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.transform import Affine
from shapely.geometry import Point

from pipeline import config, demo, landscape, nomenclature
from pipeline.sheets import read_sheets

SHEET_PX = (420, 300)
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    demo.write_demo(folder, seed=3, sheet_px=SHEET_PX)
    return folder


@pytest.fixture(scope="module")
def province() -> demo.Province:
    return demo.make_province(3, SHEET_PX)


@pytest.fixture(scope="module")
def polygons(folder: Path) -> geopandas.GeoDataFrame:
    return geopandas.read_file(folder / demo.BASE, layer="SAR_99_T_POLIGONOS")


def query(folder: Path, text: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / demo.BASE)) as base:
        return base.execute(text).fetchall()


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_a_seed_gives_the_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    told: list[int] = []
    files = demo.write_demo(tmp_path / "again", 3, told.append, SHEET_PX)
    demo.write_demo(tmp_path / "other", 4, sheet_px=SHEET_PX)
    first, other = digests(folder), digests(tmp_path / "other")
    assert digests(tmp_path / "again") == first
    assert first.keys() == other.keys() == {path.name for path in files}
    assert all(first[name] != other[name] for name in first)
    assert sum(told) == demo.FILES == len(files)


def test_the_files_are_those_that_the_demo_settings_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    settings = config.load(Path("configs/demo.yaml"))
    sheets = read_sheets(settings.sheets).values()
    named = {path for sheet in sheets for path in (sheet.orthophoto, sheet.siose)}
    assert named == {settings.run / "data" / path.name for path in folder.iterdir()}


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("stopped")

    monkeypatch.setattr(demo, "_write_base", fails)
    with pytest.raises(RuntimeError, match="stopped"):
        demo.write_demo(tmp_path, sheet_px=(64, 48))
    assert list(tmp_path.iterdir()) == []


def test_sheets_lie_side_by_side_on_one_pixel_grid(folder: Path) -> None:
    width, height = (pixels * demo.PIXEL for pixels in SHEET_PX)
    corners = {}
    for name in demo.SHEETS:
        with rasterio.open(folder / f"{name}.tif") as sheet:
            assert (sheet.width, sheet.height) == SHEET_PX
            assert (sheet.count, set(sheet.dtypes), sheet.nodata) == (3, {"uint8"}, 0)
            assert sheet.crs.to_epsg() == 25830
            assert sheet.res == (0.5, 0.5)
            assert sheet.block_shapes[0] == (256, 256)
            corners[name] = (sheet.bounds.left, sheet.bounds.top)
    left, top = corners["0722-1"]
    assert corners == {
        "0722-1": (left, top),
        "0722-2": (left + width, top),
        "0722-3": (left, top - height),
        "0722-4": (left + width, top - height),
    }


def test_only_the_cut_corner_has_no_data(folder: Path) -> None:
    for name in demo.SHEETS:
        with rasterio.open(folder / f"{name}.tif") as sheet:
            pixels = sheet.read()
        missing = (pixels == demo.NODATA).all(axis=0)
        np.testing.assert_array_equal((pixels == demo.NODATA).any(axis=0), missing)
        if name == demo.CUT_CORNER:
            assert missing[-1, -1]
            assert not missing[0].any()
            assert not missing[:, 0].any()
            assert 0.02 < missing.mean() < 0.2
        else:
            assert not missing.any()


def test_polygons_are_geographic_and_lie_where_the_parcels_are(
    province: demo.Province, polygons: geopandas.GeoDataFrame
) -> None:
    assert polygons.crs.to_epsg() == 4258
    assert polygons.geometry.is_valid.all()
    there = [i for i, label in enumerate(province.labels) if label is not None]
    assert len(polygons) == len(there) < len(province.labels)
    projected = polygons.geometry.to_crs(demo.CRS)
    left, top = 716_400.0, 4_373_700.0
    burned = rasterize(
        zip(projected, there, strict=True),
        out_shape=province.parcel.shape,
        fill=-1,
        transform=Affine(0.5, 0, left, 0, -0.5, top),
        dtype="int32",
    )
    holes = ~np.isin(province.parcel, there)
    assert holes.any()
    assert set(np.unique(burned)) == {-1, *np.unique(province.parcel[~holes])}
    # The base has tenths of millimetres: a centre may change sides only where it is on the edge.
    others = np.argwhere(burned != np.where(holes, -1, province.parcel))
    assert len(others) < 5
    for row, col in others:
        centre = Point(left + (col + 0.5) * 0.5, top - (row + 0.5) * 0.5)
        edge = province.outlines[province.parcel[row, col]].exterior
        assert centre.distance(edge) < 1e-3


def test_parcels_cover_all_sheets_once_and_cross_their_edges(province: demo.Province) -> None:
    assert province.parcel.min() >= 0
    total = sum(outline.area for outline in province.outlines)
    union = geopandas.GeoSeries(province.outlines).union_all().area
    assert total == pytest.approx(union, rel=1e-6)
    inside = [set(np.unique(province.parcel[province.sheet(name)])) for name in demo.SHEETS]
    assert inside[0] & inside[1]
    assert inside[0] & inside[2]


def test_the_ground_is_what_the_values_table_says(folder: Path, province: demo.Province) -> None:
    there = [i for i, label in enumerate(province.labels) if label is not None]
    urns = [str(urn) for (urn,) in query(folder, "SELECT ID_POLYGON FROM SAR_99_T_POLIGONOS")]
    rows = query(
        folder, "SELECT ID_POLYGON, ID_COBERTURA, SUPERF_POR_SINREDONDEO FROM SAR_99_T_VALORES"
    )
    said: dict[str, dict[int, float]] = {}
    for urn, cover, share in rows:
        assert isinstance(cover, int)
        assert isinstance(share, float)
        said.setdefault(str(urn), {})[cover] = share
    kinds = set()
    for index, urn in zip(there, urns, strict=True):
        label, pixels = province.labels[index], province.cover[province.parcel == index]
        if not label or label == "DSC":
            kinds.add(label)
            assert said.get(urn, {}) == ({999: 100.0} if label else {})
            continue
        shares = said[urn]
        assert sum(shares.values()) == pytest.approx(100)
        kinds.add("composite" if len(shares) > 1 else "simple")
        if pixels.size:
            covers, counts = np.unique(pixels, return_counts=True)
            found = dict(zip(covers.tolist(), 100 * counts / pixels.size, strict=True))
            assert shares == pytest.approx(found)
    assert kinds == {"simple", "composite", "DSC", ""}


def test_labels_round_the_table_to_100_per_cent() -> None:
    names = {101: "EDF", 104: "PAV", 320: "MTR", 999: "DSC"}
    assert demo._label({320: 100.0}, 1.0, names) == "MTR"
    assert demo._label({101: 33.4, 104: 33.3, 320: 33.3}, 1.0, names) == "34EDF_33PAV_33MTR"
    assert demo._label({101: 20.6, 104: 79.4}, 1.0, names) == "79PAV_21EDF"
    assert demo._label({101: 99.8, 104: 0.2}, 1.0, names) == "EDF"
    assert demo._label({320: 100.0}, 0.0, names) is None


def test_tables_are_as_in_a_download(folder: Path) -> None:
    contents = query(folder, "SELECT table_name, data_type, last_change FROM gpkg_contents")
    assert [row[:2] for row in contents] == [
        ("SAR_99_T_POLIGONOS", "features"),
        ("SAR_99_T_VALORES", "attributes"),
        ("LISTADO_COBERTURAS", "attributes"),
    ]
    assert {row[2] for row in contents} == {"2017-07-01T00:00:00.000Z"}
    columns = {
        "SAR_99_T_POLIGONOS": "ID_POLYGON ROTULO ID_COBERTURA_MAX SUPERF_M2 FECHA_REF",
        "SAR_99_T_VALORES": "ID_POLYGON ROTULO CODE_ABREV ID_COBERTURA SUPERF_POR_SINREDONDEO "
        "SUPERF_M2",
        "LISTADO_COBERTURAS": "ID_COBERTURA ETIQUETA DESCRIPCION",
    }
    for table, expected in columns.items():
        found = [row[1] for row in query(folder, f"PRAGMA table_info({table})")]
        assert [name for name in found if name not in ("fid", "geom")] == expected.split()
    codelist = {(c.id, c.label, c.description) for c in nomenclature.siose_ar_codelist()}
    assert set(query(folder, "SELECT * FROM LISTADO_COBERTURAS")) == codelist


def test_patches_make_up_exactly_their_share() -> None:
    parcel = np.repeat(np.arange(2, dtype=np.int32), 50 * 40).reshape(100, 40)
    inside = landscape.patches(parcel, np.array([0.4, 0.0]), np.random.default_rng(0))
    assert inside[:50].sum() == 800
    assert not inside[50:].any()
    # Patches, not speckle: most neighbours are alike.
    assert (inside[:50, 1:] == inside[:50, :-1]).mean() > 0.9


def test_a_cover_without_painter_is_refused() -> None:
    rng = np.random.default_rng(0)
    ground = landscape.lay_out(np.zeros((16, 16), np.int32), 1, rng)
    with pytest.raises(ValueError, match=r"\[421\]"):
        landscape.paint(ground, np.full((16, 16), 421, np.uint16), rng)


def test_colour_alone_does_not_tell_the_classes_and_texture_does() -> None:
    province = demo.make_province(0, (700, 525))
    resolver = nomenclature.parse(
        config.read_yaml(CONFIGS / "nomenclatures" / "demo.yaml"), "demo"
    ).resolver(nomenclature.siose_ar_codelist())
    classes = np.zeros(1000, np.int64)
    for cover in np.unique(province.cover):
        number = resolver.class_of(int(cover))
        assert number is not None
        classes[cover] = number
    truth = classes[province.cover]
    colour = np.moveaxis(province.picture.astype(np.float32), 0, -1)
    texture = np.concatenate([colour, neighbourhood(province.picture)], axis=-1)
    on_colour, on_texture = (accuracy(province, x, truth) for x in (colour, texture))
    assert on_colour < 0.6
    assert on_texture > on_colour + 0.15


def neighbourhood(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean colour, and log spread of brightness at two distances, shape ``(rows, cols, 5)``."""
    bands = picture.astype(np.float32)
    bright = bands.mean(axis=0)
    layers = [landscape.blurred(band, 12.0) for band in bands]
    for distance in (1.5, 6.0):
        detail = bright - landscape.blurred(bright, distance)
        layers.append(np.log(landscape.blurred(detail * detail, 12.0) + 1))
    return np.stack(layers, axis=-1)


def accuracy(
    province: demo.Province, features: NDArray[np.float32], truth: NDArray[np.int64]
) -> float:
    """Share of the test sheet that a quadratic discriminant of the training sheets gets right."""
    train = [province.sheet(name) for name in ("0722-1", "0722-2")]
    x = np.concatenate([features[s][::2, ::2].reshape(-1, features.shape[-1]) for s in train])
    y = np.concatenate([truth[s][::2, ::2].ravel() for s in train])
    test = province.sheet("0722-4")
    unseen = features[test][::2, ::2].reshape(-1, features.shape[-1]).astype(np.float64)
    scores = []
    for number in range(6):
        mine = x[y == number].astype(np.float64)
        spread = np.cov(mine.T)
        apart = unseen - mine.mean(axis=0)
        distance = np.einsum("ni,ij,nj->n", apart, np.linalg.inv(spread), apart, optimize=True)
        scores.append(
            np.log(len(mine) / len(y)) - 0.5 * distance - 0.5 * np.linalg.slogdet(spread)[1]
        )
    return float((np.argmax(scores, axis=0) == truth[test][::2, ::2].ravel()).mean())
