"""The shape of a flow in the user's file. What the values mean together is for `building` and `checks`."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from crossdock.config.values import Days, OneOrMore, TimeOfDay, Wrong, raise_all
from crossdock.storage.secret import Secret
from crossdock.storage.settings import ByteSize, Seconds

__all__ = ["AfterModel", "ExpectModel", "FlowModel", "NotifyModel", "RuleModel", "SettleModel", "TriggerModel"]

Happening = Literal["delivered", "failed", "late"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)


def _match(value: object) -> object:
    return {"regex": value} if isinstance(value, str) else value


def _settle(value: object) -> object:
    return {"for": 0, "sightings": 1} if value == "none" else value


class MatchModel(_Model):
    """A regular expression, written alone, or `{glob: …}`; either must match the whole path below the source."""

    regex: str | None = Field(default=None, min_length=1)
    """A regular expression of Python's `re`. Named groups, `(?P<feed>…)`, are words of the template."""
    glob: str | None = Field(default=None, min_length=1)
    """`**/*.csv`; without a slash it matches a name at any depth."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.regex is None) == (self.glob is None):
            raise Wrong("one of regex and glob", "write match: 'REGEX', or match: {glob: '**/*.csv'}")
        return self


class RuleModel(_Model):
    """The first rule whose `match` fits the whole path of a file below the source decides where it goes."""

    match: Annotated[MatchModel | None, BeforeValidator(_match)] = None
    """A regular expression, or `{glob: "**/*.csv"}`. Left out: every file."""
    to: OneOrMore[str]
    """`name:template`, several of them, `python:module.function`, or `none`: matching files are left where they are."""
    transform: OneOrMore[str | dict[str, Any]] = ()
    """What is done to the bytes on their way: names, or `{name: {option: value}}`."""
    name: str | None = Field(default=None, min_length=1)
    """As messages show it; default: `rules[0]`."""


class TriggerModel(_Model):
    """What starts the flow. Without a trigger it runs on demand only."""

    every: Seconds | None = Field(default=None, ge=1)
    """From start to start; a run that takes longer delays the next, they never overlap."""
    cron: str | None = None
    """Five fields: minute, hour, day of the month, month, day of the week."""
    timezone: str = "UTC"
    """Of `cron`, such as Europe/London."""
    jitter: Seconds = Field(default=0, ge=0)
    """Up to this much is added to each start, so that not everything starts at once."""
    watch: bool = False
    """Look as soon as something changes in a local source. `every` (5m by default) finds what the watch missed."""


class SettleModel(_Model):
    """When a file counts as finished by its sender; all that is given must hold."""

    for_: Seconds | None = Field(default=None, alias="for", ge=0)
    """It has kept its size and time for this long. Default: 2s; 0 for object stores, which show only whole files."""
    sightings: int | None = Field(default=None, ge=1, le=1000)
    """Looks in a row that found it unchanged. Default: 2; 1 for object stores, or with a marker or manifest."""
    min_size: ByteSize = Field(default=0, ge=0)
    """Smaller files wait: 1 for servers that show a file before its first byte."""
    marker: str | None = Field(default=None, min_length=1)
    """Template of a name beside the file that says it is finished: `{name}.done`, `{stem}.ok`."""
    manifest: str | None = Field(default=None, min_length=1)
    """Template of a file that lists finished names, one a line; a SHA-256 before one is not compared."""
    temporary: OneOrMore[str] | None = None
    """Globs of the names that senders use while they write; they are never taken. Default: `*.part`, `*.tmp`, …"""


class AfterModel(_Model):
    """What follows once every destination of a file is delivered. Nothing given: the source stays as it is."""

    archive: str | None = Field(default=None, min_length=1)
    """Move the source file: a folder below the source that keeps the tree (`.done`), or `{folder}/.done/{name}`."""
    keep: Seconds | None = Field(default=None, gt=0)
    """How long archived files are kept, counted from the move. Default: forever."""
    delete: bool = False
    """Remove the source file."""
    tag: dict[str, str] = Field(default={})
    """Tags that are set on the source object, where the store has them."""
    marker: str | None = Field(default=None, min_length=1)
    """Template of an empty file that is written beside each delivered one: `{name}.done`."""


class WebhookModel(_Model):
    """A POST of JSON, repeated until it is accepted."""

    url: str = Field(examples=["https://hooks.example.com/crossdock"])
    """https://…"""
    secret: Secret | None = None
    """The key that deliveries are signed with (HMAC-SHA256)."""
    on: OneOrMore[Happening] = ("delivered",)
    allow_private: bool = False
    """Addresses of this machine and of private networks are refused otherwise."""

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        _ = parts.port
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Wrong("not the address of a web server", "write https://host/path")
        if parts.username is not None or parts.password is not None:
            raise Wrong("a secret may not be written into this file", "sign with 'secret: env:NAME' instead")
        return value

    @model_validator(mode="after")
    def _public(self) -> Self:
        host = urlsplit(self.url).hostname or ""
        try:
            private = not ipaddress.ip_address(host).is_global
        except ValueError:
            private = host == "localhost" or host.endswith(".localhost")
        if private and not self.allow_private:
            raise Wrong(f"{host} is not a public address", "add 'allow_private: true' if that is meant")
        if not self.allow_private and urlsplit(self.url).scheme != "https":
            raise Wrong("not encrypted", "write https://…, or add 'allow_private: true' for a receiver of your own")
        return self


