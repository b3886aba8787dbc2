"""A run whose own connection is dead is lost, whatever the error says: it begins again, and nobody is mailed."""

import os
import signal
import threading
import time
from contextlib import suppress

import psycopg
import pytest

from flows.run_locked import run_locked
from stack.postgres import EmbeddedPostgres
from warehouse.db.connections import connect
from warehouse.migrations.revisions import upgrade
from warehouse.runs.audit import Run

PARALLEL = """
    set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0;
    set max_parallel_workers_per_gather = 2;
    select count(pg_sleep(0.05)) from parallel_read
"""
ENDS = "select status, error like '%Before that: %', hint from audit.run order by run_id"
HINT = "Its open transaction was rolled back. Run it again."


def test_server_that_is_killed_under_a_parallel_query_costs_an_attempt_and_no_mail(
    own_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = own_postgres.url("postgres")
    monkeypatch.setenv("DWH_WAREHOUSE_URL", url)
    upgrade(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table parallel_read as select n from generate_series(1, 20000) as n")
        connection.execute("analyze parallel_read")
    errors: list[str] = []

    def read(run: Run) -> str:
        if errors:
            return "done"
        killer = threading.Thread(target=kill_a_parallel_worker, args=[url])
        killer.start()
        try:
            with connect(url) as connection:
                connection.execute(PARALLEL.encode())
        except psycopg.Error as error:
            errors.append(f"{error.sqlstate}: {error}")
            raise
        finally:
            killer.join()
        return "not killed"

    assert run_locked(url, "ingest-shop", read, lock="source shop") == "done"
    assert len(errors) == 1
    with psycopg.connect(url) as connection:
        assert connection.execute(ENDS).fetchall() == [("failed", True, HINT), ("succeeded", None, None)]
        assert connection.execute("select count(*) from audit.outbox").fetchone() == (0,)


def test_any_error_of_a_run_whose_connection_is_gone_begins_it_again(warehouse_url: str) -> None:
    attempts = []

    def work(run: Run) -> str:
        attempts.append(run.run_id)
        if len(attempts) == 1:
            with psycopg.connect(warehouse_url, autocommit=True) as connection:
                connection.execute("select pg_terminate_backend(%s)", [run.server_process])
            raise ValueError("whatever came of it")
        return "done"

    assert run_locked(warehouse_url, "ingest-shop", work, lock="source shop") == "done"
    with psycopg.connect(warehouse_url) as connection:
        assert connection.execute(ENDS).fetchall() == [("failed", True, HINT), ("succeeded", None, None)]
        assert connection.execute("select count(*) from audit.outbox").fetchone() == (0,)


def test_error_of_a_run_that_still_has_its_connection_is_its_own(warehouse_url: str) -> None:
    def work(run: Run) -> None:
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        run_locked(warehouse_url, "ingest-shop", work, lock="source shop")
    with psycopg.connect(warehouse_url) as connection:
        assert connection.execute("select status, error from audit.run").fetchall() == [
            ("failed", "ValueError: its own")
        ]
        assert connection.execute("select kind from audit.outbox").fetchall() == [("failed",)]


def kill_a_parallel_worker(url: str) -> None:
    """Kill one with SIGKILL, as the kernel does where memory is short: the server then restarts every session."""
    give_up_at = time.monotonic() + 120
    with suppress(psycopg.OperationalError), psycopg.connect(url, autocommit=True) as connection:
        while time.monotonic() < give_up_at:
            for (pid,) in connection.execute(
                "select pid from pg_stat_activity where backend_type = 'parallel worker' limit 1"
            ):
                os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.05)
