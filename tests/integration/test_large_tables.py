"""Tables too large to be scanned in every run: read by the cursor's index, verified by ranges of their keys."""

import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cli.diagnostics import verification_findings
from cli.table_checks import examine_access_paths, examine_table, group_notes
from flows.artifacts import page as run_page
from stack.accounts import ENVIRONMENT
from stack.postgres import EmbeddedPostgres
from tests import command
from tests.conftest import MAJOR, SETTINGS
from tests.integration.test_capture import in_mirror, in_source, last, only
from tests.pipeline import CONFIRMED, Pipeline
from warehouse.db.connections import connect
from warehouse.db.schema_version import newest
from warehouse.errors import (
    BatchOutdated,
    DeleteThresholdExceeded,
    SchemaOutdated,
    SourceError,
    VerificationFailed,
)
from warehouse.explain.origin import Origin
from warehouse.extract import checksums, range_verification, stage_table, table_scan
from warehouse.extract.cursor_reader import CursorReader
from warehouse.extract.key_ranges import choose_ranges
from warehouse.extract.limits import ReadLimits
from warehouse.extract.open_transactions import OpenTransactions, find_open_transactions
from warehouse.extract.range_store import forget_unverified
from warehouse.extract.range_verdict import RangeVerdict, find_verdict
from warehouse.extract.snapshot import snapshot_of
from warehouse.extract.stage import stage
from warehouse.extract.steady_clock import SteadyTime
from warehouse.extract.verification import verify
from warehouse.load.publish import publish
from warehouse.reconcile.reconcile import reconcile_source
from warehouse.reconcile.verdict import Verdict
from warehouse.report import write as report
from warehouse.runs.alerts.rules import Rules
from warehouse.runs.audit import start_run
from warehouse.runs.status import read_run_details
from warehouse.settings import Settings
from warehouse.sources.source import Table
from warehouse.undo.undo import undo

# No table is small; in tests no time passes between runs, so that each verifies one range.
ONE_RANGE = ReadLimits(scan_rows=0, range_rows=10)
# Every run verifies all ranges.
ALL_RANGES = replace(ONE_RANGE, verify_within=timedelta(0))


@pytest.fixture(scope="module")
def databases(
    postgres: EmbeddedPostgres, shop_template: str, warehouse_template: str
) -> Iterator[tuple[str, str]]:
    """A shop and a warehouse for all tests of this module, which have tables of their own."""
    names = [f"large_{uuid.uuid4().hex[:12]}" for _ in range(2)]
    for name, template in zip(names, (shop_template, warehouse_template), strict=True):
        postgres.create_database(name, template)
    yield postgres.url(names[0]), postgres.url(names[1])
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


numbers = count(1)


@pytest.fixture
def shop(databases: tuple[str, str]) -> Iterator[Pipeline]:
    """A connection to both."""
    with closing(Pipeline(*databases)) as pipeline:
        pipeline.limits = ONE_RANGE
        yield pipeline


def make(pipeline: Pipeline, rows: int = 100, *, index: bool = True, kind: str = "timestamptz") -> str:
    """A table of `rows` rows with the keys 10, 20 and so on, captured; returns its name."""
    name = f"reading_{next(numbers)}"
    pipeline.do(
        f"create table {name} (id bigint primary key, value text, updated_at {kind} default now())",
        f"insert into {name} select 10 * n, 'as it was', '2024-01-01'::timestamptz + n * interval '1 s' "
        f"from generate_series(1, {rows}) as n",
        *([f"create index on {name} (updated_at)"] if index else []),
    )
    pipeline.source = only(name)
    pipeline.capture()
    return name


def make_without_ranges(pipeline: Pipeline, *, index: bool = True) -> str:
    """A table of 50 rows whose key is of a type that is not compared by ranges, captured; returns its name."""
    name = f"reading_{next(numbers)}"
    pipeline.do(
        f"create table {name} (id double precision primary key, value text, updated_at timestamptz)",
        f"insert into {name} select n, 'as it was', '2024-01-01' from generate_series(1, 50) as n",
        *([f"create index on {name} (updated_at)"] if index else []),
    )
    pipeline.source = only(name)
    pipeline.capture()
    return name


def ranges(pipeline: Pipeline, name: str) -> list[tuple[object, ...]]:
    """(first key, rows, whether verified by the last run) of each range, in the order of keys."""
    return pipeline.warehouse.execute(
        "select low_key[1]::bigint, row_count, run_id = max(run_id) over () from audit.key_range "
        "where table_name = %s order by low_key[1]::bigint nulls first",
        [name],
    ).fetchall()


def assert_same(pipeline: Pipeline, name: str) -> None:
    assert in_mirror(pipeline, name) == in_source(pipeline, name)


# --- by the cursor --------------------------------------------------------------------------------------------


def test_changes_are_read_by_the_index_and_nothing_else_is(shop: Pipeline) -> None:
    name = make(shop, 2000)
    shop.limits = replace(ONE_RANGE, range_rows=100)
    shop.capture(full_refresh=True)
    shop.do(
        f"update {name} set value = 'changed', updated_at = now() where id in (10, 50, 20000)",
        f"insert into {name} values (20010)",
    )
    run = shop.capture()
    assert last(shop, name) == {"updated": 3, "inserted": 1}
    load = run.loads[f"raw.shop_{name}"]
    verified = run.verifications[0].rows_source
    assert (load.rows_read, run.verifications[0].chunks) == (4, 64)
    # Changed rows and those of the range: each by its index, and as a row.
    assert load.source_rows_read is not None and load.source_rows_read <= 1.2 * (4 + verified) + 2
    assert load.source_blocks_read and shop.rows(
        "select source_rows_read, source_blocks_read from audit.load where run_id = %s and table_name = %s",
        run.run_id,
        f"raw.shop_{name}",
    ) == [(load.source_rows_read, load.source_blocks_read)]
    assert_same(shop, name)


def test_small_table_is_scanned_once_a_run_for_its_changes_and_its_checksums(shop: Pipeline) -> None:
    name = make(shop)
    shop.limits = ReadLimits()
    shop.capture()
    shop.do(
        f"update {name} set value = 'changed', updated_at = null where id in (10, 500)",
        f"insert into {name} select 10 * n, 'new' from generate_series(101, 150) as n",
    )
    run = shop.capture()
    assert last(shop, name) == {"inserted": 50, "updated": 2, "cursor_missed": 2}
    assert run.loads[f"raw.shop_{name}"].source_rows_read == 150
    assert shop.capture().loads[f"raw.shop_{name}"].source_rows_read == 150
    assert_same(shop, name)


@pytest.mark.parametrize(("most", "scan_rows"), [(20, 0), (20, 200_000), (60, 0)])
def test_table_with_more_changes_than_places_are_kept_of_is_read_by_a_scan_of_its_own(
    shop: Pipeline, monkeypatch: pytest.MonkeyPatch, most: int, scan_rows: int
) -> None:
    name = make(shop, index=False)
    shop.limits = ReadLimits(scan_rows=scan_rows, scan_interval=timedelta(0))
    # Else a transaction of another test lets all rows count as changed.
    shop.await_open_transactions()
    shop.capture(full_refresh=True)
    monkeypatch.setattr(table_scan, "MOST_PLACES", most)
    monkeypatch.setattr(table_scan, "PLACES_AT_ONCE", 7)
    monkeypatch.setattr(checksums, "ROWS_AT_ONCE", 10)
    shop.do(
        f"update {name} set value = 'changed', updated_at = null where id <= 100",
        f"insert into {name} select 10 * n, 'new' from generate_series(101, 150) as n",
    )
    load = shop.capture().loads[f"raw.shop_{name}"]
    assert (load.rows_inserted, load.rows_updated, load.rows_found_by_checksum) == (50, 10, 0)
    # In vain once for the places, and then for the rows and for the checksums.
    assert load.source_rows_read == (3 * 150 if most == 20 else 150)
    assert_same(shop, name)


def test_late_commits_are_read_by_the_cursor_whatever_was_published_meanwhile(shop: Pipeline) -> None:
    name = make(shop)
    with connect(shop.shop_url) as late, connect(shop.shop_url) as later:
        late.execute(f"update {name} set value = 'late', updated_at = now() where id = 500".encode())
        later.execute("select 1")
        shop.do(f"update {name} set value = 'soon', updated_at = now() where id = 10")
        shop.capture()
        assert last(shop, name) == {"updated": 1}
        late.commit()
        # It has no transaction id yet, and its stamp is as old as its transaction.
        later.execute(f"update {name} set value = 'later', updated_at = now() where id = 600".encode())
        shop.capture()
        assert last(shop, name) == {"updated": 1, "cursor_missed": 1}
        later.commit()
    shop.capture()
    assert last(shop, name) == {"updated": 1, "cursor_missed": 1}
    assert_same(shop, name)
    shop.capture()
    assert last(shop, name) == {}


def test_bulk_load_with_one_stamp_is_not_copied_again(shop: Pipeline) -> None:
    name = make(shop, 20)
    # A transaction that began in the second before counts as open.
    shop.do(
        f"insert into {name} select n, 'bulk', now() - interval '3 s' from generate_series(1001, 6000) as n"
    )
    # Other tests' transactions, which are as old, end before the next snapshot.
    shop.await_open_transactions()
    assert shop.capture().loads[f"raw.shop_{name}"].rows_read == 5000
    for _ in range(3):
        load = shop.capture().loads[f"raw.shop_{name}"]
        assert load.rows_read == 0
        # Nor are they read by the source to find that out, but for those of the range that has grown.
    assert load.source_rows_read is not None and load.source_rows_read < 2000
    assert_same(shop, name)


def test_stamps_that_a_trigger_cuts_to_minutes_are_read_by_the_cursor(shop: Pipeline) -> None:
    name = make(shop, 2000)
    shop.limits = replace(ONE_RANGE, range_rows=100)
    shop.capture(full_refresh=True)
    shop.do(f"insert into {name} values (20010, 'first', date_trunc('minute', now()))")
    shop.capture()
    shop.do(
        f"insert into {name} select n, 'in the same minute', max(updated_at) "
        f"from {name}, generate_series(5, 20005, 5000) as n group by n"
    )
    # What is open in other databases of the server keeps rows in sight.
    shop.await_open_transactions()
    load = shop.capture().loads[f"raw.shop_{name}"]
    assert (load.rows_inserted, load.rows_found_by_checksum) == (5, 0)
    assert_same(shop, name)
    # Rows that are known by now are not read for ever.
    assert shop.capture().loads[f"raw.shop_{name}"].rows_read == 0


