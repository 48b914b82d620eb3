"""HTTP/1.1 as far as NetStorage needs it, read byte by byte: the request target unchanged, and trailers kept.

Python's HTTP servers drop the trailers of a request, and normalise its target, which is what the signature is over.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate

__all__ = ["BadRequest", "Query", "Reply", "read_request", "send_reply"]

_PIECE = 64 * 1024
_HEAD = 64 * 1024
_REASONS = {
    200: "OK",
    206: "Partial Content",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    412: "Precondition Failed",
    416: "Range Not Satisfiable",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_REQUEST_LINE = re.compile(r"([A-Z]+) (/[!-~]*) HTTP/1\.([01])")
_SIZE = re.compile(rb"([0-9a-fA-F]{1,16})(?:;[^\r\n]*)?\r\n")


class BadRequest(Exception):
    """What came is no HTTP; the connection cannot go on."""


@dataclass(slots=True)
class Query:
    """One request, body and all. Names of headers are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    chunked: bool = False
    keep: bool = True
    begun: float = 0.0
    """When the head had come, by the server's clock."""


@dataclass(slots=True)
class Reply:
    """`cut`: so many bytes of the body are sent, then the connection ends."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


async def read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, clock: Callable[[], float]
) -> Query | None:
    """The next request; None at the end of the connection. Raises `BadRequest`, `asyncio.IncompleteReadError`."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    except asyncio.LimitOverrunError as error:
        raise BadRequest("a head without an end") from error
    line, *fields = head[:-4].decode("latin-1").split("\r\n")
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise BadRequest(f"no request line: {line[:100]!r}")
    query = Query(found[1], found[2], _fields(fields), begun=clock())
    query.keep = found[3] == "1" and query.headers.get("connection", "").lower() != "close"
    if query.headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    coding, length = query.headers.get("transfer-encoding", "").lower(), query.headers.get("content-length")
    if coding and length is not None:
        raise BadRequest("both Transfer-Encoding and Content-Length")
    if coding:
        if coding != "chunked":
            raise BadRequest(f"Transfer-Encoding {coding!r}")
        query.chunked = True
        query.body = await _chunks(reader)
        query.trailers = await _trailers(reader)
    elif length is not None:
        if not (length.isascii() and length.isdigit()):
            raise BadRequest(f"Content-Length {length!r}")
        query.body = await _exactly(reader, int(length))
    return query


def _fields(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest(f"no header: {line[:100]!r}")
        if name.lower() in found:
            raise BadRequest(f"the header {name} is given twice")
        found[name.lower()] = value.strip(" \t")
    return found


async def _exactly(reader: asyncio.StreamReader, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = await reader.readexactly(min(size, 1 << 20))
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while True:
        found = _SIZE.fullmatch(await reader.readuntil(b"\r\n"))
        if found is None:
            raise BadRequest("no size of a chunk")
        size = int(found[1], 16)
        if not size:
            return b"".join(parts)
        parts.append(await _exactly(reader, size))
        if await reader.readexactly(2) != b"\r\n":
            raise BadRequest("a chunk longer than its size")


async def _trailers(reader: asyncio.StreamReader) -> dict[str, str]:
    lines: list[str] = []
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        lines.append(line[:-2].decode("latin-1"))
        if len(lines) > 20:
            raise BadRequest("too many trailers")
    return _fields(lines)


async def send_reply(writer: asyncio.StreamWriter, query: Query, reply: Reply, now: float) -> bool:
    """False: the connection does not go on."""
    keep = query.keep and reply.cut is None
    headers = {
        "Date": formatdate(now, usegmt=True),
        "Content-Length": str(len(reply.body)),
        "Connection": "keep-alive" if keep else "close",
        **reply.headers,
    }
    lines = [f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    if query.method != "HEAD":
        body = reply.body if reply.cut is None else reply.body[: reply.cut]
        for start in range(0, len(body), _PIECE):
            writer.write(body[start : start + _PIECE])
            await writer.drain()
    await writer.drain()
    return keep
