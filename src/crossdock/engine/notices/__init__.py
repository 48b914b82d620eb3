"""What a flow tells others: a `notice`, kept and sent by the `outbox`, on its way by `notify`: `webhooks` or `mail`."""