BUENOS_AIRES = "America/Argentina/Buenos_Aires"


@pytest.mark.parametrize(
    ("kind", "server", "client", "future", "ahead"),
    [
        # Whatever clients stamp: what the source's clock stamps is read.
        ("timestamp", BUENOS_AIRES, BUENOS_AIRES, 300, "2 h"),
        pytest.param("timestamp(0)", BUENOS_AIRES, "UTC", 300, "10 d", marks=pytest.mark.slow),
        # Sessions in a zone of their own, behind the source's.
        ("timestamp", "UTC", BUENOS_AIRES, 50, "2 h"),
        # And ahead of it.
        ("timestamp", "UTC", "Asia/Kolkata", 300, "infinity"),
        ("date", BUENOS_AIRES, BUENOS_AIRES, 300, "1 d"),
        pytest.param("date", "UTC", "Asia/Kolkata", 300, "infinity", marks=pytest.mark.slow),
        ("timestamptz", BUENOS_AIRES, "UTC", 300, "infinity"),
    ],
)
def test_stamps_in_the_future_hide_nothing_from_the_cursor(
    shop: Pipeline, kind: str, server: str, client: str, future: int, ahead: str
) -> None:
    shop.shop_url += f"{'&' if '?' in shop.shop_url else '?'}options=-c%20TimeZone%3D{server}"
    name = make(shop, 1000, kind=kind)
    now = f"(now() at time zone '{client}')" if kind != "timestamptz" else "now()"
    stamp = f"'{ahead}'" if ahead == "infinity" else f"{now} + interval '{ahead}'"
    shop.do(f"update {name} set updated_at = {now} - n * interval '1 s' from generate_series(1, 1000) as n "
            "where id = 10 * n")  # fmt: skip
    shop.capture(full_refresh=True)
    shop.do(f"update {name} set value = 'future', updated_at = {stamp} where id <= 10 * {future}")
    shop.capture()
    for number in range(2):
        shop.do(f"update {name} set value = '{number}', updated_at = {now} where id > 9990 - 10 * {number}")
        load = shop.capture().loads[f"raw.shop_{name}"]
        assert (load.rows_updated, load.rows_found_by_checksum) == (number + 1, 0)
    assert_same(shop, name)


def test_stamps_in_the_future_hide_nothing_of_sessions_that_were_behind_before(shop: Pipeline) -> None:
    name = make(shop, 1000, kind="timestamp")
    now = f"(now() at time zone '{BUENOS_AIRES}')"
    for number in range(3):
        shop.do(f"update {name} set value = '{number}', updated_at = {now} where id > 9990 - 10 * {number}")
        shop.capture()
    shop.do(f"update {name} set value = 'future', updated_at = {now} + interval '2 h' where id <= 3000")
    shop.capture()
    for number in range(2):
        shop.do(f"update {name} set value = 'a{number}', updated_at = {now} where id > 9990 - 10 * {number}")
        load = shop.capture().loads[f"raw.shop_{name}"]
        assert (load.rows_updated, load.rows_found_by_checksum) == (number + 1, 0)
    reader = CursorReader(shop.source, shop.shop_url, {}, ONE_RANGE, CONFIRMED)
    with closing(reader):
        reader.find_tables(shop.warehouse)
        shop.do(f"update {name} set value = 'live', updated_at = {now} where id = 20")
        (hot,) = reader.hot
        query = sql.SQL("select id from {} where id = 20 and {}").format(sql.Identifier(name), hot.condition)
        assert shop.shop.execute(query).fetchall() == [(20,)]


