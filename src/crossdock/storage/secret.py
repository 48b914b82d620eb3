"""Secrets by reference: what stands in the user's file instead of them."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from crossdock.errors import SecretUnavailable, shown

__all__ = ["BY_REFERENCE", "Secret", "expanded", "is_reference"]

BY_REFERENCE = "secrets are written by reference: env:NAME, file:PATH, secret://aws-sm/NAME#FIELD or ssm://NAME"
_MANAGERS = ("secret", "ssm")


def is_reference(text: str) -> bool:
    """Whether a text is meant as a reference to a secret, which it may still be a wrong one."""
    return text.startswith(("env:", "file:", "secret://", "ssm://"))


def expanded(text: str) -> Path:
    """A path, `~` being the home folder. Raises `ValueError`."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"nobody here has the home folder {text.partition('/')[0]}; write the whole path") from None


class Secret:
    """A reference to a secret, resolved late and never printed.

    `env:NAME` or `file:PATH`, or what AWS keeps: `secret://aws-sm/NAME`, an entry of Secrets Manager, with `#FIELD` if
    it is a JSON object; and `ssm://NAME`, a parameter of the Parameter Store. An ARN is a name too, and tells a region.
    """

    def __init__(self, reference: str, folder: Path | None = None) -> None:
        scheme, _, rest = reference.partition(":")
        if scheme not in ("env", "file", *_MANAGERS) or not rest:
            raise ValueError(BY_REFERENCE)
        self.reference = reference
        self._scheme, self._rest, self._folder = scheme, rest, folder
        if self.managed:
            _ = self._at_aws
        _ = self.path

    @property
    def managed(self) -> bool:
        """AWS keeps it: to reveal it takes a request."""
        return self._scheme in _MANAGERS

    @property
    def path(self) -> Path | None:
        """The file of a `file:` reference."""
        if self._scheme != "file":
            return None
        path = expanded(self._rest)
        return path if path.is_absolute() or self._folder is None else self._folder / path

    @property
    def _at_aws(self) -> tuple[str, str]:
        """Name and field at AWS."""
        name, _, field = self._rest.partition("#")
        if self._scheme == "secret":
            manager, slash, name = name.removeprefix("//").partition("/")
            if not (self._rest.startswith("//") and manager == "aws-sm" and slash and name):
                raise ValueError(BY_REFERENCE)
            return name, field
        name = name.removeprefix("//")
        if not self._rest.startswith("//") or not name.strip("/") or field:
            raise ValueError(BY_REFERENCE)
        # A name with a hierarchy begins with a slash (Systems Manager, PutParameter).
        return (name if name.startswith(("/", "arn:")) or "/" not in name else f"/{name}"), ""

    def reveal(self) -> str:
        """The secret itself. Reads a file, or asks AWS: not for the event loop.

        Raises `SecretUnavailable` if the variable, file or entry is missing or not to be had, others can read the file,
        or it is empty or no text.
        """
        found = _line(self._revealed())
        if not found:
            # As a CI leaves variables that nobody has set; to sign in with nothing may lock the account.
            hint = "put it there; or, if there is none, leave the setting out"
            raise SecretUnavailable(f"the secret of {shown(self.reference)} is empty", hint=hint)
        return found

    def _revealed(self) -> str:
        if self._scheme == "env":
            return _of_environment(self._rest)
        if self.path is not None:
            return _of_file(self.path)
        from crossdock.storage.aws_secrets import of_parameter_store, of_secrets_manager

        name, field = self._at_aws
        return of_secrets_manager(name, field) if self._scheme == "secret" else of_parameter_store(name)

    def __repr__(self) -> str:
        return f"Secret({self.reference})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (other.reference, other.path) == (self.reference, self.path)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def parse(value: object, info: ValidationInfo) -> Secret:
            if isinstance(value, Secret):
                return value
            if not isinstance(value, str):
                raise ValueError(BY_REFERENCE)
            return cls(value, (info.context or {}).get("folder"))

        return core_schema.with_info_plain_validator_function(
            parse,
            json_schema_input_schema=core_schema.str_schema(pattern="^(env:|file:|secret://aws-sm/|ssm://).+"),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda secret: secret.reference),
        )


def _of_environment(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise SecretUnavailable(f"the environment variable {name} is not set", hint=f"export {name}=…")
    return value


def _of_file(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            # A pipe may be waited for without end, and be read once; a device may never end.
            raise SecretUnavailable(f"the secret's {path} is no file", hint="put it there, with mode 600")
        if stat.S_IMODE(mode) & 0o077:
            raise SecretUnavailable(f"others may read the secret in {path}", hint=f"chmod 600 {shlex.quote(str(path))}")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        # As the cause it would hold the secret.
        hint = "write it there as text; keys as ssh-keygen does"
        raise SecretUnavailable(f"the secret in {path} is no text in UTF-8", hint=hint) from None
    except OSError as error:
        few = error.errno in (errno.EMFILE, errno.ENFILE)
        hint = "raise the limit of open files (ulimit -n)" if few else "put it there, with mode 600"
        raise SecretUnavailable(f"cannot read the secret in {path}: {error.strerror}", hint=hint) from error


def _line(text: str) -> str:
    """Without the line break at the end, which editors add; of a key it is part."""
    return text if "PRIVATE KEY" in text else text.rstrip("\r\n")
