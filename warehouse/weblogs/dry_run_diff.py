"""What a load of web logs would change, by table: counted in a dry run's transaction, of the rows that it touches."""

from collections.abc import Iterable, Mapping
from typing import Any

import psycopg
from psycopg import sql

from warehouse.history.dry_run import EXAMPLES, Example
from warehouse.runs.audit import Load
from warehouse.weblogs.files.checkpoints import FEED
from warehouse.weblogs.storage.aggregates import STAGED, add_staged, clear_staged
from warehouse.weblogs.storage.lookups import TABLES

Row = dict[str, Any]
# Of one table.
Told = tuple[Load, list[Example]]

# Of a request, the path of its file says more than the id.
_HIDDEN = ("run_id", "text_hash", "file_id")
# A dictionary as the dry run finds it: what the warehouse has, and what it has entered beside that.
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


def prepare(trial: psycopg.Connection, reader: psycopg.Connection) -> None:
    """Make what a dry run has to itself: rows and dictionaries of its reader, counts and bad lines of its transaction.

    Committed at once: who makes a table like another keeps others from changing that one to the end of a transaction.
    """
    reader.execute("create temp table fact_weblog (like dwh.fact_weblog including constraints)")
    for table in TABLES:
        reader.execute(_DICTIONARY.format(table=table).encode())
    for name in STAGED:
        trial.execute(f"create temp table weblog_{name} (like staging.weblog_{name})".encode())
    trial.execute(
        "create temp table quarantine (like audit.quarantine including identity including defaults)"
    )
    trial.commit()


def some(connection: psycopg.Connection, table: sql.Identifier, most: int = EXAMPLES) -> list[Row]:
    """A few rows of a table."""
    found = connection.execute(
        sql.SQL("select row_to_json(row) from {} as row limit {}").format(table, sql.Literal(most))
    )
    return [row for (row,) in found]


def remember(trial: psycopg.Connection, lines: Iterable[tuple[int, int]]) -> list[Row]:
    """Keep what the aggregates say, before anything is published, of all that a load would touch.

    That is what its batches have counted, and what loaded `lines` (file_id, line_number), which would be taken back,
    have counted for; returns the rows of these.
    """
    trial.execute(
        """
        create temp table line_back (
            country text, device_key smallint, web_user_key integer, action text, product_id text, request_date date,
            weblog jsonb
        ) on commit drop
        """
    )
    for line in lines:
        trial.execute(
            """
            insert into pg_temp.line_back
            select
                weblog.country, weblog.device_key, weblog.web_user_key, request.action, request.product_id,
                (weblog.requested_at at time zone 'UTC')::date, to_jsonb(weblog)
            from dwh.fact_weblog as weblog inner join dwh.dim_request as request using (request_key)
            where weblog.file_id = %s and weblog.line_number = %s
            """,
            line,
        )
    taken_back = [row for (row,) in trial.execute("select weblog from pg_temp.line_back")]
    for name, (_, measure) in STAGED.items():
        touched = ["select {key} from {batches}", "select {key} from pg_temp.line_back"]
        if taken_back and measure != "last_seen_date":
            # Counts of nothing, which a killed retention may have left, go with the first line that is taken back.
            touched.append("select {key} from {aggregate} where {measure} = 0")
        _do(
            trial,
            name,
            "create temp table {touched} on commit drop as select {key}, to_jsonb(aggregate) as before "
            f"from ({' union '.join(touched)}) as touched left join {{aggregate}} as aggregate using ({{key}});"
            "analyze pg_temp.{touched}",
        )
    return taken_back


def publish(trial: psycopg.Connection) -> None:
    """Add the counts of all batches to the aggregates, as those of one."""
    clear_staged(trial)
    for name, (_, measure) in STAGED.items():
        fold = "max" if measure == "last_seen_date" else "sum"
        _do(
            trial,
            name,
            "insert into {staged} ({key}, {measure}) "
            f"select {{key}}, {fold}({{measure}}) from {{batches}} group by {{key}}",
        )
    add_staged(trial)


