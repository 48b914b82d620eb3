"""Decide, without I/O and without a clock: `flow` (a flow as data) → `filters`, `route` → `plan`.

`schedule` (when it starts), `expect` (what is late), `compare` (what a sync takes for unchanged), `explain` (why).
"""
