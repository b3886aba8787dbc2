"""Live: what changes in a source is in the star a moment later, by the same path as a scheduled run."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from generators.shop import create_schema
from stack.postgres import EmbeddedPostgres
from tests.archive import load
from tests.conftest import MAJOR, RUN_FOLDER, SETTINGS
from tests.pipeline import CONFIRMED, LOCK_AWAITED, Pipeline, content, copy_of_shop
from warehouse.archive.place import Archive
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock, transaction_lock
from warehouse.db.schema_version import newest
from warehouse.errors import LockHeld, UndoBlocked
from warehouse.explain.explain import explain
from warehouse.extract.limits import ReadLimits
from warehouse.extract.stage import stage
from warehouse.extract.verification import verify
from warehouse.history.change_log import STAR_LOCK
from warehouse.live import archive as live_archive
from warehouse.live import loop
from warehouse.live import marts as live_marts
from warehouse.live.loop import Environment, SourceLoop
from warehouse.load import contract as contracts
from warehouse.load import marts
from warehouse.load.marts import refresh_days
from warehouse.load.publish import publish
from warehouse.load.reads import check_reads
from warehouse.migrations.revisions import upgrade
from warehouse.rebuild.rebuild import rebuild
from warehouse.runs import live_process
from warehouse.runs.alerts.rules import Rules
from warehouse.runs.audit import Load, record_load, start_run
from warehouse.runs.watchdog import watch
from warehouse.settings import Settings
from warehouse.sources.source import Source
from warehouse.undo.undo import undo


@pytest.fixture(scope="module")
def databases() -> Iterator[tuple[str, str]]:
    """A shop and a warehouse for all tests of this module, in a cluster of their own.

    Transactions that are open elsewhere in a cluster make live read a row twice: beside those of other tests, what it
    reads could not be counted.
    """
    folder = Path(os.environ[RUN_FOLDER]) / f"live postgres {uuid.uuid4().hex[:8]}"
    cluster = EmbeddedPostgres(folder, MAJOR, SETTINGS | {"autovacuum": "off"})
    cluster.start()
    try:
        for name, create in (("shop", create_schema), ("warehouse", upgrade)):
            cluster.create_database(name)
            create(cluster.url(name))
        urls = cluster.url("shop"), cluster.url("warehouse")
        with closing(Pipeline(*urls)) as pipeline:
            pipeline.open_shop()
            pipeline.insert("promotion")
            pipeline.order(1, "2024-03-10")
            pipeline.capture()
        yield urls
    finally:
        cluster.stop()
        shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Live looks more often, and tries again sooner."""
    monkeypatch.setattr(loop, "HEARTBEAT_SECONDS", 0.3)
    monkeypatch.setattr(loop, "LOCK_SECONDS", 1.0)
    monkeypatch.setattr(loop, "PAUSES", (0.1, 0.2))


@pytest.fixture
def shop(databases: tuple[str, str]) -> Iterator[Pipeline]:
    with closing(Pipeline(*databases)) as pipeline:
        yield pipeline


class Live:
    """A loop in a thread of its own."""

    def __init__(self, pipeline: Pipeline, source: Source | None = None, **settings: object) -> None:
        self.pipeline, self.lines, self.stop = pipeline, [], threading.Event()
        usual = {"warehouse_url": pipeline.warehouse_url, "live_interval": 0.05}
        self.settings = Settings(**usual | settings)  # type: ignore[arg-type]
        environment = Environment(self.settings, Rules(), lambda line, _: self.lines.append(line))
        self.loop = SourceLoop(source or pipeline.source, pipeline.shop_url, environment, self.stop)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.loop.run()
        except BaseException as error:
            self.error = error

    def start(self) -> "Live":
        self.thread.start()
        return self

    def end(self) -> None:
        self.stop.set()
        self.thread.join(120)
        assert not self.thread.is_alive()

    def wait(self, query: str, *parameters: object) -> None:
        """Wait until the warehouse answers `query` with a row."""
        wait_until(lambda: bool(self.pipeline.warehouse.execute(query.encode(), parameters).rowcount), self)


def wait_until(is_so: Callable[[], bool], live: Live | None = None, seconds: float = 120) -> None:
    give_up_at = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up_at, live.lines if live else "it never was"
        time.sleep(0.02)


@contextmanager
def live(pipeline: Pipeline, **settings: object) -> Iterator[Live]:
    process = Live(pipeline, **settings).start()
    try:
        yield process
    finally:
        process.end()


def touch(pipeline: Pipeline, table: str, assignment: str, condition: str = "true") -> None:
    pipeline.do(f"update {table} set {assignment}, updated_at = clock_timestamp() where {condition}")


def new_orders(pipeline: Pipeline, *ids: int) -> None:
    for number in ids:
        with pipeline.shop.transaction():
            pipeline.order(number, "2024-05-01", updated_at="2024-05-01")
            pipeline.do(
                f"update sales_order set updated_at = clock_timestamp() where id = {number}",
                f"update order_item set updated_at = clock_timestamp() where sales_order_id = {number}",
            )


def test_orders_changes_and_new_versions_are_in_the_star_a_moment_later(shop: Pipeline) -> None:
    with live(shop) as process:
        new_orders(shop, 10, 11)
        process.wait("select from dwh.fact_order_item where order_id = '11' having count(*) = 1")
        touch(shop, "customer", "loyalty_tier = 'gold'")
        process.wait("select from dwh.dim_customer where loyalty_tier = 'gold' and is_current")
        touch(shop, "order_item", "status = 'returned', returned_at = now()", "sales_order_id = 10")
        process.wait("select from dwh.fact_order_item where order_id = '10' and status = 'returned'")
    assert shop.rows("select status, error from audit.run where flow = 'live-shop' order by run_id") == [
        ("succeeded", None)
    ]
    assert (
        shop.rows(
            "select table_name, count(*) from audit.load inner join audit.run using (run_id) "
            "where flow = 'live-shop' group by 1 having count(*) > 1"
        )
        == []
    )
    run = shop.capture()
    assert run.changes() == {}


def statuses(pipeline: Pipeline, first_run: int) -> list[tuple[object, ...]]:
    return pipeline.rows(
        "select flow, status from audit.run where run_id > %s and flow <> 'undo' order by run_id", first_run
    )


def last_run(pipeline: Pipeline) -> int:
    ((run_id,),) = pipeline.rows("select coalesce(max(run_id), 0) from audit.run")
    assert isinstance(run_id, int)
    return run_id


