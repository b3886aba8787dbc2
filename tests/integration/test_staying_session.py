"""A session that publishes batch after batch makes and plans its temporary tables once, all others each time."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from warehouse.db import staying_session
from warehouse.db.connections import connect
from warehouse.db.staying_session import (
    analyze,
    create_temporary,
    drop_temporary,
    empty,
    is_filled,
    remembered,
)

NUMBERS = "select number, 'text ' || number as name from generate_series(1, {}) as number"


@pytest.fixture
def staying(warehouse_url: str) -> Iterator[psycopg.Connection]:
    with connect(warehouse_url) as connection:
        staying_session.stay(connection)
        yield connection


def fill(connection: psycopg.Connection, rows: int, name: str = "numbers", query: str = NUMBERS) -> int:
    return create_temporary(connection, name, sql.SQL(query).format(sql.Literal(rows)))


def publish(connection: psycopg.Connection, rows: int) -> list[int]:
    """One transaction that fills a table and asks for its rows; returns them."""
    with connection.transaction():
        staying_session.begin(connection)
        assert not is_filled(connection, "numbers")
        assert fill(connection, rows) == rows
        assert is_filled(connection, "numbers")
        analyze(connection, sql.Identifier("pg_temp", "numbers"))
        found = connection.execute("select number from pg_temp.numbers order by 1").fetchall()
        staying_session.end(connection)
    return [number for (number,) in found]


def oid(connection: psycopg.Connection) -> int:
    (found,) = connection.execute("select to_regclass('pg_temp.numbers')::oid::bigint").fetchone() or (0,)
    connection.commit()
    return found or 0


def plans(connection: psycopg.Connection) -> int:
    """Prepared statements about the table."""
    (count,) = connection.execute(
        "select count(*) from pg_prepared_statements where statement ~ 'select number from pg_temp.numbers'"
    ).fetchone() or (0,)
    connection.commit()
    return int(count)


def test_a_table_and_its_plans_are_kept_and_its_rows_end_with_the_transaction(
    staying: psycopg.Connection,
) -> None:
    assert publish(staying, 3) == [1, 2, 3]
    made = oid(staying)
    for rows in (1, 4, 2, 5):
        assert publish(staying, rows) == list(range(1, rows + 1))
    assert oid(staying) == made
    assert plans(staying) == 1
    assert staying.execute("select count(*) from pg_temp.numbers").fetchone() == (0,)


def test_within_a_transaction_a_table_can_be_filled_again_and_with_other_columns(
    staying: psycopg.Connection,
) -> None:
    for _ in range(3):
        with staying.transaction():
            staying_session.begin(staying)
            assert fill(staying, 2) == 2
            assert fill(staying, 3) == 3
            assert staying.execute("select count(*) from pg_temp.numbers").fetchone() == (3,)
            assert fill(staying, 4, query="select number from generate_series(1, {}) as number") == 4
            assert staying.execute("select * from pg_temp.numbers limit 1").fetchone() == (1,)
            drop_temporary(staying, ["numbers"])
            staying_session.end(staying)


def test_many_rows_are_sampled_and_not_handled_by_plans_made_for_few(staying: psycopg.Connection) -> None:
    for _ in range(4):
        publish(staying, 3)
    assert len(publish(staying, staying_session.SMALL_ROWS + 1)) == staying_session.SMALL_ROWS + 1
    assert staying.prepare_threshold is None
    (estimate,) = staying.execute(
        "select reltuples::bigint from pg_class where oid = 'pg_temp.numbers'::regclass"
    ).fetchone() or (0,)
    staying.commit()
    assert estimate == staying_session.SMALL_ROWS + 1
    assert publish(staying, 2) == [1, 2]
    assert staying.prepare_threshold == staying_session.PLAN_AFTER


def test_after_a_transaction_that_was_rolled_back_nothing_is_taken_for_granted(
    staying: psycopg.Connection,
) -> None:
    publish(staying, 3)
    with pytest.raises(ZeroDivisionError), staying.transaction():
        staying_session.begin(staying)
        # In place of the other one, which is there again after the rollback.
        fill(staying, 1, query="select {} as something_else")
        raise ZeroDivisionError
    assert publish(staying, 2) == [1, 2]
    assert publish(staying, 1) == [1]


def test_a_table_that_was_made_within_a_savepoint_may_be_gone(staying: psycopg.Connection) -> None:
    for rows in (2, 3):
        with staying.transaction():
            staying_session.begin(staying)
            with staying.transaction() as savepoint:
                fill(staying, rows)
                raise psycopg.Rollback(savepoint)
            staying_session.end(staying)
    assert publish(staying, 2) == [1, 2]


def test_what_was_read_and_made_is_forgotten_on_request(staying: psycopg.Connection) -> None:
    answers = iter(range(10))
    asked = [remembered(staying, "catalog", lambda: next(answers)) for _ in range(2)]
    publish(staying, 2)
    with staying.transaction():
        staying_session.forget(staying)
    asked.append(remembered(staying, "catalog", lambda: next(answers)))
    assert asked == [0, 0, 1]
    assert oid(staying) == 0
    assert publish(staying, 2) == [1, 2]


def test_any_other_session_makes_its_tables_for_one_transaction_and_reads_the_catalog_each_time(
    warehouse_url: str,
) -> None:
    answers = iter(range(10))
    with connect(warehouse_url) as connection:
        for rows in (2, 1):
            assert publish(connection, rows) == list(range(1, rows + 1))
            assert oid(connection) == 0
        with connection.transaction():
            fill(connection, 2)
            drop_temporary(connection, ["numbers"])
            assert not is_filled(connection, "numbers")
        assert [remembered(connection, "catalog", lambda: next(answers)) for _ in range(2)] == [0, 1]


def test_few_rows_are_deleted_and_a_table_that_has_grown_is_truncated(warehouse_url: str) -> None:
    with connect(warehouse_url, autocommit=True) as connection:
        for name in ("small", "large", "nothing"):
            connection.execute(f"create unlogged table staging.{name} (number bigint)".encode())
        tables = [sql.Identifier("staging", name) for name in ("small", "large", "nothing")]

        def files() -> list[int]:
            return [
                node
                for (node,) in connection.execute(
                    "select pg_relation_filenode(name)::bigint from unnest(%s::text[]) as name",
                    [[table.as_string(connection) for table in tables]],
                ).fetchall()
            ]

        before = files()
        connection.execute("insert into staging.small values (1)")
        connection.execute("insert into staging.large select * from generate_series(1, 10000)")
        empty(connection, *tables)
        after = files()
        assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]
        assert (
            connection.execute("select * from staging.small union all table staging.large").fetchall() == []
        )
