"""Migrations: released schemas are upgraded with their data, views follow, everything is commented."""

import lzma
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import warehouse
from generators.shop import create_schema
from stack.postgres import EmbeddedPostgres
from tests.catalog import SCHEMAS, catalog
from warehouse.db.connections import connect
from warehouse.errors import TableMissing
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.stage import stage
from warehouse.load.batch import Batch
from warehouse.load.changed_keys import create_all_keys_view, materialize_keys
from warehouse.load.conform import delivered_columns
from warehouse.load.publish import publish
from warehouse.migrations import declared, revisions
from warehouse.migrations.revisions import current, downgrade, head, upgrade
from warehouse.model.drift import find_drift
from warehouse.model.star import DIMENSIONS, TARGETS
from warehouse.runs.audit import start_run
from warehouse.settings import Settings
from warehouse.sources.registry import read_source
from warehouse.undo.undo import undo

PACKAGE = Path(warehouse.__file__).parent
SOURCES = ("shop", "northwind")
NORTHWIND = Path(__file__).parents[1] / "real" / "northwind.sql"
# A dump with data of a warehouse at each released revision.
FIXTURES = Path(__file__).parents[1] / "fixtures" / "schemas"
REVISIONS = sorted(path.name[:4] for path in (PACKAGE / "migrations" / "versions").glob("[0-9]*.py"))
# They change rows of warehouses that are in use, and no table.
OF_ROWS = {"0052"}

UNCOMMENTED = """
    select oid::regclass::text from pg_class
    where relnamespace::regnamespace::text = any(%(schemas)s) and relkind in ('r', 'p', 'v', 'm')
        and obj_description(oid, 'pg_class') is null
    union all
    select attrelid::regclass || '.' || attname
    from pg_attribute join pg_class on pg_class.oid = attrelid
    where relnamespace::regnamespace::text = any(%(schemas)s) and relkind in ('r', 'p', 'v', 'm')
        and attnum > 0 and not attisdropped and col_description(attrelid, attnum) is null
    union all
    select oid::regprocedure::text from pg_proc
    where pronamespace::regnamespace::text = any(%(schemas)s) and obj_description(oid, 'pg_proc') is null
    order by 1
"""

# What an upgrade must not lose: whole tables, by columns that no migration has renamed.
WHOLE_TABLES = {
    "dwh.dim_customer": "customer_key, customer_id, name, email, state, valid_from, valid_to, is_current, run_id",
    "dwh.fact_order_item": "order_id, line_id, ordered_at, customer_key, product_key, net_amount, status, run_id",
    "dwh.fact_weblog": "file_id, line_number, requested_at, request_key, country, ip_address",
    "audit.quarantine": "quarantine_id, source, entity, row_key, rules, reason, row_data, raw_text, resolved_at",
    "audit.run": "run_id, flow, status, started_at, ended_at, error",
    "mart.sales_by_month": "source_system, month, currency, order_count, net_amount",
}


@pytest.fixture
def captured(empty_database_url: Callable[[], str], warehouse_url: str) -> dict[str, tuple[str, ...]]:
    """A warehouse with the mirrors of both sources, made from their real schemas: conform files by source."""
    made = {}
    for name in SOURCES:
        url = empty_database_url()
        if name == "shop":
            create_schema(url)
        else:
            with psycopg.connect(url) as source_connection:
                source_connection.execute(NORTHWIND.read_bytes())
        source = read_source(name)
        with start_run(warehouse_url, flow="ingest-shop") as run:
            staged = stage(run, source, url, threshold=DeleteThreshold(0.0, 0))
            publish(run, staged)
        with connect(warehouse_url) as connection:
            for target in TARGETS:
                if entity := source.entities.get(target.entity):
                    with Batch(connection, run.run_id, entity, target) as batch:
                        create_all_keys_view(batch)
                        delivered_columns(batch)
                        materialize_keys(batch)
        made[name] = tuple(source.entities)
    return made


