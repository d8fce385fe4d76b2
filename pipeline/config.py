"""The settings of a run: frozen sections, every mistake reported at once, with suggestions.

A run is a settings file (YAML) that overrides defaults, and a sheets table (CSV). Relative paths
are looked up from the working directory (as Snakemake does) and, where nothing is there, from the
folder of the file that names them (so that a run's folder can be moved as a whole).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from pipeline import search_space
from pipeline.errors import SettingsError
from pipeline.paths import RunPaths
from pipeline.publication import write_text
from pipeline.sections import (
    AugmentationSettings,
    ChangeSettings,
    CleaningSettings,
    EvaluationSettings,
    LabelSettings,
    MappingSettings,
    Range,
    Section,
    SioseSettings,
    TilingSettings,
    TrainingSettings,
    TuningSettings,
    VectorSettings,
)
from pipeline.setting_types import FilePath, did_you_mean, no_bool, quotable, shown

_S = TypeVar("_S", bound=Section)

_RENAMED = {"training.max_steps": "iterations"}
"""Settings by their former names, dotted, and what they are called now."""


class Settings(Section):
    """All settings of a run.

    Raises:
        SettingsError: From :func:`load` and :func:`from_mapping`, with every mistake at once.
    """

    run: FilePath = Path("run/default")
    sheets: FilePath = Path("sheets.csv")
    nomenclature: FilePath = Path("nomenclature.yaml")
    # numpy, torch and Python all take seeds of 32 bits.
    seed: Annotated[int, BeforeValidator(no_bool), Field(ge=0, le=2**32 - 1)] = 0
    siose: SioseSettings = SioseSettings()
    labels: LabelSettings = LabelSettings()
    tiling: TilingSettings = TilingSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    training: TrainingSettings = TrainingSettings()
    tuning: TuningSettings = TuningSettings()
    mapping: MappingSettings = MappingSettings()
    cleaning: CleaningSettings = CleaningSettings()
    vectors: VectorSettings = VectorSettings()
    changes: ChangeSettings = ChangeSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    def as_yaml(self, *sections: str) -> str:
        """The settings, or some sections, as YAML that :func:`load` reads back to the same."""
        values = self.model_dump(mode="json", include=set(sections) or None)
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def from_mapping(values: Mapping[str, Any], source: str, folders: Iterable[Path] = ()) -> Settings:
    """Check settings and find the files they name.

    Args:
        values: Sections and keys, as YAML gives them.
        source: What to call the file in messages.
        folders: Where relative paths are looked up after the working directory.

    Raises:
        SettingsError: With all mistakes at once.
    """
    mistakes: list[str] = []
    settings = Settings()
    # A section whose lines are all commented out is empty for YAML: nothing of it is overridden.
    sections = {name for name in Settings.model_fields if _section(name)}
    given = {key: v for key, v in values.items() if v is not None or key not in sections}
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        # `auto or a number` fails twice, once for each; the number's message says both.
        mistakes = [
            _mistake(dict(item)) for item in error.errors() if "literal['auto']" not in item["loc"]
        ]
    else:
        mistakes = _contradictions(settings)
    if mistakes:
        count = "1 setting" if len(mistakes) == 1 else f"{len(mistakes)} settings"
        raise SettingsError(
            f"{source}: {count} cannot be used.",
            mistakes,
            "Every setting and its default is in configs/default.yaml.",
        )
    places = [Path(folder) for folder in folders]
    missing = []
    found: dict[str, Any] = {"run": expanded(settings.run)}
    for key in ("sheets", "nomenclature"):
        path = find(getattr(settings, key), places)
        if path is None:
            missing.append(f"{key}: there is no file {getattr(settings, key)}")
        else:
            found[key] = path
    checkpoints = [find(path, places) for path in settings.mapping.ensemble]
    missing += [
        f"mapping.ensemble: there is no file {given}"
        for given, path in zip(settings.mapping.ensemble, checkpoints, strict=True)
        if path is None
    ]
    found["mapping"] = settings.mapping.model_copy(update={"ensemble": tuple(checkpoints)})
    if missing:
        raise SettingsError(
            f"{source}: {len(missing)} of the files it names cannot be found.",
            missing,
            "Relative paths are looked up from the working directory "
            f"({Path.cwd()}), then from the folder of the settings file.",
        )
    return settings.model_copy(update=found)


def overridden(settings: Settings, values: Mapping[str, Any], source: str) -> Settings:
    """Settings with some of them changed, checked as a whole.

    Args:
        settings: What the others stay.
        values: New values by dotted name, such as ``training.loss.dice``.
        source: What to call the changes in messages.

    Raises:
        SettingsError: With all mistakes at once.
    """
    merged = {name: getattr(settings, name) for name in Settings.model_fields}
    for key, value in values.items():
        name, _, setting = key.partition(".")
        kind = type(merged[name])
        changed = search_space.with_value(merged[name], setting, value)
        # Not checked yet: two changes may be right together only.
        merged[name] = kind.model_construct(**changed)
    plain = {
        name: dict(part) if isinstance(part, Section) else part for name, part in merged.items()
    }
    return from_mapping(plain, source)


def section(kind: type[_S], values: Mapping[str, Any], source: str) -> _S:
    """Check settings of one section alone, as a command line gives them.

    Raises:
        SettingsError: With all mistakes at once.
    """
    try:
        checked = kind.model_validate(dict(values))
    except ValidationError as error:
        mistakes = [_mistake(dict(item)) for item in error.errors()]
        raise SettingsError(f"{source}: cannot be used.", mistakes) from error
    name = next(n for n, f in Settings.model_fields.items() if f.annotation is kind)
    mistakes = _contradictions(Settings().model_copy(update={name: checked}))
    if mistakes:
        raise SettingsError(f"{source}: cannot be used together.", mistakes)
    return checked


def from_workflow(values: Mapping[str, Any], files: Iterable[str | Path]) -> Settings:
    """Check what Snakemake has read from settings files and from its command line.

    Raises:
        SettingsError: With all mistakes at once.
    """
    paths = [Path(file) for file in files]
    for path in paths:
        read_yaml(path)  # Snakemake's own reader lets a key be given twice
    return from_mapping(values, " + ".join(map(str, paths)), [path.parent for path in paths])


def load(*paths: Path) -> Settings:
    """Read settings files; a later file overrides an earlier one, key by key.

    Raises:
        SettingsError: If a file cannot be read, is no YAML mapping, or holds a mistake.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = _merged(merged, read_yaml(path))
    return from_mapping(merged, " + ".join(map(str, paths)), [path.parent for path in paths])


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        SettingsError: If the file is missing, no UTF-8 text, no YAML or no mapping.
    """
    text = read_text(path)
    try:
        content = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        if isinstance(error, yaml.reader.ReaderError):
            before = text[: error.position].split("\n")
            line, column = len(before), len(before[-1]) + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", error)
        tab = "\\t" in str(problem)
        raise SettingsError(
            f"{path}, line {line}, column {column}: is not YAML: {problem}.",
            remedy="Indent with spaces, not tabs." if tab else "",
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: holds no settings (`key: value` lines).")
    return content


def check_run(settings: Settings) -> None:
    """Check that the run's folder is this run's: empty, or begun with the same inputs.

    Raises:
        SettingsError: If it holds the outputs of another run.
    """
    path = RunPaths(settings.run).settings
    if settings.run.exists() and not settings.run.is_dir():
        raise SettingsError(f"run: {settings.run} is a file; name a folder for the outputs.")
    if not path.exists():
        return
    begun = read_yaml(path)
    mine = settings.model_dump(mode="json")
    other = [
        f"{key}: {shown(begun.get(key))} there, {shown(mine[key])} now"
        for key in ("sheets", "nomenclature")
        if Path(str(begun.get(key, ""))).resolve() != Path(mine[key]).resolve()
    ]
    if other:
        raise SettingsError(
            f"{settings.run} holds the outputs of another run.",
            other,
            f"Choose another `run` folder; or remove {path} if this run is to replace it.",
        )


def claim(settings: Settings) -> None:
    """Keep the settings in the run's folder, as used: defaults and overrides together.

    The first time, also when that was: the report asks SLURM for the jobs since then.

    Raises:
        SettingsError: If the folder holds the outputs of another run.
        OutputError: If it cannot be written.
    """
    check_run(settings)
    paths = RunPaths(settings.run)
    path, text = paths.settings, settings.as_yaml()
    if not path.exists():
        write_text(path, text)
        write_text(paths.started, f"{datetime.now(UTC).isoformat(timespec='seconds')}\n")
    elif path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def find(path: Path, folders: Iterable[Path]) -> Path | None:
    """The first of: the path itself (from the working directory), or in one of the folders."""
    path = expanded(path)
    for candidate in (path, *(folder / path for folder in folders)):
        if exists(candidate):
            return candidate
    return None


def fingerprint(*parts: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    """Sections as plain values, as they are stored beside results to tell runs apart."""
    merged: dict[str, Any] = {}
    for part in parts:
        values = part.model_dump(mode="json") if isinstance(part, BaseModel) else dict(part)
        merged.update(values)
    return json.loads(json.dumps(merged, sort_keys=True))  # type: ignore[no-any-return]


class _Loader(yaml.SafeLoader):
    """YAML as it is meant: of a key given twice, plain YAML drops the first without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in lines:
                    raise yaml.constructor.ConstructorError(
                        problem=f"{key.value!r} stands in line {lines[key.value]} already",
                        problem_mark=key.start_mark,
                    )
                lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def read_text(path: Path) -> str:
    """Text of a file that people write: UTF-8, with or without a byte order mark.

    Raises:
        SettingsError: If it cannot be read or is no UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}).") from error
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"{path}, line {line}: is not UTF-8 text.", remedy="Save it as UTF-8."
        ) from error


def exists(path: Path) -> bool:
    """Whether there is such a file, as far as one may look."""
    try:
        return path.exists()
    except OSError:
        # Not ours to look into, or no possible name: whoever opens it says which.
        return True


def expanded(path: Path) -> Path:
    """A path with its home folder and environment variables put in."""
    return Path(os.path.expandvars(path)).expanduser()


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = _merged(result[key], value)
        elif value is not None or not isinstance(result.get(key), Mapping):
            result[key] = value
    return result


def _contradictions(settings: Settings) -> list[str]:
    """What each key allows and the keys together do not."""
    tiling, mapping, siose = settings.tiling, settings.mapping, settings.siose
    wrong = []
    if siose.source == "code" and not siose.code_column:
        wrong.append("siose.code_column: names the column that siose.source: code reads")
    if settings.labels.boundary_m == "source" and siose.code_column:
        known = {"corine", "siose_ar", "siose_classic"}
        if siose.codelist not in known:
            wrong.append(
                "labels.boundary_m: source needs a base whose tolerance is known; write metres"
            )
    if siose.code_column and siose.source not in ("auto", "code"):
        wrong.append(f"siose.source: {siose.source} does not read siose.code_column; remove one")
    if tiling.split == "blocks" and tiling.block_px < tiling.tile_px:
        wrong.append(
            f"tiling.block_px: a block of {tiling.block_px} px holds no tile of {tiling.tile_px} px"
        )
    if tiling.validation_share + tiling.test_share >= 1:
        wrong.append(
            "tiling.validation_share, tiling.test_share: together they leave no training ground"
        )
    if tiling.dask == "threads" and tiling.dask_workers is not None:
        wrong.append("tiling.dask_workers: threads are as many as the step has; leave it null")
    if tiling.codec == "webp" and tiling.tile_px > 16383:
        wrong.append("tiling.codec: webp holds at most 16383 px a side; choose another codec")
    if tiling.stride_px > tiling.tile_px:
        wrong.append(
            f"tiling.stride_px: a stride of {tiling.stride_px} px leaves gaps between tiles of "
            f"{tiling.tile_px} px"
        )
    training, space = settings.training, settings.tuning.space
    random = training.encoder_weights == "none" and "training.encoder_weights" not in space
    if training.freeze_encoder and random:
        wrong.append(
            "training.freeze_encoder: keeps first weights, which encoder_weights: none draws at "
            "random; name some, or write 0"
        )
    if training.epochs is not None and training.freeze_encoder >= training.epochs:
        wrong.append(
            f"training.freeze_encoder: {training.freeze_encoder} of {training.epochs} epochs leave "
            "none that trains the encoder"
        )
    smoothed = {"training.loss", "training.loss.cross_entropy"} & space.keys()
    if training.label_smoothing and "cross_entropy" not in training.loss and not smoothed:
        wrong.append("training.label_smoothing: only the loss cross_entropy has it; write 0")
    if mapping.overlap_px * 2 > mapping.window_px:
        wrong.append(
            f"mapping.overlap_px: {mapping.overlap_px} px is more than half of "
            f"mapping.window_px ({mapping.window_px} px)"
        )
    if mapping.overlap_px % 2:
        wrong.append("mapping.overlap_px: is even: half of it is cut off on each side")
    if mapping.backend in ("openvino", "onnxruntime") and mapping.precision == "fp16":
        wrong.append(
            f"mapping.precision: fp16 is for GPUs; mapping.backend: {mapping.backend} is not"
        )
    if settings.cleaning.majority_px and settings.cleaning.majority_px % 2 == 0:
        wrong.append("cleaning.majority_px: is odd, so that the window has a pixel in its middle")
    if settings.changes.min_confidence and not mapping.confidence:
        wrong.append("changes.min_confidence: needs mapping.confidence: true")
    searched = {name: getattr(settings, name) for name in search_space.SEARCHED}
    others = [name for name in Settings.model_fields if name not in searched]
    return wrong + search_space.mistakes(settings.tuning, searched, others, _mistake)


def _mistake(item: dict[str, Any]) -> str:
    # Pydantic puts the parts of a union and the keys' checks into the location.
    location = [
        str(part)
        for part in item["loc"]
        if not re.match(r"^(function-|literal\[|lax-or-strict|constrained-|\[key\]$|<)", str(part))
    ]
    where = ".".join(location)
    kind, context, given = item["type"], item.get("ctx", {}), item["input"]
    told = shown(given)
    auto = " or auto" if where == "training.devices" else ""
    match kind:
        case "extra_forbidden" | "invalid_key":
            return f"{where}: is not a setting{_suggestion(location)}"
        case "literal_error":
            allowed = context["expected"].replace(" or ", ", ")
            return f"{where}: is one of {allowed}, not {told}{quotable(given)}"
        case "greater_than_equal":
            return f"{where}: is at least {context['ge']}{auto}, not {told}"
        case "less_than_equal":
            return f"{where}: is at most {context['le']}, not {told}"
        case "greater_than":
            return f"{where}: is more than {context['gt']}, not {told}"
        case "less_than":
            return f"{where}: is less than {context['lt']}, not {told}"
        case "finite_number":
            return f"{where}: is a finite number, not {told}"
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            return f"{where}: is a whole number{auto}, not {told}"
        case "float_parsing" | "float_type":
            point = "; decimals take a point" if "," in str(given) else ""
            return f"{where}: is a number, not {told}{point}"
        case "bool_parsing" | "bool_type":
            return f"{where}: is true or false, not {told}"
        case "string_type":
            return f"{where}: is a word, not {told}{quotable(given)}"
        case "model_type" | "model_attributes_type":
            return f"{where}: is a section; write its settings below it, indented"
    message = item["msg"]
    return f"{where}: {message[0].lower() + message[1:]}"


def _section(name: str) -> type[BaseModel] | None:
    field = Settings.model_fields.get(name)
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _suggestion(location: list[str]) -> str:
    word = location[-1]
    if new := _RENAMED.get(".".join(location)):
        return f"; it is called {new!r} now"
    inside = _section(location[0]) if len(location) > 1 else Settings
    if location[:2] == ["tuning", "space"]:
        inside = Range
    near = did_you_mean(word, list(inside.model_fields)) if inside else ""
    if near:
        return near
    if word.isdigit():
        return "; decimals take a point"
    head, _, tail = word.partition(".")
    if (section := _section(head)) and tail in section.model_fields:
        return f"; write {tail!r} below {head!r}, indented"
    for other in Settings.model_fields:
        if (section := _section(other)) and word in section.model_fields:
            return f"; it belongs to the section '{other}'"
    return ""
