"""The SQL of this package, by name, from the files in `sql/`."""

from __future__ import annotations

import re
from importlib import resources

__all__ = ["load", "migrations"]

_NAME = re.compile(r"^-- name: (.+)$", re.MULTILINE)
_FOLDER = resources.files("crossdock.ledger") / "sql"


def load(dialect: str) -> dict[str, str]:
    """Name → statement: what is common to both databases, and what is the dialect's own."""
    found: dict[str, str] = {}
    for file in (_FOLDER / "queries.sql", _FOLDER / dialect / "queries.sql"):
        _, *parts = _NAME.split(file.read_text(encoding="utf-8"))
        found.update({name.strip(): text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)})
    return found


def migrations(dialect: str) -> dict[int, str]:
    """Version → script, ascending; forward only, and never changed once released."""
    scripts = [file for file in (_FOLDER / dialect).iterdir() if re.fullmatch(r"\d{3}\.sql", file.name)]
    return {
        int(file.name[:3]): file.read_text(encoding="utf-8") for file in sorted(scripts, key=lambda file: file.name)
    }
