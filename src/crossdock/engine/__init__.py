"""Run: `engine` (look, work off) over `discovery` (one look), `worker` (leases) and `delivery` (one attempt).

- An attempt: `steps` (transforms), `recovery` (after a crash), `verdicts` (what a failure means), `endpoints`, `gone`,
  `poisoned`.
- What follows it: `actions` with `disposal` and `archive`, and `notices` to whoever wants to know.
- What starts a flow: `serving` by `triggers` and `watch`. What is late: `late`. What was done: `summary`.
- Looked at first: `saved` (plans), `explaining`, `lookup`, `estimate`.
- Without a ledger: `attempts` at one file, and `sync` of a tree.
"""
