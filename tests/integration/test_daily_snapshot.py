"""fact_inventory_day: a row per product, distribution center and day, whatever days the warehouse is run on."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.clock import await_whole_day
from tests.integration.conftest import CopyOf
from tests.pipeline import Pipeline
from warehouse.errors import DifferencesFound
from warehouse.migrations.revisions import upgrade
from warehouse.reconcile.reconcile import reconcile_source, stop_on_differences
from warehouse.runs.audit import start_run
from warehouse.undo.undo import FLOW, undo

DAY = timedelta(days=1)
ROWS = """
    select product_id, quantity::integer, is_carried_forward from dwh.fact_inventory_day
    where snapshot_date = %s order by product_id
"""


def stock(shop: Pipeline) -> None:
    """Bring products into stock, and capture them."""
    shop.insert("product", id=2, name="Saw")
    shop.do(
        "insert into inventory (product_id, distribution_center_id, quantity) values (1, 1, 5), (2, 1, 7)"
    )
    shop.capture()


@pytest.fixture
def stocked(copy_of: CopyOf) -> Pipeline:
    """A shop with 5 units of product 1, 7 of product 2, captured once."""
    return copy_of(stock)


def today() -> date:
    return datetime.now(UTC).date()


def shift(shop: Pipeline, days: int) -> None:
    """Let the last run have been made some days ago."""
    shop.warehouse.execute(
        """
        update dwh.fact_inventory_day set snapshot_date = snapshot_date - %(days)s,
            snapshot_date_key = to_char(snapshot_date - %(days)s, 'YYYYMMDD')::integer
        """,
        {"days": days},
    )


def reconcile(shop: Pipeline, *, repair: bool = False) -> None:
    with start_run(shop.warehouse_url, flow="reconcile") as run:
        stop_on_differences(reconcile_source(run, shop.source, shop.shop_url, repair=repair))


def test_a_run_writes_the_rows_of_its_day_and_the_next_one_what_changed(stocked: Pipeline) -> None:
    shop = stocked
    assert shop.rows(ROWS, today()) == [("1", 5, False), ("2", 7, False)]
    assert shop.capture().changes() == {}
    shop.do(
        "update inventory set quantity = 4 where product_id = 1", "delete from inventory where product_id = 2"
    )
    run = shop.capture()
    assert run.changes()["dwh.fact_inventory_day"] == {"updated": 1, "deleted": 1, "read": 2}
    assert shop.rows(ROWS, today()) == [("1", 4, False)]
    reconcile(shop)


def test_days_without_a_run_are_carried_forward(stocked: Pipeline) -> None:
    shop = stocked
    shift(shop, 3)
    assert shop.rows(ROWS, today()) == []
    # The source did not change.
    run = shop.capture()
    assert run.changes() == {"dwh.fact_inventory_day": {"inserted": 6}}
    carried = [("1", 5, True), ("2", 7, True)]
    assert [shop.rows(ROWS, today() - days * DAY) for days in (3, 2, 1, 0)] == [
        [("1", 5, False), ("2", 7, False)],
        carried,
        carried,
        [("1", 5, False), ("2", 7, False)],
    ]
    assert shop.capture().changes() == {}
    shift(shop, 1)
    shop.do(
        "update inventory set quantity = 1 where product_id = 1", "delete from inventory where product_id = 2"
    )
    shop.capture()
    assert shop.rows(ROWS, today()) == [("1", 1, False)]
    assert shop.rows(ROWS, today() - DAY) == [("1", 5, False), ("2", 7, False)]
    reconcile(shop)


def test_rows_name_the_versions_valid_when_their_day_began(stocked: Pipeline) -> None:
    shop = stocked
    shift(shop, 2)
    shop.capture()
    # The shop says late that the product changed at noon of yesterday: today began after that.
    noon = datetime.combine(today() - DAY, datetime.min.time(), UTC) + timedelta(hours=12)
    shop.without_triggers() if hasattr(shop, "without_triggers") else shop.do(
        "alter table product disable trigger user"
    )
    shop.do(f"update product set price = 120, updated_at = '{noon}' where id = 1")
    shop.capture()
    names = """
        select stock.snapshot_date, product.price_amount::integer from dwh.fact_inventory_day as stock
        inner join dwh.dim_product as product using (product_key) where stock.product_id = '1' order by 1
    """
    assert shop.rows(names) == [
        (today() - 2 * DAY, 100),
        (today() - DAY, 100),
        (today(), 120),
    ]
    reconcile(shop)


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", pytest.param("Pacific/Niue", marks=pytest.mark.slow)])
def test_days_are_those_of_the_companys_time_zone(stocked: Pipeline, zone: str) -> None:
    """One of these zones is on another day than UTC at any moment; they are 25 hours apart."""
    shop = stocked
    await_whole_day(ZoneInfo(zone))
    shop.warehouse.execute("delete from dwh.fact_inventory_day")
    upgrade(shop.warehouse_url, time_zone=zone)
    shop.capture()
    here = datetime.now(ZoneInfo(zone)).date()
    assert shop.rows("select distinct snapshot_date, snapshot_date_key from dwh.fact_inventory_day") == [
        (here, int(f"{here:%Y%m%d}"))
    ]
    assert shop.capture().changes() == {}
    reconcile(shop)
    # A day without a run.
    shift(shop, 2)
    shop.capture()
    assert shop.rows("select distinct snapshot_date, is_carried_forward from dwh.fact_inventory_day order by 1") == [
        (here - 2 * DAY, False), (here - DAY, True), (here, False),
    ]  # fmt: skip
    reconcile(shop)


def test_rows_of_past_days_name_the_versions_valid_when_they_began_in_another_time_zone(
    stocked: Pipeline,
) -> None:
    shop = stocked
    shift(shop, 3)
    shop.capture()
    evening = datetime.combine(today() - 2 * DAY, datetime.min.time(), UTC) + timedelta(hours=20)
    shop.do("alter table product disable trigger user")
    shop.do(f"update product set price = 120, updated_at = '{evening}' where id = 1")
    shop.capture()
    prices = f"""
        select stock.snapshot_date, product.price_amount::integer from dwh.fact_inventory_day as stock
        inner join dwh.dim_product as product using (product_key)
        where stock.product_id = '1' and snapshot_date between '{today() - 2 * DAY}' and '{today()}' order by 1
    """
    in_utc = [(today() - 2 * DAY, 100), (today() - DAY, 120), (today(), 120)]
    assert shop.rows(prices) == in_utc
    # There, yesterday began at 18:30 of the day before.
    upgrade(shop.warehouse_url, time_zone="Asia/Kolkata")
    run = shop.capture()
    assert run.loads["dwh.fact_inventory_day"].reconform_reason == "time zone is new"
    assert shop.rows(prices) == [(today() - 2 * DAY, 100), (today() - DAY, 100), (today(), 120)]
    reconcile(shop)
    upgrade(shop.warehouse_url, time_zone="UTC")
    shop.capture()
    assert shop.rows(prices) == in_utc
    reconcile(shop)


def test_stock_of_a_product_that_the_contract_refuses_names_an_inferred_member(shop: Pipeline) -> None:
    shop.without_foreign_keys()
    shop.do("insert into inventory (product_id, distribution_center_id, quantity) values (99, 1, 3)")
    shop.capture()
    assert shop.rows(
        """
        select product.product_id, product.is_inferred from dwh.fact_inventory_day
        inner join dwh.dim_product as product using (product_key)
        """
    ) == [("99", True)]
    reconcile(shop)


def test_damage_of_any_day_is_found_and_repaired(stocked: Pipeline) -> None:
    shop = stocked
    shift(shop, 1)
    shop.capture()
    rows = """
        select snapshot_date, product_id, product_key, quantity, is_carried_forward, has_quarantined_update
        from dwh.fact_inventory_day order by snapshot_date, product_id
    """
    intact = shop.rows(rows)
    shop.warehouse.execute(
        "update dwh.fact_inventory_day set quantity = 0 where product_id = '1' and snapshot_date = %s",
        [today()],
    )
    shop.warehouse.execute(
        "update dwh.fact_inventory_day set product_key = 0 where snapshot_date = %s", [today() - DAY]
    )
    with pytest.raises(DifferencesFound):
        reconcile(shop)
    reconcile(shop, repair=True)
    assert shop.rows(rows) == intact
    reconcile(shop)


def test_a_run_that_is_undone_leaves_the_rows_as_they_were(stocked: Pipeline) -> None:
    shop = stocked
    before = shop.rows("select * from dwh.fact_inventory_day order by product_id")
    shop.do(
        "update inventory set quantity = 4 where product_id = 1", "delete from inventory where product_id = 2"
    )
    run = shop.capture()
    with start_run(shop.warehouse_url, flow=FLOW) as undoing:
        undo(undoing, run.run_id, cascade=False)
    assert shop.rows("select * from dwh.fact_inventory_day order by product_id") == before
    shop.capture()
    assert shop.rows(ROWS, today()) == [("1", 4, False)]
