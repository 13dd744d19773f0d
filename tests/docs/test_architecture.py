"""The table of where to find what names files and functions that exist."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/concepts/architecture.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| .* \| `([\w/]+\.py)` \| `([\w.]+)` \|$", PAGE, re.MULTILINE)


def names(tree: ast.Module) -> set[str]:
    """Top-level names of a module, and the methods of its classes as ``Class.method``."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_there_are_rows() -> None:
    assert len(ROWS) > 10


def test_a_setting_that_is_named_is_in_params_yaml() -> None:
    (name,) = re.findall(r"^\| .* \| `params.yaml` \| `([\w.]+)` \|$", PAGE, re.MULTILINE)
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for part in name.split("."):
        values = values[part]
    assert "model.slope" in values


@pytest.mark.parametrize(("path", "name"), ROWS)
def test_the_name_is_defined_in_the_file(path: str, name: str) -> None:
    assert name in names(ast.parse((ROOT / path).read_text(encoding="utf-8")))
