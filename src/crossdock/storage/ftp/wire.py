"""The control connection: commands out, replies in (RFC 959 §4.2), every length bounded. Blocking, for one thread."""

from __future__ import annotations

import re
import socket
import ssl
import struct
from dataclasses import dataclass, field

__all__ = [
    "IsFile",
    "IsFolder",
    "Learned",
    "Lost",
    "Missing",
    "Refused",
    "Reply",
    "Silent",
    "Violation",
    "Wire",
    "be_patient",
    "shut",
]

_MOST_LINE = 64 * 1024
_MOST_REPLY = 1024 * 1024
_MOST_INTERIM = 10_000
"""Replies that are not the last one; some servers send one now and then while they are busy."""
_MOST_SHOWN = 500
"""Characters of a reply that messages quote."""
_BLOCK = 64 * 1024
_PROMPT = 5.0
"""Seconds in which the second of two commands is answered after the first, unless it was not seen."""
_QUICK: int | None = getattr(socket, "TCP_QUICKACK", None)
_CODE = re.compile(rb"([1-6][0-9][0-9])([ -]?)(.*)", re.DOTALL)
_FORBIDDEN = re.compile(rb"[\r\n\0]")
_OWN = {
    213: (b"SIZE", b"MDTM", b"MFMT", b"SITE"),
    227: (b"PASV",),
    229: (b"EPSV",),
    257: (b"PWD", b"MKD"),
    350: (b"RNFR", b"REST"),
}
"""Codes that answer these commands alone, of those that are sent together."""
_OTHERS = {b"SIZE": (250,), b"PASV": (250,), b"EPSV": (250,)}
"""Codes that never answer these commands."""
_SIZE = re.compile(rb"[0-9]{1,13}(?![0-9])")
"""What answers SIZE, and tells no time."""


@dataclass(slots=True)
class Learned:
    """What use has shown of an account's server, and of what lies between; for all connections to it."""

    batches: bool | None = None
    """Several commands in one packet are all answered. None: not tried."""
    queues: bool | None = None
    """Commands that were sent along with a transfer were answered in their turn. None: not tried."""
    describes: bool | None = None
    """MLST is known, as FEAT says; False: it is not, as behind a gateway that lets FEAT pass. None: not tried."""
    lists_facts: bool | None = None
    """The same of MLSD."""
    goodbyes: bool | None = None
    """A listing has ended with TLS's goodbye; False: two in a row have not, as not every server says it."""
    extended: bool | None = None
    """The ports that EPSV names can be reached; False: those that PASV names alone."""
    secures_first: bool | None = None
    """TLS on a data connection is begun before the server agrees to a transfer; False: not even that has helped."""
    keeps_beginning: bool | None = None
    """An upload that goes on in the middle of a file leaves what is before. None: not tried."""
    tells_apart: bool | None = None
    """Names that differ in letters beyond ASCII are two. None: not tried."""
    tells_times: bool | None = None
    """MDTM is known, though FEAT does not tell of it. None: not tried, or there is no need to."""
    survives_stamps: bool | None = None
    """A session goes on after a file's time was set by MDTM, which vsftpd's sandbox may forbid. None: not known."""
    lost_at_stamp: bool = False
    """One session has ended there, which may have been a mishap of the line."""
    address: object = None
    """The one of the host's addresses that has answered."""


class Lost(Exception):
    """The connection is gone, or may no longer be used."""


class Silent(Lost):
    """The peer did not answer in time."""


class Violation(Exception):
    """The peer broke the protocol."""


@dataclass(frozen=True, slots=True)
class Reply:
    code: int
    lines: tuple[bytes, ...]
    """Without line ends; the first and last without the code."""
    about: bytes = field(default=b"", compare=False)
    """The path that the command named."""

    @property
    def words(self) -> str:
        """The text without that path, whose words are not the server's."""
        if not self.about:
            return self.text
        return Reply(self.code, tuple(line.replace(self.about, b"") for line in self.lines)).text

    @property
    def text(self) -> str:
        return " ".join(line.decode("utf-8", "replace").strip() for line in self.lines if line.strip())

    @property
    def good(self) -> bool:
        return 200 <= self.code < 300

    def __str__(self) -> str:
        return f"{self.code} {self.text[:_MOST_SHOWN]}"


