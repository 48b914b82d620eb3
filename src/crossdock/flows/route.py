"""(rules, entry) → destinations. Pure: no I/O; a user's own callable is called, and is meant to be pure as well."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

from crossdock.errors import ConfigError, raised_at, shown
from crossdock.flows.filters import compile_glob
from crossdock.flows.flow import Destination, Flow, Place, Rule
from crossdock.storage.base import Entry

__all__ = ["DATES", "WORDS", "Routed", "Routes", "Template", "mistakes_in", "numbered", "parse_place", "words_of"]

WORDS = ("path", "folder", "name", "stem", "suffix")
"""Of every template: `a/b.tar.gz` has the folder `a`, the name `b.tar.gz`, the stem `b.tar` and the suffix `.gz`."""
DATES = ("now", "modified")
"""Times of a template: `{now:%Y/%m/%d}`, `{modified:%Y%m%d@Europe/London}`; in UTC unless a zone follows the @."""

_NEVER_EMPTY = frozenset({"path", "name", "stem", *DATES})
_SHOWN = 200
_WANTED = "'endpoint:path', several of them, or None"
_WORD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def parse_place(text: str) -> Place:
    """`name:path`. Raises `ValueError`."""
    name, colon, path = text.partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(f"write a place as endpoint:path, not {text!r}")
    return Place(name, path.removeprefix("/"))


@dataclass(frozen=True)
class Template:
    """Text with words in braces; `{{` and `}}` are braces themselves. Raises `ValueError` for what cannot be read.

    A word that stands for nothing takes its slash with it, so that `{folder}/{name}` of a file at the top is its name.
    """

    text: str

    def __post_init__(self) -> None:
        for message in mistakes_in(self.text):
            raise ValueError(message)

    @cached_property
    def _parts(self) -> list[tuple[str, str]]:
        """(literal, word) pairs, without slashes at the start; the word is "" after the last literal."""
        found: list[tuple[str, str]] = []
        literal, at, text = "", 0, self.text.lstrip("/")
        for match in _WORD.finditer(text):
            literal += text[at : match.start()]
            at = match.end()
            if match[0] in ("{{", "}}"):
                literal += match[0][0]
            elif match[1]:
                found.append((literal, match[1]))
                literal = ""
        return [*found, (literal + text[at:], "")]

    @property
    def names(self) -> frozenset[str]:
        """The words that it uses."""
        return frozenset(word.partition(":")[0] for _, word in self._parts if word)

    @property
    def literal(self) -> str:
        """All that is not a word."""
        return "".join(literal for literal, _ in self._parts)

    def pattern(self, word: str) -> str:
        """A regular expression of what it makes, each word standing for `word`, or for nothing where it may."""
        found, before, alone = "", "", True
        for literal, name in self._parts:
            if before:
                some = word if before in _NEVER_EMPTY else f"(?:{word})?"
                # Nothing takes its slash with it, but only where it is all of a name.
                slash = alone and literal.startswith("/")
                found += f"(?:{some}/)?" if slash else some
                found += re.escape(literal[slash:])
            else:
                found += re.escape(literal)
            alone = literal.endswith("/") or (alone and not literal)
            before = name.partition(":")[0]
        return found

    def fill(self, values: Mapping[str, Any]) -> str:
        """`values`: text by word, and aware times for `DATES`. Raises `ValueError` for a word without a value."""
        found = ""
        swallow = False
        for literal, word in self._parts:
            if swallow and literal.startswith("/"):
                literal = literal[1:]
            found += literal
            if not word:
                break
            value = self._value(word, values)
            swallow = not value and (not found or found.endswith("/"))
            found += value
        return found.lstrip("/")

    def _value(self, word: str, values: Mapping[str, Any]) -> str:
        name, _, date = word.partition(":")
        value = values.get(name)
        if name in DATES and isinstance(value, datetime):
            written, _, zone = date.rpartition("@") if "@" in date else (date, "", "UTC")
            try:
                return value.astimezone(ZoneInfo(zone)).strftime(written or "%Y-%m-%d")
            except OverflowError:
                raise ValueError(f"{{{word}}}: {value:%Y-%m-%d} is at the end of what dates can be") from None
        if value is None:
            if name in values:
                raise ValueError(f"{{{name}}} is not known for this file (in {self.text!r})")
            raise ValueError(f"{{{name}}} means nothing in {self.text!r}; write one of {', '.join(sorted(values))}")
        return str(value)


def mistakes_in(text: str, words: Iterable[str] | None = None) -> Iterator[str]:
    """All that is wrong with a template, what to write instead after a "; "; only `words` have a meaning in it."""
    shown_text = repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
    found = [match for match in _WORD.finditer(text) if match[0] not in ("{{", "}}")]
    if any(not match[1] for match in found):
        yield f"a brace by itself in {shown_text}; write {{{{ or }}}} for the character"
    for word, colon, date in (match[1].partition(":") for match in found if match[1]):
        if words is not None and word not in words:
            near = difflib.get_close_matches(word[:_SHOWN], [*words], 1)
            hint = f"did you mean '{near[0]}'?" if near else f"write one of {', '.join(sorted(words))}"
            yield f"{{{word[:_SHOWN]}}} means nothing here; {hint}"
        elif colon and word not in DATES:
            yield f"only {' and '.join(DATES)} take a format: {{{word}:…}} in {shown_text}; write {{{word}}}"
        if colon and "@" in date:
            zone = date.rpartition("@")[2]
            try:
                ZoneInfo(zone)
            except (KeyError, OSError, ValueError):
                yield f"no time zone is called {zone!r} (in {shown_text})"


def words_of(path: str) -> dict[str, str]:
    """The `WORDS` of a path."""
    folder, _, name = path.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    if not stem:
        stem, dot, suffix = name, "", ""
    return {"path": path, "folder": folder, "name": name, "stem": stem, "suffix": dot + suffix}


def numbered(path: str, number: int | str) -> str:
    """Another name in the same folder: report~1.csv for report.csv."""
    words = words_of(path)
    return f"{path.removesuffix(words['name'])}{words['stem']}~{number}{words['suffix']}"


@dataclass(frozen=True, slots=True)
class Routed:
    """Where one file goes."""

    rule: Rule | None
    """None: no rule matches."""
    places: tuple[Place, ...]
    reason: str


class Routes:
    """A flow's rules, compiled. Raises `ValueError` that names the rule for a pattern or template that is wrong."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._patterns = [self._compiled(rule) for rule in flow.rules]
        self._templates = [
            [(to.endpoint, self._template(rule, to, pattern)) for to in rule.to]
            for rule, pattern in zip(flow.rules, self._patterns, strict=True)
        ]

    @staticmethod
    def _compiled(rule: Rule) -> re.Pattern[str] | None:
        if rule.regex is not None and rule.glob is not None:
            raise ValueError(f"rule {rule.name}: both a regex and a glob; keep one of them")
        if rule.call is not None and rule.to:
            raise ValueError(f"rule {rule.name}: both a function and destinations; keep one of them")
        try:
            if rule.regex is not None:
                return re.compile(rule.regex)
            return compile_glob(rule.glob) if rule.glob is not None else None
        except (re.error, ValueError, RecursionError, OverflowError) as error:
            raise ValueError(f"rule {rule.name}: {error}") from error

    @staticmethod
    def _template(rule: Rule, to: Destination, pattern: re.Pattern[str] | None) -> Template:
        text = to.template
        if not text or text.endswith("/"):
            text += "{path}"
        try:
            template = Template(text)
        except ValueError as error:
            raise ValueError(f"rule {rule.name}: {error}") from error
        groups = set(pattern.groupindex) if pattern else set()
        unknown = template.names - {*WORDS, *DATES, *groups}
        if unknown:
            known = ", ".join(sorted({*WORDS, *DATES, *groups}))
            raise ValueError(f"rule {rule.name}: {{{min(unknown)}}} means nothing in {str(to)!r}; write one of {known}")
        return template

    def rule_of(self, path: str) -> Rule | None:
        """The rule that decides about a path below the flow's source."""
        rules = zip(self.flow.rules, self._patterns, strict=True)
        return next((rule for rule, pattern in rules if pattern is None or pattern.fullmatch(path)), None)

    def targets(self, path: str) -> list[str]:
        """The endpoints to which a file at a path below the flow's source goes, as far as its path alone tells."""
        rule = self.rule_of(path)
        return [] if rule is None else [to.endpoint for to in rule.to]

    def route(self, entry: Entry, now: datetime) -> Routed:
        """`entry.path` is below the flow's source. Raises `ConfigError` if a user's own rule fails."""
        for rule, pattern, templates in zip(self.flow.rules, self._patterns, self._templates, strict=True):
            match = pattern.fullmatch(entry.path) if pattern is not None else None
            if pattern is not None and match is None:
                continue
            how = "takes every file" if pattern is None else f"matches {rule.regex if rule.regex else rule.glob}"
            # A flow may do without rules: its `to` is the only one.
            whose = "'to'" if rule.name == "to" else f"rule {rule.name}"
            reason = f"{whose} {how}"
            if rule.call is not None:
                places = self._called(rule, entry)
            else:
                groups = match.groupdict("") if match is not None and rule.regex is not None else {}
                values = {"now": now, "modified": entry.modified, **words_of(entry.path), **groups}
                places = tuple(Place(endpoint, self._filled(rule, to, values)) for endpoint, to in templates)
            for place in places:
                self._possible(rule, place)
            return Routed(rule, places, reason if places else f"{reason} and sends it nowhere")
        return Routed(None, (), "no rule matches")

    @staticmethod
    def _possible(rule: Rule, place: Place) -> None:
        """A file can have this path, below the endpoint's root."""
        parts = place.path.split("/")
        if not place.path.strip("/") or place.path.endswith("/"):
            reason = "no name is left of it"
        elif ".." in parts or "." in parts:
            reason = "'.' and '..' are not names"
        elif "\0" in place.path:
            reason = "no name has a NUL character"
        else:
            return
        hint = "let 'match' be narrower, or put other words into the template"
        if rule.call is not None:
            hint = "mend the function; it returns 'endpoint:path', the path from the endpoint's root on"
        raise ConfigError(f"rule {rule.name}: no file can go to {shown(str(place))}: {reason}", hint=hint)

    @staticmethod
    def _filled(rule: Rule, template: Template, values: Mapping[str, Any]) -> str:
        try:
            return template.fill(values)
        except ValueError as error:
            raise ConfigError(f"rule {rule.name}: {error}", hint="choose words that every file has") from error

    @staticmethod
    def _called(rule: Rule, entry: Entry) -> tuple[Place, ...]:
        assert rule.call is not None
        try:
            # A copy: what somebody else's code does to it is not to become the file's name in the ledger.
            found = rule.call(replace(entry))
            # Anything else is told as it is.
            several = isinstance(found, Iterable) and not isinstance(found, (str, bytes, Mapping))
            written = () if found is None else tuple(found) if several else (found,)
        except (Exception, SystemExit) as error:
            # Somebody else's code may raise anything; it must not end the run of other files.
            reason = shown(f"{type(error).__name__}: {error}{raised_at(error)}")
            raise ConfigError(
                f"rule {rule.name}: {rule.call_name} failed for {shown(entry.path)}: {reason}",
                hint=f"mend the function; it takes an entry and returns {_WANTED}",
            ) from error
        places = []
        for one in written:
            try:
                places.append(parse_place(str(one)))
            except ValueError as error:
                what = f"{found!r:.{_SHOWN}}"
                raise ConfigError(
                    f"rule {rule.name}: {rule.call_name} returned {shown(what)} for {shown(entry.path)}, not {_WANTED}",
                    hint="mend the function",
                ) from error
        return tuple(places)

    def failures(self) -> Sequence[tuple[int, str]]:
        """What the flow's own tests say: (index of the test, what it expected and what came out)."""
        found, now = [], datetime.now(UTC)
        for index, test in enumerate(self.flow.tests):
            entry = Entry(path=test.file, size=0, modified=now)
            try:
                routed = self.route(entry, now)
            except ConfigError as error:
                found.append((index, error.message))
                continue
            got = tuple(str(place) for place in routed.places)
            if got != test.to:
                expected, came = " and ".join(test.to) or "nowhere", " and ".join(got) or "nowhere"
                found.append((index, f"{test.file} was to go to {expected}, and goes to {came} ({routed.reason})"))
        return found
