"""Validation that goes on after a mistake: what is wrong is replaced by a stand-in, and the rest is looked at again.

pydantic does not look at what several keys mean together while one of them is wrong, nor can a flow be built from half
of its values. A key that is not known counts as the one that was probably meant.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from crossdock.config.mistakes import (
    MOST,
    UNKNOWN,
    Key,
    Report,
    elsewhere,
    keys_of,
    model_at,
    near,
    place_of,
    written,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["validated"]

_ROUNDS = 12
_SURE = 0.75
"""So much alike two words are, where the value of the one is looked at as that of the other."""
_CANDIDATES: tuple[Any, ...] = ("xx", 60, 8 * 1024**2, {}, [], "env:STAND_IN")
"""Something for every type of value; the first that a field takes."""

Model = typing.TypeVar("Model", bound=BaseModel)


def validated(report: Report, key: Key, model: type[Model], data: dict[Any, Any], folder: Path) -> Model | None:
    """The mapping at `key` as its model, with stand-ins for what is wrong in it, which is reported.

    None if it cannot be mended.
    """
    mending = _Mending(report, key, model, data)
    for _ in range(_ROUNDS):
        try:
            return model.model_validate(mending.data, context={"folder": folder})
        except ValidationError as error:
            if not mending.mend(error):
                return None
    return None


class _Mending:
    def __init__(self, report: Report, key: Key, model: type[BaseModel], data: dict[Any, Any]) -> None:
        self.report, self.key, self.model = report, key, model
        self.data: Any = _copied(data)
        self._tried: dict[Key, int] = {}
        self._removed: set[Key] = set()

    def mend(self, error: ValidationError) -> bool:
        """Report what is new, and change the data; whether anything was changed."""
        found = error.errors(include_url=False)
        for item in found:
            item["loc"] = place_of(self.data, item)
        changed = False
        seen: set[Key] = set()
        # Unknown keys first: one of them may be what another mistake says is missing.
        for item in sorted(found, key=lambda one: one["type"] not in UNKNOWN)[:MOST]:
            place = tuple(item["loc"])
            if self.report.full:
                return False
            if place not in seen:
                seen.add(place)
                self._tell(item, place)
                changed |= self._mend(item, place)
        return changed

    def _tell(self, item: ErrorDetails, place: Key) -> None:
        mentioned = {name for name in self._names(item, place) if (*place, name) in self._removed}
        # Told by now: its key is misspelt.
        misspelt = item["type"] == "missing" and (*self.key, *place) in self.report.renamed
        if not mentioned and not misspelt:
            self.report.invalid(self.key, self.model, item)

    def _names(self, item: ErrorDetails, place: Key) -> set[str]:
        """The keys that a mistake of a whole mapping speaks of."""
        value = _at(self.data, place)
        if item["type"] != "value_error" or not isinstance(value, dict):
            return set()
        hint = getattr(item.get("ctx", {}).get("error"), "hint", None) or ""
        return set(re.findall(r"\w+", f"{item['msg']} {hint}"))

    def _mend(self, item: ErrorDetails, place: Key) -> bool:
        if item["type"] in UNKNOWN:
            self._rename(place)
            return True
        if item["type"] == "missing" and place[-1] in _at(self.data, place[:-1]):
            return True
        names = self._names(item, place)
        value = _at(self.data, place)
        optional = [name for name in names if isinstance(value, dict) and name in value and self._optional(place, name)]
        for name in optional:
            del value[name]
            self._removed.add((*place, name))
        if optional:
            return True
        while place:
            if self._stand_in(place):
                return True
            place = place[:-1]
        return False

    def _rename(self, place: Key) -> None:
        mapping = _at(self.data, place[:-1])
        value = mapping.pop(place[-1])
        if elsewhere(self.model, place) is not None:
            return
        inner = model_at(self.model, place[:-1])
        known = keys_of(inner) if inner is not None and isinstance(place[-1], str) else []
        meant = near(str(place[-1]), known, _SURE)
        if meant is not None and meant not in mapping:
            mapping[meant] = value
            self.report.renamed[(*self.key, *place[:-1], meant)] = place[-1]

    def _optional(self, place: Key, name: str) -> bool:
        return any(field is not None and not field.is_required() for _, field in _types(self.model, (*place, name)))

    def _stand_in(self, place: Key) -> bool:
        """Put something that will do at a place, or else nothing; False if neither is possible."""
        stage = self._tried.get(place, 0)
        self._tried[place] = stage + 1
        *above, last = written(self.data, place) or place
        holder = _at(self.data, tuple(above))
        self.report.stand_in((*self.key, *place))
        if stage == 0:
            for kind, field in _types(self.model, place):
                for candidate in _candidates(kind, field):
                    try:
                        holder[last] = _copied(candidate)
                    except (IndexError, TypeError):
                        return False
                    return True
        if stage <= 1 and isinstance(holder, dict) and last in holder and self._optional(tuple(place[:-1]), place[-1]):
            del holder[last]
            self._removed.add(place)
            return True
        return False


def _candidates(kind: Any, field: FieldInfo | None) -> Iterator[Any]:
    if _is_model(kind):
        # What is missing in it is mended in the next round.
        yield {}
        return
    if field is not None and field.examples:
        yield field.examples[0]
        return
    yield from _that_will_do(kind, () if field is None else tuple(field.metadata))


@lru_cache(maxsize=1024)
def _that_will_do(kind: Any, metadata: tuple[Any, ...]) -> tuple[Any, ...]:
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[(kind, *metadata)] if metadata else kind)
    found = []
    for candidate in _CANDIDATES:
        with suppress(ValidationError):
            adapter.validate_python(candidate)
            found.append(candidate)
    return tuple(found)


def _types(annotation: Any, place: Key, field: FieldInfo | None = None) -> Iterator[tuple[Any, FieldInfo | None]]:
    """What may stand at a place below `annotation`; with the field, if it is one of a model."""
    if not place:
        yield annotation, field
        return
    first, rest = place[0], place[1:]
    if _is_model(annotation):
        for name, inner in annotation.model_fields.items():
            if first == (inner.alias or name):
                yield from _types(inner.annotation, rest, inner)
        return
    arguments = typing.get_args(annotation)
    kind = typing.get_origin(annotation)
    if kind in (tuple, list, frozenset):
        if isinstance(first, int) and arguments:
            yield from _types(arguments[0], rest)
    elif kind is dict:
        yield from _types(arguments[1], rest)
    else:
        for argument in arguments:
            yield from _types(argument, place, field)


def _is_model(kind: Any) -> typing.TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _at(data: Any, place: Key) -> Any:
    for part in written(data, place):
        data = data[part] if isinstance(data, (dict, list)) and part in _keys(data) else None
    return data


def _keys(data: dict[Any, Any] | list[Any]) -> Any:
    return data if isinstance(data, dict) else range(len(data))


def _copied(data: Any) -> Any:
    """Mappings and lists of its own; what is in them is shared. Keys are text: a 0 would look like an item's place."""
    if isinstance(data, dict):
        return {str(name): _copied(value) for name, value in data.items()}
    return [_copied(value) for value in data] if isinstance(data, list) else data
