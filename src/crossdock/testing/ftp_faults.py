"""What `FaultyFtpServer` can be told to do wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

__all__ = ["FtpFaults", "folded"]


@dataclass
class FtpFaults:
    """What goes wrong; may be changed while the server runs. Without orders, nothing does."""

    cut_download: int | None = None
    """After so many bytes the data connection ends …"""
    how: Literal["complete", "rst", "silent", "refused", "hang up"] = "complete"
    """… and is called complete, or is reset, or gets no last reply, or a 426, or takes the control connection along."""
    cut_upload: int | None = None
    """So many bytes are stored of an upload, which is called complete."""
    disk: int | None = None
    """Bytes until 452."""
    size: int | None = None
    """What SIZE and MLST say of every file."""
    listing: bytes | None = None
    """What is listed instead of what there is."""
    most: int | None = None
    """Connections at a time; one more gets a 421."""
    wrong_digest: bool = False
    late_reply: bool = False
    """A last reply comes twice."""
    passive: str | None = None
    """The whole reply to PASV; EPSV is then unknown."""
    agrees_early: bool = False
    """STOR and APPE are agreed to before the folder is looked for; that there is none is the last reply, a 450."""
    denies: str = ""
    """The answer to RNTO once it is done."""
    replaces_folders: bool = False
    """A file that is renamed onto a folder takes its place."""
    agreement: Literal["once", "never", "late", "twice"] = "once"
    """How a transfer is agreed to, by 150; late: together with its last reply."""
    looks_first: float | None = None
    """It agrees to a transfer once it has seen the data connection, under TLS secured; after so many seconds: 425."""
    during: Literal["wait", "answer", "drop"] = "wait"
    """What it does with commands that have come while there is a transfer under way."""
    tells_size: bool = False
    """Agreeing to a download, it tells how large the file is that it has opened."""
    one_at_a_time: Literal["overlooks", "hangs up", "overtakes"] | None = None
    """Of the commands in one packet only the first is seen; or for more than one the connection is closed; or those
    in `replies` are answered before the others."""
    sizes_folders: bool = False
    """SIZE tells one of a folder as well."""
    patterns: bool = False
    """MLST takes a name with *, ? or [ for a pattern, and describes the folder above."""
    takes: bool = False
    """An upload that is complete is gone, as in a drop box; `FaultyFtpServer.taken` holds what was in it."""
    times: Literal["set", "forgotten", "even", "killed"] = "set"
    """What becomes of MFMT, once it is agreed to; FAT keeps even seconds. Or the session ends (vsftpd's sandbox)."""
    empties: bool = False
    """A file that is gone on with by REST and STOR is empty at first, and then has zeros at its beginning."""
    ascii: bool = False
    """Every letter beyond ASCII in a name is stored as "?", as Java does without a locale."""
    folds: bool = False
    """Names are found whatever the case of their letters, as on Windows."""
    hides: bool = False
    """LIST leaves out names with a dot in front, but for `LIST -a`."""
    lazy: bool = False
    """Under TLS a download begins it with the first byte: a data connection without one ends as it came."""
    careless: bool = False
    """RMD removes a folder with all that is in it."""
    ibm_i: bool = False
    """Until SITE changes it, PWD tells a library, and LIST is in its own dialect (LISTFMT 0)."""
    replies: dict[str, str] = field(default_factory=dict)
    """Commands that are answered like this, and do nothing: {"RNFR": "502 no"}."""


def folded(path: Path) -> Path:
    """The name by which this is there, if it is, in whatever case."""
    if path.parent == path:
        return path
    folder = folded(path.parent)
    there = folder.iterdir() if folder.is_dir() else ()
    return next((one for one in there if one.name.lower() == path.name.lower()), folder / path.name)
