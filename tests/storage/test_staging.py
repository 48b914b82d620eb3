"""Replacing a file where one rename cannot do it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from crossdock.errors import AlreadyExists, ConnectionFailed, NotFound
from crossdock.storage.staging import publish_by_swap, token_of, undo_swap

_ATTEMPT = "0123456789ab"


@dataclass
class Folder:
    """Files whose names change one round trip after they were asked to."""

    files: dict[str, str] = field(default_factory=lambda: {"name": "old", "temporary": "new"})
    steps: int = 0
    failing: int | None = None
    """The step that the connection breaks at, before or after it is done."""
    done: bool = False
    cancelled: int | None = None
    """The step that the caller is cancelled at, with whom to cancel."""
    task: asyncio.Task[None] | None = None

    async def _trip(self) -> None:
        self.steps += 1
        if self.steps == self.cancelled and self.task is not None:
            self.task.cancel()
        await asyncio.sleep(0)
        if not self.done:
            self._break()

    def _break(self) -> None:
        if self.steps == self.failing:
            raise ConnectionFailed("the wire was cut", operation="rename", endpoint="memory")

    async def rename(self, old: str, new: str) -> None:
        await self._trip()
        if old not in self.files:
            raise NotFound("no such file", operation="rename", endpoint="memory", path=old)
        if new in self.files:
            raise AlreadyExists("the file exists", operation="rename", endpoint="memory", path=new)
        self.files[new] = self.files.pop(old)
        self._break()
        await asyncio.sleep(0)

    async def remove(self, path: str) -> None:
        await self._trip()
        self.files.pop(path, None)
        await asyncio.sleep(0)

    async def publish(self) -> None:
        await publish_by_swap(self.rename, self.remove, "temporary", "name", _ATTEMPT)


@pytest.mark.parametrize("step", [1, 2, 3])
async def test_a_swap_that_is_cancelled_comes_to_its_end(step: int) -> None:
    """Half of it would leave no file under the name, and nobody to bring the old one back."""
    folder = Folder(cancelled=step)
    folder.task = asyncio.create_task(folder.publish())
    with pytest.raises(asyncio.CancelledError):
        await folder.task
    assert folder.files == {"name": "new"}


@pytest.mark.parametrize(("step", "done"), [(1, False), (1, True), (2, False)])
async def test_a_swap_that_fails_brings_the_old_file_back(step: int, done: bool) -> None:
    folder = Folder(failing=step, done=done)
    with pytest.raises(ConnectionFailed):
        await folder.publish()
    assert folder.files == {"name": "old", "temporary": "new"}


async def test_a_swap_that_was_done_when_its_answer_was_lost_is_left_alone() -> None:
    folder = Folder(failing=2, done=True)
    with pytest.raises(ConnectionFailed):
        await folder.publish()
    assert folder.files["name"] == "new"


async def test_where_the_old_file_lies_is_told_if_it_cannot_come_back(caplog: pytest.LogCaptureFixture) -> None:
    folder = Folder(failing=2)

    async def rename(old: str, new: str) -> None:
        if folder.steps >= 2:
            folder.failing = folder.steps + 1
        await folder.rename(old, new)

    with pytest.raises(ConnectionFailed):
        await publish_by_swap(rename, folder.remove, "temporary", "name", _ATTEMPT)
    (aside,) = set(folder.files) - {"temporary"}
    assert f"the file that was 'name' may lie at {aside!r}" in caplog.text


async def test_a_swap_that_was_killed_is_undone() -> None:
    folder = Folder()
    folder.failing = 3
    with pytest.raises(ConnectionFailed):
        await folder.publish()
    assert len(folder.files) == 2
    await undo_swap(folder.rename, folder.remove, token_of("name", _ATTEMPT))
    assert folder.files == {"name": "new"}
