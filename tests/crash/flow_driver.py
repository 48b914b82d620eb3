"""A warm process that forks engines, which are killed or stopped at a named point; used by `test_flows`.

One JSON object per line asks for a run (see `Order`), lines of JSON answer: {"stopped": point} when the engine stopped
itself, then {"ended": status, "reached": {point: times}, "said": …}. Everything is imported before the first fork, and
no loop, thread or connection exists by then.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import os
import signal
import sqlite3
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import asyncssh  # noqa: F401 - loaded before the fork

from crossdock.engine import delivery
from crossdock.engine.engine import Engine
from crossdock.errors import LedgerUnavailable
from crossdock.flows.flow import After, Destination, Flow, Place, Retry, Rule, Settle
from crossdock.ledger.base import MAX_RESCUES, Ledger
from crossdock.ledger.postgres import PostgresLedger
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.storage.local.backend import LocalBackend
from crossdock.storage.registry import new_storage, settings_class
from crossdock.storage.retry import RetryPolicy
from crossdock.storage.s3.backend import S3Backend
from crossdock.storage.s3.calls import Calls
from crossdock.storage.s3.copying import Copy
from crossdock.storage.s3.upload import Upload
from crossdock.storage.s3.writer import S3Writer
from crossdock.storage.sftp import writer as _writer  # noqa: F401 - a subclass of StagedWriter
from crossdock.storage.sftp.backend import SftpBackend
from crossdock.storage.staging import StagedWriter

AT_ONCE = Retry(attempts=6, base=0.01, longest=0.02)
NOW = Settle(sightings=1, seconds=0.0)


def job(name: str, sources: str, targets: tuple[str, ...], **more: Any) -> Flow:
    to = tuple(Destination(endpoint=target, template="{path}") for target in targets)
    rule = Rule(name="all", to=to)
    settle = more.pop("settle", NOW)
    return Flow(name=name, source=Place(sources), rules=(rule,), settle=settle, retry=AT_ONCE, **more)


TWICE = Settle(sightings=2, seconds=0.0)
JOBS: dict[str, Flow] = {
    flow.name: flow
    for flow in (
        job("pull", "sftp", ("lake",), after=After(archive=".done", keep=86400.0)),
        job("pull-delete", "sftp", ("disk",), after=After(delete=True), settle=TWICE),
        job("push", "lake", ("sftp",), after=After(tag={"sent": "yes"})),
        job("push-version", "lake", ("sftp",), on_conflict="version"),
        job("mirror", "sftp", ("sftp2",)),
        job("route", "lake", ("lake2", "lake3"), after=After(delete=True)),
        job("route-fail", "lake", ("lake2",), on_conflict="fail", after=After(archive=".done")),
        job("fan-out", "disk", ("disk2", "disk3"), after=After(archive=".done"), on_conflict="fail"),
        job("fan-in", "disk", ("sftp", "lake"), after=After(delete=True)),
    )
}
"""Endpoints by name: sftp and sftp2 on one server, lake, lake2 and lake3 in one store, disk, disk2 and disk3."""


@dataclass(kw_only=True)
class Order:
    """One run of the engine."""

    job: str
    endpoints: dict[str, dict[str, Any]]
    ledger: str
    """A file; or postgresql://…#schema, whose own clock is set to be `later`, but does not jump."""
    owner: str = "worker"
    point: str = ""
    """Where to strike: of a step ("R7:after") or an operation ("delete:before"); "" for a run in peace."""
    nth: int = 1
    how: str = "kill"
    """kill, stop (SIGSTOP), or fail: the ledger's statement number `nth` fails, with `code`."""
    code: int = sqlite3.SQLITE_FULL
    after: float = 0.0
    """Seconds after which the engine is killed wherever it is; 0: never."""
    lease: float = 30.0
    later: float = 0.0
    """Seconds that the ledger's and the engine's clocks are ahead."""
    jump: float = 0.0
    """Seconds that both clocks jump by, when the point is reached the nth time (`how` is "jump")."""
    poison: str = ""
    """The file whose attempts kill the engine, with all of it staged."""
    max_rescues: int = MAX_RESCUES
    transfers: int = 4
    overwrite: dict[str, Any] = field(default_factory=dict)
    """Fields of the flow that are different."""


