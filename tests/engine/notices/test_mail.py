"""Mails through a real server: what arrives, what is refused, and that no name can add a header."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from crossdock.engine.notices.mail import send_mail
from crossdock.engine.notices.notice import Notice, NotificationFailed
from crossdock.engine.notices.notify import send
from crossdock.errors import ConfigError
from crossdock.flows.flow import Mail
from crossdock.storage.secret import Secret
from tests.engine.certificates import issued
from tests.servers.server import closed_ports, own_ports

NOTICE = Notice(
    id="0123456789abcdef-17-failed-3",
    kind="failed",
    flow="statements",
    at=datetime(2026, 11, 20, 6, 30, tzinfo=UTC),
    text="a.csv did not reach lake:in/a.csv: no such bucket",
    data={"attempts": 8, "source_path": "a.csv"},
)


class Inbox:
    """Keeps what it is sent; answers RCPT, DATA and QUIT as it is told."""

    def __init__(self) -> None:
        self.mails: list[tuple[Envelope, EmailMessage]] = []
        self.recipient: dict[str, str] = {}
        self.data = "250 OK"
        self.leave = "221 Bye"
        self.users: list[str] = []

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, to: str, options: list[str]) -> str:
        if to in self.recipient:
            return self.recipient[to]
        envelope.rcpt_tos.append(to)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.mails.append((envelope, message_from_bytes(envelope.content, policy=policy.default)))
        return self.data

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        return self.leave

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.users.append(data.login.decode())
        right = (data.login, data.password) == (b"robot", b"s3cret")
        return AuthResult(success=right, handled=right)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def server(inbox: Inbox) -> Iterator[Controller]:
    yield from running(inbox)


def running(inbox: Inbox, **options: Any) -> Iterator[Controller]:
    with own_ports(1) as (port,):
        controller = Controller(inbox, hostname="127.0.0.1", port=port, ready_timeout=60, **options)
        controller.start()
        yield controller
        controller.stop()
    assert not any(thread.name == "aiosmtpd" for thread in threading.enumerate())


def mail(server: Controller, **more: Any) -> Mail:
    given = {"to": ("ops@example.com",), "sender": "crossdock@example.com", "tls": "none"}
    return Mail(**{**given, "host": "127.0.0.1", "port": server.port, **more})


async def test_what_arrives(server: Controller, inbox: Inbox) -> None:
    to = mail(server, to=("ops@example.com", "Second <two@example.com>"))
    for _ in range(2):
        await send(to, NOTICE)
    (envelope, message), (_, again) = inbox.mails
    assert envelope.mail_from == "crossdock@example.com"
    assert envelope.rcpt_tos == ["ops@example.com", "two@example.com"]
    assert message["Subject"] == "[crossdock] statements: failed: a.csv did not reach lake:in/a.csv: no such bucket"
    assert message["From"] == "crossdock@example.com"
    assert message["To"] == "ops@example.com, Second <two@example.com>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime == NOTICE.at
    assert message["Message-ID"] == again["Message-ID"]
    text = message.get_content().replace("\r\n", "\n")
    assert text.startswith("a.csv did not reach lake:in/a.csv: no such bucket\n\nflow: statements\n")
    assert "attempts: 8\nsource_path: a.csv\n" in text


async def test_no_name_adds_a_header_or_a_recipient(server: Controller, inbox: Inbox) -> None:
    evil = "x\r\nBcc: victim@example.com\r\n\r\n.\r\nMAIL FROM:<a@b>\r\n\u2028\udcff"
    notice = Notice(id="1-2", kind="late", flow=evil, at=NOTICE.at, text=evil * 50, data={evil: evil})
    await send(mail(server), notice)
    ((envelope, message),) = inbox.mails
    assert envelope.rcpt_tos == ["ops@example.com"]
    assert set(message.keys()) <= {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type",
        "Content-Transfer-Encoding",
    }  # fmt: skip
    assert message["Bcc"] is None
    assert r"\r\nBcc: victim@example.com" in message["Subject"]
    assert r"\udcff" in message.get_content()


@pytest.mark.parametrize("field", ["to", "sender"])
def test_an_address_with_a_line_break_is_refused(server: Controller, inbox: Inbox, field: str) -> None:
    value = "a@example.com\r\nBcc: victim@example.com"
    with pytest.raises(ConfigError, match="address"):
        send_mail(mail(server, **{field: (value,) if field == "to" else value}), NOTICE)
    assert inbox.mails == []


@pytest.mark.parametrize(
    ("answers", "retryable"),
    [
        ({"ops@example.com": "550 no such user"}, False),
        ({"ops@example.com": "451 greylisted"}, True),
        ({"ops@example.com": "451 greylisted", "two@example.com": "550 no such user"}, False),
    ],
)
def test_refused_recipients(server: Controller, inbox: Inbox, answers: dict[str, str], retryable: bool) -> None:
    inbox.recipient = answers
    with pytest.raises(NotificationFailed, match=r"greylisted|no such user") as caught:
        send_mail(mail(server, to=tuple(answers)), NOTICE)
    assert caught.value.retryable is retryable
    assert caught.value.hint


def test_some_recipients_are_not_told_twice(server: Controller, inbox: Inbox) -> None:
    inbox.recipient = {"two@example.com": "451 greylisted"}
    with pytest.raises(NotificationFailed, match=r"two@example\.com: 451 greylisted") as caught:
        send_mail(mail(server, to=("ops@example.com", "two@example.com")), NOTICE)
    assert not caught.value.retryable
    assert len(inbox.mails) == 1


@pytest.mark.parametrize(("answer", "retryable"), [("554 spam", False), ("452 disk full", True)])
def test_a_refused_mail(server: Controller, inbox: Inbox, answer: str, retryable: bool) -> None:
    inbox.data = answer
    with pytest.raises(NotificationFailed, match=answer) as caught:
        send_mail(mail(server), NOTICE)
    assert caught.value.retryable is retryable
    assert caught.value.hint


@pytest.mark.parametrize("leave", ["421 too many of you", "500 what", "x" * 9000])
def test_a_server_that_does_not_say_goodbye(server: Controller, inbox: Inbox, leave: str) -> None:
    """The mail was taken: told that it was not, one would send it again and again."""
    inbox.leave = leave
    send_mail(mail(server), NOTICE)
    assert len(inbox.mails) == 1
    inbox.data = "554 spam"
    with pytest.raises(NotificationFailed, match="554 spam"):
        send_mail(mail(server), NOTICE)


def test_nobody_listens() -> None:
    with closed_ports(1) as (port,):
        to = Mail(to=("ops@example.com",), sender="a@example.com", host="127.0.0.1", port=port, tls="none")
        with pytest.raises(NotificationFailed, match=f"127.0.0.1:{port}") as caught:
            send_mail(to, NOTICE)
    assert caught.value.retryable
    assert caught.value.hint


def test_no_tls_where_it_is_asked_for(server: Controller, inbox: Inbox) -> None:
    with pytest.raises(NotificationFailed, match="STARTTLS") as caught:
        send_mail(mail(server, tls="starttls"), NOTICE)
    assert not caught.value.retryable
    assert inbox.mails == []


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("password", ["s3cret", "wrong"])
def test_tls_and_login(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: str, trusted: bool, password: str
) -> None:
    """Neither the password nor the mail goes to a server whose certificate is not trusted."""
    context, certificate, _ = issued(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("MAIL_PASSWORD", password)
    options: dict[str, Any] = {"authenticator": inbox.authenticate, "auth_required": True}
    if tls == "implicit":
        options = {"authenticator": inbox.authenticate, "ssl_context": context, "auth_require_tls": False}
    else:
        options |= {"tls_context": context, "require_starttls": True}
    servers = running(inbox, **options)
    server = next(servers)
    to = mail(server, host="localhost", tls=tls, user="robot", password=Secret("env:MAIL_PASSWORD"))
    try:
        if trusted and password == "s3cret":
            send_mail(to, NOTICE)
            assert len(inbox.mails) == 1
        else:
            with pytest.raises(NotificationFailed, match="535" if trusted else "TLS: ") as caught:
                send_mail(to, NOTICE)
            assert caught.value.retryable, "a certificate or a password that has expired is renewed"
            assert caught.value.retry_after == (900 if trusted else None), "accounts get locked"
            assert inbox.mails == []
        assert set(inbox.users) == ({"robot"} if trusted else set())
    finally:
        next(servers, None)


def test_a_secret_that_is_missing(server: Controller, inbox: Inbox) -> None:
    with pytest.raises(ConfigError, match="MAIL_PASSWORD"):
        send_mail(mail(server, user="robot", password=Secret("env:MAIL_PASSWORD")), NOTICE)
    assert inbox.mails == []


@pytest.mark.parametrize("wrong", ["user", "password"])
def test_a_login_beyond_ascii(server: Controller, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """The library raises what is no error of mail, and names the letter; whoever does not expect it ends the run."""
    given = {"user": "robot", "password": "s3cret"} | {wrong: "geh\xe9im"}
    monkeypatch.setenv("MAIL_PASSWORD", given["password"])
    with pytest.raises(NotificationFailed, match="beyond ASCII") as caught:
        send_mail(mail(server, user=given["user"], password=Secret("env:MAIL_PASSWORD")), NOTICE)
    assert not caught.value.retryable
    assert "\xe9" not in str(caught.value)
    assert inbox.mails == []


@pytest.mark.parametrize("host", ["mail..example.com", f"{'a' * 64}.example.com"])
def test_a_host_that_no_server_can_have(host: str) -> None:
    to = Mail(to=("ops@example.com",), sender="a@example.com", host=host, port=25, tls="none")
    with pytest.raises(NotificationFailed, match="no server can have this name") as caught:
        send_mail(to, NOTICE)
    assert not caught.value.retryable
