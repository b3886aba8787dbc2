"""Write the rows of a query to Parquet, streamed: COPY in CSV format, read by Arrow in blocks of a few megabytes.

Parquet has no infinite dates or timestamps, and no NaN decimals. Infinite dates and timestamps are written as the
largest or smallest value of their type, which sorts as in PostgreSQL and which DuckDB reads as infinity. Decimals that
are NaN or do not fit the type are written as NULL, and counted.
"""

import io
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql

from warehouse.extract.copy_stream import copy_out

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_BYTES: Final = 8 << 20
# The largest block size of pyarrow; a row in PostgreSQL's COPY is at most 1 GB.
LARGEST_BLOCK: Final = (1 << 31) - 1
# Precision and scale for numerics without declared ones: sums, shares and averages of marts.
WIDEST: Final = (38, 10)
DAY: Final = "_day"
LOST: Final = "_lost"


@dataclass(frozen=True)
class Column:
    """A column of a query: its SQL type, with precision and scale if it is a numeric."""

    name: str
    type: str
    precision: int | None = None
    scale: int | None = None

    @property
    def decimal(self) -> tuple[int, int] | None:
        """Precision and scale in Parquet; None if the column is not numeric."""
        if self.type != "numeric":
            return None
        precision, scale = self.precision, self.scale
        is_plain = precision is not None and scale is not None and 0 <= scale <= precision <= WIDEST[0]
        return (precision, scale) if is_plain else WIDEST  # type: ignore[return-value]


@dataclass(frozen=True)
class Written:
    """Row count of a file, and number of its values that do not fit Parquet's types and were written as NULL."""

    rows: int = 0
    lost_values: int = 0


def columns_of(connection: psycopg.Connection, query: sql.Composable) -> list[Column]:
    """Return the columns of a query, without running it."""
    cursor = connection.execute(sql.SQL("select * from ({}) as queried limit 0").format(query))
    type_registry = connection.adapters.types
    return [
        Column(
            column.name,
            info.name if (info := type_registry.get(column.type_code)) else "",
            column.precision,
            column.scale,
        )
        for column in cursor.description or ()
    ]


def write_query(
    connection: psycopg.Connection,
    query: sql.Composable,
    columns: Sequence[Column],
    open_file: Callable[[str], IO[bytes]],
    *,
    divided: bool = False,
    comments: Mapping[str, str] | None = None,
) -> dict[str, Written]:
    """Write the rows of `query` to Parquet files. Returns the counts of each file by day.

    If `divided`, the query must have a column `_day` and be ordered by it, and each day becomes a file. Otherwise there
    is one file, for the day '', even without rows. `connection` must be in a transaction: a savepoint is set.
    """
    import pyarrow as pa

    block = BLOCK_BYTES
    while True:
        writer = _Writer(_schema(columns, comments or {}), open_file)
        try:
            with connection.transaction(), writer:
                if not divided:
                    writer.begin("")
                with closing(_batches(connection, query, columns, divided, block)) as batches:
                    for batch in batches:
                        writer.write(batch)
            return writer.written
        except pa.ArrowInvalid as error:
            # Arrow raises "straddling object" for a row that is larger than a block.
            if "straddl" not in str(error) or block == LARGEST_BLOCK:
                raise
            block = min(block * 16, LARGEST_BLOCK)


class _Writer:
    """Writer of record batches to one file per day."""

    def __init__(self, schema: "pa.Schema", open_file: Callable[[str], IO[bytes]]) -> None:
        self._schema, self._open = schema, open_file
        self._day: str | None = None
        self._file: IO[bytes] | None = None
        self._parquet: Any = None
        self.written: dict[str, Written] = {}

    def begin(self, day: str) -> None:
        """Close the open file, and open that of `day`."""
        import pyarrow.parquet as pq

        if day == self._day:
            return
        self.close()
        self._day, self._file = day, self._open(day)
        self._parquet = pq.ParquetWriter(self._file, self._schema, compression="zstd", version="2.6")
        self.written[day] = Written()

    def write(self, batch: "pa.RecordBatch") -> None:
        """Write the rows of each day in the batch to its file."""
        import pyarrow as pa
        import pyarrow.compute as pc

        start = 0
        parts: Iterable[tuple[str, int]] = [("", batch.num_rows)]
        if DAY in batch.schema.names:
            days = pc.run_end_encode(batch.column(DAY))
            parts = zip(days.values.to_pylist(), days.run_ends.to_pylist(), strict=True)
        for day, end in parts:
            self.begin(day)
            part = batch.slice(start, end - start)
            columns = [_typed(part.column(field.name), field.type) for field in self._schema]
            self._parquet.write_table(pa.Table.from_arrays(columns, schema=self._schema))
            before = self.written[day]
            lost = pc.sum(part.column(LOST)).as_py() or 0
            self.written[day] = Written(before.rows + part.num_rows, before.lost_values + lost)
            start = end

    def close(self) -> None:
        """Complete the file."""
        if self._parquet is not None:
            self._parquet.close()
        if self._file is not None:
            self._file.close()
        self._parquet = self._file = None

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        self.close()


