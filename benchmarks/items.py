"""The work that is measured: the rows of the table, with what crossdock aims at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FLOW, COPY = "a flow", "a plain cp -r"
"""How tables name `crossdock run --once`."""
Place = Literal["s3", "sftp", "local", "ftp", "ftpes"]
Kind = Literal["big", "small", "again", "help"]
WORDS = {"s3": "S3", "sftp": "SFTP", "local": "local", "ftp": "FTP", "ftpes": "FTPS"}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is moved."""

    big: int
    """Bytes of the one large file."""
    small: int
    """How many files of `SMALL_SIZE`."""
    again: int
    """How many files in the tree that is synced again."""
    rows: int
    """Of the largest ledger."""

    def words(self, kind: Kind) -> str:
        big = f"{self.big >> 30} GiB" if self.big >> 30 else f"{self.big >> 20} MiB"
        return {"big": big, "small": f"{self.small:,} files of 10 KiB", "again": f"{self.again:,} files", "help": ""}[
            kind
        ]


FULL = Scale(1 << 30, 2_000, 100_000, 1_000_000)
QUICK = Scale(128 << 20, 300, 3_000, 100_000)
SMALL_SIZE = 10 << 10


@dataclass(frozen=True, slots=True)
class Item:
    """One row. `aims`: by peer, how many times as fast crossdock is meant to be."""

    name: str
    kind: Kind
    source: Place = "local"
    target: Place = "local"
    aims: tuple[tuple[str, float], ...] = ()
    rss: int | None = None
    """The most memory that crossdock may take, in bytes."""
    seconds: float | None = None
    """The longest that crossdock may take."""
    flow: float | None = None
    """How many times as fast as `crossdock cp -r` a flow over the same files is meant to be, its ledger included."""

    def title(self, scale: Scale) -> str:
        if self.kind == "help":
            return "`crossdock --help`"
        way = f"{WORDS[self.source]} → {WORDS[self.target]}"
        return (
            f"`sync` again, {scale.words(self.kind)}, {way}"
            if self.kind == "again"
            else f"{scale.words(self.kind)}, {way}"
        )


_DISK = (("rclone", 1.2), ("rclone-best", 1.2), ("sftp", 1.0))
_S3 = (("rclone", 1.2), ("rclone-best", 1.2))
_SMALL = (("rclone", 30.0), ("rclone-best", 2.0))
_FTP = (("rclone", 1.2), ("lftp", 1.0), ("curl", 1.0))
_AGAIN = (("rclone", 2.0), ("rclone-best", 2.0))

ITEMS = (
    Item("big-s3-sftp", "big", "s3", "sftp", (("rclone", 1.5), ("rclone-best", 1.5)), rss=128 << 20),
    Item("big-sftp-s3", "big", "sftp", "s3", (("rclone", 2.0), ("rclone-best", 2.0))),
    Item("big-local-sftp", "big", "local", "sftp", _DISK),
    Item("big-sftp-local", "big", "sftp", "local", _DISK),
    Item("big-local-s3", "big", "local", "s3", _S3),
    Item("big-s3-local", "big", "s3", "local", _S3),
    Item(
        "small-local-sftp", "small", "local", "sftp", (("lftp", 1.5), ("rclone", 30.0), ("rclone-best", 1.5)), flow=0.7
    ),
    Item("small-s3-sftp", "small", "s3", "sftp", _SMALL, flow=0.7),
    Item("small-sftp-s3", "small", "sftp", "s3", _SMALL, flow=0.7),
    Item("big-local-ftp", "big", "local", "ftp", _FTP),
    Item("big-ftp-local", "big", "ftp", "local", _FTP),
    Item("big-local-ftps", "big", "local", "ftpes", _FTP),
    Item("big-ftps-local", "big", "ftpes", "local", _FTP),
    Item("small-local-ftp", "small", "local", "ftp", _FTP[:2]),
    Item("small-ftp-local", "small", "ftp", "local", _FTP[:2]),
    Item("small-local-ftps", "small", "local", "ftpes", _FTP[:2]),
    Item("small-ftps-local", "small", "ftpes", "local", _FTP[:2]),
    Item("again-s3-local", "again", "s3", "local", _AGAIN),
    Item("again-local-sftp", "again", "local", "sftp", _AGAIN),
    Item("help", "help", seconds=0.150),
)
