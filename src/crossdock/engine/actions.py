"""What a flow owes after a delivery: a marker file, the source's archive, removal or tags, and notices.

The order: what the target's readers wait for, then the source, then the notices. Everything may be cut off anywhere and
done again. The source is dealt with once all destinations have the file (`engine.disposal`); whoever of several workers
comes last does it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from crossdock.engine.disposal import Disposal, beside
from crossdock.engine.endpoints import Endpoints
from crossdock.engine.notices import notify
from crossdock.engine.notices.notice import Notice
from crossdock.engine.notices.outbox import Outbox, Send
from crossdock.engine.recovery import attempt_id, sweep
from crossdock.errors import ConfigError, shown
from crossdock.flows.explain import missed
from crossdock.flows.flow import Flow
from crossdock.flows.route import Template
from crossdock.ledger.base import Lease, Ledger, State, Transfer
from crossdock.storage.base import WriteOptions
from crossdock.transfer.receipt import finished, path_at_target

__all__ = ["Actions", "owes"]

log = logging.getLogger("crossdock.engine")

_ARRIVED = frozenset({State.DELIVERED, State.DONE, State.SKIPPED})


def owes(flow: Flow) -> bool:
    """Whether something follows a delivery."""
    after = flow.after
    told = [*(each.on for each in flow.webhooks), *(each.on for each in flow.mails)]
    return bool(after.takes_source or after.tag or after.marker or any("delivered" in on for on in told))


class Actions:
    """Of one flow. Raises `ValueError` for a template that cannot be read."""

    def __init__(
        self,
        flow: Flow,
        endpoints: Endpoints,
        ledger: Ledger,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        send: Send = notify.send,
    ) -> None:
        self._flow, self._endpoints, self._ledger, self._clock = flow, endpoints, ledger, clock
        self._marker = Template(flow.after.marker) if flow.after.marker else None
        self._disposal = Disposal(flow, endpoints, ledger, clock)
        self.outbox = Outbox(flow, ledger, clock=clock, send=send)

    async def follow(self, lease: Lease, receipt: Mapping[str, Any]) -> tuple[str, bool]:
        """All that is owed for a delivered transfer: what was done, in words, and whether the source is gone.

        Called with the lease in state delivered; safe to repeat. Raises `CrossdockError`: try again later.
        """
        words = []
        if self._marker is not None:
            words.append(await self._mark(lease, receipt, self._marker))
        gone = False
        takes = self._flow.after.takes_source or bool(self._flow.after.tag)
        replaced, siblings = lease.transfer.gone, list[Transfer]()
        if takes and not replaced:
            siblings = await self._ledger.siblings(lease.id)
            # Since it was claimed, and with it what its siblings still owed: they are not told any more.
            replaced = any(one.gone for one in siblings if one.id == lease.id)
        if lease.transfer.state is State.DELIVERED and (replaced or not takes):
            # What is set aside may be a newer file, that came in the moment of a removal that was killed.
            said, gone = await self._disposal.tidy(lease, receipt)
            words += [said] if said else []
        if replaced:
            # What has its name now, though it looks the same, came later, and has transfers of its own.
            words.append("the source was taken away or replaced before")
        elif takes:
            others = [one for one in siblings if one.id != lease.id]
            # One that has missed the file is tried again while that is there.
            missing = [one for one in others if one.state not in _ARRIVED or missed(one)]
            if missing:
                words.append(f"left the source, as not delivered by then: {', '.join(_place(one) for one in missing)}")
            else:
                said, gone = await self._disposal.dispose(lease, receipt, siblings)
                words.append(said)
        if self.outbox.wanted("delivered"):
            words += await self.outbox.tell(self._delivered(lease.transfer, receipt))
        return "; ".join(words) or "the flow asks for nothing more", gone

    async def failed(self, transfer: Transfer, error: str) -> None:
        """Tell who wants to know that a transfer failed for good. Call it before that is recorded: nothing is lost."""
        if self.outbox.wanted("failed"):
            await self.outbox.tell(self._failed(transfer, error, self._clock()))

    async def poisoned(self, transfer: Transfer) -> None:
        """The same for one that has failed already, with the next `flush`. Safe to repeat."""
        await self.outbox.put(self._failed(transfer, transfer.why, transfer.changed))

    async def sweep(self) -> int:
        """Remove archived files whose time is over, and send notices that are waiting; how many files were removed.

        An endpoint that does not answer is left for the next sweep. Raises `LedgerError`.
        """
        removed = await self._disposal.archive.expire()
        await self.outbox.flush()
        return removed

    async def _mark(self, lease: Lease, receipt: Mapping[str, Any], template: Template) -> str:
        transfer = lease.transfer
        delivered = path_at_target(receipt) or transfer.target_path
        times = {"now": finished(receipt) or self._clock(), "modified": transfer.entry.modified}
        try:
            path = beside(template, delivered, times)
        except ValueError as error:
            raise ConfigError(f"after.marker: {error}", hint="choose words that every file has") from error
        storage = await self._endpoints.storage(transfer.target)
        # As a file: whoever comes after one that was killed knows what it staged.
        await sweep(lease, None, storage, self._ledger.id, [path])
        options = WriteOptions(attempt=attempt_id(self._ledger.id, lease.id, lease.fence))
        await storage.write_bytes(path, b"", options)
        return f"marked by {transfer.target}:{shown(path)}"

    def _failed(self, transfer: Transfer, error: str, at: datetime) -> Notice:
        text = f"{shown(transfer.entry.path)} did not reach {_place(transfer)}: {error}"
        id = f"{self._ledger.id}-{transfer.id}-failed-{transfer.fence}"
        data = {**_about(transfer), "error": error, "attempts": transfer.attempts}
        return Notice(id=id, kind="failed", flow=self._flow.name, at=at, text=text, data=data)

    def _delivered(self, transfer: Transfer, receipt: Mapping[str, Any]) -> Notice:
        path = path_at_target(receipt) or transfer.target_path
        proof = {name: receipt[name] for name in ("size", "sha256", "verified") if receipt.get(name) is not None}
        return Notice(
            id=f"{self._ledger.id}-{transfer.id}",
            kind="delivered",
            flow=self._flow.name,
            at=finished(receipt) or transfer.changed,
            text=f"{shown(transfer.entry.path)} reached {transfer.target}:{shown(path)}",
            data={**_about(transfer), "target_path": _text(path), **proof},
        )


def _about(transfer: Transfer) -> dict[str, Any]:
    return {
        "transfer": transfer.id,
        "source": transfer.source,
        "source_path": _text(transfer.entry.path),
        "target": transfer.target,
        "target_path": _text(transfer.target_path),
    }


def _text(path: str) -> str:
    """Fit for others' JSON: bytes that are not UTF-8 are written as "\\udc.." escapes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return shown(path)
    return path


def _place(transfer: Transfer) -> str:
    return f"{transfer.target}:{shown(transfer.target_path)}"
