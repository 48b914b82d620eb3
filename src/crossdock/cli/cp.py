"""cp: copy files by name, or a tree with -r; each copy ends with a receipt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from crossdock.cli.options import SIZE
from crossdock.cli.progress import on_a_terminal
from crossdock.cli.reporter import Reporter
from crossdock.cli.session import Session, common, opened
from crossdock.errors import CrossdockError, NotADirectory, NotAFile, NotFound, PermissionDenied

if TYPE_CHECKING:
    from crossdock.config import Location
    from crossdock.engine.sync import Outcome
    from crossdock.storage.base import Entry
    from crossdock.storage.retry import RetryPolicy
    from crossdock.storage.storage import Storage
    from crossdock.transfer.copy import CopyOptions
    from crossdock.transfer.receipt import Receipt

__all__ = ["cp"]

_AT_ONCE = 4


@dataclass(frozen=True)
class _Job:
    place: Location
    source: Storage
    to: str
    tree: bool


@click.command()
@click.argument("sources", nargs=-1, metavar="SRC...")
@click.argument("target", metavar="DST")
@click.option("-r", "--recursive", is_flag=True, help="Copy folders with all that is in them; what is there stays.")
@click.option("--no-overwrite", is_flag=True, help="Fail for files that exist with other content.")
@click.option("--bwlimit", type=SIZE, help="Bytes a second, all files together, such as 10M.")
@click.option(
    "--retries", metavar="N", type=click.IntRange(0, 100), default=3, show_default=True, help="New attempts per file."
)
@click.option("--json", "as_json", is_flag=True, help="One receipt per line, and a summary.")
@common
@click.pass_obj
def cp(
    session: Session,
    sources: tuple[str, ...],
    target: str,
    recursive: bool,
    no_overwrite: bool,
    bwlimit: int | None,
    retries: int,
    as_json: bool,
) -> int:
    """Copy SRC to DST.

    DST is a folder if it ends with a slash, if it is the root of an endpoint, or if there is a folder of that name;
    then files keep their names. Otherwise it is the new name. Files under their final name are always complete.
    """
    if not sources:
        raise click.UsageError("where from, and where to: only one place was named")
    places, there = [session.locate(source) for source in sources], session.locate(target)
    from crossdock.storage.retry import RetryPolicy
    from crossdock.transfer.copy import CopyOptions

    reporter = Reporter(session, json=as_json, receipts=True)
    options, policy = CopyOptions(overwrite=not no_overwrite), RetryPolicy(attempts=retries + 1)

    async def work() -> int:
        with reporter.running():
            replaces = not no_overwrite
            async with opened(*places, there, bandwidth=bwlimit, retries=retries, looking=replaces) as storages:
                target_storage = storages[-1]
                jobs = await _plan(places, storages[:-1], there, target_storage, recursive)
                mover = _Mover(target_storage, options, policy, reporter, blind=there.drop_box)
                await mover.run(jobs)
        if _is_alone(jobs) and reporter.failures:
            raise reporter.failures[0]
        return reporter.finish()

    return session.run(work)


async def _plan(
    places: Sequence[Location], sources: Sequence[Storage], there: Location, target: Storage, recursive: bool
) -> list[_Job]:
    """Where each source goes. Refuses, before anything is moved, what cannot be meant."""
    into = there.folder or await _is_folder(target, there.path)
    if len(places) > 1 and not into:
        raise click.UsageError(f"several sources need a folder as their target, and {there.shown()} is none")
    jobs: list[_Job] = []
    names: dict[str, Location] = {}
    for place, source in zip(places, sources, strict=True):
        tree = (place.folder or await _is_folder(source, place.path)) if recursive else False
        if not recursive and place.folder:
            raise click.UsageError(f"{place.shown()} is a folder; add -r to copy it with all that is in it")
        name = place.path.rpartition("/")[2]
        to = "/".join(part for part in (there.path, name) if part) if into else there.path
        if tree and not name and len(places) > 1:
            # A root has no name that its files would stay apart by.
            raise click.UsageError(f"{place.shown()} is the root of its endpoint; copy it by itself")
        if to in names:
            raise click.UsageError(
                f"{names[to].shown()} and {place.shown()} would both become {there.shown(to)}; copy them one by one"
            )
        names[to] = place
        jobs.append(_Job(place, source, to, tree))
    return jobs


async def _is_folder(storage: Storage, path: str) -> bool:
    if not path:
        return True
    try:
        return (await storage.stat(path)).kind == "dir"
    except (NotFound, NotADirectory, PermissionDenied):
        # Where nothing may be looked at, files may still be written to, or read from, a name that is known.
        return False


def _is_alone(jobs: Sequence[_Job]) -> bool:
    """One file: its failure is the failure of the command."""
    return len(jobs) == 1 and not jobs[0].tree


class _Mover:
    """Moves the jobs, a few single files at once, trees one after the other."""

    def __init__(
        self, target: Storage, options: CopyOptions, policy: RetryPolicy, reporter: Reporter, *, blind: bool
    ) -> None:
        self.target, self.options, self.policy, self.reporter = target, options, policy, reporter
        self.blind = blind
        """What is at the target cannot be listed."""
        self.alone = False
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def run(self, jobs: Sequence[_Job]) -> None:
        self.alone = _is_alone(jobs)
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                if not job.tree:
                    group.create_task(self._file(job))
        for job in jobs:
            if job.tree:
                await self._tree(job)

    async def _file(self, job: _Job) -> None:
        from crossdock.engine.attempts import deliver
        from crossdock.engine.sync import Outcome

        path = job.place.path
        async with self._slots:
            started = time.monotonic()
            try:
                pin = await self._pin(job)
                size = pin.size if pin is not None else None
                self.reporter.progress(path, 0, size)
                receipt, attempts = await deliver(
                    job.source,
                    path,
                    self.target,
                    job.to,
                    pin=pin,
                    options=self.options,
                    policy=self.policy,
                    progress=lambda added: self.reporter.progress(path, added, size),
                )
            except CrossdockError as error:
                ours = (job.source.endpoint, path)
                if isinstance(error, (NotAFile, NotFound)) and (error.endpoint, error.path) == ours:
                    with suppress(CrossdockError):
                        if await _is_folder(job.source, path):
                            error.hint = "add -r to copy a folder with all that is in it"
                seconds = time.monotonic() - started
                failed = Outcome(path=path, action="fail", reason="asked for", seconds=seconds, error=error)
                self.reporter.report(failed, tell=not self.alone)
                return
        self.reporter.report(_outcome(path, receipt, attempts))

    async def _pin(self, job: _Job) -> Entry | None:
        """For the progress display: the size, where it can be had without a second look at the file."""
        if not on_a_terminal() or self.reporter.session.quiet:
            return None
        entry = await job.source.stat(job.place.path)
        return entry if entry.kind == "file" else None

    async def _tree(self, job: _Job) -> None:
        from crossdock.engine.attempts import deliver
        from crossdock.engine.sync import SyncOptions, sync
        from crossdock.storage.memory import MemoryBackend
        from crossdock.storage.storage import Storage

        def full(path: str) -> str:
            return f"{job.place.path}/{path}" if job.place.path else path

        async def courier(path: str, to: str, pin: Entry, progress: Callable[[int], None]) -> tuple[Receipt, int]:
            return await deliver(
                job.source, path, self.target, to, pin=pin, options=self.options, policy=self.policy, progress=progress
            )

        def report(outcome: Outcome) -> None:
            self.reporter.report(replace(outcome, path=full(outcome.path)))

        await sync(
            job.source,
            job.place.path,
            Storage(MemoryBackend()) if self.blind else self.target,
            job.to,
            SyncOptions(policy=self.policy),
            report=report,
            progress=lambda path, added, size: self.reporter.progress(full(path), added, size),
            courier=courier,
        )


def _outcome(path: str, receipt: Receipt, attempts: int) -> Outcome:
    from crossdock.engine.sync import Outcome

    present = receipt.method == "present"
    return Outcome(
        path=path,
        action="skip" if present else "copy",
        reason="the target already holds these bytes" if present else "asked for",
        size=receipt.size,
        sha256=receipt.sha256,
        seconds=receipt.seconds,
        attempts=attempts,
        receipt=receipt,
    )
