"""check, schema and route as commands."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
from pathlib import Path

import asyncpg
import pytest

from crossdock.cli import lacking
from tests.cli.conftest import PROGRAM, Cli
from tests.servers import OpenSSH, Postgres

CONFIG = """endpoints:
  here: {type: local, root: .}
  lake: {type: s3, bucket: lake, anonymous: true}
flows:
  statements:
    source: here:in
    trigger: {every: 5m}
    exclude: old/
    rules:
      - match: '(?P<feed>\\w+)_(?P<day>\\d{8})\\.csv'
        to: ["lake:{feed}/{day}/{name}", "lake:all/{path}"]
      - match: {glob: "*.txt"}
        to: none
        name: notes
    after: {archive: .done}
    tests:
      - {file: pay_20261120.csv, to: ["lake:pay/20261120/pay_20261120.csv", "lake:all/pay_20261120.csv"]}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "crossdock.yaml"
    path.write_text(CONFIG)
    return path


def test_a_good_file(cli: Cli, config: Path) -> None:
    result = cli("check")
    assert (result.code, result.err) == (0, "crossdock.yaml: 2 endpoints, 1 flow, no mistakes\n")
    assert result.out.splitlines() == [
        "here: local",
        "lake: s3",
        "statements: here:in → lake (2 rules, 1 test passed; every 5m)",
    ]
    assert cli("check", "--json").rows == [
        {"kind": "endpoint", "name": "here", "type": "local"},
        {"kind": "endpoint", "name": "lake", "type": "s3"},
        {"kind": "flow", "name": "statements", "source": "here:in", "rules": 2, "tests": 1},
    ]


def test_mistakes_as_json(cli: Cli, config: Path) -> None:
    config.write_text(CONFIG.replace("archive", "archve").replace("every: 5m", "every: 0.5"))
    result = cli("check", "--json")
    assert result.code == 3
    assert result.rows == [
        {"kind": "mistake", "file": "crossdock.yaml", "line": 7, "key": "flows.statements.trigger.every",
         "message": "input should be greater than or equal to 1", "next": "write 1 or more"},
        {"kind": "mistake", "file": "crossdock.yaml", "line": 15, "key": "flows.statements.after.archve",
         "message": "unknown key", "next": "did you mean 'archive'?"},
    ]  # fmt: skip


def test_a_gpg_that_is_missing_is_advice(cli: Cli, tmp_path: Path) -> None:
    """Each file would fail, one after the other, and wait for a hand."""
    (tmp_path / "crossdock.yaml").write_text(
        "endpoints: {a: {type: memory}, b: {type: memory}}\n"
        f"flows: {{f: {{source: 'a:', to: 'b:', transform: [{{pgp_decrypt: {{program: {tmp_path}/gpg}}}}]}}}}\n"
    )
    (advice, remedy, _) = cli("check").err.splitlines()
    assert advice.endswith(f"flows.f: its PGP transforms run {tmp_path}/gpg, which is not installed here")
    assert remedy == "Next: apt install gpg, or write where it is at 'program'"
    (tmp_path / "gpg").touch(mode=0o755)
    assert "advice" not in cli("check").err


def test_keys_that_are_missing_are_advice(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "gpg").touch(mode=0o755)
    steps = f"[{{pgp_encrypt: {{program: {tmp_path}/gpg, home: keys/ring, recipient_files: keys/bank.asc}}}}]"
    to = f"to: 'b:', transform: {steps}"
    (tmp_path / "crossdock.yaml").write_text(
        "endpoints: {a: {type: memory}, b: {type: memory}}\n"
        f"flows: {{f: {{source: 'a:', rules: [{{match: x, {to}}}, {{match: y, {to}}}]}}}}\n"
    )
    result = cli("check")
    (home, _, file, _, _) = result.err.splitlines()
    assert result.code == 0
    assert home.endswith(f"flows.f: {tmp_path}/keys/ring, the keyring of its PGP transforms, is not a folder here")
    assert file.endswith(f"flows.f: there is no file {tmp_path}/keys/bank.asc, to whose key its PGP transforms encrypt")
    (tmp_path / "keys/ring").mkdir(parents=True)
    (tmp_path / "keys/bank.asc").touch()
    assert "advice" not in cli("check").err


