"""Name → transform. Others' register in the entry-point group "crossdock.transforms", or go by their path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from inspect import isabstract
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from crossdock.errors import ConfigError, raised_at, shown
from crossdock.transfer.transforms.base import Splitter, Step, Transform

__all__ = ["Spec", "step", "steps", "transform_class", "transform_names", "written"]

_HERE = "crossdock.transfer.transforms"
_BUILT_IN = {
    "charset": f"{_HERE}.text:Charset",
    "csv_to_parquet": f"{_HERE}.parquet:CsvToParquet",
    "gunzip": f"{_HERE}.gzip:Gunzip",
    "gzip": f"{_HERE}.gzip:Gzip",
    "lines": f"{_HERE}.text:Lines",
    "pgp_decrypt": f"{_HERE}.pgp:Decrypt",
    "pgp_encrypt": f"{_HERE}.pgp:Encrypt",
    "pgp_sign": f"{_HERE}.pgp:Sign",
    "pgp_verify": f"{_HERE}.pgp:Verify",
    "unzip": f"{_HERE}.unzip:Unzip",
    "unzstd": f"{_HERE}.zstd:Unzstd",
    "zstd": f"{_HERE}.zstd:Zstd",
}
_EXTRAS = {"backports": "zstd", "pyarrow": "parquet"}


class Spec(Protocol):
    """What the user asked for; `flows.TransformSpec` is one."""

    @property
    def name(self) -> str: ...
    @property
    def options(self) -> Mapping[str, Any]: ...


@cache
def transform_names() -> dict[str, str]:
    """Name → "module:class", built in and installed."""
    return _BUILT_IN | {point.name: point.value for point in entry_points(group="crossdock.transforms")}


def written(item: object) -> tuple[str, dict[str, Any]]:
    """Name and options of one item of a `transform:` list: `gunzip`, or `{charset: {from: latin-1}}`.

    Raises `ValueError`.
    """
    if isinstance(item, str):
        return item, {}
    if not isinstance(item, Mapping) or len(item) != 1:
        raise ValueError("write a name (gunzip), or one name with its options ({charset: {from: latin-1}})")
    ((name, options),) = item.items()
    if options is None:
        options = {}
    if not isinstance(name, str) or not isinstance(options, Mapping):
        raise ValueError(f"the options of {name} are keys and values: {{{name}: {{key: value}}}}")
    return name, dict(options)


def transform_class(name: str) -> type[Transform] | type[Splitter]:
    """The class that a name, or `python:module:Class`, stands for; its `Options` is the model of its options.

    Raises `ConfigError` for a name that nobody registered, a missing extra, and what is not a transform.
    """
    own = name.startswith("python:")
    target = name.removeprefix("python:") if own else transform_names().get(name)
    if target is None:
        known = ", ".join(sorted(transform_names()))
        raise ConfigError(
            f"unknown transform {name!r}", key="transform", hint=f"write one of {known}, or python:module:Class"
        )
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise ConfigError(f"transform {name}: no class is named", key="transform", hint="write python:module:Class")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        extra = _EXTRAS.get(missing.partition(".")[0]) if module.startswith(_HERE) else None
        if extra is not None:
            raise ConfigError(
                f"transform {name} needs the package {missing}",
                key="transform",
                hint=f"pip install 'crossdock[{extra}]'",
            ) from error
        if not own or not f"{module}.".startswith(f"{missing}."):
            raise _not_imported(name, error) from error
        raise ConfigError(
            f"transform {name}: there is no module {missing}",
            key="transform",
            hint="put its file beside the configuration, or install its package",
        ) from error
    except AttributeError as error:
        # A module may say by a function of its own that it lacks something, as Python's calendar does from 3.12 on.
        lacks = error.name == attribute.partition(".")[0] and error.obj is sys.modules.get(module, attribute)
        if own and not lacks and raised_at(error):
            raise _not_imported(name, error) from error
        # Installed modules go first: it may be another one than the user's own.
        file = shown(getattr(sys.modules.get(module), "__file__", None) or f"{module}, which Python has built in")
        hint = f"write a class {attribute} into {file}; if that is not yours, give your module another name"
        raise ConfigError(f"transform {name}: {error}", key="transform", hint=hint) from error
    except (Exception, SystemExit) as error:
        # A module may raise anything as it is imported, and a script ends the program.
        raise _not_imported(name, error) from error
    if not isinstance(found, type) or not issubclass(found, (Transform, Splitter)):
        raise ConfigError(
            f"transform {name}: not a transform", key="transform", hint="derive it from crossdock's Transform"
        )
    if isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ConfigError(f"transform {name}: it lacks {missing}", key="transform", hint="write them into its class")
    return found


def _not_imported(name: str, error: BaseException) -> ConfigError:
    # A SyntaxError tells by itself where it is.
    where = "" if isinstance(error, SyntaxError) else raised_at(error)
    reason = shown(f"{type(error).__name__}: {error}{where}")
    return ConfigError(f"transform {name} cannot be imported: {reason}", key="transform", hint="mend its module")


def step(name: str, options: Mapping[str, Any] | None = None, *, folder: Path | None = None) -> Step:
    """One step, validated. `folder`: where relative paths in the options start.

    Raises `ConfigError` that names each option that is wrong.
    """
    kind = transform_class(name)
    try:
        found = kind.Options.model_validate(dict(options or {}), context={"folder": folder})
    except ValidationError as error:
        raise ConfigError(f"transform {name}: {_reasons(error)}", key="transform", hint=_known(kind)) from error
    except (Exception, SystemExit) as error:
        # The model may be a user's own, too.
        reason = shown(f"{type(error).__name__}: {error}")
        what = f"transform {name}: its options cannot be read: {reason}"
        raise ConfigError(what, key="transform", hint="derive Options from crossdock's Options") from error
    return Step(name, kind, found)


def steps(specs: Iterable[Spec], *, folder: Path | None = None) -> tuple[Step, ...]:
    """All the steps of a rule, in order. Raises `ConfigError`."""
    found = tuple(step(spec.name, spec.options, folder=folder) for spec in specs)
    splitting = [one.name for one in found if one.many]
    if len(splitting) > 1:
        raise ConfigError(
            f"{' and '.join(splitting)} in one list: archives in archives are not unpacked",
            key="transform",
            hint="let a second flow take what the first has unpacked",
        )
    return found


_IN_WORDS = {"missing": "is missing", "extra_forbidden": "no such option"}


def _reasons(error: ValidationError) -> str:
    found = []
    for item in error.errors(include_url=False):
        place = ".".join(map(str, item["loc"]))
        reason = _IN_WORDS.get(item["type"], item["msg"].removeprefix("Value error, "))
        found.append(f"{place}: {reason}" if place else reason)
    return "; ".join(found)


def _known(kind: type[Transform] | type[Splitter]) -> str:
    names = [field.alias or name for name, field in kind.Options.model_fields.items()]
    return f"its options are {', '.join(names)}" if names else "it has no options"
