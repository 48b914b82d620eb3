"""Remember: `base` (the contract, the states) ← `relational` (what SQL has in common) ← `sqlite`, `postgres`, `memory`.

`queries` reads the statements in `sql/`; `rows` turns rows into what the contract speaks of; `writer` and `sqlite_file`
are SQLite's connection and its file.
"""
