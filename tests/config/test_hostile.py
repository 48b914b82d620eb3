"""Files that mean harm, or that nobody meant: an answer in time, and never a traceback."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, cli

__all__ = ["cli"]

HEAD = "endpoints:\n  a: {type: memory}\n  b: {type: memory}\nflows:\n"
AGES = "min_age: %s, after: {archive: .d, keep: %s}, trigger: {every: %s}, settle: {for: %s}".replace(
    "%s", "9" * 14 + "d"
)
MANY = range(5000)


def flow(text: str) -> str:
    return f"{HEAD}  f: {{source: 'a:', {text}}}\n"


def rules(*texts: str) -> str:
    return flow("rules: [" + ", ".join(texts) + "]")


CASES: dict[str, tuple[str | bytes, int, str]] = {
    "anchor": ("endpoints:\n  a: &x {type: memory}\n  b: *x\n", 0, "2 endpoints"),
    "merge of no mapping": ("endpoints:\n  a: {<<: 5, type: memory}\n", 3, "'<<' takes a mapping"),
    "a key twice, deep down": (flow("to: 'b:', after: {keep: 1d, keep: 2d, archive: .d}"), 3, "the key is there twice"),
    "tab": ("endpoints:\n\ta: {type: memory}\n", 3, "a tab where YAML allows only spaces"),
    "mark": (b"\xef\xbb\xbfendpoints:\n  a: {type: memory}\n", 0, "1 endpoint"),
    "CR LF": (flow("to: 'b:'").replace("\n", "\r\n"), 0, "1 flow"),
    "UTF-16": (flow("to: 'b:'").encode("utf-16"), 3, "not UTF-8 text"),
    "Latin-1": (b"endpoints: {} # \xe9\n", 3, "not UTF-8 text"),
    "empty": ("", 0, "0 endpoints"),
    "list": ("- a\n", 3, "the file must be a mapping"),
    "numbers as names": ("endpoints:\n  1: {type: memory}\n  ~: {type: x}\nflows: {2: {}}\n", 3,
                         "not a name for a flow"),
    "numbers as keys": (flow("to: 'b:', 1.5: x, after: {1e400: x, ~: x, 99999999999999999999: x}"), 3,
                        "flows.f.after.99999999999999999999: unknown key"),
    "zeros as keys": (flow("to: 'b:', expect: {0: x, match: '*', by: '06:30'}, notify: {mail: {0: [x]}}"), 3,
                      "0: unknown key"),
    "on, yes": (flow("to: 'b:', on: yes, after: {delete: yes}"), 3, "flows.f.on: unknown key"),
    "no is a name": (HEAD + "  no: {source: 'a:', to: 'b:'}\n", 0, "no: a: → b"),
    "dates": (flow("to: 'b:', expect: {match: 2026-11-20, by: 06:30}"), 0, "1 flow"),
    "times that overflow": (flow(f"to: 'b:', {AGES}"), 3, "input should be less than or equal to 3153600000"),
    "large number": (flow(f"to: 'b:', max_files: {'9' * 5000}"), 3, "not a number"),
    "a connection for ever": ("endpoints:\n  a: {type: ftp, host: h, connect_timeout: 99999999999d}\n", 3,
                              "endpoints.a.connect_timeout: input should be less than or equal to 3153600000"),
    "a long size": (flow(f"to: 'b:', min_size: '{'9' * 400}'"), 3, "write a size in bytes"),
    "the root as the ledger": (flow("to: 'b:'") + "ledger: /\n", 0, "1 flow"),
    "a secret without a name": ("ledger: 'postgresql://u@h/d?password=env:'\n", 3, "env: names no secret"),
    "10 MB of comments": ("# x\n" * 2_500_000, 3, "larger than 1 MiB"),
    "a long value": (flow(f"to: 'b:{'x' * 900_000}'"), 0, "1 flow"),
    "zeros": (b"\0" * 100_000, 3, "c.yaml:1: unacceptable character"),
    "a bell": (flow("to: 'b:\a'"), 3, "c.yaml:5: unacceptable character"),
    "a word as a number": (flow("to: 'b:', max_files: !!int x"), 3, "Next: write a number"),
    "deep": ("[" * 100_000, 3, "nested deeper than 50 levels"),
    "deep dashes": ("- " * 100_000, 3, "nested deeper than 50 levels"),
    "a bomb of merges": (
        "a0: &a0 {x: y}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40)),
        3, "more than 100000 values",
    ),
    "python": ("endpoints: !!python/object/apply:os.system ['echo harm']\n", 3, "is not allowed"),
    "many unknown keys": (HEAD + "  f:\n    source: 'a:'\n" + "".join(f"    k{n}: 1\n" for n in MANY), 3,
                          "mend these first"),
    "many wrong rules": (rules(*("{match: '(', to: 5}" for _ in MANY)), 3, "mend these first"),
    "many wrong archives": (
        HEAD + "".join(f"  f{n}: {{source: 'a:{n}', to: 'b:', after: {{archive: '{{path}}'}}}}\n" for n in range(600)),
        3, "mend these first",
    ),
    "many flows": (HEAD + "".join(f"  f{n}: {{source: 'a:{n}', to: 'b:{n}/'}}\n" for n in range(300)), 0, "300 flows"),
    "many rules": (rules(*(f"{{match: 'x{n}_.*', to: 'b:'}}" for n in range(300))), 0, "300 rules"),
    "catastrophic": (
        rules(*(f"{{match: '{one}', to: 'b:'}}" for one in ("(a+)+$", "(a|a)*b", "(.*)*", "(a|aa)+$", "(.*a){25}"))),
        3, "rules.4.match: may take for ever",
    ),
    "expressions too large": (
        rules(*(f"{{match: '{one}', to: 'b:'}}" for one in ("a{99999999}", "(" * 5000 + ")" * 5000, "(a|b)?" * 3000))),
        3, "rules.1.match",
    ),
    "templates": (
        rules(*(f"{{match: a{n}, to: {to}}}" for n, to in enumerate(
            ("'b:../x'", "'b:{}'", "'b:{name!r}'", "'b:{name.__class__}'", '"b:x\\0y"', "''", "'b:{now:@}'", "5")
        ))), 3, "rules.7.to",
    ),
    "windows": ("endpoints: {a: {type: memory}}\nflows:\n  f: {source: 'C:\\data', to: 'a:'}\n", 3,
                "no endpoint is called 'C'"),
    "variables": ("endpoints:\n  ${X}: {type: '${T}'}\nledger: '${D'\nflows: {f: {source: '${S}', to: '${T}:'}}\n", 3,
                  "flows.f.source: not a location: '${S}'"),
    "no such home": ("endpoints:\n  a: {type: local, root: '~nobody_there/x'}\nledger: '~nobody_there/x.db'\n", 3,
                     "ledger: nobody here has the home folder ~nobody_there"),
    "a key of nobody": ("endpoints:\n  a: {type: sftp, host: h, private_key: 'file:~nobody_there/x'}\n", 3,
                        "nobody here has the home folder ~nobody_there"),
    "address": ("ledger: 'postgresql://u@[::1/d'\n", 3, "not the address of a database"),
    "port": ("ledger: 'postgresql://u@h:99999999/d'\n", 3, "not the address of a database"),
    "zones": (flow("to: 'b:', trigger: {cron: '* * * * *', timezone: ../../etc/passwd}"), 3, "no time zone is called"),
    "cron": (flow(f"to: 'b:', trigger: {{cron: '{','.join(['1'] * 20000)} * * * 8'}}"), 3, "bad day-of-week"),
    "the same files": (
        HEAD + "  x: {source: 'a:', to: 'b:', include: '*a*b*c*d*', after: {delete: true}}\n"
        "  y: {source: 'a:', to: 'b:', include: '*d*c*b*a*', after: {delete: true}}\n", 3, "both take",
    ),
    "three in a loop": (
        "endpoints: {a: {type: memory}, b: {type: memory}, c: {type: memory}}\nflows:\n  x: {source: 'a:', to: 'b:'}\n"
        "  y: {source: 'b:', to: 'c:'}\n  z: {source: 'c:', to: 'a:'}\n", 3, "files go round in a loop: x → y → z → x",
    ),
    "control characters": ('endpoints:\n  "a\u202eb": {type: "\\e[31m"}\n', 3, "not a name for an endpoint"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_file(cli: Cli, tmp_path: Path, name: str) -> None:
    text, code, words = CASES[name]
    (tmp_path / "c.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    started = time.process_time()
    result = cli("check", "c.yaml")
    assert time.process_time() - started < 10
    said = result.out + result.err
    assert (result.code, words in said, "Traceback" in said) == (code, True, False), said[:2000]
    assert "\x1b" not in said
    assert "\u202e" not in said


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.toml", "a = " + "[" * 100_000, "nested deeper than 50 levels"),
        ("c.toml", "a = 1\na = 2\n", "c.toml:2: Cannot overwrite a value"),
        ("c.toml", "flows = 2026-01-01\n", "flows: must be a mapping"),
        ("c.json", '{"a":' * 100_000, "nested deeper than 50 levels"),
        ("c.json", '{"a": ', "c.json:1: Expecting value"),
        ("c.json", f'{{"a": {"9" * 5000}}}', "c.json: a number of thousands of digits"),
        ("c.toml", f"a = {'9' * 5000}\n", "c.toml: a number of thousands of digits"),
        ("c.json", '{"flows": {"f": {"source": "a:", "to": "a:", "min_age": NaN}}}', "min_age: input should be less"),
    ],
)  # fmt: skip
def test_json_and_toml(cli: Cli, tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    result = cli("check", name)
    assert (result.code, words in result.err) == (3, True), result.err


def test_what_is_no_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "crossdock.yaml").mkdir()
    assert "cannot be read: Is a directory" in cli("check").err
    assert "larger than 1 MiB" in cli("check", "/dev/zero").err
    assert "there is no such file" in cli("check", "nowhere.yaml").err
    (tmp_path / "linked.yaml").symlink_to("gone.yaml")
    assert "crossdock: linked.yaml: is a link to gone.yaml, which is not there\n" in cli("check", "linked.yaml").err
    secret = tmp_path / "secret.yaml"
    secret.touch(mode=0)
    if not os.access(secret, os.R_OK):
        assert "Next: let this account read it" in cli("check", secret).err


def test_names_that_lead_nowhere(cli: Cli, tmp_path: Path) -> None:
    """Each has an answer of its own, and none keeps the others from theirs."""
    (tmp_path / "hostile_routes.py").write_text(
        """def to(entry):
    if entry.path == "f_exit":
        raise SystemExit(0)
    if entry.path == "f_raise":
        raise RuntimeError("one\\ntwo")
    return {"f_dots": "b:../x", "f_root": "b:", "f_other": "c:x", "f_number": 5}.get(entry.path, "b:ok")
