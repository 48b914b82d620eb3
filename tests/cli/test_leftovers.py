"""What doctor removes, and must not: what a run that was killed while it published left, its next run looks for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from crossdock.cli.leftovers import found
from crossdock.config import Location
from crossdock.engine.recovery import Record
from crossdock.ledger.base import Ledger, Planned
from crossdock.storage.local import LocalSettings
from crossdock.storage.staging import temporary_path, token_of
from crossdock.storage.storage import Storage
from tests.cli.conftest import Cli
from tests.cli.flow_files import configure, in_ledger, put
from tests.storage.s3.faults import FaultProxy, xml_error
from tests.storage.s3.places import Server, backend, bucket

CONTENT = "the only copy"
ATTEMPT = "0123456789ab"


async def killed(home: Path, ledger: Ledger) -> int:
    """As by a worker that ended between announcing a.csv and publishing it."""
    async with Storage(LocalSettings(root=home / "partner").backend("partner")) as partner:
        entry = await partner.stat("out/a.csv")
    planned = Planned(flow="pull", source="partner", entry=entry, target="lake", target_path="in/a.csv")
    (added,) = await ledger.add([planned], who="dead")
    (lease,) = await ledger.claim("dead", lease=0.0)
    digest = hashlib.sha256(CONTENT.encode()).hexdigest()
    token = token_of("in/a.csv", ATTEMPT, len(CONTENT))
    await ledger.staged(lease, Record(to="in/a.csv", token=token, size=len(CONTENT), sha256=digest).dump())
    return added.id


async def cancelled(home: Path, ledger: Ledger) -> int:
    id = await killed(home, ledger)
    assert await ledger.cancel([id], who="me", why="enough")
    return id


@pytest.mark.parametrize("ended", [killed, cancelled])
def test_what_a_transfer_looks_for_is_spared(
    cli: Cli, home: Path, ended: Callable[[Path, Ledger], Awaitable[int]]
) -> None:
    configure(home, after={"delete": True})
    put(home, {"a.csv": CONTENT})
    (home / "lake/in").mkdir()
    staged, left = (home / "lake" / temporary_path(f"in/{name}.csv", ATTEMPT) for name in "ab")
    for path in (staged, left):
        path.write_text(CONTENT)
        # As old as the source says, not as the attempt is.
        ago = (datetime.now(UTC) - timedelta(days=2)).timestamp()
        os.utime(path, (ago, ago))
    id = in_ledger(home, partial(ended, home))
    for options in ([], ["--clean"]):
        result = cli("doctor", "--look-only", *options, "lake:in")
        assert f"{staged.name} is spared: transfer {id} looks for it" in result.out
        assert f"crossdock transfers retry {id}" in result.out
    assert (staged.exists(), left.exists()) == (True, False)
    cli("transfers", "retry", str(id))
    assert cli("run", "--once").code == 0
    assert sorted(path.name for path in (home / "lake/in").iterdir()) == ["a.csv"]
    assert (home / "lake/in/a.csv").read_text() == CONTENT
    assert not (home / "partner/out/a.csv").exists()


def test_a_file_that_stepped_aside_is_removed_only_if_its_name_is_taken(cli: Cli, home: Path) -> None:
    """Killed between two renames: the old file lies under a temporary's name, and nothing under its own."""
    configure(home)
    folder = home / "lake/in"
    folder.mkdir()
    replaced, alone = (folder / temporary_path(name, ATTEMPT, "old") for name in ("a.csv", "b.csv"))
    (folder / "a.csv").write_text("new")
    for path in (replaced, alone):
        path.write_text(CONTENT)
        ago = (datetime.now(UTC) - timedelta(days=2)).timestamp()
        os.utime(path, (ago, ago))
    result = cli("doctor", "--look-only", "--clean", "lake:in")
    assert result.code == 1
    assert f"{alone.name} is a file that a killed run had put aside" in result.out
    assert {path.name for path in folder.iterdir()} == {"a.csv", alone.name}
    assert cli("cp", f"lake:in/{alone.name}", "lake:in/b.csv").code == 0
    assert cli("doctor", "--look-only", "--clean", "lake:in").code == 0
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a.csv": "new", "b.csv": CONTENT}


def test_folders_below_are_another_matter_and_that_is_said(cli: Cli, home: Path) -> None:
    configure(home)
    left = home / "lake" / temporary_path("in/a.csv", ATTEMPT)
    left.parent.mkdir()
    left.write_text(CONTENT)
    ago = (datetime.now(UTC) - timedelta(days=2)).timestamp()
    os.utime(left, (ago, ago))
    above = cli("doctor", "--look-only", "--clean", "lake:")
    assert (above.code, left.exists()) == (0, True)
    assert "none older than a day in lake:; the folders below it are not looked at" in above.out
    assert cli("doctor", "--look-only", "lake:in").code == 1
    assert cli("doctor", "--look-only", "--clean", "lake:in").code == 0
    assert not left.exists()


async def test_where_uploads_cannot_be_listed(moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at s3rver: what else was left is told all the same, and that this could not be looked for."""
    with bucket(moto) as peer:
        async with FaultProxy(moto) as proxy:
            proxy.fail("GET", "uploads=", xml_error(501, "NotImplemented"), 100)
            inner = backend(proxy, peer.bucket, monkeypatch, conditional_writes="off")
            place = Location("lake", inner.settings, "", folder=True)

            async def none() -> dict[str, int]:
                return {}

            async with Storage(inner) as storage:
                asked = found(storage, place, clean=False, cleaning="crossdock doctor --clean", undecided=none)
                (finding,) = [each async for each in asked]
    assert finding.good and finding.detail.startswith("none older than a day in lake:;")
    assert "does not list uploads" in finding.detail
