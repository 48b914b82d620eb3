"""Large bodies, each on a thread of its own: a blocking socket takes a MiB in one system call without the interpreter.

On the event loop every 64 to 256 KiB that arrive cost a turn of it, and the same loop encrypts and decrypts SFTP. What
is sent and received here costs it one wake-up per MiB. Small requests, and all of them where there is a proxy, stay
with aiohttp.
"""

from __future__ import annotations

import asyncio
import errno
import http.client
import os
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import urlsplit

from multidict import CIMultiDict

from crossdock.storage.http import NotHttp, Unreachable
from crossdock.storage.sockets import keep_pace, mind_silence, reached_in_time, receive, send_whole, until_taken

__all__ = ["Bulk", "BulkResponse"]

T = TypeVar("T")
_CHUNK = 1024 * 1024
_IDLE = 15.0
"""Seconds after which an unused connection is not trusted any more; aiohttp's own figure."""
_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
_WAIT_ALL: int | None = getattr(socket, "MSG_WAITALL", None)


class Bulk:
    """At most `limit` connections to one server, and as many threads. For use on one event loop."""

    def __init__(
        self, service: str, tls: ssl.SSLContext | None, *, limit: int, timeout: float, connect_timeout: float
    ) -> None:
        parts = urlsplit(service)
        self._port, self._tls = parts.port, tls
        self._timeout, self._connect_timeout = timeout, connect_timeout
        self._slots = asyncio.Semaphore(limit)
        self._threads = ThreadPoolExecutor(limit, thread_name_prefix="crossdock-s3")
        self._idle: dict[str, deque[_Line]] = {}
        self._addresses: dict[str, Any] = {}
        """Host → the address that answered last."""
        self._busy: set[_Line] = set()
        self._closed = False

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: Sequence[bytes | memoryview] = ()
    ) -> BulkResponse:
        """One try, up to the answer's headers. Raises `OSError` (also `TimeoutError`, `Unreachable`, `NotHttp`)."""
        await self._slots.acquire()
        line = self._line(urlsplit(url).hostname or "")
        self._busy.add(line)
        try:
            answer = await self.run(line, lambda: line.exchange(method, url, headers, body))
        except BaseException:
            self.give_back(line, usable=False)
            raise
        # Bytes that should not follow a HEAD may still be on their way.
        return BulkResponse(self, line, answer, once=method == "HEAD")

    async def run(self, line: _Line, action: Callable[[], T]) -> T:
        """In a thread; cancelled meanwhile, the connection is cut, which ends the action there as well."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, action)
        except asyncio.CancelledError:
            line.cut()
            raise

    def _line(self, host: str) -> _Line:
        idle = self._idle.get(host)
        while idle:
            line = idle.pop()
            if line.fresh():
                return line
            line.cut()
        return _Line(host, self._port, self._tls, self._timeout, self._connect_timeout, self._addresses)

    def give_back(self, line: _Line, *, usable: bool) -> None:
        """The connection's answer has been read to its end (`usable`), or is given up."""
        if line not in self._busy:
            return
        self._busy.discard(line)
        self._slots.release()
        if usable and not self._closed:
            line.since = time.monotonic()
            self._idle.setdefault(line.host, deque()).append(line)
        else:
            line.cut()

    def close(self) -> None:
        """Cut every connection."""
        self._closed = True
        for line in [*self._busy, *(line for idle in self._idle.values() for line in idle)]:
            line.cut()
        self._idle.clear()
        self._threads.shutdown(wait=False)


