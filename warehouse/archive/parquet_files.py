"""Write query results to Parquet files of an archived table. Readers see them only after a Delta commit."""

import json
import os
import re
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from warehouse.archive.column_types import HOUSEKEEPING, StoredColumn
from warehouse.archive.place import IS_IT_UP, Archive, ArchiveUnreachable, unreachable
from warehouse.archive.reader import open_reader
from warehouse.files.locations import Location

if TYPE_CHECKING:
    import pyarrow as pa

# Start another file after the row group with which a file exceeds this size.
FILE_BYTES: Final = 256 * 1024 * 1024
_STEM: Final = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-\d{12,}-")
# Arrow stores a timestamp as microseconds since this epoch.
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True)
class ParquetFile:
    """A file of an archived table: name, size in bytes, rows."""

    name: str
    size: int
    rows: int


@dataclass(frozen=True)
class Query:
    """A query that selects rows in the archive's types, and constants: columns with one value for all its rows."""

    text: str
    constants: Mapping[str, object]


def file_stem(warehouse_id: str, batch_id: int) -> str:
    """Return the prefix of the names of a batch's files."""
    return f"{warehouse_id}-{batch_id:012d}-"


def written_by(path: str) -> str | None:
    """Return the id of the warehouse that wrote this file; None if compaction wrote it, from rows of any warehouse."""
    stem = _STEM.match(path.rpartition("/")[2])
    return stem[1] if stem else None


def write_files(
    warehouse_url: str,
    archive: Archive,
    path: str,
    stem: str,
    columns: Sequence[StoredColumn],
    queries: Sequence[Query],
) -> list[ParquetFile]:
    """Write the rows of `queries` to files of the table `path`, each about FILE_BYTES, in bounded memory.

    Each query selects `columns` and all housekeeping columns that are not among its constants.

    Raises:
        ArchiveUnreachable: the file system of the archive failed.
        UnreadableRows: a query failed.
    """
    import pyarrow as pa

    schema = arrow_schema(columns)
    folder = archive.folder(path)
    writer = _Writer(folder, stem, schema)
    try:
        with unreachable(archive), writer:
            for query in queries:
                with open_reader(warehouse_url, query.text) as reader:
                    for batch in reader:
                        if batch.num_rows:
                            writer.write(_as_stored(batch, schema, query.constants))
    except pa.ArrowException as error:
        raise ArchiveUnreachable(f"{folder} cannot be written: {error}.", hint=IS_IT_UP) from None
    return writer.files


def arrow_schema(columns: Sequence[StoredColumn]) -> "pa.Schema":
    """Arrow schema of an archived table with these columns."""
    import pyarrow as pa

    return pa.schema(
        [
            *(pa.field(one.name, _arrow_type(one.delta_type), metadata=one.metadata) for one in columns),
            *(pa.field(name, _arrow_type(kind)) for name, kind in HOUSEKEEPING.items()),
        ]
    )


def stats_of(rows: int, batch_ids: Sequence[int], run_ids: Sequence[int]) -> str:
    """Return a file's Delta statistics as JSON. Readers use them to skip files (data skipping)."""
    bounds = {"_batch_id": batch_ids, "_run_id": run_ids}
    return json.dumps(
        {
            "numRecords": rows,
            "minValues": {name: min(values) for name, values in bounds.items()},
            "maxValues": {name: max(values) for name, values in bounds.items()},
            "nullCount": dict.fromkeys(bounds, 0),
        }
    )


