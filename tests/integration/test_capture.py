"""Capture: whatever happens in the source, the mirror is the source after the next run."""

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from stack.accounts import ENVIRONMENT, ServerAccount
from stack.postgres import EmbeddedPostgres
from tests.conftest import SETTINGS
from tests.pipeline import Pipeline
from warehouse.db.connections import connect
from warehouse.errors import AccessRefused, DeclarationError, SchemaDrift, SourceChanged, SourceError
from warehouse.extract.limits import ReadLimits
from warehouse.extract.open_transactions import find_open_transactions
from warehouse.extract.snapshot import check_readable
from warehouse.migrations.revisions import upgrade
from warehouse.sources.registry import read_source
from warehouse.sources.source import SchemaPolicy, Source, Table


def only(
    name: str, key: tuple[str, ...] = ("id",), cursor: str | None = "updated_at", schema: str = "public"
) -> Source:
    """A source of one table from which nothing is conformed."""
    return Source("shop", "", (Table("shop", name, schema, key, cursor),), {})


@pytest.fixture
def shop(pipeline: Pipeline) -> Pipeline:
    """A shop with one row of master data each, of which only the customers are captured."""
    pipeline.open_shop()
    pipeline.source = only("customer")
    return pipeline


@pytest.fixture
def whole_shop(shop: Pipeline) -> Pipeline:
    """The same, captured as a whole."""
    shop.source = read_source("shop")
    return shop


def in_source(pipeline: Pipeline, table: str) -> list[str]:
    """Rows of a source table as text, in the order of their text."""
    rows = pipeline.shop.execute(
        sql.SQL("select t::text from {} as t").format(sql.Identifier(table))
    ).fetchall()
    return sorted(text for (text,) in rows)


def in_mirror(pipeline: Pipeline, table: str) -> list[str]:
    """Rows of a mirror that are there, as text without what the mirror adds."""
    (columns,) = pipeline.shop.execute(
        "select array_agg(attname::text order by attnum) from pg_attribute "
        "where attrelid = format('%%I', %s::text)::regclass and attnum > 0 and not attisdropped",
        [table],
    ).fetchone() or ([],)
    mirror = Table("shop", table, "public", (), None).mirror
    rows = pipeline.warehouse.execute(
        sql.SQL("select row({})::text from {} where not _is_deleted").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier("raw", mirror)
        )
    ).fetchall()
    return sorted(text for (text,) in rows)


def last(pipeline: Pipeline, table: str = "customer") -> dict[str, int]:
    """Counts of the last run's load of a mirror."""
    return pipeline.runs[-1].counts(f"raw.shop_{table}")


# --- what a plain cursor loses --------------------------------------------------------------------------------


def test_equal_timestamps_at_the_edge_are_read_again(shop: Pipeline) -> None:
    shop.capture()
    shop.insert("customer", id=2)
    run = shop.capture()
    assert run.counts("raw.shop_customer") == {"inserted": 1, "cursor_missed": 1}
    assert in_mirror(shop, "customer") == in_source(shop, "customer")


def test_newer_timestamps_are_no_business_of_the_net(shop: Pipeline) -> None:
    shop.capture()
    shop.insert("customer", id=2, updated_at="2024-01-02")
    shop.insert("customer", id=3, updated_at="2024-01-03")
    shop.capture()
    assert last(shop) == {"inserted": 2}
    shop.capture()
    assert last(shop) == {}


@pytest.mark.each_major
def test_late_commit_with_an_older_timestamp_is_found(shop: Pipeline) -> None:
    with connect(shop.shop_url) as late:
        late.execute("update customer set country = 'UY', updated_at = '2024-02-01'")
        shop.insert("customer", id=2, updated_at="2024-03-01")
        shop.capture()
        late.commit()
    shop.capture()
    assert last(shop) == {"updated": 1, "cursor_missed": 1}
    assert in_mirror(shop, "customer") == in_source(shop, "customer")
    shop.capture()
    assert last(shop) == {}


@pytest.mark.each_major
def test_long_transaction_is_found_however_many_runs_it_outlives(shop: Pipeline) -> None:
    with connect(shop.shop_url) as late:
        late.execute("update customer set country = 'UY', updated_at = '2024-01-02'")
        for number in range(2, 5):
            shop.insert("customer", id=number, updated_at=f"2024-03-0{number}")
            shop.capture()
        late.commit()
    shop.capture()
    assert last(shop)["cursor_missed"] == 1
    assert in_mirror(shop, "customer") == in_source(shop, "customer")


@pytest.mark.each_major
@pytest.mark.parametrize(
    "rewriting",
    ["truncate order_item", "alter table order_item alter quantity type bigint using quantity + 1"],
)
def test_table_that_is_rewritten_while_others_are_read_is_read_as_it_was(
    whole_shop: Pipeline, rewriting: str
) -> None:
    """Neither statement leaves older snapshots their rows: they wait until the tables are read."""
    whole_shop.order(1, "2024-03-10")
    whole_shop.capture()
    rewriter = threading.Thread(target=whole_shop.do, args=(rewriting,))

    def rewrite(_: str) -> None:
        if rewriter.ident is None:
            rewriter.start()
            # Time enough to be done, were there nothing to wait for.
            rewriter.join(0.5)

    run = whole_shop.capture(progress=rewrite)
    rewriter.join()
    assert run.changes() == {}
    assert whole_shop.rows("select quantity from dwh.fact_order_item") == [(2,)]


def test_null_and_backdated_cursors_are_found(shop: Pipeline) -> None:
    shop.insert("customer", id=2)
    shop.capture()
    shop.do(
        "update customer set name = 'Nobody', updated_at = null where id = 1",
        "update customer set name = 'Backdated', updated_at = '2001-01-01' where id = 2",
    )
    shop.insert("customer", id=3, updated_at=None)
    shop.insert("customer", id=4, updated_at="-infinity")
    shop.capture()
    assert last(shop) == {"inserted": 2, "updated": 2, "cursor_missed": 4}
    assert in_mirror(shop, "customer") == in_source(shop, "customer")


def test_cursor_at_infinity_hides_nothing_behind_it(shop: Pipeline) -> None:
    shop.insert("customer", id=2, updated_at="infinity")
    shop.capture()
    shop.do("update customer set name = 'Later', updated_at = now() where id = 1")
    shop.capture()
    assert last(shop) == {"updated": 1}
    assert in_mirror(shop, "customer") == in_source(shop, "customer")


@pytest.mark.parametrize(
    ("stamp", "scan_rows"),
    [
        ("infinity", 0), ("9999-12-31", 200_000), ("-infinity", 200_000), (None, 0),
        *(
            pytest.param(*values, marks=pytest.mark.slow)
            for values in (("infinity", 200_000), ("9999-12-31", 0), ("-infinity", 0), (None, 200_000))
        ),
    ],
)  # fmt: skip
def test_stamp_that_is_no_time_of_a_change_fails_no_later_run(
    shop: Pipeline, stamp: str | None, scan_rows: int
) -> None:
    shop.limits = ReadLimits(scan_rows=scan_rows)
    shop.insert("customer", id=2, updated_at=stamp)
    shop.capture()
    for number in range(3, 6):
        assert shop.rows("select cursor_value from audit.watermark where table_name = 'customer'") == [
            (f"2024-01-0{max(number - 2, 1)} 00:00:00+00",)
        ]
        shop.insert("customer", id=number, updated_at=f"2024-01-0{number - 1}")
        run = shop.capture()
        assert last(shop)["inserted"] == 1
        # Behind the cursor there is nothing to be found.
        assert run.loads["raw.shop_customer"].rows_found_by_checksum == 0
    shop.do("update customer set name = 'Changed' where id = 2")
    shop.capture()
    assert in_mirror(shop, "customer") == in_source(shop, "customer")


def test_watermark_that_an_earlier_release_left_at_infinity_is_none(shop: Pipeline) -> None:
    shop.insert("customer", id=2, updated_at="infinity")
    shop.capture()
    shop.warehouse.execute("update audit.watermark set cursor_value = 'infinity'")
    shop.insert("customer", id=3, updated_at="2024-02-01")
    run = shop.capture()
    assert last(shop) == {"inserted": 1}
    assert run.loads["raw.shop_customer"].window_low is None
    assert run.loads["raw.shop_customer"].window_high == "2024-02-01 00:00:00+00"


