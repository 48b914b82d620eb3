"""Talk to one endpoint: `base` (the contract) ← one package or module for each backend → `storage` (what others call).

Between them: `layers`, `limits`, `retry`, `shared` (behaviour wrapped round any backend), put together by `registry`.
For the backends: `settings`, `secret` (by reference, with `aws_secrets`), `staging` (a temporary name, then a rename),
`accounts`, `threads`, `http`, `sockets`; for whoever shares a rate: `rate`.
"""
