"""Questions that an auditor asks of a star, after days of a busy shop: to each, nobody answers."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from generators.shop import generate, simulate_day
from tests.pipeline import Pipeline, Row
from tests.star_questions import offenders
from warehouse.db.connections import connect

UNTIL = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def four_days(
    module_database: Callable[[str], str], shop_template: str, warehouse_template: str
) -> Iterator[Pipeline]:
    """Four days of a small shop, captured after each, with some rows that break rules. Tests change nothing in it."""
    pipeline = Pipeline(module_database(shop_template), module_database(warehouse_template))
    generate(
        pipeline.shop_url, rows=300, companies=40, customers=150, products=120, until=UNTIL, defects=0.05
    )
    pipeline.capture()
    for day in range(4):
        simulate_day(pipeline.shop_url, changes=400, seed=day, defects=0.1)
        pipeline.capture()
    yield pipeline
    pipeline.close()


CORRUPTIONS = {
    "versions that overlap: customer": "alter table dwh.dim_customer drop constraint ex_dim_customer_overlap; "
    "update dwh.dim_customer set valid_to = valid_to + interval '1 s' where not is_current",
    "first versions that do not hold since ever: company": "update dwh.dim_company set valid_from = '2020-01-01' "
    "where company_key in (select min(company_key) from dwh.dim_company where company_key > 0 group by company_id)",
    "members that are current and gone, or there and not current: product": "update raw.shop_product "
    "set _is_deleted = not _is_deleted where id = (select min(id) from raw.shop_product)",
    "holes in the life of a member that never vanished: customer": "update dwh.dim_customer "
    "set valid_to = valid_to - (valid_to - valid_from) / 2 where not is_current",
    "versions that end without a run that ended them: customer": "update dwh.dim_customer set expired_by_run_id = null",
    "rows of runs that did not succeed: product": "update audit.run set status = 'failed' where run_id = 3",
    "accepted members that are not as the shop has them: customer": "update dwh.dim_customer set email = 'x' "
    "where is_current",
    "facts whose versions were not valid when it happened": "update dwh.fact_order_item as fact set customer_key = "
    "other.customer_key from dwh.dim_customer as one, dwh.dim_customer as other "
    "where one.customer_id = other.customer_id "
    "and fact.customer_key = one.customer_key and one.customer_key <> other.customer_key",
    "facts of another customer, product or seller than the shop's": "update dwh.fact_order_item set company_key = 0",
    "facts that a join with its dimensions loses or doubles": "update dwh.fact_order_item set promotion_key = -1",
    "lines that are neither published nor in quarantine, or both and current": "delete from dwh.fact_order_item "
    "where ctid = (select min(ctid) from dwh.fact_order_item)",
    "facts and quarantined lines that the shop does not have": "update dwh.fact_order_item set line_id = '99' "
    "where ctid = (select min(ctid) from dwh.fact_order_item)",
    "amounts that are not the line's": "update dwh.fact_order_item set net_amount = net_amount + 0.01",
}


def test_star_answers_every_question_of_an_auditor(four_days: Pipeline) -> None:
    assert offenders(four_days) == {}
    # the questions were not asked of an empty room
    ((versions, holes, released, waiting),) = four_days.rows(
        """
        select (select count(*) from dwh.dim_customer where not is_current),
            (select count(*) from (select 1 from dwh.dim_customer group by customer_id having sum(
                upper(tstzrange(valid_from, valid_to)) - lower(tstzrange(valid_from, valid_to))
            ) < '2100-01-01+00'::timestamptz - '1900-01-01+00'::timestamptz) as lives),
            (select count(*) from audit.quarantine where resolution is not null),
            (select count(*) from audit.quarantine where resolved_at is null)
        """
    )
    assert versions > 20 and holes > 0 and waiting > 0 and released >= 0
    for question, corruption in CORRUPTIONS.items():
        with four_days.warehouse.transaction(force_rollback=True):
            four_days.warehouse.execute(corruption.encode())
            assert question in offenders(four_days)


def test_star_built_in_days_has_the_facts_of_a_star_built_at_once(
    four_days: Pipeline, database: Callable[[str], str], warehouse_template: str
) -> None:
    """What does not depend on history is the same: measures, status and who bought what from whom."""
    at_once = Pipeline(four_days.shop_url, database(warehouse_template))
    try:
        at_once.capture()
        who = ("customer_id", "product_id", "promotion_id")
        columns = ("net_amount", "profit_amount", "fact.status", "returned_date_key", *who)
        rejudged = {tuple(key) for key, _, resolution in at_once.quarantined() if resolution is None}
        once = set(at_once.facts(*columns))
        days = {row for row in four_days.facts(*columns) if row[:2] not in rejudged}
        assert days == once
    finally:
        at_once.close()


COUNTS = """
    select
        (select count(*) from raw.shop_order_item where not _is_deleted),
        (select count(*) from dwh.dim_customer), (select count(*) from dwh.dim_product),
        (select count(*) from dwh.fact_order_item),
        (
            select count(*) from dwh.fact_order_item
            inner join dwh.dim_customer using (customer_key) inner join dwh.dim_product using (product_key)
            inner join dwh.dim_company using (company_key)
        )
    """


def test_counts_never_shrink_while_a_load_is_running(shop: Pipeline) -> None:
    """A reader that looks all the time sees a load as a whole or not at all; reading everything again is no gap."""
    shop.without_foreign_keys()
    seen: list[Row] = []
    done = threading.Event()

    def look() -> None:
        with connect(shop.warehouse_url, autocommit=True) as reader:
            is_over = False
            # The last time after the last load.
            while not is_over:
                is_over = done.is_set()
                seen.extend(reader.execute(COUNTS.encode()).fetchall())

    for number in range(1, 31):
        shop.order(number, "2024-03-10", {}, {})
    shop.capture()
    reader = threading.Thread(target=look)
    reader.start()
    try:
        for run in range(3):
            for number in range(1, 31):
                shop.order(100 * (run + 1) + number, "2024-06-01", {}, {}, customer_id=number % 3 + 1)
            shop.do(f"update customer set country = 'C{run}'", f"update product set price = {run} + 101")
            shop.capture(full_refresh=run == 1)
    finally:
        done.set()
        reader.join()
    assert all(later >= earlier for column in zip(*seen, strict=True) for earlier, later in pairwise(column))
    assert sorted({facts for *_, facts, _ in seen} | {60}) == [60, 120, 180, 240]
    assert all(joined == facts for *_, facts, joined in seen)
    # Many looks fell into each load.
    assert len(seen) > 30
