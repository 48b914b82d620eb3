"""What the user writes about an S3 endpoint."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from crossdock.errors import ConfigError
from crossdock.storage.s3.profiles import configured_endpoint
from crossdock.storage.secret import Secret, is_reference
from crossdock.storage.settings import ByteSize, EndpointSettings, FilePath, Seconds, query_of

__all__ = ["LARGEST_PART", "MIB", "S3Settings", "amazon_url"]

MIB = 1024**2
GIB = 1024**3
LARGEST_PART = 5 * GIB
"""Also the largest object that CopyObject takes (Amazon S3 user guide, "multipart upload limits")."""

_SUFFIX = "amazonaws.com"
_SUFFIXES = {
    "cn-": "amazonaws.com.cn",
    "eusc-": "amazonaws.eu",
    "us-iso-": "c2s.ic.gov",
    "us-isob-": "sc2s.sgov.gov",
    "us-isof-": "csp.hci.ic.gov",
    "eu-isoe-": "cloud.adc-e.uk",
}


def _bucket(value: str) -> str:
    if "/" in value:
        raise ValueError("write the bucket's name alone, such as acme-landing; a folder in it goes to root")
    if value.endswith("--x-s3"):
        raise ValueError("directory buckets (S3 Express One Zone) take sessions, which crossdock has none of")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{1,254}", value):
        raise ValueError("a bucket's name has letters, digits, dots and hyphens only, and two or more")
    return value


def _key_id(value: str) -> str:
    if is_reference(value):
        raise ValueError("write the id itself, which is no secret; or leave both out and export AWS_ACCESS_KEY_ID")
    return value


def _endpoint_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or parts.query or parts.fragment:
        raise ValueError("write the endpoint as https://host or https://host:port")
    if parts.username or parts.password:
        raise ValueError("no credentials in the endpoint's URL")
    # Hosts are signed in lower case.
    return parts._replace(netloc=parts.netloc.lower()).geturl().rstrip("/")


def _from_query(value: object) -> object:
    """In a URL's query, tags are written `tags=team:ops,stage:prod`."""
    if not isinstance(value, str):
        return value
    pairs = [pair.partition(":") for pair in value.split(",") if pair]
    return {name: text for name, _, text in pairs}


