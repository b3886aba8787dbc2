"""A connection pooler before a source or the warehouse: what works through it, what is refused, what is left behind."""

import os
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from cli.diagnostics import examine
from generators.shop import generate, simulate_day
from tests import command
from tests.pipeline import Pipeline, content
from tests.pooler import Mode, pooler
from warehouse.db.connections import connect
from warehouse.errors import UnsuitableDatabase
from warehouse.explain.sources import readers_of
from warehouse.extract.snapshot import snapshot_of
from warehouse.migrations.revisions import upgrade
from warehouse.runs.audit import ensure_alive, start_run
from warehouse.settings import Settings
from warehouse.sources.registry import read_source

ROOT = Path(__file__).parents[2]
TRANSACTION = (
    "The connection pooler before the warehouse works in transaction mode: between two transactions it gives our "
    "server connection, and with it our locks and temporary tables, to other clients."
)
STATEMENT = "The connection pooler that DWH_WAREHOUSE_URL leads to works in statement mode: it allows no transactions."


def with_timeout(url: str) -> str:
    """Give the clients of a database a setting that they rely on."""
    with psycopg.connect(url, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("alter database {} set statement_timeout = '30s'").format(name))
        connection.execute(sql.SQL("alter database {} set lc_monetary = 'C'").format(name))
    return url


def untouched(url: str, count: int) -> list[dict[str, object]]:
    """What a pooler's server connections are like that nobody has used."""
    with pooler(url, "transaction") as unused:
        unused.fill(count)
        return unused.left_behind()


@pytest.mark.parametrize(("mode", "refusal"), [("transaction", TRANSACTION), ("statement", STATEMENT)])
def test_pooler_before_the_warehouse_that_shares_connections_is_refused_by_everything(
    warehouse_url: str, shop_url: str, mode: Mode, refusal: str
) -> None:
    with_timeout(warehouse_url)
    with pooler(warehouse_url, mode) as shared:
        for attempt in (connect, upgrade, lambda url: start_run(url, flow="ingest-shop").__enter__()):
            with pytest.raises(UnsuitableDatabase) as refused:
                attempt(shared.url)
            assert refused.value.what == refusal
            assert (
                "DWH_WAREHOUSE_URL lead to the server itself, or to the pooler's session mode"
                in refused.value.hint
            )
        environment = {**os.environ, "DWH_WAREHOUSE_URL": shared.url, "DWH_SHOP_URL": shop_url}
        run = command.run("run", "shop", environment=environment)
        assert (run.returncode, run.stderr.splitlines()[0]) == (2, f"Error: {refusal}")
        findings = [
            (one.about, one.what) for one in examine(settings(shop_url, shared.url)) if one.verdict == "wrong"
        ]
        assert ("warehouse", refusal) in findings
        left = shared.left_behind()
        assert left == untouched(warehouse_url, len(left))
    with connect(warehouse_url) as direct:
        assert direct.execute("select from audit.run").rowcount == 0


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_transaction_mode_is_recognised_however_many_connections_wait_in_the_pool(
    warehouse_url: str, count: int
) -> None:
    for round_robin in (False, True):
        with pooler(warehouse_url, "transaction", round_robin=round_robin) as shared:
            shared.fill(count)
            with pytest.raises(UnsuitableDatabase, match="works in transaction mode"):
                connect(shared.url)


def test_session_mode_before_the_warehouse_loads_the_same_star(
    shop: Pipeline, warehouse_template: str, database: Callable[[str], str]
) -> None:
    shop.order(1, "2024-03-10")
    shop.capture()
    with (
        pooler(database(warehouse_template), "session") as between,
        closing(Pipeline(shop.shop_url, between.url)) as pooled,
    ):
        pooled.capture()
        assert pooled.facts() == shop.facts() == [("1", "1")]
        assert content(pooled.warehouse) == content(shop.warehouse)


