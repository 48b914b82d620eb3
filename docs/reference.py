"""Writes docs/reference.md from the settings models and the commands themselves: `make docs`."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from crossdock.cli import exits
from crossdock.cli.table import COMMANDS
from crossdock.config.models import FlowModel
from crossdock.config.schema import docstrings, models_of
from crossdock.storage.registry import settings_class

PAGE = Path(__file__).with_name("reference.md")
TYPES = ("sftp", "ftpes", "s3", "netstorage", "local", "memory")
_TIMES = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_READ_BY = {"_seconds": "duration", "_bytes": "size", "_path": "path", "_time": "time of day", "_days": "days"}
_SEVERAL = ("_several", "several")
_GLOBAL = ("config", "verbose", "quiet")
_PLAIN = {"str": "text", "int": "number", "float": "number", "bool": "true or false", "Path": "path"}

HEAD = """# Reference

This page is written by `make docs` from the code; do not edit it.

- A *duration* is `500ms`, `30s`, `5m`, `2h` or `1d`; a bare number is seconds.
- A *size* is a number of bytes, or has K, M, G or T after it (powers of 1024): `64M`.
- A *secret* is a reference: `env:NAME` is an environment variable, `file:PATH` a file that only its owner may read;
  `secret://aws-sm/NAME#FIELD` and `ssm://NAME` are kept by AWS (see [Secrets](guide.md#secrets)).
- A relative *path* starts at the folder of the configuration file, or, if that is a pipe such as `<(sops -d …)`,
  at the working folder; `file:` before it is optional.

Every command takes `--config FILE` (else `$CROSSDOCK_CONFIG`, else `crossdock.yaml` in the working folder),
`-v` (log to stderr; `-vv` logs every operation and shows tracebacks) and `-q` (no progress, no summary).
"""

FLOWS = """
## Flows

Below `flows:` each flow stands under its name; the [guide](flows.md) has whole ones.
*One or a list* means that one value need not be put into a list.
`ledger:`, beside `endpoints:` and `flows:`, is the file of the ledger (default: `crossdock.db` beside the file),
or `postgresql://user@host/database?password=env:NAME`.
`crossdock schema` writes all this as a JSON Schema, for editors.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD, "\n## Commands\n", *(_command(name) for name in COMMANDS), _exit_codes(), "\n## Endpoint settings\n"]
    parts += [_settings(kind) for kind in TYPES]
    parts += [FLOWS, *_flows()]
    return "".join(parts)


def _command(name: str) -> str:
    module, _, attribute = COMMANDS[name][0].partition(":")
    command: click.Command = getattr(importlib.import_module(module), attribute)
    return _described(command, name, "###")


def _described(command: click.Command, name: str, level: str) -> str:
    """A command; below a group, those of it."""
    context = click.Context(command, info_name=f"crossdock {name}")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    text = inspect.cleandoc(command.help or "")
    found = f"\n{level} {name}\n\n`{usage}`\n\n{text}\n"
    lines: list[str] = []
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name not in _GLOBAL:
            row = parameter.get_help_record(context)
            if row is not None:
                lines.append(f"| `{row[0]}` | {_cell(row[1])} |\n")
    if lines:
        found += "\n| option | what it does |\n|---|---|\n" + "".join(lines)
    if isinstance(command, click.Group):
        found += "".join(_described(each, f"{name} {part}", f"{level}#") for part, each in command.commands.items())
    return found


def _exit_codes() -> str:
    rows = "".join(f"| {code} | {meaning} |\n" for code, meaning in exits.CODES.items())
    return f"\n## Exit codes\n\n| code | meaning |\n|---|---|\n{rows}"


def _settings(kind: str) -> str:
    model = settings_class(kind)
    texts = docstrings(model)
    intro = inspect.cleandoc(model.__doc__ or "")
    url = inspect.cleandoc(model.from_url.__doc__ or "")
    names = ", ".join(typing.get_args(model.model_fields["type"].annotation)) or kind
    lines = [f"\n### type: {names}\n\n{intro}\n"]
    if url:
        lines.append(f"\nAs a URL: {url}\n")
    lines.append("\n| key | what | default | meaning |\n|---|---|---|---|\n")
    for name, field in model.model_fields.items():
        if name != "type":
            what = _cell(_what(field.annotation, field.metadata))
            lines.append(f"| `{name}` | {what} | {_default(field, what)} | {_cell(texts.get(name, ''))} |\n")
    return "".join(lines)


def _flows() -> Iterator[str]:
    """A section for each model of a flow, under the key at which it stands."""
    yield from _model("a flow", FlowModel)
    waiting: list[type[BaseModel]] = [FlowModel]
    while waiting:
        for name, field in waiting.pop(0).model_fields.items():
            for model in list(models_of(field.annotation))[:1]:
                yield from _model(field.alias or name, model)
                waiting.append(model)


def _model(key: str, model: type[BaseModel]) -> Iterator[str]:
    texts = docstrings(model)
    yield f"\n### {key}\n\n{inspect.cleandoc(model.__doc__ or '')}\n\n"
    yield "| key | what | default | meaning |\n|---|---|---|---|\n"
    for name, field in model.model_fields.items():
        key = field.alias or name
        inner = next(models_of(field.annotation), None)
        what = _cell(_what(field.annotation, field.metadata))
        if inner is not None:
            several = _is_several(field.metadata)
            link = f"[{key}](#{key})"
            what = f"one or a list: {link}" if several else f"a list of {link}" if "list" in what else link
        text = texts.get(name) or (inspect.cleandoc(inner.__doc__ or "").partition("\n\n")[0] if inner else "")
        yield f"| `{key}` | {what} | {_default(field, what)} | {_cell(text)} |\n"


def _is_several(metadata: Any) -> bool:
    return any(getattr(getattr(item, "func", None), "__name__", "") in _SEVERAL for item in metadata)


def _what(annotation: Any, metadata: Any = ()) -> str:
    """The kind of value, in words."""
    readers = [_READ_BY.get(getattr(getattr(item, "func", None), "__name__", ""), "") for item in metadata]
    word = next((reader for reader in readers if reader), "")
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        inner, *more = typing.get_args(annotation)
        return _what(inner, [*metadata, *more])
    if word:
        return word
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in typing.get_args(annotation))
    if origin in (typing.Union, UnionType):
        return " or ".join(_what(one) for one in typing.get_args(annotation) if one is not NoneType)
    if origin is tuple:
        return f"one or a list: {_what(typing.get_args(annotation)[0])}" if _is_several(metadata) else "a list"
    if origin is dict:
        return "a mapping"
    name = getattr(annotation, "__name__", str(annotation))
    return _PLAIN.get(name, name.lower())


def _default(field: FieldInfo, what: str) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "(required)"
    if value is None or value in ("", (), {}) or isinstance(value, frozenset):
        return ""
    if isinstance(value, tuple):
        return ", ".join(f"`{one}`" for one in value)
    if what == "size" and value:
        unit = next(unit for unit in ("G", "M", "K", "") if value % _UNITS[unit] == 0)
        return f"`{value // _UNITS[unit]}{unit}`"
    if what == "duration":
        unit = next((unit for unit, seconds in _TIMES.items() if value and value % seconds == 0), "s")
        return f"`{value / _TIMES[unit]:g}{unit}`"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