class Clocks:
    """The clocks of the machine that runs flows, as far ahead of its own as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead, self.boot = timedelta(0), "first"
        read = SteadyTime.now

        def now() -> SteadyTime:
            seconds = self.ahead.total_seconds()
            one = read()
            return SteadyTime(self.boot, time.monotonic() + seconds, one.epoch_seconds + seconds)

        monkeypatch.setattr(SteadyTime, "now", now)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp"])
@pytest.mark.parametrize("is_booted", [False, True])
def test_stamps_of_a_clock_that_was_set_back_are_read_by_the_cursor(
    shop: Pipeline, clocks: Clocks, kind: str, is_booted: bool
) -> None:
    name = make(shop, 1000, kind=kind)
    shop.do(f"update {name} set value = 'before', updated_at = now() where id = 10")
    shop.capture()
    # Three hours have passed, the source's clock says none: it was set back by as much.
    clocks.ahead = timedelta(hours=3)
    clocks.boot = "second" if is_booted else "first"
    shop.do(
        f"update {name} set value = 'after', updated_at = now() - interval '150 min' where id in (20, 5000)"
    )
    load = shop.capture().loads[f"raw.shop_{name}"]
    assert (load.rows_updated, load.rows_found_by_checksum) == (2, 0)
    assert "set back by about 3:00:0" in (load.note or "")
    assert_same(shop, name)
    # Noted and read once.
    shop.do(f"update {name} set updated_at = now() where id = 30")
    load = shop.capture().loads[f"raw.shop_{name}"]
    assert (load.rows_updated, load.note) == (1, None)


def test_live_reads_what_a_clock_stamps_that_was_set_back_while_it_waits(
    shop: Pipeline, clocks: Clocks
) -> None:
    name = make(shop, 1000)
    reader = CursorReader(shop.source, shop.shop_url, {}, ONE_RANGE, CONFIRMED)
    with closing(reader):
        reader.find_tables(shop.warehouse)
        assert not reader.has_moved()
        clocks.ahead = timedelta(hours=3)
        shop.do(f"update {name} set updated_at = now() - interval '150 min' where id = 20")
        assert reader.has_moved()
        clocks.ahead, clocks.boot = timedelta(days=-1), "second"
        assert reader.has_moved()


def test_table_is_looked_at_whole_once_where_nobody_knows_how_far_a_clock_was_set_back(
    shop: Pipeline, clocks: Clocks
) -> None:
    clocks.ahead = timedelta(days=1)
    name = make(shop, 1000)
    # The machine of both was booted with another day.
    clocks.ahead, clocks.boot = timedelta(0), "second"
    shop.warehouse.execute(
        "update audit.watermark set open_transactions = jsonb_set(open_transactions, '{asked_at}', "
        "to_jsonb((now() + interval '1 day')::text)) where table_name = %s",
        [name],
    )
    shop.do(f"update {name} set value = 'after', updated_at = '2024-01-01' where id in (20, 5000)")
    run = shop.capture()
    assert (last(shop, name), run.verifications[0].rows_source) == ({"updated": 2, "cursor_missed": 2}, 1000)
    assert shop.capture().verifications[0].rows_source < 1000
    assert_same(shop, name)


def test_transaction_that_was_prepared_is_read_when_it_commits(shop: Pipeline) -> None:
    name = make(shop)
    with connect(shop.shop_url, autocommit=True) as preparing:
        preparing.execute("begin")
        preparing.execute(f"update {name} set value = 'prepared', updated_at = now() where id = 500".encode())
        shop.do(f"update {name} set value = 'soon', updated_at = now() where id = 10")
        shop.capture()
        preparing.execute(f"prepare transaction '{name}'".encode())
    for stamp in range(2):
        shop.do(f"update {name} set value = 'soon {stamp}', updated_at = now() where id = 20")
        shop.capture()
    shop.do(f"commit prepared '{name}'")
    shop.capture()
    assert last(shop, name) == {"updated": 1, "cursor_missed": 1}
    assert_same(shop, name)


def test_transaction_that_began_and_was_prepared_between_two_runs_is_read_when_it_commits(
    shop: Pipeline,
) -> None:
    name = make(shop)
    with connect(shop.shop_url, autocommit=True) as preparing:
        preparing.execute("begin")
        preparing.execute(f"update {name} set value = 'prepared', updated_at = now() where id = 500".encode())
        # So that it is stamped well before it is prepared, by which time alone the server knows it.
        preparing.execute("select pg_sleep(2.5)")
        preparing.execute(f"prepare transaction '{name}'".encode())
    for stamp in range(2):
        shop.do(f"update {name} set value = 'soon {stamp}', updated_at = now() where id = 20")
        shop.capture()
    shop.do(f"commit prepared '{name}'")
    load = shop.capture().loads[f"raw.shop_{name}"]
    assert (load.rows_updated, load.rows_cursor_missed, load.rows_found_by_checksum) == (1, 1, 0)
    assert_same(shop, name)


def test_statement_that_is_older_than_its_transaction_is_read_when_it_commits(shop: Pipeline) -> None:
    name = make(shop)
    shop.do(
        f"create procedure stamp_{name}() language plpgsql as $$ begin commit; perform pg_sleep(1.2); "
        f"update {name} set value = 'late', updated_at = statement_timestamp() where id = 500; "
        f"perform pg_advisory_xact_lock(hashtext('{name}')); end $$"
    )
    lock = f"select pg_advisory_lock(hashtext('{name}'))"
    with connect(shop.shop_url, autocommit=True) as holder, connect(shop.shop_url, autocommit=True) as caller:
        holder.execute(lock.encode())
        with ThreadPoolExecutor(max_workers=1) as pool:
            call = pool.submit(caller.execute, f"call stamp_{name}()".encode())
            while not shop.shop.execute(
                "select from pg_locks inner join pg_stat_activity using (pid) "
                "where query like %s and locktype = 'advisory' and not granted",
                [f"call stamp_{name}%"],
            ).rowcount:
                time.sleep(0.02)
            shop.do(f"update {name} set value = 'soon', updated_at = now() where id = 10")
            shop.capture()
            holder.execute("select pg_advisory_unlock_all()")
            call.result()
    shop.capture()
    assert last(shop, name) == {"updated": 1, "cursor_missed": 1}
    assert_same(shop, name)


def test_starts_that_the_server_hides_count_as_long_ago(shop: Pipeline, postgres: EmbeddedPostgres) -> None:
    shop.do("drop role if exists reader_of_large", "create role reader_of_large login password 'secret'")
    url = shop.shop_url.replace("postgres:", "reader_of_large:", 1)
    url = url[: url.index("reader_of_large:")] + "reader_of_large:secret" + url[url.index("@") :]
    window = timedelta(hours=3)
    with connect(shop.shop_url) as other:
        other.execute("select 1")
        hidden = find_open_transactions("shop", url, None, window)
        assert hidden.since == hidden.asked_at - window
        shown = find_open_transactions("shop", shop.shop_url, None, window)
        assert shown.asked_at - shown.since < timedelta(minutes=5)
    shop.do("drop role reader_of_large")


def test_late_commit_of_a_session_that_reports_nothing_is_read_within_the_window(shop: Pipeline) -> None:
    name = make(shop)
    with connect(shop.shop_url) as late:
        late.execute("set track_activities = off")
        late.commit()
        late.execute(f"update {name} set value = 'late', updated_at = now() where id = 500".encode())
        shop.do(f"update {name} set value = 'soon', updated_at = now() where id = 10")
        shop.capture()
        found = find_open_transactions("shop", shop.shop_url, None, timedelta(hours=3))
        assert found.since == found.asked_at - timedelta(hours=3)
        late.commit()
    load = shop.capture().loads[f"raw.shop_{name}"]
    assert (load.rows_updated, load.rows_found_by_checksum) == (1, 0)
    assert_same(shop, name)


def test_open_transactions_are_asked_for_before_the_snapshot_needs_a_connection(shop: Pipeline) -> None:
    mine = (
        "select from pg_stat_activity where datname = current_database() and application_name = 'dwh capture'"
    )
    while shop.shop.execute(mine).rowcount:
        time.sleep(0.02)

    def ask() -> OpenTransactions:
        assert shop.shop.execute(mine).rowcount == 0
        return find_open_transactions("shop", shop.shop_url, None, timedelta(hours=1))

    with snapshot_of("shop", shop.shop_url, find_open_transactions=ask) as (_, snapshot):
        assert snapshot.open_transactions is not None
        assert snapshot.open_transactions.asked_at < snapshot.taken_at


# --- by ranges of keys ----------------------------------------------------------------------------------------


def test_ranges_cover_all_keys_and_grow_with_the_table(shop: Pipeline) -> None:
    name = make(shop, 95)
    assert ranges(shop, name) == [
        (None if first == 1 else 10 * first, 5 if first == 91 else 10, True) for first in range(1, 96, 10)
    ]
    shop.limits = ALL_RANGES
    shop.do(f"insert into {name} select 10 * n from generate_series(96, 150) as n")
    shop.capture()
    assert [(low, rows) for low, rows, _ in ranges(shop, name)][8:] == [
        (10 * first, 10) for first in range(81, 150, 10)
    ]
    shop.do(f"delete from {name} where id <= 700")
    shop.capture()
    assert [(low, rows) for low, rows, _ in ranges(shop, name)][:2] == [(None, 0), (710, 10)]
    assert_same(shop, name)


def test_bulk_load_into_one_range_is_verified_within_the_budget_of_each_run(shop: Pipeline) -> None:
    name = make(shop, 400)
    verified = "select verified_at, snapshot_xmin from audit.key_range where table_name = %s"
    before = shop.warehouse.execute(verified.encode(), [name]).fetchall()
    assert len(before) == 40
    # Most of the new keys are above the last one, as those of orders; some are between others.
    shop.do(
        f"insert into {name} select n, 'bulk', now() - interval '3 s' from generate_series(10001, 14000) as n",
        f"insert into {name} select n, 'bulk', now() - interval '3 s' from generate_series(2011, 2099) as n "
        "where n % 10 > 0",
    )
    run = shop.capture()
    assert run.loads[f"raw.shop_{name}"].rows_inserted == 4081
    assert run.verifications[0].rows_source <= 20
    found = ranges(shop, name)
    assert sum(rows for _, rows, _ in found) == 4481 and max(rows for _, rows, _ in found) <= 20
    # What was not verified now was so when the range was that it has been a part of.
    after = shop.warehouse.execute(verified.encode(), [name]).fetchall()
    snapshot = run.staged.snapshot
    assert {*after} == {*before, (snapshot.taken_at, snapshot.xmin)}
    assert after.count((snapshot.taken_at, snapshot.xmin)) <= 2
    shop.do(f"update {name} set value = 'unstamped' where id in (2033, 13000)")
    shop.capture(limits=ALL_RANGES)
    assert last(shop, name) == {"updated": 2, "cursor_missed": 2, "found_by_checksum": 2}
    assert_same(shop, name)


def test_range_of_which_every_row_changes_is_verified_all_the_same(shop: Pipeline) -> None:
    name = make(shop)
    for _ in range(3):
        shop.do(f"update {name} set value = value || '.', updated_at = now() where id between 510 and 600")
        shop.do(f"update {name} set updated_at = now() where id = 10")
        assert shop.capture().staged.tables[0].range_splits == ()
    assert len(ranges(shop, name)) == 10
    assert_same(shop, name)


@pytest.mark.parametrize("limits", [ALL_RANGES, ReadLimits()])
def test_rows_with_empty_old_and_late_stamps_are_found_in_large_and_small_tables(
    shop: Pipeline, limits: ReadLimits
) -> None:
    shop.limits = limits
    name = make(shop)
    shop.do(
        f"update {name} set value = 'unstamped' where id = 10",
        f"update {name} set value = 'emptied', updated_at = null where id = 310",
        f"update {name} set value = 'backdated', updated_at = '2001-01-01' where id = 620",
        f"insert into {name} values (1, 'below the first', null), (99999, 'above the last', '2001-01-01')",
        f"insert into {name} values (-5, 'stamped', now())",
        f"delete from {name} where id in (500, 510, 1000)",
    )
    shop.capture()
    found = {} if limits == ReadLimits() else {"found_by_checksum": 5}
    assert last(shop, name) == {"inserted": 3, "updated": 3, "deleted": 3, "cursor_missed": 5} | found
    assert_same(shop, name)
    shop.capture()
    assert last(shop, name) == {}


def test_rotation_finds_everything_in_its_turn_and_the_newest_keys_between(shop: Pipeline) -> None:
    name = make(shop)
    shop.do(f"update {name} set value = 'unstamped'")
    found = []
    for _ in range(19):
        run = shop.capture()
        found.append(run.loads[f"raw.shop_{name}"].rows_found_by_checksum)
        assert len(run.staged.tables[0].ranges) == 1
        assert found[-1] in (0, 10)
        places = [place for place, one in enumerate(ranges(shop, name)) if one[2]]
        # In turn: the range that has waited longest, and that of the newest keys.
        assert places == [9] if len(found) % 2 == 0 else places != [9]
    assert sum(found) == 100
    assert_same(shop, name)


def test_ranges_that_the_batch_touches_are_verified_with_it(shop: Pipeline) -> None:
    name = make(shop)
    shop.do(f"update {name} set value = 'unstamped' where id = 550")
    shop.capture()
    shop.do(f"update {name} set value = 'stamped', updated_at = now() where id = 560")
    run = shop.capture()
    assert last(shop, name) == {"updated": 2, "cursor_missed": 1, "found_by_checksum": 1}
    assert run.staged.tables[0].ranges[0].low == ("510",)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each run that reads by the cursor, whether its rotation is hurried."""
    hurried: list[bool] = []

    def choose(*arguments: object, is_hurried: bool) -> object:
        hurried.append(is_hurried)
        return choose_ranges(*arguments, is_hurried=is_hurried)  # type: ignore[arg-type]

    monkeypatch.setattr(stage_table, "choose_ranges", choose)
    return hurried


def test_changes_that_the_source_counts_and_no_batch_explains_bring_the_rotation_forward(
    shop: Pipeline, hurried: list[bool]
) -> None:
    name = make(shop, 400)
    # A session reports its counters with its next statement.
    shop.do("select pg_stat_force_next_flush()", "select 1")
    shop.capture(full_refresh=True)
    shop.capture()
    # Explained by the batch.
    shop.do(
        f"update {name} set updated_at = now() where id between 110 and 400",
        "select pg_stat_force_next_flush()", "select 1",
    )  # fmt: skip
    shop.capture()
    # What other tests have open would let the next batch read these rows again, as if it explained the changes.
    shop.await_open_transactions()
    shop.capture()
    shop.do(f"delete from {name} where id % 200 = 150", "select pg_stat_force_next_flush()", "select 1")
    for _ in range(2):
        shop.capture(max_delete_share=0.9, delete_floor_rows=100)
    assert hurried == [False, False, False, True, True]
    shop.capture(limits=ALL_RANGES)
    shop.capture()
    assert hurried[-1] is False
    assert_same(shop, name)


def test_rows_that_are_read_again_explain_no_other_change(shop: Pipeline, hurried: list[bool]) -> None:
    name = make(shop, 400)
    flush = ("select pg_stat_force_next_flush()", "select 1")
    shop.do(*flush)
    shop.capture(full_refresh=True)
    with connect(shop.shop_url) as first, connect(shop.shop_url) as second, connect(shop.shop_url) as third:
        # When one of them ends, the next run reads again what was written since it began.
        for other in (first, second, third):
            other.execute("select pg_current_xact_id()")
        shop.do(f"update {name} set value = 'read again', updated_at = now() where id > 3000", *flush)
        assert shop.capture().loads[f"raw.shop_{name}"].rows_read == 100
        shop.do(f"delete from {name} where id % 50 = 0 and id <= 3000", *flush)
        for other in (first, second, third):
            other.rollback()
            run = shop.capture(max_delete_share=0.9, delete_floor_rows=100)
            assert run.loads[f"raw.shop_{name}"].rows_read >= 100
    # The run that reads them believes them to explain the deletes; it has published by the next one that they do not.
    assert hurried[-2:] == [True, True]


