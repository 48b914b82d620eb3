"""Flows that harm each other, and those that only look like it."""

from __future__ import annotations

import pytest

from crossdock.config import load
from tests.config.conftest import Write
from tests.config.test_mistakes import ENDPOINTS, mistakes

BOTH = ENDPOINTS + (
    "  copy: {type: s3, bucket: lake, root: /in/, endpoint_url: 'https://s3.dualstack.eu-west-1.amazonaws.com'}\nflows:\n"
)
"""`copy` is a folder of `lake`."""


@pytest.mark.parametrize(
    ("flows", "expected"),
    [
        ("  a: {source: bank:out, to: 'bank:out/sent/'}\n", "7: flows.a: the flow takes up what it writes itself, "
         "such as 'sent/a' below its source. Next: write to a folder outside the source, or exclude it: 'exclude: "
         "[sent/]'"),
        ("  a: {source: bank:out, to: 'bank:out/{name}'}\n", "7: flows.a: the flow takes up what it writes itself, "
         "such as 'a' below its source. Next: write to a folder outside the source, or exclude it there"),
        # A word that stands for nothing, and one that is not all of a name.
        ("  a: {source: bank:out, rules: [{match: a, to: 'lake:'}, {match: old/a, to: 'bank:out{suffix}/{name}'}]}\n",
         "7: flows.a: the flow takes up what it writes itself, such as 'a' below its source. Next: write to a folder "
         "outside the source, or exclude it there"),
        ("  a: {source: 'lake:', to: 'copy:{folder}/x/{name}'}\n", "7: flows.a: the flow takes up what it writes "
         "itself, such as 'in/x/a' below its source. Next: write to a folder outside the source, or exclude it: "
         "'exclude: [in/]'"),
        ("  a: {source: lake:in/new, to: 'bank:x/'}\n  b: {source: bank:x, to: 'copy:new/'}\n", "8: flows.b: files go "
         "round in a loop: a → b → a. Next: let one of these flows read a folder that the other does not write, or "
         "exclude it there"),
        ("  a: {source: 'bank:', to: 'lake:', after: {delete: true}}\n"
         "  b: {source: bank:out, rules: [{match: '.*\\.csv', to: 'here:'}]}\n", "8: flows.b: flows a and b both take "
         "'bank:out/.csv', and a deletes it. Next: make one flow with both destinations, or tell their files apart by "
         "'match', 'include' or 'exclude'"),
        # A marker that is deleted with its file.
        ("  a: {source: bank:out, to: 'lake:', settle: {marker: '{name}.ok'}, after: {delete: true}}\n"
         "  b: {source: bank:out, to: 'here:', include: '*.ok'}\n", "8: flows.b: flows a and b both take "
         "'bank:out/.ok', and a deletes it. Next: make one flow with both destinations, or tell their files apart by "
         "'match', 'include' or 'exclude'"),
        ("  a: {source: lake:in, to: 'here:', include: 'a*'}\n"
         "  b: {source: 'copy:', rules: [{match: '.*b', to: 'bank:'}], after: {archive: old}}\n", "8: flows.b: flows "
         "a and b both take 'copy:ab', and b archives it. Next: make one flow with both destinations, or tell their "
         "files apart by 'match', 'include' or 'exclude'"),
        ("  d: {source: 'bank:', to: 'here:d/', include: 'out/.done/'}\n"
         "  a: {source: bank:out, to: 'lake:', include: '*.csv', after: {archive: .done}}\n", "7: flows.d: it takes "
         "what flow a archives, such as 'out/.done/a'. Next: add 'exclude: [.done/]'"),
        ("  a: {source: bank:out, to: 'lake:', include: '*.csv', after: {archive: .done}}\n"
         "  c: {source: bank:out/.done, to: 'here:c/'}\n"
         "  d: {source: 'bank:', to: 'here:d/', include: 'out/.done/'}\n", "9: flows.d: it takes what flow a "
         "archives, such as 'out/.done/a'. Next: add 'exclude: [.done/]'"),
    ],
)  # fmt: skip
def test_flows_that_harm_each_other(write: Write, flows: str, expected: str) -> None:
    assert mistakes(write, BOTH + flows) == [expected]


@pytest.mark.parametrize(
    "flows",
    [
        # A pipeline, and both ways between the same partners.
        "  a: {source: bank:out, to: 'lake:'}\n  b: {source: 'lake:', to: 'here:'}\n",
        "  a: {source: bank:out, to: 'here:'}\n  b: {source: 'here:', to: 'bank:in/'}\n",
        # A loop that is cut by what is excluded, by a rule, by what the rules match.
        "  a: {source: bank:out, to: 'bank:out/sent/', exclude: sent/}\n",
        "  a: {source: bank:out, rules: [{match: 'sent/.*', to: none}, {to: 'bank:out/sent/'}]}\n",
        "  a: {source: bank:out, rules: [{match: {glob: '*.csv'}, to: 'bank:out/{name}.gz', transform: gzip}]}\n",
        "  a: {source: bank:out, to: 'bank:out/.done/x/', after: {archive: .done}}\n",
        "  a: {source: bank:out, to: 'bank:out/{name}.part'}\n",
        "  a: {source: bank:out, to: 'bank:out/{path}.ok', settle: {marker: '{name}.ok'}}\n",
        "  a: {source: bank:out, to: 'bank:out/list', settle: {manifest: list}, after: {delete: true}}\n",
        "  a: {source: bank:out, to: 'lake:', settle: {marker: '{stem}.ok'}, after: {delete: true}}\n"
        "  b: {source: bank:out, to: 'here:', include: '*.ok'}\n",
        # Files told apart.
        "  a: {source: bank:out, to: 'lake:', include: '*.csv', after: {delete: true}}\n"
        "  b: {source: bank:out, to: 'lake:x/', include: '*.xml', after: {delete: true}}\n",
        "  a: {source: bank:out, rules: [{match: '^in_\\d+', to: 'lake:'}], after: {delete: true}}\n"
        "  b: {source: 'bank:', rules: [{match: 'out/in_[a-z]+', to: 'here:'}]}\n",
        # Nobody takes them away.
        "  a: {source: bank:out, to: 'lake:'}\n  b: {source: bank:out, to: 'here:'}\n",
        # Another store.
        "  a: {source: lake:in, to: 'here:', after: {delete: true}}\n  b: {source: 'bank:in', to: 'here:b/'}\n",
    ],
)
def test_flows_that_do_not(write: Write, flows: str) -> None:
    load(write(BOTH + flows))


def test_two_accounts_at_one_server_are_two_places(write: Write) -> None:
    text = """endpoints:
  a: {type: sftp, host: h, user: a, root: /}
  b: {type: sftp, host: H, user: b, root: /}
  c: {type: sftp, host: H, user: a, root: /x}
flows:
"""
    load(write(text + "  f: {source: 'a:', to: 'b:'}\n"))
    assert len(mistakes(write, text + "  f: {source: 'a:', to: 'c:'}\n")) == 1


def test_two_cp_codes_at_one_host_are_two_places(write: Write) -> None:
    text = """endpoints:
  a: {type: netstorage, host: h, cp_code: 1, key_name: n, key: "env:KEY"}
  b: {type: netstorage, host: h, cp_code: 2, key_name: n, key: "env:KEY"}
  c: {type: netstorage, host: h, cp_code: 1, key_name: n, key: "env:KEY", root: x}
flows:
"""
    load(write(text + "  f: {source: 'a:', to: 'b:'}\n"))
    assert len(mistakes(write, text + "  f: {source: 'a:', to: 'c:'}\n")) == 1
