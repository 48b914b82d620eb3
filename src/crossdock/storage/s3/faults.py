"""One table: what the store answers → the error that the caller can act on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

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
    SourceChanged,
    StorageError,
    Throttled,
    TimedOut,
    TransferError,
    Unsupported,
    located,
    shown,
)
from crossdock.storage.http import CLOCK_SET, http_date, no_answer, retry_after
from crossdock.storage.s3.wire import parse_xml, texts

__all__ = ["Place", "Refusal", "changed", "failure", "refusal_of", "refused"]

_LONGEST = 300
_SKEW = timedelta(minutes=15)
"""What Amazon allows a signature's clock to be off."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which request: all that a message needs to know."""

    endpoint: str
    operation: str
    path: str
    bucket: str
    action: str
    """The IAM action that it takes, such as "s3:GetObject"."""
    service: str
    """The endpoint's address."""
    method: str = "GET"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is not a success. `code` falls back to the status' usual one, as answers to HEAD have no body."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str]
    region: str | None = None

    @property
    def of_keys(self) -> bool:
        """The keys are refused, and not what was asked with them."""
        return _KIND_OF.get(self.code) is AuthenticationFailed

    @property
    def wants_md5(self) -> bool:
        """A body is not taken without Content-MD5."""
        return _KIND_OF.get(self.code) is Unsupported and "content-md5" in self.message.lower()


_BY_STATUS = {
    301: "PermanentRedirect",
    302: "Redirect",
    303: "Redirect",
    304: "PreconditionFailed",
    307: "TemporaryRedirect",
    308: "PermanentRedirect",
    400: "BadRequest",
    401: "AccessDenied",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    407: "ProxyAuthenticationRequired",
    408: "RequestTimeout",
    409: "Conflict",
    411: "MissingContentLength",
    412: "PreconditionFailed",
    413: "RequestTooLarge",
    416: "InvalidRange",
    429: "SlowDown",
    500: "InternalError",
    501: "NotImplemented",
    502: "BadGateway",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
    507: "InsufficientStorage",
}

_KINDS: dict[type[CrossdockError], tuple[str, ...]] = {
    Throttled: (
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "ServerBusy",
        "ServiceUnavailable",
        "Busy",
        "TooManyRequests",
        "TooManyRequestsException",
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "ConditionalRequestConflict",
        "OperationAborted",
        "Conflict",
    ),
    TimedOut: ("RequestTimeout", "GatewayTimeout"),
    ConnectionFailed: ("InternalError", "BadGateway", "NoSuchUpload", "TemporaryRedirect"),
    NoSpace: (
        "QuotaExceeded",
        "InsufficientStorage",
        "XMinioStorageFull",
        "XMinioAdminBucketQuotaExceeded",
        "InsufficientCapacity",
    ),
    AuthenticationFailed: (
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "RequestTimeTooSkewed",
        "ExpiredToken",
        "TokenRefreshRequired",
        "InvalidToken",
        "InvalidSecurity",
        "NotSignedUp",
        "MissingSecurityHeader",
        "ProxyAuthenticationRequired",
    ),
    PermissionDenied: (
        "AccessDenied",
        "Forbidden",
        "AllAccessDisabled",
        "AccountProblem",
        "InvalidObjectState",
        "ObjectNotInActiveTierError",
        "InvalidPayer",
        "UnauthorizedAccess",
        "MethodNotAllowed",
    ),
    NotFound: ("NoSuchKey", "NoSuchBucket", "NoSuchVersion", "NotFound", "InvalidBucketName"),
    AlreadyExists: ("PreconditionFailed",),
    InvalidPath: (
        "KeyTooLongError",
        "KeyTooLong",
        "InvalidURI",
        "InvalidObjectName",
        "XMinioInvalidObjectName",
        "XMinioInvalidResourceName",
    ),
    # Stores that keep objects as files have no name that is a file and a folder.
    NotAFile: ("XMinioObjectExistsAsDirectory",),
    NotADirectory: ("XMinioParentIsObject",),
    IntegrityError: (
        "BadDigest",
        "InvalidDigest",
        "XAmzContentSHA256Mismatch",
        "XAmzContentChecksumMismatch",
        "IncompleteBody",
        "InvalidPart",
        "InvalidPartOrder",
        "EntityTooSmall",
    ),
    Unsupported: (
        "NotImplemented",
        "AccessControlListNotSupported",
        "InvalidArgument",
        "InvalidRequest",
        "InvalidStorageClass",
        "InvalidEncryptionAlgorithmError",
        "InvalidTag",
        "EntityTooLarge",
        "RequestTooLarge",
        "MaxMessageLengthExceeded",
        "MetadataTooLarge",
        "MissingContentLength",
        "MissingContentMD5",
        "PermanentRedirect",
        "Redirect",
        "AuthorizationHeaderMalformed",
        "InvalidRegionName",
        "IllegalLocationConstraintException",
        "BadRequest",
    ),
}
_KIND_OF = {code: kind for kind, codes in _KINDS.items() for code in codes}
_TELLING = (404, 413, 429, 503, 507)
"""Statuses that say enough where a store has a code of its own."""
_UNEQUAL = "parts must have the same length"


