"""The user's file: locations, every mistake at once with its line, and no secret in any message."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from crossdock.config import Config, Mistakes, load
from crossdock.errors import ConfigError
from tests.config.conftest import Write


def mistakes(path: Path) -> list[str]:
    with pytest.raises(Mistakes) as caught:
        load(path)
    return [str(mistake).replace(f"{path}:", "") for mistake in caught.value.mistakes]


GOOD = """
endpoints:
  partner: {type: sftp, host: 127.0.0.1, port: 022, user: no, private_key: "file:keys/id",
            host_key: "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU", root: /outbox, timeout: 30s}
  lake: {type: s3, bucket: lake, root: landing, endpoint_url: "http://127.0.0.1:7480"}
  here: {type: local, root: ./data}
"""

_BOMB = "a: &a x\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]\n" for below, name in pairwise("abcdefg")
)


def test_the_file_of_the_working_folder(write: Write, tmp_path: Path) -> None:
    write(GOOD)
    config = load()
    partner, here = config.endpoint("partner"), config.endpoint("here")
    assert partner.model_dump()["port"] == 22, "a number with a leading zero is decimal"
    assert partner.model_dump()["user"] == "no", "and no is a word"
    assert partner.model_dump()["timeout"] == 30
    assert here.model_dump()["root"] == tmp_path / "data", "paths start at the file's folder"
    assert config.file == tmp_path / "crossdock.yaml"


def test_relative_references_start_at_the_file(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(GOOD)
    monkeypatch.chdir("/")
    settings = load(path).endpoint("partner")
    assert settings.private_key[0].path == tmp_path / "keys/id"  # type: ignore[attr-defined]


def test_which_file_is_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().endpoints == {}, "no file is fine"
    write("endpoints: {one: {type: memory}}")
    other = write("endpoints: {two: {type: memory}}", "other.yaml")
    assert list(load().endpoints) == ["one"]
    monkeypatch.setenv("CROSSDOCK_CONFIG", str(other))
    assert list(load().endpoints) == ["two"]
    assert list(load(Path("crossdock.yaml")).endpoints) == ["one"]
    with pytest.raises(ConfigError, match="no such file"):
        load(Path("nowhere.yaml"))


def test_what_comes_out_of_a_pipe_lies_in_the_working_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of `crossdock --config <(sops -d crossdock.yaml)`."""
    monkeypatch.chdir(tmp_path)
    reading, writing = os.pipe()
    os.write(writing, b"endpoints: {here: {type: local, root: data}}")
    os.close(writing)
    try:
        config = load(f"/dev/fd/{reading}")
    finally:
        os.close(reading)
    assert config.folder == tmp_path
    assert config.endpoint("here").model_dump()["root"] == tmp_path / "data"


def test_json_and_toml_say_the_same(write: Write) -> None:
    yaml = load(write('endpoints: {a: {type: sftp, host: h, password: "env:P"}}'))
    json = load(write('{\n\t"endpoints": {"a": {"type": "sftp", "host": "h", "password": "env:P"}}}', "c.json"))
    toml = load(write('[endpoints.a]\ntype = "sftp"\nhost = "h"\npassword = "env:P"\n', "c.toml"))
    assert yaml.endpoints == json.endpoints == toml.endpoints