def test_a_row_changed_in_ten_batches_is_undone_to_what_it_was_and_read_as_of_each(shop: Pipeline) -> None:
    shop.insert(
        "customer", id=77, document_number="77", username="u77", email="77@example.com", name="before"
    )
    new_orders(shop, 70)
    shop.capture()
    before = content(shop.warehouse)
    first = last_run(shop)
    with live(shop) as process:
        for number in range(10):
            touch(shop, "customer", f"name = 'name {number}'", "id = 77")
            touch(shop, "order_item", f"quantity = {number + 10}", "sales_order_id = 70")
            process.wait(
                "select from dwh.fact_order_item where order_id = '70' and quantity = %s", number + 10
            )
            process.wait(
                "select from dwh.dim_customer where customer_id = '77' and name = %s", f"name {number}"
            )
        new_orders(shop, 71)
        process.wait("select from dwh.fact_order_item where order_id = '71'")
        ((run_id,),) = shop.rows(
            "select run_id from audit.run where flow = 'live-shop' and run_id > %s", first
        )
        batches = shop.rows("select batch_number from audit.batch where run_id = %s order by 1", run_id)
        assert batches == [(number,) for number in range(1, len(batches) + 1)] and len(batches) >= 11
        assert (
            shop.rows(
                "select table_name, count(*) from audit.load where run_id = %s group by 1 having count(*) > 1",
                run_id,
            )
            == []
        )
        # The state after each batch, by its time.
        seen = [
            shop.warehouse.execute(
                "select quantity, (select count(*) from audit.fact_order_item_at(%(at)s) where order_id = '71') "
                "from audit.fact_order_item_at(%(at)s) where order_id = '70'",
                {"at": at},
            ).fetchone()
            for (at,) in shop.warehouse.execute(
                "select published_at from audit.batch where run_id = %s order by 1", [run_id]
            ).fetchall()
        ]
        quantities = [int(row[0]) for row in seen if row]
        assert quantities == sorted(quantities) and {10, 14, 19} <= set(quantities)
        assert [row[1] for row in seen if row] == [*[0] * (len(seen) - 1), 1]
        ((changes, numbers),) = shop.rows(
            "select count(*), count(distinct batch_number) from audit.fact_order_item_change "
            "where order_id = '70' and run_id = %s",
            run_id,
        )
        assert changes == numbers == 10
        # Undone while it is open: live is held back, and the star is as before.
        with (
            start_run(shop.warehouse_url, flow="undo") as undo_run,
            session_lock(undo_run.connection, "source shop", wait_seconds=120),
        ):
            undo(undo_run, int(str(run_id)))
        assert content(shop.warehouse) == before
        touch(shop, "order_item", "quantity = 99", "sales_order_id = 70")
        wait_until(lambda: any("dwh live --resume" in line for line in process.lines), process)
        assert content(shop.warehouse) == before
        assert shop.rows("select status from audit.run where run_id = %s", run_id) == [("undone",)]
        assert live_process.resume(shop.warehouse, ["shop"]) == ["shop"]
        process.wait("select from dwh.fact_order_item where order_id = '70' and quantity = 99")
        process.wait("select from dwh.fact_order_item where order_id = '71'")
    assert shop.capture().changes() == {}


def test_live_says_which_rights_its_login_has_not_and_goes_on_once_it_has_them(shop: Pipeline) -> None:
    shop.warehouse.execute("create role newcomer login password 'secret-9' in role dwh_reader")
    try:
        narrow = make_conninfo(shop.warehouse_url, user="newcomer", password="secret-9")
        with live(shop, warehouse_url=narrow) as process:
            wait_until(lambda: any("refuses its user: permission denied" in line for line in process.lines))
            assert "role dwh_owner run `dwh migrate`" in process.lines[-1]
            assert "secret-9" not in "".join(process.lines)
            shop.warehouse.execute("grant dwh_loader to newcomer")
            new_orders(shop, 60)
            process.wait("select from dwh.fact_order_item where order_id = '60'")
        assert shop.capture().changes() == {}
    finally:
        shop.warehouse.execute("drop owned by newcomer; drop role newcomer")


def test_settings_of_the_source_s_database_disturb_live_no_more_than_a_scheduled_run(shop: Pipeline) -> None:
    """It writes times in another way than usual, and ends statements that wait."""
    (name,) = shop.shop.execute("select current_database()").fetchone() or ()
    for setting in ("datestyle = 'SQL, DMY'", "statement_timeout = '200ms'"):
        shop.do(f"alter database {name} set {setting}")
    try:
        with live(shop) as process:
            touch(shop, "customer", "name = 'Of an odd server'")
            process.wait("select from dwh.dim_customer where is_current and name = 'Of an odd server'")
            with connect(shop.shop_url) as other:
                other.execute("set local statement_timeout = 0; lock table customer")
                waits = "select from pg_locks where not granted and relation = 'customer'::regclass"
                wait_until(lambda: bool(shop.shop.execute(waits).rowcount), process)
                time.sleep(0.4)
            touch(shop, "customer", "name = 'Ana'")
            process.wait("select from dwh.dim_customer where is_current and name = 'Ana'")
        assert process.lines == []
    finally:
        shop.do(f"alter database {name} reset all")


def test_rows_without_a_new_stamp_are_there_after_the_next_scheduled_run(shop: Pipeline) -> None:
    shop.insert("company", id=50, cuit="50", name="first")
    shop.insert("company", id=51, cuit="51", name="first")
    shop.capture()
    with live(shop) as process:
        shop.do("alter table company disable trigger user")
        shop.do(
            "update company set name = 'unstamped' where id = 50",
            "update company set name = 'no stamp', updated_at = null where id = 51",
            "alter table company enable trigger user",
        )
        new_orders(shop, 80)
        process.wait("select from dwh.fact_order_item where order_id = '80'")
    run = shop.capture()
    assert run.counts("dwh.dim_company")["inserted"] == 2
    assert shop.rows("select name from dwh.dim_company where company_id in ('50', '51') and is_current order by 1") == [
        ("no stamp",), ("unstamped",)
    ]  # fmt: skip


