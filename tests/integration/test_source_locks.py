"""A source table that somebody has locked: the run waits visibly, then says who holds it."""

import threading
import time

import psycopg
import pytest

from tests.integration.test_capture import in_mirror, in_source
from tests.pipeline import Pipeline
from warehouse.db.connections import connect
from warehouse.errors import SourceLocked
from warehouse.reconcile.reconcile import reconcile_source
from warehouse.runs.audit import start_run


@pytest.fixture
def loaded(sale: Pipeline) -> Pipeline:
    """A shop, captured once."""
    return sale


def locker(pipeline: Pipeline, *statements: str) -> psycopg.Connection:
    """A session of the shop that has executed `statements` in a transaction and not ended it."""
    connection = connect(pipeline.shop_url, application_name="nightly migration")
    for statement in statements:
        connection.execute(statement.encode())
    return connection


def test_locked_table_is_waited_for_and_then_named_with_its_holder(loaded: Pipeline) -> None:
    before = loaded.rows("select * from audit.watermark order by table_name")
    messages: list[str] = []
    with locker(
        loaded,
        "lock table customer in access exclusive mode",
        "select 'ana@example.com' as secret from pg_sleep(0)",
    ) as holder:
        pid, user = holder.info.backend_pid, holder.info.user
        started = time.monotonic()
        with pytest.raises(SourceLocked) as error:
            loaded.capture(lock_wait_seconds=2, progress=messages.append)
        assert 2 <= time.monotonic() - started < 120
    assert error.value.what.startswith(
        f"public.customer of source 'shop' is locked by {user} (nightly migration, server process {pid}, "
        "in a transaction since 2"
    )
    assert error.value.what.endswith(
        " UTC, idle in it after: select …), and was for all of the 2 s that this run waited."
    )
    assert (
        f"select pg_terminate_backend({pid})" in error.value.hint
        and "DWH_SOURCE_LOCK_WAIT" in error.value.hint
    )
    assert "ana@example.com" not in error.value.what + error.value.hint + " ".join(messages)
    assert messages[0].startswith(
        f"waiting up to 2 s for public.customer, which is locked by {user} (nightly migration"
    )
    assert loaded.rows("select * from audit.watermark order by table_name") == before
    loaded.do("update customer set name = 'Later'")
    loaded.capture()
    assert in_mirror(loaded, "customer") == in_source(loaded, "customer")


def test_table_that_a_prepared_transaction_holds_is_named_with_how_that_is_ended(loaded: Pipeline) -> None:
    """It has no session, and stays until somebody decides on it."""
    with (
        locker(loaded, "lock table customer", "prepare transaction 'in doubt'"),
        pytest.raises(SourceLocked) as error,
    ):
        loaded.capture(lock_wait_seconds=1)
    loaded.do("rollback prepared 'in doubt'")
    assert error.value.what.startswith(
        f"public.customer of source 'shop' is locked by the prepared transaction 'in doubt' of "
        f"{loaded.shop.info.user} since 2"
    )
    assert "end it there: rollback prepared 'in doubt'; " in error.value.hint
    loaded.capture()


def test_statement_that_waits_for_a_lock_itself_is_named_with_whom_it_waits_for(loaded: Pipeline) -> None:
    """A reader holds the table, an alter table waits for it, and everybody else waits behind that."""
    altered = threading.Event()

    def alter() -> None:
        with locker(loaded) as connection:
            altering.append(connection.info.backend_pid)
            connection.execute("alter table customer add column note text")
            altered.set()
            connection.rollback()

    altering: list[int] = []
    with locker(loaded, "select count(*) from customer") as reader:
        thread = threading.Thread(target=alter)
        thread.start()
        # Other tests wait for locks in the same cluster.
        awaited = (
            "select from pg_locks where not granted and relation = 'customer'::regclass and pid = any(%s)"
        )
        while not loaded.shop.execute(awaited, [altering]).rowcount:
            time.sleep(0.02)
        with pytest.raises(SourceLocked) as error:
            loaded.capture(lock_wait_seconds=1)
        assert f"server process {altering[0]}" in error.value.what and "alter table …" in error.value.what
        assert f"which waits for server process {reader.info.backend_pid}" in error.value.what
        reader.rollback()
    thread.join()
    assert altered.is_set()


def test_lock_that_is_released_in_time_is_no_error(loaded: Pipeline) -> None:
    """And the snapshot is taken after it: a table that was truncated meanwhile does not seem to be empty."""
    messages: list[str] = []
    holder = locker(
        loaded,
        "create temp table kept as select * from order_item",
        "truncate order_item",
        "insert into order_item select * from kept",
        "update order_item set quantity = 7",
    )

    def release(message: str) -> None:
        messages.append(message)
        if message.startswith("waiting"):
            holder.commit()
            holder.close()

    run = loaded.capture(lock_wait_seconds=60, max_delete_share=0.0, progress=release)
    assert sum(message.startswith("waiting") for message in messages) == 1
    assert run.counts("raw.shop_order_item") == {"updated": 1}


def test_reconcile_does_not_wait_for_ever_either(loaded: Pipeline) -> None:
    with (
        locker(loaded, "lock table customer in access exclusive mode"),
        start_run(loaded.warehouse_url, flow="reconcile") as run,
        pytest.raises(SourceLocked, match=r"public\.customer of source 'shop' is locked by"),
    ):
        reconcile_source(run, loaded.source, loaded.shop_url, repair=False, lock_wait_seconds=1)
