"""run: do what the flows say, once or for as long as the program runs."""

from __future__ import annotations

import asyncio
import shlex
from typing import TYPE_CHECKING, Any

import click

from crossdock.cli import exits
from crossdock.cli.daemon import Daemon
from crossdock.cli.engine import first_due, flows_of, ledger_option, opened_engine, told_if_stopped, what_next
from crossdock.cli.main import complain
from crossdock.cli.options import DURATION
from crossdock.cli.output import count, emit, human_size, human_time
from crossdock.cli.progress import Progress, display
from crossdock.cli.session import Session, common
from crossdock.cli.told import Command, explained, not_moved

if TYPE_CHECKING:
    from crossdock.engine.delivery import Delivery
    from crossdock.engine.summary import Summary
    from crossdock.ledger.base import Transfer

__all__ = ["run"]


@click.command()
@click.argument("flows", metavar="[FLOW]...", nargs=-1)
@click.option("--once", is_flag=True, help="Look once, move what is there, and end.")
@click.option(
    "--patience",
    type=DURATION,
    default="5s",
    show_default=True,
    help="With --once: how long to wait for files to settle.",
)
@click.option(
    "--transfers", metavar="N", type=click.IntRange(1, 1024), default=16, show_default=True, help="Files at once."
)
@click.option(
    "--grace",
    type=DURATION,
    default="30s",
    show_default=True,
    help="How long transfers under way may take to end after SIGTERM.",
)
@ledger_option
@click.option("--json", "as_json", is_flag=True, help="One JSON line per attempt on stdout, and a summary.")
@common
@click.pass_obj
def run(session: Session, /, flows: tuple[str, ...], **options: Any) -> int:
    """Run the flows by their triggers (all of them, or those named) until SIGTERM or Ctrl-C; with --once, one time.

    What was delivered is in the ledger and is never sent again, however often this is run and wherever it was stopped.
    What a worker that was killed had begun is taken over when its lease ends, within a minute.
    SIGHUP reads the configuration again; if it is wrong, the old one stays. Modules of your own stay as they are.
    A ledger that cannot be used for a while is waited for, once it has worked.
    Every line of its log, on stderr, begins with the time (UTC), unless that is a terminal or systemd's journal.
    """
    flows_of(session.config, flows)
    command = _Once(session, flows, options) if options["once"] else Daemon(session, flows, options)
    return session.run(command.run)


class _Once(Command):
    async def run(self) -> int:
        from crossdock.engine.summary import Summary

        progress = Progress()

        def moved(transfer: Transfer, size: int) -> None:
            progress.moved(_name(transfer), size, transfer.entry.size)

        def ended(delivery: Delivery) -> None:
            so_far.count(delivery)
            progress.ended(_name(delivery.transfer), failed=delivery.what != "delivered")
            self.tell(delivery)

        so_far = Summary()
        names = flows_of(self.session.config, self.flows)
        async with opened_engine(
            self.session,
            self.options["ledger"],
            sources=names,
            transfers=self.options["transfers"],
            report=ended,
            progress=moved,
        ) as engine:
            loop = asyncio.get_running_loop()
            started = loop.time()
            with told_if_stopped(self.session, so_far), display(progress, wanted=not self.session.quiet):
                summary = await engine.run_once(
                    names, patience=self.options["patience"], outlasting=self._tell_of_others
                )
            return self._finish(summary, len(names), loop.time() - started)

    def _tell_of_others(self, number: int, seconds: float) -> None:
        held = f"{count(number, 'transfer')} {'is' if number == 1 else 'are'} held by another worker"
        self.session.say(f"{held}; if it was killed, for {human_time(seconds)} more: waiting")

    def _finish(self, summary: Summary, flows: int, seconds: float) -> int:
        if self.options["as_json"]:
            emit({"summary": _summary_json(summary, seconds)})
        for name, error in summary.errors.items():
            click.echo(f"crossdock: flow {name}:", err=True)
            complain(error)
        for flow, path, reason in summary.stuck:
            click.echo(not_moved(flow, path, reason), err=True)
        if summary.stuck:
            self.session.say(explained(*summary.stuck[0][:2]))
        if self.session.quiet and summary.waiting:
            # What was not attempted in this run was told by an earlier one: else nothing would say why this one is 1.
            click.echo(f"{count(summary.waiting, 'transfer')} {first_due(summary)}", err=True)
        self.session.say(_summary(summary, seconds))
        if (after := what_next(summary)) is not None:
            self.session.say(after)
        for name, number in summary.parked.items():
            self.session.say(
                f"left in the ledger: {count(number, 'transfer')} of the flow {name}, which the configuration lacks\n"
                f"Next: give the flow back its name, or: crossdock transfers cancel --flow {shlex.quote(name)}"
            )
        if summary.errors and flows == 1 and not summary.delivered:
            return exits.code_of(next(iter(summary.errors.values())))
        return exits.OK if summary.good else exits.SOME


def _name(transfer: Transfer) -> str:
    return f"{transfer.source}:{transfer.entry.path} → {transfer.target}"


def _summary(summary: Summary, seconds: float) -> str:
    done = f"{count(summary.delivered, 'transfer')} delivered, {human_size(summary.size)}, in {human_time(seconds)}"
    more = [
        (summary.followed, "finished"),
        (summary.skipped, "skipped"),
        (summary.failed, "failed"),
        (summary.waiting, first_due(summary)),
        (summary.held, "held by other workers"),
        (summary.settling, "settling"),
        (summary.left, "left for the next run"),
        (summary.unmatched, "matched by no rule"),
        (summary.clashes, "not moved because of a rule"),
        (summary.removed, "removed from the archive"),
        (summary.lost, "lost to another worker"),
    ]
    return "; ".join([done, *(f"{number:,} {what}" for number, what in more if number)]) + "."


def _summary_json(summary: Summary, seconds: float) -> dict[str, Any]:
    keys = ("listed", "found", "delivered", "followed", "skipped", "failed", "waiting", "held", "lost", "size")
    found: dict[str, Any] = {
        key: getattr(summary, key) for key in (*keys, "settling", "left", "unmatched", "clashes", "removed")
    }
    if summary.again_in is not None:
        found["again_in"] = round(summary.again_in, 1)
    found["parked"] = dict(summary.parked)
    found["seconds"] = round(seconds, 3)
    found["errors"] = {name: str(error) for name, error in summary.errors.items()}
    return found
