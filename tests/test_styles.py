"""QGIS styles and GDAL side files: what a reader of the XML gets back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy as copy_raster
from rasterio.transform import from_origin

from pipeline import styles

NAMES = ('Olivar <de "secano"> & viñedo', "Agua's", "Vía")
COLORS = ("#A0C800", "#0000FF", "#DC1E1E")


def test_class_style_has_one_entry_a_class_in_order() -> None:
    root = ET.fromstring(styles.class_qml(NAMES, COLORS))
    renderer = root.find("pipe/rasterrenderer")
    assert renderer is not None
    assert renderer.get("type") == "paletted"
    entries = [
        (e.get("value"), e.get("label"), e.get("color")) for e in renderer.iter("paletteEntry")
    ]
    assert entries == [
        ("0", NAMES[0], "#a0c800"),
        ("1", NAMES[1], "#0000ff"),
        ("2", NAMES[2], "#dc1e1e"),
    ]


def test_confidence_style_runs_from_0_to_100_whatever_the_sheet_holds() -> None:
    root = ET.fromstring(styles.confidence_qml())
    ramp = root.find("pipe/rasterrenderer/rastershader/colorrampshader")
    assert ramp is not None
    assert [int(item.get("value", "")) for item in ramp] == [0, 25, 50, 75, 100]
    assert (ramp.get("minimumValue"), ramp.get("maximumValue")) == ("0", "100")


def test_control_characters_do_not_break_the_xml() -> None:
    text = styles.class_qml(["a\x00b", "c"], COLORS[:2])
    labels = [entry.get("label") for entry in ET.fromstring(text).iter("paletteEntry")]
    assert labels == ["a\ufffdb", "c"]
    assert ET.fromstring(styles.class_pam(["a\x1fb", "c"], COLORS[:2])) is not None


@pytest.mark.parametrize(
    ("names", "colors", "message"),
    [
        (("a", "b"), ("#000000",), "2 class names and 1 colours"),
        ((), (), "0 class names"),
        (("a",), ("red",), "'red' is not #RRGGBB"),
    ],
)
def test_what_does_not_pair_up_is_refused(
    names: tuple[str, ...], colors: tuple[str, ...], message: str
) -> None:
    for write in (styles.class_qml, styles.class_pam):
        with pytest.raises(ValueError, match=message):
            write(names, colors)


def test_pixel_counts_go_with_their_class() -> None:
    band = ET.fromstring(styles.class_pam(NAMES, COLORS, [7, 2**40, 0])).find("PAMRasterBand")
    assert band is not None
    rows = [[field.text for field in row] for row in band.iter("Row")]
    assert rows[1] == ["1", str(2**40), NAMES[1], "0", "0", "255", "255"]
    with pytest.raises(ValueError, match="2 pixel counts"):
        styles.class_pam(NAMES, COLORS, [1, 2])


def class_map(folder: Path) -> Path:
    """A map as the workflow writes it: COG with palette, and both side files."""
    rows = np.repeat(np.array([[0, 1, 2, 255]], np.uint8), 60, axis=0).repeat(20, axis=1)
    plain, out = folder / "plain.tif", folder / "map.tif"
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": 255}
    with rasterio.open(
        plain,
        "w",
        **profile,
        width=80,
        height=60,
        crs="EPSG:25830",
        transform=from_origin(700_000, 4_400_000, 0.5, 0.5),
    ) as raster:
        raster.write(rows, 1)
        raster.write_colormap(
            1, {i: (*bytes.fromhex(color[1:]), 255) for i, color in enumerate(COLORS)}
        )
    options = {"COMPRESS": "DEFLATE", "BLOCKSIZE": "512", "STATISTICS": "YES"}
    copy_raster(plain, out, driver="COG", OVERVIEW_RESAMPLING="MODE", **options)
    plain.unlink()
    (folder / "map.qml").write_text(styles.class_qml(NAMES, COLORS), encoding="utf-8")
    (folder / "map.tif.aux.xml").write_text(
        styles.class_pam(NAMES, COLORS, [1200] * 3), encoding="utf-8"
    )
    return out


def test_gdal_reads_the_side_file_and_keeps_the_rasters_own_palette(tmp_path: Path) -> None:
    gdalinfo = shutil.which("gdalinfo")
    with rasterio.open(class_map(tmp_path)) as raster:
        assert raster.nodata == 255
        assert raster.colormap(1)[2] == (220, 30, 30, 255)
    if gdalinfo is None:
        pytest.skip("no gdalinfo here")
    ran = subprocess.run(
        [gdalinfo, "-json", str(tmp_path / "map.tif")], capture_output=True, text=True, check=True
    )
    assert "ERROR" not in ran.stderr
    info = json.loads(ran.stdout)
    assert info["bands"][0]["colorTable"]["count"] == 3
    assert info["rat"]["row"][0]["f"][2] == NAMES[0]


def test_a_real_qgis_shows_the_classes_by_itself(tmp_path: Path, shared_data: Path) -> None:
    checker = shared_data.parent / "tools" / "check_qgis_layer.py"
    python = Path("/usr/bin/python3")
    qgis = [str(python), "-c", "import qgis.core"]
    if not checker.exists() or not python.exists() or subprocess.run(qgis, check=False).returncode:
        pytest.skip("no QGIS here")
    expected = {
        str(number): [name, color]
        for number, (name, color) in enumerate(zip(NAMES, COLORS, strict=True))
    }
    (tmp_path / "classes.json").write_text(json.dumps(expected), encoding="utf-8")
    command = [str(python), str(checker), str(class_map(tmp_path)), "--crs", "EPSG:25830"]
    command += ["--nodata", "255", "--res", "0.5", "--classes", str(tmp_path / "classes.json")]
    command += ["--render", str(tmp_path / "map.png")]
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_probability_is_shown_by_its_band_and_entropy_in_other_colours() -> None:
    third = ET.fromstring(styles.probability_qml(3)).find("pipe/rasterrenderer")
    entropy = ET.fromstring(styles.entropy_qml()).find("pipe/rasterrenderer")
    assert third is not None
    assert entropy is not None
    assert (third.get("band"), entropy.get("band")) == ("3", "1")
    for renderer in (third, entropy):
        assert [item.get("value") for item in renderer.iter("item")] == [
            "0",
            "25",
            "50",
            "75",
            "100",
        ]
    colors = [
        [item.get("color") for item in renderer.iter("item")] for renderer in (third, entropy)
    ]
    assert not set(colors[0]) & set(colors[1])


def test_an_orthophoto_is_shown_as_it_is() -> None:
    renderer = ET.fromstring(styles.orthophoto_qml((4, 1, 2), 5)).find("pipe/rasterrenderer")
    assert renderer is not None
    shown = [renderer.get(f"{color}Band") for color in ("red", "green", "blue", "alpha")]
    assert shown == ["4", "1", "2", "5"]
    assert [node.text for node in renderer.iter("algorithm")] == ["NoEnhancement"] * 3
    without = ET.fromstring(styles.orthophoto_qml((1, 2, 3))).find("pipe/rasterrenderer")
    assert without is not None
    assert without.get("alphaBand") == "-1"
    with pytest.raises(ValueError, match="shorter"):
        styles.orthophoto_qml((1, 2))
