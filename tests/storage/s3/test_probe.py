"""What is written to see what a store can do does not stay there."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from crossdock.storage.s3 import probe
from crossdock.storage.storage import Storage
from tests.storage.s3.faults import FaultProxy, Forward, edit
from tests.storage.s3.places import BotoPeer, backend

REQUESTS = 7
"""Of one probe: two objects, an upload in parts, and what removes them."""

_answered = edit(lambda found: None)


@pytest.mark.parametrize("number", range(1, REQUESTS + 1))
async def test_a_store_whose_opening_is_cancelled_keeps_nothing(
    proxy: FaultProxy, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As by Ctrl-C, or by a run that did not need it after all, at each of the requests."""
    monkeypatch.setattr(probe, "_KNOWN", {})
    under_way, cancelled, done, requests = asyncio.Event(), asyncio.Event(), asyncio.Event(), 0

    async def hold(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        if requests != number:
            return await _answered(request, forward)
        under_way.set()
        await cancelled.wait()
        try:
            return await _answered(request, forward)
        finally:
            done.set()

    for method in ("PUT", "POST", "DELETE"):
        proxy.fail(method, "", hold, times=REQUESTS)
    opening = asyncio.create_task(Storage(backend(proxy, peer.bucket, monkeypatch)).__aenter__())
    async with asyncio.timeout(20):
        await under_way.wait()
        opening.cancel()
        await asyncio.sleep(0)
        cancelled.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await done.wait()
    assert (peer.names(), peer.uploads()) == (set(), [])
