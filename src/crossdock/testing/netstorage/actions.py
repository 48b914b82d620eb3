"""What the actions of the Usage API do to a tree, in both kinds of store.

Where Akamai's documents and recordings are silent, the choice is marked "assumed".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from hashlib import md5, sha1, sha256
from mimetypes import MimeTypes
from typing import Literal
from urllib.parse import unquote_to_bytes

from crossdock.testing.netstorage import xml
from crossdock.testing.netstorage.http import Query, Reply
from crossdock.testing.netstorage.tree import File, Node, Tree

__all__ = ["METHODS", "Actions", "parameters_of"]

READS = ("download", "dir", "list", "stat", "du")
WRITES = ("upload", "mkdir", "rmdir", "delete", "quick-delete", "rename", "symlink", "mtime")
METHODS = {**dict.fromkeys(READS, ("GET", "HEAD")), **dict.fromkeys(WRITES, ("PUT", "POST"))}
_HASHES: dict[str, Callable[[bytes], object]] = {"md5": md5, "sha1": sha1, "sha256": sha256}
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_TYPES = MimeTypes()
_NO_CACHE = {"Expires": "0", "Cache-Control": "max-age=0, no-cache, no-store", "Pragma": "no-cache"}


def parameters_of(action: str) -> dict[str, bytes]:
    """The action header as a query string; empty pairs are ignored, as Akamai's own kit ends with "&"."""
    found: dict[str, bytes] = {}
    for pair in action.split("&"):
        name, _, value = pair.partition("=")
        if name:
            found[name] = unquote_to_bytes(value.replace("+", " "))
    return found


