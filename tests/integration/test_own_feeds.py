"""Feeds that a newcomer declares beside those of the package."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.test_extending import Copy, copy  # noqa: F401
from tests.integration.test_feeds import FeedPipeline, an_order
from tests.pipeline import PACKAGED, Pipeline
from warehouse.reconcile.reconcile import reconcile_feed, reconcile_source
from warehouse.reconcile.verdict import Verdict
from warehouse.runs.audit import start_run
from warehouse.sources.declaration import read_declaration
from warehouse.sources.source import Source

SALES = (
    "select source_system, order_id, line_id, net_amount::integer from dwh.fact_order_item order by 1, 2, 3"
)


def second_feed(folder: Path, name: str, precedence: str, customer_by: str = "document_number") -> Source:
    """The feed of orders once more, under another name, with its own precedence and look-up of customers."""
    shutil.copytree(PACKAGED / "orders", folder / name)
    for path in (folder / name).rglob("*.*"):
        text = path.read_text().replace("orders_", f"{name}_").replace("/orders", f"/{name}")
        text = text.replace('precedence = ["shop", "orders"]', f"precedence = {precedence}")
        path.write_text(text.replace('by = "document_number"', f'by = "{customer_by}"'))
    (folder / name / f"{name}_order.yml").write_text(
        (PACKAGED.parents[1] / "checks" / "orders_order.yml").read_text().replace("orders_", f"{name}_")
    )
    return read_declaration(folder / name)


def differing(*loaded: Pipeline | FeedPipeline) -> list[Verdict]:
    """What a reconcile of these sources finds different, but for marts, which nobody has refreshed."""
    with start_run(loaded[0].warehouse_url, flow="reconcile") as run:
        verdicts = [
            verdict
            for one in loaded
            for verdict in (
                reconcile_feed(run, one.source, repair=False)
                if isinstance(one, FeedPipeline)
                else reconcile_source(run, one.source, one.shop_url, repair=False)
            )
        ]
    return [one for one in verdicts if one.rows_differing and one.layer != "mart"]


@pytest.fixture
def two_feeds(
    shop_url: str, warehouse_url: str, tmp_path: Path
) -> Iterator[tuple[Pipeline, FeedPipeline, FeedPipeline]]:
    """A shop, the feed of orders and a marketplace, in one warehouse."""
    shop = Pipeline(shop_url, warehouse_url)
    orders, market = (FeedPipeline(warehouse_url, tmp_path / "lake") for _ in range(2))
    market.source = second_feed(tmp_path / "sources", "market", '["shop", "market"]')
    yield shop, orders, market
    shop.close()
    orders.warehouse.close()
    market.warehouse.close()


def test_events_of_two_feeds_yield_to_the_shop_whichever_feed_was_loaded_last(
    two_feeds: tuple[Pipeline, FeedPipeline, FeedPipeline],
) -> None:
    shop, orders, market = two_feeds
    shop.open_shop()
    shop.capture()
    orders.land("a.json", [an_order("1"), an_order("2"), an_order("P-1")])
    orders.run()
    # P-1 is another order there: no declaration says that both feeds have the same ones.
    market.land("a.json", [an_order("1"), an_order("3"), an_order("P-1")])
    market.run()
    shop.order(1, "2024-03-10")
    shop.capture()
    expected = [
        ("market", "3", "1", 200),
        ("market", "P-1", "1", 200),
        ("orders", "2", "1", 200),
        ("orders", "P-1", "1", 200),
        ("shop", "1", "1", 190),
    ]
    assert orders.rows(SALES) == expected
    for feed in (orders, market, orders):
        feed.run()
        assert orders.rows(SALES) == expected
    assert differing(shop, orders, market) == []
    shop.do("delete from order_item", "delete from sales_order")
    shop.capture()
    orders.run()
    market.run()
    assert orders.rows(SALES) == [
        ("market", "1", "1", 200),
        *expected[:2],
        ("orders", "1", "1", 200),
        *expected[2:4],
    ]


def test_a_feed_that_declares_no_precedence_any_more_counts_beside_the_shop(
    two_feeds: tuple[Pipeline, FeedPipeline, FeedPipeline], tmp_path: Path
) -> None:
    shop, orders, market = two_feeds
    shop.open_shop()
    shop.order(1, "2024-03-10")
    shop.capture()
    orders.land("a.json", [an_order("1")])
    orders.run()
    market.land("a.json", [an_order("1")])
    market.run()
    assert orders.rows(SALES) == [("shop", "1", "1", 190)]
    market.source = second_feed(tmp_path / "changed", "market", "[]")
    market.run()
    assert orders.rows(SALES) == [("market", "1", "1", 200), ("shop", "1", "1", 190)]
    shop.do("update order_item set quantity = 3, updated_at = now()")
    shop.capture()
    orders.run()
    assert orders.rows(SALES) == [("market", "1", "1", 200), ("shop", "1", "1", 290)]


def test_events_that_a_feed_has_displaced_count_again_once_it_declares_otherwise(
    two_feeds: tuple[Pipeline, FeedPipeline, FeedPipeline], tmp_path: Path
) -> None:
    """Each order is counted once at any moment, as long as either declaration says so; then by both."""
    shop, _, market = two_feeds
    shop.open_shop()
    for number in (1, 2):
        shop.order(number, "2024-03-10")
    shop.capture()
    market.source = second_feed(tmp_path / "first", "market", '["market", "shop"]')
    market.land("a.json", [an_order("1"), an_order("3")])
    market.run()
    of_the_market = [("market", "1", "1", 200), ("market", "3", "1", 200), ("shop", "2", "1", 190)]
    of_the_shop = [("market", "3", "1", 200), ("shop", "1", "1", 190), ("shop", "2", "1", 190)]
    assert shop.rows(SALES) == of_the_market
    shop.capture()
    assert shop.rows(SALES) == of_the_market

    def declare(name: str, precedence: str) -> None:
        market.source = second_feed(tmp_path / name, "market", precedence)
        market.run()

    def check(expected: list[tuple[object, ...]]) -> None:
        assert shop.rows(SALES) == expected
        for run in (shop.capture, market.run, shop.capture):
            run()
            assert shop.rows(SALES) == expected
        assert differing(shop, market) == []

    # The other way round, the shop's next run has nothing to read, and brings them all the same.
    declare("second", '["shop", "market"]')
    assert shop.rows(SALES) == of_the_market
    shop.capture()
    check(of_the_shop)
    declare("third", '["market", "shop"]')
    check(of_the_market)
    declare("none", "[]")
    assert shop.rows(SALES) == of_the_market
    shop.capture()
    check(sorted([*of_the_market, ("shop", "1", "1", 190)]))
    declare("again", '["shop", "market"]')
    check(of_the_shop)


def test_events_of_the_shop_come_back_when_those_of_the_feed_before_it_are_gone(
    two_feeds: tuple[Pipeline, FeedPipeline, FeedPipeline], tmp_path: Path
) -> None:
    """Also where the shop's run has nothing else to do."""
    shop, _, market = two_feeds
    shop.open_shop()
    shop.order(1, "2024-03-10")
    shop.capture()
    market.source = second_feed(tmp_path / "first", "market", '["market", "shop"]')
    market.land("a.json", [an_order("1"), an_order("2")])
    first = market.run()
    shop.do("update order_item set quantity = 3, updated_at = now()")
    shop.capture()
    assert shop.rows(SALES) == [("market", "1", "1", 200), ("market", "2", "1", 200)]
    # What the undo restores is older than what the shop has by now.
    market.undo(first)
    assert shop.rows(SALES) == [("shop", "1", "1", 190)]
    shop.capture()
    assert shop.rows(SALES) == [("shop", "1", "1", 290)]
    market.run()
    assert shop.rows(SALES) == [("market", "1", "1", 200), ("market", "2", "1", 200)]


