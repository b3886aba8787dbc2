"""Rows that appear, change or vanish in a source without a new transaction id are in the mirror after the next run."""

from dataclasses import replace

import pytest

from tests.integration.conftest import CopyOf
from tests.integration.test_capture import in_mirror, in_source, last, only
from tests.pipeline import Pipeline, content
from warehouse.errors import DeleteThresholdExceeded, SourceError
from warehouse.extract.limits import ReadLimits
from warehouse.sources.source import Source


def sell_and_capture(shop: Pipeline) -> None:
    """Insert twenty orders, and capture them twice."""
    for number in range(1, 21):
        shop.order(number, "2024-03-10")
    shop.capture()
    shop.await_open_transactions()
    shop.capture()


@pytest.fixture
def loaded(copy_of: CopyOf) -> Pipeline:
    """Twenty orders of one line, captured; everything in it is older than the next snapshot."""
    return copy_of(sell_and_capture)


def swap(pipeline: Pipeline, table: str, *changes: str) -> None:
    """Fill a copy of `table`, change it, let the transactions that wrote it pass, and rename it into its place."""
    pipeline.do(
        f"create table {table}_new (like {table} including all)",
        f"insert into {table}_new select * from {table}",
        *changes,
    )
    pipeline.await_open_transactions()
    # Runs go on meanwhile: what they read last is newer than the rows of the copy.
    pipeline.capture()
    pipeline.await_open_transactions()
    pipeline.capture()
    pipeline.do(f"alter table {table} rename to {table}_old", f"alter table {table}_new rename to {table}")


def test_table_renamed_into_place_is_read_in_the_same_run(loaded: Pipeline) -> None:
    swap(
        loaded,
        "order_item",
        "update order_item_new set line_number = 2 where sales_order_id <= 17",
        "update order_item_new set quantity = 7 where sales_order_id = 18",
    )
    messages: list[str] = []
    run = loaded.capture(progress=messages.append)
    assert run.counts("raw.shop_order_item") == {"inserted": 17, "updated": 1, "deleted": 17}
    assert run.counts("dwh.fact_order_item") == {"read": 52, "inserted": 17, "updated": 1, "deleted": 17}
    note = "public.order_item is another table than the one that was read last: all rows are read"
    assert run.loads["raw.shop_order_item"].note == note and f"order_item: {note}" in messages
    assert loaded.rows(
        "select table_name, note from audit.load where run_id = %s and note is not null", run.run_id
    ) == [("raw.shop_order_item", note)]
    assert in_mirror(loaded, "order_item") == in_source(loaded, "order_item")
    assert [fact[:2] for fact in loaded.facts()] == sorted(
        (str(number), "2" if number <= 17 else "1") for number in range(1, 21)
    )
    assert {one.verdict for one in run.verifications} == {"equal"}
    assert loaded.capture().changes() == {}


def test_deletes_of_a_table_renamed_into_place_are_under_the_threshold(loaded: Pipeline) -> None:
    before = content(loaded.warehouse)
    swap(loaded, "order_item", "update order_item_new set line_number = 2 where sales_order_id <= 17")
    with pytest.raises(DeleteThresholdExceeded, match=r"order_item \(17 of 20 rows, 85%\)"):
        loaded.capture(max_delete_share=0.1)
    assert content(loaded.warehouse) == before
    loaded.capture(max_delete_share=0.1, confirm_deletes=True)
    assert in_mirror(loaded, "order_item") == in_source(loaded, "order_item")


def test_table_made_again_with_the_same_rows_changes_nothing(loaded: Pipeline) -> None:
    before = content(loaded.warehouse)
    swap(loaded, "order_item")
    run = loaded.capture(max_delete_share=0.0)
    assert run.changes() == {}
    assert run.loads["raw.shop_order_item"].rows_read == 20
    assert content(loaded.warehouse) == before


def test_table_dropped_and_made_again_with_the_same_rows_changes_nothing(loaded: Pipeline) -> None:
    loaded.do(
        "create table kept as select * from order_item",
        "drop table order_item",
        "create table order_item (like kept)",
        "alter table order_item add primary key (sales_order_id, line_number)",
        "insert into order_item select * from kept",
    )
    assert loaded.capture(max_delete_share=0.0).changes() == {}
    assert in_mirror(loaded, "order_item") == in_source(loaded, "order_item")


def test_table_truncated_and_filled_again_is_what_it_was_but_for_what_changed(loaded: Pipeline) -> None:
    loaded.do(
        "create table kept as select * from order_item",
        "begin; truncate order_item; insert into order_item select * from kept where sales_order_id > 1; commit",
    )
    assert loaded.capture().changes() == {
        "raw.shop_order_item": {"deleted": 1},
        "dwh.fact_order_item": {"read": 1, "deleted": 1},
    }


