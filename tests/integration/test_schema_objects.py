"""Views and functions follow every migration: with grants and contents, and never past a user's own view."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from tests.catalog import catalog
from tests.pipeline import Pipeline
from warehouse.db.connections import connect
from warehouse.db.locks import try_transaction_lock
from warehouse.db.object_files import SchemaObject
from warehouse.errors import LockHeld, SchemaObjectInUse
from warehouse.history.change_log import STAR_LOCK
from warehouse.migrations import declared, revisions
from warehouse.migrations.revisions import current, downgrade, head, upgrade

# By name of a view or function, a text of its definition and what replaces it.
Changes = Mapping[str, tuple[str, str]]
Declare = Callable[[Changes], None]

RENAME = "alter table dwh.fact_order_item rename column net_amount to sales_amount"
DROP = "alter table dwh.fact_order_item drop column recorded_at"
RETYPE = "alter table dwh.fact_order_item alter column net_amount type numeric(20, 4)"
# What reads the column: the view, a view and a masked view of it, a stored mart and the view of that, functions.
READERS = ("mart.sales", "mart.sales_masked", "mart.sales_by_month", "mart.as_of")

# Which row of the catalog each view and function is, and which transaction wrote it.
IDENTITIES = """
    select oid::regclass::text, oid, xmin::text from pg_class
    where relnamespace in ('mart'::regnamespace, 'audit'::regnamespace) and relkind in ('v', 'm')
    union all
    select oid::regproc::text, oid, xmin::text from pg_proc where pronamespace = 'audit'::regnamespace
    order by 1
