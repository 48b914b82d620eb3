"""run: do what the flows say, once or for as long as the program runs."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shlex
import signal
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from crossdock.cli import exits
from crossdock.cli.engine import AFTER_FAILURE, delivery_json, flows_of, ledger_option, opened_engine, told_if_stopped
from crossdock.cli.logs import OneLine
from crossdock.cli.main import complain, complaint
from crossdock.cli.options import DURATION
from crossdock.cli.output import count, emit, human_size, human_time
from crossdock.cli.progress import Progress, display
from crossdock.cli.session import Session, common
from crossdock.errors import CrossdockError, LedgerUnavailable, shown

if TYPE_CHECKING:
    from crossdock.config import Config
    from crossdock.engine.delivery import Delivery
    from crossdock.engine.discovery import Discovery
    from crossdock.engine.summary import Summary
    from crossdock.ledger.base import Transfer

__all__ = ["run"]

_AGAIN = 5.0
"""Seconds, more or less, until a daemon asks again for a ledger that failed."""
_TOGETHER = 10.0
"""Seconds of deliveries that a daemon tells in one line for each flow."""
_REPEATED = 3600.0
"""Seconds until a daemon says again what it has said."""
_REWORDED = 60.0
"""Seconds until it says in other words that the ledger fails: each statement that fails has its own."""


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
    SIGHUP reads the configuration again; if it is wrong, the old one stays. Modules of your own stay as they are.
    A ledger that cannot be used for a while is waited for, once it has worked.
    Every line of its log, on stderr, begins with the time (UTC), unless that is a terminal or systemd's journal.
    """
    flows_of(session.config, flows)
    command = _Once(session, flows, options) if options["once"] else _Daemon(session, flows, options)
    return session.run(command.run)


class _Command:
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


class _Once(_Command):
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
        async with opened_engine(
            self.session,
            self.options["ledger"],
            transfers=self.options["transfers"],
            report=ended,
            progress=moved,
        ) as engine:
            names = flows_of(self.session.config, self.flows)
            loop = asyncio.get_running_loop()
            started = loop.time()
            with told_if_stopped(self.session, so_far), display(progress, wanted=not self.session.quiet):
                summary = await engine.run_once(names, patience=self.options["patience"])
            return self._finish(summary, len(names), loop.time() - started)

    def _finish(self, summary: Summary, flows: int, seconds: float) -> int:
        if self.options["as_json"]:
            emit({"summary": _summary_json(summary, seconds)})
        for name, error in summary.errors.items():
            click.echo(f"crossdock: flow {name}:", err=True)
            complain(error)
        for flow, path, reason in summary.stuck:
            click.echo(_stuck(flow, path, reason), err=True)
        if summary.stuck:
            self.session.say(_explained(*summary.stuck[0][:2]))
        self.session.say(_summary(summary, seconds))
        if summary.failed:
            self.session.say(AFTER_FAILURE)
        for name, number in summary.parked.items():
            self.session.say(
                f"left in the ledger: {count(number, 'transfer')} of the flow {name}, which the configuration lacks\n"
                f"Next: give the flow back its name, or: crossdock transfers cancel --flow {shlex.quote(name)}"
            )
        if summary.errors and flows == 1 and not summary.delivered:
            return exits.code_of(next(iter(summary.errors.values())))
        return exits.OK if summary.good else exits.SOME


