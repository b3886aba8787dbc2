"""Names in a source that mean harm: tables and columns are mirrored under them, and harm nothing."""

from dataclasses import replace

import pytest
from psycopg import sql

from tests.pipeline import Pipeline
from warehouse.reconcile.reconcile import reconcile_source
from warehouse.runs.audit import start_run
from warehouse.sources.source import Table

NAMES = [
    'x"; drop table audit.run cascade; --',
    "x'; drop schema dwh cascade; --",
    "%s %(run_id)s {} {0} {table} %",
    "a\\b\nc\td $$ /* -- ",
    "select",
    "Ünï cödé \u202e\U0001f4a3",
]
TABLES = """
    select oid::regclass::text from pg_class
    where relkind in ('r', 'p', 'v', 'm') and relnamespace::regnamespace::text in ('dwh', 'mart', 'audit') order by 1
"""


@pytest.mark.parametrize("name", NAMES)
def test_names_of_tables_and_columns_are_names_and_no_more(name: str, pipeline: Pipeline) -> None:
    table, column, key = (sql.Identifier(f"{prefix}{name}") for prefix in ("t ", "", "k "))
    create = sql.SQL("create table {} ({} int primary key, {} text)").format(table, key, column)
    pipeline.shop.execute(create)
    insert = sql.SQL("insert into {} values (1, {}), (2, null), (3, 'three')")
    pipeline.shop.execute(insert.format(table, sql.Literal(name)))
    declared = Table("shop", f"t {name}", "public", (f"k {name}",), None)
    pipeline.source = replace(pipeline.source, tables=(declared,), entities={})
    before = pipeline.rows(TABLES)

    def mirrored() -> list[tuple[object, ...]]:
        query = sql.SQL("select {}, {} from raw.{} where not _is_deleted order by 1").format(
            key, column, sql.Identifier(declared.mirror)
        )
        return pipeline.warehouse.execute(query).fetchall()

    pipeline.capture()
    assert mirrored() == [(1, name), (2, None), (3, "three")]
    pipeline.shop.execute(
        sql.SQL("update {} set {} = {} where {} = 2").format(table, column, sql.Literal(name), key)
    )
    pipeline.shop.execute(sql.SQL("delete from {} where {} = 3").format(table, key))
    verifications = pipeline.capture().verifications
    assert mirrored() == [(1, name), (2, name)]
    assert [verification.verdict for verification in verifications] == ["equal"]
    pipeline.warehouse.execute(
        sql.SQL("update raw.{} set {} = 'forged'").format(sql.Identifier(declared.mirror), column)
    )
    with start_run(pipeline.warehouse_url, flow="reconcile") as run:
        reconcile_source(run, pipeline.source, pipeline.shop_url, repair=True)
    assert mirrored() == [(1, name), (2, name)]
    assert pipeline.rows(TABLES) == before