def test_a_scheduled_run_gets_its_turn_and_ends_the_run_of_live(shop: Pipeline) -> None:
    first = last_run(shop)
    number = count(1_000_000)
    with live(shop) as process:
        stop = threading.Event()

        def order() -> None:
            with closing(Pipeline(shop.shop_url, shop.warehouse_url)) as other:
                while not stop.is_set():
                    new_orders(other, next(number))

        buyer = threading.Thread(target=order)
        buyer.start()
        process.wait("select from dwh.fact_order_item where order_id = '1000001'")
        assert live_process.is_running(shop.warehouse, "shop")
        with (
            start_run(shop.warehouse_url, flow="ingest-shop") as run,
            session_lock(run.connection, "source shop"),
        ):
            # It asked for the lock without patience, as a flow does that is started by itself.
            staged = stage(run, shop.source, shop.shop_url, threshold=CONFIRMED)
            publish(run, staged)
            assert verify(run, staged)
        stop.set()
        buyer.join()
        process.wait("select from dwh.fact_order_item where order_id = %s", str(next(number) - 1))
    assert not live_process.is_running(shop.warehouse, "shop")
    assert statuses(shop, first) == [
        ("live-shop", "succeeded"), ("ingest-shop", "succeeded"), ("live-shop", "succeeded")
    ]  # fmt: skip
    assert shop.capture().changes() == {}


def test_after_a_scheduled_run_live_reads_positions_and_no_catalog_and_loads_none_of_its_rows_again(
    shop: Pipeline,
) -> None:
    new_orders(shop, 90_970)
    process = Live(shop)
    follower = process.loop

    def publish_next(order: int) -> None:
        new_orders(shop, order)
        wait_until(
            lambda: (
                follower._turn()
                and shop.rows("select from dwh.fact_order_item where order_id = %s", str(order)) != []
            ),
            process,
        )

    with follower._connected():
        publish_next(90_971)
        # The first run makes tables of staging that live has not made.
        shop.capture()
        publish_next(90_972)
        columns = {table.name: one.columns for table, one in follower._reader.tables.items()}
        shop.insert("brand", id=90_970, name="left in staging by the scheduled run")
        new_orders(shop, 90_973)
        shop.capture()
        before = last_run(shop)
        publish_next(90_974)
        known = {table.name: one.columns for table, one in follower._reader.tables.items()}
        assert all(known[name] is columns[name] for name in ("sales_order", "order_item"))
        assert shop.rows(
            "select batch_number, rows_read from audit.batch where run_id > %s order by 1", before
        ) == [(1, 2)]
        # What a scheduled run has changed of the tables is read.
        shop.do("comment on column order_item.quantity is 'Pieces'")
        shop.capture()
        publish_next(90_975)
        assert [
            one.comment
            for one in next(
                one for table, one in follower._reader.tables.items() if table.name == "order_item"
            ).columns
            if one.name == "quantity"
        ] == ["Pieces"]
    follower._record_stop()
    assert shop.capture().changes() == {}


def test_a_second_process_says_who_runs_and_ends(shop: Pipeline) -> None:
    with live(shop) as process:
        wait_until(lambda: any(one.is_alive for one in live_process.read_processes(shop.warehouse)), process)
        second = Live(shop).start()
        second.thread.join(120)
        assert isinstance(second.error, LockHeld)
        assert "runs already" in str(second.error) and "dwh live control shop" in str(second.error)
    (told,) = live_process.read_processes(shop.warehouse)
    assert told.stopped_at is not None and not told.is_alive


def test_a_backlog_is_worked_off_in_batches_with_orders_before_their_lines(shop: Pipeline) -> None:
    shop.capture()
    new_orders(shop, *range(200, 240))
    first = last_run(shop)
    with live(shop, live_batch_rows=15) as process:
        process.wait(
            "select from dwh.fact_order_item where order_id::bigint between 200 and 239 having count(*) = 40"
        )
    ((batches, read, most),) = shop.rows(
        "select count(*), sum(rows_read), max(rows_read) from audit.batch where run_id > %s", first
    )
    assert batches >= 6 and most <= 15 and read == 80
    assert shop.rows("select count(*) from audit.quarantine where run_id > %s", first) == [(0,)]
    assert shop.capture().changes() == {}


def test_the_mart_of_the_day_follows_within_seconds_and_equals_one_computed_again(shop: Pipeline) -> None:
    def day() -> list[tuple[object, ...]]:
        return shop.rows("select * from mart.sales_by_day order by 1, 2, 3")

    with start_run(shop.warehouse_url, flow="refresh-marts") as run:
        marts.refresh(run)
    before = day()
    with live(shop) as process:
        new_orders(shop, 900)
        touch(shop, "order_item", "status = 'cancelled'", "sales_order_id = 1")
        process.wait("select from dwh.fact_order_item where order_id = '900'")
        process.wait("select from dwh.fact_order_item where order_id = '1' and status = 'cancelled'")
        assert "sales_by_day" in refresh_days(shop.warehouse, run.run_id)
    followed = day()
    assert followed != before
    shop.warehouse.execute("delete from audit.mart_state")
    with start_run(shop.warehouse_url, flow="refresh-marts") as run:
        marts.refresh(run)
    assert day() == followed


def test_live_goes_on_after_its_connections_and_the_source_s_are_gone(shop: Pipeline) -> None:
    with live(shop) as process:
        new_orders(shop, 300)
        process.wait("select from dwh.fact_order_item where order_id = '300'")
        ended = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'dwh %' and pid <> "
        for connection in (shop.shop, shop.warehouse):
            connection.execute(f"{ended} pg_backend_pid() and datname = current_database()".encode())
        new_orders(shop, 301)
        process.wait("select from dwh.fact_order_item where order_id = '301'")
    # No connection is kept by a contract that has asked through it.
    assert contracts._data_source().data_source_connection is None
    assert any("Trying again in" in line for line in process.lines)
    assert shop.rows("select status, count(*) from audit.run where flow = 'live-shop' and status <> 'succeeded' "
                     "and status <> 'undone' group by 1") == []  # fmt: skip
    assert shop.capture().changes() == {}


def gated(pipeline: Pipeline, min_rows: int) -> Live:
    """Live that is stopped where 40% of a run's order lines are returned."""
    contract = pipeline.source.entities["order_item"].contract()
    contract = replace(
        contract,
        document={
            **contract.document,
            "checks": [{"failed_rows": {"name": "few returns", "expression": "status = 'returned'",
                                        "threshold": {"metric": "percent", "must_be_less_than": 40}}}],
        },
    )  # fmt: skip
    process = Live(pipeline, live_min_rows=min_rows)
    process.loop._reader.contracts = {**process.loop._reader.contracts, "order_item": contract}
    process.loop._compare_definitions = lambda run: None  # type: ignore[method-assign]
    return process


def tries(process: Live, of: str = "few returns") -> list[str]:
    return [line for line in process.lines if of in line and "Trying again" in line]


