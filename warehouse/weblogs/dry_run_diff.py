"""Changes that a load of web logs would make: compares tables before and after a publish that is rolled back."""

from collections.abc import Iterable, Mapping
from typing import Any

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed
from warehouse.history.dry_run import EXAMPLES, Example
from warehouse.model import weblog_aggregates
from warehouse.model.weblog_aggregates import LAST_SEEN, AggregateTable
from warehouse.runs.audit import Load
from warehouse.weblogs.files.checkpoints import FEED
from warehouse.weblogs.storage.aggregate_tables import add_staged, clear_staged
from warehouse.weblogs.storage.lookups import TABLES

Row = dict[str, Any]
# Counts and examples of the changes to one table.
Changes = tuple[Load, list[Example]]

# Examples show the path of a file instead of its id.
_HIDDEN = ("run_id", "text_hash", "file_id")
# A temporary view in place of a dictionary: the warehouse's texts, and new ones, which go to a temporary table.
_DICTIONARY = """
    create temp table {table}_entered (like dwh.{table} including all);
    create temp view {table} as select * from dwh.{table} union all select * from pg_temp.{table}_entered;
    create function pg_temp.enter_{table}() returns trigger language plpgsql as $$
    begin
        insert into pg_temp.{table}_entered select new.*;
        return new;
    end $$;
    create trigger enter instead of insert on pg_temp.{table} for each row execute function pg_temp.enter_{table}();
"""
_OPERATIONS = {
    "insert": "before is null and after is not null",
    "update": "before <> after",
    "delete": "before is not null and after is null",
}


def prepare(connection: psycopg.Connection, reader: psycopg.Connection) -> None:
    """Create a dry run's temporary tables: rows and lookups on `reader`, counts and quarantine on `connection`.

    Committed at once: `create table like` locks the other table until the end of its transaction.
    """
    reader.execute("create temp table fact_weblog (like dwh.fact_weblog including constraints)")
    for table in TABLES:
        reader.execute(_DICTIONARY.format(table=table).encode())
    for aggregate in weblog_aggregates.TABLES:
        _do(connection, aggregate, "create temp table {batches} (like {staged})")
    connection.execute(
        "create temp table quarantine (like audit.quarantine including identity including defaults)"
    )
    connection.commit()


def some(connection: psycopg.Connection, table: sql.Identifier, most: int = EXAMPLES) -> list[Row]:
    """Read a few rows of a table."""
    rows = connection.execute(
        sql.SQL("select row_to_json(row) from {} as row limit {}").format(table, sql.Literal(most))
    )
    return [row for (row,) in rows]


def remember(connection: psycopg.Connection, lines: Iterable[tuple[int, int]]) -> list[Row]:
    """Copy the rows of the aggregates that a load would change to temporary tables, before anything is published.

    These are the rows to which its batches add, and those of loaded `lines` (file_id, line_number) that would be
    deleted and read again. Returns the fact rows of these lines.
    """
    connection.execute(
        """
        create temp table reread_line (
            country text, device_key smallint, web_user_key integer, action text, product_id text, request_date date,
            quarter_hour_at timestamptz, weblog jsonb
        ) on commit drop
        """
    )
    for line in lines:
        connection.execute(
            """
            insert into pg_temp.reread_line
            select
                weblog.country, weblog.device_key, weblog.web_user_key, request.action, request.product_id,
                (weblog.requested_at at time zone 'UTC')::date,
                date_bin('15 minutes', weblog.requested_at, timestamptz '1970-01-01 00:00:00+00'), to_jsonb(weblog)
            from dwh.fact_weblog as weblog inner join dwh.dim_request as request using (request_key)
            where weblog.file_id = %s and weblog.line_number = %s
            """,
            line,
        )
    reread = [row for (row,) in connection.execute("select weblog from pg_temp.reread_line")]
    for table in weblog_aggregates.TABLES:
        touched = ["select {key} from {batches}", "select {key} from pg_temp.reread_line"]
        if reread and table.measure != LAST_SEEN:
            # Deleting lines also deletes all rows that count 0, which a killed retention may have left.
            touched.append("select {key} from {aggregate} where {measure} = 0")
        _do(
            connection,
            table,
            "create temp table {touched} on commit drop as select {key}, to_jsonb(aggregate) as before "
            f"from ({' union '.join(touched)}) as touched left join {{aggregate}} as aggregate using ({{key}});"
            "analyze pg_temp.{touched}",
        )
    return reread


