"""What an attempt that did not live to tell has left, and whether its file was published.

Before a file is published the ledger holds what was staged, its size and its digest (`Record`). After a crash:

- the final name holds exactly these bytes: it was published (or is there anyway); what is staged is removed;
- what was staged is still there: it was not published, is removed, and the file is sent again;
- what was staged is gone, though only publishing removes it while the record says so (whoever else removes it changes
  the record first): it was published, and taken or replaced since;
- the endpoint cannot tell, or is another one by now: the file is sent again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from crossdock.errors import (
    ConnectionFailed,
    CrossdockError,
    NotADirectory,
    NotFound,
    PermissionDenied,
    StorageError,
    Throttled,
    Unsupported,
)
from crossdock.flows.route import numbered
from crossdock.ledger.base import Lease, Transfer
from crossdock.storage.base import Entry
from crossdock.storage.staging import is_temporary, temporary_path
from crossdock.storage.storage import Storage
from crossdock.transfer.options import Begun, Staged
from crossdock.transfer.pipe import digest_of

__all__ = [
    "VERSIONS",
    "Record",
    "attempt_id",
    "copied",
    "recovered",
    "remove",
    "sha256_of",
    "sweep",
    "sweep_members",
    "version_of",
    "versions",
    "where",
]

log = logging.getLogger("crossdock.engine")

_PLAIN = ("size", "sha256", "at", "resumable", "member", "member_sha256", "in_place")
VERSIONS = 1000
_FENCES = 8
"""Attempts, the present one's predecessors, whose temporaries are asked for one by one, without a listing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the ledger keeps of an attempt under way (`Transfer.checkpoint`)."""

    to: str
    """The path at the target; not the transfer's own where the flow keeps versions."""
    token: bytes | None = None
    """For `Storage.discard`, and to resume from."""
    size: int | None = None
    sha256: str | None = None
    """Known: all bytes were taken, and publishing was next."""
    at: str | None = None
    """Of which endpoint, as `where` tells it: by its name another one may go by now."""
    resumable: bool = False
    """The attempt failed in peace: the next one goes on where it stopped."""
    member: str | None = None
    member_sha256: str | None = None
    """Of an archive, as `transfer.options.Begun`."""
    in_place: bool = False
    """The attempt was to make a file of that name, where none was to be replaced; see `engine.in_place`."""

    def dump(self) -> bytes:
        token = None if self.token is None else base64.b64encode(self.token).decode()
        found = {
            "to": self.to,
            "token": token,
            "size": self.size,
            "sha256": self.sha256,
            "at": self.at,
            "resumable": self.resumable,
            "in_place": self.in_place or None,
            "member": self.member,
            "member_sha256": self.member_sha256,
        }
        return json.dumps({key: value for key, value in found.items() if value is not None}).encode()

    @classmethod
    def load(cls, data: bytes | None) -> Record | None:
        """None as well, and a warning, for what is no record; what another release has added is left out."""
        if data is None:
            return None
        try:
            found = json.loads(data)
            token = found.get("token")
            known = {name: found[name] for name in _PLAIN if name in found}
            return cls(to=str(found["to"]), token=None if token is None else base64.b64decode(token), **known)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            log.warning("what the ledger keeps of an attempt was changed by hand, the file is sent again: %r", error)
            return None

    @classmethod
    def of(cls, staged: Staged, to: str, target: Storage, before: Record | None) -> Record:
        """`before`: what this attempt's record was until now."""
        token = staged.token
        if token is None and before is not None:
            # An upload in parts of which none has arrived yet.
            token = before.token
        in_place = before is not None and before.in_place
        found = cls(to=to, token=token, size=staged.size, at=where(target), in_place=in_place)
        if staged.member is not None:
            # One of many files proves nothing about the others: a digest of all would say that all of them are there.
            return replace(found, member=staged.member, member_sha256=staged.sha256)
        return replace(found, sha256=staged.sha256)

    def begun(self, target: Storage) -> Begun | None:
        """What the next attempt at an archive is told of this one, unless the endpoint is another one by now."""
        same = self.at is not None and self.at == where(target)
        if not same or not (self.member or self.in_place):
            return None
        return Begun(self.member or "", self.member_sha256, self.in_place)

    @staticmethod
    def kept(
        record: Record | None, transfer: Transfer, error: CrossdockError, *, again: bool, writes: bool, replaces: bool
    ) -> Record | None:
        """What the ledger is to keep of an attempt that failed. `again`: it will be repeated, unasked.

        `writes`: this attempt has begun to write in place. `replaces`: the next one may replace what it finds.
        """
        if record is not None and writes and not error.leaves:
            # It was removed, or nothing of it was there.
            record = replace(record, in_place=False) if record.member or record.sha256 else None
        if not again:
            # Retried by hand, its file is not in its own way.
            own = record is not None and not replaces and (record.member or record.in_place)
            return replace(record, token=None) if record is not None and own else None
        # Where something may be left it is never nothing: what nothing is kept of is not tried again once a newer file
        # has its name (see the ledger's triggers), and nobody would sweep.
        left = record is None and (error.leaves or transfer.rescues > 0)
        return Record(to=transfer.target_path) if left else record