class _Stream(io.RawIOBase):
    """The output of a COPY as a file. Arrow reads ahead in its own thread, hence the lock."""

    def __init__(self, rows: Generator[bytes | bytearray | memoryview]) -> None:
        self._rows, self._rest = rows, memoryview(b"")
        self._lock = Lock()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._lock:
            if not self._rest:
                self._rest = memoryview(next(self._rows, b""))
            size = min(len(buffer), len(self._rest))
            buffer[:size] = self._rest[:size]
            self._rest = self._rest[size:]
            return size

    def stop(self) -> None:
        """Cancel the COPY, even while Arrow's thread is reading."""
        with self._lock:
            self._rows.close()
            self._rest = memoryview(b"")


def _batches(
    connection: psycopg.Connection,
    query: sql.Composable,
    columns: Sequence[Column],
    divided: bool,
    block: int,
) -> "Generator[pa.RecordBatch]":
    from pyarrow import ArrowInvalid, csv, string

    selected = [
        sql.SQL("{} as {}").format(_exportable(column), sql.Identifier(column.name)) for column in columns
    ]
    numbers = [column for column in columns if column.decimal]
    lost = (
        sql.SQL("num_nonnulls({}) - num_nonnulls({})").format(
            sql.SQL(", ").join(sql.Identifier(column.name) for column in numbers),
            sql.SQL(", ").join(map(_exportable, numbers)),
        )
        if numbers
        else sql.SQL("0")
    )
    if divided:
        selected.append(sql.SQL("{}::text as {}").format(sql.Identifier(DAY), sql.Identifier(DAY)))
    copy = sql.SQL("copy (select {}, {} as {} from ({}) as queried) to stdout (format csv)").format(
        sql.SQL(", ").join(selected), lost, sql.Identifier(LOST), query
    )
    names = [*(column.name for column in columns), *([DAY] if divided else []), LOST]
    types = {column.name: _read_type(column) for column in columns} | {DAY: string()}
    stream = _Stream(copy_out(connection, copy))
    try:
        yield from csv.open_csv(
            io.BufferedReader(stream, 1 << 20),
            csv.ReadOptions(column_names=names, block_size=block, use_threads=False),
            csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            csv.ConvertOptions(
                column_types=types,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                true_values=["t"],
                false_values=["f"],
            ),
        )
    except ArrowInvalid as error:
        if "Empty CSV file" not in str(error):
            raise
    finally:
        stream.stop()


def _exportable(column: Column) -> sql.Composable:
    """Return SQL that converts a column to what Parquet can hold, as CSV."""
    name = sql.Identifier(column.name)
    if column.type in ("date", "timestamptz", "timestamp"):
        is_date = column.type == "date"
        largest = (1 << (31 if is_date else 63)) - 1
        # Timestamps of PostgreSQL's last 30 years overflow an int64 of microseconds since 1970.
        microseconds = f"least(extract(epoch from {{0}}) * 1000000, {largest - 1})::bigint"
        value = "{0} - date '1970-01-01'" if is_date else microseconds
        # DuckDB represents -infinity as -largest, not as the smallest integer.
        return sql.SQL(
            f"case when isfinite({{0}}) then {value} when {{0}} = 'infinity' then {largest} "
            f"when {{0}} = '-infinity' then -{largest} end"
        ).format(name)
    if column.type == "numeric":
        if column.decimal == WIDEST and column.scale != WIDEST[1]:
            digits = WIDEST[0] - WIDEST[1]
            return sql.SQL(
                f"case when abs({{0}}) < 1e{digits} - 1 then round({{0}}, {WIDEST[1]}) end"
            ).format(name)
        return sql.SQL("nullif({}, 'NaN')").format(name)
    if column.type in _PLAIN:
        return name
    # Show an inet address without its /32, as psql does.
    return sql.SQL("abbrev({})" if column.type == "inet" else "{}::text").format(name)


def _read_type(column: Column) -> "pa.DataType":
    """Return the Arrow type in which a column is read from CSV."""
    import pyarrow as pa

    if column.type == "date":
        return pa.int32()
    if column.type in ("timestamptz", "timestamp"):
        return pa.int64()
    return _type(column)


def _type(column: Column) -> "pa.DataType":
    """Return the Arrow type in which a column is written to Parquet."""
    import pyarrow as pa

    if column.decimal is not None:
        return pa.decimal128(*column.decimal)
    types = {
        "date": pa.date32(),
        "timestamptz": pa.timestamp("us", "UTC"),
        "timestamp": pa.timestamp("us"),
        **{name: getattr(pa, kind)() for name, kind in _PLAIN.items()},
    }
    return types.get(column.type, pa.string())


_PLAIN: Final = {
    "bool": "bool_",
    "int2": "int16",
    "int4": "int32",
    "int8": "int64",
    "float4": "float32",
    "float8": "float64",
    "text": "string",
}


def _schema(columns: Sequence[Column], comments: Mapping[str, str]) -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        [
            pa.field(
                column.name,
                _type(column),
                metadata={"comment": comments[column.name]} if column.name in comments else None,
            )
            for column in columns
        ]
    )


def _typed(values: "pa.Array", kind: "pa.DataType") -> "pa.Array":
    return values if values.type == kind else values.view(kind)
