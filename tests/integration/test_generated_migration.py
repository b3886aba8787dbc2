"""`dwh migrate --new`: the statements that bring a database to the declaration, and back."""

import ast
from pathlib import Path

import pytest

from warehouse.db.connections import connect
from warehouse.db.schema_version import newest
from warehouse.errors import SettingsError
from warehouse.migrations import foreign_keys
from warehouse.migrations.generate import downgrade_statements, upgrade_statements, write_migration
from warehouse.model.drift import find_drift

DRIFT = (
    "drop table dwh.dim_promotion",
    "alter table dwh.dim_company drop column cuit",
    "alter table dwh.dim_company add column size text not null default 'small'",
    "alter table dwh.dim_customer alter column row_hash drop not null",
    "alter table dwh.dim_product drop constraint ex_dim_product_overlap",
    "drop index dwh.ix_fact_weblog_requested_at",
    "create index ix_dim_country_name on dwh.dim_country (name)",
    "alter table staging.conformed_product alter column price_amount type text",
    "alter table staging.conformed_company alter column name set default 'x'",
)


def test_statements_bring_a_database_to_the_declaration_and_back(warehouse_url: str) -> None:
    with connect(warehouse_url) as connection:
        # With the views, which would keep columns from being dropped.
        connection.execute("drop schema mart cascade")
        connection.execute("create schema mart")
        connection.execute("drop schema audit cascade")
        # As an upgrade does, before it drops or changes tables.
        foreign_keys.drop(connection)
        for statement in DRIFT:
            connection.execute(statement.encode())
        drift = find_drift(connection)
        assert len(drift) >= len(DRIFT)
        for statement in upgrade_statements(drift):
            connection.execute(statement.encode())
        assert find_drift(connection) == []
        for statement in downgrade_statements(drift):
            connection.execute(statement.encode())
        assert {str(one) for one in find_drift(connection)} == {str(one) for one in drift}


def test_migration_is_written_out_and_numbered(warehouse_url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing to migrate"):
        write_migration(warehouse_url, "add dim_store", tmp_path)
    with connect(warehouse_url, autocommit=True) as connection:
        connection.execute("drop table staging.conformed_promotion")
        connection.execute("drop index dwh.ix_fact_weblog_requested_at")
    path = write_migration(warehouse_url, "Add what is missing", tmp_path)
    assert path.name == f"{int(newest()) + 1:04}_add_what_is_missing.py"
    text = path.read_text()
    ast.parse(text)
    assert "create unlogged table staging.conformed_promotion (" in text
    assert (
        "create index ix_fact_weblog_requested_at on dwh.fact_weblog using brin (requested_at)"
        in text.lower()
    )
    assert "read_text" not in text and "from warehouse.model" not in text