def test_events_that_had_yielded_to_a_source_count_again_once_another_feed_has_displaced_it(
    two_feeds: tuple[Pipeline, FeedPipeline, FeedPipeline], tmp_path: Path
) -> None:
    """The marketplace counts before the shop, and the shop before the orders: no declaration has orders beside it."""
    shop, orders, market = two_feeds
    shop.open_shop()
    shop.order(1, "2024-03-10")
    shop.capture()
    market.source = second_feed(tmp_path / "first", "market", '["market", "shop"]')
    market.land("other.json", [an_order("9")])
    market.run()
    orders.land("a.json", [an_order("1")])
    orders.run()
    other = ("market", "9", "1", 200)
    assert orders.rows(SALES) == [other, ("shop", "1", "1", 190)]
    market.land("a.json", [an_order("1", {"amount": 3})])
    first = market.run()
    assert orders.rows(SALES) == [("market", "1", "1", 300), other]
    both = [("market", "1", "1", 300), other, ("orders", "1", "1", 200)]
    for run in (orders.run, shop.capture, market.run, orders.run):
        run()
        assert orders.rows(SALES) == both
    assert differing(orders) == []
    market.undo(first)
    assert orders.rows(SALES) == [other, ("shop", "1", "1", 190)]


def test_customers_are_looked_up_again_once_the_declaration_looks_them_up_by_another_attribute(
    two_feeds: tuple[Pipeline, FeedPipeline, FeedPipeline], tmp_path: Path
) -> None:
    shop, _, market = two_feeds
    shop.open_shop()
    shop.capture()
    customers = (
        "select distinct customer.source_system, customer.customer_id from dwh.fact_order_item "
        "inner join dwh.dim_customer as customer using (customer_key)"
    )
    market.source = second_feed(tmp_path / "wrong", "market", '["shop", "market"]', "username")
    market.land("a.json", [an_order("1")])
    market.run()
    assert market.rows(customers) == [("market", "20111222")]
    market.source = second_feed(tmp_path / "right", "market", '["shop", "market"]')
    market.run()
    assert market.rows(customers) == [("shop", "1")]
    market.run()
    assert market.published.rows_changed == 0


