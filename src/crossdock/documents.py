"""YAML, JSON and TOML → plain data that knows on which line each key stands.

Nothing is constructed but mappings, lists and scalars; aliases are bounded; a key given twice is a mistake.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from crossdock.errors import ConfigError, shown

if TYPE_CHECKING:
    import yaml

__all__ = ["Document", "parse"]

_NODES = 100_000
"""Values a file may hold once its aliases are written out: a bomb of nested aliases ends here."""
_DEPTH = 50
_PREFIX = "tag:yaml.org,2002:"
_MEND = "mend it there; what comes after it was not read"
_TOO_LONG, _SHORTER = "a number of thousands of digits", "write a number that is meant"
_TOO_DEEP, _FLATTER = f"nested deeper than {_DEPTH} levels", "close a bracket that was left open, or indent less"
_TOO_MUCH = f"more than {_NODES} values once its aliases are written out"
_COLLECTIONS = (f"{_PREFIX}map", f"{_PREFIX}seq")

Path = tuple[Any, ...]


@dataclass(slots=True)
class Document:
    file: str
    data: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    """Path of keys and indexes → line, from 1."""
    mistakes: list[ConfigError] = field(default_factory=list)

    def line(self, path: Path) -> int | None:
        """The line of a key, or of the nearest one above it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None

    def mistake(self, message: str, line: int | None, hint: str | None, key: str = "") -> None:
        self.mistakes.append(ConfigError(message, file=self.file, line=line, key=shown(key), hint=hint))

    def refuse(self, message: str, line: int | None, hint: str) -> ConfigError:
        return ConfigError(message, file=self.file, line=line, hint=hint)


def _dotted(path: Path) -> str:
    return ".".join(str(part) for part in path)


def parse(raw: bytes, file: str) -> Document:
    """By the file's suffix: .json, .toml, else YAML. Raises `ConfigError` for what cannot be parsed at all."""
    document = Document(file)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise document.refuse("not UTF-8 text", line, "save the file as UTF-8") from error
    if file.endswith(".toml"):
        _toml(document, text)
    elif file.endswith(".json"):
        _json(document, text)
    else:
        _yaml(document, text)
    return document


def _toml(document: Document, text: str) -> None:
    try:
        document.data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        found = re.search(r" \(at line (\d+), column \d+\)", message)
        line = int(found[1]) if found else None
        message = message.replace(found[0], "") if found else message
        raise document.refuse(message, line, _MEND) from error
    except ValueError as error:
        raise document.refuse(_TOO_LONG, None, _SHORTER) from error
    except RecursionError as error:
        raise document.refuse(_TOO_DEEP, None, _FLATTER) from error
    document.lines = _toml_lines(text)


