"""QGIS projects as text: groups, styles, paths, the same bytes; QGIS itself is in test_qgis."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from pipeline import config, geotiff, stages, styles
from pipeline.block_raster import BlockRaster
from pipeline.errors import InputError, SettingsError
from pipeline.grid import PixelGrid
from pipeline.qgis_project import Group, Project, ProjectLayer, around, document, packed
from pipeline.run import Run

NAMES = ('Olivar <de "secano"> & viñedo', "agua", "vía")
COLORS = ("#A0C800", "#0000FF", "#DC1E1E")
CLASSES = f"""
classes:
  - {{name: '{NAMES[0]}', covers: [LOL], color: "{COLORS[0]}"}}
  - {{name: '{NAMES[1]}', covers: [AGU], color: "{COLORS[1]}"}}
  - {{name: '{NAMES[2]}', covers: [VAP], color: "{COLORS[2]}"}}
ignore: ["*"]
"""

RunMaker = Callable[..., Run]


def grid_of(number: int, crs: str = "EPSG:25830") -> PixelGrid:
    return PixelGrid(crs, 700_000.0 + 20 * number, 4_400_000.0, 0.5, 0.5, 40, 30)


@pytest.fixture
def made(tmp_path: Path) -> RunMaker:
    """Makes a run of small sheets: orthophotos, labels and maps, by hand."""

    def make(
        rows: dict[str, tuple[str, str]],
        crs: dict[str, str] | None = None,
        name: str = "a run & more",
        **sections: dict[str, Any],
    ) -> Run:
        (tmp_path / "classes.yaml").write_text(CLASSES, "utf-8")
        folder = tmp_path / name
        lines = ["sheet,orthophoto,siose,split,year"]
        for sheet, (split, year) in rows.items():
            lines.append(
                f"{sheet},{folder / 'data' / sheet}.tif,{tmp_path / 's.gpkg'},{split},{year}"
            )
        (tmp_path / "sheets.csv").write_text("\n".join(lines), "utf-8")
        values: dict[str, object] = {
            "run": str(folder),
            "sheets": str(tmp_path / "sheets.csv"),
            "nomenclature": str(tmp_path / "classes.yaml"),
            **sections,
        }
        run = Run(config.from_mapping(values, "test settings"))
        for number, sheet in enumerate(rows):
            grid = grid_of(number, (crs or {}).get(sheet, "EPSG:25830"))
            _write_sheet(run, sheet, grid, labelled=rows[sheet][0] != "map")
        return run

    return make


def _write_sheet(run: Run, sheet: str, grid: PixelGrid, *, labelled: bool) -> None:
    paths, classes = run.paths, run.nomenclature
    photo = run.sheet(sheet).orthophoto
    for path in (photo, paths.label_raster(sheet), paths.land_cover_map(sheet)):
        path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        photo, "w", driver="GTiff", dtype="uint8", count=3, width=grid.width, height=grid.height,
        crs=grid.crs, transform=from_origin(grid.left, grid.top, 0.5, 0.5),
    ) as raster:  # fmt: skip
        raster.write(np.full((3, grid.height, grid.width), 90, np.uint8))
    tags = {"TESELA_NOMENCLATURE": classes.fingerprint}
    label = np.zeros((grid.height, grid.width), np.uint8)
    label[:, 10:] = 1
    label[:5] = 255
    if labelled:
        with BlockRaster(
            paths.label_raster(sheet), grid, "uint8", 255, classes.colors, tags
        ) as blocks:
            blocks.put(blocks.encode(grid.window, label))
    mapped = np.zeros_like(label)
    mapped[:, 12:] = 1
    mapped[-3:] = 2
    rasters = {"classes": mapped} | dict.fromkeys(
        run.settings.mapping.layers[1:], np.full_like(label, 50)
    )
    delivered = [paths.delivered_map(sheet, run.settings.cleaning.asked)]
    for layer, pixels in rasters.items():
        for path in {paths.map_layer(sheet, layer), *(delivered if layer == "classes" else ())}:
            with geotiff.RasterWriter(path, grid, "uint8", 255, (), tags) as writer:
                writer.write(grid.window, pixels)


def _xml(run: Run) -> ET.Element:
    with zipfile.ZipFile(run.paths.project) as archive:
        (name,) = archive.namelist()
        assert name.endswith(".qgs")
        return ET.fromstring(archive.read(name).decode())


def _tree(node: ET.Element) -> dict[str, Any]:
    """Names of groups and layers; what is checked ends in *."""
    found: dict[str, Any] = {}
    for part in node:
        name = part.get("name", "") + ("*" if part.get("checked") == "Qt::Checked" else "")
        if part.tag == "layer-tree-group":
            found[name] = _tree(part)
        elif part.tag == "layer-tree-layer":
            assert name not in found
            found[name] = None
    return found


def _groups(run: Run) -> dict[str, Any]:
    root = _xml(run).find("layer-tree-group")
    assert root is not None
    return _tree(root)


def _all(run: Run) -> None:
    for sheet in run.labelled_sheets:
        stages.error_raster(run, sheet)
    stages.mosaic(run)
    stages.qgis_project(run)


TWO = {"0722-1": ("train", "2017"), "0722-2": ("map", "2019")}


def test_errors_show_the_class_that_belongs_there(made: RunMaker) -> None:
    run = made(TWO)
    stages.error_raster(run, "0722-1")
    with rasterio.open(run.paths.errors("0722-1")) as raster:
        found = raster.read(1)
        assert raster.nodata == 255
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert "STATISTICS_MEAN" in raster.tags(1)
        colors = raster.colormap(1)
    expected = np.zeros((30, 40), np.uint8)
    expected[:, 10:12] = 2  # of class 1, mapped as 0
    expected[-3:, :10], expected[-3:, 10:] = 1, 2
    expected[:5] = 255
    np.testing.assert_array_equal(found, expected)
    assert [colors[value] for value in (1, 2, 3)] == [(*c, 255) for c in (
        (0xA0, 0xC8, 0), (0, 0, 255), (0xDC, 0x1E, 0x1E))]  # fmt: skip
    before = run.paths.errors("0722-1").read_bytes()
    stages.error_raster(run, "0722-1", threads=3)
    assert run.paths.errors("0722-1").read_bytes() == before
    side = ET.parse(run.paths.errors("0722-1").with_suffix(".tif.aux.xml"))
    counts = [row[1].text for row in side.iter("Row")]
    assert counts == [str((expected == value).sum()) for value in range(4)]
    with pytest.raises(SettingsError, match="has no labels"):
        stages.error_raster(run, "0722-2")


def test_mosaics_are_one_of_each_kind_with_a_style_and_the_same_bytes_again(
    made: RunMaker,
) -> None:
    run = made(TWO, mapping={"entropy": True})
    _all(run)
    names = ("classes", "confidence", "entropy", "errors", "labels", "orthophotos")
    files = {path.name: path.read_bytes() for path in run.paths.mosaics.iterdir()}
    assert sorted(files) == sorted(
        f"a run & more.{name}.{kind}" for name in names for kind in ("qml", "vrt")
    )
    with rasterio.open(run.paths.mosaics / "a run & more.classes.vrt") as raster:
        assert (raster.width, raster.height) == (80, 30)
        assert raster.read(1)[0].tolist() == 2 * ([0] * 12 + [1] * 28)
    with rasterio.open(run.paths.mosaics / "a run & more.labels.vrt") as raster:
        assert raster.width == 40  # of the one sheet that has labels
    before = run.paths.project.read_bytes()
    _all(run)
    assert {path.name: path.read_bytes() for path in run.paths.mosaics.iterdir()} == files
    assert run.paths.project.read_bytes() == before


def test_later_years_lie_on_top_in_a_mosaic(made: RunMaker) -> None:
    run = made({"c": ("map", "2010"), "a": ("map", "2017"), "d": ("map", ""), "b": ("map", "2010")})
    stages.mosaic(run)
    root = ET.parse(run.paths.mosaics / "a run & more.classes.vrt").getroot()
    order = [node.text for node in root.iter("SourceFilename")]
    assert order == [f"../maps/{sheet}.tif" for sheet in ("d", "b", "c", "a")]


def test_sheets_of_two_systems_have_two_mosaics(made: RunMaker) -> None:
    sheets = {"a": ("map", ""), "b": ("train", ""), "c": ("map", "")}
    run = made(sheets, crs={"b": "EPSG:25829"})
    _all(run)
    stems = {path.name for path in run.paths.mosaics.glob("*.classes.*.vrt")}
    assert stems == {
        "a run & more.classes.epsg25829.vrt",
        "a run & more.classes.epsg25830.vrt",
    }
    assert list(run.paths.mosaics.glob("*.labels.*.vrt")) == [
        run.paths.mosaics / "a run & more.labels.epsg25829.vrt"
    ]
    groups = _groups(run)
    assert list(groups["maps*"]) == ["all sheets, epsg25830*", "all sheets, epsg25829*", "sheets"]
    root = _xml(run)
    assert root.findtext("projectCrs/spatialrefsys/authid") == "EPSG:25830"  # of most sheets
    systems = {
        layer.findtext("datasource"): layer.findtext("srs/spatialrefsys/authid")
        for layer in root.iter("maplayer")
    }
    assert systems["../maps/b.tif"] == "EPSG:25829"
    assert systems["../mosaics/a run & more.classes.epsg25829.vrt"] == "EPSG:25829"
    assert systems["../maps/a.tif"] == "EPSG:25830"


def test_maps_are_seen_at_first_and_the_rest_waits_in_groups(made: RunMaker) -> None:
    run = made(TWO, mapping={"probabilities": True, "entropy": True})
    _all(run)
    single = {"0722-1 (2017)*": None}
    both = {**single, "0722-2 (2019)*": None}
    closed = {"all sheets*": None, "sheets": both}
    assert _groups(run) == {
        "errors": single,
        "labels": single,
        "confidence": closed,
        "entropy": closed,
        "probabilities": {
            f"{NAMES[0]}, all sheets*": None,
            f"{NAMES[1]}, all sheets": None,
            f"{NAMES[2]}, all sheets": None,
            "sheets": both,
        },
        "maps*": closed,
        "orthophotos": closed,
    }
    root = _xml(run)
    bands = [
        layer.find("pipe/rasterrenderer").get("band")  # type: ignore[union-attr]
        for layer in root.iter("maplayer")
        if "probabilities.vrt" in (layer.findtext("datasource") or "")
    ]
    assert bands == ["1", "2", "3"]


def test_the_project_names_its_classes_and_files_and_no_folder_of_this_machine(
    made: RunMaker, tmp_path: Path
) -> None:
    run = made(TWO)
    _all(run)
    with zipfile.ZipFile(run.paths.project) as archive:
        text = archive.read("project.qgs").decode()
    assert str(tmp_path) not in text
    root = ET.fromstring(text)
    assert root.findtext("title") == "a run & more: land cover of 2 sheets"
    assert NAMES[0] in (root.findtext("projectMetadata/abstract") or "")
    for layer in root.iter("maplayer"):
        source = layer.findtext("datasource")
        assert source is not None
        assert source.startswith("../")
        assert (run.paths.project.parent / source).resolve().exists(), source
    legends = [
        [entry.get("label") for entry in layer.iter("paletteEntry")]
        for layer in root.iter("maplayer")
        if "maps/" in (layer.findtext("datasource") or "")
        and layer.find(".//paletteEntry") is not None
    ]
    assert legends == [list(NAMES)] * 2
    extent = root.find("mapcanvas/extent")
    assert extent is not None
    # Two sheets of 20 m x 15 m beside each other, and a fiftieth more on each side.
    assert [float(node.text or "") for node in extent] == pytest.approx(
        [699_999.2, 4_399_984.7, 700_040.8, 4_400_000.3]
    )


def test_an_orthophoto_elsewhere_is_named_by_its_whole_path(
    made: RunMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made({"a": ("map", "")})
    photo = run.sheet("a").orthophoto
    # The tree that both lie on ends above the test's folder: as if on another disk.
    monkeypatch.setattr("os.path.commonpath", lambda paths: str(Path(paths[0]).anchor)
                        if photo in paths else str(tmp_path))  # fmt: skip
    stages.mosaic(run)
    stages.qgis_project(run)
    sources = [layer.findtext("datasource") for layer in _xml(run).iter("maplayer")]
    assert sources == ["../maps/a.confidence.tif", "../maps/a.tif", str(photo)]
    vrt = ET.parse(run.paths.mosaics / "a run & more.orthophotos.vrt").getroot()
    assert {(n.text, n.get("relativeToVRT")) for n in vrt.iter("SourceFilename")} == {
        (str(photo), "0")
    }


def test_a_cleaned_map_is_shown_with_what_was_predicted_below_it(made: RunMaker) -> None:
    run = made({"a": ("map", ""), "b": ("map", "")}, cleaning={"majority_px": 3})
    stages.mosaic(run)
    stages.qgis_project(run)
    assert _groups(run)["maps*"] == {
        "all sheets*": None,
        "as predicted": {"a*": None, "b*": None},
        "sheets": {"a*": None, "b*": None},
    }
    vrt = ET.parse(run.paths.mosaics / "a run & more.classes.vrt").getroot()
    assert [n.text for n in vrt.iter("SourceFilename")] == [
        "../maps/a.cleaned.tif", "../maps/b.cleaned.tif"
    ]  # fmt: skip


def test_all_that_is_missing_is_told_at_once_and_nothing_is_written(made: RunMaker) -> None:
    run = made(TWO)
    run.paths.confidence("0722-2").unlink()
    with pytest.raises(InputError) as caught:
        stages.mosaic(run)
    assert [item.split(":")[0] for item in caught.value.items] == [
        "errors of sheet 0722-1", "confidence of sheet 0722-2"
    ]  # fmt: skip
    assert not run.paths.mosaics.exists()
    for sheet in ("0722-1", "0722-2"):
        run.paths.confidence(sheet).touch()
    stages.error_raster(run, "0722-1")
    with pytest.raises(InputError, match="results of the run are missing") as caught:
        stages.qgis_project(run)
    assert caught.value.items == (f"mosaics: {run.paths.mosaics}",)


def test_a_map_of_another_nomenclature_is_not_put_into_a_mosaic(
    made: RunMaker, tmp_path: Path
) -> None:
    run = made({"a": ("map", "")})
    (tmp_path / "classes.yaml").write_text(CLASSES.replace("agua", "mar"), "utf-8")
    with pytest.raises(InputError, match="another nomenclature"):
        stages.mosaic(Run(run.settings))


# --- the document --------------------------------------------------------------------------------


def _project(*layers: ProjectLayer, **other: Any) -> Project:
    values: dict[str, Any] = {
        "title": "t", "abstract": "a", "author": "me", "crs": "EPSG:25830",
        "extent": (0.0, 1.0, 2.0, 3.0), "groups": [Group("maps", layers, shown=True)],
    }  # fmt: skip
    return Project(**{**values, **other})


STYLE = styles.class_qml(NAMES, COLORS)


def test_what_xml_has_its_own_use_for_comes_back_as_it_was() -> None:
    odd = "a <b> & \"c\" 'd' \x07 ñ →"
    layer = ProjectLayer(
        odd, f"../{odd[:-4]}.tif".replace("\x07", ""), "EPSG:25830", STYLE, note=odd
    )
    root = ET.fromstring(document(_project(layer, title=odd, abstract=odd, author=odd)))
    shown = odd.replace("\x07", "\ufffd")
    assert root.findtext("title") == shown
    assert root.findtext("projectMetadata/author") == shown
    found = root.find("projectlayers/maplayer")
    assert found is not None
    assert (found.findtext("layername"), found.findtext("abstract")) == (shown, shown)
    assert found.findtext("datasource") == layer.source
    labels = [entry.get("label") for entry in found.iter("paletteEntry")]
    assert labels == list(NAMES)


def test_layers_of_one_name_stay_apart() -> None:
    layers = [ProjectLayer("same", f"../{n}.tif", "EPSG:25830", STYLE) for n in range(3)]
    root = ET.fromstring(document(_project(*layers)))
    tree = [node.get("id", "") for node in root.iter("layer-tree-layer")]
    assert tree == [layer.findtext("id") for layer in root.iter("maplayer")]
    assert len(set(tree)) == 3
    assert all(len(name) > 10 for name in tree)  # QGIS makes up others for shorter ones


def test_a_polygon_layer_has_the_provider_of_vectors() -> None:
    layer = ProjectLayer("p", "../a.gpkg|layername=x", "EPSG:25830", "<qgis/>", "vector")
    root = ET.fromstring(document(_project(layer)))
    found = root.find("projectlayers/maplayer")
    assert found is not None
    assert (found.get("type"), found.findtext("provider")) == ("vector", "ogr")


def test_a_system_without_a_code_is_written_out() -> None:
    wkt = 'PROJCS["Madrid & around",GEOGCS["x"]]'
    root = ET.fromstring(document(_project(crs=wkt)))
    assert root.findtext("projectCrs/spatialrefsys/wkt") == wkt
    assert root.find("projectCrs/spatialrefsys/authid") is None


def test_a_style_that_is_no_xml_is_told_with_its_file() -> None:
    layer = ProjectLayer("a", "../changes/a.tif", "EPSG:25830", "<qgis")
    with pytest.raises(InputError, match=r"\.\./changes/a\.tif: its style cannot be read"):
        document(_project(layer))


def test_the_archive_has_no_time_in_it() -> None:
    content = packed(_project())
    assert content == packed(_project())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (entry,) = archive.infolist()
        assert entry.date_time == (1980, 1, 1, 0, 0, 0)
        assert archive.testzip() is None


def test_bounds_around_several_boxes() -> None:
    found = around([(0.0, 0.0, 10.0, 5.0), (90.0, -5.0, 100.0, 0.0)], margin=0.1)
    assert found == (-10.0, -6.0, 110.0, 6.0)
