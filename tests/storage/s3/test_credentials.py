"""Where keys come from, and when they are renewed."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from crossdock.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectionFailed,
)
from crossdock.storage.s3 import S3Settings
from crossdock.storage.s3.credentials import CredentialSource
from crossdock.storage.storage import Storage
from tests.storage.s3.faults import FaultProxy
from tests.storage.s3.places import Server, backend, bucket


class TestCredentials:
    def _source(self, **settings: Any) -> CredentialSource:
        found = S3Settings(bucket="lake", **settings)
        return CredentialSource(found, found.backend("lake").error)

    async def test_none(self) -> None:
        with pytest.raises(AuthenticationFailed, match="AWS_ACCESS_KEY_ID"):
            await self._source().current()

    async def test_anonymous(self, moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        assert await self._source(anonymous=True).current() is None
        with bucket(moto) as peer:
            peer.write("name", b"public")
            settings = S3Settings(bucket=peer.bucket, endpoint_url=moto.endpoint_url, anonymous=True)
            peer.client.put_bucket_acl(Bucket=peer.bucket, ACL="public-read")
            peer.client.put_object_acl(Bucket=peer.bucket, Key="name", ACL="public-read")
            async with FaultProxy(moto) as proxy:
                settings = settings.model_copy(update={"endpoint_url": proxy.endpoint_url})
                async with Storage(settings.backend("lake")) as storage:
                    assert await storage.read_bytes("name") == b"public"
                assert all("authorization" not in sent for sent in proxy.requests)

    async def test_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
        keys = await self._source().current()
        assert keys is not None and (keys.access_key, keys.secret_key, keys.token) == ("key", "secret", "token")

    async def test_the_region(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "config").write_text("[default]\nregion = eu-west-1\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        found = [await self._source().region()]
        for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
            monkeypatch.setenv(name, name.lower())
            found.append(await self._source().region())
        assert [*found, await self._source(region="x").region()] == [
            "eu-west-1", "aws_default_region", "aws_region", "x",
        ]  # fmt: skip

    def test_keys_that_are_given_load_no_chain(self) -> None:
        """The chain takes longer to load than a small file to move."""
        code = """if True:
            import asyncio, sys
            from crossdock.storage.s3.settings import S3Settings
            source = S3Settings(bucket="lake").backend("lake").client.credentials
            keys = asyncio.run(source.current())
            print(*keys, asyncio.run(source.region()), "botocore.session" in sys.modules)
        """
        environment = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "eu-west-2"}
        told = subprocess.run(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        assert told.stdout == "key secret None eu-west-2 False\n"

    async def test_a_profile(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        file = tmp_path / "credentials"
        file.write_text("[partner]\naws_access_key_id = key\naws_secret_access_key = secret\nregion = eu-west-2\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        source = self._source(profile="partner")
        keys = await source.current()
        assert keys is not None and keys.access_key == "key"
        assert await source.region() == "eu-west-2"
        with pytest.raises(AuthenticationFailed, match="other"):
            await self._source(profile="other").current()

    @pytest.mark.parametrize(
        ("profile", "words"),
        [
            ("credential_process = /nonexistent/program", "No such file or directory: '/nonexistent/program'"),
            ("credential_process = echo no JSON", "Expecting value"),
            ("credential_process = echo []", "the source of the credentials fails"),
            ('credential_process = echo "', "No closing quotation"),
            ("role_arn = arn:aws:iam::1:role/x\nweb_identity_token_file = /nonexistent/token", "'/nonexistent/token'"),
        ],
    )
    async def test_a_source_that_fails(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: str, words: str
    ) -> None:
        (tmp_path / "config").write_text(f"[profile p]\n{profile}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        with pytest.raises(AuthenticationFailed, match=re.escape(words)) as caught:
            await self._source(profile="p").current()
        assert caught.value.hint

    @pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_REGION"])
    async def test_a_line_break_in_the_environment(
        self, moto: Server, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        """As a file that was read into a variable has at its end."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.setenv(name, "hunter2")
        monkeypatch.setenv(variable, "hunter2\n")
        settings = S3Settings(bucket="lake", endpoint_url=moto.endpoint_url, conditional_writes="off")
        async with Storage(settings.backend("lake")) as storage:
            with pytest.raises(ConfigError, match=r"stat lake:x: .* line break") as caught:
                await storage.stat("x")
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(("wrong", "code"), [("id", "InvalidAccessKeyId"), ("secret", "SignatureDoesNotMatch")])
    async def test_keys_that_were_replaced_are_no_missing_right(
        self, wrong: str, code: str, ceph: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For keys a flow waits; a transfer without the right fails. A HEAD is refused in the same way for either."""
        with bucket(ceph) as peer:
            there = backend(ceph, peer.bucket, monkeypatch)
            async with Storage(there) as storage:
                monkeypatch.setenv("TEST_S3_REPLACED", "replaced" if wrong == "secret" else ceph.secret_key)
                there.client.credentials = self._source(
                    access_key_id="REPLACED" if wrong == "id" else ceph.access_key,
                    secret_access_key="env:TEST_S3_REPLACED",
                )
                with pytest.raises(AuthenticationFailed, match=code):
                    await storage.stat("name")

    @pytest.mark.parametrize("given", [True, False])
    async def test_a_role(self, moto: Server, monkeypatch: pytest.MonkeyPatch, given: bool) -> None:
        """Assumed at moto's STS, off the loop."""
        own: dict[str, Any] = {"access_key_id": "key", "secret_access_key": "env:TEST_S3_SECRET"} if given else {}
        monkeypatch.setenv("TEST_S3_SECRET" if given else "AWS_SECRET_ACCESS_KEY", "secret")
        if not given:
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto.endpoint_url)
        source = self._source(role_arn="arn:aws:iam::123456789012:role/mover", external_id="partner", **own)
        keys = await source.current()
        assert keys is not None and keys.access_key != "key" and keys.token

    async def test_renewed_ahead_in_a_thread_and_kept_while_they_last(self) -> None:
        """A source that is down for a while does no harm until the keys have really ended."""
        source = self._source()
        made, fails, left = [], False, 3600
        where = set()

        class Found:
            def refresh_needed(self, refresh_in: int = 900) -> bool:
                return left < refresh_in

            def get_frozen_credentials(self) -> object:
                where.add(threading.current_thread())
                if fails:
                    raise source._error(ConnectionFailed, "authenticate", "", "down")
                made.append(object())
                return made[-1]

        now = 0.0
        source._clock = lambda: now
        source._chosen = Found  # type: ignore[method-assign]
        assert await source.current() is await source.current() is made[0]
        left, fails = 500, True
        now = 100.0
        assert await source.current() is made[0]
        left = 30
        with pytest.raises(ConnectionFailed):
            await source.current()
        fails = False
        results = await asyncio.gather(*[source.current() for _ in range(5)])
        assert len(made) >= 2 and made[0] not in results
        assert threading.main_thread() not in where
