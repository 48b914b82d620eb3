"""`LedgerSuite`: every promise of `crossdock.ledger.base`, for a ledger's test to inherit whole."""

from __future__ import annotations

import pytest

from crossdock.ledger.base import Ledger
from crossdock.testing.ledger.base import LedgerClock
from crossdock.testing.ledger.claims import AddCases, ClaimCases
from crossdock.testing.ledger.gone import GoneCases, SiblingCases
from crossdock.testing.ledger.leases import HandCases, LeaseCases
from crossdock.testing.ledger.looking import LookCases, PollCases, PruneCases, TwoCases
from crossdock.testing.ledger.marks import MarkCases

__all__ = ["LedgerClock", "LedgerSuite"]


class LedgerSuite(
    AddCases,
    ClaimCases,
    LeaseCases,
    HandCases,
    GoneCases,
    SiblingCases,
    LookCases,
    PollCases,
    PruneCases,
    MarkCases,
    TwoCases,
):
    """Inherit it and supply `ledger`, open and empty; `clock`, which moves its time; and `second`, the same ledger
    opened once more, unless it lives in one process's memory.
    """

    @pytest.fixture
    def ledger(self) -> Ledger:
        raise NotImplementedError("supply a fixture named ledger")

    @pytest.fixture
    def clock(self) -> LedgerClock:
        raise NotImplementedError("supply a fixture named clock")

    @pytest.fixture
    def second(self, ledger: Ledger) -> Ledger | None:
        return None
