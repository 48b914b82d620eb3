"""The command: serve, run a flow, verify, show what the ledger knows, run again."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from crossdock.cli.engine import opened_engine
from crossdock.cli.output import count, human_size, human_time
from crossdock.cli.progress import Progress, display
from crossdock.cli.session import Session, common
from crossdock.config import load
from crossdock.demo.partner import Partner, fill, partner
from crossdock.engine.delivery import Delivery
from crossdock.engine.late import missing
from crossdock.engine.summary import Summary
from crossdock.errors import CrossdockError, IntegrityError, shown
from crossdock.ledger.base import Ledger, Query, State, Transfer
from crossdock.pages import page

__all__ = ["demo"]

_TARGETS = ("store", "copy")
_HOW_MANY = 1000


@click.command()
@click.option("--keep", metavar="FOLDER", help="Keep what is made, in this new folder; else it is all removed again.")
@common
@click.pass_obj
def demo(session: Session, keep: str | None) -> None:
    """Run a flow against a partner's SFTP server that runs only for this, and prove that every byte arrived.

    The server listens on 127.0.0.1 and is gone when the command ends. Nothing outside of one folder is touched.
    """
    if keep is not None:
        try:
            Path(keep).mkdir(parents=True)
        except OSError as error:
            raise click.UsageError(f"cannot make {keep}: {error.strerror}; name a new folder") from error
    try:
        place = nullcontext(keep) if keep is not None else tempfile.TemporaryDirectory(prefix="crossdock-demo-")
    except OSError as error:
        raise click.UsageError(f"cannot make a temporary folder: {error.strerror}; name one by --keep") from error
    with place as folder:
        session.run(lambda: _show(session, Path(folder).resolve()))
        if keep is not None:
            session.say(f"Kept in {keep}: partner/ (the server), store/ and copy/ (what arrived), crossdock.yaml, .db.")


async def _show(session: Session, base: Path) -> None:
    outbox = base / "partner"
    outbox.mkdir()
    for name in _TARGETS:
        (base / name).mkdir()
    try:
        number = await asyncio.to_thread(fill, outbox)
    except OSError as error:
        hint = "free some space there (200 MB), or name another folder by --keep"
        raise CrossdockError(f"write the demo's files to {outbox}: {error.strerror}", hint=hint) from error
    sent = await asyncio.to_thread(_digests, outbox)
    async with partner(outbox, base) as server:
        _say(1, f"A partner's SFTP server is up on {server.host}:{server.port} with {count(number, 'file')}.")
        click.echo("   crossdock.yaml trusts it by its host key alone, and says what is to become of its files:\n")
        text = _configuration(server)
        click.echo("".join(f"     {line}\n" for line in text.splitlines()))
        (base / "crossdock.yaml").write_text(text, encoding="utf-8")
        session.config = load(base / "crossdock.yaml")

        _say(2, "crossdock run --once")
        first = await _run(session)
        transfers = count(first.delivered, "transfer")
        click.echo(f"   {transfers}, {human_size(first.size)}: {count(number, 'file')} to {len(_TARGETS)} places each.")
        if first.delivered != number * len(_TARGETS) or not first.good:
            raise IntegrityError(f"{first.delivered} transfers were delivered, not {number * len(_TARGETS)}")

        _say(3, "All folders are read again from outside, with hashlib alone.")
        async with session.config.new_ledger() as ledger:
            rows = await ledger.find(Query(limit=_HOW_MANY))
        await asyncio.to_thread(_verify, sent, base, rows)
        click.echo(f"   {count(number, 'digest')} of the sender, both receivers and the ledger agree;")
        click.echo("   the partner's files were moved to .done once both places had them.")

        _say(4, "The ledger's view (crossdock transfers list, crossdock where NAME):")
        async with session.config.new_ledger() as ledger:
            await _show_ledger(ledger, rows)

        _say(5, "A file that the flow expects has not come (crossdock late):")
        async with session.config.new_ledger() as ledger:
            late = await missing(session.config.flow("pull"), ledger, datetime.now(UTC))
        for one in late:
            click.echo(f"   {one}")
        if not late:
            raise IntegrityError("nothing is late, though the file that is expected never came")

        _say(6, "The same command again:")
        again = await _run(session)
        click.echo(f"   {count(again.delivered, 'transfer')} delivered: nothing is moved twice.")
        if again.delivered or again.found:
            raise IntegrityError(f"the second run moved {again.delivered} files")
    click.echo(f"{_NEXT}\n   {page('flows.md')}\n{'':41} flows: pull, push, mirror and route, in crossdock.yaml")


_NEXT = """
That was all of it. What to try next:
   crossdock demo --keep demo; cd demo    the same, and a ledger to ask: crossdock where large.bin
   crossdock trust HOST                   the host keys of a server of your own, and the line that pins one
   crossdock doctor sftp://USER@HOST/     what that server is and can do
   crossdock sync SRC DST --dry-run       one folder to another, without a flow"""


def _say(step: int, text: str) -> None:
    click.echo(f"{step}. {text}")


def _configuration(server: Partner) -> str:
    past = datetime.now(UTC) - timedelta(minutes=1)
    return f"""\
