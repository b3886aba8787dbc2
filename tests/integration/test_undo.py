"""Undo: what a run published is taken back whole, and the next run brings it again."""

import os
import re
import signal
import threading
from pathlib import Path

import pytest

import warehouse.undo.undo
from tests.conftest import ROOT
from tests.pipeline import Pipeline, Row
from tests.shop_day import change_everything, comparable_content
from tests.weblog_lake import ARGENTINA, BRAZIL, WeblogLake, line, make_lake
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.errors import LockHeld, QualityGateStopped, UndoBlocked, UndoRefused
from warehouse.extract.catalog import DELTA_COLUMNS, HOUSEKEEPING, KEY_FLAGS
from warehouse.reconcile.reconcile import reconcile_source
from warehouse.runs.audit import Load, record_load, start_run
from warehouse.sources.source import SchemaPolicy, Source, Table
from warehouse.undo.undo import FLOW, Undone, lock_of, undo
from warehouse.weblogs.files.checkpoints import FEED

# Names that no column can have: those of PostgreSQL's own, and those that a run refuses.
RESERVED_NAMES = {
    "cmax", "cmin", "ctid", "tableoid", "xmax", "xmin", *HOUSEKEEPING, *DELTA_COLUMNS, *KEY_FLAGS
}  # fmt: skip
# What an undo leaves as it was: every table of these schemas, and the state of the engine.
TABLES = """
    select schemaname || '.' || tablename from pg_tables
    where schemaname in ('raw', 'dwh') or schemaname || '.' || tablename in
        ('audit.watermark', 'audit.quarantine', 'audit.file', 'audit.file_part')
    order by 1
"""


def everything(shop: Pipeline) -> dict[str, list[Row]]:
    """Every row that runs write, keys and run ids included; tables without rows are left out."""
    tables = [name for (name,) in shop.rows(TABLES)]
    found = {name: sorted(shop.rows(f"select t::text from {name} as t")) for name in tables}
    return {name: rows for name, rows in found.items() if rows}


def take_back(shop: Pipeline, run_id: int, *, cascade: bool = False) -> Undone:
    with start_run(shop.warehouse_url, flow=FLOW) as run:
        return undo(run, run_id, cascade=cascade)


@pytest.mark.each_major
def test_undone_run_leaves_everything_as_it_was_and_the_next_one_brings_it_again(busy_shop: Pipeline) -> None:
    shop = busy_shop
    shop.capture()
    before = everything(shop)
    change_everything(shop)
    (until,) = shop.shop.execute("select clock_timestamp()").fetchone() or ()
    run = shop.capture()
    assert {table.split(".")[0] for table in run.changes()} == {"raw", "dwh"}
    after = comparable_content(shop.warehouse, until)
    undone = take_back(shop, 2)
    assert everything(shop) == before
    assert {
        load.table_name: (load.rows_deleted, load.rows_updated, load.rows_inserted)
        for load in undone.loads
        if load.table_name.startswith("dwh.")
    } == {
        "dwh.dim_company": (1, 1, 0),
        "dwh.dim_customer": (4, 3, 0),
        "dwh.dim_product": (1, 1, 0),
        "dwh.dim_promotion": (1, 0, 0),
        "dwh.fact_order_item": (18, 5, 1),
    }
    assert shop.rows("select run_id, flow, status, undone_by_run_id from audit.run order by 1") == [
        (1, "ingest-shop", "succeeded", None),
        (2, "ingest-shop", "undone", 3),
        (3, "undo", "succeeded", None),
    ]
    again = shop.capture()
    assert comparable_content(shop.warehouse, until) == after
    assert {verification.verdict for verification in again.verifications} == {"equal"}
    assert again.changes() == run.changes()
    take_back(shop, 4)
    assert everything(shop) == before


def test_change_that_is_kept_nowhere_is_found_by_the_comparison(busy_shop: Pipeline) -> None:
    """Without this the other tests would prove nothing."""
    shop = busy_shop
    shop.capture()
    before = everything(shop)
    shop.warehouse.execute("alter table dwh.dim_company disable trigger log_update")
    change_everything(shop)
    shop.capture()
    take_back(shop, 2)
    after = everything(shop)
    assert {table for table in before if before[table] != after[table]} == {"dwh.dim_company"}
    assert not shop.rows("select from audit.dim_company_change where run_id = 2 and operation = 'update'")


