"""Names, paths and globs find the same transfers in every ledger, whatever stands in a name."""

from __future__ import annotations

import fnmatch
import re
import secrets
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crossdock.engine import lookup
from crossdock.engine.lookup import by_name, files_of, matching
from crossdock.flows.filters import compile_glob
from crossdock.ledger.base import Ledger, Planned, Query, Transfer
from crossdock.ledger.postgres import PostgresLedger
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.storage.base import Entry
from tests.servers import Postgres

NAMES = [
    "a.csv", "sub/a.csv", "sub/deep/b.csv", "A.CSV", "per%cent_x.csv", "percentyx.csv", "back\\slash.csv",
    "star*.csv", "what?.csv", "latin\udce9.csv", "latin\udce9/c.csv", "[x].csv", "x.csv", "{y}.csv", "üñí.csv",
]  # fmt: skip


@pytest.fixture(params=["sqlite", "postgres"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Ledger]:
    if request.param == "sqlite":
        found: Ledger = SqliteLedger(tmp_path / "l.db")
    else:
        server: Postgres = request.getfixturevalue("postgres")
        found = PostgresLedger(server.dsn, schema=f"t{secrets.token_hex(6)}")
    async with found:
        rows = [planned(name, target) for name in NAMES for target in ("lake", "staging")]
        await found.add(rows, who="test")
        yield found


def planned(name: str, target: str) -> Planned:
    entry = Entry(path=f"out/{name}", size=1)
    return Planned(flow="pull", source="partner", entry=entry, target=target, target_path=f"in/{name}.{target}")


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("a.csv", {"a.csv", "sub/a.csv"}),
        ("/out/a.csv", {"a.csv"}),
        ("out/*/a.csv", {"sub/a.csv"}),
        ("out/**/a.csv", {"a.csv", "sub/a.csv"}),
        ("**/deep/*", {"sub/deep/b.csv"}),
        ("deep/", {"sub/deep/b.csv"}),
        ("/out/sub/", {"sub/a.csv", "sub/deep/b.csv"}),
        ("per%cent_x.csv", {"per%cent_x.csv"}),
        ("percent_x*", set()),
        ("latin?.csv", {"latin\udce9.csv"}),
        ("latin?/", {"latin\udce9/c.csv"}),
        ("back\\\\slash.csv", {"back\\slash.csv"}),
        ("star\\*.csv", {"star*.csv"}),
        ("[[]x].csv", {"[x].csv"}),
        ("{x,[ab]}.csv", {"x.csv", "a.csv", "sub/a.csv", "sub/deep/b.csv"}),
        ("[a-b].csv", {"a.csv", "sub/a.csv", "sub/deep/b.csv"}),
        ("ü*", {"üñí.csv"}),
        ("*.CSV", {"A.CSV"}),
    ],
)
async def test_globs(ledger: Ledger, glob: str, names: set[str]) -> None:
    rows = [each async for each in matching(ledger, Query(target="lake"), path=glob)]
    assert {each.entry.path.removeprefix("out/") for each in rows} == names
    assert [each.id for each in rows] == sorted((each.id for each in rows), reverse=True)


@settings(max_examples=500)
@given(st.text("ab*?/[]!{,}\\.", min_size=1, max_size=9), st.text("ab/.*[{,\\", min_size=1, max_size=7))
def test_what_the_ledger_is_asked_for_is_no_less_than_the_glob_takes(glob: str, path: str) -> None:
    try:
        pattern = compile_glob(glob)
    except ValueError:
        assume(False)
    if pattern.match(path):
        coarse = lookup._coarse(glob).replace("[", "[[]")
        assert re.match(fnmatch.translate(coarse), path)


@pytest.mark.parametrize("glob", ["rep_[0-9].csv", "rep_{1,2}.csv", "rep_\\1.csv", "{in,out}/rep_?.csv"])
def test_and_not_all_that_there_is(glob: str) -> None:
    assert fnmatch.fnmatchcase("out/rep_1.csv", lookup._coarse(glob))
    assert not fnmatch.fnmatchcase("out/other.csv", lookup._coarse(glob))


async def test_one_name_in_many_folders_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each of the files found, all of their name were read once more: 300,000 of them took for ever."""
    async with SqliteLedger(tmp_path / "l.db") as ledger:
        await ledger.add([planned(f"{n}/data.csv", to) for n in range(400) for to in ("lake", "staging")], who="test")
        read = 0
        find = ledger.find

        async def counted(query: Query) -> list[Transfer]:
            nonlocal read
            rows = await find(query)
            read += len(rows)
            return rows

        monkeypatch.setattr(ledger, "find", counted)
        assert len(await by_name(ledger, "data.csv")) == 800
        assert read == 1600
        read = 0
        assert len(await by_name(ledger, "7/data.csv")) == 2
        assert read == 802


async def test_pages(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_PAGE", 4)
    rows = [each.id async for each in matching(ledger, Query(target="lake"), path="*")]
    assert rows == sorted(set(rows), reverse=True)
    assert len(rows) == len(NAMES)
    assert len(await by_name(ledger, "*", limit=1000)) == 2 * len(NAMES)
    assert len(await by_name(ledger, "a.csv.lake", limit=1)) == 2, "a file with both of its destinations"


@pytest.mark.parametrize("name", NAMES)
async def test_every_name_is_found_exactly(ledger: Ledger, name: str) -> None:
    whole = {name} | ({"sub/a.csv"} if name == "a.csv" else set())
    for text in (name, f"in/{name}.lake", f"{name}.staging"):
        files = files_of(await by_name(ledger, text))
        found = {each[0].entry.path.removeprefix("out/") for each in files}
        # By the path of a target it is one file; its other destination is told as well.
        assert found == (whole if text == name else {name} if text.startswith("in/") else whole)
        assert all([each.target for each in file] == ["lake", "staging"] for file in files)


async def test_at_an_endpoint(ledger: Ledger) -> None:
    assert len(await by_name(ledger, "out/x.csv", endpoint="partner")) == 2
    assert await by_name(ledger, "out/x.csv", endpoint="lake") == []
    assert len(await by_name(ledger, "in/x.csv.lake", endpoint="lake")) == 2
    assert await by_name(ledger, "in/x.csv.lake", endpoint="staging") == []
    assert await by_name(ledger, "x.csv", flow="other") == []
