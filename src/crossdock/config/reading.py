"""The user's file → `Config`.

The file is YAML (1.2's plain rules: `no` is a word, `022` is 22), JSON or TOML. Every mistake in it is reported at
once, each with file, line, key and what to write instead. Secrets come by reference only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from crossdock.config.config import DEFAULT_FILE, NAME, VARIABLE, Config, Mistakes
from crossdock.errors import ConfigError, shown

if TYPE_CHECKING:
    from crossdock.documents import Document
    from crossdock.flows.flow import Flow
    from crossdock.storage.settings import EndpointSettings

__all__ = ["load"]

LARGEST = 1024**2
"""Bytes of a file; larger ones are refused before they are looked at."""
_KEYS = ("endpoints", "flows", "ledger")
_NAME = re.compile(NAME)
_NAMELESS = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")
"""The surrogates between stand for bytes of names that are not UTF-8."""


def load(explicit: Path | str | None = None) -> Config:
    """The configuration: `explicit`, else $CROSSDOCK_CONFIG, else crossdock.yaml in the working folder.

    The last may be absent. Raises `Mistakes` with everything that is wrong in the file.
    """
    written = explicit or os.environ.get(VARIABLE)
    named = Path(written) if written else None
    file = named or Path(DEFAULT_FILE)
    try:
        with file.open("rb") as opened:
            raw = opened.read(LARGEST + 1)
            piped = not S_ISREG(os.fstat(opened.fileno()).st_mode)
    except FileNotFoundError:
        if file.is_symlink():
            message = f"is a link to {shown(str(file.readlink()))}, which is not there"
            raise ConfigError(message, file=str(file), hint="put that file there, or mend the link") from None
        if named is None:
            return Config()
        raise ConfigError("there is no such file", file=str(file), hint="check --config and CROSSDOCK_CONFIG") from None
    except OSError as error:
        hint = "name the file in it" if isinstance(error, IsADirectoryError) else "let this account read it"
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(file), hint=hint) from error
    if len(raw) > LARGEST:
        hint = "write settings into it, not data; or make several files, each with its flows"
        raise ConfigError(f"larger than {LARGEST >> 20} MiB", file=str(file), hint=hint)
    from crossdock.documents import parse

    document = parse(raw, str(file))
    # What comes out of a pipe, as of `<(sops -d …)`, lies in no folder.
    return _Reading(document, Path(file.name).absolute() if piped else file.resolve()).config()


def _nameless(data: Any, key: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Where text stands that has a character which no name can have, and that character."""
    if isinstance(data, str):
        if found := _NAMELESS.search(data):
            yield key, found[0]
    elif isinstance(data, (dict, list)):
        for name, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _nameless(value, (*key, name))
            if isinstance(name, str) and (found := _NAMELESS.search(name)):
                yield (*key, name), found[0]


def _named(data: Any) -> Any:
    """The data without such characters."""
    if isinstance(data, str):
        return _NAMELESS.sub("", data)
    if isinstance(data, dict):
        return {_named(name): _named(value) for name, value in data.items()}
    return [_named(value) for value in data] if isinstance(data, list) else data