def test_undo_of_the_first_load_leaves_an_empty_star(busy_shop: Pipeline) -> None:
    empty = everything(busy_shop)
    first = busy_shop.capture()
    after = everything(busy_shop)
    take_back(busy_shop, 1)
    assert everything(busy_shop) == empty
    assert busy_shop.rows("select distinct complete_at from mart.table_freshness") == []
    again = busy_shop.capture()
    assert again.changes() == first.changes()
    assert everything(busy_shop).keys() == after.keys()
    assert {verification.verdict for verification in again.verifications} == {"equal"}


def test_run_on_which_another_was_built_is_undone_with_it_or_not_at_all(busy_shop: Pipeline) -> None:
    shop = busy_shop
    empty = everything(shop)
    shop.capture()
    shop.capture()
    shop.do("update company set name = 'Two', updated_at = '2024-05-01'")
    shop.capture()
    shop.do(
        "update company set name = 'Three', updated_at = '2024-06-01'", "delete from customer where id = 5"
    )
    shop.capture()
    state = everything(shop)
    with pytest.raises(UndoBlocked) as blocked:
        take_back(shop, 1)
    assert [f"run {run_id} (ingest-shop" in blocked.value.what for run_id in (1, 2, 3, 4)] == [
        True,
        False,
        True,
        True,
    ]
    assert "dwh undo 1 --cascade" in blocked.value.hint
    assert everything(shop) == state
    assert take_back(shop, 1, cascade=True).run_ids == [4, 3, 2, 1]
    assert everything(shop) == empty
    assert [status for _, status, _ in shop.run_states()] == [
        "undone", "undone", "undone", "undone", "stopped", "succeeded",
    ]  # fmt: skip


def test_runs_are_undone_one_after_the_other_backwards(shop: Pipeline) -> None:
    states = []
    for name in ("One", "Two", "Three"):
        shop.do(f"update company set name = '{name}', updated_at = updated_at + interval '1 day'")
        shop.capture()
        states.append(everything(shop))
    take_back(shop, 3)
    assert everything(shop) == states[1]
    take_back(shop, 2)
    assert everything(shop) == states[0]
    shop.capture()
    assert shop.versions("company", "name")[-1][1] == "Three"


def test_what_cannot_be_undone_is_refused_with_the_reason(captured: Pipeline) -> None:
    take_back(captured, 1)
    with (
        start_run(captured.warehouse_url, flow="daily-warehouse") as outer,
        start_run(captured.warehouse_url, flow="refresh-marts", parent_run_id=outer.run_id),
    ):
        pass
    reasons = {
        99: "There is no run 99.",
        1: "Run 1 was undone already, by run 2 at ",
        2: "Run 2 is itself an undo.",
        3: "Run 3 (daily-warehouse) published nothing of its own to a source's tables.",
    }
    for run_id, reason in reasons.items():
        with pytest.raises(UndoRefused) as refused:
            take_back(captured, run_id)
        assert refused.value.what.startswith(reason) and refused.value.exit_code == 2
    with pytest.raises(UndoRefused, match="Its steps are runs of their own: 4"):
        take_back(captured, 3)
    captured.capture()
    run_id = captured.runs[-1].run_id
    captured.warehouse.execute("update audit.run set pruned_at = now() where run_id = %s", [run_id])
    with pytest.raises(UndoRefused, match=f"Run {run_id} .* can no longer be undone"):
        take_back(captured, run_id)


def test_rows_that_were_changed_by_hand_since_are_not_taken_back_unasked(shop: Pipeline) -> None:
    shop.order(1, "2024-03-10")
    empty = everything(shop)
    shop.capture()
    shop.warehouse.execute("update dwh.fact_order_item set quantity = 7")
    shop.warehouse.execute("update raw.shop_brand set name = 'By hand'")
    with pytest.raises(UndoBlocked) as blocked:
        take_back(shop, 1)
    assert "1 row of dwh.fact_order_item by " in blocked.value.what
    assert "1 row of raw.shop_brand by " in blocked.value.what
    take_back(shop, 1, cascade=True)
    assert everything(shop) == empty


