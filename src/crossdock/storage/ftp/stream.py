"""An open data connection: bytes in and out, and how it ends. Blocking, for one thread."""

from __future__ import annotations

import select
import socket
import ssl
from contextlib import suppress

from crossdock.storage.ftp.wire import Lost, Silent
from crossdock.storage.sockets import confirmed, receive, send_whole, unsent

__all__ = ["Data"]


class Data:
    """An open data connection."""

    def __init__(self, connected: socket.socket, timeout: float) -> None:
        self.socket = connected
        self._timeout = timeout
        self._ended = False
        self._buffer = bytearray()
        self.ragged: bool | None = None
        """TLS ended without its goodbye: nothing proves that the end is the end. None: clear text, or not yet there."""
        self.told: int | None = None
        """Bytes of the file that the server has opened, as it says in agreeing; a name may be another file's by now."""

    def read(self, size: int, *, end: int = -1) -> bytes:
        """Up to `size` bytes, fewer only at the end. Raises `Lost`, `Silent`.

        `end`: how many there should be still; if so many come and no more, in time, the server's last word on the
        control connection tells whether that was the end.
        """
        if isinstance(self.socket, ssl.SSLSocket):
            return self._read_records(self.socket, size)
        try:
            # The kernel fills the whole chunk, and minds the time, in one call.
            found = receive(self.socket, size)
            while found and len(found) < size and len(found) != end:
                more = receive(self.socket, size - len(found))
                if not more:
                    break
                found += more
        except OSError as error:
            raise self._lost(error) from error
        return found

    def _read_records(self, secured: ssl.SSLSocket, size: int) -> bytes:
        """A TLS record at a time, which is 16 KiB, into one buffer."""
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        filled = 0
        with memoryview(self._buffer) as view:
            try:
                while filled < size:
                    got = secured.recv_into(view[filled:size])
                    if not got:
                        self.ragged = False
                        break
                    filled += got
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
                self.ragged = isinstance(error, ssl.SSLEOFError)
            except OSError as error:
                raise self._lost(error) from error
            return bytes(view[:filled])

    def send_unasked(self, data: bytes) -> Lost | None:
        """Before the server has agreed. What went wrong counts only if the server has nothing to say against it."""
        try:
            self.write(data)
        except Lost as error:
            return error
        return None

    def write(self, data: bytes | memoryview) -> None:
        """Raises `Lost`, and `Silent` if the peer takes nothing at all for the timeout."""
        try:
            send_whole(self.socket, data)
        except (BlockingIOError, TimeoutError) as error:
            raise self._lost(TimeoutError()) from error
        except OSError as error:
            raise self._lost(error) from error

    def end(self) -> None:
        """Say that this was all: under TLS its goodbye, then FIN."""
        self._ended = True
        if not isinstance(self.socket, ssl.SSLSocket):
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
            return
        try:
            self._say_goodbye(self.socket)
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._lost(error) from error

    @property
    def confirmed(self) -> int:
        return confirmed(self.socket)

    @property
    def unsent(self) -> int:
        return unsent(self.socket)

    def end_quietly(self) -> None:
        """`end`, if that has not been done; whether it arrives no longer matters."""
        if not self._ended:
            try:
                self.end()
            except Lost:
                return

    def _say_goodbye(self, secured: ssl.SSLSocket) -> None:
        # It may have to wait for room in the send buffer: without it FileZilla Server, for one, refuses the upload. Its
        # answer is not waited for: some never send one.
        secured.settimeout(0)
        held = self.unsent
        try:
            while True:
                try:
                    secured.unwrap()
                except ssl.SSLWantWriteError:
                    room = select.poll()
                    room.register(secured, select.POLLOUT)
                    if not room.poll(self._timeout * 1000):
                        if (now := self.unsent) >= held:
                            raise TimeoutError from None
                        held = now
                else:
                    return
        except (ssl.SSLWantReadError, ssl.SSLEOFError):
            return
        except ssl.SSLError as error:
            raise ConnectionError(error.reason or str(error)) from error
        finally:
            secured.settimeout(self._timeout)

    def _lost(self, error: OSError) -> Lost:
        if isinstance(error, TimeoutError):
            return Silent(f"the data connection stood still for {self._timeout:g} s")
        return Lost(f"the data connection broke: {error.strerror or error}")

    def close(self) -> None:
        self.socket.close()