class _Reading:
    """One pass over a parsed file, collecting mistakes."""

    def __init__(self, document: Document, file: Path) -> None:
        from crossdock.config.mistakes import Report

        self.document, self.file = document, file
        self.report = Report(document)
        self.endpoints: dict[str, EndpointSettings] = {}
        self.types: dict[str, str | None] = {}
        """Of every endpoint that is named, the wrong ones included, so that flows are not blamed for them."""
        self.flows: dict[str, Flow] = {}

    def config(self) -> Config:
        data = self.document.data
        ledger: str | None = None
        if data is None:
            data = {}
        nameless = list(_nameless(data, ()))
        for key, letter in nameless:
            what = "a NUL character" if letter == "\0" else "half a character, a lone surrogate"
            self.report.mistake(key, f"{what}, which no name can have", "remove it")
            self.report.stand_in(key)
        if nameless:
            data = _named(data)
        if isinstance(data, dict):
            data = self._sections(data)
            self._endpoints(data.get("endpoints"))
            if data.get("ledger") is not None:
                from crossdock.config.ledgers import read

                ledger = read(data["ledger"], self.report, self.file.parent)
            if data.get("flows") is not None:
                from crossdock.config.own_files import check_own

                self._flows(data["flows"])
                if not self.report.full:
                    check_own(self.report, self.flows, self.endpoints, self.file, ledger)
        else:
            self.report.mistake((), "the file must be a mapping", "start it with 'endpoints:'")
        warnings = tuple(self.report.warnings)
        found = Config(self.file, self.endpoints, self.flows, ledger, warnings, self.report)
        if self.report.mistakes:
            raise Mistakes(self.document.file, self._sorted(), readable=found)
        return found

    def _sorted(self) -> list[ConfigError]:
        from crossdock.config.mistakes import MOST

        found = sorted(self.report.mistakes, key=lambda mistake: mistake.line or 0)
        if len(found) >= MOST:
            message = f"more than {MOST} mistakes; the rest is not told"
            found.append(ConfigError(message, file=self.document.file, hint="mend these first"))
        return found

    def _sections(self, data: dict[Any, Any]) -> dict[Any, Any]:
        """The top of the file; a key that is not known counts as the one that was meant."""
        from crossdock.config.mistakes import instead, near

        found = {key: data[key] for key in _KEYS if key in data}
        for key in data:
            if key not in _KEYS and not self.report.full:
                self.report.mistake((key,), "unknown key", instead(str(key), _KEYS))
                meant = near(str(key), _KEYS)
                if meant is not None and meant not in found:
                    found[meant] = data[key]
                    self.report.renamed[(meant,)] = key
        return found

    def _flows(self, found: Any) -> None:
        from crossdock.config.building import Builder
        from crossdock.config.checks import check_flow
        from crossdock.config.cross_flow import check_across

        if not isinstance(found, dict):
            self.report.mistake(("flows",), "must be a mapping of names to flows", "write 'name: {source: …}' below it")
            return
        builder = Builder(self.report, self.types, self.file.parent)
        for name, data in found.items():
            if self.report.full:
                return
            key = ("flows", name)
            self._name(key, "a flow")
            if not isinstance(data, dict):
                self.report.mistake(key, "must be a mapping", "write {source: name:folder, to: name:}")
                continue
            flow = builder.build(name, data)
            if flow is not None:
                self.flows[name] = flow
        for flow in self.flows.values():
            check_flow(self.report, flow)
        if not self.report.full:
            check_across(self.report, self.flows, self.endpoints)

    def _name(self, key: tuple[str, Any], of: str) -> None:
        name = key[1]
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            hint = "use letters, digits, '-', '_' and '.'" if isinstance(name, str) else "put it in quotes"
            self.report.mistake(key, f"not a name for {of}", hint)

    def _endpoints(self, found: Any) -> None:
        if found is None:
            return
        if not isinstance(found, dict):
            hint = "write 'name: {type: …}' below it"
            self.report.mistake(("endpoints",), "must be a mapping of names to settings", hint)
            return
        for name, data in found.items():
            if self.report.full:
                self.types.setdefault(name, None)
                continue
            key = ("endpoints", name)
            self._name(key, "an endpoint")
            name = str(name)
            if not isinstance(data, dict):
                self.types[name] = None
                self.report.mistake(key, "must be a mapping of settings", "write {type: sftp, host: …}")
            else:
                self._endpoint(name, data)

    def _endpoint(self, name: str, data: dict[Any, Any]) -> None:
        from crossdock.config.mistakes import brief, instead, near
        from crossdock.config.pins import check_pins
        from crossdock.config.validation import validated
        from crossdock.storage.registry import backend_types, is_type, settings_class

        key = ("endpoints", name)
        kind = data.get("type")
        self.types[name] = kind if is_type(kind) else None
        if not is_type(kind):
            known = sorted(backend_types())
            if kind is None:
                self.report.mistake(key, "its type is missing", f"add 'type:' with one of {', '.join(known)}")
                return
            self.report.mistake((*key, "type"), f"unknown type {brief(kind)}", instead(str(kind), known))
            kind = near(str(kind), known)
            if kind is None:
                return
            self.report.stand_in((*key, "type"))
            data = {**data, "type": kind}
        settings = validated(self.report, key, settings_class(kind), data, self.file.parent)
        if settings is not None:
            self.endpoints[name] = settings
            check_pins(self.report, key, settings)
