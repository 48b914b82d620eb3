"""Servers in front of something else than a disk, and those of other systems."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import Unsupported
from crossdock.storage.base import WriteOptions
from crossdock.storage.ftp import FtpSettings
from crossdock.storage.memory import MemoryBackend
from crossdock.storage.staging import is_temporary
from crossdock.storage.storage import Storage
from crossdock.testing.fault_ftp import FaultyFtpServer
from crossdock.testing.ftp_faults import FtpFaults
from tests.engine.sync.trees import run
from tests.storage.ftp.places import DATA, WHEN, faulty

IIS = (
    "LANG EN*",
    "UTF8",
    "AUTH TLS;TLS-C;SSL;TLS-P;",
    "PBSZ",
    "PROT C;P;",
    "CCC",
    "HOST",
    "SIZE",
    "MDTM",
    "REST STREAM",
)
IBM_I = ("AUTH TLS", "CCC", "PBSZ", "PROT")


async def old(*paths: str) -> Storage:
    source = Storage(MemoryBackend("source"))
    for path in paths:
        await source.write_bytes(path, b"old", WriteOptions(modified=WHEN))
    return source


@pytest.mark.parametrize(
    "faults",
    [
        FtpFaults(replies={"MFMT": "504 Command not implemented for that parameter"}),
        FtpFaults(replies={"MFMT": "550 Operation not supported"}),
        FtpFaults(replies={"MFMT": "213 Modify=20260102000000; name"}),
    ],
    ids=["unknown", "unsupported", "agreed to"],
)
async def test_where_no_time_can_be_set_what_is_there_is_not_sent_again(
    server: FaultyFtpServer, faults: FtpFaults
) -> None:
    """AWS Transfer Family offers MFMT, and S3 behind it keeps no times."""
    server.faults = faults
    source = await old("a", "b/c")
    async with faulty(server) as storage:
        assert storage.capabilities.mtime_precision is None
        assert (await run(source, storage))[0].copied == 2
    async with faulty(server) as storage:
        assert (await run(source, storage))[0].copied == 0
        later = datetime.now(UTC) + timedelta(hours=1)
        await source.write_bytes("a", b"new", WriteOptions(modified=later))
        summary, outcomes = await run(source, storage)
        assert (summary.copied, outcomes["a"].reason) == (1, "source is newer")
    assert (server.folder / "a").read_bytes() == b"new"


async def test_a_server_that_keeps_even_seconds(server: FaultyFtpServer) -> None:
    """FAT behind it: a window spares the file that would look changed each time."""
    server.faults = FtpFaults(times="even")
    source = Storage(MemoryBackend("source"))
    await source.write_bytes("a", b"old", WriteOptions(modified=WHEN + timedelta(seconds=1)))
    async with faulty(server) as storage:
        for copied, window in ((1, 0), (1, 0), (0, 2)):
            summary, _ = await run(source, storage, modify_window=timedelta(seconds=window))
            assert summary.copied == copied
        await source.write_bytes("a", b"new", WriteOptions(modified=WHEN + timedelta(seconds=5)))
        assert (await run(source, storage, modify_window=timedelta(seconds=2)))[0].copied == 1


@pytest.mark.parametrize(
    "faults",
    [FtpFaults(times="forgotten"), FtpFaults(replies={"MFMT": "550 Permission denied"})],
    ids=["agreed to", "refused"],
)
async def test_what_is_not_done_is_learned_from_the_first_file(server: FaultyFtpServer, faults: FtpFaults) -> None:
    server.faults = faults
    async with faulty(server) as storage:
        assert storage.capabilities.mtime_precision is not None
        await storage.write_bytes("x", b"1", WriteOptions(modified=WHEN))
        assert storage.capabilities.mtime_precision is None


@pytest.mark.parametrize("features", [None, IIS], ids=["MLST", "IIS"])
@pytest.mark.parametrize("verify", ["digest", "none"])
async def test_what_is_taken_under_its_temporary_name_is_told(
    tmp_path: Path, verify: str, features: tuple[str, ...] | None
) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    more: dict[str, Any] = {} if features is None else {"features": features}
    async with FaultyFtpServer(folder, FtpFaults(takes=True), **more) as server:
        async with faulty(server, verify=verify) as storage:
            with pytest.raises(Unsupported, match="what was sent is gone") as raised:
                await storage.write_bytes("x", DATA, WriteOptions(modified=WHEN))
        (name,) = server.taken
        assert is_temporary(name) and name in str(raised.value)
        assert "verify: none" in str(raised.value.hint) and "staging: none" in str(raised.value.hint)


@pytest.mark.parametrize("size", [0, 10, len(DATA)])
async def test_a_drop_box_that_takes_files_at_once(server: FaultyFtpServer, size: int) -> None:
    server.faults = FtpFaults(takes=True)
    async with faulty(server, staging="none", verify="none") as storage:
        await storage.write_bytes("in/x", DATA[:size], WriteOptions(modified=WHEN))
    assert server.taken == {"in/x": DATA[:size]}
    async with faulty(server, staging="none") as storage:
        with pytest.raises(Unsupported, match="what was sent is gone") as raised:
            await storage.write_bytes("in/x", DATA[:size])
        assert "staging" not in str(raised.value.hint) and "verify: none" in str(raised.value.hint)


async def test_ibm_i_is_asked_for_paths_and_for_listings_as_unix_has_them(tmp_path: Path) -> None:
    """Else its names are those of libraries, and a listing is in a dialect of its own (SITE NAMEFMT, LISTFMT)."""
    folder = tmp_path / "home"
    (folder / "home/acme").mkdir(parents=True)
    greeting = "QTCP at ACME.EXAMPLE."
    async with FaultyFtpServer(folder, FtpFaults(ibm_i=True), features=IBM_I, greeting=greeting) as server:
        async with faulty(server, root="/home/acme") as storage:
            await storage.write_bytes("in/a b.csv", b"1,2")
            assert [(entry.path, entry.size) async for entry in storage.walk()] == [("in/a b.csv", 3)]
            assert await storage.read_bytes("in/a b.csv") == b"1,2"
        async with faulty(server) as storage:
            assert await storage.exists("home/acme")


async def test_the_data_sets_of_z_os_are_no_folders(server: FaultyFtpServer) -> None:
    """`PWD` tells a prefix of names, in quotes; its Unix file system is reached by a path from the root."""
    server.faults = FtpFaults(replies={"PWD": "257 \"'ACME.'\" is the working directory name prefix."})
    with pytest.raises(Unsupported, match=r"data sets, of z/OS: 'ACME\.'") as raised:
        async with faulty(server):
            pass
    assert "/u/acme" in str(raised.value.hint)
    backend = FtpSettings.model_validate(
        {"type": "ftp", "host": server.host, "port": server.port, "user": server.user}
        | {"password": f"file:{server.folder.parent / 'secret'}"}
    ).backend("partner")
    for _ in range(2):
        with pytest.raises(Unsupported):
            await backend.open()
        await backend.close()
    (server.folder / "u/acme").mkdir(parents=True)
    async with faulty(server, root="/u/acme") as storage:
        await storage.write_bytes("x", b"1")
    assert (server.folder / "u/acme/x").read_bytes() == b"1"
