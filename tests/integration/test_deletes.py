"""Deletes: found on every run, and stopped when more than the threshold is gone."""

import pytest

from tests.integration.conftest import CopyOf
from tests.pipeline import Pipeline, content
from warehouse.errors import DeleteThresholdExceeded


def fill(shop: Pipeline) -> None:
    """Insert twenty customers and orders, and capture them."""
    for number in range(2, 21):
        shop.insert("customer", id=number)
    for number in range(1, 21):
        shop.order(number, "2024-03-10")
    shop.capture()


@pytest.fixture
def full_shop(copy_of: CopyOf) -> Pipeline:
    """Twenty customers and twenty orders of the first one."""
    return copy_of(fill)


def test_deletes_within_the_limit_are_published(full_shop: Pipeline) -> None:
    full_shop.do("delete from customer where id in (19, 20)")
    run = full_shop.capture(max_delete_share=0.10)
    assert run.changes() == {
        "raw.shop_customer": {"deleted": 2},
        "dwh.dim_customer": {"read": 2, "expired": 2},
    }
    assert full_shop.rows("select id from raw.shop_customer where _is_deleted order by id") == [(19,), (20,)]


def test_one_delete_too_many_stops_the_run_and_changes_nothing(full_shop: Pipeline) -> None:
    before = content(full_shop.warehouse)
    full_shop.do("delete from customer where id in (18, 19, 20)", "update customer set name = 'Unseen'")
    with pytest.raises(DeleteThresholdExceeded) as error:
        full_shop.capture(max_delete_share=0.10)
    assert error.value.exit_code == 3
    assert error.value.what == (
        "Too many rows were deleted in the source: customer (3 of 20 rows, 15%); the limit is 10%."
    )
    assert (
        "`dwh run shop --confirm-deletes`" in error.value.hint and "DWH_MAX_DELETE_SHARE" in error.value.hint
    )
    assert content(full_shop.warehouse) == before
    assert full_shop.run_states()[1] == ("ingest-shop", "stopped", error.value.what)


def test_truncated_tables_are_all_named_and_deleted_once_confirmed(full_shop: Pipeline) -> None:
    full_shop.do("truncate sales_order, order_item")
    with pytest.raises(DeleteThresholdExceeded) as error:
        full_shop.capture(max_delete_share=0.10)
    assert "sales_order (20 of 20 rows, 100%), order_item (20 of 20 rows, 100%)" in error.value.what
    with pytest.raises(DeleteThresholdExceeded):
        full_shop.capture(max_delete_share=0.10)
    run = full_shop.capture(max_delete_share=0.10, confirm_deletes=True)
    assert run.changes() == {
        "raw.shop_sales_order": {"deleted": 20},
        "raw.shop_order_item": {"deleted": 20},
        "dwh.fact_order_item": {"read": 20, "deleted": 20},
    }
    assert full_shop.facts() == []
    assert full_shop.capture(max_delete_share=0.10).changes() == {}


@pytest.mark.parametrize(("deleted", "stops"), [(1, False), (4, False), (5, True), (9, True)])
def test_few_deletes_of_a_small_table_pass_whatever_their_share(
    shop: Pipeline, deleted: int, stops: bool
) -> None:
    for number in range(2, 10):
        shop.insert("payment_method", id=number)
    shop.capture()
    before = content(shop.warehouse)
    shop.do(f"delete from payment_method where id > {9 - deleted}")
    if stops:
        with pytest.raises(DeleteThresholdExceeded, match=rf"payment_method \({deleted} of 9 rows") as error:
            shop.capture(max_delete_share=0.1, delete_floor_rows=4)
        assert error.value.what.endswith("; the limit is 10% (or 4 rows, but never all).")
        assert "DWH_DELETE_FLOOR_ROWS" in error.value.hint
        assert content(shop.warehouse) == before
    else:
        run = shop.capture(max_delete_share=0.1, delete_floor_rows=4)
        assert run.counts("raw.shop_payment_method") == {"deleted": deleted}


@pytest.mark.parametrize(
    "refill", ["", "insert into payment_method (id, name, kind) values (99, 'New', 'card')"]
)
def test_table_of_which_nothing_is_left_always_stops(shop: Pipeline, refill: str) -> None:
    shop.capture()
    shop.do("delete from payment_method", *([refill] if refill else []))
    with pytest.raises(DeleteThresholdExceeded, match=r"payment_method \(1 of 1 rows, 100%\)"):
        shop.capture(max_delete_share=1.0, delete_floor_rows=1000)
    run = shop.capture(max_delete_share=1.0, delete_floor_rows=1000, confirm_deletes=True)
    assert run.counts("raw.shop_payment_method")["deleted"] == 1


def test_delete_threshold_counts_what_is_gone_not_what_has_come(full_shop: Pipeline) -> None:
    full_shop.do("update customer set id = id + 1000 where id > 10")
    with pytest.raises(DeleteThresholdExceeded, match=r"customer \(10 of 20 rows, 50%\)"):
        full_shop.capture(max_delete_share=0.10)


def test_rows_deleted_long_ago_do_not_exceed_the_threshold_again(full_shop: Pipeline) -> None:
    full_shop.do("delete from customer where id > 1")
    full_shop.capture(confirm_deletes=True)
    full_shop.insert("customer", id=2)
    assert full_shop.capture(max_delete_share=0.0).changes() == {
        "raw.shop_customer": {"inserted": 1, "cursor_missed": 1},
        "dwh.dim_customer": {"read": 1, "inserted": 1},
    }


def test_vanished_row_is_found_though_another_took_its_place(full_shop: Pipeline) -> None:
    """As many rows as before, and no cursor tells that one is gone."""
    full_shop.do("delete from customer where id = 7")
    full_shop.insert("customer", id=77, updated_at="2020-01-01")
    run = full_shop.capture()
    assert run.counts("raw.shop_customer") == {"inserted": 1, "deleted": 1, "cursor_missed": 1}
    assert (7,) not in full_shop.rows("select id from raw.shop_customer where not _is_deleted")


def test_order_deleted_with_its_lines_takes_its_facts_along(full_shop: Pipeline) -> None:
    full_shop.do("delete from order_item where sales_order_id = 5", "delete from sales_order where id = 5")
    run = full_shop.capture()
    assert run.counts("dwh.fact_order_item") == {"read": 1, "deleted": 1}
    assert len(full_shop.facts()) == 19


def test_customer_deleted_with_an_order_in_flight_keeps_the_facts_of_its_life(full_shop: Pipeline) -> None:
    full_shop.without_foreign_keys()
    full_shop.do("delete from customer where id = 1")
    run = full_shop.capture()
    assert set(full_shop.facts("customer.name")) == {(str(n), "1", "Ana") for n in range(1, 21)}
    assert "dwh.fact_order_item" not in run.changes()
