"""The verification bites, and running again or twice changes nothing."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.integration.conftest import CopyOf
from tests.pipeline import CONFIRMED, Pipeline, content
from warehouse.db import locks
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock, transaction_lock
from warehouse.errors import LockHeld, VerificationFailed
from warehouse.extract.stage import stage
from warehouse.extract.verification import verify
from warehouse.load.publish import publish
from warehouse.runs.audit import start_run


def sell_and_capture(shop: Pipeline) -> None:
    """Insert three customers and two orders, and capture them."""
    for number in (2, 3):
        shop.insert("customer", id=number, updated_at=f"2024-02-0{number}")
    shop.order(1, "2024-03-10")
    shop.order(2, "2024-03-11", {"updated_at": "2024-03-11"})
    shop.capture()


@pytest.fixture
def loaded(copy_of: CopyOf) -> Pipeline:
    """Three customers and two orders, captured."""
    return copy_of(sell_and_capture)


@pytest.mark.parametrize(
    ("corruption", "told"),
    [
        (
            "update raw.shop_customer set name = 'Forged' where id = 1",
            "customer: 3 rows in the source, 3 in the mirror, 1 of 64 chunks differ",
        ),
        pytest.param(
            "update raw.shop_customer set state = null where id = 1",
            "customer: 3 rows in the source, 3 in the mirror, 1 of 64 chunks differ",
            marks=pytest.mark.slow,
        ),
        (
            "delete from raw.shop_customer where id = 1",
            "customer: 3 rows in the source, 2 in the mirror, 1 of 64 chunks differ",
        ),
        (
            "update raw.shop_customer set _is_deleted = true where id = 1",
            "customer: 3 rows in the source, 2 in the mirror, 1 of 64 chunks",
        ),
        pytest.param(
            "update raw.shop_order_item set quantity = 3 where sales_order_id = 1",
            "order_item: 2 rows in the source, 2 in the mirror, 1 of 64 chunks",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_corrupt_mirror_is_reported_recorded_and_repaired_by_a_full_refresh(
    loaded: Pipeline, corruption: str, told: str
) -> None:
    untouched = content(loaded.warehouse)
    with (
        pytest.raises(VerificationFailed) as error,
        start_run(loaded.warehouse_url, flow="ingest-shop") as run,
    ):
        staged = stage(run, loaded.source, loaded.shop_url, threshold=CONFIRMED)
        publish(run, staged)
        loaded.warehouse.execute(corruption.encode())
        verify(run, staged)
    assert told in error.value.what and error.value.exit_code == 3
    assert "`dwh run shop --full-refresh`" in error.value.hint
    assert loaded.rows(
        "select table_name from audit.verification where run_id = %s and verdict = 'different'", run.run_id
    ) == [(told.split(":")[0],)]
    assert loaded.run_states()[-1][1] == "stopped"
    loaded.capture(full_refresh=True)
    assert content(loaded.warehouse) == untouched


def test_row_that_the_source_never_had_is_deleted_like_any_that_vanished(loaded: Pipeline) -> None:
    loaded.warehouse.execute(
        "insert into raw.shop_customer select (forged).* from "
        "(select jsonb_populate_record(c, '{\"id\": 99}') as forged from raw.shop_customer as c where id = 1)"
    )
    run = loaded.capture()
    assert run.counts("raw.shop_customer") == {"deleted": 1}


def test_row_put_in_place_of_another_by_hand_is_reported_and_repaired_by_the_next_runs(
    loaded: Pipeline,
) -> None:
    """As many rows as were proven are taken for these rows until the verification has hashed them."""
    loaded.await_open_transactions()
    loaded.capture()
    before = content(loaded.warehouse)
    loaded.warehouse.execute("update raw.shop_customer set id = 99 where id = 3")
    with pytest.raises(VerificationFailed, match="customer: 3 rows in the source, 3 in the mirror"):
        loaded.capture()
    # What differs is hashed again: what never was is deleted, what is missing is read.
    run = loaded.capture()
    assert run.counts("raw.shop_customer") == {
        "inserted": 1,
        "deleted": 1,
        "found_by_checksum": 1,
        "cursor_missed": 1,
    }
    assert {verification.verdict for verification in run.verifications} == {"equal"}
    loaded.warehouse.execute("delete from raw.shop_customer where _is_deleted")
    assert content(loaded.warehouse)["raw.shop_customer"] == before["raw.shop_customer"]


def test_every_table_of_a_run_is_proved(loaded: Pipeline) -> None:
    assert loaded.rows(
        "select table_name, rows_source, rows_mirror, chunks_differing, verdict "
        "from audit.verification order by table_name"
    ) == [
        (table, rows, rows, 0, "equal")
        for table, rows in (
            ("brand", 1), ("category", 1), ("company", 1), ("customer", 3), ("distribution_center", 1),
            ("inventory", 0), ("order_item", 2), ("payment_method", 1), ("product", 1), ("promotion", 0),
            ("sales_order", 2),
        )
    ]  # fmt: skip


def test_running_again_changes_no_row(loaded: Pipeline) -> None:
    before = content(loaded.warehouse)
    for _ in range(2):
        assert loaded.capture().changes() == {}
    assert content(loaded.warehouse) == before


def test_reading_everything_again_changes_no_row(loaded: Pipeline) -> None:
    loaded.do(
        "delete from customer where id = 3",
        "update customer set country = 'UY', updated_at = '2024-06-01' where id = 2",
    )
    loaded.capture()
    before = content(loaded.warehouse)
    assert loaded.capture(full_refresh=True).changes() == {}
    assert content(loaded.warehouse) == before


def test_publishing_the_same_batch_twice_changes_no_row(loaded: Pipeline) -> None:
    loaded.do(
        "update customer set country = 'UY', updated_at = '2024-06-01' where id = 2",
        "delete from customer where id = 3",
    )
    loaded.order(3, "2024-06-10", {"unit_price": 1}, {"quantity": 4})
    with start_run(loaded.warehouse_url, flow="ingest-shop") as run:
        staged = stage(run, loaded.source, loaded.shop_url, threshold=CONFIRMED)
        publish(run, staged)
        before = content(loaded.warehouse, ("raw", "dwh"))
        quarantined = loaded.quarantined()
        publish(run, staged)
        assert content(loaded.warehouse) == before
        assert loaded.quarantined() == quarantined
        assert {verification.verdict for verification in verify(run, staged)} == {"equal"}


def test_staging_alone_publishes_nothing(loaded: Pipeline) -> None:
    before = content(loaded.warehouse, ("raw", "dwh", "audit"))
    loaded.do("update customer set country = 'UY'")
    with start_run(loaded.warehouse_url, flow="ingest-shop") as run:
        stage(run, loaded.source, loaded.shop_url, threshold=CONFIRMED)
    after = content(loaded.warehouse, ("raw", "dwh", "audit"))
    assert [table for table in after if after[table] != before[table]] == ["audit.run"]


# --- two at once ----------------------------------------------------------------------------------------------


def test_error_of_a_second_run_on_a_source_names_who_holds_it_since_when(loaded: Pipeline) -> None:
    with (
        start_run(loaded.warehouse_url, flow="ingest-shop") as first,
        session_lock(first.connection, "source shop"),
    ):
        pid = first.connection.info.backend_pid
        with (
            pytest.raises(LockHeld) as error,
            start_run(loaded.warehouse_url, flow="ingest-shop") as second,
            session_lock(second.connection, "source shop"),
        ):
            raise AssertionError
    assert error.value.what.startswith(
        f"'source shop' is being loaded by dwh ingest-shop, run {first.run_id} (server process {pid}, connected since 2"
    )
    assert "nothing was changed" in error.value.hint
    assert [state[1] for state in loaded.run_states()] == ["succeeded", "succeeded", "skipped"]


def test_who_waits_says_for_whom(loaded: Pipeline) -> None:
    said: list[str] = []
    with connect(loaded.warehouse_url, autocommit=True, application_name="first") as first:
        holding = session_lock(first, "source shop")
        holding.__enter__()

        def waiting(words: str) -> None:
            said.append(words)
            holding.__exit__(None, None, None)

        with connect(loaded.warehouse_url, autocommit=True) as second:
            with session_lock(second, "source shop", wait_seconds=60, waiting=waiting):
                pass
            with first.transaction(), second.transaction():
                transaction_lock(first, "dwh star")
                second.execute("set local lock_timeout = '50ms'")
                with pytest.raises(psycopg.errors.LockNotAvailable), second.transaction():
                    transaction_lock(second, "dwh star", said.append)
    assert [words.partition(" (server process ")[0] for words in said] == [
        "waiting up to 60 s for 'source shop', which is held by first",
        "waiting for 'dwh star', which is held by first",
    ]


def test_who_asks_between_two_batches_of_live_waits_for_the_next_one(
    loaded: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody seems to hold the lock then, and live takes it again."""
    take, free = (
        f"select pg_advisory_{how}(7031, hashtext('source shop'))".encode() for how in ("lock", "unlock")
    )
    find_holder, found = locks._holder, list[str | None]()
    with (
        connect(loaded.warehouse_url, autocommit=True, application_name="dwh live-shop") as live,
        connect(loaded.warehouse_url, autocommit=True) as run,
        ThreadPoolExecutor(1) as pool,
    ):

        def look(connection: psycopg.Connection, name: str) -> str | None:
            if found:
                found.append(find_holder(connection, name))
            else:
                live.execute(free)
                found.append(find_holder(connection, name))
                live.execute(take)
            return found[-1]

        def ask() -> None:
            with session_lock(run, "source shop"):
                pass

        live.execute(take)
        monkeypatch.setattr(locks, "_holder", look)
        asking = pool.submit(ask)
        while len(found) < 2:
            time.sleep(0.01)
        live.execute(free)
        asking.result(120)
    assert found[0] is None and (found[1] or "").startswith("dwh live-shop (server process ")


