"""An FTP server over a folder that lies, cuts and refuses on purpose. Plain FTP, one account, passive mode only."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from crossdock.testing.ftp_faults import FtpFaults
from crossdock.testing.ftp_session import Session

__all__ = ["FaultyFtpServer"]


class FaultyFtpServer:
    """`async with FaultyFtpServer(folder) as server:` listens on `server.port` of 127.0.0.1.

    `features`: what FEAT tells; without "MLST" there is none, nor MLSD, and LIST is in Unix's dialect.
    `tls`: everything is under it, from the first byte.
    """

    user, password, host = "tester", "secret", "127.0.0.1"
    session = Session

    def __init__(
        self,
        folder: Path,
        faults: FtpFaults | None = None,
        *,
        features: tuple[str, ...] = ("MLST type*;size*;modify*;", "MDTM", "MFMT", "SIZE", "REST STREAM", "UTF8"),
        greeting: str = "crossdock's faulty server",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.tls = tls
        self.folder, self.faults = folder, faults or FtpFaults()
        self.features, self.greeting = features, greeting
        self.commands: list[str] = []
        """Every command received, of all connections in the order of arrival."""
        self.refuses_to_replace = False
        """A rename onto a file is a 553."""
        self.then: list[tuple[str, Callable[[], Awaitable[object] | None]]] = []
        """Once the first of these commands ("STOR", or "STOR /name") was answered, this happens; then the second …"""
        self.taken: dict[str, bytes] = {}
        """Path below the folder → content; see `FtpFaults.takes`."""
        self.accepted = 0
        self.port = 0
        self.open: set[Session] = set()
        self.writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.host, 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        tasks = [session.task for session in self.open if session.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self.writers:
            if not writer.transport.is_closing():
                writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in self.writers), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        session = self.session(self, reader, writer)
        session.task = asyncio.current_task()
        self.accepted += 1
        self.open.add(session)
        try:
            await session.run()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            pass
        finally:
            self.open.discard(session)
            session.close()