class _Daemon(_Command):
    """Runs until it is told to stop.

    A reload is a stop and a start with what the file says by then. So is a ledger that fails once it has worked: its
    server is started anew, its disk was full for a while.
    """

    def __init__(self, session: Session, flows: tuple[str, ...], options: dict[str, Any]) -> None:
        super().__init__(session, flows, options)
        self._works: Config | None = None
        """The configuration that last ran."""
        self._said: dict[str, tuple[str, float]] = {}
        """Flow, "flow:" for its rules, or "" for the ledger → what was said of it, and when."""
        self._done: dict[str, tuple[int, int]] = {}
        """Flow → how many deliveries are still to be told, and their bytes."""

        # systemd's journal has the time of every line, and who looks at a terminal has a clock.
        self._stamped = not os.isatty(2) and "JOURNAL_STREAM" not in os.environ

    def note(self, *lines: str) -> None:
        stamp = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ} " if self._stamped else ""
        super().note(*(stamp + line for line in lines))

    def say(self, text: str) -> None:
        if not self.session.quiet:
            self.note(text)

    def _stamp_warnings(self) -> None:
        """Those that are logged, too; with -v they have their time."""
        if self._stamped and not self.session.verbose:
            handler = logging.StreamHandler()
            handler.setFormatter(OneLine("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%SZ"))
            logging.getLogger("crossdock").handlers[:] = [handler]

    def tell(self, delivery: Delivery) -> None:
        transfer = delivery.transfer
        waiting = f"{transfer.flow}>{transfer.target}"
        if delivery.what == "retry" and delivery.error is None and not self.options["as_json"]:
            # As an endpoint is left alone: there may be thousands of them, each time.
            if self._is_news(waiting, delivery.reason):
                self.note(f"{transfer.flow}: what is to go to {transfer.target} waits: {shown(delivery.reason)}")
            return
        if isinstance(delivery.error, LedgerUnavailable) and not self.options["as_json"]:
            # All that is under way ends like that.
            self._bad("", delivery.error)
            return
        super().tell(delivery)
        if delivery.what != "delivered" or self.options["as_json"]:
            return
        self._said.pop(waiting, None)
        if not self._done:
            asyncio.get_running_loop().call_later(_TOGETHER, self._tell_done)
        number, size = self._done.get(delivery.transfer.flow, (0, 0))
        size += int((delivery.receipt or {}).get("size") or 0)
        self._done[delivery.transfer.flow] = number + 1, size

    def _tell_done(self) -> None:
        done, self._done = self._done, {}
        for flow, (number, size) in done.items():
            self.say(f"{flow}: {count(number, 'transfer')} delivered, {human_size(size)}")

    async def run(self) -> int:
        try:
            return await self._run()
        except CrossdockError as error:
            if not self._stamped or self.session.verbose > 1:
                raise
            self.note(*complaint(error))
            return exits.code_of(error)

    async def _run(self) -> int:
        self._stamp_warnings()
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        stop, over = asyncio.Event(), False

        def end(insist: bool = False) -> None:
            nonlocal over
            if over:
                if insist:
                    self.session.interrupt(task)
                return
            over = True
            self.say("stopping; Ctrl-C breaks off what is under way")
            stop.set()

        loop.add_signal_handler(signal.SIGINT, end, True)
        loop.add_signal_handler(signal.SIGTERM, end)
        terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN

        def hang_up() -> None:
            # Sent by hand, or by the system because the terminal is closed, which ends what runs in it but nohup's.
            if terminal and not _has_terminal():
                end()
            else:
                stop.set()

        loop.add_signal_handler(signal.SIGHUP, hang_up)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
        while not over:
            stop.clear()
            try:
                await self._serve(stop)
            except CrossdockError as error:
                if over:
                    raise
                await self._after(error, stop)
            if stop.is_set() and not over:
                self.session.forget_config()
        return exits.OK

    async def _serve(self, stop: asyncio.Event) -> None:
        from crossdock.engine.serving import serve

        async with opened_engine(
            self.session, self.options["ledger"], transfers=self.options["transfers"], report=self.tell
        ) as engine:
            names = flows_of(self.session.config, self.flows)
            if self._works is not None and not self.session.has_config(self._works):
                self.say("the configuration was read again")
            self._works = self.session.config
            if "" not in self._said:
                self.say(f"running {', '.join(names)}; Ctrl-C or SIGTERM ends it")
                for name in names:
                    if self.session.config.flow(name).trigger.on_demand:
                        self.say(f"{name} has no trigger; only this looks at its source: crossdock run {name} --once")
            try:
                await serve(engine, stop, names, looked=self._looked, grace=self.options["grace"])
            finally:
                self._tell_done()

    async def _after(self, error: CrossdockError, stop: asyncio.Event) -> None:
        """Go on with the old configuration, or wait for the ledger; else the error is raised again."""
        if self._works is None:
            raise error
        if not self.session.has_config(self._works):
            self.note(*complaint(error))
            self.say("the configuration stays as it was")
            self.session.config = self._works
            return
        if not isinstance(error, LedgerUnavailable):
            raise error
        self._bad("", error)
        with suppress(TimeoutError):
            async with asyncio.timeout(_AGAIN * random.uniform(0.5, 1.5)):
                await stop.wait()

    def _looked(self, flow: str, found: Discovery | CrossdockError) -> None:
        from crossdock.engine.engine import STUCK_SHOWN, LeftAlone

        if isinstance(found, CrossdockError):
            if not (isinstance(found, LeftAlone) and flow in self._said):
                self._bad(flow, found)
            return
        # It was opened before, which a full disk does not hinder; by now it was written to.
        self._good("", "the ledger can be used again")
        self._good(flow, f"flow {flow}: its source can be listed again")
        if found.added:
            self.say(f"{flow}: {count(len(found.added), 'transfer')} to do")
        stuck = found.stuck(self.session.config.flows[flow])
        lines = [_stuck(flow, each.entry.path, each.reason) for each in stuck[:STUCK_SHOWN]]
        if len(stuck) > len(lines):
            lines.append(f"{flow}: {count(len(stuck) - len(lines), 'more file')} not moved because of a rule")
        if not stuck:
            self._said.pop(f"{flow}:", None)
        elif self._is_news(f"{flow}:", "\n".join(lines)):
            self.note(*lines, _explained(flow, stuck[0].entry.path))

    def _bad(self, about: str, error: CrossdockError) -> None:
        """Said when it is new, and then once an hour."""
        if not self._is_news(about, str(error)):
            return
        if about:
            self.note(f"crossdock: flow {about}:")
        self.note(*complaint(error))

    def _is_news(self, about: str, text: str) -> bool:
        now = asyncio.get_running_loop().time()
        said, at = self._said.get(about, ("", -_REPEATED))
        if now - at < (_REPEATED if said == text else 0.0 if about else _REWORDED):
            return False
        self._said[about] = text, now
        return True

    def _good(self, about: str, text: str) -> None:
        if self._said.pop(about, None) is not None:
            self.say(text)


def _has_terminal() -> bool:
    return any(os.isatty(number) for number in range(3))


def _stuck(flow: str, path: str, reason: str) -> str:
    return f"{flow}: {shown(path)} is not moved: {shown(reason)}"


def _explained(flow: str, path: str) -> str:
    return f"Next: crossdock explain {shlex.quote(flow)} {shlex.quote(shown(path))}"


def _name(transfer: Transfer) -> str:
    return f"{transfer.source}:{transfer.entry.path} → {transfer.target}"


def _summary(summary: Summary, seconds: float) -> str:
    done = f"{count(summary.delivered, 'transfer')} delivered, {human_size(summary.size)}, in {human_time(seconds)}"
    more = [
        (summary.followed, "finished"),
        (summary.skipped, "skipped"),
        (summary.failed, "failed"),
        (summary.waiting, "to be tried again"),
        (summary.held, "held by other workers, or by one that was killed, for up to a minute"),
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
    found["parked"] = dict(summary.parked)
    found["seconds"] = round(seconds, 3)
    found["errors"] = {name: str(error) for name, error in summary.errors.items()}
    return found
