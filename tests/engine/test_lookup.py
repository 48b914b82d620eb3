"""Names, paths and globs find the same transfers in every ledger, whatever stands in a name."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from crossdock.engine import lookup
from crossdock.engine.lookup import by_name, files_of, matching
from crossdock.ledger.base import Ledger, Planned, Query
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