def test_a_record_that_waits_keeps_the_nulls_within_its_columns_of_json(
    warehouse_url: str, tmp_path: Path
) -> None:
    shutil.copytree(PACKAGED / "orders", tmp_path / "orders")
    path = tmp_path / "orders" / "source.toml"
    path.write_text(path.read_text().replace('lead_id = "text"', 'lead_id = "text"\nnotes = "jsonb"'))
    orders = FeedPipeline(warehouse_url, tmp_path / "lake")
    orders.source = read_declaration(tmp_path / "orders")
    notes = {"by": None, "read": [{"at": None}]}
    orders.land(
        "a.json", [an_order("P-1", notes=notes), an_order("P-2", notes=notes, status=None, lead_id=None)]
    )
    orders.run()
    assert orders.rows("select notes from raw.orders_order") == [(notes,)]
    ((waiting,),) = orders.rows("select row_data from audit.quarantine")
    assert (waiting["notes"], waiting.keys() & {"status", "lead_id"}) == (notes, set())
    orders.warehouse.close()


def test_a_feed_becomes_a_fact_of_ones_own_that_has_no_dimensions_and_no_days(
    copy: Copy,  # noqa: F811
    shop: Pipeline,
    empty_database_url: Callable[[], str],
    tmp_path: Path,
) -> None:
    copy.add(
        "warehouse/model/star.py",
        """
        Fact(
            "movement",
            "One row per movement of goods.",
            grain=(Column("movement_id", "text", "Natural key", required=True),),
            event=Column("moved_at", "timestamptz", "When (UTC)", required=True),
            refers_to=(),
            measures=(Measure("moved_quantity", "numeric(18, 3)", "Units moved", required=False),),
            attributes=(Column("tags", "text", "Tags"),),
            dates=(),
            inputs=("moved_quantity", "tags"),
        )
        """,
        to="FACTS",
    )
    copy.create(
        "warehouse/model/facts/movement.sql",
        "-- fact_movement: one movement.\n-- inputs: line, a row of staging.conformed_movement\n"
        "select\n    line.moved_quantity,\n    line.tags\n",
    )
    copy.create(
        "checks/movement.yml",
        "dataset: warehouse/dwh/staging/conformed_movement\ndescription: Movements.\ncolumns:\n"
        "  - name: moved_quantity\n    checks:\n      - failed_rows:\n          name: nothing moved\n"
        "          qualifier: nothing\n          expression: moved_quantity = 0\n",
    )
    folder, landing = tmp_path / "sources" / "movements", tmp_path / "lake" / "landing" / "movements"
    (folder / "conform").mkdir(parents=True)
    (folder / "source.toml").write_text(
        '[feed]\nlanding = "landing/movements"\nbad_records = "bad/movements"\nformat = "json"\nrecord = "move"\n'
        '[tables.move]\nkey = ["number"]\n[tables.move.columns]\nnumber = "bigint"\nmoved = "timestamptz"\n'
        'quantity = "numeric"\ntags = "jsonb"\n[entities.movement]\nfrom = "moved"\n'
    )
    (folder / "conform" / "movement.sql").write_text(
        "-- movement: one row per movement that changed.\nselect\n    move.number::text as movement_id,\n"
        "    move.moved as moved_at,\n    move.quantity as moved_quantity,\n"
        "    (select string_agg(tag ->> 'name', ' ') from jsonb_array_elements(move.tags) as tag) as tags,\n"
        "    move.record_timestamp as changed_at\nfrom staging.movements_movement_changed_keys as changed\n"
        "inner join raw.movements_move as move on changed.number = move.number\nwhere not move._is_deleted\n"
    )
    copy.environment.update(DWH_SOURCES=str(folder.parent), DWH_LAKE=str(tmp_path / "lake"))
    # The migration is written by a comparison with a database that is migrated.
    empty = replace(copy, environment={**copy.environment, "DWH_WAREHOUSE_URL": empty_database_url()})
    done = empty.dwh("migrate")
    assert "No migration creates dwh.fact_movement, staging.conformed_movement, which" in done.stderr
    for arguments in (["migrate", "--new", "add fact_movement"], ["migrate"]):
        done = copy.dwh(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)

    def findings() -> list[tuple[str, str]]:
        found = json.loads(copy.dwh("doctor", "--json").stdout)
        return [(one["verdict"], one["what"]) for one in found if one["about"] == "feed movements"]

    ((verdict, message),) = findings()
    assert (verdict, message) == (
        "wrong", f"{folder / 'source.toml'} [entities.movement] names table 'moved', which is not declared."
    )  # fmt: skip
    path = folder / "source.toml"
    path.write_text(path.read_text().replace('from = "moved"', 'from = "move"'))
    assert [verdict for verdict, _ in findings()] == ["note", "ok"]
    landing.mkdir(parents=True)

    def land(name: str, *quantities: int) -> None:
        (landing / name).write_text(
            "".join(
                json.dumps(
                    {"number": number, "moved": "2024-03-10", "quantity": quantity, "tags": [{"name": "a"}]}
                )
                + "\n"
                for number, quantity in enumerate(quantities, start=1)
            )
        )
        done = copy.dwh("run", "movements")
        assert done.returncode == 0, done.stderr

    land("a.json", 5, -3, 0)
    land("b.json", 0, 4)
    rows = "select movement_id, moved_quantity::integer, tags from dwh.fact_movement order by 1"
    assert shop.rows(rows) == [("1", 5, "a"), ("2", 4, "a")]
    assert shop.rows(
        "select path, line_count, rows_loaded, rows_quarantined, rows_superseded from audit.file order by file_id"
    ) == [("a.json", 3, 1, 1, 1), ("b.json", 2, 1, 1, 0)]
    assert (
        "raw.movements_move number 1: of the files of movements"
        in copy.dwh("explain", "movement", "1").stdout
    )
    done = copy.dwh("reconcile", "--source", "movements")
    assert done.returncode == 0, (done.stdout, done.stderr)
    done = empty.dwh("migrate")
    assert done.returncode == 0, done.stderr


