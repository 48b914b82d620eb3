"""The ledger's file: where it may be, how it is made, and which journal is safe with this SQLite.

WAL mode is used only where it cannot lose commits: SQLite before 3.51.3 has a bug in resetting the log when two
connections write (https://sqlite.org/wal.html#walresetbug), fixed also in 3.50.7 and 3.44.6.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from pathlib import Path

from crossdock.errors import LedgerError, LedgerUnavailable
from crossdock.ledger.queries import migrations

__all__ = ["connect", "file_id", "file_system", "migrate", "prepare", "translated", "wal_is_safe"]

Version = tuple[int, int, int]
BUSY = 30.0
"""Seconds to wait for another process's lock."""
_APPLICATION = 0x63646B31
_MAGIC = b"SQLite format 3\x00"
_OLDEST = (3, 35, 0)
_NETWORK = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "gpfs",
        "beegfs",
        "ncpfs",
    ]
) | frozenset(
    f"fuse.{name}" for name in ["sshfs", "s3fs", "rclone", "gcsfuse", "mount-s3", "goofys", "juicefs", "glusterfs"]
)
_RESTORE = "restore it from a backup (an older ledger sends again, it never skips), or move it away to start anew"
_log = logging.getLogger("crossdock.ledger")


def wal_is_safe(version: Version) -> bool:
    """Whether several connections may write in WAL mode."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51, 0) or (3, 44, 6) <= version < (3, 45, 0)


def file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the file system that `path` is on, "" if the system does not tell."""
    try:
        lines = [line for line in mounts.read_bytes().split(b"\n") if line]
    except OSError:
        return ""
    place = Path(os.path.realpath(path))
    best, kind = -1, ""
    for line in lines:
        _, point, found, *_ = line.split(b" ")
        where = Path(os.fsdecode(point.decode("unicode_escape").encode("latin-1")))
        # The last of equals is mounted on top.
        if place.is_relative_to(where) and len(where.parts) >= best:
            best, kind = len(where.parts), os.fsdecode(found)
    return kind


def file_id(path: Path) -> tuple[int, int] | None:
    """Device and inode of what has this name now; None if nothing can be found under it."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def connect(
    path: Path, *, factory: type[sqlite3.Connection] = sqlite3.Connection, mounts: Path = Path("/proc/self/mounts")
) -> sqlite3.Connection:
    """Open the ledger at `path`, or make it; the schema is the newest afterwards.

    Raises `LedgerError` where the file cannot be trusted or used, `LedgerUnavailable` where that may pass.
    """
    version = sqlite3.sqlite_version_info
    if version < _OLDEST:
        raise LedgerError(f"open ledger {path}: SQLite {sqlite3.sqlite_version} is too old", hint="SQLite ≥ 3.35")
    kind = file_system(path, mounts)
    if kind in _NETWORK:
        raise LedgerError(
            f"open ledger {path}: it is on a network file system ({kind}), where SQLite's locks do not hold",
            hint="put it on a local disk, or use PostgreSQL when several hosts share a ledger",
        )
    try:
        if not path.exists():
            _create(path, version, factory)
        return _open(path, version, factory)
    except sqlite3.Error as error:
        raise translated(error, str(path)) from error
    except OSError as error:
        raise LedgerUnavailable(
            f"open ledger {path}: {error.strerror}",
            hint="see that its folder is there, and run this as the account that the flows run as; "
            "or name another file by ledger: or --ledger",
        ) from error


def _create(path: Path, version: Version, factory: type[sqlite3.Connection]) -> None:
    # Under another name, so that whoever finds the ledger finds all of it; the link lets one of two makers win.
    for suffix in ("-journal", "-wal"):
        if path.with_name(path.name + suffix).exists():
            raise LedgerError(
                f"open ledger {path}: there is {path.name}{suffix} but not the ledger it belongs to", hint=_RESTORE
            )
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        connection = _plain(draft, factory)
        try:
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            migrate(connection)
            if wal_is_safe(version):
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
        finally:
            connection.close()
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            return
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def _plain(path: Path, factory: type[sqlite3.Connection]) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False, factory=factory)
    connection.row_factory = sqlite3.Row
    try:
        prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection) -> None:
    """The settings that every connection needs."""
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -65536")


def _open(path: Path, version: Version, factory: type[sqlite3.Connection]) -> sqlite3.Connection:
    with path.open("rb") as file:
        head = file.read(20)
    if len(head) < 20 or not head.startswith(_MAGIC):
        what = "it is empty" if not head else "it is no SQLite database"
        raise LedgerError(f"open ledger {path}: {what}: cut off, or overwritten", hint=_RESTORE)
    connection = _plain(path, factory)
    try:
        if head[18] == 2 and not wal_is_safe(version):
            # Changing the journal could destroy commits; alone, the one connection is safe.
            _log.warning(
                "ledger %s is in WAL mode, which SQLite %s cannot share safely: opened for this process alone",
                path,
                sqlite3.sqlite_version,
            )
            connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchone()
        if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise LedgerError(f"open ledger {path}: it is another program's database", hint="name another file")
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date, one transaction for each step."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, at REAL NOT NULL)")
        known = connection.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchone()[0]
        scripts = migrations("sqlite")
        if known > max(scripts):
            raise LedgerError(
                f"open ledger: its schema is version {known}, this crossdock knows {max(scripts)}",
                hint="upgrade crossdock",
            )
        for version, script in scripts.items():
            if version > known:
                _execute_all(connection, script)
                connection.execute("INSERT INTO migrations VALUES (?, ?)", (version, time.time()))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _execute_all(connection: sqlite3.Connection, script: str) -> None:
    """`executescript` would commit first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""


def translated(error: sqlite3.Error, where: str) -> LedgerError:
    """What a caller can decide on; https://sqlite.org/rescode.html."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    at = f"ledger {where}: {error}"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return LedgerError(f"{at}: the file is damaged", hint=f"stop, keep a copy; {_RESTORE}")
    hints = {
        sqlite3.SQLITE_BUSY: "another program holds the file (a backup?); try again",
        sqlite3.SQLITE_LOCKED: "another program holds the file (a backup?); try again",
        sqlite3.SQLITE_NOMEM: "free memory, or give this process more; nothing is taken on until it can be recorded",
        sqlite3.SQLITE_FULL: "free space on its disk; nothing is taken on until it can be recorded",
        sqlite3.SQLITE_IOERR: "see to its disk (dmesg, quota); nothing is taken on until it can be recorded",
        sqlite3.SQLITE_READONLY: "let the user of this process write to the file and its folder",
        sqlite3.SQLITE_CANTOPEN: "see that file and folder are there and may be written to",
        sqlite3.SQLITE_PERM: "let the user of this process write to the file and its folder",
    }
    if code in hints:
        return LedgerUnavailable(at, hint=hints[code])
    if isinstance(error, sqlite3.ProgrammingError):
        return LedgerUnavailable(at, hint="open it first")
    return LedgerError(at, hint="this should not happen; please report it")
