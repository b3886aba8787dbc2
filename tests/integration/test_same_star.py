"""The same source gives the same star: after any history, an incremental and a fresh load agree in what is accepted.

A history is what happens to two orders, their lines, customer, product and stock over a few runs, by chance. Many are
played side by side in one shop, so that a run pays for all of them. By chance a run is a full refresh, or is undone.
`HISTORIES=1000 SEED=x` plays others and more; the slow test plays ten thousand, or `MANY_HISTORIES`, and reports how
many agree so far.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from random import Random

import pytest

from tests.integration.test_refused_rows import differences
from tests.integration.test_undo import take_back
from tests.pipeline import Pipeline, Row
from warehouse.model.star import DIMENSIONS, FACTS, SNAPSHOTS

HISTORIES = int(os.environ.get("HISTORIES", "40"))
MANY_HISTORIES = int(os.environ.get("MANY_HISTORIES", "10000"))
SEED = os.environ.get("SEED", "same star")
RUNS = 4
AT_ONCE = 500
LENIENT = (
    "alter table product alter price type numeric",
    "alter table order_item alter unit_price type numeric",
    "alter table order_item alter quantity drop not null",
    "alter table customer alter email drop not null",
)  # fmt: skip

GOOD_OR_BAD: dict[str, list[dict[str, object]]] = {
    "order_item": [
        {}, {"quantity": 5}, {"unit_price": 120}, {"status": "returned", "returned_at": "2024-04-01"},
        {"status": "lost"}, {"quantity": None},
        {"unit_price": "1e20"}, {"discount_amount": 200}, {"product_id": None}, {"product_id": 999_999},
        # These refuse the other lines of their order, too.
        *[{"unit_price": -500, "unit_price_default": -600, "quantity": quantity} for quantity in range(1, 5)],
    ],
    "sales_order": [
        {}, {"ordered_at": "2024-07-10"}, {"ordered_at": None}, {"customer_id": 999_999}, {"payment_method_id": 7},
    ],
    "customer": [
        {}, {"state": "Jujuy"}, {"email": "new@example.com"}, {"birth_date": None}, {"name": " "}, {"email": None},
    ],
    "product": [
        {}, {"price": 120}, {"name": "Saw"}, {"category_id": 2}, {"price": -5}, {"name": ""}, {"price": "1e20"},
    ],
    "inventory": [{"quantity": 5}, {"quantity": 9}, {"quantity": -1}],
}  # fmt: skip


def key_of(table: str, history: int, chance: Random) -> dict[str, object]:
    """A row of the history: its orders are history * 10 and the one after it."""
    order = history * 10 + chance.randint(0, 1)
    return {
        "order_item": {"sales_order_id": order, "line_number": chance.randint(1, 3)},
        "sales_order": {"id": order},
        "inventory": {"product_id": history, "distribution_center_id": 1},
    }.get(table, {"id": history})


def own(table: str, history: int) -> dict[str, object]:
    """What a row of the history refers to, and what has to be its own."""
    return {
        "order_item": {"product_id": history},
        "sales_order": {"customer_id": history},
        "customer": {"document_number": str(history), "username": f"u{history}", "email": f"{history}@example.com"},
    }.get(table, {})  # fmt: skip


def live(shop: Pipeline, history: int, chance: Random) -> str:
    """Let one thing happen to a history; returns it in words."""
    table = chance.choice(["order_item"] * 4 + ["sales_order", "customer", "product", "inventory"])
    key = key_of(table, history, chance)
    where = " and ".join(f"{name} = {value}" for name, value in key.items())
    shop.do(f"delete from {table} where {where}")
    if chance.random() < 0.15:
        return f"delete {table} {key}"
    values = chance.choice(GOOD_OR_BAD[table])
    if table == "inventory":
        row = {**key, **values}
        shop.do(f"insert into inventory ({', '.join(row)}) values ({', '.join(map(str, row.values()))})")
    else:
        shop.insert(table, **{**own(table, history), **key, **values})
    return f"put {table} {key} {values}"


def accepted(shop: Pipeline) -> dict[str, list[Row]]:
    """What an incremental and a fresh load have in common, by table."""
    found = {}
    for dimension in DIMENSIONS:
        is_present = "is_current" if dimension.has_history else "not is_deleted"
        found[dimension.table] = shop.rows(
            f"select {', '.join((*dimension.natural_key, *dimension.attributes))} from dwh.{dimension.table} "
            f"where {is_present} and not is_inferred and not has_quarantined_update and {dimension.key} > 0"
        )
    for fact in (one for one in FACTS if one.entity in shop.source.entities):
        columns = [*fact.natural_key, fact.event_time, *(measure.name for measure in fact.measures)]
        columns += [
            *(f"dim_{name}.{name}_id" for name in fact.references),
            "status",
            "returned_at",
            "recorded_at",
        ]
        joins = " ".join(f"inner join dwh.dim_{name} using ({name}_key)" for name in fact.references)
        found[fact.table] = shop.rows(
            f"select {', '.join(columns)} from dwh.{fact.table} as fact {joins} where not fact.has_quarantined_update"
        )
    for snapshot in SNAPSHOTS:
        columns = [*snapshot.natural_key, *(measure.name for measure in snapshot.measures)]
        found[snapshot.table] = shop.rows(
            f"select {', '.join(columns)} from dwh.{snapshot.table} where not has_quarantined_update "
            f"and snapshot_date = (select max(snapshot_date) from dwh.{snapshot.table})"
        )
    found["quarantine"] = [
        (entity, tuple(key), tuple(rules))
        for entity, key, rules in shop.rows(
            "select entity, row_key, rules from audit.quarantine where resolved_at is null"
        )
    ]
    return {table: sorted(rows, key=repr) for table, rows in found.items()}


def play(shop: Pipeline, fresh: Pipeline, histories: range, chance: Random) -> None:
    """Let histories happen, capture them, and compare with a warehouse that is loaded only now."""
    events: dict[int, list[str]] = defaultdict(list)
    for run in range(RUNS):
        with shop.shop.transaction():
            for history in histories:
                for _ in range(chance.randint(0, 3) if run else 6):
                    events[history].append(f"run {run + 1}: {live(shop, history, chance)}")
        # Not in the last run: it would judge every row again.
        captured = shop.capture(full_refresh=run < RUNS - 1 and chance.random() < 0.2)
        if chance.random() < 0.3:
            take_back(shop, captured.run_id)
            if chance.random() < 0.5:
                shop.capture()
    shop.capture()
    fresh.capture()
    assert fresh.marked() == []
    left, right = accepted(shop), accepted(fresh)
    for table in left:
        differing = set(left[table]) ^ set(right[table])
        assert not differing, (table, differing, {key: events[key] for key in _histories(differing)})
        assert left[table] == right[table]
    refused = {(entity, key) for entity, key, _ in left["quarantine"]}
    facts = set(shop.rows("select order_id, line_id from dwh.fact_order_item"))
    assert {tuple(key) for table, key in shop.marked() if table == "fact_order_item"} == {
        key for key in facts if ("order_item", key) in refused
    }
    assert differences(shop) == {}
    # There was enough to compare.
    assert all(len(rows) > len(histories) // 8 for table, rows in left.items() if table in BUSY)
    assert len(shop.marked()) > len(histories) // 20


BUSY = ("dim_customer", "dim_product", "fact_order_item", "fact_inventory_day", "quarantine")


def _histories(rows: set[Row]) -> set[int]:
    """Histories that differing rows belong to: their keys begin with them."""
    numbers = {int(str(part)) for row in rows for part in (row[0], *(row[1] if isinstance(row[1], tuple) else ()))
               if str(part).isdigit()}  # fmt: skip
    return {history for number in numbers for history in (number, number // 10)}


Shops = Callable[[], Pipeline]


@pytest.fixture
def warehouses(
    database: Callable[[str], str], shop_template: str, warehouse_template: str
) -> Iterator[tuple[Pipeline, Shops]]:
    """A shop that lets anything happen, with a warehouse; and more warehouses of the same shop."""
    with closing(Pipeline(database(shop_template), database(warehouse_template))) as shop:
        shop.open_shop()
        shop.insert("category", id=2, name="Saws")
        shop.without_foreign_keys()
        shop.do(*LENIENT, "delete from customer", "delete from product")
        yield shop, lambda: Pipeline(shop.shop_url, database(warehouse_template))


@pytest.mark.each_major
def test_incremental_and_fresh_load_agree_after_random_histories(warehouses: tuple[Pipeline, Shops]) -> None:
    shop, another = warehouses
    with closing(another()) as fresh:
        play(shop, fresh, range(1, HISTORIES + 1), Random(SEED))


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_incremental_and_fresh_load_agree_after_many_random_histories(
    warehouses: tuple[Pipeline, Shops], capsys: pytest.CaptureFixture[str]
) -> None:
    shop, another = warehouses
    chance = Random(SEED)
    for first in range(1, MANY_HISTORIES + 1, AT_ONCE):
        last = min(first + AT_ONCE - 1, MANY_HISTORIES)
        with closing(another()) as fresh:
            play(shop, fresh, range(first, last + 1), chance)
        with capsys.disabled():
            sys.stdout.write(f"{datetime.now():%H:%M:%S} {last:,} of {MANY_HISTORIES:,} histories agree\n")
