"""Feeds: what becomes of the records of partners' files, from the landing folder to the star."""

import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from tests import command
from tests.pipeline import PACKAGED, Pipeline, content
from warehouse.archive.changed_rows import archive_changed_rows
from warehouse.db.connections import connect
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.features.build import build
from warehouse.feeds import json_records, second_reader
from warehouse.feeds.replay import stage_entries
from warehouse.feeds.stage import stage_feed
from warehouse.files.lake import LakeError
from warehouse.load import marts
from warehouse.load.publish import publish
from warehouse.reconcile.reconcile import reconcile_feed, reconcile_source
from warehouse.runs.audit import start_run
from warehouse.runs.discard import discard
from warehouse.runs.quarantine import count_waiting, edit_record
from warehouse.sources.registry import read_source
from warehouse.undo.undo import undo

Row = tuple[Any, ...]


def an_order(order_id: str = "P-1", *items: Mapping[str, object], **fields: object) -> dict[str, object]:
    """An order as a partner sends it, with one item unless others are given."""
    given = [{**ITEM, **item} for item in items or ({},)]
    total = sum(item["amount"] * item["item_price"] for item in given)  # type: ignore[operator]
    return {**ORDER, "order_id": order_id, "total_price": total, "items": given, **fields}


ITEM = {"product_id": "1", "cuit": "30500000007", "amount": 2, "item_price": 100, "item_price_default": 80}
ORDER = {
    "customer_document_number": "20111222",
    "customer_name": "Ana",
    "customer_birth_day": "1990-05-17",
    "order_dt": "2024-03-10T12:00:00Z",
    "status": "complete",
}