def test_last_good_state_that_another_source_has_displaced_does_not_come_back(
    two_feeds: tuple[Pipeline, FeedPipeline, FeedPipeline], tmp_path: Path
) -> None:
    shop, _, market = two_feeds
    shop.open_shop()
    shop.order(1, "2024-03-10")
    shop.capture()
    shop.do("update order_item set status = 'lost'")
    shop.capture()
    assert shop.marked() == [("fact_order_item", ["1", "1"])]
    market.land("a.json", [an_order("1")])
    for number, precedence in enumerate(['["market", "shop"]', '["shop", "market"]']):
        market.source = second_feed(tmp_path / str(number), "market", precedence)
        market.run()
        shop.capture()
        assert shop.rows(SALES) == [("market", "1", "1", 200)]
        assert differing(shop) == []


def by_partner(folder: Path) -> Source:
    """The feed of orders once more, whose numbers are those of a partner: (partner, order_id) identifies a record."""
    second_feed(folder, "market", '["orders", "market"]')
    for path in (folder / "market").rglob("*.*"):
        text = path.read_text()
        for before, after in (
            ('key = ["order_id', 'key = ["partner", "order_id'),
            ('[tables.order.columns]\n', '[tables.order.columns]\npartner = "text"\n'),
            (
                'from = "order_item"\nparents = { order = ["order_id"] }',
                'from = "order_item"\nkey = { order_id = ["partner", "order_id"], line_id = ["line_number"] }\n'
                'parents = { order = ["partner", "order_id"] }',
            ),
            ('from = "order"\n', 'from = "order"\nkey = { order_id = ["partner", "order_id"] }\n'),
            ("    item.order_id,", "    mart.composite_key(item.partner, item.order_id) as order_id,"),
            ("    orders.order_id,", "    mart.composite_key(orders.partner, orders.order_id) as order_id,"),
            ("on changed.order_id", "on changed.partner = item.partner and changed.order_id"),
            ("on item.order_id", "on item.partner = orders.partner and item.order_id"),
            ("as orders on changed.partner = item.partner", "as orders on changed.partner = orders.partner"),
        ):  # fmt: skip
            text = text.replace(before, after)
        path.write_text(text)
    return read_declaration(folder / "market")


