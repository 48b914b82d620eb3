"""What went wrong, as crossdock's errors: reply codes, and the words that servers put behind the vague ones."""

from __future__ import annotations

import re
from types import TracebackType

from crossdock.errors import (
    AlreadyExists,
    AuthenticationFailed,
    ConnectionFailed,
    InvalidPath,
    NoSpace,
    NotADirectory,
    NotAFile,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    StorageError,
    Throttled,
    TimedOut,
    Unsupported,
)
from crossdock.storage.ftp.data import Uncalled, Unreachable
from crossdock.storage.ftp.tls import SessionRefused, Untrusted
from crossdock.storage.ftp.wire import IsFile, IsFolder, Lost, Missing, Refused, Reply, Silent, Violation

__all__ = [
    "SESSION_HINT",
    "Translate",
    "hint_for",
    "hint_for_certificate",
    "hint_for_permission",
    "is_emptiness",
    "kind_of_refusal",
    "no_rename",
    "translated",
]

SESSION_HINT = (
    "the server wants the data connection to take over the TLS session and did not accept ours, neither under TLS 1.3 "
    "nor 1.2; its operator can relax that: vsftpd require_ssl_reuse=NO, ProFTPD 'TLSOptions NoSessionReuseRequired', "
    "FileZilla Server 'Require TLS session resumption on data connection' off"
)

