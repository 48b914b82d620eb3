"""What a run tells of its attempts, and of files that it cannot move, once or as a daemon."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from crossdock.cli.engine import delivery_json
from crossdock.cli.output import emit, human_time
from crossdock.cli.session import Session
from crossdock.errors import shown

if TYPE_CHECKING:
    from crossdock.engine.delivery import Delivery

__all__ = ["Command", "explained", "not_moved"]


class Command:
    def __init__(self, session: Session, flows: tuple[str, ...], options: dict[str, Any]) -> None:
        self.session, self.flows, self.options = session, flows, options

    def tell(self, delivery: Delivery) -> None:
        """One line per attempt: JSON for scripts, else what a human has to know."""
        if self.options["as_json"]:
            emit(delivery_json(delivery))
            return
        transfer = delivery.transfer
        name = f"{transfer.flow}: {transfer.source}:{shown(transfer.entry.path)}"
        if delivery.what in ("failed", "lost"):
            self.note(f"{name}: {delivery.what}: {shown(delivery.reason)}")
        elif delivery.what == "retry":
            error = str(delivery.error) if delivery.error is not None else delivery.reason
            again = f"again in {human_time(delivery.again_in or 0.0)}"
            if delivery.receipt is not None:
                again = f"delivered; what follows failed, {again}"
            self.note(f"{name}: {again}: {shown(error)}")

    def note(self, *lines: str) -> None:
        """What a human has to know, on stderr."""
        for line in lines:
            click.echo(line, err=True)


def not_moved(flow: str, path: str, reason: str) -> str:
    return f"{flow}: {shown(path)} is not moved: {shown(reason)}"


def explained(flow: str, path: str) -> str:
    return f"Next: crossdock explain {shlex.quote(flow)} {shlex.quote(shown(path))}"