def _toml_lines(text: str) -> dict[Path, int]:
    """Where tables and keys start; tomllib does not say. Keys of inline tables share the line of their table."""
    lines: dict[Path, int] = {(): 1}
    table: Path = ()
    last: dict[Path, int] = {}
    """Index of the last table of each array of tables."""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*(\[\[?)([^\[\]]+)\]", line)
        key = re.match(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""", line)
        if header:
            table = ()
            *above, name = _toml_key(header[2])
            for part in above:
                table = (*table, part)
                table += (last[table],) if table in last else ()
            table = (*table, name)
            lines.setdefault(table, number)
            if header[1] == "[[":
                last[table] = last.get(table, -1) + 1
            table += (last[table],) if table in last else ()
            lines.setdefault(table, number)
        elif key:
            lines.setdefault(table + _toml_key(key[1]), number)
    return lines


def _toml_key(text: str) -> Path:
    return tuple(part.strip().strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[\w-]+", text))


def _json(document: Document, text: str) -> None:
    try:
        document.data = json.loads(text)
    except json.JSONDecodeError as error:
        raise document.refuse(error.msg, error.lineno, _MEND) from error
    except ValueError as error:
        raise document.refuse(_TOO_LONG, None, _SHORTER) from error
    except RecursionError as error:
        raise document.refuse(_TOO_DEEP, None, _FLATTER) from error
    # JSON is YAML once its tabs (never inside a string) are spaces: read a second time for lines and repeated keys.
    _read_nodes(document, text.replace("\t", " "))


def _yaml(document: Document, text: str) -> None:
    document.data = _read_nodes(document, text)


def _read_nodes(document: Document, text: str) -> Any:
    import yaml

    try:
        root = _quickly(document, text) or _compose(text)
    except yaml.MarkedYAMLError as error:
        raise document.refuse(*_explained(error)) from error
    except yaml.YAMLError as error:
        # A character that YAML does not have.
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        raise document.refuse(shown(str(error).splitlines()[0]), line, _MEND) from error
    except RecursionError as error:
        raise document.refuse(_TOO_DEEP, None, _FLATTER) from error
    if root is None:
        return None
    return _Builder(document).build(root, (), ())


def _explained(error: yaml.MarkedYAMLError) -> tuple[str, int | None, str]:
    """The parser's problem in the words of who wrote the file: message, line, what to write instead."""
    mark, begun = error.problem_mark or error.context_mark, error.context_mark
    line = mark.line + 1 if mark else None
    problem = error.problem or "cannot be parsed"
    start = f" of line {begun.line + 1}" if begun else ""
    if "'\\t'" in problem:
        return "a tab where YAML allows only spaces", line, "indent with spaces"
    if "mapping values are not allowed" in problem:
        quoted = "put a value that ends with ':' or has ': ' in it in quotes"
        return problem, line, f"{quoted}; or this line or the one above is indented wrongly, or lacks its ': '"
    if "could not find expected ':'" in problem:
        hint = "write 'key: value', with a space after the colon; or the line above is indented wrongly"
        return "no key, or no ': ' after one", begun.line + 1 if begun else line, hint
    if "undefined alias" in problem:
        return shown(problem), line, "put a value that starts with * in quotes"
    if "expected alphabetic or numeric character" in problem:
        return "a value may not start with * or &", line, "put it in quotes"
    if "cannot start any token" in problem or "chomping or indentation" in problem:
        return shown(problem), line, "put the value in quotes"
    if "unknown escape character" in problem:
        return shown(problem), line, "put it in single quotes, or write the backslash twice"
    if "unexpected end of stream" in problem:
        return f"the quote{start} is not closed", begun.line + 1 if begun else line, "close it"
    if found := re.match(r"expected ',' or '([]}])'", problem):
        bracket = {"]": "[", "}": "{"}[found[1]]
        hint = f"close it with {found[1]}, or put a value that has brackets in it, or a colon at its end, in quotes"
        return f"the {bracket}{start} is not closed before this", line, hint
    if "'<stream end>'" in problem:
        return "the file ends where a value must be", line, "close what was opened by [ or {"
    if "<block end>, but found '<scalar>'" in problem:
        return "text after the end of a value", line, "put the whole value in quotes; 'it''s' has one in it"
    if "<block end>" in problem:
        return f"this does not line up with what it belongs to{start.replace('of', 'from')}", line, "indent it alike"
    if "another document" in problem:
        return "a second document begins", line, "remove the ---, and what is not meant"
    return shown(problem), line, _MEND


def _quickly(document: Document, text: str) -> yaml.Node | None:
    """By libyaml, where it is installed; None for a file without content, and where Python's parser is to explain."""
    import yaml

    if not hasattr(yaml, "CSafeLoader"):
        return None
    depth = 0
    try:
        # Its composer calls itself for each level, and nothing stops it before the stack ends.
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _DEPTH:
                    line = event.start_mark.line + 1 if event.start_mark else None
                    raise document.refuse(_TOO_DEEP, line, _FLATTER)
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
        return _compose(text, yaml.CSafeLoader)
    except (yaml.YAMLError, RecursionError, UnicodeError):
        return None


def _compose(text: str, base: Any = None) -> yaml.Node | None:
    loader = _loader(base)(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    finally:
        loader.dispose()
    return node


@cache
def _loader(base: Any) -> type[Any]:
    import yaml

    class Loader(base or yaml.SafeLoader):  # type: ignore[misc]
        """Plain scalars as in YAML 1.2's core schema: no sexagesimal ports, no `no` that means False, no dates."""

        yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    for kind, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
        ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", "-+0123456789."),
        ("merge", "<<", "<"),
    ):
        Loader.add_implicit_resolver(_PREFIX + kind, re.compile(rf"(?:{pattern})\Z"), list(first))
    return Loader


class _Builder:
    """Composed nodes → data, with lines; an alias is written out each time it is met, and counted."""

    def __init__(self, document: Document) -> None:
        self._document, self._count = document, 0

    def build(self, node: yaml.Node, path: Path, above: tuple[int, ...]) -> Any:
        import yaml

        line = node.start_mark.line + 1
        self._count += 1
        if self._count > _NODES:
            raise self._document.refuse(_TOO_MUCH, line, "repeat less by * and <<")
        if id(node) in above:
            raise self._document.refuse("an alias that contains itself", line, "write out what is meant")
        if len(above) >= _DEPTH:
            raise self._document.refuse(_TOO_DEEP, line, _FLATTER)
        self._document.lines.setdefault(path, line)
        above = (*above, id(node))
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTIONS:
            self._document.mistake(f"the tag {shown(node.tag)} is not allowed", line, "remove it", _dotted(path))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, above)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index), above) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path, above: tuple[int, ...]) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        first: dict[Any, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _PREFIX + "merge":
                part = self.build(value_node, path, above)
                for one in reversed(part if isinstance(part, list) else [part]):
                    if not isinstance(one, dict):
                        raise self._document.refuse("'<<' takes a mapping", line, "put the key in quotes")
                    merged.update(one)
                continue
            key = self.build(key_node, (*path, object()), above)
            if isinstance(key, (dict, list)):
                raise self._document.refuse("a mapping or list as a key", line, "put the key in quotes")
            if key in first:
                self._document.mistake(
                    f"the key is there twice, first on line {first[key]}",
                    line,
                    "remove one of them",
                    _dotted((*path, key)),
                )
                continue
            first[key] = line
            self._document.lines[(*path, key)] = line
            found[key] = self.build(value_node, (*path, key), above)
        return {**merged, **found}

    def _scalar(self, node: yaml.Node) -> Any:
        value: str = node.value
        kind = node.tag.removeprefix(_PREFIX)
        if kind in ("str", "merge"):
            return value
        if kind == "null":
            return None
        if kind == "bool":
            return value.lower() == "true"
        try:
            if kind == "int":
                return int(value, 0) if value[:2] in ("0o", "0x") else int(value)
            if kind == "float":
                return float(value)
        except ValueError as error:
            line = node.start_mark.line + 1
            raise self._document.refuse(f"not a number: {shown(value)}", line, "write a number") from error
        raise self._document.refuse(f"the tag {shown(node.tag)} is not allowed", node.start_mark.line + 1, "remove it")
