"""The 2017 study's own table from its published counts, and sums of files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline import cli
from pipeline.confusion import ConfusionMatrix
from pipeline.errors import InputError, SettingsError
from pipeline.study_tables import read_sum, study_csv, study_table, tesela_table

# As the study published them: rows predicted, columns real.
PUBLISHED = np.array([[847_682_090, 200_993_073], [297_048_081, 4_053_969_030]])
STUDY = ConfusionMatrix(("forest", "rest"), PUBLISHED.T)


def cells(line: str) -> list[str]:
    """Cells of a line of a table; thousands are set apart by another kind of space."""
    return line.replace("\u202f", ".").split(" ")


def words(text: str) -> list[list[str]]:
    return [[cell for cell in cells(line) if cell] for line in text.splitlines()]


def test_the_study_is_printed_as_it_printed_itself() -> None:
    assert words(study_table(STUDY)) == [
        ["Pixels", "(rows:", "predicted,", "columns:", "real)"],
        ["forest", "rest"],
        ["forest", "847.682.090", "200.993.073"],
        ["rest", "297.048.081", "4.053.969.030"],
        [],
        ["Shares", "of", "each", "row"],
        ["forest", "rest"],
        ["forest", "0.81", "0.19"],
        ["rest", "0.07", "0.93"],
        [],
        ["Accuracy", "0.908", "of", "5.399.692.274", "pixels"],
    ]


def test_our_layout_has_the_reference_in_rows() -> None:
    table = words(tesela_table(STUDY))
    assert table[2:4] == [
        ["forest", "847.682.090", "297.048.081"],
        ["rest", "200.993.073", "4.053.969.030"],
    ]
    # Producer's accuracies: 847 682 090 / 1 144 730 171 and 4 053 969 030 / 4 254 962 103.
    assert table[7:9] == [["forest", "0.74", "0.26"], ["rest", "0.05", "0.95"]]
    assert table[-1][:2] == ["Accuracy", "0.908"]


def test_columns_are_aligned_to_the_right() -> None:
    lines = study_table(STUDY).splitlines()
    assert len({len(line) for line in lines[1:4]}) == len({len(line) for line in lines[6:9]}) == 1


def test_a_class_that_is_not_mapped_has_no_shares() -> None:
    matrix = ConfusionMatrix(("forest", "rest"), np.array([[0, 3], [0, 1]]), 7)
    table = words(study_table(matrix))
    assert table[7:9] == [["forest", "–", "–"], ["rest", "0.75", "0.25"]]
    assert table[-1] == ["Not", "counted:", "7", "labelled", "pixels", "without", "a", "map"]
    assert list(csv.reader(study_csv(matrix).splitlines())) == [
        ["predicted \\ real", "forest", "rest", "forest (share of row)", "rest (share of row)"],
        ["forest", "0", "0", "", ""],
        ["rest", "3", "1", "0.75", "0.25"],
    ]
    nothing = words(study_table(ConfusionMatrix.empty(("forest", "rest"))))
    assert nothing[-1] == ["Accuracy", "–", "of", "0", "pixels"]


def saved(path: Path, matrix: ConfusionMatrix) -> Path:
    path.write_text(matrix.as_json(), "utf-8")
    return path


def test_files_add_up(tmp_path: Path) -> None:
    one = ConfusionMatrix(("forest", "rest"), np.array([[1, 2], [3, 4]]), 5)
    files = [saved(tmp_path / f"{i}.json", one) for i in range(3)]
    assert read_sum(files) == one + one + one
    assert read_sum(files[:1]) == one


def test_a_file_counts_once(tmp_path: Path) -> None:
    one = saved(tmp_path / "a.json", STUDY)
    (tmp_path / "link.json").symlink_to(one)
    again = [one, tmp_path / "link.json"], [one, tmp_path / "x" / ".." / "a.json"]
    for files in again:
        with pytest.raises(SettingsError, match="more than once") as caught:
            read_sum(files)
        assert caught.value.items == (str(one.resolve()),)


def test_all_files_of_other_classes_are_named(tmp_path: Path) -> None:
    one, other = ConfusionMatrix.empty(("forest", "rest")), ConfusionMatrix.empty(("rest", "sea"))
    names = {"a": other, "b": one, "c": one, "d": other, "e": one}
    files = [saved(tmp_path / f"{name}.json", matrix) for name, matrix in names.items()]
    with pytest.raises(InputError, match="of the classes forest, rest") as caught:
        read_sum(files)
    assert caught.value.items == (f"{files[0]}: rest, sea", f"{files[3]}: rest, sea")
    with pytest.raises(InputError, match="of the classes rest, sea") as caught:
        read_sum(files[:2])
    assert caught.value.items == (f"{files[1]}: forest, rest",)


def test_all_files_that_are_no_matrices_are_named(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.json", STUDY)
    (tmp_path / "text.json").write_text("forest", "utf-8")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    missing = tmp_path / "missing.json"
    with pytest.raises(InputError, match="3 of 4") as caught:
        read_sum([good, tmp_path / "text.json", missing, tmp_path / "bytes.json"])
    assert [item.split(": ")[0] for item in caught.value.items] == [
        str(tmp_path / "text.json"),
        str(missing),
        str(tmp_path / "bytes.json"),
    ]
    assert "No such file" in caught.value.items[1]


def test_the_command_prints_each_layout(tmp_path: Path) -> None:
    halves = [saved(tmp_path / "s.json", STUDY), saved(tmp_path / "t.json", STUDY)]
    call = CliRunner().invoke
    for asked, expected in (
        ([], study_table(STUDY + STUDY)),
        (["--layout", "study"], study_table(STUDY + STUDY)),
        (["--layout", "tesela"], tesela_table(STUDY + STUDY)),
        (["--csv"], study_csv(STUDY + STUDY)),
        (["--layout", "tesela", "--csv"], (STUDY + STUDY).as_csv()),
    ):
        told = call(cli.app, ["matrix", *map(str, halves), *asked])
        assert told.exit_code == 0, told.output
        assert told.stdout == expected
    assert call(cli.app, ["matrix"]).exit_code == 2
    assert call(cli.app, ["matrix", str(halves[0]), "--layout", "other"]).exit_code == 2
    told = call(cli.app, ["matrix", str(tmp_path / "missing.json")])
    assert isinstance(told.exception, InputError)