def refusal_of(status: int, headers: Mapping[str, str], body: bytes) -> Refusal:
    """Read an answer that is not a success; a body that is no S3 error is left aside."""
    code, message, region = _BY_STATUS.get(status, ""), "", headers.get("x-amz-bucket-region")
    try:
        root, space = parse_xml(body, "Error", lenient=True)
    except ValueError:
        pass
    else:
        found = texts(root, space)
        code, message = found.get("Code") or code, found.get("Message", "")
        region = region or found.get("Region")
    return Refusal(status, code or f"HTTP {status}", message, headers, region)


def refused(place: Place, refusal: Refusal) -> CrossdockError:
    """The error of an answer."""
    kind = _KIND_OF.get(refusal.code)
    if _UNEQUAL in refusal.message:
        kind = Unsupported
    if kind is None:
        denied = refusal.code.startswith("KMS.") or refusal.status in (401, 403)
        kind = PermissionDenied if denied else ConnectionFailed if refusal.status >= 500 else ProtocolViolation
        if refusal.status in _TELLING:
            kind = _KIND_OF[_BY_STATUS[refusal.status]]
    after = retry_after(refusal.headers, datetime.now(UTC))
    if _is_skewed(refusal):
        kind, after = AuthenticationFailed, CLOCK_SET
    reason = ": ".join(shown(text[:_LONGEST]) for text in (refusal.code, refusal.message) if text)
    request_id = refusal.headers.get("x-amz-request-id")
    if request_id:
        reason += f" (request {shown(request_id[:64])})"
    hint = _hint(place, refusal)
    if issubclass(kind, TransferError):
        where = f"{place.operation} {located(place.endpoint, place.path)}"
        return kind(f"{where}: {reason}", hint=hint, retry_after=after)
    if not issubclass(kind, StorageError):
        raise TypeError(kind)
    error = kind(
        reason, operation=place.operation, endpoint=place.endpoint, path=place.path, hint=hint, retry_after=after
    )
    # The upload is gone: sending its parts again cannot help, a new attempt can.
    error.exhausted = refusal.code == "NoSuchUpload"
    return error


def _is_skewed(refusal: Refusal) -> bool:
    """Whether this machine's clock is to blame. A HEAD is refused without a reason."""
    theirs = http_date(refusal.headers.get("date"))
    apart = theirs is not None and abs(datetime.now(UTC) - theirs) > _SKEW
    return refusal.code == "RequestTimeTooSkewed" or (refusal.code == "Forbidden" and apart)


def _hint(place: Place, refusal: Refusal) -> str | None:
    code, place_of_bucket = refusal.code, f"bucket {place.bucket!r} at {place.service}"
    here, theirs = datetime.now(UTC), http_date(refusal.headers.get("date"))
    if _is_skewed(refusal):
        there = f"{theirs:%Y-%m-%d %H:%M:%S}" if theirs else "unknown"
        return f"set this machine's clock: here it is {here:%Y-%m-%d %H:%M:%S} UTC, there {there}"
    if code == "NoSuchBucket":
        return f"there is no {place_of_bucket}: check 'bucket' and 'endpoint_url'"
    if code == "InvalidBucketName":
        return f"correct 'bucket': {place.bucket!r} cannot be one"
    if code == "Forbidden" and place.operation == "stat":
        return f"either {place.action} is not allowed, or there is no such key and s3:ListBucket is not allowed"
    if "must be addressed using the specified endpoint" in refusal.message:
        return f"there is no {place_of_bucket}, but elsewhere: correct 'endpoint_url' and 'region'"
    if code in ("AccessDenied", "Forbidden", "UnauthorizedAccess", "AllAccessDisabled") or code.startswith("KMS."):
        if code.startswith("KMS.") or "kms" in refusal.message.lower():
            return "allow kms:GenerateDataKey and kms:Decrypt on the bucket's key"
        return f"allow {place.action} on bucket {place.bucket!r} for these credentials"
    if _UNEQUAL in refusal.message:
        return "set 'uniform_parts: true', as Cloudflare's store demands"
    if "Part number must be" in refusal.message:
        return "this store takes fewer parts than others (Scaleway's: 1000): raise 'part_size'"
    if code in ("PermanentRedirect", "TemporaryRedirect", "Redirect", "AuthorizationHeaderMalformed", "BadRequest") or (
        code == "IllegalLocationConstraintException"
    ):
        if refusal.region:
            return f"set 'region: {shown(refusal.region)}'"
        if code == "BadRequest" and place.method == "HEAD":
            return "a HEAD is refused without a reason: check 'region', and whether the session token has expired"
        return "check 'endpoint_url', 'region' and 'addressing'; redirects are not followed"
    return _HINTS.get(code)


