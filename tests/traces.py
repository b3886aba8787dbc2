"""What a warehouse looks like, to the last row: a dry run must leave no trace."""

from tests.pipeline import Row
from warehouse.db.connections import connect

# Every table, view and column, and every row of every table but those of the runs themselves.
SHAPE = """
    select attrelid::regclass::text, attname::text, format_type(atttypid, atttypmod)
    from pg_attribute inner join pg_class on pg_class.oid = attrelid
    where relnamespace::regnamespace::text in ('staging', 'raw', 'dwh', 'mart', 'audit') and attnum > 0
    order by 1, attnum
"""
TABLES = """
    select schemaname || '.' || tablename from pg_tables
    where schemaname in ('staging', 'raw', 'dwh', 'audit') and schemaname || '.' || tablename <> 'audit.run'
    union all
    select 'mart.' || matviewname from pg_matviews where ispopulated
    order by 1
"""


def traces(warehouse_url: str) -> dict[str, list[Row]]:
    """Everything that a run could leave behind."""
    with connect(warehouse_url) as connection:
        names = [name for (name,) in connection.execute(TABLES.encode())]
        found = {"": connection.execute(SHAPE.encode()).fetchall()}
        for name in names:
            found[name] = sorted(connection.execute(f"select t::text from {name} as t".encode()).fetchall())
    return found
