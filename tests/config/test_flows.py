"""Flows, the ledger and the user's functions as they are read from a file."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest

from crossdock.config import Config, load
from crossdock.config.rehearsal import rehearse
from crossdock.errors import ConfigError
from crossdock.flows.flow import (
    After,
    Destination,
    Expectation,
    Flow,
    Mail,
    Place,
    Retry,
    Rule,
    Settle,
    TransformSpec,
    Trigger,
    Webhook,
)
from crossdock.flows.flow import Test as Case
from crossdock.flows.route import Routes
from crossdock.ledger.base import Ledger
from crossdock.ledger.postgres import PostgresLedger
from crossdock.ledger.sqlite import SqliteLedger
from crossdock.storage.base import Entry
from crossdock.storage.secret import Secret
from tests.config.conftest import ENDPOINTS, Write


def where(ledger: Ledger) -> str:
    assert isinstance(ledger, SqliteLedger | PostgresLedger)
    return ledger.where


def flow(write: Write, text: str) -> Flow:
    return load(write(f"{ENDPOINTS}flows:\n  a: {{{text}}}\n")).flow("a")


def test_everything_that_can_be_written(write: Write, tmp_path: Path) -> None:
    text = (
        ENDPOINTS
        + r"""
flows:
  statements:
    source: bank:/outbox/
    trigger: {cron: "*/5 6-20 * * 1-5", timezone: Europe/London, jitter: 10s}
    settle: {for: 30s, sightings: 3, min_size: 1, temporary: "*.busy"}
    include: ["*.csv", "*.pgp"]
    exclude: old/
    min_age: 1m
    max_age: 30d
    min_size: 1
    max_size: 5G
    rules:
      - match: '(?P<feed>\w+)_(?P<day>\d{8})\.csv\.pgp'
        to: ["lake:{feed}/{now:%Y}/{name}", "here:/{path}"]
        transform: [gunzip, {charset: {from: latin-1}}]
        name: dated
      - match: {glob: "**/*.csv"}
        to: none
    unmatched: fail
    on_conflict: version
    order: newest
    max_files: 100
    max_bytes: 1G
    after: {archive: .done/, keep: 30d, marker: "{name}.ok"}
    retry: {attempts: 3, give_up: 1h, base: 1s, longest: 1m}
    notify:
      webhook: {url: "https://x.example/hook", secret: "env:KEY", on: [failed, late]}
      mail: {to: [a@b.example, c@d.example], from: x@y.example, host: mail, user: u, password: "file:p", tls: implicit}
    expect:
      - {match: "*.csv", by: "06:30", timezone: Europe/London, days: [mon..fri], min_count: 2, min_size: 1K}
      - {match: "*.pgp", by: 7:05, days: sat-mon}
    tests:
      - {file: pay_20261120.csv.pgp, to: "here:pay_20261120.csv.pgp"}
      - {file: x.csv, to: none}