endpoints:
  partner: {{type: sftp, host: {server.host}, port: {server.port}, user: {server.user}, root: /,
            private_key: "file:{server.private_key.name}", host_key: "{server.fingerprint}"}}
  store: {{type: local, root: store}}
  copy: {{type: local, root: copy}}
flows:
  pull:
    source: "partner:"
    to: ["store:{{path}}", "copy:{{path}}"]
    after: {{archive: .done, keep: 30d}}
    expect: {{match: "end_of_day_*.csv", by: "{past:%H:%M}"}}
"""


async def _run(session: Session) -> Summary:
    progress = Progress()

    def moved(transfer: Transfer, size: int) -> None:
        progress.moved(_name(transfer), size, transfer.entry.size)

    def ended(delivery: Delivery) -> None:
        progress.ended(_name(delivery.transfer), failed=delivery.what != "delivered")
        if delivery.error is not None:
            raise delivery.error

    async with opened_engine(session, None, report=ended, progress=moved) as engine:
        with display(progress, wanted=not session.quiet):
            summary = await engine.run_once()
    for error in summary.errors.values():
        raise error
    return summary


def _name(transfer: Transfer) -> str:
    return f"{transfer.entry.path} → {transfer.target}"


async def _show_ledger(ledger: Ledger, rows: list[Transfer]) -> None:
    for row in (row for row in reversed(rows) if row.target == _TARGETS[0]):
        name = shown(row.entry.path)
        name = name if len(name) <= 40 else name[:39] + "…"
        sha256 = str((row.receipt or {}).get("sha256"))[:12]
        click.echo(f"   {row.id:>3} {row.state:<5} {name:<40} {row.entry.size or 0:>10,} B  sha256 {sha256}…")
    last = max(rows, key=lambda row: row.entry.size or 0)
    history = await ledger.history(last.id)
    click.echo(f"   The history of {shown(last.entry.path)} to {last.target}:")
    for event in history:
        after = human_time((event.at - history[0].at).total_seconds())
        click.echo(f"     after {after:<7} {event.now:<10} {shown(event.why)}")


def _verify(sent: Mapping[str, str], base: Path, rows: list[Transfer]) -> None:
    """Raises `IntegrityError` unless all trees and the ledger have the same files with the same digests."""
    archive = _digests(base / "partner" / ".done")
    trees = {"the archive": archive, **{name: _digests(base / name) for name in _TARGETS}}
    for name in _TARGETS:
        ours = [row for row in rows if row.target == name and row.state is State.DONE]
        trees[f"the ledger of {name}"] = {row.entry.path: str((row.receipt or {}).get("sha256")) for row in ours}
    for name, found in trees.items():
        differ = [path for path in sent.keys() | found.keys() if sent.get(path) != found.get(path)]
        if differ:
            raise IntegrityError(f"{name} differs: {', '.join(shown(path) for path in sorted(differ))}")
    left = [path for path in _digests(base / "partner") if not path.startswith(".done/")]
    if left:
        raise IntegrityError(f"still at the source: {', '.join(shown(path) for path in sorted(left))}")


def _digests(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
