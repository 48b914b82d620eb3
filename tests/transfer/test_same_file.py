"""A file is not copied onto itself, whatever its endpoints are called: `after: delete` would remove the only one."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossdock.engine.sync import sync
from crossdock.errors import Conflict, InvalidPath
from crossdock.storage.local import LocalSettings
from crossdock.storage.registry import new_storage, settings_class
from crossdock.storage.storage import Storage
from crossdock.testing import FakeNetStorage
from crossdock.transfer.copy import CopyOptions, copy
from tests.servers import OpenSSH, Vsftpd
from tests.storage.netstorage.places import backend


def local(name: str, root: Path) -> Storage:
    return new_storage(name, LocalSettings(type="local", root=root))


async def test_local_folders(tmp_path: Path) -> None:
    (tmp_path / "all/in/sub").mkdir(parents=True)
    (tmp_path / "all/in/sub/a.csv").write_text("a")
    (tmp_path / "link").symlink_to(tmp_path / "all/in/sub")
    async with local("all", tmp_path / "all") as all_, local("in", tmp_path / "all/in") as in_:
        async with local("link", tmp_path / "link") as link:
            for target, to in ((in_, "sub/a.csv"), (link, "a.csv"), (all_, "in/sub/a.csv")):
                for overwrite in (True, False):
                    with pytest.raises(InvalidPath, match=r"this is the source itself, all:in/sub/a\.csv"):
                        await copy(all_, "in/sub/a.csv", target, to, options=CopyOptions(overwrite=overwrite))
            await copy(all_, "in/sub/a.csv", link, "b.csv")
            await copy(in_, "sub/a.csv", all_, "new/folder/a.csv")
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.csv"))
    assert names == ["all/in/sub/a.csv", "all/in/sub/b.csv", "all/new/folder/a.csv"]


async def test_folders_of_one_account(openssh: OpenSSH, vsftpd: Vsftpd, tmp_path: Path) -> None:
    for server, root in ((openssh, str(openssh.folder / tmp_path.name)), (vsftpd, f"{vsftpd.root}{tmp_path.name}")):

        def storage(name: str, root: str, server: OpenSSH | Vsftpd = server) -> Storage:
            given = server.settings(root=root)
            return new_storage(name, settings_class(given["type"]).model_validate(given))

        async with storage("top", str(Path(root).parent)) as top:
            await top.make_dir(f"{tmp_path.name}/in")
        async with storage("all", root) as all_, storage("in", f"{root}/in") as in_:
            await all_.write_bytes("in/a.csv", b"a")
            with pytest.raises(InvalidPath, match=r"the source itself, in:a\.csv"):
                await copy(in_, "a.csv", all_, "in/a.csv")
            await copy(in_, "a.csv", all_, "a.csv")
            assert await in_.read_bytes("a.csv") == await all_.read_bytes("a.csv") == b"a"


async def test_folders_of_one_cp_code(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeNetStorage() as server:
        ends = [backend(server, monkeypatch, root=root) for root in ("", "in")]
        async with Storage(ends[0]) as all_, Storage(ends[1]) as in_:
            await all_.write_bytes("in/a.csv", b"a")
            with pytest.raises(InvalidPath, match="the source itself"):
                await copy(in_, "a.csv", all_, "in/a.csv")
            with pytest.raises(Conflict, match="overlap"):
                await sync(all_, "", in_, "new", report=lambda _: None)
            await copy(in_, "a.csv", all_, "a.csv")
            assert await all_.read_bytes("a.csv") == b"a"
