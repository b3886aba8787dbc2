"""Notes of `dwh doctor` on source tables: keys without a unique index, cursors without an index or trigger."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psycopg

from warehouse.db.identifiers import to_paste
from warehouse.extract.access_paths import read_access_paths
from warehouse.extract.catalog import source_columns
from warehouse.extract.cursor_window import is_moment
from warehouse.sources.source import Table

_VIEW = "{tables}: each run computes all rows of a view, and compares them by these columns."
_UNGUARDED = (
    "{tables}: no unique index guards this declared key, so that a run fails where two rows share it."
)
_NO_CURSOR = (
    "{tables}: without a cursor that is a time a table is scanned every DWH_SCAN_INTERVAL, once it is large."
)
_NO_INDEX = (
    "{tables}: no index begins with this cursor, so that the table is scanned every DWH_SCAN_INTERVAL, once it is "
    "large."
)
_CHILDREN = (
    "{tables}: rows of its children are covered by no index of its own, so that it is scanned every DWH_SCAN_INTERVAL, "
    "once it is large."
)
_UNORDERED = (
    "{tables}: these keys cannot be compared in ranges, since no B-tree has them in this order, or their type or "
    "collation has another order elsewhere. The table is scanned once DWH_VERIFY_WITHIN, once it is large."
)
_NO_TRIGGER = (
    "{tables}: no trigger sets this cursor; updates that do not set it are found by transaction id only."
)


@dataclass(frozen=True)
class TableNote:
    """A note on one table. `what` is a text with the placeholder {tables}: all tables with this note share one line."""

    what: str
    table: str
    hint: str = ""


def group_notes(notes: Iterable[TableNote]) -> Iterator[tuple[str, str]]:
    """Group notes by their text; yields for each text the note with the names of its tables, and the hints."""
    kinds: dict[str, list[TableNote]] = {}
    for note in notes:
        kinds.setdefault(note.what, []).append(note)
    for what, same in kinds.items():
        hints = dict.fromkeys(note.hint for note in same if note.hint)
        yield what.format(tables=", ".join(note.table for note in same)), " ".join(hints)


def note_view(table: Table) -> TableNote:
    """Note that every run reads a view in full."""
    return TableNote(_VIEW, _columns_of(table, table.key), "If that is slow, capture the tables behind it.")


def examine_table(connection: psycopg.Connection, table: Table) -> Iterator[TableNote]:
    """Note which unique index, cursor, index on the cursor or trigger a table is missing."""
    row = connection.execute(
        """
        select
            -- A key may have more columns than are unique.
            exists (
                select from pg_index as key
                where key.indrelid = relation.oid and key.indisunique and key.indpred is null
                    and key.indexprs is null and key.indisvalid
                    and (
                        select array_agg(attribute.attname::text order by attribute.attname::text)
                        from pg_attribute as attribute
                        where attribute.attrelid = relation.oid
                            and attribute.attnum = any((key.indkey::smallint[])[0:key.indnkeyatts - 1])
                    ) <@ %(key)s
            ),
            exists (
                -- A row trigger before update: tgtype has the bits 1 (row), 2 (before) and 16 (update).
                select from pg_trigger as trigger
                where trigger.tgrelid = relation.oid and not trigger.tgisinternal
                    and trigger.tgenabled in ('O', 'A') and trigger.tgtype & 19 = 19
            )
        from pg_class as relation
        where relation.oid = to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text))
        """,
        {"key": sorted(table.key), "schema": table.at_source[0], "name": table.at_source[1]},
    ).fetchone()
    assert row is not None
    is_unique, has_trigger = row
    if not is_unique:
        yield TableNote(
            _UNGUARDED,
            _columns_of(table, table.key),
            f"create unique index concurrently on {to_paste(*table.at_source)} "
            f"({to_paste(*table.key, separator=', ')});",
        )
    yield from examine_access_paths(connection, table)
    if table.cursor and not has_trigger:
        yield TableNote(
            _NO_TRIGGER, _columns_of(table, [table.cursor]), "Add a trigger before update that sets it."
        )


def examine_access_paths(connection: psycopg.Connection, table: Table) -> Iterator[TableNote]:
    """Note why a table cannot be read without a scan once it is large."""
    columns = source_columns(connection, table)
    paths = read_access_paths(connection, connection, {table: columns})[table]
    kinds = {column.name: column.type for column in columns}
    if table.cursor is None or not is_moment(kinds[table.cursor]):
        hint = "Declare the column that says when a row was changed as its cursor."
        yield TableNote(_NO_CURSOR, str(table), hint)
    elif not paths.has_cursor_index:
        row = connection.execute(
            "select relkind = 'p', relkind = 'r' and exists (select from pg_inherits where inhparent = pg_class.oid) "
            "from pg_class where oid = to_regclass(format('%%I.%%I', %s::text, %s::text))",
            table.at_source,
        ).fetchone()
        is_partitioned, has_children = row or (False, False)
        statement = (
            f"create index {'' if is_partitioned else 'concurrently '}on "
            f"{to_paste(*table.at_source)} ({to_paste(table.cursor)});"
        )
        if is_partitioned:
            statement += " (It blocks writes: create it concurrently on each partition before.)"
        yield (
            TableNote(_CHILDREN, str(table))
            if has_children
            else TableNote(_NO_INDEX, _columns_of(table, [table.cursor]), statement)
        )
    if paths.key_order is None:
        yield TableNote(_UNORDERED, _columns_of(table, table.key))


def _columns_of(table: Table, columns: Iterable[str]) -> str:
    return f"{table} ({', '.join(columns)})"
