"""Secrets that AWS keeps, at moto's Secrets Manager and Parameter Store."""

from __future__ import annotations

import json
import os
import resource
import shlex
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path
from threading import current_thread
from typing import Any

import botocore.session
import pytest

from crossdock.errors import SecretUnavailable
from crossdock.storage import aws_secrets
from crossdock.storage.registry import new_storage
from crossdock.storage.s3 import S3Settings
from crossdock.storage.secret import Secret
from tests.cli.conftest import Cli, cli
from tests.servers import Moto, OpenSSH

__all__ = ["cli"]

_NUMBERS = count(1)


class Aws:
    """Its two stores, filled past our code; every test has names of its own."""

    def __init__(self, moto: Moto) -> None:
        options = {"region_name": "us-east-1", "endpoint_url": moto.endpoint_url}
        session = botocore.session.Session()
        self.manager = session.create_client("secretsmanager", **options)
        self.store = session.create_client("ssm", **options)

    def secret(self, value: str | bytes, name: str = "") -> str:
        name = name or f"acme/bank-{next(_NUMBERS)}"
        kind = "SecretString" if isinstance(value, str) else "SecretBinary"
        self.manager.create_secret(Name=name, **{kind: value})
        return name

    def parameter(self, value: str, name: str = "") -> str:
        name = name or f"bank-{next(_NUMBERS)}"
        self.store.put_parameter(Name=name, Value=value, Type="SecureString")
        return name


@pytest.fixture
def aws(moto: Moto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Aws]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", moto.endpoint_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SSM", moto.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto.secret_key)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(aws_secrets, "_known", {})
    yield Aws(moto)


