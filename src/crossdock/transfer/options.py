"""How a file is to be moved, and what an attempt at it tells of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crossdock.transfer.pipe import DEPTH

if TYPE_CHECKING:
    from crossdock.transfer.transforms.base import Step

__all__ = ["Begun", "CopyOptions", "Staged"]


@dataclass(frozen=True, slots=True)
class Begun:
    """How far an earlier attempt came with an archive: what is there of it by now counts as its own."""

    member: str
    """As `Staged.member`, which may not have been published."""
    sha256: str | None
    in_place: bool = False
    """The beginning of one that it did not come to write in full may be there as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """How one file is to be moved."""

    overwrite: bool = True
    """False: a target with other bytes is a `Conflict`; one with exactly these bytes is a success."""
    server_side: bool = True
    """Let the store copy by itself where source and target are in the same one; then no digest is computed here."""
    keep_modified: bool = True
    attributes: Mapping[str, str] = field(default_factory=dict)
    depth: int = DEPTH
    resume: bytes | None = None
    """The checkpoint of an earlier attempt at the same source (same fingerprint) and target."""
    attempt: str | None = None
    """See `WriteOptions.attempt`: for callers who have to clean up after a process that was killed."""
    begun: Begun | None = None
    """Of an archive, instead of `resume`."""
    transforms: tuple[Step, ...] = ()
    """What changes in flight, in order. Then no store copies by itself, and an attempt is not resumed."""
    takes_source: bool = False
    """The source is removed afterwards: whether the target is another name of it is looked at closely."""
    version_of: str | None = None
    """The target's path that was taken: the source itself is no reason for another version of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """What a crash from now on would leave at the target; a ledger records it."""

    token: bytes | None
    """For `Backend.discard`. None: nothing is left but what `CopyOptions.attempt` names."""
    size: int | None = None
    sha256: str | None = None
    """Known once every byte was taken: what comes next makes the file visible under its final name."""
    member: str | None = None
    """The target's path of that one of an archive's files; those before it are published. "": none is as yet."""
