"""Rows that the source's SQL cannot convert: found by halving the batch, and kept for the quarantine.

A cast, a product or a date that overflows fails the statement for all rows. So the keys are halved until each row that
fails stands alone; all others are conformed.
"""

import re
from collections.abc import Callable, Mapping

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed
from warehouse.errors import SourceError
from warehouse.load.fit import UNFIT
from warehouse.sources.declaration import Entity

# From here on it is the SQL that is wrong, not the rows.
MOST_UNCONVERTIBLE = 1000


def unconvertible_table(entity: str) -> sql.Identifier:
    """Table of the rows of an entity that could not be converted: row_key, rules, reason, row_data."""
    return sql.Identifier("pg_temp", f"unconvertible_{entity}")


def create_unconvertible(connection: psycopg.Connection, entity: str) -> None:
    """Create the table of rows that cannot be converted, empty."""
    connection.execute(
        sql.SQL(
            "drop table if exists {}; "
            "create temp table {} (row_key text[], rules text[], reason text, row_data jsonb) on commit drop"
        ).format(unconvertible_table(entity), sql.Identifier(f"unconvertible_{entity}"))
    )


def fill_by_halves(
    connection: psycopg.Connection,
    entity: Entity,
    affected: sql.Identifier,
    fill: Callable[[], int],
    selected: Mapping[str, sql.Composable],
    query: sql.Composable,
) -> int:
    """Call `fill` for ever smaller parts of the affected keys; returns the number of rows that it filled.

    A single key that fails is kept in the table of unconvertible rows, with the columns that fail of those `selected`
    from `query`.

    Raises:
        SourceError: more than MOST_UNCONVERTIBLE rows fail.
    """
    every = sql.Identifier("staging", "every_affected")
    name = sql.Identifier(f"{entity.source}_{entity.name}_affected")
    connection.execute(
        sql.SQL(
            "alter table {affected} rename to every_affected; "
            "create unlogged table {affected} as select * from {every} limit 0; "
            "drop table if exists pg_temp.to_convert; "
            "create temp table to_convert on commit drop as "
            "select keys.*, row_number() over () as _number from {every} as keys; "
            "alter table pg_temp.to_convert add primary key (_number)"
        ).format(affected=affected, every=every)
    )
    columns = [
        column.name
        for column in connection.execute(sql.SQL("select * from {} limit 0").format(every)).description or ()
    ]
    (count,) = connection.execute("select count(*) from pg_temp.to_convert").fetchone() or (0,)
    filled = failed = 0
    parts = [(1, count)]
    while parts:
        first, last = parts.pop()
        connection.execute(
            sql.SQL(
                "truncate {affected}; insert into {affected} "
                "select {columns} from pg_temp.to_convert where _number between {first} and {last}"
            ).format(
                affected=affected, columns=listed(columns), first=sql.Literal(first), last=sql.Literal(last)
            )
        )
        try:
            with connection.transaction():
                filled += fill()
        except psycopg.DataError as error:
            # Without values, which may be personal data.
            message = re.sub('".*"', '"…"', error.diag.message_primary or "", flags=re.DOTALL)
            if first < last:
                middle = (first + last) // 2
                parts += [(middle + 1, last), (first, middle)]
                continue
            failed += 1
            if failed > MOST_UNCONVERTIBLE:
                raise SourceError(
                    f"More than {MOST_UNCONVERTIBLE:,} rows of {entity.name} of source '{entity.source}' cannot be "
                    f"converted: {message}.",
                    hint=f"Look for a conversion that fits in conform/{entity.name}.sql.",
                ) from error
            _keep(connection, entity, affected, selected, query, message)
    connection.execute(sql.SQL("drop table {}; alter table {} rename to {}").format(affected, every, name))
    return filled


def _keep(
    connection: psycopg.Connection,
    entity: Entity,
    affected: sql.Identifier,
    selected: Mapping[str, sql.Composable],
    query: sql.Composable,
    message: str,
) -> None:
    """Keep the only affected row, which fails: its key, which columns fail and why, and the values of all others."""

    def select(names: Mapping[str, sql.Composable]) -> sql.Composed:
        return sql.SQL("select {} from ({}) as conformed").format(
            sql.SQL(", ").join(
                sql.SQL("{} as {}").format(value, sql.Identifier(name)) for name, value in names.items()
            ),
            query,
        )

    failing = {name for name, value in selected.items() if not _succeeds(connection, select({name: value}))}
    rules = [f"{UNFIT}: {name}" for name in selected if name in failing]
    if len(failing) == len(selected):
        rules = [UNFIT]
    values = {name: sql.NULL if name in failing else value for name, value in selected.items()}
    key = sql.SQL("array[{}]").format(
        sql.SQL(", ").join(
            sql.SQL("affected.{}::text").format(sql.Identifier(name)) for name in entity.table.key
        )
    )
    whole = sql.SQL("select to_jsonb(converted) from ({}) as converted").format(select(values))
    row = sql.SQL("({})").format(whole) if _succeeds(connection, whole) else sql.SQL("to_jsonb(affected)")
    connection.execute(
        sql.SQL(
            "insert into {table} select {key}, {rules}, {reason}, {row} from {affected} as affected"
        ).format(
            table=unconvertible_table(entity.name),
            key=key,
            rules=sql.Literal(rules),
            reason=sql.Literal(f"{'; '.join(rules)} ({message})"),
            row=row,
            affected=affected,
        )
    )


def _succeeds(connection: psycopg.Connection, query: sql.Composed) -> bool:
    try:
        with connection.transaction():
            connection.execute(query)
    except psycopg.DataError:
        return False
    return True
