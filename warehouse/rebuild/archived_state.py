"""The state of an archived table: its rows are read from Delta into a temporary table, and reduced to the last ones."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg
from psycopg import sql

from warehouse.archive.column_types import HOUSEKEEPING
from warehouse.archive.delta import fields_of
from warehouse.archive.place import Archive
from warehouse.db.identifiers import definitions, listed, same_key
from warehouse.extract.column import without_modifier
from warehouse.extract.drift import hash_alike
from warehouse.rebuild.tables import columns_of

if TYPE_CHECKING:
    import pyarrow as pa

# Types of Delta that are read as such: a row of many columns would not fit into a page as texts. Others are.
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


class Gap(NamedTuple):
    """Batches without a column that the mirror kept: the first one, and the first that has it again."""

    first_batch_id: int
    until_batch_id: int | None


class AsOf(NamedTuple):
    """A run, and the last batch of the transaction that recorded its end."""

    run_id: int
    batch_id: int


@dataclass(frozen=True)
class ArchivedRows:
    """Rows of an archived table in pg_temp.archived: values of a fixed size as such, others as PostgreSQL's text."""

    # Fields of the Delta table by column, the newest first, and the column's type in PostgreSQL.
    fields: Mapping[str, Sequence[str]]
    types: Mapping[str, str]
    # Types of the fields in pg_temp.archived.
    kinds: Mapping[str, str]
    rows: int

    def typed(self, column: str, kind: str | None = None) -> sql.Composable:
        """The expression of a column's value, of its type."""
        wanted = kind or self.types.get(column, "text")
        values = [
            # A value of an earlier type, as integer, may have no cast to the present one, as date: its text has.
            sql.SQL("archived.{}{}::{}").format(
                sql.Identifier(field),
                sql.SQL("" if self.kinds[field] in ("text", without_modifier(wanted)) else "::text"),
                sql.SQL(wanted),
            )
            for field in self.fields.get(column, ())
        ]
        rescued = sql.SQL("(archived._rescued_data::jsonb ->> {})::{}").format(
            sql.Literal(column), sql.SQL(wanted)
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
    """Read the rows that this warehouse has archived of a table into pg_temp.archived; None where there is none.

    Rows that a later `truncate` makes void are left out, and those that were published later than `as_of`.
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
    with connection.cursor() as cursor, cursor.copy(copy) as incoming:
        for batch in _batches(table, list(kinds), warehouse_id):
            count += batch.num_rows
            incoming.write(_csv(batch))
    if as_of is not None:
        connection.execute(_DELETE_LATER, as_of._asdict())
    connection.execute(_DELETE_VOID.encode())
    # Values are joined and grouped by as other types, of which their texts' statistics say nothing.
    connection.execute("analyze pg_temp.archived (_batch_id, _operation)")
    return ArchivedRows(fields, types, kinds, count)


def read_nothing(connection: psycopg.Connection) -> ArchivedRows:
    """The rows of a table that never had any: an empty pg_temp.archived."""
    _create_archived(connection, _READ)
    return ArchivedRows({}, {}, _READ, 0)


def _create_archived(connection: psycopg.Connection, kinds: Mapping[str, str]) -> None:
    connection.execute(
        sql.SQL(
            "drop table if exists pg_temp.archived; create temp table archived ({}) on commit drop"
        ).format(definitions(kinds))
    )


def last_rows(
    connection: psycopg.Connection, archived: ArchivedRows, key: Sequence[str], columns: Mapping[str, str]
) -> sql.Composed:
    """The query of the last state of each row of pg_temp.archived; those that were removed are not in it."""
    _find_repeated(connection, archived, key, columns)
    return sql.SQL(_ROWS).format(
        key=listed(key),
        typed=_typed(archived, columns),
        columns=listed(list(columns)),
        repeated=same_key(key, "typed", "repeated"),
    )


def read_trail(
    connection: psycopg.Connection, archive: Archive, own: str, name: str, *, as_of: AsOf | None = None
) -> tuple[Mapping[str, str], Sequence[str], sql.Composed] | None:
    """Read a table of the audit trail: types of the columns that the archive has, its key, and the query of its rows.

    None if the archive has no such table.
    """
    archived = read_rows(connection, archive, f"audit/{name}", own, as_of=as_of)
    if archived is None:
        return None
    types = columns_of(connection, "audit", name)
    known = {column: kind for column, kind in types.items() if column in archived.fields}
    key = [
        column
        for (column,) in connection.execute(
            "select attname::text from pg_index "
            "inner join pg_attribute on attrelid = indrelid and attnum = any(indkey) "
            "where indrelid = %s::regclass and indisprimary",
            [f"audit.{name}"],
        )
    ]
    return known, key, last_rows(connection, archived, key, known)


def mirror_rows(
    connection: psycopg.Connection,
    archived: ArchivedRows,
    table: "CapturedTable",
    columns: Mapping[str, str],
    *,
    keeps_dropped: bool = True,
) -> sql.Composed:
    """The query of the rows of a mirror, `_run_id` and `_is_deleted` included.

    A deleted row keeps the values that it had; `_run_id` is that of the first batch that brought the row's last state.
    Of columns that were `retyped`, what was archived before that batch is null, as the mirror has it since. Of columns
    with `gaps`, the batches in these had no values: rows keep those that they had. If the mirror dropped them (not
    `keeps_dropped`), it has values of them since the batch with which they came back.
    """
    key = table.key
    gaps = {name: found for name, found in table.gaps.items() if name in columns and name not in key}
    begins = {name: batch for name, batch in table.retyped.items() if name not in key}
    if not keeps_dropped:
        begins |= {
            name: max(found[-1].until_batch_id or 0, begins.get(name, 0)) for name, found in gaps.items()
        }
        gaps = {}
    # A number for each: whatever the column is called, this is an identifier.
    values = {name: sql.Identifier(f"<value {place}>") for place, name in enumerate(gaps)}
    _find_repeated(connection, archived, key, columns)
    return sql.SQL(_MIRROR).format(
        typed=_typed(archived, columns, begins),
        columns=listed(list(columns)),
        repeated=same_key(key, "typed", "repeated"),
        groups=sql.SQL("").join(_group(values[name], found, key) for name, found in gaps.items()),
        kept=sql.SQL(", ").join(
            _kept(name, values[name], key) if name in gaps else sql.Identifier(name) for name in columns
        ),
        written=sql.SQL(", ").join(sql.Identifier("written", name) for name in columns),
        key=listed(key),
        last=same_key(key, "written", "last"),
        changed=same_key(key, "written", "changed"),
    )


def _typed(
    archived: ArchivedRows, columns: Mapping[str, str], begins: Mapping[str, int] | None = None
) -> sql.Composable:
    """Select list of the values of these columns, of these types; of those that have one, since their first batch."""

    def value(name: str, kind: str) -> sql.Composable:
        typed = archived.typed(name, kind)
        if begins is None or name not in begins:
            return typed
        # What an earlier type allowed need not be valid in this one.
        return sql.SQL("case when archived._batch_id >= {} then {} end").format(
            sql.Literal(begins[name]), typed
        )

    return sql.SQL(", ").join(
        sql.SQL("{} as {}").format(value(name, kind), sql.Identifier(name)) for name, kind in columns.items()
    )


def _group(name: sql.Identifier, gaps: Sequence[Gap], key: Sequence[str]) -> sql.Composable:
    """Number of the value of a column that a row's version has, its own or that of a version before, as `name`."""
    return sql.SQL(
        """, count(*) filter (where "<operation>" in ('write', 'write_deleted') and not ({in_gap}))
            over (partition by {key} order by "<batch>") as {group}"""
    ).format(
        in_gap=sql.SQL(" or ").join(
            sql.SQL('"<batch>" >= {} and {}').format(
                sql.Literal(first),
                sql.SQL("true") if until is None else sql.SQL('"<batch>" < {}').format(sql.Literal(until)),
            )
            for first, until in gaps
        ),
        key=listed(key),
        group=name,
    )


def _kept(column: str, group: sql.Identifier, key: Sequence[str]) -> sql.Composable:
    return sql.SQL('first_value({0}) over (partition by {1}, {2} order by "<batch>") as {0}').format(
        sql.Identifier(column), listed(key), group
    )


def _find_repeated(
    connection: psycopg.Connection, archived: ArchivedRows, key: Sequence[str], columns: Mapping[str, str]
) -> None:
    """Fill pg_temp.repeated with the keys of which pg_temp.archived has several rows: only these have to be sorted."""
    connection.execute(
        sql.SQL(
            "drop table if exists pg_temp.repeated; create temp table repeated on commit drop as "
            "select {} from pg_temp.archived as archived group by {} having count(*) > 1; analyze pg_temp.repeated"
        ).format(
            _typed(archived, {name: columns[name] for name in key}),
            sql.SQL(", ").join(sql.SQL(str(place)) for place in range(1, len(key) + 1)),
        )
    )


# Batches of one transaction are numbered as it goes.
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
# A source may have columns of any name: ours are in angle brackets.
_ROWS: Final = """
    with typed as not materialized (
        select {typed}, archived._operation as "<operation>", archived._batch_id as "<batch>"
        from pg_temp.archived as archived
    ),

    last as (
        select distinct on ({key}) {columns}, "<operation>"
        from typed where exists (select from pg_temp.repeated as repeated where {repeated})
        order by {key}, "<batch>" desc
    )

    select {columns} from typed
    where "<operation>" <> 'remove' and not exists (select from pg_temp.repeated as repeated where {repeated})
    union all
    select {columns} from last where "<operation>" <> 'remove'
"""
_MIRROR: Final = """
    with typed as not materialized (
        select {typed}, archived._operation as "<operation>", archived._batch_id as "<batch>",
            coalesce(archived._mirror_run_id, archived._run_id) as "<run>"
        from pg_temp.archived as archived
    ),

    numbered as (
        select *, max("<batch>") filter (where "<operation>" = 'remove') over (partition by {key}) as "<removed by>"
        from typed where exists (select from pg_temp.repeated as repeated where {repeated})
    ),

    grouped as (
        select * {groups} from numbered where "<batch>" > coalesce("<removed by>", -1)
    ),

    kept as (
        select {kept}, "<operation>", "<batch>", "<run>" from grouped
    ),

    judged as (
        select *,
            case when "<operation>" = 'delete' then 'deleted' else "<operation>" || md5(row({columns})::text) end
                as "<state>"
        from kept
    ),

    alive as (
        select *, lag("<state>") over (partition by {key} order by "<batch>") as "<state before>" from judged
    ),

    last as (
        select distinct on ({key}) {key}, "<operation>" in ('delete', 'write_deleted') as "<is deleted>"
        from alive order by {key}, "<batch>" desc
    ),

    changed as (
        select distinct on ({key}) {key}, "<run>"
        from alive where "<state>" is distinct from "<state before>" order by {key}, "<batch>" desc
    ),

    written as (
        select distinct on ({key}) {columns}
        from alive where "<operation>" in ('write', 'write_deleted') order by {key}, "<batch>" desc
    )

    select {columns}, "<run>" as _run_id, "<operation>" = 'write_deleted' as _is_deleted from typed
    where "<operation>" in ('write', 'write_deleted')
        and not exists (select from pg_temp.repeated as repeated where {repeated})
    union all
    select {written}, changed."<run>", last."<is deleted>"
    from written inner join last on {last} inner join changed on {changed}
"""


def _batches(table: Any, columns: Sequence[str], warehouse_id: str) -> "Iterator[pa.RecordBatch]":
    import pyarrow.compute as pc

    # Not by a filter of the dataset: deltalake's would drop files whose columns have no statistics.
    for batch in table.to_pyarrow_dataset().to_batches(columns=[*columns, "_warehouse_id"]):
        chosen = pc.equal(batch.column("_warehouse_id"), warehouse_id)
        yield batch.filter(chosen).select(list(columns))


def _csv(batch: "pa.RecordBatch") -> bytes:
    """The rows in CSV, every value as PostgreSQL reads it; NULL is nothing, an empty text is quoted."""
    import pyarrow as pa
    from pyarrow import csv

    columns = [_texts(column) for column in batch.columns]
    target = pa.BufferOutputStream()
    options = csv.WriteOptions(include_header=False, quoting_style="needed")
    csv.write_csv(pa.RecordBatch.from_arrays(columns, batch.schema.names), target, options)
    return target.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _texts(column: "pa.Array") -> "pa.Array":
    """The values of a column as PostgreSQL reads them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        texts = [None if one is None else f"\\x{one.hex()}" for one in column.to_pylist()]
        return pa.array(texts, pa.string())
    if pa.types.is_timestamp(column.type) and column.type.tz == "UTC":
        # Arrow looks up the zone of each value, which takes ten times as long as the value itself.
        moments = column.cast(pa.timestamp(column.type.unit)).cast(pa.string())
        return pc.binary_join_element_wise(moments, "Z", "")
    return column.cast(pa.string())


class Shape(NamedTuple):
    """Types of the columns of a table's batches, from a batch on."""

    batch_id: int
    types: Mapping[str, str]


def manifest_of(
    connection: psycopg.Connection, archive: Archive, warehouse_id: str, as_of: AsOf | None = None
) -> list["CapturedTable"]:
    """The captured tables of the archive, as their last batch has them."""
    if read_rows(connection, archive, "audit/captured_table", warehouse_id, as_of=as_of) is None:
        return []
    rows = connection.execute(_CAPTURED).fetchall()
    shapes: dict[tuple[str, str], list[Shape]] = {}
    for source, name, batch_id, columns in connection.execute(_SHAPES):
        shape = Shape(batch_id, _types_of(columns))
        shapes.setdefault((source, name), []).append(shape)
    return [
        CapturedTable(
            source,
            name,
            mirror,
            tuple(key),
            _types_of(columns),
            comment,
            run_id,
            batch_id,
            {column: told for column, _, *comments in json.loads(described or "[]") for told in comments},
            shapes[(source, name)],
        )
        for source, name, mirror, key, columns, comment, run_id, batch_id, described in rows
    ]


def _types_of(columns: str) -> Mapping[str, str]:
    return {name: kind for name, kind, *_ in json.loads(columns)}


@dataclass(frozen=True)
class CapturedTable:
    """A table of a source as its last archived batch has it: types by column."""

    source: str
    name: str
    mirror: str
    key: tuple[str, ...]
    columns: Mapping[str, str]
    comment: str | None
    captured_run_id: int
    # The last batch that had rows, if one had.
    batch_id: int | None
    column_comments: Mapping[str, str]
    # The first batches with other columns than those before.
    shapes: Sequence[Shape]

    def why_not_by(self, key: Mapping[str, str]) -> str | None:
        """Why its rows cannot be matched by `key`, its columns with their types; None if they can."""
        archived = {name: self.columns[name] for name in self.key}
        if tuple(key) == self.key and all(hash_alike(kind, key[name]) for name, kind in archived.items()):
            return None
        by, now = (", ".join(f"{name} {kind}" for name, kind in one.items()) for one in (archived, key))
        return f"it was archived by the key ({by}), which is ({now}) now"

    @property
    def retyped(self) -> Mapping[str, int]:
        """By column that had another type before, the first batch with the present one."""
        known: dict[str, str] = {}
        found = {}
        for shape in self.shapes:
            for name, kind in shape.types.items():
                if known.setdefault(name, kind) != kind:
                    found[name] = shape.batch_id
            known |= shape.types
        return found

    @property
    def gaps(self) -> Mapping[str, Sequence[Gap]]:
        """By column, the batches without it after one that had it."""
        found: dict[str, list[Gap]] = {}
        for shape, following in zip_longest(self.shapes, self.shapes[1:]):
            missing = {name for one in self.shapes for name in one.types if one.batch_id < shape.batch_id}
            for name in missing - shape.types.keys():
                gap = Gap(shape.batch_id, following.batch_id if following else None)
                found.setdefault(name, []).append(gap)
        return found


# Batches that an undo or a repair wrote do not know what the source says of its tables.
_CAPTURED: Final = """
    with last as (
        select distinct on (source, table_name)
            source, table_name, mirror, key::text[], columns, run_id::bigint,
            max(batch_id::bigint) over (partition by source, table_name) as batch_id
        from pg_temp.archived order by source, table_name, _batch_id desc, kind = 'baseline'
    ),

    described as (
        select distinct on (source, table_name) source, table_name, table_comment, columns
        from pg_temp.archived where kind not in ('undo', 'repair')
        order by source, table_name, _batch_id desc, kind = 'baseline'
    )

    select last.source, last.table_name, last.mirror, last.key, last.columns, described.table_comment, last.run_id,
        last.batch_id, described.columns
    from last left join described on last.source = described.source and last.table_name = described.table_name
    order by last.source, last.table_name
"""
# A batch that had no rows is numbered before the rows of the manifest are.
_SHAPES: Final = """
    select source, table_name, batch_id, columns from (
        select source, table_name, columns, _batch_id, kind <> 'baseline' as is_batch,
            coalesce(batch_id::bigint, _batch_id) as batch_id,
            lag(columns) over (
                partition by source, table_name order by _batch_id, kind <> 'baseline'
            ) as columns_before
        from pg_temp.archived
    ) as entry
    where columns is distinct from columns_before order by source, table_name, _batch_id, is_batch
"""
