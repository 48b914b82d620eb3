"""Runs doctor for an endpoint that is an FTP server."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli, Result
from tests.servers import FtpServer, Proftpd, PureFtpd, Vsftpd

SERVERS = [Vsftpd, Proftpd, PureFtpd]
ALL = pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.name)


@dataclass
class Doctor:
    """Runs `crossdock doctor` for the endpoint `partner`, which is the server's, but for what is changed."""

    cli: Cli
    folder: Path

    def __call__(self, server: FtpServer, *, location: str = "partner:", **changes: Any) -> Result:
        settings = server.settings(timeout=30, connect_timeout=30) | changes
        settings = {key: value for key, value in settings.items() if value is not None}
        (self.folder / "crossdock.yaml").write_text(json.dumps({"endpoints": {"partner": settings}}))
        return self.cli("doctor", location)

    def refused(self, server: FtpServer, *words: str, code: int, **changes: Any) -> None:
        """It cannot connect, and says why: operation, endpoint and address, then each of `words` (as patterns)."""
        result = self(server, **changes)
        assert result.code == code, result.err
        assert result.err.startswith(f"crossdock: connect partner: {server.host} port {server.port}"), result.err
        _, _, remedy = result.err.partition("\nNext: ")
        assert remedy
        for word in words:
            assert re.search(word, result.err), (word, result.err)

    def finds(self, server: FtpServer, *found: tuple[str, str, str], **changes: Any) -> Result:
        """It connects, and each finding (check, patterns of detail and remedy) is made, and no other bad one."""
        result = self(server, **changes)
        assert result.code == 1, result.out + result.err
        bad = re.findall(r"^BAD (\S+(?: \S+)?)\s{2,}(.*)\n    mend it:\s+(.*)$", result.out, re.MULTILINE)
        assert [name for name, _, _ in bad] == [name for name, _, _ in found], result.out
        for (_, detail, mend), (_, detailed, mended) in zip(bad, found, strict=True):
            assert "partner:" in detail
            assert re.search(detailed, detail), detail
            assert re.search(mended, mend), mend
        return result


def denied(*commands: str) -> str:
    return f"<Limit {' '.join(commands)}>\nDenyAll\n</Limit>"