@pytest.fixture(params=sorted(path.name[:4] for path in FIXTURES.glob("*.sql.xz")))
def released(
    request: pytest.FixtureRequest,
    postgres: EmbeddedPostgres,
    warehouse_template: str,
    empty_database_url: Callable[[], str],
) -> tuple[str, str]:
    """A warehouse with data at a released revision: the revision, and its URL. The template has made its roles."""
    url = empty_database_url()
    dump = lzma.decompress((FIXTURES / f"{request.param}.sql.xz").read_bytes())
    restore = [
        postgres.psql_path,
        "--quiet",
        "--no-psqlrc",
        "--set=ON_ERROR_STOP=1",
        "--output=/dev/null",
        url,
    ]
    subprocess.run(restore, input=dump, check=True)
    return request.param, url


def catalog_of(url: str, **options: bool) -> list[str]:
    with connect(url) as connection:
        return catalog(connection, **options)


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with connect(url) as connection:
        return connection.execute(query.encode(), {"schemas": list(SCHEMAS)}).fetchall()


# Rows that are declared in files, as views are, and stored marts, which follow from them.
NOT_COUNTED = (
    "audit.schema_object",
    "audit.personal_data",
    "audit.mart_state",
    "audit.row_schema",
    "audit.layout",  # its name in the released warehouse
)


def row_counts(url: str) -> dict[str, int]:
    with connect(url) as connection:
        tables = connection.execute(
            "select schemaname, tablename from pg_tables where schemaname = any(%s)", [list(SCHEMAS)]
        ).fetchall()
        counts = [
            sql.SQL("select {}, count(*) from {}").format(".".join(table), sql.Identifier(*table))
            for table in tables
            if table[0] != "mart" and ".".join(table) not in NOT_COUNTED
        ]
        return dict(connection.execute(sql.SQL(" union all ").join(counts)).fetchall() if counts else ())


def whole_tables(url: str) -> dict[str, list[tuple[object, ...]]]:
    return {
        table: rows(url, f"select {columns} from {table} order by {columns}")
        for table, columns in WHOLE_TABLES.items()
    }


# Facts that show an older state than the one in quarantine.
QUARANTINED_FACTS = """
    select order_id, line_id from dwh.fact_order_item
    where array[order_id, line_id] in (
        select row_key from audit.quarantine where entity = 'order_item' and resolved_at is null
    )
    order by 1, 2
"""


@pytest.mark.each_major
def test_baseline_is_the_schema_that_was_released(
    released: tuple[str, str], empty_database_url: Callable[[], str]
) -> None:
    revision, url = released
    if revision != REVISIONS[0]:
        pytest.skip("a later revision than the baseline")
    baseline = empty_database_url()
    upgrade(baseline, revision)
    # Grants are no part of a numbered migration.
    assert catalog_of(baseline, grants=False) == catalog_of(url, grants=False)


@pytest.mark.each_major
def test_released_warehouse_is_upgraded_with_its_data(released: tuple[str, str], warehouse_url: str) -> None:
    revision, url = released
    with connect(url) as connection:
        connection.execute(
            """
            insert into audit.quarantine (run_id, source, entity, row_key, rules, reason)
            select run_id, source_system, 'order_item', array[order_id, line_id], '{status is unknown}', 'unknown'
            from dwh.fact_order_item order by ordered_at limit 2
            """
        )
    counts, tables = row_counts(url), whole_tables(url)
    past = f"select {WHOLE_TABLES['dwh.dim_customer']} from audit.dim_customer_at(1) order by 1"
    as_of = rows(url, past)
    assert (
        counts["dwh.fact_order_item"] > 100 and counts["audit.change"] > 10 and counts["audit.quarantine"] > 1
    )
    messages: list[str] = []
    upgrade(url, progress=messages.append)
    assert [message.partition(":")[0] for message in messages] == [
        *(f"migration {one}" for one in REVISIONS if one > revision), "views, functions, comments and grants",
    ]  # fmt: skip
    assert catalog_of(url) == catalog_of(warehouse_url)
    assert whole_tables(url) == tables
    assert rows(url, past) == as_of
    marked = "select order_id, line_id from dwh.fact_order_item where has_quarantined_update order by 1, 2"
    assert rows(url, marked) == rows(url, QUARANTINED_FACTS) != []
    after = row_counts(url)
    # By their numbers: migrations rename tables, and create new ones.
    assert Counter(counts.values()) - Counter(after.values()) == Counter()