"""
    )
    (tmp_path / "crossdock.yaml").write_text(
        HEAD
        + r"""  f:
    source: a:in
    rules:
      - {match: '(?P<x>\.\.)y', to: 'b:{x}/z'}
      - {match: 'e(?P<x>.*)', to: 'b:{x}'}
      - {match: 'g(?P<x>.*)', to: 'b:in/{x}'}
      - {match: 'f_.*', to: 'python:hostile_routes.to'}
"""
    )
    expected = {
        "..y": "'.' and '..' are not names", "e": "no name is left of it", "e/": "it stands for a folder", "ex": "b:x",
        "g": "no name is left of it",
        "f_dots": "'.' and '..' are not names", "f_root": "no name is left of it", "f_other": "no endpoint is called",
        "f_number": "returned 5 for f_number",
        "f_exit": "SystemExit: 0", "f_raise": "RuntimeError: one\\ntwo", "f_x": "b:ok",
    }  # fmt: skip
    result = cli("route", "f", *expected)
    assert result.code == 1
    assert len(result.out.splitlines()) == len(expected)
    for line, (name, words) in zip(result.out.splitlines(), expected.items(), strict=True):
        assert line.startswith(f"{name} → ")
        assert words in line


@pytest.mark.parametrize(
    ("code", "said", "hint"),
    [
        (None, "ModuleNotFoundError: No module named 'hostile_MODULE'",
         "write hostile_MODULE.py beside the configuration, with a function to"),
        ("def to(entry)\n    pass\n", "SyntaxError: expected ':' (hostile_MODULE.py, line 1)",
         "mend hostile_MODULE.py"),
        ("x = 1\n1 / 0\n", "ZeroDivisionError: division by zero (hostile_MODULE.py, line 2)", "mend hostile_MODULE.py"),
        ("x = 1\nimport not_there\n", "ModuleNotFoundError: No module named 'not_there' (hostile_MODULE.py, line 2)",
         "install what has not_there, or mend hostile_MODULE.py"),
        ("def tto(entry): pass\n", "AttributeError: module 'hostile_MODULE' has no attribute 'to'",
         "did you mean tto?"),
        ("", "AttributeError: module 'hostile_MODULE' has no attribute 'to'",
         "write a function to into hostile_MODULE.py"),
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_imported(cli: Cli, tmp_path: Path, code: str | None, said: str, hint: str) -> None:
    """It was to be written, even where it was there, and had a fault."""
    module = f"module_{abs(hash(code))}"
    if code is not None:
        (tmp_path / f"hostile_{module}.py").write_text(code)
    (tmp_path / "crossdock.yaml").write_text(flow(f"to: 'python:hostile_{module}.to'"))
    result = cli("check")
    told = f"cannot be imported: {said}\nNext: {hint}\n".replace("MODULE", module)
    assert (result.code, result.err.endswith(told)) == (3, True), result.err


@pytest.mark.parametrize(("module", "found"), [("calendar", "calendar.py"), ("time", "it is built in")])
def test_a_module_whose_name_python_has(cli: Cli, tmp_path: Path, module: str, found: str) -> None:
    """Installed ones go first: the user's file was to be given the function that stood in it."""
    (tmp_path / f"{module}.py").write_text("def route(entry): return None\n")
    (tmp_path / "crossdock.yaml").write_text(flow(f"to: 'python:{module}.route'"))
    result = cli("check")
    told = f"Next: give {module}.py another name, here and beside the configuration: Python has a module of this one ("
    assert (result.code, told in result.err, result.err.endswith(f"{found})\n")) == (3, True, True), result.err


