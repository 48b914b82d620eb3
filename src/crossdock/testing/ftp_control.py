"""A control connection of `FaultyFtpServer`: its lines, what they name, and who signs in."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from crossdock.testing.ftp_faults import FtpFaults, folded

__all__ = ["BLOCK", "Control", "Unseen"]

BLOCK = 64 * 1024


class Server(Protocol):
    """What a session asks of a `FaultyFtpServer`."""

    folder: Path
    faults: FtpFaults
    features: tuple[str, ...]
    greeting: str
    host: str
    password: str
    tls: ssl.SSLContext | None
    commands: list[str]
    refuses_to_replace: bool
    then: list[tuple[str, Callable[[], Awaitable[object] | None]]]
    taken: dict[str, bytes]
    open: set[Any]
    writers: list[asyncio.StreamWriter]


class Unseen(Exception):
    """There is no data connection."""


class Control:
    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.faults = server, server.faults
        self.task: asyncio.Task[None] | None = None
        self._reader, self._writer = reader, writer
        self._passive: asyncio.Server | None = None
        self._data: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] | None = None
        self._at = "/"
        self._offset = 0
        self._old: Path | None = None
        self._ended = False
        self._formats = {"NAMEFMT", "LISTFMT"} if self.faults.ibm_i else set()
        """Those of IBM i that are as they are at first."""
        self._waiting: list[bytes] = []
        """Lines that others have overtaken."""

    def close(self) -> None:
        self._writer.close()
        if self._passive is not None:
            self._passive.close()

    async def say(self, reply: str) -> None:
        self._writer.write(reply.encode("utf-8", "surrogateescape") + b"\r\n")
        await self._writer.drain()

    async def run(self) -> None:
        if self.faults.most is not None and len(self.server.open) > self.faults.most:
            await self.say("421 Too many connections from this address")
            return
        await self.say(f"220 {self.server.greeting}")
        while not self._ended and (line := await self._line()):
            await self._obey(line)

    async def _line(self) -> bytes:
        if self.faults.one_at_a_time == "overtakes":
            lines = self._waiting or (await self._reader.read(BLOCK)).splitlines(keepends=True)
            lines.sort(key=lambda line: line.split()[0].decode() not in self.faults.replies)
            self._waiting = lines[1:]
            return lines[0] if lines else b""
        if self.faults.one_at_a_time:
            first, _, others = (await self._reader.read(BLOCK)).partition(b"\n")
            return b"" if others and self.faults.one_at_a_time == "hangs up" else first
        line = await self._reader.readline()
        # What a broken connection leaves of a command is none: its name would be another one's.
        return line if line.endswith(b"\n") else b""

    async def _obey(self, line: bytes) -> None:
        command, _, argument = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape").partition(" ")
        command = command.upper()
        self.server.commands.append(f"{command} {argument}".strip())
        work: Callable[[str], Awaitable[None]] | None = getattr(self, f"_do_{command.lower()}", None)
        if command in self.faults.replies:
            await self.say(self.faults.replies[command])
        elif work is None or (command in ("MLST", "MLSD") and not self._has("MLST", command)):
            await self.say("500 what?")
        else:
            try:
                await work(argument)
            except Unseen:
                await self.say("425 No connection established")
            except FileNotFoundError:
                await self.say("550 No such file or directory")
            except OSError as error:
                await self.say(f"550 {error.strerror}")
        await self._happen(f"{command} {argument}")

    async def _happen(self, command: str) -> None:
        then = self.server.then
        if then and f"{command} ".startswith(f"{then[0][0]} "):
            happening = then.pop(0)[1]()
            if happening is not None:
                await happening

    def _has(self, *features: str) -> bool:
        return any(line.split()[0] in features for line in self.server.features)

    def _path(self, argument: str) -> Path:
        whole = argument if argument.startswith("/") else f"{self._at.rstrip('/')}/{argument}"
        if self.faults.ascii:
            whole = whole.encode("ascii", "replace").decode()
        path = self.server.folder / whole.strip("/")
        return folded(path) if self.faults.folds else path

    # -- signing in -------------------------------------------------------------------------------------------------

    async def _do_user(self, argument: str) -> None:
        await self.say("331 and the password?")

    async def _do_pass(self, argument: str) -> None:
        await self.say("230 in" if argument == self.server.password else "530 Login incorrect")

    async def _do_feat(self, argument: str) -> None:
        lines = "".join(f" {feature}\r\n" for feature in self.server.features)
        await self.say(f"211-Features\r\n{lines}211 End")

    async def _do_opts(self, argument: str) -> None:
        await self.say("200 so be it")

    _do_type = _do_noop = _do_opts

    async def _do_prot(self, argument: str) -> None:
        await self.say("500 what?" if self.server.tls is None else "200 so be it")

    _do_pbsz = _do_prot

    async def _do_quit(self, argument: str) -> None:
        self._ended = True
        await self.say("221 bye")