class MailModel(_Model):
    """A mail through an SMTP server."""

    to: OneOrMore[str] = Field(examples=["ops@example.com"])
    from_: str = Field(alias="from", examples=["crossdock@example.com"])
    """The sender's address."""
    host: str = Field(min_length=1)
    """The SMTP server."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """Default: 587; 465 with `tls: implicit`, 25 with `tls: none`."""
    user: str | None = None
    password: Secret | None = None
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    """`none`: mail goes in clear text, and nobody signs in."""
    on: OneOrMore[Happening] = ("failed", "late")

    @field_validator("to", "from_")
    @classmethod
    def _addresses(cls, value: Any) -> Any:
        found = (value,) if isinstance(value, str) else value
        if not found:
            raise Wrong("no address", "write name@host.example")
        parts = {address: address.rpartition("@") for address in found}
        raise_all(
            Wrong(f"not a mail address: {address[:60]!r}", "write name@host.example")
            for address, (name, _, host) in parts.items()
            if not name or not host or any(c.isspace() or not c.isprintable() or c in ",;<>" for c in address)
        )
        return value

    @model_validator(mode="after")
    def _sign_in(self) -> Self:
        wrong = []
        if (self.user is None) != (self.password is None):
            wrong.append(Wrong("user and password belong together", "write both, or neither"))
        if self.password is not None and self.tls == "none":
            wrong.append(Wrong("a password would be sent in clear text", "write tls: starttls or tls: implicit"))
        raise_all(wrong)
        return self


class NotifyModel(_Model):
    """Whom to tell."""

    webhook: OneOrMore[WebhookModel] = ()
    mail: OneOrMore[MailModel] = ()


class RetryModel(_Model):
    """Bounds on the attempts at one transfer. Each wait is random, up to `base` × 2^n, at most `longest`."""

    attempts: int = Field(default=8, ge=1, le=1000)
    """After so many, the transfer has failed; 'crossdock transfers retry' takes it up again."""
    give_up: Seconds = Field(default=86400, gt=0)
    """Counted from the moment the transfer was planned, or was put back after it had ended."""
    base: Seconds = Field(default=5, gt=0)
    longest: Seconds = Field(default=900, gt=0)


class ExpectModel(_Model):
    """Files that must have come by a time of day; else the flow is late."""

    match: str = Field(min_length=1)
    """A glob on the path below the source."""
    by: TimeOfDay = Field(examples=["06:30"])
    """Hours and minutes: "06:30"."""
    timezone: str = "UTC"
    days: Days = frozenset(range(7))
    """`mon..fri`, or a list: `[mon, wed, sat]`. Default: every day."""
    min_count: int = Field(default=1, ge=1)
    min_size: ByteSize = Field(default=0, ge=0)
    """Smaller files do not count."""


class TestModel(_Model):
    """A case of the rules, tried by `crossdock check`."""

    file: str = Field(min_length=1)
    """A path below the source."""
    to: OneOrMore[str]
    """Where it must go, `name:path`; `none`: nowhere."""


class FlowModel(_Model):
    """Which files of one place go where, when, and what follows."""

    source: str = Field(min_length=1)
    """`name:folder`: all that is below it is looked at."""
    to: OneOrMore[str] | None = None
    """Every file goes here (`lake:`, `lake:in/{path}`); instead of `rules`."""
    transform: OneOrMore[str | dict[str, Any]] = ()
    """With `to`: what is done to the bytes on their way: names, or `{name: {option: value}}`."""
    rules: tuple[RuleModel, ...] | None = None
    """Ordered; the first that matches decides."""
    trigger: TriggerModel | None = None
    settle: Annotated[SettleModel | None, BeforeValidator(_settle)] = None
    """When a file counts as finished by its sender; `none`: as soon as it is seen."""
    include: OneOrMore[str] = ()
    """Globs; if there are any, other files are left out."""
    exclude: OneOrMore[str] = ()
    """Globs; they go before `include`."""
    min_age: Seconds | None = Field(default=None, ge=0)
    """Younger files are left out, by the modification time at the source."""
    max_age: Seconds | None = Field(default=None, gt=0)
    """Older files are left out."""
    min_size: ByteSize | None = Field(default=None, ge=0)
    """Smaller files are left out."""
    max_size: ByteSize | None = Field(default=None, ge=0)
    """Larger files are left out."""
    unmatched: Literal["ignore", "fail"] = "ignore"
    """What a file is that no rule takes: left alone and reported, or a failure of the run."""
    on_conflict: Literal["overwrite", "skip", "fail", "version"] = "overwrite"
    """What is done when the destination holds another file of that name."""
    after: AfterModel | None = None
    retry: RetryModel | None = None
    notify: NotifyModel | None = None
    order: Literal["oldest", "newest", "name"] = "oldest"
    """Which files go first."""
    max_files: int | None = Field(default=None, ge=1)
    """Per run; the rest waits for the next."""
    max_bytes: ByteSize | None = Field(default=None, ge=1)
    """Per run; the rest waits for the next."""
    expect: OneOrMore[ExpectModel] = ()
    tests: tuple[TestModel, ...] = ()
