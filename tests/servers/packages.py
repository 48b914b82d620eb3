"""Debian packages unpacked into the checkout's ignored `.servers/` folder: no root, and nothing on the system changes.

apt leaves out packages that the system already has, so a program is looked for in the unpacked tree first and on the
system second. A stamp with the package list makes every later call instant, and able to work offline.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

SERVERS = Path(__file__).resolve().parents[2] / ".servers"
TRIPLET = sysconfig.get_config_var("MULTIARCH") or f"{platform.machine()}-linux-gnu"


class Missing(Exception):
    """This server cannot be had on this machine; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Where a server's files are: under `root` if they were unpacked there, else on the system."""

    root: Path

    def find(self, name: str) -> Path | None:
        """`name` is a path without the leading slash, as in a package's list; `{triplet}` stands for the machine's.

        `*` stands for any version; of several the last in the order of their names is taken.
        """
        name = name.format(triplet=TRIPLET)
        return next((path for tree in (self.root, Path("/")) for path in sorted(tree.glob(name), reverse=True)), None)

    def path(self, name: str) -> Path:
        """As `find`, but raises Missing."""
        found = self.find(name)
        if found is None:
            raise Missing(f"no {name.format(triplet=TRIPLET)}, neither unpacked nor on the system")
        return found

    def environment(self) -> dict[str, str]:
        """What unpacked programs need in order to find their libraries and each other."""
        libraries = [f"usr/lib/{TRIPLET}", f"lib/{TRIPLET}", f"usr/lib/{TRIPLET}/ceph"]
        folders = [str(self.root / name) for name in libraries if (self.root / name).is_dir()]
        programs = [str(self.root / "usr/bin"), str(self.root / "usr/sbin"), os.environ.get("PATH", os.defpath)]
        return {"LD_LIBRARY_PATH": ":".join(folders), "PATH": ":".join(programs), "LC_ALL": "C.UTF-8"}


def fetch(name: str, packages: tuple[str, ...], needs: tuple[str, ...]) -> Tree:
    """The tree that holds every file in `needs`, fetched once per checkout and safe to call from many processes.

    Raises Missing without apt or dpkg, when the archive cannot be reached, or when the packages lack a needed file.
    """
    system = Tree(Path("/"))
    if all(system.find(need) for need in needs):
        return system
    folder = SERVERS / name
    tree = Tree(folder / "root")
    stamp = folder / "stamp"
    wanted = _digest(packages)
    if not _stamped(stamp, wanted):
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise Missing(f"no {tool} here (not Debian?); install {', '.join(packages)} on the system instead")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / "lock").open("a")
        except OSError as error:
            raise Missing(f"cannot write {folder}: {error.strerror}") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _stamped(stamp, wanted):
                names = _fetch_into(folder, packages)
                stamp.write_text("\n".join([wanted, *names, ""]))
    for need in needs:
        tree.path(need)
    return tree


def _digest(packages: tuple[str, ...]) -> str:
    release = platform.freedesktop_os_release().get("VERSION_ID", "") if Path("/etc/os-release").exists() else ""
    return hashlib.sha256("\n".join([TRIPLET, release, *sorted(packages)]).encode()).hexdigest()


def _stamped(stamp: Path, wanted: str) -> bool:
    return stamp.exists() and stamp.read_text().partition("\n")[0] == wanted


def _fetch_into(folder: Path, packages: tuple[str, ...]) -> list[str]:
    """Download and unpack; returns the file names of the unpacked packages."""
    root = folder / "root"
    apt = folder / "apt"
    for stale in (root, apt):
        shutil.rmtree(stale, ignore_errors=True)
    for name in ("state/lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    root.mkdir()
    settings = apt / "apt.conf"
    # Hooks are cleared because some images' hooks clean the system's own package cache.
    settings.write_text(
        "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n"
        "#clear DPkg::Post-Invoke;\n"
        f'Dir::State "{apt}/state";\nDir::State::status "/var/lib/dpkg/status";\nDir::Cache "{apt}/cache";\n'
        'Debug::NoLocking "1";\nAPT::Sandbox::User "";\nAcquire::Retries "2";\nAcquire::http::Timeout "30";\n'
    )
    command = ["apt-get", "-q", "-c", str(settings)]
    _run([*command, "update"])
    _run([*command, "install", "-y", "--no-install-recommends", "--download-only", *packages])
    archives = sorted((apt / "cache/archives").glob("*.deb"))
    for archive in archives:
        _run(["dpkg-deb", "-x", str(archive), str(root)])
    shutil.rmtree(apt)
    _drop_setuid(root)
    return [archive.name for archive in archives]


def _drop_setuid(root: Path) -> None:
    # A dependency may bring sudo or fusermount: no second set-uid copy of those belongs in a checkout.
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            path.chmod(stat.S_IMODE(mode) & 0o777)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )
    except subprocess.TimeoutExpired as error:
        raise Missing(f"{command[0]} took over {error.timeout:.0f} s") from error
    if done.returncode:
        lines = done.stdout.decode(errors="replace").splitlines()
        said = [line for line in lines if line.startswith(("E:", "dpkg-deb:"))] or lines[-3:]
        raise Missing(f"{command[0]} failed: {' '.join(said)}")
