"""The parts of `LedgerSuite`."""
