"""What the star shows of a row whose newer state is in quarantine: the last good one, marked as such."""

from datetime import UTC, datetime

import pytest

from tests.integration.conftest import CopyOf
from tests.integration.test_daily_snapshot import shift
from tests.integration.test_refused_rows import differences
from tests.integration.test_undo import everything, take_back
from tests.pipeline import Pipeline
from warehouse.load.replace_day import rederive
from warehouse.runs.audit import start_run

LINE = [("fact_order_item", ["1", "1"])]
SALES = "select order_id, line_id, quantity::integer, has_quarantined_update from mart.sales order by 1, 2"


def sell_and_spoil(shop: Pipeline) -> None:
    """Sell two lines; make one of them and a third bad."""
    shop.without_foreign_keys()
    shop.order(1, "2024-03-10", {}, {"quantity": 50})
    shop.capture()
    shop.do("update order_item set status = 'lost', quantity = 7 where line_number = 1")
    shop.insert("order_item", line_number=3, status="lost")
    shop.capture()
    assert shop.rows(SALES) == [("1", "1", 2, True), ("1", "2", 50, False)]
    assert len(shop.quarantined()) == 2


@pytest.fixture
def refused(copy_of: CopyOf) -> Pipeline:
    """A shop with two sold lines, of which one has become bad, and a third that never was good."""
    return copy_of(sell_and_spoil)


@pytest.mark.parametrize("status", ["complete", "lost"])
def test_mark_goes_when_the_row_is_corrected_and_not_before(refused: Pipeline, status: str) -> None:
    refused.do(f"update order_item set quantity = 8, status = '{status}' where line_number = 1")
    refused.capture()
    is_good = status == "complete"
    assert refused.rows(SALES) == [("1", "1", 8 if is_good else 2, not is_good), ("1", "2", 50, False)]
    assert differences(refused) == {}


def test_mark_goes_when_the_row_becomes_again_what_it_was(refused: Pipeline) -> None:
    refused.do("update order_item set quantity = 2, status = 'complete' where line_number = 1")
    refused.capture()
    assert refused.rows(SALES) == [("1", "1", 2, False), ("1", "2", 50, False)]
    assert differences(refused) == {}


def test_marked_row_that_is_deleted_leaves_and_comes_back_without_a_mark(refused: Pipeline) -> None:
    refused.do("delete from order_item where line_number = 1")
    refused.capture()
    assert refused.rows(SALES) == [("1", "2", 50, False)]
    refused.insert("order_item", quantity=4)
    refused.capture()
    assert refused.rows(SALES) == [("1", "1", 4, False), ("1", "2", 50, False)]
    assert differences(refused) == {}


def test_undo_takes_marks_with_it_and_brings_them_back(refused: Pipeline) -> None:
    before = everything(refused)
    refused.do("update order_item set status = 'complete' where line_number = 1")
    released = refused.capture()
    assert refused.marked() == []
    take_back(refused, released.run_id)
    assert everything(refused) == before
    assert refused.marked() == LINE
    take_back(refused, refused.runs[1].run_id)
    assert refused.rows(SALES) == [("1", "1", 2, False), ("1", "2", 50, False)]
    # The watermark is that of the first run again, which read the shop that was copied.
    refused.adopt()
    refused.capture()
    assert refused.rows(SALES) == [("1", "1", 7, False), ("1", "2", 50, False)]


@pytest.mark.parametrize("full_refresh", [False, True])
def test_later_runs_keep_the_mark(refused: Pipeline, full_refresh: bool) -> None:
    refused.do("update customer set state = 'Jujuy'")
    refused.capture(full_refresh=full_refresh)
    assert refused.marked() == LINE
    with start_run(refused.warehouse_url, flow="backfill") as run:
        rederive(run, refused.source, datetime(2024, 3, 10, tzinfo=UTC).date())
    assert refused.marked() == LINE
    assert differences(refused) == {}


