"""What AWS keeps secret, in Secrets Manager and the Parameter Store, asked through botocore; it blocks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import Any

from crossdock.errors import NotInstalled, SecretUnavailable, shown

__all__ = ["of_parameter_store", "of_secrets_manager"]

_REMEMBERED = 60.0
"""Seconds for which what was found is used again: sixteen connections ask once, and what is rotated is soon noticed."""
_PATIENCE = 10.0
_REQUESTS = 3

_known: dict[tuple[str, str], tuple[float, str]] = {}
_locks: dict[tuple[str, str], Lock] = {}
"""Each is asked for by one thread at a time; none waits for another's."""


def of_secrets_manager(name: str, field: str = "") -> str:
    """A secret's text, or a field of it if it is a JSON object. `name`: or its ARN. Raises `SecretUnavailable`."""

    def ask(client: Any) -> str:
        answer = client.get_secret_value(SecretId=name)
        text = answer.get("SecretString")
        return str(text) if text is not None else answer["SecretBinary"].decode()

    text = _kept("secretsmanager", name, ask)
    if field:
        return _field(name, text, field)
    fields = _fields(text)
    if fields is not None:
        # As RDS and the console's key/value pairs are kept: no server takes all of it for a password.
        hint = f"write which one: …#{'password' if 'password' in fields else 'FIELD'}" if fields else "keep it as text"
        raise _unavailable(name, f"it is a JSON object; it has {_named(fields)}", hint)
    return text


def of_parameter_store(name: str) -> str:
    """A parameter, decrypted. `name`: or its ARN. Raises `SecretUnavailable`."""

    def ask(client: Any) -> str:
        return str(client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])

    return _kept("ssm", name, ask)


def _field(name: str, text: str, field: str) -> str:
    found = _fields(text)
    if found is None:
        raise _unavailable(name, "it is no JSON object, so it has no fields", f"write it without #{field}")
    value = found.get(field)
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        what = "is no text" if field in found else "is not there"
        raise _unavailable(
            name, f"its field {field} {what}; it has {_named(found)}", "write one that is a text after #"
        )
    return str(value)


def _fields(text: str) -> dict[str, Any] | None:
    """What a JSON object holds; None if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _named(fields: dict[str, Any]) -> str:
    return shown(", ".join(sorted(fields))) or "none"


def _kept(service: str, name: str, ask: Callable[[Any], str]) -> str:
    key = service, name
    with _locks.setdefault(key, Lock()):
        known = _known.get(key)
        if known is not None and monotonic() - known[0] < _REMEMBERED:
            return known[1]
        text = _asked(service, name, ask)
        _known[key] = monotonic(), text
        return text


def _asked(service: str, name: str, ask: Callable[[Any], str]) -> str:
    try:
        from botocore.config import Config
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            NoCredentialsError,
            NoRegionError,
            PartialCredentialsError,
        )
        from botocore.session import Session
    except ModuleNotFoundError as error:
        hint = "pip install 'crossdock[aws]'"
        raise NotInstalled(f"a secret that AWS keeps needs the package {error.name}", hint=hint) from error
    # arn:PARTITION:SERVICE:REGION:ACCOUNT:… Else what botocore alone does not read, and then what it reads.
    region = name.split(":")[3] if name.startswith("arn:") and name.count(":") > 4 else os.environ.get("AWS_REGION")
    patience = Config(connect_timeout=_PATIENCE, read_timeout=_PATIENCE, retries={"total_max_attempts": _REQUESTS})
    try:
        return ask(Session().create_client(service, region_name=region or None, config=patience))
    except ClientError as error:
        said = error.response.get("Error", {})
        code, message = str(said.get("Code", "")), str(said.get("Message", ""))
        raise _unavailable(name, shown(f"{code}: {message}"), _hint(service, code)) from error
    except NoRegionError as error:
        raise _unavailable(name, "no region is set", "export AWS_REGION, or write its ARN") from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        hint = "give this process a role, or export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise _unavailable(name, "no credentials were found", hint) from error
    except UnicodeDecodeError:
        # Its message, and itself as the cause, would hold a part of the secret.
        raise _unavailable(name, "it is no text in UTF-8", "keep it there as text") from None
    except (BotoCoreError, ValueError) as error:
        raise _unavailable(name, shown(str(error)), "see that AWS can be reached from here") from error
    except (OSError, LookupError, TypeError, AttributeError) as error:
        # What botocore passes on of the programs and files that a profile or the environment names.
        reason = f"the source of the credentials fails: {shown(str(error))}"
        raise _unavailable(name, reason, "mend what the profile or the environment names") from error


def _hint(service: str, code: str) -> str:
    action = "secretsmanager:GetSecretValue" if service == "secretsmanager" else "ssm:GetParameter"
    if code in ("ResourceNotFoundException", "ParameterNotFound"):
        return "check its name, and the region: AWS_REGION, or the one of its ARN"
    if "AccessDenied" in code or code in ("DecryptionFailure", "DecryptionFailureException"):
        return f"allow this role {action} on it, and kms:Decrypt on its key if it has one of its own"
    return f"see that this machine's clock and credentials are right, and may use {action}"


def _unavailable(name: str, reason: str, hint: str) -> SecretUnavailable:
    return SecretUnavailable(f"AWS does not give the secret {shown(name)}: {reason}", hint=hint)
