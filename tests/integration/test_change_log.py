"""The change log: whoever changes a row of the star, by a run or by hand, it says what the row was and became."""

import psycopg
import pytest

from tests.pipeline import Pipeline, Row
from warehouse.db.connections import connect
from warehouse.db.locks import transaction_lock
from warehouse.history import change_log
from warehouse.migrations.revisions import upgrade

CHANGES = "operation, run_id, flow, database_user, customer_id, changes"


def changes(shop: Pipeline, table: str, columns: str = CHANGES) -> list[Row]:
    return shop.rows(f"select {columns} from audit.{table}_change order by change_id")


def feed_of(shop: Pipeline) -> list[Row]:
    return shop.rows("select table_name, operation, run_id from audit.change_log order by change_id")


@pytest.fixture
def me(shop: Pipeline) -> str:
    return str(shop.rows("select session_user")[0][0])


def test_first_load_costs_nothing_in_it(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10")
    shop.capture()
    assert feed_of(shop) == []
    assert shop.rows("select table_name, operation from audit.before_image") == []
    shop.capture()
    assert feed_of(shop) == []


@pytest.mark.each_major
def test_every_change_of_a_run_is_logged_with_its_run_and_user(shop: Pipeline, me: str) -> None:
    shop.order(1, "2024-03-10", {}, {}, {})
    shop.capture()
    shop.do(
        "update customer set state = 'Jujuy', email = 'a@b.c', updated_at = '2024-04-01'",
        "update order_item set status = 'returned', returned_at = '2024-05-01', "
        "updated_at = '2024-05-01' where line_number = 1",
        "update promotion set name = 'x'",
        "delete from order_item where line_number = 3",
    )
    shop.capture()
    assert changes(shop, "dim_customer") == [
        ("update", 2, "ingest-shop", me, "1",
         "valid_to: 2100-01-01 00:00:00+00 → 2024-04-01 00:00:00+00; is_current: true → false"),
        ("update", 2, "ingest-shop", me, "1", "email: ana@example.com → a@b.c"),
    ]  # fmt: skip
    assert changes(shop, "fact_order_item", "operation, order_id, line_id, changes, before ->> 'net_amount'") == [
        ("update", "1", "1", "status: complete → returned; returned_at: - → 2024-05-01 00:00:00+00; "
         "returned_date_key: 0 → 20240501; recorded_at: 2024-01-01 00:00:00+00 → 2024-05-01 00:00:00+00; "
         "order_total_amount: 570.00 → 380.00", "190.0000"),
        ("update", "1", "2", "order_total_amount: 570.00 → 380.00", "190.0000"),
        ("delete", "1", "3", None, "190.0000"),
    ]  # fmt: skip


def test_transactions_that_log_changes_of_the_same_tables_do_not_wait_for_each_other(shop: Pipeline) -> None:
    shop.capture()
    tables = ("watermark", "definition")
    change = "update audit.{0} set run_id = run_id where ctid = (select {1}(ctid) from audit.{0})"
    with connect(shop.warehouse_url) as first, connect(shop.warehouse_url) as second:
        for session in (first, second):
            session.execute("set lock_timeout = '30s'")
        first.execute(change.format(tables[0], "min").encode())
        second.execute(change.format(tables[1], "max").encode())
        first.execute(change.format(tables[1], "min").encode())
        second.execute(change.format(tables[0], "max").encode())
    assert shop.rows("select table_name, count(*) from audit.before_image group by 1 order by 1") == [
        ("audit.definition", 2), ("audit.watermark", 2),
    ]  # fmt: skip


def test_changes_by_hand_are_logged_with_their_user_and_no_run(shop: Pipeline, me: str) -> None:
    shop.order(1, "2024-03-10")
    shop.capture()
    hostile = '\'; drop table audit.change; -- {"a": [1]}, \\ \n\t%s {} é'
    with connect(shop.warehouse_url) as hand:
        hand.execute("set timezone = 'America/Lima'; set datestyle = 'German'; set extra_float_digits = 0")
        hand.execute("select set_config('dwh.run_id', 'x; 1', false)")
        hand.execute("update dwh.dim_customer set name = %s where customer_id = '1'", [hostile])
        hand.execute("update dwh.dim_customer set name = name")
        hand.execute("update dwh.dim_company set company_key = 77 where company_id = '1'")
        hand.execute("truncate dwh.fact_order_item")
    assert changes(shop, "dim_customer") == [("update", None, None, me, "1", f"name: Ana → {hostile}")]
    assert changes(shop, "dim_company", "operation, company_key, company_id, run_id") == [
        ("delete", 1, "1", None),
        ("insert", 77, "1", None),
    ]
    assert changes(
        shop, "fact_order_item", "operation, order_id, before ->> 'ordered_at', database_user"
    ) == [("truncate", "1", "2024-03-10 00:00:00+00", me)]


@pytest.mark.each_major
def test_mirror_that_is_truncated_by_hand_leaves_its_rows_behind(shop: Pipeline, me: str) -> None:
    shop.order(1, "2024-03-10")
    shop.capture()
    shop.warehouse.execute("truncate raw.shop_order_item")
    assert shop.rows("select table_name, operation, run_id, database_user from audit.before_image") == [
        ("raw.shop_order_item", "truncate", None, me)
    ]


def test_what_is_rolled_back_is_not_logged(shop: Pipeline) -> None:
    shop.capture()
    with connect(shop.warehouse_url) as hand:
        hand.execute("delete from dwh.dim_customer")
        hand.rollback()
    assert feed_of(shop) == []


def test_column_that_is_added_later_is_in_the_next_image(shop: Pipeline) -> None:
    shop.capture()
    shop.warehouse.execute("update dwh.dim_company set name = 'Before'where company_id = '1'")
    shop.warehouse.execute("alter table dwh.dim_company add column \"Odd 'name%s\" text default 'x'")
    shop.warehouse.execute("update dwh.dim_company set name = 'After' where company_id = '1'")
    told = shop.rows(
        "select before ->> 'name', before ->> 'Odd ''name%s' from audit.dim_company_change order by change_id"
    )
    assert told == [("Acme", None), ("Before", "x")]
    # the next upgrade brings the column into what is generated
    upgrade(shop.warehouse_url)
    shop.warehouse.execute("update dwh.dim_company set \"Odd 'name%s\" = 'y' where company_id = '1'")
    assert shop.rows("select changes from audit.dim_company_change order by change_id desc limit 1") == [
        ("Odd 'name%s: x → y",)
    ]
    assert shop.rows("select name, \"Odd 'name%s\" from audit.dim_company_at(1) where company_id = '1'") == [
        ("Acme", None)
    ]


@pytest.mark.parametrize("table", ["dwh.fact_order_item", "raw.shop_order_item"])
def test_table_that_has_lost_its_key_says_so_and_keeps_its_rows(shop: Pipeline, table: str) -> None:
    shop.order(1, "2024-03-10")
    shop.capture()
    name = table.partition(".")[2]
    shop.warehouse.execute(f"alter table {table} drop constraint pk_{name}".encode())
    before = shop.rows(f"select * from {table}")
    for statement in (f"update {table} set quantity = 3", f"delete from {table}", f"truncate {table}"):
        with pytest.raises(psycopg.errors.RaiseException) as error:
            shop.warehouse.execute(statement.encode())
        assert error.value.diag.message_primary == (
            f"{table} has no primary key: its changes can neither be logged nor undone."
        )
        assert error.value.diag.message_hint is not None
    assert shop.rows(f"select * from {table}") == before


def test_old_changes_are_given_up_and_their_runs_marked(shop: Pipeline) -> None:
    shop.capture()
    shop.do("update company set name = 'Two'")
    shop.capture()
    shop.do("update company set name = 'Three'")
    shop.capture()
    assert len(feed_of(shop)) == 2
    kept = shop.rows("select count(*) from audit.before_image where run_id = 3")
    for table in ("change", "before_image"):
        shop.warehouse.execute(
            f"update audit.{table} set changed_at = changed_at - interval '91 days' where run_id <= 2".encode()
        )
    shop.warehouse.execute(
        "update audit.run set started_at = started_at - interval '91 days' where run_id <= 2"
    )
    with connect(shop.warehouse_url) as busy:
        transaction_lock(busy, change_log.STAR_LOCK)
        assert change_log.prune(shop.warehouse, 90) == 0
    assert change_log.prune(shop.warehouse, 90) > 1
    assert feed_of(shop) == [("dwh.dim_company", "update", 3)]
    assert shop.rows("select count(*) from audit.before_image") == kept
    assert shop.rows("select run_id, pruned_at is null from audit.run order by 1") == [
        (1, False),
        (2, False),
        (3, True),
    ]
    with pytest.raises(psycopg.errors.RaiseException, match="The change log no longer goes back to run 2"):
        shop.rows("select * from audit.dim_company_at(2)")


@pytest.mark.each_major
def test_mass_update_is_logged_row_by_row(shop: Pipeline) -> None:
    shop.warehouse.execute(
        """
        insert into dwh.dim_promotion (source_system, promotion_id, name, run_id)
        select 'shop', n::text, 'Promotion ' || n, 0 from generate_series(1, 20000) as n
        """
    )
    shop.warehouse.execute("update dwh.dim_promotion set name = upper(name) where promotion_key > 0")
    assert shop.rows(
        "select count(*), count(distinct promotion_key), min(changes), "
        "count(*) filter (where changed_columns = '{name}') from audit.dim_promotion_change"
    ) == [(20000, 20000, "name: Promotion 1 → PROMOTION 1", 20000)]
