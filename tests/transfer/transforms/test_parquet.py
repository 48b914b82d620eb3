"""CSV to Parquet: rows as they stand, any chunk border, and what is refused with its row."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdock.errors import ConfigError
from crossdock.transfer.transforms import Refused, parquet, step
from crossdock.transfer.transforms.parquet import _rows_end
from tests.transfer.transforms.running import run, whole

ROWS = [(f"{number:05}", f'na"me, {number}\nsecond line', f"{number}.50", "2026-01-31") for number in range(2000)]


def as_csv(rows: Sequence[tuple[str, ...]], **options: Any) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, **options)
    writer.writerow(("id", "name", "amount", "day"))
    writer.writerows(rows)
    return text.getvalue().encode()


def table(parquet: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(parquet))


@pytest.mark.parametrize("size", [13, 4096, 10_000_000])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_all_columns_are_strings_exactly_as_they_stand(size: int, ends: str) -> None:
    """Leading zeros above all."""
    found = table(run("csv_to_parquet", as_csv(ROWS, lineterminator=ends), size=size))
    assert [tuple(row.values()) for row in found.to_pylist()] == ROWS
    assert {str(kind) for kind in found.schema.types} == {"string"}


def test_types_that_are_asked_for() -> None:
    types = {"id": "int64", "amount": "decimal(18,2)", "day": "date"}
    found = table(run("csv_to_parquet", as_csv(ROWS), {"types": types}))
    assert [str(kind) for kind in found.schema.types] == ["int64", "string", "decimal128(18, 2)", "date32[day]"]
    assert found.column("id").to_pylist() == list(range(2000))
    empty = table(run("csv_to_parquet", b"a,b\n,\nNULL,7\n", {"types": {"b": "int32"}}))
    assert empty.to_pylist() == [{"a": "", "b": None}, {"a": "NULL", "b": 7}]


def test_row_groups_and_blocks_have_bounds() -> None:
    """12 MB in row groups of 1 MiB: what is given out comes while the file is still being read."""
    rows = ROWS * 150
    transform = step("csv_to_parquet", {"row_group": "1M"}).start()
    data = as_csv(rows)
    early = b"".join(whole(transform.feed(data[at : at + 65536])) for at in range(0, len(data), 65536))
    parquet = early + whole(transform.finish())
    transform.close()
    assert len(early) > len(parquet) / 2
    assert pq.ParquetFile(io.BytesIO(parquet)).num_row_groups > 2
    assert table(parquet).num_rows == len(rows)
    assert table(parquet).column("id").to_pylist() == [row[0] for row in rows]


@pytest.mark.parametrize("given", ["snappy", "zstd", "gzip", "none"])
def test_compression(given: str) -> None:
    data = run("csv_to_parquet", as_csv(ROWS), {"compression": given})
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0)
    assert column.compression == ("UNCOMPRESSED" if given == "none" else given.upper())
    assert table(data).num_rows == len(ROWS)


@given(
    st.lists(st.tuples(*[st.text('a";,\n\r é', max_size=6)] * 3), max_size=8),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_rows_end_where_the_csv_module_says(rows: list[tuple[str, ...]], quoting: Any) -> None:
    """A block that is cut anywhere ends with the last row that is whole."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=quoting, lineterminator="\n")
    ends = [0]
    for row in rows:
        # The module leaves a CR bare where that is not its line end; for pyarrow it is one.
        writer.writerow([field.replace("\r", "") for field in row] if quoting == csv.QUOTE_MINIMAL else row)
        ends.append(len(text.getvalue().encode()))
    data = text.getvalue().encode()
    for cut in range(len(data) + 1):
        assert _rows_end(data[:cut], ",") == max(end for end in ends if end <= cut)
    assert _rows_end(data, ",", first=True) == ends[1 if rows else 0]


@pytest.mark.parametrize(
    "data",
    [
        b"a,b\r1,2\r3,4",
        b"a,b\r1,2\r\n3,4\r",
        b"a,b\r\n1,2\r3,4\r\n",
        b"a,b\n\r\r1,2\r3,4\r\r",
        b"a,b\n1,2\n3,4\n\n\n",
    ],
)
@pytest.mark.parametrize("block", [1, 2, 3, 4, 5, 100])
def test_line_ends_of_every_kind(monkeypatch: pytest.MonkeyPatch, data: bytes, block: int) -> None:
    """No row is lost to a CR alone, wherever a block ends."""
    monkeypatch.setattr(parquet, "_BLOCK", block)
    assert table(run("csv_to_parquet", data, size=1)).to_pylist() == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_a_quote_within_a_field_is_a_letter() -> None:
    found = table(run("csv_to_parquet", b'a,b\n5" disk,x\n6" disk,"y\nz"\n', size=3))
    assert [row["a"] for row in found.to_pylist()] == ['5" disk', '6" disk']


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        (b"", {}, "empty"),
        (b"\n", {}, "first row is empty|does not name"),
        (b"a,a\n1,2\n", {}, "two columns are called a"),
        (b"a,b\n1,2\n3\n", {}, "row 3: Expected 2 columns, got 1"),
        (b"a,b\n1,2\n1,x\n", {"types": {"b": "int64"}}, "column b: row 3: .*invalid value 'x'"),
        (b"a,b\n1,NULL\n", {"types": {"b": "int64"}}, "row 2: .*invalid value 'NULL'"),
        (b"a,b\n1,\xff\n", {}, "row 2: .*UTF8"),
        (b"a\xff,b\n1,2\n", {}, "first row"),
        (b"a,b\n1,2\n", {"types": {"c": "int64"}}, "no column is called c; there are a, b"),
        (b",".join(b"%d" % number for number in range(16_385)), {}, "over 16384 columns"),
        (b'a,b\n1,"never closed\n' + b"x\n" * 1000, {}, "quote is not closed"),
        (b'a,b\n1,"never closed\n' + b"x\n" * 9_000_000, {}, "a row of over"),
    ],
)
def test_what_is_refused(data: bytes, options: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said) as refused:
        run("csv_to_parquet", data, options)
    assert ("{charset: " in str(refused.value.hint)) is (b"\xff" in data)


def test_an_empty_line_is_no_row() -> None:
    assert table(run("csv_to_parquet", b'a\n\n1\n""\n\n')).to_pydict() == {"a": ["1", ""]}


def test_rows_are_counted_over_all_blocks() -> None:
    with pytest.raises(Refused, match="row 3000002:"):
        run("csv_to_parquet", b"a,b\n" + b"1,2\n" * 3_000_000 + b"3\n")


def test_a_file_of_column_names_alone() -> None:
    found = table(run("csv_to_parquet", b"a;b", {"delimiter": ";"}))
    assert (found.num_rows, found.schema.names) == (0, ["a", "b"])


@pytest.mark.parametrize(
    "options", [{"types": {"a": "money"}}, {"types": {"a": "decimal(50,2)"}}, {"delimiter": '"'}, {"delimiter": "ab"}]
)
def test_options_are_checked_with_the_configuration(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        step("csv_to_parquet", options)
