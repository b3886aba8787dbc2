"""Load rows into the shop's tables by COPY; for a whole shop, create foreign keys and indexes afterwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import LiteralString, cast

import polars as pl
from psycopg import Connection, sql

Progress = Callable[[str, int, int], None]

# parents before children
TABLES = (
    "company", "customer", "category", "brand", "product", "promotion", "payment_method",
    "distribution_center", "inventory", "sales_order", "order_item",
)  # fmt: skip
WITH_ID = tuple(table for table in TABLES if table not in ("inventory", "order_item"))
DECIMALS = {"customer": 6, "distribution_center": 6, "promotion": 4}


def copy_rows(connection: Connection, table: str, rows: pl.DataFrame) -> int:
    """Append rows by COPY; columns are matched by name, instants are UTC. Returns the number of rows."""
    csv = BytesIO()
    rows.write_csv(csv, include_header=False, float_precision=DECIMALS.get(table, 2))
    statement = sql.SQL("copy public.{} ({}) from stdin (format csv)").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, rows.columns))
    )
    with connection.cursor() as cursor:
        with cursor.copy(statement) as copy:
            copy.write(csv.getbuffer())
        return cursor.rowcount


def advance_identities(connection: Connection) -> None:
    """Let new rows continue after the highest id that was loaded."""
    for table in WITH_ID:
        connection.execute(
            sql.SQL(
                "select setval(pg_get_serial_sequence(%s, 'id'), coalesce(max(id), 1), max(id) is not null)"
                " from public.{}"
            ).format(sql.Identifier(table)),
            [f"public.{table}"],
        )


@contextmanager
def without_constraints(connection: Connection) -> Iterator[None]:
    """Drop the foreign keys and secondary indexes of the shop's tables, and create them again at the end."""
    foreign_keys = connection.execute(
        """
        select conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        from pg_constraint
        where contype = 'f' and connamespace = 'public'::regnamespace and conrelid::regclass::text = any(%s)
        order by conname
        """,
        [list(TABLES)],
    ).fetchall()
    indexes = connection.execute(
        """
        select indexrelid::regclass::text, pg_get_indexdef(indexrelid)
        from pg_index
        where indrelid::regclass::text = any(%s)
            and not exists (select from pg_constraint where conindid = indexrelid and contype <> 'f')
        order by 1
        """,
        [list(TABLES)],
    ).fetchall()
    for table, name, _ in foreign_keys:
        connection.execute(
            sql.SQL("alter table {} drop constraint {}").format(sql.Identifier(table), sql.Identifier(name))
        )
    for name, _ in indexes:
        connection.execute(sql.SQL("drop index {}").format(sql.Identifier(name)))
    yield
    for _, definition in indexes:
        connection.execute(sql.SQL(cast(LiteralString, definition)))
    for table, name, definition in foreign_keys:
        connection.execute(
            sql.SQL("alter table {} add constraint {} {}").format(
                sql.Identifier(table), sql.Identifier(name), sql.SQL(cast(LiteralString, definition))
            )
        )
