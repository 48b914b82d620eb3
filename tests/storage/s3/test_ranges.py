"""Large objects are read in ranges: which, how many at once, and in how much memory."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from aiohttp import web

from crossdock.errors import ProtocolViolation
from crossdock.storage.storage import Storage
from tests.storage.s3.faults import FaultProxy, Forward, Upstream, answer, drop, edit
from tests.storage.s3.places import LARGE, MIB, BotoPeer, backend, chunks


class TestRanges:
    async def test_a_range_that_was_not_asked_for(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        peer.write("name", LARGE)

        def shift(found: Upstream) -> None:
            drop(found, "content-range")
            found.headers["Content-Range"] = f"bytes 1-{5 * MIB}/{len(LARGE)}"

        proxy.fail("GET", "/name", edit(shift), 100)
        with pytest.raises(ProtocolViolation, match="came instead"):
            await storage.read_bytes("name")

    async def test_a_later_range_that_was_not_asked_for(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        peer.write("name", LARGE)
        async with storage.read("name") as reader:
            proxy.fail("GET", "/name", answer(206, b"x" * 10, content_range=f"bytes 0-9/{len(LARGE)}", etag="x"), 100)
            with pytest.raises(ProtocolViolation, match="asked for"):
                async for _ in chunks(reader):
                    pass

    async def test_a_range_that_ends_early_without_a_word(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        """In chunks nothing tells the length: what is missing is asked for again."""
        peer.write("name", LARGE)

        async def short(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            found = await forward()
            kept = {"etag", "content-range"}
            headers = {name: value for name, value in found.headers.items() if name.lower() in kept}
            response = web.StreamResponse(status=206, headers=headers)
            response.enable_chunked_encoding()
            await response.prepare(request)
            await response.write(found.body[:-MIB])
            return response

        proxy.fail("GET", "/name", short, 2)
        assert await storage.read_bytes("name", limit=len(LARGE)) == LARGE
        assert proxy.count("GET /") >= 5

    async def test_a_store_without_ranges_holds_nobody_up(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        """All comes at once: no more of it is held than of a part, however slow its reader."""
        peer.write("name", LARGE)
        proxy.deaf_to = "range"
        async with storage.read("name") as reader, asyncio.timeout(60):
            found = await reader.read()
            (held,) = reader._ranges  # type: ignore[attr-defined]
            while held._room.is_set() or held._held < 5 * MIB:
                await asyncio.sleep(0.01)
            assert held._held <= 6 * MIB
            async for chunk in chunks(reader):
                found += chunk
        assert found == LARGE

    @pytest.mark.parametrize("header", ["Content-Range", "ETag"])
    async def test_what_a_part_must_say(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, header: str) -> None:
        peer.write("name", LARGE)
        proxy.fail("GET", "/name", edit(lambda found: drop(found, header.lower())))
        with pytest.raises(ProtocolViolation, match=header):
            await storage.read_bytes("name")

    async def test_parts_that_are_called_whole(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        """rclone's server answers 200 where 206 is due."""
        peer.write("name", LARGE)

        def promote(found: Upstream) -> None:
            found.status = 200 if found.status == 206 else found.status

        proxy.fail("GET", "/name", edit(promote), 100)
        assert await storage.read_bytes("name", limit=len(LARGE)) == LARGE
        async with storage.read("name", offset=5) as reader:
            assert b"".join([chunk async for chunk in chunks(reader)]) == LARGE[5:]

    @pytest.mark.parametrize("more", [0, 1])
    async def test_parts_that_pass_for_the_whole(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer, more: int
    ) -> None:
        """Of a file of 20 MiB the first part was all that arrived, and counted as done."""
        data = LARGE[: 5 * MIB + more]
        peer.write("name", data)

        def whole(found: Upstream) -> None:
            found.status = 200
            drop(found, "content-range")

        proxy.fail("GET", "/name", edit(whole), 100)
        if not more:
            assert await storage.read_bytes("name") == data
            return
        with pytest.raises(ProtocolViolation, match=f"{5 * MIB} bytes came as if they were all, of {len(data)}"):
            await storage.read_bytes("name")

    async def test_a_range_of_nothing(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        """s3rver answers with a part of one byte that does not exist."""
        peer.write("name", b"")
        proxy.fail("GET", "name", answer(206, content_range="bytes 0-0/0", content_length="1"))
        assert await storage.read_bytes("name") == b""

    async def test_a_store_without_ranges(self, storage: Storage, proxy: FaultProxy, peer: BotoPeer) -> None:
        """The whole object comes: it is streamed as it is, in bounded memory."""
        peer.write("name", LARGE)
        proxy.fail("GET", "/name", answer(200, LARGE, etag='"x"'), 100)
        assert await storage.read_bytes("name") == LARGE
        with pytest.raises(ProtocolViolation):
            async with storage.read("name", offset=5):
                pass

    async def test_memory_is_bounded(self, storage: Storage, peer: BotoPeer) -> None:
        """A reader that is not read from holds two parts; one that is waited for, `read_concurrency` at most."""
        data = LARGE * 4
        peer.write("name", data)
        async with storage.read("name") as reader:
            first = await reader.read()
            tasks = [part._task for part in reader._ranges]  # type: ignore[attr-defined]
            await asyncio.wait(tasks)
            held = sum(part._held for part in reader._ranges)  # type: ignore[attr-defined]
            assert held + len(first) <= 2 * 5 * MIB
            assert len(reader._ranges) == 2  # type: ignore[attr-defined]
            found, most = first, 0
            while chunk := await reader.read():
                found += chunk
                most = max(most, len(reader._ranges))  # type: ignore[attr-defined]
                for part in reader._ranges:  # type: ignore[attr-defined]
                    part.waited_for = True
        assert found == data and most == 4

    @pytest.mark.parametrize("most", [1, 3])
    async def test_as_many_ranges_as_are_allowed(
        self, proxy: FaultProxy, peer: BotoPeer, monkeypatch: pytest.MonkeyPatch, most: int
    ) -> None:
        data = LARGE * 4
        peer.write("name", data)
        inner = backend(proxy, peer.bucket, monkeypatch, part_size="5M", read_concurrency=most)
        found, seen = b"", set()
        async with Storage(inner) as storage, storage.read("name") as reader:
            while chunk := await reader.read():
                found += chunk
                seen.add(len(reader._ranges))  # type: ignore[attr-defined]
                for part in reader._ranges:  # type: ignore[attr-defined]
                    part.waited_for = True
        assert found == data and max(seen) == most

    async def test_from_far_away_more_ranges_are_begun_before_the_first_is_here(
        self, storage: Storage, proxy: FaultProxy, peer: BotoPeer
    ) -> None:
        """The first bytes of each come slowly there."""
        data = LARGE * 4
        peer.write("name", data)
        all_asked = asyncio.Event()
        asked = 0

        async def far(request: web.BaseRequest, forward: Forward) -> web.StreamResponse:
            nonlocal asked
            asked += 1
            if asked == 4:
                all_asked.set()
            found = await forward()
            kept = {"etag", "content-range"}
            headers = {name: text for name, text in found.headers.items() if name.lower() in kept}
            response = web.StreamResponse(status=found.status, headers=headers)
            response.content_length = len(found.body)
            await response.prepare(request)
            step = 300 * 1024
            for start in range(0, len(found.body), step):
                await response.write(found.body[start : start + step])
                # A trickle until all are under way: more than one wait, none of them long.
                with suppress(TimeoutError):
                    await asyncio.wait_for(all_asked.wait(), 0.03)
            return response

        proxy.fail("GET", "/name", far, 100)
        size = 0
        async with storage.read("name") as reader:
            while not all_asked.is_set():
                size += len(await reader.read())
                assert size < 5 * MIB
