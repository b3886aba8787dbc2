"""Queries for the latest state of archived rows, and for the mirror that results from them."""

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
    """Return the query for the last state of each row of pg_temp.archived, without removed rows."""
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
    """Read an archived table of the audit trail; None if the archive has no such table.

    Returns the types of the archived columns, the key, and the query of its rows.
    """
    archived = read_rows(connection, archive, f"audit/{name}", own, as_of=as_of)
    if archived is None:
        return None
    types = columns_of(connection, "audit", name)
    archived_types = {column: kind for column, kind in types.items() if column in archived.fields}
    key = [
        column
        for (column,) in connection.execute(
            "select attname::text from pg_index "
            "inner join pg_attribute on attrelid = indrelid and attnum = any(indkey) "
            "where indrelid = %s::regclass and indisprimary",
            [f"audit.{name}"],
        )
    ]
    return archived_types, key, last_rows(connection, archived, key, archived_types)


def mirror_rows(
    connection: psycopg.Connection,
    archived: ArchivedRows,
    table: CapturedTable,
    columns: Mapping[str, str],
    *,
    keeps_dropped: bool = True,
) -> sql.Composed:
    """Return the query for the rows of a mirror, with `_run_id` and `_is_deleted`.

    A deleted row keeps its last values; `_run_id` is the run of the first batch with the row's last state. A `retyped`
    column is null in rows archived before its present type, as in the live mirror. In the `gaps` of a column, rows keep
    their earlier value; if the mirror drops such columns (not `keeps_dropped`), only values since its return count.
    """
    key = table.key
    gaps = {name: found for name, found in table.gaps.items() if name in columns and name not in key}
    begins = {name: batch for name, batch in table.retyped.items() if name not in key}
    if not keeps_dropped:
        begins |= {
            name: max(found[-1].until_batch_id or 0, begins.get(name, 0)) for name, found in gaps.items()
        }
        gaps = {}
    # Aliases are numbered: a column's name with a prefix could exceed the length of an identifier.
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
    """Return the select list of these columns, cast to these types; null before the batch that `begins` names."""

    def value(name: str, kind: str) -> sql.Composable:
        typed = archived.typed(name, kind)
        if begins is None or name not in begins:
            return typed
        # Do not cast earlier values: they may be invalid in the present type.
        return sql.SQL("case when archived._batch_id >= {} then {} end").format(
            sql.Literal(begins[name]), typed
        )

    return sql.SQL(", ").join(
        sql.SQL("{} as {}").format(value(name, kind), sql.Identifier(name)) for name, kind in columns.items()
    )


def _group(name: sql.Identifier, gaps: Sequence[Gap], key: Sequence[str]) -> sql.Composable:
    """Return a window expression `name` that groups a row's version in a gap with the last version before the gap."""
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
    """Fill pg_temp.repeated with the keys that have several rows in pg_temp.archived: only these need sorting."""
    connection.execute(
        sql.SQL(
            "drop table if exists pg_temp.repeated; create temp table repeated on commit drop as "
            "select {} from pg_temp.archived as archived group by {} having count(*) > 1; analyze pg_temp.repeated"
        ).format(
            _typed(archived, {name: columns[name] for name in key}),
            sql.SQL(", ").join(sql.SQL(str(place)) for place in range(1, len(key) + 1)),
        )
    )


# Our columns are in angle brackets, so that they do not collide with the source's.
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
