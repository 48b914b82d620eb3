"""Answers become errors."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from crossdock.errors import (
    AlreadyExists,
    AuthenticationFailed,
    ConnectionFailed,
    CrossdockError,
    IntegrityError,
    InvalidPath,
    NoSpace,
    NotADirectory,
    NotAFile,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    Throttled,
    TimedOut,
    Unsupported,
)
from crossdock.storage.s3.faults import Place, refusal_of, refused

PLACE = Place("lake", "read", "name", "bucket", "s3:GetObject", "https://s3.example")


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "code", "kind", "hint"),
        [
            (404, "NoSuchKey", NotFound, ""),
            (404, "NoSuchBucket", NotFound, "endpoint_url"),
            (404, "NoSuchVersion", NotFound, ""),
            (403, "AccessDenied", PermissionDenied, "s3:GetObject"),
            (403, "InvalidObjectState", PermissionDenied, "Glacier"),
            (403, "InvalidAccessKeyId", AuthenticationFailed, "access key"),
            (403, "SignatureDoesNotMatch", AuthenticationFailed, "secret key"),
            (403, "RequestTimeTooSkewed", AuthenticationFailed, "there 2001-02-03 04:05:06"),
            (400, "ExpiredToken", AuthenticationFailed, "renew"),
            (301, "PermanentRedirect", Unsupported, "region: eu-west-3"),
            (400, "AuthorizationHeaderMalformed", Unsupported, "region: eu-west-3"),
            (400, "KMS.DisabledException", PermissionDenied, "kms:"),
            (503, "SlowDown", Throttled, "max_connections"),
            (503, "SlowDownWrite", Throttled, "max_connections"),
            (503, "ServerBusy", Throttled, ""),
            (503, "ServiceUnavailable", Throttled, ""),
            (429, "TooManyRequests", Throttled, ""),
            (409, "OperationAborted", Throttled, ""),
            (500, "InternalError", ConnectionFailed, ""),
            (599, "Whatever", ConnectionFailed, ""),
            (400, "AccessControlListNotSupported", Unsupported, "'acl'"),
            (400, "XMinioAdminBucketQuotaExceeded", NoSpace, ""),
            (418, "Teapot", ProtocolViolation, ""),
            (403, "Whatever", PermissionDenied, ""),
            (403, "SecondLevelDomainForbidden", PermissionDenied, "addressing: virtual"),
            (403, "PathStyleDomainForbidden", PermissionDenied, "addressing: virtual"),
            (403, "VirtualHostDomainRequired", PermissionDenied, "addressing: virtual"),
            (403, "ObjectNotInActiveTierError", PermissionDenied, "restore"),
            (400, "InvalidRegionName", Unsupported, "'region'"),
            (400, "InvalidObjectName", InvalidPath, ""),
            (404, "NoSuchThing", NotFound, ""),
            (429, "RateLimitExceeded", Throttled, ""),
            (503, "Whatever", Throttled, ""),
            (400, "RequestTimeout", TimedOut, ""),
            (400, "BadDigest", IntegrityError, ""),
            (400, "XAmzContentSHA256Mismatch", IntegrityError, ""),
            (400, "InvalidPart", IntegrityError, ""),
            (400, "KeyTooLongError", InvalidPath, "1024"),
            (400, "XMinioInvalidResourceName", InvalidPath, ""),
            (400, "XMinioParentIsObject", NotADirectory, ""),
            (400, "XMinioObjectExistsAsDirectory", NotAFile, ""),
            (400, "EntityTooLarge", Unsupported, "lower 'part_size'"),
            (501, "NotImplemented", Unsupported, "option"),
            (403, "QuotaExceeded", NoSpace, "quota"),
            (507, "XMinioStorageFull", NoSpace, "free"),
            (412, "PreconditionFailed", AlreadyExists, ""),
        ],
    )
    def test_codes(self, status: int, code: str, kind: type[CrossdockError], hint: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>why\x1b</Message><Region>eu-west-3</Region></Error>".encode()
        body = body.replace(b"\x1b", b"")
        error = refused(PLACE, refusal_of(status, {"date": "Sat, 03 Feb 2001 04:05:06 GMT"}, body))
        assert type(error) is kind
        assert code in str(error) and "why" in str(error) and "lake:name" in str(error)
        assert hint in (error.hint or "")

    @pytest.mark.parametrize("body", [b"", b"<Error><Code>RequestTimeTooSkewed</Code></Error>"], ids=["HEAD", "GET"])
    def test_a_wrong_clock_is_no_missing_right(self, body: bytes) -> None:
        """Which would end each file's transfer; and it may be right within a minute."""
        error = refused(PLACE, refusal_of(403, {"date": "Sat, 03 Feb 2001 04:05:06 GMT"}, body))
        assert (type(error), error.retry_after) == (AuthenticationFailed, 60)
        assert "set this machine's clock" in (error.hint or "")

    @pytest.mark.parametrize(
        ("status", "code", "message", "kind", "hint"),
        [
            (400, "InvalidPart", "All non-trailing parts must have the same length.", Unsupported, "uniform_parts"),
            (400, "InvalidArgument", "Part number must be an integer between 1 and 1000, inclusive", Unsupported,
             "part_size"),
            (403, "AccessDenied", "The bucket must be addressed using the specified endpoint.", PermissionDenied,
             "endpoint_url"),
        ],
    )  # fmt: skip
    def test_words(self, status: int, code: str, message: str, kind: type[CrossdockError], hint: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        error = refused(PLACE, refusal_of(status, {}, body))
        assert type(error) is kind and hint in (error.hint or "")

    @pytest.mark.parametrize(
        ("status", "kind"),
        [(401, PermissionDenied), (403, PermissionDenied), (404, NotFound), (500, ConnectionFailed), (503, Throttled),
         (429, Throttled), (504, TimedOut), (416, ProtocolViolation), (507, NoSpace), (407, AuthenticationFailed)],
    )  # fmt: skip
    @pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"\xff\xfe", b"<!DOCTYPE a>"], ids=repr)
    def test_statuses(self, status: int, kind: type[CrossdockError], body: bytes) -> None:
        assert type(refused(PLACE, refusal_of(status, {}, body))) is kind

    @pytest.mark.parametrize(
        ("status", "hint"), [(413, "client_max_body_size"), (502, "a proxy"), (504, "raise its timeout")]
    )
    def test_what_a_proxy_says_is_not_laid_to_the_store(self, status: int, hint: str) -> None:
        assert hint in (refused(PLACE, refusal_of(status, {}, b"<html>nginx</html>")).hint or "")

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("7", 7), ("soon", None), ("", None), ("999999999", 3600), ("Fri, 31 Dec 9999 23:59:59 GMT", 3600)],
    )
    def test_retry_after(self, text: str, seconds: float | None) -> None:
        """No longer than an hour, whatever the store says: a transfer would wait for years."""
        assert refused(PLACE, refusal_of(503, {"retry-after": text}, b"")).retry_after == seconds

    def test_retry_after_a_date(self) -> None:
        moment = datetime.now(UTC) + timedelta(seconds=100)
        found = refused(PLACE, refusal_of(503, {"retry-after": f"{moment:%a, %d %b %Y %H:%M:%S} GMT"}, b"")).retry_after
        assert found is not None and 90 < found <= 100

    @pytest.mark.parametrize(
        ("status", "hint"), [(403, "clock: here it is"), (400, "whether the session token has expired")]
    )
    def test_a_head_is_refused_without_a_reason(self, status: int, hint: str) -> None:
        place = replace(PLACE, method="HEAD")
        old = {"date": "Sat, 03 Feb 2001 04:05:06 GMT"}
        assert hint in (refused(place, refusal_of(status, old, b"")).hint or "")
        now = {"date": f"{datetime.now(UTC):%a, %d %b %Y %H:%M:%S} GMT"}
        assert "clock" not in (refused(place, refusal_of(status, now, b"")).hint or "")

    def test_a_hostile_message(self) -> None:
        body = ("<Error><Code>X</Code><Message>" + "\u202e\n" * 10_000 + "</Message></Error>").encode()
        text = str(refused(PLACE, refusal_of(400, {}, body)))
        assert len(text) < 4000 and "\u202e" not in text and "\n" not in text