def test_direct_connection_asks_no_second_one(warehouse_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    opens = psycopg.connect
    monkeypatch.setattr(psycopg, "connect", lambda *a, **k: opened.append(k) or opens(*a, **k))
    connect(warehouse_url).close()
    assert len(opened) == 1


def test_run_whose_session_goes_to_another_client_publishes_nothing(warehouse_url: str) -> None:
    with (
        pooler(warehouse_url, "session") as between,
        pytest.raises(UnsuitableDatabase, match="another client"),
        start_run(between.url, flow="ingest-shop") as run,
    ):
        ensure_alive(run)
        between.set_mode("transaction")
        ensure_alive(run)
        between.await_idle()
        with closing(psycopg.connect(between.url)) as other:
            other.execute("select")
            ensure_alive(run)
    with connect(warehouse_url) as direct:
        (row,) = direct.execute("select status, error from audit.run").fetchall()
    assert row[0] == "failed" and "a connection pooler has given it to another client" in row[1]


def test_transaction_mode_before_a_source_loads_everything_and_leaves_nothing_behind(shop: Pipeline) -> None:
    with_timeout(shop.shop_url)
    shop.order(1, "2024-03-10")
    with pooler(shop.shop_url, "transaction") as shared:
        # More than five times the same statements: what is executed often would be prepared.
        for number in range(2, 8):
            shop.order(number, "2024-03-11")
            shop.do(f"update customer set state = 'S{number}', updated_at = now() where id = 1")
            shop.capture(shop_url=shared.url)
        shop.do("delete from order_item where sales_order_id = 7", "delete from sales_order where id = 7")
        shop.capture(shop_url=shared.url)
        with readers_of(settings(shared.url, shop.warehouse_url), [read_source("shop")]) as readers:
            assert readers["shop"].execute("show statement_timeout").fetchone() == ("0",)
        left = shared.left_behind()
        assert left == untouched(shop.shop_url, len(left))
        assert {one["settings"]["statement_timeout"] for one in left} == {"30000"}
    assert shop.facts() == [(str(number), "1") for number in range(1, 7)]
    assert [status for _, status, _ in shop.run_states()] == ["succeeded"] * 7


def test_snapshot_of_a_source_does_not_depend_on_the_settings_of_its_role(shop: Pipeline) -> None:
    with psycopg.connect(shop.shop_url, autocommit=True) as connection:
        for setting in (
            "timezone = 'Asia/Tokyo'",
            "datestyle = 'german'",
            "statement_timeout = '500ms'",
            "search_path = ''",
            "default_transaction_isolation = 'serializable'",
            "bytea_output = 'escape'",
        ):
            connection.execute(f'alter database "{connection.info.dbname}" set {setting}')
    with snapshot_of("shop", shop.shop_url) as (reader, _):
        assert [
            reader.execute(f"show {name}").fetchone()
            for name in (
                "timezone",
                "datestyle",
                "statement_timeout",
                "bytea_output",
                "transaction_isolation",
                "transaction_read_only",
            )
        ] == [("UTC",), ("ISO, MDY",), ("0",), ("hex",), ("repeatable read",), ("on",)]
    shop.order(1, "2024-03-10")
    shop.capture()
    assert shop.facts() == [("1", "1")]


def test_statement_mode_before_a_source_is_refused(shop: Pipeline) -> None:
    with pooler(shop.shop_url, "statement") as shared, pytest.raises(UnsuitableDatabase) as refused:
        shop.capture(shop_url=shared.url)
    assert refused.value.what.startswith(
        "The connection pooler that DWH_SHOP_URL leads to works in statement mode"
    )
    assert "Let DWH_SHOP_URL lead to the server itself" in refused.value.hint
    assert shop.facts() == []


def test_simulated_day_leaves_no_clock_behind_in_the_shops_connections(shop_url: str) -> None:
    with_timeout(shop_url)
    until = datetime(2024, 5, 1, tzinfo=UTC)
    with pooler(shop_url, "transaction") as shared:
        generate(shared.url, rows=30, companies=3, customers=10, products=10, seed=1, until=until)
        simulate_day(shared.url, changes=50, seed=1)
        left = shared.left_behind()
        assert left == untouched(shop_url, len(left))
    with psycopg.connect(shop_url) as direct:
        row = direct.execute(
            "select count(*) > 30, bool_and(updated_at < '2024-05-03') from sales_order"
        ).fetchone()
        assert row == (True, True)


def settings(shop_url: str, warehouse_url: str) -> Settings:
    return Settings(_env_file=None).with_source_url("shop", shop_url).with_warehouse_url(warehouse_url)
