"""Feeds over time: fields that change, files that are still written, runs that are undone or fail."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.test_feeds import FeedPipeline, an_order
from tests.pipeline import content
from warehouse.errors import SchemaDrift
from warehouse.feeds import landing
from warehouse.history import change_log
from warehouse.load import records
from warehouse.load.replace_day import rederive
from warehouse.reconcile.reconcile import reconcile_feed
from warehouse.runs.audit import start_run
from warehouse.runs.retention import prune_audit
from warehouse.sources.declaration import read_declaration
from warehouse.sources.registry import PACKAGED
from warehouse.sources.source import Source
from warehouse.undo.undo import undo


@pytest.fixture
def orders(warehouse_url: str, tmp_path: Path) -> Iterator[FeedPipeline]:
    pipeline = FeedPipeline(warehouse_url, tmp_path / "lake")
    yield pipeline
    pipeline.warehouse.close()


def declared(tmp_path: Path, lines: str) -> Source:
    """The feed of orders with further lines in [feed]."""
    folder = tmp_path / "orders"
    shutil.copytree(PACKAGED / "orders", folder, dirs_exist_ok=True)
    path = folder / "source.toml"
    path.write_text(
        (PACKAGED / "orders" / "source.toml").read_text().replace("[feed]\n", f"[feed]\n{lines}\n")
    )
    return read_declaration(folder)


def test_a_run_is_undone_with_its_counts_and_loads_the_same_again(orders: FeedPipeline) -> None:
    orders.land("a.json", [an_order("P-1", {}, {}), an_order("P-2"), an_order("P-3", status=None)])
    orders.run()
    before = content(orders.warehouse, ("raw", "dwh")), orders.counts(), orders.waiting()
    orders.land(
        "b.json", [an_order("P-1", {"amount": 5}), an_order("P-2", {"item_price": 1}), an_order("P-3"), "x"]
    )
    second = orders.run()
    after = orders.facts(), orders.counts(), orders.waiting()
    assert orders.counts()[0] == ("a.json", "loaded", 3, 1, 0, 0, 2)
    with start_run(orders.warehouse_url, flow="undo") as run:
        undo(run, second)
    undone = content(orders.warehouse, ("raw", "dwh"))
    assert {name for name in undone if undone[name] != before[0].get(name)} <= {"dwh.dim_date"}
    assert orders.counts()[:1] == before[1]
    assert orders.counts()[1][1:] == ("partial", 0, 0, 0, 0, 0)
    assert orders.waiting() == before[2]
    orders.run()
    assert (orders.facts(), orders.counts(), orders.waiting()) == after


def test_runs_that_replaced_a_file_one_after_the_other_are_undone_one_after_the_other(
    orders: FeedPipeline,
) -> None:
    def state() -> tuple[object, ...]:
        counts = [row[2:] for row in orders.counts() if row[2]]
        return content(orders.warehouse, ("raw",)), orders.facts(), orders.waiting(), counts

    states, runs = [], []
    for amount in (2, 3, 4):
        orders.land("a.json", [an_order("P-1", {"amount": amount}), an_order(f"P-{amount}", status=None)])
        runs.append(orders.run())
        states.append(state())
    for run_id, before in zip(runs[:0:-1], states[-2::-1], strict=True):
        orders.undo(run_id)
        assert state() == before
    orders.run()
    assert orders.facts() == [("P-1", "1", 4, 400)]
    assert [row[1:] for row in orders.counts() if row[2]] == [
        ("replaced", 2, 0, 1, 0, 1),
        ("loaded", 2, 1, 1, 0, 0),
    ]
    # All at once, after one that has renamed a file whose name another one has got since.
    a = orders.lake / "landing/orders/a.json"
    a.rename(a.with_name("b.json"))
    renamed, before = orders.run(), state()
    orders.land("a.json", [an_order("P-1", {"amount": 5})])
    runs.append(orders.run())
    with start_run(orders.warehouse_url, flow="undo") as run:
        assert undo(run, renamed, cascade=True).run_ids == [runs[-1], renamed]
    assert state() == before
    with start_run(orders.warehouse_url, flow="undo") as run:
        undo(run, runs[0], cascade=True)
    assert (orders.facts(), orders.waiting(), [row for row in orders.counts() if row[2]]) == ([], [], [])
    orders.run()
    assert [row for row in orders.counts() if row[2]] == [
        ("a.json", "loaded", 1, 1, 0, 0, 0), ("b.json", "loaded", 2, 0, 1, 0, 1)
    ]  # fmt: skip


def test_a_run_that_fails_before_its_commit_leaves_nothing_and_is_repeated(
    orders: FeedPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders.land("a.json", [an_order("P-1"), an_order("P-2", status=None), "x"])
    with monkeypatch.context() as patch:
        patch.setattr(
            records, "apply_changes", lambda *_: (_ for _ in ()).throw(psycopg.OperationalError("gone"))
        )
        with pytest.raises(psycopg.OperationalError):
            orders.run()
    assert orders.counts() == [("a.json", "partial", 0, 0, 0, 0, 0)]
    assert orders.waiting() == []
    orders.run()
    assert orders.counts() == [("a.json", "loaded", 3, 1, 2, 0, 0)]
    assert orders.rows("select file_id from audit.file") == [(1,)]


def test_fields_that_change_follow_the_policy(orders: FeedPipeline, tmp_path: Path) -> None:
    orders.land("a.json", [an_order("P-1", lead_id="L1")])
    orders.run()
    orders.land("b.json", [an_order("P-2", gift=True, customer_birth_day=19900517)])
    orders.run()
    assert [message for message in orders.messages if "field" in message or "declared" in message] == [
        "field gift of order is not declared (boolean): kept in _rescued_data",
        "customer_birth_day of order is a number in 1 row, and date is declared: kept in _rescued_data",
        "field lead_id of order has stopped coming",
    ]
    assert orders.waiting() == [("P-2", "customer birth day is missing")]
    assert orders.rows(
        "select field_name, field_type, is_declared, record_count from audit.feed_field "
        "where field_name in ('gift', 'customer_birth_day', 'lead_id') order by 1, 2"
    ) == [
        ("customer_birth_day", "number", True, 1),
        ("customer_birth_day", "text", True, 1),
        ("gift", "boolean", False, 1),
        ("lead_id", "text", True, 1),
    ]
    orders.source = declared(tmp_path, 'on_schema_change = "stop"')
    orders.land("c.json", [an_order("P-3", gift=True)])
    with pytest.raises(SchemaDrift, match="field gift of order is not declared"):
        orders.run()
    assert [row[0] for row in orders.facts()] == ["P-1"]
    orders.source = declared(tmp_path, 'on_schema_change = "evolve"')
    orders.run()
    orders.land("d.json", [an_order("P-4", gift=False, weight=1.5)])
    orders.run()
    assert orders.rows("select order_id, gift, weight::text, _rescued_data from raw.orders_order order by 1") == [
        ("P-1", None, None, None), ("P-3", True, None, None), ("P-4", False, "1.5", None)
    ]  # fmt: skip
    # A version that brings a new field and is rejected leaves the one before, which has none.
    orders.land("rejected.json", [an_order("P-1", {"item_price": 1}, colour="red")])
    orders.run()
    assert len(orders.waiting()) == 2
    assert orders.rows("select order_id, colour from raw.orders_order order by 1") == [
        ("P-1", None), ("P-3", None), ("P-4", None)
    ]  # fmt: skip


def test_a_field_whose_column_there_cannot_be_is_rescued_where_others_evolve(
    orders: FeedPipeline, tmp_path: Path
) -> None:
    """Items that repeat their order's id stopped a feed for good, as did more fields than a row has room for."""
    orders.source = declared(tmp_path, 'on_schema_change = "evolve"')
    taken = {"record_timestamp": "x", "xmin": 1, "_line": 3, "colour": "red"}
    many = {f"f{n:04}": n for n in range(1700)}
    orders.land(
        "a.json",
        [
            an_order("P-1", {"order_id": "P-1", "line_number": 7, "gift": True}, **taken),
            an_order("P-2", **many),
        ],
    )
    orders.run()
    assert orders.counts() == [("a.json", "loaded", 2, 2, 0, 0, 0)]
    assert [line for line in orders.messages if line.startswith("1,6")] == [
        "1,684 more fields of order are not declared: see audit.feed_field"
    ]
    expected = [("P-1", "red", {"_line": 3, "record_timestamp": "x", "xmin": 1}), ("P-2", None, None)]

    def records() -> list[tuple[object, ...]]:
        rows = orders.rows("select order_id, colour, _rescued_data from raw.orders_order order by 1")
        rescued = rows[1][2]
        columns = orders.rows(
            "select count(*)::integer from pg_attribute where attrelid = 'raw.orders_order'::regclass "
            "and attname ~ '^f[0-9]{4}$'"
        )
        assert rescued.keys() <= many.keys() and len(rescued) + columns[0][0] == len(many)
        return [rows[0], (*rows[1][:2], None)]

    assert records() == expected
    items = "select order_id, line_number, gift, _rescued_data from raw.orders_order_item order by 1"
    assert orders.rows(items) == [
        ("P-1", 1, True, {"order_id": "P-1", "line_number": 7}),
        ("P-2", 1, None, None),
    ]
    orders.land("b.json", [an_order("P-2", **many)])
    orders.run()
    assert records() == expected


