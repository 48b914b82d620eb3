"""The JSON Schema of the user's file (draft 2020-12), for editors and other programs."""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from crossdock.config.config import NAME
from crossdock.config.models import FlowModel
from crossdock.storage.registry import backend_types, settings_class

__all__ = ["docstrings", "models_of", "schema"]

_REFERENCE = "#/$defs/{model}"
_DURATION = r"^\s*\d+(\.\d+)?\s*(ms|s|m|h|d)?\s*$"
_SIZE = r"^\s*\d+(\.\d+)?\s*[KMGTkmgt]?[Ii]?[Bb]?\s*$"

_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def schema() -> dict[str, Any]:
    """Of the whole file, with the endpoint types that are installed."""
    definitions: dict[str, Any] = {}
    kinds = sorted(backend_types())
    choices = []
    for kind in kinds:
        settings = _reference(settings_class(kind), definitions)
        choices.append({"if": {"properties": {"type": {"const": kind}}}, "then": settings})
    endpoint = {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"enum": kinds, "description": "What the endpoint speaks."}},
        "allOf": choices,
    }
    names = {"pattern": f"^{NAME}$"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "crossdock.yaml",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "endpoints": {
                "description": "Places, by the names that locations use: `name:path`.",
                "type": ["object", "null"],
                "propertyNames": names,
                "additionalProperties": endpoint,
            },
            "flows": {
                "description": "Which files of one place go where, when, and what follows.",
                "type": ["object", "null"],
                "propertyNames": names,
                "additionalProperties": _reference(FlowModel, definitions),
            },
            "ledger": {
                "description": "A file (SQLite), or postgresql://user@host/database?password=env:NAME. Default: "
                "crossdock.db beside this file.",
                "type": ["string", "null"],
            },
        },
        "$defs": definitions,
    }


def _reference(model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, str]:
    """Adds a model and those that it is made of to the definitions."""
    found = _tidy(model.model_json_schema(schema_generator=_Generator, ref_template=_REFERENCE))
    definitions.update(found.pop("$defs", {}))
    definitions[model.__name__] = found
    for one in models_of(model):
        texts = docstrings(one)
        for name, field in one.model_fields.items():
            place = definitions[one.__name__]["properties"].get(field.alias or name)
            if place is not None and name in texts:
                place["description"] = " ".join(texts[name].split())
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def _tidy(value: Any) -> Any:
    """Choices in one list, bounds where they belong: at the number."""
    if isinstance(value, list):
        return [_tidy(one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {key: _tidy(one) for key, one in value.items() if (key, one) != ("default", None)}
    choices: list[Any] = []
    for choice in found.get("anyOf", ()):
        choices += choice["anyOf"] if choice.keys() == {"anyOf"} else [choice]
    bounds = {_BOUNDS[key]: found.pop(key) for key in _BOUNDS.keys() & found.keys() if choices}
    if choices:
        choices[0] |= bounds
        found["anyOf"] = choices
    return found


def models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """A model and all that its fields are made of, in the order in which they are met."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models_of(field.annotation)
    else:
        for part in typing.get_args(annotation):
            yield from models_of(part)


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The strings that stand below the fields, of the model and those that it derives from."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for place, text in zip(body.body, [*body.body[1:], None], strict=True):
            if isinstance(place, ast.AnnAssign) and isinstance(place.target, ast.Name):
                if base is model:
                    found.pop(place.target.id, None)
                if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                    found[place.target.id] = inspect.cleandoc(str(text.value.value))
    return found


class _Generator(GenerateJsonSchema):
    """What may be written, where that is more than what it is read as: "5m" for 300 seconds, one for a list of one."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        inner = super().function_before_schema(schema)
        text: JsonSchemaValue = {"type": "string"}
        match getattr(schema["function"]["function"], "__name__", ""):
            case "_seconds":
                return {"anyOf": [inner, {**text, "pattern": _DURATION}]}
            case "_bytes":
                return {"anyOf": [inner, {**text, "pattern": _SIZE}]}
            case "_path":
                return text
            case "_time":
                return {**text, "pattern": r"^([01]?\d|2[0-3]):[0-5]\d$"}
            case "_days":
                return {"anyOf": [text, {"type": "array", "items": text, "minItems": 1}]}
            case "_match":
                return {"anyOf": [text, inner]}
            case "_settle":
                return {"anyOf": [{"const": "none"}, inner]}
            case "several":
                return {"anyOf": [inner["items"], inner, {"const": "none"}]}
            case "_several":
                return {"anyOf": [inner["items"], inner]}
        return inner
