"""One-way sync of a tree: what it may delete at the target, and when it deletes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from crossdock.errors import Conflict, ConnectionFailed
from crossdock.storage.base import Entry
from crossdock.storage.layers import Layer
from crossdock.storage.storage import Storage
from tests.engine.sync.trees import TREE, content, filled, run


async def test_never_deletes_unless_told() -> None:
    source, target = await filled("a", TREE), await filled("b", {"extra": b"x"})
    summary, _ = await run(source, target)
    assert (await content(target))["extra"] == b"x"
    summary, outcomes = await run(source, target, delete=True)
    assert summary.deleted == 1
    assert outcomes["extra"].action == "delete"
    assert await content(target) == TREE


@pytest.mark.parametrize(
    ("tree", "options", "why"),
    [
        ({}, {}, "source is empty"),
        ({"a.txt": b"a"}, {}, "more than the"),
        ({"a.txt": b"a"}, {"max_delete": 4}, "more than the 4"),
    ],
)
async def test_delete_refuses_what_looks_like_an_accident(
    tree: dict[str, bytes], options: dict[str, object], why: str
) -> None:
    source, target = await filled("a", tree), await filled("b", TREE)
    with pytest.raises(Conflict, match=why):
        await run(source, target, delete=True, **options)  # type: ignore[arg-type]
    assert await content(target) == TREE


async def test_delete_within_the_bound_goes_through() -> None:
    source, target = await filled("a", {"a.txt": b"a"}), await filled("b", TREE)
    summary, _ = await run(source, target, delete=True, max_delete=5)
    assert summary.deleted == 5
    assert await content(target) == {"a.txt": b"a"}


class DeletesTogether(Layer):
    together = asyncio.Barrier(4)

    async def delete(self, path: str) -> None:
        await self.together.wait()
        await self.inner.delete(path)


async def test_deletes_side_by_side() -> None:
    """A far server takes its time for each; ten thousand, one after the other, take a quarter of an hour."""
    source, target = await filled("a", {"a.txt": b"a"}), await filled("b", dict.fromkeys("bcdefghi", b"x"))
    async with asyncio.timeout(60):
        summary, _ = await run(
            source, Storage(DeletesTogether(target.backend)), delete=True, max_delete=1.0, transfers=4
        )
    assert summary.deleted == 8
    assert await content(target) == {"a.txt": b"a"}


class ListingDies(Layer):
    async def scan(self, path: str, *, recursive: bool = False) -> AsyncGenerator[list[Entry]]:
        async for page in self.inner.scan(path, recursive=recursive):
            yield page[:2]
            raise self.error(ConnectionFailed, "list", path, "the wire was cut")


@pytest.mark.parametrize("side", ["source", "target"])
async def test_listing_that_dies_halfway_deletes_nothing(side: str) -> None:
    """A shorter listing is an error, not a smaller tree."""
    source, target = await filled("a", TREE), await filled("b", TREE | {"extra": b"x"})
    broken = Storage(ListingDies(source.backend if side == "source" else target.backend))
    with pytest.raises(ConnectionFailed):
        await run(broken if side == "source" else source, broken if side == "target" else target, delete=True)
    assert (await content(target)).keys() == (TREE | {"extra": b"x"}).keys()
