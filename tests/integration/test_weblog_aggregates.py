"""The declaration of the web-log aggregates and their tables are the same."""

from collections.abc import Iterable

import psycopg

from warehouse.model.weblog_aggregates import AGGREGATES, TABLES


def columns(connection: psycopg.Connection, schema: str, tables: Iterable[str]) -> dict[str, set[str]]:
    """Columns of tables, but for the run."""
    rows = connection.execute(
        """
        select table_name, array_agg(column_name::text) from information_schema.columns
        where table_schema = %s and table_name = any(%s) and column_name <> 'run_id' group by table_name
        """,
        [schema, list(tables)],
    )
    return {table: set(names) for table, names in rows}


def test_every_aggregate_is_declared_with_its_key_and_measures(warehouse_url: str) -> None:
    declared = {table.table: {*table.key, table.measure} for table in TABLES}
    staged = {f"weblog_{table.name}": {*table.key, table.measure} for table in TABLES}
    for aggregate in AGGREGATES:
        declared[aggregate.table] |= set(aggregate.measures)
    with psycopg.connect(warehouse_url) as connection:
        assert columns(connection, "dwh", declared) == declared
        assert columns(connection, "staging", staged) == staged
        keys = connection.execute(
            """
            select conrelid::regclass::text, array(
                select attname::text from unnest(conkey) with ordinality as part (attnum, position)
                inner join pg_attribute on attrelid = conrelid and pg_attribute.attnum = part.attnum order by position
            )
            from pg_constraint where contype = 'p' and conname like 'pk\\_agg\\_weblog\\_%'
            """
        )
        assert {table: tuple(key) for table, key in keys} == {
            f"dwh.{table.table}": table.key for table in TABLES
        }