def make_durable(path: Path) -> None:
    """Call fsync on a local file and its folder, so that both survive a power cut."""
    for place, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(place, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Writer:
    """Writer of one batch's Parquet files. A file is created with its first row group."""

    def __init__(self, folder: Location, stem: str, schema: "pa.Schema") -> None:
        self._folder, self._stem, self._schema = folder, f"{stem}{time.time_ns():x}", schema
        self.files: list[ParquetFile] = []
        self._sink: Any = None
        self._parquet: Any = None
        self._rows = 0

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._close()

    def write(self, batch: "pa.RecordBatch") -> None:
        """Write a batch as a row group."""
        if self._parquet is None:
            self._open()
        self._parquet.write_batch(batch)
        self._rows += batch.num_rows
        if self._sink.tell() > FILE_BYTES:
            self._close()

    def _open(self) -> None:
        from pyarrow import parquet

        self._folder.mkdir(parents=True, exist_ok=True)
        self._location = self._folder / f"{self._stem}-{len(self.files)}.parquet"
        self._sink = self._location.open("wb")
        # zstd at level 1 is faster in total than snappy, whose files are larger to write and read.
        self._parquet = parquet.ParquetWriter(
            self._sink, self._schema, compression="zstd", compression_level=1, version="2.6"
        )

    def _close(self) -> None:
        if self._parquet is None:
            return
        parquet, sink = self._parquet, self._sink
        self._parquet = self._sink = None
        parquet.close()
        size = sink.tell()
        sink.close()
        if isinstance(self._location, Path):
            make_durable(self._location)
        self.files.append(ParquetFile(self._location.name, size, self._rows))
        self._rows = 0


def _as_stored(
    batch: "pa.RecordBatch", schema: "pa.Schema", constants: Mapping[str, object]
) -> "pa.RecordBatch":
    """Convert a query's record batch to the archive's schema, constants included."""
    import pyarrow as pa

    arrays = []
    for field in schema:
        if field.name in constants:
            arrays.append(_repeated(constants[field.name], field.type, batch.num_rows))
            continue
        array = batch.column(field.name)
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if pa.types.is_decimal(field.type) and pa.types.is_integer(array.type):
            array = _as_decimal(array, field.type)
        arrays.append(array if array.type == field.type else array.cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _repeated(value: object, kind: "pa.DataType", rows: int) -> "pa.Array":
    """Return a column with the same value in every row: a text, a bigint, a timestamp or NULL.

    It is built from bytes, since `pa.scalar` imports pandas, which takes as long as writing a day's changes.
    """
    import pyarrow as pa

    if value is None:
        return pa.nulls(rows, kind)
    if isinstance(value, str):
        text = value.encode()
        data = [struct.pack("<2i", 0, len(text)), text]
    else:
        number = (value - _EPOCH) // _MICROSECOND if isinstance(value, datetime) else value
        data = [struct.pack("<q", number)]
    return pa.repeat(pa.Array.from_buffers(kind, 1, [None, *map(pa.py_buffer, data)])[0], rows)


def _as_decimal(unscaled: "pa.Int64Array", kind: "pa.Decimal128Type") -> "pa.Decimal128Array":
    """Convert unscaled integers to decimals (16 bytes each) without Arrow's cast, which is 20 times slower."""
    import numpy as np
    import pyarrow as pa

    # Read the buffer directly: Arrow's conversions to NumPy import pandas. The bytes of NULLs do not matter.
    validity, numbers = unscaled.buffers()
    digits = np.frombuffer(numbers, dtype="<i8", count=unscaled.offset + len(unscaled))
    halves = np.empty((len(digits), 2), dtype="<i8")
    halves[:, 0] = digits
    # Two's complement: the upper half repeats the sign.
    halves[:, 1] = digits >> 63
    buffers = [validity, pa.py_buffer(halves)]
    return pa.Array.from_buffers(kind, len(unscaled), buffers, offset=unscaled.offset)


def _arrow_type(kind: str) -> "pa.DataType":
    import pyarrow as pa

    if kind.startswith("decimal"):
        precision, scale = kind.removeprefix("decimal(").rstrip(")").split(",")
        return pa.decimal128(int(precision), int(scale))
    return {
        "boolean": pa.bool_(),
        "short": pa.int16(),
        "integer": pa.int32(),
        "long": pa.int64(),
        "float": pa.float32(),
        "double": pa.float64(),
        "timestamp": pa.timestamp("us", "UTC"),
        "date": pa.date32(),
        "string": pa.string(),
        "binary": pa.binary(),
    }[kind]
