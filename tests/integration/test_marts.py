"""Marts: what analysts and operators read, as whole tables, from rows that went the whole way."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.pipeline import Pipeline, Row
from warehouse.errors import QualityGateStopped
from warehouse.load import marts
from warehouse.model import superset
from warehouse.model.mart import Mart, answers, read_marts, stored_marts
from warehouse.reconcile.marts import reconcile_marts
from warehouse.report.figures import source_states
from warehouse.report.read import read
from warehouse.runs.audit import Run, start_run
from warehouse.undo.undo import FLOW, undo

CANCELLED, RETURNED = {"status": "cancelled"}, {"status": "returned"}


def refresh(pipeline: Pipeline, parent_run_id: int | None = None) -> Run:
    with start_run(pipeline.warehouse_url, flow="refresh-marts", parent_run_id=parent_run_id) as run:
        marts.refresh(run)
    return run


def analyzed(pipeline: Pipeline, schema: str) -> set[str]:
    """Tables of a schema that have statistics."""
    rows = pipeline.rows("select distinct tablename from pg_stats where schemaname = %s", schema)
    return {name for (name,) in rows}


def by_month(pipeline: Pipeline, *columns: str) -> list[Row]:
    listed = ", ".join(f"{column}::text" for column in ("month", *columns))
    return pipeline.rows(f"select {listed} from mart.sales_by_month order by source_system, month, currency")


def test_a_month_shows_cancelled_and_returned_lines_apart(shop: Pipeline) -> None:
    # Each line: 2 units at 100, base price 80, discount 10: gross 200, net 190, profit 30.
    shop.order(1, "2024-03-01", {}, CANCELLED, RETURNED)
    shop.order(2, "2024-03-31 23:59:59.999999+00", {"quantity": 3})
    shop.order(3, "2024-03-15", CANCELLED)
    shop.order(4, "2024-04-01 00:00:00+00")
    shop.capture()
    refresh(shop)
    assert by_month(shop, "order_count", "line_count", "unit_count") == [
        ("2024-03-01", "2", "3", "7.000"),
        ("2024-04-01", "1", "1", "2.000"),
    ]
    assert by_month(shop, "gross_amount", "discount_amount", "net_amount", "profit_amount") == [
        ("2024-03-01", "700.0000", "30.0000", "670.0000", "110.0000"),
        ("2024-04-01", "200.0000", "10.0000", "190.0000", "30.0000"),
    ]
    assert by_month(
        shop,
        "returned_line_count",
        "returned_net_amount",
        "returned_profit_amount",
        "cancelled_line_count",
        "cancelled_net_amount",
    ) == [
        ("2024-03-01", "1", "190.0000", "30.0000", "2", "380.0000"),
        ("2024-04-01", "0", "0", "0", "0", "0"),
    ]


def test_profit_is_zero_where_nothing_was_sold_and_empty_without_base_prices(shop: Pipeline) -> None:
    shop.insert("product", id=2, currency="ARS")
    shop.order(1, "2024-03-01", {}, {"product_id": 2}, CANCELLED, {"product_id": 2, **CANCELLED})
    shop.order(2, "2024-05-01", CANCELLED, {"product_id": 2, **CANCELLED})
    shop.order(3, "2024-06-01", {}, {"product_id": 2})
    shop.capture()
    # As of a source that has base prices of only some products.
    shop.warehouse.execute("update dwh.fact_order_item set profit_amount = null where currency = 'ARS'")
    refresh(shop)
    assert by_month(shop, "currency", "profit_amount", "returned_profit_amount") == [
        ("2024-03-01", "ARS", None, None),
        ("2024-03-01", "USD", "30.0000", "0"),
        ("2024-05-01", "ARS", None, None),
        ("2024-05-01", "USD", "0", "0"),
        ("2024-06-01", "ARS", None, None),
        ("2024-06-01", "USD", "30.0000", "0"),
    ]
    assert shop.rows(
        "select order_id, currency, profit_amount::int from mart.order_totals where order_id = '2' order by currency"
    ) == [("2", "ARS", None), ("2", "USD", 0)]
    assert shop.rows(
        "select currency, array_agg(profit_amount::int order by month) from mart.monthly_sales group by 1 order by 1"
    ) == [("ARS", [None] * 12), ("USD", [*[0] * 9, 30, 0, 0])]


def test_lines_of_a_promotion_in_quarantine_are_not_those_without_one(shop: Pipeline) -> None:
    shop.insert("promotion", discount_share="1.5")
    shop.order(1, "2024-05-10", {}, {"promotion_id": 1, "discount_amount": 40})
    shop.capture()
    refresh(shop)
    by_promotion = (
        "select promotion_name, line_count, discount_amount::int from mart.{} order by promotion_name"
    )
    for mart in ("sales_by_promotion", "promotion_costs"):
        assert shop.rows(by_promotion.format(mart)) == [("none", 1, 10), ("unknown", 1, 40)]
    assert shop.rows("select promotion_name from mart.sales order by line_id") == [(None,), ("unknown",)]
    shop.do("update promotion set discount_share = 0.2, updated_at = '2024-05-02'")
    shop.capture()
    refresh(shop)
    for mart in ("sales_by_promotion", "promotion_costs"):
        assert shop.rows(by_promotion.format(mart)) == [("May", 1, 40), ("none", 1, 10)]


def test_stored_mart_is_computed_again_when_a_view_that_it_reads_has_changed(
    shop: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.order(1, "2024-03-10", {}, CANCELLED)
    shop.capture()
    refresh(shop)
    query = Mart.query

    def changed(mart: Mart, condition: str = "true") -> str:
        return query(mart, condition).replace("'cancelled'", "'gone'")

    monkeypatch.setattr(Mart, "query", changed)
    shop.warehouse.execute(f"create or replace view mart.sales as {read_marts()['sales'].query()}".encode())
    refresh(shop)
    assert shop.rows("select line_count, cancelled_line_count from mart.sales_by_day") == [(2, 0)]


def test_marts_that_are_computed_whole_are_analyzed_before_others_join_them(shop: Pipeline) -> None:
    # Without it the sales of segments joined each order line to each customer of its currency, for hours.
    shop.order(1, "2024-03-01")
    shop.capture()
    refresh(shop)
    computed = [mart.name for mart in stored_marts() if mart.follows is None]
    filled = [name for name in computed if shop.rows(f"select from mart.{name} limit 1")]
    assert {"customer_rfm", "sales_by_segment_month"} <= {*filled}
    assert {*filled} <= analyzed(shop, "mart")


def test_mart_that_was_emptied_is_filled_by_the_next_refresh(sale: Pipeline) -> None:
    refresh(sale)

    def filled() -> dict[str, list[Row]]:
        rows = {
            mart.name: sale.rows(f"select * from mart.{mart.name} order by 1, 2, 3")
            for mart in stored_marts()
        }
        return {name: found for name, found in rows.items() if found}

    before = filled()
    assert {mart.name for mart in stored_marts() if mart.dataset == "sales"} <= before.keys()
    assert "best_products_by_country" in before
    sale.warehouse.execute(f"truncate {', '.join(f'mart.{name}' for name in before)}".encode())
    refresh(sale)
    assert filled() == before


def test_mart_of_days_that_was_emptied_has_all_days_after_a_refresh_of_live(sale: Pipeline) -> None:
    refresh(sale)
    sale.warehouse.execute("truncate mart.sales_by_day")
    sale.order(2, "2024-03-11")
    sale.capture()
    with start_run(sale.warehouse_url, flow="live") as run:
        assert "sales_by_day" in marts.refresh_days(sale.warehouse, run.run_id)
    assert sale.rows("select ordered_date::text, order_count from mart.sales_by_day order by 1") == [
        ("2024-03-10", 1),
        ("2024-03-11", 1),
    ]


@pytest.mark.each_major
def test_star_without_statistics_is_analyzed_before_marts_are_made_of_it(
    shop: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a rebuild leaves it, or a dump that was restored: the sales of segments took minutes.
    monkeypatch.setattr(marts, "UNKNOWN_ABOVE", 0)
    shop.order(1, "2024-03-01")
    shop.capture()
    refresh(shop)
    known = analyzed(shop, "dwh")
    assert {"fact_order_item", "dim_customer", "dim_product", "dim_company"} <= known
    shop.warehouse.execute(b"delete from pg_statistic where starelid >= 16384")
    assert analyzed(shop, "dwh") == set()
    refresh(shop)
    assert analyzed(shop, "dwh") == known


def test_refresh_waits_for_no_load_that_analyzes_the_star(
    shop: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marts, "UNKNOWN_ABOVE", 0)
    shop.order(1, "2024-03-01")
    shop.capture()
    shop.warehouse.execute(b"delete from pg_statistic where starelid >= 16384")
    with ThreadPoolExecutor(1) as pool, psycopg.connect(shop.warehouse_url) as loading:
        loading.execute("analyze dwh.dim_customer")
        pool.submit(refresh, shop).result(120)
    assert {"fact_order_item", "dim_customer", "dim_product"} <= analyzed(shop, "dwh")


def test_currencies_are_not_added_up(shop: Pipeline) -> None:
    shop.insert("product", id=2, currency="ARS")
    shop.order(1, "2024-03-01", {}, {"product_id": 2})
    shop.capture()
    refresh(shop)
    assert by_month(shop, "currency", "order_count", "net_amount") == [
        ("2024-03-01", "ARS", "1", "190.0000"),
        ("2024-03-01", "USD", "1", "190.0000"),
    ]


def test_charts_of_superset_show_each_month_of_each_currency_and_stack_none_on_another(
    shop: Pipeline,
) -> None:
    for product, currency in ((2, "ARS"), (3, "EUR")):
        shop.insert("product", id=product, currency=currency)
    for month in range(1, 13):
        shop.order(month, f"2024-{month:02}-10", {"quantity": 90}, {"product_id": 2}, {"product_id": 3})
    shop.order(13, "2025-01-10", {}, {"product_id": 2}, {"product_id": 3})
    shop.capture()
    refresh(shop)
    files = superset.bundle()
    (query,) = [
        text
        for name, text in superset.chart_queries(files).items()
        if name.startswith("Monthly sales of the last year: ")
    ]
    drawn = shop.rows(query)
    assert len(drawn) == 3 * 12
    assert Counter(str(currency) for _, _, currency, _ in drawn) == {"ARS": 12, "EUR": 12, "USD": 12}
    stacked = {
        mart.name for mart in answers() if files[f"charts/{mart.name}.yaml"]["params"]["stack"] is not None
    }
    assert stacked == {mart.name for mart in answers() if "currency" not in mart.columns} - {
        "lead_source_conversion",
        "traffic_source_conversion",
    }


def test_the_last_year_is_the_twelve_full_months_before_the_newest_sale(shop: Pipeline) -> None:
    in_two_months = datetime.now(UTC) + timedelta(days=62)
    shop.order(1, "2023-03-31")
    shop.order(2, "2023-04-01")
    shop.order(3, "2024-03-10")
    shop.order(4, in_two_months.isoformat())
    shop.capture()
    refresh(shop)
    found = shop.rows(
        "select month::text, order_count, net_amount::int, as_of_date::text from mart.monthly_sales order by month"
    )
    assert found == [
        ("2023-03-01", 1, 190, "2024-03-10"),
        ("2023-04-01", 1, 190, "2024-03-10"),
        *((f"2023-{month:02}-01", 0, 0, "2024-03-10") for month in range(5, 13)),
        ("2024-01-01", 0, 0, "2024-03-10"),
        ("2024-02-01", 0, 0, "2024-03-10"),
    ]


def test_customers_of_a_source_without_sales_are_active_by_the_year_before_today(shop: Pipeline) -> None:
    # Customers come from one system, orders of theirs by a partner's files.
    shop.insert("customer", id=2, document_number="2", username="bea", email="bea@example.com")
    shop.order(1, (datetime.now(UTC) - timedelta(days=3)).isoformat())
    shop.order(2, "2019-03-10", customer_id=2)
    shop.capture()
    shop.warehouse.execute("update dwh.fact_order_item set source_system = 'partner'")
    refresh(shop)
    assert shop.rows(
        "select source_system, state, customer_count, active_customer_count, order_count "
        "from mart.customer_activity_by_region"
    ) == [("shop", "Salta", 2, 1, 2)]


def test_whoever_ordered_last_is_not_lost_however_many_they_are(shop: Pipeline) -> None:
    for key in (2, 3):
        shop.insert(
            "customer",
            id=key,
            document_number=str(key),
            username=f"user{key}",
            email=f"{key}@example.com",
        )
    shop.order(1, "2023-05-01", customer_id=3)
    shop.order(2, "2024-03-10")
    shop.order(3, "2024-03-10", customer_id=2)
    shop.capture()
    refresh(shop)
    assert shop.rows(
        "select customer_id, recency_score, frequency_score, segment from mart.customer_ranking order by 1"
    ) == [("1", 5, 1, "new"), ("2", 5, 1, "new"), ("3", 1, 1, "lost")]


def test_orders_that_name_no_customer_are_sales_and_not_one_customers(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10")
    shop.order(2, "2024-03-10", {}, {})
    shop.capture()
    # As of a source whose orders may name nobody.
    shop.warehouse.execute("update dwh.fact_order_item set customer_key = 0 where order_id = '2'")
    refresh(shop)
    assert shop.rows("select net_amount from mart.total_sales") == [(570,)]
    assert shop.rows("select customer_id, net_amount from mart.customer_ranking") == [("1", 190)]
    assert shop.rows("select segment, customer_count, net_share from mart.customer_segments") == [
        ("new", 1, 1)
    ]
    assert shop.rows("select segment, net_amount from mart.sales_by_segment_month") == [("new", 190)]


@pytest.mark.each_major
def test_marts_by_customer_and_product_follow_an_undo_that_deletes_the_versions_their_sales_named(
    sale: Pipeline,
) -> None:
    refresh(sale)
    names = [mart.name for mart in stored_marts() if mart.follows in ("customer_id", "product_id")]

    def content() -> dict[str, list[Row]]:
        return {name: sorted(sale.rows(f"select one::text from mart.{name} as one")) for name in names}

    before = content()
    sale.insert("customer", id=2, name="Bea", document_number="20999")
    sale.do(
        "update customer set country = 'UY', updated_at = '2024-04-01' where id = 1",
        "update product set price = 120, updated_at = '2024-04-01' where id = 1",
    )
    for order, customer in ((2, 1), (3, 2)):
        sale.order(order, "2024-04-10", customer_id=customer)
    changed = sale.capture()
    refresh(sale)
    assert all(content()[name] != before[name] for name in names)
    with start_run(sale.warehouse_url, flow=FLOW) as run:
        undo(run, changed.run_id)
    refresh(sale)
    assert content() == before


def test_a_sale_bears_the_names_of_its_day(sale: Pipeline) -> None:
    sale.do(
        "update customer set name = 'Ana Paz', country = 'CL', updated_at = '2024-05-01'",
        "update category set name = 'Hardware', updated_at = '2024-05-01'",
    )
    sale.insert("promotion")
    sale.order(2, "2024-06-10", {"promotion_id": 1})
    sale.capture()
    assert sale.rows(
        """
        select order_id, ordered_month::text, customer_name, customer_country, product_name, category, brand,
            company_name, promotion_name, payment_method_name, distribution_center_name, net_amount::int, currency
        from mart.sales order by order_id
        """
    ) == [
        (
            "1",
            "2024-03-01",
            "Ana",
            "AR",
            "Hammer",
            "Tools",
            "Bolt",
            "Acme",
            None,
            "Visa",
            "Rosario",
            190,
            "USD",
        ),
        (
            "2",
            "2024-06-01",
            "Ana Paz",
            "CL",
            "Hammer",
            "Hardware",
            "Bolt",
            "Acme",
            "May",
            "Visa",
            "Rosario",
            190,
            "USD",
        ),
    ]


@pytest.mark.each_major
def test_refresh_does_not_lock_readers_out_and_is_on_record(sale: Pipeline) -> None:
    with psycopg.connect(sale.warehouse_url) as reader:
        assert reader.execute("select count(*) from mart.sales_by_month").fetchone() == (0,)
        run = refresh(sale)
        assert reader.execute("select count(*) from mart.sales_by_month").fetchone() == (1,)
    assert sale.rows(
        "select source, table_name, rows_read from audit.load where run_id = %s"
        " and table_name in ('mart.sales_by_day', 'mart.purchase_funnel') order by table_name",
        run.run_id,
    ) == [("mart", "mart.purchase_funnel", 4), ("mart", "mart.sales_by_day", 1)]
    refresh(sale)
    assert sale.rows("select count(*) from mart.sales_by_month") == [(1,)]


def calendar_marts_of(pipeline: Pipeline, run: Run) -> set[str]:
    """Marts of the calendar that a run computed."""
    names = {f"mart.{mart.name}" for mart in stored_marts() if mart.kind == "daily"}
    return names & {
        name for (name,) in pipeline.rows("select table_name from audit.load where run_id = %s", run.run_id)
    }


def test_marts_of_the_calendar_are_computed_once_a_day_and_for_newer_sales(shop: Pipeline) -> None:
    every_one = {f"mart.{mart.name}" for mart in stored_marts() if mart.kind == "daily"}
    shop.order(1, "2024-03-10")
    shop.capture()
    assert calendar_marts_of(shop, refresh(shop)) == every_one
    # Nobody is in the access logs: those that count their users have no rows, and are computed again.
    assert calendar_marts_of(shop, refresh(shop)) == {"mart.traffic_source_conversion"}
    shop.order(2, "2024-03-10")
    shop.capture()
    assert calendar_marts_of(shop, refresh(shop)) == {"mart.traffic_source_conversion"}
    shop.order(3, "2024-03-11")
    shop.capture()
    assert calendar_marts_of(shop, refresh(shop)) == every_one
    # As if it had been yesterday.
    shop.warehouse.execute(
        "update audit.mart_state set refreshed_at = refreshed_at - interval '1 day', "
        "definition = replace(definition, mart.local_date(now())::text, (mart.local_date(now()) - 1)::text)"
    )
    assert calendar_marts_of(shop, refresh(shop)) == every_one
    assert calendar_marts_of(shop, refresh(shop)) == {"mart.traffic_source_conversion"}
    # Another order of the same day: the daily run counts it, and so does a refresh after a correction.
    idle = {"mart.traffic_source_conversion"}
    with start_run(shop.warehouse_url, flow="daily-warehouse", dry_run=True):
        pass
    assert calendar_marts_of(shop, refresh(shop)) == idle
    with start_run(shop.warehouse_url, flow="daily-warehouse") as daily:
        assert calendar_marts_of(shop, refresh(shop)) == idle, "it has loaded nothing yet"
        assert calendar_marts_of(shop, refresh(shop, daily.run_id)) == every_one
    assert calendar_marts_of(shop, refresh(shop)) == idle
    with start_run(shop.warehouse_url, flow="undo"):
        assert calendar_marts_of(shop, refresh(shop)) == idle, "it has changed nothing yet"
    assert calendar_marts_of(shop, refresh(shop)) == every_one
    assert calendar_marts_of(shop, refresh(shop)) == idle


def test_marts_of_the_calendar_follow_the_first_requests_of_a_day(sale: Pipeline) -> None:
    refresh(sale)
    sale.warehouse.execute(
        "insert into mart.interactions_by_day (request_date, action, interaction_count) "
        "values ('2024-03-10', 'view', 1)"
    )
    assert "mart.purchase_funnel" in calendar_marts_of(sale, refresh(sale))


def test_marts_of_yesterday_are_stale_and_not_different_for_a_source_without_sales(shop: Pipeline) -> None:
    shop.insert("customer", id=7, birth_date="1980-05-05")
    shop.capture()
    refresh(shop)
    shop.warehouse.execute("update mart.customer_age_groups set as_of_date = as_of_date - 1")

    def verdict() -> tuple[bool, bool]:
        """Whether it differs, and whether that is because it waits for a refresh."""
        (found,) = [
            one
            for one in reconcile_marts(shop.warehouse, repair=False)
            if one.table_name == "mart.customer_age_groups"
        ]
        return found.rows_differing > 0, found.is_stale

    with shop.warehouse.transaction(force_rollback=True):
        assert verdict() == (True, False)
    shop.warehouse.execute("update audit.mart_state set refreshed_at = refreshed_at - interval '1 day'")
    with shop.warehouse.transaction(force_rollback=True):
        assert verdict() == (True, True)


def test_job_run_counts_what_came_in_once(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10")
    shop.order(2, "2024-03-11", {"discount_amount": 1_000})
    shop.capture()
    shop.do("update customer set state = 'Jujuy'")
    shop.capture()
    with (
        pytest.raises(QualityGateStopped),
        start_run(shop.warehouse_url, flow="ingest-shop", launched_by="nobody"),
    ):
        raise QualityGateStopped("The gate closed.", hint="Open it.")
    found = shop.rows(
        """
        select run_id, status, rows_inserted, rows_updated, rows_expired, rows_quarantined, message, hint,
            duration_seconds >= 0
        from mart.job_run order by run_id
        """
    )
    # A line, and a version each of company, customer, product, payment method and distribution center.
    assert found == [
        (1, "succeeded", 6, 0, 0, 1, None, None, True),
        (2, "succeeded", 1, 0, 1, 0, None, None, True),
        (3, "stopped", 0, 0, 0, 0, "The gate closed.", "Open it.", True),
    ]
    staged = [
        sum(load.rows_read for name, load in run.loads.items() if name.startswith("raw."))
        for run in shop.runs
    ]
    assert shop.rows("select rows_read from mart.job_run where run_id < 3 order by run_id") == [
        (n,) for n in staged
    ]


def test_freshness_distinguishes_unchanged_tables_from_those_not_read(sale: Pipeline) -> None:
    sale.do("update customer set state = 'Jujuy'")
    sale.capture()
    last_load, first_load = (
        sale.rows("select max(loaded_at), min(loaded_at) from audit.load where run_id = %s", run.run_id)[0]
        for run in reversed(sale.runs)
    )
    found = {
        table: (complete_at, changed_at)
        for table, complete_at, changed_at in sale.rows(
            "select table_name, complete_at, changed_at from mart.table_freshness where source = 'shop'"
        )
    }
    assert {complete_at for complete_at, _ in found.values()} == {"run 2"}
    assert found["dwh.dim_customer"][1] >= last_load[1]
    assert first_load[1] <= found["dwh.dim_company"][1] <= first_load[0]
    assert len(found) == 11 + 6


def test_quality_shows_the_last_verdict_and_the_rows_that_wait(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10", {"discount_amount": 1_000}, {"quantity": 40})
    shop.order(2, "2024-03-11", {"quantity": 50, "unit_price": 70})
    shop.order(3, "2024-03-12", {"quantity": 50, "unit_price": 70, "discount_amount": -5})
    shop.capture()
    by_rule = "select source, entity, rule, waiting_count from mart.quarantine_by_rule order by rule"
    verdicts = """
        select check_name, level, outcome, measured::int, run_id, last_found_at < checked_at
        from mart.data_quality where outcome <> 'passed' or last_found_at is not null order by check_name
    """
    assert shop.rows(by_rule) == [
        ("shop", "order_item", "discount is not between 0 and the gross amount", 2),
        ("shop", "order_item", "unit price is not above the base price", 2),
    ]
    # A line that breaks two rules is one line.
    assert [state.waiting for state in source_states(read(shop.warehouse_url))] == [3]
    assert shop.rows("select * from mart.quarantine_size") == [("shop", 3)]
    freshness = pytest.importorskip("warehouse.dashboard.read").freshness
    assert list(freshness(shop.warehouse_url).waiting_count) == [3]
    assert [row[:5] for row in shop.rows(verdicts)] == [
        ("discount is not between 0 and the gross amount", "quarantine", "failed", 2, 1),
        ("unit price is not above the base price", "quarantine", "failed", 2, 1),
    ]
    shop.do("update order_item set discount_amount = 10, unit_price = 100")
    shop.capture()
    assert shop.rows(by_rule) == []
    assert shop.rows(verdicts) == [
        ("discount is not between 0 and the gross amount", "quarantine", "passed", 0, 2, True),
        ("unit price is not above the base price", "quarantine", "passed", 0, 2, True),
    ]


def test_proof_shows_the_last_verdict_of_each_table(sale: Pipeline) -> None:
    sale.order(2, "2024-03-11")
    sale.capture()
    assert sale.rows(
        """
        select table_name, verdict, rows_source, rows_mirror, run_id from mart.capture_verification
        where table_name in ('order_item', 'company') order by table_name
        """
    ) == [("company", "equal", 1, 1, 2), ("order_item", "equal", 2, 2, 2)]
