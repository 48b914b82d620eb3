"""Which files a sync or a flow moves: ordered include and exclude globs, age and size. Pure: no I/O, no clock.

Globs are the same at every endpoint and case-sensitive: `*` and `?` stay within one name, `[a-z]` and `[!a-z]` are
classes, `{a,b}` alternatives, `**/` any number of folders (none included), `\\` takes the next character as it is. A
pattern without "/" matches a name at any depth; one with "/" starts at the top; one that ends in "/" matches all that
is below such a folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

from crossdock.storage.base import Entry

__all__ = ["Filters", "Rule", "compile_glob"]

_ALTERNATIVES = 256
_LENGTH = 4096


@dataclass(frozen=True)
class Rule:
    """One glob. Raises `ValueError` for one that cannot be read."""

    include: bool
    pattern: str

    def __post_init__(self) -> None:
        _ = self._matcher

    @cached_property
    def _matcher(self) -> re.Pattern[str]:
        return compile_glob(self.pattern)

    def matches(self, path: str) -> bool:
        return self._matcher.match(path) is not None

    def __str__(self) -> str:
        return f"{'include' if self.include else 'exclude'} {self.pattern}"


@dataclass(frozen=True, kw_only=True)
class Filters:
    """The first rule that matches decides; if there is an include rule and none matches, the file is left out."""

    rules: tuple[Rule, ...] = ()
    min_age: timedelta | None = None
    """By the modification time at the source; a file whose time or size is unknown fails a bound on it."""
    max_age: timedelta | None = None
    min_size: int | None = None
    """Bytes."""
    max_size: int | None = None
    _includes: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_includes", any(rule.include for rule in self.rules))

    def verdict(self, entry: Entry, now: datetime, *, path: str | None = None) -> str | None:
        """None if the file passes, else the reason why it is left out.

        `path`: the entry's path below the folder that is moved; by default `entry.path`.
        """
        return self.name_verdict(entry.path if path is None else path) or self._bounds(entry, now)

    def name_verdict(self, path: str) -> str | None:
        """The rules alone."""
        for rule in self.rules:
            if rule.matches(path):
                return None if rule.include else f"excluded by {rule.pattern!r}"
        return "no include rule matches" if self._includes else None

    def folder_verdict(self, folder: str) -> str | None:
        """The exclude rule that leaves out all that is below a folder, if one does so before any other can take it."""
        for rule in self.rules:
            if rule.include:
                return None
            if rule.pattern.endswith(("/", "/**")) and rule.matches(f"{folder}/x"):
                return f"excluded by {rule.pattern!r}"
        return None

    def _bounds(self, entry: Entry, now: datetime) -> str | None:
        if self.min_size is not None or self.max_size is not None:
            if entry.size is None:
                return "its size is unknown"
            if self.min_size is not None and entry.size < self.min_size:
                return f"smaller than {self.min_size} bytes"
            if self.max_size is not None and entry.size > self.max_size:
                return f"larger than {self.max_size} bytes"
        if self.min_age is not None or self.max_age is not None:
            if entry.modified is None:
                return "its modification time is unknown"
            age = now - entry.modified
            if self.min_age is not None and age < self.min_age:
                return f"younger than {self.min_age}"
            if self.max_age is not None and age > self.max_age:
                return f"older than {self.max_age}"
        return None


def compile_glob(pattern: str) -> re.Pattern[str]:
    """A regex for `match` over a whole path, that takes time linear in the path. Raises `ValueError`."""
    if not pattern.strip("/") or len(pattern) > _LENGTH:
        raise ValueError(f"a glob has 1 to {_LENGTH} characters: {pattern[:40]!r}")
    found = list(_expanded(pattern))
    if len(found) > _ALTERNATIVES:
        raise ValueError(f"more than {_ALTERNATIVES} alternatives in {pattern!r}")
    return re.compile("|".join(f"(?:{_path_regex(one)})" for one in found))


def _expanded(pattern: str) -> Iterator[str]:
    """`{a,b}` written out; other characters, backslashes included, as they are."""
    alternatives = [pattern]
    while True:
        spans = [_first_braces(one) for one in alternatives]
        if all(span is None for span in spans):
            yield from alternatives
            return
        written: list[str] = []
        for one, span in zip(alternatives, spans, strict=True):
            if span is None:
                written.append(one)
            else:
                start, end, parts = span
                written.extend(f"{one[:start]}{part}{one[end:]}" for part in parts)
        if len(written) > _ALTERNATIVES:
            raise ValueError(f"more than {_ALTERNATIVES} alternatives in {pattern!r}")
        alternatives = written


def _first_braces(pattern: str) -> tuple[int, int, list[str]] | None:
    """Start, end and parts of the first outermost braces."""
    depth, start, part_start = 0, 0, 0
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += 1
        elif character == "[":
            at = _class_end(pattern, at)
        elif character == "{":
            depth += 1
            if depth == 1:
                start, part_start, parts = at, at + 1, []
        elif depth and character == "," and depth == 1:
            parts.append(pattern[part_start:at])
            part_start = at + 1
        elif depth and character == "}":
            depth -= 1
            if depth == 0:
                return start, at + 1, [*parts, pattern[part_start:at]]
        at += 1
    if depth:
        raise ValueError(f"a '{{' without its '}}' in {pattern!r}; write \\{{ for the character itself")
    return None


def _class_end(pattern: str, start: int) -> int:
    """The index of the "]" that closes the class opened at `start`."""
    at = start + 1
    if pattern[at : at + 1] in ("!", "^"):
        at += 1
    if pattern[at : at + 1] == "]":
        at += 1
    while at < len(pattern) and pattern[at] != "]":
        at += 1
    if at >= len(pattern):
        raise ValueError(f"a '[' without its ']' in {pattern!r}; write \\[ for the character itself")
    return at


def _path_regex(pattern: str) -> str:
    below = pattern.endswith("/")
    bare = pattern.rstrip("/")
    parts = bare.lstrip("/").split("/")
    if "" in parts:
        raise ValueError(f"an empty name between slashes in {pattern!r}")
    if {".", ".."} & set(parts):
        # Meant as in a shell, it would match nothing, and what is to be left out would go along. A key of an object
        # store that has one is matched by "[.]/a".
        raise ValueError(f"'.' and '..' are not names, in {pattern!r}; write it as from the top of the folder")
    if "/" not in bare:
        parts.insert(0, "**")
    if below:
        parts.append("**")
    # The leftmost place where a run of names between two `**` fits is as good as any, so each run is an atomic group:
    # no match is tried twice. The last run has to reach the end of the path.
    regex, run = "", ""
    open_ended = False
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            regex += _atomic(run, open_ended) if run else ""
            run, open_ended = "", True
            if last:
                return regex + r"(?s:.+)\Z"
        else:
            run += _name_regex(part) + ("" if last else "/")
    return regex + (rf"(?:[^/]*/)*{run}\Z" if open_ended else rf"{run}\Z")


def _atomic(run: str, open_ended: bool) -> str:
    return rf"(?>(?:[^/]*/)*?{run})" if open_ended else f"(?>{run})"


def _name_regex(part: str) -> str:
    """One name: literal runs between stars, each found at its leftmost place; the last one ends the name."""
    runs: list[list[str]] = [[]]
    at = 0
    while at < len(part):
        character = part[at]
        if character == "*":
            if runs[-1] or len(runs) == 1:
                runs.append([])
        elif character == "?":
            runs[-1].append("[^/]")
        elif character == "[":
            end = _class_end(part, at)
            runs[-1].append(_class_regex(part[at + 1 : end]))
            at = end
        else:
            if character == "\\":
                at += 1
                if at == len(part):
                    raise ValueError(f"a '\\' at the end of {part!r}")
            runs[-1].append(re.escape(part[at]))
        at += 1
    first, *rest = ("".join(run) for run in runs)
    if not rest:
        return first
    middle = "".join(f"(?>[^/]*?{run})" for run in rest[:-1] if run)
    name = rf"{first}{middle}(?>[^/]*{rest[-1]}(?![^/]))" if rest[-1] else rf"{first}{middle}[^/]*"
    return name if first or rest[:-1] or rest[-1] else "[^/]+"


def _class_regex(inside: str) -> str:
    negated = inside[:1] in ("!", "^")
    body = inside[1:] if negated else inside
    # What Python may read otherwise one day, of which it warns; and "(" so that "(?>" stands for nothing but a group.
    escaped = re.sub(r"([\\\[\]^&~|(]|(?<=.-)-)", r"\\\1", body)
    try:
        re.compile(f"[{escaped}]")
    except re.error as error:
        raise ValueError(f"the class [{inside}]: {error.msg}") from error
    return f"(?!/)[{'^' if negated else ''}{escaped}]"
