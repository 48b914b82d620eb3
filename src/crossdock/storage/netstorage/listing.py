"""Listings: one folder by `dir`, a whole tree by `list`, page by page."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from crossdock.errors import NotADirectory, NotFound, ProtocolViolation
from crossdock.storage.base import Entry
from crossdock.storage.netstorage.calls import Calls
from crossdock.storage.netstorage.client import Answer, Request
from crossdock.storage.netstorage.wire import Item, entry_of

__all__ = ["scan_folder", "scan_tree"]

_NO_NAMES = frozenset({"", ".", ".."})


async def scan_folder(calls: Calls, path: str) -> AsyncGenerator[list[Entry]]:
    """The direct children. Raises `NotADirectory`, `NotFound`."""
    parameters: dict[str, str | int] = {"format": "xml", "encoding": "utf-8"}
    prefix = path + "/" if path else ""
    first = True
    while True:
        request = calls.request("GET", "list", path, "dir", parameters)
        answer = await calls.client.call(request, allow=(404, 412) if first else (), repeat=not first)
        if not answer.good:
            await _explain(calls, path, answer)
            return
        found = await calls.client.xml(request, answer, "stat")
        yield [_child(calls, request, prefix, item) for item in found.items]
        if found.resume is None:
            return
        _must_advance(calls, request, str(parameters.get("start", "")), found.resume)
        parameters["start"], first = found.resume, False


def _child(calls: Calls, request: Request, prefix: str, item: Item) -> Entry:
    name = item.name.removesuffix("/") if item.kind == "dir" else item.name
    if "/" in name or "\0" in name or name in _NO_NAMES:
        raise calls.client.violation(request, f"a listing with the name {item.name[:100]!r}")
    return entry_of(prefix + name, item)


async def _explain(calls: Calls, path: str, answer: Answer) -> None:
    """Why there is nothing to list: no such folder, a file, or, without an error, an empty one."""
    found = await calls.look(path, "list", implicit=True)
    if found is None and not calls.full(path).partition("/")[2]:
        # A CP code is there as soon as the account is.
        return
    if found is None:
        raise calls.backend.error(NotFound, "list", path, "no such folder")
    if found.kind != "dir":
        raise calls.backend.error(NotADirectory, "list", path, "it is a file")
    if answer.status != 404:
        raise calls.backend.error(ProtocolViolation, "list", path, f"HTTP {answer.status} for a folder")


async def scan_tree(calls: Calls, path: str) -> AsyncGenerator[list[Entry]]:
    """All files below, in order. Raises `NotADirectory`, `NotFound`.

    `list` starts at a name and goes on to the end of the CP code: "0" is the byte after "/", where the folder ends.
    The next page starts at a path, not at a parameter: the way that rclone, whose backend Akamai wrote, has proven.
    """
    parameters: dict[str, str | int] = {"format": "xml", "encoding": "utf-8"}
    top = calls.full(path)
    inside = top + "/"
    whole = "/" not in top
    if not whole:
        parameters["end"] = f"/{top}0"
    start = f"/{top}" if whole else f"/{inside}"
    cut = len(calls.prefix)
    last, first = "", True
    while True:
        request = calls.request("GET", "list", path, "list", parameters, name=start)
        answer = await calls.client.call(request, allow=(404, 412), repeat=not first)
        if not answer.good:
            if first:
                await _explain(calls, path, answer)
            else:
                await _must_be_the_end(calls, path, start)
            return
        found = await calls.client.xml(request, answer, "list")
        page: list[Entry] = []
        for item in found.items:
            name = item.name.removeprefix("/")
            if item.kind == "dir" or not name.startswith(inside):
                continue
            if any(part in _NO_NAMES for part in name[len(inside) :].split("/")):
                raise calls.client.violation(request, f"a listing with the name {item.name[:100]!r}")
            if name <= last:
                raise _out_of_order(calls, path, name)
            last = name
            page.append(entry_of(name[cut:], item))
        if page:
            yield page
        resume = None if found.resume is None else "/" + found.resume.removeprefix("/")
        # Beyond the folder: a server that did not heed the end.
        if resume is None or (resume > f"/{inside}" and not resume.startswith(f"/{inside}")):
            return
        _must_advance(calls, request, start, resume)
        start, first = resume, False


async def _must_be_the_end(calls: Calls, path: str, start: str) -> None:
    """A page without names: right for a folder that is empty and the last; else something is left out."""
    there = await calls.look(start.strip("/")[len(calls.prefix) :], "list", called=path)
    if there is None or there.kind != "dir":
        reason = f"what the next page begins with, {start!r}, has gone"
        raise calls.backend.error(ProtocolViolation, "list", path, reason, hint="list it again")


def _out_of_order(calls: Calls, path: str, name: str) -> Exception:
    hint = "set 'listing: folders': names that are not UTF-8 have another order there than here"
    return calls.backend.error(ProtocolViolation, "list", path, f"{name[-100:]!r} is out of order", hint=hint)


def _must_advance(calls: Calls, request: Request, start: str, resume: str) -> None:
    before, after = (text.lstrip("/").encode("utf-8", "surrogateescape") for text in (start, resume))
    if after <= before:
        raise calls.client.violation(request, f"a listing that does not end: after {start!r} comes {resume!r}")