def where(target: Storage) -> str | None:
    """The endpoint's address, and the account; of a local disk, in which run of the machine. None: it tells none.

    A machine that loses its power forgets what was staged a moment before; another one's disk never held it.
    """
    store = target.backend.store
    if store is None:
        return None
    return f"{store}{target.backend.address('')}{started() if store == 'local' else ''}"


@cache
def started() -> str:
    """What Linux calls this run of the machine; nothing elsewhere."""
    try:
        return f" {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    except OSError:
        return ""


def attempt_id(ledger: str, transfer: int, fence: int) -> str:
    """12 hex digits that name what this attempt stages: known to whoever has the ledger, used by nobody else."""
    return hashlib.sha256(f"{ledger}:{transfer}:{fence}".encode()).hexdigest()[:12]


async def recovered(transfer: Transfer, record: Record | None, target: Storage) -> Mapping[str, Any] | None:
    """The receipt, if an earlier attempt had published before it was killed; None: the file is to be sent."""
    if record is None or record.sha256 is None:
        return None
    try:
        there: Entry | None = await target.stat(record.to)
        held = await sha256_of(target, there) if there is not None and there.size in (None, record.size) else None
    except NotFound:
        # Perhaps taken while it was read.
        there = held = None
    except (PermissionDenied, Unsupported):
        return None
    if held == record.sha256:
        return _receipt(
            transfer, record, target, there, "the attempt that published it was killed before it could say so"
        )
    same = record.at in (None, where(target))
    try:
        taken = same and record.token is not None and await target.is_staged(record.token) is False
    except Unsupported:
        return None
    if taken:
        note = "it was published by an attempt that was killed, and was taken or replaced since"
        return _receipt(transfer, record, target, there, note)
    return None


async def copied(
    transfer: Transfer, paths: Iterable[str], source: Storage, target: Storage
) -> Mapping[str, Any] | None:
    """The receipt, if the store itself had copied the file before an earlier attempt was killed.

    Such a copy is not announced: whether the target holds the same object, at the last of `paths` that is taken, is all
    that can be told. The same etag says so; another does not say no for an object that was stored in parts.
    """
    entry, there = transfer.entry, None
    for path in paths:
        try:
            there = await target.stat(path)
        except NotFound:
            break
    if there is None or there.kind != "file" or entry.size is None or there.size != entry.size:
        return None
    if there.etag is None or there.etag != entry.etag:
        if "-" not in f"{there.etag or '-'}{entry.etag or '-'}":
            return None
        now = await source.stat(entry.path)
        try:
            same = now.size == entry.size and await sha256_of(source, now) == await sha256_of(target, there)
        except NotFound:
            return None
        if not same:
            return None
    record = Record(to=there.path, size=entry.size, sha256=there.digests.get("sha256"))
    receipt = _receipt(transfer, record, target, there, "the target held the same object")
    return {**receipt, "verified": "size"}


