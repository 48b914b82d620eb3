"""Notices on their way out: sent at once, and kept in the ledger for as long as nobody takes them.

A notice is at-least-once: after a crash between sending and recording it goes out again, with the same id. A receiver
that is down or slow does not hold up transfers, nor is one that is down asked for each: its notices wait for the next
`flush`. Of mails a few go out at once; what follows soon after is gathered there, so that a mishap of a thousand files
is no thousand mails.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from crossdock.engine.notices import notify
from crossdock.engine.notices.notice import Kind, Notice, channel_of, together
from crossdock.errors import CrossdockError
from crossdock.flows.flow import Flow, Mail, Webhook
from crossdock.ledger.base import Ledger, Mark

__all__ = ["OUTBOX", "Outbox", "Send"]

log = logging.getLogger("crossdock.engine")

Send = Callable[["Webhook | Mail", Notice], Awaitable[None]]

OUTBOX = "outbox"
"""The kind of the ledger's marks: one for each notice and receiver that is still to be told."""
_SENDING = "outbox.sending"
"""Made by who sends one, and left there once it was taken: others may have listed it before."""
_ABANDONED = timedelta(minutes=10)
"""Whoever made such a mark so long ago has ended, one way or another."""
_GIVE_UP = timedelta(days=3)
_PAGE = 100
_PAUSE = 15.0
"""Seconds that a receiver is left alone after a failure; twice as many after each further one."""
_LONGEST_PAUSE = 900.0
_LEAST_PAUSE = 1.0
"""Seconds, even where the receiver itself says that it may be sooner."""
_BRIEF = 5.0
"""Seconds that `flush` waits where the receiver asks for them: chat services take one notice a second."""
_SLOW = 2.0
"""Seconds after which an answer is late: for `_SLOW_FOR` seconds no transfer waits for that receiver again."""
_SLOW_FOR = 300.0
_FLUSHING = 30.0
"""Seconds after which a `flush` begins no further notice: there is other work than telling."""
_FEW = 5
"""Mails to one receiver that go out one by one within `_CROWDED` seconds."""
_CROWDED = 300.0
_TOGETHER = 100
"""Notices in one mail, at most."""

Fate = Literal["taken", "later", "never"]
_SAID: dict[Fate, str] = {"taken": "was told", "later": "is told later", "never": "was not told"}


class _Pause(NamedTuple):
    until: datetime
    usual: float
    """Seconds of the last pause whose length was ours to choose."""
    told: bool
    """The receiver itself has said how long."""


