"""The user's own functions in rules: `python:module.function`."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from crossdock.errors import ConfigError, raised_at, shown
from crossdock.storage.base import Entry

__all__ = ["PREFIX", "PythonRouter", "on_path"]

PREFIX = "python:"
_NAMES = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)[.:]([A-Za-z_]\w*)")


@dataclass(frozen=True, slots=True)
class PythonRouter:
    """A function that is imported when it is first called, with `folder` at the end of Python's path.

    It is given the entry (`entry.path` is below the flow's source) and returns `name:path`, several of them, or None
    for nowhere. Raises `ConfigError` if it cannot be imported.
    """

    written: str
    module: str
    function: str
    folder: Path

    @classmethod
    def parse(cls, written: str, folder: Path) -> PythonRouter:
        """`python:module.function` or `python:module:function`. Raises `ValueError`."""
        found = _NAMES.fullmatch(written.removeprefix(PREFIX))
        if not found:
            raise ValueError("not the name of a function")
        return cls(written, found[1], found[2], folder)

    def __call__(self, entry: Entry) -> str | Iterable[str] | None:
        answer: str | Iterable[str] | None = self.resolve()(entry)
        return answer

    def resolve(self) -> Any:
        """The function itself."""
        on_path(self.folder)
        file = f"{self.module.replace('.', '/')}.py"
        try:
            module = importlib.import_module(self.module)
        except (Exception, SystemExit) as error:
            # A module may raise anything as it is imported, and a script ends the program.
            # A SyntaxError tells by itself where it is.
            where = "" if isinstance(error, SyntaxError) else raised_at(error)
            reason = shown(f"{type(error).__name__}: {error}{where}")
            hint = f"mend {file}"
            if isinstance(error, ModuleNotFoundError):
                missing = error.name or ""
                hint = f"install what has {missing}, or mend {file}"
                if f"{self.module}.".startswith(f"{missing}."):
                    hint = f"write {file} beside the configuration, with a function {self.function}"
            hint = self._name_taken(file) or hint
            raise ConfigError(f"{self.written} cannot be imported: {reason}", hint=hint) from error
        try:
            function = getattr(module, self.function)
        except AttributeError as error:
            near = get_close_matches(self.function, [name for name, one in vars(module).items() if callable(one)], 1)
            hint = f"did you mean {near[0]}?" if near else f"write a function {self.function} into {file}"
            reason = f"{type(error).__name__}: {error}"
            hint = self._name_taken(file) or hint
            raise ConfigError(f"{self.written} cannot be imported: {reason}", hint=hint) from error
        if not callable(function):
            raise ConfigError(f"{self.written} is not a function", hint="name a function that takes an entry")
        return function

    def _name_taken(self, file: str) -> str | None:
        """What to do where the file is there, but its name is that of an installed module, which goes first."""
        taken = sys.modules.get(self.module.partition(".")[0])
        if taken is None or not (self.folder / file).is_file():
            return None
        places = [place for place in (getattr(taken, "__file__", None), *getattr(taken, "__path__", ())) if place]
        folder = self.folder.resolve()
        if any(Path(place).resolve().is_relative_to(folder) for place in places):
            return None
        found = shown(places[0]) if places else "it is built in"
        return f"give {file} another name, here and beside the configuration: Python has a module of this one ({found})"


def on_path(folder: Path) -> None:
    """Let modules in the configuration's folder be imported; installed ones of the same name go first."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
