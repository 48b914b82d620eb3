"""What is wrong with the user's file, collected: each mistake with its line, its key and what to write instead."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from crossdock.config.values import Wrong
from crossdock.errors import ConfigError, shown
from crossdock.pages import page
from crossdock.storage.secret import is_reference

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from crossdock.documents import Document

__all__ = [
    "MOST",
    "UNKNOWN",
    "Key",
    "Report",
    "brief",
    "elsewhere",
    "instead",
    "keys_of",
    "model_at",
    "near",
    "place_of",
    "written",
]

Key = tuple[Any, ...]
"""The keys and indexes that lead to a value of the file."""
MOST = 500
"""Mistakes that are told of one file."""
UNKNOWN = ("extra_forbidden", "invalid_key")
_BRIEF = 60
_UNION = ("str", "int", "bool", "float", "path")
_EXAMPLES = {
    "trigger": "{every: 5m}",
    "settle": "{for: 30s}",
    "after": "{archive: .done}",
    "retry": "{attempts: 5}",
    "notify": "{mail: {to: …, from: …, host: …}}",
    "expect": '{match: "*.csv", by: "06:30"}',
}
"""Of keys that take a mapping, and to which a single value is often given."""
_OTHERS = {
    **dict.fromkeys(("path", "prefix", "folder", "directory", "dir"), "root"),
    **dict.fromkeys(("key", "key_file", "keyfile", "identity_file", "ssh_key"), "private_key"),
    **dict.fromkeys(("server", "address"), "host"),
    **dict.fromkeys(("login", "account"), "user"),
    "user": "key_name",
    **dict.fromkeys(("destination", "destinations", "dest", "target", "targets"), "to"),
    **dict.fromkeys(("schedule", "when"), "trigger"),
    **dict.fromkeys(("file", "disk"), "local"),
    **dict.fromkeys(("ssh", "scp"), "sftp"),
    "from": "source",
    "minio": "s3",
    "interval": "every",
}
"""What other programs call it → what it is called here."""


class Report:
    """The mistakes found so far in one file, and what is only advisable to change.

    What is found late must not be blamed on what was found early. So the report knows which values are not the user's
    own: a value that could not be read is replaced by a stand-in, so that the rest can be looked at. Nothing is
    reported about a stand-in.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.mistakes: list[ConfigError] = list(document.mistakes)
        self.warnings: list[ConfigError] = []
        self.renamed: dict[Key, Any] = {}
        """A key as it should have been written → its last part as it stands in the file."""
        self.rules: dict[str, tuple[Key, ...]] = {}
        """Flow → where each of its rules stands."""
        self._stand_ins: set[Key] = set()
        self._unsure: set[Key] = set()
        self._mistaken: set[Key] = set()
        """The keys of mistakes, and all above them."""
        self._told: set[tuple[int | None, str, str]] = set()

    def mistake(self, key: Key, message: str, hint: str | None) -> None:
        if self.full or self._among(key, self._stand_ins):
            return
        self._mistaken.update(key[:length] for length in range(len(key) + 1))
        error = self.error(key, message, hint)
        if (told := (error.line, error.key, message)) not in self._told:
            self._told.add(told)
            self.mistakes.append(error)

    @property
    def full(self) -> bool:
        """There are so many mistakes that nobody wants to know of another."""
        return len(self.mistakes) >= MOST

    def warning(self, key: Key, message: str, hint: str | None) -> None:
        if not self._among(key, self._stand_ins):
            self.warnings.append(self.error(key, message, hint))

    def stand_in(self, key: Key) -> None:
        """From now on the value of a key is not the user's."""
        self._stand_ins.add(key)

    def unsure(self, key: Key) -> None:
        """What is below a key may be meant otherwise, and is no reason to find something else wrong."""
        self._unsure.add(key)

    def sound(self, key: Key, *, below: bool = True) -> bool:
        """The value of a key is the user's, and nothing is wrong with it (`below`: nor with a part of it)."""
        elsewhere = self._among(key, self._stand_ins) or self._among(key, self._unsure)
        return not elsewhere and not (below and key in self._mistaken)

    @staticmethod
    def _among(key: Key, keys: set[Key]) -> bool:
        return bool(keys) and any(key[:length] in keys for length in range(len(key) + 1))

    def value(self, key: Key) -> Any:
        """What stands in the file at a key; None without it."""
        found, as_written = self.document.data, self._as_written(key)
        for part in as_written:
            if not isinstance(found, dict) or part not in found:
                return None
            found = found[part]
        return found

    def error(self, key: Key, message: str, hint: str | None) -> ConfigError:
        key = written(self.document.data, self._as_written(key))
        name = shown(".".join(str(part) for part in key))
        return ConfigError(message, file=self.document.file, line=self.document.line(key), key=name, hint=hint)

    def _as_written(self, key: Key) -> Key:
        return tuple(self.renamed.get(key[: at + 1], part) for at, part in enumerate(key)) if self.renamed else key

    def invalid(self, key: Key, model: type[BaseModel], item: ErrorDetails) -> None:
        """What pydantic found below `key`, in our words."""
        place = tuple(item["loc"])
        name = str(place[-1]) if place else ""
        kind, context = item["type"], item.get("ctx", {})
        if kind in UNKNOWN:
            keys = keys_of(model_at(model, place[:-1]) or model)
            remedy = elsewhere(model, place) or _unwrapped(name, item["input"], keys) or instead(name, keys)
            self.mistake((*key, *place), "unknown key", remedy)
            return
        if kind == "missing":
            self.mistake((*key, *place[:-1]), f"{name} is missing", f"add '{name}:'")
            return
        error = context.get("error")
        if isinstance(error, Wrong):
            for one in error.all:
                self.mistake((*key, *place), _small(str(one)), one.hint)
            return
        message, hint = item["msg"].removeprefix("Value error, "), None
        if message.startswith("secrets are written by reference"):
            # Of a list of them, the list's key.
            name = next((part for part in reversed(place) if isinstance(part, str)), name)
            variable = re.sub(r"[^A-Z0-9]", "_", f"{key[-1]}_{name}".upper())
            if isinstance(item["input"], str) and is_reference(item["input"]):
                message, hint = "names no secret", f"write {message.partition(': ')[2]}"
            else:
                message = "a secret may not be written into this file"
                hint = f"write '{name}: env:{variable}' and export it, or '{name}: file:PATH' of a file with mode 600"
        elif kind in ("model_type", "dict_type", "model_attributes_type"):
            mapping = model_at(model, place)
            keys = keys_of(mapping) if mapping else []
            message = "must be a mapping"
            hint = f"write keys below it: {', '.join(keys)}" if keys else "write 'key: value' pairs below it"
            if name in _EXAMPLES:
                hint = f"write {name}: {_EXAMPLES[name]}; its keys are {', '.join(keys)}"
        elif kind in ("tuple_type", "list_type"):
            message, hint = "must be a list", "write each item on a line of its own, after '- '"
        elif kind == "path_type":
            message = "not a path"
            hint = "write a path, in quotes" + (' ("~" is the home folder)' if item["input"] is None else "")
        elif kind == "string_type":
            hint = "put the value in quotes"
            if isinstance(item["input"], bool):
                hint = "write a text, not true or false"
            elif isinstance(item["input"], (dict, list)) or item["input"] is None:
                hint = "write one text here" if item["input"] is not None else "write a text, or remove the key"
                if isinstance(item["input"], dict) and list(item["input"].values()) == [None]:
                    # As YAML reads [lake:, staging:].
                    (name,) = item["input"]
                    hint = f"put it in quotes, for its colon: {brief(f'{name}:')}"
        elif kind == "literal_error":
            found, known = item["input"], re.findall(r"'([^']*)'", context["expected"])
            message, hint = f"unknown value {brief(found)}", instead(str(found)[:_BRIEF], known)
        elif kind.startswith("bool_"):
            message, hint = "neither true nor false", "write true or false"
        elif message.startswith("write "):
            message, hint = "cannot be read", message
        elif needed := re.fullmatch(r"(\w+) needs (\S.*)", message):
            hint = f"add {needed[2]}, or remove {needed[1]}"
        elif "; " in message:
            message, _, hint = message.partition("; ")
        self.mistake((*key, *place), _small(message), hint or _remedy(kind, context, name))