class Failing(sqlite3.Connection):
    """Fails once, at statement number `at`."""

    at, count, code = 0, 0, sqlite3.SQLITE_FULL

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        cls = Failing
        cls.count += 1
        if cls.count == cls.at:
            error = sqlite3.OperationalError("disk")
            error.sqlite_errorcode = cls.code
            raise error
        return super().execute(sql, *args)


class Strike:
    """Counts the points that are reached, and strikes at the one that was ordered."""

    def __init__(self, order: Order, tell: Callable[[dict[str, Any]], None]) -> None:
        self.order, self.tell = order, tell
        self.reached: Counter[str] = Counter()
        self.jumped = 0.0
        self.writing = 0
        """Calls of the ledger under way: who is stopped then would hold the file's lock, and everybody else up."""
        self.due = False
        self.recovered = False

    def __call__(self, point: str) -> None:
        if point == "R10:before" and self.recovered:
            self.recovered = False
            self("R10:recovered")
        self.reached[point] += 1
        if point.startswith("ledger:"):
            self.writing += 1 if point == "ledger:before" else -1
        order = self.order
        self.due = self.due or (point == order.point and self.reached[point] == order.nth)
        if not self.due or point != order.point or (order.how == "stop" and self.writing):
            return
        self.due = False
        if order.how == "jump":
            self.jumped += order.jump
        elif order.how == "stop":
            self.tell({"at": point})
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            self.tell({"struck": point})
            os.kill(os.getpid(), signal.SIGKILL)

    def now(self) -> float:
        return time.time() + self.order.later + self.jumped


OPERATIONS: list[tuple[type, str, str]] = [
    (StagedWriter, "_let_go", "let-go"),
    *((writer, "_seal", "R6") for writer in StagedWriter.__subclasses__()),
    *((writer, "_publish", "R8") for writer in StagedWriter.__subclasses__()),
    (S3Writer, "_put", "R8"),
    (Upload, "start", "upload"),
    (Upload, "complete", "R8"),
    (Copy, "run", "R8"),
    *(
        (kind, name, "ledger")
        for kind in (SqliteLedger, PostgresLedger)
        for name in ("_rows", "_each", "_add", "_claim")
    ),
    *(
        (backend, name, name)
        for backend in (LocalBackend, SftpBackend, S3Backend)
        for name in ("delete", "rename", "delete_pinned", "set_tags", "discard")
    ),
]


def patch(strike: Strike) -> None:
    """Make points of the operations that change something, before and after each."""

    def wrap(kind: type, name: str, point: str) -> None:
        plain = getattr(kind, name)

        async def wrapped(*args: Any, **more: Any) -> Any:
            strike(f"{point}:before")
            try:
                found = await plain(*args, **more)
            except BaseException:
                strike.writing -= point == "ledger"
                raise
            strike(f"{point}:after")
            return found

        setattr(kind, name, wrapped)

    for kind, name, point in OPERATIONS:
        if name in kind.__dict__:
            wrap(kind, name, point)
    copy_part = Calls.copy_part

    async def part(self: Calls, path: str, *args: Any) -> Any:
        found = await copy_part(self, path, *args)
        strike("archive-part:after" if path.startswith(".done/") else "part:after")
        return found

    Calls.copy_part = part  # type: ignore[method-assign, assignment]
    look_back = delivery.recovered  # type: ignore[attr-defined]

    async def recovered(*args: Any) -> Any:
        found = await look_back(*args)
        strike.recovered = strike.recovered or found is not None
        return found

    delivery.recovered = recovered  # type: ignore[attr-defined, assignment]
    if strike.order.poison:
        move = delivery._Attempt._move

        async def poisoned(self: delivery._Attempt, *args: Any) -> Any:
            def step(name: str) -> None:
                if name == "R7:after":
                    strike.tell({"struck": "poison"})
                    os.kill(os.getpid(), signal.SIGKILL)

            if self.transfer.entry.path == strike.order.poison:
                self._step = step
            return await move(self, *args)

        delivery._Attempt._move = poisoned  # type: ignore[method-assign, assignment]