def test_change_under_a_disabled_trigger_is_found(shop: Pipeline) -> None:
    shop.capture()
    shop.do("alter table customer disable trigger all", "update customer set name = 'Quiet'")
    shop.capture()
    assert last(shop) == {"updated": 1, "cursor_missed": 1}
    assert in_mirror(shop, "customer") == in_source(shop, "customer")


@pytest.mark.each_major
def test_savepoints_are_found_and_what_was_rolled_back_is_not(shop: Pipeline) -> None:
    with connect(shop.shop_url) as late:
        late.execute("update customer set name = 'Main', updated_at = '2024-01-02'")
        with late.transaction():
            late.execute(
                "insert into customer (id, name, username, email, country) values (2, 'Kept', 'k', 'k', 'AR')"
            )
            with pytest.raises(ZeroDivisionError), late.transaction():
                late.execute(
                    "insert into customer (id, name, username, email, country) values (3, 'Lost', 'l', 'l', 'AR')"
                )
                raise ZeroDivisionError
            late.execute("update customer set country = 'CL', updated_at = '2024-01-03' where id = 2")
        shop.insert("customer", id=9, updated_at="2024-05-01")
        shop.capture()
        late.commit()
    shop.capture()
    assert last(shop) == {"inserted": 1, "updated": 1, "cursor_missed": 2}
    assert in_mirror(shop, "customer") == in_source(shop, "customer")


@pytest.mark.each_major
def test_prepared_transaction_is_found_when_it_is_committed(shop: Pipeline) -> None:
    with connect(shop.shop_url) as other:
        name = shop.shop.info.dbname
        other.execute("update customer set name = 'Two phases', updated_at = '2024-01-02'")
        other.execute(sql.SQL("prepare transaction {}").format(sql.Literal(name)))
    shop.insert("customer", id=2, updated_at="2024-05-01")
    shop.capture()
    shop.capture()
    assert in_mirror(shop, "customer") == in_source(shop, "customer")
    shop.do(f"commit prepared '{name}'")
    shop.capture()
    assert last(shop)["cursor_missed"] == 1
    assert in_mirror(shop, "customer") == in_source(shop, "customer")


def test_key_change_delete_and_reinsert_in_one_go(shop: Pipeline) -> None:
    for number in range(2, 6):
        shop.insert("customer", id=number)
    shop.capture()
    shop.do(
        "update customer set id = id + 100 where id in (1, 2)",
        "delete from customer where id = 3",
        "delete from customer where id = 4",
        "update customer set id = 3 where id = 5",
    )
    shop.insert("customer", id=4, name="Again", updated_at="2020-01-01")
    shop.capture()
    assert in_mirror(shop, "customer") == in_source(shop, "customer")
    assert last(shop) == {"inserted": 2, "updated": 2, "deleted": 3, "cursor_missed": 1}


def test_table_without_a_cursor_lives_on_the_net_alone(shop: Pipeline) -> None:
    source = only("customer", cursor=None)
    shop.insert("customer", id=2)
    shop.capture(source=source)
    shop.do("update customer set name = 'New' where id = 2")
    shop.capture(source=source)
    assert last(shop) == {"updated": 1}
    shop.capture(source=source)
    assert last(shop) == {}
    assert in_mirror(shop, "customer") == in_source(shop, "customer")