class S3Settings(EndpointSettings):
    """A bucket, or a prefix in one, at Amazon S3 or any store that speaks its protocol.

    Credentials come from the standard chain of the AWS tools (environment, profile, SSO, web identity, container,
    instance) unless `access_key_id` and `secret_access_key` or `anonymous` are given; `role_arn` is then assumed.
    """

    backend_class = "crossdock.storage.s3.backend:S3Backend"
    type: Literal["s3"] = "s3"
    bucket: Annotated[str, AfterValidator(_bucket)]
    endpoint_url: Annotated[str, AfterValidator(_endpoint_url)] | None = None
    """Default: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the profile's, else Amazon's endpoint of the region."""
    region: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]+$")
    """Default: AWS_REGION, AWS_DEFAULT_REGION, the profile's, else us-east-1."""
    profile: str | None = None
    access_key_id: Annotated[str, AfterValidator(_key_id)] | None = None
    secret_access_key: Secret | None = None
    session_token: Secret | None = None
    role_arn: str | None = None
    external_id: str | None = None
    anonymous: bool = False
    addressing: Literal["auto", "path", "virtual"] = "auto"
    """auto: path (host/bucket) with an `endpoint_url` or a dot in the bucket's name; else virtual (bucket.host)."""

    part_size: ByteSize = Field(default=8 * MIB, ge=5 * MIB, le=LARGEST_PART)
    """Bytes. Files up to this size are sent as one request. Parts grow where 10,000 of them would not do."""
    part_concurrency: int = Field(default=4, ge=1, le=64)
    """Parts of one file sent at once. Memory of a write: (part_concurrency + 1) × part_size; larger parts: Concepts."""
    read_concurrency: int = Field(default=4, ge=1, le=64)
    """Ranges of one file fetched at once. Memory of a read: read_concurrency × part_size."""
    copy_threshold: ByteSize = Field(default=LARGEST_PART, ge=0, le=LARGEST_PART)
    """Bytes. Larger files are copied within the store part by part."""
    copy_part_size: ByteSize = Field(default=256 * MIB, ge=5 * MIB, le=LARGEST_PART)
    uniform_parts: bool = False
    """All parts of equal size, as Cloudflare R2 demands; a file of unknown size is then limited to 10,000 parts."""
    max_connections: int = Field(default=64, ge=1, le=1024)

    storage_class: str | None = None
    sse: Literal["AES256", "aws:kms"] | None = None
    kms_key_id: str | None = None
    acl: str | None = None
    tags: Annotated[dict[str, str], BeforeValidator(_from_query)] = Field(default={})
    content_type: str | None = None
    """Default: guessed from the name."""
    expected_bucket_owner: str | None = None
    requester_pays: bool = False
    checksum: Literal["auto", "none"] = "auto"
    """auto: at Amazon, SHA-256 per part is also kept with the object; elsewhere it only signs what is sent."""
    conditional_writes: Literal["auto", "on", "off"] = "auto"
    """Whether the store honours If-None-Match. auto: yes at Amazon; elsewhere a hidden object is written to see."""
    listing: Literal["flat", "folders"] = "flat"
    """folders: walk prefix by prefix, for stores that list out of order."""

    ca_file: FilePath | None = None
    """Authorities to trust (PEM), or the server's own certificate, instead of the system's authorities."""
    timeout: Seconds = Field(default=60, gt=0)
    """Seconds of silence after which a request is given up."""
    connect_timeout: Seconds = Field(default=10, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key belong together; write both, or neither")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token needs access_key_id and secret_access_key")
        given = [name for name in ("anonymous", "access_key_id", "profile") if getattr(self, name)]
        if len(given) > 1 or (self.anonymous and self.role_arn):
            raise ValueError("choose one of anonymous, access_key_id, profile; anonymous takes no role_arn")
        if self.external_id is not None and self.role_arn is None:
            raise ValueError("external_id needs role_arn")
        if self.kms_key_id is not None and self.sse != "aws:kms":
            raise ValueError("kms_key_id needs sse: aws:kms")
        if self.endpoint_url and urlsplit(self.endpoint_url).path == f"/{self.bucket}":
            raise ValueError("endpoint_url has the bucket in it; write https://host or https://host:port")
        return self

    @classmethod
    def from_url(cls, url: SplitResult) -> tuple[Self, str]:
        """`s3://bucket/key?endpoint_url=…&region=…`."""
        if not url.netloc:
            raise ValueError("write s3://bucket/key")
        return cls(**{**query_of(url), "bucket": url.netloc}), url.path.removeprefix("/")

    @property
    def service_url(self) -> str | None:
        """The endpoint given here, in the environment or by the profile; None: Amazon's. Raises `ConfigError`."""
        if self.endpoint_url:
            return self.endpoint_url
        found = configured_endpoint(self.profile)
        if found is None:
            return None
        url, where = found
        try:
            return _endpoint_url(url)
        except ValueError as error:
            hint = "set it to an address like https://s3.example, or remove it"
            raise ConfigError(f"{where}: {error}", hint=hint) from None

    @property
    def amazon(self) -> bool:
        """Whether it is Amazon's own, also by a private (VPC) or dual-stack endpoint."""
        url = self.service_url
        host = urlsplit(url).hostname or "" if url else f".{_SUFFIX}"
        return host.endswith(tuple(f".{suffix}" for suffix in (_SUFFIX, *_SUFFIXES.values())))

    def looking(self) -> Self:
        return self if self.conditional_writes != "auto" else self.model_copy(update={"conditional_writes": "off"})

    def identity(self) -> str:
        """Tells credentials apart without resolving them: equal identities in a process sign alike."""
        if self.anonymous:
            return "anonymous"
        base = f"profile={self.profile or ''},key={self.access_key_id or ''}"
        return f"{base},role={self.role_arn},{self.external_id or ''}" if self.role_arn else base


def amazon_url(region: str) -> str:
    """Amazon's endpoint of a region, in its partition."""
    suffix = next((suffix for start, suffix in _SUFFIXES.items() if region.startswith(start)), _SUFFIX)
    return f"https://s3.{region}.{suffix}"
