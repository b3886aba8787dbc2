"""As of a run: what a table said when it had published, and why a month's total has changed since."""

from decimal import Decimal

import psycopg
import pytest

from tests.pipeline import Pipeline, Row
from warehouse.runs.audit import start_run
from warehouse.undo import undo

TABLES = ("dim_company", "dim_customer", "dim_product", "dim_promotion", "dim_date", "fact_order_item")
TOTALS = """
    select source_system, date_trunc('month', ordered_at)::date::text as month, currency,
        count(*) filter (where status <> 'cancelled') as line_count,
        coalesce(sum(net_amount) filter (where status <> 'cancelled'), 0) as net_amount,
        coalesce(sum(net_amount) filter (where status = 'returned'), 0) as returned_net_amount
    from audit.fact_order_item_at({}) group by 1, 2, 3
"""


def state(shop: Pipeline, run_id: int | None = None) -> dict[str, list[Row]]:
    """Every row of the star, now or as a run left it."""
    place = "dwh.{}" if run_id is None else f"audit.{{}}_at({run_id})"
    return {table: sorted(shop.rows(f"select t::text from {place.format(table)} as t")) for table in TABLES}


def take_back(shop: Pipeline, run_id: int) -> None:
    with start_run(shop.warehouse_url, flow="undo") as run:
        undo.undo(run, run_id)


@pytest.fixture
def story(shop: Pipeline) -> tuple[Pipeline, dict[int, dict[str, list[Row]]]]:
    """Seven runs, an undo and a change by hand among them; what the star said after each."""
    states = {}

    def run() -> None:
        captured = shop.capture()
        states[captured.run_id] = state(shop)

    for number in range(1, 5):
        shop.order(number, "2024-03-10", {}, {"quantity": 3}, customer_id=1)
    run()
    shop.do(
        "update order_item set status = 'returned', returned_at = '2024-04-02' where sales_order_id = 1",
        "update order_item set status = 'cancelled' where sales_order_id = 2 and line_number = 1",
        "update order_item set quantity = 5 where sales_order_id = 3 and line_number = 1",
        "delete from order_item where sales_order_id = 4 and line_number = 2",
        "update company set name = 'Two', updated_at = '2024-04-03'",
    )
    shop.order(5, "2024-03-31")
    shop.insert("promotion")
    run()
    # moved to another month, and a line that was deleted is back
    shop.do("update sales_order set ordered_at = '2024-04-05' where id = 3")
    shop.insert("order_item", sales_order_id=4, line_number=2, quantity=4)
    shop.order(6, "2024-04-20")
    run()
    take_back(shop, 3)
    states[4] = state(shop)
    run()
    shop.warehouse.execute("update dwh.fact_order_item set net_amount = net_amount + 1 where order_id = '5'")
    shop.do(
        "update customer set state = 'Jujuy', updated_at = '2024-05-01'",
        "delete from order_item where sales_order_id = 6",
    )
    run()
    states[6] = state(shop)
    return shop, states


def test_as_of_functions_show_every_table_as_a_run_published_it(
    story: tuple[Pipeline, dict[int, dict[str, list[Row]]]],
) -> None:
    shop, states = story
    assert list(states) == [1, 2, 3, 4, 5, 6]
    # Of what a hand changed between two runs, the first of them does not know.
    for run_id, said in states.items():
        assert state(shop, run_id) == said, run_id


def test_changes_of_a_sum_add_up_between_any_two_runs(
    story: tuple[Pipeline, dict[int, dict[str, list[Row]]]],
) -> None:
    shop, states = story
    for earlier in states:
        for later in states:
            if earlier >= later:
                continue
            differences = shop.rows(
                f"""
                with total as ({TOTALS.format(later)}), before as ({TOTALS.format(earlier)})
                select * from (
                    select source_system, month, currency,
                        coalesce(total.line_count, 0) - coalesce(before.line_count, 0),
                        coalesce(total.net_amount, 0) - coalesce(before.net_amount, 0) as net,
                        coalesce(total.returned_net_amount, 0) - coalesce(before.returned_net_amount, 0) as returned
                    from total full join before using (source_system, month, currency)
                ) as difference where net <> 0 or returned <> 0 order by 1, 2, 3
                """
            )
            told = shop.rows(
                """
                select source_system, month::text, currency, sum(line_count)::bigint, sum(net_amount),
                    sum(returned_net_amount)
                from audit.sales_change(%s, %s) group by 1, 2, 3
                having sum(net_amount) <> 0 or sum(returned_net_amount) <> 0 order by 1, 2, 3
                """,
                earlier,
                later,
            )
            assert told == differences, (earlier, later)


def test_causes_are_shown_by_run(story: tuple[Pipeline, dict[int, dict[str, list[Row]]]]) -> None:
    shop, _ = story
    assert shop.rows(
        "select month::text, cause, run_id, line_count, net_amount, returned_net_amount from audit.sales_change(1, 3)"
    ) == [
        ("2024-03-01", "cancellation", 2, -1, Decimal(-190), Decimal(0)),
        ("2024-03-01", "correction", 2, 0, Decimal(300), Decimal(0)),
        ("2024-03-01", "deletion", 2, -1, Decimal(-290), Decimal(0)),
        ("2024-03-01", "late order", 2, 1, Decimal(190), Decimal(0)),
        ("2024-03-01", "return", 2, 0, Decimal(0), Decimal(480)),
        ("2024-03-01", "correction", 3, -2, Decimal(-780), Decimal(0)),
        ("2024-03-01", "late order", 3, 1, Decimal(390), Decimal(0)),
        ("2024-04-01", "correction", 3, 2, Decimal(780), Decimal(0)),
        ("2024-04-01", "late order", 3, 1, Decimal(190), Decimal(0)),
    ]
    assert {(cause, run_id) for cause, run_id in shop.rows("select cause, run_id from audit.sales_change(3, 6)")} == {
        ("undone", 4), ("correction", 5), ("late order", 5), ("by hand", None), ("deletion", 6),
    }  # fmt: skip


def test_runs_that_left_nothing_cannot_be_asked_about(shop: Pipeline) -> None:
    with start_run(shop.warehouse_url, flow="ingest-shop"):
        pass
    for run_id, said in ((1, r"Run 1 \(ingest-shop\) published nothing"), (2, "There is no run 2")):
        with pytest.raises(psycopg.errors.RaiseException, match=said):
            shop.rows("select * from audit.dim_customer_at(%s)", run_id)
        with pytest.raises(psycopg.errors.RaiseException, match=said):
            shop.rows("select * from audit.sales_change(%s, %s)", run_id, run_id)
