"""What the failure of an attempt means, case by case."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from crossdock.engine.endpoints import Endpoints
from crossdock.engine.verdicts import backoff, judge
from crossdock.errors import (
    AuthenticationFailed,
    Conflict,
    ConnectionFailed,
    CrossdockError,
    IntegrityError,
    NoSpace,
    NotAFile,
    NotFound,
    NotInstalled,
    PermissionDenied,
    SecretUnavailable,
    SourceChanged,
    Throttled,
)
from crossdock.flows.flow import Retry
from crossdock.storage.secret import Secret
from crossdock.storage.storage import Storage
from tests.engine.places import Faulty

RETRY = Retry(attempts=3, give_up=1000.0, base=5.0, longest=60.0)


def at(kind: Any, endpoint: str = "dst", **more: Any) -> CrossdockError:
    found: CrossdockError = kind("told", operation="write", endpoint=endpoint, path="a", **more)
    return found


def still_listed() -> SourceChanged:
    error = SourceChanged("changed")
    error.still_listed = True
    return error


CASES: list[tuple[CrossdockError, dict[str, Any], str]] = [
    (at(NotFound, "src"), {"at_source": True}, "skip"),
    (at(NotFound), {}, "fail"),
    (at(NotAFile, "src"), {"at_source": True}, "skip"),
    (at(NotAFile), {}, "fail"),
    (SourceChanged("changed"), {}, "skip"),
    (Conflict("there"), {"on_conflict": "skip"}, "skip"),
    (Conflict("there"), {"on_conflict": "fail"}, "fail"),
    (at(PermissionDenied), {}, "fail"),
    (at(ConnectionFailed), {"pause": 15.0}, "pause"),
    (at(AuthenticationFailed), {"pause": 900.0}, "pause"),
    (at(AuthenticationFailed), {}, "fail"),
    (at(ConnectionFailed), {"pause": 15.0, "age": 1001.0}, "fail"),
    (SecretUnavailable("not set"), {"age": 1001.0}, "fail"),
    (IntegrityError("other bytes"), {}, "retry"),
    (IntegrityError("other bytes"), {"attempt": 2}, "retry"),
    (IntegrityError("other bytes"), {"attempt": 3}, "fail"),
    (IntegrityError("other bytes"), {"age": 1001.0}, "fail"),
    (SourceChanged("changed"), {"age": 1001.0}, "skip"),
    (still_listed(), {}, "retry"),
    (still_listed(), {"attempt": 3}, "fail"),
]


@pytest.mark.parametrize(("error", "more", "what"), CASES, ids=lambda case: type(case).__name__)
def test_judge(error: CrossdockError, more: dict[str, Any], what: str) -> None:
    asked = {"attempt": 1, "age": 1.0, "on_conflict": "overwrite", "at_source": False, **more}
    found = judge(error, RETRY, draw=lambda low, high: high, **asked)
    assert found.what == what
    assert found.reason
    assert found.seconds == {"retry": 5.0 * 2 ** (asked["attempt"] - 1), "pause": (more.get("pause") or 0) + 5.0}.get(
        what, 0.0
    )


@pytest.mark.parametrize("error", [SecretUnavailable("not set"), NotInstalled("no aiohttp")], ids=type)
def test_a_secret_or_extra_that_is_not_there_is_no_files_fault(error: CrossdockError) -> None:
    """It is being replaced, or was forgotten: what waits for it is not lost."""
    asked: dict[str, Any] = {"age": 1.0, "on_conflict": "overwrite", "at_source": False}
    found = judge(error, RETRY, attempt=99, draw=lambda low, high: low, **asked)
    assert (found.what, found.seconds) == ("pause", 300.0)


def test_a_full_disk_is_no_files_fault() -> None:
    """It is tried again more and more seldom, for as long as the flow says, and then it works without a hand."""
    asked: dict[str, Any] = {"on_conflict": "overwrite", "at_source": False, "draw": lambda low, high: low}
    longest = Retry(attempts=3, give_up=1000.0, longest=400.0)
    for age, wait in ((1.0, 60.0), (300.0, 150.0), (999.0, 400.0)):
        found = judge(at(NoSpace), longest, attempt=99, age=age, **asked)
        assert (found.what, found.seconds) == ("pause", wait)
        apart = judge(at(NoSpace), longest, attempt=99, age=age, **{**asked, "draw": lambda low, high: high})
        assert apart.seconds == 2 * wait, "not all at the same moment again"
    assert judge(at(NoSpace), longest, attempt=1, age=1001.0, **asked).what == "fail"


def test_waits_grow_to_a_bound_and_heed_what_was_asked() -> None:
    def longest(attempt: int, error: CrossdockError) -> float:
        return backoff(RETRY, attempt, error, lambda low, high: high)

    assert [longest(n, at(ConnectionFailed)) for n in (1, 2, 3, 4, 5, 99)] == [5, 10, 20, 40, 60, 60]
    assert backoff(RETRY, 1, at(ConnectionFailed), lambda low, high: low) == 0
    assert backoff(RETRY, 1, at(NoSpace), lambda low, high: low) == 60
    assert backoff(RETRY, 1, at(Throttled, retry_after=300.0), lambda low, high: low) == 300


async def test_the_breaker() -> None:
    now = 0.0
    async with Endpoints(lambda name: Storage(Faulty(name)), clock=lambda: now) as ends:
        error = at(ConnectionFailed)
        assert not ends.failed("src", error), "another endpoint's fault"
        assert not ends.failed("dst", at(PermissionDenied)), "the file's fault"
        assert [ends.failed("dst", error) for _ in range(2)] == [True, True]
        assert ends.pause("dst") == (0.0, "")
        for _ in range(16):
            ends.failed("dst", error)
        assert ends.pause("src", "dst")[0] == 15.0
        now = 15.0
        assert ends.pause("dst")[0] == 0
        ends.failed("dst", error)
        assert ends.pause("dst")[0] == 30.0
        now = 100.0
        ends.worked("dst")
        ends.failed("dst", error)
        assert ends.pause("dst")[0] == 0
        ends.failed("dst", at(AuthenticationFailed))
        assert ends.pause("dst")[0] == 900.0
        assert await ends.storage("a") is await ends.storage("a")


async def test_a_full_server_is_asked_again_at_the_same_pace() -> None:
    now = 0.0
    async with Endpoints(lambda name: Storage(Faulty(name)), clock=lambda: now) as ends:
        full = Throttled("421 Too many users", operation="connect", endpoint="dst")
        for _ in range(6):
            assert ends.failed("dst", full)
            now += ends.pause("dst")[0]
        assert now == 4 * 15.0


async def test_what_is_opened_early_fails_who_asks_first() -> None:
    door = Faulty("a")
    door.faults["open"] = [AuthenticationFailed("no", operation="sign in", endpoint="a")]
    async with Endpoints(lambda name: Storage(door)) as ends:
        ends.begin("a")
        ends.begin("a")
        while not door.calls["open"]:
            await asyncio.sleep(0.001)
        assert ends.pause("a")[0] == 0, "nobody has asked"
        with pytest.raises(AuthenticationFailed):
            await ends.storage("a")
        assert (door.calls["open"], ends.pause("a")[0] > 0) == (1, True)
        assert await ends.storage("a") is await ends.storage("a")
        assert door.calls["open"] == 2


async def test_one_refusal_is_enough_for_all_who_wait() -> None:
    """Each further one brings the account nearer to being locked."""
    door = Faulty("a")
    door.gates["open"] = asyncio.Event()
    door.faults["open"] = [AuthenticationFailed("no", operation="sign in", endpoint="a") for _ in range(16)]
    async with Endpoints(lambda name: Storage(door)) as ends:
        asking = [asyncio.create_task(ends.storage("a")) for _ in range(16)]
        while not door.calls["open"]:
            await asyncio.sleep(0.001)
        door.gates["open"].set()
        told = await asyncio.gather(*asking, return_exceptions=True)
        assert door.calls["open"] == 1
        assert [type(each) for each in told] == [AuthenticationFailed] + [ConnectionFailed] * 15


@pytest.mark.parametrize("operation", ["connect", "open"])
async def test_a_server_that_is_full_is_no_files_fault(operation: str) -> None:
    """Each file had asked in turn, for minutes, until its attempts were used up: it failed for good."""
    door = Faulty("dst")
    full = Throttled("421 Too many users", operation=operation, endpoint="dst")
    door.faults["open"] = [full for _ in range(16)]
    async with Endpoints(lambda name: Storage(door)) as ends:
        told = await asyncio.gather(*(ends.for_file("dst") for _ in range(16)), return_exceptions=True)
        assert all("421 Too many users" in str(each) for each in told)
        assert door.calls["open"] == 3 and ends.pause("dst")[0] > 0
        # Of one file, or of how fast it is written, it is no word about the endpoint.
        assert not ends.failed("dst", at(Throttled))


async def test_who_stops_waiting_does_not_stop_the_opening() -> None:
    door = Faulty("a")
    door.gates["open"] = asyncio.Event()
    async with Endpoints(lambda name: Storage(door)) as ends:
        first, second = asyncio.create_task(ends.storage("a")), asyncio.create_task(ends.storage("a"))
        while not door.calls["open"]:
            await asyncio.sleep(0.001)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        door.gates["open"].set()
        assert await second is await ends.storage("a")
        assert door.calls["open"] == 1


async def test_closing_ends_what_is_being_opened() -> None:
    door = Faulty("a")
    door.gates["open"] = asyncio.Event()
    async with Endpoints(lambda name: Storage(door)) as ends:
        ends.begin("a")
        while not door.calls["open"]:
            await asyncio.sleep(0.001)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(("content", "said"), [(b"\xff\xfe", "is no text"), (None, "No such file")])
async def test_a_secret_that_cannot_be_used_names_its_endpoint(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    """Whatever its file holds ends no run."""
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o600)
    door = Faulty("bank")

    async def sign_in() -> None:
        Secret(f"file:{file}").reveal()

    door.open = sign_in  # type: ignore[method-assign]
    async with Endpoints(lambda name: Storage(door)) as ends:
        with pytest.raises(SecretUnavailable, match=f"^endpoint bank: .*{file}.*{said}"):
            await ends.storage("bank")
