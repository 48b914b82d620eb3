"""A server that tells no times of files: one that is overwritten by another of its size looks as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli, contents
from tests.conftest import running
from tests.servers import Vsftpd


@pytest.mark.parametrize("after", [None, {"delete": True}, {"archive": ".done"}])
def test_a_file_of_one_name_and_size_day_by_day(
    request: pytest.FixtureRequest, cli: Cli, tmp_path: Path, after: dict[str, Any] | None
) -> None:
    """doctor and explain tell of it, and what doctor says to write helps."""
    with running(request.config, Vsftpd("none", config=("cmds_denied=MDTM",))) as server:
        (server.folder / "out").mkdir()
        (server.folder / "out").chmod(0o777)
        flow = {"source": "old:out", "to": "lake:", "settle": "none"} | ({"after": after} if after else {})
        endpoints = {"old": server.settings(), "lake": {"type": "local", "root": "lake"}}
        (tmp_path / "lake").mkdir()
        (tmp_path / "crossdock.yaml").write_text(json.dumps({"endpoints": endpoints, "flows": {"daily": flow}}))
        lines = cli("doctor", "old:").out.splitlines()
        (at,) = (at for at, line in enumerate(lines) if line.startswith("ok  clock"))
        assert "a file that another of the same size replaces looks unchanged" in lines[at]
        assert "after: {archive: .done}" in lines[at + 1]
        for day in (b"monday ", b"tuesday"):
            (server.folder / "out" / "stock.dat").write_bytes(day)
            assert cli("run", "--once").code == 0
        assert contents(tmp_path / "lake") == {"stock.dat": b"tuesday" if after else b"monday "}
        if after is None:
            said = cli("explain", "daily", "stock.dat").out
            assert "modified unknown: another of the same size looks like the same file" in said