@pytest.mark.parametrize("text", ["", "\n"])
def test_nothing_is_no_secret(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A CI sets what nobody has filled in to nothing; to sign in with that may lock the account."""
    monkeypatch.setenv("BANK_PASSWORD", text)
    (tmp_path / "word").write_text(text)
    (tmp_path / "word").chmod(0o600)
    for secret in (Secret("env:BANK_PASSWORD"), Secret("file:word", tmp_path)):
        with pytest.raises(SecretUnavailable, match=f"the secret of {secret.reference} is empty. Next: put it there"):
            secret.reveal()


def test_a_line_break_at_the_end_is_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`echo word | base64`, in a secret of Kubernetes."""
    monkeypatch.setenv("BANK_PASSWORD", "pass word\n")
    assert Secret("env:BANK_PASSWORD").reveal() == "pass word"


def test_what_others_may_read_is_mended_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "bank's pass word"
    path.write_text("word")
    path.chmod(0o644)
    with pytest.raises(SecretUnavailable, match="others may read") as caught:
        Secret(f"file:{path}").reveal()
    assert caught.value.hint is not None
    subprocess.run(shlex.split(caught.value.hint), check=True)
    assert Secret(f"file:{path}").reveal() == "word"


def test_a_whole_secret(aws: Aws) -> None:
    assert Secret(f"secret://aws-sm/{aws.secret('s3cr3t #1')}").reveal() == "s3cr3t #1"


def test_its_line_break_is_none_of_it_but_a_key_keeps_its_own(aws: Aws) -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\n"
    word = aws.secret("word\n")
    assert Secret(f"secret://aws-sm/{word}").reveal() == "word"
    assert Secret(f"secret://aws-sm/{aws.secret(key)}").reveal() == key


def test_fields(aws: Aws) -> None:
    name = aws.secret(json.dumps({"password": "pä55", "pin": 123456, "nested": {"a": 1}, "flag": True, "none": None}))
    assert Secret(f"secret://aws-sm/{name}#password").reveal() == "pä55"
    assert Secret(f"secret://aws-sm/{name}#pin").reveal() == "123456"
    for field, what in (("user", "is not there"), ("nested", "is no text"), ("flag", "is no text"), ("none", "is no")):
        with pytest.raises(SecretUnavailable) as caught:
            Secret(f"secret://aws-sm/{name}#{field}").reveal()
        assert f"AWS does not give the secret {name}: its field {field} {what}" in str(caught.value)
        assert "it has flag, nested, none, password, pin" in str(caught.value)
        assert "pä55" not in str(caught.value)


@pytest.mark.parametrize("text", ["plain", "[1]", '"password"'])
def test_a_field_of_what_has_none(aws: Aws, text: str) -> None:
    with pytest.raises(SecretUnavailable, match=r"it is no JSON object.*Next: write it without #password") as caught:
        Secret(f"secret://aws-sm/{aws.secret(text)}#password").reveal()
    assert text not in str(caught.value).replace("#password", "")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"username": "acme", "password": "pä55"},
            "it is a JSON object; it has password, username. Next: write which one: …#password",
        ),
        ({"key": "pä55"}, "it is a JSON object; it has key. Next: write which one: …#FIELD"),
        ({}, "it is a JSON object; it has none. Next: keep it as text"),
    ],
)
def test_all_of_what_has_fields(aws: Aws, fields: dict[str, str], said: str) -> None:
    with pytest.raises(SecretUnavailable) as caught:
        Secret(f"secret://aws-sm/{aws.secret(json.dumps(fields))}").reveal()
    assert str(caught.value).endswith(said)
    assert "pä55" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1]", "123", '"word"', "{a}", "[" * 60000])
def test_json_without_fields_is_a_text_as_any(aws: Aws, text: str) -> None:
    assert Secret(f"secret://aws-sm/{aws.secret(text)}").reveal() == text


def test_bytes(aws: Aws) -> None:
    assert Secret(f"secret://aws-sm/{aws.secret('pä55'.encode())}").reveal() == "pä55"
    with pytest.raises(SecretUnavailable, match="it is no text in UTF-8") as caught:
        Secret(f"secret://aws-sm/{aws.secret(bytes([255]))}").reveal()
    assert caught.value.__cause__ is None
    assert "255" not in str(caught.value)


def test_an_arn_tells_the_region(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    arn = aws.manager.describe_secret(SecretId=aws.secret('{"password": "x"}'))["ARN"]
    monkeypatch.delenv("AWS_REGION")
    assert Secret(f"secret://aws-sm/{arn}#password").reveal() == "x"


@pytest.mark.parametrize(("name", "written"), [("", "{}"), ("/acme/bank/1", "{}"), ("/acme/bank/2", "acme/bank/2")])
def test_a_parameter(aws: Aws, name: str, written: str) -> None:
    assert Secret(f"ssm://{written.format(aws.parameter('s3cr3t', name))}").reveal() == "s3cr3t"


@pytest.mark.parametrize("reference", ["secret://aws-sm/nothing", "ssm://nothing"])
def test_one_that_is_not_there(aws: Aws, reference: str) -> None:
    with pytest.raises(SecretUnavailable, match=r"AWS does not give the secret nothing: .*NotFound") as caught:
        Secret(reference).reveal()
    assert str(caught.value).endswith("Next: check its name, and the region: AWS_REGION, or the one of its ARN")
    assert caught.value.retryable


def test_no_region(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(SecretUnavailable, match=r"no region is set\. Next: export AWS_REGION, or write its ARN"):
        Secret("ssm://bank").reveal()


def test_the_other_variable_tells_the_region_as_well(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert Secret(f"ssm://{aws.parameter('word')}").reveal() == "word"


def test_no_credentials(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SecretUnavailable, match=r"no credentials were found\. Next: give this process a role"):
        Secret("ssm://bank").reveal()


@pytest.mark.parametrize("program", ["/nonexistent/program", "echo []"])
def test_a_source_of_credentials_that_fails(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str
) -> None:
    (tmp_path / "config").write_text(f"[profile p]\ncredential_process = {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "p")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(SecretUnavailable, match="the source of the credentials fails") as caught:
        Secret("secret://aws-sm/x").reveal()
    assert caught.value.hint


def test_nobody_there(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as held:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SSM", f"http://127.0.0.1:{held.getsockname()[1]}")
        held.shutdown(socket.SHUT_RDWR)
        with pytest.raises(SecretUnavailable, match="AWS does not give the secret bank: Could not connect"):
            Secret("ssm://bank").reveal()


def test_one_that_is_rotated_is_noticed_within_a_minute(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(aws_secrets, "monotonic", lambda: now)
    name = aws.secret("old")
    secret = Secret(f"secret://aws-sm/{name}")
    assert secret.reveal() == "old"
    aws.manager.put_secret_value(SecretId=name, SecretString="new")
    now = 59.0
    assert secret.reveal() == "old"
    now = 61.0
    assert secret.reveal() == "new"


def test_many_at_once_ask_once(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    usual = aws_secrets._asked

    def told(service: str, name: str, ask: Any) -> str:
        asked.append(name)
        return usual(service, name, ask)

    monkeypatch.setattr(aws_secrets, "_asked", told)
    name = aws.parameter("word")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: Secret(f"ssm://{name}").reveal(), range(8)))
    assert (found, asked) == (["word"] * 8, [name])


_NONE = [
    *("secret:", "secret://", "secret://aws-sm", "secret://aws-sm/", "secret://vault/a", "secret:aws-sm/a"),
    *("ssm:", "ssm://", "ssm:///", "ssm:bank", "ssm://bank#password", "ssm://#a", "vault://a"),
]


@pytest.mark.parametrize("written", _NONE)
def test_what_is_no_reference(written: str) -> None:
    with pytest.raises(ValueError, match="secrets are written by reference"):
        Secret(written)


def test_a_key_that_aws_keeps_signs_in(aws: Aws, cli: Cli, openssh: OpenSSH, tmp_path: Path) -> None:
    name = aws.secret(json.dumps({"private_key": openssh.key.read_text()}))
    settings = openssh.settings() | {"private_key": f"secret://aws-sm/{name}#private_key"}
    (tmp_path / "crossdock.yaml").write_text(json.dumps({"endpoints": {"bank": settings}}))
    folder = Path(openssh.folder) / f"secrets-{next(_NUMBERS)}"
    folder.mkdir()
    openssh.own()
    (folder / "a.csv").write_bytes(b"1\n")
    result = cli("cat", f"bank:{folder.name}/a.csv")
    assert (result.code, result.out, result.err) == (0, "1\n", "")


async def test_the_keys_of_a_store_are_not_fetched_on_the_event_loop(
    aws: Aws, moto: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, threads = Secret.reveal, []

    def told(secret: Secret) -> str:
        threads.append(current_thread())
        return usual(secret)

    monkeypatch.setattr(Secret, "reveal", told)
    settings = S3Settings.model_validate(
        {"bucket": "acme-nothing", "endpoint_url": moto.endpoint_url, "access_key_id": moto.access_key}
        | {"secret_access_key": f"ssm://{aws.parameter(moto.secret_key)}"}
    )
    async with new_storage("lake", settings) as lake:
        assert not await lake.exists("a.csv")
    assert threads
    assert current_thread() not in threads


def test_a_wrong_reference_in_the_file_is_told_with_its_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "crossdock.yaml").write_text(
        "endpoints:\n  bank: {type: sftp, host: h, host_key: SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU,\n"
        "    password: secret://vault/bank}\n"
    )
    result = cli("check")
    assert result.code == 3
    assert result.err.splitlines() == [
        "crossdock: crossdock.yaml:3: endpoints.bank.password: names no secret",
        "Next: write env:NAME, file:PATH, secret://aws-sm/NAME#FIELD or ssm://NAME",
    ]


def test_a_secret_that_cannot_be_opened_for_want_of_open_files(tmp_path: Path) -> None:
    """It is where it should be."""
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_text("the secret")
    secret = Secret(f"file:{path}")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(SecretUnavailable) as caught:
            secret.reveal()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert str(caught.value) == (
        f"cannot read the secret in {path}: Too many open files. Next: raise the limit of open files (ulimit -n)"
    )
    assert secret.reveal() == "the secret"