def test_a_field_that_changes_its_type_widens_its_column_and_keeps_all_values(
    orders: FeedPipeline, tmp_path: Path
) -> None:
    orders.land(
        "a.json", [an_order("P-1", {"item_price_default": 1.5}), an_order("P-2", customer_birth_day=None)]
    )
    orders.run()
    orders.source = declared(tmp_path, 'on_schema_change = { changed_type = "evolve" }')
    # A text for a number, one that is no number, an object for a text, and one for the key.
    prices = [{"item_price_default": price} for price in (2, "2", "two")]
    orders.land(
        "b.json",
        [an_order("P-3", *prices), an_order("P-4", status={"code": 7}), {**an_order(), "order_id": {"a": 1}}],
    )
    orders.run()
    assert [message for message in orders.messages if "is a" in message] == [
        "order_id of order is a object in 1 row, and text is declared: kept in _rescued_data",
        "status of order is a object in 1 row, and text is declared: the column is text from now on",
        "item_price_default of order_item is a text in 1 row, and numeric is declared: the column is text from now on",
    ]
    # What no fact can hold waits as a whole; what was there before is what it was.
    assert orders.facts() == [("P-1", "1", 2, 200)]
    assert orders.waiting() == [
        ("P-2", "customer birth day is missing"),
        ("P-3", "does not fit: unit_price_default_amount"),
        ("P-4", "status is unknown"),
        ("2:3", "order_id is missing"),
    ]
    items = "select order_id, line_number, item_price_default, _rescued_data from raw.orders_order_item order by 1, 2"
    assert orders.rows(items) == [("P-1", 1, "1.5", None)]
    ((waiting,),) = orders.rows("select row_data from audit.quarantine where row_key = '{P-3}'")
    assert [item["item_price_default"] for item in waiting["items"]] == ["2", "2", "two"]
    # The column stays as it is now, whatever comes.
    orders.land("c.json", [an_order("P-3", {"item_price_default": 3})])
    orders.run()
    assert orders.facts() == [("P-1", "1", 2, 200), ("P-3", "1", 2, 200)]
    # Under another policy the declared type holds again: what it cannot hold is rescued.
    orders.warehouse.execute(
        "update raw.orders_order_item set item_price_default = 'one' where order_id = 'P-1'"
    )
    orders.source = read_declaration(PACKAGED / "orders")
    orders.land("d.json", [an_order("P-6")])
    orders.run()
    assert [(*row[:2], row[2] and int(row[2]), row[3]) for row in orders.rows(items)] == [
        ("P-1", 1, None, {"item_price_default": "one"}), ("P-3", 1, 3, None), ("P-6", 1, 80, None)
    ]  # fmt: skip
    assert orders.counts() == [
        ("a.json", "loaded", 2, 1, 1, 0, 0),
        ("b.json", "loaded", 3, 0, 2, 0, 1),
        ("c.json", "loaded", 1, 1, 0, 0, 0),
        ("d.json", "loaded", 1, 1, 0, 0, 0),
    ]