def test_lock_that_is_refused_leaves_no_time_limit_to_the_transaction_it_was_asked_in(
    loaded: Pipeline,
) -> None:
    with (
        connect(loaded.warehouse_url, autocommit=True) as holder,
        session_lock(holder, "source shop"),
        connect(loaded.warehouse_url) as other,
    ):
        other.execute("set local lock_timeout = '77s'")
        with pytest.raises(LockHeld), session_lock(other, "source shop", wait_seconds=0.01):
            pass
        with session_lock(other, "source northwind", wait_seconds=120):
            assert other.execute("show lock_timeout").fetchone() == ("77s",)


def test_lock_is_free_once_its_holder_is_gone(loaded: Pipeline) -> None:
    holder = connect(loaded.warehouse_url, autocommit=True)
    guard = session_lock(holder, "source shop")
    guard.__enter__()
    holder.close()
    with (
        connect(loaded.warehouse_url, autocommit=True) as other,
        session_lock(other, "source shop", wait_seconds=120),
    ):
        pass


def test_locks_of_two_sources_do_not_meet(loaded: Pipeline) -> None:
    with (
        connect(loaded.warehouse_url, autocommit=True) as one,
        connect(loaded.warehouse_url, autocommit=True) as other,
        session_lock(one, "source shop"),
        session_lock(other, "source northwind"),
    ):
        pass


def test_many_runs_at_once_take_turns_and_double_nothing(loaded: Pipeline) -> None:
    loaded.order(3, "2024-03-12")
    failures: list[BaseException] = []

    def run_once() -> None:
        mine = Pipeline(loaded.shop_url, loaded.warehouse_url)
        try:
            with (
                connect(mine.warehouse_url, autocommit=True) as guard,
                session_lock(guard, "source shop", wait_seconds=60),
            ):
                mine.capture()
        except BaseException as error:
            failures.append(error)
        finally:
            mine.close()

    threads = [threading.Thread(target=run_once) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(loaded.facts()) == 3
    assert {state[1] for state in loaded.run_states()} == {"succeeded"}
    assert loaded.rows(
        "select sum(rows_inserted)::int from audit.load where table_name = 'dwh.fact_order_item'"
    ) == [(3,)]
