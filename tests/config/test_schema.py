"""The JSON Schema: it is one, it takes what `load` takes, and refuses what editors should mark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from crossdock.config import load
from crossdock.config.schema import schema
from crossdock.documents import parse
from tests.config.conftest import ENDPOINTS, Write

SCHEMA = schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def problems(text: str) -> list[str]:
    data = parse(text.encode(), "c.yaml").data
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(data)]


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_key_has_a_description_or_speaks_for_itself() -> None:
    flow = SCHEMA["$defs"]["FlowModel"]["properties"]
    plain = {"trigger", "after", "retry", "notify", "expect", "tests"}
    assert {name for name, field in flow.items() if "description" not in field} == plain
    assert SCHEMA["$defs"]["SettleModel"]["properties"]["for"]["description"].startswith("It has kept its size")


@pytest.mark.parametrize(
    "flow",
    [
        "{source: bank:x, to: 'lake:'}",
        "{source: bank:x, to: ['lake:', 'here:'], transform: [gunzip, {charset: {from: latin-1}}], settle: none}",
        "{source: bank:x, rules: [{match: a, to: none}, {match: {glob: '*'}, to: 'lake:'}], settle: {for: 1.5}}",
        "{source: bank:x, to: 'lake:', max_bytes: 5G, min_age: 5m, after: {archive: .done, keep: 30d}}",
        "{source: bank:x, to: 'lake:', expect: {match: '*', by: 6:30, days: mon..fri}, trigger: {every: 60}}",
        "{source: bank:x, to: 'lake:', notify: {webhook: {url: 'https://x.example', on: late, secret: env:K}}}",
    ],
)
def test_it_takes_what_may_be_written(write: Write, flow: str) -> None:
    text = f"{ENDPOINTS}flows: {{a: {flow}}}\n"
    load(write(text))
    assert problems(text) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("endpoints: {a: {type: sftp}}", "$.endpoints.a"),
        ("endpoints: {a: {type: sftp, host: h, prot: 22}}", "$.endpoints.a"),
        ("endpoints: {a: {type: sftq}}", "$.endpoints.a.type"),
        ("endpoints: {a: {type: sftp, host: h, timeout: soon}}", "$.endpoints.a.timeout"),
        ("endpoints: {a: {type: sftp, host: h, timeout: -1}}", "$.endpoints.a.timeout"),
        ("endpoints: {a: {type: sftp, host: h, password: hunter2}}", "$.endpoints.a.password"),
        ("flows: {a: {to: 'x:'}}", "$.flows.a"),
        ("flows: {a: {source: x:, too: 'x:'}}", "$.flows.a"),
        ("flows: {a: {source: x:, unmatched: drop}}", "$.flows.a.unmatched"),
        ("flows: {a: {source: x:, settle: {for: often}}}", "$.flows.a.settle"),
        ("flows: {a: {source: x:, rules: [{match: a}]}}", "$.flows.a.rules"),
        ("flows: {a: {source: x:, min_age: -1}}", "$.flows.a.min_age"),
        ("flow: {}", "$"),
    ],
)
def test_it_refuses_what_may_not(text: str, place: str) -> None:
    assert [problem.partition(": ")[0] for problem in problems(text.replace("x:,", "'x:',"))] == [place]


def test_the_settings_of_every_endpoint_of_the_tests(tmp_path: Path) -> None:
    from tests.config.test_endpoints import GOOD

    assert problems(GOOD) == []


def test_bounds_stand_at_the_number() -> None:
    def loose(value: Any) -> bool:
        if isinstance(value, dict):
            return bool({"ge", "gt", "le", "lt"} & value.keys() - {"properties"}) or any(map(loose, value.values()))
        return isinstance(value, list) and any(map(loose, value))

    assert not loose(SCHEMA)