def test_a_backlog_of_large_rows_is_worked_off_in_batches_of_so_many_megabytes(shop: Pipeline) -> None:
    shop.capture()
    first = last_run(shop)
    for number in range(6):
        shop.insert("company", id=450 + number, cuit=str(450 + number), name="x" * 400_000)
        touch(shop, "company", "country = 'AR'", f"id = {450 + number}")
    with live(shop, live_batch_mb=1) as process:
        process.wait(
            "select from dwh.dim_company where company_id in ('450', '451', '452', '453', '454', '455') "
            "having count(*) = 6"
        )
    # The third row of each would be above a megabyte.
    assert (
        shop.rows("select rows_read from audit.batch where run_id > %s order by batch_id", first)
        == [(2,)] * 3
    )
    assert shop.capture().changes() == {}


def test_a_run_of_live_ends_after_its_minutes_and_explain_shows_run_and_batch_of_each_change(
    shop: Pipeline,
) -> None:
    new_orders(shop, 460)
    shop.capture()
    first = last_run(shop)
    with live(shop, live_run_minutes=2) as process:
        for quantity in (3, 4):
            touch(shop, "order_item", f"quantity = {quantity}", "sales_order_id = 460")
            process.wait("select from dwh.fact_order_item where order_id = '460' and quantity = %s", quantity)
        assert statuses(shop, first) == [("live-shop", "running")]
        assert process.loop._open is not None
        process.loop._open.started -= 120
        process.wait("select from audit.run where run_id > %s and status = 'succeeded'", first)
        touch(shop, "order_item", "quantity = 5", "sales_order_id = 460")
        process.wait("select from dwh.fact_order_item where order_id = '460' and quantity = 5")
    (one, later) = shop.rows("select run_id from audit.run where run_id > %s order by 1", first)
    assert statuses(shop, first) == [("live-shop", "succeeded")] * 2
    (node,) = explain(shop.warehouse, [shop.source], "order_item", ["460", "1"])
    changes = [child.facts for child in node.children if "batch" in child.facts]
    assert [(facts["batch"], facts["quantity"]) for facts in changes] == [
        (1, "2.000 → 3.000"), (2, "3.000 → 4.000"), (1, "4.000 → 5.000")
    ], node  # fmt: skip
    assert [
        f"run {run_id} " in str(facts) for facts, (run_id,) in zip(changes, (one, one, later), strict=True)
    ] == [True] * 3
    assert shop.capture().changes() == {}


