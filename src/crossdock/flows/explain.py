"""Why a file is moved, or is not: the rules one by one, and what comes next for a transfer. Pure: no I/O, no clock."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from crossdock.errors import ConfigError
from crossdock.flows.flow import Flow, Place, Rule
from crossdock.flows.route import Routes
from crossdock.ledger.base import State, Transfer
from crossdock.storage.base import Entry

__all__ = [
    "CHANGED",
    "GONE",
    "RuleSaid",
    "archived_as",
    "last_said",
    "missed",
    "retriable",
    "rule_json",
    "rules_said",
    "tried_again",
    "until",
    "what_next",
]

GONE = "the source is gone"
CHANGED = "the source changed"
"""How the reasons begin for which transfers are skipped that are `missed`."""
_HOURLY = timedelta(hours=1)
_LONG = timedelta(minutes=5)

_ARCHIVED = re.compile(r"\barchived as (.+?)(?=; the source |; the webhook |; [^;]+ by mail |$)")
"""Names may have a semicolon; what else may follow is what actions and notices say of themselves."""


@dataclass(frozen=True, slots=True)
class RuleSaid:
    """What one rule says of a path."""

    name: str
    matches: bool
    decides: bool
    """It is the first that matches; the others are not asked."""
    why: str
    places: tuple[Place, ...] = ()
    """Of the deciding rule."""


def rules_said(flow: Flow, entry: Entry, now: datetime) -> list[RuleSaid]:
    """Every rule in order; `entry.path` is below the source. A user's own function is called only if it decides.

    Raises `ValueError` for a rule that is wrong.
    """
    found: list[RuleSaid] = []
    decided: str | None = None
    for rule in flow.rules:
        # Without what it does, a rule only tells whether it matches.
        asked = Routes(replace(flow, rules=(replace(rule, to=(), call=None),))).route(entry, now)
        matches, decides = asked.rule is not None, asked.rule is not None and decided is None
        places: tuple[Place, ...] = ()
        if not matches:
            why = f"does not match {_pattern(rule)}{_nearly(rule, entry.path)}"
        elif decides:
            try:
                routed = Routes(replace(flow, rules=(rule,))).route(entry, now)
                places, why = routed.places, routed.reason.removeprefix("'to' ").removeprefix(f"rule {rule.name} ")
            except ConfigError as error:
                why = error.message.removeprefix(f"rule {rule.name}: ")
            decided = rule.name
        else:
            why = f"would match as well; {decided} comes first"
        found.append(RuleSaid(rule.name, matches, decides, why, places))
    return found


def _pattern(rule: Rule) -> str:
    return str(rule.regex if rule.regex is not None else rule.glob)


def _nearly(rule: Rule, path: str) -> str:
    """What most often goes wrong with a pattern."""
    if rule.regex is None:
        return ""
    if re.compile(rule.regex, re.IGNORECASE).fullmatch(path):
        return "; only upper and lower case differ"
    part = re.compile(rule.regex).search(path)
    if part is None or not part[0]:
        return ""
    return f"; only {part[0]!r} of it would, and a rule must match the whole path below the source"


def retriable(transfer: Transfer) -> bool:
    """Whether `Ledger.requeue` changes it."""
    return (
        transfer.owner is None
        and transfer.state is not State.DONE
        and (not transfer.gone or transfer.state is State.DELIVERED)
    )


def missed(transfer: Transfer) -> bool:
    """It was skipped only because its file was not there, as it was listed, when its turn came."""
    return transfer.state is State.SKIPPED and transfer.why.startswith((GONE, CHANGED)) and not transfer.gone


def tried_again(transfer: Transfer) -> datetime:
    """From when on one that was `missed` is, if its file is there: after twice as long each time, at least hourly."""
    return transfer.changed + min(transfer.changed - transfer.added, _HOURLY)


def archived_as(transfers: Iterable[Transfer]) -> str | None:
    """Where an action put the source, from what it said of these transfers of one file."""
    for transfer in transfers:
        if transfer.state is State.DONE and (match := _ARCHIVED.search(transfer.why)):
            return match[1]
    return None


def last_said(transfer: Transfer) -> str:
    """Why it is in its state, where that is not the error that it met last. "": there is nothing more to say."""
    if transfer.error and (transfer.state is State.RUNNING or transfer.why == transfer.error):
        return ""
    return transfer.why


def what_next(transfer: Transfer, now: datetime) -> str:
    """In words: what happens with a transfer from here on, and what its owner may do."""
    ready, remedy = transfer.ready or now, ""
    if transfer.owner is not None:
        what = "what follows the delivery" if transfer.state is State.DELIVERED else f"attempt {transfer.attempts}"
        if ready <= now:
            return f"{what}: the lease of {transfer.owner} ended {until(ready, now)}; the next worker takes it over"
        return f"{what} is under way: {transfer.owner} holds it until {_moment(ready)} ({until(ready, now)})"
    match transfer.state:
        case State.PENDING | State.RUNNING:
            what = f"attempt {transfer.attempts + 1}"
        case State.DELIVERED:
            what = f"attempt {transfer.owed_attempts + 1} at what follows the delivery"
            if transfer.error:
                remedy = "tried until it succeeds: mend what the error names, or take it out of the flow's 'after'"
        case State.FAILED if retriable(transfer):
            return f"nothing, until: crossdock transfers retry {transfer.id}"
        case State.SKIPPED if missed(transfer):
            at = tried_again(transfer)
            when = "" if at <= now else f", {until(at, now)} or later{_at_once(transfer, at, now)}"
            return f"tried again by a look that finds the file as it was{when}"
        case State.CANCELLED | State.SKIPPED if retriable(transfer):
            return f"nothing; to send it after all: crossdock transfers retry {transfer.id}"
        case _:
            return "nothing: a file that comes back is new" if transfer.gone else "nothing, unless the file changes"
    when = f"at {_moment(ready)} ({until(ready, now)}){_at_once(transfer, ready, now)}"
    when = "as soon as a worker runs" if ready <= now else when
    return f"{what} {when}" + (f"; {remedy}" if remedy else "")


def _at_once(transfer: Transfer, at: datetime, now: datetime) -> str:
    """Where the wait is long."""
    return f"; at once: crossdock transfers retry {transfer.id}" if at - now > _LONG else ""


def until(moment: datetime, now: datetime) -> str:
    """in 40 s, 12 min ago."""
    seconds = (moment - now).total_seconds()
    size, unit = abs(seconds), "s"
    for longer, name in ((60, "min"), (60, "h"), (24, "days")):
        if size < 2 * longer:
            break
        size, unit = size / longer, name
    return f"in {size:.0f} {unit}" if seconds > 0 else f"{size:.0f} {unit} ago"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%SZ}"


def rule_json(said: RuleSaid) -> Mapping[str, Any]:
    """For `--json`."""
    return {
        "rule": said.name,
        "matches": said.matches,
        "decides": said.decides,
        "why": said.why,
        "to": [str(place) for place in said.places],
    }
