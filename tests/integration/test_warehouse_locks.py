"""A table of the warehouse that somebody has locked: the run says who, waits, and gives up after a while."""

import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from flows import run_locked as flow_runs
from flows.run_locked import run_locked
from tests.pipeline import Pipeline
from warehouse.db.connections import connect
from warehouse.errors import WarehouseLocked
from warehouse.runs import lock_watch
from warehouse.runs.audit import Run

LOCK = "lock table dwh.dim_customer in access exclusive mode"


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What runs log about locks, which they look for more often than people would want."""
    monkeypatch.setattr(lock_watch, "INTERVAL_SECONDS", 0.2)
    found: list[str] = []
    monkeypatch.setattr(flow_runs, "log", lambda message, *_: found.append(message))
    return found


def locker(pipeline: Pipeline, statement: str) -> psycopg.Connection:
    connection = connect(pipeline.warehouse_url, application_name="an analyst")
    connection.execute(statement.encode())
    return connection


def run_statement(pipeline: Pipeline, statement: str) -> int:
    """Execute a statement in the transaction of a run."""

    def work(run: Run) -> int:
        with run.session("publishes") as connection:
            return connection.execute(statement.encode()).rowcount

    return run_locked(pipeline.warehouse_url, "ingest-shop", work, lock="test")


def release_after(condition: Callable[[], object], connection: psycopg.Connection) -> threading.Thread:
    def wait() -> None:
        for _ in range(1200):
            if condition():
                break
            time.sleep(0.1)
        connection.rollback()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.fixture
def loaded(sale: Pipeline) -> Pipeline:
    """A shop, captured once."""
    return sale


@pytest.mark.parametrize("lock", [LOCK, "update dwh.dim_customer set name = 'x'"])
def test_locked_table_or_row_is_waited_for_and_named_with_its_holder(
    loaded: Pipeline, messages: list[str], lock: str
) -> None:
    with locker(loaded, lock) as holder:
        released = release_after(lambda: messages, holder)
        assert run_statement(loaded, "update dwh.dim_customer set name = 'y' where customer_id = '1'") == 1
        released.join()
        (message,) = messages
        assert message.startswith(
            f"waiting up to 600 s for dwh.dim_customer, which is locked by {holder.info.user} (an analyst, server "
            f"process {holder.info.backend_pid}, in a transaction since 2"
        )
    assert loaded.rows("select status, error from audit.run order by run_id desc limit 1") == [
        ("succeeded", None)
    ]


def test_run_gives_up_after_a_while_with_a_hint_and_publishes_nothing(
    loaded: Pipeline, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DWH_WAREHOUSE_LOCK_WAIT", "1")
    before = loaded.rows("select * from dwh.dim_customer order by customer_key")
    with locker(loaded, LOCK) as holder:
        started = time.monotonic()
        with pytest.raises(WarehouseLocked) as raised:
            run_statement(loaded, "update dwh.dim_customer set name = 'y'")
        assert 1 <= time.monotonic() - started < 120
        what = raised.value.what
        assert what.startswith("dwh.dim_customer of the warehouse is locked by ") and "an analyst" in what
        assert what.endswith("and was for all of the 1 s that this run waited.")
        assert f"pg_terminate_backend({holder.info.backend_pid})" in raised.value.hint
        assert "DWH_WAREHOUSE_LOCK_WAIT" in raised.value.hint
        # Whoever holds it is left alone.
        assert holder.execute("select 1").fetchone() == (1,)
    assert len(messages) <= 1
    assert loaded.rows("select status, error from audit.run order by run_id desc limit 1") == [
        ("failed", what)
    ]
    assert loaded.rows("select * from dwh.dim_customer order by customer_key") == before


@pytest.mark.parametrize("lock", [LOCK, "update dwh.dim_customer set name = 'x'"])
def test_run_gives_up_on_what_a_prepared_transaction_holds(
    loaded: Pipeline, messages: list[str], monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    """It has no session that pg_stat_activity would show."""
    monkeypatch.setenv("DWH_WAREHOUSE_LOCK_WAIT", "1")
    # With a quote, and of this test alone: it is a name in the whole cluster.
    name = f"{loaded.warehouse.info.dbname}'s"
    quoted = name.replace("'", "''")
    with locker(loaded, lock) as holder:
        holder.execute(f"prepare transaction '{quoted}'".encode())
    try:
        with pytest.raises(WarehouseLocked) as raised:
            run_statement(
                loaded, "set local statement_timeout = '60s'; update dwh.dim_customer set name = 'y'"
            )
    finally:
        loaded.warehouse.execute(f"rollback prepared '{quoted}'".encode())
    assert raised.value.what.startswith(
        f"dwh.dim_customer of the warehouse is locked by the prepared transaction '{name}' of "
    )
    assert f"rollback prepared '{quoted}'" in raised.value.hint


def test_session_that_is_not_the_run_s_is_neither_named_nor_ended(
    loaded: Pipeline, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DWH_WAREHOUSE_LOCK_WAIT", "0")
    with (
        locker(loaded, LOCK) as holder,
        connect(loaded.warehouse_url, application_name="dwh other") as other,
    ):
        rows: list[object] = []
        query = b"select count(*) from dwh.dim_customer where customer_key > 0"
        waiting = threading.Thread(target=lambda: rows.append(other.execute(query).fetchone()))
        waiting.start()
        run_statement(loaded, "select pg_sleep(1)")
        holder.rollback()
        waiting.join()
    assert (rows, messages) == ([(1,)], [])


def test_error_of_a_run_that_waited_for_nothing_is_its_own(loaded: Pipeline, messages: list[str]) -> None:
    with pytest.raises(psycopg.errors.QueryCanceled):
        run_statement(loaded, "set local statement_timeout = 100; select pg_sleep(9)")
    assert messages == []
