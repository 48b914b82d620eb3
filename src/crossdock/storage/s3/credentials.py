"""Who signs: botocore's chain of credentials, resolved and refreshed in a thread, never on the event loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, MetadataRetrievalError

from crossdock.errors import AuthenticationFailed, ConnectionFailed, StorageError
from crossdock.storage.s3.settings import S3Settings

__all__ = ["CredentialSource", "Keys"]

_OF_OTHERS = (OSError, ValueError, LookupError, TypeError, AttributeError)
"""What botocore passes on of the programs and files that a profile or the environment names."""
_REFRESH_EVERY = 30.0
"""Seconds between tries to refresh early: with the instance's metadata service down, requests need not queue for it."""


class Keys(Protocol):
    """What a signature needs."""

    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...
    @property
    def token(self) -> str | None: ...


class _Given(NamedTuple):
    access_key: str
    secret_key: str
    token: str | None


ErrorOf = Callable[..., StorageError]


class CredentialSource:
    """The credentials of one endpoint, fresh whenever they are asked for."""

    def __init__(self, settings: S3Settings, error: ErrorOf, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._error, self._clock = settings, error, clock
        self._session: Any = None
        self._found: Any = None
        self._keys: Keys | None = None
        self._tried = float("-inf")
        self._lock = asyncio.Lock()

    async def region(self) -> str:
        """The region that is set, in the environment, or in the profile; us-east-1 if there is none."""
        if self._settings.region:
            return self._settings.region
        # As botocore, the environment first, even for a profile; its session alone takes 40 ms to load.
        return _environment_region() or await self._in_thread(self._profile_region)

    def _profile_region(self) -> str:
        found: str | None = self._opened().get_config_variable("region")
        return found or "us-east-1"

    async def current(self) -> Keys | None:
        """None: requests go unsigned. Raises `AuthenticationFailed`, or `ConnectionFailed` if their source is down."""
        if self._settings.anonymous:
            return None
        if self._keys is None or self._due():
            async with self._lock:
                if self._keys is None or self._due():
                    await self._refresh()
        return self._keys

    async def _refresh(self) -> None:
        self._tried = self._clock()
        try:
            self._keys = await asyncio.to_thread(self._given) or await self._in_thread(self._resolve)
        except StorageError:
            # Botocore refreshes minutes ahead: until the end the old ones serve.
            if self._keys is None or self._found.refresh_needed(refresh_in=60):
                raise

    def _due(self) -> bool:
        found = self._found
        if not hasattr(found, "refresh_needed") or not found.refresh_needed():
            return False
        return bool(found.refresh_needed(refresh_in=60)) or self._clock() - self._tried > _REFRESH_EVERY

    def renew(self) -> None:
        """Forget them: the endpoint says that they have expired, whatever they say themselves."""
        self._found = self._session = self._keys = None

    def _given(self) -> Keys | None:
        """Keys that are used as they are, as botocore's chain would find them first."""
        settings, environment = self._settings, os.environ
        if settings.role_arn:
            return None
        if settings.access_key_id and settings.secret_access_key:
            token = settings.session_token.reveal() if settings.session_token else None
            return _Given(settings.access_key_id, settings.secret_access_key.reveal(), token)
        key, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
        if settings.profile or not key or not secret or environment.get("AWS_CREDENTIAL_EXPIRATION"):
            return None
        return _Given(key, secret, environment.get("AWS_SECURITY_TOKEN") or environment.get("AWS_SESSION_TOKEN"))

    def _opened(self) -> Any:
        if self._session is None:
            import botocore.session

            self._session = botocore.session.Session(profile=self._settings.profile)
        return self._session

    def _resolve(self) -> Keys:
        self._found = self._found or self._chosen()
        keys: Keys = self._found.get_frozen_credentials()
        return keys

    def _chosen(self) -> Any:
        from botocore.credentials import AssumeRoleCredentialFetcher, Credentials, DeferredRefreshableCredentials

        settings, session = self._settings, self._opened()
        if settings.access_key_id and settings.secret_access_key:
            token = settings.session_token.reveal() if settings.session_token else None
            base: Any = Credentials(settings.access_key_id, settings.secret_access_key.reveal(), token)
        else:
            base = session.get_credentials()
        if base is None:
            raise self._error(
                AuthenticationFailed,
                "authenticate",
                "",
                "no credentials were found",
                hint="export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a 'profile', or set 'anonymous: true'",
            )
        if settings.role_arn is None:
            return base
        region = settings.region or _environment_region() or self._profile_region()
        fetcher = AssumeRoleCredentialFetcher(
            client_creator=lambda service, **more: session.create_client(service, region_name=region, **more),
            source_credentials=base,
            role_arn=settings.role_arn,
            extra_args={"ExternalId": settings.external_id} if settings.external_id else {},
        )
        return DeferredRefreshableCredentials(refresh_using=fetcher.fetch_credentials, method="assume-role")

    async def _in_thread(self, action: Callable[[], Any]) -> Any:
        try:
            return await asyncio.to_thread(action)
        except (HTTPClientError, MetadataRetrievalError) as error:
            reason = f"the source of the credentials does not answer: {error}"
            raise self._error(ConnectionFailed, "authenticate", "", reason) from error
        except (BotoCoreError, ClientError, *_OF_OTHERS) as error:
            hint = "check 'profile', 'role_arn' and the environment; 'aws sts get-caller-identity' uses the same chain"
            reason = f"the source of the credentials fails: {error}" if isinstance(error, _OF_OTHERS) else str(error)
            raise self._error(AuthenticationFailed, "authenticate", "", reason, hint=hint) from error


def _environment_region() -> str | None:
    """botocore itself knows only the second; Amazon's other tools put the first above it."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
