"""What is wrong with the user's file, collected: each mistake with its line, its key and what to write instead."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from crossdock.errors import ConfigError, shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from crossdock.documents import Document

__all__ = ["Key", "Report", "instead"]

Key = tuple[Any, ...]
"""The keys and indexes that lead to a value of the file."""


class Report:
    """The mistakes found so far in one file, and what is only advisable to change."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.mistakes: list[ConfigError] = list(document.mistakes)
        self.warnings: list[ConfigError] = []

    def mistake(self, key: Key, message: str, hint: str | None) -> None:
        self.mistakes.append(self.error(key, message, hint))

    def warning(self, key: Key, message: str, hint: str | None) -> None:
        self.warnings.append(self.error(key, message, hint))

    def error(self, key: Key, message: str, hint: str | None) -> ConfigError:
        key = written(self.document.data, key)
        name = shown(".".join(str(part) for part in key))
        return ConfigError(message, file=self.document.file, line=self.document.line(key), key=name, hint=hint)

    def invalid(self, key: Key, model: type[BaseModel], errors: Iterable[ErrorDetails]) -> None:
        """What pydantic found below `key`, in our words."""
        for item in errors:
            self._invalid(key, model, item)

    def _invalid(self, key: Key, model: type[BaseModel], item: ErrorDetails) -> None:
        place = tuple(part for part in item["loc"] if not _is_tag(part))
        name = str(place[-1]) if place else ""
        kind, context = item["type"], item.get("ctx", {})
        if kind == "extra_forbidden":
            inner = _model_at(model, place[:-1]) or model
            self.mistake((*key, *place), "unknown key", instead(name, _keys(inner)))
            return
        if kind == "missing":
            self.mistake((*key, *place[:-1]), f"{name} is missing", f"add '{name}:'")
            return
        message, hint = item["msg"].removeprefix("Value error, "), getattr(context.get("error"), "hint", None)
        if message.startswith("secrets are written by reference"):
            variable = re.sub(r"[^A-Z0-9]", "_", f"{key[-1]}_{name}".upper())
            message = "a secret may not be written into this file"
            hint = f"write '{name}: env:{variable}' and export it, or '{name}: file:PATH' of a file with mode 600"
        elif kind in ("model_type", "dict_type", "model_attributes_type"):
            mapping = _model_at(model, place)
            keys = _keys(mapping) if mapping else []
            message = "must be a mapping"
            hint = f"write keys below it: {', '.join(keys)}" if keys else "write 'key: value' pairs below it"
        elif kind in ("tuple_type", "list_type"):
            message, hint = "must be a list", "write each item on a line of its own, after '- '"
        elif kind == "string_type":
            hint = "put the value in quotes"
        elif kind == "literal_error":
            found = _at(self.document.data, (*key, *place))
            known = re.findall(r"'([^']*)'", context["expected"])
            message, hint = f"unknown value {found!r}", instead(str(found), known)
        elif kind.startswith("bool_"):
            message, hint = "neither true nor false", "write true or false"
        elif hint is None and message.startswith("write "):
            message, hint = "cannot be read", message
        self.mistake((*key, *place), message[:1].lower() + message[1:], hint)


def written(data: Any, key: Key) -> Key:
    """The part of a key that stands in the file: a value that stands for a list of one has no index there."""
    found: list[Any] = []
    for part in key:
        if isinstance(part, int) and not isinstance(data, list):
            continue
        if found and not isinstance(data, (dict, list)):
            break
        found.append(part)
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            break
    return tuple(found)


def _at(data: Any, key: Key) -> Any:
    for part in written(data, key):
        data = data[part]
    return data


def _is_tag(part: Any) -> bool:
    """Parts that pydantic adds for the members of a union; no key of ours looks like that."""
    return isinstance(part, str) and ("[" in part or part in ("str", "int", "bool", "float", "path"))


def _model_at(annotation: Any, place: Key) -> type[BaseModel] | None:
    """The model that describes the value at a place below `annotation`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not place:
            return annotation
        for name, field in annotation.model_fields.items():
            if place[0] == (field.alias or name):
                return _model_at(field.annotation, place[1:])
        return None
    inner = [_model_at(part, place) for part in typing.get_args(annotation)]
    if place and isinstance(place[0], int):
        inner += [_model_at(part, place[1:]) for part in typing.get_args(annotation)]
    return next((model for model in inner if model is not None), None)


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def instead(wrong: str, known: Iterable[str]) -> str:
    """What to write in place of a word that is none of the known ones."""
    known = list(known)
    near = difflib.get_close_matches(wrong, known, 1)
    return f"did you mean '{near[0]}'?" if near else f"write one of {', '.join(sorted(known))}"
