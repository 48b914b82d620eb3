"""The `gpg` program as a child process: bytes through its pipes both ways, and what it says about them.

Nothing here trusts an exit code alone: what counts is written to `--status-fd` (GnuPG's doc/DETAILS), in lines that
the data cannot forge, since gpg escapes what it quotes there.
"""

from __future__ import annotations

import os
import select
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from crossdock.transfer.transforms.base import Refused

__all__ = ["Gpg"]

_PIPE = 64 * 1024
_PATIENCE = 300.0
"""Seconds in which gpg neither takes, gives nor says anything, after which it is stopped."""
_STATUS_LIMIT = 256 * 1024
"""Bytes of status lines: a message with so many signatures or keys is none of ours."""
_STDERR_KEPT = 4096


class Gpg:
    """One run of gpg, started by the first `feed` or `finish`. Memory: a piece of 64 KiB, and gpg's own few MiB.

    gpg is slowed down by whoever takes its output, and slows down whoever feeds it.
    """

    def __init__(
        self, program: str, arguments: Sequence[str], *, home: Path | None, passphrase: str | None = None
    ) -> None:
        self._program, self._arguments, self._home, self._passphrase = program, arguments, home, passphrase
        self._lock = threading.Lock()
        self._stopped = False
        self.ended_early = False
        """gpg took no more: feeding on is pointless."""
        self._child: subprocess.Popen[bytes] | None = None
        self._status_end = -1
        self._status = b""
        self._stderr = b""
        self._poll = select.poll()
        self._reading: set[int] = set()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Hand the data to gpg, giving what it makes meanwhile. See `ended_early`."""
        child = self._started()
        assert child.stdin is not None
        stdin = child.stdin.fileno()
        left = memoryview(data)
        self._poll.register(stdin, select.POLLOUT)
        try:
            while left:
                for number, event in self._ready():
                    if number != stdin:
                        yield from self._read(number)
                    elif event & (select.POLLERR | select.POLLHUP):
                        self.ended_early = True
                        return
                    else:
                        left = left[self._write(stdin, left[:_PIPE]) :]
        finally:
            self._poll.unregister(stdin)

    def finish(self) -> Iterator[bytes]:
        """Tell gpg that this was all, give what is left, and wait until it has ended."""
        child = self._started()
        assert child.stdin is not None
        child.stdin.close()
        while self._reading:
            for number, _ in self._ready():
                yield from self._read(number)
        child.wait()

    @property
    def code(self) -> int | None:
        """gpg's exit code; None while it runs."""
        return self._child.returncode if self._child else None

    def said(self) -> list[list[str]]:
        """gpg's status lines, each as its words; the first is the keyword."""
        # As bytes: gpg escapes ASCII's spaces and line ends in what it quotes, a file's name for one, and no others.
        lines = [[word.decode("utf-8", "replace") for word in line.split()] for line in self._status.split(b"\n")]
        return [words[1:] for words in lines if len(words) > 1 and words[0] == "[GNUPG:]"]

    def complaint(self) -> str:
        """The last that gpg wrote for people, on one line."""
        lines = [line.strip() for line in self._stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        return "; ".join(line.removeprefix("gpg: ") for line in lines[-3:])

    def stop(self) -> None:
        """End gpg at once; a `feed` or `finish` under way then ends too. For any thread."""
        with self._lock:
            self._stopped = True
            if self._child is not None:
                self._child.kill()

    def close(self) -> None:
        self.stop()
        if self._child is None:
            return
        for stream in (self._child.stdin, self._child.stdout, self._child.stderr):
            if stream is not None:
                stream.close()
        if self._status_end >= 0:
            os.close(self._status_end)
            self._status_end = -1
        self._child.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise Refused("it was stopped")
            if self._child is None:
                self._child = self._start()
            return self._child

    def _start(self) -> subprocess.Popen[bytes]:
        self._status_end, status = os.pipe()
        ends = [status]
        command = [self._program, "--batch", "--no-tty", "--yes", "--status-fd", str(status)]
        command += ["--no-auto-key-locate", "--no-auto-key-retrieve", "--disable-dirmngr", "--trust-model", "always"]
        if self._home is not None:
            command += ["--homedir", str(self._home)]
        if self._passphrase is None:
            command += ["--pinentry-mode", "error"]
        else:
            passphrase, end = os.pipe()
            # A pipe holds 64 KiB before anybody reads it; the option bounds a passphrase far below.
            os.write(end, self._passphrase.encode() + b"\n")
            os.close(end)
            ends.append(passphrase)
            command += ["--pinentry-mode", "loopback", "--passphrase-fd", str(passphrase)]
        try:
            child = subprocess.Popen(
                [*command, *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=ends,
                env={**os.environ, "LC_ALL": "C"},
                bufsize=0,
                # Ctrl-C is for us: we end gpg when we end.
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._status_end)
            self._status_end = -1
            raise Refused(
                f"cannot run {self._program}: {error.strerror}",
                hint="install GnuPG (apt install gpg), or write its path at 'program'",
            ) from error
        finally:
            for end in ends:
                os.close(end)
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        os.set_blocking(child.stdin.fileno(), False)
        for number in (child.stdout.fileno(), child.stderr.fileno(), self._status_end):
            self._poll.register(number, select.POLLIN)
            self._reading.add(number)
        return child

    def _ready(self) -> list[tuple[int, int]]:
        found = self._poll.poll(_PATIENCE * 1000)
        if self._stopped:
            raise Refused("it was stopped")
        if not found:
            raise Refused(
                f"gpg stood still for {_PATIENCE:.0f} s", hint="see whether its agent waits for a passphrase or card"
            )
        return found

    def _write(self, stdin: int, data: memoryview) -> int:
        try:
            return os.write(stdin, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            # The next poll says so too, and `finish` has the reason.
            return 0

    def _read(self, number: int) -> Iterator[bytes]:
        assert self._child is not None and self._child.stdout is not None
        data = os.read(number, _PIPE)
        if not data:
            self._poll.unregister(number)
            self._reading.discard(number)
        elif number == self._child.stdout.fileno():
            yield data
        elif number == self._status_end:
            self._status += data
            if len(self._status) > _STATUS_LIMIT:
                raise Refused("gpg has too much to say about this file", hint="look at it with gpg --list-packets")
        else:
            self._stderr = (self._stderr + data)[-_STDERR_KEPT:]