def test_all_mistakes_at_once_with_line_and_remedy(write: Write) -> None:
    path = write(
        """endpoints:
  partner:
    type: sftp
    hots: 127.0.0.1
    port: 99999
    password: hunter2
  lake:
    type: s4
  x: 5
flow: 3
"""
    )
    found = mistakes(path)
    assert found == [
        "4: endpoints.partner.hots: unknown key. Next: did you mean 'host'?",
        "5: endpoints.partner.port: input should be less than or equal to 65535. Next: write 65535 or less",
        "6: endpoints.partner.password: a secret may not be written into this file. "
        "Next: write 'password: env:PARTNER_PASSWORD' and export it, or 'password: file:PATH' of a file with mode 600",
        "8: endpoints.lake.type: unknown type 's4'. "
        "Next: write one of ftp, ftpes, ftps, local, memory, netstorage, s3, sftp",
        "9: endpoints.x: must be a mapping of settings. Next: write {type: sftp, host: …}",
        "10: flow: unknown key. Next: did you mean 'flows'?",
        "10: flow: must be a mapping of names to flows. Next: write 'name: {source: …}' below it",
    ]
    assert "hunter2" not in "".join(found)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("c.json", '{"endpoints": {\n\n"a": {"type": "sftp",\n "hots": "h"}}}', 4),
        ("c.toml", '[endpoints.a]\ntype = "sftp"\n\nhots = "h"\n', 4),
        ("d.toml", 'endpoints.a = {type = "sftp", hots = "h"}\n', 1),
    ],
)
def test_lines_in_json_and_toml(write: Write, name: str, text: str, line: int) -> None:
    found = mistakes(write(text, name))
    assert f"{line}: endpoints.a.hots: unknown key. Next: did you mean 'host'?" in found


PIN = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE" + "A" * 42


@pytest.mark.parametrize("pin", [PIN, f"{PIN}=", KEY, f"{KEY} someone", f"[h]:22 {KEY}"])
def test_a_host_key_that_can_be_one(write: Write, pin: str) -> None:
    load(write(f"endpoints: {{a: {{type: sftp, host: h, host_key: '{pin}'}}}}"))


@pytest.mark.parametrize(
    "pin",
    [
        "SHA256:...", "SHA256:…", "SHA256:", PIN[:-1], f"{PIN}A", PIN.replace("+", "-"), f"{PIN[:-1]}V", f"{PIN}==",
        PIN.replace("SHA256:", "MD5:"), PIN.replace("SHA256:", "sha256:"), "ssh-ed25519", "ssh-ed25519 AAAA", KEY[:-8],
        KEY.replace("ssh-ed25519", "ssh-rsa"), KEY.partition(" ")[2], "", "anything at all",
    ],
)  # fmt: skip
def test_a_host_key_that_cannot(write: Write, pin: str) -> None:
    for name in ("host_key", "jump_host_key"):
        text = f"endpoints:\n  a: {{type: sftp, host: h.example, user: u,\n    {name}: ['{pin}']}}\n"
        (found,) = mistakes(write(text))
        assert found.startswith(f"3: endpoints.a.{name}.0: ")
        assert "Next: write what 'crossdock trust " in found


def test_whom_to_ask_for_a_host_key(write: Write) -> None:
    for host, told in (("h.example, port: 2222", "h.example:2222"), ("'::1', port: 2222", "[::1]:2222"), ("h", "h")):
        (found,) = mistakes(write(f"endpoints: {{a: {{type: sftp, host: {host}, host_key: '{PIN[:-1]}'}}}}"))
        assert f"Next: write what 'crossdock trust {told}' shows" in found
    _, found = mistakes(write(f"endpoints: {{a: {{type: sftp, host: h, port: 0, host_key: '{PIN[:-1]}'}}}}"))
    assert "Next: write what 'crossdock trust h' shows" in found, "not the port that stands in for the wrong one"


