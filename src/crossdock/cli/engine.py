"""What the commands on flows share: the ledger of the configuration, and an engine over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from crossdock.cli.output import count, human_size, human_time
from crossdock.errors import ConfigError

if TYPE_CHECKING:
    from crossdock.cli.session import Session
    from crossdock.config import Config
    from crossdock.engine.delivery import Delivery
    from crossdock.engine.engine import Engine
    from crossdock.engine.summary import Summary
    from crossdock.flows.flow import Flow
    from crossdock.ledger.base import Ledger

__all__ = [
    "below_source",
    "delivery_json",
    "first_due",
    "flows_of",
    "ledger_option",
    "opened_engine",
    "opened_ledger",
    "told_if_stopped",
    "what_next",
]

F = TypeVar("F", bound=Callable[..., Any])


def ledger_option(function: F) -> F:
    """`--ledger`, as the parameter `ledger`."""
    help_ = "The ledger: a file, or a postgresql:// URL; else the configuration's, else crossdock.db beside it."
    return click.option("--ledger", metavar="FILE|URL", help=help_)(function)


def flows_of(config: Config, names: Iterable[str]) -> list[str]:
    """The flows that were named, each checked; all of them if none was. Raises `ConfigError`."""
    found = [config.flow(name).name for name in names]
    if not found and not config.flows:
        file = config.require_file()
        raise ConfigError(f"{file.name} has no flows", hint="add one below 'flows:', or pass --config FILE")
    return found or list(config.flows)


def below_source(flow: Flow, name: str) -> str | None:
    """The path below the flow's source of a file, which is named by that, or from its endpoint's root on (`/path`,
    `endpoint:path`). None: it is elsewhere.
    """
    endpoint, colon, rest = name.partition(":")
    if colon and endpoint == flow.source.endpoint:
        name = f"/{rest}"
    if not name.startswith("/"):
        return name
    path, root = name.lstrip("/"), f"{flow.source.path}/" if flow.source.path else ""
    return path.removeprefix(root) if path.startswith(root) else None


@asynccontextmanager
async def opened_ledger(session: Session, ledger: str | None) -> AsyncIterator[Ledger]:
    """Closed when the block ends."""
    async with session.config.new_ledger(ledger) as found:
        yield found


@asynccontextmanager
async def opened_engine(session: Session, ledger: str | None, **options: Any) -> AsyncIterator[Engine]:
    """An engine over all flows of the configuration; `options` are those of `open_engine`. Raises `Mistakes`."""
    from crossdock.config.running import open_engine

    config = session.config
    flows_of(config, ())
    async with open_engine(config, ledger, **options) as engine:
        yield engine


@contextmanager
def told_if_stopped(session: Session, summary: Summary) -> Iterator[None]:
    """Ctrl-C ends a run with what it did so far."""
    try:
        yield
    except asyncio.CancelledError:
        done = f"{count(summary.delivered, 'transfer')} delivered, {human_size(summary.size)}"
        session.say(f"stopped: {done}; the rest is for the next run")
        raise


def first_due(summary: Summary) -> str:
    """When the first of what waits is tried again, in words."""
    return f"to be tried again, the first in {human_time(summary.again_in or 0.0)}"


def what_next(summary: Summary) -> str | None:
    """The next step after a run that left something undone."""
    if summary.failed:
        # No later run does that by itself.
        return "Next: mend what failed, then: crossdock transfers retry --all"
    if summary.waiting:
        return "Next: run it again then; or at once, after: crossdock transfers retry --all"
    return None


def delivery_json(delivery: Delivery) -> dict[str, Any]:
    """One attempt, for `--json`."""
    transfer = delivery.transfer
    found: dict[str, Any] = {
        "transfer": transfer.id,
        "flow": transfer.flow,
        "source": f"{transfer.source}:{transfer.entry.path}",
        "target": f"{transfer.target}:{transfer.target_path}",
        "what": delivery.what,
        "reason": delivery.reason,
    }
    receipt = delivery.receipt or {}
    found |= {key: receipt[key] for key in ("size", "sha256", "verified") if key in receipt}
    if "target" in receipt:
        found["target"] = receipt["target"]
    if delivery.seconds:
        found["seconds"] = delivery.seconds
    if delivery.again_in is not None:
        found["again_in"] = round(delivery.again_in, 1)
    if delivery.error is not None:
        found |= {"error": str(delivery.error), "kind": type(delivery.error).__name__}
    return found
