"""The archive holds every batch that was published, each row once, and nothing that was not."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import duckdb
import psycopg
import pytest
from psycopg import sql

from tests import command
from tests.archive import archive_made_by, archived, archived_mirror, copy_with_archive, load, mirror, state
from tests.integration.conftest import CopyOf
from tests.integration.test_capture import TYPES, only
from tests.pipeline import Pipeline
from warehouse.archive import batch_files, flush, maintain, pending, upkeep
from warehouse.archive.changed_rows import archive_changed_rows, archive_trail
from warehouse.archive.parquet_files import ParquetFile
from warehouse.archive.place import Archive, ArchiveDamaged, ArchiveUnreachable
from warehouse.db.locks import session_lock, try_transaction_lock
from warehouse.errors import SourceError
from warehouse.history.change_log import STAR_LOCK
from warehouse.model.star import DIMENSIONS
from warehouse.reconcile.reconcile import reconcile_source
from warehouse.runs import live_process
from warehouse.runs.audit import start_run
from warehouse.settings import Settings
from warehouse.undo.undo import undo

CUSTOMER, ITEM = "shop/customer", "shop/order_item"
_SCANS = b"""
    select relname, seq_scan from pg_stat_xact_user_tables
    where schemaname = 'dwh' or schemaname = 'audit' and not starts_with(relname, 'archive_')
"""


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "lake" / "archive")


IS_ANY_PENDING = "select count(*) > 0 from audit.archive_pending where published_at is not null"


def load_and_archive(shop: Pipeline) -> None:
    """Load the shop into an archive that is copied with shop and warehouse."""
    load(shop, archive_made_by(load_and_archive))


@pytest.fixture
def loaded(copy_of: CopyOf, archive: Archive) -> Pipeline:
    """A shop with one row of master data each that was loaded, and archived."""
    return copy_with_archive(copy_of, load_and_archive, archive)


@pytest.fixture(params=["files", "rows"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Batches are written as files before the publish, or their rows wait in the warehouse."""
    if request.param == "files":
        monkeypatch.setattr(batch_files, "SMALL_ROWS", 0)
    return str(request.param)


# Where what happens to a batch afterwards is the same.
FILES, ROWS = (
    pytest.mark.parametrize(
        "way", [one, *(pytest.param(way, marks=pytest.mark.slow) for way in ("files", "rows") if way != one)],
        indirect=True,
    )
    for one in ("files", "rows")
)  # fmt: skip


def assert_archived(shop: Pipeline, archive: Archive) -> None:
    """Mirrors, dimensions and the audit trail follow from the archive, and nothing waits for it."""
    for table in shop.source.tables:
        path = f"shop/{table.name}"
        if archive.open(path) is not None:
            expected = mirror(shop.warehouse, table.mirror)
            assert archived_mirror(archive, shop.warehouse, path, table.key) == expected, path
    for name, key in [(f"dwh.{one.table}", one.key) for one in DIMENSIONS] + [
        ("audit.load", "load_id"), ("audit.run", "run_id"), ("audit.quarantine", "quarantine_id"),
    ]:  # fmt: skip
        rows = shop.warehouse.execute(f"select {key} from {name}".encode()).fetchall()
        assert set(state(archive, name.replace(".", "/"), key)) == set(rows), name
    days = "snapshot_date", "product_id", "distribution_center_id", "source_system"
    stock = shop.warehouse.execute(f"select {', '.join(days)}, quantity from dwh.fact_inventory_day".encode())
    kept = state(archive, "dwh/fact_inventory_day", *days)
    assert {(*key, row["quantity"]) for key, row in kept.items()} == set(stock.fetchall())
    assert shop.rows("select path from audit.archive_pending where published_at is not null") == []
    assert shop.rows("select batch_id from audit.archive_row") == []


def change(shop: Pipeline) -> None:
    shop.do("insert into inventory (product_id, distribution_center_id, quantity) values (1, 1, 7)")
    shop.insert("customer", id=2, name="Eva")
    shop.do("update customer set country = 'UY' where id = 1", "delete from order_item where line_number = 2")
    shop.order(2, "2024-04-01", {"quantity": 0}, {})