async def sweep(lease: Lease, record: Record | None, target: Storage, ledger: str, paths: Iterable[str]) -> None:
    """Remove what earlier attempts have staged; a late worker that is still at it finds nothing to publish.

    `paths`: where at the target they may have been about to publish. How an earlier attempt ended is not asked:
    whoever cleaned up after it may have failed as well.
    """
    tokens = [] if record is None or record.token is None else [record.token]
    paths = tuple(paths)
    for path in paths:
        for fence in range(max(1, lease.fence - _FENCES), lease.fence):
            attempt = attempt_id(ledger, lease.id, fence)
            token = target.leftover(path, attempt)
            if token is not None:
                tokens.append(token)
            elif target.capabilities.in_place:
                # What is put beside a file for a moment, to see whether it is the source itself.
                with suppress(NotFound, PermissionDenied, Unsupported):
                    await target.delete(temporary_path(path, attempt))
    for token in tokens:
        await remove(target, token)
    if lease.fence > _FENCES + 1:
        # Most of its leases were given back unused, as while it waits for a file that has ended its workers.
        await sweep_members(lease, target, ledger, paths)


async def remove(target: Storage, token: bytes) -> None:
    """What is staged there. It stays where it is if the endpoint is another one by now."""
    try:
        await target.discard(token)
    except Unsupported as error:
        log.warning("what an earlier attempt has staged was not removed: %s", error)


async def sweep_members(lease: Lease, target: Storage, ledger: str, paths: Sequence[str]) -> None:
    """Remove what earlier attempts, however many, have staged, as of an archive's members, whose names nobody records.

    One listing of each folder, where `sweep` would ask for each member. Where that cannot be had, it stays.
    Without paths, they are not known, nor will be: all is looked through that lies where the archive was to go.
    """
    attempts = [attempt_id(ledger, lease.id, fence) for fence in range(1, lease.fence)]
    in_place = target.capabilities.in_place
    if not attempts or (target.leftover("name", attempts[0]) is None and not in_place):
        return
    if not paths:
        record = Record.load(lease.transfer.checkpoint)
        await _sweep_below(lease.transfer.target_path if record is None else record.to, attempts, target)
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(path.rpartition("/")[0], []).append(path)
    for folder, members in folders.items():
        try:
            async with aclosing(target.scan(folder, temporaries=True)) as entries:
                there = {entry.path async for entry in entries if is_temporary(entry.path)}
        except (ConnectionFailed, Throttled):
            raise
        except StorageError:
            continue
        left = [attempt for attempt in attempts if any(f"-{attempt}." in name for name in there)]
        for path, attempt in product(members, left):
            if not there.isdisjoint(temporary_path(path, attempt, suffix) for suffix in ("part", "old")):
                if (token := target.leftover(path, attempt)) is not None:
                    await target.discard(token)
                elif in_place:
                    await target.delete(temporary_path(path, attempt))


async def _sweep_below(folder: str, attempts: Sequence[str], target: Storage) -> None:
    """What was put aside for them stays: nobody knows whose name it had."""
    names = {f"-{attempt}.part" for attempt in attempts}
    folders = [folder]
    while folders:
        with suppress(NotFound, NotADirectory):
            async with aclosing(target.scan(folders.pop(), temporaries=True)) as entries:
                there = [entry async for entry in entries]
            folders += [entry.path for entry in there if entry.kind == "dir"]
            for entry in there:
                if is_temporary(entry.path) and entry.path[-len("-123456789abc.part") :] in names:
                    await target.delete(entry.path)


async def sha256_of(storage: Storage, entry: Entry) -> str | None:
    """Of what is stored: as the endpoint says, or by reading all of it. None: it is no file."""
    return await digest_of(storage, entry) if entry.kind == "file" else None


def _receipt(transfer: Transfer, record: Record, target: Storage, there: Entry | None, note: str) -> Mapping[str, Any]:
    found: dict[str, Any] = {
        "source": f"{transfer.source}:{transfer.entry.path}",
        "target": f"{target.endpoint}:{record.to}",
        "size": record.size,
        "sha256": record.sha256,
        "method": "recovered",
        "verified": "digest" if there is not None and there.size == record.size else "none",
        "atomic": target.capabilities.atomic_write,
        "finished": datetime.now(UTC).isoformat(),
        "notes": [note],
    }
    return {key: value for key, value in found.items() if value is not None}


def version_of(path: str, number: int) -> str:
    """report.csv, report~1.csv, report~2.csv."""
    return numbered(path, number) if number else path


async def versions(target: Storage, path: str, first: str | None = None) -> AsyncGenerator[str]:
    """The paths to try, of which none may be replaced. `first`: where an earlier attempt has begun."""
    if first is not None:
        yield first
    for number in range(VERSIONS):
        name = version_of(path, number)
        if name != first and not await target.exists(name):
            yield name
