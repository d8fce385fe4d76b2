"""Settings and sheets tables: what is read, and what people are told of their mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import config, sections
from pipeline.errors import OutputError, SettingsError
from pipeline.paths import RunPaths
from pipeline.sheets import Sheet, missing_inputs, read_sheets

TABLE = "sheet,orthophoto,siose,split\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings folder with a sheets table and a nomenclature; the working directory is another.

    The files are named as the defaults name them, so that a settings file may be empty.
    """
    here, elsewhere = tmp_path / "settings", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    (here / "sheets.csv").write_text(TABLE, encoding="utf-8")
    (here / "nomenclature.yaml").write_text("classes: []\n", encoding="utf-8")
    monkeypatch.chdir(elsewhere)
    return here


def load(folder: Path, text: str | bytes) -> config.Settings:
    path = folder / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return config.load(path)


def mistakes(folder: Path, text: str | bytes) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(folder, text)
    assert str(folder / "run.yaml") in caught.value.what
    return list(caught.value.items)


def table(folder: Path, text: str | bytes) -> dict[str, Sheet]:
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_sheets(path)


def table_mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        table(folder, text)
    assert str(folder / "table.csv") in caught.value.what
    return list(caught.value.items)


# Settings


def test_every_mistake_is_told_at_once_with_what_to_write_instead(folder: Path) -> None:
    text = (
        "labels: {min_share: 60}\n"
        "tiling: {tile_pixels: 256, stride_px: no, tile_px: 25.5}\n"
        "trainig: {}\n"
        "min_share: 0.4\n"
    )
    assert mistakes(folder, text) == [
        "labels.min_share: is a share from 0 to 1; for 60 % write 0.6",
        "tiling.tile_px: is a whole number, not 25.5",
        "tiling.stride_px: is a number, not yes or no",
        "tiling.tile_pixels: is not a setting; did you mean 'tile_px'?",
        "trainig: is not a setting; did you mean 'training'?",
        "min_share: is not a setting; it belongs to the section 'labels'",
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("labels: {min_share: 101}", "labels.min_share: is a share from 0 to 1"),
        ("labels: {min_share: -0.1}", "labels.min_share: is a share from 0 to 1"),
        ("labels: {min_share: .nan}", "labels.min_share: is a share from 0 to 1"),
        ("labels: {min_share: yes}", "labels.min_share: is a number, not yes or no"),
        ("labels: 3", "labels: is a section; write its settings below it, indented"),
        ("labels: [{min_share: 1}]", "labels: is a section; write its settings below it, indented"),
        ("labels.min_share: 1", "labels.min_share: is not a setting; write 'min_share' below "
         "'labels', indented"),
        ("labels: {4: 1}", "labels.4: is not a setting; decimals take a point"),
        ("Labels: {}", "Labels: is not a setting; did you mean 'labels'?"),
        ("labels: {composite: no}", "labels.composite: is one of 'dominant', 'mask', not false or "
         "no; put it in quotes"),
        ("labels: {composite: maks}", "labels.composite: is one of 'dominant', 'mask', not 'maks'"),
        ("training: {learning_rate: '1,5'}", "training.learning_rate: is a number, not '1,5'; "
         "decimals take a point"),
        ("training: {learning_rate: .inf}", "training.learning_rate: is a finite number, not inf"),
        ("training: {learning_rate: 0}", "training.learning_rate: is more than 0, not 0"),
        ("training: {weight_decay: .inf}", "training.weight_decay: is a finite number, not inf"),
        ("training: {batch_size: null}", "training.batch_size: is a whole number, not nothing"),
        ("training: {epochs: 0}", "training.epochs: is at least 1, not 0"),
        ("training: {devices: two}", "training.devices: is a whole number or auto, not 'two'"),
        ("training: {devices: 0}", "training.devices: is at least 1 or auto, not 0"),
        ("training: {encoder: 18}", "training.encoder: is a word, not 18; put it in quotes"),
        ("mapping: {confidence: 2}", "mapping.confidence: is true or false, not 2"),
        ("seed: -1", "seed: is at least 0, not -1"),
        ("seed: 4294967296", "seed: is at most 4294967295, not 4294967296"),
        ("run:", "run: is the name of a file or folder, not nothing"),
        ("run: ''", "run: is the name of a file or folder, not ''"),
        ("run: 2024", "run: is the name of a file or folder, not 2024; put it in quotes"),
        ("run: run/{sheet}", "run: 'run/{sheet}' has braces in it; use a name without"),
    ],
)  # fmt: skip
def test_a_mistake_says_what_the_setting_is(folder: Path, text: str, mistake: str) -> None:
    assert mistakes(folder, text) == [mistake]


