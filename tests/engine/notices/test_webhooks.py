"""Webhooks against a real server: what is sent, what an answer means, and where none may go."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientTimeout, web

from crossdock.config import load
from crossdock.engine.notices import webhooks
from crossdock.engine.notices.notice import Notice, NotificationFailed
from crossdock.engine.notices.notify import send
from crossdock.engine.notices.webhooks import forbidden, post, signature
from crossdock.errors import ConfigError
from crossdock.flows.flow import Webhook
from crossdock.flows.schedule import Schedule, schedule_of
from crossdock.storage.secret import Secret
from tests.engine.certificates import issued, self_signed
from tests.servers.server import closed_ports

NOTICE = Notice(
    id="0123456789abcdef-17",
    kind="delivered",
    flow="statements",
    at=datetime(2026, 11, 20, 6, 30, tzinfo=UTC),
    text="a.csv reached lake:in/a.csv",
    data={"size": 5, "source_path": "é\n.csv"},
)
NOW = 1_790_000_000.0


@dataclass
class Receiver:
    """A server that answers as it is told and keeps what it was sent."""

    port: int = 0
    answer: Callable[[], web.StreamResponse] = field(default=lambda: web.Response(status=204))
    seen: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return self.answer()

    def hook(self, **more: Any) -> Webhook:
        url = f"http://127.0.0.1:{self.port}/hook?token=hidden"
        return Webhook(**{"url": url, "allow_private": True, **more})


async def serving(tls: ssl.SSLContext | None = None) -> tuple[Receiver, web.AppRunner]:
    receiver, app = Receiver(), web.Application()
    app.router.add_route("*", "/{any:.*}", receiver.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    receiver.port = runner.addresses[0][1]
    return receiver, runner


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found, runner = await serving()
    yield found
    await runner.cleanup()


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> Secret:
    monkeypatch.setenv("HOOK_KEY", "s3cret")
    return Secret("env:HOOK_KEY")


async def test_what_is_sent(receiver: Receiver, secret: Secret) -> None:
    """The signature is that of standardwebhooks.com; a repetition differs in its time alone."""
    for later in (0, 60):
        await post(receiver.hook(secret=secret), NOTICE, clock=lambda later=later: NOW + later)  # type: ignore[misc]
    (headers, body), (again, body_again) = receiver.seen
    assert body == body_again
    assert json.loads(body) == {
        "type": "delivered",
        "timestamp": "2026-11-20T06:30:00+00:00",
        "data": {"flow": "statements", "text": "a.csv reached lake:in/a.csv", "size": 5, "source_path": "é\n.csv"},
    }
    assert headers["content-type"] == "application/json"
    for found, at in ((headers, "1790000000"), (again, "1790000060")):
        assert (found["webhook-id"], found["webhook-timestamp"]) == ("0123456789abcdef-17", at)
        signed = f"{found['webhook-id']}.{at}.".encode() + body
        digest = hmac.new(b"s3cret", signed, hashlib.sha256).digest()
        assert found["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


async def test_the_ten_lines_of_the_docs(receiver: Receiver, secret: Secret) -> None:
    """They accept what is sent, and nothing that was changed or is old."""
    page = (Path(__file__).parents[3] / "docs" / "actions.md").read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], found)
    await post(receiver.hook(secret=secret), NOTICE)
    await post(receiver.hook(secret=secret), NOTICE, clock=lambda: time.time() - 400)
    (headers, body), (old, _) = receiver.seen
    verified = found["verified"]
    assert verified(headers, body, b"s3cret")
    assert not verified(headers, body, b"other")
    assert not verified(headers, body + b" ", b"s3cret")
    assert not verified({**headers, "webhook-id": "x"}, body, b"s3cret")
    assert not verified(old, body, b"s3cret")


def test_the_configuration_of_the_docs_is_right(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "actions.md").read_text(encoding="utf-8")
    path = tmp_path / "crossdock.yaml"
    path.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    (flow,) = load(path).flows.values()
    assert (flow.webhooks[0].on, flow.mails[0].port) == (frozenset({"delivered", "failed"}), 587)
    assert flow.after.keep == 30 * 86400
    assert isinstance(schedule_of(flow.trigger), Schedule)


def test_the_specifications_example() -> None:
    """The vector that the libraries of standardwebhooks.com test against."""
    found = signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_that_is_no_base64() -> None:
    with pytest.raises(ConfigError, match="not base64"):
        signature("whsec_***", "id", 1, b"")


async def test_without_a_secret_nothing_is_signed(receiver: Receiver) -> None:
    await send(receiver.hook(), NOTICE)
    assert "webhook-signature" not in receiver.seen[0][0]


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_accepted(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda: web.Response(status=status)
    await post(receiver.hook(), NOTICE)


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        *((status, False) for status in (301, 302, 307, 308, 400, 401, 404, 410)),
        *((status, True) for status in (408, 425, 429, 500, 503)),
    ],
)
async def test_refused(receiver: Receiver, status: int, retryable: bool) -> None:
    """Redirects are not followed, wherever to; no message tells the address's path or token."""
    receiver.answer = lambda: web.Response(status=status, headers={"location": "/elsewhere", "retry-after": "7"})
    with pytest.raises(NotificationFailed, match=str(status)) as caught:
        await post(receiver.hook(), NOTICE)
    assert caught.value.retryable is retryable
    assert caught.value.hint
    assert caught.value.retry_after == (7 if retryable else None)
    assert "hidden" not in str(caught.value)
    assert len(receiver.seen) == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("99999999", 86400.0),
        (format_datetime(datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(datetime.fromtimestamp(NOW, UTC) - timedelta(days=9), usegmt=True), 0.0),
        ("soon", None),
        ("-5", None),
    ],
)
async def test_retry_after(receiver: Receiver, text: str, seconds: float | None) -> None:
    receiver.answer = lambda: web.Response(status=503, headers={"retry-after": text})
    with pytest.raises(NotificationFailed) as caught:
        await post(receiver.hook(), NOTICE, clock=lambda: NOW)
    assert caught.value.retry_after == seconds