def test_sigterm_ends_a_process_of_live_after_the_batch_that_it_is_at(
    captured: Pipeline, tmp_path: Path
) -> None:
    first = last_run(captured)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DWH_", "PREFECT_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "live", "shop"],
        env=kept | {"DWH_SHOP_URL": captured.shop_url, "DWH_WAREHOUSE_URL": captured.warehouse_url,
                    "DWH_HOME": str(tmp_path), "DWH_LAKE": str(tmp_path / "lake"), "DWH_ARCHIVE": "false"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        with connect(captured.warehouse_url) as other:
            other.execute("lock table dwh.fact_order_item in share mode")
            new_orders(captured, 470)
            wait_until(
                lambda: captured.rows(
                    "select count(*) from pg_stat_activity where application_name like 'dwh live-shop publish' "
                    "and wait_event_type = 'Lock'"
                ) == [(1,)]
            )  # fmt: skip
            process.send_signal(signal.SIGTERM)
            new_orders(captured, 471)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert captured.rows("select order_id from dwh.fact_order_item where order_id in ('470', '471')") == [
        ("470",)
    ]
    assert statuses(captured, first) == [("live-shop", "succeeded")]
    assert captured.rows("select stopped_at is not null from audit.live") == [(True,)]
    # Nothing is left of it, and nothing is lost.
    assert {table: counts["inserted"] for table, counts in captured.capture().changes().items()} == {
        "raw.shop_sales_order": 1, "raw.shop_order_item": 1, "dwh.fact_order_item": 1
    }  # fmt: skip
    assert captured.capture().changes() == {}


def test_a_gate_holds_a_busy_source_back_is_mailed_once_and_opens_when_the_rows_are_corrected(
    shop: Pipeline,
) -> None:
    shop.capture()
    first = last_run(shop)
    # More rows than the wrong ones alone: they are judged together with what the run has published before.
    process = gated(shop, min_rows=8).start()
    try:
        with shop.shop.transaction():
            new_orders(shop, *range(400, 406))
        process.wait("select from dwh.fact_order_item where order_id = '405'")
        touch(
            shop,
            "order_item",
            "status = 'returned', returned_at = now()",
            "sales_order_id between 400 and 405",
        )
        process.wait(
            "select from audit.run where flow = 'live-shop' and status = 'stopped' and run_id > %s", first
        )
        before = len(tries(process))
        for number in range(5000):
            touch(shop, "company", f"name = 'busy {number}'", "id = 1")
            time.sleep(0.02)
            if len(tries(process)) >= before + 3:
                break
        else:
            raise AssertionError(process.lines)
        assert shop.rows(
            "select count(*) from dwh.fact_order_item where status = 'returned' and order_id like '40_'"
        ) == [(0,)]
        assert statuses(shop, first) == [
            ("live-shop", "succeeded"),
            ("live-shop", "stopped"),
            ("live-shop", "running"),
        ]
        ((state, reason),) = shop.rows("select state, reason from audit.live")
        assert state == "waiting" and "few returns" in str(reason)
        touch(
            shop,
            "order_item",
            "status = 'complete', returned_at = null",
            "sales_order_id between 400 and 405",
        )
        process.wait("select from dwh.dim_company where name = %s", f"busy {number}")
        process.wait("select from audit.live where state = 'running' and reason is null")
    finally:
        process.end()
    assert statuses(shop, first) == [
        ("live-shop", "succeeded"),
        ("live-shop", "stopped"),
        ("live-shop", "succeeded"),
    ]
    assert shop.rows(
        "select kind, count(*) from audit.outbox where flow = 'live-shop' and kind = 'gate stopped' group by 1"
    ) == [("gate stopped", 1)]
    assert shop.rows(
        "select run.status, count(*) from audit.check_result inner join audit.run using (run_id) "
        "where run_id > %s and check_name = 'few returns' and outcome = 'failed' group by 1",
        first,
    ) == [("stopped", 1)]


def test_a_failure_that_lasts_is_recorded_once_also_beyond_a_scheduled_run_and_a_stop(shop: Pipeline) -> None:
    new_orders(shop, *range(410, 416))
    shop.capture()
    first = last_run(shop)
    returned = "status = 'returned', returned_at = now()", "sales_order_id between 410 and 415"
    process = gated(shop, min_rows=1).start()
    try:
        touch(shop, "order_item", *returned)
        process.wait("select from audit.run where status = 'stopped' and run_id > %s", first)
        process.wait("select from audit.run where status = 'running' and flow = 'live-shop'")
        with (
            start_run(shop.warehouse_url, flow="ingest-shop") as run,
            session_lock(run.connection, "source shop", wait_seconds=120),
        ):
            # Its contract has no such rule; what is returned after its snapshot is left to live.
            staged = stage(run, shop.source, shop.shop_url, threshold=CONFIRMED)
            touch(shop, "order_item", *returned)
            publish(run, staged)
            assert verify(run, staged)
        process.wait("select from audit.run where status = 'skipped' and run_id > %s", first)
        process.wait("select from audit.run where status = 'running' and flow = 'live-shop'")
    finally:
        process.end()
    assert statuses(shop, first) == [
        ("live-shop", "stopped"), ("live-shop", "skipped"), ("ingest-shop", "succeeded"), ("live-shop", "skipped")
    ]  # fmt: skip
    assert shop.rows(
        "select kind, occurrence_count, resolved_at is null from audit.outbox where run_id > %s", first
    ) == [("gate stopped", 1, True)]
    shop.capture()
    assert shop.capture().changes() == {}


def test_a_gate_in_one_source_holds_back_that_source_alone_and_its_pauses_grow(
    shop: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "PAUSES", (0.05, 0.1, 0.2, 0.4, 0.8))
    source = copy_of_shop("mall", tmp_path)
    shop.warehouse.execute("create database mall")
    mall_url = make_conninfo(shop.shop_url, dbname="mall")
    create_schema(mall_url)
    with closing(Pipeline(mall_url, shop.warehouse_url, source=source)) as mall:
        mall.open_shop()
        mall.insert("promotion")
        mall.order(1, "2024-03-10")
        shop.capture()
        mall.capture()
        held, free = gated(mall, min_rows=1).start(), Live(shop).start()
        try:
            touch(mall, "order_item", "status = 'returned', returned_at = now()")
            for number in range(95_000, 96_000):
                # Whatever the other source does between two tries, and whoever else publishes.
                new_orders(shop, number)
                free.wait("select from dwh.fact_order_item where order_id = %s", str(number))
                with shop.warehouse.transaction():
                    transaction_lock(shop.warehouse, STAR_LOCK)
                    touch(mall, "company", f"name = 'busy {number}'")
                    time.sleep(0.1)
                if len(tries(held)) >= 5:
                    break
            else:
                raise AssertionError(held.lines)
            assert held.pipeline.rows(
                "select order_id, status from dwh.fact_order_item where source_system = 'mall'"
            ) == [("1", "complete")]
            touch(mall, "order_item", "status = 'complete', returned_at = null")
            held.wait("select from audit.live where source = 'mall' and state = 'running'")
            held.wait(
                "select from dwh.dim_company where source_system = 'mall' and name = %s", f"busy {number}"
            )
        finally:
            held.end()
            free.end()
        pauses = [float(re.findall(r"in ([0-9.]+) s", line)[0]) for line in tries(held)]
        assert pauses[:5] == sorted(pauses[:5]) and pauses[4] > 0.5, pauses
        assert free.error is held.error is None and not tries(free, "")
        for one in (shop, mall):
            at_source = one.shop.execute(
                "select sales_order_id::text, line_number::text, quantity, status from order_item order by 1, 2"
            ).fetchall()
            assert at_source == one.rows(
                "select order_id, line_id, quantity, status from dwh.fact_order_item "
                "where source_system = %s order by 1, 2", one.source.name,
            )  # fmt: skip
            assert one.capture().changes() == {}
    shop.warehouse.execute("delete from audit.live where source = 'mall'")
    shop.warehouse.execute("drop database mall with (force)")


def test_an_entity_that_is_no_longer_declared_holds_live_back_until_a_run_has_recorded_it(
    shop: Pipeline,
) -> None:
    declared = shop.source
    shop.source = replace(declared, entities={"company": declared.entities["company"]})
    with live(shop) as process:
        touch(shop, "company", "name = 'fewer entities'", "id = 1")
        wait_until(lambda: bool(tries(process, "it is no longer declared")), process)
        assert shop.rows("select from dwh.dim_company where name = 'fewer entities'") == []
        shop.capture()
        touch(shop, "company", "name = 'followed again'", "id = 1")
        process.wait("select from dwh.dim_company where name = 'followed again'")
    # What is declared again is conformed as a whole by a run first.
    shop.source = declared
    shop.capture()
    assert shop.capture().changes() == {}


@pytest.mark.parametrize("ends", ["pg_terminate_backend", "pg_cancel_backend"])
def test_a_connection_that_is_lost_while_sql_is_checked_is_no_fault_of_the_sql(
    shop: Pipeline, ends: str
) -> None:
    with (
        connect(shop.warehouse_url, application_name="check") as checking,
        connect(shop.warehouse_url) as other,
        ThreadPoolExecutor() as threads,
    ):
        # The entity's own mirror is read before.
        other.execute("lock table raw.shop_sales_order")
        check = threads.submit(check_reads, checking, shop.source.entities["order_item"])
        wait_until(
            lambda: bool(
                shop.warehouse.execute(
                    f"select {ends}(pid) from pg_stat_activity "
                    "where application_name = 'check' and wait_event_type = 'Lock'".encode()
                ).rowcount
            )
        )
        with pytest.raises(psycopg.OperationalError):
            check.result(120)


def test_a_failure_is_recorded_once_however_often_it_is_tried_and_a_stop_meanwhile_is_recorded(
    shop: Pipeline,
) -> None:
    first = last_run(shop)
    process = Live(shop)
    process.loop._reader.url = shop.shop_url.replace(shop.shop.info.dbname, "nowhere")
    process.start()
    try:
        wait_until(lambda: sum("Trying again" in line for line in process.lines) >= 3, process)
        shop.warehouse.execute(
            "update audit.live set asked_at = now() - interval '1 hour', since = now() - interval '1 hour'"
        )
        shop.warehouse.execute("update audit.live set started_at = now() - interval '1 hour'")
        process.wait("select from audit.live where asked_at > now() - interval '1 minute'")
        # It is between two tries, and not gone.
        assert live_process.find_gone(shop.warehouse) == []
        ((state, reason),) = shop.rows("select state, reason from audit.live")
    finally:
        process.end()
    assert state == "waiting" and '"nowhere" does not exist' in str(reason)
    assert statuses(shop, first) == [("live-shop", "failed")]
    assert shop.rows("select stopped_at is not null from audit.live") == [(True,)]


def test_what_live_says_and_stores_of_an_error_has_no_password() -> None:
    assert "secret" not in loop._reason(RuntimeError("cannot read postgresql://shop:secret@host/shop"))


def test_live_that_started_before_the_first_run_follows_the_source_after_it(shop: Pipeline) -> None:
    # A table that was taken out of the declaration has its position still.
    shop.warehouse.execute("delete from audit.watermark where source = 'shop' and table_name <> 'brand'")
    shop.warehouse.execute(
        "update audit.watermark set table_name = 'gone', mirror = 'gone' where source = 'shop'"
    )
    with live(shop) as process:
        wait_until(lambda: sum("no run has read it yet" in line for line in process.lines) >= 10, process)
        shop.capture()
        wait_until(lambda: bool(process.loop._reader.hot), process)
        new_orders(shop, 970)
        process.wait("select from dwh.fact_order_item where order_id = '970'")
        # Nothing was read for the table that is gone, and it was not taken for another run's work again and again.
        wait_until(lambda: not process.loop._is_stale(), process)
    shop.warehouse.execute("delete from audit.watermark where table_name = 'gone'")


def test_an_undo_holds_live_back_also_while_nothing_happens_at_the_source(shop: Pipeline) -> None:
    with live(shop) as process:
        process.wait("select from audit.live where stopped_at is null and asked_at is not null")
        live_process.hold(shop.warehouse, "shop", last_run(shop), is_undone=False)
        process.wait("select from audit.live where state = 'waiting' and reason like '%%--resume%%'")
        assert live_process.resume(shop.warehouse, ["shop"]) == ["shop"]
        process.wait("select from audit.live where state = 'running'")


def test_live_waits_for_its_own_lock_where_the_server_does_not_know_yet_that_the_connection_is_gone(
    shop: Pipeline,
) -> None:
    with live(shop) as process:
        process.wait("select from audit.live where stopped_at is null and asked_at is not null")
        with connect(shop.warehouse_url, autocommit=True, application_name="ghost") as ghost:
            waiter = threading.Thread(
                target=lambda: ghost.execute("select pg_advisory_lock(7031, hashtext('live shop'))")
            )
            waiter.start()
            process.wait(LOCK_AWAITED)
            shop.warehouse.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where application_name = 'dwh live control shop' and datname = current_database()"
            )
            waiter.join()
            wait_until(lambda: any("its lock is still held" in line for line in process.lines), process)
        new_orders(shop, 980)
        process.wait("select from dwh.fact_order_item where order_id = '980'")
    assert process.error is None