def test_training_settings_that_would_do_nothing_are_told(folder: Path) -> None:
    assert mistakes(
        folder,
        "training: {freeze_encoder: 3, epochs: 3, loss: dice, label_smoothing: 0.1}\n",
    ) == [
        "training.freeze_encoder: keeps first weights, which encoder_weights: none draws at "
        "random; name some, or write 0",
        "training.freeze_encoder: 3 of 3 epochs leave none that trains the encoder",
        "training.label_smoothing: only the loss cross_entropy has it; write 0",
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("loss: dise", "there is no loss 'dise'; did you mean 'dice'? (losses: cross_entropy, "
         "focal, dice, jaccard, tversky, lovasz)"),
        ("loss: {dice: 0}", "the weight of dice is a number above 0, not 0"),
        ("loss: {}", "is a loss or a mapping of losses to their weights, not {}"),
        ("loss: {dice: null}", "is a loss or a mapping of losses to their weights, not "
         "{'dice': None}"),
    ],
)  # fmt: skip
def test_losses_are_told(folder: Path, text: str, mistake: str) -> None:
    assert mistakes(folder, f"training: {{{text}}}") == [f"training.loss: {mistake}"]


def test_a_later_file_takes_a_loss_out_by_null(folder: Path) -> None:
    settings = load(folder, "training: {loss: {focal: 1, dice: null}, optimizer_options: {a: ~}}\n")
    assert settings.training.loss == {"focal": 1.0}
    assert settings.training.optimizer_options == {}


def test_settings_that_contradict_each_other_are_told_together(folder: Path) -> None:
    text = (
        "tiling: {split: blocks, block_px: 100, stride_px: 300, validation_share: 0.5, "
        "test_share: 0.5, dask_workers: 3}\nmapping: {window_px: 64, overlap_px: 33}\n"
    )
    assert mistakes(folder, text) == [
        "tiling.block_px: a block of 100 px holds no tile of 256 px",
        "tiling.validation_share, tiling.test_share: together they leave no training ground",
        "tiling.dask_workers: threads are as many as the step has; leave it null",
        "tiling.stride_px: a stride of 300 px leaves gaps between tiles of 256 px",
        "mapping.overlap_px: 33 px is more than half of mapping.window_px (64 px)",
        "mapping.overlap_px: is even: half of it is cut off on each side",
    ]


def test_numbers_that_yaml_reads_as_text_are_numbers(folder: Path) -> None:
    settings = load(folder, "training: {learning_rate: 1e-3, devices: '2'}\nseed: '7'\n")
    assert settings.training.learning_rate == 0.001
    assert settings.training.devices == 2
    assert settings.seed == 7


def test_optional_settings_may_be_null_and_sections_empty(folder: Path) -> None:
    settings = load(folder, "training: {iterations: null, max_minutes: ~}\nlabels:\ntiling: ~\n")
    assert settings.training.iterations is None
    assert settings.training.max_minutes is None
    assert settings.labels == sections.LabelSettings()
    assert settings.tiling == sections.TilingSettings()


def test_an_empty_file_is_all_defaults(folder: Path) -> None:
    settings = load(folder, "")
    assert settings.model_copy(update={"sheets": Path("sheets.csv")}) == config.Settings(
        nomenclature=settings.nomenclature
    )


