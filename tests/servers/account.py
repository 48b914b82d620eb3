"""Servers that do not run as root: the account they have, and what both it and the test may write to."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

from tests.servers.packages import Tree
from tests.servers.server import Server

_NOBODY = 65534


class AccountServer(Server):
    """Runs as `uid`: the test's own account, or where that is root's, another."""

    def __init__(self) -> None:
        super().__init__()
        self.uid = _NOBODY if os.geteuid() == 0 else os.geteuid()
        self.user = "tester"

    @property
    def _drops(self) -> bool:
        """Whether root starts it."""
        return self.uid != os.geteuid()

    def _files(self) -> Tree:
        """The server's files, where its account can read them; raises Missing."""
        tree = self.fetch()
        if not self._drops:
            return tree
        self.base.chmod(0o755)
        if all(path.stat().st_mode & 0o001 for path in (tree.root, *tree.root.parents, *tree.root.resolve().parents)):
            return tree
        return Tree(Path(shutil.copytree(tree.root, self.base / "root", symlinks=True)))

    def _make_home(self, folder: Path) -> None:
        """A folder in which the server and the test may read and write whatever either made."""
        folder.mkdir(parents=True)
        if self._drops:
            os.chown(folder, self.uid, -1)
            _share(folder, self.uid)

    def _accounts(self, tree: Tree, home: Path) -> dict[str, str]:
        """The environment in which the account `tester` exists (libnss-wrapper invents it)."""
        passwd, group = self.base / "passwd", self.base / "group"
        passwd.write_text(f"tester:*:{self.uid}:{self.uid}:tester:{home}:/bin/sh\n")
        group.write_text(f"tester:x:{self.uid}:\n")
        # LD_PRELOAD takes no path with a space, as the checkout's may be.
        wrapper = self.base / "libnss_wrapper.so"
        wrapper.symlink_to(tree.path("usr/lib/{triplet}/libnss_wrapper.so"))
        return {
            "LD_PRELOAD": str(wrapper),
            "NSS_WRAPPER_PASSWD": str(passwd),
            "NSS_WRAPPER_GROUP": str(group),
        }


def _share(folder: Path, uid: int) -> None:
    """Default ACL (acl(5)): whatever is made in `folder`, by whomever, may be read and written by `uid` too."""
    anyone = 0xFFFFFFFF
    user_obj, user, group_obj, mask, other = 0x01, 0x02, 0x04, 0x10, 0x20
    entries = [(user_obj, 7, anyone), (user, 7, uid), (group_obj, 5, anyone), (mask, 7, anyone), (other, 5, anyone)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(folder, "system.posix_acl_default", value)
