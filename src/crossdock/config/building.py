"""A flow as it is written → `Flow`, with every mistake that one flow shows by itself."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from crossdock.config.mistakes import Key, Report, brief, instead
from crossdock.config.models import (
    AfterModel,
    ExpectModel,
    FlowModel,
    NotifyModel,
    RuleModel,
    SettleModel,
    TriggerModel,
)
from crossdock.config.routers import PREFIX, PythonRouter, on_path
from crossdock.config.validation import validated
from crossdock.flows.filters import Filters
from crossdock.flows.filters import Rule as FilterRule
from crossdock.flows.flow import (
    After,
    Destination,
    Expectation,
    Flow,
    Mail,
    Place,
    Retry,
    Rule,
    Settle,
    Test,
    TransformSpec,
    Trigger,
    Webhook,
)
from crossdock.flows.schedule import Schedule, zone_of

__all__ = ["OBJECT_STORES", "Builder"]

OBJECT_STORES = frozenset({"s3"})
"""Types of endpoint that show a file only once it is whole."""
_SLASHES = re.compile("//+")
_MAIL_PORTS = {"starttls": 587, "implicit": 465, "none": 25}


class Builder:
    """Builds flows over the endpoints of `types` (name → type, None where it is not known)."""

    def __init__(self, report: Report, types: Mapping[str, str | None], folder: Path) -> None:
        self._report, self._types, self._folder = report, types, folder

    def build(self, name: str, data: dict[Any, Any]) -> Flow | None:
        """With stand-ins for what is wrong, which is in the report; None if nothing can be made of it."""
        key = ("flows", name)
        model = validated(self._report, key, FlowModel, data, self._folder)
        return self._flow(name, key, model) if model is not None else None

    def _sound(self, *keys: Key) -> bool:
        return all(self._report.sound(key) for key in keys)

    def _flow(self, name: str, key: Key, model: FlowModel) -> Flow:
        source = self._place((*key, "source"), model.source.rstrip("/")) or Place("")
        kind = self._types.get(source.endpoint)
        return Flow(
            name=name,
            source=source,
            rules=self._rules(key, model),
            trigger=self._trigger((*key, "trigger"), model.trigger, kind),
            settle=self._settle((*key, "settle"), model.settle, kind),
            filters=self._filters(key, model),
            unmatched=model.unmatched,
            on_conflict=model.on_conflict,
            after=self._after((*key, "after"), model.after, kind),
            retry=Retry(**model.retry.model_dump()) if model.retry else Retry(),
            order=model.order,
            max_files=model.max_files,
            max_bytes=model.max_bytes,
            expect=tuple(self._expect((*key, "expect", at), one) for at, one in enumerate(model.expect)),
            tests=tuple(
                Test(file=one.file, to=tuple(str(self._place((*key, "tests", at, "to"), to)) for to in one.to))
                for at, one in enumerate(model.tests)
            ),
            **_notifications(model.notify),
        )

    def _place(self, key: Key, text: str) -> Place | None:
        """`name:path`; the slash after the colon may be there or not."""
        name, colon, path = text.partition(":")
        if not colon or path.startswith("//"):
            hint, (first, _, rest) = "write name:path, with a name from 'endpoints:'", text.partition("/")
            if first in self._types:
                hint = f"write {brief(f'{first}:{rest}')}"
            elif path.startswith("//") or text.startswith(("/", ".", "~")):
                hint = "add an endpoint for it to 'endpoints:' and write its name and a path, name:path"
            self._report.mistake(key, f"not a location: {brief(text)}", hint)
            return None
        if "{" in name:
            hint = "write a rule for each endpoint; words in braces stand behind its colon"
            self._report.mistake(key, f"an endpoint is called by its name alone: {brief(name)}", hint)
        elif name not in self._types:
            hint = instead(name, map(str, self._types)) if self._types else "add it to 'endpoints:'"
            self._report.mistake(key, f"no endpoint is called {brief(name)}", hint)
        path = path.lstrip("/")
        if any(part in (".", "..") for part in path.split("/")):
            self._report.mistake(key, "'.' and '..' are not names", "write the path from the endpoint's root on")
        if "//" in path and self._types.get(name) not in (*OBJECT_STORES, None):
            self._report.mistake(key, "an empty name between two slashes", f"write {brief(_SLASHES.sub('/', path))}")
        return Place(name, path)

    # -- rules ------------------------------------------------------------------------------------------------------

    def _rules(self, key: Key, model: FlowModel) -> tuple[Rule, ...]:
        rules, to = (*key, "rules"), (*key, "to")
        if model.to is not None and model.rules is not None:
            self._report.mistake(key, "both 'to' and 'rules'", "make 'to' the last rule: {to: …} without 'match'")
            self._report.unsure(rules)
            self._report.unsure(to)
        if model.transform and (model.rules is not None or not self._sound(rules)):
            hint = "write 'transform:' into each rule that needs it"
            self._report.mistake((*key, "transform"), "'transform' beside 'rules'", hint)
        if not model.rules and model.to is None and self._sound(rules):
            self._report.mistake(key, "neither 'to' nor 'rules'", "add 'to: name:' for every file, or 'rules:'")
            self._report.unsure(rules)
        found = [self._rule((*rules, at), f"rules[{at}]", one) for at, one in enumerate(model.rules or ())]
        names: set[str] = set()
        for at, rule in enumerate(found):
            if rule.name in names:
                message = f"two rules are called {rule.name!r}"
                self._report.mistake((*rules, at, "name"), message, "give each a name of its own")
            names.add(rule.name)
        keys: list[Key] = [(*rules, at) for at in range(len(found))]
        if model.to is not None:
            whole = RuleModel.model_construct(match=None, to=model.to, transform=model.transform, name="to")
            if not model.to:
                self._report.mistake(to, "a flow that goes nowhere", "write to: name:")
            found.append(self._rule(key, "to", whole))
            keys.append(key)
        self._report.rules[key[-1]] = tuple(keys)
        return tuple(found)

    def _rule(self, key: Key, name: str, model: RuleModel) -> Rule:
        regex = model.match.regex if model.match else None
        glob = model.match.glob if model.match else None
        if regex is not None:
            try:
                with warnings.catch_warnings():
                    # Of what a later Python reads otherwise, such as [[a].
                    warnings.simplefilter("error", FutureWarning)
                    re.compile(regex)
            except (re.error, ValueError, OverflowError, RecursionError, FutureWarning) as error:
                hint = "put '\\' before a character that is meant as it is, or write match: {glob: '*.csv'}"
                reason = error.msg if isinstance(error, re.error) else str(error)
                if isinstance(error, re.error) and error.pos is not None:
                    reason += f" at character {error.pos + 1}"
                self._report.mistake((*key, "match", "regex"), f"not a regular expression: {reason}", hint)
                regex = None
        if glob is not None and not self._glob((*key, "match", "glob"), glob):
            glob = None
        calls = [to for to in model.to if to.startswith(PREFIX)]
        call: PythonRouter | None = None
        if calls and len(model.to) > 1:
            hint = "let the function return all the locations"
            self._report.mistake((*key, "to"), "a function stands alone", hint)
        for written in calls:
            try:
                call = PythonRouter.parse(written, self._folder)
            except ValueError as error:
                self._report.mistake((*key, "to"), f"{error}: {brief(written)}", "write python:module.function")
        destinations = self._destinations((*key, "to"), model.to)
        return Rule(
            name=model.name or name,
            regex=regex,
            glob=glob,
            to=destinations,
            call=call,
            call_name=calls[0] if calls else "",
            endpoints=frozenset(map(str, self._types)) if calls else frozenset(),
            transforms=self._transforms((*key, "transform"), model.transform),
        )

    def _destinations(self, key: Key, written: tuple[str, ...]) -> tuple[Destination, ...]:
        found: list[Destination] = []
        for at, text in enumerate(written):
            place = self._place((*key, at), text) if not text.startswith(PREFIX) else None
            if place is None:
                continue
            template = place.path + "{path}" if not place.path or place.path.endswith("/") else place.path
            destination = Destination(place.endpoint, template)
            if destination in found:
                self._report.mistake((*key, at), f"{text!r} is there twice", "remove one of them")
            found.append(destination)
        return tuple(found)

    def _transforms(self, key: Key, written: tuple[str | dict[str, Any], ...]) -> tuple[TransformSpec, ...]:
        from crossdock.transfer.transforms.registry import transform_names
        from crossdock.transfer.transforms.registry import written as name_and_options

        found: list[TransformSpec] = []
        for at, step in enumerate(written):
            try:
                name, options = name_and_options(step)
            except ValueError:
                hint = "write 'name', or 'name: {option: value}', each step after a '- '"
                self._report.mistake((*key, at), "not a transform", hint)
                continue
            if name.startswith(PREFIX):
                on_path(self._folder)
            elif name not in transform_names():
                hint = f"{instead(name, transform_names())}; python:module:Class is one of your own"
                self._report.mistake((*key, at), f"unknown transform {name!r}", hint)
            found.append(TransformSpec(name, options))
        return tuple(found)

    # -- what is taken, and when -----------------------------------------------------------------------------------

    def _filters(self, key: Key, model: FlowModel) -> Filters:
        rules: list[FilterRule] = []
        for name, globs in (("exclude", model.exclude), ("include", model.include)):
            for at, glob in enumerate(globs):
                if self._glob((*key, name, at), glob):
                    rules.append(FilterRule(name == "include", glob))
        for low, high in (("min_age", "max_age"), ("min_size", "max_size")):
            bounds = getattr(model, low), getattr(model, high)
            if None not in bounds and bounds[0] > bounds[1] and self._sound((*key, low), (*key, high)):
                self._report.mistake((*key, low), f"more than {high}", f"write a {low} that is at most {high}")
        return Filters(
            rules=tuple(rules),
            min_age=timedelta(seconds=model.min_age) if model.min_age is not None else None,
            max_age=timedelta(seconds=model.max_age) if model.max_age is not None else None,
            min_size=model.min_size,
            max_size=model.max_size,
        )

    def _glob(self, key: Key, glob: str) -> bool:
        try:
            FilterRule(True, glob)
        except ValueError as error:
            self._report.mistake(key, str(error), "write a glob such as *.csv or in/**/*.csv")
            return False
        return True

    def _settle(self, key: Key, model: SettleModel | None, kind: str | None) -> Settle:
        whole = kind in OBJECT_STORES
        if model is None:
            return Settle(sightings=1, seconds=0.0) if whole else Settle()
        told = model.marker is not None or model.manifest is not None
        sightings, seconds = model.sightings, model.for_
        if sightings == 1 and seconds and self._sound((*key, "for"), (*key, "sightings")):
            self._report.mistake((*key, "sightings"), "one look cannot tell 'for' how long", "write sightings: 2")
        if sightings is None:
            sightings = 2 if seconds or (seconds is None and not whole and not told) else 1
        if seconds is None:
            seconds = 0.0 if whole or told or sightings == 1 else Settle().seconds
        for at, glob in enumerate(model.temporary or ()):
            self._glob((*key, "temporary", at), glob)
        return Settle(
            sightings=sightings,
            seconds=seconds,
            min_size=model.min_size,
            marker=model.marker,
            manifest=model.manifest,
            temporary=Settle().temporary if model.temporary is None else model.temporary,
        )

    def _trigger(self, key: Key, model: TriggerModel | None, kind: str | None) -> Trigger:
        if model is None:
            return Trigger()
        if not (model.every or model.cron or model.watch) and self._sound((*key, "watch")):
            self._report.mistake(key, "a trigger that never starts", "write {every: 5m}, {cron: '…'} or {watch: true}")
        if model.every and model.cron:
            self._report.mistake(key, "both 'every' and 'cron'", "keep one of them")
        if model.watch and kind not in ("local", None):
            self._report.mistake((*key, "watch"), f"type {kind} cannot be watched", "write every: 60s instead")
        if model.jitter and not (model.every or model.cron):
            self._report.mistake((*key, "jitter"), "'jitter' without 'every' or 'cron'", "remove it")
        if model.every and model.jitter >= model.every and self._sound((*key, "every")):
            self._report.mistake((*key, "jitter"), "as long as 'every' or longer", "write a shorter time")
        if "timezone" in model.model_fields_set and not model.cron:
            self._report.mistake((*key, "timezone"), "'timezone' without 'cron'", "remove it")
        self._zone((*key, "timezone"), model.timezone)
        if model.cron is not None:
            self._cron((*key, "cron"), model.cron)
        return Trigger(
            every=model.every,
            cron=model.cron,
            timezone=model.timezone,
            jitter=model.jitter,
            watch=model.watch,
        )

    def _zone(self, key: Key, name: str) -> None:
        try:
            zone_of(name)
        except ValueError:
            message = f"no time zone is called {brief(name)}"
            self._report.mistake(key, message, "write a name such as Europe/London or UTC")

    def _cron(self, key: Key, line: str) -> None:
        """Each field by itself, so that all that is wrong is told; then all together: some days never come."""
        fields = line.split()
        alone = [" ".join(field if at == number else "*" for at in range(5)) for number, field in enumerate(fields)]
        for text in [*(alone if len(fields) == 5 else []), line]:
            try:
                Schedule(text)
            except ValueError as error:
                reason, _, hint = str(error).replace(repr(text), brief(line)).partition("; ")
                self._report.mistake(key, reason, hint or 'write five fields, such as cron: "*/5 6-20 * * 1-5"')

    # -- what follows ------------------------------------------------------------------------------------------------

    def _after(self, key: Key, model: AfterModel | None, kind: str | None) -> After:
        if model is None:
            return After()
        if model.delete and model.archive is not None:
            hint = "keep one; 'archive' with 'keep' removes the archived file later"
            self._report.mistake(key, "both 'delete' and 'archive'", hint)
        if model.keep is not None and model.archive is None:
            self._report.mistake((*key, "keep"), "'keep' without 'archive'", "add archive: .done")
        if model.tag and kind not in (*OBJECT_STORES, None):
            hint = "remove 'tag', or use 'archive' or 'delete'"
            self._report.mistake((*key, "tag"), f"type {kind} has no tags", hint)
        if model.archive is not None:
            self._archive((*key, "archive"), model.archive)
        return After(
            archive=model.archive.rstrip("/") if model.archive else None,
            keep=model.keep,
            delete=model.delete,
            tag=dict(model.tag),
            marker=model.marker,
        )

    def _archive(self, key: Key, archive: str) -> None:
        if archive.startswith("/") or ":" in archive.partition("{")[0]:
            hint = f"write {archive.rpartition(':')[2].strip('/') or '.done'!r}: it is below the flow's source"
            self._report.mistake(key, "not a folder below the source", hint)
        elif any(part in ("", ".", "..") for part in archive.rstrip("/").split("/")):
            self._report.mistake(key, "not a folder below the source", "write a folder's name such as .done")
        if "{" in archive and not re.search(r"\{(name|path|stem)\}", archive):
            self._report.mistake(key, "every file would get the same name", "write {folder}/.done/{name}")

    def _expect(self, key: Key, model: ExpectModel) -> Expectation:
        self._glob((*key, "match"), model.match)
        self._zone((*key, "timezone"), model.timezone)
        return Expectation(**model.model_dump())


def _notifications(model: NotifyModel | None) -> dict[str, Any]:
    if model is None:
        return {}
    return {
        "webhooks": tuple(
            Webhook(url=one.url, secret=one.secret, on=frozenset(one.on), allow_private=one.allow_private)
            for one in model.webhook
        ),
        "mails": tuple(
            Mail(
                to=one.to,
                sender=one.from_,
                host=one.host,
                port=one.port or _MAIL_PORTS[one.tls],
                user=one.user,
                password=one.password,
                tls=one.tls,
                on=frozenset(one.on),
            )
            for one in model.mail
        ),
    }
