"""The contract in terms of named statements: what the ledgers on SQL databases share."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from crossdock.errors import LeaseLost, LedgerError, shown
from crossdock.ledger.base import (
    LEASE,
    PARKED,
    RETENTION,
    Added,
    Event,
    Lease,
    Ledger,
    Mark,
    Names,
    Planned,
    Query,
    Sighting,
    State,
    Transfer,
)
from crossdock.ledger.rows import (
    POISON,
    Row,
    as_event,
    as_json,
    as_lease,
    as_mark,
    as_sighting,
    as_transfer,
    moment,
    new_row,
    restored,
    seconds,
    stored,
)
from crossdock.storage.base import Entry

__all__ = ["Params", "SqlLedger"]

_BATCH = 500
_FRESH = 86400.0
"""Seconds for which a file needs no new note that it is still at the source: one write a day, not one per poll."""
_EARLIEST = timedelta(days=2)

Params = Mapping[str, Any]


class SqlLedger(Ledger):
    """`where`: how messages name this ledger. `max_rescues`: how many ended leases in a row a transfer survives."""

    where: str
    target_name: str
    """The last component of `target_path`, in the words of the index over it."""
    most = "state"
    """`state`, where most of the ledger is in it: in words that no index answers, if the database cannot tell."""

    @abstractmethod
    async def _rows(self, statement: str, params: Params) -> list[Row]:
        """Run one named statement as a transaction of its own."""

    async def _change(self, statement: str, params: Params) -> bool:
        """Run a named statement that changes one transfer; whether it did."""
        return bool(await self._rows(statement, params))

    @abstractmethod
    async def _each(self, statement: str, params: Sequence[Params]) -> list[Row]:
        """Run one named statement with each of the parameters, all in one transaction; the rows of all, in order."""

    @abstractmethod
    async def _add(self, rows: Sequence[Params]) -> list[Added]:
        """The statement `add`, or where it finds a row, `known`, for each; in one transaction."""

    @abstractmethod
    async def _claim(self, params: Params, flows: Sequence[str] | None, without: Sequence[str]) -> list[Row]:
        """The statement `claim` over candidates of all flows or of these, but of no endpoint of `without`."""

    @abstractmethod
    async def _select(self, conditions: Sequence[str], params: Params) -> list[Row]:
        """Transfers that meet all conditions, the newest first, at most `:limit`."""

    @abstractmethod
    def _like(self, pattern: str) -> tuple[str, str]:
        """A stored text with * and ? as an operator and its operand."""

    @abstractmethod
    async def _unknown(self, flow: str, source: str, files: Sequence[tuple[str, str]], fresh: float) -> list[bool]:
        """For each (path, fingerprint) whether there is no transfer; notes, once in `fresh` seconds, what there is."""

    # What there is to do

    async def add(self, planned: Sequence[Planned], *, who: str) -> list[Added]:
        return await self._add([new_row(each, who) for each in planned])

    async def see(self, flow: str, source: str, entries: Sequence[Entry]) -> list[Sighting]:
        place = {"flow": stored(flow), "source": stored(source)}
        params = [{**place, "path": stored(entry.path), "fingerprint": stored(entry.fingerprint)} for entry in entries]
        # In one order, as in `forget`: two who look at one source never wait for each other for ever.
        params.sort(key=lambda each: each["path"])
        seen = [as_sighting(row) for row in await self._each("see", params)]
        found = {each.path: each for each in seen}
        return [found[entry.path] for entry in entries]

    async def forget(self, flow: str, source: str, paths: Iterable[str]) -> None:
        place = {"flow": stored(flow), "source": stored(source)}
        await self._each("forget", [{**place, "path": path} for path in sorted(map(stored, paths))])

    async def unknown(self, flow: str, source: str, entries: AsyncIterable[Entry]) -> AsyncGenerator[Entry]:
        flow, source = stored(flow), stored(source)
        batch: list[Entry] = []
        async for entry in entries:
            batch.append(entry)
            if len(batch) == _BATCH:
                for found in await self._unknown_of(flow, source, batch):
                    yield found
                batch = []
        for found in await self._unknown_of(flow, source, batch):
            yield found
        await self._rows("looked", {"flow": flow, "source": source})

    async def _unknown_of(self, flow: str, source: str, batch: Sequence[Entry]) -> list[Entry]:
        if not batch:
            return []
        files = [(stored(entry.path), stored(entry.fingerprint)) for entry in batch]
        verdicts = await self._unknown(flow, source, files, _FRESH)
        return [entry for entry, unknown in zip(batch, verdicts, strict=True) if unknown]

    # Under a lease

    async def claim(
        self, owner: str, *, limit: int = 1, lease: float = LEASE, flows: Names | None = None, without: Names = ()
    ) -> list[Lease]:
        if limit < 1:
            return []
        params = {
            "owner": stored(owner),
            "limit": limit,
            "lease": float(lease),
            "parked": PARKED,
            "max_rescues": self.max_rescues,
            "poison": f"{POISON} {self.max_rescues + 1} times in a row: it stops or kills its workers",
        }
        names = None if flows is None else [stored(flow) for flow in flows]
        while rows := await self._claim(params, names, [stored(name) for name in without]):
            # Without an owner it was not given out but put away, as poison; behind it others may wait.
            if given := [row for row in rows if row["owner"] is not None]:
                return [as_lease(row) for row in sorted(given, key=lambda row: int(row["id"]))]
        return []

    async def _under(self, statement: str, lease: Lease, **params: object) -> None:
        if not await self._change(statement, {"id": lease.id, "fence": lease.fence, **params}):
            raise await self._refusal(statement, lease)

    async def _refusal(self, statement: str, lease: Lease) -> LedgerError:
        at = f"{statement} of transfer {lease.id} ({shown(lease.transfer.entry.path)}) in {self.where}"
        now = await self.get(lease.id)
        if now is None:
            return LeaseLost(f"{at}: it is no longer in the ledger", hint="stop; record nothing")
        if now.fence != lease.fence or now.owner is None:
            reason = f"it is {now.state} since {now.changed.isoformat()}, by {shown(now.changed_by)}: {shown(now.why)}"
            return LeaseLost(f"{at}: the lease is lost, {reason}", hint="stop before publishing; record nothing")
        return LedgerError(
            f"{at}: not possible while it is {now.state}", hint="see the diagram in crossdock.ledger.base"
        )

    async def heartbeat(self, lease: Lease, seconds: float = LEASE) -> Lease:
        rows = await self._rows("heartbeat", {"id": lease.id, "fence": lease.fence, "seconds": float(seconds)})
        if not rows:
            raise await self._refusal("heartbeat", lease)
        until = moment(rows[0]["ready_at"])
        return Lease(transfer=lease.transfer, fence=lease.fence, attempt=lease.attempt, until=until)

    async def staged(self, lease: Lease, checkpoint: bytes | None) -> None:
        await self._under("staged", lease, checkpoint=checkpoint)

    async def overwriting(self, lease: Lease) -> None:
        if not await self._rows("overwriting", {"id": lease.id, "fence": lease.fence}):
            raise await self._refusal("overwriting", lease)

    async def delivered(self, lease: Lease, receipt: Mapping[str, Any], *, owed: bool = True) -> None:
        await self._under("delivered" if owed else "delivered and done", lease, receipt=json.dumps(receipt))

    async def done(self, lease: Lease, why: str = "", *, gone: bool = False) -> None:
        await self._under("done and gone" if gone else "done", lease, why=stored(why))

    async def retry_in(self, lease: Lease, seconds: float, error: str) -> None:
        await self._under("retry", lease, seconds=float(seconds), error=stored(error))

    async def released(self, lease: Lease, why: str, *, seconds: float = 0.0, others: int = 0) -> None:
        await self._under("released", lease, why=stored(why), seconds=float(seconds))
        if others:
            of = {"flow": stored(lease.transfer.flow), "target": stored(lease.transfer.target)}
            await self._rows("put off", {**of, "why": stored(why), "seconds": float(seconds), "limit": others})

    async def failed(self, lease: Lease, error: str) -> None:
        await self._under("failed", lease, error=stored(error))

    async def skipped(self, lease: Lease, reason: str) -> None:
        await self._under("skipped", lease, why=stored(reason))

    # By hand

    async def cancel(self, ids: Iterable[int], *, who: str, why: str) -> list[int]:
        return await self._by_hand("cancel", ids, who, why)

    async def requeue(self, ids: Iterable[int], *, who: str, why: str) -> list[int]:
        return await self._by_hand("requeue", ids, who, why)

    async def skip(self, ids: Iterable[int], *, who: str, why: str) -> list[int]:
        return await self._by_hand("skip", ids, who, why)

    async def _by_hand(self, statement: str, ids: Iterable[int], who: str, why: str) -> list[int]:
        # In one order, so that two who change the same ones never wait for each other for ever.
        params = [{"id": id, "who": stored(who), "why": stored(why)} for id in sorted(ids)]
        return [row["id"] for row in await self._each(statement, params)]

    async def supersede(self, id: int, *, who: str) -> list[int]:
        params = {"id": id, "who": stored(who), "why": f"superseded by transfer {id}"}
        return sorted(row["id"] for row in await self._rows("supersede", params))

    # Looking

    async def get(self, id: int) -> Transfer | None:
        rows = await self._rows("get", {"id": id})
        return as_transfer(rows[0]) if rows else None

    async def siblings(self, id: int) -> list[Transfer]:
        return [as_transfer(row) for row in await self._rows("siblings", {"id": id})]

    async def find(self, query: Query) -> list[Transfer]:
        params: dict[str, Any] = {"limit": max(query.limit, 0)}
        conditions: list[str] = []

        def condition(column: str, operator: str, value: object) -> None:
            key = f"p{len(params)}"
            conditions.append(f"{column} {operator} :{key}")
            params[key] = value

        for column in ("flow", "source", "target", "name", "target_name"):
            text = getattr(query, column)
            if text is not None:
                condition(self.target_name if column == "target_name" else column, "=", stored(text))
        for column, pattern in (("path", query.path), ("target_path", query.target_path)):
            if pattern is not None:
                condition(column, *self._like(stored(pattern)))
        if query.added_after is not None:
            condition("added_at", ">", query.added_after.timestamp())
            # Else ids are read one by one, down to the first transfer of all.
            conditions.append(f"id >= (SELECT min(id + 0) FROM transfers WHERE {conditions[-1]})")
        if query.changed_before is not None:
            condition("changed_at", "<", query.changed_before.timestamp())
        if query.before is not None:
            condition("id", "<", query.before)
        if query.states:
            # Nearly all are done, and without a flow an index would have all of them sorted for each page.
            column = self.most if State.DONE in query.states and query.flow is None else "state"
            conditions.append(f"{column} IN ({', '.join(repr(str(state)) for state in sorted(query.states))})")
        return [as_transfer(row) for row in await self._select(conditions, params)]

    async def history(self, id: int) -> list[Event]:
        return [as_event(row) for row in await self._rows("history", {"id": id})]

    async def counts(self) -> dict[tuple[str, State], int]:
        found = {}
        for row in await self._rows("counts", {}):
            found[restored(row["flow"]), State(row["state"])] = int(row["number"])
        return found

    async def export(self) -> AsyncGenerator[str]:
        after = 0
        while rows := await self._rows("page", {"after": after, "limit": _BATCH}):
            after = rows[-1]["id"]
            histories: dict[int, list[Event]] = {row["id"]: [] for row in rows}
            for event in await self._each("history", [{"id": id} for id in histories]):
                histories[event["transfer"]].append(as_event(event))
            for row in rows:
                yield as_json(as_transfer(row), histories[row["id"]])

    # Marks

    async def mark(
        self, flow: str, kind: str, key: str, *, due: datetime | None = None, value: Mapping[str, Any] | None = None
    ) -> bool:
        if not key:
            raise ValueError(f"mark {kind} of flow {flow} in {self.where}: its key is empty")
        params = {
            "flow": stored(flow),
            "kind": stored(kind),
            "key": stored(key),
            "due": None if due is None else seconds(due),
            "value": json.dumps({} if value is None else dict(value)),
        }
        return bool(await self._rows("mark", params))

    async def marks(
        self, flow: str, kind: str, *, due_before: datetime | None = None, limit: int = 1000, after: str | None = None
    ) -> list[Mark]:
        params = {"flow": stored(flow), "kind": stored(kind), "after": stored(after or ""), "limit": max(limit, 0)}
        if due_before is None:
            rows = await self._rows("marks", params)
        else:
            rows = await self._rows("due marks", {**params, "due_before": seconds(due_before)})
        return [as_mark(row) for row in rows]

    async def unmark(self, flow: str, kind: str, keys: Iterable[str]) -> None:
        place = {"flow": stored(flow), "kind": stored(kind)}
        await self._each("unmark", [{**place, "key": stored(key)} for key in keys])

    # Keeping it small

    async def prune(self, older_than: timedelta = RETENTION) -> int:
        if older_than < _EARLIEST:
            raise ValueError(f"prune {self.where}: {older_than} is too short; at least {_EARLIEST.days} days")
        age = {"seconds": older_than.total_seconds()}
        await self._rows("prune sightings", age)
        await self._rows("prune marks", age)
        dropped = after = 0
        while rows := await self._rows("prune", {**age, "limit": _BATCH, "after": after}):
            dropped += len(rows)
            after = max(row["id"] for row in rows)
        return dropped
