"""`__all__` tells what a module is for: all that other modules take from it is there, and everything there exists."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

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