"""


@pytest.fixture
def migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Adds a migration of one statement to a copy of the project's; returns its revision."""
    folder = tmp_path / "migrations"
    shutil.copytree(revisions.FOLDER, folder)

    def add(statement: str) -> str:
        newest = head()
        revision = f"{int(newest) + 1:04}"
        (folder / "versions" / f"{revision}_test.py").write_text(
            "from warehouse.migrations.sql import execute\n"
            f"revision = {revision!r}\ndown_revision = {newest!r}\n"
            f"def upgrade(): execute({statement!r})\n"
        )
        monkeypatch.setattr(revisions, "FOLDER", folder)
        return revision

    return add


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Changes the declarations of views and functions: by name, a text and what replaces it."""
    original = declared.schema_objects

    def change(changes: Changes) -> None:
        def changed(connection: psycopg.Connection, time_zone: str | None = None) -> list[SchemaObject]:
            objects = original(connection, time_zone)
            assert changes.keys() <= {one.full_name for one in objects}
            return [
                replace(one, definition=one.definition.replace(*changes.get(one.full_name, ("", ""))))
                for one in objects
            ]

        monkeypatch.setattr(declared, "schema_objects", changed)

    return change


@pytest.fixture
def reader(sold: Pipeline) -> Iterator[list[str]]:
    """Somebody who queries the views all the time: the errors that he has met."""
    errors: list[str] = []
    done = threading.Event()

    def read() -> None:
        with connect(sold.warehouse_url, autocommit=True) as connection:
            connection.execute("set role dwh_reader")
            while not done.is_set():
                for view in READERS:
                    try:
                        row = connection.execute(f"select count(*) from {view}".encode()).fetchone()
                        assert row is not None and row[0] >= 1
                    except (psycopg.Error, AssertionError) as error:
                        errors.append(f"{view}: {error!r}")

    thread = threading.Thread(target=read)
    thread.start()
    yield errors
    done.set()
    thread.join()


def everything(shop: Pipeline) -> list[str]:
    with connect(shop.warehouse_url) as connection:
        return catalog(connection)


@pytest.mark.parametrize(
    ("statement", "changes"),
    [
        (
            RENAME,
            {
                # Views keep the name that their readers know.
                "mart.sales": ("line.net_amount", "line.sales_amount as net_amount"),
                "mart.orders": ("other.net_amount", "other.sales_amount"),
                "audit.sales_change()": ("->> 'net_amount'", "->> 'sales_amount'"),
            },
        ),
        pytest.param(
            DROP,
            {
                "mart.sales": ("line.recorded_at", "null::timestamptz as recorded_at"),
                "mart.orders": ("line.recorded_at", "null::timestamptz"),
            },
            marks=pytest.mark.slow,
        ),
        (RETYPE, {}),
    ],
    ids=["rename", "drop", "retype"],
)
def test_column_that_views_and_functions_read_is_migrated(
    sold: Pipeline,
    migration: Callable[[str], str],
    declare: Declare,
    reader: list[str],
    statement: str,
    changes: Changes,
) -> None:
    sold.warehouse.execute("grant select on mart.sales to pg_monitor with grant option")
    sold.warehouse.execute("grant select (month, net_amount) on mart.sales_by_month to pg_monitor")
    sales = sold.rows("select order_id, net_amount from mart.sales")
    months = sold.rows("select * from mart.sales_by_month")
    assert sales and months
    revision = migration(statement)
    declare(changes)
    upgrade(sold.warehouse_url)
    assert current(sold.warehouse_url) == revision
    assert sold.rows("select order_id, net_amount from mart.sales") == sales
    assert sold.rows("select * from mart.sales_by_month") == months
    assert sold.rows(
        """
        select has_table_privilege('pg_monitor', 'mart.sales', 'select with grant option'),
            has_column_privilege('pg_monitor', 'mart.sales_by_month', 'net_amount', 'select'),
            has_table_privilege('dwh_marketing', 'mart.sales_masked', 'select'),
            has_table_privilege('dwh_marketing', 'mart.sales', 'select')
        """
    ) == [(True, True, True, False)]
    assert sold.rows("select count(*) from audit.fact_order_item_at(1)") == [(1,)]
    assert sold.rows("select count(*) from audit.sales_change(1, 1)") == [(0,)]
    assert reader == []
    assert [text for text in differences(sold) if not text.startswith("dwh.fact_order_item: column")] == []


def test_users_own_view_stops_a_migration_and_is_named(
    sold: Pipeline, migration: Callable[[str], str], declare: Declare
) -> None:
    sold.warehouse.execute("create schema mine")
    migration(RETYPE)
    for read in ("mart.sales", "dwh.fact_order_item"):
        assert_own_view_stops_it(sold, f"select net_amount from {read}")
    upgrade(sold.warehouse_url)
    for changes, view in (
        ({"mart.job_run": ("run.error as message", "run.error")}, "select message from mart.job_run"),
        # A view of a changed view.
        (
            {"mart.sales": ("line.run_id,\n", "line.run_id::text as run_id,\n")},
            "select net_amount from mart.sales_masked",
        ),
    ):
        declare(changes)
        assert_own_view_stops_it(sold, view)
        upgrade(sold.warehouse_url)
        assert [
            text for text in differences(sold) if not text.startswith("dwh.fact_order_item: column")
        ] == []


def assert_own_view_stops_it(sold: Pipeline, query: str) -> None:
    """A user's own view of this query stops what is to be migrated, which changes nothing."""
    sold.warehouse.execute(f"create view mine.own_view as {query}".encode())
    before, revision = everything(sold), current(sold.warehouse_url)
    with pytest.raises(SchemaObjectInUse, match=r"mine\.own_view"):
        upgrade(sold.warehouse_url)
    assert everything(sold) == before
    assert current(sold.warehouse_url) == revision
    sold.warehouse.execute("drop view mine.own_view")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration gives up what it would have to wait for."""
    monkeypatch.setattr(revisions, "LOCK_TIMEOUT", "100ms")
    monkeypatch.setattr(revisions, "LOCK_PATIENCE_SECONDS", 0.0)


@pytest.mark.usefixtures("impatient")
def test_migration_that_would_wait_for_a_long_query_gives_up(
    sold: Pipeline, migration: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or every reader would wait behind it."""
    before = everything(sold)
    migration(RETYPE)
    with connect(sold.warehouse_url) as busy:
        busy.execute("select count(*) from dwh.fact_order_item")
        with pytest.raises(LockHeld, match="in use for 0 seconds") as held:
            upgrade(sold.warehouse_url)
        user = f"dwh.fact_order_item, by {busy.info.user} (dwh, server process {busy.info.backend_pid}, "
        assert user in held.value.what
        assert f"pg_terminate_backend({busy.info.backend_pid})" in held.value.hint
        monkeypatch.setattr(revisions, "LOCK_PATIENCE_SECONDS", 4.0)
        messages: list[str] = []
        with pytest.raises(LockHeld):
            upgrade(sold.warehouse_url, progress=messages.append)
        # Each once, though it is tried four times.
        assert [message.split()[0] for message in messages] == ["migration", "waiting"]
        assert messages[1].startswith("waiting up to 4 s") and user in messages[1]
    assert everything(sold) == before
    upgrade(sold.warehouse_url)


@pytest.mark.usefixtures("impatient")
def test_migration_waits_for_whoever_publishes_though_no_table_is_locked_yet(
    sold: Pipeline, migration: Callable[[str], str]
) -> None:
    """Or what was conformed by the code of before would be published into the tables of the new one."""
    before = everything(sold)
    migration(RETYPE)
    with connect(sold.warehouse_url) as publishing:
        assert try_transaction_lock(publishing, STAR_LOCK)
        with pytest.raises(LockHeld):
            upgrade(sold.warehouse_url)
        with pytest.raises(LockHeld):
            downgrade(sold.warehouse_url, "base")
    assert everything(sold) == before
    upgrade(sold.warehouse_url)


def test_users_own_view_of_a_view_that_only_gains_columns_stays(sold: Pipeline, declare: Declare) -> None:
    sold.warehouse.execute("create schema mine create view mine.own_view as select * from mart.sales")
    declare({"mart.sales": ("line.customer_key\n", "line.customer_key,\n    1 as one\n")})
    upgrade(sold.warehouse_url)
    assert sold.rows("select count(*), sum(one) from mart.sales") == [(1, 1)]
    assert sold.rows("select count(*) from mine.own_view") == [(1,)]