def test_the_thread_of_marts_gives_up_its_place_before_writers_and_outlives_errors(
    shop: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RETRY_SECONDS", "PAUSE_SECONDS"):
        monkeypatch.setattr(live_marts, name, 0.05)
    monkeypatch.setattr(live_marts, "LOCK_SECONDS", 1)
    refreshed, lines, stop = [], [], threading.Event()

    def refresh(connection: psycopg.Connection, run_id: int) -> tuple[str, ...]:
        if not lines:
            raise RuntimeError("postgresql://dwh:secret@host/warehouse")
        refreshed.append(refresh_days(connection, run_id))
        return refreshed[-1]

    monkeypatch.setattr(live_marts, "refresh_days", refresh)
    thread_of_marts = live_marts.MartLoop(shop.warehouse_url, stop, lambda line, _: lines.append(line))
    thread = threading.Thread(target=thread_of_marts.run, daemon=True)
    with psycopg.connect(shop.warehouse_url) as writer:
        writer.execute("lock table dwh.fact_order_item in row exclusive mode")
        thread.start()
        thread_of_marts.published(last_run(shop))
        wait_until(lambda: any("lock timeout" in line for line in lines))
        assert not refreshed and "secret" not in lines[0]
    wait_until(lambda: bool(refreshed))
    stop.set()
    thread_of_marts.wake()
    thread.join(120)
    assert not thread.is_alive()


def test_a_replay_between_two_batches_of_a_run_is_later_than_the_run(shop: Pipeline) -> None:
    first = last_run(shop)
    with live(shop) as process:
        new_orders(shop, 990)
        process.wait("select from dwh.fact_order_item where order_id = '990'")
        with start_run(shop.warehouse_url, flow="replay") as replay:
            record_load(replay.connection, replay.run_id, Load("shop", "dwh.fact_order_item", rows_updated=1))
        new_orders(shop, 991)
        process.wait("select from dwh.fact_order_item where order_id = '991'")
    ((run_id,),) = shop.rows("select run_id from audit.run where flow = 'live-shop' and run_id > %s", first)
    with start_run(shop.warehouse_url, flow="undo") as undo_run, pytest.raises(UndoBlocked, match="replay"):
        undo(undo_run, int(str(run_id)))
    shop.warehouse.execute("delete from audit.load where run_id = %s", [replay.run_id])


def test_the_watchdog_mails_about_a_process_that_is_gone(shop: Pipeline) -> None:
    shop.warehouse.execute("delete from audit.live")
    live_process.begin(shop.warehouse, "shop")
    assert watch(shop.warehouse, [], Rules()).gone == []
    shop.warehouse.execute(
        "update audit.live set started_at = now() - interval '1 hour', since = now() - interval '1 hour'"
    )
    assert watch(shop.warehouse, [], Rules()).gone == ["shop"]
    assert watch(shop.warehouse, [], Rules()).gone == []
    assert shop.rows("select kind from audit.outbox where flow = 'live-shop' and kind = 'crashed'") == [
        ("crashed",)
    ]


def test_a_transaction_that_stays_open_makes_live_read_nothing_twice_and_lose_nothing(shop: Pipeline) -> None:
    first = last_run(shop)
    with live(shop) as process, psycopg.connect(shop.shop_url) as late:
        late.execute("insert into company (id, cuit, name, country) values (600, '600', 'late', 'AR')")
        # Part of it has a transaction id of its own.
        with late.transaction():
            late.execute(
                "insert into company (id, cuit, name, country) values (601, '601', 'late, too', 'AR')"
            )
        for number in range(500, 504):
            new_orders(shop, number)
            process.wait("select from dwh.fact_order_item where order_id = %s", str(number))
        time.sleep(0.5)
        ((read, batches),) = shop.rows(
            "select sum(rows_read), count(*) from audit.batch where run_id > %s", first
        )
        late.commit()
        process.wait("select from dwh.dim_company where company_id in ('600', '601') having count(*) = 2")
    # Each order and its line once; some batches see an order before its line is stamped anew.
    assert read <= 4 * 4 and batches <= 4 * 3
    assert shop.capture().changes() == {}


def test_live_that_starts_while_a_scheduled_run_is_between_stage_and_publish_takes_none_of_its_rows(
    captured: Pipeline,
) -> None:
    new_orders(captured, 950, 951)
    with (
        start_run(captured.warehouse_url, flow="ingest-shop") as run,
        session_lock(run.connection, "source shop"),
    ):
        staged = stage(run, captured.source, captured.shop_url, threshold=CONFIRMED)
        process = Live(captured).start()
        # It has read the catalogs and found rows; what is staged is the other run's.
        wait_until(lambda: any("waiting up to" in line for line in process.lines), process)
        published = publish(run, staged)
        assert verify(run, staged)
    process.end()
    (orders,) = [load for load in published.loads if load.table_name == "dwh.fact_order_item"]
    assert orders.rows_inserted == 2
    assert captured.capture().changes() == {}


def test_a_backlog_is_read_once_also_while_an_old_transaction_is_open(shop: Pipeline) -> None:
    shop.capture()
    first = last_run(shop)
    with psycopg.connect(shop.shop_url) as late:
        late.execute("select pg_current_xact_id()")
        new_orders(shop, *range(260, 280))
        with live(shop, live_batch_rows=5) as process:
            process.wait(
                "select from dwh.fact_order_item where order_id::bigint between 260 and 279 having count(*) = 20"
            )
        ((read, batches),) = shop.rows(
            "select sum(rows_read), count(*) from audit.batch where run_id > %s", first
        )
    assert read == 40
    assert batches <= 12
    assert shop.capture().changes() == {}


def test_scheduled_runs_read_nothing_twice_either_while_a_transaction_is_in_doubt(shop: Pipeline) -> None:
    """Here, where no transaction of another test is open: a table is read by its cursor, then scanned."""
    shop.do(
        "begin; update brand set name = 'In doubt', updated_at = now() where id = 1; prepare transaction 'in doubt'"
    )
    try:
        touch(shop, "customer", "state = 'In doubt'")
        read = [
            shop.capture(limits=ReadLimits(scan_rows=scan_rows)).loads["raw.shop_customer"].rows_read
            for scan_rows in (0, 0, 200_000, 200_000)
        ]
    finally:
        shop.do("commit prepared 'in doubt'")
    assert read[0] == shop.rows("select count(*) from raw.shop_customer where state = 'In doubt'")[0][0]
    assert read[1] == read[3] == 0
    assert shop.capture().counts("raw.shop_brand") == {"updated": 1}


def test_in_one_cluster_with_its_warehouse_live_is_not_woken_by_its_own_writes(shop: Pipeline) -> None:
    process = Live(shop)
    follower = process.loop
    with follower._connected():
        new_orders(shop, 90_980)
        wait_until(
            lambda: (
                follower._turn()
                and shop.rows("select from dwh.fact_order_item where order_id = '90980'") != []
            ),
            process,
        )
        batches = shop.rows("select count(*), sum(rows_read) from audit.batch")
        snapshots = set()
        for _ in range(20):
            assert follower._turn()
            snapshots.add(follower._reader.snapshot)
        # What it records of itself ends transactions of the cluster that the source is in.
        assert len(snapshots) > 1
        assert shop.rows("select count(*), sum(rows_read) from audit.batch") == batches
    follower._record_stop()


def test_live_forgets_what_a_run_claims_that_died_before_it_verified(captured: Pipeline) -> None:
    with pytest.raises(KeyboardInterrupt), start_run(captured.warehouse_url, flow="ingest-shop") as run:
        publish(run, stage(run, captured.source, captured.shop_url, threshold=CONFIRMED, full_refresh=True))
        raise KeyboardInterrupt
    new_orders(captured, 960)
    with live(captured) as process:
        process.wait("select from dwh.fact_order_item where order_id = '960'")
    assert captured.rows(
        "select count(*) from audit.watermark where source = 'shop' and complete_at <> 'epoch' "
        "and table_name in ('sales_order', 'order_item')"
    ) == [(0,)]
    assert captured.capture().verifications


def test_live_that_has_nothing_to_do_marks_runs_that_were_killed(captured: Pipeline) -> None:
    dead = """
        insert into audit.run (flow, launched_by, code_version, parameters, host, pid, status)
        values ('live-shop', 'me', '1', '{}', 'here', 1, 'running') returning run_id
    """
    ((run_id,),) = captured.rows(dead)
    with live(captured) as process:
        process.wait(f"select from audit.run where run_id = {run_id} and status = 'crashed'")
    assert captured.rows("select count(*) from audit.run where run_id > %s", run_id) == [(0,)]


def many_orders(pipeline: Pipeline, first: int, last: int) -> None:
    """Copies of order 1 and its line, stamped now."""
    for table, key in (("sales_order", "id"), ("order_item", "sales_order_id")):
        pipeline.do(
            f"insert into {table} select (jsonb_populate_record(one, jsonb_build_object('{key}', number, "
            f"'updated_at', now()))).* from {table} as one, generate_series({first}, {last}) as number "
            f"where {key} = 1"
        )


def driven_batches(pipeline: Pipeline, batches: int, first_id: int = 20_000) -> tuple[list[int], list[int]]:
    """So many batches of two orders and a change, one after the other, by a loop without a thread.

    Of each, the rows that the warehouse has read and written, and those that it has written into catalogs of tables.
    """
    rows, made = [], []
    process = Live(pipeline)
    follower = process.loop

    def counted() -> tuple[int, int]:
        assert follower._writer is not None
        follower._writer.execute("select pg_stat_force_next_flush()")
        follower._writer.commit()
        row = pipeline.warehouse.execute(
            """
            select
                sum(seq_tup_read + coalesce(idx_tup_fetch, 0) + n_tup_ins + n_tup_upd + n_tup_del)
                    filter (where schemaname <> 'pg_catalog'),
                sum(n_tup_ins) filter (where relname in ('pg_class', 'pg_attribute', 'pg_type', 'pg_index'))
            from pg_stat_all_tables
            """
        ).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])

    with follower._connected():
        before = counted()
        for number in range(batches):
            with pipeline.shop.transaction():
                new_orders(pipeline, first_id + 2 * number, first_id + 2 * number + 1)
                touch(pipeline, "sales_order", f"status = '{number}'", f"id = {first_id}")
            done = 0 if follower._open is None else follower._open.batches
            wait_until(
                lambda done=done: (
                    follower._turn()  # type: ignore[misc]
                    and follower._open is not None
                    and follower._open.batches > done
                ),
                process,
            )
            after = counted()
            rows.append(after[0] - before[0])
            made.append(after[1] - before[1])
            before = after
    follower._record_stop()
    return rows, made


