"""The command: serve, move, verify, show the receipts, run again."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import click

from crossdock.cli.output import count, human_size, human_time
from crossdock.cli.progress import Progress, display
from crossdock.cli.session import Session, common, opened
from crossdock.config import Config, Location
from crossdock.demo.partner import Partner, fill, partner
from crossdock.engine.sync import Outcome, Summary, sync
from crossdock.errors import IntegrityError, shown
from crossdock.storage.registry import settings_class

__all__ = ["demo"]


@click.command()
@click.option("--keep", metavar="FOLDER", help="Keep what is made, in this new folder; else it is all removed again.")
@common
@click.pass_obj
def demo(session: Session, keep: str | None) -> None:
    """Move files off a partner's SFTP server that runs only for this, and prove that every byte arrived.

    The server listens on 127.0.0.1 and is gone when the command ends. Nothing outside of one folder is touched.
    """
    if keep is not None:
        try:
            Path(keep).mkdir(parents=True)
        except OSError as error:
            raise click.UsageError(f"cannot make {keep}: {error.strerror}") from error
    with nullcontext(keep) if keep is not None else tempfile.TemporaryDirectory(prefix="crossdock-demo-") as folder:
        session.run(lambda: _show(session, Path(folder).resolve()))
        if keep is not None:
            session.say(f"Kept in {keep}: partner/ (what the server had) and received/ (what arrived).")


async def _show(session: Session, base: Path) -> None:
    outbox, received = base / "partner", base / "received"
    outbox.mkdir()
    received.mkdir()
    number = await asyncio.to_thread(fill, outbox)
    async with partner(outbox, base) as server:
        _say(1, f"A partner's SFTP server is up on {server.host}:{server.port} with {count(number, 'file')}.")
        click.echo(f'   It is trusted by its host key alone: host_key: "{server.fingerprint}"')
        config = _config(server, received)
        places = config.locate("partner:"), config.locate("store:")

        _say(2, "crossdock sync partner: store:")
        first, receipts = await _sync(session, places)
        click.echo(f"   {count(first.copied, 'file')}, {human_size(first.size)}, in {human_time(first.seconds)}.")

        _say(3, "Both folders are read again from outside, with hashlib alone.")
        await asyncio.to_thread(_verify, outbox, received, receipts, number)
        click.echo(f"   {count(number, 'digest')} of the sender, the receiver and the receipts agree.")

        _say(4, "The receipts:")
        for outcome in receipts:
            name = shown(outcome.path)
            name = name if len(name) <= 44 else name[:41] + "…"
            click.echo(f"   {name:<44} {outcome.size:>10,} B  sha256 {(outcome.sha256 or '')[:16]}…")

        _say(5, "The same command again:")
        again, moved = await _sync(session, places)
        click.echo(f"   {count(again.copied, 'file')} copied, {again.skipped} unchanged: nothing is moved twice.")
        if moved or again.skipped != number:
            raise IntegrityError(f"the second run moved {len(moved)} files and skipped {again.skipped} of {number}")
    click.echo(_NEXT)


_NEXT = """
That was all of it. What to try next:
   crossdock trust HOST                   the host keys of a server of your own, and the line that pins one
   crossdock doctor sftp://USER@HOST/     what that server is and can do
   crossdock sync SRC DST --dry-run       what would be moved, and why
   docs/guide.md                          endpoints by name, in crossdock.yaml"""


def _say(step: int, text: str) -> None:
    click.echo(f"{step}. {text}")


def _config(server: Partner, received: Path) -> Config:
    """What a crossdock.yaml would say."""
    sftp = {
        "host": server.host,
        "port": server.port,
        "user": server.user,
        "private_key": f"file:{server.private_key}",
        "host_key": server.fingerprint,
        "root": "/",
    }
    endpoints = {
        "partner": settings_class("sftp").model_validate(sftp),
        "store": settings_class("local").model_validate({"root": received}),
    }
    return Config(None, endpoints, {})


async def _sync(session: Session, places: tuple[Location, Location]) -> tuple[Summary, list[Outcome]]:
    progress = Progress()
    outcomes: list[Outcome] = []

    def report(outcome: Outcome) -> None:
        progress.ended(outcome.path)
        outcomes.append(outcome)

    with display(progress, wanted=not session.quiet):
        async with opened(*places) as (source, target):
            summary = await sync(source, "", target, "", report=report, progress=progress.moved)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    return summary, [outcome for outcome in outcomes if outcome.action == "copy"]


def _verify(sent: Path, received: Path, receipts: Sequence[Outcome], number: int) -> None:
    """Raises `IntegrityError` unless both trees and the receipts have the same files with the same digests."""
    by_receipt = {outcome.path: outcome.sha256 for outcome in receipts}
    ours, theirs = _digests(sent), _digests(received)
    if not ours == theirs == by_receipt or len(ours) != number:
        differ = [name for name in ours | theirs if not ours.get(name) == theirs.get(name) == by_receipt.get(name)]
        raise IntegrityError(f"these files differ: {', '.join(shown(name) for name in sorted(differ))}")


def _digests(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