_IN_USE = r"\b(?:locked|in use|used by)\b|sharing violation"
# In this order: servers say "550 Permission denied: no such file" too.
_WORDS: tuple[tuple[re.Pattern[str], type[StorageError]], ...] = tuple(
    (re.compile(words, re.IGNORECASE), kind)
    for words, kind in (
        (r"no space|disk full|quota|insufficient (?:storage|space)|out of space", NoSpace),
        (r"not a directory|is not a folder", NotADirectory),
        (r"is a directory|not a (?:regular|plain) file|not regular", NotAFile),
        (r"not empty", PermissionDenied),
        (r"(?:no such|not found|does ?n[o']t exist|cannot find|can't find|unable to find|not exist)", NotFound),
        (r"(?:file|already) exists|already exist|exists already", AlreadyExists),
        (
            r"name too long|(?:illegal|invalid|bad|prohibited) (?:(?:file|directory|folder) ?)?name",
            InvalidPath,
        ),
        # ftp-srv's 550, of a port that it has closed again; LightFTP's, of what it has not quite done yet.
        (r"\b(?:port or pasv|pasv or port)\b|action is in progress", ConnectionFailed),
        # Of the disk behind the server, such as a mount that hangs: nothing is known of the file.
        (r"i(?:nput)?/o(?:utput)? error|stale (?:nfs )?file|not connected|timed out|temporarily", ConnectionFailed),
        (rf"too many|maximum|{_IN_USE}", Throttled),
        (r"permi|denied|allowed|forbidden|prohibit|access|read-?only|overwrite|authori[sz]ed", PermissionDenied),
    )
)
_EMPTINESS = re.compile(
    r"\bno (?:matching )?(?:files?|entries|data ?sets?|members|messages?|batches|documents?|objects)"
    r"(?: were)? (?:found|exist|available|present)\b|\b(?:directory|folder|mailbox) (?:is )?empty\b",
    re.IGNORECASE,
)
_CODES: dict[int, type[StorageError]] = {
    421: ConnectionFailed,
    425: ConnectionFailed,
    426: ConnectionFailed,
    430: AuthenticationFailed,
    450: ConnectionFailed,
    451: ConnectionFailed,
    452: NoSpace,
    500: Unsupported,
    501: Unsupported,
    502: Unsupported,
    503: ProtocolViolation,
    504: Unsupported,
    521: Unsupported,
    522: Unsupported,
    530: AuthenticationFailed,
    532: AuthenticationFailed,
    534: Unsupported,
    550: PermissionDenied,
    551: PermissionDenied,
    552: NoSpace,
    553: PermissionDenied,
}
_FOUND: dict[type[Exception], type[StorageError]] = {IsFile: NotADirectory, IsFolder: NotAFile, Missing: NotFound}
_HINTS: dict[type[StorageError], str] = {
    NotFound: "check the path: it is below the endpoint's root, which is the login folder unless 'root' says otherwise",
    PermissionDenied: "ask the server's operator for the permission, or choose another folder",
    InvalidPath: "give it another name in the rule or command that moves it",
    NoSpace: "free space at the server",
    Throttled: "lower 'max_connections' at this endpoint",
    ConnectionFailed: "check that the server is up",
    TimedOut: "check the network and the server's load, or raise 'timeout' at this endpoint",
    ProtocolViolation: "report it to the server's operator, with this message",
    AuthenticationFailed: "check user and password with the server's operator",
    Unsupported: "ask the server's operator, or do without it at this endpoint",
}
_FORBIDDEN = "where names like .crossdock-….part are forbidden (vsftpd deny_file, Pure-FTPd -x), write staging: none"
_WRITE = "vsftpd write_enable=YES, ProFTPD <Limit WRITE>; the root of a chroot is often not writable"
_RENAME = "vsftpd cmds_denied without RNFR and RNTO, ProFTPD <Limit RNFR RNTO>, Pure-FTPd without -G"
_PERMITS = {
    "RETR": "vsftpd download_enable=YES, ProFTPD <Limit READ>",
    "LIST": "vsftpd dirlist_enable=YES, ProFTPD <Limit DIRS>",
    "STOR": f"{_WRITE}; for anonymous vsftpd anon_upload_enable=YES",
    "MKD": f"{_WRITE}; for anonymous vsftpd anon_mkdir_write_enable=YES, Pure-FTPd -M",
    "RMD": f"{_WRITE}; for anonymous vsftpd anon_other_write_enable=YES",
    "RNFR": f"{_RENAME}; for anonymous vsftpd anon_other_write_enable=YES",
    "DELE": "ProFTPD <Limit DELE>, Pure-FTPd without -K; for anonymous vsftpd anon_other_write_enable=YES",
}
_PERMITS |= {"MLSD": _PERMITS["LIST"], "CWD": _PERMITS["LIST"], "APPE": _PERMITS["STOR"], "RNTO": _PERMITS["RNFR"]}
_PASSIVE_HINT = (
    "the server's passive ports must be open in its firewall and be forwarded: ask its operator for the range "
    "(vsftpd pasv_min_port and pasv_max_port, ProFTPD PassivePorts, Pure-FTPd -p)"
)
_ACTIVE_HINT = (
    "mode: active needs this machine to be reachable from the server, at any port, and the server to connect "
    "(vsftpd port_enable=YES and connect_from_port_20=NO): leave mode out to let this machine connect instead"
)
_WANTS_TLS = re.compile(r"(?:ssl|tls) (?:is )?required|must be encrypted", re.IGNORECASE)
"""vsftpd force_local_data_ssl, ProFTPD TLSRequired data, pyftpdlib tls_data_required."""
_WANTS_TLS_HINT = "the server insists on TLS for data connections: write type: ftpes"
_OWN_HINT = "this machine refuses it: check its limit of open files (ulimit -n) and the space for temporary files"
_MODE_HINTS = {
    "PASV": "the server refuses passive mode: ask its operator for it (vsftpd pasv_enable=YES), or write mode: active",
    "PORT": _ACTIVE_HINT,
}
_MODE_HINTS |= {"EPSV": _MODE_HINTS["PASV"], "EPRT": _ACTIVE_HINT}


def kind_of_refusal(reply: Reply) -> type[StorageError] | None:
    """What the words of a refusal say; None: only the code speaks."""
    if reply.code in (421, 425, 426, 452, 500, 502, 530):
        return None
    said = reply.words
    return next((kind for words, kind in _WORDS if words.search(said)), None)


def is_emptiness(reply: Reply) -> bool:
    """Whether a refusal to list means that there is nothing to be listed, as mailboxes and mainframes say it."""
    said = reply.code in (450, 451, 550) and kind_of_refusal(reply) is None
    return said and _EMPTINESS.search(reply.words) is not None


def hint_for(kind: type[StorageError]) -> str | None:
    return _HINTS.get(kind)


