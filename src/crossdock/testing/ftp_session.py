"""One session at `FaultyFtpServer`: what it answers, does, and fails to do."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import socket
import struct
import zlib
from datetime import UTC, datetime
from pathlib import Path

from crossdock.testing.ftp_control import BLOCK, Control, Unseen

__all__ = ["Session"]


class Session(Control):
    # -- names ------------------------------------------------------------------------------------------------------

    async def _do_site(self, argument: str) -> None:
        self._formats.discard(argument.partition(" ")[0])
        await self.say("250 so be it")

    async def _do_pwd(self, argument: str) -> None:
        if "NAMEFMT" in self._formats:
            await self.say('257 "QGPL" is current library.')
            return
        await self.say(f'257 "{self._at}"')

    async def _do_cwd(self, argument: str) -> None:
        good = self._path(argument).is_dir()
        if good:
            self._at = argument
        await self.say("250 there" if good else "550 No such directory")

    async def _do_size(self, argument: str) -> None:
        path = self._path(argument)
        if not path.is_file() and not (self.faults.sizes_folders and path.is_dir()):
            await self.say("550 Could not get file size.")
        else:
            await self.say(f"213 {path.stat().st_size if self.faults.size is None else self.faults.size}")

    async def _do_mdtm(self, argument: str) -> None:
        if re.match(r"\d{14} /", argument):
            # As vsftpd understands it.
            await self._do_mfmt(argument)
            return
        await self.say(f"213 {_time(self._path(argument))}")

    async def _do_mfmt(self, argument: str) -> None:
        when, _, name = argument.partition(" ")
        seconds = datetime.strptime(when, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
        path = self._path(name)
        path.stat()
        if self.faults.times == "killed":
            await self.say("500 OOPS: priv_sock_get_cmd")
            raise ConnectionResetError
        if self.faults.times == "even":
            seconds -= seconds % 2
        if self.faults.times != "forgotten":
            os.utime(path, (seconds, seconds))
        await self.say(f"213 Modify={when}; {name}")

    async def _do_mlst(self, argument: str) -> None:
        if self.faults.patterns and re.search(r"[*?[]", argument):
            argument = argument.rpartition("/")[0]
        await self.say(f"250-Facts\r\n {self._facts(self._path(argument))} {argument}\r\n250 End")

    def _facts(self, path: Path) -> str:
        if path.is_dir():
            return f"type=dir;modify={_time(path)};"
        size = path.stat().st_size if self.faults.size is None else self.faults.size
        return f"type=file;size={size};modify={_time(path)};"

    async def _do_dele(self, argument: str) -> None:
        self._path(argument).unlink()
        await self.say("250 gone")

    async def _do_mkd(self, argument: str) -> None:
        self._path(argument).mkdir()
        await self.say("257 made")

    async def _do_rmd(self, argument: str) -> None:
        (shutil.rmtree if self.faults.careless else os.rmdir)(self._path(argument))
        await self.say("250 gone")

    async def _do_rnfr(self, argument: str) -> None:
        old = self._path(argument)
        old.stat()
        self._old = old
        await self.say("350 and to?")

    async def _do_rnto(self, argument: str) -> None:
        old, self._old = self._old, None
        if old is None:
            await self.say("503 RNFR first")
            return
        if self.server.refuses_to_replace and self._path(argument).exists():
            await self.say("553 No")
            return
        if self.faults.replaces_folders and self._path(argument).is_dir():
            shutil.rmtree(self._path(argument))
        old.rename(self._path(argument))
        await self.say(self.faults.denies or "250 renamed")

    async def _do_xsha256(self, argument: str) -> None:
        if not self._has("XSHA256"):
            await self.say("500 what?")
            return
        found = hashlib.sha256(self._path(argument.strip('"')).read_bytes()).hexdigest()
        await self.say(f"250 {'0' * 64 if self.faults.wrong_digest else found.upper()}")

    async def _do_xcrc(self, argument: str) -> None:
        if not self._has("XCRC"):
            await self.say("500 what?")
            return
        found = zlib.crc32(self._path(argument.strip('"')).read_bytes())
        await self.say(f"250 {0 if self.faults.wrong_digest else found:08X}")

    # -- bytes ------------------------------------------------------------------------------------------------------

    async def _listen(self) -> int:
        if self._passive is not None:
            self._passive.close()
        arrived = self._data = asyncio.get_running_loop().create_future()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.server.writers.append(writer)
            if self.faults.lazy:
                writer.transport.pause_reading()  # type: ignore[attr-defined] # the greeting is for TLS
            if not arrived.done():
                arrived.set_result((reader, writer))

        tls = None if self.faults.lazy else self.server.tls
        self._passive = await asyncio.start_server(take, self.server.host, 0, ssl=tls)
        return int(self._passive.sockets[0].getsockname()[1])

    async def _do_epsv(self, argument: str) -> None:
        if self.faults.passive is not None:
            await self.say("500 what?")
        else:
            await self.say(f"229 Entering (|||{await self._listen()}|)")

    async def _do_pasv(self, argument: str) -> None:
        port = await self._listen()
        reply = self.faults.passive or "227 Entering (127,0,0,1,{high},{low})"
        await self.say(reply.format(high=port // 256, low=port % 256))

    async def _do_rest(self, argument: str) -> None:
        self._offset = int(argument)
        await self.say("350 from there")

    async def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert self._data is not None
        return await asyncio.wait_for(self._data, 10)

    async def _agree(self, reply: str) -> None:
        if self.faults.looks_first is not None:
            assert self._data is not None
            try:
                await asyncio.wait_for(asyncio.shield(self._data), self.faults.looks_first)
            except TimeoutError:
                raise Unseen from None
        for _ in range({"once": 1, "twice": 2}.get(self.faults.agreement, 0)):
            await self.say(reply)
        while self.faults.during != "wait":
            try:
                line = await asyncio.wait_for(self._reader.readline(), 0.2)
            except TimeoutError:
                return
            if not line:
                return
            if self.faults.during == "answer":
                await self._obey(line)

    async def _last(self, reply: str) -> None:
        if self.faults.agreement == "late":
            reply = f"150 at last\r\n{reply}"
        await self.say(f"{reply}\r\n{reply}" if self.faults.late_reply else reply)

    async def _do_mlsd(self, argument: str) -> None:
        # As Apache FtpServer does.
        hides = self._has("MMD5") and argument != "-a"
        folder = self._at if not argument or (self._has("MMD5") and not hides) else argument
        paths = [path for path in sorted(self._path(folder).iterdir()) if not (hides and path.name.startswith("."))]
        await self._list("".join(f"{self._facts(path)} {path.name}\r\n" for path in paths))

    async def _do_list(self, argument: str) -> None:
        every = argument == "-a" or not self.faults.hides
        lines = ["drw-r--r--   1 own   grp          0 Jan  1 00:00 .\r\n"] if every and self.faults.hides else []
        for path in sorted(one for one in self._path(self._at).iterdir() if every or one.name[0] != "."):
            folder, size = path.is_dir(), path.stat().st_size
            if "LISTFMT" in self._formats:
                kind = "*DIR" if folder else "*STMF"
                lines.append(f"QPGMR      {size:10} 05/17/24 10:00:00 {kind:10} {path.name}\r\n")
            else:
                lines.append(f"{'d' if folder else '-'}rw-r--r--   1 own   grp {size:10} Jan  1 00:00 {path.name}\r\n")
        await self._list("total 1\r\n" + "".join(lines))

    async def _list(self, text: str) -> None:
        content = text.encode("utf-8", "surrogateescape") if self.faults.listing is None else self.faults.listing
        await self._send(content)

    async def _do_retr(self, argument: str) -> None:
        content, start = self._path(argument).read_bytes(), self._offset
        self._offset = 0
        await self._send(content[start:], f" ({len(content)} bytes)" if self.faults.tells_size else "")

    async def _send(self, content: bytes, told: str = "") -> None:
        await self._agree(f"150 here it comes{told}")
        _, writer = await self._opened()
        if self.faults.lazy and content and self.server.tls is not None:
            await writer.start_tls(self.server.tls)
        cut = self.faults.cut_download
        whole = cut is None or cut >= len(content)
        if not whole and self.faults.how == "rst":
            # What was written has to leave first.
            writer.transport.set_write_buffer_limits(high=0)
        writer.write(content if whole else content[:cut])
        await writer.drain()
        how = "complete" if whole else self.faults.how
        if how == "rst":
            connected = writer.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()
        if how == "hang up":
            self._ended = True
        elif how in ("rst", "refused"):
            await self._last("426 Connection closed; transfer aborted")
        elif how != "silent":
            await self._last("226 complete")

    async def _do_stor(self, argument: str) -> None:
        offset, self._offset = self._offset, 0
        await self._store(self._path(argument), "r+b" if offset and not self.faults.empties else "wb", offset)

    async def _do_appe(self, argument: str) -> None:
        await self._store(self._path(argument), "ab", None)

    async def _store(self, path: Path, mode: str, offset: int | None) -> None:
        if self.faults.agrees_early and not path.parent.is_dir():
            await self.say("150 send it")
            _, writer = await self._opened()
            writer.close()
            await self.say("450 error during transfer: file does not exist")
            return
        with path.open(mode) as file:
            if offset:
                file.seek(offset)
            await self._agree("150 send it")
            reader, writer = await self._opened()
            stored = 0
            most = self.faults.cut_upload
            while data := await reader.read(BLOCK):
                if self.faults.disk is not None and stored + len(data) > self.faults.disk:
                    writer.close()
                    await self.say("452 No space left on device")
                    return
                file.write(data if most is None else data[: max(0, most - stored)])
                stored += len(data)
            writer.close()
        if self.faults.takes:
            self._take(path)
        await self._last("226 stored")

    def _take(self, path: Path) -> None:
        self.server.taken[path.relative_to(self.server.folder).as_posix()] = path.read_bytes()
        path.unlink()


def _time(path: Path) -> str:
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC).strftime("%Y%m%d%H%M%S")
