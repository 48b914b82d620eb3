"""The endpoint that the configuration of the AWS tools names: environment, then profile.

"Service-specific endpoints" in the AWS SDKs and Tools Reference Guide.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from crossdock.errors import ConfigError

__all__ = ["configured_endpoint"]

_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_IGNORE = "ignore_configured_endpoint_urls"


def configured_endpoint(profile: str | None) -> tuple[str, str] | None:
    """The URL, and the words for where it was found. None: none is named. Raises `ConfigError` for a broken file.

    `profile`: None is the one that the environment names, else `default`, as for credentials.
    """
    environment = os.environ
    if environment.get(f"AWS_{_IGNORE.upper()}", "").lower() == "true":
        return None
    for name in _VARIABLES:
        if found := environment.get(name):
            return found, f"environment variable {name}"
    # In botocore's order.
    profile = profile or environment.get("AWS_DEFAULT_PROFILE") or environment.get("AWS_PROFILE") or "default"
    file = environment.get("AWS_CONFIG_FILE") or "~/.aws/config"
    whole = _read(file, "load_config")
    more = _read(environment.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials", "raw_config_parse")
    chosen = {**whole.get("profiles", {}).get(profile, {}), **more.get(profile, {})}
    chosen = {name: text for name, text in chosen.items() if isinstance(text, str)}
    if chosen.get(_IGNORE, "").lower() == "true":
        return None
    of_s3 = whole.get("services", {}).get(chosen.get("services"), {}).get("s3")
    url = (of_s3.get("endpoint_url") if isinstance(of_s3, dict) else None) or chosen.get("endpoint_url")
    return (url, f"profile {profile} in {file}") if url else None


def _read(file: str, parser: str) -> dict[str, Any]:
    path = Path(os.path.expandvars(file))
    try:
        path = path.expanduser()
        status = path.stat()
    except (OSError, RuntimeError):
        # Without a home there is no such file.
        return {}
    return _parsed(path, parser, status.st_mtime_ns, status.st_size)


@lru_cache(8)
def _parsed(file: Path, parser: str, modified: int, size: int) -> dict[str, Any]:
    """`parser`: of botocore, loaded only for a file that names an endpoint at all."""
    try:
        if b"endpoint_url" not in file.read_bytes():
            return {}
    except OSError:
        return {}
    try:
        from botocore import configloader
        from botocore.exceptions import ConfigParseError
    except ModuleNotFoundError:
        # Whoever opens the endpoint is told so; who only checks the configuration need not have it.
        return {}
    try:
        found: dict[str, Any] = getattr(configloader, parser)(str(file))
    except ConfigParseError as error:
        raise ConfigError(str(error), hint=f"correct {file}; 'aws configure list' reads it as well") from None
    return found
