"""A record of a feed is one unit: whichever of its entities rejects it, no target has any of its rows."""

import json
import random
import shutil
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path

import pytest

from tests.integration.test_feeds import ITEM, FeedPipeline, Model, an_order
from tests.pipeline import Pipeline, content
from warehouse.load.replace_day import rederive
from warehouse.model import contracts
from warehouse.reconcile.reconcile import reconcile_feed
from warehouse.runs.audit import start_run
from warehouse.sources.declaration import read_declaration
from warehouse.sources.source import Source

DEALS = """
description = "Deals: each names its seller, its items, and its lead."

[feed]
landing = "landing/deals"
bad_records = "bad/deals"
format = "json"
record = "deal"

[tables.deal]
key = ["deal_id"]
columns = { deal_id = "text", seller = "text", lead_id = "text", named_at = "timestamptz" }

[tables.deal_item]
items = "items"
key = ["deal_id", "line_number"]
columns = { product_id = "text", quantity = "numeric" }

[entities.company]
from = "deal"

[entities.order_item]
from = "deal_item"
parents = { deal = ["deal_id"] }
unmapped_columns = [
    "customer_id", "promotion_id", "payment_method_id", "distribution_center_id", "returned_at", "lead_id", "currency",
    "unit_price_default_amount", "has_customer", "customer_name", "customer_document_number", "customer_birth_date",
]

[entities.order_lead]
from = "deal"
unmapped_columns = ["customer_id"]
"""
CONFORM = {
    "company": """
        select deal.deal_id as company_id, '30500000007' as cuit, deal.seller as name, 'AR' as country,
            deal.record_timestamp as changed_at
        from staging.deals_company_changed_keys as changed
        inner join raw.deals_deal as deal on changed.deal_id = deal.deal_id where not deal._is_deleted
    """,
    "order_item": """
        select item.deal_id as order_id, item.line_number::text as line_id, item.product_id,
            '2024-03-10 12:00+00'::timestamptz as ordered_at, 'complete' as status, item.quantity,
            100 as unit_price_amount, 0 as discount_amount, 1e6 as order_total_amount,
            deal.record_timestamp as recorded_at, true as has_product, deal.record_timestamp as changed_at
        from staging.deals_order_item_changed_keys as changed
        inner join raw.deals_deal_item as item
            on changed.deal_id = item.deal_id and changed.line_number = item.line_number
        inner join raw.deals_deal as deal on item.deal_id = deal.deal_id and not deal._is_deleted
        where not item._is_deleted
    """,
    "order_lead": """
        select deal.deal_id as order_id, deal.named_at as ordered_at, deal.lead_id, deal.record_timestamp as changed_at
        from staging.deals_order_lead_changed_keys as changed
        inner join raw.deals_deal as deal on changed.deal_id = deal.deal_id where not deal._is_deleted
    """,
}
RULES = {
    "company": "name is missing",
    "order_item": "quantity is missing",
    "order_lead": "order time is outside the calendar",
}
ENTITIES = tuple(CONFORM)
slow = partial(pytest.param, marks=pytest.mark.slow)
IDS = "select row_key[1], quarantine_id from audit.quarantine where resolved_at is null"


def a_deal(deal_id: str, value: int, broken: str = "") -> dict[str, object]:
    """A deal with one item or two, each with its value; `broken` is the entity that rejects it."""
    items: list[dict[str, object]] = [{"product_id": "1", "quantity": value} for _ in range(1 + value % 2)]
    if broken == "order_item":
        items[-1]["quantity"] = None
    return {
        "deal_id": deal_id,
        "seller": None if broken == "company" else f"seller {value}",
        "lead_id": f"L-{value}",
        "named_at": "1850-01-01T00:00:00Z" if broken == "order_lead" else "2024-03-10T12:00:00Z",
        "items": items,
    }


def declare(folder: Path) -> Source:
    (folder / "conform").mkdir(parents=True)
    (folder / "source.toml").write_text(DEALS)
    for name, query in CONFORM.items():
        (folder / "conform" / f"{name}.sql").write_text(query)
    return read_declaration(folder)


