"""sync: bring what is new or changed from one folder to another."""

from __future__ import annotations

import os
import shlex
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossdock.cli.options import DURATION, MAX_DELETE, SIZE, OrderedGlobs, rules_of
from crossdock.cli.reporter import Reporter
from crossdock.cli.session import Session, common, enough_files, opened, run_in_child
from crossdock.errors import NotADirectory, PermissionDenied, shown

if TYPE_CHECKING:
    from crossdock.config import Location
    from crossdock.engine.sync.processes import Pool
    from crossdock.flows.filters import Filters
    from crossdock.storage.retry import RetryPolicy

__all__ = ["sync"]


@click.command(cls=OrderedGlobs)
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option("--include", multiple=True, metavar="GLOB", help="Move what matches. The first match decides.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave out what matches.")
@click.option("--min-age", type=DURATION, help="Leave out files changed less than this ago, such as 30s.")
@click.option("--max-age", type=DURATION, help="Leave out files changed longer ago, such as 7d.")
@click.option("--min-size", type=SIZE, help="Leave out smaller files, such as 1K.")
@click.option("--max-size", type=SIZE, help="Leave out larger files, such as 2G.")
@click.option("--checksum", is_flag=True, help="Compare content instead of time where sizes are equal.")
@click.option("--modify-window", type=DURATION, help="Take times no further apart than this, such as 2s, for equal.")
@click.option("--delete", is_flag=True, help="Delete at the target what the source does not have.")
@click.option(
    "--max-delete",
    type=MAX_DELETE,
    metavar="N|N%",
    default="25%",
    show_default=True,
    help="With --delete: the most that may go.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Decide and say what would be done, and do none of it.")
@click.option(
    "--transfers", metavar="N", type=click.IntRange(1, 1024), default=16, show_default=True, help="Files at once."
)
@click.option(
    "--processes",
    metavar="N",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes that move them.",
)
@click.option("--bwlimit", type=SIZE, help="Bytes a second, all files together, such as 10M.")
@click.option(
    "--retries", metavar="N", type=click.IntRange(0, 100), default=3, show_default=True, help="New attempts per file."
)
@click.option("--report", metavar="FILE", help="Write one JSON line per file, with the reason, to this file.")
@click.option("--json", "as_json", is_flag=True, help="The same lines on stdout, and a summary.")
@common
@click.pass_context
def sync(context: click.Context, /, source: str, target: str, **options: Any) -> int:
    """Bring what is new or changed below SRC to DST, one way.

    A file is unchanged if its size is the same and its modification time is, within the coarser precision of the two.
    Nothing at the target is deleted without --delete; and with it nothing if a file failed, if the source is empty,
    or if it were more than --max-delete.
    """
    session: Session = context.obj
    ours, theirs = session.locate(source), session.locate(target)
    from datetime import timedelta

    from crossdock.engine.sync import SyncOptions
    from crossdock.engine.sync import sync as run_sync
    from crossdock.flows.filters import Filters
    from crossdock.storage.retry import RetryPolicy

    min_age, max_age = options["min_age"], options["max_age"]
    filters = Filters(
        rules=rules_of(context),
        min_age=None if min_age is None else timedelta(seconds=min_age),
        max_age=None if max_age is None else timedelta(seconds=max_age),
        min_size=options["min_size"],
        max_size=options["max_size"],
    )
    if options["report"] is not None:
        for place in (ours, theirs):
            _keep_apart(options["report"], place, filters)
    policy = RetryPolicy(attempts=options["retries"] + 1)
    settings = SyncOptions(
        filters=filters,
        policy=policy,
        modify_window=timedelta(seconds=options["modify_window"] or 0),
        **{name: options[name] for name in ("checksum", "delete", "max_delete", "dry_run", "transfers")},
    )
    reporter = Reporter(session, json=options["as_json"], dry_run=options["dry_run"], file=options["report"])
    pool = None
    if options["processes"] > 1 and not options["dry_run"]:
        enough_files(options["processes"])
        # One more lists and compares.
        ours, theirs = (_shared(location, options["processes"] + 1) for location in (ours, theirs))
        # Forked before the event loop and any thread exist.
        pool = _pool(ours, theirs, options["processes"], options["bwlimit"], policy)

    async def work() -> int:
        async with AsyncExitStack() as stack:
            stack.enter_context(reporter.running())
            if pool is not None:
                await stack.enter_async_context(pool)
            storages = await stack.enter_async_context(
                opened(ours, theirs, bandwidth=options["bwlimit"], retries=options["retries"], looking=True)
            )
            try:
                await run_sync(
                    storages[0],
                    ours.path,
                    storages[1],
                    theirs.path,
                    settings,
                    report=reporter.report,
                    progress=reporter.progress,
                    courier=pool,
                )
            except NotADirectory as error:
                if error.hint in (None, error.next_step):
                    error.hint = "sync takes folders; a single file is moved by: crossdock cp"
                raise
            except PermissionDenied as error:
                if theirs.drop_box and error.endpoint == theirs.name:
                    error.hint = "sync has to see what is there; to send everything without looking: crossdock cp -r"
                raise
        return reporter.finish()

    return session.run(work)


def _keep_apart(report: str, place: Location, filters: Filters) -> None:
    """Among the files of the sync it would be copied while it grows, or deleted."""
    if place.settings.type != "local":
        return
    name = os.path.relpath(os.path.realpath(report), os.path.realpath(Path(place.settings.root) / place.path))
    if name.split("/")[0] != ".." and filters.name_verdict(name) is None:
        raise click.UsageError(
            f"the report {shown(report)} would be one of the files in {place.shown()}; "
            f"write it elsewhere, or add --exclude {shlex.quote(f'/{shown(name)}')}"
        )


def _shared(location: Location, processes: int) -> Location:
    return replace(location, settings=location.settings.shared(processes))


def _replacing(location: Location) -> Location:
    return replace(location, settings=location.settings.looking())


def _pool(ours: Location, theirs: Location, processes: int, bwlimit: int | None, policy: RetryPolicy) -> Pool:
    from crossdock.engine.sync.processes import Pool

    share = bwlimit / processes if bwlimit else None
    return Pool(
        processes,
        lambda: _replacing(ours).storage(),
        lambda: _replacing(theirs).storage(bandwidth=share),
        policy=policy,
        run=run_in_child,
    )