def translated(error: Exception, operation: str, endpoint: str, path: str) -> StorageError:
    """An exception of the wire as the error that callers decide by."""
    kind: type[StorageError]
    hint: str | None = None
    if isinstance(error, Refused):
        reply = error.reply
        fallback = PermissionDenied if reply.code >= 500 else ConnectionFailed
        kind = kind_of_refusal(reply) or _CODES.get(reply.code, fallback)
        hint = _WANTS_TLS_HINT if _WANTS_TLS.search(reply.text) else _MODE_HINTS.get(error.command)
        if kind is PermissionDenied and error.command in _PERMITS:
            hint = hint_for_permission(error.command)
        elif kind is InvalidPath and error.command in ("STOR", "APPE"):
            hint = f"{_HINTS[kind]}; {_FORBIDDEN}"
        elif kind is Throttled and re.search(_IN_USE, reply.words, re.IGNORECASE):
            hint = "somebody has it open: try again later"
    elif isinstance(error, (IsFile, IsFolder, Missing)):
        kind = _FOUND[type(error)]
    elif isinstance(error, Violation):
        kind = ProtocolViolation
    elif isinstance(error, SessionRefused):
        kind, hint = Unsupported, SESSION_HINT
    elif isinstance(error, Untrusted):
        kind, hint = AuthenticationFailed, "the data connection leads to another server: ask its operator"
    elif isinstance(error, Unreachable):
        kind, hint = ConnectionFailed, _PASSIVE_HINT
    elif isinstance(error, Uncalled):
        kind, hint = ConnectionFailed, _ACTIVE_HINT
    elif isinstance(error, OSError):
        kind, hint = ConnectionFailed, _OWN_HINT
    else:
        kind = TimedOut if isinstance(error, Silent) else ConnectionFailed
    return kind(str(error), operation=operation, endpoint=endpoint, path=path, hint=hint or hint_for(kind))


def hint_for_permission(command: str) -> str:
    """What each server calls the permission for a command, such as "STOR"."""
    hint = f"ask the server's operator for the permission ({_PERMITS[command]}), or choose another folder"
    return f"{hint}; {_FORBIDDEN}" if command in ("STOR", "APPE") else hint


def no_rename(error: Refused, endpoint: str, path: str) -> Exception:
    """What stands in the way of publishing, with the setting that does without renaming."""
    if error.reply.code not in (500, 502, 550, 553, 450) or kind_of_refusal(error.reply) is InvalidPath:
        return error
    found = translated(error, "write", endpoint, path)
    return type(found)(
        f"renaming is refused (vsftpd cmds_denied, ProFTPD <Limit RNFR RNTO>, Pure-FTPd -G and the like): {error}",
        operation="write",
        endpoint=endpoint,
        path=path,
        hint="write staging: none at this endpoint (partial files are seen)"
        + (f", or {found.hint}" if isinstance(found, PermissionDenied) else ""),
    )


def hint_for_certificate(error: Untrusted, fingerprint: str | None) -> str:
    """What to do about a certificate, by OpenSSL's reason; `fingerprint`: of what the server presented, where known."""
    ways = [_CERTIFICATES[error.code]] if error.code in _CERTIFICATES else []
    if fingerprint is not None:
        ways.append(f"if the server's operator confirms it, write certificate: {fingerprint!r}")
    return "; or, ".join(ways) or "ask the server's operator for the authority that signed it, and set ca_file"


_AUTHORITY = "set ca_file to the authority that signed it, or to the certificate itself, as its operator gives it"
_ANOTHER_HOST = "write as host the name that the certificate is for, which the server's operator knows"
_CERTIFICATES = {
    9: "its time has not come: check the clocks of this machine and of the server",
    10: (
        "ask the server's operator to renew it (vsftpd rsa_cert_file, ProFTPD TLSRSACertificateFile or "
        "TLSECCertificateFile, Pure-FTPd CertFile), and check this machine's clock"
    ),
    18: _AUTHORITY,
    19: _AUTHORITY,
    20: _AUTHORITY,
    21: _AUTHORITY,
    62: _ANOTHER_HOST,
    64: _ANOTHER_HOST,
}
"""By X509_V_ERR_… of OpenSSL's x509_vfy.h."""

_OURS = (Refused, Lost, Violation, Untrusted, SessionRefused, IsFile, IsFolder, Missing, OSError)


class Translate:
    """`with Translate("read", endpoint, path):` turns what the wire raises into crossdock's errors."""

    __slots__ = ("_endpoint", "_operation", "_path")

    def __init__(self, operation: str, endpoint: str, path: str) -> None:
        self._operation, self._endpoint, self._path = operation, endpoint, path

    def error(self, error: Exception, *, hint: str | None = None) -> StorageError:
        found = translated(error, self._operation, self._endpoint, self._path)
        found.hint = hint or found.hint
        return found

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, _OURS):
            raise self.error(error) from error