async def test_an_endless_answer_is_not_read(receiver: Receiver) -> None:
    class Endless(web.StreamResponse):
        async def prepare(self, request: web.BaseRequest) -> Any:
            writer = await super().prepare(request)
            with pytest.raises(ConnectionError):
                while True:
                    await self.write(b"x" * 65536)
                    await asyncio.sleep(0)
            return writer

    receiver.answer = lambda: Endless(status=200)
    await asyncio.wait_for(post(receiver.hook(), NOTICE), 60)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: https://hooks.example/T0K3N?k=T0K3N\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: /T0K3N\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: https://user:T0K3N@hooks.example/\r\ncontent-length: 0\r\n\r\n",
    ],
)
async def test_no_answer_makes_the_address_known(answer: bytes) -> None:
    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(odd, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/T0K3N?k=T0K3N"
    async with server:
        with pytest.raises(NotificationFailed) as caught:
            await post(Webhook(url=url, allow_private=True), NOTICE)
    assert "T0K3N" not in f"{caught.value}"
    assert caught.value.retryable == (b"302" not in answer)


async def test_silence_and_a_closed_port(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    silent = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    with (
        monkeypatch.context() as hurried,
        pytest.raises(NotificationFailed, match=r"no answer in time|imeout") as caught,
    ):
        hurried.setattr(webhooks, "_TIMEOUT", ClientTimeout(total=0.2))
        await post(Webhook(url=silent, allow_private=True), NOTICE)
    assert caught.value.retryable
    assert caught.value.hint
    server.close()
    await server.wait_closed()
    with closed_ports(1) as (port,), pytest.raises(NotificationFailed, match="onnect") as caught:
        await post(Webhook(url=f"http://127.0.0.1:{port}/", allow_private=True), NOTICE)
    assert caught.value.retryable
    assert caught.value.hint


FORBIDDEN = [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16", "198.18.0.1", "224.0.0.1", "239.255.255.250",
    "240.0.0.1", "255.255.255.255", "192.0.2.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254",
    "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1", "2001:db8::1", "::127.0.0.1", "not an address", "",
]  # fmt: skip
PUBLIC = [
    "93.184.216.34",
    "8.8.8.8",
    "172.32.0.1",
    "100.128.0.1",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_addresses_that_are_not_public(address: str) -> None:
    assert forbidden(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_that_are(address: str) -> None:
    assert not forbidden(address)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "localhost", "[fe80::1%25lo]"),
        *("2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "[::ffff:127.0.0.1%25]", "[::ffff:127.0.0.1%25a]"),
    ],
)
async def test_no_form_of_a_private_address_is_reached(receiver: Receiver, host: str) -> None:
    with pytest.raises((NotificationFailed, ConfigError), match="is not a public address") as caught:
        await post(Webhook(url=f"https://{host}:{receiver.port}/"), NOTICE)
    assert not caught.value.retryable
    assert receiver.seen == []


async def test_one_private_address_among_others_forbids_the_name(receiver: Receiver) -> None:
    with pytest.raises(NotificationFailed, match=r"10\.0\.0\.7 is not a public"):
        await post(
            Webhook(url="https://hooks.example/"), NOTICE, lookup=lambda host, port: ["93.184.216.34", "10.0.0.7"]
        )


async def test_the_address_that_was_looked_at_is_connected_to(receiver: Receiver) -> None:
    """One look; what the name stands for later, or to others, plays no part."""
    looks: list[tuple[str, int]] = []

    def lookup(host: str, port: int) -> list[str]:
        looks.append((host, port))
        return ["127.0.0.1"]

    url = f"http://hooks.example:{receiver.port}/"
    await post(Webhook(url=url, allow_private=True), NOTICE, lookup=lookup)
    assert looks == [("hooks.example", receiver.port)]
    assert receiver.seen[0][0]["host"] == f"hooks.example:{receiver.port}"


async def test_a_name_that_is_not_known(receiver: Receiver) -> None:
    def lookup(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    with pytest.raises(NotificationFailed, match=r"hooks\.example") as caught:
        await post(Webhook(url="https://hooks.example/"), NOTICE, lookup=lookup)
    assert caught.value.retryable
    assert caught.value.hint


async def test_no_proxy_is_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    await post(receiver.hook(), NOTICE)
    assert len(receiver.seen) == 1


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://hooks.example/", "not encrypted"),
        ("ftp://hooks.example/", "not an address"),
        ("https:///path", "not an address"),
        ("https://me:word@hooks.example/", "user name"),
        ("https://hooks.example:99999/", "cannot be read|not an address"),
        ("https://hooks..example/", "no receiver can have this name"),
    ],
)
async def test_addresses_that_cannot_be(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        await post(Webhook(url=url), NOTICE)


async def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    receiver, runner = await serving(self_signed(tmp_path)[0])
    try:
        with pytest.raises(NotificationFailed, match="not trusted") as caught:
            await post(Webhook(url=f"https://localhost:{receiver.port}/", allow_private=True), NOTICE)
        assert caught.value.retryable, "one that has expired is renewed"
        assert receiver.seen == []
    finally:
        await runner.cleanup()


async def test_a_certificate_of_a_companys_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, authority, _ = issued(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    receiver, runner = await serving(context)
    try:
        await post(Webhook(url=f"https://localhost:{receiver.port}/", allow_private=True), NOTICE)
        assert len(receiver.seen) == 1
    finally:
        await runner.cleanup()