class BulkResponse:
    """An answer whose body is still to come: as much of aiohttp's as the callers of both use."""

    def __init__(self, bulk: Bulk, line: _Line, answer: http.client.HTTPResponse, *, once: bool) -> None:
        self._bulk, self._line, self._answer, self._once = bulk, line, answer, once
        self.status = answer.status
        self.headers = CIMultiDict(answer.getheaders())
        self._read = False

    @property
    def content(self) -> BulkResponse:
        return self

    async def iter_any(self) -> AsyncGenerator[bytes]:
        """The body, in chunks of up to 1 MiB. It is not held back: ask only for what there is room for."""
        loop = asyncio.get_running_loop()
        chunks: deque[bytes] = deque()
        arrived = asyncio.Event()

        def put(chunk: bytes) -> None:
            chunks.append(chunk)
            arrived.set()

        def take(chunk: bytes) -> None:
            loop.call_soon_threadsafe(put, chunk)

        reading = asyncio.ensure_future(self._bulk.run(self._line, lambda: self._line.body(self._answer, take)))

        def ended(task: asyncio.Future[None]) -> None:
            # Looked at, so that a failure after the caller has gone is no reason to log.
            if not task.cancelled():
                task.exception()
            arrived.set()

        reading.add_done_callback(ended)
        try:
            while True:
                await arrived.wait()
                arrived.clear()
                while chunks:
                    yield chunks.popleft()
                if reading.done() and not chunks:
                    break
            reading.result()
            self._read = True
        finally:
            reading.cancel()

    def release(self) -> None:
        """Keep the connection if the body was read to its end, and nothing else can follow."""
        self._bulk.give_back(self._line, usable=self._read and not self._once and not self._answer.will_close)

    def close(self) -> None:
        self._bulk.give_back(self._line, usable=False)


