"""crossdock: moves files between endpoints and proves what arrived where.

What other programs call, each name loaded when it is first used (docs/python.md). Errors are in `crossdock.errors`, the
contract of a backend in `crossdock.storage.base`, suites to prove one in `crossdock.testing`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossdock.config.config import Config, Location
    from crossdock.config.ledgers import new_ledger
    from crossdock.config.reading import load
    from crossdock.config.running import open_engine
    from crossdock.engine.delivery import Delivery
    from crossdock.engine.engine import Engine, FileEvent
    from crossdock.engine.serving import serve
    from crossdock.engine.sync import SyncOptions, sync
    from crossdock.errors import CrossdockError
    from crossdock.flows.filters import Filters
    from crossdock.flows.flow import (
        After,
        Destination,
        Expectation,
        Flow,
        Mail,
        Place,
        Retry,
        Rule,
        Settle,
        TransformSpec,
        Trigger,
        Webhook,
    )
    from crossdock.storage.base import Entry
    from crossdock.storage.registry import new_storage
    from crossdock.storage.storage import Storage
    from crossdock.transfer.copy import CopyOptions, copy
    from crossdock.transfer.receipt import Receipt

__all__ = [
    "After",
    "Config",
    "CopyOptions",
    "CrossdockError",
    "Delivery",
    "Destination",
    "Engine",
    "Entry",
    "Expectation",
    "FileEvent",
    "Filters",
    "Flow",
    "Location",
    "Mail",
    "Place",
    "Receipt",
    "Retry",
    "Rule",
    "Settle",
    "Storage",
    "SyncOptions",
    "TransformSpec",
    "Trigger",
    "Webhook",
    "copy",
    "load",
    "new_ledger",
    "new_storage",
    "open_engine",
    "serve",
    "sync",
]

_HOMES = {
    "config.config": "Config Location",
    "config.ledgers": "new_ledger",
    "config.reading": "load",
    "config.running": "open_engine",
    "engine.delivery": "Delivery",
    "engine.engine": "Engine FileEvent",
    "engine.serving": "serve",
    "engine.sync": "SyncOptions sync",
    "errors": "CrossdockError",
    "flows.filters": "Filters",
    "flows.flow": "After Destination Expectation Flow Mail Place Retry Rule Settle TransformSpec Trigger Webhook",
    "storage.base": "Entry",
    "storage.registry": "new_storage",
    "storage.storage": "Storage",
    "transfer.copy": "CopyOptions copy",
    "transfer.receipt": "Receipt",
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names.split():
            return getattr(import_module(f"crossdock.{home}"), name)
    raise AttributeError(f"module 'crossdock' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
