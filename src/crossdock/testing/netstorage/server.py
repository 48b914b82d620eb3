"""`FakeNetStorage`: the Usage API on a loopback port, signatures, clock window, faults and all."""

from __future__ import annotations

import asyncio
import hmac
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import unquote_to_bytes

from crossdock.storage.netstorage.signing import ACTION, DATA, SIGN, WINDOW, signature
from crossdock.testing.netstorage.actions import METHODS, Actions, parameters_of
from crossdock.testing.netstorage.http import BadRequest, Query, Reply, read_request, send_reply
from crossdock.testing.netstorage.tree import File, Tree

__all__ = ["FakeNetStorage", "NetStorageFault", "NetStoragePeer"]

How = Literal["status", "drop", "lost", "late", "short", "stall", "flip"]


@dataclass(kw_only=True, eq=False)
class NetStorageFault:
    """One thing that goes wrong with the requests of one action ("*": of all).

    - "status": answered with `status` (and `Retry-After`), nothing is done.
    - "drop": the connection ends without an answer, nothing is done.
    - "lost": it is done, and the connection ends without an answer.
    - "late": it is done as soon as `released` is set, whether the client still waits or not.
    - "short": half of the answer's body, then the connection ends.
    - "flip": one bit of the answer's body is wrong.
    - "stall": never answered.

    It strikes after the first `after` such requests, then every `every`-th, `times` times in all (None: for ever).
    With a `seed` it strikes one in `every` by chance: what is repeated in step is not struck for ever.
    """

    action: str = "*"
    how: How = "status"
    status: int = 500
    retry_after: int | None = None
    after: int = 0
    every: int = 1
    times: int | None = None
    seed: int | None = None
    seen: int = 0
    struck: int = 0

    def __post_init__(self) -> None:
        self.released = asyncio.Event()
        self._chance = None if self.seed is None else random.Random(self.seed)

    def strikes(self, action: str) -> bool:
        """Counts a request."""
        if self.action not in ("*", action):
            return False
        self.seen += 1
        turn = self.seen - self.after - 1 if self._chance is None else self._chance.randrange(self.every)
        due = self.seen > self.after and turn % self.every == 0
        if not due or (self.times is not None and self.struck >= self.times):
            return False
        self.struck += 1
        return True


