"""An engine over what the user's file says: how whoever runs flows begins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from crossdock.config.config import Config, Mistakes
from crossdock.config.rehearsal import rehearse
from crossdock.engine.engine import Engine

__all__ = ["open_engine"]


@asynccontextmanager
async def open_engine(
    config: Config, ledger: str | None = None, *, looking: bool = False, sources: Iterable[str] = (), **options: Any
) -> AsyncIterator[Engine]:
    """An engine over all flows of the configuration, its ledger opened for as long as the block lasts.

    `ledger`: as for `Config.new_ledger`. `looking`: nothing is to be written at any endpoint. `sources`: of these flows
    they are connected to while the ledger is opened. `options` are those of `Engine`. The user's own functions are
    imported. Raises `Mistakes`, and what opening the ledger raises.
    """
    if wrong := rehearse(config):
        raise Mistakes(config.file.name if config.file else "", wrong)
    unopened = config.new_ledger(ledger, own_process=not looking)
    storage = partial(config.storage, looking=looking)
    async with Engine(config.flows.values(), storage, unopened, folder=config.folder, **options) as engine:
        for flow in sources:
            engine.endpoints.begin(engine.planner(flow).flow.source.endpoint)
        async with unopened:
            yield engine