def test_repair_that_repaired_the_star_alone_is_a_later_run(sale: Pipeline) -> None:
    before = everything(sale)
    sale.insert("customer", id=2)
    sale.order(2, "2024-03-11", customer_id=2)
    sale.capture()
    sale.warehouse.execute(
        "update dwh.fact_order_item set quantity = 7 where order_id = '2'; "
        "update dwh.dim_customer set state = 'By hand' where customer_id = '2'"
    )
    with start_run(sale.warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_source(run, sale.source, sale.shop_url, repair=True)
    assert {"dwh.fact_order_item", "dwh.dim_customer"} <= {v.table_name for v in verdicts if v.rows_repaired}
    assert lock_of(sale.warehouse, run.run_id) == lock_of(sale.warehouse, 2) == "source shop"
    state = everything(sale)
    with pytest.raises(UndoBlocked, match=r"run 3 \(reconcile"):
        take_back(sale, 2)
    assert everything(sale) == state
    assert take_back(sale, 2, cascade=True).run_ids == [3, 2]
    assert everything(sale) == before


def test_repair_that_moved_the_start_of_a_version_is_undone(captured: Pipeline) -> None:
    """The version before it ends where the later one begins: for a moment one overlaps the other."""
    captured.do("update product set name = 'Two', updated_at = '2024-05-01'")
    captured.capture()
    for end in ("valid_from", "valid_to"):
        captured.warehouse.execute(
            f"update dwh.dim_product set {end} = '2024-06-15' where {end} = '2024-05-01'".encode()
        )
    before = everything(captured)
    with start_run(captured.warehouse_url, flow="reconcile") as run:
        reconcile_source(run, captured.source, captured.shop_url, repair=True)
    assert captured.versions("product", "name") == [
        ("1", "Hammer", "ever", "2024-05-01"), ("1", "Two", "2024-05-01", "now")
    ]  # fmt: skip
    take_back(captured, run.run_id)
    assert everything(captured) == before


def test_repair_of_several_sources_at_once_is_not_undone(captured: Pipeline) -> None:
    with start_run(captured.warehouse_url, flow="reconcile") as run:
        for source in ("northwind", "shop"):
            record_load(captured.warehouse, run.run_id, Load(source, "dwh.dim_customer", rows_updated=1))
    with pytest.raises(UndoRefused, match="loaded rows of 2 sources"):
        take_back(captured, 2)
    with pytest.raises(UndoRefused, match=r"Run 2 .* loaded rows of 2 sources"):
        take_back(captured, 1, cascade=True)


def test_backfill_of_all_sources_that_changed_nothing_of_one_keeps_no_run_of_it_from_an_undo(
    captured: Pipeline,
) -> None:
    with start_run(captured.warehouse_url, flow="backfill") as run:
        record_load(captured.warehouse, run.run_id, Load("northwind", "dwh.fact_order_item", rows_updated=1))
        record_load(captured.warehouse, run.run_id, Load("shop", "dwh.fact_order_item", rows_read=7))
    assert take_back(captured, 1).run_ids == [1]
    assert captured.rows("select run_id, status from audit.run where run_id < 3 order by run_id") == [
        (1, "undone"),
        (2, "succeeded"),
    ]


def test_run_that_a_gate_stopped_has_nothing_to_undo(shop: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise QualityGateStopped("It stopped.")

    monkeypatch.setattr("warehouse.load.target.stop_on_failure", stop)
    shop.order(1, "2024-03-10")
    with pytest.raises(QualityGateStopped):
        shop.capture()
    with pytest.raises(UndoRefused, match="was stopped by a quality gate or threshold: it published nothing"):
        take_back(shop, 1)


def test_column_that_a_run_captured_first_goes_with_it(shop: Pipeline) -> None:
    shop.insert("customer", id=2)
    shop.capture()
    before = everything(shop)
    shop.do(
        "alter table customer add column vip boolean default true",
        "update customer set name = 'Bea' where id = 2",
    )
    shop.capture()
    after = everything(shop)
    shop.warehouse.execute("create view vip as select id from raw.shop_customer where vip")
    with pytest.raises(
        UndoRefused, match=r"vip of raw\.shop_customer came .* cannot be dropped: view vip depends on"
    ):
        take_back(shop, 2)
    assert everything(shop) == after
    shop.warehouse.execute("drop view vip")
    take_back(shop, 2)
    assert everything(shop) == before
    shop.capture()
    assert shop.rows("select distinct vip from raw.shop_customer") == [(True,)]


def test_key_that_a_run_spelled_otherwise_is_spelled_as_before(shop: Pipeline) -> None:
    source = Source("shop", "", (Table("shop", "thing", "public", ("id",), None),), {})
    shop.do("create table thing (id numeric primary key, name text)", "insert into thing values (1.0, 'a')")
    shop.capture(source=source)
    before = everything(shop)
    for spelled, name in (("1.00", "a"), ("1.000", "b")):
        shop.do(f"update thing set id = {spelled}, name = '{name}'")
        shop.capture(source=source)
    assert shop.rows("select id::text, name from raw.shop_thing") == [("1.000", "b")]
    take_back(shop, 2, cascade=True)
    assert shop.rows("select id::text, name from raw.shop_thing") == [("1.0", "a")]
    assert everything(shop) == before


@pytest.mark.each_major
def test_columns_may_have_any_name_that_the_engine_uses_in_its_own_sql(shop: Pipeline) -> None:
    files = [path for kind in ("*.py", "*.sql") for path in (ROOT / "warehouse").rglob(kind)]
    own = {
        word
        for path in files
        if "versions" not in path.parts
        for word in re.findall(r"\bas ([a-z_]\w*)|\b([a-z_]\w*)\.[a-z]|, ([a-z_]\w*) as \(", path.read_text())
    }
    # SQL has no capitals without quotes: those are Python's.
    names = sorted(
        {name for words in own for name in words if name and name.islower()} - RESERVED_NAMES - {"id"}
    )
    assert "image_order" in names and 500 < len(names) < 1500
    columns = ", ".join(f'"{name}" integer' for name in names)
    assigned = ", ".join(f'"{name}" = 1' for name in names)
    shop.do(
        f"create table thing (id integer primary key, {columns})",
        f'insert into thing (id, "{names[0]}") select n, n from generate_series(1, 20) as n',
    )
    shop.source = Source("shop", "", (Table("shop", "thing", "public", ("id",), None),), {})
    shop.capture()
    before = everything(shop)
    shop.do(
        f"update thing set {assigned} where id < 5",
        "delete from thing where id > 15",
    )
    shop.capture()
    assert shop.rows("select count(*) from raw.shop_thing where image_order = 1") == [(4,)]
    take_back(shop, 2)
    assert everything(shop) == before


def test_run_that_lost_a_column_of_its_mirror_cannot_be_undone(shop: Pipeline) -> None:
    table = Table("shop", "customer", "public", ("id",), "updated_at", SchemaPolicy(dropped_column="evolve"))
    source = Source("shop", "", (table,), {})
    shop.capture(source=source)
    shop.do("alter table customer drop column birth_date")
    shop.capture(source=source)
    with pytest.raises(UndoRefused, match=r"Run 2 .* cannot be undone: it dropped a column of a mirror"):
        take_back(shop, 2)


def test_undo_that_is_killed_has_changed_nothing(captured: Pipeline) -> None:
    before = everything(captured)
    child = os.fork()
    if not child:
        try:
            # Everything is put back by then, and nothing committed.
            warehouse.undo.undo.record_load = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            take_back(captured, 1)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert everything(captured) == before
    assert take_back(captured, 1).run_ids == [1]
    assert [status for _, status, _ in captured.run_states()] == ["undone", "crashed", "succeeded"]


def test_two_undos_at_once_undo_once(captured: Pipeline) -> None:
    ends: list[object] = []

    def try_it() -> None:
        try:
            ends.append(take_back(captured, 1).run_ids[0])
        except UndoRefused as refused:
            ends.append(refused.what.split(",")[0])

    threads = [threading.Thread(target=try_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends, key=str) == [1] + ["Run 1 was undone already"] * 3


# --- web logs -------------------------------------------------------------------------------------------------


@pytest.fixture
def lake(tmp_path: Path, warehouse_url: str) -> WeblogLake:
    return make_lake(tmp_path, warehouse_url)


def take_back_logs(lake: WeblogLake, run_id: int, *, cascade: bool = False) -> Undone:
    with start_run(lake.settings.warehouse, flow=FLOW) as run:
        undone = undo(run, run_id, cascade=cascade)
    lake.assert_consistent()
    return undone


def said_by(user: str, numbers: range) -> bytes:
    return b"".join(
        line(
            number,
            user=user,
            address=BRAZIL if number % 2 else ARGENTINA,
            request=f"GET /product/P-{number} HTTP/1.1",
        )
        for number in numbers
    )


@pytest.mark.each_major
def test_undone_load_of_web_logs_leaves_its_rows_counts_and_offsets_and_loads_again(lake: WeblogLake) -> None:
    lake.put("a.log", said_by("ana", range(1, 6)) + b"nonsense\n" + said_by("bob", range(6, 9)))
    lake.put("rotating.log", said_by("cid", range(20, 24)))
    lake.load()
    before = lake.content()
    lake.append("a.log", said_by("ana", range(9, 12)) + b"more nonsense\n" + said_by("eve", range(12, 14)))
    (lake.landing / "rotating.log").rename(lake.landing / "rotating.log.1")
    lake.put("rotating.log", said_by("bob", range(30, 33)))
    lake.put("b.log", said_by("fay", range(40, 44)))
    lake.load()
    after = lake.content()
    undone = take_back_logs(lake, 2)
    assert undone.run_ids == [2]
    left = lake.content()
    assert {name: left[name] for name in ("weblog", "keys", "quarantine", "file_part")} == {
        name: before[name] for name in ("weblog", "keys", "quarantine", "file_part")
    }
    assert lake.sizes() == [*range(1, 9), *range(20, 24)]
    lake.load()
    assert lake.content() == after
    lake.assert_consistent()


def test_web_logs_are_taken_back_to_nothing_with_all_that_was_built_on_them(lake: WeblogLake) -> None:
    lake.put("a.log", said_by("ana", range(1, 6)))
    lake.load()
    lake.append("a.log", said_by("bob", range(6, 9)))
    lake.load()
    lake.load()
    after = lake.content()
    with pytest.raises(UndoBlocked, match=r"run 2 \(ingest-weblogs"):
        take_back_logs(lake, 1)
    assert take_back_logs(lake, 1, cascade=True).run_ids == [2, 1]
    assert lake.rows("select count(*) from dwh.fact_weblog") == [(0,)]
    assert lake.files() == [("a.log", "partial", 0, 0, 0)]
    for name in ("country", "device", "country_user", "device_user", "country_product", "day"):
        assert lake.rows(f"select * from dwh.agg_weblog_{name}") == []
    lake.load()
    assert lake.content() == after


def test_line_that_a_load_took_back_is_read_again_after_its_undo(lake: WeblogLake) -> None:
    whole = said_by("ana", range(1, 4))
    lake.put("a.log", whole[:-30])
    lake.load()
    assert len(lake.sizes()) == 2
    lake.append("a.log", whole[-30:] + said_by("bob", range(4, 6)))
    lake.load()
    after = lake.content()
    take_back_logs(lake, 2)
    assert lake.sizes() == [1, 2]
    lake.load()
    assert lake.content() == after
    lake.assert_consistent()


def test_load_at_work_keeps_an_undo_away(lake: WeblogLake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.put("a.log", said_by("ana", range(1, 3)))
    lake.load()
    monkeypatch.setattr("warehouse.undo.undo.FEED_WAIT_SECONDS", 0)
    with (
        connect(lake.settings.warehouse, autocommit=True) as loader,
        session_lock(loader, FEED, shared=True),
        pytest.raises(LockHeld),
    ):
        take_back_logs(lake, 1)
    assert take_back_logs(lake, 1).run_ids == [1]