def test_what_has_not_changed_is_not_touched(sold: Pipeline, declare: Declare) -> None:
    before = {name: identity for name, *identity in sold.rows(IDENTITIES)}
    upgrade(sold.warehouse_url)
    assert {name: identity for name, *identity in sold.rows(IDENTITIES)} == before
    declare({"mart.job_run": ("run.error as", "upper(run.error) as")})
    upgrade(sold.warehouse_url)
    after = {name: identity for name, *identity in sold.rows(IDENTITIES)}
    assert [name for name in after if after[name][0] != before[name][0]] == []
    assert {name for name in after if after[name] != before[name]} <= {"mart.job_run"}
    assert "upper(" in str(sold.rows("select pg_get_viewdef('mart.job_run'::regclass)"))


def test_what_is_no_longer_declared_is_dropped(sold: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    original = declared.schema_objects
    gone = ("mart.monthly_sales", "audit.sales_change()")
    monkeypatch.setattr(
        declared,
        "schema_objects",
        lambda connection, time_zone=None: [one for one in original(connection) if one.full_name not in gone],
    )
    sold.warehouse.execute("create view mart.own_view as select 1 as one")
    assert [text for text in differences(sold) if "no longer" in text] == [
        "audit.sales_change() is no longer declared",
        "mart.monthly_sales is no longer declared",
    ]
    upgrade(sold.warehouse_url)
    assert sold.rows("select to_regclass('mart.monthly_sales'), to_regproc('audit.sales_change')") == [
        (None, None)
    ]
    assert sold.rows("select one from mart.own_view") == [(1,)]


# What somebody does by hand, and what it is called.
BY_HAND = [
    ("drop table staging.source_checksum", "table staging.source_checksum is missing"),
    ("create or replace view mart.quarantine_by_rule as select * from (table mart.quarantine_by_rule) as x limit 1",
     "view mart.quarantine_by_rule is not as declared"),
    ("drop view mart.sales_masked", "view mart.sales_masked is not as declared"),
    ("drop view mart.sales_by_month cascade", "view mart.sales_by_month is not as declared"),
    ("create or replace function audit.published_at(as_of anyelement) returns timestamptz language sql "
     "as 'select now()'", "function audit.published_at() is not as declared"),
    ("comment on column audit.run.flow is null", "the comment of column audit.run.flow is not as declared"),
    ("drop trigger log_update on dwh.dim_customer; drop trigger log_delete on dwh.dim_customer; "
     "drop trigger log_truncate on dwh.dim_customer", "table dwh.dim_customer has no triggers for the change log"),
    ("revoke select on mart.sales from dwh_reader",
     "an owner or grant is not as declared: grant select on mart.sales to dwh_reader"),
    ("grant select on mart.sales to dwh_marketing",
     "an owner or grant is not as declared: revoke all on mart.sales from dwh_marketing"),
    ("alter table audit.run owner to dwh_loader",
     "an owner or grant is not as declared: alter table audit.run owner to dwh_owner"),
]  # fmt: skip


def test_what_was_changed_by_hand_is_reported_and_set_right_by_the_next_upgrade(sold: Pipeline) -> None:
    before = everything(sold)
    assert differences(sold) == []
    found: list[str] = []
    for statement, difference in BY_HAND:
        sold.warehouse.execute(statement.encode())
        found = differences(sold)
        assert difference in found, statement
    assert {difference for _, difference in BY_HAND} <= set(found)
    assert upgrade(sold.warehouse_url) == found
    assert upgrade(sold.warehouse_url) == []
    assert differences(sold) == []
    assert everything(sold) == before


def differences(shop: Pipeline) -> list[str]:
    with connect(shop.warehouse_url) as connection:
        return list(declared.differences(connection))


def test_migration_during_a_load_waits_without_keeping_readers_waiting(
    sold: Pipeline, migration: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "LOCK_TIMEOUT", "100ms")
    monkeypatch.setattr(revisions, "LOCK_PAUSE_SECONDS", 0.1)
    migration(RETYPE)
    with connect(sold.warehouse_url) as load, connect(sold.warehouse_url, autocommit=True) as reader:
        load.execute("lock table dwh.fact_order_item in row exclusive mode")
        migrating = threading.Thread(target=upgrade, args=[sold.warehouse_url])
        migrating.start()
        waited = []
        for _ in range(10):
            begin = time.monotonic()
            reader.execute("select count(*) from dwh.fact_order_item")
            waited.append(time.monotonic() - begin)
            time.sleep(0.1)
        assert migrating.is_alive() and max(waited) < 30
        load.rollback()
        migrating.join(120)
    assert not migrating.is_alive()
    assert current(sold.warehouse_url) == head()