def test_a_column_and_a_list_that_are_declared_later_have_what_is_loaded_from_then_on(
    orders: FeedPipeline, tmp_path: Path
) -> None:
    notes = [{"text": "fragile"}, {"text": "urgent"}]
    orders.land("a.json", [an_order("P-1", gift="yes", notes=notes)])
    orders.run()
    declared(tmp_path, "")
    for name, before, after in (
        ("source.toml", 'lead_id = "text"\n', 'lead_id = "text"\ngift = "text"\n\n[tables.note]\nitems = "notes"\n'
         'key = ["order_id", "place"]\n\n[tables.note.columns]\ntext = "text"\n'),
        # All orders are conformed again before those of the run are merged.
        ("conform/order_item.sql", "    0 as discount_amount,\n", "    0.0 as discount_amount,\n"),
    ):  # fmt: skip
        path = tmp_path / "orders" / name
        path.write_text(path.read_text().replace(before, after, 1))
    orders.source = read_declaration(tmp_path / "orders")
    orders.land(
        "b.json", [an_order("P-1", {"item_price": 1}, gift="no", notes=notes), an_order("P-2", notes=notes)]
    )
    orders.run()
    assert orders.facts() == [("P-1", "1", 2, 200), ("P-2", "1", 2, 200)]
    assert orders.rows("select order_id, gift, _rescued_data from raw.orders_order order by 1") == [
        ("P-1", None, {"gift": "yes", "notes": notes}), ("P-2", None, None)
    ]  # fmt: skip
    listed = "select order_id, place, text, _line from raw.orders_note where not _is_deleted order by 1, 2"
    assert orders.rows(listed) == [("P-2", 1, "fragile", 2), ("P-2", 2, "urgent", 2)]
    assert orders.counts() == [("a.json", "loaded", 1, 1, 0, 0, 0), ("b.json", "loaded", 2, 1, 1, 0, 0)]
    # A mirror that was dropped, of which no run has loaded rows any more, stands in no run's way.
    # Of an order's versions in one run, the last one counts.
    for run_id in (2, 1):
        orders.undo(run_id)
    orders.warehouse.execute("drop table raw.orders_order_item")
    orders.run()
    assert orders.facts() == [("P-2", "1", 2, 200)]


