"""CSV (RFC 4180) to Apache Parquet, by pyarrow: read in blocks of whole rows, written in row groups.

pyarrow's own stream of blocks pulls its input in a pool that all of a process share: conversions that wait for their
networks would hold it against each other.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from functools import cache
from typing import Literal

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from pydantic import Field, field_validator

from crossdock.storage.settings import ByteSize
from crossdock.transfer.transforms.base import Options, Refused, Transform

__all__ = ["CsvToParquet", "CsvToParquetOptions"]

_BLOCK = 4 * 1024 * 1024
"""Bytes of CSV that pyarrow parses at once."""
_LONGEST = 4 * _BLOCK
"""Bytes that one row may have."""
_MOST_COLUMNS = 16_384
"""As in a spreadsheet: each takes some 5 KiB."""
_AT_ONCE = 1000
"""Fields that are matched in one go: the matcher keeps some 100 bytes for each."""
_HINT = "correct the options types and delimiter, or have the file sent again"
_HINT_ENCODING = "put a step before this one: {charset: {from: the encoding that the file really has}}"
_TYPES = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
}
_DECIMAL = re.compile(r"decimal\((\d{1,2}),\s*(\d{1,2})\)")


def _type(name: str) -> pa.DataType:
    found = _DECIMAL.fullmatch(name)
    if found and 0 <= int(found[2]) <= int(found[1]) <= 38 and int(found[1]):
        return pa.decimal128(int(found[1]), int(found[2]))
    if name not in _TYPES:
        raise ValueError(f"no type is called {name!r}; write one of {', '.join(_TYPES)}, decimal(18,2)")
    return _TYPES[name]


class CsvToParquetOptions(Options):
    types: dict[str, str] = Field(default_factory=dict)
    """Column → string, int32, int64, float64, decimal(18,2), bool, date or timestamp (both ISO 8601). All others are
    strings, exactly as they stand in the file. Empty fields of a typed column are null."""
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    """One character."""
    compression: Literal["snappy", "zstd", "gzip", "none"] = "snappy"
    row_group: ByteSize = Field(default=32 * 1024**2, ge=64 * 1024, le=1024**3)
    """Bytes of a row group before it is compressed; so much is held in memory, and some 60 MiB."""

    @field_validator("delimiter")
    @classmethod
    def _plain(cls, delimiter: str) -> str:
        if not delimiter.isascii() or delimiter in '"\r\n\0':
            raise ValueError('write one ASCII character that is neither a quote nor a line end: ";" or "\\t"')
        return delimiter

    @field_validator("types")
    @classmethod
    def _known(cls, types: dict[str, str]) -> dict[str, str]:
        for column, name in types.items():
            try:
                _type(name)
            except ValueError as error:
                raise ValueError(f"{column}: {error}") from None
        return types


class CsvToParquet(Transform):
    """The first row names the columns; the text is UTF-8 (put a charset step before it). Rows may span lines, and end
    with LF, CR LF or CR.

    Memory: see `row_group`; a row of 16 MiB, the longest there may be, takes 64 MiB more.
    """

    Options = CsvToParquetOptions
    options: CsvToParquetOptions

    def __init__(self, options: CsvToParquetOptions | None = None) -> None:
        super().__init__(options)
        self._output = _Output()
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._threshold = _BLOCK
        self._columns: dict[str, pa.DataType] = {}
        self._writer: pa_parquet.ParquetWriter | None = None
        self._tables: list[pa.Table] = []
        self._table_bytes = 0
        self._count = 0

    def feed(self, data: bytes) -> list[bytes]:
        self._waiting.append(data)
        self._waiting_size += len(data)
        if self._waiting_size >= self._threshold:
            self._take(b"".join(self._waiting))
        return self._output.taken()

    def finish(self) -> list[bytes]:
        rest = b"".join(self._waiting)
        if rest and not rest.endswith(b"\n"):
            rest += b"\n"
        self._take(rest)
        if self._waiting:
            raise Refused("a quote is not closed at the end of the file", hint="have the file sent again")
        if self._writer is None:
            raise Refused("the file is empty, without a row of column names", hint="have the file sent again")
        self._group()
        self._writer.close()
        return self._output.taken()

    def close(self) -> None:
        self._tables = []
        if self._writer is not None and self._writer.is_open:
            self._writer.close()

    def _take(self, data: bytes) -> None:
        """Every row in the data that is complete; what is left waits for more."""
        end = _rows_end(data, self.options.delimiter)
        if not end and len(data) >= _LONGEST:
            raise Refused(
                f"a row of over {_LONGEST} bytes, or a quote that is never closed",
                hint="correct the option delimiter, or have the file sent again",
            )
        self._waiting = [data[end:]] if end < len(data) else []
        self._waiting_size = len(data) - end
        self._threshold = _BLOCK if self._waiting_size < _BLOCK else _LONGEST
        start = 0
        if end and self._writer is None:
            start = self._head(data)
        if start < end:
            self._add(memoryview(data)[start:end])

    def _head(self, data: bytes) -> int:
        """Read the first row, and start the file; returns where the second begins."""
        end = _rows_end(data, self.options.delimiter, first=True)
        if data.count(self.options.delimiter.encode(), 0, end) >= _MOST_COLUMNS:
            raise Refused(f"over {_MOST_COLUMNS} columns", hint=_HINT)
        try:
            text = data[:end].decode("utf-8-sig")
            names = next(csv.reader(io.StringIO(text, newline=""), delimiter=self.options.delimiter))
        except (UnicodeDecodeError, StopIteration, csv.Error) as error:
            hint = _HINT_ENCODING if isinstance(error, UnicodeDecodeError) else _HINT
            raise Refused(f"the first row does not name the columns: {error}", hint=hint) from error
        twice = sorted(name for name, times in Counter(names).items() if times > 1)
        if twice or not names:
            what = f"two columns are called {', '.join(twice)}" if twice else "the first row is empty"
            raise Refused(what, hint="have the file's first row corrected")
        missing = sorted(set(self.options.types) - set(names))
        if missing:
            raise Refused(
                f"no column is called {', '.join(missing)}; there are {', '.join(names)}",
                hint="correct the option types",
            )
        self._columns = {name: _type(self.options.types.get(name, "string")) for name in names}
        schema = pa.schema(list(self._columns.items()))
        self._writer = pa_parquet.ParquetWriter(self._output, schema, compression=self.options.compression.upper())
        return end

    def _add(self, rows: memoryview) -> None:
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(rows),
                read_options=pa_csv.ReadOptions(
                    column_names=list(self._columns), block_size=len(rows) + 1, use_threads=False
                ),
                parse_options=pa_csv.ParseOptions(delimiter=self.options.delimiter, newlines_in_values=True),
                convert_options=pa_csv.ConvertOptions(column_types=self._columns, null_values=[""]),
            )
        except pa.ArrowException as error:
            # It counts from the block's first row.
            text = re.sub(r"Row #(\d+)", lambda row: f"row {int(row[1]) + self._count + 1}", str(error))
            # And columns from 0.
            names = list(self._columns)
            text = re.sub(r"In CSV column #(\d+)", lambda column: f"column {names[int(column[1])]}", text)
            raise Refused(text, hint=_HINT_ENCODING if "invalid UTF8" in text else _HINT) from error
        self._count += table.num_rows
        self._tables.append(table)
        self._table_bytes += table.nbytes
        if self._table_bytes >= self.options.row_group:
            self._group()

    def _group(self) -> None:
        tables, self._tables, self._table_bytes = self._tables, [], 0
        table = pa.concat_tables(tables) if tables else None
        if table is not None and table.num_rows and self._writer is not None:
            self._writer.write_table(table, row_group_size=table.num_rows)


def _rows_end(data: bytes, delimiter: str, *, first: bool = False) -> int:
    """Where the last complete row of a block ends, or the first; 0: none is complete. The block begins with a row.

    Rows end with LF, CR LF or CR, as for pyarrow; a CR that ends the block may be half of one. A quote opens a field
    only as its first character, as for pyarrow. The time is linear.
    """
    fields = _fields(delimiter, 1 if first else _AT_ONCE)
    at = end = 0
    while (found := fields.match(data, at)) and found.end() > at:
        at = found.end()
        if found[1] is not None:
            end = found.end(1)
            if first:
                break
    return end


@cache
def _fields(delimiter: str, most: int) -> re.Pattern[bytes]:
    """Matches fields, each with what ends it; the group is the last line end among these.

    What is quoted goes up to the next quote; where a quote follows that at once, the field goes on. Only single
    characters are repeated without a way back (possessive): for groups that is wrong before Python 3.11.5 (gh-106052).
    """
    mark = re.escape(delimiter)
    end = f"[^{mark}\\r\\n]*+(?:{mark}|(\\r?\\n|\\r(?=[^\\n])))"
    return re.compile(f'(?:"[^"]*+"(?=")|(?:"[^"]*+"|(?!")){end}){{0,{most}}}'.encode())


class _Output:
    """What pyarrow writes to, front to back; Parquet's directory comes last, so that nothing is ever rewritten."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes | memoryview) -> int:
        self._parts.append(bytes(data))
        self._size += len(data)
        return len(data)

    def taken(self) -> list[bytes]:
        """What was written since this was asked last."""
        parts, self._parts = self._parts, []
        return parts

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