class Outbox:
    """The webhooks and mails of one flow."""

    def __init__(
        self,
        flow: Flow,
        ledger: Ledger,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        send: Send = notify.send,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flow, self._ledger, self._clock, self._send = flow, ledger, clock, send
        receivers: list[Webhook | Mail] = [*flow.webhooks, *flow.mails]
        self._receivers: dict[str, Webhook | Mail] = {}
        for to in receivers:
            # Written twice, for one thing each: it is told of both.
            same = self._receivers.get(channel_of(to), to)
            self._receivers[channel_of(to)] = replace(to, on=to.on | same.on)
        self._paused: dict[str, _Pause] = {}
        """By receiver."""
        self._stuck: set[str] = set()
        """Keys of notices that were not taken: one that is refused for ever holds up no other."""
        self._timer = timer
        self._slow: dict[str, float] = {}
        """Receiver → until when, by the timer, only `flush` sends to it."""
        self._mailed: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_FEW))
        """Receiver → when, by the timer, it last had mails."""

    def wanted(self, kind: Kind) -> list[str]:
        """Who wants to be told of it."""
        return [channel for channel, to in self._receivers.items() if kind in to.on]

    async def tell(self, notice: Notice) -> list[str]:
        """Send it, or keep it for `flush`; in words, what became of it for each receiver. Raises `LedgerError`."""
        words = []
        for channel in self.wanted(notice.kind):
            fate: Fate = "later"
            why = ""
            slow = self._slow.get(channel, 0.0) > self._timer()
            if not (slow or self._is_paused(channel) or self._is_crowded(channel)):
                fate, why = await self._try(channel, notice)
            if fate == "later":
                await self._keep(channel, notice)
            words.append(f"{self._name(channel)} {_SAID[fate]}{why}")
        return words

    async def put(self, notice: Notice) -> None:
        """Keep it for `flush`: durable when this returns."""
        for channel in self.wanted(notice.kind):
            await self._keep(channel, notice)

    async def flush(self) -> int:
        """Send what is kept, for about half a minute, and say how many were taken. Raises `LedgerError`."""
        sent, now = 0, self._clock()
        until = self._timer() + _FLUSHING
        sending = await self._ledger.marks(self._flow.name, _SENDING)
        ended = [mark.key for mark in sending if now - mark.at > _ABANDONED]
        await self._ledger.unmark(self._flow.name, _SENDING, ended)
        stuck = frozenset(self._stuck)
        gathered: defaultdict[tuple[str, Kind], list[Mark]] = defaultdict(list)
        async for mark in self._kept(stuck):
            if self._timer() > until:
                break
            channel = mark.key.partition(" ")[0]
            if channel in self._receivers and not await self._is_free(channel, until):
                continue
            if not await self._ledger.mark(self._flow.name, _SENDING, mark.key):
                continue
            if not isinstance(self._receivers.get(channel), Mail):
                sent += await self._again(channel, [mark])
                continue
            crowd = gathered[channel, Notice.from_json(mark.value).kind]
            crowd.append(mark)
            if len(crowd) == _TOGETHER:
                sent += await self._again(channel, crowd)
                crowd.clear()
        for (channel, _), crowd in gathered.items():
            # A few, as a day's late files, are told one by one, each by a subject of its own.
            few = len(crowd) <= _FEW and not (channel in self._receivers and self._is_crowded(channel))
            for marks in [[mark] for mark in crowd] if few else [crowd]:
                sent += await self._again(channel, marks)
        return sent

    async def _kept(self, stuck: frozenset[str]) -> AsyncIterator[Mark]:
        """The oldest first, and those that are stuck after all others."""
        for last in (False, True) if stuck else (False,):
            after = ""
            while page := await self._ledger.marks(self._flow.name, OUTBOX, limit=_PAGE, after=after or None):
                after = page[-1].key
                for mark in page:
                    if (mark.key in stuck) is last:
                        yield mark

    async def _is_free(self, channel: str, until: float) -> bool:
        """Whether it may be sent to, if need be after a brief wait."""
        if not self._is_paused(channel):
            return True
        pause = self._paused[channel]
        left = (pause.until - self._clock()).total_seconds()
        if not pause.told or left > min(_BRIEF, until - self._timer()):
            return False
        await asyncio.sleep(left)
        return True

    async def _again(self, channel: str, marks: Sequence[Mark]) -> int:
        """How many were taken now. What is settled, either way, is kept no longer."""
        notices = [Notice.from_json(mark.value) for mark in marks]
        known = channel in self._receivers
        fate, why = await self._try(channel, together(notices)) if known else ("never", ": it is no longer in the flow")
        over: list[str] = []
        for mark, notice in zip(marks, notices, strict=True):
            end, because = fate, why
            if end == "later" and self._clock() - notice.at > _GIVE_UP:
                end, because = "never", f": nobody took it for {_GIVE_UP.days} days"
            if end == "later":
                self._stuck.add(mark.key)
                continue
            self._stuck.discard(mark.key)
            over.append(mark.key)
            if end == "never":
                log.error("flow %s: %s: the notice %s is dropped%s", self._flow.name, channel, notice.id, because)
        await self._ledger.unmark(self._flow.name, OUTBOX, over)
        await self._ledger.unmark(self._flow.name, _SENDING, [mark.key for mark in marks if mark.key not in over])
        return len(marks) if fate == "taken" else 0

    async def _try(self, channel: str, notice: Notice) -> tuple[Fate, str]:
        """What became of it, and why not."""
        began = self._timer()
        try:
            await self._send(self._receivers[channel], notice)
        except CrossdockError as error:
            if not error.retryable:
                log.error("flow %s: %s", self._flow.name, error)
                return "never", f": {error}"
            if self._is_paused(channel):
                # Of the same mishap: it was under way when another one failed.
                return "later", ""
            usual = self._paused[channel].usual if channel in self._paused else _PAUSE / 2
            if (told := error.retry_after) is None:
                wait = usual = min(2 * usual, _LONGEST_PAUSE)
            else:
                wait = max(told, _LEAST_PAUSE)
            self._paused[channel] = _Pause(self._clock() + timedelta(seconds=wait), usual, told is not None)
            log.warning("flow %s: again in %.0f s or later: %s", self._flow.name, wait, error)
            return "later", ""
        self._paused.pop(channel, None)
        self._mailed[channel].append(began)
        if self._timer() - began > _SLOW:
            if channel not in self._slow:
                log.warning("flow %s: %s is slow; it is told later", self._flow.name, self._name(channel))
            self._slow[channel] = self._timer() + _SLOW_FOR
        else:
            self._slow.pop(channel, None)
        return "taken", ""

    async def _keep(self, channel: str, notice: Notice) -> None:
        await self._ledger.mark(
            self._flow.name, OUTBOX, f"{channel} {notice.id}", due=self._clock(), value=notice.as_json()
        )

    def _is_paused(self, channel: str) -> bool:
        return channel in self._paused and self._paused[channel].until > self._clock()

    def _is_crowded(self, channel: str) -> bool:
        mailed = self._mailed[channel]
        few = len(mailed) < _FEW or self._timer() - mailed[0] > _CROWDED
        return isinstance(self._receivers[channel], Mail) and not few

    def _name(self, channel: str) -> str:
        to = self._receivers[channel]
        return "the webhook" if isinstance(to, Webhook) else f"{', '.join(to.to)} by mail"