"""
    )
    found = load(write(text)).flows["statements"]
    filters = found.filters
    assert [str(rule) for rule in filters.rules] == ["exclude old/", "include *.csv", "include *.pgp"]
    assert (filters.min_age, filters.max_age) == (timedelta(minutes=1), timedelta(days=30))
    assert (filters.min_size, filters.max_size) == (1, 5 * 1024**3)
    assert found == Flow(
        name="statements",
        source=Place("bank", "outbox"),
        rules=(
            Rule(
                name="dated",
                regex=r"(?P<feed>\w+)_(?P<day>\d{8})\.csv\.pgp",
                to=(Destination("lake", "{feed}/{now:%Y}/{name}"), Destination("here", "{path}")),
                transforms=(TransformSpec("gunzip"), TransformSpec("charset", {"from": "latin-1"})),
            ),
            Rule(name="rules[1]", glob="**/*.csv"),
        ),
        trigger=Trigger(cron="*/5 6-20 * * 1-5", timezone="Europe/London", jitter=10),
        settle=Settle(sightings=3, seconds=30, min_size=1, temporary=("*.busy",)),
        filters=filters,
        unmatched="fail",
        on_conflict="version",
        after=After(archive=".done", keep=30 * 86400, marker="{name}.ok"),
        retry=Retry(attempts=3, give_up=3600, base=1, longest=60),
        order="newest",
        max_files=100,
        max_bytes=1024**3,
        webhooks=(
            Webhook(url="https://x.example/hook", secret=Secret("env:KEY", tmp_path), on=frozenset({"failed", "late"})),
        ),
        mails=(
            Mail(
                to=("a@b.example", "c@d.example"), sender="x@y.example", host="mail", port=465, user="u",
                password=Secret("file:p", tmp_path), tls="implicit",
            ),
        ),
        expect=(
            Expectation(match="*.csv", by=time(6, 30), timezone="Europe/London", days=frozenset(range(5)), min_count=2,
                        min_size=1024),
            Expectation(match="*.pgp", by=time(7, 5), days=frozenset({5, 6, 0})),
        ),
        tests=(Case(file="pay_20261120.csv.pgp", to=("here:pay_20261120.csv.pgp",)), Case(file="x.csv", to=())),
    )  # fmt: skip


def test_the_shortest_flow(write: Write) -> None:
    found = flow(write, "source: 'bank:', to: 'lake:'")
    assert found == Flow(name="a", source=Place("bank"), rules=(Rule(name="to", to=(Destination("lake", "{path}"),)),))
    assert found.trigger.on_demand
    assert flow(write, "source: 'bank:', to: ['lake:in/', here:x]").rules[0].to == (
        Destination("lake", "in/{path}"), Destination("here", "x"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("source", "settle", "sightings", "seconds"),
    [
        ("bank", "", 2, 2),
        ("lake", "", 1, 0),
        ("bank", "settle: none", 1, 0),
        ("bank", "settle: {for: 30s}", 2, 30),
        ("lake", "settle: {for: 30s}", 2, 30),
        ("bank", "settle: {for: 0}", 1, 0),
        ("bank", "settle: {sightings: 5}", 5, 2),
        ("lake", "settle: {sightings: 5}", 5, 0),
        ("bank", "settle: {sightings: 1}", 1, 0),
        ("bank", "settle: {min_size: 1}", 2, 2),
        ("bank", "settle: {marker: '{name}.ok'}", 1, 0),
        ("bank", "settle: {manifest: MANIFEST, for: 5s}", 2, 5),
    ],
)
def test_when_a_file_counts_as_finished(write: Write, source: str, settle: str, sightings: int, seconds: float) -> None:
    found = flow(write, f"source: '{source}:x', to: 'here:', {settle}").settle
    assert (found.sightings, found.seconds) == (sightings, seconds)
    assert found.temporary == Settle().temporary


def test_files_that_differ_in_form_say_the_same(write: Write) -> None:
    yaml = load(write("endpoints: {m: {type: memory}}\nflows: {a: {source: 'm:x', rules: [{match: a, to: 'm:y/'}]}}"))
    json = load(write('{"endpoints": {"m": {"type": "memory"}},\n"flows": {"a": {"source": "m:x",'
                      '"rules": [{"match": "a", "to": "m:y/"}]}}}', "c.json"))  # fmt: skip
    toml = load(write('endpoints.m.type = "memory"\n[flows.a]\nsource = "m:x"\n[[flows.a.rules]]\nmatch = "a"\n'
                      'to = "m:y/"\n', "c.toml"))  # fmt: skip
    assert yaml.flows == json.flows == toml.flows


def test_an_unknown_flow(write: Write) -> None:
    config = load(write(f"{ENDPOINTS}flows: {{statements: {{source: bank:x, to: 'lake:'}}}}\n"))
    with pytest.raises(ConfigError, match=r"no flow is called 'statement' \(.*/crossdock.yaml\). Next: did you mean"):
        config.flow("statement")
    with pytest.raises(ConfigError, match="write one of statements"):
        config.flow("x")
    with pytest.raises(ConfigError, match="add it to 'flows:'"):
        Config().flow("x")


# -- the user's own functions --------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module beside the configuration, forgotten after the test."""
    name = f"routes_of_{request.node.originalname}"
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / f"{name}.py").write_text(
        "def outgoing(entry):\n"
        "    return None if entry.path.endswith('.txt') else [f'lake:{entry.path}', 'here:copy']\n"
        "nothing = 5\n"
    )
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize("written", ["python:{}.outgoing", "python:{}:outgoing"])
def test_a_function_routes(write: Write, module: str, written: str) -> None:
    found = flow(write, f"source: bank:x, to: '{written.format(module)}'")
    assert module not in sys.modules, "nothing is executed before it is needed"
    routes, now = Routes(found), datetime.now(UTC)
    assert routes.route(Entry(path="a.csv"), now).places == (Place("lake", "a.csv"), Place("here", "copy"))
    assert routes.route(Entry(path="a.txt"), now).places == ()
    assert pickle.loads(pickle.dumps(found)) == found, "flows cross process borders"


