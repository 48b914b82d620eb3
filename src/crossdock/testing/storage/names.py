"""Names: each comes back byte for byte, or is refused by name with nothing written."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest

from crossdock.errors import IntegrityError, InvalidPath, SourceChanged
from crossdock.storage.base import Expect
from crossdock.storage.staging import temporary_path
from crossdock.storage.storage import Storage
from crossdock.testing.storage.base import Peer, SuiteBase, listed, walked

LONG = "d" * 200 + "/"
NAMES = {
    "space": "a b.txt",
    "plus": "a+b.txt",
    "encoded plus": "a%2Bb.txt",
    "percent": "100%.csv",
    "broken escape": "%ZZ",
    "encoded NUL": "a%00b",
    "NUL": "a\0b",
    "newline": "a\nb",
    "command after CRLF": "x\r\nDELE y",
    "carriage return": "a\rb",
    "tab": "a\tb",
    "escape sequence": "\x1b[31mred",
    "delete character": "a\x7fb",
    "C1 control": "a\x85b",
    "escape upwards": "../../etc/passwd",
    "dot dot": "..",
    "dot": ".",
    "dots": "...",
    "absolute": "/abs/path",
    "double slash": "a//b",
    "dot inside": "a/./b",
    "dot dot inside": "a/../b",
    "backslashes upwards": "..\\..\\win.ini",
    "drive": "C:\\x",
    "drive relative": "C:x",
    "UNC": "\\\\srv\\share",
    "URL-like": "//s3//dir",
    "trailing slash": "a/",
    "slash": "/",
    "empty": "",
    "1024 bytes": LONG * 5 + "f" * 19,
    "1025 bytes": LONG * 5 + "f" * 20,
    "255 bytes": "n" * 255,
    "256 bytes": "n" * 256,
    "250 bytes": "n" * 250,
    "255 bytes of two": "é" * 127 + "x",
    "256 bytes of two": "é" * 128,
    "NFC": unicodedata.normalize("NFC", "é.csv"),
    "NFD": unicodedata.normalize("NFD", "é.csv"),
    "family emoji": "👨‍👩‍👧‍👦.bin",
    "right to left": "\u202egpj.exe",
    "zero width": "a\u200bb",
    "byte order mark": "\ufeffname",
    "not UTF-8": "\udcff\udcfe.csv",
    "Latin-1": "caf\udce9.txt",
    "lone surrogate": "\ud800",
    "astral": "𐍈.txt",
    "not a character": "a\uffffb",
    "CON": "CON",
    "nul.txt": "nul.txt",
    "ends with dot": "a.",
    "ends with space": "a ",
    "starts with space": " a",
    "colon": "a:b",
    "wildcards": 'a*?"<>|',
    "brackets": "a[1-3]{x,y}",
    "hidden": ".hidden",
    "option": "-rf",
    "tilde": "~",
    "somebody's home": "~root/x",
    "shell": "$(id)",
    "backticks": "`id`",
    "semicolon": ";rm",
    "SQL": "' OR 1=1--",
    "template": "{{7*7}}",
    "format": "%n%s",
    "environment": "$HOME",
    "smart quotes": "\u2018a\u201b\u201cb\u201d",
    "ampersand": "a&b=c",
    "question mark": "a?versionId=1",
    "hash": "a#b",
    "entity": "a&lt;b<c>]]>",
    "our temporary": temporary_path("name", "0123456789ab"),
    "part": "a.part",
    "filepart": "a.filepart",
    "done": "a.done",
    "link in a LIST": "a -> target",
    "date in a LIST": "-rw-r--r-- 1 a b 5 Jan 1 00:00 x",
    "very deep": "/".join("d" * 100),
}


class NameCases(SuiteBase):
    def refuses(self, storage: Storage, name: str) -> bool:
        """Whether this endpoint must refuse the name: by the rules of all, of its kind, or its own."""
        everywhere = not name or "\0" in name or "\ud800" in name or name == NAMES["our temporary"]
        if everywhere or name in {NAMES[label] for label in self.names_refused}:
            return True
        size = len(name.encode("utf-8", "surrogateescape"))
        if self.max_path is not None and size > self.max_path:
            return True
        if not storage.capabilities.directories:
            return False
        parts = name.split("/")
        longest = max(len(part.encode("utf-8", "surrogateescape")) for part in parts)
        return any(part in ("", ".", "..") for part in parts) or (self.max_name is not None and longest > self.max_name)

    @pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
    async def test_names(self, storage: Storage, peer: Peer | None, name: str) -> None:
        """Written, listed, described, read and deleted under exactly this name; or InvalidPath, and nothing there."""
        if self.refuses(storage, name):
            with pytest.raises(InvalidPath):
                await storage.write_bytes(name, b"x")
            assert await self.names(storage, peer) == set()
            return
        entry = await storage.write_bytes(name, name.encode("utf-8", "surrogateescape"))
        assert entry.path == name
        await self.holds(storage, peer, name, name.encode("utf-8", "surrogateescape"))
        assert await self.names(storage, peer) == {name}
        assert await walked(storage) == [name]
        if storage.capabilities.directories:
            assert [found.path for found in await listed(storage, name.rpartition("/")[0])] == [name]
        assert (await storage.stat(name)).path == name
        await self.tells_printably(storage, name)
        await storage.delete(name)
        assert await self.names(storage, peer) == set()

    async def tells_printably(self, storage: Storage, name: str) -> None:
        """Messages about a file reach terminals and logs: no name rules these."""
        async with storage.write(name) as writer:
            await writer.write(b"x")
            with pytest.raises(IntegrityError) as caught:
                await writer.commit(Expect(size=2))
        assert str(caught.value).isprintable()
        entry = await storage.stat(name)
        other = replace(entry, size=(entry.size or 0) + 1, etag=f"{entry.etag}1" if entry.etag else None)
        with pytest.raises(SourceChanged) as changed:
            async with storage.read(name, pin=other):
                pass
        assert str(changed.value).isprintable()

    @pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
    async def test_names_of_folders(self, storage: Storage, peer: Peer | None, name: str) -> None:
        """The same name as a folder above a file."""
        path = f"{name}/file" if name else "/file"
        if self.refuses(storage, name) or self.refuses(storage, path):
            return
        await storage.write_bytes(path, b"x")
        assert await walked(storage) == [path]
        if storage.capabilities.directories:
            assert [entry.path for entry in await listed(storage, name)] == [path]
            assert (await storage.stat(name)).kind == "dir"
        assert await storage.read_bytes(path) == b"x"

    @pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
    async def test_names_to_rename_to(self, storage: Storage, peer: Peer | None, name: str) -> None:
        """The same name as the target of a rename."""
        if not storage.capabilities.rename or self.refuses(storage, name):
            return
        await storage.write_bytes("old name", b"x")
        await storage.rename("old name", name)
        assert await self.names(storage, peer) == {name}
        await storage.rename(name, "new name")
        assert await self.names(storage, peer) == {"new name"}

    @pytest.mark.parametrize(
        "names",
        [
            (NAMES["NFC"], NAMES["NFD"]),
            ("A.csv", "a.csv"),
            ("name", "name "),
            ("name", "name."),
            ("a+b", "a b", "a%20b", "a%2Bb"),
            ("a.txt", "a.txt.part", ".a.txt"),
        ],
        ids=["NFC and NFD", "case", "space", "dot", "escapes", "decorated"],
    )
    async def test_names_that_look_alike(self, storage: Storage, peer: Peer | None, names: tuple[str, ...]) -> None:
        """Different bytes are different files: nothing is folded, trimmed or decoded on the way."""
        if any(self.refuses(storage, name) for name in names) or (self.folds_case and names[0].lower() == names[1]):
            return
        for number, name in enumerate(names):
            await storage.write_bytes(name, f"{number}".encode())
        assert await self.names(storage, peer) == set(names)
        for number, name in enumerate(names):
            await self.holds(storage, peer, name, f"{number}".encode())

    async def test_a_name_and_the_same_as_a_folder(self, storage: Storage, peer: Peer | None) -> None:
        """An object store holds `a` and `a/b` at once, and lists both; elsewhere that is refused."""
        if storage.capabilities.directories:
            return
        await storage.write_bytes("a", b"1")
        await storage.write_bytes("a/b", b"2")
        assert await walked(storage) == ["a", "a/b"]
        assert {(entry.path, entry.kind) for entry in await listed(storage)} == {("a", "file"), ("a", "dir")}
        await self.holds(storage, peer, "a", b"1")
        await self.holds(storage, peer, "a/b", b"2")
