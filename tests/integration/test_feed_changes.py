"""Feeds over time: fields that change, files that are still written, runs that are undone or fail."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.integration.test_feeds import FeedPipeline, an_order
from tests.pipeline import content
from warehouse.errors import SchemaDrift
from warehouse.load import records
from warehouse.runs.audit import start_run
from warehouse.sources.declaration import Source, read_declaration
from warehouse.sources.registry import PACKAGED
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
        "field gift of order is not declared (boolean): it is kept in _rescued_data",
        "customer_birth_day of order is a number in 1 rows, and date is declared: they are kept in _rescued_data",
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