def test_table_rewritten_by_vacuum_or_cluster_is_not_read_again(loaded: Pipeline) -> None:
    loaded.do(
        "vacuum full order_item", "cluster sales_order using pk_sales_order", "vacuum (freeze) customer"
    )
    loaded.await_open_transactions()
    loaded.capture()
    run = loaded.capture()
    assert run.changes() == {}
    assert {
        name: load.rows_read
        for name, load in run.loads.items()
        if name in ("raw.shop_order_item", "raw.shop_sales_order", "raw.shop_customer")
    } == {"raw.shop_order_item": 0, "raw.shop_sales_order": 0, "raw.shop_customer": 0}


def test_table_moved_to_another_schema_is_missing_until_it_is_declared_there(loaded: Pipeline) -> None:
    loaded.do("create schema crm", "alter table order_item set schema crm")
    with pytest.raises(SourceError, match=r"has no table public\.order_item") as error:
        loaded.capture()
    assert error.value.hint.startswith('If it has moved, declare schema = "crm" under [tables.order_item].')
    tables = tuple(
        replace(table, schema="crm") if table.name == "order_item" else table
        for table in loaded.source.tables
    )
    by_name = {table.name: table for table in tables}
    loaded.source = replace(
        loaded.source,
        tables=tables,
        entities={
            name: replace(entity, table=by_name[entity.table.name])
            for name, entity in loaded.source.entities.items()
        },
    )
    run = loaded.capture()
    assert run.changes() == {} and run.loads["raw.shop_order_item"].note is None


def test_column_that_was_dropped_and_added_again_is_read_in_the_same_run(loaded: Pipeline) -> None:
    loaded.do(
        "alter table customer drop column state", "alter table customer add column state text default 'Jujuy'"
    )
    run = loaded.capture()
    assert run.loads["raw.shop_customer"].note == (
        "column state was changed or made again: all rows are read"
    )
    assert loaded.rows("select id, state from raw.shop_customer") == [(1, "Jujuy")]


# --- partitions and children ----------------------------------------------------------------------------------


@pytest.fixture
def visits(pipeline: Pipeline) -> Pipeline:
    """Three visits in two partitions by day, captured; a third table waits, with two older rows."""
    pipeline.do(
        "create table visit (id int, day date, updated_at timestamptz, primary key (id, day)) partition by list (day)",
        "create table visit_1 partition of visit for values in ('2024-01-01')",
        "create table visit_2 partition of visit for values in ('2024-01-02')",
        "create table visit_3 (like visit including all)",
        "insert into visit values (1, '2024-01-01', '2024-01-01'), (2, '2024-01-02', '2024-01-01')",
        "insert into visit values (3, '2024-01-02', null)",
        "insert into visit_3 values (4, '2024-01-03', '2023-01-01'), (5, '2024-01-03', null)",
    )
    pipeline.source = only("visit", key=("id", "day"))
    pipeline.capture()
    pipeline.await_open_transactions()
    pipeline.capture()
    return pipeline


def counts(pipeline: Pipeline) -> dict[str, int]:
    """Counts of the last load of `visit`, how many rows it read included."""
    load = pipeline.runs[-1].loads["raw.shop_visit"]
    return {**last(pipeline, "visit"), "read": load.rows_read}


def test_partition_that_is_attached_is_read_and_no_other(visits: Pipeline) -> None:
    visits.do("alter table visit attach partition visit_3 for values in ('2024-01-03')")
    run = visits.capture()
    assert counts(visits) == {"inserted": 2, "cursor_missed": 2, "read": 2}
    note = "rows of public.visit are now stored in visit_3, too: these are all read"
    assert run.loads["raw.shop_visit"].note == note
    assert in_mirror(visits, "visit") == in_source(visits, "visit")


@pytest.mark.parametrize("scan_rows", [200_000, 0])
def test_partition_that_is_exchanged_is_read(visits: Pipeline, scan_rows: int) -> None:
    visits.limits = ReadLimits(scan_rows=scan_rows)
    visits.do(
        "begin; alter table visit detach partition visit_2; update visit_3 set day = '2024-01-02'; commit",
    )
    visits.capture()
    assert counts(visits) == {"deleted": 2, "read": 0}
    visits.await_open_transactions()
    visits.capture()
    visits.do("alter table visit attach partition visit_3 for values in ('2024-01-02')")
    visits.capture()
    assert last(visits, "visit") == {"inserted": 2, "cursor_missed": 2}
    assert in_mirror(visits, "visit") == in_source(visits, "visit")


def test_partition_that_is_detached_and_attached_again_between_runs_changes_nothing(visits: Pipeline) -> None:
    visits.do(
        "alter table visit detach partition visit_2",
        "alter table visit attach partition visit_2 for values in ('2024-01-02')",
    )
    assert visits.capture(max_delete_share=0.0).changes() == {}
    assert counts(visits) == {"read": 0}


