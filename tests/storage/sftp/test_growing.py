"""What is known of a file once it has been read: that it grows, or is not to be looked at any more."""

from __future__ import annotations

import os
import struct

import pytest

from crossdock.errors import SourceChanged
from crossdock.storage.sftp import codec as c
from tests.storage.sftp.fake_server import FakeSftp, status
from tests.storage.sftp.places import served

DATA = os.urandom(100_000)


async def test_a_file_that_still_grows_at_its_end() -> None:
    """More came than was there when it was opened, and at its end there is more again: nothing proves it whole."""
    sftp = FakeSftp(x=DATA)
    sizes = {c.FSTAT: len(DATA) - 60_000, c.STAT: len(DATA) + 1}
    sftp.hook = lambda kind, body: (c.ATTRS, struct.pack(">IQ", c.A_SIZE, sizes[kind])) if kind in sizes else None
    async with served(sftp) as (storage, _):
        with pytest.raises(SourceChanged, match="grows while it is read"):
            await storage.read_bytes("x")


@pytest.mark.parametrize(("refusal", "changed"), [(2, True), (3, None), (4, None)])
async def test_a_file_that_may_not_be_looked_at_again(refusal: int, changed: bool | None) -> None:
    """Neither by its name nor by its handle. That it is gone is known; otherwise nothing is."""
    sftp = FakeSftp(x=DATA)

    def hook(kind: int, body: bytes) -> tuple[int, bytes] | None:
        if kind == c.STAT or (kind == c.FSTAT and c.STAT in sftp.seen):
            return status(refusal)
        return None

    async with served(sftp) as (storage, _):
        sftp.hook = hook
        sftp.seen.clear()
        reader = await storage.backend.begin_read("x")
        found = b""
        while chunk := await reader.read():
            found += chunk
        assert (found, reader.changed) == (DATA, changed)
        await reader.close()
