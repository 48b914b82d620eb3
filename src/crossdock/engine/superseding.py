"""Of the versions that a store keeps of a file, the older ones that still wait are not delivered after a newer."""

from __future__ import annotations

from dataclasses import replace

from crossdock.engine.recovery import Record, sweep
from crossdock.ledger.base import Lease, Ledger, Query, State
from crossdock.storage.storage import Storage

__all__ = ["supersede"]

_WAITS, _SKIPPED = frozenset({State.PENDING}), frozenset({State.SKIPPED})


async def supersede(lease: Lease, ledger: Ledger, target: Storage) -> None:
    """Skip them, once the newer one has its turn, and remove what they have staged."""
    transfer = lease.transfer
    query = Query(flow=transfer.flow, name=transfer.entry.path.rpartition("/")[2], states=_WAITS, before=transfer.id)
    left = [each for each in await ledger.find(query) if each.checkpoint is not None]
    skipped = await ledger.supersede(transfer.id, who=transfer.owner or "")
    for each in left:
        if each.id in skipped:
            record = Record.load(each.checkpoint)
            path = each.target_path if record is None else record.to
            await sweep(replace(lease, transfer=each, fence=each.fence + 1), record, target, ledger.id, [path])
    if lease.fence > 1:
        # An earlier attempt may have been stopped, or have lost the target, between the two.
        for each in await ledger.find(replace(query, states=_SKIPPED)):
            if each.why == f"superseded by transfer {transfer.id}":
                await sweep(
                    replace(lease, transfer=each, fence=each.fence + 1), None, target, ledger.id, [each.target_path]
                )
