"""Migrations: up, down and up again; everything commented; every SQL file fits the tables that they make."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import warehouse
from generators.shop import create_schema
from warehouse.db.connections import connect
from warehouse.extract.stage import stage
from warehouse.load.conform import delivered_columns
from warehouse.load.full_load import affect_all, forget_affected
from warehouse.load.publish import publish
from warehouse.migrations import current, downgrade, head, upgrade
from warehouse.model.star import TARGETS
from warehouse.runs.audit import start_run
from warehouse.sources.declaration import read_source

PACKAGE = Path(warehouse.__file__).parent
MARTS = PACKAGE / "sql" / "mart"
NORTHWIND = Path(__file__).parents[1] / "real" / "northwind.sql"
SCHEMAS = ("staging", "raw", "dwh", "mart", "audit")
REVISIONS = sorted(path.name[:4] for path in (PACKAGE / "migrations" / "versions").glob("[0-9]*.py"))

# Everything about the schemas that a migration could leave behind, as text.
CATALOG = """
    select concat_ws(' ', 'schema', nspname, obj_description(oid, 'pg_namespace'))
    from pg_namespace where nspname = any(%(schemas)s)
    union all
    select concat_ws(
        ' ', 'relation', oid::regclass, relkind, relpersistence, reloptions, obj_description(oid, 'pg_class')
    )
    from pg_class where relnamespace::regnamespace::text = any(%(schemas)s)
    union all
    select concat_ws(
        ' ', 'column', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull, attidentity,
        pg_get_expr(adbin, adrelid), col_description(attrelid, attnum)
    )
    from pg_attribute
    join pg_class on pg_class.oid = attrelid
    left join pg_attrdef on adrelid = attrelid and adnum = attnum
    where relnamespace::regnamespace::text = any(%(schemas)s) and attnum > 0 and not attisdropped
    union all
    select concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid))
    from pg_constraint where connamespace::regnamespace::text = any(%(schemas)s)
    union all
    select concat_ws(' ', 'index', pg_get_indexdef(indexrelid))
    from pg_index join pg_class on pg_class.oid = indrelid
    where relnamespace::regnamespace::text = any(%(schemas)s)
    union all
    select concat_ws(' ', 'view', oid::regclass, pg_get_viewdef(oid))
    from pg_class where relnamespace::regnamespace::text = any(%(schemas)s) and relkind in ('v', 'm')
    union all
    select concat_ws(' ', 'function', pg_get_functiondef(oid))
    from pg_proc where pronamespace::regnamespace::text = any(%(schemas)s)
    order by 1
"""

SILENT = """
    select oid::regclass::text from pg_class
    where relnamespace::regnamespace::text = any(%(schemas)s) and relkind in ('r', 'p', 'v', 'm')
        and obj_description(oid, 'pg_class') is null
    union all
    select attrelid::regclass || '.' || attname
    from pg_attribute join pg_class on pg_class.oid = attrelid
    where relnamespace::regnamespace::text = any(%(schemas)s) and relkind in ('r', 'p', 'v', 'm')
        and attnum > 0 and not attisdropped and col_description(attrelid, attnum) is null
    order by 1
