"""Read an archived table from Delta into a temporary table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg
from psycopg import sql

from warehouse.archive.column_types import HOUSEKEEPING
from warehouse.archive.delta import fields_of
from warehouse.archive.parquet_files import written_by
from warehouse.archive.place import Archive, unreachable
from warehouse.db.identifiers import definitions, listed
from warehouse.db.type_names import without_modifier

if TYPE_CHECKING:
    import pyarrow as pa

# Fixed-size Delta types keep their type: as texts, a row with many columns would not fit into a page. All others are
# read as text.
_KINDS: Final = {
    "boolean": "boolean",
    "short": "smallint",
    "integer": "integer",
    "long": "bigint",
    "float": "real",
    "double": "double precision",
    "timestamp": "timestamp with time zone",
    "date": "date",
}
_READ: Final = {
    name: _KINDS.get(HOUSEKEEPING[name], "text")
    for name in ("_operation", "_batch_id", "_run_id", "_mirror_run_id", "_rescued_data")
}


class AsOf(NamedTuple):
    """A run, and the last batch of the transaction that recorded its end."""

    run_id: int
    batch_id: int


@dataclass(frozen=True)
class ArchivedRows:
    """Rows of an archived table in pg_temp.archived: fixed-size values in their type, others as PostgreSQL's text."""

    # Delta fields by column, the newest first, and the column's PostgreSQL type.
    fields: Mapping[str, Sequence[str]]
    types: Mapping[str, str]
    # Types of the fields in pg_temp.archived.
    kinds: Mapping[str, str]
    rows: int

    def typed(self, column: str, kind: str | None = None) -> sql.Composable:
        """Return the SQL expression for a column's value, cast to `kind` or to the column's type."""
        target_type = kind or self.types.get(column, "text")
        values = [
            # Cast by way of text: an earlier type (integer) may have no cast to the present one (date).
            sql.SQL("archived.{}{}::{}").format(
                sql.Identifier(field),
                sql.SQL("" if self.kinds[field] in ("text", without_modifier(target_type)) else "::text"),
                sql.SQL(target_type),
            )
            for field in self.fields.get(column, ())
        ]
        rescued = sql.SQL("(archived._rescued_data::jsonb ->> {})::{}").format(
            sql.Literal(column), sql.SQL(target_type)
        )
        return sql.SQL("coalesce({})").format(sql.SQL(", ").join([*values, rescued]))


def read_rows(
    connection: psycopg.Connection,
    archive: Archive,
    path: str,
    warehouse_id: str,
    *,
    as_of: AsOf | None = None,
) -> ArchivedRows | None:
    """Read this warehouse's rows of an archived table into pg_temp.archived; None if there is no such table.

    Rows before the last `truncate`, and rows that were published after `as_of`, are skipped.

    Raises:
        ArchiveUnreachable: the archive cannot be read, or files of the table are missing or damaged.
    """
    table = archive.open(path)
    if table is None:
        return None
    fields: dict[str, list[str]] = {}
    types: dict[str, str] = {}
    kinds = dict(_READ)
    for name, field in fields_of(table).items():
        if column := field["metadata"].get("dwh.column"):
            fields.setdefault(column, []).insert(0, name)
            types[column] = field["metadata"]["dwh.type"]
            kinds[name] = _KINDS.get(field["type"], "text")
    _create_archived(connection, kinds)
    count = 0
    copy = sql.SQL("copy pg_temp.archived ({}) from stdin (format csv)").format(listed(list(kinds)))
    with connection.cursor() as cursor, unreachable(archive, path), cursor.copy(copy) as incoming:
        for batch in _batches(table, list(kinds), warehouse_id):
            count += batch.num_rows
            incoming.write(_csv(batch))
    if as_of is not None:
        connection.execute(_DELETE_LATER, as_of._asdict())
    connection.execute(_DELETE_VOID.encode())
    # Statistics of the other columns are useless: they are joined and grouped by casts to other types.
    connection.execute("analyze pg_temp.archived (_batch_id, _operation)")
    return ArchivedRows(fields, types, kinds, count)


def read_nothing(connection: psycopg.Connection) -> ArchivedRows:
    """Create an empty pg_temp.archived, for a table that never had rows."""
    _create_archived(connection, _READ)
    return ArchivedRows({}, {}, _READ, 0)


def _create_archived(connection: psycopg.Connection, kinds: Mapping[str, str]) -> None:
    connection.execute(
        sql.SQL(
            "drop table if exists pg_temp.archived; create temp table archived ({}) on commit drop"
        ).format(definitions(kinds))
    )


# Keep later batches of the run itself: its transaction numbers them until it commits.
_DELETE_LATER: Final = """
    delete from pg_temp.archived
    where _batch_id > %(batch_id)s and _batch_id > coalesce(
        (select max(own._batch_id) from pg_temp.archived as own where own._run_id = %(run_id)s), 0
    )
"""
_DELETE_VOID: Final = """
    delete from pg_temp.archived
    where _operation = 'truncate'
        or _batch_id < (
            select max(voided._batch_id) from pg_temp.archived as voided where voided._operation = 'truncate'
        )
"""


def _batches(table: Any, columns: Sequence[str], warehouse_id: str) -> "Iterator[pa.RecordBatch]":
    import pyarrow.compute as pc
    from pyarrow.dataset import FileSystemDataset

    dataset = table.to_pyarrow_dataset()
    fragments = list(dataset.get_fragments())
    # Skip files of other warehouses: those of an abandoned archive may be missing or damaged.
    own = [one for one in fragments if written_by(one.path) in (None, warehouse_id)]
    if len(own) < len(fragments):
        dataset = FileSystemDataset(own, dataset.schema, dataset.format, dataset.filesystem)
    # Filter the batches, not the dataset: deltalake's dataset would drop files without statistics of the column.
    for batch in dataset.to_batches(columns=[*columns, "_warehouse_id"]):
        chosen = pc.equal(batch.column("_warehouse_id"), warehouse_id)
        yield batch.filter(chosen).select(list(columns))


def _csv(batch: "pa.RecordBatch") -> bytes:
    """Return the rows as CSV for PostgreSQL's COPY: NULL is unquoted and empty, an empty text is quoted."""
    import pyarrow as pa
    from pyarrow import csv

    columns = [_texts(column) for column in batch.columns]
    target = pa.BufferOutputStream()
    options = csv.WriteOptions(include_header=False, quoting_style="needed")
    csv.write_csv(pa.RecordBatch.from_arrays(columns, batch.schema.names), target, options)
    return target.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _texts(column: "pa.Array") -> "pa.Array":
    """Return the values of a column as texts that PostgreSQL can read."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        texts = [None if one is None else f"\\x{one.hex()}" for one in column.to_pylist()]
        return pa.array(texts, pa.string())
    if pa.types.is_timestamp(column.type) and column.type.tz == "UTC":
        # Format without the zone and append Z: Arrow would look up the zone for each value, ten times slower.
        moments = column.cast(pa.timestamp(column.type.unit)).cast(pa.string())
        return pc.binary_join_element_wise(moments, "Z", "")
    return column.cast(pa.string())
