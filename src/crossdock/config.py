"""The user's file and what is written on the command line → endpoints and locations.

The file is YAML (1.2's plain rules: `no` is a word, `022` is 22), JSON or TOML. Every mistake in it is reported at
once, each with file, line, key and what to write instead. Secrets come by reference only.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossdock.errors import ConfigError, shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from crossdock.documents import Document
    from crossdock.storage.settings import EndpointSettings

__all__ = ["DEFAULT_FILE", "VARIABLE", "Config", "Location", "Mistakes", "load"]

DEFAULT_FILE = "crossdock.yaml"
VARIABLE = "CROSSDOCK_CONFIG"
_KEYS = ("endpoints",)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class Mistakes(ConfigError):
    """All that is wrong with one file; `mistakes` has each by itself."""

    def __init__(self, file: str, mistakes: list[ConfigError]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes), file=None)
        self.file, self.mistakes = file, mistakes


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

    def shown(self, path: str | None = None) -> str:
        """How to write this location, or another path at its endpoint, on a command line."""
        path = self.path if path is None else path
        if self.settings.type == "local" and self.name.startswith("/"):
            return shown(f"{self.name.rstrip('/')}/{path}".rstrip("/") or "/")
        slash = "/" if "://" in self.name else ":"
        return f"{self.name}{slash}{shown(path)}"


@dataclass(frozen=True, slots=True)
class Config:
    """What the user's file says; `file` is None without one."""

    file: Path | None
    endpoints: Mapping[str, EndpointSettings]
    unusable: Mapping[str, ConfigError]
    """Endpoints that are well written but need a package which is not installed."""

    def endpoint(self, name: str) -> EndpointSettings:
        """The settings of a named endpoint. Raises `ConfigError`."""
        if name in self.unusable:
            raise self.unusable[name]
        try:
            return self.endpoints[name]
        except KeyError:
            raise self._unknown(name) from None

    def locate(self, text: str) -> Location:
        """A location as it is written: `name:path`, a URL, else a local path. Raises `ConfigError`.

        A local path is below the working folder, or absolute; links in its folders are followed, as the shell does.
        """
        name, colon, path = text.partition(":")
        if colon and (name in self.endpoints or name in self.unusable):
            path = path[1:] if path.startswith("/") else path
            return _location(name, self.endpoint(name), path)
        url = _URL.match(text)
        if url:
            from crossdock.storage.registry import parse_url

            settings, path = parse_url(text)
            return _location(str(settings.root) if settings.type == "local" else _url_name(text), settings, path)
        if colon and _NAME.fullmatch(name) and not os.path.lexists(text):
            raise self._unknown(name)
        return _local(text)

    def _unknown(self, name: str) -> ConfigError:
        known = [*self.endpoints, *self.unusable]
        where = self.file.name if self.file else f"no {DEFAULT_FILE} here"
        near = difflib.get_close_matches(name, known, 1)
        hint = f"write ./{name}:… for a local file of that name"
        if near:
            hint = f"did you mean {near[0]}? " + hint[0].upper() + hint[1:]
        elif known:
            hint = f"write one of {', '.join(sorted(known))}; {hint}"
        else:
            hint = f"add {name} to 'endpoints:' in {DEFAULT_FILE}, or pass --config FILE; {hint}"
        return ConfigError(f"no endpoint is called {name!r} ({where})", hint=hint)


def _location(name: str, settings: EndpointSettings, path: str) -> Location:
    folder = not path or path.endswith("/")
    return Location(name, settings, path.removesuffix("/"), folder)


