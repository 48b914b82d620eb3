"""Where archived files lie: none replaces another ("b~1.csv"). And how long: their age counts from our own move."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from crossdock.engine.endpoints import Endpoints
from crossdock.errors import ConfigError, CrossdockError, NotFound, SourceChanged, StorageError, shown
from crossdock.flows.explain import archived_as
from crossdock.flows.flow import Flow
from crossdock.flows.route import Template, numbered, words_of
from crossdock.ledger.base import Ledger, Mark, Query, State, Transfer
from crossdock.storage.base import Entry

__all__ = ["ARCHIVED", "Archive", "is_copy", "read_entry"]

log = logging.getLogger("crossdock.engine")

ARCHIVED = "archive"
"""The kind of the ledger's marks: one for each archived file that is to be removed some day."""
_SUFFIXES = 9
"""Names tried after a clash, before one that nothing else has."""
_PAGE = 500
_TOOK = frozenset({State.DELIVERED, State.DONE})
_LISTED = timedelta(minutes=1)
"""By so much a listing may tell a time less exactly than a look at the file."""


class Archive:
    """Of one flow, if it has one. Raises `ValueError` for a template that cannot be read."""

    def __init__(self, flow: Flow, endpoints: Endpoints, ledger: Ledger, clock: Callable[[], datetime]) -> None:
        self.flow, self.ledger = flow, ledger
        self._endpoints, self._clock = endpoints, clock
        self._template = Template(flow.after.archive) if flow.after.archive else None
        self.root = f"{flow.source.path}/" if flow.source.path else ""
        """What stands before every path of the source at its endpoint."""
        self._had_marks: bool | None = None

    def paths(self, path: str, modified: datetime | None, at: datetime, first: int) -> Iterator[str]:
        """Where a file may be archived, the best name first. Raises `ConfigError`."""
        below = path.removeprefix(self.root)
        yield self._at(below, modified, at)
        for suffix in (*range(1, _SUFFIXES + 1), f"t{first}"):
            # A number among the file's own words: else the flow might not know its archive again, and send it.
            yield self._at(numbered(below, suffix), modified, at)

    def _at(self, below: str, modified: datetime | None, at: datetime) -> str:
        assert self._template is not None and self.flow.after.archive is not None
        if not self._template.names:
            return f"{self.root}{self.flow.after.archive.strip('/')}/{below}"
        try:
            return self.root + self._template.fill({**words_of(below), "now": at, "modified": modified})
        except ValueError as error:
            raise ConfigError(f"after.archive: {error}", hint="choose words that every file has") from error

    async def note_first(self, transfer: Transfer, archived: Entry) -> bool:
        """Record when a file is to be removed that is about to be archived: nobody could say later what it was that a
        worker moved which was killed then.

        False: nothing was recorded, as the flow keeps its files, or a time is known of what lies or lay there.
        """
        keep = self.flow.after.keep
        if keep is None:
            return False
        value = {"endpoint": transfer.source, "size": archived.size, "fingerprint": archived.fingerprint}
        due = self._clock() + timedelta(seconds=keep)
        return await self.ledger.mark(self.flow.name, ARCHIVED, archived.path, due=due, value=value)

    async def note(self, transfer: Transfer, archived: Entry) -> None:
        """Record when an archived file is to be removed; never, if the flow keeps them.

        What is known of that name is of another file, which lay there before and was taken out.
        """
        if self.flow.after.keep is not None:
            if not await self.note_first(transfer, archived):
                await self.forget(archived.path)
                await self.note_first(transfer, archived)
            return
        if self._had_marks is None:
            self._had_marks = bool(await self.ledger.marks(self.flow.name, ARCHIVED, limit=1))
        if self._had_marks:
            await self.forget(archived.path)

    async def forget(self, path: str) -> None:
        await self.ledger.unmark(self.flow.name, ARCHIVED, [path])

    async def is_unsent(self, transfer: Transfer, archived: Entry) -> bool:
        """Whether what lies in the archive, as far as the ledger remembers, was never archived as delivered itself.

        One that was delivered before in the same content may be: then the ledger says where else that lies.
        """
        name, known, elsewhere = transfer.entry.path.rpartition("/")[2], False, False
        for each in await self.ledger.find(Query(source=transfer.source, name=name, states=_TOOK, limit=_PAGE)):
            entry = each.entry
            if (entry.path, entry.size) != (transfer.entry.path, archived.size):
                continue
            times = entry.modified, archived.modified
            if times[0] is not None and times[1] is not None and abs(times[0] - times[1]) >= _LISTED:
                continue
            place = archived_as([each])
            if each.state is State.DELIVERED or place == shown(archived.path):
                return False
            known, elsewhere = True, elsewhere or place is not None
        return elsewhere or not known

    async def expire(self) -> int:
        """Remove what is due. An endpoint that fails is left for the next time. Raises `LedgerError`.

        A file that the flow keeps for longer by now, or for good, stays.
        """
        removed, after, down = 0, "", set[str]()
        now, keep = self._clock(), self.flow.after.keep
        if keep is None:
            return 0
        while page := await self.ledger.marks(
            self.flow.name, ARCHIVED, due_before=now, limit=_PAGE, after=after or None
        ):
            after = page[-1].key
            ended = list[str]()
            for mark in page:
                endpoint = str(mark.value.get("endpoint", ""))
                longer = now - mark.at < timedelta(seconds=keep)
                if longer or endpoint in down or self._endpoints.pause(endpoint)[0]:
                    continue
                try:
                    removed += await self._remove(mark, endpoint)
                except CrossdockError as error:
                    log.warning("flow %s: an archived file stays for now: %s", self.flow.name, error)
                    if error.retryable or not isinstance(error, StorageError):
                        self._endpoints.failed(endpoint, error)
                        down.add(endpoint)
                    continue
                ended.append(mark.key)
            await self.ledger.unmark(self.flow.name, ARCHIVED, ended)
        return removed

    async def _remove(self, mark: Mark, endpoint: str) -> bool:
        storage = await self._endpoints.storage(endpoint)
        try:
            now = await storage.stat(mark.key)
        except NotFound:
            return False
        if now.kind != "file" or (now.size, now.fingerprint) != (mark.value["size"], mark.value["fingerprint"]):
            log.info("%s:%s is not what was archived, it stays", endpoint, shown(mark.key))
            return False
        if storage.capabilities.pinned_delete:
            try:
                await storage.delete_pinned(mark.key, now)
            except SourceChanged:
                return False
        else:
            await storage.delete(mark.key)
        return True


def is_copy(there: Entry, now: Entry) -> bool:
    """A copy within a store keeps the time, and the etag if that is an MD5: as it is, or as that of a single part."""
    if now.etag is None or not re.fullmatch("[0-9a-f]{32}", now.etag):
        return False
    one_part = f"{hashlib.md5(bytes.fromhex(now.etag), usedforsecurity=False).hexdigest()}-1"
    same = (there.kind, there.size, there.modified) == (now.kind, now.size, now.modified)
    return same and now.modified is not None and there.etag in (now.etag, one_part)


def read_entry(receipt: Mapping[str, Any]) -> Entry | None:
    """The source as it was opened, from a receipt."""
    found = receipt.get("source_entry")
    if not isinstance(found, Mapping) or "path" not in found:
        return None
    modified = found.get("modified")
    return Entry(
        path=found["path"],
        size=found.get("size"),
        modified=datetime.fromisoformat(modified) if isinstance(modified, str) else None,
        etag=found.get("etag"),
        version=found.get("version"),
    )
