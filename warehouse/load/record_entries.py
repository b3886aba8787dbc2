"""Insert whole records of a feed into the quarantine as JSON: fields, rescued fields, and lists of objects."""

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from warehouse.db.identifiers import qualified, same_key
from warehouse.feeds.rows import MEMBER
from warehouse.feeds.typed import MOST_SHOWN, describe_type
from warehouse.sources.feed import FILE_ID, LINE, RECORD_COLUMNS, RESCUED, Feed
from warehouse.sources.source import Source, Table

# Temporary table of changes to the record counts of files.
CHANGES = sql.Identifier("pg_temp", "file_change")

_ENGINE_COLUMNS = [*RECORD_COLUMNS, "_run_id", "_is_deleted"]


def insert_entries(
    connection: psycopg.Connection,
    run_id: int,
    source: Source,
    failing: sql.Composable,
    *,
    schema: str,
    superseded: sql.Composable,
) -> int:
    """Insert an entry for each record in `failing` (key, rules, reason), whose rows are in `schema`.

    The reason also names rescued values that are not of their columns' types, because rules see those columns as null.

    Entries for which the condition `superseded` holds are resolved immediately. Adds to CHANGES. Returns the number of
    unresolved entries.
    """
    record, feed = source.record, source.feed
    assert feed is not None
    is_staged = schema == "staging"
    lists = [table for table in source.tables if table.items]
    # Staging may hold several versions of a record, the mirror holds one.
    version = (FILE_ID, LINE) if is_staged else ()
    key = (*record.key, *version)
    names = {
        "run_id": sql.Literal(run_id),
        "source": sql.Literal(source.name),
        # The mirror's name is no entity's: loads recheck only entries of entities, while records are replayed.
        "entity": sql.Literal(record.mirror),
        "records": sql.Identifier(schema, record.mirror),
        "failing": failing,
        "same": same_key(key, "record", "failing"),
        "row_key": sql.SQL("array[{}]::text[]").format(qualified("record", record.key)),
        "file_id": sql.Identifier("record", FILE_ID),
        "line": sql.Identifier("record", LINE),
        "reason": sql.SQL("concat_ws('; ', failing.reason, {})").format(
            sql.SQL(", ").join(
                [
                    _mistyped("record", record, feed),
                    *(sql.Identifier(f"list {table.name}", "mistyped") for table in lists),
                ]
            )
        ),
        "row_data": sql.SQL(" || ").join([_fields("record", ()), *map(_list, lists)]),
        "lists": sql.SQL("").join(
            sql.SQL(
                """
                left join (
                    select {key}, jsonb_agg({fields} order by item.{place}) as members,
                        string_agg(
                            {mistyped} || format(' (%s %s)', {place_name}, item.{place}), '; ' order by item.{place}
                        ) as mistyped
                    from {items} as item inner join {failing} as failing on {same_item} where {is_there}
                    group by {key}
                ) as {name} on {same_list}
                """
            ).format(
                key=qualified("item", key),
                fields=_fields("item", table.key),
                mistyped=_mistyped("item", table, feed),
                place_name=sql.Literal(table.key[-1].replace("_", " ")),
                place=sql.Identifier(table.key[-1]),
                items=sql.Identifier(schema, table.mirror),
                failing=failing,
                same_item=same_key(key, "item", "failing"),
                is_there=sql.SQL("true" if is_staged else "not item._is_deleted"),
                name=sql.Identifier(f"list {table.name}"),
                same_list=same_key(key, f"list {table.name}", "record"),
            )
            for table in lists
        ),
        "superseded": superseded,
        "changes": CHANGES,
    }
    # The planner expects one row from a join on so many columns; a nested loop would build all lists for each record.
    connection.execute("set local enable_nestloop = off")
    (waiting,) = connection.execute(sql.SQL(_INSERT).format(**names)).fetchone() or (0,)
    connection.execute("set local enable_nestloop to default")
    return int(waiting)


_INSERT = """
    with refused as (
        select {row_key} as row_key, failing.rules, {reason} as reason, {file_id} as file_id, {line} as line,
            {row_data} as row_data, {superseded} as is_superseded
        from {failing} as failing inner join {records} as record on {same} {lists}
    ),

    entry as (
        insert into audit.quarantine (
            run_id, source, entity, row_key, rules, reason, row_data, file_id, line_number, resolved_at,
            resolved_run_id, resolution
        )
        select {run_id}, {source}, {entity}, row_key, rules, reason, row_data, file_id, line,
            case when is_superseded then clock_timestamp() end,
            case when is_superseded then {run_id} end,
            case when is_superseded then 'superseded' end
        from refused
    ),

    counted as (
        insert into {changes} (file_id, rows_loaded, rows_quarantined, rows_superseded)
        select file_id, -1, (not is_superseded)::integer, is_superseded::integer from refused
    )

    select count(*) from refused where not is_superseded
"""


def _mistyped(name: str, table: Table, feed: Feed) -> sql.Composable:
    """Expression that describes the rescued values of a row that are not of their columns' types; null if none."""
    types = {column: describe_type(kind, feed) for column, kind in table.columns.items()}
    return sql.SQL(
        """
        (
            select string_agg(
                format(
                    '%s is %s, not %s', key,
                    case when length(value::text) > {shown} then left(value::text, {shown}) || '…' else value::text end,
                    {types} ->> key
                ),
                '; ' order by key
            )
            from jsonb_each({rescued}) where {types} ? key
        )
        """
    ).format(
        shown=sql.Literal(MOST_SHOWN),
        types=sql.Literal(Jsonb(types | {MEMBER: "an object"})),
        rescued=sql.Identifier(name, RESCUED),
    )


def _list(table: Table) -> sql.Composable:
    """Expression for a JSON object with one list of a record, under the list's name."""
    return sql.SQL("jsonb_build_object({}, coalesce({}, '[]'))").format(
        sql.Literal(table.items), sql.Identifier(f"list {table.name}", "members")
    )


def _fields(name: str, left_out: tuple[str, ...]) -> sql.Composable:
    """Expression for a JSON object with the fields of a row as the file has them, equal in value, not in spelling."""
    return sql.SQL(
        # Null columns are skipped; nulls within a column of JSON belong to its value.
        "coalesce((select jsonb_object_agg(key, value) from jsonb_each(to_jsonb({name}) - {engine}::text[]) "
        "where value <> 'null'), '{{}}') || coalesce({rescued}, '{{}}')"
    ).format(
        name=sql.Identifier(name),
        engine=sql.Literal([*_ENGINE_COLUMNS, *left_out]),
        rescued=sql.Identifier(name, RESCUED),
    )
