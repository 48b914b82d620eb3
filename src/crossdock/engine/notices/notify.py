"""A notice's way out, as a webhook or a mail. One call is one try; repeating is the callers' (`outbox`)."""

from __future__ import annotations

import asyncio

from crossdock.engine.notices.notice import Notice
from crossdock.errors import NotInstalled
from crossdock.flows.flow import Mail, Webhook

__all__ = ["send"]


async def send(to: Webhook | Mail, notice: Notice) -> None:
    """Once. Raises `NotificationFailed`, and `ConfigError` for what only the user can mend."""
    # Their libraries take a while to load, and most runs have nothing to tell.
    if isinstance(to, Mail):
        from crossdock.engine.notices.mail import send_mail

        await asyncio.to_thread(send_mail, to, notice)
        return
    try:
        from crossdock.engine.notices.webhooks import post
    except ImportError as error:
        raise NotInstalled("webhooks need an HTTP client", hint="pip install 'crossdock[notify]'") from error
    await post(to, notice)
