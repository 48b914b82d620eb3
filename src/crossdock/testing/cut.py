"""A wire that can be cut, stalled or slowed at an exact byte."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import Literal, Self

__all__ = ["CutProxy"]

Direction = Literal["up", "down", "both"]
How = Literal["rst", "fin", "stall", "drip"]
_BLOCK = 64 * 1024


@dataclass
class _Cut:
    left: int
    direction: Direction
    how: How
    times: int
    size: int


class _Connection:
    """One client and the target's end for it."""

    def __init__(self, client: asyncio.StreamWriter, target: asyncio.StreamWriter) -> None:
        self.ends = (client, target)
        self.stalled = self.dripping = False
        for end in self.ends:
            # Nothing may wait in the proxy: what passed before the cut has reached the kernel.
            end.transport.set_write_buffer_limits(high=0)

    def reset(self) -> None:
        for end in self.ends:
            connected = end.get_extra_info("socket")
            if connected is not None and not end.transport.is_closing():
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.transport.abort()

    def finish(self) -> None:
        for end in self.ends:
            end.close()


class CutProxy:
    """A TCP proxy in front of `target_host:target_port`, listening on `port` of 127.0.0.1.

        async with CutProxy("127.0.0.1", server.port) as wire:
            wire.cut_after(100_000, direction="down", how="rst")
            ...                                   # connect to 127.0.0.1:wire.port
            await wire.wait_cut()

    "up" is from the client to the target, "down" the way back. Without orders, everything passes.
    """

    def __init__(self, target_host: str, target_port: int, *, pause: float = 0.01) -> None:
        """`pause`: seconds between two bytes of a dripping wire."""
        self._target = (target_host, target_port)
        self._pause = pause
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._order: _Cut | None = None
        self.port = 0
        self.accepted = 0
        """Connections taken so far."""
        self.up = 0
        """Bytes passed from clients to the target."""
        self.down = 0
        """Bytes passed from the target to clients."""
        self.cuts = 0
        """How many connections have been cut, stalled or slowed."""
        self.refusing = False
        """Reset every new connection at once: the host is gone."""
        self._happened = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_now()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_after(self, size: int, *, direction: Direction = "both", how: How = "rst", times: int = 1) -> None:
        """Once exactly `size` more bytes have passed in `direction`, on all connections together, act on the one they
        passed on. Replaces an earlier order.

        rst: reset both ends. fin: close both ends in good order, as a dying process does. stall: keep both ends open
        and pass nothing more, as a lost network does. drip: pass single bytes from then on, both ways.
        `times`: start counting again that often; connections made after the last cut are left alone.
        """
        self._order = _Cut(size, direction, how, times, size)
        self._happened.clear()

    def cut_now(self, how: How = "rst") -> None:
        """Act on every open connection at once."""
        for connection in tuple(self._connections):
            self._act(connection, how)

    def heal(self) -> None:
        """Forget the order; what is cut stays cut, what is stalled stays stalled."""
        self._order = None
        self.refusing = False

    async def wait_cut(self) -> None:
        """Returns once an order of `cut_after` has been carried out."""
        await self._happened.wait()

    def _act(self, connection: _Connection, how: How) -> None:
        self.cuts += 1
        if how == "rst":
            connection.reset()
        elif how == "fin":
            connection.finish()
        elif how == "stall":
            connection.stalled = True
        else:
            connection.dripping = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        try:
            if self.refusing:
                raise ConnectionRefusedError
            target_reader, target_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, target_writer)
        self._connections.add(connection)
        try:
            await asyncio.gather(
                self._pump(connection, reader, target_writer, "up"),
                self._pump(connection, target_reader, writer, "down"),
            )
        except OSError:
            connection.reset()
        except asyncio.CancelledError:
            connection.reset()
        finally:
            self._connections.discard(connection)
            connection.finish()

    async def _pump(
        self,
        connection: _Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Literal["up", "down"],
    ) -> None:
        while data := await reader.read(1 if connection.dripping else _BLOCK):
            if connection.dripping:
                await asyncio.sleep(self._pause)
            while data:
                if connection.stalled:
                    await asyncio.Event().wait()
                order = self._order
                counts = order is not None and order.direction in (direction, "both")
                count = min(len(data), order.left) if order is not None and counts else len(data)
                if order is not None and counts:
                    order.left -= count
                writer.write(data[:count])
                await writer.drain()
                if direction == "up":
                    self.up += count
                else:
                    self.down += count
                data = data[count:]
                if order is not None and order is self._order and counts and order.left == 0:
                    self._carry_out(connection, order)
                    if order.how in ("rst", "fin"):
                        return
        if writer.can_write_eof() and not writer.transport.is_closing():
            writer.write_eof()

    def _carry_out(self, connection: _Connection, order: _Cut) -> None:
        order.times -= 1
        order.left = order.size
        if order.times <= 0:
            self._order = None
        self._act(connection, order.how)
        self._happened.set()
