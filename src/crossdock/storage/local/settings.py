"""What a local endpoint can be told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, unquote

from pydantic import BeforeValidator, Field

from crossdock.storage.settings import EndpointSettings, FilePath, query_of

__all__ = ["LocalSettings"]


def _mode(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError('write the mode as octal digits in quotes, such as "0640"')
    return value


Mode = Annotated[str, BeforeValidator(_mode)]


class LocalSettings(EndpointSettings):
    """A folder on this machine, or on a mount."""

    backend_class = "crossdock.storage.local.backend:LocalBackend"
    type: Literal["local"] = "local"
    root: FilePath  # type: ignore[assignment]
    """The folder that all paths start from. It must exist: a mount that is missing is not filled up underneath."""
    file_mode: Mode = Field(default="0640")
    """Of files that are made, whatever the umask."""
    dir_mode: Mode = Field(default="0750")
    """Of folders that are made, whatever the umask."""
    fsync: bool = True
    """Flush each file and its folder to the disk before it counts as delivered."""

    @classmethod
    def from_url(cls, url: SplitResult) -> tuple[Self, str]:
        """`file:///folder/name`: the last component below its folder, so that links above it are as the user meant.

        With a slash at the end it is the folder itself.
        """
        if url.netloc not in ("", "localhost") or not url.path.startswith("/"):
            raise ValueError("write file:///absolute/path")
        folder, _, name = url.path.rpartition("/")
        root = Path(unquote(folder, errors="surrogateescape") or "/")
        return cls.model_validate({"root": root, **query_of(url)}), name