def _small(text: str) -> str:
    return text[:1].lower() + text[1:]


def _remedy(kind: str, context: Mapping[str, Any], name: str) -> str:
    """What to write where pydantic only says what it should have been."""
    for bound, words in (("ge", "{} or more"), ("gt", "more than {}"), ("le", "{} or less"), ("lt", "less than {}")):
        if bound in context:
            number = context[bound]
            return f"write {words.format(int(number) if number == int(number) else number)}"
    if kind.startswith(("int_", "float_", "finite_")):
        return "write a whole number" if kind.startswith("int_") else "write a number"
    if kind == "string_too_short":
        return "write something, or remove the key"
    return f"see '{name}' in the reference: {page('reference.md')}" if name else f"see {page('reference.md')}"


def brief(value: object) -> str:
    """A value of the file as a message shows it."""
    found = repr(value if not isinstance(value, str) else value[: _BRIEF + 1])
    return found if len(found) <= _BRIEF else f"{found[:_BRIEF]}…"


def place_of(data: Any, item: ErrorDetails) -> Key:
    """Where in `data` an error of pydantic is: without the parts that it adds for the members of a union."""
    found: list[Any] = []
    for at, part in enumerate(item["loc"]):
        there = isinstance(data, dict) and part in data
        added = isinstance(part, str) and ("[" in part or part in _UNION)
        if added and not there and not (item["type"] == "missing" and at == len(item["loc"]) - 1):
            continue
        found.append(part)
        if not isinstance(part, int) or isinstance(data, list) or there:
            try:
                data = data[part]
            except (KeyError, IndexError, TypeError):
                data = None
    return tuple(found)