def test_a_later_file_overrides_key_by_key_and_an_empty_section_nothing(folder: Path) -> None:
    first, second, third = (folder / f"{n}.yaml" for n in "abc")
    first.write_text("labels: {min_share: 0.3, boundary_px: 2}\nseed: 3\n", encoding="utf-8")
    second.write_text("labels: {min_share: 0.7}\n", encoding="utf-8")
    third.write_text("labels:\n", encoding="utf-8")
    settings = config.load(first, second, third)
    assert settings.labels == sections.LabelSettings(min_share=0.7, boundary_px=2)
    assert settings.seed == 3


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ("labels:\n  composite: [mask\n", "line 3, column 1", "expected ',' or ']'"),
        ("labels:\n\tcomposite: mask\n", "line 2, column 1", "Indent with spaces"),
        ("labels: a: b\n", "line 1, column 10", "mapping values are not allowed here"),
        ("seed: 1\nrun: \x01\n", "line 2, column 6", "special characters are not allowed"),
        ("seed: 1\n---\nseed: 2\n", "line 2, column 1", "another document"),
        ("seed: !!python/object:os.system x\n", "line 1, column 7", "constructor"),
        ("labels: {min_share: 0.3}\nlabels: {}\n", "line 2, column 1", "'labels' stands in line 1"),
        ("labels:\n  min_share: 1\n  min_share: 0\n", "line 3, column 3", "stands in line 2"),
    ],
)
def test_slips_of_yaml_are_found_by_line_and_column(
    folder: Path, text: str, where: str, problem: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(folder, text)
    assert caught.value.what.startswith(f"{folder / 'run.yaml'}, {where}: is not YAML: ")
    assert problem in str(caught.value)


def test_text_that_is_not_utf8_is_found_by_line(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"run\.yaml, line 2: is not UTF-8 text\.\nSave it as"):
        load(folder, "seed: 1\nrun: cañada\n".encode("latin-1"))
    assert load(folder, b"\xef\xbb\xbfseed: 4\n").seed == 4


def test_settings_are_a_mapping(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"run\.yaml: holds no settings"):
        load(folder, "- seed: 1\n")


def test_files_that_cannot_be_read_are_named(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml: cannot be read \(No such file"):
        config.load(folder / "nowhere.yaml")
    with pytest.raises(SettingsError, match=r"settings: cannot be read \(Is a directory"):
        config.load(folder)


def test_files_are_looked_up_from_the_working_directory_first(folder: Path) -> None:
    beside = load(folder, "")
    assert beside.sheets == folder / "sheets.csv"
    here = Path("sheets.csv")
    here.write_text(TABLE, encoding="utf-8")
    assert load(folder, "").sheets == here
    assert load(folder, f"sheets: {folder / 'sheets.csv'}").sheets == folder / "sheets.csv"


def test_home_and_variables_are_expanded_in_all_paths(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("SCRATCH", str(folder))
    settings = load(folder, "run: ~/out\nsheets: $SCRATCH/sheets.csv\n")
    assert settings.run == folder / "out"
    assert settings.sheets == folder / "sheets.csv"


def test_all_files_that_are_missing_are_named_with_where_they_were_looked_for(
    folder: Path,
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(folder, "sheets: no.csv\nnomenclature: no.yaml\n")
    assert list(caught.value.items) == [
        "sheets: there is no file no.csv",
        "nomenclature: there is no file no.yaml",
    ]
    assert str(Path.cwd()) in caught.value.remedy


def test_settings_survive_being_written_and_read(folder: Path) -> None:
    settings = load(folder, "training: {max_minutes: 1.5, devices: 2}\nlabels: {min_share: 0.1}\n")
    assert load(folder, settings.as_yaml()) == settings


# The run's folder


def settings_of(folder: Path) -> config.Settings:
    return load(folder, f"run: {folder / 'out'}\n")


def test_a_run_claims_its_folder_and_may_come_back_with_other_values(folder: Path) -> None:
    first = settings_of(folder)
    config.claim(first)
    kept = RunPaths(first.run).settings
    assert load(folder, kept.read_text("utf-8")) == first
    second = first.model_copy(update={"seed": 5})
    config.claim(second)
    assert load(folder, kept.read_text("utf-8")).seed == 5
    assert {path.name for path in first.run.iterdir()} == {kept.name, "started"}


def test_the_folder_of_another_run_is_refused_and_left_as_it_is(folder: Path) -> None:
    first = settings_of(folder)
    config.claim(first)
    before = RunPaths(first.run).settings.read_bytes()
    (folder / "other.csv").write_text(TABLE, encoding="utf-8")
    other = first.model_copy(update={"sheets": folder / "other.csv"})
    with pytest.raises(SettingsError, match="holds the outputs of another run") as caught:
        config.claim(other)
    sheets, now = str(folder / "sheets.csv"), str(folder / "other.csv")
    assert list(caught.value.items) == [f"sheets: {sheets!r} there, {now!r} now"]
    assert RunPaths(first.run).settings.read_bytes() == before


def test_a_settings_file_of_something_else_in_the_folder_is_another_run(folder: Path) -> None:
    settings = settings_of(folder)
    settings.run.mkdir()
    RunPaths(settings.run).settings.write_text("sheets: 3\n", encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        config.check_run(settings)
    assert caught.value.items[0].startswith("sheets: 3 there, ")
    assert caught.value.items[1].startswith("nomenclature: nothing there, ")


def test_a_file_in_the_place_of_the_folder_is_told(folder: Path) -> None:
    settings = settings_of(folder)
    settings.run.write_text("not a folder", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"run: .*out is a file; name a folder"):
        config.check_run(settings)
    below = settings.model_copy(update={"run": settings.run / "deeper"})
    with pytest.raises(OutputError, match=r"settings\.yaml: cannot be written \(Not a directory"):
        config.claim(below)


# Sheets


def test_sheets_are_read_in_order_with_their_files_found(folder: Path) -> None:
    (folder / "a.tif").touch()
    Path("b.tif").touch()
    sheets = table(folder, TABLE + "0722,a.tif,s.gpkg,train\n\n0723,b.tif,s.gpkg,Map\n")
    assert sheets == {
        "0722": Sheet("0722", folder / "a.tif", Path("s.gpkg"), "train", None, 2, "0722"),
        "0723": Sheet("0723", Path("b.tif"), Path("s.gpkg"), "map", None, 4, "0723"),
    }
    assert list(sheets) == ["0722", "0723"]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffsheet,orthophoto,siose,split,year\r\na,a.tif,b.gpkg,train,2017\r\n",
        "sheet;orthophoto;siose;split;year\na;a.tif;b.gpkg;train;2017\n",
        "sheet\torthophoto\tsiose\tsplit\tyear\na\ta.tif\tb.gpkg\ttrain\t2017\n",
        "Sheet, Orthophoto, SIOSE, Split, Year\na , a.tif, \"b.gpkg\", TRAIN, 2017\n",
        "sheet;orthophoto;siose;split;year;;\na;a.tif;b.gpkg;train;2017;;\n;;;;;;\n",
        "\n\nsplit,year,siose,orthophoto,sheet\ntrain,2017,b.gpkg,a.tif,a",
    ],
    ids=["BOM and CRLF", "semicolons", "tabs", "spaces and capitals", "empty cells", "order"],
)  # fmt: skip
def test_what_spreadsheets_make_of_a_table_is_read(folder: Path, text: str) -> None:
    (sheet,) = table(folder, text).values()
    assert (sheet.name, sheet.orthophoto, sheet.siose) == ("a", Path("a.tif"), Path("b.gpkg"))
    assert (sheet.split, sheet.year) == ("train", 2017)


def test_quoted_commas_belong_to_the_name(folder: Path) -> None:
    sheets = table(folder, TABLE + 'a,"one, two.tif",b,test\n')
    assert sheets["a"].orthophoto == Path("one, two.tif")


def test_every_mistake_of_the_table_is_told_by_line(folder: Path) -> None:
    text = TABLE.rstrip() + (
        ",year\n"
        "a,a.tif,b,train,2017\n"
        "\n"
        "a,a.tif,b,test,2018\n"
        "b,a.tif,b,tset,17\n"
        "../c,a.tif,b,\n"
        "d,a.tif\n"
        "ñ,,b,map\n"
        "e,one, two.tif,b,train,2017\n"
    )
    name = "becomes part of file names; use up to 100 letters (a to z), digits, - and _"
    splits = "is none of train, validation, test, map"
    assert table_mistakes(folder, text) == [
        "line 4: sheet 'a' stands in line 2 already",
        f"line 5: split 'tset' {splits}; did you mean 'test'?",
        "line 5: year '17' is not a year such as 2017",
        f"line 6: sheet '../c' {name}",
        f"line 6: split '' {splits}",
        "line 7: siose is empty",
        f"line 7: split '' {splits}",
        "line 8: orthophoto is empty",
        f"line 8: sheet 'ñ' {name}",
        "line 9: has 6 cells for 5 columns; a name with a comma in it needs quotes",
    ]


@pytest.mark.parametrize("name", [".", "a.b", "-a", "a/b", "a b", "x" * 101, "{sheet}", "a\u0301"])
def test_names_that_are_no_file_names_are_refused(folder: Path, name: str) -> None:
    (mistake,) = table_mistakes(folder, TABLE + f"{name},a,b,train\n")
    assert mistake.startswith(f"line 2: sheet {name!r} becomes part of file names")


def test_columns_are_checked_before_lines(folder: Path) -> None:
    assert table_mistakes(folder, "sheet,sheet,orthofoto,split,yaer\na\n") == [
        "column 'orthophoto' is missing",
        "column 'siose' is missing",
        "column 'orthofoto' is not known; did you mean 'orthophoto'?",
        "column 'yaer' is not known; did you mean 'year'?",
        "column 'sheet' stands there 2 times",
    ]


def test_a_cell_too_many_is_not_dropped(folder: Path) -> None:
    assert table_mistakes(folder, TABLE + "a,a.tif,b,train,2017\n") == [
        "line 2: has 5 cells for 4 columns; a name with a comma in it needs quotes"
    ]


@pytest.mark.parametrize("text", ["", "\n \n", "\ufeff"])
def test_an_empty_table_is_told(folder: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"table\.csv: is empty; it needs a header"):
        table(folder, text)


def test_a_sheet_that_is_not_in_the_table_is_told_with_the_nearest(folder: Path) -> None:
    sheets = table(folder, TABLE + "0722,a.tif,s.gpkg,train\n0723,b.tif,s.gpkg,map\n")
    with pytest.raises(SettingsError, match="has no sheet '0722x'; did you mean '0722'"):
        sheets["0722x"]
    assert sheets.get("none") is None


def test_a_table_without_sheets_is_told(folder: Path) -> None:
    assert table_mistakes(folder, TABLE + "\n,,,\n") == ["it lists no sheet"]


def test_a_quote_that_is_not_closed_is_told(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"table\.csv, line 3: is not CSV .*\nLook for a quote"):
        table(folder, TABLE + '"a,a.tif,b,train\nb,b.tif,b,test\n')


def test_a_table_that_is_not_utf8_is_found_by_line(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"table\.csv, line 2: is not UTF-8 text"):
        table(folder, (TABLE + "Málaga,a,b,train\n").encode("cp1252"))


def test_all_files_of_the_table_that_are_missing_are_told_but_not_those_to_be_made(
    folder: Path,
) -> None:
    (folder / "there.tif").touch()
    sheets = table(
        folder, TABLE + "a,there.tif,no.gpkg,train\nb,made/b.tif,made/s.gpkg,test\nc,no.tif,x,map\n"
    )
    with pytest.raises(SettingsError) as caught:
        missing_inputs(sheets, folder / "table.csv", made=Path("made"))
    assert list(caught.value.items) == [
        "line 2, sheet a: siose no.gpkg",
        "line 4, sheet c: orthophoto no.tif",
        "line 4, sheet c: siose x",
    ]
    for name in ("no.gpkg", "no.tif", "x"):
        (folder / name).touch()
    missing_inputs(
        table(folder, (folder / "table.csv").read_text("utf-8")), folder, made=Path("made")
    )


def test_a_folder_that_may_not_be_looked_into_is_left_to_whoever_opens_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    assert config.find(Path("a.tif"), [folder]) == Path("a.tif")


def test_a_tolerance_that_nothing_is_known_of_is_told_before_the_run() -> None:
    own = {"labels": {"boundary_m": "source"}, "siose": {"code_column": "CODE"}}
    with pytest.raises(SettingsError, match="boundary_m: source needs a base whose tolerance"):
        config.from_mapping(own, "own.yaml")
    corine = {**own, "siose": {"code_column": "CODE_18", "codelist": "corine"}}
    with pytest.raises(SettingsError, match="cannot be found"):  # only the files are missing
        config.from_mapping(corine, "corine.yaml")


@pytest.mark.parametrize(
    "engine", ["threads", "processes", "slurm", "tcp://node1:8786", "tls://10.0.0.1:1"]
)
def test_engines_are_names_or_addresses(folder: Path, engine: str) -> None:
    assert load(folder, f"tiling: {{dask: {engine!r}}}").tiling.dask == engine


@pytest.mark.parametrize("engine", ["thread", "node1:8786", "http://node1:8786", "tcp://node1", 8])
def test_what_is_no_engine(folder: Path, engine: object) -> None:
    (mistake,) = mistakes(folder, f"tiling: {{dask: {engine!r}}}")
    assert mistake.startswith("tiling.dask: is threads, processes, slurm or the address of a dask")
    assert ("did you mean 'threads'?" in mistake) == (engine == "thread")


def test_a_setting_by_its_former_name_is_told_the_new_one(folder: Path) -> None:
    assert mistakes(folder, "training: {max_steps: 100}") == [
        "training.max_steps: is not a setting; it is called 'iterations' now"
    ]


@pytest.mark.parametrize("name", ["LBFGS", "lbfgs", "SparseAdam", "Muon", "Adafactor"])
def test_optimisers_that_cannot_train_a_network_are_refused_before_the_run(
    folder: Path, name: str
) -> None:
    (mistake,) = mistakes(folder, f"training: {{optimizer: {name}}}")
    assert mistake.startswith(f"training.optimizer: {name!r} ")
    assert mistake.endswith("; choose another, such as AdamW")
    assert ("asks for the loss several times a step" in mistake) == (name.upper() == "LBFGS")
    (searched,) = mistakes(folder, f"tuning: {{space: {{training.optimizer: [SGD, {name}]}}}}")
    assert f"{name!r}" in searched
    assert load(folder, "training: {optimizer: radam}").training.optimizer == "radam"