class Deals(FeedPipeline):
    """The feed of deals, and what its targets have."""

    def star(self) -> dict[str, list[tuple[object, ...]]]:
        """Rows of each target: all versions of sellers, items, leads."""
        return {
            "company": self.rows(
                "select company_id, name, is_current from dwh.dim_company where source_system = 'deals' "
                "order by company_id, valid_from"
            ),
            "order_item": self.rows(
                "select order_id, line_id, quantity::integer from dwh.fact_order_item "
                "where source_system = 'deals' order by 1, 2"
            ),
            "order_lead": self.rows(
                "select order_id, lead_id from dwh.fact_order_lead where source_system = 'deals' order by 1"
            ),
        }

    def checked_twice(self, run_id: int) -> list[tuple[object, ...]]:
        """Checks of which a run has recorded more than one result."""
        return self.rows(
            f"select dataset, check_name from audit.check_result where run_id = {run_id} "
            "group by dataset, check_name, column_name having count(*) > 1"
        )

    def differences(self) -> list[str]:
        with start_run(self.warehouse_url, flow="reconcile") as run:
            verdicts = reconcile_feed(run, self.source, repair=False)
        return [str(one) for verdict in verdicts for one in verdict.differences]


def star_of(
    histories: dict[str, list[int]], closed: tuple[str, ...] = ()
) -> dict[str, list[tuple[object, ...]]]:
    """The star of deals of which these values were accepted, one after the other; `closed` ones have left it."""
    there = {key: values[-1] for key, values in sorted(histories.items()) if key not in closed}
    return {
        "company": [
            (key, f"seller {value}", place == len(values) and key not in closed)
            for key, values in sorted(histories.items())
            for place, value in enumerate(values, start=1)
        ],
        "order_item": [
            (key, str(line + 1), value) for key, value in there.items() for line in range(1 + value % 2)
        ],
        "order_lead": [(key, f"L-{value}") for key, value in there.items()],
    }


@pytest.fixture
def deals(warehouse_url: str, tmp_path: Path) -> Iterator[Deals]:
    pipeline = Deals(warehouse_url, tmp_path / "lake")
    pipeline.source = declare(tmp_path / "deals")
    yield pipeline
    pipeline.warehouse.close()


@pytest.mark.parametrize("entity", [slow("company"), "order_item", "order_lead"])
def test_a_record_that_any_entity_rejects_waits_as_a_whole_until_it_is_replayed(
    deals: Deals, entity: str
) -> None:
    deals.land("a.json", [a_deal("D-1", 1), a_deal("D-2", 2, entity), a_deal("D-3", 3)])
    deals.run()
    assert deals.star() == star_of({"D-1": [1], "D-3": [3]})
    assert deals.rows("select deal_id from raw.deals_deal union select deal_id from raw.deals_deal_item") == [
        ("D-1",), ("D-3",)
    ]  # fmt: skip
    # Later versions with fewer and more items, and a new deal, are rejected; others beside them are not.
    deals.land(
        "b.json",
        [
            a_deal("D-1", 4, entity),
            a_deal("D-2", 5, entity),
            a_deal("D-3", 6),
            a_deal("D-4", 7, entity),
            a_deal("D-5", 8),
        ],
    )
    run_id = deals.run()
    histories = {"D-1": [1], "D-3": [3, 6], "D-5": [8]}
    assert deals.star() == star_of(histories)
    assert deals.waiting() == [(key, RULES[entity]) for key in ("D-1", "D-2", "D-4")]
    assert deals.counts() == [("a.json", "loaded", 3, 1, 0, 0, 2), ("b.json", "loaded", 5, 2, 3, 0, 0)]
    # Each check is recorded once, of all records.
    assert deals.rows(
        f"select dataset, check_name, outcome, measured::integer from audit.check_result where run_id = {run_id} "
        "and outcome <> 'not_applicable' and (outcome <> 'passed' or check_name = 'lead id is missing') order by 1"
    ) == sorted([("order_lead", "lead id is missing", "passed", 0), (entity, RULES[entity], "failed", 3)])
    assert deals.checked_twice(run_id) == []
    assert deals.published.rows_quarantined == 3
    before = content(deals.warehouse), deals.counts(), deals.waiting()
    deals.run()
    assert (content(deals.warehouse), deals.counts(), deals.waiting()) == before
    # Nothing is corrected; then one is.
    ids = dict(deals.rows(IDS))
    assert deals.replay(*ids.values())[0] == 3
    assert deals.star() == star_of(histories)
    ids = dict(deals.rows(IDS))
    deals.edit(ids["D-1"], a_deal("D-1", 9))
    deals.edit(ids["D-4"], a_deal("D-4", 10, ENTITIES[-1]))
    assert deals.replay(ids["D-1"], ids["D-4"], dry_run=True)[0] == 1
    assert deals.star() == star_of(histories)
    assert deals.replay(ids["D-1"], ids["D-4"])[0] == 1
    assert deals.star() == star_of({**histories, "D-1": [1, 9]})
    assert sorted(key for key, _ in deals.waiting()) == ["D-2", "D-4"]
    assert deals.counts() == [("a.json", "loaded", 3, 0, 0, 0, 3), ("b.json", "loaded", 5, 3, 2, 0, 0)]
    assert deals.differences() == []


