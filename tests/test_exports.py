"""`__all__` tells what a module is for: all that other modules take from it is there, and everything there exists."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import crossdock

ROOT = Path(crossdock.__file__).parent


def _name(path: Path) -> str:
    return ".".join(("crossdock", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


TREES = {_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")}


def _listed(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            found: list[str] = ast.literal_eval(node.value)
            return found
    return None


def test_what_others_import_is_listed() -> None:
    missing = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in TREES:
                listed = _listed(TREES[node.module])
                names = {alias.name for alias in node.names if f"{node.module}.{alias.name}" not in TREES}
                missing |= {f"{node.module}.{name}" for name in names if listed is not None and name not in listed}
    assert not missing


def test_what_is_listed_exists() -> None:
    for name, tree in TREES.items():
        if listed := _listed(tree):
            module = import_module(name)
            assert not [each for each in listed if not hasattr(module, each)], name


def test_the_package_gives_what_it_lists_and_types_what_it_gives() -> None:
    homes = {name: f"crossdock.{home}" for home, names in crossdock._HOMES.items() for name in names.split()}
    typed = {
        alias.name: node.module
        for node in ast.walk(TREES["crossdock"])
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("crossdock.")
        for alias in node.names
    }
    assert homes == typed
    assert sorted(homes) == crossdock.__all__
    assert {*crossdock.__all__} <= {*dir(crossdock)}
    for name, home in homes.items():
        assert getattr(crossdock, name) is getattr(import_module(home), name)


def test_the_package_loads_nothing_by_itself() -> None:
    code = "import sys, crossdock; print([name for name in sys.modules if name.startswith('crossdock.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_the_package_has_not() -> None:
    with pytest.raises(AttributeError, match="module 'crossdock' has no attribute 'nothing'"):
        crossdock.nothing  # noqa: B018
