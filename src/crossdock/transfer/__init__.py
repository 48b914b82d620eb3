"""Move one file: `copy` (one attempt, whole), by way of `pipe` (read-ahead) and `chain` (transforms), to a `receipt`.

`unpack` makes many files of one; `transforms` are what may change in flight.
"""
