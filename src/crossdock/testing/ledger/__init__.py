"""The parts of `LedgerSuite`."""

import pytest

# Before they are imported: asserts of an inherited suite explain themselves only if they are rewritten.
pytest.register_assert_rewrite(
    *(f"{__name__}.{part}" for part in ("base", "claims", "gone", "leases", "looking", "marks"))
)
