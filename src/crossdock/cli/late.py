"""late: have the files that the flows expect come?"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from crossdock.cli import exits
from crossdock.cli.engine import flows_of, ledger_option
from crossdock.cli.output import emit
from crossdock.cli.rows import absent
from crossdock.cli.session import Session, common
from crossdock.errors import shown

if TYPE_CHECKING:
    from crossdock.flows.expect import Late

__all__ = ["late"]


@click.command()
@click.argument("flows", metavar="[FLOW]...", nargs=-1)
@ledger_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per deadline that was missed.")
@common
@click.pass_obj
def late(session: Session, flows: tuple[str, ...], ledger: str | None, as_json: bool) -> int:
    """Tell which flows are late: files they expect have not come by their deadline. The exit code is 1 then.

    A deadline is looked at for one day after it passed. Only the ledger is asked, and nothing is recorded or sent:
    'crossdock run' does that.
    """
    config = session.config
    names = flows_of(config, flows)

    async def work() -> list[tuple[str, Late]]:
        from crossdock.engine.late import missing
        from crossdock.ledger.memory import MemoryLedger

        now, written = datetime.now(UTC), config.new_ledger(ledger)
        async with MemoryLedger() if absent(written) else written as opened:
            return [(name, each) for name in names for each in await missing(config.flows[name], opened, now)]

    found = session.run(work)
    for name, each in found:
        if as_json:
            wanted = each.due.expectation
            emit(
                {
                    "flow": name,
                    "match": wanted.match,
                    "deadline": each.due.deadline.isoformat(),
                    "min_count": wanted.min_count,
                    "min_size": wanted.min_size,
                    "arrived": each.arrived,
                    "after": each.after,
                }
            )
        else:
            click.echo(f"{name} is late: {shown(str(each))}")
    expecting = [name for name in names if config.flows[name].expect]
    if not expecting:
        session.say("no flow expects anything; write 'expect:' in one")
    elif not found:
        session.say(f"{', '.join(expecting)}: nothing is late")
    return exits.SOME if found else exits.OK