def test_budget_follows_from_the_promise(shop: Pipeline) -> None:
    name = make(shop, 400)
    # Six hours since the last run: a quarter of a rotation within a day.
    shop.warehouse.execute(
        "update audit.watermark set captured_at = captured_at - interval '6 hours' where table_name = %s",
        [name],
    )
    shop.limits = replace(ONE_RANGE, verify_within=timedelta(hours=24))
    run = shop.capture()
    assert 100 <= run.verifications[0].rows_source <= 150
    # Ranges that would be too late in the next run do not wait for their turn.
    shop.warehouse.execute(
        "update audit.key_range set verified_at = verified_at - interval '25 hours' where table_name = %s and "
        "low_key[1]::bigint in (1010, 2010)",
        [name],
    )
    shop.warehouse.execute(
        "update audit.watermark set captured_at = captured_at - interval '2 hours' where table_name = %s",
        [name],
    )
    shop.capture()
    assert {1010, 2010} < {low for low, _, is_new in ranges(shop, name) if is_new}


def test_budget_is_that_of_the_time_since_the_last_run_also_beside_live_and_reconcile(shop: Pipeline) -> None:
    name = make(shop, 400)
    for statement in (
        "update audit.key_range set verified_at = verified_at - interval '6 hours' where table_name = %s",
        "update audit.verification set captured_at = captured_at - interval '6 hours' where table_name = %s",
    ):
        shop.warehouse.execute(statement.encode(), [name])
    # A batch of live has moved the position just now, and a reconcile has verified all of it.
    assert reconciled(shop).verdict == "equal"
    shop.limits = replace(ONE_RANGE, verify_within=timedelta(hours=24))
    assert 100 <= shop.capture().verifications[0].rows_source <= 150
    assert shop.capture().verifications[0].rows_source == 10


def test_table_that_is_called_as_an_index_of_another_one_might_be_is_captured_with_it(shop: Pipeline) -> None:
    name = make(shop)
    keys = f"{name}_keys"
    shop.do(
        f"create table {keys} (id bigint primary key, value text, updated_at timestamptz default now())",
        f"create index on {keys} (updated_at)",
        f"insert into {keys} select n, 'as it was' from generate_series(1, 3000) as n",
    )
    shop.source = replace(only(name), tables=(*only(name).tables, *only(keys).tables))
    for number in range(3):
        shop.do(
            f"insert into {name} select 100000 * {number + 1} + n, 'new' from generate_series(1, 2000) as n",
            f"update {keys} set value = '{number}', updated_at = now() where id % 2 = 0",
        )
        shop.capture()
        assert_same(shop, name)
        assert_same(shop, keys)


def test_ranges_that_were_verified_while_the_clock_was_ahead_are_the_oldest(shop: Pipeline) -> None:
    name = make(shop)
    shop.do(f"update {name} set value = 'unstamped'")
    for table, column in (("key_range", "verified_at"), ("watermark", "captured_at")):
        shop.warehouse.execute(
            f"update audit.{table} set {column} = {column} + interval '1 day' where table_name = %s".encode(),
            [name],
        )
    for _ in range(19):
        shop.capture()
    assert_same(shop, name)


def test_composite_keys_are_compared_as_rows(shop: Pipeline) -> None:
    name = f"line_{next(numbers)}"
    shop.do(
        f'create table {name} (day date, code text collate "C", n numeric, updated_at timestamptz, '
        "primary key (day, code, n))",
        f"create index on {name} (updated_at)",
        f"insert into {name} select '2024-01-01'::date + d, c, n, now() from generate_series(0, 4) as d, "
        "unnest(array['A', 'a', 'B', 'Ä', 'z']) as c, generate_series(1, 4) as n",
    )
    shop.source = only(name, key=("day", "code", "n"))
    shop.limits = ALL_RANGES
    shop.capture()
    assert shop.rows("select count(*) from audit.key_range where table_name = %s", name) == [(10,)]
    shop.do(
        f"update {name} set updated_at = null where code = 'a' and n = 2",
        f"delete from {name} where day = '2024-01-03' and code in ('Ä', 'B') and n = 1.0",
        f"insert into {name} values ('2023-12-31', '', 0, null), ('infinity', 'ZZ', 'NaN', null)",
    )
    shop.capture()
    assert last(shop, name) == {
        "inserted": 2, "updated": 5, "deleted": 2, "cursor_missed": 7, "found_by_checksum": 7,
    }  # fmt: skip
    assert_same(shop, name)


@pytest.mark.parametrize("names", [("number", "is_last"), ("<number>", "part 2"), ("part 2", "part 1")])
def test_columns_of_a_key_may_have_any_names(shop: Pipeline, names: tuple[str, str]) -> None:
    name = f"named_{next(numbers)}"
    key = ", ".join(f'"{one}" int' for one in names)
    shop.do(
        f'create table {name} ({key}, value text, updated_at timestamptz, primary key ("{names[0]}", "{names[1]}"))',
        f"create index on {name} (updated_at)",
        f"insert into {name} select n / 5, n % 5, 'as it was', now() from generate_series(1, 20) as n",
    )
    shop.source = only(name, key=names)
    shop.limits = ALL_RANGES
    shop.capture()
    assert shop.rows("select count(*) from audit.key_range where table_name = %s", name) == [(2,)]
    shop.do(
        f"update {name} set value = 'changed', updated_at = null where \"{names[1]}\" = 3",
        f'delete from {name} where "{names[0]}" = 2 and "{names[1]}" < 2',
    )
    shop.capture()
    assert last(shop, name) == {"updated": 4, "deleted": 2, "cursor_missed": 4, "found_by_checksum": 4}
    assert_same(shop, name)