async def new_ledger(order: Order, strike: Strike) -> Ledger:
    """Not open yet."""
    dsn, _, schema = order.ledger.partition("#")
    if not schema:
        path = Path(order.ledger)
        more: dict[str, Any] = {"clock": strike.now, "max_rescues": order.max_rescues}
        if order.point and order.how != "fail" and zlib.crc32(f"{order.job} {order.point} {order.nth}".encode()) % 2:
            # As `crossdock run` has it.
            return SqliteLedger(path, own_process=True, **more)
        return SqliteLedger(path, factory=Failing, **more)
    ledger = PostgresLedger(dsn, schema=schema, connections=4, max_rescues=order.max_rescues)
    async with ledger:
        pass
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            f"CREATE OR REPLACE FUNCTION {schema}.ledger_now() RETURNS DOUBLE PRECISION LANGUAGE sql STABLE AS "
            f"$$ SELECT CAST(extract(epoch FROM now()) + {order.later} AS DOUBLE PRECISION) $$"
        )
    finally:
        await connection.close()
    return ledger


async def run(order: Order, strike: Strike) -> dict[str, Any]:
    """Look and work until there is nothing to do now."""
    flow = replace(JOBS[order.job], **order.overwrite)
    models = {
        name: settings_class(str(settings["type"])).model_validate(settings)
        for name, settings in order.endpoints.items()
    }
    said: list[str] = []
    started = datetime.now(UTC) - timedelta(seconds=time.time())
    ledger = await new_ledger(order, strike)
    if order.how == "fail":
        Failing.at, Failing.code = order.nth, order.code
    try:
        async with ledger:
            async with Engine(
                [flow],
                lambda name: new_storage(name, models[name], retry=RetryPolicy(attempts=2)),
                ledger,
                owner=order.owner,
                transfers=order.transfers,
                lease=order.lease,
                step=strike,
                clock=lambda: started + timedelta(seconds=strike.now()),
                report=lambda told: said.append(f"{told.what} {told.transfer.id}: {told.reason}"),
            ) as engine:
                summary = await engine.run_once(patience=2.0)
    except LedgerUnavailable as error:
        return {"unavailable": str(error), "said": said}
    errors = {name: str(error) for name, error in summary.errors.items()}
    return {"delivered": summary.delivered, "errors": errors, "said": said}


def child(order: Order, out: int) -> None:
    def tell(found: dict[str, Any]) -> None:
        os.write(out, json.dumps(found).encode() + b"\n")

    strike = Strike(order, tell)
    patch(strike)
    if order.after:
        # Its default action ends the process as suddenly as SIGKILL does.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, order.after)
    try:
        found = asyncio.run(run(order, strike))
        tell({**found, "reached": strike.reached, "statements": Failing.count})
        os._exit(0)
    except BaseException:  # noqa: BLE001 - told to the test
        tell({"crashed": traceback.format_exc(), "reached": strike.reached})
        os._exit(3)


def serve() -> None:
    """Run orders from standard input, one after the other."""
    logging.disable(logging.CRITICAL)
    faulthandler.enable()

    def say(found: dict[str, Any]) -> None:
        print(json.dumps(found), flush=True)

    for line in sys.stdin:
        order = Order(**json.loads(line))
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(read)
            child(order, write)
        os.close(write)
        told: dict[str, Any] = {}
        with os.fdopen(read, "rb") as lines:
            while True:
                _, status = os.waitpid(pid, os.WUNTRACED)
                if not os.WIFSTOPPED(status):
                    break
                say({"stopped": pid})
                sys.stdin.readline()
                os.kill(pid, signal.SIGCONT)
            for answer in lines:
                told |= json.loads(answer)
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        say({"ended": code, **told})


if __name__ == "__main__":
    serve()