class Refused(Exception):
    """The server answered a command with a failure; the connection is in order."""

    def __init__(self, command: bytes, reply: Reply) -> None:
        verb = command.partition(b" ")[0].decode("ascii", "replace")
        super().__init__(f"{verb}: {reply}")
        self.command, self.reply = verb, reply


class Missing(Exception):
    """There is no such file or folder."""


class IsFile(Exception):
    """A file is where a folder should be."""

    def __init__(self, name: bytes) -> None:
        super().__init__(f"{name.decode(errors='replace')!r} is a file")


class IsFolder(Exception):
    """A folder is where a file should be."""


def shut(connected: socket.socket | None) -> None:
    """Wake whatever thread waits for this socket; from any thread."""
    if connected is not None:
        try:
            connected.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def be_patient(connected: socket.socket, seconds: float) -> None:
    """Let the kernel mind the time of each call on a blocking socket, by `BlockingIOError`.

    Python's own timeouts ask it twice for each, and hand the interpreter over each time.
    """
    patience = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connected.setsockopt(socket.SOL_SOCKET, option, patience)


def _may_answer(reply: Reply, command: bytes) -> bool:
    """Whether it is no other command's: that one of them was refused is not to be told from its reply."""
    verb, _, argument = command.partition(b" ")
    if reply.code in _OTHERS.get(verb, ()) or verb not in _OWN.get(reply.code, (verb,)):
        return False
    asked = verb == b"MDTM" and reply.code == 213 and argument.startswith(b"/")
    return not asked or _SIZE.match(reply.lines[0].strip()) is None


