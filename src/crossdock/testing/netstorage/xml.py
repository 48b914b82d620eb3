"""The answers in XML, in the shapes and with the attributes that the live service was recorded with."""

from __future__ import annotations

import base64
from collections.abc import Iterable

from crossdock.testing.netstorage.tree import Node

__all__ = ["document"]

_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


def document(root: str, lines: Iterable[str], *, utf8: bool, indent: str, directory: bytes | None = None) -> bytes:
    """A whole answer. Without `encoding=utf-8` in the request it is in ISO-8859-1, as it is by default there."""
    encoding = "UTF-8" if utf8 else "ISO-8859-1"
    told = "" if directory is None else " " + attribute("directory", b"/" + directory, utf8=utf8)
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n<{root}{told}>\n'
    text += "".join(f"{indent}{line}\n" for line in lines) + f"</{root}>\n"
    return text.encode(encoding)


def attribute(name: str, value: bytes, *, utf8: bool) -> str:
    """`NAME="…"`; what XML or the encoding cannot express becomes `NAME_base64`."""
    try:
        text = value.decode()
        text.encode("utf-8" if utf8 else "latin-1")
    except UnicodeError:
        text = ""
    if (value and not text) or any(ord(c) < 32 or 127 <= ord(c) < 160 or ord(c) in (0xFFFE, 0xFFFF) for c in text):
        return f'{name}_base64="{base64.b64encode(value).decode()}"'
    return f'{name}="{"".join(_ESCAPES.get(c, c) for c in text)}"'


def stat_line(node: Node, *, utf8: bool) -> str:
    """type, name, mtime, size, md5: the order of `stat`."""
    parts = [f'type="{node.kind}"', attribute("name", node.name, utf8=utf8), *_target(node, utf8=utf8)]
    if node.file is not None:
        parts.append(f'mtime="{node.file.mtime}"')
        if node.kind == "file":
            parts += [f'size="{len(node.file.data)}"', f'md5="{node.file.md5}"']
    elif node.mtime is not None:
        parts.append(f'mtime="{node.mtime}"')
    else:
        parts.append('implicit="true"')
    return f"<file {' '.join(parts)}/>"


def dir_line(node: Node, *, utf8: bool) -> str:
    """type, name, size, md5, mtime: the order of `dir` and `list`."""
    parts = [f'type="{node.kind}"', attribute("name", node.name, utf8=utf8), *_target(node, utf8=utf8)]
    if node.file is not None:
        if node.kind == "file":
            parts += [f'size="{len(node.file.data)}"', f'md5="{node.file.md5}"']
        parts.append(f'mtime="{node.file.mtime}"')
    else:
        parts += [f'bytes="{node.size}"', f'files="{node.files}"']
        parts.append(f'mtime="{node.mtime}"' if node.mtime is not None else 'implicit="true"')
    return f"<file {' '.join(parts)}/>"


def list_line(node: Node, *, utf8: bool, times: bool) -> str:
    """As in `list`: only files have their time told, unless all are asked for."""
    parts = [f'type="{node.kind}"', attribute("name", node.name, utf8=utf8)]
    if node.kind == "file" and node.file is not None:
        parts += [f'size="{len(node.file.data)}"', f'md5="{node.file.md5}"', f'mtime="{node.file.mtime}"']
    elif times:
        parts += _target(node, utf8=utf8)
        parts.append(f'mtime="{node.file.mtime if node.file else node.mtime or 0}"')
    return f"<file {' '.join(parts)}/>"


def resume_line(start: bytes, *, utf8: bool) -> str:
    return f"<resume {attribute('start', start, utf8=utf8)}/>"


def _target(node: Node, *, utf8: bool) -> list[str]:
    target = node.file.target if node.file else None
    return [] if target is None else [attribute("target", target, utf8=utf8)]
