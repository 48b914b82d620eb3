"""What surrounds the engines of `test_flows`: places with files, drivers, the invariants."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from crossdock.flows.flow import Flow
from crossdock.storage.staging import is_temporary, temporary_path
from tests.crash.flow_driver import JOBS, Order
from tests.servers import Ceph, OpenSSH
from tests.storage.s3.places import BotoPeer

__all__ = ["CONTENTS", "PROBE", "Driver", "World", "quiet"]

_BIG = hashlib.shake_256(b"big").digest(5_600_003)
CONTENTS: dict[str, bytes] = {
    "empty.dat": b"",
    "small.csv": b"a;b\n1;2\n",
    "sub dir/na\u00efve \u2603 100%25 +&=?#[x].txt": b"awkward" * 1000,
    'it\'s "so" -rf $(x)`y`;.bin': hashlib.shake_256(b"odd").digest(70_000),
    "big.bin": _BIG,
}
_HASHES = {path: hashlib.sha256(data).hexdigest() for path, data in CONTENTS.items()}
PROBE = temporary_path("probe", "").removesuffix(".part")
"""What the names of a probe's objects begin with."""
_FOLDERS = {"sftp", "sftp2", "disk", "disk2", "disk3"}


class Driver:
    """A `flow_driver` process; one run at a time."""

    def __init__(self, environment: dict[str, str]) -> None:
        command = [sys.executable, "-X", "faulthandler", "-m", "tests.crash.flow_driver"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=30)

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the driver ended with {self._process.wait(10)}"
        found: dict[str, Any] = json.loads(answer)
        return found

    def run(self, order: Order) -> dict[str, Any]:
        """How the run ended, or {"stopped": pid}: then `go_on` is next."""
        return self._ask(json.dumps(asdict(order)))

    def go_on(self) -> dict[str, Any]:
        return self._ask("continue")