def test_extras_that_are_missing_are_advice(cli: Cli, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = "  bank: {type: sftp, host: h, user: u, password: 'ssm://bank'}\nledger: postgresql://u@h/db\nflows:"
    config.write_text(CONFIG.replace("flows:", more).replace("{every: 5m}", "{watch: true}"))
    assert "not installed" not in cli("check").err
    monkeypatch.setattr(lacking, "find_spec", lambda _: None)
    result = cli("check")
    assert result.code == 0
    told = result.err.splitlines()
    for key, package, extra in (
        ("endpoints.bank", "asyncssh", "sftp"), ("endpoints.bank.password", "botocore", "aws"),
        ("endpoints.lake", "botocore", "s3"),
        ("flows.statements.trigger.watch", "watchfiles", "watch"), ("ledger", "asyncpg", "postgres"),
    ):  # fmt: skip
        at = told.index(f"crossdock: advice: {key}: needs the package {package}, which is not installed here")
        assert told[at + 1] == f"Next: pip install 'crossdock[{extra}]'"


def test_secrets_that_are_missing_are_advice(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here: who checks a file, as a CI does, need not have them."""
    for name in ("FIRST", "LEDGER", "HOOK", "MAIL", "PGP"):
        monkeypatch.delenv(f"NOT_THERE_{name}", raising=False)
    monkeypatch.setenv("IS_THERE", "x")
    monkeypatch.setenv("IS_EMPTY", "")
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o644)
    bank = f"type: sftp, host: h, user: u, host_key: 'SHA256:{'A' * 43}'"
    (
        tmp_path / "crossdock.yaml"
    ).write_text(f"""ledger: "postgresql://u@h/d?sslmode=require&password=env:NOT_THERE_LEDGER"
endpoints:
  here: {{type: local, root: .}}
  one: {{{bank}, password: env:NOT_THERE_FIRST, private_key: [file:keys/no, file:open]}}
  two: {{{bank}, password: env:NOT_THERE_FIRST, passphrase: env:IS_THERE}}
  three: {{{bank}, password: env:IS_EMPTY}}
flows:
  a:
    source: one:a
    to: here:a/
    transform: [{{pgp_encrypt: {{recipients: {"E" * 40}, passphrase: env:NOT_THERE_PGP}}}}]
    notify:
      webhook: {{url: https://h.example/, secret: env:NOT_THERE_HOOK}}
      mail: {{to: a@h.example, from: a@h.example, host: h, user: u, password: env:NOT_THERE_MAIL}}
  b: {{source: "two:b", to: "here:b/"}}
  c: {{source: "three:c", to: "here:c/"}}
""")
    result = cli("check")
    advice = [line for line in result.err.splitlines() if line.startswith("crossdock: advice: ") and "gpg" not in line]
    not_set = "the environment variable NOT_THERE_{} is not set"
    assert (result.code, [line.removeprefix("crossdock: advice: crossdock.yaml:") for line in advice]) == (0, [
        f"4: endpoints.one.private_key: cannot read the secret in {tmp_path}/keys/no: No such file or directory",
        f"4: endpoints.one.private_key: others may read the secret in {tmp_path}/open",
        f"4: endpoints.one.password: {not_set.format('FIRST')}",
        "6: endpoints.three.password: the secret of env:IS_EMPTY is empty",
        f"1: ledger: {not_set.format('LEDGER')}",
        f"13: flows.a.notify.webhook.secret: {not_set.format('HOOK')}",
        f"14: flows.a.notify.mail.password: {not_set.format('MAIL')}",
        f"8: flows.a: {not_set.format('PGP')}",
    ])  # fmt: skip
    assert "\nNext: export NOT_THERE_FIRST=…, where the flows run\n" in result.err
    assert "no mistakes\n" in result.err
    quiet = cli("check", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    assert [row["line"] for row in cli("check", "--json").rows if row["kind"] == "warning"][-8:][3] == 6


def test_a_test_that_fails_and_advice(cli: Cli, config: Path) -> None:
    config.write_text(CONFIG.replace("file: pay_2", "file: x_2"))
    result = cli("check")
    assert result.code == 3
    assert result.err.startswith("crossdock: crossdock.yaml:17: flows.statements.tests.0: x_20261120.csv was to go to")
    config.write_text(CONFIG.replace("flows:", "  spare: {type: memory}\nflows:"))
    result = cli("check")
    assert (result.code, result.err.splitlines()[0]) == (
        0, "crossdock: advice: crossdock.yaml:4: endpoints.spare: no flow uses this endpoint",
    )  # fmt: skip
    assert cli("check", "--json").rows[-1]["kind"] == "warning"


def test_connect(cli: Cli, openssh: OpenSSH, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "crossdock.yaml").write_text(
        f"""endpoints:
  here: {{type: local, root: .}}
  partner: {{type: sftp, host: {openssh.host}, port: {openssh.port}, user: {openssh.user}, root: {openssh.folder},
             private_key: "file:{openssh.key}", host_key: "{openssh.fingerprint}"}}
  new: {{type: sftp, host: {openssh.host}, port: {openssh.port}, user: {openssh.user}, root: made/by/it,
         private_key: "file:{openssh.key}", host_key: "{openssh.fingerprint}"}}
  gone: {{type: local, root: ./nowhere}}
flows:
  a: {{source: here:in, to: partner:in/}}
  b: {{source: here:out, to: ["partner:out/", "new:"]}}
"""
    )
    result = cli("check", "--connect")
    assert result.code == 1
    answers = {line.partition(" (")[0] for line in result.out.splitlines()}
    assert answers >= {"partner: answers", "gone: cannot be used", "here: cannot be used"}
    assert "list here:out" in result.err, "a flow's source is missing"
    (tmp_path / "out").mkdir()
    rows = {row["name"]: row for row in cli("check", "--connect", "--json").rows if row["kind"] == "connection"}
    good = {name: row["good"] for name, row in rows.items()}
    assert good == {"here": True, "partner": True, "new": False, "gone": False}
    assert rows["gone"]["message"]
    assert "the first file that goes there makes it" in rows["new"]["next"]
    (tmp_path / "out" / "a").touch()
    assert cli("run", "--once").code == 0
    assert (openssh.folder / "made/by/it/a").exists()


def _asked(dsn: str, sql: str) -> object:
    async def ask() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_connect_to_a_ledgers_server(cli: Cli, postgres: Postgres, tmp_path: Path) -> None:
    """No table is made for that, and it is looked at only where flows need it."""
    (tmp_path / "in").mkdir()
    text = "endpoints: {here: {type: local, root: .}}\nflows: {a: {source: 'here:in', to: 'here:out'}}\nledger: "
    file = tmp_path / "crossdock.yaml"
    name = f"check_{secrets.token_hex(6)}"
    _asked(postgres.dsn, f"CREATE DATABASE {name}")
    dsn = postgres.dsn.replace("/postgres", f"/{name}")
    file.write_text(f"{text}{dsn}\n")
    result = cli("check", "--connect")
    assert (result.code, result.out.count("ledger: answers")) == (0, 1), result.err
    assert _asked(dsn, "SELECT to_regnamespace('crossdock')") is None
    file.write_text(f"{text}{postgres.dsn.replace('/postgres', '/nowhere')}\n")
    result = cli("check", "--connect")
    assert (result.code, result.out.count("ledger: cannot be used")) == (1, 1)
    assert f'{postgres.port}/nowhere#crossdock: database "nowhere" does not exist' in result.err
    (row,) = [row for row in cli("check", "--connect", "--json").rows if row["kind"] == "ledger"]
    assert (row["name"], row["good"]) == ("ledger", False)
    assert cli("check").code == 0
    file.write_text(f"{text}{postgres.dsn}?password=env:CROSSDOCK_NOBODY\n")
    missing = "the ledger's password: the environment variable CROSSDOCK_NOBODY is not set"
    assert missing in cli("check", "--connect").err


def test_route(cli: Cli, config: Path) -> None:
    result = cli("route", "statements", "pay_20261120.csv", "a/b.txt", "old/pay_20261120.csv", "x", ".done/x", "y.tmp",
                 "here:/in/pay_20261121.csv", "here:out/x", "lake:x", "/in/x", "/x")  # fmt: skip
    assert result.code == 1, "some go nowhere"
    how = r"(rule rules[0] matches (?P<feed>\w+)_(?P<day>\d{8})\.csv)"
    assert result.out.splitlines() == [
        f"pay_20261120.csv → lake:pay/20261120/pay_20261120.csv {how}",
        f"pay_20261120.csv → lake:all/pay_20261120.csv {how}",
        "a/b.txt → nowhere (rule notes matches *.txt and sends it nowhere)",
        "old/pay_20261120.csv → nowhere (excluded by 'old/')",
        "x → nowhere (no rule matches)",
        ".done/x → nowhere (it lies in the flow's own archive)",
        "y.tmp → nowhere (its sender uses such names while it writes (settle.temporary))",
        f"here:/in/pay_20261121.csv → lake:pay/20261121/pay_20261121.csv {how}",
        f"here:/in/pay_20261121.csv → lake:all/pay_20261121.csv {how}",
        "here:out/x → nowhere (it is not below the flow's source, here:in)",
        "lake:x → nowhere (no rule matches)",
        "/in/x → nowhere (no rule matches)",
        "/x → nowhere (it is not below the flow's source, here:in)",
    ]


def test_route_reads_names(cli: Cli, config: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [PROGRAM, "route", "--json", "statements", "-"], cwd=tmp_path, input="pay_20261120.csv\n\n", text=True,
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["to"][1] for line in done.stdout.splitlines()] == ["lake:all/pay_20261120.csv"]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    command = [PROGRAM, "route", "--json", "statements", "-"]
    names = b"caf\xe9.csv\n"
    bare = subprocess.run(command, cwd=tmp_path, input=names, capture_output=True, timeout=60, env=strict)
    assert json.loads(bare.stdout)["name"] == "caf\udce9.csv", "as in most locales, where Python is strict"
    result = cli("route", "statement", "x")
    assert (result.code, result.err.splitlines()[1]) == (3, "Next: did you mean statements?")


def test_schema(cli: Cli) -> None:
    found = json.loads(cli("schema").out)
    assert set(found["properties"]) == {"endpoints", "flows", "ledger"}


def test_whose_secret_is_missing_is_told(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    bank = f"type: sftp, host: 127.0.0.1, port: 1, user: u, host_key: 'SHA256:{'A' * 43}'"
    for secret, told in (
        ("password: env:NOT_THERE", "the environment variable NOT_THERE is not set\nNext: export NOT_THERE=…"),
        ("private_key: file:crossdock.yaml", "others may read the secret in "),
        ("known_hosts: nowhere", "known_hosts: cannot read "),
    ):
        text = f"endpoints: {{bank: {{{bank}, {secret}}}, to: {{type: local, root: .}}}}\n"
        text = text.replace("host_key", "jump_host_key") if "known" in secret else text
        (tmp_path / "crossdock.yaml").write_text(f"{text}flows: {{f: {{source: 'bank:', to: 'to:x/'}}}}\n")
        (tmp_path / "crossdock.yaml").chmod(0o644)
        for argv in (["ls", "bank:"], ["check", "--connect"], ["run", "--once"]):
            found = cli(*argv).err
            assert f"crossdock: endpoint bank: {told}" in found and "\nNext: " in found, found
