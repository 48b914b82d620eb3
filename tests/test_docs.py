"""The documentation is true: the reference is what the code says, the guide's examples do what they show."""

from __future__ import annotations

import asyncio
import os
import re
import runpy
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from crossdock.cli.table import COMMANDS
from crossdock.config import load
from crossdock.storage.s3 import S3Settings
from crossdock.testing import FakeNetStorage
from tests.pages import DOCS, blocks, run_commands
from tests.servers import Moto, OpenSSH, Vsftpd

ROOT = DOCS.parent


def test_the_reference_is_what_the_code_says() -> None:
    page = runpy.run_path(str(DOCS / "reference.py"))["page"]
    assert (DOCS / "reference.md").read_text(encoding="utf-8") == page(), "run: make docs"


def test_every_command_and_option_is_in_the_reference() -> None:
    text = (DOCS / "reference.md").read_text(encoding="utf-8")
    for name, (target, _) in COMMANDS.items():
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(__import__(module, fromlist=[attribute]), attribute)
        section = text.partition(f"### {name}\n")[2].partition("\n##")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name not in ("config", "verbose", "quiet"):
                assert parameter.help, f"{name} {parameter.opts}"
                assert f"{parameter.opts[-1]}" in section, f"{name} {parameter.opts}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(p.name for p in DOCS.glob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page if (ROOT / page).exists() else DOCS / page
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


def test_the_memory_formula_of_the_docs_names_real_settings() -> None:
    text = (DOCS / "concepts.md").read_text(encoding="utf-8")
    assert "(pipe depth + 1) × chunk + writer parts in flight × part size" in text
    for name in re.findall(r"`(part_\w+|read_\w+)`", text):
        assert name in S3Settings.model_fields


def test_the_configurations_of_the_guide_are_right(tmp_path: Path) -> None:
    found = [block for block in blocks("guide.md") if block.kind == "yaml"]
    assert len(found) == 4
    for number, block in enumerate(found):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block.text)
        load(path)


@pytest.fixture
def netstorage() -> Iterator[FakeNetStorage]:
    """In a thread: the commands of the guide are waited for."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = FakeNetStorage()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
        yield server
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.timeout(900)  # every command is a process of its own
def test_the_guide_runs_as_it_is_written(
    openssh: OpenSSH,
    vsftpd: Vsftpd,
    moto: Moto,
    netstorage: FakeNetStorage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its endpoints are pointed at the servers of the tests; the commands are its own."""
    home = openssh.folder / f"guide-{tmp_path.name}-{os.getpid()}"
    home.mkdir()
    bucket = f"guide-{os.getpid()}"
    here: dict[str, dict[str, Any]] = {
        "partner": openssh.settings(root=str(home)),
        "carrier": vsftpd.settings(root=f"{vsftpd.root}guide-{tmp_path.name}-{os.getpid()}"),
        "lake": {"endpoint_url": moto.endpoint_url, "bucket": bucket},
        "akamai": {"host": "127.0.0.1", "port": netstorage.port, "tls": False},
    }
    monkeypatch.setenv("NETSTORAGE_KEY", netstorage.key)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto.secret_key)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    _make_bucket(moto, bucket)
    endpoints: dict[str, Any] = {}
    ran = 0
    for block in blocks("guide.md"):
        if block.kind == "yaml":
            for name, settings in yaml.safe_load(block.text)["endpoints"].items():
                endpoints[name] = settings | here[name]
            (tmp_path / "crossdock.yaml").write_text(yaml.safe_dump({"endpoints": endpoints}))
        elif block.kind == "console":
            ran += run_commands(block.text, tmp_path)
    assert ran > 15


def _make_bucket(moto: Moto, bucket: str) -> None:
    import urllib.request

    # moto wants a signature to be there, and does not check it.
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"}
    request = urllib.request.Request(f"{moto.endpoint_url}/{bucket}", method="PUT", headers=signed)
    urllib.request.urlopen(request, timeout=30).close()
