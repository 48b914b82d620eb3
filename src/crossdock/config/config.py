"""What the user's file says, as data, and locations as they are written: `name:path`, a URL, a local path."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from crossdock.errors import ConfigError, UnknownEndpoint, located, shown

if TYPE_CHECKING:
    from crossdock.config.mistakes import Report
    from crossdock.flows.flow import Flow
    from crossdock.ledger.base import Ledger
    from crossdock.storage.settings import EndpointSettings
    from crossdock.storage.storage import Storage

__all__ = ["DEFAULT_FILE", "NAME", "VARIABLE", "Config", "Location", "Mistakes", "is_url", "may_name_endpoint"]

DEFAULT_FILE = "crossdock.yaml"
VARIABLE = "CROSSDOCK_CONFIG"
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
"""Of endpoints and flows."""
_NAME = re.compile(NAME)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class Mistakes(ConfigError):
    """All that is wrong with one file; `mistakes` has each by itself.

    `readable`: the file with stand-ins for what is wrong, to look for more in it, and for nothing else.
    """

    def __init__(self, file: str, mistakes: list[ConfigError], *, readable: Config | None = None) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes), file=None)
        self.file, self.mistakes, self.readable = file, mistakes, readable


@dataclass(frozen=True, slots=True)
class Location:
    """An endpoint and a path at it."""

    name: str
    """The endpoint's name, as messages show it."""
    settings: EndpointSettings
    path: str
    """Relative to the endpoint's root; "" is the root itself."""
    folder: bool
    """A folder was meant: the path was written with a trailing slash, or is the root."""

    @property
    def drop_box(self) -> bool:
        """Nothing there can be looked at, as its endpoint says (`verify: none`)."""
        return getattr(self.settings, "verify", None) == "none"

    def storage(self, *, bandwidth: float | None = None, retries: int = 0) -> Storage:
        """A storage over the endpoint, not yet opened, limited to `bandwidth` bytes a second; `retries`: at least so
        many new attempts at what can be repeated."""
        from crossdock.storage.rate import TokenBucket
        from crossdock.storage.registry import new_storage
        from crossdock.storage.retry import RetryPolicy

        policy = RetryPolicy()
        policy = replace(policy, attempts=max(policy.attempts, retries + 1))
        bucket = TokenBucket(bandwidth) if bandwidth else None
        return new_storage(self.name, self.settings, bandwidth=bucket, retry=policy)

    def shown(self, path: str | None = None) -> str:
        """How to write this location, or another path at its endpoint, on a command line."""
        path = self.path if path is None else path
        return located(self.name, path)


@dataclass(frozen=True, slots=True)
class Config:
    """What the user's file says; `file` is None without one."""

    file: Path | None = None
    endpoints: Mapping[str, EndpointSettings] = field(default_factory=dict)
    flows: Mapping[str, Flow] = field(default_factory=dict)
    ledger: str | None = None
    """An absolute path, or a postgresql:// URL whose password is a reference; None: the default (see `new_ledger`)."""
    warnings: tuple[ConfigError, ...] = ()
    """What is not wrong, but probably not meant."""
    report: Report | None = field(default=None, repr=False, compare=False)
    """Knows the line of every key, for mistakes that are found later."""

    @property
    def folder(self) -> Path:
        """What relative paths start from: the folder of the file, else the working folder."""
        return self.file.parent if self.file else Path()

    def require_file(self) -> Path:
        """`file`. Raises `ConfigError` if there is none."""
        if self.file is None:
            others = map(Path(DEFAULT_FILE).with_suffix, (".yml", ".json", ".toml"))
            other = next((path.name for path in others if path.exists()), "FILE")
            raise ConfigError(f"there is no {DEFAULT_FILE} here", hint=f"write one, or pass --config {other}")
        return self.file

    def new_ledger(self, written: str | None = None, *, own_process: bool = False) -> Ledger:
        """The ledger, not yet opened: `written` (as for `--ledger`, relative to the working folder), else the file's,
        else `crossdock.db` beside the file. `own_process`: see `new_ledger`. Raises `ConfigError`."""
        from crossdock.config.ledgers import new_ledger

        if written is not None:
            return new_ledger(written, own_process=own_process)
        return new_ledger(self.ledger, folder=self.folder, own_process=own_process)

    def flow(self, name: str) -> Flow:
        """A flow by its name. Raises `ConfigError`."""
        if name in self.flows:
            return self.flows[name]
        hint = _instead(name, self.flows) or f"add it to 'flows:' in {DEFAULT_FILE}, or pass --config FILE"
        raise ConfigError(f"no flow is called {name!r} ({self._where})", hint=hint)

    def endpoint(self, name: str) -> EndpointSettings:
        """The settings of a named endpoint. Raises `ConfigError`."""
        try:
            return self.endpoints[name]
        except KeyError:
            raise self._unknown(name) from None

    def storage(self, name: str, *, looking: bool = False) -> Storage:
        """A storage over a named endpoint, not yet opened; `looking`: nothing is to be written there.

        Raises `ConfigError`.
        """
        from crossdock.storage.registry import new_storage

        settings = self.endpoint(name)
        return new_storage(name, settings.looking() if looking else settings)

    def locate(self, text: str) -> Location:
        """A location as it is written: `name:path`, a URL, else a local path. Raises `ConfigError`.

        A local path is below the working folder, or absolute; links in its folders are followed, as the shell does.
        """
        name, colon, path = text.partition(":")
        if colon and name in self.endpoints and not _is_scheme(name, path):
            path = path[1:] if path.startswith("/") else path
            return _location(name, self.endpoint(name), path)
        if is_url(text):
            from crossdock.storage.registry import parse_url

            settings, path = parse_url(text)
            return _location(str(settings.root) if settings.type == "local" else _url_name(text), settings, path)
        if colon and _NAME.fullmatch(name) and not os.path.lexists(text):
            raise self._unknown(name, f"write ./{name}:… for a local file of that name")
        first, _, path = text.partition("/")
        if first in self.endpoints and not os.path.lexists(first):
            hint = f"write {first}:{path} for the endpoint, or ./{text} for a local path"
            raise ConfigError(f"{first!r} is an endpoint, and there is nothing of that name here", hint=hint)
        return _local(text)

    def _unknown(self, name: str, *other: str) -> ConfigError:
        file = self._where if self.file else DEFAULT_FILE
        hint = _instead(name, self.endpoints)
        hint = hint or f"add {name} to 'endpoints:' in {file}, or pass --config FILE"
        hint = "; ".join([hint, *other]).replace("?;", "?")
        return UnknownEndpoint(f"no endpoint is called {name!r} ({self._where})", hint=hint)

    @property
    def _where(self) -> str:
        """The file, as it was named."""
        if self.report is not None:
            return shown(self.report.document.file)
        return self.file.name if self.file else f"no {DEFAULT_FILE} here"


