"""The four jobs of docs/flows.md, run from the file as it is written there: every kind of endpoint on either side.

What a test changes: where the endpoints are, how long a file settles, and that nobody is mailed; only S3 has tags.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossdock.testing import FakeNetStorage
from crossdock.testing.netstorage.server import NetStoragePeer
from tests.cli.conftest import Cli, cli, contents
from tests.servers import Ceph, OpenSSH, Vsftpd
from tests.storage.s3.places import BotoPeer, boto

__all__ = ["cli"]

_GUIDE = Path(__file__).parents[1] / "docs" / "flows.md"


@dataclass
class Bench:
    """The endpoints of one job: a folder at the SFTP server or a bucket for each."""

    folder: Path
    openssh: OpenSSH
    ceph: Ceph
    vsftpd: Vsftpd
    netstorage: FakeNetStorage
    folders: dict[str, Path] = field(default_factory=dict)
    buckets: dict[str, BotoPeer] = field(default_factory=dict)
    groups: dict[str, NetStoragePeer] = field(default_factory=dict)

    def configure(self, job: str, **changes: Any) -> None:
        """Write the crossdock.yaml of the section `job`."""
        section = _GUIDE.read_text(encoding="utf-8").partition(f"\n## {job}")[2].partition("\n## ")[0]
        written = re.search(r"```yaml\n(.*?)```", section, re.DOTALL)
        assert written is not None, f"docs/flows.md has no file for {job}"
        data = yaml.safe_load(written[1])
        for name, settings in data["endpoints"].items():
            data["endpoints"][name] = self.endpoint(name, changes.get(name, settings["type"]))
        for flow in data["flows"].values():
            flow.pop("notify", None)
            if "settle" in flow:
                flow["settle"] = {"for": "1s"}
            if data["endpoints"][flow["source"].partition(":")[0]]["type"] != "s3":
                flow.get("after", {}).pop("tag", None)
        (self.folder / "crossdock.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
        functions = re.search(r"```python\n(.*?)```", section, re.DOTALL)
        if functions is not None:
            (self.folder / "routes.py").write_text(functions[1], encoding="utf-8")

    def endpoint(self, name: str, kind: str) -> dict[str, Any]:
        unique = f"job-{name}-{secrets.token_hex(4)}"
        if kind == "local":
            self.folders[name] = self.folder / unique
            self.folders[name].mkdir()
            return {"type": "local", "root": str(self.folders[name])}
        if kind == "sftp":
            self.folders[name] = self.openssh.folder / unique
            self.folders[name].mkdir()
            return self.openssh.settings(root=str(self.folders[name]))
        if kind == "ftpes":
            self.folders[name] = self.vsftpd.folder / unique
            self.folders[name].mkdir()
            return self.vsftpd.settings(root=f"{self.vsftpd.root}{unique}")
        if kind == "netstorage":
            fake = self.netstorage
            self.groups[name] = fake.peer(unique)
            where = {"host": "127.0.0.1", "port": fake.port, "tls": False, "cp_code": fake.cp_code, "root": unique}
            return {"type": "netstorage", **where, "key_name": fake.key_name, "key": "env:NETSTORAGE_KEY"}
        client = boto(self.ceph)
        client.create_bucket(Bucket=unique)
        self.buckets[name] = BotoPeer(client, unique)
        return {"type": "s3", "bucket": unique, "endpoint_url": self.ceph.endpoint_url, "region": "us-east-1"}

    def fill(self, name: str, below: str, files: dict[str, bytes]) -> None:
        for path, data in files.items():
            if name in self.buckets:
                self.buckets[name].write(f"{below}{path}", data)
            elif name in self.groups:
                self.groups[name].write(f"{below}{path}", data)
            else:
                place = self.folders[name] / below / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)

    def held(self, name: str, below: str) -> dict[str, bytes]:
        if name in self.folders:
            return contents(self.folders[name] / below) if (self.folders[name] / below).exists() else {}
        peer = self.buckets.get(name) or self.groups[name]
        return {path.removeprefix(below): peer.read(path) for path in peer.names() if path.startswith(below)}


@pytest.fixture
def netstorage() -> Iterator[FakeNetStorage]:
    """In a thread of its own, since the program blocks this one."""
    server = FakeNetStorage()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(30)
    yield server
    asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def bench(
    tmp_path: Path,
    openssh: OpenSSH,
    ceph: Ceph,
    vsftpd: Vsftpd,
    netstorage: FakeNetStorage,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    monkeypatch.setenv("NETSTORAGE_KEY", netstorage.key)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ceph.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ceph.secret_key)
    return Bench(tmp_path, openssh, ceph, vsftpd, netstorage)


def files() -> dict[str, bytes]:
    return {
        "statement_1.csv": os.urandom(2000),
        "empty.csv": b"",
        "2026/11/large.bin": os.urandom(20 * 1024 * 1024),
        "2026/11/ü 100%+ & #1.csv": os.urandom(300),
        "-rf": b"x",
    }


def run(cli: Cli, *, delivered: int, code: int = 0) -> None:
    """One run, whose summary says how many transfers there were; and one more, which finds nothing to do."""
    result = cli("run", "--once", "--json")
    assert result.code == code, result.err
    assert result.rows[-1]["summary"]["delivered"] == delivered, result.out
    again = cli("run", "--once", "--json")
    assert again.rows[-1]["summary"]["delivered"] == 0


def _proof(row: dict[str, Any], proofs: dict[str, tuple[int, str]]) -> tuple[int, str]:
    """Size and digest; a store that copied by itself has shown nobody the bytes."""
    digest = row.get("sha256") or (proofs[f"{row['target']}:{row['target_path']}"][1] if row["verified"] else "")
    return row["stored_size"], digest


def answers(cli: Cli, flow: str, folder: str, moved: dict[str, dict[str, bytes]]) -> None:
    """`where` and `explain` know every file that was moved: name below the source → destination → what it holds."""
    for name, targets in moved.items():
        told = cli("explain", "--json", "--", flow, name)
        assert told.code == 0, (name, told.err)
        proofs = {to: (len(data), sha256(data).hexdigest()) for to, data in targets.items()}
        latest = {f"{row['target']}:{row['target_path']}": row for row in reversed(told.rows[0]["transfers"])}
        assert {to: _proof(row, proofs) for to, row in latest.items()} == proofs, (name, told.out)
        assert {row["state"] for row in latest.values()} == {"done"}, (name, told.out)
        for asked in (name.rpartition("/")[2], f"{folder}/{name}"):
            found = cli("where", "--json", "--", asked)
            assert found.code == 0, (asked, found.err)
            of_name = [row for row in found.rows if row["path"] == f"{folder}/{name}"]
            rows = [row for file in of_name for row in file["destinations"]]
            held = {(f"{row['target']}:{row['target_path']}", _proof(row, proofs)) for row in rows}
            assert held >= set(proofs.items()), (asked, found.out)
            assert {row["state"] for row in rows} == {"done"}, (asked, found.out)


@pytest.mark.parametrize(
    ("partner", "lake"),
    [
        ("sftp", "s3"), ("sftp", "local"), ("sftp", "sftp"), ("sftp", "ftpes"), ("sftp", "netstorage"),
        ("ftpes", "s3"), ("netstorage", "s3"), ("local", "s3"),
    ],
)  # fmt: skip
def test_pull(cli: Cli, bench: Bench, partner: str, lake: str) -> None:
    bench.configure("Pull", partner=partner, lake=lake)
    sent = files()
    bench.fill("partner", "outbox/", sent)
    run(cli, delivered=len(sent))
    assert bench.held("lake", "partner/") == sent
    assert bench.held("partner", "outbox/") == {f".done/{path}": data for path, data in sent.items()}
    answers(cli, "pull", "outbox", {path: {f"lake:partner/{path}": data} for path, data in sent.items()})
    # A file that is moved back is transferred again, and its archived name is never replaced.
    if partner == "netstorage":
        return
    outbox = bench.folders["partner"] / "outbox"
    (outbox / ".done/statement_1.csv").rename(outbox / "statement_1.csv")
    bench.fill("partner", "outbox/", {"-rf": b"the second of that name"})
    run(cli, delivered=2)
    assert bench.held("lake", "partner/") == {**sent, "-rf": b"the second of that name"}
    archived = bench.held("partner", "outbox/.done")
    assert archived == {**sent, "-rf~1": b"the second of that name"}
    now = {**sent, "-rf": b"the second of that name"}
    answers(cli, "pull", "outbox", {path: {f"lake:partner/{path}": data} for path, data in now.items()})


@pytest.mark.parametrize(
    ("lake", "partner"), [("s3", "sftp"), ("local", "sftp"), ("s3", "ftpes"), ("s3", "netstorage"), ("ftpes", "sftp")]
)
def test_push(cli: Cli, bench: Bench, lake: str, partner: str) -> None:
    bench.configure("Push", lake=lake, partner=partner)
    sent = files()
    bench.fill("lake", "to-partner/", {**sent, "x.tmp": b"no", "drafts/y": b"no"})
    run(cli, delivered=len(sent))
    marked = {f"{path}.done": b"" for path in sent}
    assert bench.held("partner", "inbox/") == {**sent, **marked}
    if lake == "s3":
        peer = bench.buckets["lake"]
        tags = peer.client.get_object_tagging(Bucket=peer.bucket, Key="to-partner/-rf")["TagSet"]
        assert tags == [{"Key": "delivered", "Value": "yes"}]
    answers(cli, "push", "to-partner", {path: {f"partner:inbox/{path}": data} for path, data in sent.items()})
    bench.fill("lake", "to-partner/", {"-rf": b"changed"})
    run(cli, delivered=1)
    assert bench.held("partner", "inbox/")["-rf"] == b"changed"
    answers(cli, "push", "to-partner", {"-rf": {"partner:inbox/-rf": b"changed"}})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sftp", "sftp"),
        ("sftp", "s3"),
        ("sftp", "local"),
        ("ftpes", "sftp"),
        ("sftp", "ftpes"),
        ("ftpes", "netstorage"),
    ],
)
def test_mirror(cli: Cli, bench: Bench, old: str, new: str) -> None:
    bench.configure("Mirror", old=old, new=new)
    sent = files()
    bench.fill("old", "data/", sent)
    bench.fill("new", "data/", {"was here before": b"stays"})
    run(cli, delivered=len(sent))
    assert bench.held("new", "data/") == {**sent, "was here before": b"stays"}
    (bench.folders["old"] / "data/-rf").unlink()
    bench.fill("old", "data/", {"empty.csv": b"no longer"})
    run(cli, delivered=1)
    assert bench.held("new", "data/") == {**sent, "was here before": b"stays", "empty.csv": b"no longer"}
    sent["empty.csv"] = b"no longer"
    answers(cli, "mirror", "data", {path: {f"new:data/{path}": data} for path, data in sent.items()})


def test_route(cli: Cli, bench: Bench) -> None:
    bench.configure("Route")
    dated = {"pay_20261120.csv.pgp": os.urandom(5000), "pay_20261121.csv": os.urandom(9 * 1024 * 1024)}
    bench.fill("prod", "feeds/", {**dated, "eu/stock_latest.csv": b"eu", "us/stock_latest.csv": b"us"})
    bench.fill("prod", "feeds/", {"eu/scratch/x": b"no"})
    run(cli, delivered=5)
    lake = {f"pay/{name[4:12]}/{name}": data for name, data in dated.items()}
    assert bench.held("lake", "") == {**lake, "latest/eu/stock_latest.csv": b"eu"}
    assert bench.held("staging", "") == dated
    moved = {name: {f"lake:pay/{name[4:12]}/{name}": data, f"staging:{name}": data} for name, data in dated.items()}
    moved["eu/stock_latest.csv"] = {"lake:latest/eu/stock_latest.csv": b"eu"}
    answers(cli, "clone", "feeds", moved)
    # Those that stay where they are have an answer as well: why.
    for name, rule in (("us/stock_latest.csv", "latest"), ("eu/scratch/x", "scratch")):
        rules = cli("explain", "--json", "clone", name).rows[0]["rules"]
        assert [said["rule"] for said in rules if said["matches"]] == [rule]
        result = cli("where", "--json", f"feeds/{name}")
        assert (result.code, len(result.rows)) == (4, 1), result.err
        assert f"rule {rule} " in result.rows[0]["said"]
    bench.fill("prod", "feeds/", {"notes.txt": b"no rule takes it"})
    result = cli("run", "--once", "--json")
    assert result.code == 1, "unmatched: fail"
    assert result.rows[-1]["summary"]["unmatched"] == 1