def publish(connection: psycopg.Connection) -> None:
    """Add the counts of all batches to the aggregates, as if they were one batch."""
    clear_staged(connection)
    for table in weblog_aggregates.TABLES:
        fold = "max" if table.measure == LAST_SEEN else "sum"
        _do(
            connection,
            table,
            "insert into {staged} ({key}, {measure}) "
            f"select {{key}}, {fold}({{measure}}) from {{batches}} group by {{key}}",
        )
    add_staged(connection)


def changed(connection: psycopg.Connection) -> list[Changes]:
    """Compare the remembered rows with what they have become."""
    return [_changed(connection, table) for table in weblog_aggregates.TABLES]


def new_texts(reader: psycopg.Connection, table: str) -> Changes:
    """Count the texts that a dictionary does not have yet, with examples."""
    entered = sql.Identifier("pg_temp", f"{table}_entered")
    (count,) = reader.execute(sql.SQL("select count(*) from {}").format(entered)).fetchone() or (0,)
    return _new(table, count, some(reader, entered))


def new_countries(connection: psycopg.Connection, run_id: int) -> Changes:
    """Count the countries that dwh.dim_country does not have yet, with examples."""
    rows = connection.execute(
        "select row_to_json(row) from dwh.dim_country as row where run_id = %s", [run_id]
    ).fetchall()
    return _new("dim_country", len(rows), [row for (row,) in rows[:EXAMPLES]])


def requests(operation: str, rows: Iterable[Row], paths: Mapping[int, str]) -> list[Example]:
    """Make examples of rows of the fact, identified by file and line."""
    side = "before" if operation == "delete" else "after"
    return [
        Example(
            "dwh.fact_weblog",
            operation,
            (paths[row["file_id"]], str(row["line_number"])),
            **{side: _display(row)},  # type: ignore[arg-type]
        )
        for row in rows
    ]


def _new(table: str, count: int, rows: Iterable[Row]) -> Changes:
    name = f"dwh.{table}"
    # The key comes first.
    examples = [
        Example(name, "insert", (str(next(iter(row.values()))),), after=_display(row)) for row in rows
    ]
    return Load(FEED, name, rows_inserted=count), examples


def _changed(connection: psycopg.Connection, table: AggregateTable) -> Changes:
    name = f"dwh.{table.table}"
    _do(
        connection,
        table,
        "create temp table {changed} on commit drop as "
        "select {key}, before, to_jsonb(aggregate) as after "
        "from pg_temp.{touched} as touched left join {aggregate} as aggregate using ({key})",
    )
    counts, examples = [], []
    for operation, condition in _OPERATIONS.items():
        rows = f"from pg_temp.{{changed}} where {condition}"
        (count,) = _do(connection, table, f"select count(*) {rows}").fetchone() or (0,)
        counts.append(count)
        found = _do(
            connection,
            table,
            f"select array[{{key_texts}}], before, after {rows} order by {{key}} limit {EXAMPLES}",
        )
        examples += [_example(name, operation, *row) for row in found]
    inserted, updated, deleted = counts
    return Load(FEED, name, rows_inserted=inserted, rows_updated=updated, rows_deleted=deleted), examples


def _example(table: str, operation: str, key: list[str], before: Row | None, after: Row | None) -> Example:
    old, new = _display(before or {}), _display(after or {})
    changes = None
    if operation == "update":
        # Empty if only run_id differs, since a line that was read again counts the same.
        changes = ", ".join(
            f"{name}: {old.get(name)} → {new[name]}" for name in new if new[name] != old.get(name)
        )
    return Example(table, operation, tuple(key), changes, old or None, new or None)


def _display(row: Row) -> dict[str, str]:
    """A row as texts, without nulls and technical columns."""
    return {name: str(value) for name, value in row.items() if value is not None and name not in _HIDDEN}


def _do(
    connection: psycopg.Connection, table: AggregateTable, statement: str
) -> psycopg.Cursor[tuple[Any, ...]]:
    """Execute a statement about an aggregate table, and the tables that go with it."""
    return connection.execute(
        sql.SQL(statement).format(
            key=listed(table.key),
            key_texts=sql.SQL(", ").join(
                sql.SQL("{}::text").format(sql.Identifier(name)) for name in table.key
            ),
            measure=sql.Identifier(table.measure),
            aggregate=sql.Identifier("dwh", table.table),
            staged=table.staged,
            batches=sql.Identifier("pg_temp", f"weblog_{table.name}"),
            touched=sql.Identifier(f"touched_{table.name}"),
            changed=sql.Identifier(f"changed_{table.name}"),
        )
    )