def test_archive_gives_back_mirrors_dimensions_and_audit_trail_after_any_change(
    shop: Pipeline, archive: Archive, way: str
) -> None:
    shop.order(1, "2024-03-10", {}, {})
    first = load(shop, archive)
    assert_archived(shop, archive)
    change(shop)
    second = load(shop, archive)
    assert_archived(shop, archive)
    rows = archived(archive, CUSTOMER)
    assert sorted((row["_run_id"], row["_operation"], row["id"], row["country"]) for row in rows) == [
        (first, "write", 1, "AR"), (second, "write", 1, "UY"), (second, "write", 2, "AR"),
    ]  # fmt: skip
    assert sorted(
        (row["_run_id"], row["_operation"], row["sales_order_id"], row["line_number"], row["quantity"])
        for row in archived(archive, ITEM)
        if row["sales_order_id"] == 1
    ) == [(first, "write", 1, 1, 2), (first, "write", 1, 2, 2), (second, "delete", 1, 2, None)]
    assert {row["_snapshot"] is None for row in archived(archive, ITEM)} == {False}
    # A run without news leaves everything as it is.
    versions = {path: archive.open(path).version() for path in (CUSTOMER, "audit/run")}  # type: ignore[union-attr]
    load(shop, archive)
    assert {path: archive.open(path).version() for path in versions} == versions  # type: ignore[union-attr]
    assert {str(archive.open(path).protocol())[:60] for path in versions} == {  # type: ignore[union-attr]
        "ProtocolVersions(min_reader_version=1, min_writer_version=2,"
    }