def test_a_key_given_twice(write: Write) -> None:
    found = mistakes(write("endpoints:\n  a: {type: memory}\n  a: {type: memory}\n"))
    assert found == ["3: endpoints.a: the key is there twice, first on line 2. Next: remove one of them"]
    found = mistakes(write('{"endpoints": {"a": {"type": "memory",\n"type": "memory"}}}', "c.json"))
    assert found == ["2: endpoints.a.type: the key is there twice, first on line 1. Next: remove one of them"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("endpoints:\n\ta: {}\n", "2: a tab where YAML allows only spaces. Next: indent with spaces"),
        ("endpoints: [\n", "2: the file ends where a value must be. Next: close what was opened by [ or {"),
        (
            "a: b: c\n",
            "1: mapping values are not allowed here. Next: put a value that ends with ':' or has ': ' in it in quotes",
        ),
        ("endpoints: {a: *none}", "1: found undefined alias 'none'. Next: put a value that starts with * in quotes"),
        ("a: *.csv", "1: a value may not start with * or &. Next: put it in quotes"),
        (
            "a:\n  b: c\n  d:e\n  f: g\n",
            "3: no key, or no ': ' after one. Next: write 'key: value', with a space after the colon",
        ),
        ("a: @b", "1: found character '@' that cannot start any token. Next: put the value in quotes"),
        ('a: "\\d"', "1: found unknown escape character 'd'. Next: put it in single quotes"),
        ("a: 'b\nc: d\n", "1: the quote of line 1 is not closed. Next: close it"),
        ("a: [b\nc: d\n", "2: the [ of line 1 is not closed before this. Next: close it with ]"),
        ("a: {source: bank:, to: x}", "or put a value that has brackets in it, or a colon at its end, in quotes"),
        ("a: {b: (?P<c>d{2,3})}", "1: the { of line 1 is not closed before this. Next: close it with }, or"),
        ("a: [b-c]+", "1: text after the end of a value. Next: put the whole value in quotes"),
        ("a:\n  b: c\n d: e\n", "3: this does not line up with what it belongs to from line 1. Next: indent it alike"),
        ("a: }", "1: expected the node content, but found '}'. Next: mend it there; what comes after it was not read"),
        ("a: !!python/object/apply:os.system [echo]", "1: "),
        ("endpoints: !!python/name:os.system x", "1: the tag"),
        ("a: &a [*a]", "1: an alias that contains itself. Next: write out what is meant"),
        ("[" * 5000, ". Next: close a bracket"),
        (_BOMB, "1: more than 100000 values once its aliases are written out. Next: repeat less"),
        ("--- 1\n--- 2\n", "2: a second document begins. Next: remove the ---"),
        ("- a\n", "the file must be a mapping"),
        ("endpoints: {[a]: 1}", "1: a mapping or list as a key"),
        ("\x07", ""),
    ],
)
def test_what_is_not_a_configuration(write: Write, text: str, message: str) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert message in str(caught.value)


def test_a_bomb_of_aliases_is_bounded(write: Write) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match="more than 100000 values"):
        load(write("\n".join(lines)))


def test_anchors_and_merges_are_understood(write: Write) -> None:
    text = """endpoints:
  a: &base {type: sftp, host: one, port: 2222}
  b: {<<: *base, host: two}
"""
    dumped = load(write(text)).endpoint("b").model_dump()
    assert (dumped["host"], dumped["port"]) == ("two", 2222)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"endpoints:\n  a: \xff\n")
    with pytest.raises(ConfigError, match=r"c.yaml:2: not UTF-8 text"):
        load(path)


# -- locations ----------------------------------------------------------------------------------------------------


@pytest.fixture
def config(write: Write) -> Config:
    return load(write(GOOD))


@pytest.mark.parametrize(
    ("text", "name", "path", "folder"),
    [
        ("partner:a/b.csv", "partner", "a/b.csv", False),
        ("partner:/a/b/", "partner", "a/b", True),
        ("partner:", "partner", "", True),
        ("lake:a b%20c", "lake", "a b%20c", False),
        ("sftp://acme@host:2222/in/a%20b", "sftp://acme@host:2222", "in/a b", False),
        ("sftp://host/~/in/", "sftp://host/~", "in", True),
        ("s3://bucket/key/%FF", "s3://bucket", "key/\udcff", False),
    ],
)
def test_names_and_urls(config: Config, text: str, name: str, path: str, folder: bool) -> None:
    found = config.locate(text)
    assert (found.name, found.path, found.folder) == (name, path, folder)


def test_a_plus_in_a_url_is_itself(config: Config) -> None:
    """Every other fingerprint has one."""
    pin = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
    found = config.locate(f"sftp://host/a+b?host_key={pin}&user=a%20b")
    assert (found.path, found.settings.model_dump()["host_key"], found.settings.model_dump()["user"]) == (
        "a+b", (pin,), "a b",
    )  # fmt: skip