def test_the_last_version_counts_whichever_of_them_brings_a_new_field(
    orders: FeedPipeline, tmp_path: Path
) -> None:
    orders.land("a.json", [an_order("P-0")])
    orders.run()
    orders.source = declared(tmp_path, 'on_schema_change = "evolve"')
    orders.land("b.json", [an_order("P-1", {"amount": 1}, gift=True), an_order("P-1", {"amount": 2})])
    orders.run()
    assert orders.facts() == [("P-0", "1", 2, 200), ("P-1", "1", 2, 200)]
    assert orders.counts()[1] == ("b.json", "loaded", 2, 1, 0, 0, 1)


def test_a_number_is_the_same_key_however_it_is_written(orders: FeedPipeline, tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    shutil.copytree(PACKAGED / "orders", folder)
    for name, before, after in (
        ("source.toml", 'order_id = "text"', 'order_id = "numeric"'),
        ("conform/order_item.sql", "    item.order_id,", "    trim_scale(item.order_id)::text as order_id,"),
        (
            "conform/order_lead.sql",
            "    orders.order_id,",
            "    trim_scale(orders.order_id)::text as order_id,",
        ),
    ):
        text = (folder / name).read_text()
        assert text.count(before) == 1
        (folder / name).write_text(text.replace(before, after))
    # Of a time when the key was a text.
    orders.land("text.json", [an_order("no number", status=None)])
    orders.run()
    orders.warehouse.execute("drop table raw.orders_order, raw.orders_order_item cascade")
    orders.source = read_declaration(folder)

    def order(key: str, **fields: object) -> str:
        return json.dumps(an_order("key", **fields)).replace('"key"', key) + "\n"

    orders.land("a.json", order("1", status=None) + order("2"))
    orders.run()
    orders.land("b.json", order("1.0") + order("2.00", status=None) + order("3.0", status=None))
    orders.run()
    orders.land("c.json", order("3"))
    orders.run()
    assert orders.counts()[1:] == [
        ("a.json", "loaded", 2, 1, 0, 0, 1),
        ("b.json", "loaded", 3, 1, 1, 0, 1),
        ("c.json", "loaded", 1, 1, 0, 0, 0),
    ]
    ((waiting,),) = orders.rows("select quarantine_id from audit.quarantine where row_key = '{2.0}'")
    orders.edit(waiting, json.loads(order("2", lead_id="L-2")))
    orders.replay(waiting)
    assert orders.counts()[1:3] == [("a.json", "loaded", 2, 0, 0, 0, 2), ("b.json", "loaded", 3, 2, 0, 0, 1)]
    assert orders.rows("select order_id, lead_id from dwh.fact_order_item order by 1") == [
        ("1", None), ("2", "L-2"), ("3", None)
    ]  # fmt: skip


def equal_tables(orders: FeedPipeline) -> set[str]:
    """Tables of the star, and counts of files, that are what the layer below makes of them."""
    with start_run(orders.warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_feed(run, orders.source, repair=False)
    return {verdict.table_name for verdict in verdicts if verdict.verdict == "equal"}


def test_a_backfill_loads_days_again_with_orders_as_units_and_every_record_counted(
    orders: FeedPipeline,
) -> None:
    orders.land(
        "a.json",
        [
            an_order("P-1", {}, {}),
            an_order("P-2", {}, {}, {}),
            an_order("P-3", order_dt="2024-03-11T00:00:00Z"),
            an_order("P-4", status=None),
            "broken",
        ],
    )
    orders.run()
    before = content(orders.warehouse, ("raw", "dwh"))

    def backfill(day: int) -> None:
        with start_run(orders.warehouse_url, flow="backfill") as run:
            rederive(run, orders.source, date(2024, 3, day))

    backfill(10)
    assert content(orders.warehouse, ("raw", "dwh")) == before
    # Facts that are gone or wrong come back; an order of which an item breaks a rule by now waits as a whole.
    orders.warehouse.execute("delete from dwh.fact_order_item where order_id = 'P-1' and line_id = '2'")
    orders.warehouse.execute("update dwh.fact_order_item set quantity = 9 where order_id = 'P-3'")
    orders.warehouse.execute(
        "update raw.orders_order_item set item_price = 1 where order_id = 'P-2' and line_number = 2"
    )
    backfill(10)
    backfill(11)
    assert orders.facts() == [("P-1", "1", 2, 200), ("P-1", "2", 2, 200), ("P-3", "1", 2, 200)]
    assert orders.rows("select order_id from raw.orders_order order by 1") == [("P-1",), ("P-3",)]
    assert orders.waiting() == [
        ("P-4", "status is missing"),
        ("1:5", "record is not an object"),
        ("P-2", "unit price is not above the base price"),
    ]
    assert orders.counts() == [("a.json", "loaded", 5, 2, 3, 0, 0)]
    # It is replayed like any other, and then nothing is left to load again.
    ((waiting,),) = orders.rows("select quarantine_id from audit.quarantine where row_key = '{P-2}'")
    orders.edit(waiting, an_order("P-2", {}, {}, {}))
    orders.replay(waiting)
    after = content(orders.warehouse, ("raw", "dwh"))
    assert len(orders.facts()) == 6
    backfill(10)
    assert content(orders.warehouse, ("raw", "dwh")) == after
    assert orders.counts() == [("a.json", "loaded", 5, 3, 2, 0, 0)]
    assert {"audit.file", "fact_order_item"} <= {name.removeprefix("dwh.") for name in equal_tables(orders)}


def test_retention_of_the_audit_trail_and_the_change_log_keeps_every_record_counted(
    orders: FeedPipeline,
) -> None:
    orders.land("a.json", [an_order("P-1"), an_order("P-2", status=None), an_order("P-3"), "broken"])
    orders.run()
    orders.land("b.json", [an_order("P-1", {"amount": 5}), an_order("P-4", {"item_price": 1})])
    orders.run()
    for _ in range(3):
        orders.run()
    ids = dict(orders.rows("select coalesce(row_key[1], raw_text), quarantine_id from audit.quarantine"))
    orders.discard(ids["P-2"])
    counts, facts, waiting = orders.counts(), orders.facts(), orders.waiting()
    assert counts == [("a.json", "loaded", 4, 1, 1, 1, 1), ("b.json", "loaded", 2, 1, 1, 0, 0)]
    orders.warehouse.execute(
        "update audit.run set started_at = started_at - interval '9 years', ended_at = ended_at - interval '9 years'"
    )
    pruned = prune_audit(orders.warehouse, 30)
    assert pruned.runs == 2, "of three runs that changed nothing, the last one stays"
    change_log.prune(orders.warehouse, 30)
    assert (orders.counts(), orders.facts(), orders.waiting()) == (counts, facts, waiting)
    # What is known of files and records is still known.
    orders.run()
    orders.land("again.json", [an_order("P-1"), an_order("P-2", status=None), an_order("P-3"), "broken"])
    orders.land("c.json", [an_order("P-4")])
    orders.run()
    assert orders.counts() == [
        counts[0],
        ("b.json", "loaded", 2, 1, 0, 0, 1),
        ("again.json", "copy", 4, 0, 0, 0, 0),
        ("c.json", "loaded", 1, 1, 0, 0, 0),
    ]
    assert "audit.file" in equal_tables(orders)


def test_files_that_are_still_written_wait(orders: FeedPipeline, tmp_path: Path) -> None:
    orders.source = declared(tmp_path, "settle_seconds = 3600")
    path = orders.land("a.json", [an_order("P-1")])
    os.utime(path)
    orders.run()
    assert orders.counts() == [] and "a.json: is still being written" in orders.messages
    os.utime(path, (time.time() - 4000,) * 2)
    orders.run()
    assert orders.counts() == [("a.json", "loaded", 1, 1, 0, 0, 0)]
    orders.source = declared(tmp_path, "done_marker = true")
    orders.land("b.json", [an_order("P-2")])
    orders.run()
    assert len(orders.counts()) == 1
    orders.land("b.json.done", b"")
    orders.run()
    assert orders.counts()[1:] == [("b.json", "loaded", 1, 1, 0, 0, 0)]


def test_what_was_cut_off_no_longer_waits_when_its_file_is_complete(orders: FeedPipeline) -> None:
    import gzip

    lines = "".join(
        json.dumps(an_order(f"P-{n}", customer_name=os.urandom(100).hex())) + "\n" for n in range(200)
    ).encode()
    packed = gzip.compress(lines.replace(b"P-", b"Q-"))
    # A file that is read as a whole, and one of which no record is complete.
    for size in (len(packed) // 2, None):
        orders.land("a.json.gz", packed[:size])
        orders.land("b.json", lines[: size and 100])
        orders.run()
        if size:
            assert [rule for _, rule in orders.waiting()] == ["record is cut off"] * 2
    assert orders.waiting() == []
    assert len(orders.facts()) == 400
    assert [(count[:2], sum(count[3:5])) for count in orders.counts()] == [
        (("a.json.gz", "replaced"), 0),
        (("b.json", "replaced"), 0),
        (("a.json.gz", "loaded"), 200),
        (("b.json", "loaded"), 200),
    ]


def test_what_is_appended_to_the_last_line_is_read_with_it(orders: FeedPipeline) -> None:
    first, second, third = (json.dumps(an_order(f"P-{n}")) for n in (1, 2, 3))
    orders.land("a.json", first)
    orders.run()
    orders.land("a.json", first + second + "\n" + third)
    orders.run()
    assert orders.waiting() == [("2:1", "more than one record on a line")]
    assert [order for order, *_ in orders.facts()] == ["P-1", "P-3"]
    # What goes on with a new line goes on.
    orders.land("a.json", first + second + "\n" + third + "\n" + second)
    orders.run()
    assert orders.counts() == [("a.json", "replaced", 1, 1, 0, 0, 0), ("a.json", "loaded", 3, 2, 1, 0, 0)]


def test_what_is_appended_while_a_file_is_hashed_is_read_as_what_goes_on(
    orders: FeedPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = orders.land("a.json", [an_order("P-1"), an_order("P-2", status=None)])
    hashes = landing.hashes_of

    def appending(*arguments: Any) -> tuple[str | None, str]:
        with path.open("a") as file:
            file.write(json.dumps(an_order("P-3")) + "\n")
        return hashes(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(landing, "hashes_of", appending)
        orders.run()
    assert orders.counts() == [("a.json", "loaded", 3, 2, 1, 0, 0)]
    with path.open("a") as file:
        file.write(json.dumps(an_order("P-4")) + "\n")
    orders.run()
    assert orders.counts() == [("a.json", "loaded", 4, 3, 1, 0, 0)]


def test_compressed_files_are_read_and_one_that_breaks_off_is_named(orders: FeedPipeline) -> None:
    import gzip

    lines = "".join(
        json.dumps(an_order(f"P-{n}", customer_name=str(n) * 500)) + "\n" for n in range(200)
    ).encode()
    packed = gzip.compress(lines, mtime=0)
    orders.land("whole.json.gz", packed)
    orders.land("broken.json.gz", gzip.compress(lines.replace(b"P-", b"Q-"), mtime=0)[: len(packed) // 2])
    orders.run()
    (whole, broken) = orders.counts()
    assert whole == ("whole.json.gz", "loaded", 200, 200, 0, 0, 0)
    assert broken[1] == "truncated" and 0 < broken[3] < 200 and broken[4] <= 1
    assert broken[2] == broken[3] + broken[4]