"""


@pytest.fixture
def captured(empty_database_url: Callable[[], str], warehouse_url: str) -> dict[str, tuple[str, ...]]:
    """A warehouse with the mirrors of both sources, made from their real schemas: conform files by source."""
    made = {}
    for name in ("shop", "northwind"):
        url = empty_database_url()
        if name == "shop":
            create_schema(url)
        else:
            with psycopg.connect(url) as source_connection:
                source_connection.execute(NORTHWIND.read_bytes())
        source = read_source(name)
        with start_run(warehouse_url, flow="ingest-shop") as run:
            staged = stage(run, source, url, max_delete_share=0)
            publish(run, staged)
        with connect(warehouse_url) as connection:
            for target in TARGETS:
                if entity := source.entities.get(target.entity):
                    affect_all(connection, entity, rows=1)
                    delivered_columns(connection, entity)
                    forget_affected(connection, entity)
        made[name] = tuple(source.entities)
    return made


def told(url: str, query: str) -> list[str]:
    with connect(url) as connection:
        return [said for (said,) in connection.execute(query.encode(), {"schemas": list(SCHEMAS)}).fetchall()]


def contents(url: str) -> list[str]:
    """Tables with the number of their rows: migrations put in the unknown members, the calendar and countries."""
    with connect(url) as connection:
        tables = connection.execute(
            "select schemaname, tablename from pg_tables where schemaname = any(%s) order by 1, 2",
            [list(SCHEMAS)],
        ).fetchall()
        count = sql.SQL("select count(*) from {}")
        return [
            f"{table} {connection.execute(count.format(sql.Identifier(*table))).fetchone()}"
            for table in tables
        ]


def test_up_down_and_up_again_makes_the_same_schema(empty_database_url: Callable[[], str]) -> None:
    url = empty_database_url()
    upgrade(url)
    schema, rows = told(url, CATALOG), contents(url)
    assert current(url) == head() == REVISIONS[-1]
    downgrade(url, "base")
    assert told(url, CATALOG) == []
    assert current(url) is None
    upgrade(url)
    assert told(url, CATALOG) == schema
    assert contents(url) == rows


def test_each_migration_undoes_what_it_did(empty_database_url: Callable[[], str]) -> None:
    url = empty_database_url()
    before = "base"
    for revision in REVISIONS:
        schema, rows = told(url, CATALOG), contents(url)
        upgrade(url, revision)
        assert told(url, CATALOG) != schema, f"{revision} does nothing"
        downgrade(url, before)
        assert (told(url, CATALOG), contents(url)) == (schema, rows), f"{revision} leaves something behind"
        upgrade(url, revision)
        before = revision


def test_every_table_and_column_is_commented(captured: object, warehouse_url: str) -> None:
    assert told(warehouse_url, SILENT) == []


def test_every_sql_file_fits_the_migrated_database(
    captured: dict[str, tuple[str, ...]], warehouse_url: str
) -> None:
    files = [*(PACKAGE / "sql").rglob("*.sql"), *(PACKAGE / "sources").glob("*/conform/*.sql")]
    declared = {
        PACKAGE / "sources" / source / "conform" / f"{entity}.sql"
        for source, entities in captured.items()
        for entity in entities
    }
    assert {path for path in files if path.parent.name == "conform"} == declared
    refused = {}
    with connect(warehouse_url, autocommit=True) as connection:
        for path in files:
            try:
                connection.execute(b"prepare file as " + path.read_bytes())
                connection.execute("deallocate file")
            except psycopg.Error as error:
                refused[str(path.relative_to(PACKAGE))] = error.diag.message_primary
    assert refused == {}


def test_every_sql_file_says_its_grain_and_inputs() -> None:
    for path in [*(PACKAGE / "sql").rglob("*.sql"), *(PACKAGE / "sources").glob("*/conform/*.sql")]:
        first, second = path.read_text().splitlines()[:2]
        assert first.startswith("-- ") and second.startswith("-- inputs: "), path.relative_to(PACKAGE)


def test_each_mart_is_the_text_of_its_file(warehouse_url: str) -> None:
    with connect(warehouse_url) as connection:
        marts = connection.execute(
            """
            select relname, pg_get_viewdef(oid) from pg_class
            where relnamespace = 'mart'::regnamespace and relkind in ('v', 'm') order by relname
            """
        ).fetchall()
        assert [name for name, _ in marts] == sorted(path.stem for path in MARTS.glob("*.sql"))
        for name, definition in marts:
            text = sql.SQL((MARTS / f"{name}.sql").read_text())  # type: ignore[arg-type]
            connection.execute(
                sql.SQL("create temp view {} as {}").format(sql.Identifier(f"file_{name}"), text)
            )
            row = connection.execute("select pg_get_viewdef(%s::regclass)", [f"file_{name}"]).fetchone()
            assert row == (definition,), name