@dataclass
class World:
    """The places of one scenario, empty but for the source's files."""

    job: str
    name: str
    openssh: OpenSSH
    ceph: Ceph
    peer: BotoPeer
    disk: Path
    contents: dict[str, bytes] = field(default_factory=lambda: CONTENTS)
    endpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    dsn: str = ""
    """Of a PostgreSQL server that is to hold the ledger, in a schema of its own; else the ledger is a file."""
    overlaps: bool = False
    """Two workers list at once."""

    def __post_init__(self) -> None:
        used = {self.flow.source.endpoint, *self.targets}
        folders = {path.rpartition("/")[0] for path in self.contents if "/" in path}
        for endpoint in sorted(used):
            root = self.root(endpoint)
            if endpoint in _FOLDERS:
                root.mkdir(parents=True)
                for folder in folders:
                    (root / folder).mkdir(parents=True)
            self.endpoints[endpoint] = self._settings(endpoint)
        for path, data in self.contents.items():
            self.put(path, data)

    @property
    def flow(self) -> Flow:
        return JOBS[self.job]

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(each.endpoint for each in self.flow.rules[0].to)

    @property
    def ledger(self) -> Path:
        return self.disk / self.name / "ledger.db"

    @property
    def schema(self) -> str:
        return re.sub(r"\W", "_", f"crash_{self.name}")

    def root(self, endpoint: str) -> Path:
        """The folder of an endpoint on this machine; of a bucket, the prefix."""
        if endpoint.startswith("sftp"):
            return self.openssh.folder / self.name / endpoint
        if endpoint.startswith("disk"):
            return self.disk / self.name / endpoint
        return Path(self.name) / endpoint

    def _settings(self, endpoint: str) -> dict[str, Any]:
        if endpoint.startswith("disk"):
            return {"type": "local", "root": str(self.root(endpoint)), "fsync": False}
        if endpoint.startswith("sftp"):
            return self.openssh.settings(root=str(self.root(endpoint)), timeout="120s")
        return {
            "type": "s3",
            "bucket": self.peer.bucket,
            "root": str(self.root(endpoint)),
            "endpoint_url": self.ceph.endpoint_url,
            "region": "us-east-1",
            "part_size": "5M",
            "copy_threshold": "5M",
            "copy_part_size": "5M",
            "timeout": "120s",
        }

    def put(self, path: str, data: bytes) -> None:
        """A file at the source."""
        endpoint = self.flow.source.endpoint
        if endpoint in _FOLDERS:
            (self.root(endpoint) / path).write_bytes(data)
        else:
            self.peer.write(f"{self.root(endpoint)}/{path}", data)

    def order(self, **more: Any) -> Order:
        self.ledger.parent.mkdir(parents=True, exist_ok=True)
        ledger = f"{self.dsn}#{self.schema}" if self.dsn else str(self.ledger)
        return Order(job=self.job, endpoints=self.endpoints, ledger=ledger, **more)

    def expected(self, endpoint: str) -> dict[Path, str]:
        return {self.root(endpoint) / path: hashlib.sha256(data).hexdigest() for path, data in self.contents.items()}

    def _query(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        """Of the ledger, by other means than its own; nothing where it was not made yet."""
        if self.dsn:
            return asyncio.run(self._query_postgres(sql, parameters))
        if not self.ledger.exists():
            return []
        connection = sqlite3.connect(self.ledger)
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute(sql, parameters)]
        finally:
            connection.close()

    async def _query_postgres(self, sql: str, parameters: tuple[Any, ...]) -> list[dict[str, Any]]:
        connection = await asyncpg.connect(self.dsn, server_settings={"search_path": self.schema})
        try:
            if await connection.fetchval("SELECT to_regclass('transfers')") is None:
                return []
            return [dict(row) for row in await connection.fetch(sql.replace("?", "$1"), *parameters)]
        finally:
            await connection.close()

    def rows(self) -> list[dict[str, Any]]:
        """The ledger's transfers."""
        return self._query("SELECT * FROM transfers ORDER BY id")

    def events(self, id: int) -> list[tuple[str, str]]:
        """(who, state) in order."""
        found = self._query("SELECT who, state FROM events WHERE transfer = ? ORDER BY id", id)
        return [(row["who"], row["state"]) for row in found]

    def history(self, key: str) -> list[tuple[Any, ...]]:
        """For messages: what the ledger noted about what is published as `key`."""
        return [
            tuple(found.values())
            for row in self.rows()
            if f"{self.root(row['target'])}/{row['target_path']}" == key
            for found in self._query(
                "SELECT transfer, who, state, why FROM events WHERE transfer = ? ORDER BY id", row["id"]
            )
        ]

    # The invariants

    def open(self) -> list[dict[str, Any]]:
        return [row for row in self.rows() if row["state"] in ("pending", "running", "delivered")]

    def check_sources(self) -> None:
        """I6: a source is only touched when all its transfers are recorded as delivered."""
        states: dict[str, set[str]] = {}
        for row in self.rows():
            states.setdefault(row["path"], set()).add(row["state"])
        after = self.flow.after
        for path in self.contents:
            arrived = states.get(path, set()) and states[path] <= {"delivered", "done"}
            if not arrived:
                assert self._source(path) == self.contents[path], f"{path} was touched in states {states.get(path)}"
                if after.tag:
                    assert not self._tags(path), path

    def _was_listed_late(self, id: int) -> bool:
        """One worker listed a file that the other took in that very moment; it is told so, and nothing is sent."""
        found = self._query("SELECT why FROM events WHERE transfer = ? AND state = 'skipped'", id)
        return any("had delivered it and taken it away; it was listed just before" in row["why"] for row in found)

    def check_end(self) -> None:
        """I1 to I5, and that what follows a delivery was done."""
        rows = [row for row in self.rows() if not (self.overlaps and self._was_listed_late(row["id"]))]
        found = Counter((row["target"], row["target_path"]) for row in rows)
        assert found == Counter((target, path) for target in self.targets for path in self.contents)
        assert {row["state"] for row in rows} == {"done"}, [(r["path"], r["state"], r["error"]) for r in rows]
        for row in rows:
            receipt = json.loads(row["receipt"])
            assert receipt.get("sha256") in (None, _hash(self.contents, row["path"])), row
        for target in self.targets:
            if target in _FOLDERS:
                self._check_folder(self.root(target))
            else:
                self._check_keys(f"{self.root(target)}/")
        after = self.flow.after
        for path, data in self.contents.items():
            if after.takes_source:
                assert self._source(path) is None, f"{path} is still there"
                if after.archive:
                    assert self._source(f"{after.archive}/{path}") == data
            else:
                assert self._source(path) == data
                if after.tag:
                    assert self._tags(path) == dict(after.tag)
        if self.flow.source.endpoint in _FOLDERS:
            assert [str(path) for path in self.root(self.flow.source.endpoint).rglob("*") if _is_left(path)] == []

    def _check_folder(self, root: Path) -> None:
        there = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        assert there.keys() == self.contents.keys(), set(there) ^ set(self.contents)
        assert there == self.contents

    def _check_keys(self, prefix: str) -> None:
        versions = self.versions(prefix)
        times = Counter(key for key, _, _ in versions)
        assert times == Counter(list(self.contents)), [
            (key, times[key], self.history(f"{prefix}{key}")) for key in {*times, *self.contents} if times[key] != 1
        ]
        for key, version, etag in versions:
            data = self.contents[key]
            if etag != hashlib.md5(data).hexdigest():
                body = self.peer.client.get_object(Bucket=self.peer.bucket, Key=prefix + key, VersionId=version)["Body"]
                assert body.read() == data, key

    def versions(self, prefix: str) -> list[tuple[str, str, str]]:
        pages = self.peer.client.get_paginator("list_object_versions").paginate(Bucket=self.peer.bucket, Prefix=prefix)
        return [
            (item["Key"].removeprefix(prefix), item["VersionId"], item["ETag"].strip('"'))
            for page in pages
            for item in page.get("Versions", [])
            if PROBE not in item["Key"]
        ]

    def left(self) -> list[str]:
        """Uploads in parts that nobody ended, and objects of a probe (does the store refuse to replace?).

        Only a worker that was killed before it could record an upload's id may leave one: no part is sent before, but
        the few bytes of a probe.
        """
        found = []
        for upload in self.peer.uploads():
            if upload["Key"].startswith(f"{self.name}/"):
                name = {"Bucket": self.peer.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                if PROBE not in upload["Key"]:
                    assert not self.peer.client.list_parts(**name).get("Parts"), f"parts of {upload['Key']}"
                found.append(f"upload of {upload['Key']}")
        return found + [key for key in self._keys() if is_temporary(key)]

    def _keys(self) -> list[str]:
        pages = self.peer.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.peer.bucket, Prefix=f"{self.name}/"
        )
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def _source(self, path: str) -> bytes | None:
        endpoint = self.flow.source.endpoint
        if endpoint in _FOLDERS:
            try:
                return (self.root(endpoint) / path).read_bytes()
            except FileNotFoundError:
                return None
        try:
            return self.peer.read(f"{self.root(endpoint)}/{path}")
        except self.peer.client.exceptions.NoSuchKey:
            return None

    def _tags(self, path: str) -> dict[str, str]:
        key = f"{self.root(self.flow.source.endpoint)}/{path}"
        found = self.peer.client.get_object_tagging(Bucket=self.peer.bucket, Key=key)["TagSet"]
        return {tag["Key"]: tag["Value"] for tag in found}

    def remove(self) -> None:
        """What takes room: ten thousand scenarios would fill the server's memory."""
        for root in (self.openssh.folder / self.name, self.disk / self.name):
            shutil.rmtree(root, ignore_errors=True)
        if any(settings["type"] == "s3" for settings in self.endpoints.values()):
            self.peer.empty(f"{self.name}/")


def _hash(contents: dict[str, bytes], path: str) -> str:
    return _HASHES[path] if contents is CONTENTS else hashlib.sha256(contents[path]).hexdigest()


def _is_left(path: Path) -> bool:
    return is_temporary(path.name)


def quiet(port: int, seconds: float = 60.0) -> None:
    """Wait until the server at this port is done with what it had received from processes that are dead.

    A request that was on its way when its sender died may still be carried out; in earnest a lease outlasts that.
    """
    until = time.monotonic() + seconds
    wanted = f":{port:04X}"
    while time.monotonic() < until:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        # FIN_WAIT1 and FIN_WAIT2: our side has closed, the server has not.
        if not any(fields[2].endswith(wanted) and fields[3] in ("04", "05") for fields in map(str.split, lines)):
            return
        time.sleep(0.005)
