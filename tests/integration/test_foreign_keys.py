"""Foreign keys that the server does not enforce: tools find the joins of the star, loads are not slower for them."""

import psycopg
import pytest

from warehouse.db.connections import connect
from warehouse.migrations import declared
from warehouse.migrations.revisions import downgrade, upgrade
from warehouse.model.drift import find_drift
from warehouse.model.schema import foreign_keys

FOUND = """
    select
        constrained.conrelid::regclass::text, column_usage.attname::text,
        constrained.confrelid::regclass::text, key_usage.attname::text
    from pg_constraint as constrained
    inner join pg_attribute as column_usage
        on constrained.conrelid = column_usage.attrelid and constrained.conkey[1] = column_usage.attnum
    inner join pg_attribute as key_usage
        on constrained.confrelid = key_usage.attrelid and constrained.confkey[1] = key_usage.attnum
    where constrained.contype = 'f' and constrained.connamespace = 'dwh'::regnamespace
"""


def partitioned(connection: psycopg.Connection) -> set[str]:
    rows = connection.execute(
        "select relname from pg_class where relkind = 'p' and relnamespace = 'dwh'::regnamespace"
    )
    return {name for (name,) in rows}


@pytest.mark.each_major
def test_tools_find_every_reference_and_the_server_checks_none(warehouse_url: str) -> None:
    with connect(warehouse_url, autocommit=True) as connection:
        listed = connection.execute("select * from mart.table_reference").fetchall()
        assert {(row[1], row[2], row[4], row[5]) for row in listed} == {tuple(key) for key in foreign_keys()}
        expected = {
            (f"dwh.{key.table}", key.column, f"dwh.{key.referred_table}", key.referred_column)
            for key in foreign_keys()
            if key.table not in partitioned(connection)
        }
        if connection.info.server_version < 180000:
            expected = set()
        found = set(connection.execute(FOUND).fetchall())
        assert found == expected
        if found:
            assert ("dwh.fact_order_item", "customer_key", "dwh.dim_customer", "customer_key") in found
            # A key that no member has is for `dwh reconcile` to find, not for each insert.
            enforced = connection.execute(
                "select from pg_trigger where tgisinternal and tgrelid = 'dwh.fact_order_item'::regclass"
            )
            assert enforced.rowcount == 0
        assert find_drift(connection) == []


def test_a_missing_one_is_found_and_added_again(warehouse_url: str) -> None:
    with connect(warehouse_url) as connection:
        if connection.info.server_version < 180000:
            pytest.skip("PostgreSQL before 18 enforces every foreign key")
        connection.execute("alter table dwh.fact_order_item drop constraint fk_fact_order_item_customer_key")
        connection.commit()
        assert list(declared.differences(connection)) == [
            "foreign key fk_fact_order_item_customer_key of dwh.fact_order_item is missing"
        ]
    upgrade(warehouse_url)
    with connect(warehouse_url) as connection:
        assert list(declared.differences(connection)) == []


def test_one_that_somebody_else_has_added_stays(warehouse_url: str) -> None:
    with connect(warehouse_url) as connection:
        if connection.info.server_version < 180000:
            pytest.skip("PostgreSQL before 18 enforces every foreign key")
        connection.execute(
            "alter table dwh.fact_order_item add constraint our_own_key foreign key (promotion_key) "
            "references dwh.dim_promotion (promotion_key) not enforced"
        )
        connection.execute("alter table dwh.fact_order_item drop constraint fk_fact_order_item_customer_key")
        connection.commit()
    upgrade(warehouse_url)
    with connect(warehouse_url) as connection:
        found = (
            "select from pg_constraint where conname in ('our_own_key', 'fk_fact_order_item_customer_key')"
        )
        assert connection.execute(found).rowcount == 2


@pytest.mark.each_major
def test_they_are_in_the_way_of_no_downgrade(warehouse_url: str) -> None:
    downgrade(warehouse_url, "0058")
    with connect(warehouse_url) as connection:
        assert connection.execute(FOUND).fetchall() == []
    upgrade(warehouse_url)
    with connect(warehouse_url) as connection:
        assert list(declared.differences(connection)) == []