def changed(trial: psycopg.Connection) -> list[Told]:
    """What has become of the rows that were remembered."""
    return [_changed(trial, name) for name in STAGED]


def entered(reader: psycopg.Connection, table: str) -> Told:
    """What was entered beside a dictionary."""
    found = sql.Identifier("pg_temp", f"{table}_entered")
    (count,) = reader.execute(sql.SQL("select count(*) from {}").format(found)).fetchone() or (0,)
    return _new(table, count, some(reader, found))


def named(trial: psycopg.Connection, run_id: int) -> Told:
    """Countries that dwh.dim_country did not have."""
    found = trial.execute(
        "select row_to_json(row) from dwh.dim_country as row where run_id = %s", [run_id]
    ).fetchall()
    return _new("dim_country", len(found), [row for (row,) in found[:EXAMPLES]])


def requests(operation: str, rows: Iterable[Row], paths: Mapping[int, str]) -> list[Example]:
    """Rows of the fact as examples: known by file and line."""
    side = "before" if operation == "delete" else "after"
    return [
        Example(
            "dwh.fact_weblog",
            operation,
            (paths[row["file_id"]], str(row["line_number"])),
            **{side: _said(row)},  # type: ignore[arg-type]
        )
        for row in rows
    ]


def _new(table: str, count: int, rows: Iterable[Row]) -> Told:
    name = f"dwh.{table}"
    # The key comes first.
    examples = [Example(name, "insert", (str(next(iter(row.values()))),), after=_said(row)) for row in rows]
    return Load(FEED, name, rows_inserted=count), examples


def _changed(trial: psycopg.Connection, name: str) -> Told:
    table = f"dwh.agg_weblog_{name}"
    _do(
        trial,
        name,
        "create temp table {changed} on commit drop as "
        "select {key}, before, to_jsonb(aggregate) as after "
        "from pg_temp.{touched} as touched left join {aggregate} as aggregate using ({key})",
    )
    counts, examples = [], []
    for operation, condition in _OPERATIONS.items():
        rows = f"from pg_temp.{{changed}} where {condition}"
        (count,) = _do(trial, name, f"select count(*) {rows}").fetchone() or (0,)
        counts.append(count)
        found = _do(
            trial, name, f"select array[{{key_said}}], before, after {rows} order by {{key}} limit {EXAMPLES}"
        )
        examples += [_example(table, operation, *row) for row in found]
    inserted, updated, deleted = counts
    return Load(FEED, table, rows_inserted=inserted, rows_updated=updated, rows_deleted=deleted), examples


def _example(table: str, operation: str, key: list[str], before: Row | None, after: Row | None) -> Example:
    old, new = _said(before or {}), _said(after or {})
    changes = None
    if operation == "update":
        # Where only the run differs, a line that was taken back counts the same again.
        changes = ", ".join(
            f"{name}: {old.get(name)} → {new[name]}" for name in new if new[name] != old.get(name)
        )
    return Example(table, operation, tuple(key), changes, old or None, new or None)


def _said(row: Row) -> dict[str, str]:
    """A row as texts, without what is not there and what only the machine needs."""
    return {name: str(value) for name, value in row.items() if value is not None and name not in _HIDDEN}


def _do(trial: psycopg.Connection, name: str, statement: str) -> psycopg.Cursor[tuple[Any, ...]]:
    """Execute a statement about the aggregate `name`, and the tables that go with it."""
    key, measure = STAGED[name]
    return trial.execute(
        sql.SQL(statement).format(
            key=sql.SQL(", ").join(map(sql.Identifier, key)),
            key_said=sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in key),
            measure=sql.Identifier(measure),
            aggregate=sql.Identifier("dwh", f"agg_weblog_{name}"),
            staged=sql.Identifier("staging", f"weblog_{name}"),
            batches=sql.Identifier("pg_temp", f"weblog_{name}"),
            touched=sql.Identifier(f"touched_{name}"),
            changed=sql.Identifier(f"changed_{name}"),
        )
    )