def test_a_batch_of_many_rows_is_published_by_the_session_that_publishes_few(shop: Pipeline) -> None:
    shop.insert("payment_method", id=2, name="Cash", kind="cash")
    shop.capture()
    with live(shop) as process:
        new_orders(shop, 30_000)
        process.wait("select from dwh.fact_order_item where order_id = '30000'")
        many_orders(shop, 30_001, 32_000)
        process.wait(
            "select from dwh.fact_order_item where order_id::bigint between 30000 and 32000 having count(*) = 2001"
        )
        new_orders(shop, 32_001)
        process.wait("select from dwh.fact_order_item where order_id = '32001'")
        # All of them change, by the order that they belong to.
        touch(shop, "sales_order", "payment_method_id = 2", "id between 30000 and 32000")
        process.wait(
            "select from dwh.fact_order_item inner join dwh.dim_payment_method using (payment_method_key) "
            "where order_id::bigint between 30000 and 32000 and payment_method_id = '2' having count(*) = 2001"
        )
    assert shop.capture().changes() == {}


def test_the_thirtieth_batch_of_a_run_reads_no_more_than_the_third_and_makes_no_table(shop: Pipeline) -> None:
    # Of a few rows all are read, whatever for.
    many_orders(shop, 40_000, 44_000)
    shop.capture()
    shop.warehouse.execute("analyze")
    rows, made = driven_batches(shop, 30)
    assert made[5:] == [0] * 25
    # On a busy machine a heartbeat falls into more of the later ones.
    assert sorted(rows[20:])[5] <= 1.25 * sorted(rows[3:13])[5]
    assert shop.capture().changes() == {}