COUNTED = "select rows_read, rows_quarantined from mart.job_run order by run_id desc limit 1"


def test_a_run_counts_records_however_many_rows_they_have_and_whoever_refuses_them(deals: Deals) -> None:
    broken = [*ENTITIES, *ENTITIES, "", "", "", ""]
    lines = [json.dumps(a_deal(f"D-{number}", number, one)) for number, one in enumerate(broken)]
    deals.land("a.json", "\n".join([*lines, "{", ""]))
    deals.run()
    assert (deals.rows(COUNTED), deals.published.rows_quarantined) == ([(11, 7)], 7)
    assert len(deals.waiting()) == 7
    # Nothing has changed: two of them are refused again.
    ids = dict(deals.rows(IDS))
    assert deals.replay(ids["D-0"], ids["D-1"])[0] == 2
    assert deals.rows(COUNTED) == [(2, 2)]
    deals.run()
    assert deals.rows(COUNTED) == [(0, 0)]


@pytest.mark.parametrize(
    ("refused", "mails"), [(300, ["300 of 300 rows (100.0%)"]), (60, ["60 of 300 rows (20.0%)"]), (15, [])]
)
@pytest.mark.parametrize(
    "by", [{"customer_name": None}, {"items": 5 * [ITEM] + [{**ITEM, "product_id": None}]}]
)
def test_a_feed_is_mailed_about_by_the_share_of_its_records_that_were_refused(
    warehouse_url: str, tmp_path: Path, by: dict[str, object], refused: int, mails: list[str]
) -> None:
    orders = FeedPipeline(warehouse_url, tmp_path / "lake")
    whole = an_order("", *({},) * 6)
    orders.land("a.json", [{**whole, "order_id": f"P-{n}"} | (by if n < refused else {}) for n in range(300)])
    orders.run()
    assert orders.rows(COUNTED) == [(300, refused)]
    sent = (
        "select kind, substring(body_text from '[0-9,]+ of [0-9,]+ rows .+ broke a rule') from audit.outbox"
    )
    assert orders.rows(sent) == [("quarantine", f"{mail} broke a rule") for mail in mails]
    orders.warehouse.close()


