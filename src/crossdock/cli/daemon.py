"""run without --once: the flows by their triggers, for as long as the program runs."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shlex
import signal
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from crossdock.cli import exits
from crossdock.cli.engine import flows_of, opened_engine
from crossdock.cli.logs import OneLine
from crossdock.cli.main import complaint
from crossdock.cli.output import count, human_size
from crossdock.cli.session import Session
from crossdock.cli.told import Command, explained, not_moved
from crossdock.errors import CrossdockError, LedgerUnavailable, shown

if TYPE_CHECKING:
    from crossdock.config import Config
    from crossdock.engine.delivery import Delivery
    from crossdock.engine.discovery import Discovery

__all__ = ["Daemon"]

_AGAIN = 5.0
"""Seconds, more or less, until a daemon asks again for a ledger that failed."""
_TOGETHER = 10.0
"""Seconds of deliveries that a daemon tells in one line for each flow."""
_REPEATED = 3600.0
"""Seconds until a daemon says again what it has said."""
_REWORDED = 60.0
"""Seconds until it says in other words that the ledger fails: each statement that fails has its own."""
_FEW = 5
"""Attempts that failed, of one flow in that time, that are told one by one."""
_UNTOLD = (
    ("failed", "failed", "failed"),
    ("retry", "to be tried again", "pending"),
    ("lost", "lost to another worker, or with the ledger", "running"),
)
"""What became of the others, in words, and the state in which they are listed."""


class Daemon(Command):
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
        self._lately: dict[str, Counter[str]] = {}
        """Flow → of the attempts that ended since the last such line, how many ended how, and the bytes delivered."""

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
        if self.options["as_json"]:
            super().tell(delivery)
            return
        if not self._lately:
            asyncio.get_running_loop().call_later(_TOGETHER, self._tell_lately)
        lately = self._lately.setdefault(transfer.flow, Counter())
        lately[delivery.what] += 1
        if delivery.what == "delivered":
            self._said.pop(waiting, None)
            lately["size"] += int((delivery.receipt or {}).get("size") or 0)
        elif lately[delivery.what] <= _FEW:
            super().tell(delivery)

    def _tell_lately(self) -> None:
        ended, self._lately = self._lately, {}
        for flow, lately in ended.items():
            if lately["delivered"]:
                self.say(f"{flow}: {count(lately['delivered'], 'transfer')} delivered, {human_size(lately['size'])}")
            for what, words, state in _UNTOLD:
                if (more := lately[what] - _FEW) > 0:
                    see = f"crossdock transfers list --flow {shlex.quote(flow)} --state {state}"
                    self.note(f"{flow}: {count(more, 'more transfer')} {words}: {see}")
            if lately["failed"]:
                self.say(f"Next: mend what failed, then: crossdock transfers retry --flow {shlex.quote(flow)}")

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
                self._tell_lately()

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
        lines = [not_moved(flow, each.entry.path, each.reason) for each in stuck[:STUCK_SHOWN]]
        if len(stuck) > len(lines):
            lines.append(f"{flow}: {count(len(stuck) - len(lines), 'more file')} not moved because of a rule")
        if not stuck:
            self._said.pop(f"{flow}:", None)
        elif self._is_news(f"{flow}:", "\n".join(lines)):
            self.note(*lines, explained(flow, stuck[0].entry.path))

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