def test_a_package_of_the_users_own_is_told_to_be_mended(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "hostile_package").mkdir()
    (tmp_path / "hostile_package/rules.py").write_text("")
    (tmp_path / "crossdock.yaml").write_text(flow("to: 'python:hostile_package.rules.route'"))
    assert cli("check").err.endswith("Next: write a function route into hostile_package/rules.py\n")


@pytest.mark.parametrize("answer", ["1", "{'b:x': 1}", "b'b:x'", "['b:x', None]", "'nowhere'", "entry", "['b:x', 'y']"])
def test_a_function_that_returns_no_place(cli: Cli, tmp_path: Path, answer: str) -> None:
    module = f"hostile_answer_{abs(hash(answer))}"
    (tmp_path / f"{module}.py").write_text(f"def to(entry): return {answer}\n")
    (tmp_path / "crossdock.yaml").write_text(flow(f"to: 'python:{module}.to'"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").touch()
    found = cli("route", "f", "file").out
    words = (
        "Entry(path='file', "
        if answer == "entry"
        else f"{answer} for file, not 'endpoint:path', several of them, or None)\n"
    )
    assert found.startswith(f"file → nowhere (rule to: python:{module}.to returned {words}"), found


def test_a_module_that_ends_the_program(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "hostile_script.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "crossdock.yaml").write_text(flow("to: 'python:hostile_script.main'"))
    result = cli("check")
    assert (result.code, "cannot be imported: SystemExit: 0" in result.err) == (3, True)
