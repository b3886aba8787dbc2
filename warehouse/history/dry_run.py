"""Example rows of a dry run, read from its transaction before it is rolled back."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from warehouse.runs.audit import Load, Run

EXAMPLES = 3
_HOUSEKEEPING = ("run_id", "expired_by_run_id", "batch_id", "row_hash")
# Characters of a value that an example shows: a value may have 1 GB.
_LONGEST = 1000


@dataclass(frozen=True)
class Example:
    """A row that a dry run would insert, update, delete or quarantine, before and after."""

    table_name: str
    operation: str
    row_key: tuple[str, ...]
    # Columns that an update changes, as old → new; the reason why a row is quarantined.
    changes: str | None = None
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


def examples(run: Run, loads: Iterable[Load], most: int = EXAMPLES) -> tuple[Example, ...]:
    """Up to `most` rows per table of the star and kind of change; none if the run is not a dry run."""
    if run.dry_run_connection is None:
        return ()
    star_rows: list[Example] = []
    for load in loads:
        schema, _, table = load.table_name.partition(".")
        if schema != "dwh":
            continue
        if load.rows_inserted:
            star_rows += _inserted(run.dry_run_connection, run.run_id, table, most)
        star_rows += _changed(run.dry_run_connection, run.run_id, table, most)
    return tuple(star_rows + quarantined(run.dry_run_connection, run.run_id, most))


def _inserted(connection: psycopg.Connection, run_id: int, table: str, most: int) -> list[Example]:
    name = sql.Literal(f"dwh.{table}")
    (key,) = connection.execute(
        sql.SQL("select audit.format_key_columns({name}::regclass, 'row.%I::text', ', ')").format(name=name)
    ).fetchone() or (None,)
    rows = connection.execute(
        sql.SQL(
            """
            select array[{key}]::text[], {row} from {table} as row
            where run_id = {run_id} and not exists (
                select from audit.change where change.run_id = {run_id} and change.table_name = {name}
                    and change.row_key = array[{key}]::text[]
            )
            limit {most}
            """
        ).format(
            key=sql.SQL(key or ""),
            row=_shortened(
                sql.SQL("jsonb_strip_nulls(to_jsonb(row) - {}::text[])").format(
                    sql.Literal(list(_HOUSEKEEPING))
                )
            ),
            table=sql.Identifier("dwh", table),
            run_id=sql.Literal(run_id),
            name=name,
            most=sql.Literal(most),
        )
    ).fetchall()
    return [Example(f"dwh.{table}", "insert", tuple(row_key), after=after) for row_key, after in rows]


def _changed(connection: psycopg.Connection, run_id: int, table: str, most: int) -> list[Example]:
    rows = connection.execute(
        sql.SQL(
            """
            with numbered as (
                select change.*, row_number() over (partition by operation order by change_id) as number
                from audit.change where run_id = {run_id} and table_name = {name}
            )

            select numbered.operation, numbered.row_key, left(logged.changes, {longest}), {before}, {after}
            from numbered inner join {view} as logged using (change_id)
            where numbered.number <= {most} order by numbered.operation desc, change_id
            """
        ).format(
            run_id=sql.Literal(run_id),
            name=sql.Literal(f"dwh.{table}"),
            view=sql.Identifier("audit", f"{table}_change"),
            longest=sql.Literal(_LONGEST),
            before=_shortened(sql.SQL("logged.before")),
            after=_shortened(sql.SQL("logged.after")),
            most=sql.Literal(most),
        )
    ).fetchall()
    return [
        Example(f"dwh.{table}", operation, tuple(row_key), changes, before, after)
        for operation, row_key, changes, before, after in rows
    ]


def quarantined(
    connection: psycopg.Connection, run_id: int, most: int = EXAMPLES, schema: str = "audit"
) -> list[Example]:
    """Up to `most` rows or lines per rule that a dry run has put into quarantine."""
    rows = connection.execute(
        sql.SQL(
            """
            select entity, row_key, left(reason, {longest}), {row} from (
                select *, row_number() over (partition by entity, rules order by quarantine_id) as number
                from {quarantine} where run_id = {run_id}
            ) as numbered
            where number <= {most} order by quarantine_id
            """
        ).format(
            longest=sql.Literal(_LONGEST),
            row=_shortened(sql.SQL("coalesce(row_data, jsonb_build_object('raw_text', raw_text))")),
            quarantine=sql.Identifier(schema, "quarantine"),
            run_id=sql.Literal(run_id),
            most=sql.Literal(most),
        ),
    ).fetchall()
    return [
        Example(f"audit.quarantine ({entity})", "quarantine", tuple(row_key or ()), reason, after=row_data)
        for entity, row_key, reason, row_data in rows
    ]


def _shortened(row: sql.Composable) -> sql.Composable:
    """SQL expression: the JSON object `row`, with long values cut off by the server."""
    return sql.SQL(
        """
        (
            select jsonb_object_agg(
                name, case
                    when octet_length(value::text) > {longest} then to_jsonb(left(value #>> '{{}}', {longest}) || '…')
                    else value
                end
            )
            from jsonb_each({row}) as cell (name, value)
        )
        """
    ).format(row=row, longest=sql.Literal(_LONGEST))
