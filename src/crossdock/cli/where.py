"""where: did a file come, and where is it now?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from crossdock.cli import exits
from crossdock.cli.engine import ledger_option
from crossdock.cli.output import count, emit
from crossdock.cli.rows import aligned, existing_ledger, moment, target_of, transfer_json
from crossdock.cli.session import Session, common
from crossdock.errors import CrossdockError, NotFound, shown

if TYPE_CHECKING:
    from crossdock.engine.lookup import Found
    from crossdock.flows.flow import Flow, Rule
    from crossdock.ledger.base import Transfer

__all__ = ["where"]


@click.command()
@click.argument("name")
@click.option("--flow", metavar="NAME", help="Only of this flow.")
@click.option("--limit", metavar="N", type=click.IntRange(1, 1000), default=20, show_default=True, help="Files shown.")
@ledger_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per file.")
@common
@click.pass_obj
def where(session: Session, name: str, flow: str | None, limit: int, ledger: str | None, as_json: bool) -> int:
    """Tell whether a file came, and where it is now.

    NAME is a file's name, a path (or its end) or a glob, at the source, in its archive or at the target;
    ENDPOINT:PATH will do too.
    Of a file out of a zip archive it tells that archive.
    The ledger answers. If it does not know the file, the sources of the flows are looked at, and the exit code is 4.
    """
    from crossdock.engine.lookup import files_of

    endpoint, text = _parted(session, name)
    if not text.strip("/"):
        raise click.UsageError("say which file: a name, a path, or a glob")
    found = session.run(lambda: _known(session, text, endpoint, flow, ledger))
    files = files_of(found)
    now, flows = datetime.now(UTC), session.config.flows
    if not files:
        return _unknown(session, text, endpoint, flow, as_json)
    for number, file in enumerate(files[:limit]):
        if as_json:
            emit(_json(file, now, flows))
            continue
        if number:
            click.echo()
        for line in _lines(file, now, flows):
            click.echo(line)
    if len(files) > limit:
        session.say(f"{count(len(files) - limit, 'older file')} of that name: raise --limit, or give the path")
    return exits.OK


def _parted(session: Session, name: str) -> tuple[str | None, str]:
    """The endpoint, if there is one of that name before the colon, and the rest."""
    endpoint, colon, rest = name.partition(":")
    if colon and endpoint in session.config.endpoints:
        return endpoint, rest
    # As a shell completes it; nothing is called so but, at a store without folders, a key that names its endpoint here.
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return None, name


async def _known(
    session: Session, text: str, endpoint: str | None, flow: str | None, ledger: str | None
) -> list[Transfer]:
    from crossdock.engine.lookup import by_member, by_name

    unpacking = [
        each.name
        for each in session.config.flows.values()
        if flow in (None, each.name) and any(_unpacks(rule) for rule in each.rules)
    ]
    try:
        async with existing_ledger(session, ledger) as opened:
            found = await by_name(opened, text, endpoint=endpoint, flow=flow)
            return found or await by_member(opened, text, unpacking, endpoint=endpoint)
    except NotFound as error:
        if ledger is not None or session.config.file is None:
            raise
        session.say(error.message)
        return []


def _unpacks(rule: Rule) -> bool:
    """One of its steps makes many files of one, or may."""
    return any(step.name == "unzip" or ":" in step.name for step in rule.transforms)


def _unknown(session: Session, text: str, endpoint: str | None, flow: str | None, as_json: bool) -> int:
    """What the sources say of a file that the ledger does not know."""
    from crossdock.cli.engine import flows_of

    config = session.config
    names = flows_of(config, [flow] if flow else ()) if config.flows else []
    if endpoint is not None:
        names = [name for name in names if config.flows[name].source.endpoint == endpoint]
    found, failed = session.run(lambda: _at_sources(session, names, text))
    if as_json:
        for each in found:
            entry = each.entry
            modified = entry.modified.isoformat() if entry.modified else None
            emit(
                {
                    "known": False,
                    "flow": each.flow,
                    "source": each.source,
                    "path": entry.path,
                    "size": entry.size,
                    "modified": modified,
                    "said": each.said,
                }
            )
    click.echo(f"the ledger knows no file {shown(text)}", err=as_json)
    if not as_json:
        for each in found:
            click.echo(f"{each.flow}: {each.source}:{shown(each.entry.path)} is at the source; {shown(each.said)}")
            below = each.entry.path.removeprefix(f"{config.flows[each.flow].source.path}/")
            click.echo(f"  more: crossdock explain {each.flow} {shown(below)}")
    looked = [name for name in names if name not in failed]
    for name, error in failed.items():
        click.echo(f"{name}: the source could not be looked at: {shown(str(error))}", err=True)
    if not found and looked:
        click.echo(f"nor does the source of {', '.join(looked)} hold it", err=as_json)
    return exits.NOT_FOUND


async def _at_sources(
    session: Session, names: Sequence[str], text: str
) -> tuple[list[Found], dict[str, CrossdockError]]:
    from crossdock.engine.endpoints import Endpoints
    from crossdock.engine.lookup import at_source
    from crossdock.flows.plan import Planner

    config = session.config
    found: list[Found] = []
    failed: dict[str, CrossdockError] = {}
    async with Endpoints(partial(config.storage, looking=True)) as endpoints:
        for name in names:
            planner = Planner(config.flows[name])
            try:
                storage = await endpoints.storage(planner.flow.source.endpoint)
                found += await at_source(planner, storage, text, datetime.now(UTC))
            except CrossdockError as error:
                failed[name] = error
    return found, failed


def _next(transfer: Transfer, now: datetime, flows: Collection[str]) -> str:
    from crossdock.flows.explain import what_next

    if transfer.ready is not None and transfer.flow not in flows:
        return f"nothing: the configuration has no flow {transfer.flow} any more"
    return what_next(transfer, now)


def _lines(file: Sequence[Transfer], now: datetime, flows: Mapping[str, Flow]) -> Iterator[str]:
    from crossdock.flows.explain import archived_as, last_said
    from crossdock.ledger.base import State

    first = file[0]
    entry = first.entry
    size = "size unknown" if entry.size is None else count(entry.size, "byte")
    modified = f", modified {moment(entry.modified)}" if entry.modified else ""
    yield f"{shown(entry.path)}, from {first.source} by flow {first.flow}"
    rows = [["came", f"{moment(min(each.added for each in file))}, {size}{modified}"]]
    for each in file:
        rows.append([str(each.state), f"{target_of(each)}, {_proof(each)}"])
        rows += [
            ["", f"{shown(member['target'])}, {count(member['size'], 'byte')}, sha256 {member['sha256']}"]
            for member in (each.receipt or {}).get("members", ())
        ]
        if said := last_said(each):
            rows.append(["", shown(said)])
        if each.error:
            rows.append(["", f"last error: {shown(each.error)}"])
        if each.state is not State.DONE:
            rows.append(["", f"next: {shown(_next(each, now, flows))}"])
    archived = archived_as(file)
    if archived:
        kept = _kept_until(file, flows)
        words = "" if kept is None else ", to be kept until" if kept > now else ", and may be removed since"
        rows.append(["archived", f"{first.source}:{archived}{words}{f' {moment(kept)}' if kept else ''}"])
    elif any(each.gone for each in file):
        rows.append(["source", "taken away after delivery, or replaced"])
    yield from (f"  {line}" for line in aligned(rows))


def _kept_until(file: Sequence[Transfer], flows: Mapping[str, Flow]) -> datetime | None:
    """When an archived file may go, by the flow as it is now; None: never, as far as that says."""
    from crossdock.flows.explain import archived_as

    flow = flows.get(file[0].flow)
    moved = [each.changed for each in file if archived_as([each])]
    if flow is None or flow.after.keep is None or not moved:
        return None
    return moved[0] + timedelta(seconds=flow.after.keep)


def _proof(transfer: Transfer) -> str:
    """When, how large, which digest; or how often it was tried."""
    from crossdock.transfer.receipt import finished

    receipt = transfer.receipt or {}
    parts = [moment(finished(receipt) or transfer.changed)]
    if receipt.get("size") is not None:
        parts.append(count(receipt["size"], "byte"))
    if receipt.get("sha256"):
        parts.append(f"sha256 {receipt['sha256']}")
    parts.append(count(transfer.attempts, "attempt"))
    return ", ".join(parts)


def _json(file: Sequence[Transfer], now: datetime, flows: Mapping[str, Flow]) -> dict[str, Any]:
    from crossdock.flows.explain import archived_as

    first = file[0]
    kept = _kept_until(file, flows)
    found: dict[str, Any] = {
        "known": True,
        "flow": first.flow,
        "source": first.source,
        "path": first.entry.path,
        "size": first.entry.size,
        "modified": first.entry.modified.isoformat() if first.entry.modified else None,
        "came": min(each.added for each in file).isoformat(),
        "archived": archived_as(file),
        "kept_until": kept.isoformat() if kept else None,
        "gone": any(each.gone for each in file),
        "destinations": [transfer_json(each) | {"next": _next(each, now, flows)} for each in file],
    }
    return found