@dataclass(slots=True, kw_only=True)
class Actions:
    """`page`: names in one answer at most. `rename_replaces` False: 409 where the new name is taken (both assumed)."""

    tree: Tree
    store: Literal["object-store", "file-store"]
    page: int
    rename_replaces: bool
    quick_delete: bool
    clock: Callable[[], float]

    @property
    def flat(self) -> bool:
        return self.store == "object-store"

    def run(self, action: str, name: bytes, parameters: Mapping[str, bytes], query: Query) -> Reply:
        """`name`: the decoded path without its leading slash."""
        reply: Reply = getattr(self, "_" + action.replace("-", "_"))(name, parameters, query)
        reply.headers = {"Server": "AkamaiNetStorage" if self.flat else "Apache", **_NO_CACHE, **reply.headers}
        return reply

    # -- what all share -------------------------------------------------------------------------------------------

    def _done(self, word: str) -> Reply:
        if self.flat:
            return Reply(200, f"{word}\n".encode() if word else b"")
        return Reply(200, b"<HTML>Request Processed</HTML>\n", {"Content-Type": "text/html"})

    def _missing(self) -> Reply:
        if self.flat:
            return Reply(404, b"Not found\n", {"X-N": "S"})
        return Reply(404, b'File not found."\n', {"Content-Type": "text/html"})

    def _xml(self, root: str, lines: list[str], parameters: Mapping[str, bytes], directory: bytes | None) -> Reply:
        utf8 = self._utf8(parameters)
        indent = " " if self.flat else "\t"
        body = xml.document(root, lines, utf8=utf8, indent=indent, directory=directory)
        return Reply(200, body, {"Content-Type": "text/xml"})

    def _utf8(self, parameters: Mapping[str, bytes]) -> bool:
        return parameters.get("encoding", b"").lower() == b"utf-8"

    def _is_folder(self, name: bytes) -> bool:
        return self.tree.is_folder(name, implicit=self.flat)

    def _parents(self, name: bytes) -> bool:
        """A file-store makes the folders above; False: a file is in the way."""
        if self.flat:
            return True
        parts = name.split(b"/")[:-1]
        above = [b"/".join(parts[: depth + 1]) for depth in range(1, len(parts))]
        if any(self.tree.file(folder) is not None for folder in above):
            return False
        for folder in above:
            self.tree.make(folder, int(self.clock()))
        return True

    # -- reading --------------------------------------------------------------------------------------------------

    def _download(self, name: bytes, parameters: Mapping[str, bytes], query: Query) -> Reply:
        file = self.tree.file(name)
        if file is not None and file.target is not None:
            file = self.tree.file(file.target.removeprefix(b"/"))
        if file is None:
            return Reply(412, b"Precondition failed\n") if self._is_folder(name) else self._missing()
        kind = _TYPES.guess_type(name.decode("utf-8", "replace"))[0]
        etag = f'"{file.md5}:{file.mtime}.{int(file.changed % 1 * 1e6):06}"'
        headers = {
            "Accept-Ranges": "bytes",
            "ETag": etag if self.flat else f'W/"{len(file.data):x}-{file.mtime:x}"',
            "Last-Modified": formatdate(file.mtime, usegmt=True),
            "Content-Type": kind or "application/octet-stream",
        }
        asked = _RANGE.fullmatch(query.headers.get("range", ""))
        if asked is None or not any(asked.groups()):
            return Reply(200, file.data, headers)
        size = len(file.data)
        begin = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
        end = min(int(asked[2]) + 1, size) if asked[1] and asked[2] else size
        if begin >= end:
            return Reply(416, b"", {"Content-Range": f"bytes */{size}"})
        return Reply(206, file.data[begin:end], {**headers, "Content-Range": f"bytes {begin}-{end - 1}/{size}"})

    def _stat(self, name: bytes, parameters: Mapping[str, bytes], query: Query) -> Reply:
        utf8 = self._utf8(parameters)
        slash = name.endswith(b"/")
        bare = name[:-1] if slash else name
        both = parameters.get("slash") == b"both"
        directory, _, last = bare.rpartition(b"/")
        nodes: list[Node] = []
        file = None if slash else self.tree.file(bare)
        if file is not None:
            nodes.append(Node("symlink" if file.target is not None else "file", last, file))
        implicit = not self.flat or parameters.get("implicit") == b"yes"
        if (file is None or both) and self.tree.is_folder(bare, implicit=implicit):
            nodes.append(self.tree.folder(bare, last + b"/" if slash or both else last))
        if not nodes:
            return self._missing()
        lines = [xml.stat_line(node, utf8=utf8) for node in nodes]
        return self._xml("stat", lines, parameters, directory or bare)

    def _dir(self, name: bytes, parameters: Mapping[str, bytes], query: Query) -> Reply:
        folder = name.removesuffix(b"/")
        if not self._is_folder(folder):
            return Reply(412, b"Precondition failed\n") if self.tree.file(folder) is not None else self._missing()
        utf8 = self._utf8(parameters)
        nodes = self.tree.children(folder)
        start = _below(folder, parameters.get("start"))
        if start is not None:
            nodes = [node for node in nodes if node.name >= start]
        end = _below(folder, parameters.get("end"))
        if end is not None:
            nodes = [node for node in nodes if node.name <= end]
        prefix = parameters.get("prefix")
        if prefix is not None:
            nodes = [node for node in nodes if node.name.startswith(prefix)]
        most = self._most(parameters)
        lines = [xml.dir_line(node, utf8=utf8) for node in nodes[:most]]
        if len(nodes) > most:
            lines.append(xml.resume_line(b"/" + folder + b"/" + nodes[most].name, utf8=utf8))
        return self._xml("stat", lines, parameters, folder)

    def _list(self, name: bytes, parameters: Mapping[str, bytes], query: Query) -> Reply:
        if not self.flat:
            # Assumed: Akamai documents the action for object-stores only.
            return Reply(400, b"Unknown action\n")
        utf8 = self._utf8(parameters)
        resumed = "start" in parameters
        start = parameters.get("start", name).lstrip(b"/")
        names = [each for each in self.tree.names() if each >= start]
        end = parameters.get("end")
        if end is not None:
            names = [each for each in names if each <= end.lstrip(b"/")]
        bare = name.rstrip(b"/")
        if not resumed and not any(each != bare + b"/" for each in names):
            return self._missing()
        most = self._most(parameters)
        times = parameters.get("mtime_all") == b"yes"
        lines = [xml.list_line(self._node(each), utf8=utf8, times=times) for each in names[:most]]
        if len(names) > most:
            lines.append(xml.resume_line(b"/" + names[most], utf8=utf8))
        return self._xml("list", lines, parameters, None)

    def _node(self, name: bytes) -> Node:
        file = self.tree.file(name)
        if file is None:
            return Node("dir", name, mtime=self.tree.explicit(name[:-1]))
        return Node("symlink" if file.target is not None else "file", name, file)

    def _most(self, parameters: Mapping[str, bytes]) -> int:
        asked = parameters.get("max_entries", b"")
        return min(self.page, int(asked)) if asked.isdigit() and int(asked) else self.page

    def _du(self, name: bytes, parameters: Mapping[str, bytes], query: Query) -> Reply:
        folder = name.removesuffix(b"/")
        if not self._is_folder(folder):
            return self._missing()
        files, size = self.tree.usage(folder)
        return self._xml("du", [f'<du-info files="{files}" bytes="{size}"/>'], parameters, folder)

    # -- writing --------------------------------------------------------------------------------------------------

    def _upload(self, name: bytes, parameters: Mapping[str, bytes], query: Query) -> Reply:
        if name.endswith(b"/") or b"/" not in name:
            return Reply(400, b"Not the name of a file\n")
        if not query.chunked and "content-length" not in query.headers:
            return Reply(400, b"A body is needed\n")
        if b"atend" in parameters.values():
            return Reply(400, b"A trailer does not tell what was to be told at the end\n")
        size = parameters.get("size")
        # Assumed: the status of a mismatch is not documented.
        if size is not None and size != str(len(query.body)).encode():
            return Reply(400, b"The size does not match\n")
        for algorithm, make in _HASHES.items():
            told = parameters.get(algorithm)
            if told is not None and told.decode("latin-1").lower() != make(query.body).hexdigest():  # type: ignore[attr-defined]
                return Reply(400, f"The {algorithm} does not match\n".encode())
        mtime = parameters.get("mtime", b"")
        if mtime and not mtime.isdigit():
            return Reply(400, b"mtime is no number\n")
        if not self.flat and self._is_folder(name):
            return Reply(409, b"A directory has this name\n")
        if not self._parents(name):
            return Reply(409, b"Not a directory\n")
        now = self.clock()
        self.tree.put(name, File.of(query.body, int(mtime) if mtime else int(now), now))
        return self._done("")

    def _mkdir(self, name: bytes, parameters: Mapping[str, bytes], query: Query) -> Reply:
        folder = name.removesuffix(b"/")
        taken = self._is_folder(folder) or self.tree.file(folder) is not None
        if not self.flat and (taken or not self._parents(folder)):
            return Reply(409, b"<HTML>Conflict</HTML>\n", {"Content-Type": "text/html"})
        self.tree.make(folder, int(self.clock()))
        return self._done("successful")

    def _rmdir(self, name: bytes, parameters: Mapping[str, bytes], query: Query) -> Reply:
        folder = name.removesuffix(b"/")
        if self.tree.explicit(folder) is None:
            return self._missing()
        if next(self.tree.below(folder), None) is not None:
            return Reply(409, b"Not empty\n")
        self.tree.unmake(folder)
        return self._done("deleted")

    def _delete(self, name: bytes, parameters: Mapping[str, bytes], query: Query) -> Reply:
        if name.endswith(b"/"):
            # An explicit folder becomes an implicit one, if there is something in it.
            return self._done("deleted") if self.tree.unmake(name[:-1]) else self._missing()
        if self.tree.take(name) is not None:
            return self._done("deleted")
        if self.tree.explicit(name) is not None:
            if next(self.tree.below(name), None) is not None:
                return Reply(409, b"Not empty\n")
            self.tree.unmake(name)
            return self._done("deleted")
        return self._missing()

    def _quick_delete(self, name: bytes, parameters: Mapping[str, bytes], query: Query) -> Reply:
        if parameters.get("quick-delete") != b"imreallyreallysure":
            return Reply(400, b"Not sure\n")
        if not self.quick_delete:
            # Assumed: which status tells that it is not enabled.
            return Reply(403, b"quick-delete is not enabled\n")
        folder = name.removesuffix(b"/")
        for each in list(self.tree.below(folder)):
            self.tree.unmake(each[:-1]) if each.endswith(b"/") else self.tree.take(each)
        self.tree.unmake(folder)
        return self._done("quick-delete scheduled")

    def _rename(self, name: bytes, parameters: Mapping[str, bytes], query: Query) -> Reply:
        target = parameters.get("destination", b"")
        if not target.startswith(b"/" + self.tree.top + b"/") or target.endswith(b"/"):
            return Reply(400, b"A destination in the same CP code is needed\n")
        target = target[1:]
        file = self.tree.file(name)
        if file is None:
            return self._missing()
        if self.tree.file(target) is not None and target != name and not self.rename_replaces:
            return Reply(409, b"The destination exists\n")
        if not self.flat and (self._is_folder(target) or not self._parents(target)):
            return Reply(409, b"The destination is a directory\n")
        self.tree.take(name)
        self.tree.put(target, file)
        return self._done("renamed")

    def _symlink(self, name: bytes, parameters: Mapping[str, bytes], query: Query) -> Reply:
        target = parameters.get("target")
        if not target:
            return Reply(400, b"A target is needed\n")
        mtime = parameters.get("mtime", b"")
        now = self.clock()
        self.tree.put(name, File.of(b"", int(mtime) if mtime.isdigit() else int(now), now, target))
        return self._done("successful")

    def _mtime(self, name: bytes, parameters: Mapping[str, bytes], query: Query) -> Reply:
        file, mtime = self.tree.file(name), parameters.get("mtime", b"")
        if file is None:
            return self._missing()
        if not mtime.isdigit():
            return Reply(400, b"mtime is no number\n")
        self.tree.put(name, File(file.data, int(mtime), file.md5, file.changed, file.target))
        return self._done("successful")


def _below(folder: bytes, value: bytes | None) -> bytes | None:
    """A limit of `dir`: a name, or a whole path with or without a leading slash, as Akamai's examples have it."""
    if value is None:
        return None
    return value.lstrip(b"/").removeprefix(folder + b"/")