def _instead(name: str, known: Collection[str]) -> str:
    """What to write in place of a name that is none of the known ones; "" if there are none."""
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"did you mean {near[0]}?"
    return f"write one of {', '.join(sorted(known))}" if known else ""


def may_name_endpoint(text: str) -> bool:
    """Whether a location may begin with an endpoint's name, its colon perhaps forgotten; a URL's is its scheme."""
    name, colon, _ = text.partition(":")
    if not colon:
        name = text.partition("/")[0]
    return _NAME.fullmatch(name) is not None and (bool(colon) or not os.path.lexists(name))


def is_url(text: str) -> bool:
    return _URL.match(text) is not None


def _is_scheme(name: str, path: str) -> bool:
    """What is written is a URL, even if an endpoint has the name of its scheme."""
    if not path.startswith("//"):
        return False
    from crossdock.storage.registry import is_type

    return name == "file" or (name != "local" and is_type(name))


def _location(name: str, settings: EndpointSettings, path: str) -> Location:
    folder = not path or path.endswith("/")
    return Location(name, settings, path.removesuffix("/"), folder)


def _url_name(url: str) -> str:
    """The part of a URL that names the endpoint."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    login = "/~" if parts.scheme in ("sftp", "ftp", "ftpes", "ftps") and (parts.path + "/").startswith("/~/") else ""
    return f"{parts.scheme}://{parts.netloc}{login}"


def _local(text: str) -> Location:
    """Root: the deepest folder that exists above the name, links resolved; path: the rest."""
    from crossdock.storage.registry import settings_class

    if not text:
        raise ConfigError("an empty path", hint="write . for the working folder")
    if text == "-":
        hint = "write ./- for a file of that name; 'crossdock cat' writes to standard output"
        raise ConfigError("standard input and output are no locations", hint=hint)
    folder = text.endswith("/") or text.rpartition("/")[2] in (".", "..")
    try:
        path = Path(text).absolute()
    except FileNotFoundError as error:
        raise ConfigError("the working folder is not there any more", hint="cd to one that exists") from error
    # Of `os.path`, which takes what may not be looked at as it is: the endpoint says why when it is used.
    follow = folder or (os.path.islink(path) and os.path.isdir(path))  # noqa: PTH112, PTH114
    path = Path(os.path.realpath(path)) if follow else Path(os.path.realpath(path.parent)) / path.name
    root = path.parent
    while not os.path.isdir(root):  # noqa: PTH112
        root = root.parent
    rest = "" if path == root else str(path.relative_to(root))
    return Location(str(root), settings_class("local").model_validate({"root": root}), rest, folder or not rest)
