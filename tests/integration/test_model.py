"""The tables of a migrated database are those that the star declares."""

from warehouse.db.connections import connect
from warehouse.model.drift import find_comment_drift, find_drift
from warehouse.model.schema import TABLES


def test_a_migrated_database_has_the_declared_tables(warehouse_url: str) -> None:
    """Columns, types, nullability, defaults, keys, checks, exclusion constraints, indexes, partitioning."""
    with connect(warehouse_url) as connection:
        assert [str(difference) for difference in find_drift(connection)] == []


def test_tables_and_columns_have_the_declared_comments(warehouse_url: str) -> None:
    tables = [table for table in TABLES if table.schema == "dwh"]
    with connect(warehouse_url) as connection:
        assert [str(difference) for difference in find_comment_drift(connection, tables)] == []


def test_personal_data_is_labelled_as_declared(warehouse_url: str) -> None:
    declared = {
        (table.name, column.name, column.personal)
        for table in TABLES
        for column in table.columns
        if table.schema == "dwh" and column.personal
    }
    with connect(warehouse_url) as connection:
        labels = connection.execute(
            "select table_name, column_name, kind from audit.personal_data where schema_name = 'dwh'"
        ).fetchall()
    assert declared == set(labels)


def test_drift_is_found_in_every_part_of_a_table(warehouse_url: str) -> None:
    with connect(warehouse_url) as connection:
        for statement in (
            "alter table dwh.dim_company add column size text",
            "alter table dwh.dim_customer alter column row_hash drop not null",
            "alter table dwh.dim_product drop constraint ex_dim_product_overlap",
            "alter table staging.conformed_product alter column price_amount type text",
            "drop index dwh.ix_fact_weblog_requested_at",
            "create table dwh.dim_weather (weather_key integer)",
        ):
            connection.execute(statement.encode())
        drift = {(one.table, one.part.kind, one.part.name) for one in find_drift(connection)}
    assert drift == {
        ("dwh.dim_company", "column", "size"),
        ("dwh.dim_customer", "column", "row_hash"),
        ("dwh.dim_product", "constraint", "ex_dim_product_overlap"),
        ("staging.conformed_product", "column", "price_amount"),
        ("dwh.fact_weblog", "index", "ix_fact_weblog_requested_at"),
        ("dwh.dim_weather", "table", ""),
    }
