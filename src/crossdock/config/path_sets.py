"""Which files a flow takes and where it puts them, as sets of paths within a store, to compare flows with."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from crossdock.config.patterns import Language, common_path, pattern_of
from crossdock.flows.flow import Flow, Rule
from crossdock.flows.plan import beside_pattern
from crossdock.flows.route import Template
from crossdock.storage.settings import EndpointSettings

__all__ = ["Reach", "Root", "archive_of", "root_of"]

_NAMES = frozenset({"name", "stem", "suffix"})


@dataclass(frozen=True, slots=True)
class Root:
    """A folder within a store that endpoints may share: equal stores hold the same files."""

    store: tuple[Any, ...]
    path: str
    """Without slashes at its ends."""

    def meets(self, other: Root) -> bool:
        """One of them is the other, or a folder in it."""
        return self.store == other.store and (
            not self.path
            or not other.path
            or f"{other.path}/".startswith(f"{self.path}/")
            or f"{self.path}/".startswith(f"{other.path}/")
        )

    def below(self, path: str) -> Root:
        return Root(self.store, "/".join(part for part in (self.path, path.strip("/")) if part))


def root_of(name: str, settings: EndpointSettings) -> Root:
    """Where an endpoint's paths start. What cannot be told apart here (two accounts at one server) is kept apart."""
    root, found = str(settings.root), settings
    if settings.type == "local":
        return Root(("local",), os.path.realpath(root).strip("/"))
    if settings.type == "memory":
        return Root(("memory", name), root.strip("/"))
    get = found.model_dump(exclude={"root"}).get
    if settings.type == "s3":
        service = "amazon" if getattr(settings, "amazon", True) else getattr(settings, "service_url", "")
        return Root(("s3", str(service).lower(), get("bucket")), root.strip("/"))
    if get("host"):
        # A path from the login folder and an absolute one cannot be compared.
        start = "/" if root.startswith("/") else "~"
        account = get("user") or get("cp_code")
        return Root((settings.type, str(get("host")).lower(), get("port"), account, start), root.strip("/"))
    return Root((settings.type, name), root.strip("/"))


class Reach:
    """A flow's files: those it takes, below `root`, and those it writes."""

    def __init__(self, flow: Flow, roots: Mapping[str, Root]) -> None:
        self.flow, self._roots = flow, roots
        source = roots.get(flow.source.endpoint)
        self.root = source.below(flow.source.path) if source else None
        includes = [rule.pattern for rule in flow.filters.rules if rule.include]
        excludes = [rule.pattern for rule in flow.filters.rules if not rule.include] + list(flow.settle.temporary)
        self._wanted = [Language.union(pattern_of(glob=glob) for glob in includes)] if includes else []
        self._unwanted = [Language.of(glob=glob) for glob in excludes]
        moving = [rule for rule in flow.rules if rule.to or rule.call is not None]
        self._widest = [Language.union(pattern_of(regex=rule.regex, glob=rule.glob) for rule in moving), *self._wanted]
        """What it takes lies in all of these."""
        if flow.after.archive is not None:
            self._unwanted.append(archive_of(flow.after.archive))
        for text in (flow.settle.manifest, None if _goes_along(flow) else flow.settle.marker):
            if text is not None:
                self._unwanted.append(Language.of(regex=beside_pattern(Template(text)).pattern))
        self._rules = [(rule, Language.of(regex=rule.regex, glob=rule.glob)) for rule in flow.rules]

    def takes(self) -> Iterator[tuple[Rule, list[Language], list[Language]]]:
        """For each rule that moves files: the rule, sets that all hold its paths, and sets that hold none of them."""
        for at, (rule, language) in enumerate(self._rules):
            if rule.to or rule.call is not None:
                earlier = [one for _, one in self._rules[:at]]
                yield rule, [language, *self._wanted], [*self._unwanted, *earlier]

    def shares(self, other: Reach) -> str | None:
        """A path, within the store, that both flows take."""
        if self.root is None or other.root is None or self.root.store != other.root.store:
            return None
        upper, lower = (self, other) if len(self.root.path) <= len(other.root.path) else (other, self)
        assert upper.root is not None and lower.root is not None
        folder = _below(upper.root.path, lower.root.path)
        if folder is None or _common([one.below(folder) for one in upper._widest] + lower._widest, []) is None:
            return None
        for _, wanted, unwanted in upper.takes():
            for _, more, less in lower.takes():
                of = [one.below(folder) for one in wanted] + more
                found = _common(of, [one.below(folder) for one in unwanted] + less)
                if found is not None:
                    return f"{lower.flow.source}/{found}".replace(":/", ":")
        return None

    def reads_what(self, writer: Reach, written: Language | None = None) -> str | None:
        """A path below this flow's source that `writer` writes, or that is in `written` below the writer's source."""
        if self.root is None:
            return None
        targets = [(writer.root, written)] if written is not None else writer.targets
        for root, language in targets:
            if root is None or not root.meets(self.root):
                continue
            found = self._found_at(root, language)
            if found is not None:
                return found
        return None

    def _found_at(self, root: Root, language: Language) -> str | None:
        """A path below this flow's source that it takes, of a language of paths below `root`."""
        assert self.root is not None
        down, up = _below(root.path, self.root.path), _below(self.root.path, root.path)
        if down is not None:
            language = language.below(down)
            if _common([language, *self._widest], []) is None:
                return None
        elif up is None or _common([language, *(one.below(up) for one in self._widest)], []) is None:
            return None
        for _, wanted, unwanted in self.takes():
            if down is not None:
                found = _common([language, *wanted], unwanted)
            else:
                assert up is not None
                of = [language, *(one.below(up) for one in wanted)]
                found = _common(of, [one.below(up) for one in unwanted])
                found = f"{up}/{found}" if found is not None else None
            if found is not None:
                return found
        return None

    @cached_property
    def targets(self) -> list[tuple[Root | None, Language]]:
        """Where the rules write: a root, and a language of paths below it."""
        return [(self._roots.get(to.endpoint), template_of(to.template)) for rule in self.flow.rules for to in rule.to]


@lru_cache(maxsize=4096)
def template_of(text: str) -> Language:
    """The paths that a template can make. Raises `ValueError`."""
    return Language.of(regex=_written(Template(text)))


@lru_cache(maxsize=4096)
def archive_of(text: str) -> Language:
    """The paths at which archived files lie, below the flow's source. Raises `ValueError`."""
    template = Template(text)
    if not template.names:
        return Language.of(regex=rf"{re.escape(text.strip('/'))}/(?:.|\n)+")
    return Language.of(regex=_written(template))


def _goes_along(flow: Flow) -> bool:
    """The marker is archived or deleted with its file."""
    return flow.after.takes_source and bool(Template(flow.settle.marker or "").names & {"name", "path"})


def _written(template: Template) -> str:
    one = r"[^/]+" if template.names <= _NAMES else r"(?:.|\n)+"
    return template.pattern(one)


def _below(upper: str, lower: str) -> str | None:
    """How one gets from a folder down to another; None if that is not below it."""
    if upper == lower:
        return ""
    if not upper:
        return lower
    return lower[len(upper) + 1 :] if lower.startswith(f"{upper}/") else None


def _common(of: Sequence[Language], none_of: Sequence[Language]) -> str | None:
    """A common path; what cannot be ruled out counts as one."""
    found, certain = common_path(of, none_of=none_of)
    if certain:
        return found
    return found or "…"