@pytest.mark.parametrize(
    ("kind", "key", "rows"),
    [
        ("uuid", "md5(n::text)::uuid", 40),
        ("bytea", "decode(md5(n::text), 'hex')", 40),
        ("timestamp", "'2024-01-01'::timestamp + n * interval '1 day'", 40),
        ("numeric(12, 3)", "n / 8.0", 40),
    ],
)
def test_keys_with_one_order_on_both_servers_are_compared_by_range(
    shop: Pipeline, kind: str, key: str, rows: int
) -> None:
    name = f"item_{next(numbers)}"
    shop.do(
        f"create table {name} (id {kind} primary key, updated_at timestamptz default now())",
        f"create index on {name} (updated_at)",
        f"insert into {name} select {key} from generate_series(1, {rows}) as n",
    )
    shop.source, shop.limits = only(name), ALL_RANGES
    shop.capture()
    assert shop.rows("select count(*) from audit.key_range where table_name = %s", name) == [(rows // 10,)]
    shop.do(
        f"delete from {name} where id in (select id from {name} order by id limit 3)",
        f"insert into {name} select {key}, null from generate_series({rows + 1}, {rows + 5}) as n",
    )
    shop.capture()
    assert last(shop, name) == {"inserted": 5, "deleted": 3, "cursor_missed": 5, "found_by_checksum": 5}
    assert_same(shop, name)


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("numeric", ["NaN", "Infinity", "-Infinity", "0", "-1.50", "1e100", "1.0"]),
        ("timestamptz", ["-infinity", "infinity", "2024-01-01 00:00+05", "0044-03-15 BC", "294276-12-31"]),
        ("bytea", ["", "\\x5c", "\\x00", "\\xff00", "\\x5c5c"]),
        ("smallint", ["-32768", "-1", "0", "32767"]),
        (
            'text collate "C"',
            ["", " ", "'", "\\", "\\.", "\n", "\t", "NULL", "{a,b}", '"', "é", "Z", "a", "😀", "\uffff", "%s"],
        ),
    ],
)  # fmt: skip
def test_unusual_keys_are_bounds_as_any_other(shop: Pipeline, kind: str, keys: list[str], size: int) -> None:
    name = f"kind_{next(numbers)}"
    shop.do(
        f"create table {name} (id {kind} primary key, n integer, updated_at timestamptz default now())",
        f"create index on {name} (updated_at)",
    )

    def insert(some: list[str], n: int) -> None:
        for key in some:
            shop.shop.execute(f"insert into {name} values (%s, {n}, null)".encode(), [key])

    insert(keys[::2], 1)
    shop.source, shop.limits = only(name), replace(ALL_RANGES, range_rows=size)
    shop.capture()
    assert shop.rows("select count(*) from audit.key_range where table_name = %s", name) == [
        (-(-len(keys[::2]) // size),)
    ]
    insert(keys[1::2], 2)
    for statement in (
        f"update {name} set n = 3 where id = (select id from {name} order by id limit 1)",
        f"delete from {name} where n = 1",
        f"delete from {name}",
    ):
        shop.do(statement)
        shop.capture()
        assert_same(shop, name)
    insert(keys, 1)
    shop.capture()
    assert_same(shop, name)


def test_keys_that_may_be_null_have_no_ranges_since_none_would_hold_them(shop: Pipeline) -> None:
    name = f"nullable_{next(numbers)}"
    shop.do(
        f"create table {name} (id bigint unique, updated_at timestamptz default now())",
        f"create index on {name} (updated_at)",
        f"insert into {name} select n from generate_series(1, 40) as n",
    )
    shop.source, shop.limits = only(name), ALL_RANGES
    shop.capture()
    shop.do(f"insert into {name} values (null, null)")
    with pytest.raises(SourceError, match="is null in some rows"):
        shop.capture()


def test_keys_of_which_only_new_rows_may_not_be_null_have_no_ranges(shop: Pipeline) -> None:
    if shop.shop.info.server_version < 180000:
        pytest.skip("before PostgreSQL 18 all rows keep such a constraint")
    name = f"half_{next(numbers)}"
    shop.do(
        f"create table {name} (id bigint unique, updated_at timestamptz default now())",
        f"create index on {name} (updated_at)",
        f"insert into {name} select n from generate_series(1, 40) as n",
    )
    shop.source, shop.limits = only(name), ALL_RANGES
    shop.capture()
    shop.do(
        f"insert into {name} values (null, null)",
        f"alter table {name} add constraint later not null id not valid",
    )
    with pytest.raises(SourceError, match="is null in some rows"):
        shop.capture()


def test_collation_of_another_schema_gives_no_ranges(shop: Pipeline) -> None:
    name = f"word_{next(numbers)}"
    shop.do(
        f"create schema other_{name}",
        f"create collation other_{name}.plain (locale = 'C')",
        f"create table {name} (id text collate other_{name}.plain primary key, "
        "updated_at timestamptz default now())",
        f"create index on {name} (updated_at)",
        f"insert into {name} select 'key ' || n from generate_series(1, 60) as n",
    )
    shop.source, shop.limits = only(name), ALL_RANGES
    shop.capture()
    shop.do(f"delete from {name} where id ~ '7$'")
    shop.capture()
    assert last(shop, name) == {"deleted": 6}
    assert_same(shop, name)


@pytest.fixture
def english_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database that sorts texts as en_US does, on a server of its own: its locale is made here."""
    locales, program = tmp_path / "locales", shutil.which("localedef")
    locales.mkdir()
    command = [str(program), "-i", "en_US", "-f", "UTF-8", str(locales / "en_US.utf8")]
    if program is None or subprocess.run(command, check=False).returncode:
        pytest.skip("locale en_US cannot be made on this machine")
    if (usual := Path("/usr/lib/locale/C.utf8")).exists():
        shutil.copytree(usual, locales / "C.utf8")
    monkeypatch.setitem(ENVIRONMENT, "LOCPATH", str(locales))
    cluster = EmbeddedPostgres(tmp_path / "english", MAJOR, SETTINGS)
    cluster.start()
    try:
        with psycopg.connect(cluster.url(), autocommit=True) as connection:
            connection.execute(
                "create database english template template0 locale_provider libc locale 'en_US.utf8'"
            )
        yield cluster.url("english")
    finally:
        cluster.stop()


def test_text_keys_that_the_source_sorts_as_en_us_have_no_ranges_unless_their_index_is_in_c(
    english_url: str, warehouse_url: str
) -> None:
    with closing(Pipeline(english_url, warehouse_url)) as shop:
        shop.limits = ALL_RANGES
        english, plain = "english", "plain"
        for name, collation in ((english, ""), (plain, 'collate "C"')):
            shop.do(
                f"create table {name} (id text {collation} primary key, updated_at timestamptz default now())",
                f"create index on {name} (updated_at)",
                f"insert into {name} select chr(97 + n % 26) || n from generate_series(1, 60) as n",
                f"insert into {name} select chr(65 + n % 26) || n from generate_series(1, 60) as n",
                f"insert into {name} values ('é'), ('É'), ('-a'), ('a-b'), ('ab')",
            )
        # Upper and lower case are sorted between each other.
        (order,) = shop.shop.execute("select string_agg(id, ' ' order by id) from english").fetchone() or (
            "",
        )
        assert "a26 A26 a52" in order
        shop.source = replace(only(english), tables=(*only(english).tables, *only(plain).tables))
        shop.capture()
        for name in (english, plain):
            shop.do(
                f"delete from {name} where id ~ '7$'", f"update {name} set updated_at = null where id ~* 'b'"
            )
        shop.capture()
        assert shop.rows("select table_name, count(*) from audit.key_range group by table_name") == [
            (plain, 13)
        ]
        # All of the other one is compared, since its time has come.
        assert [one.reading for one in shop.runs[-1].staged.tables] == ["complete", "ranges"]
        for name in (english, plain):
            assert last(shop, name)["deleted"] == 12
            assert_same(shop, name)


# --- what is published, and what is not -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "gone",
    [
        "id between 305 and 605",
        "id % 30 = 0",
        *(
            pytest.param(gone, marks=pytest.mark.slow)
            for gone in ("id between 205 and 505", "id <= 300", "id > 700")
        ),
    ],
)
def test_mass_delete_is_not_published_before_it_is_confirmed(shop: Pipeline, gone: str) -> None:
    name = make(shop)
    shop.do(f"delete from {name} where {gone}")
    for _ in range(12):
        before = in_mirror(shop, name)
        try:
            shop.capture(max_delete_share=0.1)
        except DeleteThresholdExceeded as error:
            assert f"{name} (" in error.what and "rows verified in this run" in error.what
        assert in_mirror(shop, name) == before
    assert len(in_mirror(shop, name)) == 100
    with pytest.raises(DeleteThresholdExceeded):
        shop.capture(max_delete_share=0.1)
    # Once, for all of the table.
    shop.capture(max_delete_share=0.1, confirm_deletes=True)
    assert_same(shop, name)


def test_few_deletes_in_each_slice_are_too_many_since_the_rotation_began(shop: Pipeline) -> None:
    shop.limits = replace(ONE_RANGE, range_rows=50)
    name = make(shop, 400)
    shop.do(f"delete from {name} where id % 500 between 100 and 200")
    with pytest.raises(DeleteThresholdExceeded, match=r"rows verified since 20.* UTC, 2\d%"):
        for _ in range(12):
            shop.capture(max_delete_share=0.1, delete_floor_rows=12)
    # One answer is enough for these, too.
    shop.capture(max_delete_share=0.1, delete_floor_rows=12, confirm_deletes=True)
    assert_same(shop, name)


def test_ranges_that_are_verified_again_dilute_no_delete_threshold(shop: Pipeline) -> None:
    name = make(shop, 100)
    # A fifth of each range but the newest, which is verified between the others.
    shop.do(f"delete from {name} where id % 100 between 40 and 50 and id < 900")
    with pytest.raises(DeleteThresholdExceeded, match=r"\d+ of \d+ rows verified since 20.* UTC, 1[678]%"):
        for _ in range(20):
            shop.do(f"update {name} set updated_at = now() where id = 1000")
            shop.capture(max_delete_share=0.15, delete_floor_rows=12)
    assert shop.rows(
        "select rotation_rows_verified <= 100, rotation_rows_deleted from audit.watermark where table_name = %s",
        name,
    ) == [(True, 12)]
    # What a reconcile has verified is counted when a run verifies it.
    shop.capture()
    reconciled(shop)
    shop.do(f"delete from {name} where id = 70")
    shop.capture(max_delete_share=0.15, delete_floor_rows=0, limits=ALL_RANGES)
    assert_same(shop, name)


def test_table_of_which_nothing_is_left_is_confirmed_however_small(shop: Pipeline) -> None:
    name = make(shop, 9)
    shop.do(f"delete from {name}")
    with pytest.raises(DeleteThresholdExceeded, match=rf"{name} \(9 of 9 rows, 100%\)"):
        shop.capture(max_delete_share=0.1, delete_floor_rows=10)
    shop.capture(max_delete_share=0.1, delete_floor_rows=10, confirm_deletes=True)
    assert_same(shop, name)


def test_batch_that_is_older_than_what_was_published_is_refused(shop: Pipeline) -> None:
    name = make(shop)
    with start_run(shop.warehouse_url, flow="ingest-shop") as older:
        staged = stage(older, shop.source, shop.shop_url, threshold=CONFIRMED, limits=ONE_RANGE)
        shop.do(f"update {name} set value = 'newer', updated_at = now() where id = 10")
        shop.capture()
        newer = in_mirror(shop, name)
        with pytest.raises(BatchOutdated, match=f"run {shop.runs[-1].run_id} has published public.{name}"):
            publish(older, staged)
    assert in_mirror(shop, name) == newer


def test_batch_that_was_read_before_a_release_migrated_the_warehouse_is_refused(shop: Pipeline) -> None:
    name = make(shop)
    before = in_mirror(shop, name)
    with start_run(shop.warehouse_url, flow="ingest-shop") as run:
        shop.do(f"update {name} set value = 'newer', updated_at = now() where id = 10")
        staged = stage(run, shop.source, shop.shop_url, threshold=CONFIRMED, limits=ONE_RANGE)
        shop.warehouse.execute("update alembic_version set version_num = '9999'")
        with pytest.raises(SchemaOutdated, match="at revision 9999"):
            publish(run, staged)
        shop.warehouse.execute("update alembic_version set version_num = %s", [newest()])
    assert in_mirror(shop, name) == before
    shop.capture()
    assert_same(shop, name)


def test_run_that_publishes_nothing_has_verified_nothing(shop: Pipeline) -> None:
    name = make(shop)
    before = audited(shop, name)
    with start_run(shop.warehouse_url, flow="ingest-shop") as run:
        stage(run, shop.source, shop.shop_url, threshold=CONFIRMED, limits=ALL_RANGES)
    assert audited(shop, name) == before


def test_mirror_that_differs_after_the_publish_is_reported_and_verified_next(shop: Pipeline) -> None:
    name = make(shop)
    with (
        pytest.raises(
            VerificationFailed, match=rf"{name}: 10 rows in the source, 9 in the mirror, 1 of 64 chunks"
        ),
        start_run(shop.warehouse_url, flow="ingest-shop") as run,
    ):
        staged = stage(run, shop.source, shop.shop_url, threshold=CONFIRMED, limits=ONE_RANGE)
        publish(run, staged)
        shop.warehouse.execute(f"delete from raw.shop_{name} where id = 50".encode())
        verify(run, staged)
    assert shop.rows("select low_key from audit.key_range where verified_at is null") == [([],)]
    shop.capture()
    assert last(shop, name) == {"inserted": 1, "cursor_missed": 1, "found_by_checksum": 1}
    assert shop.rows("select count(*) from audit.key_range where verified_at is null") == [(0,)]
    assert_same(shop, name)


def test_full_refresh_whose_mirror_differs_is_verified_next(shop: Pipeline) -> None:
    name = make(shop)
    with (
        pytest.raises(VerificationFailed, match=f"{name}: 100 rows in the source, 99 in the mirror"),
        start_run(shop.warehouse_url, flow="ingest-shop") as run,
    ):
        staged = stage(
            run, shop.source, shop.shop_url, threshold=CONFIRMED, limits=ONE_RANGE, full_refresh=True
        )
        publish(run, staged)
        shop.warehouse.execute(f"delete from raw.shop_{name} where id = 550".encode())
        verify(run, staged)
    assert verified_since(shop, name) == [(None,)]
    shop.capture()
    assert_same(shop, name)


def test_what_a_run_claims_that_died_is_forgotten_also_after_live_has_published(shop: Pipeline) -> None:
    name = make(shop)
    with pytest.raises(KeyboardInterrupt), start_run(shop.warehouse_url, flow="ingest-shop") as run:
        publish(run, stage(run, shop.source, shop.shop_url, threshold=CONFIRMED, limits=ONE_RANGE))
        raise KeyboardInterrupt
    # As live leaves it: the position is its own, and what was known before goes on.
    with start_run(shop.warehouse_url, flow="live-shop") as live:
        shop.warehouse.execute(
            "update audit.watermark set run_id = %s where table_name = %s", [live.run_id, name]
        )
    complete = "select complete_at <> 'epoch' from audit.watermark where table_name = %s"
    claimed = "select count(*) from audit.key_range where table_name = %s and run_id = %s and verified_at is not null"
    assert shop.rows(claimed, name, run.run_id) == [(1,)]
    assert forget_unverified(shop.warehouse, "shop") > 0
    assert shop.rows(claimed, name, run.run_id) == [(0,)]
    assert shop.rows(complete, name) == [(True,)], "live claims nothing"


@pytest.mark.parametrize("is_whole", [False, True])
def test_what_a_run_has_verified_is_verified_again_if_it_ended_before_it_compared_the_mirror(
    shop: Pipeline, is_whole: bool
) -> None:
    name = make(shop)
    with pytest.raises(KeyboardInterrupt), start_run(shop.warehouse_url, flow="ingest-shop") as run:
        staged = stage(
            run, shop.source, shop.shop_url, threshold=CONFIRMED, limits=ONE_RANGE, full_refresh=is_whole
        )
        publish(run, staged)
        # What the publish was to write, and did not.
        shop.warehouse.execute(f"update raw.shop_{name} set value = 'other' where id in (50, 550)".encode())
        raise KeyboardInterrupt
    verified = "select count(*) from audit.key_range where table_name = %s and run_id = %s"
    assert shop.rows(verified, name, run.run_id) == [(10 if is_whole else 1,)]
    shop.capture()
    assert last(shop, name)["found_by_checksum"] == (2 if is_whole else 1)
    assert shop.rows(verified, name, run.run_id) == [(0,)]
    unverified = "select count(*) from audit.key_range where table_name = %s and verified_at is null"
    assert shop.rows(unverified, name) == [(0,)]
    if is_whole:
        assert_same(shop, name)


@pytest.mark.parametrize("has_index", [True, False])
def test_table_without_ranges_whose_mirror_differs_is_read_whole_next(
    shop: Pipeline, has_index: bool
) -> None:
    name = f"word_{next(numbers)}"
    shop.do(
        f"create table {name} (id char(5) primary key, updated_at timestamptz default now())",
        f"insert into {name} select n from generate_series(1, 60) as n",
        *([f"create index on {name} (updated_at)"] if has_index else []),
    )
    shop.source = only(name)
    shop.capture()
    with (
        pytest.raises(VerificationFailed),
        start_run(shop.warehouse_url, flow="ingest-shop") as run,
    ):
        staged = stage(
            run, shop.source, shop.shop_url, threshold=CONFIRMED, limits=ONE_RANGE, full_refresh=True
        )
        publish(run, staged)
        shop.warehouse.execute(f"delete from raw.shop_{name} where id = '50'".encode())
        verify(run, staged)
    shop.capture()
    assert_same(shop, name)
    assert shop.capture().staged.tables[0].reading == ("ranges" if has_index else "skipped")


def audited(pipeline: Pipeline, name: str) -> list[tuple[object, ...]]:
    return [
        row
        for table in ("watermark", "key_range")
        for row in pipeline.warehouse.execute(
            f"select t::text from audit.{table} as t where table_name = %s order by 1".encode(), [name]
        ).fetchall()
    ]


def test_undo_takes_positions_and_ranges_back(shop: Pipeline) -> None:
    name = make(shop)
    shop.limits = ALL_RANGES
    before, mirror = audited(shop, name), in_mirror(shop, name)
    shop.do(
        f"update {name} set value = 'stamped', updated_at = now() where id = 10",
        f"update {name} set value = 'unstamped' where id = 610",
        f"insert into {name} select 10 * n from generate_series(101, 140) as n",
        f"delete from {name} where id between 205 and 445",
    )
    run = shop.capture()
    assert run.loads[f"raw.shop_{name}"].rows_found_by_checksum == 1
    with start_run(shop.warehouse_url, flow="undo") as undoing:
        undo(undoing, run.run_id)
    assert (audited(shop, name), in_mirror(shop, name)) == (before, mirror)
    shop.capture()
    assert_same(shop, name)


# --- what people see ------------------------------------------------------------------------------------------


def verified_since(pipeline: Pipeline, name: str) -> list[tuple[object, ...]]:
    return pipeline.rows(
        "select verified_since from mart.table_freshness where table_name = %s", f"raw.shop_{name}"
    )


def test_freshness_says_since_when_every_row_is_verified(shop: Pipeline) -> None:
    name = make(shop, 30)
    assert verified_since(shop, name) == [("run 1",)]
    shop.capture()
    shop.capture()
    assert verified_since(shop, name) == [("run 1",)]
    for _ in range(2):
        shop.capture()
    assert verified_since(shop, name) == [("run 2",)]
    with start_run(shop.warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_source(run, shop.source, shop.shop_url, repair=False)
    assert {one.verdict for one in verdicts if one.table_name == name} == {"equal"}
    count = "select count(*) from audit.key_range where table_name = %s and run_id = %s"
    assert shop.rows(count, name, run.run_id) == [(3,)]


def test_status_report_and_page_of_a_run_say_since_when_every_row_is_verified(
    shop: Pipeline, tmp_path: Path
) -> None:
    name = make(shop, 30)
    run = shop.capture()
    shop.warehouse.execute(
        "update audit.key_range set verified_at = '2024-02-03 04:05:06+00' where table_name = %s "
        "and low_key[1]::bigint = 110",
        [name],
    )
    page = run_page(read_run_details(shop.warehouse, run.run_id))
    assert "Large tables: every row verified since" in page
    assert f"raw.shop_{name}: 2024-02-03 04:05:06 UTC" in page.replace("\\", "")
    environment = os.environ | {"DWH_WAREHOUSE_URL": shop.warehouse_url, "COLUMNS": "300"}
    lines = command.run("status", environment=environment).stdout.splitlines()
    heading, row = (
        [cell.strip() for cell in re.split("[┃│]", line)]
        for line in lines
        if "every row verified since" in line or f"raw.shop_{name} " in line
    )
    assert row[heading.index("every row verified since")].startswith("2024-02-03 04:05")
    html = report.write(shop.warehouse_url, tmp_path / "report.html").read_text()
    assert ">Every row verified since</th>" in html
    assert re.search(rf"{name}<.*Every row verified since[^>]*>2024-02-03 04:05<", html)
    # The module's tests share a warehouse: to the next ones this table would be late.
    shop.warehouse.execute("delete from audit.key_range where table_name = %s", [name])


def test_page_of_a_run_says_which_tables_it_has_verified_in_part_also_beside_live(shop: Pipeline) -> None:
    name = make(shop, 30)
    first, second = shop.runs[-1], shop.capture()
    with start_run(shop.warehouse_url, flow="live-shop") as live:
        # As its batch would.
        shop.warehouse.execute(
            "update audit.watermark set run_id = %s where table_name = %s", [live.run_id, name]
        )
    pages = [read_run_details(shop.warehouse, run_id) for run_id in (second.run_id, live.run_id)]
    assert [[(one["table_name"], one["is_part"]) for one in page.verified] for page in pages] == [
        [(f"raw.shop_{name}", True)],
        [],
    ]
    assert [shop.format_value(one["verified_since"]) for one in pages[0].verified] == ["run 1"]
    assert [one.verifications[0].is_part for one in (first, second)] == [False, True]
    shop.capture(full_refresh=True)
    assert [one["is_part"] for one in read_run_details(shop.warehouse, shop.runs[-1].run_id).verified] == [
        False
    ]


@pytest.mark.parametrize(("kind", "value"), [('text collate "C"', "'k' || n"), ("numeric", "n / 2.0")])
def test_key_says_when_its_range_was_verified(shop: Pipeline, kind: str, value: str) -> None:
    name = f"reading_{next(numbers)}"
    shop.do(
        f"create table {name} (id {kind}, part integer, updated_at timestamptz default now(), primary key (id, part))",
        f"create index on {name} (updated_at)",
        f"insert into {name} select {value}, n, '2024-01-01' from generate_series(1, 35) as n",
    )
    shop.source = only(name, ("id", "part"))
    shop.capture()
    (table,) = shop.source.tables
    shop.warehouse.execute(
        "update audit.key_range set verified_at = '2024-01-01'::timestamptz + cardinality(low_key) * interval '1 day' "
        "+ hashtext(low_key::text) * interval '1 us' where table_name = %s",
        [name],
    )
    ranges_of_keys = shop.warehouse.execute(
        sql.SQL(
            """
            select id::text, part::text, (
                select verified_at from audit.key_range
                where table_name = {name}
                    and (low_key = '{{}}' or (low_key[1]::{kind}, low_key[2]::integer) <= (id, part))
                order by low_key = '{{}}', (low_key[1]::{kind}) desc, low_key[2]::integer desc limit 1
            ) from raw.{mirror}
            """
        ).format(name=sql.Literal(name), kind=sql.SQL(kind), mirror=sql.Identifier(f"shop_{name}"))
    ).fetchall()
    assert len({verified_at for *_, verified_at in ranges_of_keys}) == 4
    for *key, verified_at in ranges_of_keys:
        assert find_verdict(shop.warehouse, table, key) == RangeVerdict(verified_at)
    node = Origin(shop.warehouse, shop.source).mirrored(table, ranges_of_keys[0][:2])
    assert node is not None and f"verified at {ranges_of_keys[0][2]:%Y-%m-%d %H:%M}" in str(
        node.facts["snapshot"]
    )
    shop.warehouse.execute("update audit.key_range set verified_at = null where table_name = %s", [name])
    assert "its key range is the next to be verified" in str(
        Origin(shop.warehouse, shop.source).mirrored(table, ranges_of_keys[0][:2])
    )


def test_reconcile_verifies_all_ranges_and_names_those_that_the_next_run_reads(shop: Pipeline) -> None:
    name = make(shop, 50)
    shop.do(
        f"update {name} set value = 'unstamped' where id = 110",
        f"update {name} set value = 'stamped', updated_at = now() where id = 220",
        f"delete from {name} where id = 330",
    )
    with start_run(shop.warehouse_url, flow="reconcile") as run:
        (verdict,) = (
            one
            for one in reconcile_source(run, shop.source, shop.shop_url, repair=True)
            if one.table_name == name
        )
    assert (verdict.verdict, verdict.rows_pending) == ("equal", 3)
    assert shop.warehouse.execute(
        "select row_count, verified_at is null, run_id = %s from audit.key_range where table_name = %s "
        "order by low_key[1]::bigint nulls first",
        [run.run_id, name],
    ).fetchall() == [
        (10, False, True),
        (10, True, True),
        (10, False, False),
        (10, True, True),
        (10, False, True),
    ]
    shop.capture()
    assert last(shop, name) == {"updated": 2, "deleted": 1, "cursor_missed": 1, "found_by_checksum": 1}
    assert_same(shop, name)


def test_reconcile_repairs_a_row_that_no_run_has_written(shop: Pipeline) -> None:
    """One that bears a run may have been deleted at the source since: the next run finds out."""
    name = make(shop, 50)
    # By the cursor: no checksums of all of the table are known from now on.
    shop.capture()
    shop.warehouse.execute(
        f"insert into raw.shop_{name} (id, _run_id) values (331, 0), (332, {shop.runs[-1].run_id})".encode()
    )
    shop.do(f"delete from {name} where id = 330")
    verdict = reconciled(shop)
    assert [(one.problem, one.row_key["id"]) for one in verdict.differences] == [("extra", "331")]
    assert (verdict.verdict, verdict.rows_differing, verdict.rows_pending) == ("different", 1, 2)
    assert reconciled(shop, repair=True).rows_repaired == 1
    assert shop.rows(f"select id from raw.shop_{name} where id between 325 and 335 order by id") == [
        (330,), (332,)
    ]  # fmt: skip
    shop.capture()
    assert last(shop, name) == {"deleted": 2}
    assert_same(shop, name)


def test_reconcile_that_repairs_a_table_of_one_range_has_verified_it(shop: Pipeline) -> None:
    name = make(shop, 8)
    shop.warehouse.execute(f"update raw.shop_{name} set value = 'damaged' where id = 50".encode())
    with start_run(shop.warehouse_url, flow="reconcile") as run:
        reconcile_source(run, shop.source, shop.shop_url, repair=True)
    assert shop.rows(
        "select run_id, verified_at is null from audit.key_range where table_name = %s", name
    ) == [(run.run_id, False)]
    assert_same(shop, name)


def reconciled(pipeline: Pipeline, *, repair: bool = False) -> Verdict:
    """The verdict on the one mirror of a pipeline."""
    with start_run(pipeline.warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_source(run, pipeline.source, pipeline.shop_url, repair=repair)
    (verdict,) = (one for one in verdicts if one.layer == "mirror")
    return verdict


@pytest.mark.parametrize("parts", [1, 2])
def test_reconcile_repairs_a_row_that_was_written_before_its_range_was_verified(
    shop: Pipeline, parts: int
) -> None:
    name = f"reading_{next(numbers)}"
    key = ("part", "id")[-parts:]
    shop.do(
        f"create table {name} (id int, part int default 1, value text, updated_at timestamptz, "
        f"primary key ({', '.join(key)}))",
        f"insert into {name} select 10 * n, 1, 'as it was', '2024-01-01' from generate_series(1, 50) as n",
        f"create index on {name} (updated_at)",
    )
    shop.source = only(name, key=key)
    shop.capture()
    shop.do(f"update {name} set value = 'changed', updated_at = now() where id in (110, 500)")
    shop.await_open_transactions()
    shop.capture(limits=ALL_RANGES)
    # As if the first range had not been among those that were verified.
    shop.warehouse.execute(
        "update audit.key_range set (verified_at, snapshot_xmin) = (verified_at - interval '1 h', snapshot_xmin - 50) "
        "where table_name = %s and low_key = array[]::text[]",
        [name],
    )
    shop.warehouse.execute(
        "update audit.watermark set complete_xmin = complete_xmin - 50 where table_name = %s", [name]
    )
    shop.do(
        # Unstamped, in a range that was verified and in one that was not.
        f"update {name} set value = 'unstamped' where id in (120, 310)"
    )
    shop.warehouse.execute(
        f"update raw.shop_{name} set value = 'damaged' where id in (110, 500); "
        f"delete from raw.shop_{name} where id = 490".encode()
    )
    verdict = reconciled(shop, repair=True)
    assert sorted(one.row_key["id"] or "" for one in verdict.differences) == ["110", "490", "500"]
    assert (verdict.rows_differing, verdict.rows_pending, verdict.rows_repaired) == (3, 2, 3)
    assert {one.problem for one in verdict.differences} == {"changed", "missing"}
    shop.limits = ALL_RANGES
    shop.capture()
    assert last(shop, name) == {"updated": 2, "cursor_missed": 2, "found_by_checksum": 2}
    assert_same(shop, name)


@pytest.mark.parametrize("index", [True, False])
def test_reconcile_counts_as_verification_of_a_table_without_ranges(shop: Pipeline, index: bool) -> None:
    name = make_without_ranges(shop, index=index)
    shop.capture()
    assert verified_since(shop, name) == [("run 1",)]
    # What the cursor will show is no failure of the last run.
    shop.do(f"update {name} set value = 'stamped', updated_at = now() where id = 1")
    assert (reconciled(shop).rows_pending, verified_since(shop, name)) == (
        1,
        [("run 2" if index else "run 1",)],
    )
    for statement in (
        f"update {name} set value = 'unstamped' where id = 2",
        f"delete from {name} where id = 3",
    ):
        shop.do(statement)
        shop.capture()
        before = verified_since(shop, name)
        assert (reconciled(shop).rows_pending > 0, verified_since(shop, name)) == (True, before)
    run = shop.capture(full_refresh=True)
    assert reconciled(shop).rows_pending == 0
    assert shop.rows(
        "select complete_at > captured_at, run_id from audit.watermark where table_name = %s", name
    ) == [(True, run.run_id)]
    with start_run(shop.warehouse_url, flow="undo") as undoing:
        undo(undoing, run.run_id)
    assert verified_since(shop, name) == [("run 2" if index else "run 1",)]


def test_table_of_which_nothing_was_compared_is_not_called_equal(shop: Pipeline) -> None:
    name = make_without_ranges(shop)
    # Else a transaction of another test lets all rows count as changed since.
    shop.await_open_transactions()
    whole = shop.capture(full_refresh=True)
    shop.do(f"update {name} set value = 'stamped', updated_at = now() where id = 1")
    part = shop.capture()
    assert [run.verifications[0].is_compared for run in (whole, part)] == [True, False]
    verdicts = "select verdict, rows_source, chunks > 0 from audit.verification where run_id = %s"
    assert shop.rows(verdicts, part.run_id) == [("not_compared", 0, False)]
    # What people see is the last comparison.
    for mart in ("capture_verification", "reconciliation"):
        query = f"select verdict, run_id from mart.{mart} where table_name = %s"
        assert shop.rows(query, name) == [("equal", whole.run_id)]
    text = run_page(read_run_details(shop.warehouse, part.run_id))
    assert "Verified:" not in text
    snapshot = Origin(shop.warehouse, shop.source).mirrored(shop.source.tables[0], ["1"])
    assert snapshot is not None and "all rows were last compared at" in str(snapshot.facts["snapshot"])
    # Nor is it due again at once.
    assert shop.capture().staged.tables[0].reading == "ranges"
    # A difference that a reconcile has found is shown until the table is compared again.
    shop.warehouse.execute(f"update raw.shop_{name} set value = 'by hand' where id = 2".encode())
    assert reconciled(shop).verdict == "different"
    shop.capture()
    assert shop.rows("select verdict from mart.reconciliation where table_name = %s", name) == [
        ("different",)
    ]


def test_undo_forgets_what_a_reconcile_has_verified_since(shop: Pipeline) -> None:
    name = make(shop, 30)
    shop.do(f"update {name} set value = 'stamped', updated_at = now() where id = 10")
    undone = shop.capture()
    with start_run(shop.warehouse_url, flow="reconcile") as run:
        reconcile_source(run, shop.source, shop.shop_url, repair=False)
    with start_run(shop.warehouse_url, flow="undo") as undoing:
        undo(undoing, undone.run_id)
    assert shop.rows(
        "select count(*) from audit.key_range where table_name = %s and verified_at is null", name
    ) != [(0,)]
    shop.capture()
    assert_same(shop, name)


def test_rotation_that_falls_behind_is_mailed_once_until_it_has_caught_up(shop: Pipeline) -> None:
    name = make(shop, 40)
    rules = Rules(verify_within=timedelta(hours=24))

    def mails(hours: int) -> list[tuple[object, ...]]:
        shop.warehouse.execute(
            # Runs come all the time, and verify too little: the range that the last one has verified is not that old.
            "update audit.key_range set verified_at = verified_at - make_interval(hours => %s) where table_name = %s "
            "and low_key <> (select low_key from audit.key_range where table_name = %s "
            "order by verified_at desc, low_key limit 1)",
            [hours, name, name],
        )
        with start_run(shop.warehouse_url, flow="ingest-shop", rules=rules) as run:
            staged = stage(run, shop.source, shop.shop_url, threshold=CONFIRMED, limits=ONE_RANGE)
            publish(run, staged)
            verify(run, staged)
        return shop.rows(
            "select subject, occurrence_count, resolved_at is null from audit.outbox where kind = 'verification late'"
        )

    assert mails(25) == []
    subject = (
        "[dwh] ingest-shop verifies its source too slowly: 1 table is not verified within DWH_VERIFY_WITHIN."
    )
    assert mails(6) == [(subject, 1, True)]
    assert f"shop → {name}: 1 of 4 key ranges, the oldest at 20" in str(
        shop.rows("select body_text from audit.outbox where kind = 'verification late'")
    )
    assert mails(0) == [(subject, 1, False)]


def test_table_that_is_scanned_too_seldom_is_mailed_and_found_by_doctor(shop: Pipeline) -> None:
    name, other = make(shop, 30, index=False), make(shop, 10)
    word = f"word_{next(numbers)}"
    shop.do(
        f"create table {word} (id char(5) primary key, updated_at timestamptz)",
        f"insert into {word} select n from generate_series(1, 10) as n",
    )
    tables = [table for one in (name, word, other) for table in only(one).tables]
    shop.source = replace(only(name), tables=tuple(tables))
    shop.capture()
    for statement in (
        "update audit.watermark set complete_at = complete_at - interval '31 hours' where table_name = any(%s)",
        "update audit.key_range set verified_at = verified_at - interval '31 hours' where table_name = any(%s)",
    ):
        shop.warehouse.execute(statement.encode(), [[name, word]])
    limits = replace(ONE_RANGE, scan_interval=timedelta(days=7))
    rules = Rules(verify_within=timedelta(hours=24))
    with start_run(shop.warehouse_url, flow="ingest-shop", rules=rules) as run:
        staged = stage(run, shop.source, shop.shop_url, threshold=CONFIRMED, limits=limits)
        publish(run, staged)
        verify(run, staged)
    assert [one.reading for one in staged.tables] == ["skipped", "skipped", "ranges"]
    ((body,),) = shop.rows(
        "select body_text from audit.outbox where kind = 'verification late' and resolved_at is null"
    )
    assert f"shop → {name}: 3 of 3 key ranges, the oldest at 20" in body
    assert f"shop → {word}: last scanned at 20" in body and other not in body
    settings = Settings(scan_interval=timedelta(days=7), verify_within=timedelta(days=1))
    (finding,) = verification_findings(settings)
    assert finding.what == (
        "DWH_SCAN_INTERVAL (7 days, 0:00:00) is longer than DWH_VERIFY_WITHIN (1 day, 0:00:00): large tables without "
        "an index on their cursor are verified too late, which is mailed."
    )
    assert list(verification_findings(Settings())) == []


def test_doctor_names_the_missing_index_with_its_statement(shop: Pipeline) -> None:
    name = make(shop, 10, index=False)
    found = dict(group_notes(examine_access_paths(shop.shop, shop.source.tables[0])))
    assert found == {
        f"public.{name} (updated_at): no index begins with this cursor, so that the table is scanned every "
        "DWH_SCAN_INTERVAL, once it is large.": (f"create index concurrently on public.{name} (updated_at);")
    }
    shop.do(next(iter(found.values())))
    assert list(examine_access_paths(shop.shop, shop.source.tables[0])) == []


def test_doctor_names_in_one_line_all_tables_of_which_the_same_is_to_be_known(shop: Pipeline) -> None:
    first, second = (make(shop, 10, index=False) for _ in range(2))
    tables = [
        only(name, cursor=cursor).tables[0] for name in (first, second) for cursor in ("updated_at", None)
    ]
    notes = [note for table in tables for note in examine_access_paths(shop.shop, table)]
    assert list(group_notes(notes)) == [
        (
            f"public.{first} (updated_at), public.{second} (updated_at): no index begins with this cursor, so that the "
            "table is scanned every DWH_SCAN_INTERVAL, once it is large.",
            f"create index concurrently on public.{first} (updated_at); "
            f"create index concurrently on public.{second} (updated_at);",
        ),
        (
            f"public.{first}, public.{second}: without a cursor that is a time a table is scanned every "
            "DWH_SCAN_INTERVAL, once it is large.",
            "Declare the column that says when a row was changed as its cursor.",
        ),
    ]


def test_doctor_shows_a_statement_that_a_partitioned_table_takes_and_none_that_helps_no_parent(
    shop: Pipeline,
) -> None:
    parts, parent = f"parts_{next(numbers)}", f"parent_{next(numbers)}"
    columns = "(id bigint primary key, updated_at timestamptz)"
    shop.do(
        f"create table {parts} {columns} partition by range (id)",
        f"create table {parts}_1 partition of {parts} default",
        f"create table {parent} {columns}",
        f"create table {parent}_1 () inherits ({parent})",
    )
    (found,) = examine_access_paths(shop.shop, only(parts).tables[0])
    shop.do(found.hint.partition(";")[0])
    assert list(examine_access_paths(shop.shop, only(parts).tables[0])) == []
    found = next(examine_access_paths(shop.shop, only(parent).tables[0]))
    assert ("children" in found.what, found.table, found.hint) == (True, f"public.{parent}", "")


def test_statements_that_doctor_shows_can_be_run_whatever_the_names_are(shop: Pipeline) -> None:
    shop.do(
        'create table "product\'s ""x""" ("Id No" int, "order" int, "Changed at" timestamptz)',
        "create table including (id int not null, name text)",
        "create unique index on including (id) include (name)",
    )
    odd = Table("shop", 'product\'s "x"', "public", ("Id No", "order"), "Changed at")
    statements = [one.hint for one in examine_table(shop.shop, odd) if one.hint.startswith("create")]
    assert len(statements) == 2
    shop.do(*statements)
    assert not [one.hint for one in examine_table(shop.shop, odd) if one.hint.startswith("create")]
    including = Table("shop", "including", "public", ("id",), None)
    assert not [one.what for one in examine_table(shop.shop, including) if "guards" in one.what]


# --- tables that change their class ---------------------------------------------------------------------------


def test_table_that_grows_across_the_limit_and_shrinks_back_loses_nothing(shop: Pipeline) -> None:
    shop.limits = replace(ONE_RANGE, scan_rows=50)
    name = make(shop, 40)
    assert ranges(shop, name) == []
    shop.do(
        f"insert into {name} select 10 * n from generate_series(41, 80) as n",
        f"update {name} set value = 'unstamped' where id = 10",
    )
    shop.capture()
    assert last(shop, name) == {"inserted": 40, "updated": 1, "cursor_missed": 1}
    shop.do(f"update {name} set value = 'hidden' where id in (310, 360)")
    # Verified whole once more, and cut into ranges.
    shop.capture()
    assert last(shop, name) == {"updated": 2, "cursor_missed": 2}
    assert len(ranges(shop, name)) == 8
    shop.do(f"update {name} set value = 'hidden from the cursor' where id in (10, 310, 360)")
    shop.capture()
    assert last(shop, name)["updated"] == 1
    shop.limits = replace(shop.limits, verify_within=timedelta(0))
    shop.do(f"delete from {name} where id > 400")
    shop.capture()
    shop.do(f"update {name} set value = 'hidden again' where id in (20, 320)")
    shop.limits = replace(ONE_RANGE, scan_rows=50)
    shop.capture()
    assert last(shop, name) == {"updated": 2, "cursor_missed": 2}
    assert ranges(shop, name) == [] and shop.runs[-1].staged.tables[0].reading == "complete"
    assert_same(shop, name)


def test_read_by_the_cursor_hides_no_row_from_a_later_scan(shop: Pipeline) -> None:
    name = make(shop)
    shop.do(f"update {name} set value = 'unstamped' where id = 500")
    shop.await_open_transactions()
    for _ in range(2):
        assert shop.capture().changes() == {}
    shop.limits = ReadLimits()
    shop.capture()
    assert last(shop, name) == {"updated": 1, "cursor_missed": 1}
    assert_same(shop, name)


@pytest.mark.parametrize(
    "statement",
    [
        "begin; truncate {0}; insert into {0} values (10, 'anew', '2001-01-01'); commit",
        "create table {0}_kept as table {0}; drop table {0}; alter table {0}_kept rename to {0}; "
        "delete from {0} where id > 500; create index on {0} (updated_at); alter table {0} add primary key (id)",
    ],
)
def test_truncation_and_swap_are_seen_in_the_same_run(shop: Pipeline, statement: str) -> None:
    name = make(shop)
    shop.do(*statement.format(name).split("; ") if "begin" not in statement else [statement.format(name)])
    shop.capture()
    assert_same(shop, name)


def test_large_table_without_an_index_on_its_cursor_is_scanned_at_an_interval(shop: Pipeline) -> None:
    name = make(shop, index=False)
    shop.do(f"update {name} set value = 'changed', updated_at = now() where id = 10")
    run = shop.capture()
    load = run.loads[f"raw.shop_{name}"]
    assert last(shop, name) == {} and load.rows_read == 0
    assert (load.note or "").startswith(
        "not read in this run: no index begins with updated_at, so that it is scanned every 1:00:00, last at 20"
    )
    shop.limits = replace(ONE_RANGE, scan_interval=timedelta(0))
    load = shop.capture().loads[f"raw.shop_{name}"]
    assert last(shop, name) == {"updated": 1}
    # For its changes and its checksums once.
    assert load.source_rows_read == 100
    assert_same(shop, name)


def test_ranges_are_read_by_index_on_both_sides(shop: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    name = make(shop, 300)
    # A planner that is free to choose scans the table for nearly all of its rows.
    shop.limits = replace(ONE_RANGE, range_rows=290)
    shop.capture(full_refresh=True)
    shop.warehouse.execute(f"analyze raw.shop_{name}".encode())
    compute, scans = range_verification.compute_range_checksums, []

    def counted(connection: psycopg.Connection, *arguments: Any, **options: Any) -> Any:
        def count_scans() -> int:
            (scans,) = connection.execute(
                "select coalesce(sum(seq_scan), 0) from pg_stat_xact_user_tables "
                "where schemaname in ('public', 'raw') and relname = any(%s)",
                [[name, f"shop_{name}"]],
            ).fetchone() or (0,)
            return int(scans)

        before = count_scans()
        found = compute(connection, *arguments, **options)
        scans.append(count_scans() - before)
        return found

    monkeypatch.setattr(range_verification, "compute_range_checksums", counted)
    shop.capture()
    assert scans == [0, 0]


def test_half_full_statistics_never_make_a_range_a_scan(shop: Pipeline) -> None:
    name = make(shop, 300)
    run = shop.capture()
    load = run.loads[f"raw.shop_{name}"]
    assert load.source_rows_read is not None and load.source_rows_read <= 60