@pytest.mark.each_major
def test_all_tables_are_read_at_one_moment(whole_shop: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows committed while a run reads are of the next run, whole: no line without its order."""
    from warehouse.extract.stage_table import TableStager

    read = TableStager.stage

    def and_the_shop_goes_on(stager: TableStager) -> object:
        staged = read(stager)
        if staged.table.name == "sales_order":
            whole_shop.order(7, "2024-03-10")
        return staged

    monkeypatch.setattr(TableStager, "stage", and_the_shop_goes_on)
    whole_shop.capture()
    assert (in_mirror(whole_shop, "sales_order"), in_mirror(whole_shop, "order_item")) == ([], [])
    monkeypatch.undo()
    whole_shop.capture()
    assert whole_shop.facts("customer.name") == [("7", "1", "Ana")]


@pytest.mark.each_major
def test_many_rows_cross_every_chunk(pipeline: Pipeline) -> None:
    pipeline.do(
        "create table reading (id bigint primary key, value double precision, note text, updated_at timestamptz)",
        "insert into reading select n, sqrt(n), repeat('é', (n % 50)::int), "
        "'2024-01-01'::timestamptz + n * interval '1 s' from generate_series(1, 70000) as n",
    )
    source = only("reading")
    pipeline.capture(source=source)
    assert last(pipeline, "reading") == {"inserted": 70000}
    pipeline.do(
        "update reading set value = -value, updated_at = '2000-01-01' where id % 1000 = 0",
        "delete from reading where id % 777 = 0",
        "insert into reading select n, n, 'new', null from generate_series(70001, 70100) as n",
    )
    run = pipeline.capture(source=source)
    assert last(pipeline, "reading") == {
        "inserted": 100, "updated": 70, "deleted": 90, "cursor_missed": 170,
    }  # fmt: skip
    assert in_mirror(pipeline, "reading") == in_source(pipeline, "reading")
    (verification,) = run.verifications
    assert (
        verification.rows_source,
        verification.rows_mirror,
        verification.chunks,
        verification.verdict,
    ) == (70010, 70010, 512, "equal")


def test_window_of_each_load_is_recorded_as_exact_text(shop: Pipeline) -> None:
    shop.capture()
    shop.do("update customer set name = 'New', updated_at = '2024-02-03 04:05:06.789012'")
    shop.capture()
    assert shop.rows(
        "select window_low, window_high from audit.load where table_name = 'raw.shop_customer' order by load_id"
    ) == [(None, "2024-01-01 00:00:00+00"), ("2024-01-01 00:00:00+00", "2024-02-03 04:05:06.789012+00")]
    assert shop.rows(
        "select cursor_value, run_id - %s from audit.watermark where table_name = 'customer'",
        shop.runs[-1].run_id,
    ) == [("2024-02-03 04:05:06.789012+00", 0)]


# --- a source that changes shape ------------------------------------------------------------------------------


def test_new_column_with_a_default_is_captured_whole(whole_shop: Pipeline) -> None:
    for number in range(2, 50):
        whole_shop.insert("customer", id=number)
    whole_shop.capture()
    whole_shop.do("alter table customer add column vip boolean default true")
    run = whole_shop.capture()
    assert last(whole_shop) == {"updated": 49}
    assert whole_shop.rows("select distinct vip from raw.shop_customer") == [(True,)]
    assert in_mirror(whole_shop, "customer") == in_source(whole_shop, "customer")
    assert whole_shop.versions("customer", "name")[0] == ("1", "Ana", "ever", "now")
    assert run.counts("dwh.dim_customer") == {"read": 49, "unchanged": 49}


def test_new_column_of_an_empty_table(whole_shop: Pipeline) -> None:
    whole_shop.capture()
    whole_shop.do("alter table promotion add column budget money")
    whole_shop.insert("promotion", budget="1234.56")
    whole_shop.capture()
    assert in_mirror(whole_shop, "promotion") == in_source(whole_shop, "promotion")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("alter table customer drop column state", "state was dropped"),
        ("alter table customer rename column state to province", "state was dropped; province is new"),
        (
            "alter table customer alter column state type varchar(20)",
            "state is character varying(20) and was text",
        ),
    ],
)
def test_lost_or_retyped_column_stops_the_run(shop: Pipeline, change: str, told: str) -> None:
    shop.capture()
    shop.do(change, "update customer set name = 'Unseen', updated_at = now()")
    with pytest.raises(SchemaDrift) as error:
        shop.capture()
    assert error.value.what == f"Table public.customer of source 'shop' has changed: {told}."
    assert error.value.hint.startswith(
        "Adapt the conform SQL, then let the mirror follow: evolve (or ignore)"
    )
    assert shop.rows("select name from raw.shop_customer") == [("Ana",)]
    assert [state[1] for state in shop.run_states()] == ["succeeded", "failed"]


SHAPES = (
    "alter table thing drop column gone",
    "alter table thing add column new int default 7",
    """
    alter table thing alter column id type bigint, alter column amount type text using amount || ' USD'
""",
)


def changing(**policy: str) -> Source:
    return replace(
        only("thing"),
        tables=(Table("shop", "thing", "public", ("id",), "updated_at", SchemaPolicy(**policy)),),
    )


@pytest.fixture
def thing(pipeline: Pipeline) -> Pipeline:
    """A table of which a column is about to go, to come, and to change."""
    pipeline.do(
        "create table thing (id int primary key, gone text, amount numeric, name text, updated_at timestamptz)",
        "insert into thing values (1, 'x', 1.50, 'a', '2024-01-01'), (2, 'y', 2, 'b', '2024-01-02'), "
        "(3, 'z', 3, 'c', null)",
    )
    pipeline.capture(source=changing())
    return pipeline


@pytest.mark.each_major
def test_mirror_follows_a_source_that_may_evolve(thing: Pipeline) -> None:
    source = changing(new_column="evolve", dropped_column="evolve", changed_type="evolve")
    thing.do(*SHAPES, "delete from thing where id = 2")
    thing.capture(source=source)
    assert last(thing, "thing") == {"updated": 2, "deleted": 1}
    assert thing.rows(
        "select id, amount, name, new from raw.shop_thing where not _is_deleted order by id"
    ) == [
        (1, "1.50 USD", "a", 7),
        (3, "3 USD", "c", 7),
    ]
    assert in_mirror(thing, "thing") == in_source(thing, "thing")
    assert thing.capture(source=source).changes() == {}


def test_mirror_stays_as_it_is_where_changes_are_ignored(thing: Pipeline) -> None:
    source = changing(new_column="ignore", dropped_column="ignore", changed_type="ignore")
    thing.do(
        SHAPES[0],
        SHAPES[1],
        "alter table thing alter column amount type text",
        "insert into thing (id) values (4)",
    )
    thing.do("update thing set amount = '9.90' where id = 1")
    thing.capture(source=source)
    kept = "select id, gone, amount::text, name from raw.shop_thing order by id"
    assert thing.rows(kept) == [
        (1, "x", "9.90", "a"),
        (2, "y", "2", "b"),
        (3, "z", "3", "c"),
        (4, None, None, None),
    ]
    assert thing.capture(source=source).changes() == {}
    thing.do("update thing set amount = 'nine' where id = 1")
    with pytest.raises(SourceError) as error:
        thing.capture(source=source)
    assert error.value.what.startswith(
        "A value of public.thing of source 'shop' does not fit its mirror: invalid input"
    )
    assert 'changed_type = "evolve"' in error.value.hint
    assert len(thing.rows(kept)) == 4


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (
            ["alter table thing alter amount type timestamptz using null"],
            "cannot cast type timestamp with time zone to numeric",
        ),
        # It has no new timestamp, so that only the comparison of its key range reads it.
        (
            ["alter table thing alter amount type text", "update thing set amount = 'nine' where id = 1"],
            "invalid input syntax for type numeric",
        ),
    ],
)
@pytest.mark.parametrize("scan_rows", [0, 200_000])
def test_value_that_is_none_of_the_type_that_the_mirror_keeps_is_an_error_however_it_is_read(
    thing: Pipeline, statements: list[str], reason: str, scan_rows: int
) -> None:
    thing.do("create index on thing (updated_at)")
    thing.limits = ReadLimits(scan_rows=scan_rows, verify_within=timedelta(0))
    source = changing(changed_type="ignore")
    thing.capture(source=source, full_refresh=True)
    thing.do(statements[0])
    if len(statements) > 1:
        thing.capture(source=source)
        thing.do(*statements[1:])
    with pytest.raises(SourceError) as error:
        thing.capture(source=source)
    assert f"of public.thing of source 'shop' does not fit its mirror: {reason}" in error.value.what
    assert 'changed_type = "evolve"' in error.value.hint


def test_any_change_stops_a_source_that_must_not_change(thing: Pipeline) -> None:
    thing.do(*SHAPES)
    with pytest.raises(SchemaDrift) as error:
        thing.capture(source=changing(new_column="stop"), full_refresh=True)
    assert error.value.what == (
        "Table public.thing of source 'shop' has changed: gone was dropped; amount is text and was numeric; "
        "id is bigint and was integer; new is new."
    )
    assert thing.rows("select count(*) from raw.shop_thing") == [(3,)]


def test_key_of_another_kind_stops_whatever_the_policy(thing: Pipeline) -> None:
    thing.do("alter table thing alter column id type text")
    with pytest.raises(SchemaDrift, match="its key id is text and was integer") as error:
        thing.capture(source=changing(changed_type="evolve"))
    assert error.value.hint == (
        "Capture the table again in full: `drop table raw.shop_thing` in the warehouse (`dwh psql`), and run again."
    )
    thing.warehouse.execute("drop table raw.shop_thing")
    thing.capture(source=changing(changed_type="evolve"))
    assert thing.rows("select id from raw.shop_thing order by 1") == [("1",), ("2",), ("3",)]


def test_mirror_that_is_captured_anew_finds_its_facts_in_the_star(whole_shop: Pipeline) -> None:
    shop = whole_shop
    shop.order(901, "2024-03-09")
    shop.capture()
    known = shop.facts()
    shop.do("update order_item set quantity = 7 where sales_order_id = 901")
    shop.order(902, "2024-03-10")
    shop.warehouse.execute("drop table raw.shop_order_item")
    run = shop.capture()
    assert run.loads["raw.shop_order_item"].rows_inserted == len(known) + 1
    assert run.changes()["dwh.fact_order_item"].items() >= {("inserted", 1), ("updated", 1)}
    assert shop.facts("quantity")[-2:] == [("901", "1", 7), ("902", "1", 2)]
    assert len(shop.facts()) == len(known) + 1
    shop.warehouse.execute("delete from raw.shop_order_item where sales_order_id = 901")
    shop.do("update order_item set quantity = 8 where sales_order_id = 901")
    shop.order(903, "2024-03-11")
    assert shop.capture().changes()["dwh.fact_order_item"].items() >= {("inserted", 1), ("updated", 1)}
    assert shop.facts("quantity")[-3:] == [("901", "1", 8), ("902", "1", 2), ("903", "1", 2)]


@pytest.mark.parametrize(
    "change", ["other type", "other type, mirror dropped", "other column", "full refresh"]
)
def test_cursor_that_was_a_number_may_become_a_moment(pipeline: Pipeline, change: str) -> None:
    evolve = SchemaPolicy("evolve", "evolve", "evolve")
    numbered = Table("shop", "thing", "public", ("id",), "version", evolve)
    source = replace(only("thing"), tables=(numbered,))
    pipeline.do(
        "create table thing (id int primary key, version int, updated_at timestamptz)",
        "insert into thing values (1, 17, '2024-01-01'), (2, 99, '2024-01-02')",
    )
    pipeline.capture(source=source)
    if "type" in change:
        pipeline.do("alter table thing alter column version type timestamptz using to_timestamp(version)")
    else:
        source = replace(source, tables=(replace(numbered, cursor="updated_at"),))
    if "dropped" in change:
        pipeline.warehouse.execute("drop table raw.shop_thing")
    pipeline.do("insert into thing (id) values (3)", "delete from thing where id = 1")
    pipeline.capture(source=source, full_refresh=change == "full refresh")
    assert in_mirror(pipeline, "thing") == in_source(pipeline, "thing")
    assert pipeline.capture(source=source).changes() == {}


@pytest.mark.parametrize(
    ("before", "after", "is_alike"),
    [
        ("timestamp(3) with time zone", "timestamp with time zone", True),
        ("timestamp(3)", "timestamp(3) with time zone", False),
        ("numeric(9, 2)", "numeric", True),
        ("numeric(9, 2)", "numeric(9, 2)[]", False),
    ],
)
def test_key_of_another_precision_is_of_the_same_kind(
    pipeline: Pipeline, before: str, after: str, is_alike: bool
) -> None:
    source = changing(changed_type="evolve")
    pipeline.do(f"create table thing (id {before} primary key, updated_at timestamptz)")
    pipeline.capture(source=source)
    pipeline.do("drop table thing", f"create table thing (id {after} primary key, updated_at timestamptz)")
    with nullcontext() if is_alike else pytest.raises(SchemaDrift, match="rows are matched by it"):
        pipeline.capture(source=source)


def test_column_that_others_depend_on_does_not_go_silently(thing: Pipeline) -> None:
    thing.warehouse.execute("create view raw.somebodys as select gone from raw.shop_thing")
    thing.do(SHAPES[0])
    with pytest.raises(SchemaDrift) as error:
        thing.capture(source=changing(dropped_column="evolve"))
    assert "raw.shop_thing cannot follow: view raw.somebodys depends on column gone" in error.value.what


def test_column_that_conform_sql_needs_stops_before_the_mirror_loses_it(whole_shop: Pipeline) -> None:
    whole_shop.capture()
    evolve = SchemaPolicy(dropped_column="evolve")
    swap = {table: replace(table, on_schema_change=evolve) for table in whole_shop.source.tables}
    entities = {
        name: replace(
            entity,
            table=swap[entity.table],
            tables={table.name: swap[table] for table in entity.tables.values()},
        )
        for name, entity in whole_shop.source.entities.items()
    }
    whole_shop.source = replace(whole_shop.source, tables=tuple(swap.values()), entities=entities)
    whole_shop.do("alter table customer drop column state", "update customer set name = 'New'")
    with pytest.raises(
        DeclarationError,
        match=r"conform/customer\.sql of source 'shop' fails: column customer\.state does not",
    ):
        whole_shop.capture()
    assert whole_shop.rows("select name, state from raw.shop_customer") == [("Ana", "Salta")]


@pytest.mark.each_major
def test_limits_and_habits_of_a_server_do_not_reach_a_run(
    whole_shop: Pipeline,
) -> None:
    """Roles are given time limits that are meant for people; a run waits, works and idles for longer than these."""
    whole_shop.order(1, "2024-03-10")
    whole_shop.capture()
    for connection in (whole_shop.shop, whole_shop.warehouse):
        for (limit,) in connection.execute(
            "select name from pg_settings where name ~ '^(statement|lock|transaction|idle.*session)_timeout$'"
        ).fetchall():
            connection.execute(f"alter database {connection.info.dbname} set {limit} = '1s'".encode())
        connection.execute(f"alter database {connection.info.dbname} set quote_all_identifiers = on".encode())
    whole_shop.do("update customer set name = 'New'")
    locked = connect(whole_shop.shop_url)
    locked.execute("lock table order_item")

    def unlock() -> None:
        await_lock = "select from pg_locks where not granted and relation = 'order_item'::regclass"
        give_up_at = time.monotonic() + 120
        while not whole_shop.shop.execute(await_lock).rowcount and time.monotonic() < give_up_at:
            time.sleep(0.02)
        time.sleep(1.2)
        locked.close()

    unlocker = threading.Thread(target=unlock)
    unlocker.start()
    idled: list[str] = []

    def idle(said: str) -> None:
        idled.append(said)
        time.sleep(1.2 if len(idled) == 1 else 0)

    run = whole_shop.capture(progress=idle)
    unlocker.join()
    assert idled and run.counts("raw.shop_customer")["updated"] == 1
    assert in_mirror(whole_shop, "customer") == in_source(whole_shop, "customer")


def test_read_only_warehouse_is_reported(shop: Pipeline) -> None:
    name = shop.warehouse.info.dbname
    shop.warehouse.execute(f"alter database {name} set default_transaction_read_only = on".encode())
    with pytest.raises(AccessRefused) as error:
        shop.capture()
    assert (
        error.value.what == "The warehouse takes no writes: cannot execute UPDATE in a read-only transaction."
    )
    assert "default_transaction_read_only" in error.value.hint
    with pytest.raises(AccessRefused, match="takes no writes"):
        upgrade(shop.warehouse_url)


# --- sources that must not be trusted -------------------------------------------------------------------------


@contextmanager
def a_reader(pipeline: Pipeline, *grants: str) -> Iterator[str]:
    """URL of the shop for a role with nothing but `grants`; {role} stands for its name."""
    role = f"reader_{pipeline.shop.info.dbname}"
    pipeline.do(f"create role {role} login password 'secret'", *(grant.format(role=role) for grant in grants))
    info = pipeline.shop.info
    try:
        yield f"postgresql://{role}:secret@{info.host}:{info.port}/{info.dbname}"
    finally:
        pipeline.do(f"drop owned by {role}", f"drop role {role}")


@pytest.mark.each_major
def test_reader_needs_no_more_than_select(shop: Pipeline) -> None:
    with a_reader(shop, "grant select on all tables in schema public to {role}") as url:
        shop.capture(shop_url=url)
        shop.do("update customer set name = 'New'")
        shop.capture(shop_url=url)
    assert in_mirror(shop, "customer") == in_source(shop, "customer")


def test_missing_grant_is_reported(whole_shop: Pipeline) -> None:
    grants = ["grant select on all tables in schema public to {role}", "revoke select on product from {role}"]
    with a_reader(whole_shop, *grants) as url, pytest.raises(SourceError) as error:
        whole_shop.capture(shop_url=url)
    assert (
        error.value.what.startswith("User reader_test_") and "may not read public.product" in error.value.what
    )
    assert re.fullmatch(r"Run there: grant select on public\.product to reader_test_\w+\.", error.value.hint)
    assert whole_shop.rows("select count(*) from audit.watermark") == [(0,)]


def test_missing_grant_on_one_column_is_reported(shop: Pipeline) -> None:
    grants = ["grant select (id, name, updated_at) on customer to {role}"]
    with (
        a_reader(shop, *grants) as url,
        pytest.raises(SourceError, match=r"may not read public\.customer") as error,
    ):
        shop.capture(source=only("customer"), shop_url=url)
    assert error.value.hint.endswith("read some columns only, declare a view of these in its place.")


def test_missing_grant_on_the_schema_is_reported(shop: Pipeline) -> None:
    shop.do("create schema hidden", "create table hidden.thing (id int primary key, updated_at timestamptz)")
    grants = ["grant select on hidden.thing to {role}"]
    with a_reader(shop, *grants) as url, pytest.raises(SourceError) as error:
        shop.capture(source=only("thing", schema="hidden"), shop_url=url)
    assert "may not use schema hidden" in error.value.what
    assert error.value.hint.startswith("Run there: grant usage on schema hidden to reader_test_")


def test_row_level_security_that_hides_rows_is_reported(shop: Pipeline) -> None:
    shop.do("alter table customer enable row level security", "create policy shy on customer using (id > 1)")
    grants = ["grant select on all tables in schema public to {role}"]
    with a_reader(shop, *grants) as url:
        with pytest.raises(SourceError, match=r"Row-level security hides rows of public\.customer"):
            shop.capture(shop_url=url)
        shop.do(f"alter role reader_{shop.shop.info.dbname} bypassrls")
        shop.capture(shop_url=url)
    assert in_mirror(shop, "customer") == in_source(shop, "customer")


@pytest.mark.each_major
@pytest.mark.parametrize("invoker", [True, False])
def test_row_level_security_behind_a_view_is_reported(shop: Pipeline, invoker: bool) -> None:
    """Of the table a policy may apply to who reads the view, or to its owner."""
    shop.do(
        "create table base (id int primary key, updated_at timestamptz)",
        "insert into base values (1, now()), (2, now())",
        f"create view thing with (security_invoker = {invoker}) as select * from base",
        "alter table base enable row level security",
        "create policy shy on base using (id > 1)",
    )
    with a_reader(shop, "grant select on base, thing to {role}") as url:
        role = f"reader_{shop.shop.info.dbname}"
        try:
            if not invoker:
                shop.do(f"alter view thing owner to {role}")
            with pytest.raises(
                SourceError, match=r"View public\.thing of source 'shop' .* row-level security"
            ):
                shop.capture(source=only("thing"), shop_url=url)
            shop.do(f"alter role {role} bypassrls", f"revoke select on base from {role}")
            with pytest.raises(SourceError, match="permission denied for table base"):
                shop.capture(source=only("thing"), shop_url=url)
            shop.do(f"grant select on base to {role}")
            shop.capture(source=only("thing"), shop_url=url)
        finally:
            shop.do("alter view thing owner to current_user")
    assert shop.rows("select id from raw.shop_thing order by 1") == [(1,), (2,)]


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ("select 1", "Source 'shop' has no table public.thing."),
        ("create sequence thing", "public.thing of source 'shop' is neither a table nor a view."),
    ],
)
def test_what_is_no_table_is_reported(shop: Pipeline, made: str, told: str) -> None:
    shop.do(made)
    with pytest.raises(SourceError) as error:
        shop.capture(source=only("thing"))
    assert told in error.value.what


def test_only_the_shop_can_be_generated(shop: Pipeline) -> None:
    for name, can_be in (("shop", True), ("acme", False)):
        with pytest.raises(SourceError) as error:
            check_readable(shop.shop, Table(name, "thing", "public", ("id",), None))
        assert ("dwh generate shop" in error.value.hint) == can_be


@pytest.mark.parametrize("column", ["key", "cursor"])
def test_declared_column_that_is_missing_is_reported(shop: Pipeline, column: str) -> None:
    source = only("brand", key=("code",)) if column == "key" else only("brand", cursor="code")
    with pytest.raises(DeclarationError) as error:
        shop.capture(source=source)
    assert error.value.what == "Source 'shop' declares column 'code' of public.brand, which does not exist."
    assert error.value.hint == "Its columns are: created_at, id, name, updated_at."


def test_cursor_that_is_declared_anew_is_compared_with_no_value_of_the_one_before(pipeline: Pipeline) -> None:
    pipeline.do(
        "create table thing (id int primary key, name text, version int, place point, many json[])",
        "insert into thing values (1, 'x', 1)",
    )
    pipeline.capture(source=only("thing", cursor="name"))
    windows = []
    for version in (2, 3):
        pipeline.do(f"update thing set version = {version}")
        load = pipeline.capture(source=only("thing", cursor="version")).loads["raw.shop_thing"]
        windows.append((load.rows_updated, load.window_low, load.window_high))
    assert windows == [(1, None, "2"), (1, "2", "3")]
    for source in (only("thing", cursor="place"), only("thing", cursor=None, key=("many",))):
        with pytest.raises(
            DeclarationError, match=r"can be neither key nor cursor: values of its type (point|json\[\])"
        ):
            pipeline.capture(source=source)


@pytest.mark.parametrize(
    ("problem", "when", "bad"),
    [
        ("not unique", "at first", "('a', 'y', now()), ('a', 'y', now())"),
        ("not unique", "later", "('a', 'y', now()), ('a', 'y', now())"),
        ("not unique", "later", "('a', 'x', now()), ('a', 'x', now())"),
        ("null in some rows", "at first", "('a', null, now())"),
        ("null in some rows", "later", "('a', null, now())"),
    ],
)
def test_declared_key_that_is_not_unique_is_reported(
    pipeline: Pipeline, problem: str, when: str, bad: str
) -> None:
    pipeline.do('create table "Old thing" ("Code" text, "order" text, updated_at timestamptz)')
    source = only("Old thing", key=("Code", "order"))
    pipeline.do("""insert into "Old thing" values ('a', 'x', '2024-01-01')""")
    if when == "later":
        pipeline.capture(source=source)
    pipeline.do(f'insert into "Old thing" values {bad}')
    with pytest.raises(SourceError) as error:
        pipeline.capture(source=source)
    assert error.value.what == (
        f"The key (Code, order) that source 'shop' declares for public.Old thing is {problem}."
    )
    assert error.value.hint.endswith("Correct them, or declare another key in the source.toml of 'shop'.")
    query = (
        error.value.hint.removeprefix("The source shows the rows: ")
        .partition(". Correct")[0]
        .partition(". Rows")[0]
    )
    assert pipeline.shop.execute(query.encode()).rowcount == 1, "it shows the rows"
    there = pipeline.rows("""select to_regclass('raw."shop_Old thing"') is not null""")
    assert there == [(when == "later",)]


@pytest.mark.parametrize("change", ["insert into child values (1, 'y')", "update only thing set id = 2"])
def test_key_that_a_later_row_repeats_is_reported_before_the_mirror_loses_the_good_one(
    pipeline: Pipeline, change: str
) -> None:
    """The good row lies behind the net, so that the batch alone does not tell."""
    pipeline.do(
        "create table thing (id int primary key, name text)",
        "create table child () inherits (thing)",
        "insert into thing values (1, 'x')",
        "insert into child values (2, 'z')",
    )
    source = only("thing", cursor=None)
    pipeline.await_open_transactions()
    pipeline.capture(source=source)
    good = in_mirror(pipeline, "thing")
    pipeline.do(change)
    for full_refresh in (False, False, True):
        with pytest.raises(SourceError) as error:
            pipeline.capture(source=source, full_refresh=full_refresh)
        assert error.value.what == "The key (id) that source 'shop' declares for public.thing is not unique."
        assert "Rows of tables that inherit from it are its rows, too" in error.value.hint
        assert in_mirror(pipeline, "thing") == good
    pipeline.do("delete from thing where name = 'y'", "update only thing set id = 1")
    assert pipeline.capture(source=source).changes() == {}
    assert in_mirror(pipeline, "thing") == in_source(pipeline, "thing") == good


def test_rows_missing_from_the_mirror_are_no_repeated_keys(pipeline: Pipeline) -> None:
    """More rows there than here, and keys that vanished in the same chunks."""
    pipeline.do("create table thing (id int primary key)", "insert into thing select generate_series(1, 500)")
    source = only("thing", cursor=None)
    pipeline.await_open_transactions()
    pipeline.capture(source=source)
    pipeline.warehouse.execute("delete from raw.shop_thing where id % 5 = 0")
    pipeline.do("delete from thing where id % 7 = 0")
    pipeline.capture(source=source)
    assert last(pipeline, "thing") == {"inserted": 86, "deleted": 57, "found_by_checksum": 86}
    assert in_mirror(pipeline, "thing") == in_source(pipeline, "thing")


@pytest.mark.parametrize(
    ("columns", "row", "told"),
    [
        (", ".join(f"c{n} int" for n in range(1599)), "1", "tables can have at most 1600 columns"),
        ("name text", "string_agg(md5(n::text), '') from generate_series(1, 300) as n", "index row"),
    ],
)
def test_table_that_no_mirror_can_hold_is_reported(
    pipeline: Pipeline, columns: str, row: str, told: str
) -> None:
    pipeline.do(f"create table thing (id text, {columns})", f"insert into thing (id) select {row}")
    with pytest.raises(SourceError) as error:
        pipeline.capture(source=only("thing", cursor=None))
    assert error.value.what.startswith(f"public.thing of source 'shop' cannot be mirrored: {told}")
    assert pipeline.rows("select to_regclass('raw.shop_thing')") == [(None,)]


def test_other_key_than_the_mirrors_is_reported(shop: Pipeline) -> None:
    shop.capture(source=only("customer"))
    with pytest.raises(DeclarationError) as error:
        shop.capture(source=only("customer", key=("id", "username")))
    assert (
        error.value.what
        == "Source 'shop' declares (id, username) as key of public.customer, which was captured by (id)."
    )


def test_column_with_a_name_of_the_mirrors_own_is_reported(pipeline: Pipeline) -> None:
    pipeline.do("create table thing (id int primary key, _run_id int, updated_at timestamptz)")
    with pytest.raises(SourceError) as error:
        pipeline.capture(source=only("thing"))
    assert (
        error.value.what
        == "Column '_run_id' of public.thing of source 'shop' has a name that the warehouse reserves."
    )


@pytest.mark.each_major
def test_standby_is_refused_and_once_promoted_read_in_full(
    own_postgres: EmbeddedPostgres, tmp_path: Path, warehouse_url: str
) -> None:
    from generators.shop import create_schema

    own_postgres.create_database("shop")
    create_schema(own_postgres.url("shop"))
    standby = EmbeddedPostgres(tmp_path / "standby", own_postgres.major, SETTINGS)
    standby.folder.mkdir()
    shutil.copy(own_postgres.passfile, standby.passfile)
    account = ServerAccount.of(own_postgres.data, own_postgres.bin)
    account.give(standby.folder)
    command = [
        str(own_postgres.bin / "pg_basebackup"),
        "-d",
        own_postgres.url(),
        "-D",
        str(standby.data),
        "-R",
        "-c",
        "fast",
    ]
    code, said = account.run(command, cwd=own_postgres.data)
    assert code == 0, said
    standby.start()
    pipeline = Pipeline(own_postgres.url("shop"), warehouse_url)
    try:
        pipeline.open_shop()
        pipeline.capture()
        with pytest.raises(SourceError) as error:
            pipeline.capture(shop_url=standby.url("shop"))
        assert error.value.what == "Source 'shop' is a standby (read replica)."
        # Of a URL with two hosts, this may be asked of the standby, and the snapshot be taken of the primary.
        with pytest.raises(SourceError, match="is a standby"):
            find_open_transactions("shop", standby.url("shop"), None, timedelta(hours=1))
        with psycopg.connect(standby.url(), autocommit=True) as connection:
            connection.execute("select pg_promote()")
        with psycopg.connect(standby.url("shop"), autocommit=True) as connection:
            connection.execute("update customer set name = 'Promoted'")
        run = pipeline.capture(shop_url=standby.url("shop"))
        assert (
            run.loads["raw.shop_customer"].note == "another server has taken over, so that all rows are read"
        )
        assert run.changes() == {
            "raw.shop_customer": {"updated": 1},
            "dwh.dim_customer": {"read": 1, "inserted": 1, "expired": 1},
        }
        assert pipeline.capture(shop_url=standby.url("shop")).changes() == {}
        assert pipeline.capture(shop_url=standby.url("shop")).loads["raw.shop_customer"].note is None
        # The old primary goes on by itself, past every counter of its successor.
        pipeline.do(
            "create table filler as select generate_series(1, 500000)", *["select pg_current_xact_id()"] * 100
        )
        with pytest.raises(SourceChanged, match="its timeline is 1, and was 2"):
            pipeline.capture()
    finally:
        pipeline.close()
        standby.stop()


@pytest.mark.each_major
def test_transaction_ids_that_wrap_around_lose_nothing(
    own_postgres: EmbeddedPostgres, warehouse_url: str
) -> None:
    """The server's counter is set to just below 2^32; the runs take place before, on and after the edge."""
    from generators.shop import create_schema

    own_postgres.create_database("shop")
    create_schema(own_postgres.url("shop"))
    _freeze(own_postgres)
    own_postgres.stop()
    account = ServerAccount.of(own_postgres.data, own_postgres.bin)
    segment = own_postgres.data / "pg_xact" / "0FFF"
    segment.write_bytes(bytes(262144))
    account.give(segment)
    command = [
        str(own_postgres.bin / "pg_resetwal"),
        "-f",
        "-x",
        "4294967230",
        "-u",
        "4294966000",
        str(own_postgres.data),
    ]
    code, said = account.run(command, cwd=own_postgres.data)
    assert code == 0, said
    own_postgres.start()
    pipeline = Pipeline(own_postgres.url("shop"), warehouse_url)
    try:
        pipeline.open_shop()
        pipeline.capture()
        crossed = []
        for number in range(2, 5):
            with connect(pipeline.shop_url) as late:
                late.execute("update customer set name = 'Late', updated_at = null where id = 1")
                for step in range(30):
                    pipeline.insert("customer", id=number * 100 + step, updated_at=f"2024-02-{number:02}")
                pipeline.capture()
                late.commit()
            pipeline.capture()
            crossed.append(pipeline.runs[-1].staged.snapshot.xmin > 2**32)
            assert in_mirror(pipeline, "customer") == in_source(pipeline, "customer")
            assert pipeline.runs[-1].loads["raw.shop_customer"].rows_read < 35
            pipeline.do("update customer set name = 'Ana' where id = 1")
        assert crossed[0] is False and crossed[-1] is True
    finally:
        pipeline.close()


def _freeze(cluster: EmbeddedPostgres) -> None:
    for (name,) in (
        psycopg.connect(cluster.url())
        .execute("select datname from pg_database where datallowconn")
        .fetchall()
    ):
        with psycopg.connect(cluster.url(name), autocommit=True) as connection:
            connection.execute("vacuum freeze")


# --- shapes of tables -----------------------------------------------------------------------------------------

TYPES = {
    "an_enum": ("mood", "'sad'", "'happy'"),
    "a_domain": ("email", "'a@b'", "'c@d'"),
    "a_domain_over_a_domain": ("work_email", "'a@b'", "null"),
    "a_domain_over_numeric": ("price", "1.10", "1.1"),
    "a_composite": ("place", "row('here', 1)", "row('there', null)"),
    "enums": ("mood[]", "'{sad,happy}'", "'{}'"),
    "texts": ("text[]", "array['a,b', null, '{\"x\"}']", "array[]::text[]"),
    "matrix": ("int[]", "'[0:1][2:3]={{1,2},{3,4}}'", "'{{1,2},{3,4}}'"),
    "a_json": ("json", "'{\"b\": 1,  \"a\": 2}'", "'{\"a\": 2, \"b\": 1}'"),
    "a_jsonb": ("jsonb", "'{\"b\": 1,  \"a\": [1.0]}'", "'{\"b\": 1,  \"a\": [1.00]}'"),
    "a_bytea": ("bytea", "'\\x00ff'", "'\\x'"),
    "not_a_number": ("numeric", "'NaN'", "'Infinity'"),
    "long_number": ("numeric", "1e200 + 1e-200", "1.0"),
    "scaled_number": ("numeric(10, 2)", "1.5", "'NaN'"),
    "scaled_numbers": ("numeric(10, 2)[]", "'{1.5,null}'", "'{1.5}'"),
    "limited_texts": ("varchar(5)[]", "'{a}'", "'[2:2]={a}'"),
    "padded_texts": ("char(4)[]", "'{a,b}'", "'{a,c}'"),
    "moments": ("timestamp(3)[]", "'{2024-02-29 23:59:59.999}'", "'[2:2]={2024-02-29 23:59:59.999}'"),
    "a_zoned_moment": ("timestamp(3) with time zone", "'2024-02-29 23:59:59.999Z'", "'-infinity'"),
    "times": ("time(3)[]", "'{24:00}'", "'{00:00}'"),
    "a_span": ("interval day to second(3)", "'1 day 00:00:00.001'", "'24:00:00.001'"),
    "spans": ("interval second(3)[]", "'{1}'", "null"),
    "fixed_bits": ("bit(3)", "b'101'", "b'100'"),
    "fixed_bits_lists": ("bit(3)[]", "'{101}'", "'{100}'"),
    "a_double": ("double precision", "0.1 + 0.2::float8", "'-0'::float8"),
    "a_real": ("real", "'NaN'", "1.1"),
    "a_moment": ("timestamptz", "'infinity'", "'0044-03-15 12:00 BC'"),
    "a_local_moment": ("timestamp(3)", "'-infinity'", "'2024-02-29 23:59:59.999'"),
    "a_day": ("date", "'infinity'", "'5874897-12-31'"),
    "a_time": ("timetz", "'24:00:00+15'", "'00:00:00-15'"),
    "an_interval": ("interval", "'1 mon -1 day 00:00:00.000001'", "'30 days'"),
    "a_uuid": ("uuid", "'00000000-0000-0000-0000-000000000001'", "null"),
    "a_range": ("tstzrange", "'[2024-01-01, 2024-02-01)'", "'empty'"),
    "ranges": ("int4multirange", "'{[1,3), [5,)}'", "'{}'"),
    "own_range": ("mood_range", "'[sad,happy]'", "null"),
    "padded": ("char(8)", "'ab'", "'ab  c'"),
    "limited": ("varchar(5)", "'ñandú'", "''"),
    "an_internal_char": ('"char"', "'x'", "'\\200'"),
    "some_money": ("money", "1234.56", "-0.01"),
    "an_address": ("inet", "'::1/64'", "'10.0.0.0/8'"),
    "hardware": ("macaddr8", "'08:00:2b:01:02:03:04:05'", "null"),
    "bits": ("bit varying", "b'101'", "b''"),
    "a_point": ("point", "'(1.5,-0)'", "'(NaN,Infinity)'"),
    "a_path": ("path", "'[(0,0),(1,1)]'", "'((0,0),(1,1))'"),
    "words": ("tsvector", "'a:1 fat:2A'", "''"),
    "a_query": ("tsquery", "'a & !b'", "null"),
    "an_xml": ("text", "'<a/>'", "null"),
    "a_relation": ("regclass", "'customer'", "'product'"),
    "a_role": ("regrole", "'postgres'", "null"),
    "a_log_position": ("pg_lsn", "'16/B374D848'", "null"),
    "an_oid": ("oid", "4294967295", "0"),
    "a_name": ("name", "'x'", "null"),
    "a_json_path": ("jsonpath", "'$.a[*] ? (@ > 1)'", "null"),
    "generated": ("text generated always as (id || '!') stored", None, None),
}  # fmt: skip


@pytest.mark.each_major
def test_every_type_arrives_as_it_is(pipeline: Pipeline) -> None:
    pipeline.do(
        "create type mood as enum ('sad', 'happy')",
        "create type mood_range as range (subtype = mood)",
        "create domain email as text check (value like '%@%')",
        "create domain work_email as email",
        "create domain price as numeric(8, 3)",
        "create type place as (name text, floor int)",
        "create table thing (id int primary key, updated_at timestamptz, "
        + ", ".join(f"{name} {kind}" for name, (kind, _, _) in TYPES.items())
        + ")",
    )
    given = [name for name, (_, value, _) in TYPES.items() if value is not None]
    names = ", ".join(["id", "updated_at", *given])
    first, second = (", ".join(str(TYPES[name][side]) for name in given) for side in (1, 2))
    source = only("thing")
    pipeline.do(f"insert into thing ({names}) values (1, '2024-01-01', {first})")
    pipeline.do("insert into thing (id) values (2)")
    pipeline.capture(source=source)
    assert in_mirror(pipeline, "thing") == in_source(pipeline, "thing")
    pipeline.do(f"update thing set ({names}) = row (1, '2024-01-02', {second}) where id = 1")
    pipeline.capture(source=source)
    assert last(pipeline, "thing") == {"updated": 1}
    assert in_mirror(pipeline, "thing") == in_source(pipeline, "thing")
    assert pipeline.capture(source=source).changes() == {}


@pytest.mark.each_major
def test_table_with_a_foreign_partition_does_not_say_by_which_transaction_its_rows_were_written(
    pipeline: Pipeline,
) -> None:
    pipeline.do(
        "create table thing (id int, half text) partition by list (half)",
        "create table thing_a partition of thing for values in ('a') partition by range (id)",
        "create table thing_a_1 partition of thing_a default",
    )
    (table,) = only("thing", cursor=None).tables
    assert check_readable(pipeline.shop, table)
    pipeline.do(
        "create foreign data wrapper elsewhere",
        "create server elsewhere foreign data wrapper elsewhere",
        "create foreign table thing_a_2 partition of thing_a for values from (10) to (20) server elsewhere",
    )
    assert not check_readable(pipeline.shop, table)


@pytest.mark.skipif(shutil.which("localedef") is None, reason="locales are made by localedef")
def test_amounts_of_a_currency_without_cents_arrive_as_they_are(
    pipeline: Pipeline, own_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    locales = own_postgres.folder / "locales"
    locales.mkdir()
    made = subprocess.run(
        ["localedef", "-i", "ja_JP", "-f", "UTF-8", locales / "ja_JP.UTF-8"], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"there is no source of the locale: {made.stderr}")
    own_postgres.stop()
    monkeypatch.setitem(ENVIRONMENT, "LOCPATH", str(locales))
    own_postgres.start()
    with psycopg.connect(own_postgres.url(), autocommit=True) as connection:
        connection.execute("alter database postgres set lc_monetary = 'ja_JP.UTF-8'")
    with psycopg.connect(own_postgres.url(), autocommit=True) as connection:
        connection.execute("create domain price as money")
        connection.execute("create type fee as (amount money)")
        connection.execute(
            "create table thing (id int primary key, paid money, parts money[], cost price, fee fee)"
        )
        connection.execute("insert into thing values (1, '1200', '{200,NULL}', 7, row(5))")
    yen = Pipeline(own_postgres.url(), pipeline.warehouse_url)
    try:
        source = only("thing", cursor=None)
        yen.capture(source=source)
        mirrored = "select paid::text, parts::text, cost::text, fee from raw.shop_thing"
        assert yen.rows(mirrored) == [("1200", "{200,NULL}", "7", "(￥5)")]
        assert yen.capture(source=source).changes() == {}
    finally:
        yen.close()


UNSEEN = [
    ("numeric", "1.0", "1.00"),
    ("double precision", "'0'", "'-0'"),
    ("interval", "'1 mon'", "'30 days'"),
    ("json", "'{\"a\":1}'", "'{\"a\": 1}'"),
    ("char(3)", "'a'", "'b'"),
    ("text", "''", "null"),
    ("int[]", "'{1}'", "'[2:2]={1}'"),
]


@pytest.mark.each_major
def test_change_that_an_equality_operator_would_not_see_is_a_change(pipeline: Pipeline) -> None:
    tables = [f"thing_{number}" for number in range(len(UNSEEN))]
    source = Source("shop", "", tuple(Table("shop", name, "public", ("id",), None) for name in tables), {})
    for name, (kind, before, _) in zip(tables, UNSEEN, strict=True):
        pipeline.do(
            f"create table {name} (id int primary key, value {kind})",
            f"insert into {name} values (1, {before})",
        )
    pipeline.capture(source=source)
    for name, (_, _, after) in zip(tables, UNSEEN, strict=True):
        pipeline.do(f"update {name} set value = {after}")
    pipeline.capture(source=source)
    for name in tables:
        assert last(pipeline, name) == {"updated": 1}
        assert in_mirror(pipeline, name) == in_source(pipeline, name)


RESPELLED = [
    ("numeric", "1.0", "1.00"),
    ("double precision", "'0'", "'-0'"),
    ("interval", "'1 mon'", "'30 days'"),
    ("jsonb", "'{\"a\":1.0}'", "'{\"a\":1.00}'"),
    ("numeric(10, 4)[]", "'{0.0,1}'", "'{0,1.0000}'"),
    ("numeric[]", "'{1.0}'", "'{1.00}'"),
]


def test_key_that_is_equal_and_not_the_same_is_brought_too(pipeline: Pipeline) -> None:
    tables = [f"thing_{number}" for number in range(len(RESPELLED))]
    source = Source("shop", "", tuple(Table("shop", name, "public", ("id",), None) for name in tables), {})
    for name, (kind, before, _) in zip(tables, RESPELLED, strict=True):
        pipeline.do(f"create table {name} (id {kind} primary key)", f"insert into {name} values ({before})")
    pipeline.capture(source=source)
    respelled = []
    for name, (_, _, after) in zip(tables, RESPELLED, strict=True):
        was = in_source(pipeline, name)
        pipeline.do(f"update {name} set id = {after}")
        respelled += [name] if in_source(pipeline, name) != was else []
    run = pipeline.capture(source=source)
    assert run.changes() == {f"raw.shop_{name}": {"updated": 1} for name in respelled}
    assert len(respelled) == 5, "of numeric(10, 4) there is one spelling"
    for name in tables:
        assert in_mirror(pipeline, name) == in_source(pipeline, name)


@pytest.mark.each_major
def test_text_that_a_collation_of_the_source_takes_for_the_same_is_not(pipeline: Pipeline) -> None:
    try:
        pipeline.do(
            "create collation any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL knows no ICU")
    text = "text collate any_case"
    pipeline.do(
        f"create table thing (id {text} primary key, name {text}, names text[] collate any_case)",
        "insert into thing values ('a', 'b', '{c}')",
    )
    source = only("thing", cursor=None)
    pipeline.capture(source=source)
    for changes in ({"updated": 1}, {"inserted": 1, "deleted": 1}):
        change = "name = upper(name), names = '{C}'" if "updated" in changes else "id = upper(id)"
        pipeline.do(f"update thing set {change}")
        assert pipeline.capture(source=source).changes() == {"raw.shop_thing": changes}
        assert in_mirror(pipeline, "thing") == in_source(pipeline, "thing")


ODD_NAMES = [
    "Order Details", "100% of {braces} %s", 'say "hi"', "select", "run_id", "operation", "key", "content",
    "bucket", "row", "count", "batch", "mirror", "delta", "deleted", "seen", "cursor", "excluded", "ñandú", "a.b",
    "x'y", "\\n", "ctid_", "$1", "😀", "l" * 63,
]  # fmt: skip


@pytest.mark.each_major
def test_odd_names_of_table_key_cursor_and_column(pipeline: Pipeline) -> None:
    def change(name: str, *statements: str) -> None:
        names = {
            "name": sql.Identifier(name),
            "part": sql.Identifier(f"{name[:61]}k"),
            "cursor": sql.Identifier(f"{name[:61]}c"),
            "spare": sql.Identifier(f"{name[:61]}2"),
        }
        for statement in statements:
            pipeline.shop.execute(sql.SQL(statement).format(**names))

    tables = tuple(
        Table("shop", name, "public", (name, f"{name[:61]}k"), f"{name[:61]}c") for name in ODD_NAMES
    )
    source = Source("shop", "", tables, {})
    for name in ODD_NAMES:
        change(
            name,
            "create table {name} "
            "({name} int, {part} text, {cursor} timestamptz, {spare} text, primary key ({name}, {part}))",
            "insert into {name} values (1, 'a', '2024-01-01', 'x'), (2, 'b', null, 'y'), (3, 'c', '2024-01-02', 'z')",
        )
    pipeline.capture(source=source)
    for name in ODD_NAMES:
        assert in_mirror(pipeline, name) == in_source(pipeline, name)
        change(
            name,
            "update {name} set {spare} = 'changed' where {name} = 1",
            "delete from {name} where {name} = 2",
        )
    run = pipeline.capture(source=source)
    for name, table in zip(ODD_NAMES, tables, strict=True):
        assert run.counts(f"raw.{table.mirror}") == {"updated": 1, "deleted": 1, "cursor_missed": 1}, name
        assert in_mirror(pipeline, name) == in_source(pipeline, name)


def test_long_names_that_begin_alike_do_not_meet(pipeline: Pipeline) -> None:
    names = ["l" * 62 + "1", "l" * 62 + "2", "é" * 31, "é" * 30 + "e"]
    for name in names:
        pipeline.do(
            f"create table {name} (id int primary key, updated_at timestamptz)",
            f"insert into {name} values (1)",
        )
    tables = tuple(Table("shop", name, "public", ("id",), "updated_at") for name in names)
    source = Source("shop", "", tables, {})
    pipeline.capture(source=source)
    pipeline.do(
        f"insert into {names[0]} values (2)", f"delete from {names[1]}", f"insert into {names[2]} values (3)"
    )
    pipeline.capture(source=source)
    for name in names:
        assert in_mirror(pipeline, name) == in_source(pipeline, name), name
    assert len({table.mirror for table in tables}) == 4
    assert all(len(table.mirror.encode()) <= 55 for table in tables)


def test_table_whose_only_column_is_its_key(pipeline: Pipeline) -> None:
    pipeline.do(
        "create table tag (name text primary key)", "insert into tag values ('a'), ('b,c'), ('\"'), ('')"
    )
    source = only("tag", key=("name",), cursor=None)
    pipeline.capture(source=source)
    pipeline.do(
        "delete from tag where name = ''",
        "insert into tag values ('d')",
        "update tag set name = 'B' where name = 'a'",
    )
    pipeline.capture(source=source)
    assert last(pipeline, "tag") == {"inserted": 2, "deleted": 2}
    assert in_mirror(pipeline, "tag") == in_source(pipeline, "tag")
    pipeline.do("insert into tag values ('')")
    pipeline.capture(source=source)
    assert last(pipeline, "tag") == {"inserted": 1}


def test_composite_text_keys_that_only_a_careless_join_would_mix_up(pipeline: Pipeline) -> None:
    pipeline.do("create table pair (a text, b text, n int, updated_at timestamptz, primary key (a, b))")
    keys = [
        ("a", "b,c"),
        ("a,b", "c"),
        ("", "ab"),
        ("ab", ""),
        ('a"', "b"),
        ("a", '"b'),
        ("(a", "b)"),
        ("é", "e\u0301"),
    ]
    for number, (a, b) in enumerate(keys):
        pipeline.shop.execute("insert into pair values (%s, %s, %s, now())", [a, b, number])
    source = only("pair", key=("a", "b"))
    pipeline.capture(source=source)
    pipeline.do("delete from pair where n in (0, 2, 4, 6)", "update pair set n = -n where n in (1, 3)")
    pipeline.capture(source=source)
    assert in_mirror(pipeline, "pair") == in_source(pipeline, "pair")
    assert last(pipeline, "pair")["deleted"] == 4


def test_empty_table_stays_empty(pipeline: Pipeline) -> None:
    run = pipeline.capture()
    assert run.changes() == {}
    assert {
        (verification.rows_source, verification.rows_mirror, verification.verdict)
        for verification in run.verifications
    } == {(0, 0, "equal")}
    assert pipeline.capture().changes() == {}


def test_wide_table(pipeline: Pipeline) -> None:
    columns = ", ".join(f"c{n} int default {n}" for n in range(1000))
    pipeline.do(f"create table wide (id int primary key, updated_at timestamptz, {columns})")
    pipeline.do("insert into wide (id) values (1), (2)")
    source = only("wide")
    pipeline.capture(source=source)
    pipeline.do("update wide set c999 = -1 where id = 2", "delete from wide where id = 1")
    pipeline.capture(source=source)
    assert last(pipeline, "wide") == {"updated": 1, "deleted": 1}
    assert in_mirror(pipeline, "wide") == in_source(pipeline, "wide")


def test_comments_come_along(shop: Pipeline) -> None:
    shop.capture()
    assert shop.rows(
        "select obj_description('raw.shop_customer'::regclass), col_description('raw.shop_customer'::regclass, 1)"
    ) == [
        (
            "Mirror. People who buy on the platform: one row per account, in its latest state.",
            "Key of the row, given by the shop.",
        )
    ]


@pytest.mark.each_major
def test_shop_in_another_encoding_and_locale(pipeline: Pipeline, postgres: EmbeddedPostgres) -> None:
    name = f"{pipeline.shop.info.dbname}_latin"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"create database {name} encoding 'LATIN1' locale 'C' template template0".encode())
    latin = Pipeline(postgres.url(name), pipeline.warehouse_url)
    try:
        latin.do("create table thing (id text primary key, name text, paid money, updated_at timestamptz)")
        latin.do("insert into thing values ('ñ', 'Ñandú', 1.5, now()), ('n', 'Gauß', -1, now())")
        source = only("thing")
        latin.capture(source=source)
        latin.do("delete from thing where id = 'n'", "update thing set name = 'Müller', updated_at = null")
        latin.capture(source=source)
        assert in_mirror(latin, "thing") == in_source(latin, "thing")
        assert last(latin, "thing")["deleted"] == 1
    finally:
        latin.close()
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute(f"drop database {name} with (force)".encode())
