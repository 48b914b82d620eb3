"""How an object is cut into parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdock.storage.s3.plan import PartPlan
from tests.storage.s3.places import GIB, MIB, TIB

LARGEST = 10_000 * 5 * GIB


class TestPartPlan:
    @given(st.integers(0, LARGEST), st.sampled_from([5 * MIB, 8 * MIB, 64 * MIB]))
    def test_a_declared_size_always_fits(self, size: int, smallest: int) -> None:
        plan = PartPlan(size, smallest)
        part = plan.part_size(1)
        assert smallest <= part <= 5 * GIB
        assert part * 10_000 >= size
        assert part == smallest or (part % MIB == 0 and (part - MIB) * 10_000 < size)
        assert plan.part_size(10_000) == part

    def test_the_largest_object(self) -> None:
        assert round(LARGEST / TIB, 1) == 48.8
        assert PartPlan(LARGEST, 8 * MIB).part_size(10_000) == 5 * GIB
        with pytest.raises(ValueError, match="10,000"):
            PartPlan(LARGEST + 1, 8 * MIB).part_size(1)

    def test_an_unknown_size_grows(self) -> None:
        plan = PartPlan(None, 8 * MIB)
        assert [plan.part_size(number) // MIB for number in (1, 1000, 1001, 2000, 2001, 10_000)] == [
            8,
            8,
            16,
            16,
            32,
            4096,
        ]
        assert round(sum(plan.part_size(number) for number in range(1, 10_001)) / TIB, 1) == 7.8
        with pytest.raises(ValueError, match="10,000"):
            plan.part_size(10_001)

    def test_it_stops_at_the_largest_part(self) -> None:
        assert PartPlan(None, 64 * MIB).part_size(10_000) == 5 * GIB

    def test_uniform_parts(self) -> None:
        plan = PartPlan(None, 8 * MIB, uniform=True)
        assert {plan.part_size(number) for number in range(1, 10_001)} == {8 * MIB}
