"""Outdated algorithms, and servers with which none is common."""

from __future__ import annotations

import re
from pathlib import Path

import asyncssh
import pytest

from crossdock.errors import ConfigError, HostKeyMismatch, Unsupported
from crossdock.storage.sftp import SftpSettings
from tests.conftest import running
from tests.servers import OpenSSH
from tests.storage.sftp.fake_server import serving
from tests.storage.sftp.places import connects


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
async def test_outdated_algorithms_need_the_legacy_list() -> None:
    async with serving(kex_algs=["diffie-hellman-group14-sha1"], encryption_algs=["aes128-cbc"]) as peer:
        with pytest.raises(Unsupported, match="no common algorithm") as caught:
            await connects(peer.settings())
        assert "'legacy: [diffie-hellman-group14-sha1, aes128-cbc]'" in str(caught.value.hint)
        with pytest.raises(Unsupported):
            await connects(peer.settings(legacy="diffie-hellman-group14-sha1"))
        await connects(peer.settings(legacy=["diffie-hellman-group14-sha1", "aes128-cbc"]))
        with pytest.raises(ConfigError, match="unknown algorithm 'rot13'"):
            await connects(peer.settings(legacy="rot13"))


_OUTDATED = ("KexAlgorithms diffie-hellman-group14-sha1", "Ciphers aes128-cbc", "MACs hmac-sha1")


@pytest.mark.filterwarnings("ignore:Diffie-Hellman")
async def test_openssh_hangs_up_where_nothing_is_common_and_the_line_that_mends_it_is_told(
    pytestconfig: pytest.Config,
) -> None:
    config = (*_OUTDATED, "HostKeyAlgorithms ssh-rsa")
    with running(pytestconfig, OpenSSH(config=config, host_keys=("rsa",))) as server:
        with pytest.raises(Unsupported, match="no host key but ssh-rsa") as caught:
            await connects(SftpSettings.model_validate(server.settings()))
        line = re.search(r"'legacy: \[(.*)\]'", str(caught.value.hint))
        assert line is not None
        await connects(SftpSettings.model_validate(server.settings(legacy=line[1].split(", "))))


async def test_a_host_key_of_another_kind_than_the_known_one_is_no_full_server(
    openssh: OpenSSH, tmp_path: Path
) -> None:
    known = asyncssh.generate_private_key("ssh-rsa").export_public_key().decode()
    (tmp_path / "known").write_text(f"[{openssh.host}]:{openssh.port} {known}")
    given = {"host_key": (), "known_hosts": str(tmp_path / "known")}
    with pytest.raises(HostKeyMismatch, match=r"no host key but .*ssh-ed25519"):
        await connects(SftpSettings.model_validate(openssh.settings(**given)))