def test_a_record_with_a_composite_key_is_loaded_refused_and_yields_as_a_whole(
    two_feeds: tuple[Pipeline, FeedPipeline, FeedPipeline], tmp_path: Path
) -> None:
    shop, orders, market = two_feeds
    market.source = by_partner(tmp_path / "by partner")
    shop.open_shop()
    shop.capture()
    orders.land("a.json", [an_order("web/1")])
    orders.run()
    refused = an_order("1", {}, {"amount": 0}, partner="1-1", lead_id="7")
    market.land(
        "a.json",
        [
            an_order("1", {}, {}, partner="web"),
            an_order("1", {}, {"amount": 1}, partner="a/b", lead_id="7"),
            refused,
        ],
    )
    market.run()
    of_others = [
        ("market", "a%2Fb/1", "1", 200),
        ("market", "a%2Fb/1", "2", 100),
        ("orders", "web/1", "1", 200),
    ]
    leads = "select order_id, lead_id from dwh.fact_order_lead order by 1"
    assert market.rows(SALES) == of_others
    assert market.rows(leads) == [("a%2Fb/1", "7")]
    waiting = "select row_key, rules, reason from audit.quarantine where resolved_at is null"
    assert market.rows(waiting) == [
        (["1-1", "1"], ["quantity is not positive"], "quantity is not positive (line number 2)")
    ]
    # A later version without a fault, one with a fault, and lines that are no longer there.
    market.land(
        "b.json",
        [
            an_order("1", partner="1-1"),
            an_order("1", {}, {"amount": 0}, partner="a/b"),
            an_order("1", {}, partner="web"),
        ],
    )
    market.run()
    assert market.rows(SALES) == [("market", "1-1/1", "1", 200), *of_others]
    assert market.rows(waiting) == [
        (["a/b", "1"], ["quantity is not positive"], "quantity is not positive (line number 2)")
    ]
    market.land("c.json", [an_order("1", {"amount": 7}, partner="a/b")])
    market.run()
    assert market.rows(SALES) == [
        ("market", "1-1/1", "1", 200),
        ("market", "a%2Fb/1", "1", 700),
        of_others[2],
    ]
    assert market.rows(waiting) == market.rows(leads) == []
    assert differing(orders, market) == []
