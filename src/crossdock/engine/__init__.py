"""Run: `engine` (look, work off) over `discovery` (one look), `worker` (leases) and `delivery` (one attempt).

- An attempt: `steps` (transforms), `recovery` (after a crash), `attempts`, `verdicts` (what a failure means),
  `endpoints`, `gone`, `poisoned`.
- What follows it: `actions` with `disposal`, `archive` and `outbox` (a `notice`, by `notify`, `webhooks`, `mail`).
- What starts a flow: `serving` by `triggers` and `watch`. What is late: `late`. What was done: `summary`.
- Looked at first: `saved` (plans), `explaining`, `lookup`, `estimate`.
- Without a ledger: `sync`, with `merge`, `obstacles`, `processes` and `outcome`.
"""