class FakeNetStorage:
    """A storage group with one CP code and one upload account, on 127.0.0.1, in the caller's event loop.

    `store`: NetStorage 4 (objects) or 3 (files). `page`: names in an answer at most. `tls`: serves HTTPS with it.
    `clock_offset`: seconds that this server's clock is ahead. `reject_replays`: a signature is good once only.
    `requests` counts by action, `connections` those accepted, `peak` the most of them open at once,
    `trailers` the uploads that ended with signed ones, `busy` the requests that are being done now.
    """

    def __init__(
        self,
        *,
        key_name: str = "upload-account",
        key: str = "abcdefghij",
        cp_code: str = "123456",
        store: Literal["object-store", "file-store"] = "object-store",
        page: int = 1000,
        rename_replaces: bool = True,
        quick_delete: bool = False,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
        reject_replays: bool = True,
    ) -> None:
        self.key_name, self.key, self.cp_code, self.tls = key_name, key, cp_code, tls
        self.tree = Tree(cp_code)
        self.actions = Actions(
            tree=self.tree,
            store=store,
            page=page,
            rename_replaces=rename_replaces,
            quick_delete=quick_delete,
            clock=lambda: self.now,
        )
        self.clock_offset = 0.0
        self.faults: list[NetStorageFault] = []
        self.requests: Counter[str] = Counter()
        self.log: list[tuple[str, str]] = []
        """Of every request the target and the action header, as they came."""
        self.refusals: list[str] = []
        """Why requests were answered 403."""
        self.connections = self.peak = self.trailers = self.busy = 0
        self.port = 0
        self._clock, self._reject_replays = clock, reject_replays
        self._used: set[str] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def now(self) -> float:
        """This server's clock."""
        return self._clock() + self.clock_offset

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def peer(self, root: str = "") -> NetStoragePeer:
        """The content, past the protocol, with paths below `root`."""
        return NetStoragePeer(self, root)

    def disconnect(self) -> None:
        """End every connection, whatever it is doing."""
        for task in self._tasks:
            task.cancel()

    async def __aenter__(self) -> Self:
        # A large limit: small reads would make the test server what is measured.
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self.tls, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self.disconnect()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        self.peak = max(self.peak, len(self._tasks))
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            # The client has gone: a body that is not whole is no file.
            pass
        except (BadRequest, ValueError, OverflowError, asyncio.LimitOverrunError) as error:
            # The last three: numbers and lines that are longer than anybody means.
            with suppress(OSError):
                await send_reply(writer, Query("GET", "/", {}, keep=False), Reply(400, f"{error}\n".encode()), self.now)
        except asyncio.CancelledError:
            # Only by `disconnect`; the task ends here.
            pass
        finally:
            if task is not None:
                self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (query := await read_request(reader, writer, lambda: self.now)) is not None:
            self.busy += 1
            try:
                reply = await self._reply(query)
            finally:
                self.busy -= 1
            if reply is None or not await send_reply(writer, query, reply, self.now):
                return

    # -- one request ----------------------------------------------------------------------------------------------

    async def _reply(self, query: Query) -> Reply | None:
        """None: no answer."""
        action = query.headers.get(ACTION.lower())
        if action is None:
            return self._refused("no action header")
        parameters = parameters_of(action)
        name = parameters.get("action", b"").decode("latin-1")
        self.requests[name] += 1
        self.log.append((query.target, action))
        fault = next((each for each in self.faults if each.strikes(name)), None)
        if fault is not None and fault.how in ("status", "drop", "stall"):
            if fault.how == "stall":
                await asyncio.Event().wait()
            if fault.how == "drop":
                return None
            after = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            return Reply(fault.status, b"Injected\n", after)
        if fault is not None and fault.how == "late":
            await fault.released.wait()
        reply = self._answer(query, name, action, parameters)
        if fault is not None:
            if fault.how == "lost":
                return None
            if fault.how == "short":
                reply.cut = len(reply.body) // 2
            elif fault.how == "flip" and reply.body:
                at = len(reply.body) // 2
                reply.body = reply.body[:at] + bytes([reply.body[at] ^ 1]) + reply.body[at + 1 :]
        return reply

    def _answer(self, query: Query, name: str, action: str, parameters: dict[str, bytes]) -> Reply:
        wrong = self._authenticated(query, query.headers, action, query.begun)
        if wrong is not None:
            return self._refused(wrong)
        if name not in METHODS or parameters.get("version") != b"1":
            return Reply(400, b"Unknown action or version\n")
        if query.method not in METHODS[name]:
            return self._refused(f"{query.method} for {name}")
        encoding = parameters.get("encoding", b"utf-8").lower()
        if encoding not in (b"utf-8", b"iso-8859-1"):
            return Reply(400, b"Unsupported encoding\n")
        path = unquote_to_bytes(query.target.partition("?")[0])[1:]
        if path.partition(b"/")[0] != self.tree.top:
            return self._refused("another CP code")
        if name == "upload" and query.trailers:
            later = query.trailers.get(ACTION.lower())
            if later is None:
                return Reply(400, b"A trailer without an action\n")
            wrong = self._authenticated(query, query.trailers, later, self.now)
            if wrong is not None:
                return self._refused(f"trailer: {wrong}")
            changed = parameters_of(later)
            if {key for key, value in parameters.items() if value != changed.get(key)} != {
                key for key, value in parameters.items() if value == b"atend"
            } or set(changed) != set(parameters):
                return Reply(400, b"The trailer's action is another one\n")
            parameters = changed
            self.trailers += 1
        return self.actions.run(name, path, parameters, query)

    def _authenticated(self, query: Query, headers: dict[str, str], action: str, came: float) -> str | None:
        """None: signed by the account when it came. Over the request target as received, still escaped."""
        data, sign = headers.get(DATA.lower(), ""), headers.get(SIGN.lower(), "")
        # rclone leaves out the last space.
        fields = [field.strip() for field in data.split(",")]
        if len(fields) != 6 or fields[5] != self.key_name:
            return "unknown account"
        if not fields[3].isdigit():
            return "no time"
        try:
            expected = signature(self.key, data, query.target, action)
        except ValueError as error:
            return str(error)
        if not hmac.compare_digest(expected, sign):
            return "wrong signature"
        if abs(came - int(fields[3])) > WINDOW:
            return f"{came - int(fields[3]):.0f} seconds apart"
        if self._reject_replays and sign in self._used:
            return "signature used before"
        self._used.add(sign)
        return None

    def _refused(self, reason: str) -> Reply:
        self.refusals.append(reason)
        return Reply(403, b"Unauthorized\n")


class NetStoragePeer:
    """What is stored, reached directly; a `Peer` of the storage suite."""

    def __init__(self, server: FakeNetStorage, root: str = "") -> None:
        self._server = server
        self._prefix = "/".join(part for part in (server.cp_code, root) if part).encode() + b"/"

    def _name(self, path: str) -> bytes:
        return self._prefix + path.encode("utf-8", "surrogateescape")

    def read(self, path: str) -> bytes:
        file = self._server.tree.file(self._name(path))
        if file is None:
            raise FileNotFoundError(path)
        return file.data

    def write(self, path: str, data: bytes) -> None:
        """As another client's upload would: folders stay implicit in an object-store."""
        now = self._server.now
        name = self._name(path)
        if self._server.actions.store == "file-store":
            parts = name.split(b"/")
            for depth in range(2, len(parts)):
                self._server.tree.make(b"/".join(parts[:depth]), int(now))
        self._server.tree.put(name, File.of(data, int(now), now))

    def names(self) -> set[str]:
        files = self._server.tree.files()
        return {
            name[len(self._prefix) :].decode("utf-8", "surrogateescape")
            for name in files
            if name.startswith(self._prefix)
        }
