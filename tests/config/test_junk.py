"""Whatever stands where in a file: it is read, or refused with mistakes, never anything else."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from crossdock.config import Config, Mistakes, load
from crossdock.config.rehearsal import rehearse

GOOD: dict[str, Any] = {
    "endpoints": {"a": {"type": "memory"}, "b": {"type": "local", "root": "."}},
    "ledger": "x.db",
    "flows": {
        "f": {
            "source": "a:in",
            "trigger": {"cron": "* * * * *", "timezone": "UTC", "jitter": "1s"},
            "settle": {"for": "1s", "sightings": 2, "marker": "{name}.ok", "temporary": ["*.x"]},
            "include": ["*.csv"],
            "exclude": "x/",
            "min_size": "1K",
            "rules": [
                {"match": "(?P<x>a+)_.*", "to": ["b:{x}/{name}", "b:all/{path}"], "transform": ["gunzip"]},
                {"match": {"glob": "*.csv"}, "to": "none", "name": "n"},
            ],
            "after": {"archive": ".done", "keep": "1d", "marker": "{name}.done"},
            "notify": {
                "webhook": {"url": "https://x.example"},
                "mail": [{"to": "a@b.c", "from": "a@b.c", "host": "h"}],
            },
            "retry": {"attempts": 2},
            "expect": {"match": "*", "by": "06:30", "days": "mon..fri"},
            "tests": [{"file": "aa_1.csv", "to": ["b:aa/aa_1.csv", "b:all/aa_1.csv"]}],
        }
    },
}
_JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text("a:/{}*()[]\\.?+@%\x00\udcff\n |", max_size=12),
    st.sampled_from(["", ":", "a:", "{", "{x:%", "(?P<", "(?i", "[", "\\", "none", "python:", "{now:%Y@}",
                     "python:os.system", "((a*)*)*", "a{99999}", "a{1,4000}{1,4000}", "{{path}}", "a:../x",
                     "é" * 300]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


PLACES = places(GOOD)


def test_it_is_good_to_begin_with(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(GOOD))
    assert rehearse(load(path)) == []


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(PLACES), _JUNK), min_size=1, max_size=3))
def test_junk(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    data = deepcopy(GOOD)
    for place, junk in changes:
        target: Any = data
        for part in place[:-1]:
            try:
                target = target[part]
            except (KeyError, IndexError, TypeError):
                break
        else:
            with suppress(IndexError, TypeError):
                target[place[-1]] = junk
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.json")
        path.write_text(json.dumps(data))
        readable: Config | None
        try:
            readable = load(path)
        except Mistakes as error:
            assert str(error)
            readable = error.readable
        if readable and not any(rule.call for flow in readable.flows.values() for rule in flow.rules):
            rehearse(readable)
