"""Commands that are sent before earlier ones are answered: to a server that does not answer as vsftpd does."""

from __future__ import annotations

import contextlib
from typing import Literal

import pytest

from crossdock.errors import ConnectionFailed, CrossdockError, ProtocolViolation, TimedOut
from crossdock.storage.base import WriteOptions
from crossdock.testing.fault_ftp import FaultyFtpServer
from tests.storage.ftp.places import WHEN, faulty, holds, prove


async def test_a_server_with_mlst_gets_them_one_by_one(queuing: FaultyFtpServer, packets: list[str]) -> None:
    """Whatever it calls itself, it is no vsftpd."""
    queuing.features = (*queuing.features, "MLST type*;size*;modify*;")
    async with faulty(queuing, max_connections=1) as storage:
        await prove(storage)
        assert await storage.read_bytes("one") == b"1"
    assert {"STOR", "RETR"} <= set(packets)


@pytest.mark.parametrize(
    ("agreement", "writing", "reading"),
    [("never", TimedOut, ProtocolViolation), ("late", TimedOut, None), ("twice", None, None)],
)
async def test_an_agreement_that_is_missing_late_or_repeated(
    queuing: FaultyFtpServer,
    agreement: Literal["never", "late", "twice"],
    writing: type[CrossdockError] | None,
    reading: type[CrossdockError] | None,
) -> None:
    async with faulty(queuing, max_connections=1, timeout=2) as storage:
        await prove(storage)
        queuing.faults.agreement = agreement
        with pytest.raises(writing) if writing else contextlib.nullcontext():
            await storage.write_bytes("one", b"2")
        expected = b"1" if writing else b"2"
        with pytest.raises(reading) if reading else contextlib.nullcontext():
            assert await storage.read_bytes("one") == expected
        queuing.faults.agreement = "once"
        assert await storage.read_bytes("one") == expected
    holds(queuing, expected)


@pytest.mark.parametrize("during", ["answer", "drop"])
async def test_a_server_that_only_calls_itself_vsftpd(
    queuing: FaultyFtpServer, packets: list[str], during: Literal["answer", "drop"]
) -> None:
    """The first attempt fails; then it is known, on all connections, and for good."""
    queuing.faults.during = during
    async with faulty(queuing, max_connections=1, timeout=2) as storage:
        await storage.write_bytes("one", b"first")
        with pytest.raises((ConnectionFailed, TimedOut)):
            await storage.write_bytes("one", b"12345")
        holds(queuing, b"first")
        packets.clear()
        await storage.write_bytes("one", b"12345")
        await storage.write_bytes("one", b"123456")
        assert await storage.read_bytes("one") == b"123456"
        assert not any("STOR+" in packet or "RETR+" in packet or "+STOR" in packet for packet in packets)
    holds(queuing, b"123456")


@pytest.mark.parametrize("during", ["answer", "drop"])
async def test_a_server_that_only_calls_itself_vsftpd_and_is_read(
    queuing: FaultyFtpServer, during: Literal["answer", "drop"]
) -> None:
    (queuing.folder / "one").write_bytes(b"1")
    queuing.faults.during = during
    async with faulty(queuing, max_connections=1, timeout=2) as storage:
        with pytest.raises((ConnectionFailed, TimedOut)):
            await storage.read_bytes("one")
        assert await storage.read_bytes("one") == b"1"


@pytest.mark.parametrize("verify", ["size", "none"])
async def test_an_answer_in_between_does_not_hide_that_an_upload_failed(queuing: FaultyFtpServer, verify: str) -> None:
    """The time is set while the file is on its way: that reply is not the transfer's last."""
    async with faulty(queuing, max_connections=1, verify=verify) as storage:
        await prove(storage)
        for _ in range(2):  # the first time that is set goes alone
            await storage.write_bytes("one", b"1", WriteOptions(modified=WHEN))
        queuing.faults.during, queuing.faults.disk = "answer", 2
        with pytest.raises(ProtocolViolation, match="nobody asked for: 213"):
            await storage.write_bytes("one", b"12345", WriteOptions(modified=WHEN))
        queuing.faults.during, queuing.faults.disk = "wait", None
        assert await storage.read_bytes("one") == b"1"
    holds(queuing, b"1")
