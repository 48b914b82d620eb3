"""Several attempts at one file: bounded, resumed where the target can, nothing left behind when they end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from crossdock.errors import CrossdockError, SourceChanged
from crossdock.storage.base import Entry
from crossdock.storage.retry import RetryPolicy
from crossdock.storage.storage import Storage
from crossdock.storage.waiting import to_its_end
from crossdock.transfer.copy import CopyOptions, copy
from crossdock.transfer.receipt import Receipt

__all__ = ["deliver"]


async def deliver(
    source: Storage,
    path: str,
    target: Storage,
    to: str,
    *,
    pin: Entry | None = None,
    options: CopyOptions | None = None,
    policy: RetryPolicy | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Receipt, int]:
    """`copy()` until it succeeds, fails for good, or the policy's bounds are reached. Returns the attempts it took.

    A file that changed under an attempt is taken as it is at the next one. `progress` is told a negative number when an
    attempt fails: what it had moved does not count.
    """
    options = options or CopyOptions()
    policy = policy or RetryPolicy()
    attempts = moved = 0
    last = policy.clock()
    token: bytes | None = options.resume

    def count(size: int) -> None:
        nonlocal moved, last
        moved += size
        if size > 0:
            last = policy.clock()
        if progress is not None:
            progress(size)

    def keep(checkpoint: bytes) -> None:
        nonlocal token
        token = checkpoint

    async def attempt() -> Receipt:
        nonlocal attempts, pin
        attempts += 1
        if moved:
            count(-moved)
        try:
            return await copy(
                source,
                path,
                target,
                to,
                pin=pin,
                options=replace(options, resume=token),
                progress=count,
                on_checkpoint=keep if target.capabilities.resume_write else None,
            )
        except SourceChanged as error:
            # Asking for the old file again is pointless; taking the new one is not.
            error.exhausted = False
            pin = None
            await forget()
            raise

    async def forget() -> None:
        nonlocal token
        if token is not None:
            staged, token = token, None
            await to_its_end(target.discard(staged))

    try:
        receipt = await policy.run(attempt, moved=lambda: last)
    except BaseException as error:
        if moved:
            count(-moved)
        try:
            await forget()
        except CrossdockError as failed:
            error.add_note(f"what was staged is left behind ('crossdock doctor' removes it a day later): {failed}")
        raise
    return receipt, attempts