def test_table_that_becomes_a_partition_of_its_successor_is_not_read_again(pipeline: Pipeline) -> None:
    pipeline.do(
        "create table visit (id int, day date, updated_at timestamptz, primary key (id, day))",
        "insert into visit values (1, '2024-01-01', '2024-01-01'), (2, '2024-01-02', '2024-01-01')",
    )
    pipeline.source = only("visit", key=("id", "day"))
    pipeline.capture()
    pipeline.await_open_transactions()
    pipeline.capture()
    pipeline.do(
        "alter table visit rename to visit_old",
        "create table visit (id int, day date, updated_at timestamptz) partition by range (day)",
        "alter table visit attach partition visit_old for values from (minvalue) to ('2025-01-01')",
    )
    assert pipeline.capture(max_delete_share=0.0).changes() == {}
    assert counts(pipeline) == {"read": 0}


def test_inheritance_child_that_is_attached_is_read(pipeline: Pipeline) -> None:
    pipeline.do(
        "create table visit (id int primary key, updated_at timestamptz)",
        "create table old_visit (like visit including all)",
        "insert into visit values (1, '2024-01-01')",
        "insert into old_visit values (2, '2020-01-01')",
    )
    pipeline.source = only("visit")
    pipeline.await_open_transactions()
    pipeline.capture()
    pipeline.do("alter table old_visit inherit visit")
    pipeline.capture()
    assert counts(pipeline) == {"inserted": 1, "cursor_missed": 1, "read": 1}
    pipeline.do("alter table old_visit no inherit visit")
    pipeline.capture()
    assert counts(pipeline) == {"deleted": 1, "read": 0}


# --- types ----------------------------------------------------------------------------------------------------


def moods(pipeline: Pipeline) -> Source:
    """A table of a type of the source's own, captured before anything happens to the type."""
    pipeline.do(
        "create type mood as enum ('sad', 'happy')",
        "create type place as (name text, floor int)",
        "create table thing (id int primary key, moods mood[], place place, what regclass)",
        "insert into thing values (1, '{sad}', row('here', 1), 'customer'), (2, '{happy}', row('there', 2), 'brand')",
    )
    pipeline.source = only("thing", cursor=None)
    pipeline.capture()
    pipeline.await_open_transactions()
    pipeline.capture()
    return pipeline.source


@pytest.mark.parametrize(
    ("change", "rows", "note"),
    [
        (
            "alter type mood rename value 'sad' to 'blue'",
            [(1, "{blue}", "(here,1)", "customer")],
            "value 'sad' of mood is now 'blue': all rows are read",
        ),
        (
            "alter type place add attribute door text",
            [(1, "{sad}", "(here,1,)", "customer")],
            "the fields of place were changed: all rows are read",
        ),
        # No part of the table's identity: the checksums find it.
        ("alter table customer rename to client", [(1, "{sad}", "(here,1)", "client")], None),
        # Nothing changes for rows that are there.
        ("alter type mood add value 'angry'", [(1, "{sad}", "(here,1)", "customer")], None),
    ],
)
def test_type_that_changes_changes_the_rows(
    pipeline: Pipeline, change: str, rows: list[tuple[object, ...]], note: str | None
) -> None:
    moods(pipeline)
    pipeline.do(change)
    run = pipeline.capture()
    by_checksum = int("client" in change)
    read = 2 if note else by_checksum
    assert pipeline.rows("select * from raw.shop_thing where id = 1") == [
        (*rows[0], run.run_id if read else 1, False)
    ]
    load = run.loads["raw.shop_thing"]
    assert (load.rows_read, load.rows_found_by_checksum) == (read, by_checksum)
    if note:
        assert load.note == note
    assert in_mirror(pipeline, "thing") == in_source(pipeline, "thing")


def test_row_that_differs_for_whatever_reason_is_read_with_no_delete_published_before(
    loaded: Pipeline,
) -> None:
    """A mirror that lost a row, where the last verification says that it has it, is hashed and completed."""
    loaded.warehouse.execute("delete from raw.shop_order_item where sales_order_id = 5")
    loaded.warehouse.execute("update raw.shop_order_item set quantity = 99 where sales_order_id = 6")
    loaded.do("delete from order_item where sales_order_id = 7")
    messages: list[str] = []
    run = loaded.capture(progress=messages.append)
    assert run.counts("raw.shop_order_item") == {
        "inserted": 1, "updated": 1, "deleted": 1, "cursor_missed": 2, "found_by_checksum": 2,
    }  # fmt: skip
    assert "order_item: 2 rows that no newer transaction wrote were found by their checksums" in messages
    assert in_mirror(loaded, "order_item") == in_source(loaded, "order_item")


def test_watermark_older_than_the_identity_of_tables_records_it(loaded: Pipeline) -> None:
    loaded.warehouse.execute(
        "update audit.watermark set table_identity = null, database_oid = null, database_name = null, "
        "wal_position = null"
    )
    run = loaded.capture()
    assert run.changes() == {} and run.loads["raw.shop_order_item"].rows_read == 0
    assert loaded.rows(
        "select count(*) from audit.watermark where table_identity is null or database_oid is null "
        "or database_name is null or wal_position is null"
    ) == [(0,)]
