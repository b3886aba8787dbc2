"""Tables that were dropped, emptied or damaged are rebuilt from the archive as they were."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests import command
from tests.archive import archive_made_by, copy_with_archive, load
from tests.integration.conftest import CopyOf, Declare
from tests.integration.test_capture import only
from tests.integration.test_daily_snapshot import shift
from tests.pipeline import Pipeline, Row, content
from warehouse.archive import upkeep
from warehouse.archive.place import Archive
from warehouse.db.locks import session_lock
from warehouse.errors import LockHeld, SchemaObjectInUse
from warehouse.extract.limits import ReadLimits
from warehouse.migrations.revisions import upgrade
from warehouse.rebuild.as_of import rebuild_as_of
from warehouse.rebuild.damage import find_damaged
from warehouse.rebuild.rebuild import NotArchived, rebuild, rebuild_damaged
from warehouse.rebuild.take_over import take_over
from warehouse.reconcile.reconcile import reconcile_source
from warehouse.runs.audit import Run, start_run
from warehouse.settings import Settings
from warehouse.sources.source import SchemaPolicy, Source
from warehouse.undo.undo import undo


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "lake" / "archive")


def sell(shop: Pipeline) -> None:
    """One order of one line, loaded into an archive that is copied with shop and warehouse."""
    shop.order(1, "2024-03-10")
    load(shop, archive_made_by(sell))


@pytest.fixture
def sale(copy_of: CopyOf, archive: Archive) -> Pipeline:
    """A shop with one order that was loaded, and archived."""
    return copy_with_archive(copy_of, sell, archive)


def settings_of(archive: Archive) -> Settings:
    return Settings(_env_file=None, lake=str(archive.root.parent))  # type: ignore[call-arg]


def run_rebuild(shop: Pipeline, archive: Archive, *tables: str) -> list[str]:
    """Rebuild once, all tables if none is named; the differences that it found."""
    with start_run(shop.warehouse_url, flow="rebuild", archive=True) as run:
        verdicts = rebuild(run, archive, [shop.source], tables or None)
    return [str(one) for verdict in verdicts for one in verdict.differences]


def eventful_shop(shop: Pipeline, archive: Archive) -> None:
    """A shop with history: changes, deletes, a key that came back, an inferred member that was completed, an undo, a
    published line whose newer state is in quarantine."""
    shop.without_foreign_keys()
    shop.order(1, "2024-03-10", {}, {})
    # Its customer is not there yet: a member is inferred, and completed later.
    shop.order(2, "2024-03-11", customer_id=7)
    shop.insert("customer", id=2, name="Eva", document_number="30111222", username="eva")
    load(shop, archive)
    shop.insert("customer", id=7, name="Late", document_number="30111333", username="late")
    shop.do(
        "update customer set country = 'UY', updated_at = shop_now() where id = 1",
        "delete from order_item where line_number = 2",
        "delete from customer where id = 2",
    )
    load(shop, archive)
    shop.insert("customer", id=2, name="Eva again", document_number="30111222", username="eva")
    shop.order(3, "2024-04-01", {"quantity": 0}, {})
    undone = load(shop, archive)
    shop.do("update product set price = 120, updated_at = shop_now()")
    with start_run(shop.warehouse_url, flow="undo", archive=True) as run:
        undo(run, undone)
    load(shop, archive)
    shop.order(4, "2024-04-02", {}, {"quantity": 9})
    load(shop, archive)
    shop.do(
        "update order_item set status = 'lost', quantity = 7 where sales_order_id = 4 and line_number = 2"
    )
    load(shop, archive)
    assert shop.marked() == [("fact_order_item", ["4", "2"])]


DAMAGES: dict[str, tuple[str, ...]] = {
    "one mirror dropped, another truncated": (
        "drop table raw.shop_customer cascade",
        "truncate raw.shop_order_item",
    ),
    "dimension dropped": ("drop table dwh.dim_customer cascade",),
    "dimension changed by hand": (
        "update dwh.dim_customer set name = 'wrong' where customer_key > 0",
        "delete from dwh.dim_product where product_key > 0",
    ),
    "fact dropped": ("drop table dwh.fact_order_item cascade",),
    "star dropped": (
        "drop table dwh.dim_company, dwh.dim_customer, dwh.dim_product, dwh.fact_order_item cascade",
    ),
    "mirrors dropped": ("drop schema raw cascade",),
    "schemas dropped": ("drop schema staging, mart, dwh, raw cascade",),
}
# Of every kind one, at the same time.
TOGETHER = (
    *DAMAGES["one mirror dropped, another truncated"],
    *DAMAGES["dimension changed by hand"],
    *DAMAGES["fact dropped"],
    "drop table dwh.dim_company cascade",
)


@pytest.mark.parametrize(
    "damages",
    [
        pytest.param({"together": TOGETHER, "schemas": DAMAGES["schemas dropped"]}, id="together"),
        pytest.param(DAMAGES, marks=pytest.mark.slow, id="one by one"),
    ],
)
def test_whatever_is_dropped_emptied_or_damaged_is_rebuilt_as_it_was(
    shop: Pipeline, archive: Archive, damages: Mapping[str, tuple[str, ...]]
) -> None:
    eventful_shop(shop, archive)
    before = content(shop.warehouse)
    run_ids = shop.rows("select id, _run_id from raw.shop_customer order by 1")
    assert run_rebuild(shop, archive) == []
    assert content(shop.warehouse) == before
    # Owners and grants as every migration sets them.
    upgrade(shop.warehouse_url)
    catalog = described(shop)
    for name, statements in damages.items():
        for statement in statements:
            shop.warehouse.execute(statement.encode())
        assert run_rebuild(shop, archive), name
        assert content(shop.warehouse) == before, name
        assert described(shop) == catalog, name
    assert shop.rows("select id, _run_id from raw.shop_customer order by 1") == run_ids
    # Loads go on where they were: no key is given twice, nothing is read as new.
    load(shop, archive)
    assert content(shop.warehouse) == before
    keys = shop.rows("select max(customer_key) from dwh.dim_customer")
    shop.insert("customer", id=9, name="New", document_number="30111444", username="new")
    load(shop, archive)
    assert shop.rows("select customer_key from dwh.dim_customer where customer_id = '9'") > keys


def test_a_rebuild_of_all_says_how_far_back_the_archive_reaches(shop: Pipeline, archive: Archive) -> None:
    """A warehouse that is older than its archive is written into it once, whole, by the first run that archives."""
    shop.order(1, "2024-03-10")
    load(shop, archive, archives=False)
    shop.do("update customer set name = 'Ana Maria', updated_at = shop_now()")
    began = load(shop, archive)
    shop.order(2, "2024-03-11")
    load(shop, archive)
    before, lines = content(shop.warehouse), list[str]()
    shop.warehouse.execute("truncate raw.shop_customer, dwh.dim_customer cascade")
    with start_run(shop.warehouse_url, flow="rebuild") as run:
        rebuild(run, archive, [shop.source], progress=lines.append)
    assert content(shop.warehouse) == before
    assert [line for line in lines if "reaches back" in line] == [
        f"the archive {archive.root} reaches back to run {began}: mirrors and dimensions as that run found them, "
        "and every batch since"
    ]


def described(shop: Pipeline) -> list[object]:
    """Tables, views, columns, comments, triggers, constraints, indexes, owners and grants of the warehouse.

    Of staging tables those that migrations create.
    """
    shop.warehouse.execute(
        """
        do $$ declare made_by_load text; begin
            for made_by_load in select oid::regclass from pg_class
                where relnamespace = 'staging'::regnamespace and relkind = 'r' and relname ~ '^(shop_|all_)'
            loop execute 'drop table ' || made_by_load; end loop;
        end $$
        """
    )
    return shop.rows(
        """
        select 'relation', relnamespace::regnamespace::text, relname, relkind::text, relowner::regrole::text,
            array(select entry::text from unnest(relacl) as entry order by 1)::text, obj_description(oid, 'pg_class')
        from pg_class where relnamespace::regnamespace::text in ('raw', 'dwh', 'mart', 'staging')
            and relkind in ('r', 'v', 'p')
        union all
        select 'column', attrelid::regclass::text, attname, format_type(atttypid, atttypmod),
            -- A key of what is staged is never null, whether or not its column says so.
            (attnotnull or relnamespace = 'staging'::regnamespace)::text, attidentity::text,
            col_description(attrelid, attnum)
        from pg_attribute inner join pg_class on pg_class.oid = attrelid
        where attnum > 0 and not attisdropped and relkind in ('r', 'v', 'p')
            and relnamespace::regnamespace::text in ('raw', 'dwh', 'mart', 'staging')
        union all
        select 'trigger', tgrelid::regclass::text, tgname, '', '', '', '' from pg_trigger where not tgisinternal
        union all
        select 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '', ''
        from pg_constraint where connamespace::regnamespace::text in ('raw', 'dwh', 'staging') and contype <> 'n'
        union all
        select 'index', schemaname, indexname, indexdef, '', '', '' from pg_indexes
        where schemaname in ('raw', 'dwh', 'mart', 'staging')
        order by 1, 2, 3, 4
        """
    )


def test_one_table_is_rebuilt_and_its_differences_are_listed(sale: Pipeline, archive: Archive) -> None:
    before = content(sale.warehouse)
    sale.warehouse.execute("update dwh.dim_customer set name = 'wrong' where customer_id = '1'")
    sale.warehouse.execute("update raw.shop_customer set name = 'wrong as well'")
    assert run_rebuild(sale, archive, "dwh.dim_customer") == [
        "dwh.dim_customer customer_key 1: changed (name is 'wrong', should be 'Ana')"
    ]
    assert content(sale.warehouse)["raw.shop_customer"] != before["raw.shop_customer"]
    run_rebuild(sale, archive, "raw.shop_customer")
    assert content(sale.warehouse) == before
    with pytest.raises(NotArchived, match=r"dwh\.dim_nothing"):
        run_rebuild(sale, archive, "dwh.dim_nothing")


def source_of_thing(policy: SchemaPolicy) -> Source:
    """The table thing alone, whose columns may change as the policy says."""
    source = only("thing")
    return replace(source, tables=tuple(replace(table, on_schema_change=policy) for table in source.tables))


def rebuilt_mirror(pipeline: Pipeline, archive: Archive, damage: str) -> set[Row]:
    """The rows of raw.shop_thing once it was damaged and rebuilt."""
    pipeline.warehouse.execute(damage.encode())
    run_rebuild(pipeline, archive, "raw.shop_thing")
    return set(pipeline.rows("select to_jsonb(thing)::text from raw.shop_thing as thing"))


# Type of each column, its value, and the types that it has later.
TYPES = (
    ("integer", "7", ["text"]),
    # Earlier values are none of the later type.
    ("text", "abc", ["integer using length(value)"]),
    ("varchar(5)", "abc", ["uuid using md5(value)::uuid"]),
    ("varchar(5)", "abc", ["varchar(9)", "numeric using length(value)"]),
    ("timestamptz", "2024-01-01", ["text", "timestamptz using value::timestamptz"]),
    # PostgreSQL has no cast from one to the other.
    ("integer", "7", ["timestamptz using to_timestamp(value)", "boolean using true"]),
)


def test_mirror_whose_columns_had_other_types_is_rebuilt_as_it_was(
    pipeline: Pipeline, archive: Archive
) -> None:
    pipeline.source = source_of_thing(SchemaPolicy(changed_type="evolve"))
    columns = [f"value_{number} {first}" for number, (first, *_) in enumerate(TYPES)]
    values = ", ".join(f"'{value}'" for _, value, _ in TYPES)
    pipeline.do(
        f"create table thing (id integer primary key, updated_at timestamptz default now(), {', '.join(columns)})",
        f"insert into thing select id, '2024-01-01', {values} from generate_series(1, 4) as id",
    )
    load(pipeline, archive)
    pipeline.do("delete from thing where id = 1", "update thing set updated_at = now() where id = 2")
    load(pipeline, archive)
    for step in range(2):
        changes = [
            f"alter value_{number} type {later[step].replace('value', f'value_{number}')}"
            for number, (*_, later) in enumerate(TYPES)
            if step < len(later)
        ]
        pipeline.do(f"alter table thing {', '.join(changes)}")
        load(pipeline, archive)
        pipeline.do(f"delete from thing where id = {3 + step}")
        load(pipeline, archive)
    expected = set(pipeline.rows("select to_jsonb(thing)::text from raw.shop_thing as thing"))
    assert run_rebuild(pipeline, archive, "raw.shop_thing") == []
    for damage in ("truncate raw.shop_thing", "drop table raw.shop_thing cascade"):
        assert rebuilt_mirror(pipeline, archive, damage) == expected


@pytest.mark.parametrize(
    ("statement", "key", "refusal", "is_emptied"),
    [
        (None, ["id", "part"], "declares (id, part) as key", False),
        ("alter table thing alter id type text", ["id"], "its key id is text and was integer", True),
    ],
)
def test_mirror_that_is_dropped_to_be_captured_by_another_key_begins_its_archive_again(
    empty_database_url: Callable[[], str],
    warehouse_url: str,
    tmp_path: Path,
    statement: str | None,
    key: list[str],
    refusal: str,
    is_emptied: bool,
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DWH_")}
    environment |= {
        "DWH_STORE_URL": empty_database_url(), "DWH_WAREHOUSE_URL": warehouse_url, "DWH_ARCHIVE_DELAY": "0s",
        "DWH_SOURCES": str(tmp_path / "sources"), "DWH_HOME": str(tmp_path / "home"),
    }  # fmt: skip
    declaration = tmp_path / "sources" / "store" / "source.toml"
    declaration.parent.mkdir(parents=True)
    declaration.write_text('[tables.thing]\nkey = ["id"]\n')

    def dwh(*arguments: str) -> str:
        ran = command.run(*arguments, environment=environment)
        return ran.stdout + ran.stderr

    with (
        psycopg.connect(environment["DWH_STORE_URL"], autocommit=True) as store,
        psycopg.connect(warehouse_url, autocommit=True) as warehouse,
    ):

        def rows() -> list[Row]:
            return warehouse.execute(
                "select id::text, part, _is_deleted from raw.store_thing order by id::integer"
            ).fetchall()

        store.execute("create table thing (id integer primary key, part integer not null)")
        store.execute("insert into thing select id, 1 from generate_series(1, 5) as id")
        dwh("run", "store")
        store.execute("delete from thing where id = 1")
        dwh("run", "store")
        assert rows() == [("1", 1, True), *((str(n), 1, False) for n in range(2, 6))]
        if statement:
            store.execute(statement.encode())
        declaration.write_text(f"[tables.thing]\nkey = {json.dumps(key)}\n")
        message = dwh("run", "store")
        assert refusal in message
        assert "apture the table again in full: `drop table raw.store_thing`" in message
        store.execute("delete from thing where " + ("true" if is_emptied else "id::integer = 2"))
        warehouse.execute("drop table raw.store_thing cascade")
        assert "it was archived by the key (id integer), which is (" in dwh("run", "store")
        captured = [] if is_emptied else [(str(n), 1, False) for n in range(3, 6)]
        assert rows() == captured
        assert "raw.store_thing: equal" in dwh("rebuild", "--all")
        assert rows() == captured
        warehouse.execute("drop table raw.store_thing cascade")
        dwh("rebuild", "--all")
        assert rows() == captured


@pytest.mark.parametrize(
    "damage",
    [
        "truncate raw.shop_thing",
        "drop table raw.shop_thing cascade",
        "update raw.shop_thing set name = 'wrong' where id = 20",
    ],
)
def test_large_table_whose_mirror_was_rebuilt_is_compared_completely_by_the_next_run(
    pipeline: Pipeline, archive: Archive, damage: str
) -> None:
    pipeline.source, large = only("thing"), ReadLimits(scan_rows=0, range_rows=10)
    pipeline.do(
        "create table thing (id integer primary key, updated_at timestamptz default now(), name text)",
        "create index on thing (updated_at)",
        "insert into thing select id, '2024-01-01', 'x' from generate_series(1, 40) as id",
    )
    load(pipeline, archive, limits=large)
    ranges = "select low_key::text, verified_at from audit.key_range where table_name = 'thing' order by 1"
    known = pipeline.rows(ranges)
    assert run_rebuild(pipeline, archive) == []
    assert (len(known), pipeline.rows(ranges)) == (4, known)
    pipeline.warehouse.execute(damage.encode())
    assert run_rebuild(pipeline, archive)
    # Nothing of it is called verified until it is.
    assert pipeline.rows(ranges) == []
    assert pipeline.rows(
        "select verified_since from mart.table_freshness where table_name = 'raw.shop_thing'"
    ) == [(None,)]
    run = pipeline.capture(limits=large)
    assert (run.staged.tables[0].reading, run.verifications[0].rows_source) == ("complete", 40)
    assert [low for low, _ in pipeline.rows(ranges)] == [low for low, _ in known]
    assert pipeline.capture(limits=large).staged.tables[0].reading == "ranges"


def test_rebuild_keeps_a_column_that_the_source_has_no_more(pipeline: Pipeline, archive: Archive) -> None:
    pipeline.source = source_of_thing(SchemaPolicy(dropped_column="ignore"))
    pipeline.do(
        "create table thing (id integer primary key, updated_at timestamptz default now(), name text, gone integer)",
        "insert into thing select id, '2024-01-01', 'x', id from generate_series(1, 4) as id",
    )
    load(pipeline, archive)
    pipeline.do(
        "update thing set gone = 20, updated_at = now() where id = 2", "delete from thing where id = 3"
    )
    load(pipeline, archive)
    pipeline.do(
        "alter table thing drop column gone",
        "update thing set name = 'y', updated_at = now()",
        "insert into thing values (5, now(), 'z')",
    )
    load(pipeline, archive)
    pipeline.do("insert into thing values (3, now(), 'back')", "delete from thing where id = 1")
    load(pipeline, archive)
    kept = pipeline.rows("select to_jsonb(thing)::text from raw.shop_thing as thing order by id")
    assert pipeline.rows("select id, gone from raw.shop_thing order by id") == [
        (1, 1), (2, 20), (3, 3), (4, 4), (5, None),
    ]  # fmt: skip
    assert run_rebuild(pipeline, archive) == []
    for damage in ("truncate raw.shop_thing", "drop table raw.shop_thing cascade"):
        assert rebuilt_mirror(pipeline, archive, damage) == {*kept}


def test_mirror_whose_column_was_dropped_and_came_back_is_rebuilt_as_it_was(
    pipeline: Pipeline, archive: Archive
) -> None:
    pipeline.source = source_of_thing(SchemaPolicy(dropped_column="evolve"))
    pipeline.do(
        "create table thing (id integer primary key, updated_at timestamptz default now(), name text, value integer)",
        "insert into thing select id, '2024-01-01', 'x', id from generate_series(1, 6) as id",
    )
    load(pipeline, archive)
    pipeline.do("delete from thing where id = 1")
    load(pipeline, archive)
    for step in range(2):
        pipeline.do("alter table thing drop column value", f"delete from thing where id = {2 + 2 * step}")
        load(pipeline, archive)
        pipeline.do(
            "alter table thing add column value integer", "update thing set value = 10 * id where id > 4"
        )
        load(pipeline, archive)
        pipeline.do(f"delete from thing where id = {3 + 2 * step}")
        load(pipeline, archive)
    expected = set(pipeline.rows("select to_jsonb(thing)::text from raw.shop_thing as thing"))
    assert pipeline.rows("select id, value, _is_deleted from raw.shop_thing order by id") == [
        (1, None, True), (2, None, True), (3, None, True), (4, None, True), (5, 50, True), (6, 60, False),
    ]  # fmt: skip
    assert run_rebuild(pipeline, archive) == []
    for damage in ("truncate raw.shop_thing", "drop table raw.shop_thing cascade"):
        assert rebuilt_mirror(pipeline, archive, damage) == expected


def test_mirror_whose_columns_have_any_name_is_rebuilt_as_it_was(
    pipeline: Pipeline, archive: Archive
) -> None:
    pipeline.source = only("thing")
    names = ("_operation", "_batch_id", "_state", "_removed_by", "_mirror_run_id", "_rescued_data")
    names += ("expected", "repeated", "archived", "typed", "last", "a%b", "%s", "{x}", 'a"b', "a b")
    columns = [sql.Identifier(name).as_string() for name in names]
    pipeline.do(
        "create table thing (id integer primary key, updated_at timestamptz default now(), "
        + ", ".join(f"{column} text default 'x'" for column in columns)
        + ")",
        "insert into thing select id, '2024-01-01' from generate_series(1, 4) as id",
    )
    load(pipeline, archive)
    changes = ", ".join(f"{column} = 'y'" for column in columns)
    pipeline.do(
        "delete from thing where id = 1", f"update thing set {changes}, updated_at = now() where id = 2"
    )
    load(pipeline, archive)
    expected = set(pipeline.rows("select to_jsonb(thing)::text from raw.shop_thing as thing"))
    assert run_rebuild(pipeline, archive) == []
    for damage in ("truncate raw.shop_thing", "drop table raw.shop_thing cascade"):
        assert rebuilt_mirror(pipeline, archive, damage) == expected


def test_mirror_of_as_many_columns_as_a_table_may_have_is_rebuilt_as_it_was(
    pipeline: Pipeline, archive: Archive
) -> None:
    pipeline.source = only("thing", cursor=None)
    kinds = {"bigint": "9123456789012345678", "timestamptz": "now()", "double precision": "0.1 + 0.2"}
    columns = {f"{kind[:3]}{n}": (kind, value) for kind, value in kinds.items() for n in range(310)}
    pipeline.do(
        "create table thing (id integer primary key, "
        + ", ".join(f"{name} {kind}" for name, (kind, _) in columns.items())
        + ")",
        f"insert into thing select id, {', '.join(value for _, value in columns.values())} "
        "from generate_series(1, 3) as id",
    )
    load(pipeline, archive)
    pipeline.do("update thing set big0 = 0 where id = 2", "delete from thing where id = 3")
    load(pipeline, archive)
    expected = set(pipeline.rows("select to_jsonb(thing)::text from raw.shop_thing as thing"))
    assert rebuilt_mirror(pipeline, archive, "drop table raw.shop_thing cascade") == expected


def test_rebuild_that_is_killed_leaves_the_live_tables_as_they_were(
    sale: Pipeline, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(sale.warehouse)
    sale.warehouse.execute("update dwh.dim_customer set name = 'wrong' where customer_id = '1'")
    damaged = content(sale.warehouse)
    for step in ("mirror_rows", "last_rows", "reconcile_star", "record", "ensure_alive"):

        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(f"warehouse.rebuild.rebuild.{step}", stop)
            with pytest.raises(KeyboardInterrupt):
                run_rebuild(sale, archive, "raw.shop_customer", "dwh.dim_customer", "dwh.fact_order_item")
        assert content(sale.warehouse) == damaged, step
    run_rebuild(sale, archive)
    assert content(sale.warehouse) == before


def test_rebuild_does_not_wait_for_a_reader_of_a_table_that_has_another_owner(
    sale: Pipeline, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(sale.warehouse)
    monkeypatch.setattr("warehouse.rebuild.rebuild.LOCK_TIMEOUT", "100ms")
    monkeypatch.setattr("warehouse.migrations.revisions.LOCK_TIMEOUT", "100ms")
    sale.warehouse.execute("alter table dwh.dim_company owner to current_user")
    sale.warehouse.execute("drop table raw.shop_customer")
    with psycopg.connect(sale.warehouse_url) as reader, ThreadPoolExecutor(1) as pool:
        reader.execute("select from dwh.dim_company")
        rebuilding = pool.submit(run_rebuild, sale, archive, "raw.shop_customer")
        sale.wait_for("select from pg_class where oid = to_regclass('raw.shop_customer')")
        assert content(sale.warehouse) == before
        reader.commit()
        rebuilding.result()
    owners = "select tableowner from pg_tables where tablename in ('dim_company', 'shop_customer') order by tablename"
    assert sale.rows(owners) == [("dwh_owner",), ("dwh_loader",)]


def test_lost_database_is_rebuilt_from_the_archive_and_loads_go_on(
    shop: Pipeline, archive: Archive, database: Callable[[str], str], warehouse_template: str
) -> None:
    eventful_shop(shop, archive)
    before = content(shop.warehouse)
    runs = shop.rows("select run_id, flow, status from audit.run order by 1")
    last_key = shop.rows("select max(customer_key) from dwh.dim_customer")
    shop.close()
    rebuilt = Pipeline(shop.shop_url, database(warehouse_template))
    try:
        assert take_over(rebuilt.warehouse_url, archive)
        assert not take_over(rebuilt.warehouse_url, archive)
        run_rebuild(rebuilt, archive)
        assert content(rebuilt.warehouse) == before
        assert rebuilt.rows("select run_id, flow, status from audit.run order by 1")[: len(runs)] == runs
        with start_run(rebuilt.warehouse_url, flow="reconcile") as run:
            verdicts = reconcile_source(run, rebuilt.source, rebuilt.shop_url, repair=False)
        assert [str(one) for verdict in verdicts for one in verdict.differences] == []
        # The next run reads only what has changed since.
        load(rebuilt, archive)
        assert content(rebuilt.warehouse) == before
        rebuilt.insert("customer", id=9, name="New", document_number="30111444", username="new")
        load(rebuilt, archive)
        assert rebuilt.rows("select customer_key from dwh.dim_customer where customer_id = '9'") > last_key
        assert run_rebuild(rebuilt, archive) == []
    finally:
        rebuilt.close()


def test_run_that_finds_a_table_dropped_or_truncated_rebuilds_it_and_goes_on(
    sale: Pipeline, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_damaged(sale.warehouse, sale.source) == []
    before = content(sale.warehouse)
    sale.warehouse.execute(
        "drop table raw.shop_customer cascade; truncate raw.shop_order_item, dwh.dim_product cascade"
    )
    sale.warehouse.execute(
        "drop table dwh.fact_order_item, staging.source_checksum, staging.weblog_day cascade"
    )
    damaged = [
        "dwh.dim_product",
        "dwh.fact_order_item",
        "raw.shop_customer",
        "raw.shop_order_item",
        "staging.source_checksum",
        "staging.weblog_day",
    ]
    assert find_damaged(sale.warehouse, sale.source) == damaged
    lines: list[str] = []
    with start_run(sale.warehouse_url, flow="ingest-shop", archive=True) as run:
        rebuild_damaged(run, settings_of(archive), find_damaged(run.connection, sale.source), lines.append)
    assert not [line for line in lines if "not rebuilt" in line]
    assert content(sale.warehouse) == before
    load(sale, archive)
    assert content(sale.warehouse) == before


def test_warehouse_without_views_is_rebuilt_after_runs_that_were_killed_or_failed(
    sale: Pipeline, archive: Archive
) -> None:
    before, catalog = content(sale.warehouse), described(sale)
    sale.warehouse.execute(
        "drop schema mart cascade; insert into audit.run (flow, launched_by, code_version, host, pid, status) "
        "values ('rebuild', 'Ana', '1', 'host', 1, 'running')"
    )
    with pytest.raises(ZeroDivisionError), start_run(sale.warehouse_url, flow="ingest-shop"):
        raise ZeroDivisionError
    assert run_rebuild(sale, archive) == []
    assert content(sale.warehouse) == before
    assert described(sale) == catalog
    assert [row[:2] for row in sale.run_states()[-3:]] == [
        ("rebuild", "crashed"), ("ingest-shop", "failed"), ("rebuild", "succeeded")
    ]  # fmt: skip
    assert sale.rows("select kind from audit.outbox order by 1") == [
        ("crashed",),
        ("failed",),
        ("recovered",),
    ]


def test_run_that_rebuilds_a_table_first_archives_what_it_loads_then(
    sale: Pipeline, archive: Archive
) -> None:
    sale.warehouse.execute("truncate dwh.dim_product cascade")
    sale.do("update customer set name = 'Eva', updated_at = shop_now()")

    def heal(run: Run) -> None:
        rebuild_damaged(run, settings_of(archive), find_damaged(run.connection, sale.source), lambda _: None)

    load(sale, archive, prepare=heal)
    before = content(sale.warehouse)
    sale.warehouse.execute("drop table raw.shop_customer cascade")
    run_rebuild(sale, archive)
    assert content(sale.warehouse) == before


PAST = {
    "raw.shop_customer": "select * from {}.shop_customer order by id",
    "dwh.dim_customer": "select * from {}.dim_customer order by 1",
    "dwh.fact_inventory_day": "select * from {}.fact_inventory_day order by 1, 2, 3",
}


def test_past_state_is_built_into_a_schema_of_its_own(shop: Pipeline, archive: Archive) -> None:
    shop.order(1, "2024-03-10")
    shop.do("insert into inventory (product_id, distribution_center_id, quantity) values (1, 1, 5)")

    def load_once() -> tuple[int, dict[str, list[Row]]]:
        run_id = load(shop, archive)
        return run_id, {name: shop.rows(query.format(name.partition(".")[0])) for name, query in PAST.items()}

    first, expected = load_once()
    shop.do(
        "update customer set name = 'Ana Maria', updated_at = shop_now()", "update inventory set quantity = 4"
    )
    second, expected_then = load_once()
    # A run that fails publishes nothing.
    with suppress(ZeroDivisionError), start_run(shop.warehouse_url, flow="ingest-shop") as failing:
        raise ZeroDivisionError
    # The day has ended since: the next run adds days.
    shift(shop, 2)
    load_once()
    before, messages = content(shop.warehouse), list[str]()
    for run_id, state in ((first, expected), (second, expected_then)):
        with start_run(shop.warehouse_url, flow="rebuild") as run:
            counts = rebuild_as_of(run, archive, [], run_id, progress=messages.append)
        assert messages[-1].startswith("Facts and marts are not built: ") and f"_at({run_id})" in messages[-1]
        assert {name: shop.rows(query.format(f"rebuild_{run_id}")) for name, query in PAST.items()} == state
        assert counts[f"rebuild_{run_id}.fact_inventory_day"] == 1
    with start_run(shop.warehouse_url, flow="rebuild") as run:
        rebuild_as_of(run, archive, [], failing.run_id, progress=messages.append)
    assert (
        f"run {failing.run_id} has published nothing: when it ended all was as run {second} left it"
        in messages
    )
    schema = f"rebuild_{failing.run_id}"
    assert {name: shop.rows(query.format(schema)) for name, query in PAST.items()} == expected_then
    assert content(shop.warehouse) == before
    schema = f"rebuild_{first}"

    def again() -> None:
        with start_run(shop.warehouse_url, flow="rebuild") as run:
            rebuild_as_of(run, archive, [], first)

    again()
    for own, away in (
        (f"create view public.mine as select * from {schema}.dim_customer", "drop view public.mine"),
        (f"create table {schema}.mine as select 1 as mine", f"drop table {schema}.mine"),
        (f"comment on schema {schema} is 'mine'", f"drop schema {schema} cascade"),
    ):
        shop.warehouse.execute(own)
        with pytest.raises(SchemaObjectInUse, match=schema):
            again()
        assert shop.rows(f"select name from {schema}.dim_customer where customer_id = '1'") == [("Ana",)]
        shop.warehouse.execute(away)
    again()
    with start_run(shop.warehouse_url, flow="rebuild") as run, pytest.raises(NotArchived, match="run 9999"):
        rebuild_as_of(run, archive, [], 9999)
    with start_run(shop.warehouse_url, flow="rebuild") as run, pytest.raises(NotArchived) as refused:
        rebuild_as_of(run, archive, [], first, ["dwh.fact_order_item"])
    assert f"audit.<fact>_at({first})" in str(refused.value)


def test_rebuild_refuses_an_archive_that_does_not_have_all_that_was_published(
    sale: Pipeline, archive: Archive
) -> None:
    root = Path(str(archive.root))
    shutil.copytree(root, root.with_name("older"))
    sale.do("update customer set name = 'Eva'")
    load(sale, archive)
    intact = content(sale.warehouse)
    customer = root / "shop" / "customer"

    def refuses(table: str, reason: str) -> None:
        with pytest.raises(NotArchived, match=reason):
            run_rebuild(sale, archive, table)
        assert content(sale.warehouse) == intact

    # Restored from an older copy, or lost.
    customer.rename(root / "newer")
    refuses("raw.shop_customer", "up to none, and should")
    shutil.copytree(root.with_name("older") / "shop" / "customer", customer)
    refuses("raw.shop_customer", r"up to \d+, and should have those up to \d+")
    assert run_rebuild(sale, archive, "raw.shop_product", "dwh.dim_customer") == []
    shutil.rmtree(customer)
    (root / "newer").rename(customer)
    # A repair by the rebuild itself is nothing that the archive lacks.
    sale.warehouse.execute("update dwh.dim_customer set name = 'wrong' where customer_id = '1'")
    for _ in range(2):
        run_rebuild(sale, archive, "dwh.dim_customer")
        assert content(sale.warehouse) == intact
    # Loaded without the archive, by a process that says so, and by one that does not.
    sale.do("update customer set name = 'Mia'")
    load(sale, archive, archives=False, adds=False)
    intact = content(sale.warehouse)
    refuses("raw.shop_customer", r"run \d+ has loaded it, and the archive has it as of run 2")
    refuses("dwh.dim_customer", r"run \d+ has changed it since")
    upkeep.prepare(sale.warehouse, sale.warehouse_url, Settings(_env_file=None, archive=False))
    refuses("dwh.dim_customer", "DWH_ARCHIVE=false")
    # A run repairs what it can, and goes on whatever it cannot.
    sale.warehouse.execute("truncate raw.shop_customer, raw.shop_product")
    damaged = content(sale.warehouse)
    lines: list[str] = []
    with start_run(sale.warehouse_url, flow="ingest-shop", archive=True) as run:
        rebuild_damaged(run, settings_of(archive), find_damaged(run.connection, sale.source), lines.append)
    assert sum("not rebuilt: raw.shop_" in line for line in lines) == 2
    assert content(sale.warehouse) == damaged
    sale.warehouse.execute("drop table raw.shop_customer cascade")
    with (
        start_run(sale.warehouse_url, flow="ingest-shop", archive=True) as run,
        psycopg.connect(sale.warehouse_url, autocommit=True) as other,
        session_lock(other, "source shop"),
        pytest.raises(LockHeld),
    ):
        rebuild(run, archive, [sale.source], ["raw.shop_product"], wait_seconds=0)


def test_fact_whose_rows_were_all_deleted_is_damaged_only_if_it_is_missing(
    sale: Pipeline, archive: Archive
) -> None:
    sale.do("delete from order_item")
    load(sale, archive)
    assert sale.rows("select * from dwh.fact_order_item") == []
    assert find_damaged(sale.warehouse, sale.source) == []
    sale.warehouse.execute("drop table dwh.fact_order_item cascade")
    assert find_damaged(sale.warehouse, sale.source) == ["dwh.fact_order_item"]


def test_watermark_whose_batches_did_not_reach_the_archive_is_not_taken_over(
    shop: Pipeline, archive: Archive, database: Callable[[str], str], warehouse_template: str
) -> None:
    load(shop, archive)
    customer = Path(str(archive.folder("shop/customer")))
    shutil.copytree(customer, customer.with_name("older"))
    shop.do("update customer set name = 'Eva'")
    load(shop, archive)
    before = content(shop.warehouse)["raw.shop_customer"]
    shutil.rmtree(customer)
    customer.with_name("older").rename(customer)
    shop.close()
    rebuilt = Pipeline(shop.shop_url, database(warehouse_template))
    lines: list[str] = []
    try:
        assert take_over(rebuilt.warehouse_url, archive, lines.append)
        assert lines[1:] == [
            "shop.customer: its last batches did not reach the archive; the next run reads the table as a whole"
        ]
        run_rebuild(rebuilt, archive)
        load(rebuilt, archive)
        assert content(rebuilt.warehouse)["raw.shop_customer"] == before
        assert run_rebuild(rebuilt, archive) == []
    finally:
        rebuilt.close()


def test_comparison_names_what_has_changed_since_in_what_a_table_is_made_by(
    sale: Pipeline, archive: Archive, declare: Declare
) -> None:
    before = content(sale.warehouse)
    changed = declare(("conform/customer.sql", "    customer.name,", "    upper(customer.name) as name,"))
    said: list[str] = []
    sale.warehouse.execute("delete from dwh.dim_customer where customer_key > 0")
    with start_run(sale.warehouse_url, flow="rebuild", archive=True) as run:
        verdicts = rebuild(run, archive, [changed], progress=said.append)
    assert {one.table_name: one.note for one in verdicts if one.note} == {
        "dwh.dim_customer": "what it is made by has changed since (conform SQL has changed): its history is what was "
        "published then, and the next run of its source computes the present state again"
    }
    assert sum(line.startswith("dwh.dim_customer: what it is made by has changed") for line in said) == 1
    # History is what was published then; the next run computes the present state again.
    assert content(sale.warehouse) == before
    load(sale, archive, changed)
    assert sale.versions("customer", "name")[-1][1] == "ANA"