class Wire:
    """Raises `Lost`, `Silent` and `Violation`; after any of them it is of no more use."""

    def __init__(self, connected: socket.socket, learned: Learned | None = None) -> None:
        self.socket = connected
        self._held = bytearray()
        self._owed = 0
        """Final replies that commands still wait for."""
        self._sent: tuple[bytes, ...] = ()
        """The commands that were sent last."""
        self.alive = True
        self.heard = False
        """A whole reply has arrived."""
        self.signed_in = False
        self.patience = connected.gettimeout() or 0.0
        """Seconds that a reply may take."""
        self._each = 0.0
        """Seconds that the kernel waits in one call; 0: not set here."""
        self.learned = learned or Learned()

    def wait_for(self, seconds: float) -> None:
        """Set `patience`."""
        self.patience = seconds
        if 0 < self._each <= seconds:
            return  # it is asked several times over
        self._each = seconds
        if isinstance(self.socket, ssl.SSLSocket):
            self.socket.settimeout(seconds)
            return
        if self.socket.gettimeout() is not None:
            self.socket.settimeout(None)
        be_patient(self.socket, seconds)

    def send(self, *commands: bytes) -> None:
        """Several commands leave in one packet; their replies come in the same order."""
        for command in commands:
            if _FORBIDDEN.search(command):
                raise ValueError("a line break or NUL in a command")
        # Either would be taken for the answer to this command.
        if self._owed:
            self.alive = False
            raise Lost("earlier commands are still to be answered")
        if self._held:
            raise self._violation(f"a reply that nobody asked for: {bytes(self._held[:80])!r}")
        self._owed, self._sent = len(commands), commands
        try:
            self.socket.sendall(b"".join(command + b"\r\n" for command in commands))
        except OSError as error:
            raise self._lost(error) from error

    def reply(self) -> Reply:
        first = self._line()
        match = _CODE.fullmatch(first)
        if match is None:
            raise self._violation(f"a reply that begins with {first[:80]!r}")
        code, mark, text = match.groups()
        lines = [text]
        size = len(first)
        while mark == b"-":
            line = self._line()
            size += len(line) + 1
            if size > _MOST_REPLY:
                raise self._violation("a reply without an end")
            if line[:3] == code and line[3:4] in (b" ", b""):
                lines.append(line[4:])
                break
            lines.append(line[4:] if line[:4] == code + b"-" else line)
        found = Reply(int(code), tuple(lines), self._about() if code >= b"400" else b"")
        if found.code >= 200:
            self._owed = max(0, self._owed - 1)
        self.heard = True
        if found.code == 421:
            # RFC 959: the server closes the connection.
            self.alive = False
        return found

    def _about(self) -> bytes:
        """The path, which is absolute, of the command that is answered next."""
        command = self._sent[-self._owed] if 0 < self._owed <= len(self._sent) else b""
        start = command.find(b"/")
        return command[start:] if 0 <= start < len(command) - 1 else b""

    def ask(self, *commands: bytes) -> list[Reply]:
        """The final replies, good or bad. More than one command only where none begins a transfer.

        Small servers look at the first command of a packet only (uftpd), or hang up (LightFTP), or answer what they do
        not know before what they have to look up (zope.server): for them each waits for the reply to the one before.
        """
        learned = self.learned
        if learned.batches is False and len(commands) > 1:
            return [self.ask(command)[0] for command in commands]
        self.send(*commands)
        found: list[Reply] = []
        patience = self.patience
        try:
            while len(found) < len(commands):
                found.append(self.final())
                if learned.batches is None and len(commands) > 1:
                    self.wait_for(min(patience, _PROMPT))
        except (Lost, Violation) as error:
            if len(commands) > 1 and learned.batches is None and (found or not isinstance(error, Silent)):
                learned.batches = False
                raise Lost(f"sending commands together fails: {error}") from error
            raise
        if len(commands) > 1:
            learned.batches = all(map(_may_answer, found, commands))
            if not learned.batches:
                self.alive = False
                raise Lost("commands that are sent together are answered out of turn")
            self.wait_for(patience)
        if self.signed_in and (goodbye := next((each for each in found if each.code == 421), None)) is not None:
            # That it goes away is no answer: not that there is no such file, nor that it has no time.
            raise Lost(f"the server ends the session: {goodbye}")
        return found

    def final(self) -> Reply:
        """The last reply to a command that was sent."""
        for _ in range(_MOST_INTERIM):
            found = self.reply()
            if found.code >= 200:
                return found
        raise self._violation("interim replies without an end")

    def must(self, command: bytes, *codes: int) -> Reply:
        """The final reply, which is one of `codes`, or any good one. Raises `Refused`."""
        found = self.ask(command)[0]
        if found.code in codes or (not codes and found.good):
            return found
        raise Refused(command, found)

    @property
    def quiet(self) -> bool:
        """Nothing has arrived that nobody asked for, as far as is known here."""
        return not self._held

    @property
    def owed(self) -> bool:
        """Commands were sent whose replies have not been read."""
        return self._owed > 0

    def _line(self) -> bytes:
        waited = 0.0
        while (end := self._held.find(b"\n")) < 0:
            if len(self._held) > _MOST_LINE:
                raise self._violation("a line without an end")
            try:
                if _QUICK is not None:
                    # Servers send reply after reply, the next of which Nagle's algorithm keeps back until we
                    # acknowledge the one before; that takes the kernel 40 ms unless it is told not to wait (tcp(7)).
                    self.socket.setsockopt(socket.IPPROTO_TCP, _QUICK, 1)
                data = self.socket.recv(_BLOCK)
            except (BlockingIOError, TimeoutError) as error:
                waited += self._each
                if self._each and waited < self.patience:
                    continue
                raise self._lost(error) from error
            except OSError as error:
                raise self._lost(error) from error
            if not data:
                self.alive = False
                raise Lost("the server closed the connection")
            self._held += data
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        return line.rstrip(b"\r")

    def _lost(self, error: OSError) -> Lost:
        self.alive = False
        if isinstance(error, (TimeoutError, BlockingIOError)):
            return Silent(f"no answer within {self.patience:g} s")
        return Lost(f"the connection broke: {error.strerror or error}")

    def _violation(self, reason: str) -> Violation:
        self.alive = False
        return Violation(reason)

    def close(self) -> None:
        self.alive = False
        self.socket.close()
