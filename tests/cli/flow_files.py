"""A crossdock.yaml with one flow over local folders, and the files that it takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from crossdock.ledger.base import Ledger
from crossdock.ledger.sqlite import SqliteLedger

__all__ = ["configure", "in_ledger", "put"]

T = TypeVar("T")

_LOCAL = {name: {"type": "local", "root": name} for name in ("partner", "lake", "staging")}


def configure(folder: Path, *, endpoints: dict[str, Any] | None = None, more: dict[str, Any] | None = None,
              **flow: Any) -> None:  # fmt: skip
    """`pull` takes what is below partner:out to lake: at first sight; `flow` says what is different."""
    for name in _LOCAL:
        (folder / name).mkdir(exist_ok=True)
    pull = {"source": "partner:out", "settle": "none", **flow}
    if "rules" not in pull:
        pull.setdefault("to", "lake:in/{path}")
    value = {"endpoints": _LOCAL | (endpoints or {}), "flows": {"pull": pull} | (more or {})}
    (folder / "crossdock.yaml").write_text(json.dumps(value))


def put(folder: Path, files: dict[str, str]) -> None:
    """Files below partner:out."""
    for name, text in files.items():
        path = folder / "partner/out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def in_ledger(folder: Path, work: Callable[[Ledger], Awaitable[T]]) -> T:
    """What a worker would do, while no command runs."""

    async def whole() -> T:
        async with SqliteLedger(folder / "crossdock.db") as ledger:
            return await work(ledger)

    return asyncio.run(whole())
