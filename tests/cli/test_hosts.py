"""Hosts that share a ledger, and of which one has an older configuration than the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crossdock.ledger.base import Ledger, Planned
from crossdock.storage.local import LocalSettings
from crossdock.storage.storage import Storage
from tests.cli.conftest import Cli
from tests.cli.flow_files import configure, in_ledger, put


@pytest.mark.parametrize("where", ["target", "source"])
def test_an_endpoint_that_only_another_host_knows(
    cli: Cli, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """They failed for good here, though the other could have delivered them."""
    put(tmp_path, {f"{number}.csv": "x" for number in range(30)})
    configure(tmp_path)
    older = (tmp_path / "crossdock.yaml").read_text()
    (tmp_path / "vault/out").mkdir(parents=True)
    other, source, targets = {"vault": {"type": "local", "root": "vault"}}, "partner", ["lake", "vault"]
    if where == "target":
        configure(tmp_path, endpoints=other, to=["lake:in/{path}", "vault:in/{path}"])
    else:
        (tmp_path / "vault/out").rmdir()
        (tmp_path / "partner/out").rename(tmp_path / "vault/out")
        (tmp_path / "partner/out").mkdir()
        source, targets = "vault", ["lake"]
        configure(tmp_path, endpoints=other, source="vault:out", after={"delete": True})
    newer = (tmp_path / "crossdock.yaml").read_text()

    async def add(ledger: Ledger) -> None:
        """As the other host did a moment ago."""
        async with Storage(LocalSettings(root=tmp_path / source).backend(source)) as storage:
            entries = [entry async for entry in storage.walk("out")]
        await ledger.add(
            [
                Planned(flow="pull", source=source, entry=each, target=to, target_path=f"in/{each.path[4:]}")
                for each in entries
                for to in targets
            ],
            who="another",
        )

    in_ledger(tmp_path, add)
    (tmp_path / "crossdock.yaml").write_text(older)
    assert cli("run", "--once").code == 0
    told = "flow pull: no endpoint is called vault here: its transfers are left to the hosts that share the ledger"
    assert caplog.text.count("vault") == 1 + (where == "target") and caplog.text.count(told) == 1, caplog.text
    assert ("if it is no more: crossdock transfers cancel --target vault:\n" in caplog.text) == (where == "target")
    states = {(row["target"].partition(":")[0], row["state"], row["attempts"]) for row in listed(cli)}
    assert states == ({("lake", "done", 1), ("vault", "pending", 0)} if where == "target" else {("lake", "pending", 0)})
    (tmp_path / "crossdock.yaml").write_text(newer)
    assert cli("run", "--once").code == 0
    assert {row["state"] for row in listed(cli)} == {"done"}
    assert [len(list((tmp_path / to / "in").iterdir())) for to in targets] == [30] * len(targets)


def listed(cli: Cli) -> list[dict[str, Any]]:
    return cli("transfers", "list", "--json", "--limit", "99").rows
