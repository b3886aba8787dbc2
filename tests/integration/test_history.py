"""History as stories: what the star says after each run, whole."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import Declare
from tests.integration.test_refused_rows import differences
from tests.pipeline import Pipeline, copy_of_shop
from warehouse.load import conform

# --- versions of a member -------------------------------------------------------------------------------------


def test_first_load_opens_one_version_since_ever(shop: Pipeline) -> None:
    shop.insert("customer", id=2, name="Bruno", country="BR")
    run = shop.capture()
    assert shop.rows(
        "select customer_id, source_system, name, country, valid_from, valid_to, is_current, is_inferred, "
        "run_id - %s, expired_by_run_id from dwh.dim_customer where customer_key > 0 order by customer_id",
        run.run_id,
    ) == [
        ("1", "shop", "Ana", "AR", "ever", "now", True, False, 0, None),
        ("2", "shop", "Bruno", "BR", "ever", "now", True, False, 0, None),
    ]
    assert run.counts("dwh.dim_customer") == {"read": 2, "inserted": 2}


def test_change_closes_the_version_and_opens_the_next_when_the_source_says(captured: Pipeline) -> None:
    captured.do("update customer set country = 'UY', updated_at = '2024-03-01 10:00:00.123456'")
    run = captured.capture()
    assert captured.rows(
        "select name, country, valid_from, valid_to, is_current, run_id - %s, expired_by_run_id - %s "
        "from dwh.dim_customer where customer_key > 0 order by dim_customer.valid_from",
        run.run_id,
        run.run_id,
    ) == [
        ("Ana", "AR", "ever", "2024-03-01 10:00:00.123456", False, -1, 0),
        ("Ana", "UY", "2024-03-01 10:00:00.123456", "now", True, 0, None),
    ]
    assert run.changes() == {
        "raw.shop_customer": {"updated": 1},
        "dwh.dim_customer": {"read": 1, "inserted": 1, "expired": 1},
    }


def test_run_without_a_change_writes_nothing(sale: Pipeline) -> None:
    run = sale.capture()
    assert run.changes() == {}
    assert sale.versions("customer", "name") == [("1", "Ana", "ever", "now")]


def test_row_that_was_only_touched_opens_no_version(captured: Pipeline) -> None:
    captured.do("update customer set updated_at = '2024-03-01'")
    run = captured.capture()
    assert run.changes() == {"raw.shop_customer": {"updated": 1}}
    assert run.counts("dwh.dim_customer") == {"read": 1, "unchanged": 1}
    assert captured.versions("customer", "name") == [("1", "Ana", "ever", "now")]


def test_change_there_and_back_again_is_three_versions(captured: Pipeline) -> None:
    captured.do("update customer set country = 'UY', updated_at = '2024-03-01'")
    captured.capture()
    captured.do("update customer set country = 'AR', updated_at = '2024-04-01'")
    captured.capture()
    assert captured.versions("customer", "country") == [
        ("1", "AR", "ever", "2024-03-01"),
        ("1", "UY", "2024-03-01", "2024-04-01"),
        ("1", "AR", "2024-04-01", "now"),
    ]


def test_two_changes_between_runs_are_one_version_from_the_last(captured: Pipeline) -> None:
    captured.do("update customer set country = 'UY', updated_at = '2024-03-01'")
    captured.do("update customer set country = 'CL', updated_at = '2024-03-02'")
    captured.capture()
    assert captured.versions("customer", "country") == [
        ("1", "AR", "ever", "2024-03-02"),
        ("1", "CL", "2024-03-02", "now"),
    ]


def test_change_and_back_between_runs_opens_no_version(captured: Pipeline) -> None:
    captured.do("update customer set country = 'UY', updated_at = '2024-03-01'")
    captured.do("update customer set country = 'AR', updated_at = '2024-03-02'")
    captured.capture()
    assert captured.versions("customer", "country") == [("1", "AR", "ever", "now")]


def test_untracked_column_is_overwritten_in_every_version(captured: Pipeline) -> None:
    captured.do("update customer set country = 'UY', updated_at = '2024-03-01'")
    captured.capture()
    captured.do("update customer set email = 'ana@new.example', updated_at = '2024-04-01'")
    run = captured.capture()
    assert captured.versions("customer", "country", "email") == [
        ("1", "AR", "ana@new.example", "ever", "2024-03-01"),
        ("1", "UY", "ana@new.example", "2024-03-01", "now"),
    ]
    assert run.counts("dwh.dim_customer") == {"read": 1, "updated": 2}


def test_tracked_and_untracked_change_together(captured: Pipeline) -> None:
    captured.do("update customer set country = 'UY', email = 'ana@new.example', updated_at = '2024-03-01'")
    captured.capture()
    assert captured.versions("customer", "country", "email") == [
        ("1", "AR", "ana@new.example", "ever", "2024-03-01"),
        ("1", "UY", "ana@new.example", "2024-03-01", "now"),
    ]


def test_null_is_a_value_like_any_other(captured: Pipeline) -> None:
    captured.do("update customer set state = null, updated_at = '2024-03-01'")
    captured.capture()
    captured.do("update customer set email = 'a@b.example', updated_at = '2024-03-15'")
    captured.capture()
    captured.do("update customer set state = 'Jujuy', updated_at = '2024-04-01'")
    captured.capture()
    assert captured.versions("customer", "state") == [
        ("1", "Salta", "ever", "2024-03-01"),
        ("1", None, "2024-03-01", "2024-04-01"),
        ("1", "Jujuy", "2024-04-01", "now"),
    ]


# --- when a version starts ------------------------------------------------------------------------------------


def test_version_starts_at_the_snapshot_where_the_source_does_not_say_when(captured: Pipeline) -> None:
    captured.do("update customer set country = 'UY', updated_at = null")
    captured.capture()
    assert captured.versions("customer", "country") == [
        ("1", "AR", "ever", "run 2"),
        ("1", "UY", "run 2", "now"),
    ]


def test_version_starts_at_the_snapshot_where_the_source_names_the_future(captured: Pipeline) -> None:
    captured.do("update customer set country = 'UY', updated_at = now() + interval '1 day'")
    captured.capture()
    captured.do("update customer set country = 'CL', updated_at = 'infinity'")
    captured.capture()
    captured.do("update customer set country = 'PE', updated_at = '-infinity'")
    captured.capture()
    assert captured.versions("customer", "country") == [
        ("1", "AR", "ever", "run 2"),
        ("1", "UY", "run 2", "run 3"),
        ("1", "CL", "run 3", "run 4"),
        ("1", "PE", "run 4", "now"),
    ]


def test_version_starts_at_the_snapshot_where_the_source_names_a_moment_of_an_older_version(
    captured: Pipeline,
) -> None:
    captured.do("update customer set country = 'UY', updated_at = '2024-03-01'")
    captured.capture()
    captured.do("update customer set country = 'CL', updated_at = '2024-02-01'")
    captured.capture()
    assert captured.versions("customer", "country") == [
        ("1", "AR", "ever", "2024-03-01"),
        ("1", "UY", "2024-03-01", "run 3"),
        ("1", "CL", "run 3", "now"),
    ]


def test_version_starts_at_the_snapshot_where_the_source_names_the_start_of_the_last_one(
    captured: Pipeline,
) -> None:
    for country, day in (("UY", "2024-03-01"), ("UY", "2024-04-01"), ("CL", "2024-03-01")):
        captured.do(f"update customer set country = '{country}', updated_at = '{day}'")
        captured.capture()
    assert captured.versions("customer", "country") == [
        ("1", "AR", "ever", "2024-03-01"),
        ("1", "UY", "2024-03-01", "run 4"),
        ("1", "CL", "run 4", "now"),
    ]


def test_version_starts_at_the_snapshot_where_a_disabled_trigger_left_the_old_stamp(sale: Pipeline) -> None:
    sale.do("alter table customer disable trigger all", "update customer set country = 'UY'")
    sale.capture()
    assert sale.versions("customer", "country") == [("1", "AR", "ever", "run 2"), ("1", "UY", "run 2", "now")]
    assert sale.facts("customer.country") == [("1", "1", "AR")]


# --- deletes --------------------------------------------------------------------------------------------------


def test_delete_closes_the_version_at_the_snapshot(captured: Pipeline) -> None:
    captured.do("delete from customer")
    run = captured.capture()
    assert captured.versions("customer", "country", "is_current") == [("1", "AR", False, "ever", "run 2")]
    assert run.changes() == {
        "raw.shop_customer": {"deleted": 1},
        "dwh.dim_customer": {"read": 1, "expired": 1},
    }


def test_member_that_reappears_opens_a_new_version_and_leaves_a_hole(captured: Pipeline) -> None:
    captured.do("delete from customer")
    captured.capture()
    captured.insert("customer", updated_at="2024-02-01")
    run = captured.capture()
    assert captured.versions("customer", "country") == [
        ("1", "AR", "ever", "run 2"),
        ("1", "AR", "run 3", "now"),
    ]
    assert run.changes() == {
        "raw.shop_customer": {"inserted": 1},
        "dwh.dim_customer": {"read": 1, "inserted": 1},
    }


def test_version_that_a_sale_in_the_hole_infers_shows_what_all_versions_show(shop: Pipeline) -> None:
    shop.without_foreign_keys()
    shop.capture()
    shop.do("delete from customer")
    shop.capture()
    shop.order(1, str(shop.shop.execute("select clock_timestamp()").fetchone()[0]))  # type: ignore[index]
    shop.insert("customer", email="new@example.com")
    shop.capture()
    assert shop.versions("customer", "email", "country", "is_inferred") == [
        ("1", "new@example.com", "AR", False, "ever", "run 2"),
        ("1", "new@example.com", None, True, "run 2", "run 3"),
        ("1", "new@example.com", "AR", False, "run 3", "now"),
    ]
    assert differences(shop) == {}


def test_member_that_reappears_is_valid_from_its_stamp_where_that_is_after_the_delete(
    captured: Pipeline,
) -> None:
    captured.do("delete from customer")
    captured.capture()
    (stamp,) = captured.shop.execute("select clock_timestamp()").fetchone() or ()
    captured.insert("customer", updated_at=stamp)
    captured.capture()
    assert captured.versions("customer", "country") == [
        ("1", "AR", "ever", "run 2"),
        ("1", "AR", captured.format_value(stamp), "now"),
    ]


def test_delete_and_insert_of_the_same_row_between_runs_is_no_change(captured: Pipeline) -> None:
    captured.do("delete from customer")
    captured.insert("customer")
    run = captured.capture()
    assert run.changes() == {}
    assert captured.versions("customer", "country") == [("1", "AR", "ever", "now")]


def test_delete_and_insert_of_another_row_under_the_key_is_a_change(captured: Pipeline) -> None:
    captured.do("delete from customer")
    captured.insert("customer", country="UY", updated_at="2024-03-01")
    captured.capture()
    assert captured.versions("customer", "country") == [
        ("1", "AR", "ever", "2024-03-01"),
        ("1", "UY", "2024-03-01", "now"),
    ]


def test_key_change_closes_the_old_member_and_opens_a_new_one(captured: Pipeline) -> None:
    captured.do("update customer set id = 7")
    run = captured.capture()
    assert captured.versions("customer", "name") == [
        ("1", "Ana", "ever", "run 2"),
        ("7", "Ana", "ever", "now"),
    ]
    assert run.counts("raw.shop_customer") == {"inserted": 1, "deleted": 1}


# --- columns from parents -------------------------------------------------------------------------------------


def test_renamed_category_opens_a_version_of_each_of_its_products(shop: Pipeline) -> None:
    shop.insert("category", id=2, name="Garden")
    shop.insert("product", id=2, name="Saw")
    shop.insert("product", id=3, name="Rake", category_id=2)
    shop.capture()
    shop.do("update category set name = 'Hand tools', updated_at = '2024-05-01' where id = 1")
    run = shop.capture()
    assert shop.versions("product", "name", "category") == [
        ("1", "Hammer", "Tools", "ever", "2024-05-01"),
        ("1", "Hammer", "Hand tools", "2024-05-01", "now"),
        ("2", "Saw", "Tools", "ever", "2024-05-01"),
        ("2", "Saw", "Hand tools", "2024-05-01", "now"),
        ("3", "Rake", "Garden", "ever", "now"),
    ]
    assert run.changes() == {
        "raw.shop_category": {"updated": 1},
        "dwh.dim_product": {"read": 2, "inserted": 2, "expired": 2},
    }


def test_product_that_changes_with_its_category_and_brand_gets_one_version(captured: Pipeline) -> None:
    captured.do(
        "update category set name = 'Hand tools', updated_at = '2024-05-01'",
        "update brand set name = 'Nut', updated_at = '2024-05-03'",
        "update product set price = 120, updated_at = '2024-05-02'",
    )
    captured.capture()
    assert captured.versions("product", "category", "brand", "price_amount::text") == [
        ("1", "Tools", "Bolt", "100.0000", "ever", "2024-05-03"),
        ("1", "Hand tools", "Nut", "120.0000", "2024-05-03", "now"),
    ]


def test_product_without_a_brand_any_more(captured: Pipeline) -> None:
    captured.do("update product set brand_id = null, updated_at = '2024-05-01'")
    captured.capture()
    assert captured.versions("product", "brand") == [
        ("1", "Bolt", "ever", "2024-05-01"),
        ("1", None, "2024-05-01", "now"),
    ]


def test_deleted_brand_leaves_its_products_at_the_snapshot_since_no_timestamp_shows_it(
    sale: Pipeline,
) -> None:
    sale.without_foreign_keys()
    sale.do("delete from brand")
    sale.capture()
    assert sale.versions("product", "brand") == [("1", "Bolt", "ever", "run 2"), ("1", None, "run 2", "now")]
    assert sale.facts("product.brand") == [("1", "1", "Bolt")]


def test_parent_that_comes_after_its_children_completes_them(shop: Pipeline) -> None:
    shop.without_foreign_keys()
    shop.insert("product", id=2, name="Saw", category_id=9)
    shop.capture()
    shop.insert("category", id=9, name="Late", updated_at="2024-05-01")
    shop.capture()
    assert shop.versions("product", "category") == [
        ("1", "Tools", "ever", "now"),
        ("2", None, "ever", "2024-05-01"),
        ("2", "Late", "2024-05-01", "now"),
    ]


# --- facts take the version of their moment -------------------------------------------------------------------


def test_fact_keeps_the_version_of_its_day_when_the_customer_moves(sale: Pipeline) -> None:
    sale.do("update customer set country = 'UY', updated_at = '2024-04-01'")
    sale.order(2, "2024-04-01", updated_at="2024-04-02")
    sale.order(3, "2024-03-31 23:59:59.999999", updated_at="2024-04-02")
    sale.capture()
    sale.do(
        "update order_item set status = 'returned', returned_at = '2024-05-01', updated_at = '2024-05-01'"
    )
    run = sale.capture()
    assert sale.facts("customer.country", "fact.status", "fact.returned_date_key") == [
        ("1", "1", "AR", "returned", 20240501),
        ("2", "1", "UY", "returned", 20240501),
        ("3", "1", "AR", "returned", 20240501),
    ]
    assert run.counts("dwh.fact_order_item") == {"read": 3, "updated": 3}


def test_large_batch_is_made_anew_and_loaded_as_a_small_one(
    shop: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.order(1, "2024-03-10", {"quantity": 2})
    shop.capture()
    batch = """
        select
            attname, format_type(atttypid, atttypmod), attnotnull, col_description(attrelid, attnum),
            obj_description(attrelid, 'pg_class')
        from pg_attribute where attrelid = 'staging.conformed_order_item'::regclass and attnum > 0 order by attname
        """
    made, shape = shop.rows("select 'staging.conformed_order_item'::regclass::oid"), shop.rows(batch)
    monkeypatch.setattr(conform, "PARALLEL_ABOVE", 1)
    shop.do("update order_item set quantity = 3")
    shop.order(2, "2024-03-11", {"quantity": 4})
    run = shop.capture()
    assert run.counts("dwh.fact_order_item") == {"read": 2, "inserted": 1, "updated": 1}
    assert shop.facts("quantity") == [("1", "1", 3), ("2", "1", 4)]
    assert shop.rows("select 'staging.conformed_order_item'::regclass::oid") != made
    assert shop.rows(batch) == shape


def test_late_order_finds_the_version_of_its_day(captured: Pipeline) -> None:
    for country, day in (("UY", "2024-03-01"), ("CL", "2024-04-01")):
        captured.do(f"update customer set country = '{country}', updated_at = '{day}'")
        captured.capture()
    captured.order(1, "1999-12-31")
    captured.order(2, "2024-03-15")
    captured.order(3, "2024-04-15")
    captured.capture()
    assert captured.facts("customer.country") == [("1", "1", "AR"), ("2", "1", "UY"), ("3", "1", "CL")]


def test_late_dimension_row_re_keys_the_facts_after_it(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10")
    shop.order(2, "2024-03-20")
    shop.capture()
    shop.do("update customer set country = 'UY', updated_at = '2024-03-15'")
    run = shop.capture()
    assert shop.facts("customer.country") == [("1", "1", "AR"), ("2", "1", "UY")]
    assert run.changes() == {
        "raw.shop_customer": {"updated": 1},
        "dwh.dim_customer": {"read": 1, "inserted": 1, "expired": 1},
        "dwh.fact_order_item": {"read": 1, "updated": 1, "rekeyed": 1},
    }


def test_product_that_moves_to_another_company_takes_its_later_sales_along(shop: Pipeline) -> None:
    shop.insert("company", id=2, name="Globex")
    shop.order(1, "2024-03-10")
    shop.order(2, "2024-03-20")
    shop.capture()
    shop.do("update product set company_id = 2, updated_at = '2024-03-15'")
    shop.capture()
    assert shop.versions("product", "company_id") == [
        ("1", "1", "ever", "2024-03-15"),
        ("1", "2", "2024-03-15", "now"),
    ]
    assert shop.facts("company.name") == [("1", "1", "Acme"), ("2", "1", "Globex")]


def test_company_that_is_renamed_late_re_keys_the_facts_of_its_products(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10")
    shop.order(2, "2024-03-20")
    shop.capture()
    shop.do("update company set name = 'Acme II', updated_at = '2024-03-15'")
    run = shop.capture()
    assert shop.facts("company.name") == [("1", "1", "Acme"), ("2", "1", "Acme II")]
    assert run.counts("dwh.fact_order_item") == {"read": 1, "updated": 1, "rekeyed": 1}


def test_order_that_changes_hands_or_day_changes_its_keys(shop: Pipeline) -> None:
    shop.insert("customer", id=2, name="Bruno")
    shop.order(1, "2024-03-10")
    shop.order(2, "2024-03-10")
    shop.capture()
    shop.do(
        "update sales_order set customer_id = 2, updated_at = '2024-04-01' where id = 1",
        "update sales_order set ordered_at = '2024-03-12', updated_at = '2024-04-01' where id = 2",
    )
    run = shop.capture()
    assert shop.facts("customer.name", "fact.ordered_date_key") == [
        ("1", "1", "Bruno", 20240310),
        ("2", "1", "Ana", 20240312),
    ]
    assert run.counts("dwh.fact_order_item") == {"read": 2, "updated": 2, "rekeyed": 1}


def test_order_line_that_vanishes_and_comes_back(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10", {"quantity": 1}, {"quantity": 3})
    shop.capture()
    shop.do("delete from order_item where line_number = 1")
    run = shop.capture()
    assert shop.facts("fact.quantity::int") == [("1", "2", 3)]
    assert run.counts("dwh.fact_order_item") == {"read": 2, "deleted": 1, "updated": 1}
    shop.insert("order_item", quantity=5)
    run = shop.capture()
    assert shop.facts("fact.quantity::int") == [("1", "1", 5), ("1", "2", 3)]
    # The other line has the total of its order.
    assert run.counts("dwh.fact_order_item") == {"read": 2, "inserted": 1, "updated": 1}


def test_line_keeps_the_currency_of_its_day(sale: Pipeline) -> None:
    sale.do("update product set currency = 'EUR', updated_at = '2024-04-01'")
    sale.order(2, "2024-04-10")
    sale.capture()
    sale.do("update order_item set status = 'returned', updated_at = '2024-05-01'")
    sale.capture()
    assert sale.facts("fact.currency") == [("1", "1", "USD"), ("2", "1", "EUR")]


def test_line_has_the_currency_that_its_source_names_whatever_the_list_price_is_in(
    sale: Pipeline, declare: Declare
) -> None:
    sale.order(2, "2024-03-10")
    named = "    case when item.sales_order_id = 2 then 'BRL' end as currency,\n    item.returned_at,"
    source = declare(
        ("source.toml", '["lead_id", "currency"]', '["lead_id"]'),
        ("conform/order_item.sql", "    item.returned_at,", named),
    )
    sale.capture(source=source)
    assert sale.facts("fact.currency", "product.currency") == [
        ("1", "1", "USD", "USD"),
        ("2", "1", "BRL", "USD"),
    ]


# --- facts before their members -------------------------------------------------------------------------------


def test_order_before_its_customer_gets_an_inferred_member_that_is_completed_in_place(shop: Pipeline) -> None:
    shop.without_foreign_keys()
    shop.order(1, "2024-03-10", customer_id=9)
    shop.capture()
    assert shop.versions("customer", "name", "is_inferred") == [
        ("1", "Ana", False, "ever", "now"),
        ("9", None, True, "ever", "now"),
    ]
    before = shop.facts("fact.customer_key")
    shop.insert("customer", id=9, name="Zoe", updated_at="2024-05-01")
    run = shop.capture()
    assert shop.versions("customer", "name", "is_inferred") == [
        ("1", "Ana", False, "ever", "now"),
        ("9", "Zoe", False, "ever", "now"),
    ]
    assert shop.facts("fact.customer_key") == before
    assert shop.facts("customer.name") == [("1", "1", "Zoe")]
    assert run.counts("dwh.dim_customer") == {"read": 1, "updated": 1}


def test_order_before_its_product_finds_the_seller_once_the_product_is_there(shop: Pipeline) -> None:
    shop.without_foreign_keys()
    shop.order(1, "2024-03-10", {"product_id": 9})
    shop.capture()
    assert shop.facts("product.is_inferred", "company.name", "fact.currency") == [
        ("1", "1", True, None, None)
    ]
    shop.insert("product", id=9, name="Late", updated_at="2024-05-01")
    run = shop.capture()
    assert shop.facts("product.name", "company.name", "fact.currency") == [("1", "1", "Late", "Acme", "USD")]
    assert run.counts("dwh.fact_order_item") == {"read": 1, "updated": 1, "rekeyed": 1}


def test_seller_that_comes_after_its_products_takes_their_sales(shop: Pipeline) -> None:
    shop.without_foreign_keys()
    shop.insert("product", id=9, name="Orphan", company_id=5)
    shop.order(1, "2024-03-10", {"product_id": 9})
    shop.capture()
    assert shop.facts("product.name", "company.name") == [("1", "1", "Orphan", None)]
    shop.insert("company", id=5, name="Late", updated_at="2024-05-01")
    shop.capture()
    assert shop.facts("product.name", "company.name") == [("1", "1", "Orphan", "Late")]


def test_order_after_its_customers_deletion_fills_the_hole_with_an_inferred_version(shop: Pipeline) -> None:
    shop.without_foreign_keys()
    shop.capture()
    shop.do("delete from customer")
    shop.capture()
    shop.do(
        "insert into sales_order (id, customer_id, payment_method_id, ordered_at) values (1, 1, 1, now())"
    )
    shop.insert("order_item")
    shop.order(2, "2024-03-10")
    shop.capture()
    assert shop.versions("customer", "name", "is_inferred") == [
        ("1", "Ana", False, "ever", "run 2"),
        ("1", None, True, "run 2", "now"),
    ]
    assert shop.facts("customer.name") == [("1", "1", None), ("2", "1", "Ana")]
    shop.insert("customer", name="Ana again")
    shop.capture()
    assert shop.versions("customer", "name", "is_inferred") == [
        ("1", "Ana", False, "ever", "run 2"),
        ("1", "Ana again", False, "run 2", "now"),
    ]


def test_inferred_version_of_a_deleted_product_stays_when_its_category_changes(shop: Pipeline) -> None:
    shop.without_foreign_keys()
    shop.capture()
    shop.do("delete from product")
    shop.capture()
    (after,) = shop.shop.execute("select clock_timestamp()").fetchone() or ()
    shop.order(1, after)
    shop.capture()
    versions = shop.versions("product", "name", "is_inferred")
    assert versions == [("1", "Hammer", False, "ever", "run 2"), ("1", None, True, "run 2", "now")]
    shop.do("update category set name = 'Garden'")
    run = shop.capture()
    assert shop.versions("product", "name", "is_inferred") == versions
    assert run.changes().keys() == {"raw.shop_category"}


def test_inferred_members_stay_when_rows_that_were_never_good_are_deleted(shop: Pipeline) -> None:
    """As a warehouse has them that is loaded only then."""
    shop.without_foreign_keys()
    shop.insert("customer", id=2, name=" ", username="b")
    shop.insert("promotion", name=" ")
    shop.order(1, "2024-05-10", {"promotion_id": 1}, customer_id=2)
    shop.capture()
    shop.do("delete from customer where id = 2", "delete from promotion")
    shop.capture()
    assert shop.versions("customer", "name", "is_inferred")[1:] == [("2", None, True, "ever", "now")]
    assert shop.rows(
        "select name, is_inferred, is_deleted from dwh.dim_promotion where promotion_key > 0"
    ) == [(None, True, False)]


def test_order_in_the_hole_between_two_lives_fills_just_the_hole(shop: Pipeline) -> None:
    shop.without_foreign_keys()
    shop.capture()
    shop.do("delete from customer")
    shop.capture()
    (between,) = shop.shop.execute("select clock_timestamp()").fetchone() or ()
    shop.insert("customer")
    shop.capture()
    shop.order(1, between)
    shop.order(2, between)
    shop.capture()
    assert shop.versions("customer", "name", "is_inferred", "is_current") == [
        ("1", "Ana", False, False, "ever", "run 2"),
        ("1", None, True, False, "run 2", "run 3"),
        ("1", "Ana", False, True, "run 3", "now"),
    ]
    assert shop.facts("customer.name") == [("1", "1", None), ("2", "1", None)]


def test_line_without_customer_promotion_or_known_keys_points_at_the_unknown_member(shop: Pipeline) -> None:
    shop.without_foreign_keys()
    shop.do("alter table sales_order alter customer_id drop not null")
    shop.order(1, "2024-03-10", customer_id=None)
    shop.capture()
    assert shop.facts("fact.customer_key", "fact.promotion_key", "fact.returned_date_key") == [
        ("1", "1", 0, 0, 0)
    ]


# --- dimensions without history -------------------------------------------------------------------------------


def test_promotion_is_overwritten_marked_when_deleted_and_kept_for_its_facts(shop: Pipeline) -> None:
    shop.insert("promotion")
    shop.order(1, "2024-05-10", {"promotion_id": 1})
    shop.capture()
    shop.do("update promotion set name = 'Merry May', updated_at = '2024-05-02'")
    run = shop.capture()
    assert run.counts("dwh.dim_promotion") == {"read": 1, "updated": 1}
    shop.without_foreign_keys()
    shop.do("delete from promotion")
    run = shop.capture()
    assert run.counts("dwh.dim_promotion") == {"read": 1, "deleted": 1}
    known = (
        "select promotion_id, name, is_inferred, is_deleted from dwh.dim_promotion where promotion_key > 0"
    )
    assert shop.rows(known) == [("1", "Merry May", False, True)]
    assert shop.facts("promotion.name") == [("1", "1", "Merry May")]
    shop.insert("promotion", name="June")
    shop.capture()
    assert shop.rows(known) == [("1", "June", False, False)]


def test_order_before_its_promotion_gets_an_inferred_one(shop: Pipeline) -> None:
    shop.without_foreign_keys()
    shop.order(1, "2024-05-10", {"promotion_id": 4})
    shop.capture()
    known = "select promotion_id, name, is_inferred from dwh.dim_promotion where promotion_key > 0"
    assert shop.rows(known) == [("4", None, True)]
    shop.insert("promotion", id=4)
    shop.capture()
    assert shop.rows(known) == [("4", "May", False)]
    assert shop.facts("promotion.name") == [("1", "1", "May")]


# --- more than one source -------------------------------------------------------------------------------------


def test_two_sources_with_equal_keys_do_not_mix(
    shop: Pipeline, database: Callable[[str], str], shop_template: str, tmp_path: Path
) -> None:
    other_shop = Pipeline(database(shop_template), shop.warehouse_url, copy_of_shop("mall", tmp_path))
    other_shop.open_shop()
    other_shop.do("update customer set name = 'Mallory', updated_at = '2024-01-02'")
    shop.order(1, "2024-03-10")
    other_shop.order(1, "2024-03-10", {"quantity": 7})
    shop.capture()
    other_shop.capture()
    other_shop.do("update customer set name = 'Molly', updated_at = '2024-02-01'")
    shop.do("delete from order_item", "delete from sales_order", "delete from customer")
    shop.capture()
    other_shop.capture()
    other_shop.close()
    assert shop.rows(
        "select source_system, customer_id, name, valid_from, is_current from dwh.dim_customer "
        "where customer_key > 0 order by 1, 4"
    ) == [
        ("mall", "1", "Mallory", "ever", False),
        ("mall", "1", "Molly", "2024-02-01", True),
        ("shop", "1", "Ana", "ever", False),
    ]
    assert shop.facts("fact.source_system", "fact.quantity::int", "customer.name") == [
        ("1", "1", "mall", 7, "Molly")
    ]