@pytest.mark.parametrize("is_near", [True, False], ids=["folder", "object store"])
def test_files_of_a_batch_are_written_while_it_is_merged(
    shop: Pipeline, archive: Archive, is_near: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But those of an object store before that: nobody is to wait for a network under the star's lock."""
    monkeypatch.setattr(batch_files, "SMALL_ROWS", 0)
    shop.order(1, "2024-03-10", {}, {})
    load(shop, archive)
    change(shop)
    merged, were_merged = Event(), []
    write_files = batch_files.write_files

    def write_after_the_merge(*arguments: Any) -> Sequence[ParquetFile]:
        were_merged.append(merged.wait(120 if is_near else 0))
        return write_files(*arguments)

    def notice(message: str) -> None:
        if "dwh.fact_order_item" in message:
            merged.set()

    monkeypatch.setattr(batch_files, "write_files", write_after_the_merge)
    load(shop, archive, is_near=is_near, progress=notice)
    assert {*were_merged} == {is_near}
    assert_archived(shop, archive)
    assert {row["_operation"] for row in archived(archive, ITEM)} == {"write", "delete"}


def test_star_is_free_while_files_of_first_batches_are_written(
    shop: Pipeline, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_files, "SMALL_ROWS", 0)
    is_awaited, was_held = Event(), []
    write_files, finish = batch_files.write_files, batch_files.BatchFiles.finish

    def write_while_awaited(*arguments: Any) -> Sequence[ParquetFile]:
        assert is_awaited.wait(120)
        with psycopg.connect(shop.warehouse_url) as other:
            was_held.append(not try_transaction_lock(other, STAR_LOCK))
        return write_files(*arguments)

    def wait(files: batch_files.BatchFiles) -> batch_files.Written:
        is_awaited.set()
        return finish(files)

    monkeypatch.setattr(batch_files, "write_files", write_while_awaited)
    monkeypatch.setattr(batch_files.BatchFiles, "finish", wait)
    load(shop, archive)
    assert was_held and not any(was_held)
    assert_archived(shop, archive)


@FILES
def test_first_batch_that_is_refused_once_it_is_copied_is_in_no_table(
    pipeline: Pipeline, archive: Archive, way: str
) -> None:
    pipeline.do(
        "create table thing (id int, updated_at timestamptz)",
        "insert into thing values (1, '2024-01-01'), (2, '2024-01-01'), (2, '2024-01-02')",
    )
    with pytest.raises(SourceError, match="not unique"):
        load(pipeline, archive, only("thing"))
    assert archive.open("shop/thing") is None
    pipeline.do("delete from thing where updated_at = '2024-01-02'")
    run_id = load(pipeline, archive, only("thing"))
    assert [(row["_run_id"], row["_operation"], row["id"]) for row in archived(archive, "shop/thing")] == [
        (run_id, "write", 1),
        (run_id, "write", 2),
    ]


@ROWS
def test_deletes_of_a_mirror_whose_watermark_is_lost_are_archived(
    pipeline: Pipeline, archive: Archive, way: str
) -> None:
    source = only("thing")
    pipeline.do(
        "create table thing (id int primary key, updated_at timestamptz)",
        "insert into thing values (1, '2024-01-01'), (2, '2024-01-01')",
    )
    load(pipeline, archive, source)
    pipeline.warehouse.execute("delete from audit.watermark")
    pipeline.do("delete from thing where id = 1", "insert into thing values (3, '2024-01-01')")
    load(pipeline, archive, source)
    expected = [(1, True), (2, False), (3, False)]
    assert pipeline.rows("select id, _is_deleted from raw.shop_thing order by 1") == expected
    last = state(archive, "shop/thing", "id")
    assert sorted((row["id"], row["_is_deleted"]) for row in last.values()) == expected


def test_values_of_every_type_are_archived_exactly(pipeline: Pipeline, archive: Archive, way: str) -> None:
    pipeline.do(
        "create type mood as enum ('sad', 'happy')",
        "create type mood_range as range (subtype = mood)",
        "create domain email as text check (value like '%@%')",
        "create domain work_email as email",
        "create domain price as numeric(8, 3)",
        "create type place as (name text, floor int)",
        'create table thing (id int primary key, updated_at timestamptz, "ID" text, "a (b)" text, "_RUN_ID" text, '
        + ", ".join(f"{name} {kind}" for name, (kind, _, _) in TYPES.items())
        + ")",
    )
    given = [name for name, (_, value, _) in TYPES.items() if value is not None]
    source = only("thing")
    for side in (1, 2):
        names = ", ".join(["id", "updated_at", '"ID"', '"a (b)"', '"_RUN_ID"', *given])
        values = ", ".join(str(TYPES[name][side]) for name in given)
        pipeline.do(f"insert into thing ({names}) values ({side}, '2024-01-01', 'x', '', 'y', {values})")
    pipeline.do("insert into thing (id) values (3)")
    load(pipeline, archive, source)
    assert archived_mirror(archive, pipeline.warehouse, "shop/thing", ["id"]) == mirror(
        pipeline.warehouse, "shop_thing"
    )
    rescued = {row["id"]: row["_rescued_data"] for row in archived(archive, "shop/thing")}
    assert rescued == {
        1: '{"a_day": "infinity", "a_moment": "infinity"}',
        2: '{"a_day": "5874897-12-31", "a_moment": "0044-03-15 12:00:00+00 BC", "scaled_number": "NaN", '
        '"a_zoned_moment": "-infinity"}',
        3: None,
    }


@FILES
def test_column_that_is_new_or_has_another_type_gets_a_field_of_its_own(
    shop: Pipeline, archive: Archive, way: str
) -> None:
    load(shop, archive)
    shop.do(
        "alter table customer add column vip boolean default true",
        "alter table customer alter id type integer",
    )
    source = shop.source
    for column, kind in (("score", "numeric(5,2) default 1.5"), ("note", "text default 'x'")):
        shop.do(
            f"alter table customer add column {column} {kind}", "update customer set country = country || 'x'"
        )
    shop.do("alter table customer alter id type bigint")
    load(shop, archive, source)
    assert_archived(shop, archive)
    last = archived(archive, CUSTOMER)[-1]
    assert (last["vip"], str(last["score"]), last["note"]) == (True, "1.50", "x")


def test_undo_and_repair_are_archived(shop: Pipeline, archive: Archive) -> None:
    shop.order(1, "2024-03-10", {}, {})
    load(shop, archive)
    change(shop)
    second = load(shop, archive)
    with start_run(shop.warehouse_url, flow="undo", archive=True) as run:
        undo(run, second)
    flush.flush(shop.warehouse_url, archive)
    assert_archived(shop, archive)
    assert [
        (row["_operation"], row["id"], row["_mirror_run_id"])
        for row in archived(archive, CUSTOMER)
        if row["_run_id"] == run.run_id
    ] == [("write", 1, 1), ("remove", 2, None)]
    assert state(archive, "audit/run", "run_id")[(second,)]["status"] == "undone"
    load(shop, archive)
    shop.warehouse.execute("update raw.shop_customer set name = 'damaged' where id = 1")
    shop.warehouse.execute("delete from raw.shop_customer where id = 2")
    with start_run(shop.warehouse_url, flow="reconcile", archive=True) as run:
        reconcile_source(run, shop.source, shop.shop_url, repair=True)
    flush.flush(shop.warehouse_url, archive)
    assert_archived(shop, archive)
    assert sorted(
        (row["_operation"], row["id"], row["name"])
        for row in archived(archive, CUSTOMER)
        if row["_run_id"] == run.run_id
    ) == [("write", 1, "Ana"), ("write", 2, "Eva")]


def test_warehouse_older_than_its_archive_is_archived_whole_once(shop: Pipeline, archive: Archive) -> None:
    shop.order(1, "2024-03-10", {}, {})
    load(shop, archive, archives=False, adds=False)
    shop.do("delete from order_item where line_number = 2")
    load(shop, archive, archives=False, adds=False)
    assert archived(archive, CUSTOMER) == []
    change(shop)
    third = load(shop, archive)
    assert_archived(shop, archive)
    assert [
        (row["_operation"], row["line_number"], row["_mirror_run_id"])
        for row in archived(archive, ITEM)
        if row["sales_order_id"] == 1
    ] == [("write", 1, 1), ("write_deleted", 2, 2)]
    kinds = [
        (row["run_id"], row["kind"], row["row_count"])
        for row in archived(archive, "audit/captured_table")
        if row["table_name"] == "customer"
    ]
    assert kinds == [(third, "baseline", 2), (third, "incremental", 2)]
    # And again after runs that did not archive.
    shop.do("update customer set name = 'Mia' where id = 2")
    load(shop, archive, archives=False, adds=False)
    shop.do("update customer set name = 'Ada' where id = 1")
    load(shop, archive)
    assert_archived(shop, archive)


@ROWS
def test_batches_wait_while_the_archive_is_away_and_are_added_once(
    shop: Pipeline, archive: Archive, way: str
) -> None:
    load(shop, archive)
    root = Path(str(archive.root))
    root.rename(root.with_name("away"))
    root.write_text("not a folder")
    for name in ("Eva", "Mia"):
        shop.do(f"update customer set name = '{name}'")
        with pytest.raises(ArchiveUnreachable, match="cannot be reached"):
            load(shop, archive)
    assert shop.rows(
        "select count(distinct run_id) from audit.archive_pending where published_at is not null"
    ) == [(2,)]
    root.unlink()
    root.with_name("away").rename(root)
    assert flush.flush(shop.warehouse_url, archive) > 0
    assert flush.flush(shop.warehouse_url, archive) == 0
    assert_archived(shop, archive)
    assert [row["name"] for row in archived(archive, CUSTOMER)] == ["Ana", "Eva", "Mia"]


class Killed(BaseException):
    """Stands for kill -9: nothing that comes after it is done."""


@FILES
def test_batch_whose_addition_was_not_heard_of_is_added_once(
    shop: Pipeline, archive: Archive, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.order(1, "2024-03-10", {}, {})
    added = flush.add_files

    def add_and_die(*arguments: object) -> None:
        added(*arguments)  # type: ignore[arg-type]
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(flush, "add_files", add_and_die)
        with pytest.raises(Killed):
            load(shop, archive)
    change(shop)
    load(shop, archive)
    assert_archived(shop, archive)
    for path in (CUSTOMER, ITEM, "dwh/dim_customer"):
        rows = archived(archive, path)
        assert len({(row["_batch_id"], str(list(row.values())[:3])) for row in rows}) == len(rows)


def test_run_that_dies_before_it_publishes_leaves_nothing_in_the_archive(
    shop: Pipeline, archive: Archive, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(shop, archive)
    change(shop)

    def die(*_: object) -> None:
        raise Killed

    before = {path: archived(archive, path) for path in (CUSTOMER, "audit/run", "dwh/dim_customer")}
    with monkeypatch.context() as patch:
        patch.setattr("warehouse.load.publish.ensure_alive", die)
        with pytest.raises(Killed):
            load(shop, archive)
    flush.flush(shop.warehouse_url, archive)
    assert {path: archived(archive, path) for path in before} == before
    load(shop, archive)
    assert_archived(shop, archive)


def test_archive_that_knows_more_than_the_warehouse_is_not_written_to(
    loaded: Pipeline, archive: Archive
) -> None:
    loaded.warehouse.execute("create table public.kept as table audit.archive_table")
    change(loaded)
    load(loaded, archive)
    loaded.warehouse.execute("delete from audit.archive_table")
    loaded.warehouse.execute("insert into audit.archive_table table public.kept")
    loaded.do("update customer set name = 'Mia'")
    with pytest.raises(flush.ArchiveAhead, match="has batches up to"):
        load(loaded, archive)


@FILES
def test_duckdb_reads_the_same_counts_and_sums(shop: Pipeline, archive: Archive, way: str) -> None:
    for number in range(1, 20):
        shop.order(number, "2024-03-10", {"unit_price": number + 0.25}, {"unit_price": 3})
    load(shop, archive)
    table = archive.open(ITEM)
    assert table is not None
    files = [str(one) for one in table.file_uris()]
    found = duckdb.sql(
        f"select count(*), sum(unit_price), max(_run_id) from read_parquet({files})"
    ).fetchall()
    assert (
        found
        == shop.warehouse.execute(
            "select count(*), sum(unit_price), max(_run_id) from raw.shop_order_item"
        ).fetchall()
    )


def test_maintenance_merges_files_and_keeps_every_row(
    loaded: Pipeline, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3, 6):
        loaded.insert("customer", id=number)
        load(loaded, archive)
    before = archived(archive, CUSTOMER)
    orphan = Path(str(archive.folder(CUSTOMER))) / f"{before[0]['_warehouse_id']}-000000000099-x.parquet"
    orphan.write_bytes(b"of a run that died")
    monkeypatch.setattr(maintain, "MOST_SMALL_FILES", 2)
    assert maintain.maintain(loaded.warehouse_url, archive).tables_compacted >= 2
    assert orphan.exists()
    os.utime(orphan, (0, 0))
    assert maintain.maintain(loaded.warehouse_url, archive).files_removed == 1
    assert not orphan.exists()
    assert sorted(map(str, archived(archive, CUSTOMER))) == sorted(map(str, before))
    table = archive.open(CUSTOMER)
    assert table is not None and len(table.file_uris()) == 1
    change(loaded)
    load(loaded, archive)
    assert_archived(loaded, archive)


def test_maintenance_keeps_the_versions_of_the_last_week_and_nothing_of_a_compaction_that_died(
    loaded: Pipeline, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded.insert("customer", id=3)
    load(loaded, archive)
    reader = archive.open(CUSTOMER)
    assert reader is not None
    rows = reader.to_pyarrow_table().num_rows
    monkeypatch.setattr(maintain, "MOST_SMALL_FILES", 1)
    # Something that others have put there.
    folder = Path(str(archive.folder(CUSTOMER)))
    for other in (folder.parent / "notes.txt", folder.parent.parent / "README"):
        other.write_text("of another")
    left = folder / "part-00000-of-a-compaction-that-died.parquet"
    left.write_bytes(b"half")
    for file in folder.glob("*.parquet"):
        os.utime(file, (0, 0))
    maintained = maintain.maintain(loaded.warehouse_url, archive)
    assert maintained.tables_compacted > 1 and maintained.files_removed == 1
    assert not left.exists()
    # Who has opened the table before goes on reading it, and so does a rebuild.
    assert reader.to_pyarrow_table().num_rows == rows
    for file in folder.glob("*.parquet"):
        os.utime(file, (0, 0))
    assert maintain.maintain(loaded.warehouse_url, archive).files_removed == 0
    assert reader.to_pyarrow_table().num_rows == rows
    assert_archived(loaded, archive)


def test_damaged_table_keeps_no_other_from_being_maintained(
    loaded: Pipeline, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded.insert("customer", id=3)
    loaded.do("update product set price = 120, updated_at = shop_now()")
    load(loaded, archive)
    for file in Path(str(archive.folder(CUSTOMER))).glob("*.parquet"):
        file.unlink()
    monkeypatch.setattr(maintain, "MOST_SMALL_FILES", 1)
    with pytest.raises(ArchiveDamaged, match=CUSTOMER):
        maintain.maintain(loaded.warehouse_url, archive)
    table = archive.open("shop/product")
    assert table is not None and len(table.file_uris()) == 1


def test_archive_that_is_switched_off_and_on_again_goes_on(loaded: Pipeline, archive: Archive) -> None:
    loaded.do("update customer set name = 'Eva'")
    upkeep.prepare(loaded.warehouse, loaded.warehouse_url, Settings(_env_file=None, archive=False))
    load(loaded, archive, archives=False, adds=False)
    change(loaded)
    load(loaded, archive)
    assert_archived(loaded, archive)


def test_baseline_whose_batch_lies_in_files_already_keeps_the_batch(
    shop: Pipeline, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(shop, archive, archives=False, adds=False)
    change(shop)

    def is_mirror(_: object, rows: sql.Composable) -> bool:
        return "staging" not in rows.as_string()

    monkeypatch.setattr(batch_files, "_is_small", is_mirror)
    load(shop, archive)
    assert_archived(shop, archive)


def test_undo_in_a_warehouse_that_has_loaded_without_its_archive_hides_nothing(
    shop: Pipeline, archive: Archive
) -> None:
    shop.order(1, "2024-03-10", {}, {})
    load(shop, archive)
    change(shop)
    load(shop, archive, archives=False, adds=False)
    shop.do("update customer set name = 'Mia' where id = 1")
    undone = load(shop, archive, archives=False, adds=False)
    with start_run(shop.warehouse_url, flow="undo", archive=True) as run:
        undo(run, undone)
    shop.do("update customer set name = 'Ada' where id = 1")
    load(shop, archive)
    assert_archived(shop, archive)


def test_runs_that_overlap_are_archived_both_and_one_after_the_other(
    shop: Pipeline, archive: Archive
) -> None:
    with start_run(shop.warehouse_url, flow="discard-quarantine", archive=True) as run:
        load(shop, archive)
        with psycopg.connect(shop.warehouse_url) as writer:
            archive_changed_rows(writer, run.run_id)
            # Whoever publishes next gets later numbers.
            assert not try_transaction_lock(shop.warehouse, STAR_LOCK)
    flush.flush(shop.warehouse_url, archive)
    assert run.run_id in {row["_run_id"] for row in archived(archive, "audit/run")}


@pytest.mark.parametrize("dies", [False, True])
def test_what_was_written_beside_a_run_that_published_is_archived(
    shop: Pipeline, archive: Archive, dies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that a load of web logs puts into quarantine have lower numbers than rows that were published meanwhile."""
    load(shop, archive)
    quarantine = b"""
        insert into audit.quarantine (run_id, source, entity, rules, reason) values (%s, 'weblogs', 'line', '{x}', 'x')
    """
    shop.warehouse.execute(
        """
        insert into audit.file (feed, path, head_bytes, head_hash, tail_hash, size_bytes, modified_ns, byte_offset,
            line_count, rows_loaded, rows_quarantined, status, run_id)
        select 'weblogs', 'a.log', 1, 'a', 'a', 1, 1, 1, 1, 0, 1, 'partial', max(run_id) from audit.run
        """
    )
    with (
        suppress(KeyboardInterrupt),
        start_run(shop.warehouse_url, flow="ingest-weblogs", archive=True) as run,
    ):
        with psycopg.connect(shop.warehouse_url) as writer:
            writer.execute("select set_config('dwh.run_id', %s, true)", [str(run.run_id)])
            writer.execute(quarantine, [run.run_id])
            writer.execute("update audit.file set status = 'loaded' where path = 'a.log'")
            monkeypatch.setattr(shop, "await_open_transactions", lambda: None)
            shop.order(1, "2024-03-10", {"quantity": 0}, {})
            load(shop, archive)
        if dies:
            raise KeyboardInterrupt
        archive_trail(shop.warehouse, run.run_id)
    if dies:
        with start_run(shop.warehouse_url, flow="ingest-weblogs", archive=True) as run:
            archive_trail(shop.warehouse, run.run_id)
    flush.flush(shop.warehouse_url, archive)
    assert_archived(shop, archive)
    assert [row["status"] for row in state(archive, "audit/file", "file_id").values()] == ["loaded"]
    # The next one finds nothing more.
    rows = len(archived(archive, "audit/quarantine"))
    with start_run(shop.warehouse_url, flow="ingest-shop", archive=True) as run:
        archive_trail(shop.warehouse, run.run_id)
    flush.flush(shop.warehouse_url, archive)
    assert len(archived(archive, "audit/quarantine")) == rows


@pytest.mark.parametrize("is_prepared", [False, True], ids=["open", "prepared"])
def test_what_somebody_changes_by_hand_while_a_run_publishes_is_archived_once_it_is_committed(
    loaded: Pipeline, archive: Archive, is_prepared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was logged before the run looked, and nobody but its own transaction saw it then."""
    monkeypatch.setattr(loaded, "await_open_transactions", lambda: None)
    names = "select customer_key, name from dwh.dim_customer where customer_key > 0"
    with psycopg.connect(loaded.warehouse_url, autocommit=True) as person:
        person.execute("begin")
        person.execute("update dwh.dim_customer set name = 'By hand' where customer_key = 1")
        if is_prepared:
            person.execute("prepare transaction 'by hand'")
        for number in (1, 2):
            loaded.order(number, "2024-03-10", {})
            loaded.insert("customer", id=number + 1, name=f"Customer {number}")
            load(loaded, archive)
        before = {
            key: row["name"] for (key,), row in state(archive, "dwh/dim_customer", "customer_key").items()
        }
        assert before == {0: before[0], **dict(loaded.rows(names))}
        person.execute("commit prepared 'by hand'" if is_prepared else "commit")
    loaded.order(3, "2024-03-10", {})
    load(loaded, archive)
    after = {key: row["name"] for (key,), row in state(archive, "dwh/dim_customer", "customer_key").items()}
    assert after == {**before, 1: "By hand"} != before
    # The next one finds nothing more.
    rows = len(archived(archive, "dwh/dim_customer"))
    loaded.order(4, "2024-03-10", {})
    load(loaded, archive)
    assert len(archived(archive, "dwh/dim_customer")) == rows


def test_what_is_to_be_archived_is_found_by_indexes(shop: Pipeline, archive: Archive) -> None:
    """However large the star and its logs have grown: a run reads what has changed since the last one."""
    shop.order(1, "2024-03-10", {}, {})
    load(shop, archive)
    change(shop)
    load(shop, archive)
    with (
        start_run(shop.warehouse_url, flow="discard-quarantine", archive=True) as run,
        psycopg.connect(shop.warehouse_url) as writer,
    ):
        # Tables of a few rows would be read whole.
        writer.execute("set enable_seqscan = off")
        writer.execute("update dwh.dim_customer set username = 'ada' where customer_key = 2")
        before = dict(writer.execute(_SCANS).fetchall())
        archive_changed_rows(writer, run.run_id)
        read_whole = {name for name, scans in writer.execute(_SCANS).fetchall() if scans > before[name]}
    # Their rows are as many as countries, tables, columns and contracts.
    assert read_whole <= {"dim_country", "definition", "feed_field", "freshness", "precedence", "watermark"}
    flush.flush(shop.warehouse_url, archive)
    assert_archived(shop, archive)
    assert state(archive, "dwh/dim_customer", "customer_key")[(2,)]["username"] == "ada"


def test_adding_batches_waits_for_a_run_that_publishes_and_never_with_it(
    shop: Pipeline, archive: Archive
) -> None:
    load(shop, archive, adds=False)
    first, last = CUSTOMER, "audit/watermark"
    publishes = "update audit.archive_table set captured_run_id = captured_run_id where path = %s"
    with psycopg.connect(shop.warehouse_url) as run, ThreadPoolExecutor(1) as pool:
        run.execute(publishes, [last])
        adding = pool.submit(flush.flush, shop.warehouse_url, archive)
        shop.wait_for(
            "select from pg_stat_activity where application_name = 'dwh archive' and wait_event_type = 'Lock' "
            "and datname = current_database()"
        )
        run.execute("set lock_timeout = '60s'")
        run.execute(publishes, [first])
        run.commit()
        assert adding.result(120) > 0
    assert_archived(shop, archive)


def test_table_that_cannot_be_written_holds_back_the_audit_trail_and_no_other_table(
    shop: Pipeline, archive: Archive
) -> None:
    shop.order(1, "2024-03-10", {}, {})
    load(shop, archive)
    versions = {path: archive.open(path).version() for path in (ITEM, "audit/run", "audit/watermark")}  # type: ignore[union-attr]
    folder = Path(str(archive.folder(CUSTOMER)))
    folder.rename(folder.with_name("away"))
    folder.write_text("not a folder")
    change(shop)
    with pytest.raises(ArchiveUnreachable, match="cannot be reached"):
        load(shop, archive)
    moved = {path: archive.open(path).version() - version for path, version in versions.items()}  # type: ignore[union-attr]
    assert moved == {ITEM: 1, "audit/run": 0, "audit/watermark": 0}
    assert {path.partition("/")[0] for (path,) in shop.rows("select path from audit.archive_pending")} == {
        "audit", "shop",
    }  # fmt: skip
    folder.unlink()
    folder.with_name("away").rename(folder)
    flush.flush(shop.warehouse_url, archive)
    assert_archived(shop, archive)


def test_a_run_adds_its_batches_or_leaves_them_to_who_is_adding_and_does_not_wait(
    shop: Pipeline, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = Settings(_env_file=None, lake=str(archive.root.parent), archive_delay="1h")
    load(shop, archive, adds=False)
    with session_lock(shop.warehouse, flush.LOCK):
        assert upkeep.add_due(shop.warehouse_url, hour) is None
    assert shop.rows(IS_ANY_PENDING) == [(True,)]

    # Published while another process was adding: that process adds it, too.
    assert add_beside_a_run(shop, archive, monkeypatch, hour) == 2
    assert_archived(shop, archive)


def add_beside_a_run(
    shop: Pipeline, archive: Archive, monkeypatch: pytest.MonkeyPatch, settings: Settings, **how: bool
) -> int:
    """Add what is due, while a run publishes after the first time; returns how many times rows were added."""

    def flush_before_a_run(*arguments: Any, **options: Any) -> int:
        rows = flush.flush(*arguments, **options)
        if not flushed:
            shop.do("update customer set name = name || ' Ida'")
            load(shop, archive, adds=False)
        flushed.append(rows)
        return rows

    flushed: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(upkeep, "flush", flush_before_a_run)
        assert upkeep.add_due(shop.warehouse_url, settings, **how) is None
    assert min(flushed) > 0
    return len(flushed)


def test_small_batches_wait_while_live_is_at_work(
    shop: Pipeline, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour, now = (
        Settings(_env_file=None, lake=str(archive.root.parent), archive_delay=delay) for delay in ("1h", "0s")
    )
    live_process.begin(shop.warehouse, "shop")
    shop.warehouse.commit()
    with session_lock(shop.warehouse, live_process.lock_name("shop")):
        load(shop, archive, adds=False)
        assert upkeep.add_due(shop.warehouse_url, hour) is None
        assert shop.rows(IS_ANY_PENDING) == [(True,)]
        # A scheduled run does not add for as long as live publishes, nor does another live process that ends.
        assert add_beside_a_run(shop, archive, monkeypatch, now) == 1
        assert add_beside_a_run(shop, archive, monkeypatch, hour, at_once=True) == 1
        assert upkeep.add_due(shop.warehouse_url, now) is None
        assert_archived(shop, archive)
        # Many rows, and files, wait for nobody.
        change(shop)
        load(shop, archive, adds=False)
        with monkeypatch.context() as patch:
            patch.setattr(pending, "MANY_ROWS", 0)
            assert upkeep.add_due(shop.warehouse_url, hour) is None
        assert_archived(shop, archive)
        monkeypatch.setattr(batch_files, "SMALL_ROWS", 0)
        shop.do("update customer set name = 'Mia'")
        load(shop, archive, adds=False)
        assert upkeep.add_due(shop.warehouse_url, hour) is None
        assert_archived(shop, archive)


@pytest.mark.parametrize("error", [ValueError("unforeseen"), ArchiveUnreachable("The archive is away.")])
def test_no_fault_of_the_archive_fails_a_run_and_its_rows_wait(
    shop: Pipeline, archive: Archive, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tries = []

    def fail(*_: object, **__: object) -> None:
        tries.append(1)
        raise error

    monkeypatch.setattr(batch_files, "SMALL_ROWS", 0)
    settings = Settings(_env_file=None, lake=str(archive.root.parent), archive_delay="0s")
    with monkeypatch.context() as patch:
        patch.setattr(batch_files, "write_files", fail)
        patch.setattr(upkeep, "flush", fail)
        load(shop, archive, adds=False)
        # Each try could take until its time is up: one is enough.
        assert len(tries) == 1 or not isinstance(error, ArchiveUnreachable)
        assert str(error) in (upkeep.add_due(shop.warehouse_url, settings) or "")
    assert upkeep.add_due(shop.warehouse_url, settings) is None
    assert_archived(shop, archive)


def test_folder_whose_name_delta_reads_otherwise_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveUnreachable, match=r"my%20lake.* takes a % before two hexadecimal digits"):
        Archive(tmp_path / "my%20lake" / "archive").open(CUSTOMER)


def test_status_says_up_to_which_run_the_archive_reaches_and_what_waits_for_it(
    sale: Pipeline, archive: Archive
) -> None:
    def archive_line() -> str:
        done = command.run("status", environment={**os.environ, "DWH_WAREHOUSE_URL": sale.warehouse_url})
        return " ".join(done.stdout[done.stdout.index("The archive") :].split())

    run_id = load(sale, archive)
    ((archived_at, reached),) = sale.warehouse.execute(
        "select max(archived_at), max(archived_run_id) from audit.archive_table"
    ).fetchall()
    assert reached == run_id
    reaches = f"The archive reaches up to run {run_id} ({archived_at:%Y-%m-%d %H:%M} UTC)"
    assert archive_line() == f"{reaches}."
    # A batch with one new customer is published, and not added yet.
    sale.insert("customer", id=9, name="New", document_number="30111444", username="new")
    load(sale, archive, adds=False)
    (waiting,) = sale.warehouse.execute(
        "select min(published_at), count(distinct run_id), sum(row_count) from audit.archive_pending"
    ).fetchall()
    assert waiting[1] == 1
    assert archive_line() == (
        f"{reaches}; waiting for it since {waiting[0]:%Y-%m-%d %H:%M} UTC: 1 run with {waiting[2]} rows "
        "(`dwh archive` adds them)."
    )