class FeedPipeline:
    """A landing folder, a warehouse, and the feed of orders between them."""

    def __init__(
        self, warehouse_url: str, lake: Path, source: str = "orders", *, archives: bool = False
    ) -> None:
        self.warehouse_url, self.lake, self.source = warehouse_url, lake, read_source(source)
        self.archives = archives
        self.warehouse = connect(warehouse_url, autocommit=True)
        self.messages: list[str] = []
        self.written = 0

    def land(self, name: str, content: bytes | str | list[Any]) -> Path:
        """Write a file: bytes, text, or orders, one on each line; each file is a second younger than the one before."""
        assert self.source.feed is not None
        path = self.lake / self.source.feed.landing / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "".join(json.dumps(order) + "\n" for order in content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.written += 1
        os.utime(path, (1_710_000_000 + self.written,) * 2)
        return path

    def run(self, progress: Callable[[str], None] = lambda _: None) -> int:
        """Load what is there; returns the run's id."""
        self.messages.clear()

        def note(message: str) -> None:
            self.messages.append(message)
            progress(message)

        with start_run(self.warehouse_url, flow=f"ingest-{self.source.name}", archive=self.archives) as run:
            staged = stage_feed(run, self.source, str(self.lake), threshold=DeleteThreshold(), progress=note)
            self.unread = staged.unread
            self.published = publish(run, staged, progress=note)
            return run.run_id

    def replay(self, *ids: int, dry_run: bool = False) -> tuple[int, int]:
        """Judge entries again; returns how many still wait, and the run's id."""
        with start_run(
            self.warehouse_url, flow="replay-quarantine", dry_run=dry_run, archive=self.archives
        ) as run:
            staged = stage_entries(run, self.source, ids, str(self.lake))
            publish(run, staged)
            return count_waiting(run.dry_run_connection or run.connection, ids), run.run_id

    def discard(self, *ids: int) -> None:
        with (
            start_run(self.warehouse_url, flow="discard-quarantine", archive=self.archives) as run,
            run.session("discard") as writer,
        ):
            discard(writer, run.run_id, ids, "not wanted")
            if run.is_archived:
                archive_changed_rows(writer, run.run_id)

    def undo(self, run_id: int) -> None:
        with start_run(self.warehouse_url, flow="undo", archive=self.archives) as run:
            undo(run, run_id)

    def edit(self, quarantine_id: int, record: object) -> None:
        edit_record(self.warehouse, {self.source.name: [quarantine_id]}, json.dumps(record).encode())

    def rows(self, query: str) -> list[Row]:
        return self.warehouse.execute(query.encode()).fetchall()

    def counts(self) -> list[Row]:
        """Of each file: path, status, records, loaded, in quarantine, discarded, superseded."""
        return self.rows(
            "select path, status, line_count, rows_loaded, rows_quarantined, rows_discarded, rows_superseded "
            "from audit.file order by file_id"
        )

    def waiting(self) -> list[Row]:
        return self.rows(
            "select coalesce(row_key[1], file_id || ':' || line_number), array_to_string(rules, '; ') "
            "from audit.quarantine where resolved_at is null order by quarantine_id"
        )

    def facts(self) -> list[Row]:
        return self.rows(
            "select order_id, line_id, quantity::integer, net_amount::integer from dwh.fact_order_item "
            "where source_system = 'orders' order by 1, 2"
        )


@pytest.fixture
def orders(warehouse_url: str, tmp_path: Path) -> Iterator[FeedPipeline]:
    pipeline = FeedPipeline(warehouse_url, tmp_path / "lake")
    yield pipeline
    pipeline.warehouse.close()


def test_orders_are_kept_as_they_came_and_exploded_into_the_fact(orders: FeedPipeline) -> None:
    orders.land("a.json", [an_order("P-1", {}, {"product_id": "2"}, extra=[1.50]), an_order("P-2")])
    orders.run()
    assert orders.counts() == [("a.json", "loaded", 2, 2, 0, 0, 0)]
    assert orders.facts() == [("P-1", "1", 2, 200), ("P-1", "2", 2, 200), ("P-2", "1", 2, 200)]
    assert orders.rows(
        "select order_id, total_price, _rescued_data, _file, _line from raw.orders_order order by 1"
    ) == [
        ("P-1", 400, {"extra": [1.5]}, "a.json", 1),
        ("P-2", 200, None, "a.json", 2),
    ]
    assert orders.waiting() == []


def test_an_order_and_its_items_wait_together_and_leave_what_was_loaded_before(orders: FeedPipeline) -> None:
    orders.land(
        "a.json", [an_order("P-1"), an_order("P-2", {}, {}), an_order("P-3", {}, {"product_id": None})]
    )
    orders.run()
    before = orders.facts()
    assert before == [("P-1", "1", 2, 200), ("P-2", "1", 2, 200), ("P-2", "2", 2, 200)]
    assert orders.waiting() == [("P-3", "product id is missing")]
    # Refused as it came, refused for an item, a later version with fewer items, and one that is new.
    orders.land(
        "b.json",
        [
            an_order("P-1", customer_name=None),
            an_order("P-2", {"item_price": 70}, {}),
            an_order("P-4", {"amount": 3}),
        ],
    )
    orders.run()
    assert orders.facts() == [*before, ("P-4", "1", 3, 300)]
    assert orders.waiting() == [
        ("P-3", "product id is missing"),
        ("P-1", "customer name is missing"),
        ("P-2", "unit price is not above the base price"),
    ]
    assert orders.counts() == [("a.json", "loaded", 3, 2, 1, 0, 0), ("b.json", "loaded", 3, 1, 2, 0, 0)]
    orders.land("c.json", [an_order("P-2", {"amount": 5}), an_order("P-3")])
    orders.run()
    assert orders.facts() == [
        ("P-1", "1", 2, 200), ("P-2", "1", 5, 500), ("P-3", "1", 2, 200), ("P-4", "1", 3, 300)
    ]  # fmt: skip
    assert orders.waiting() == [("P-1", "customer name is missing")]
    assert orders.counts() == [
        ("a.json", "loaded", 3, 1, 0, 0, 2),
        ("b.json", "loaded", 3, 1, 1, 0, 1),
        ("c.json", "loaded", 2, 2, 0, 0, 0),
    ]
    ((row_data,),) = orders.rows("select row_data from audit.quarantine where row_key = '{P-1}'")
    assert row_data == {
        **{name: value for name, value in an_order("P-1").items() if name != "customer_name"},
        "order_dt": "2024-03-10T12:00:00+00:00",
    }


def test_totals_that_are_not_the_sum_of_the_items_are_warned_of(orders: FeedPipeline) -> None:
    orders.land(
        "a.json",
        [
            an_order("P-1", {}, {}),
            an_order("P-2", {}, {}, total_price=399),
            # Their items come under another name, or not at all.
            {**an_order("P-3"), "lines": [{}]} | {"items": None},
            an_order("P-4", items=[]),
        ],
    )
    run_id = orders.run()
    assert orders.rows(
        "select outcome, measured::integer from audit.check_result "
        f"where run_id = {run_id} and check_name = 'total price is not the sum of the items'"
    ) == [("warned", 3)]
    assert orders.counts() == [("a.json", "loaded", 4, 4, 0, 0, 0)]


def test_a_reason_names_the_values_that_are_not_of_their_type_as_they_came(orders: FeedPipeline) -> None:
    orders.land(
        "a.json",
        [
            an_order("P-1", total_price="abc", order_dt="31/12/2024", lead_id=[1]),
            an_order("P-2", order_dt=None),
            an_order("P-3", {}, {"product_id": {"a": 1}}),
            an_order("P-4", status="", extra="x", customer_birth_day="9" * 200),
            {**an_order(), "order_id": {"x": 1}},
            {**an_order(), "order_id": ""},
        ],
    )
    orders.run()
    expected = [
        ("1:5", 'order_id is {"x": 1}, not of type text.'),
        ("1:6", "order_id is empty."),
        (
            "P-1",
            "order time is missing; total price is missing; lead_id is [1], not a text or a number; "
            'order_dt is "31/12/2024", not a time in ISO 8601; total_price is "abc", not a number',
        ),
        ("P-2", "order time is missing"),
        (
            "P-3",
            'product id is missing (line number 2); product_id is {"a": 1}, not a text or a number (line number 2)',
        ),
        (
            "P-4",
            f'customer birth day is missing; customer_birth_day is "{"9" * 99}…, not a date in ISO 8601',
        ),
    ]
    reasons = (
        "select coalesce(row_key[1], file_id || ':' || line_number) as place, reason from audit.quarantine "
        "where resolved_at is null order by place"
    )
    assert orders.rows(reasons) == expected
    assert orders.messages[-1] == "orders: 6 records read: +6 in quarantine"
    ids = [number for (number,) in orders.rows("select quarantine_id from audit.quarantine")]
    orders.replay(*ids)
    assert orders.rows(reasons) == expected


def test_many_records_with_lists_go_to_quarantine_at_once(orders: FeedPipeline) -> None:
    """By a nested loop over the lists of all of them this took a minute and a half; it takes a second or two."""
    orders.land("a.json", [an_order("P-1")])
    orders.run()
    orders.land("b.json", [an_order(f"Q-{number}", status=None) for number in range(4000)])
    started = time.monotonic()
    orders.run()
    assert time.monotonic() - started < 60
    assert orders.counts()[1] == ("b.json", "loaded", 4000, 0, 4000, 0, 0)


def test_a_run_says_where_its_records_are_and_which_rows_its_sql_makes_none_of(orders: FeedPipeline) -> None:
    orders.land("a.json", [an_order("P-1"), an_order("P-1", lead_id="L-1"), an_order("P-2", status=None)])
    orders.run()
    assert orders.messages[-1] == "orders: 3 records read: +1 loaded, +1 in quarantine, +1 superseded"
    assert not [line for line in orders.messages if "makes no row" in line]
    orders.land("b.json", [an_order("P-2"), an_order("P-1", lead_id="L-2"), an_order("P-3"), an_order("P-4")])
    orders.run()
    assert orders.messages[-1] == (
        "orders: 4 records read: +4 loaded; "
        "of records that were read before: -1 loaded, -1 in quarantine, +2 superseded"
    )
    assert "conform/order_lead.sql makes no row of 3 of the 4 keys read" in orders.messages
    orders.run()
    assert not [line for line in orders.messages if "records" in line]


def test_the_last_version_counts_within_a_file_and_across_files(orders: FeedPipeline) -> None:
    orders.land("a.json", [an_order("P-1"), an_order("P-1", {"amount": 7}), an_order("P-1", status=None)])
    orders.land("b.json", [an_order("P-2", status=None), an_order("P-2")])
    orders.run()
    assert orders.facts() == [("P-1", "1", 7, 700), ("P-2", "1", 2, 200)]
    assert orders.waiting() == [("P-1", "status is missing")]
    assert orders.counts() == [("a.json", "loaded", 3, 1, 1, 0, 1), ("b.json", "loaded", 2, 1, 0, 0, 1)]


HOSTILE = {
    b'{"order_id": 1, "order_id": 2}': "field is there twice",
    b'{"order_id": "P-0", "total_price": NaN}': "number is not finite",
    b'{"order_id": "P-0", "total_price": -Infinity}': "number is not finite",
    b'{"order_id": "P-0"} {"order_id": "P-00"}': "more than one record on a line",
    b'{"order_id": "\\ud800"}': "text is no Unicode",
    b'{"order_id": "a\\u0000b"}': "text has a NUL character",
    b'{"order_id": "\xff"}': "record is not UTF-8",
    b"[" * 3000: "record is nested too deeply",
    b'"a text"': "record is not an object",
    b'{"items": []}': "order_id is missing",
    b'{"order_id": {"a": 1}}': "order_id is missing",
    b'{"order_id": "P-0", "sta': "record is cut off",
}


def test_whatever_cannot_be_read_waits_with_its_bytes_and_stops_nothing(orders: FeedPipeline) -> None:
    good = json.dumps(an_order("P-1", customer_name="x" * 10_000_000)).encode()
    lines = list(HOSTILE)
    orders.land("a.json", b"\xef\xbb\xbf" + good + b"\r\n\r\n" + b"\r\n".join(lines))
    orders.land("utf16.json", ("\ufeff" + json.dumps(an_order("P-16"))).encode("utf-16-le"))
    orders.land("empty.json", b"")
    orders.run()
    assert [rules for _, rules in orders.waiting()] == list(HOSTILE.values())
    assert orders.counts() == [
        ("a.json", "loaded", 13, 1, 12, 0, 0),
        ("utf16.json", "loaded", 1, 1, 0, 0, 0),
        ("empty.json", "loaded", 0, 0, 0, 0, 0),
    ]
    ((size,),) = orders.rows("select length(customer_name) from raw.orders_order where order_id = 'P-1'")
    assert size == 10_000_000
    (copy,) = (orders.lake / "bad" / "orders").iterdir()
    assert copy.read_bytes() == b"".join(line + b"\n" for line in lines)


def test_copy_of_bad_records_has_a_name_that_fits_however_long_the_file_s_is(orders: FeedPipeline) -> None:
    names = [f"{'ü' * 124}{number}.json" for number in (1, 2)]
    for number, name in enumerate(names):
        orders.land(f"shelf/{name}", [an_order(f"P-{number}"), f"broken {number}"])
    orders.run()
    assert orders.counts() == [(f"shelf/{name}", "loaded", 2, 1, 1, 0, 0) for name in names]
    copies = sorted((orders.lake / "bad" / "orders" / "shelf").iterdir(), key=lambda one: one.read_bytes())
    assert [copy.read_bytes() for copy in copies] == [b'"broken 0"\n', b'"broken 1"\n']
    assert {len(copy.name.encode()) > 240 and copy.suffix for copy in copies} == {".bad"}


def test_bad_records_that_cannot_be_copied_stop_the_run_and_name_the_folder(orders: FeedPipeline) -> None:
    orders.land("a.json", [an_order("P-1"), "broken"])
    folder = orders.lake / "bad" / "orders"
    folder.mkdir(parents=True)
    offset = len(json.dumps(an_order("P-1"))) + 1
    copy = folder / f"a.json.1-{offset}.bad"
    copy.symlink_to("/dev/full")
    with pytest.raises(LakeError, match=f"cannot be copied to {folder}: No space left on device"):
        orders.run()
    assert (orders.counts(), orders.facts()) == ([("a.json", "partial", 0, 0, 0, 0, 0)], [])
    copy.unlink()
    orders.run()
    assert orders.counts() == [("a.json", "loaded", 2, 1, 1, 0, 0)]
    assert copy.read_bytes() == b'"broken"\n'


def test_bad_records_are_copied_to_a_lake_behind_a_url_under_the_path_of_their_file(
    orders: FeedPipeline, tmp_path: Path
) -> None:
    import fsspec

    lake = fsspec.filesystem("memory")
    root = f"/{tmp_path.name}"
    for name in ("a.json", "b 100%.json", "sub dir/c#?.json"):
        lake.pipe(f"{root}/landing/orders/{name}", name.encode())
    orders.lake = f"memory:/{root}"  # type: ignore[assignment]
    orders.run()
    assert lake.find(f"{root}/bad") == [
        f"{root}/bad/orders/{name}-0.bad" for name in ("a.json.1", "b 100%.json.2", "sub dir/c#?.json.3")
    ]
    assert [path for path, *_ in orders.counts()] == ["a.json", "b 100%.json", "sub dir/c#?.json"]
    orders.lake = f"memory:/{root}/elsewhere"  # type: ignore[assignment]
    orders.run()
    assert f"memory:/{root}/elsewhere/landing/orders does not exist: no files to read" in orders.messages


@pytest.mark.parametrize("ends", [None, 3])
def test_two_processes_read_a_file_as_one_does(
    orders: FeedPipeline, monkeypatch: pytest.MonkeyPatch, ends: int | None
) -> None:
    """Many small blocks; the second process may end within the file."""
    monkeypatch.setattr(json_records, "_BLOCK", 1000)
    monkeypatch.setattr(second_reader, "WORTH_A_PROCESS", 0)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    given = []
    give = second_reader.SecondReader._give

    def give_until_it_ends(second: second_reader.SecondReader, message: object) -> bool:
        given.append(message)
        if len(given) == ends:
            second.process.kill()
            second.process.wait()
        return give(second, message)

    monkeypatch.setattr(second_reader.SecondReader, "_give", give_until_it_ends)
    lines = list(HOSTILE)
    # Two versions of each order, one after the other: often in two blocks.
    versions = [an_order(f"P-{number // 2}", {}, {"amount": number + 1}) for number in range(100)]
    versions[7] |= {"colour": "red", "customer_birth_day": "soon"}
    records = [json.dumps(one).encode() for one in versions]
    content = [*records[:50], *lines[:-1], b"", b'{"status": "x"}', *records[50:], lines[-1]]
    orders.land("a.json", b"\n".join(content))
    orders.run()
    assert len(given) > 10
    assert orders.facts() == [
        (f"P-{number}", line, amount, 100 * amount)
        for number in sorted(range(50), key=str)
        # The last version of P-3 has no birth day, and waits.
        for line, amount in (("1", 2), ("2", 7 if number == 3 else 2 * number + 2))
    ]
    bad = len(lines) + 1
    assert orders.counts() == [("a.json", "loaded", 100 + bad, 50, bad + 1, 0, 49)]
    assert sorted(rules for _, rules in orders.waiting()) == sorted(
        [*HOSTILE.values(), "order_id is missing", "customer birth day is missing"]
    )
    # An empty line counts as one, too.
    assert orders.rows("select min(_line), max(_line) from raw.orders_order") == [(2, 100 + bad)]
    assert orders.rows(
        "select field_name, field_type, record_count from audit.feed_field "
        "where field_name in ('colour', 'status', 'amount') order by 1"
    ) == [("amount", "number", 200), ("colour", "text", 1), ("status", "text", 101)]


def test_numbers_stay_as_they_are_written(orders: FeedPipeline) -> None:
    order = json.dumps(an_order("P-1", customer_document_number="007", total_price=0)).replace(
        '"total_price": 0', '"total_price": 123456789012345678.10, "other": 1.000000000000000000000001'
    )
    orders.land("a.json", order)
    orders.run()
    assert orders.rows(
        "select total_price::text, customer_document_number, _rescued_data::text from raw.orders_order"
    ) == [("123456789012345678.10", "007", '{"other": 1.000000000000000000000001}')]


def test_amounts_are_calculated_before_quantities_are_rounded(orders: FeedPipeline) -> None:
    small = {"amount": 0.00042, "item_price": 1000, "item_price_default": 900}
    facts = (
        "select status, array[quantity, gross_amount, net_amount, profit_amount]::text "
        "from dwh.fact_order_item order by line_id"
    )
    for status in ("complete", "shipped"):
        orders.land(f"{status}.json", [an_order("P-1", small, small | {"amount": 1.23456}, status=status)])
        orders.run()
        assert orders.rows(facts) == [
            (status, "{0.000,0.4200,0.4200,0.0420}"),
            (status, "{1.235,1234.5600,1234.5600,123.4560}"),
        ]
    with start_run(orders.warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_feed(run, orders.source, repair=False)
    assert [one for one in verdicts if one.rows_differing and one.layer != "mart"] == []


def test_an_array_is_read_element_by_element(orders: FeedPipeline) -> None:
    many = [an_order(f"P-{n}", {}, {}) for n in range(3000)]
    orders.land("a.json", json.dumps(many))
    text = json.dumps([an_order("Q-1"), an_order("Q-2"), an_order("Q-3")], indent=2)
    orders.land("b.json", text.replace('"order_id": "Q-2",', '"order_id": "Q-2" oops'))
    orders.land("c.json", json.dumps([an_order("R-1"), an_order("R-2")])[:-40])
    orders.land("d.json", json.dumps([an_order("S-1")]) + "\n{}")
    orders.run()
    assert orders.counts() == [
        ("a.json", "loaded", 3000, 3000, 0, 0, 0),
        ("b.json", "loaded", 3, 2, 1, 0, 0),
        ("c.json", "truncated", 2, 1, 1, 0, 0),
        ("d.json", "loaded", 2, 1, 1, 0, 0),
    ]
    assert [rules for _, rules in orders.waiting()] == [
        "record is not JSON", "record is cut off", "record is after the end"
    ]  # fmt: skip
    assert len(orders.facts()) == 6000 + 4


def test_files_are_known_by_their_content(orders: FeedPipeline) -> None:
    path = orders.land("a.json", [an_order("P-1")])
    orders.land("copy.json", [an_order("P-1")])
    orders.run()
    expected = [("a.json", "loaded", 1, 1, 0, 0, 0), ("copy.json", "copy", 1, 0, 0, 0, 0)]
    assert orders.counts() == expected
    path.rename(path.with_name("renamed.json"))
    orders.run()
    assert orders.counts() == [("renamed.json", *expected[0][1:]), expected[1]]
    # Other content under the same name is a correction; what it does not name stays.
    orders.land("renamed.json", [an_order("P-1", {"amount": 9}), an_order("P-2")])
    orders.land("again.json", [an_order("P-1")])

    def die(message: str) -> None:
        raise RuntimeError(message)

    # A run that dies has registered the files: the next one takes their rows, and knows as much of them.
    with pytest.raises(
        RuntimeError, match=r"renamed.json \(its content replaces what was loaded before\): 2 records"
    ):
        orders.run(die)
    orders.run()
    assert orders.facts() == [("P-1", "1", 9, 900), ("P-2", "1", 2, 200)]
    assert orders.counts() == [
        ("renamed.json", "replaced", 1, 0, 0, 0, 1),
        expected[1],
        ("renamed.json", "loaded", 2, 2, 0, 0, 0),
        ("again.json", "copy", 1, 0, 0, 0, 0),
    ]
    assert orders.rows("select path, message from audit.file where message is not null order by file_id") == [
        ("renamed.json", "it was a.json before"),
        ("copy.json", "its content is that of a.json, and is not loaded again"),
        ("renamed.json", "its content replaces what was loaded under this name before"),
        ("again.json", "its content is that of renamed.json, and is not loaded again"),
    ]


def test_a_file_that_goes_on_is_read_from_where_it_ended(orders: FeedPipeline) -> None:
    first, second, third = (json.dumps(an_order(f"P-{n}")) for n in (1, 2, 3))
    orders.land("a.json", first + "\n" + second[:50])
    orders.run()
    assert orders.counts() == [("a.json", "loaded", 2, 1, 1, 0, 0)]
    orders.land("a.json", first + "\n" + second + "\n" + third)
    orders.run()
    assert orders.counts() == [("a.json", "loaded", 3, 3, 0, 0, 0)]
    assert orders.waiting() == []
    assert [line for (line,) in orders.rows("select _line from raw.orders_order order by order_id")] == [
        1,
        2,
        3,
    ]


def test_what_was_read_later_counts_wherever_it_stands(orders: FeedPipeline) -> None:
    def lines(*given: dict[str, object]) -> str:
        return "".join(json.dumps(one) + "\n" for one in given)

    begin = lines(an_order("P-1", {"amount": 1}), an_order("P-2", {"amount": 1}))
    orders.land("a.json", begin)
    orders.run()
    orders.land("b.json", lines(an_order("P-1", {"amount": 2})) + "broken\n")
    orders.run()
    # The first file goes on, with a later version of either order.
    begin += lines(an_order("P-1", {"amount": 3}, status=None), an_order("P-2", {"amount": 3}))
    orders.land("a.json", begin)
    orders.run()
    ids = dict(orders.rows(
        "select coalesce(row_key[1], 'P-2'), quarantine_id from audit.quarantine where resolved_at is null"
    ))  # fmt: skip
    orders.edit(ids["P-1"], an_order("P-1", {"amount": 3}))
    orders.edit(ids["P-2"], an_order("P-2", {"amount": 2}))
    orders.replay(*ids.values())
    assert orders.facts() == [("P-1", "1", 3, 300), ("P-2", "1", 3, 300)]
    assert orders.counts() == [("a.json", "loaded", 4, 2, 0, 0, 2), ("b.json", "loaded", 2, 0, 0, 0, 2)]


def test_values_too_long_for_an_index_wait(orders: FeedPipeline) -> None:
    rng = random.Random(1)
    long = "".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(1000))
    digits = "".join(rng.choices("0123456789", k=9000))
    orders.land(
        "a.json",
        [an_order(long), an_order("P-1", {"product_id": long}), an_order("P-2", {"cuit": digits}),
         an_order("P-3", customer_document_number=digits), an_order("P-4", lead_id=long), an_order("P-5")],
    )  # fmt: skip
    orders.run()
    assert [order for order, *_ in orders.facts()] == ["P-5"]
    assert orders.waiting() == [
        ("P-1", "does not fit: product_id"),
        ("P-2", "does not fit: company_id"),
        ("P-3", "does not fit: customer_id"),
        ("P-4", "does not fit: lead_id"),
        ("1:1", "order_id is too long"),
    ]


def test_running_again_changes_nothing(orders: FeedPipeline) -> None:
    orders.land(
        "a.json", [an_order("P-1"), an_order("P-2", status=None), an_order("P-3", {}, {"item_price": 1})]
    )
    orders.land("b.json", b'{"order_id')
    orders.run()
    before = content(orders.warehouse), orders.counts(), orders.waiting()
    orders.run()
    assert (content(orders.warehouse), orders.counts(), orders.waiting()) == before
    assert orders.published.rows_changed == 0


@pytest.fixture
def beside_the_shop(
    shop_url: str, warehouse_url: str, tmp_path: Path
) -> Iterator[tuple[Pipeline, FeedPipeline]]:
    """A shop and the feed of orders, in one warehouse."""
    shop, feed = Pipeline(shop_url, warehouse_url), FeedPipeline(warehouse_url, tmp_path / "lake")
    yield shop, feed
    shop.close()
    feed.warehouse.close()


MEMBERS = """
    select fact.order_id, customer.source_system || ' ' || customer.customer_id, product.source_system || ' ' ||
        product.product_id, company.source_system || ' ' || company.company_id, fact.currency
    from dwh.fact_order_item as fact
    inner join dwh.dim_customer as customer using (customer_key)
    inner join dwh.dim_product as product using (product_key)
    inner join dwh.dim_company as company using (company_key)
    where fact.source_system = 'orders' order by fact.order_id
"""


def test_customers_products_and_sellers_are_the_shops_or_inferred_until_the_shop_has_them(
    beside_the_shop: tuple[Pipeline, FeedPipeline],
) -> None:
    shop, feed = beside_the_shop
    shop.open_shop()
    shop.insert("customer", id=2, document_number="0055", username="b", email="b@example.com")
    shop.capture()
    feed.land(
        "a.json",
        [
            an_order("P-1", customer_document_number="20.111.222"),
            an_order("P-2", {"product_id": "77", "cuit": "30-7"}, customer_document_number="0099"),
            an_order("P-3", customer_document_number="0055"),
            an_order("P-4", customer_document_number="-"),
        ],
    )
    feed.run()
    known, inferred = "shop 1", ("P-2", "orders 0099", "orders 77", "orders 307", None)
    assert feed.rows(MEMBERS) == [
        ("P-1", known, known, known, "USD"),
        inferred,
        ("P-3", "shop 2", known, known, "USD"),
        ("P-4", " ", known, known, "USD"),
    ]
    assert feed.rows(
        "select order_id, line_id, order_total_price, customer_document_number, customer_name, "
        "customer_birth_day::text, product_id, cuit, amount, item_price, item_price_default, record_timestamp::text "
        "from mart.orders where source_system = 'orders' and order_id < 'P-3' order by order_id"
    ) == [
        (
            "P-1",
            "1",
            200,
            "20111222",
            "Ana",
            "1990-05-17",
            "1",
            "30500000007",
            2,
            100,
            80,
            "2024-03-09 16:00:01+00",
        ),
        ("P-2", "1", 200, "0099", "Ana", "1990-05-17", "77", "307", 2, 100, 80, "2024-03-09 16:00:01+00"),
    ]
    # They arrive in the shop, which writes numbers in its own way; and two customers share a number.
    shop.insert("company", id=5, cuit="3-07", name="Late", country="AR")
    shop.insert("product", id=77, company_id=5)
    shop.insert("customer", id=9, document_number="00.99", username="c", email="c@example.com")
    shop.insert("customer", id=10, document_number="--", username="e", email="e@example.com")
    shop.insert("customer", id=3, document_number="0055", username="d", email="d@example.com")
    shop.capture()
    assert feed.rows(MEMBERS)[1] == inferred
    feed.run()
    assert feed.rows(MEMBERS) == [
        ("P-1", known, known, known, "USD"),
        ("P-2", "shop 9", "shop 77", "shop 5", "USD"),
        ("P-3", " ", known, known, "USD"),
        ("P-4", " ", known, known, "USD"),
    ]
    assert (
        "1 rows of order_item name a customer that several members may be: the unknown one" in feed.messages
    )
    shop.do("delete from customer where id = 3")
    shop.capture()
    feed.run()
    assert feed.published.rows_changed == 0, "both were valid when it was ordered"


def test_seller_is_the_shops_or_else_the_listed_one_or_else_inferred(
    beside_the_shop: tuple[Pipeline, FeedPipeline],
) -> None:
    shop, feed = beside_the_shop
    companies = FeedPipeline(feed.warehouse_url, feed.lake, "companies")
    shop.open_shop()
    shop.capture()
    companies.land(
        "a.csv", "cuit,name,country\n30-500-7,Listed,BR\n30500000007,Both,BR\n4,Four,CL\n4-,Quatro,CL\n"
    )
    first = companies.run()
    items = {
        "P-1": {},
        "P-2": {"cuit": "305007"},
        "P-3": {"cuit": "8"},
        "P-4": {"cuit": "4", "product_id": "77"},
    }
    feed.land("a.json", [an_order(order_id, item) for order_id, item in items.items()])

    def sellers() -> dict[str, str]:
        feed.run()
        with start_run(feed.warehouse_url, flow="reconcile") as run:
            verdicts = reconcile_feed(run, feed.source, repair=False)
            assert not [one for one in verdicts if one.rows_differing and one.layer != "mart"]
        return {order_id: seller for order_id, _, _, seller, _ in feed.rows(MEMBERS)}

    known, listed, unknown = "shop 1", "companies 30-500-7", " "
    assert sellers() == {"P-1": known, "P-2": listed, "P-3": "orders 8", "P-4": unknown}
    assert "1 rows of order_item name a company that several members may be: the unknown one" in feed.messages
    feed.run()
    assert feed.published.rows_changed == 0
    # Each of the sources takes over, and gives back, as its members come and go.
    companies.land("b.csv", "cuit,name,country\n8,Eight,AR\n")
    second = companies.run()
    shop.insert("company", id=5, cuit="305007", name="Late", country="AR")
    shop.insert("company", id=6, cuit="4", name="One of three", country="AR")
    shop.capture()
    assert sellers() == {"P-1": known, "P-2": "shop 5", "P-3": "companies 8", "P-4": "shop 6"}
    shop.do("update company set cuit = '111' where id in (1, 5)")
    shop.capture()
    companies.undo(second)
    result = sellers()
    assert result == {"P-1": known, "P-2": "shop 5", "P-3": "orders 8", "P-4": "shop 6"}, (
        "as when it was ordered"
    )
    companies.undo(first)
    assert sellers() == result
    companies.warehouse.close()


def test_marts_name_the_shops_customers_and_products_that_partners_sold(
    beside_the_shop: tuple[Pipeline, FeedPipeline],
) -> None:
    shop, feed = beside_the_shop
    shop.open_shop()
    shop.capture()
    feed.land(
        "a.json", [an_order("P-1"), an_order("P-2", {"product_id": "77"}, customer_document_number="0099")]
    )
    feed.run()
    # 77 and 0099 are inferred members of the feed, and stay so where another source has these keys, too.
    for name, key in (("product", "77"), ("customer", "0099")):
        shop.warehouse.execute(
            sql.SQL(
                "insert into dwh.{} (source_system, {}, name, valid_from, row_hash, run_id) "
                "values ('elsewhere', %s, 'Another', '1900-01-01', 0, 0)"
            ).format(sql.Identifier(f"dim_{name}"), sql.Identifier(f"{name}_id")),
            [key],
        )
    with start_run(feed.warehouse_url, flow="refresh-marts") as run:
        marts.refresh(run)
    ((product, category),) = shop.rows("select name, category from dwh.dim_product where product_id = '1'")
    assert feed.rows(
        "select product_id, product_name, category from mart.top_sellers where source_system = 'orders' order by 1"
    ) == [("1", product, category), ("77", None, None)]
    for mart in ("top_products_by_region", "top_profitable_products"):
        assert feed.rows(
            f"select product_id, product_name from mart.{mart} where source_system = 'orders' order by 1"
        ) == [("1", product), ("77", None)], mart
    buyers = feed.rows(
        "select customer_id, customer_key, name from dwh.dim_customer "
        "where source_system || customer_id in ('shop1', 'orders0099') order by 1"
    )
    for mart in ("customer_ranking", "customer_order_totals"):
        assert buyers == feed.rows(
            "select customer_id, customer_key, customer_name "
            f"from mart.{mart} where source_system = 'orders' order by 1"
        ), mart
    # What the shop's customer bought from a partner is an order of that customer.
    assert feed.rows(
        "select source_system, sum(order_count), sum(customer_count) from mart.customer_activity_by_region "
        "group by 1 having sum(order_count) > 0 order by 1"
    ) == [("orders", 1, 1), ("shop", 1, 1)]
    assert feed.rows(
        "select source_system, sum(buyer_count), sum(order_count) from mart.customer_age_groups group by 1 order by 1"
    ) == [("elsewhere", 0, 0), ("orders", 1, 1), ("shop", 1, 1)]
    assert feed.rows(
        "select segment, sum(line_count) from mart.sales_by_segment_month group by segment"
    ) == feed.rows("select segment, sum(order_count) from mart.customer_segments group by segment")
    with start_run(feed.warehouse_url, flow="build-features") as run:
        build(run, currency="USD")
    assert feed.rows(
        "select source_system, customer_id, order_count from mart.customer_feature where order_count > 0 order by 1"
    ) == [("orders", "0099", 1), ("shop", "1", 1)]


def test_an_order_that_the_shop_has_too_counts_once_as_the_shop_has_it(
    beside_the_shop: tuple[Pipeline, FeedPipeline],
) -> None:
    shop, feed = beside_the_shop
    every_fact = "select source_system, order_id, line_id from dwh.fact_order_item order by 1, 2, 3"
    shop.open_shop()
    shop.order(1, "2024-03-10")
    shop.capture()
    feed.land("a.json", [an_order("1", {}, {}), an_order("2", {}, {}), an_order("P-1")])
    feed.run()
    assert "1 events of order_item are another source's, which takes precedence" in feed.messages
    both = [("orders", "2", "1"), ("orders", "2", "2"), ("orders", "P-1", "1"), ("shop", "1", "1")]
    assert feed.rows(every_fact) == both
    # The shop hears of it later; then the shop's order is gone.
    shop.order(2, "2024-03-10")
    assert shop.capture().counts("dwh.fact_order_item")["deleted"] == 2
    only_the_shop_s = [("orders", "P-1", "1"), ("shop", "1", "1"), ("shop", "2", "1")]
    assert feed.rows(every_fact) == only_the_shop_s
    # Somebody deletes it in the star: a repair of the feed brings what the feed has, and one of the shop the shop's.
    feed.rows("delete from dwh.fact_order_item where order_id = '2' returning 1")
    with start_run(feed.warehouse_url, flow="reconcile") as run:
        reconcile_feed(run, feed.source, repair=True)
    assert feed.rows(every_fact) == [*both[:3], ("shop", "1", "1")]
    with start_run(feed.warehouse_url, flow="reconcile") as run:
        reconcile_source(run, shop.source, shop.shop_url, repair=True)
    assert feed.rows(every_fact) == only_the_shop_s
    shop.do("delete from order_item where sales_order_id = 2", "delete from sales_order where id = 2")
    shop.capture()
    assert feed.rows(every_fact) == [("orders", "P-1", "1"), ("shop", "1", "1")]
    feed.run()
    assert feed.rows(every_fact) == both
    assert feed.counts() == [("a.json", "loaded", 3, 3, 0, 0, 0)]


def test_what_the_shop_has_changed_is_looked_at_whatever_has_happened_to_the_feed_meanwhile(
    beside_the_shop: tuple[Pipeline, FeedPipeline],
) -> None:
    """Neither a discard nor a run of the feed that was undone has looked at the shop."""
    shop, feed = beside_the_shop
    shop.open_shop()
    shop.order(1, "2024-03-10")
    shop.capture()
    feed.land("a.json", [an_order("1"), an_order("P-1", customer_document_number="0099"), "broken"])
    feed.run()
    facts = (
        "select fact.order_id, customer.source_system || ' ' || customer.customer_id from dwh.fact_order_item as fact "
        "inner join dwh.dim_customer as customer using (customer_key) where fact.source_system = 'orders' order by 1"
    )
    assert feed.rows(facts) == [("P-1", "orders 0099")]
    shop.insert("customer", id=9, document_number="0099", username="c", email="c@example.com")
    shop.do("delete from order_item", "delete from sales_order")
    shop.capture()
    feed.discard(*feed.rows("select quarantine_id from audit.quarantine")[0])
    assert feed.rows(facts) == [("P-1", "orders 0099")]
    run_id = feed.run()
    both = [("1", "shop 1"), ("P-1", "shop 9")]
    assert feed.rows(facts) == both
    feed.undo(run_id)
    assert feed.rows(facts) == [("P-1", "orders 0099")]
    feed.run()
    assert feed.rows(facts) == both
    feed.run()
    assert feed.published.rows_changed == 0


def test_undo_of_the_shop_s_run_leaves_no_fact_of_the_feed_without_its_member(
    beside_the_shop: tuple[Pipeline, FeedPipeline],
) -> None:
    shop, feed = beside_the_shop
    shop.open_shop()
    shop.capture()
    facts = (
        "select fact.order_id, customer.source_system, customer.customer_id, is_inferred "
        "from dwh.fact_order_item as fact "
        "left join dwh.dim_customer as customer using (customer_key) where fact.source_system = 'orders'"
    )
    shop.insert("customer", id=9, document_number="0099", username="c", email="c@example.com")
    captured = shop.capture()
    # The shop has neither the product nor its seller: nothing else of the line is the shop's.
    unknown = {"product_id": "77", "cuit": "30999999999"}
    feed.land("a.json", [an_order("P-1", unknown, customer_document_number="0099")])
    feed.run()
    assert feed.rows(facts) == [("P-1", "shop", "9", False)]
    feed.undo(captured.run_id)
    assert feed.rows(facts) == [("P-1", None, None, None)]
    feed.run()
    assert feed.rows(facts) == [("P-1", "orders", "0099", True)]
    shop.capture()
    feed.run()
    assert feed.rows(facts) == [("P-1", "shop", "9", False)]
    feed.run()
    assert feed.published.rows_changed == 0


def test_undo_of_a_source_restores_no_order_that_another_counts_and_none_as_it_was_before(
    beside_the_shop: tuple[Pipeline, FeedPipeline],
) -> None:
    shop, feed = beside_the_shop
    shop.open_shop()
    shop.capture()
    facts = (
        "select source_system, order_id, line_id, quantity::integer from dwh.fact_order_item "
        "where order_id = '2' order by 1, 2, 3"
    )
    # The shop knows nobody of them: no member that has changed leads to the order.
    item, customer = {"product_id": "77", "cuit": "30999999999"}, {"customer_document_number": "0098"}
    feed.land("a.json", [an_order("2", item, item, **customer)])
    feed.run()
    feed.land("b.json", [an_order("2", {**item, "amount": 3}, item, **customer)])
    corrected = feed.run()
    assert feed.rows(facts) == [("orders", "2", "1", 3), ("orders", "2", "2", 2)]
    shop.order(2, "2024-03-10")
    taken_over = shop.capture()
    only_the_shop_s = [("shop", "2", "1", 2)]
    assert feed.rows(facts) == only_the_shop_s
    # What the feed had before its correction is the shop's by now.
    feed.undo(corrected)
    assert feed.rows(facts) == only_the_shop_s
    # The feed has one line fewer by now, and another amount, than when the shop took it over.
    feed.land("c.json", [an_order("2", {**item, "amount": 7}, **customer)])
    feed.run()
    assert feed.rows(facts) == only_the_shop_s
    feed.undo(taken_over.run_id)
    feed.run()
    assert feed.rows(facts) == [("orders", "2", "1", 7)]
    shop.capture()
    assert feed.rows(facts) == only_the_shop_s
    feed.run()
    assert feed.rows(facts) == only_the_shop_s


def test_what_waits_is_replayed_once_corrected_or_discarded(orders: FeedPipeline) -> None:
    orders.land(
        "a.json", [an_order("P-1", status=None), an_order("P-2", {}, {"item_price": 1}), "broken", "gone"]
    )
    orders.run()
    ids = dict(orders.rows("select line_number, quarantine_id from audit.quarantine"))
    assert orders.counts() == [("a.json", "loaded", 4, 0, 4, 0, 0)]
    read_until = "select complete_at, (select min(captured_at) from audit.watermark) from audit.freshness"
    claimed = orders.rows(read_until)
    assert orders.replay(*ids.values())[0] == 4, "nothing was corrected"
    assert orders.counts() == [("a.json", "loaded", 4, 0, 4, 0, 0)]
    ids = dict(
        orders.rows("select line_number, quarantine_id from audit.quarantine where resolved_at is null")
    )
    orders.edit(ids[1], an_order("P-1"))
    orders.edit(ids[3], an_order("P-3", {"amount": 3}))
    assert orders.replay(ids[1], ids[2], ids[3], dry_run=True)[0] == 1
    assert orders.facts() == []
    still, run_id = orders.replay(ids[1], ids[2], ids[3])
    assert orders.rows(read_until) == claimed, "a replay reads no file"
    assert still == 1
    orders.discard(ids[4])
    assert orders.facts() == [("P-1", "1", 2, 200), ("P-3", "1", 3, 300)]
    assert orders.counts() == [("a.json", "loaded", 4, 2, 1, 1, 0)]
    assert orders.waiting() == [("P-2", "unit price is not above the base price")]
    assert orders.rows(
        "select line_number, resolution, resolved_run_id, note, raw_text, edited_by is not null from audit.quarantine "
        "where resolution in ('replayed', 'discarded') order by 1"
    ) == [(1, "replayed", run_id, None, None, True), (3, "replayed", run_id, None, '"broken"', True),
          (4, "discarded", run_id + 1, "not wanted", '"gone"', False)]  # fmt: skip
    assert orders.replay(ids[1], ids[3], ids[4])[0] == 0
    assert orders.counts() == [("a.json", "loaded", 4, 2, 1, 1, 0)], "nothing is replayed twice"


class Model:
    """What should become of each record, said a second time and without a database."""

    def __init__(self) -> None:
        # By place, in the order in which they were read.
        self.states: dict[tuple[int, int], str] = {}
        self.loaded: dict[str, tuple[tuple[int, int], int]] = {}
        # By place: key (None: unreadable).
        self.open: dict[tuple[int, int], str | None] = {}

    def file(self, number: int, records: list[tuple[str, str, int]]) -> None:
        """A file with records (kind, key, amount), or what it goes on with."""
        known = self.counts(number)[0]
        places = {line: (number, known + line) for line in range(1, len(records) + 1)}
        keys = {key for kind, key, _ in records if kind != "unreadable"}
        for place, key in list(self.open.items()):
            if key in keys:
                self.close(place, "superseded")
        latest: dict[str, tuple[tuple[int, int], str, int]] = {}
        for line, (kind, key, amount) in enumerate(records, start=1):
            place = places[line]
            self.states[place] = ""
            is_last = key not in {k for other, k, _ in records[line:] if other != "unreadable"}
            if kind == "unreadable":
                self.wait(place, None)
            elif kind == "refused":
                self.states[place] = "superseded"
                if is_last:
                    self.wait(place, key)
            else:
                if key in latest:
                    self.states[latest[key][0]] = "superseded"
                latest[key] = place, kind, amount
        for key, (place, kind, amount) in latest.items():
            if kind == "item refused":
                self.wait(place, key)
            else:
                self.load(place, key, amount)

    def wait(self, place: tuple[int, int], key: str | None) -> None:
        self.states[place], self.open[place] = "quarantined", key

    def close(self, place: tuple[int, int], state: str) -> None:
        self.states[place] = state
        del self.open[place]

    def load(self, place: tuple[int, int], key: str, amount: int) -> None:
        if key in self.loaded:
            self.states[self.loaded[key][0]] = "superseded"
        self.states[place], self.loaded[key] = "loaded", (place, amount)

    def replay(self, place: tuple[int, int], key: str, amount: int) -> None:
        """An entry was corrected to a good record of this key."""
        read = list(self.states)
        for other, waiting in list(self.open.items()):
            if waiting == key and read.index(other) < read.index(place):
                self.close(other, "superseded")
        self.close(place, "superseded")
        if key not in self.loaded or read.index(self.loaded[key][0]) < read.index(place):
            self.load(place, key, amount)

    def counts(self, number: int) -> tuple[int, ...]:
        states = [state for (file, _), state in self.states.items() if file == number]
        return (
            len(states),
            *(states.count(one) for one in ("loaded", "quarantined", "discarded", "superseded")),
        )


@pytest.mark.parametrize(
    ("seed", "steps"), [(1, 12), *(pytest.param(n, 40, marks=pytest.mark.slow) for n in range(2, 8))]
)
def test_every_record_is_counted_once_at_any_time(orders: FeedPipeline, seed: int, steps: int) -> None:
    rng = random.Random(seed)
    model = Model()
    files: dict[str, str] = {}
    for step in range(1, steps + 1):
        waiting = dict(orders.rows(
            "select file_id * 100 + line_number, quarantine_id from audit.quarantine where resolved_at is null"
        ))  # fmt: skip
        places = sorted(model.open)
        action = rng.choice(("land", "land", "grow", "grow", "replay", "discard"))
        if action in ("land", "grow") or not places:
            records = [
                (rng.choice(("good", "good", "good", "refused", "item refused", "unreadable")), f"P-{rng.randrange(6)}",
                 rng.randrange(1, 1000))
                for _ in range(rng.randrange(1, 7))
            ]  # fmt: skip
            name, before = f"{step}.json", ""
            if action == "grow" and files:
                name = rng.choice(list(files))
                before = files[name]
            files[name] = before + "".join(_text(*record) + "\n" for record in records)
            orders.land(name, files[name])
            orders.run()
            model.file(1 + list(files).index(name), records)
        else:
            place = rng.choice(places)
            quarantine_id = waiting[place[0] * 100 + place[1]]
            if action == "replay":
                key, amount = model.open[place] or f"P-{rng.randrange(6)}", rng.randrange(1, 1000)
                orders.edit(quarantine_id, an_order(key, {"amount": amount}))
                orders.replay(quarantine_id)
                model.replay(place, key, amount)
            else:
                orders.discard(quarantine_id)
                model.close(place, "discarded")
        found = orders.rows(
            "select file_id, line_count, rows_loaded, rows_quarantined, rows_discarded, rows_superseded "
            "from audit.file order by file_id"
        )
        assert found == [(file_id, *model.counts(file_id)) for file_id, *_ in found], (step, action)
        assert [(row[0], row[2]) for row in orders.facts()] == sorted(
            (key, amount) for key, (_, amount) in model.loaded.items()
        ), (step, action)
    with start_run(orders.warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_feed(run, orders.source, repair=False)
    assert {
        verdict.table_name for verdict in verdicts if verdict.layer == "star" and verdict.rows_differing
    } == set()


def _text(kind: str, key: str, amount: int) -> str:
    if kind == "unreadable":
        # A file of the same content would be a copy.
        return f"{{ {key} {amount}"
    order = an_order(key, {"amount": amount, **({"item_price": 1} if kind == "item refused" else {})})
    return json.dumps({**order, **({"status": None} if kind == "refused" else {})})


def test_command_names_a_file_that_cannot_be_read_loads_the_others_and_ends_with_3_and_rebuilds_lost_mirrors(
    warehouse_url: str, tmp_path: Path
) -> None:
    feed = FeedPipeline(warehouse_url, tmp_path / "lake")
    environment = {**os.environ, "DWH_WAREHOUSE_URL": warehouse_url, "DWH_LAKE": str(tmp_path / "lake"),
                   "DWH_HOME": str(tmp_path / "home"), "DWH_ARCHIVE": "false"}  # fmt: skip
    linked = feed.land("a.json", [an_order("P-1")]).with_name("elsewhere")
    (tmp_path / "folder").mkdir()
    linked.symlink_to(tmp_path / "folder")
    done = command.run("run", "orders", environment=environment)
    assert done.returncode == 3, done.stderr
    assert "elsewhere" in done.stdout
    assert feed.facts() == [("P-1", "1", 2, 200)]
    linked.unlink()
    assert command.run("run", "orders", environment=environment).returncode == 0
    # Another feed may not read its files.
    declaration = shutil.copytree(PACKAGED / "orders", tmp_path / "sources" / "market") / "source.toml"
    declaration.write_text(declaration.read_text().replace('"shop", "orders"', '"shop", "market"'))
    done = command.run("run", "market", environment={**environment, "DWH_SOURCES": str(tmp_path / "sources")})
    assert (done.returncode, "overlaps with 'landing/orders', from which feed 'orders'" in done.stderr) == (
        2,
        True,
    )
    # Its mirrors are made of the files again, without an archive, too, before anything relies on what they hold.
    feed.land("b.json", [an_order("P-2", status=None)])
    feed.run()
    for damage, arguments in {
        "drop table raw.orders_order; truncate raw.orders_order_item": ("run", "orders"),
        "truncate raw.orders_order": ("quarantine", "replay"),
        "truncate raw.orders_order_item": (
            "backfill",
            "--only",
            "orders",
            "--from=2024-03-10",
            "--to=2024-03-10",
        ),
        "drop table dwh.fact_order_item cascade": ("run", "orders"),
    }.items():
        feed.warehouse.execute(damage.encode())
        done = command.run(*arguments, environment=environment)
        assert done.returncode == 0, done.stderr
        assert re.search(r"emptied since the last run: [^;]*; rebuilt from landing files", done.stderr), (
            damage
        )
        assert [len(feed.rows(f"table raw.orders_order{table}")) for table in ("", "_item")] == [1, 1], damage
        assert feed.facts() == [("P-1", "1", 2, 200)], damage
    feed.warehouse.close()
