"""Notebooks only look: they import pipeline, define nothing, and are stored without results."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
DISPLAY = {"pipeline", "matplotlib", "pandas", "numpy", "IPython"}
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def code_cells(path: Path) -> list[Any]:
    notebook: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def syntax(path: Path) -> ast.Module:
    return ast.parse("\n".join(cell.source for cell in code_cells(path)))


def imported(tree: ast.AST) -> dict[str, str]:
    """Local name to dotted origin of everything imported."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    return names


def definitions(tree: ast.AST) -> list[int]:
    return [node.lineno for node in ast.walk(tree) if isinstance(node, DEFINITIONS)]


def test_there_is_a_notebook() -> None:
    assert [path.name for path in NOTEBOOKS] == ["01_look_at_a_run.ipynb"]


@each_notebook
def test_it_defines_nothing(path: Path) -> None:
    assert definitions(syntax(path)) == []


def test_a_definition_would_be_seen() -> None:
    assert definitions(ast.parse("x = 1\ndef f():\n    pass\ng = lambda: 0")) == [2, 4]


@each_notebook
def test_it_imports_only_pipeline_the_standard_library_and_displays(path: Path) -> None:
    roots = {origin.split(".")[0] for origin in imported(syntax(path)).values()}
    assert "pipeline" in roots
    assert roots - DISPLAY - sys.stdlib_module_names == set()


@each_notebook
def test_what_it_uses_of_pipeline_exists(path: Path) -> None:
    tree = syntax(path)
    modules = {}
    for name, origin in imported(tree).items():
        if not origin.startswith("pipeline"):
            continue
        try:
            modules[name] = importlib.import_module(origin)
        except ModuleNotFoundError:
            parent, member = origin.rsplit(".", 1)
            assert hasattr(importlib.import_module(parent), member), origin
    used = [
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    ]
    uses = [(name, attribute) for name, attribute in used if name in modules]
    assert uses
    assert [f"{n}.{a}" for n, a in uses if not hasattr(modules[n], a)] == []


@each_notebook
def test_it_is_stored_without_results(path: Path) -> None:
    for cell in code_cells(path):
        assert cell.outputs == []
        assert cell.execution_count is None