def test_what_only_trying_shows(write: Write, module: str, tmp_path: Path) -> None:
    text = f"""{ENDPOINTS}flows:
  a:
    source: bank:x
    rules:
      - match: .*\\.csv
        to: python:{module}.outgoing
      - match: .*\\.txt
        to: lake:text/
        transform:
          - {{charset: {{form: latin-1}}}}
    tests:
      - {{file: a.csv, to: ["lake:a.csv", "here:copy"]}}
      - {{file: b.csv, to: "lake:b.csv"}}
      - {{file: c.pdf, to: none}}
      - {{file: d.txt, to: none}}
  b:
    source: bank:y
    rules:
      - {{match: a.*, to: "python:{module}.nothing"}}
      - {{match: b.*, to: "python:{module}.missing"}}
      - {{match: c.*, to: "python:missing_{module}.x"}}
    tests: [{{file: a, to: none}}]
"""
    path = write(text)
    found = [str(mistake).removeprefix(f"{path}:").partition(". Next")[0] for mistake in rehearse(load(path))]
    assert found[0].startswith("14: flows.a.rules.1.transform.0: transform charset: from: ")
    assert found[1:] == [
        "17: flows.a.tests.1: b.csv was to go to lake:b.csv, and goes to lake:b.csv and here:copy "
        "(rule rules[0] matches .*\\.csv)",
        "19: flows.a.tests.3: d.txt was to go to nowhere, and goes to lake:text/d.txt (rule rules[1] matches .*\\.txt)",
        f"23: flows.b.rules.0.to: python:{module}.nothing is not a function",
        f"24: flows.b.rules.1.to: python:{module}.missing cannot be imported: AttributeError: module '{module}' has no "
        "attribute 'missing'",
        f"25: flows.b.rules.2.to: python:missing_{module}.x cannot be imported: ModuleNotFoundError: No module named "
        f"'missing_{module}'",
    ]


# -- the ledger ------------------------------------------------------------------------------------------------------


def test_where_the_ledger_is(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert where(load().new_ledger()) == "crossdock.db"
    path = write("endpoints: {}\n")
    monkeypatch.chdir("/")
    assert where(load(path).new_ledger()) == str(tmp_path / "crossdock.db"), "beside the file"
    assert where(load(write("ledger: db/my.db\n")).new_ledger()) == str(tmp_path / "db/my.db")
    config = load(write("ledger: /var/lib/x.db\n"))
    monkeypatch.chdir("/")
    assert where(config.new_ledger()) == "/var/lib/x.db"
    assert where(config.new_ledger("other.db")) == "other.db", "the command line's is below the working folder"
    for nothing in ("", " "):
        with pytest.raises(ConfigError, match="name is empty"):
            config.new_ledger(nothing)


@pytest.mark.parametrize(
    ("written", "dsn"),
    [
        ("postgresql://u@h:5/d?password=env:PG", "postgresql://u@h:5/d"),
        ("postgresql://h/d?password=env:PG&sslmode=require", "postgresql://h/d?sslmode=require"),
        ("postgres://u@h/d", "postgres://u@h/d"),
        ("postgresql://u@h:5,i:6/d?password=env:PG", "postgresql://u@h:5,i:6/d"),
    ],
)
def test_a_password_of_the_ledger_is_a_reference(
    write: Write, written: str, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG", "s @/")
    config = load(write(f'ledger: "{written}"\n'))
    assert config.ledger == written
    ledger = config.new_ledger()
    assert ledger._dsn == dsn  # type: ignore[attr-defined]
    password = ledger._password  # type: ignore[attr-defined]
    assert (password and password()) == ("s @/" if "password" in written else None)
    assert "s @" not in where(ledger)
    with pytest.raises(ConfigError, match="a secret may not be written"):
        config.new_ledger("postgresql://u:p@h/d")