@pytest.mark.parametrize(("seed", "steps"), [(1, 7), *(slow(n, 40) for n in range(2, 8))])
def test_targets_have_all_rows_of_what_is_loaded_and_none_of_what_waits_at_any_time(
    deals: Deals, seed: int, steps: int
) -> None:
    rng = random.Random(seed)
    model, histories = Model(), dict[str, list[int]]()
    for step in range(1, steps + 1):
        places = sorted(model.open)
        if rng.random() < 0.7 or not places:
            kinds = [rng.choice(("", "", *ENTITIES)) for _ in range(rng.randrange(1, 7))]
            records = [(kind, f"D-{rng.randrange(5)}", rng.randrange(1, 1000)) for kind in kinds]
            deals.land(f"{step}.json", [a_deal(key, value, kind) for kind, key, value in records])
            deals.run()
            ((number,),) = deals.rows("select max(file_id) from audit.file")
            model.file(number, [("item refused" if kind else "good", *rest) for kind, *rest in records])
        else:
            place, value = rng.choice(places), rng.randrange(1, 1000)
            key = model.open[place]
            assert key is not None
            ((waiting,),) = deals.rows(
                "select quarantine_id from audit.quarantine where resolved_at is null "
                f"and (file_id, line_number) = {place}"
            )
            deals.edit(waiting, a_deal(key, value))
            deals.replay(waiting)
            model.replay(place, key, value)
        for key, (_, value) in model.loaded.items():
            if histories.setdefault(key, [value])[-1] != value:
                histories[key].append(value)
        assert deals.star() == star_of(histories), step
        assert [row[2:] for row in deals.counts()] == [
            model.counts(number) for (number,) in deals.rows("select file_id from audit.file order by 1")
        ], step
    assert deals.differences() == []


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The contracts, to be changed."""
    folder = tmp_path / "checks"
    shutil.copytree(Path(str(contracts.CHECKS)), folder)
    monkeypatch.setattr(contracts, "CHECKS", folder)
    return folder


def add_rule(checks: Path, entity: str, name: str, broken_if: str) -> None:
    path = checks / f"{entity}.yml"
    text = path.read_text()
    if "\nchecks:\n" not in text:
        text += "checks:\n"
    path.write_text(
        f"{text}  - failed_rows:\n      name: {name}\n      qualifier: added\n      expression: {broken_if}\n"
    )


NEW_RULES = {"company": "name = 'seller 3'", "order_item": "quantity = 3", "order_lead": "lead_id = 'L-3'"}


@pytest.mark.parametrize("entity", ["company", slow("order_item"), slow("order_lead")])
def test_a_record_that_breaks_a_new_rule_leaves_every_target(deals: Deals, checks: Path, entity: str) -> None:
    deals.land("a.json", [a_deal("D-1", 3), a_deal("D-2", 2), a_deal("D-3", 3), a_deal("D-4", 3)])
    deals.run()
    add_rule(checks, entity, "three is too much", NEW_RULES[entity])
    # Of one there is a later version by now, which is shorter; of another one that is rejected, too.
    other = "company" if entity == "company" else "order_lead"
    deals.land("b.json", [a_deal("D-3", 4), a_deal("D-4", 5, other)])
    run_id = deals.run()
    assert deals.star()["order_item"] == star_of({"D-2": [2], "D-3": [4]})["order_item"]
    assert deals.star()["order_lead"] == star_of({"D-2": [2], "D-3": [4]})["order_lead"]
    assert [row for row in deals.star()["company"] if row[2]] == [
        ("D-2", "seller 2", True),
        ("D-3", "seller 4", True),
    ]
    assert deals.waiting() == [("D-1", "three is too much"), ("D-4", RULES[other])]
    assert deals.counts() == [("a.json", "loaded", 4, 1, 1, 0, 2), ("b.json", "loaded", 2, 1, 1, 0, 0)]
    # Checked again as a whole, before what is new, is a target whose rules have changed, or those of its members.
    again = {entity, "order_item"} if entity == "company" else {entity}
    assert {dataset for dataset, _ in deals.checked_twice(run_id)} == again
    before = content(deals.warehouse), deals.counts()
    deals.run()
    assert (content(deals.warehouse), deals.counts()) == before
    assert deals.differences() == []


@pytest.mark.parametrize("entity", [slow("order_item"), "order_lead"])
def test_a_record_that_breaks_a_new_rule_in_a_backfill_leaves_every_target(
    deals: Deals, checks: Path, entity: str
) -> None:
    deals.land("a.json", [a_deal("D-1", 3), a_deal("D-2", 2)])
    deals.run()
    add_rule(checks, entity, "three is too much", NEW_RULES[entity])
    for _ in range(2):
        with start_run(deals.warehouse_url, flow="backfill") as run:
            rederive(run, deals.source, date(2024, 3, 10))
        assert deals.star() == star_of({"D-1": [3], "D-2": [2]}, closed=("D-1",))
        assert deals.waiting() == [("D-1", "three is too much")]
        assert deals.counts() == [("a.json", "loaded", 2, 1, 1, 0, 0)]
    assert deals.differences() == []


def test_a_record_that_breaks_a_rule_since_its_customer_changed_leaves_every_target(
    shop_url: str, warehouse_url: str, tmp_path: Path, checks: Path
) -> None:
    add_rule(checks, "order_lead", "customer is ambiguous", "customer_id is null")
    shop, orders = Pipeline(shop_url, warehouse_url), FeedPipeline(warehouse_url, tmp_path / "lake")
    shop.open_shop()
    shop.capture()
    other = {"customer_document_number": "0099"}
    orders.land(
        "a.json",
        [
            an_order("P-1", lead_id="L-1"),
            an_order("P-2", lead_id="L-2", **other),
            an_order("P-3"),
            an_order("P-6", lead_id="L-6"),
        ],
    )
    orders.run()
    leads = "select order_id, lead_id from dwh.fact_order_lead order by 1"
    assert orders.rows(leads) == [("P-1", "L-1"), ("P-2", "L-2"), ("P-6", "L-6")]
    shop.insert("customer", id=2, username="b", email="b@example.com")
    shop.capture()
    # Of those loaded before, one has a later version, which another entity rejects; of the new ones, one passes.
    later = an_order("P-6", {"item_price": 1}, lead_id="L-6")
    orders.land("b.json", [an_order("P-4", lead_id="L-4"), an_order("P-5", lead_id="L-5", **other), later])
    orders.run()
    assert [row[0] for row in orders.facts()] == ["P-2", "P-3", "P-5"]
    assert orders.rows(leads) == [("P-2", "L-2"), ("P-5", "L-5")]
    assert sorted(orders.waiting()) == [
        ("P-1", "customer is ambiguous"),
        ("P-4", "customer is ambiguous"),
        ("P-6", "order total is not above the line's base price; unit price is not above the base price"),
    ]
    assert orders.counts() == [("a.json", "loaded", 4, 2, 1, 0, 1), ("b.json", "loaded", 3, 1, 2, 0, 0)]
    with start_run(warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_feed(run, orders.source, repair=False)
    assert [str(one) for verdict in verdicts for one in verdict.differences] == []
    shop.close()
    orders.warehouse.close()
