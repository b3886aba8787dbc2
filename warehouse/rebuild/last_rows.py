"""Queries of the last state of an archived table's rows, and of the mirror that they make."""

from collections.abc import Mapping, Sequence
from typing import Final

import psycopg
from psycopg import sql

from warehouse.archive.place import Archive
from warehouse.db.identifiers import listed, same_key
from warehouse.rebuild.archived_rows import ArchivedRows, AsOf, read_rows
from warehouse.rebuild.captured_table import CapturedTable, Gap
from warehouse.rebuild.tables import columns_of


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
    table: CapturedTable,
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
