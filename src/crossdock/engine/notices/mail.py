"""A notice as a mail through the user's own mail server."""

from __future__ import annotations

import json
import smtplib
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from crossdock.engine.notices.notice import Notice, NotificationFailed, channel_of
from crossdock.errors import ConfigError, shown
from crossdock.flows.flow import Mail
from crossdock.storage.sockets import context_for

__all__ = ["send_mail"]

_TIMEOUT = 30.0
"""Seconds of silence after which a mail server is given up."""
_LONGEST_SUBJECT = 200
_LOCKED = 900.0
"""Seconds after a refused sign-in before the next: accounts get locked."""


def send_mail(mail: Mail, notice: Notice) -> None:
    """One mail, in this thread. Raises `NotificationFailed`, `ConfigError`."""
    message = _message(mail, notice)
    place = f"mail through {mail.host}:{mail.port}"
    password = mail.password.reveal() if mail.user is not None and mail.password is not None else ""
    if not f"{mail.user or ''}{password}".isascii():
        # Python's SMTP client encodes them so, and its error would show the letter.
        raise NotificationFailed(
            f"{place}: user or password has a character beyond ASCII, which cannot be sent",
            retryable=False,
            hint="give the account a password of plain letters, digits and signs",
        )
    try:
        with _connected(mail) as server:
            if mail.user is not None:
                server.login(mail.user, password)
            refused = server.send_message(message, mail.sender, list(mail.to))
    except ssl.SSLError as error:
        raise NotificationFailed(
            f"{place}: TLS: {error.reason or error}",
            # A certificate that has expired is renewed one day, and then whoever waits for the mail wants it.
            retryable=True,
            hint="the server must show a certificate for this name, of an authority that this machine trusts "
            "(SSL_CERT_FILE names others); port 465 takes 'tls: implicit', 587 'starttls'; the mail is sent again",
        ) from error
    except smtplib.SMTPNotSupportedError as error:
        raise NotificationFailed(
            f"{place}: {error}", retryable=False, hint="check 'tls' and 'user' against what the server offers"
        ) from error
    except smtplib.SMTPRecipientsRefused as error:
        raise _refused(place, error.recipients) from error
    except smtplib.SMTPAuthenticationError as error:
        raise NotificationFailed(
            f"{place}: {_answer(error.smtp_code, error.smtp_error)}",
            # A password that has run out is renewed, and then whoever waits for the mail wants it.
            retryable=True,
            retry_after=_LOCKED,
            hint="check the user and password; the mail is sent again",
        ) from error
    except smtplib.SMTPResponseException as error:
        raise NotificationFailed(
            f"{place}: {_answer(error.smtp_code, error.smtp_error)}",
            retryable=400 <= error.smtp_code < 500,
            hint="ask who runs the mail server",
        ) from error
    except UnicodeError as error:
        raise NotificationFailed(
            f"{place}: no server can have this name", retryable=False, hint="write the host as mail.example.com"
        ) from error
    except (smtplib.SMTPException, OSError) as error:
        raise NotificationFailed(
            f"{place}: {str(error) or type(error).__name__}",
            retryable=True,
            hint="see that the mail server is up and can be reached from here; the mail is sent again",
        ) from error
    if refused:
        # Some have it: sending it to all again would be a nuisance.
        failure = _refused(place, refused)
        failure.retryable = False
        raise failure


@contextmanager
def _connected(mail: Mail) -> Iterator[smtplib.SMTP]:
    context = context_for()
    if mail.tls == "implicit":
        server: smtplib.SMTP = smtplib.SMTP_SSL(mail.host, mail.port, timeout=_TIMEOUT, context=context)
    else:
        server = smtplib.SMTP(mail.host, mail.port, timeout=_TIMEOUT)
    try:
        if mail.tls == "starttls":
            server.starttls(context=context)
        yield server
    finally:
        # It has taken the mail by now, or has said why not: whatever it answers to this, nothing is sent again for it.
        with suppress(smtplib.SMTPException, OSError):
            server.quit()


def _message(mail: Mail, notice: Notice) -> EmailMessage:
    """Only `shown` text comes from file names, and a header with a line break in it is refused by the library."""
    message = EmailMessage(policy=SMTP)
    line = shown(notice.text)
    try:
        message["From"] = mail.sender
        message["To"] = ", ".join(mail.to)
        message["Subject"] = shown(f"[crossdock] {notice.flow}: {notice.kind}: {line}")[:_LONGEST_SUBJECT]
    except (ValueError, IndexError) as error:
        raise ConfigError(f"an address of the mail cannot be: {error}", hint="write name@example.com") from error
    message["Date"] = format_datetime(notice.at)
    message["Message-ID"] = f"<{notice.id}.{channel_of(mail)}@crossdock.invalid>"
    message["Auto-Submitted"] = "auto-generated"
    details = "\n".join(f"{shown(name)}: {shown(_text(value))}" for name, value in notice.data.items())
    message.set_content(f"{line}\n\nflow: {shown(notice.flow)}\nat: {notice.at.isoformat()}\n{details}\n")
    return message


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _answer(code: int, text: bytes | str) -> str:
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return f"{code} {shown(' '.join(words.split()))}"


def _refused(place: str, recipients: Mapping[str, tuple[int, bytes]]) -> NotificationFailed:
    answers = "; ".join(f"{name}: {_answer(code, text)}" for name, (code, text) in recipients.items())
    temporary = all(400 <= code < 500 for code, _ in recipients.values())
    return NotificationFailed(f"{place}: {answers}", retryable=temporary, hint="check the addresses under 'to'")
