"""explain: why a file is moved, or is not, and what happens with it next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from crossdock.cli import exits
from crossdock.cli.engine import below_source, ledger_option, opened_engine
from crossdock.cli.output import count, emit
from crossdock.cli.rows import moment, target_of, transfer_json
from crossdock.cli.session import Session, common
from crossdock.errors import shown

if TYPE_CHECKING:
    from crossdock.engine.explaining import Explanation

__all__ = ["explain"]


@click.command()
@click.argument("flow")
@click.argument("path")
@ledger_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@common
@click.pass_obj
def explain(session: Session, flow: str, path: str, ledger: str | None, as_json: bool) -> int:
    """Explain what a flow does with one file, and why.

    PATH is below the flow's source; as /PATH or ENDPOINT:PATH it is below the endpoint's root. Rule by rule, what is
    left out, what a file that settles still waits for, what is in the way at its target, what the ledger knows, and
    what the next run does. This is a look at the whole source, and counts as one for files that settle; nothing is
    added to the ledger.
    """
    wanted = session.config.flow(flow)
    below = below_source(wanted, path)
    if below is None:
        raise click.UsageError(f"{path} is not below the source of {flow}, {wanted.source}")
    if not below:
        raise click.UsageError("PATH: which file? Name one below the flow's source")

    async def work() -> Explanation:
        from crossdock.engine.explaining import explain

        async with opened_engine(session, ledger, looking=True) as engine:
            return await explain(engine, flow, below)

    found = session.run(work)
    if as_json:
        emit(_json(found))
    else:
        for line in _lines(found):
            click.echo(line)
    if found.error is not None:
        return exits.code_of(found.error)
    return exits.OK if found.entry is not None or found.rows else exits.NOT_FOUND


def _lines(found: Explanation) -> Iterator[str]:
    from crossdock.flows.explain import last_said, what_next

    yield f"file      {shown(found.path)} of flow {found.flow.name}, below {shown(str(found.flow.source))}"
    yield f"source    {shown(_at_source(found))}"
    for number, said in enumerate(found.rules):
        mark = "→" if said.decides else "·"
        places = f": {' and '.join(shown(str(place)) for place in said.places)}" if said.places else ""
        yield f"{'' if number else 'rules':<9} {mark} {said.name} {shown(said.why)}{places}"
    if found.left_out is not None:
        yield f"filters   {shown(found.left_out)}"
    elif found.entry is not None:
        yield "filters   nothing leaves it out"
    for number, line in enumerate(_settling(found)):
        yield f"{'' if number else 'settling':<9} {shown(line)}"
    for number, (place, said_of_it) in enumerate(found.targets):
        yield f"{'' if number else 'targets':<9} {shown(str(place))}: {shown(said_of_it)}"
    if not found.rows:
        yield "ledger    does not know it"
    for number, row in enumerate(found.rows):
        tried = f", attempts {row.attempts}" if row.attempts else ""
        note = f"; {shown(why)}" if (why := last_said(row)) else ""
        error = f"; last error: {shown(row.error)}" if row.error else ""
        line = f"transfer {row.id} to {target_of(row)}: {row.state} since {moment(row.changed)}{tried}{note}{error}"
        yield f"{'' if number else 'ledger':<9} {line}"
        yield f"{'':<9}   {_version(found, row.fingerprint)}; then {shown(what_next(row, found.now))}"
    for number, line in enumerate(found.next()):
        yield f"{'' if number else 'next run':<9} {shown(line)}"


def _version(found: Explanation, fingerprint: str) -> str:
    if found.error is not None:
        return "of a file that may be at the source or not"
    if found.entry is None:
        return "of a file that is not at the source any more"
    return "of the file as it is now" if found.entry.fingerprint == fingerprint else "of an earlier version of the file"


def _at_source(found: Explanation) -> str:
    if found.error is not None:
        return f"could not be listed: {found.error}"
    if found.entry is None:
        return "does not hold it"
    entry = found.entry
    size = "size unknown" if entry.size is None else count(entry.size, "byte")
    known = entry.modified or entry.etag or entry.version
    alone = "" if known or entry.kind != "file" else ": another of the same size looks like the same file"
    return f"{entry.kind}, {size}, modified {moment(entry.modified) if entry.modified else 'unknown'}{alone}"


def _settling(found: Explanation) -> Iterator[str]:
    if found.seen is None:
        return
    seen = found.seen
    yield f"seen unchanged since {moment(seen.first_seen)}, {seen.count} in a row, last {moment(seen.last_seen)}"
    for reason, _ in found.waiting:
        yield f"missing: {reason}"
    if not found.waiting:
        yield "finished"


def _json(found: Explanation) -> dict[str, Any]:
    from crossdock.flows.explain import rule_json, what_next

    entry, decision = found.entry, found.decision
    answer: dict[str, Any] = {
        "flow": found.flow.name,
        "source": str(found.flow.source),
        "path": found.path,
        "there": entry is not None,
        "rules": [rule_json(said) for said in found.rules],
        "next": found.next(),
        "transfers": [transfer_json(row) | {"next": what_next(row, found.now)} for row in found.rows],
    }
    if entry is not None:
        answer |= {"kind": entry.kind, "size": entry.size, "fingerprint": entry.fingerprint, "known": found.known}
        answer["modified"] = entry.modified.isoformat() if entry.modified else None
    if found.error is not None:
        answer["error"] = str(found.error)
    if found.left_out is not None:
        answer["left_out"] = found.left_out
    if decision is not None:
        answer |= {"verdict": decision.verdict, "reason": decision.reason}
        answer["targets"] = [{"to": str(place), "said": said} for place, said in found.targets]
    if found.seen is not None:
        answer["settling"] = {
            "first_seen": found.seen.first_seen.isoformat(),
            "last_seen": found.seen.last_seen.isoformat(),
            "count": found.seen.count,
            "missing": [reason for reason, _ in found.waiting],
        }
    if found.before:
        answer["before"] = found.before
    return answer