_HINTS = {
    "InvalidAccessKeyId": "check the access key and that it belongs to this endpoint",
    # Alibaba's, Tencent's, Huawei's.
    **dict.fromkeys(
        ("SecondLevelDomainForbidden", "PathStyleDomainForbidden", "VirtualHostDomainRequired"),
        "set 'addressing: virtual', which this store demands",
    ),
    "InvalidRegionName": "correct 'region', or the environment's (AWS_REGION): Cloudflare's store wants 'auto'",
    "SignatureDoesNotMatch": "check the secret key, 'region' and 'addressing'",
    "ExpiredToken": "renew the session: 'aws sso login', or export fresh credentials",
    "TokenRefreshRequired": "renew the session: 'aws sso login', or export fresh credentials",
    "InvalidToken": "check the session token: it belongs to other keys, or to another endpoint",
    **dict.fromkeys(
        ("InvalidObjectState", "ObjectNotInActiveTierError"),
        "the object is archived (Glacier): restore it, then run this again",
    ),
    "InvalidPayer": "the bucket's requester pays: set 'requester_pays: true'",
    # Of the request, or of the object: what is larger than `part_size` goes in parts.
    "EntityTooLarge": "lower 'part_size', if the file is smaller than what this store may hold; or split the file",
    # Not a store's own word: no S3 error came with the status.
    "RequestTooLarge": "a proxy in front of the store refuses requests of this size: raise its limit "
    "(nginx: client_max_body_size), or lower 'part_size'",
    "BadGateway": "a proxy answers for the store, and cannot reach it: run it again",
    "GatewayTimeout": "a proxy in front of the store did not wait for its answer: run it again, or raise its timeout",
    "KeyTooLongError": "a key has at most 1024 bytes: give it another name in the rule or command that moves it",
    "NoSuchUpload": "the upload was aborted, perhaps by the bucket's lifecycle: start it again",
    "QuotaExceeded": "free space, or raise the quota of the account or bucket",
    "InsufficientStorage": "free space at the endpoint",
    "XMinioStorageFull": "free space at the endpoint",
    "InvalidStorageClass": "correct 'storage_class'",
    "NotImplemented": "this store lacks the operation: turn off the option that needs it",
    "MethodNotAllowed": "the newest version is a delete marker, or the endpoint does not serve S3",
    **dict.fromkeys(("SlowDown", "SlowDownRead", "SlowDownWrite"), "lower 'max_connections' or 'part_concurrency'"),
    "InvalidTag": "correct 'tags'",
    "AccessControlListNotSupported": "take 'acl' out: the bucket has none",
    "ProxyAuthenticationRequired": "put the proxy's credentials in HTTPS_PROXY",
}


def failure(place: Place, error: Exception) -> StorageError:
    """The error of a request without an answer: one of `http.FAILURES`."""
    kind, reason, hint = no_answer(place.service, "endpoint_url", error)
    return kind(reason, operation=place.operation, endpoint=place.endpoint, path=place.path, hint=hint)


def changed(place: Place, reason: str) -> SourceChanged:
    """The object is not the one that was asked for."""
    hint = "list it again and let it settle"
    error = SourceChanged.at(place.operation, place.endpoint, place.path, reason, hint=hint)
    # Asking again at once gets the same answer.
    error.exhausted = True
    return error