def _url_name(url: str) -> str:
    """The part of a URL that names the endpoint."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    login = "/~" if parts.scheme == "sftp" and (parts.path + "/").startswith("/~/") else ""
    return f"{parts.scheme}://{parts.netloc}{login}"


def _local(text: str) -> Location:
    """Root: the deepest folder that exists above the name, links resolved; path: the rest."""
    from crossdock.storage.registry import settings_class

    if not text:
        raise ConfigError("an empty path", hint="write . for the working folder")
    folder = text.endswith("/") or text.rpartition("/")[2] in (".", "..")
    path = Path(text).absolute()
    follow = folder or (path.is_symlink() and path.is_dir())
    path = path.resolve() if follow else path.parent.resolve() / path.name
    root = path.parent
    while not root.is_dir():
        root = root.parent
    rest = "" if path == root else str(path.relative_to(root))
    return Location(str(root), settings_class("local").model_validate({"root": root}), rest, folder or not rest)


def load(explicit: Path | None = None, *, folder: Path | None = None) -> Config:
    """The configuration: `explicit`, else $CROSSDOCK_CONFIG, else crossdock.yaml in `folder` (the working folder).

    The last may be absent. Raises `Mistakes` with everything that is wrong in the file.
    """
    named = explicit or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    file = named or (folder or Path()) / DEFAULT_FILE
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        if named is None:
            return Config(None, {}, {})
        raise ConfigError("there is no such file", file=str(file), hint="check --config and CROSSDOCK_CONFIG") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(file)) from error
    from crossdock.documents import parse

    document = parse(raw, str(file))
    return _Reading(document, file.resolve()).config()


class _Reading:
    """One pass over a parsed file, collecting mistakes."""

    def __init__(self, document: Document, file: Path) -> None:
        self.document, self.file = document, file
        self.mistakes: list[ConfigError] = list(document.mistakes)
        self.endpoints: dict[str, EndpointSettings] = {}
        self.unusable: dict[str, ConfigError] = {}

    def config(self) -> Config:
        data = self.document.data
        if data is None:
            data = {}
        if isinstance(data, dict):
            for key in data:
                if key not in _KEYS:
                    self._mistake((key,), "unknown key", _instead(str(key), _KEYS))
            self._endpoints(data.get("endpoints"))
        else:
            self._mistake((), "the file must be a mapping", "start it with 'endpoints:'")
        if self.mistakes:
            self.mistakes.sort(key=lambda mistake: mistake.line or 0)
            raise Mistakes(self.document.file, self.mistakes)
        return Config(self.file, self.endpoints, self.unusable)

    def _mistake(self, path: tuple[Any, ...], message: str, hint: str | None) -> None:
        key = ".".join(str(part) for part in path)
        line = self.document.line(path)
        self.mistakes.append(ConfigError(message, file=self.document.file, line=line, key=shown(key), hint=hint))

    def _endpoints(self, found: Any) -> None:
        if found is None:
            return
        if not isinstance(found, dict):
            self._mistake(("endpoints",), "must be a mapping of names to settings", "write 'name: {type: …}' below it")
            return
        for name, data in found.items():
            path = ("endpoints", name)
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                self._mistake(path, "not a name for an endpoint", "use letters, digits, '-', '_' and '.'")
            elif not isinstance(data, dict):
                self._mistake(path, "must be a mapping of settings", "write {type: sftp, host: …}")
            else:
                self._endpoint(name, data)

    def _endpoint(self, name: str, data: dict[Any, Any]) -> None:
        from pydantic import ValidationError

        from crossdock.storage.registry import backend_types, settings_class

        path = ("endpoints", name)
        known = sorted(backend_types())
        kind = data.get("type")
        if kind is None:
            self._mistake(path, "its type is missing", f"add 'type:' with one of {', '.join(known)}")
            return
        if kind not in known:
            self._mistake((*path, "type"), f"unknown type {kind!r}", _instead(str(kind), known))
            return
        try:
            model = settings_class(kind)
        except ConfigError as error:
            self.unusable[name] = error
            return
        try:
            self.endpoints[name] = model.model_validate(data, context={"folder": self.file.parent})
        except ValidationError as error:
            for item in error.errors(include_url=False, include_input=False):
                self._invalid(path, model, item)
        except ConfigError as error:
            self._mistake(path, error.message, error.hint)

    def _invalid(self, path: tuple[Any, ...], model: type[EndpointSettings], item: ErrorDetails) -> None:
        place = tuple(part for part in item["loc"] if not _is_tag(part))
        key = str(place[-1]) if place else ""
        if item["type"] == "extra_forbidden":
            keys = [field.alias or name for name, field in model.model_fields.items()]
            self._mistake((*path, *place), "unknown key", _instead(key, keys))
        elif item["type"] == "missing":
            self._mistake(path, f"{'.'.join(map(str, place))} is missing", f"add '{key}:'")
        else:
            message = item["msg"].removeprefix("Value error, ")
            hint = None
            if message.startswith("secrets are written by reference"):
                variable = re.sub(r"[^A-Z0-9]", "_", f"{path[-1]}_{key}".upper())
                message = "a secret may not be written into this file"
                hint = f"write '{key}: env:{variable}' and export it, or '{key}: file:PATH' of a file with mode 600"
            elif item["type"] == "string_type":
                hint = "put the value in quotes"
            self._mistake((*path, *place), message[:1].lower() + message[1:], hint)


def _is_tag(part: Any) -> bool:
    """Parts that pydantic adds for the members of a union; no key of ours looks like that."""
    return isinstance(part, str) and ("[" in part or part in ("str", "int", "bool", "float", "path"))


def _instead(wrong: str, known: list[str] | tuple[str, ...]) -> str:
    near = difflib.get_close_matches(wrong, known, 1)
    return f"did you mean '{near[0]}'?" if near else f"write one of {', '.join(sorted(known))}"