def test_run_of_a_released_warehouse_can_be_undone_after_the_upgrade(released: tuple[str, str]) -> None:
    """Before-images were logged under the names that columns had then."""
    _, url = released
    expired = "select count(*) from dwh.dim_customer where expired_by_run_id = 10"
    states = "select customer_id, state, valid_from, valid_to from audit.dim_customer_at(6) order by 1, 3"
    before = rows(url, states)
    upgrade(url)
    assert rows(url, expired) == [(3,)]
    # What a later run has found out about its own snapshot says nothing about an earlier one.
    found = (
        "array[open_transactions::text, row_count::text, rotation_started_at::text, changes_counted::text]"
    )
    with connect(url) as connection:
        connection.execute(
            """
            update audit.watermark set
                open_transactions = '{"asked_at": "2026-01-01T00:00:00+00:00"}', row_count = 1,
                rotation_started_at = now(), changes_counted = 1
            """
        )
    with start_run(url, flow="undo") as run:
        undo(run, 10, cascade=True)
    assert rows(url, states) == before
    assert rows(url, expired) == [(0,)]
    assert rows(url, f"select distinct {found} from audit.watermark where run_id < 10") == [([None] * 4,)]
    assert rows(url, states.replace("audit.dim_customer_at(6)", "dwh.dim_customer")) == before


@pytest.mark.each_major
@pytest.mark.parametrize(
    "steps",
    [
        # Migrations are frozen: of the older ones it is enough that all of them together undo what they did.
        pytest.param(REVISIONS[-5:], id="newest"),
        pytest.param(REVISIONS, marks=pytest.mark.slow, id="each"),
    ],
)
def test_each_migration_undoes_what_it_did_and_all_make_the_same_schema_again(
    steps: list[str], empty_database_url: Callable[[], str]
) -> None:
    url = empty_database_url()

    def made() -> tuple[list[str], dict[str, int]]:
        # What marketing may see of tables follows from labels, which are declared with the newest revision's views.
        return catalog_of(url, tables_only=True, grants=False), row_counts(url)

    states = [made()]
    for revision in steps:
        upgrade(url, revision)
        states.append(made())
        if revision not in OF_ROWS:
            assert states[-1][0] != states[-2][0], f"{revision} does nothing"
    schema, counts = catalog_of(url), row_counts(url)
    assert current(url) == head() == steps[-1]
    for number in reversed(range(len(steps))):
        downgrade(url, steps[number - 1] if number else "base")
        assert made() == states[number], f"{steps[number]} leaves something behind"
    assert catalog_of(url) == []
    assert current(url) is None
    upgrade(url)
    assert catalog_of(url) == schema
    assert row_counts(url) == counts


