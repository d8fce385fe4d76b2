"""Every output of a run in a real QGIS: what an analyst sees without a click."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from shapely.geometry import box

from pipeline import checkpoint, config, demo, disagreement, networks, stages
from pipeline.run import Run
from pipeline.siose_problems import KINDS, write_problems

ROOT = Path(__file__).resolve().parents[1]
PYTHON = Path("/usr/bin/python3")
"""The one that has QGIS, where it is installed (Debian's python3-qgis)."""

FOREST = 'forest <"dense"> & más'
SHEETS = {
    "0722-1": ("0722-1.tif", "train", 2017, "0722-1"),
    "0722-3": ("0722-3.tif", "test", 2010, "corner"),
    "0722-3-later": ("later.tif", "map", 2017, "corner"),
}
PIXELS = (300, 225)
MOSAIC = (PIXELS[0], 2 * PIXELS[1])
"""Columns and rows of all sheets together: one lies below the other."""
POLYGONS = {
    "vectors": ("patches", "siose"), "checks": ("problems",), "problems": ("problems",)
}  # fmt: skip
"""Layers of the GeoPackages in each folder."""
NAME = "a run & más"


@dataclass(frozen=True)
class Seen:
    """A run, and what QGIS said of it.

    Attributes:
        run: The run, in the folder that it was moved to.
        layers: Of each file, by its place in the run's folder.
        project: Its project where it was made.
        moved: Its project after the folder was moved.
        written: Files that were there after QGIS and not before.
        pictures: Pixels that QGIS drew of each file.
    """

    run: Run
    layers: dict[str, dict[str, Any]]
    project: dict[str, Any]
    moved: dict[str, Any]
    written: set[str]
    pictures: dict[str, Path]

    def legend(self) -> dict[str, list[str]]:
        """The classes as QGIS tells them."""
        return {
            str(number): [entry.name, entry.color.lower()]
            for number, entry in enumerate(self.run.nomenclature.classes)
        }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of three small sheets with everything switched on; its network has learnt nothing."""
    folder = tmp_path_factory.mktemp("qgis") / NAME
    data = folder / "data"
    demo.write_demo(data, sheet_px=PIXELS)
    with rasterio.open(data / "0722-3.tif") as source:
        image, profile = source.read(), source.profile
    with rasterio.open(data / "later.tif", "w", **profile) as later:
        later.write(np.ascontiguousarray(image[:, ::-1]))
    text = (ROOT / "configs" / "nomenclatures" / "demo.yaml").read_text("utf-8")
    settings = folder.parent  # the run is moved, its settings stay
    (settings / "classes.yaml").write_text(
        text.replace("name: forest", f"name: '{FOREST}'"), "utf-8"
    )
    rows = [
        f"{sheet},{data / photo},{data / demo.BASE},{split},{year},{place}"
        for sheet, (photo, split, year, place) in SHEETS.items()
    ]
    header = "sheet,orthophoto,siose,split,year,place"
    (settings / "sheets.csv").write_text("\n".join([header, *rows]), "utf-8")
    values: dict[str, object] = {
        "run": str(folder),
        "sheets": str(settings / "sheets.csv"),
        "nomenclature": str(settings / "classes.yaml"),
        "training": {"network": "enet"},
        "mapping": {
            "window_px": 128, "overlap_px": 32, "precision": "float32",
            "probabilities": True, "entropy": True,
        },
        "cleaning": {"majority_px": 3, "min_area_m2": 4.0},
        "vectors": {"format": "gpkg", "simplify_m": 0.5, "siose_shares": True},
    }  # fmt: skip
    run = Run(config.from_mapping(values, "test settings"))
    _untrained(run)
    for sheet in run.labelled_sheets:
        stages.class_proportions(run, sheet)
        stages.check_polygons(run, sheet)
        stages.label_raster(run, sheet)
    _problems(run)
    for sheet in run.sheets:
        stages.map_sheet(run, sheet)
        stages.clean_map(run, sheet)
        stages.vector_map(run, sheet)
    for sheet in run.labelled_sheets:
        stages.error_raster(run, sheet)
    stages.change_map(run, "corner", "2010", "2017")
    stages.mosaic(run)
    stages.qgis_project(run)
    return run


def _problems(run: Run) -> None:
    """The demo's polygons are all right: two that are not."""
    with rasterio.open(run.sheet("0722-1").orthophoto) as source:
        left, bottom, right, top = source.bounds
    frame = geopandas.GeoDataFrame(
        {"kind": ["overlap", "cover"], "polygon_id": ["a", "b"], "text": ["", "LVI"]},
        geometry=[box(left, bottom, right - 50, top), box(right - 50, bottom, right, top)],
        crs="EPSG:25830",
    )
    run.paths.problems("0722-1").parent.mkdir(exist_ok=True)
    write_problems(frame, run.paths.problems("0722-1"))


def _untrained(run: Run) -> None:
    torch.manual_seed(0)
    classes = run.nomenclature
    network = networks.build(
        "enet", encoder="resnet18", encoder_weights="none", bands=3, classes=len(classes)
    )
    card = checkpoint.ModelCard(
        network="enet",
        encoder="resnet18",
        bands=3,
        pixel_size=(0.5, 0.5),
        classes=classes.names,
        colors=classes.colors,
        nomenclature=classes.fingerprint,
        mean=(110.0, 110.0, 100.0),
        std=(40.0, 40.0, 40.0),
    )
    run.paths.best.parent.mkdir(parents=True)
    checkpoint.save(run.paths.best, network, card)


def _asked(request: dict[str, Any]) -> dict[str, Any]:
    command = [str(PYTHON), str(ROOT / "tests" / "qgis_session.py")]
    done = subprocess.run(
        command, input=json.dumps(request), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def seen(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What QGIS says of all files of the run and of its project, before and after a move."""
    there = [str(PYTHON), "-c", "import qgis.core"]
    if not PYTHON.exists() or subprocess.run(there, check=False, capture_output=True).returncode:
        pytest.skip("QGIS is not installed (Debian's python3-qgis)")
    folder = run.paths.run
    rasters = [
        path
        for part in ("maps", "labels", "errors", "changes", "mosaics")
        for path in sorted((folder / part).iterdir())
        if path.suffix in (".tif", ".vrt") and ".polygons." not in path.name
    ]
    polygons = [
        f"{path}|layername={layer}"
        for part, layers in POLYGONS.items()
        for path in sorted((folder / part).glob("*.gpkg"))
        for layer in layers
        if layer != "siose" or path.stem in run.labelled_sheets
    ]
    drawn = tmp_path_factory.mktemp("pictures")
    names = {str(file): str(file).removeprefix(f"{folder}/") for file in (*rasters, *polygons)}
    pictures = {path: drawn / f"{number}.png" for number, path in enumerate(names)}
    before = _files(folder)
    answer = _asked(
        {
            "layers": list(names),
            "projects": [str(run.paths.project)],
            "pictures": {path: str(file) for path, file in pictures.items()},
        }
    )
    written = _files(folder) - before
    moved = folder.parent / "moved ñ"
    shutil.move(folder, moved)
    project = moved / run.paths.project.relative_to(folder)
    again = _asked({"projects": [str(project)], "pictures": {str(project): str(drawn / "p.png")}})
    return Seen(
        Run(run.settings.model_copy(update={"run": moved})),
        {names[path]: found for path, found in answer["layers"].items()},
        answer["projects"][str(run.paths.project)],
        again["projects"][str(project)],
        written,
        {names[path]: file for path, file in pictures.items()} | {"project": drawn / "p.png"},
    )


def _is_seen(layer: dict[str, Any], bands: int = 1, size: tuple[int, int] = PIXELS) -> None:
    assert layer["valid"], layer
    assert layer["crs"] == "EPSG:25830"
    assert layer["nodata"] == [255.0] * bands
    assert layer["pixel"] == [0.5, 0.5]
    assert tuple(layer["size"]) == size
    assert layer["errors"] == []


def _colors(picture: Path) -> set[str]:
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(np.uint32)
    numbers = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    return {f"#{number:06x}" for number in np.unique(numbers)}


@pytest.mark.parametrize(
    "file",
    [*(f"maps/{sheet}.tif" for sheet in SHEETS), "maps/0722-1.cleaned.tif", "labels/0722-1.tif"],
)
def test_class_rasters_show_exactly_the_classes(seen: Seen, file: str) -> None:
    layer = seen.layers[file]
    _is_seen(layer)
    assert layer["renderer"] == "paletted"
    assert layer["classes"] == seen.legend()
    drawn = _colors(seen.pictures[file])
    assert drawn <= {color for _, color in seen.legend().values()} | {"#ffffff"}
    assert len(drawn - {"#ffffff"}) > 1


def test_errors_show_what_belongs_there(seen: Seen) -> None:
    layer = seen.layers["errors/0722-3.tif"]
    _is_seen(layer)
    classes = seen.run.nomenclature
    names, colors = disagreement.legend(classes.names, classes.colors)
    assert layer["classes"] == {
        str(value): [name, color.lower()]
        for value, (name, color) in enumerate(zip(names, colors, strict=True))
    }
    assert layer["classes"]["1"][0] == f"{FOREST}, mapped as another class"
    drawn = _colors(seen.pictures["errors/0722-3.tif"])
    assert drawn <= {color.lower() for color in colors} | {"#ffffff"}
    assert colors[0].lower() in drawn


@pytest.mark.parametrize("kind", ["confidence", "entropy", "probabilities"])
def test_per_cents_have_fixed_stops(seen: Seen, kind: str) -> None:
    classes = seen.run.nomenclature
    bands = len(classes) if kind == "probabilities" else 1
    layer = seen.layers[f"maps/0722-3.{kind}.tif"]
    _is_seen(layer, bands)
    assert layer["renderer"] == "singlebandpseudocolor"
    assert [(stop, label) for stop, _, label in layer["stops"]] == [
        (float(value), f"{value} %") for value in (0, 25, 50, 75, 100)
    ]
    assert layer["stops"][0][1] == {"entropy": "#000004"}.get(kind, "#440154")
    assert layer["shown_bands"] == [1]
    if kind == "probabilities":
        assert layer["bands"] == [
            f"Band {number}: {name}" for number, name in enumerate(classes.names, start=1)
        ]


@pytest.mark.parametrize("kind", ["classes", "labels", "errors"])
def test_mosaics_of_classes_show_names_and_colours(seen: Seen, kind: str) -> None:
    file = f"mosaics/{NAME}.{kind}.vrt"
    layer = seen.layers[file]
    _is_seen(layer, size=MOSAIC)
    sheet = {"classes": "maps/0722-3.tif"}.get(kind, f"{kind}/0722-3.tif")
    legend = layer["classes"]
    assert legend == seen.layers[sheet]["classes"]
    drawn = _colors(seen.pictures[file]) - {"#ffffff"}
    assert drawn <= {color for _, color in legend.values()}
    assert len(drawn) > 1


@pytest.mark.parametrize("kind", ["confidence", "entropy", "probabilities"])
def test_mosaics_of_per_cents_look_like_the_sheets(seen: Seen, kind: str) -> None:
    layer, sheet = (
        seen.layers[name] for name in (f"mosaics/{NAME}.{kind}.vrt", f"maps/0722-3.{kind}.tif")
    )
    _is_seen(layer, len(sheet["bands"]), MOSAIC)
    assert layer["stops"] == sheet["stops"]
    if kind == "probabilities":
        assert layer["bands"] == sheet["bands"]


def test_the_mosaic_of_orthophotos_is_transparent_around_them(seen: Seen) -> None:
    layer = seen.layers[f"mosaics/{NAME}.orthophotos.vrt"]
    assert layer["valid"]
    assert tuple(layer["size"]) == MOSAIC
    assert (layer["renderer"], layer["shown_bands"]) == ("multibandcolor", [1, 2, 3])
    assert layer["alpha"] == 4
    assert len(_colors(seen.pictures[f"mosaics/{NAME}.orthophotos.vrt"])) > 100


def test_changes_say_from_what_to_what(seen: Seen) -> None:
    layer = seen.layers["changes/corner.2010-2017.tif"]
    _is_seen(layer)
    assert layer["renderer"] == "paletted"
    names = seen.run.nomenclature.names
    told = {label for label, _ in layer["classes"].values()}
    possible = {f"{a} → {b}" for a in names for b in names if a != b}
    assert told - {f"{name}, unchanged" for name in names} <= possible
    drawn = _colors(seen.pictures["changes/corner.2010-2017.tif"]) - {"#ffffff"}
    assert drawn <= {color for _, color in layer["classes"].values()}
    assert len(drawn) > 1


@pytest.mark.parametrize("sheet", SHEETS)
def test_patches_show_exactly_the_classes(seen: Seen, sheet: str) -> None:
    layer = seen.layers[f"vectors/{sheet}.gpkg|layername=patches"]
    assert (layer["valid"], layer["crs"], layer["errors"]) == (True, "EPSG:25830", [])
    assert layer["renderer"] == "categorizedSymbol"
    assert sorted(layer["classes"].values()) == sorted(seen.legend().values())
    assert {"class", "area_m2", "confidence"} <= set(layer["fields"])
    with rasterio.open(seen.run.paths.cleaned_map(sheet)) as raster:
        bounds = raster.bounds
    assert layer["extent"] == pytest.approx(list(bounds), abs=1.0)
    assert layer["features"] > 1


def test_siose_polygons_with_shares_open_styled(seen: Seen) -> None:
    layer = seen.layers["vectors/0722-1.gpkg|layername=siose"]
    assert (layer["valid"], layer["crs"], layer["errors"]) == (True, "EPSG:25830", [])
    assert layer["features"] > 1
    assert layer["renderer"] == "categorizedSymbol"
    assert {label for label, _ in layer["classes"].values()} <= set(seen.run.nomenclature.names)


def test_polygons_that_need_an_eye_are_named(seen: Seen) -> None:
    layer = seen.layers["problems/0722-1.gpkg|layername=problems"]
    assert (layer["valid"], layer["features"], layer["crs"]) == (True, 2, "EPSG:25830")
    assert layer["classes"] == {
        kind: [KINDS[kind].name, KINDS[kind].color.lower()] for kind in ("cover", "overlap")
    }
    assert layer["errors"] == []
    checked = seen.layers["checks/0722-1.gpkg|layername=problems"]
    assert (checked["valid"], checked["features"]) == (True, 0)  # the demo's are all right


def test_nothing_is_written_beside_what_is_opened(seen: Seen) -> None:
    assert seen.written == set()


# --- the project ---------------------------------------------------------------------------------


def _tree(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Names of groups and layers; what is checked ends in *."""
    return {
        node["name"] + "*" * node["checked"]: _tree(node["entries"]) if "entries" in node else None
        for node in nodes
    }


def test_the_project_opens_with_all_its_layers(seen: Seen) -> None:
    project = seen.project
    assert project["read"]
    assert [layer for layer in project["layers"] if not layer["valid"]] == []
    assert {layer["crs"] for layer in project["layers"]} == {"EPSG:25830"}
    assert project["crs"] == "EPSG:25830"
    assert project["title"] == f"{NAME}: land cover of 3 sheets"
    assert FOREST in project["abstract"]
    assert project["author"].startswith("Tesela ")


def test_maps_are_seen_and_the_rest_waits_in_groups(seen: Seen) -> None:
    names = seen.run.nomenclature.names
    two = {"0722-1 (2017)*": None, "0722-3 (2010)*": None}
    three = {**two, "0722-3-later (2017)*": None}
    assert _tree(seen.project["tree"]) == {
        "problems": {"0722-1, met by the run*": None},  # where there are any
        "vectors": {
            "0722-1: patches*": None,
            "0722-1: siose": None,
            "0722-3: patches*": None,
            "0722-3: siose": None,
            "0722-3-later*": None,
        },
        "changes": {"corner, 2010 to 2017*": None},
        "errors": {"all sheets*": None, "sheets": two},
        "labels": {"all sheets*": None, "sheets": two},
        "confidence": {"all sheets*": None, "sheets": three},
        "entropy": {"all sheets*": None, "sheets": three},
        "probabilities": {
            **{f"{name}, all sheets" + "*" * (name == FOREST): None for name in names},
            "sheets": three,
        },
        "maps*": {"all sheets*": None, "as predicted": three, "sheets": three},
        "orthophotos": {"all sheets*": None, "sheets": three},
    }
    assert seen.project["visible"] == ["all sheets"]


def test_the_first_view_is_the_sheets_with_a_margin(seen: Seen) -> None:
    left, bottom, right, top = seen.layers[f"mosaics/{NAME}.classes.vrt"]["extent"]
    wide, high = right - left, top - bottom
    expected = [left - wide / 50, bottom - high / 50, right + wide / 50, top + high / 50]
    assert seen.project["extent"] == pytest.approx(expected)
    view = seen.project["view"]  # of a window of another shape: at least that
    assert view[0] <= expected[0] + 1e-6
    assert view[1] <= expected[1] + 1e-6
    assert view[2] >= expected[2] - 1e-6
    assert view[3] >= expected[3] - 1e-6
    assert view[2] - view[0] == pytest.approx(1.04 * wide) or (
        view[3] - view[1] == pytest.approx(1.04 * high)
    )


def test_layers_of_the_project_look_like_the_files_by_themselves(seen: Seen) -> None:
    looks = ("renderer", "classes", "stops", "alpha", "nodata", "bands")
    compared = 0
    for layer in seen.moved["layers"]:
        place = layer["source"].removeprefix(f"{seen.run.paths.run}/")
        if place in seen.layers:
            alone = seen.layers[place]
            assert {k: layer.get(k) for k in looks} == {k: alone.get(k) for k in looks}, place
            compared += 1
    assert compared == len(seen.moved["layers"]) - len(SHEETS)  # all but the orthophotos


def test_a_moved_run_opens_the_same(seen: Seen) -> None:
    moved = seen.moved
    assert moved["tree"] == seen.project["tree"]
    assert all(layer["valid"] for layer in moved["layers"])
    folder = seen.run.paths.run
    assert all(
        Path(layer["source"].split("|")[0]).is_relative_to(folder) for layer in moved["layers"]
    )
    assert moved["errors"] == []
    drawn = _colors(seen.pictures["project"]) - {"#ffffff"}
    assert drawn <= {color for _, color in seen.legend().values()}
    assert len(drawn) > 1