@pytest.mark.slow
def test_the_thousandth_batch_of_a_run_reads_no_more_than_the_third(shop: Pipeline) -> None:
    many_orders(shop, 70_000, 74_000)
    shop.capture()
    # As autovacuum does, which is off here.
    shop.warehouse.execute("analyze")
    rows, made = driven_batches(shop, 1000, 60_000)
    assert sum(made[5:]) == 0
    assert sorted(rows[-50:])[25] <= 1.1 * sorted(rows[3:53])[25]
    assert shop.capture().changes() == {}


def test_migrations_that_wait_are_named_and_live_goes_on_after_them(captured: Pipeline) -> None:
    captured.warehouse.execute("update alembic_version set version_num = '0001'")
    first = last_run(captured)
    with live(captured) as process:
        new_orders(captured, 985)
        wait_until(lambda: any("dwh migrate" in line for line in process.lines), process)
        process.wait("select from audit.live where state = 'waiting' and reason like '%%dwh migrate%%'")
        captured.warehouse.execute("update alembic_version set version_num = %s", [newest()])
        process.wait("select from dwh.fact_order_item where order_id = '985'")
    assert [status for _, status in statuses(captured, first)][-1] == "succeeded"
    assert captured.capture().changes() == {}


def test_live_publishes_no_batch_more_once_a_newer_release_has_migrated_the_warehouse(
    captured: Pipeline,
) -> None:
    first = last_run(captured)
    with live(captured) as process:
        new_orders(captured, 983)
        process.wait("select from dwh.fact_order_item where order_id = '983'")
        with captured.warehouse.transaction():
            # As migrations do: a batch that is being published would otherwise be published by the code of before.
            transaction_lock(captured.warehouse, STAR_LOCK)
            captured.warehouse.execute("update alembic_version set version_num = '9999'")
        new_orders(captured, 984)
        process.wait("select from audit.live where state = 'waiting' and reason like '%%revision 9999%%'")
        assert captured.rows("select order_id from dwh.fact_order_item where order_id = '984'") == []
        captured.warehouse.execute("update alembic_version set version_num = %s", [newest()])
        process.wait("select from dwh.fact_order_item where order_id = '984'")
    assert [status for _, status in statuses(captured, first)] == ["succeeded", "failed", "succeeded"]
    assert captured.capture().changes() == {}


def test_batches_of_live_are_in_the_archive_and_rebuild_every_mirror_and_dimension(
    databases: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(tmp_path / "lake" / "archive")
    monkeypatch.setattr(live_archive, "CHECK_SECONDS", 0.05)

    def is_whole(shop: Pipeline) -> list[str]:
        """Tables that the archive would make otherwise than they are."""
        with start_run(shop.warehouse_url, flow="rebuild") as run:
            return [one.table_name for one in rebuild(run, archive, [shop.source]) if one.rows_differing]

    with closing(Pipeline(*databases)) as shop:
        load(shop, archive)
        settings = {"archive": True, "lake": str(tmp_path / "lake"), "archive_delay": timedelta(0)}
        with live(shop, **settings) as process:
            adds = live_archive.ArchiveLoop(process.settings, process.stop, process.loop.environment.log)
            adding = threading.Thread(target=adds.run, daemon=True)
            adding.start()
            for number in range(3):
                new_orders(shop, 50_000 + number)
                touch(shop, "customer", f"name = 'archived {number}'", "id = 1")
                process.wait("select from dwh.fact_order_item where order_id = %s", str(50_000 + number))
                process.wait("select from dwh.dim_customer where name = %s", f"archived {number}")
            process.wait("select from audit.archive_table where path = 'shop/sales_order' and captured_run_id = %s "
                         "having count(*) = 1", last_run(shop))  # fmt: skip
            # A thread adds them; nobody else has.
            wait_until(lambda: bool(archived_ids(archive) >= {50_000, 50_001, 50_002}), process)
            new_orders(shop, 50_003)
            process.wait("select from dwh.fact_order_item where order_id = '50003'")
            assert is_whole(shop) == []
        adding.join(120)
        # No mirror is archived whole by the next scheduled run.
        load(shop, archive)
        (table,) = [archive.open("shop/sales_order")]
        assert table is not None
        rows = table.to_pyarrow_table().to_pylist()
        # That of the first run with an archive.
        assert [row["_operation"] for row in rows].count("truncate") == 1
        assert [row["id"] for row in rows if row["id"] is not None and row["id"] >= 50_000] != []
        assert is_whole(shop) == []
        # A mirror that was loaded without the archive is left to a scheduled run.
        shop.capture()
        with live(shop, **settings) as process:
            new_orders(shop, 50_010)
            process.wait("select from dwh.fact_order_item where order_id = '50010'")
        assert 50_010 not in archived_ids(archive)
        load(shop, archive)
        assert 50_010 in archived_ids(archive)
        assert is_whole(shop) == []


def archived_ids(archive: Archive) -> set[int]:
    table = archive.open("shop/sales_order")
    assert table is not None
    return {row["id"] for row in table.to_pyarrow_table(columns=["id"]).to_pylist()}