def test_a_url_is_one_even_if_an_endpoint_has_the_name_of_its_scheme(write: Write) -> None:
    """Else the object would be written into the endpoint's bucket, under the other bucket's name."""
    config = load(write("endpoints: {s3: {type: s3, bucket: lake}, file: {type: memory}, local: {type: memory}}"))
    assert [config.locate(text).name for text in ("s3:x", "s3://b-b/x", "file:/x", "local://x")] == [
        "s3", "s3://b-b", "file", "local"
    ]  # fmt: skip
    assert config.locate("file:///tmp/x").settings.type == "local"


def test_local_paths(config: Config, tmp_path: Path) -> None:
    (tmp_path / "real/in").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "a:b").touch()
    root = os.path.realpath(tmp_path)

    def at(text: str) -> tuple[str, str, bool]:
        found = config.locate(text)
        return str(found.settings.root), found.path, found.folder

    assert at("new.txt") == (root, "new.txt", False)
    assert at("link/in/x") == (f"{root}/real/in", "x", False), "links that the user names are followed"
    assert at("link") == (root, "real", False)
    assert at("real/") == (root, "real", True)
    assert at("nope/deep/x") == (root, "nope/deep/x", False)
    assert at("a:b") == (root, "a:b", False), "a file that exists needs no ./"
    assert at("./no:file") == (root, "no:file", False)
    assert at("./lake") == (root, "lake", False), "though an endpoint has that name"
    (tmp_path / "lake").mkdir()
    assert at("lake/x") == (f"{root}/lake", "x", False), "what is there is meant"
    assert at("/") == ("/", "", True)
    assert at("nope/../link/in") == (f"{root}/real", "in", False)
    assert at("./a:b/x") == (root, "a:b/x", False), "below a file; the endpoint says so"
    assert at(".")[0] == os.path.dirname(root)
    assert at(f"file://{root}/real/x") == (f"{root}/real", "x", False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partnr:x", r"no endpoint is called 'partnr' \(.*/crossdock.yaml\). Next: did you mean partner\? write \./"),
        ("qqq:x", "Next: write one of here, lake, partner"),
        ("lake", "'lake' is an endpoint, and there is nothing of that name here. Next: write lake: for the endpoint"),
        ("lake/in/x", r"Next: write lake:in/x for the endpoint, or \./lake/in/x for a local path"),
        ("gopher://host/x", "gopher://host/x: unknown endpoint type 'gopher'. Next: begin it with one of: file, ftp, "),
        ("s3://b/x", "s3://b/x: bucket: .*. Next: "),
        ("sftp://me:hunter2@host/x", "a password in a URL is seen by every process"),
        ("", "an empty path"),
    ],
)
def test_locations_that_cannot_be(config: Config, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config.locate(text)
    assert "hunter2" not in str(caught.value)


def test_a_name_alone_is_no_local_file(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"Next: did you mean partner\?$"):
        config.endpoint("partnr")


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("type: sftp, host: h, private_key: keys/bank", "a.private_key: a secret may not be written into this file. "
         "Next: write 'private_key: env:A_PRIVATE_KEY' and export it, or 'private_key: file:PATH'"),
        ("type: sftp, host: '${HOST}'", "a.host: cannot be read. Next: write the host itself: "),
        ("type: ftpes, host: env:HOST", "a.host: cannot be read. Next: write the host itself: "),
        ("type: sftp, host: h, root: ~/in", "a.root: cannot be read. Next: write what comes after ~/ alone: "),
        ("type: s3, bucket: in, access_key_id: env:ID, secret_access_key: env:KEY",
         "a.access_key_id: cannot be read. Next: write the id itself, which is no secret; or leave both out"),
        ("type: s3, bucket: in, endpoint_url: 'https://s3.example/in/'",
         "a: endpoint_url has the bucket in it. Next: write https://host or https://host:port"),
    ],
)  # fmt: skip
def test_mistakes_of_the_first_day(write: Write, written: str, found: str) -> None:
    assert mistakes(write(f"endpoints: {{a: {{{written}}}}}\n"))[0].startswith(f"1: endpoints.{found}")


def test_standard_output_is_no_location() -> None:
    with pytest.raises(ConfigError, match=r"no locations. Next: write \./- for a file of that name"):
        load().locate("-")
    assert load().locate("./-").path == "-"
