"""How things are written: sizes, times, entries, and JSON with one object per line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from crossdock.storage.base import Entry

__all__ = ["as_json", "count", "emit", "entry_json", "human_size", "human_time"]


def as_json(value: dict[str, Any]) -> str:
    """One line. Bytes of a name that are not UTF-8 are lone surrogates, `\\udcXX`: `os.fsencode` gives them back."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def emit(value: dict[str, Any]) -> None:
    """One JSON object to stdout."""
    click.echo(as_json(value))


def entry_json(entry: Entry, name: str) -> dict[str, Any]:
    """An entry for `--json`; what the endpoint did not say is left out."""
    found: dict[str, Any] = {"path": entry.path, "name": name, "kind": entry.kind}
    if entry.size is not None:
        found["size"] = entry.size
    if entry.modified is not None:
        found["modified"] = entry.modified.isoformat()
    for key in ("etag", "version"):
        if getattr(entry, key):
            found[key] = getattr(entry, key)
    for key in ("digests", "attributes"):
        if getattr(entry, key):
            found[key] = dict(getattr(entry, key))
    return found


def human_size(size: float) -> str:
    """Powers of 1024, three digits: 999 B, 1.21 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1000 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1024
    raise AssertionError


def human_time(seconds: float) -> str:
    """0.4 s, 12 s, 3:05, 1:00:03."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count(number: int, what: str) -> str:
    """1 file, 2 files."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
