"""How what is logged is written."""

from __future__ import annotations

import logging
import time

from crossdock.errors import shown

__all__ = ["OneLine"]


class OneLine(logging.Formatter):
    """What a server says neither drives the terminal nor makes up further lines. Times are in UTC."""

    converter = time.gmtime  # type: ignore[assignment]

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the library's)
        return shown(super().formatMessage(record))