def test_reconcile_repairs_marks_that_are_missing_and_marks_that_are_wrong(refused: Pipeline) -> None:
    refused.warehouse.execute(
        "update dwh.fact_order_item set has_quarantined_update = not has_quarantined_update"
    )
    refused.warehouse.execute(
        "update dwh.dim_product set has_quarantined_update = true where product_id = '1'"
    )
    assert differences(refused, repair=True) == {"dwh.dim_product": 1, "dwh.fact_order_item": 2}
    assert refused.marked() == LINE
    assert differences(refused) == {}


def test_last_good_state_that_the_star_has_lost_is_restored(refused: Pipeline) -> None:
    """With the versions of its members that are valid since, though the line itself was refused."""
    refused.do("update customer set state = 'Jujuy', updated_at = '2024-01-02'")
    refused.capture()
    kept = "select * from dwh.fact_order_item where has_quarantined_update"
    before = refused.rows(kept)
    refused.warehouse.execute("delete from dwh.fact_order_item")
    assert differences(refused, repair=True) == {"dwh.fact_order_item": 2}
    assert refused.rows(kept) == before
    assert differences(refused) == {}
    # Once it has passed, or is gone, it is not restored any more.
    refused.do("update order_item set status = 'complete' where line_number = 1")
    refused.capture()
    refused.do("delete from order_item where line_number = 1")
    refused.capture()
    refused.insert("order_item", quantity=4, status="lost")
    refused.capture()
    assert refused.rows(SALES) == [("1", "2", 50, False)]
    assert differences(refused) == {}


def test_members_are_marked_in_their_present_version_alone(shop: Pipeline) -> None:
    marks = "select state, is_current, has_quarantined_update from dwh.dim_customer where customer_key > 0 order by 1"
    shop.capture()
    shop.do("update customer set state = 'Tucumán', updated_at = '2024-05-01'")
    shop.capture()
    shop.do("update customer set email = 'nobody'")
    shop.insert("customer", id=2, email="nobody")
    shop.order(1, "2024-03-10", customer_id=2)
    shop.capture()
    never_good = (None, True, False)
    assert shop.rows(marks) == [("Salta", False, False), ("Tucumán", True, True), never_good]
    masked = """
        select customer.customer_id, masked.has_quarantined_update
        from mart.customer_masked as masked inner join dwh.dim_customer as customer using (customer_key) order by 1
    """
    assert shop.rows(masked) == [
        ("1", True),
        ("2", False),
    ]
    shop.do("update customer set state = 'Jujuy' where id = 1")
    shop.capture()
    assert shop.rows(marks) == [("Salta", False, False), ("Tucumán", True, True), never_good]
    shop.without_foreign_keys()
    shop.do("delete from customer where id = 1")
    shop.capture()
    assert shop.rows(marks) == [("Salta", False, False), ("Tucumán", False, False), never_good]
    assert differences(shop) == {}


def test_stock_of_today_is_marked_and_that_of_earlier_days_stays_as_it_was(shop: Pipeline) -> None:
    days = """
        select snapshot_date = (now() at time zone 'UTC')::date, quantity::integer, has_quarantined_update
        from dwh.fact_inventory_day order by 1
    """
    shop.do("insert into inventory (product_id, distribution_center_id, quantity) values (1, 1, 5)")
    shop.capture()
    shift(shop, 1)
    shop.do("update inventory set quantity = -1")
    shop.capture()
    assert shop.rows(days) == [(False, 5, False), (True, 5, True)]
    assert differences(shop) == {}
    shift(shop, 1)
    shop.do("update customer set state = 'Jujuy'")
    shop.capture()
    assert shop.rows(days) == [(False, 5, False), (False, 5, True), (True, 5, True)]
    shop.do("update inventory set quantity = 6")
    shop.capture()
    assert shop.rows(days) == [(False, 5, False), (False, 5, True), (True, 6, False)]