def written(data: Any, key: Key) -> Key:
    """The part of a key that stands in the file: a value that stands for a list of one has no index there."""
    found: list[Any] = []
    for part in key:
        if isinstance(part, int) and not isinstance(data, list) and not (isinstance(data, dict) and part in data):
            continue
        if found and not isinstance(data, (dict, list)):
            break
        found.append(part)
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            break
    return tuple(found)


def model_at(annotation: Any, place: Key) -> type[BaseModel] | None:
    """The model that describes the value at a place below `annotation`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not place:
            return annotation
        for name, field in annotation.model_fields.items():
            if place[0] == (field.alias or name):
                return model_at(field.annotation, place[1:])
        return None
    inner = [model_at(part, place) for part in typing.get_args(annotation)]
    if place and isinstance(place[0], int):
        inner += [model_at(part, place[1:]) for part in typing.get_args(annotation)]
    return next((model for model in inner if model is not None), None)


def keys_of(model: type[BaseModel]) -> list[str]:
    """What may be written in a mapping."""
    return [field.alias or name for name, field in model.model_fields.items()]


def elsewhere(model: type[BaseModel], place: Key) -> str | None:
    """What to do with a key that is unknown at its place, if it is one of a mapping there, or of the one above."""
    name = _OTHERS.get(str(place[-1]).lower(), str(place[-1]).lower())
    here = model_at(model, place[:-1]) or model
    if name in keys_of(here):
        return None
    below = [key for key in keys_of(here) if (inner := model_at(here, (key,))) is not None and name in keys_of(inner)]
    if below:
        return f"write '{name}' below {' or '.join(below)}"
    if len([part for part in place if isinstance(part, str)]) == 2 and name in keys_of(model):
        return f"write '{name}' beside {place[0]}, not below it"
    return None


def _unwrapped(name: str, value: object, known: list[str]) -> str | None:
    """What to do with an unknown mapping around keys that would be known without it."""
    if not isinstance(value, dict) or not value or not all(key in known for key in value):
        return None
    return f"write {' and '.join(f'{key!r}' for key in value)} here, without {name!r} around it"


def near(wrong: str, known: Iterable[str], alike: float = 0.6) -> str | None:
    """The known word that was probably meant; spelt so much alike (of 1), or called so elsewhere."""
    known = list(known)
    folded = {word.lower(): word for word in known}
    for meant in (wrong.lower(), _OTHERS.get(wrong.lower())):
        if meant in folded:
            return folded[meant]
    found = difflib.get_close_matches(wrong[:_BRIEF], known, 1, alike)
    return found[0] if found else None


def instead(wrong: str, known: Iterable[str]) -> str:
    """What to write in place of a word that is none of the known ones."""
    known = list(known)
    meant = near(wrong, known)
    return f"did you mean '{meant}'?" if meant else f"write one of {', '.join(sorted(known))}"
