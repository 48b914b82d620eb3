"""crossdock and its peers, in turn, against the same servers: `python -m benchmarks` (docs/performance.md)."""