class _Line:
    """One connection. `cut` may be called from another thread than the one that works with it."""

    def __init__(
        self,
        host: str,
        port: int | None,
        tls: ssl.SSLContext | None,
        timeout: float,
        connect_timeout: float,
        addresses: dict[str, Any],
    ) -> None:
        self.host, self._addresses = host, addresses
        self.since = 0.0
        self._port, self._tls = port, tls
        self._timeout, self._connect_timeout = timeout, connect_timeout
        self._http: http.client.HTTPConnection | None = None
        self._answer: http.client.HTTPResponse | None = None
        self._lock = Lock()
        self._socket: socket.socket | None = None
        self._working = self._cut = False

    def fresh(self) -> bool:
        """Whether it can be used once more: not for long unused, and nothing has come, which could only be its end."""
        if self._socket is None or time.monotonic() - self.since > _IDLE:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def cut(self) -> None:
        """End the connection; who works with it finds it ended."""
        with self._lock:
            self._cut = True
            if self._socket is None:
                return
            if self._working:
                # Not SSLSocket's own way, which would have the other thread read what is encrypted.
                with suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            else:
                self._close()

    def _close(self) -> None:
        found, self._socket = self._socket, None
        if found is not None:
            found.close()
        # An answer that ends its connection is not known to `http.client` any more, and holds the socket open.
        if self._answer is not None:
            self._answer.close()
        if self._http is not None:
            self._http.close()

    def _work(self, action: Callable[[], T]) -> T:
        with self._lock:
            if self._cut:
                raise _gone("the connection was given up")
            self._working = True
        try:
            return action()
        except http.client.HTTPException as error:
            if isinstance(error, OSError):
                raise
            raise NotHttp(f"{type(error).__name__}: {error}") from error
        finally:
            self._rest()

    def _rest(self) -> None:
        with self._lock:
            self._working = False
            if self._cut:
                self._close()

    def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: Sequence[bytes | memoryview]
    ) -> http.client.HTTPResponse:
        """Send a request and read the head of the answer, over a new connection if a used one turns out to be ended."""

        def once() -> http.client.HTTPResponse:
            used = self._http is not None
            try:
                return self._exchange(method, url, headers, body)
            except ConnectionError:
                if not used or self._cut:
                    raise
            with self._lock:
                self._close()
                self._http = None
            return self._exchange(method, url, headers, body)

        return self._work(once)

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: Sequence[bytes | memoryview]
    ) -> http.client.HTTPResponse:
        connection = self._http or self._connect()
        parts = urlsplit(url)
        connection.putrequest(
            method, f"{parts.path}?{parts.query}" if parts.query else parts.path, skip_accept_encoding=True
        )
        for name, value in headers.items():
            connection.putheader(name, value.encode())
        size = sum(map(len, body))
        if size or method in ("PUT", "POST"):
            connection.putheader("Content-Length", str(size))
        assert self._socket is not None
        try:
            connection.endheaders()
            for chunk in body:
                send_whole(self._socket, chunk, _CHUNK)
            if size:
                until_taken(self._socket, self._timeout)
        except ssl.SSLError as error:
            raise _gone(error.reason) from error
        except ConnectionError as error:
            # A store that refuses a body early says why before it closes.
            try:
                self._answer = connection.getresponse()
                return self._answer
            except (OSError, http.client.HTTPException):
                raise error from None
        try:
            answer = self._answer = connection.getresponse()
        except ssl.SSLError as error:
            raise _gone(error.reason) from error
        if answer.status < 200:
            # `http.client` takes it for the answer, which is still to come on this connection.
            raise http.client.BadStatusLine(f"{answer.status} before the answer")
        self._acknowledge()
        return answer

    def _connect(self) -> http.client.HTTPConnection:
        try:
            plain, self._addresses[self.host] = reached_in_time(
                self.host,
                self._port or (443 if self._tls else 80),
                self._connect_timeout,
                self._addresses.get(self.host),
            )
        except OSError as error:
            raise Unreachable(error) from error
        plain.settimeout(self._connect_timeout)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_pace(plain)
            found = self._tls.wrap_socket(plain, server_hostname=self.host) if self._tls else plain
            found.settimeout(self._timeout)
            connection = (http.client.HTTPSConnection if self._tls else http.client.HTTPConnection)(
                self.host, self._port
            )
            connection.sock = found
            connection.auto_open = 0
        except BaseException:
            plain.close()
            raise
        with self._lock:
            self._socket, self._http = found, connection
        if self._cut:
            raise _gone("the connection was given up")
        return connection

    def body(self, answer: http.client.HTTPResponse, take: Callable[[bytes], None]) -> None:
        """Give the body to `take`, in chunks. Raises `OSError` if it ends before its announced length."""
        self._work(lambda: self._body(answer, take))

    def _body(self, answer: http.client.HTTPResponse, take: Callable[[bytes], None]) -> None:
        missing = answer.length
        read: Callable[[int], bytes] = answer.read
        if missing is not None and self._tls is None and _WAIT_ALL is not None:
            # What came along with the headers lies in the answer's own buffer: 8 KiB, or 128 since Python 3.14.
            if missing:
                missing = self._taken(answer.read1(min(missing, _CHUNK)), missing, take)
            # If that was all, the answer has closed a connection that ends with it (Python 3.12.2).
            if missing:
                read = self._receive
                self._wait_in_kernel()
        try:
            while missing is None or missing:
                try:
                    chunk = read(_CHUNK if missing is None else min(_CHUNK, missing))
                except ssl.SSLError as error:
                    raise _gone(error.reason) from error
                if missing is None and not chunk:
                    break
                missing = self._taken(chunk, missing, take)
        finally:
            # A server that closes after this answer has left the socket to it: both are closed with its last byte.
            if self._socket is not None and self._socket.fileno() != -1:
                self._socket.settimeout(self._timeout)
            answer.close()

    def _taken(self, chunk: bytes, missing: int | None, take: Callable[[bytes], None]) -> int | None:
        if self._cut or not chunk:
            raise _gone("it ended in the middle of an answer")
        take(chunk)
        return None if missing is None else missing - len(chunk)

    def _wait_in_kernel(self) -> None:
        """Blocking for good, which is what MSG_WAITALL takes, with the timeout kept by the kernel."""
        assert self._socket is not None
        mind_silence(self._socket, self._timeout)
        self._socket.settimeout(None)

    def _receive(self, size: int) -> bytes:
        assert self._socket is not None
        return receive(self._socket, size)

    def _acknowledge(self) -> None:
        """As for small answers: Ceph sends headers and body apart, with Nagle's algorithm on."""
        if _QUICK_ACK is not None and self._socket is not None:
            with suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)


def _gone(reason: str | None) -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, reason or os.strerror(errno.ECONNRESET))