@pytest.mark.parametrize("message", ["tuple concurrently updated", "cache lookup failed for database 500147"])
def test_role_or_database_that_somebody_drops_meanwhile_is_met_by_a_second_attempt(
    message: str, empty_database_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = empty_database_url()
    statement = f"""
        create sequence public.attempts;
        create function public.fail_first() returns event_trigger language plpgsql as $$ begin
            if nextval('public.attempts') = 1 then
                raise exception '{message}' using errcode = 'internal_error';
            end if;
        end $$;
        create event trigger fail_first on ddl_command_end execute function public.fail_first();
    """
    with connect(url) as connection:
        connection.execute(statement.encode())
    # Any way up or down is one attempt.
    upgrade(url, REVISIONS[0])
    assert current(url) == REVISIONS[0]
    downgrade(url, "base")
    assert catalog_of(url) == []

    with connect(url) as connection:
        connection.execute("select setval('public.attempts', 1, false)")
    monkeypatch.setattr(revisions, "_CHANGES_PATIENCE_SECONDS", 0.0)
    with pytest.raises(psycopg.errors.InternalError_, match=message):
        upgrade(url)
    assert catalog_of(url) == []


@pytest.mark.each_major
def test_nothing_differs_from_what_is_declared(captured: object, warehouse_url: str) -> None:
    with connect(warehouse_url) as connection:
        assert [*declared.differences(connection), *find_drift(connection)] == []


def test_every_table_column_and_function_is_commented(captured: object, warehouse_url: str) -> None:
    assert rows(warehouse_url, UNCOMMENTED) == []


@pytest.mark.each_major
def test_every_sql_file_fits_the_migrated_database(
    captured: dict[str, tuple[str, ...]], warehouse_url: str
) -> None:
    conform = {
        PACKAGE / "sources" / source / "conform" / f"{entity}.sql"
        for source, entities in captured.items()
        for entity in entities
    }
    assert {path for path in queries() if path.parent.name == "conform"} == conform
    refused = {}
    with connect(warehouse_url, autocommit=True) as connection:
        for path in queries():
            try:
                connection.execute(f"prepare file as {query_of(path)}".encode())
                connection.execute("deallocate file")
            except psycopg.Error as error:
                refused[str(path.relative_to(PACKAGE))] = error.diag.message_primary
    assert refused == {}


def test_every_sql_file_says_its_grain_and_inputs() -> None:
    declared = [*(PACKAGE / "model").rglob("*.sql"), *(PACKAGE / "history" / "functions").glob("*.sql")]
    for path in {*queries(), *declared}:
        first, second = path.read_text().splitlines()[:2]
        assert first.startswith("-- ") and second.startswith("-- inputs: "), path.relative_to(PACKAGE)


def query_of(path: Path) -> str:
    """The file as a query of its own: that of a fact, or of the calendar, selects from a row that it is given."""
    text = path.read_text()
    if path.parent.name == "facts":
        dimensions = " ".join(f"cross join dwh.{one.table} as {one.entity}" for one in DIMENSIONS)
        return f"select 1 from staging.conformed_{path.stem} as line {dimensions} cross join lateral ({text}) as fact"
    if path.name == "day.sql":
        return f"select 1 from (values (current_date)) as named (day) cross join lateral ({text}) as calendar"
    return text


def queries() -> list[Path]:
    """SQL files of one query each: not those of functions, of sources that somebody added, nor the frozen migrations.

    Nor those that select from rows of a query which is generated; every load runs them.
    """
    return [
        path
        for path in sorted(PACKAGE.rglob("*.sql"))
        if path.parent.name not in ("functions", "facts")
        and "versions" not in path.parts
        and (path.parent.name != "conform" or path.parents[1].name in SOURCES)
        and path != PACKAGE / "model" / "day.sql"
    ]


def test_doctor_and_migrate_say_of_a_newer_warehouse_what_a_run_says(
    warehouse_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cli.diagnostics import _warehouse
    from cli.maintenance import migrate
    from warehouse.db.schema_version import ensure_migrated
    from warehouse.errors import SchemaOutdated

    with connect(warehouse_url, autocommit=True) as connection:
        connection.execute("update public.alembic_version set version_num = '9999'")
    monkeypatch.setenv("DWH_WAREHOUSE_URL", warehouse_url)
    monkeypatch.setenv("DWH_SHOP_URL", warehouse_url)
    with pytest.raises(SchemaOutdated, match=r"revision 9999; this code ends at") as of_run:
        ensure_migrated(warehouse_url)
    with pytest.raises(SchemaOutdated) as of_migrate:
        migrate()
    found = [(one.what, one.hint) for one in _warehouse(Settings.load()) if one.verdict == "wrong"]
    assert (str(of_migrate.value), found) == (str(of_run.value), [(of_run.value.what, of_run.value.hint)])


def test_version_of_the_code_names_package_and_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    from warehouse.runs.audit import code_version

    monkeypatch.setenv("DWH_COMMIT", "abc1234")
    code_version.cache_clear()
    try:
        assert re.fullmatch(r"\d+\.\d+\.\d+ \(abc1234\)", code_version())
    finally:
        code_version.cache_clear()


def test_a_lost_table_of_the_audit_trail_is_named_with_the_way_back(warehouse_url: str) -> None:
    with connect(warehouse_url, autocommit=True) as administrator:
        administrator.execute("drop table audit.quarantine cascade")
    with pytest.raises(TableMissing, match=r"audit\.quarantine. does not exist") as raised:
        upgrade(warehouse_url)
    assert "restore the database from a backup" in raised.value.hint
    # Causes come to an end: the command line follows them.
    causes: list[BaseException] = [raised.value]
    while cause := causes[-1].__cause__:
        assert cause not in causes
        causes.append(cause)
