"""Live: what changes in a source is in the star a moment later, by the same path as a scheduled run."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from stack.postgres import EmbeddedPostgres
from tests.pipeline import Pipeline
from warehouse.live.loop import Environment, SourceLoop
from warehouse.runs.alerts.rules import Rules
from warehouse.settings import Settings
from warehouse.sources.declaration import Source


@pytest.fixture(scope="module")
def databases(
    postgres: EmbeddedPostgres, shop_template: str, warehouse_template: str
) -> Iterator[tuple[str, str]]:
    """A shop and a warehouse for all tests of this module."""
    names = [f"live_{uuid.uuid4().hex[:12]}" for _ in range(2)]
    for name, template in zip(names, (shop_template, warehouse_template), strict=True):
        postgres.create_database(name, template)
    urls = postgres.url(names[0]), postgres.url(names[1])
    with closing(Pipeline(*urls)) as pipeline:
        pipeline.open_shop()
        pipeline.insert("promotion")
        pipeline.order(1, "2024-03-10")
        pipeline.capture()
    yield urls
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def shop(databases: tuple[str, str]) -> Iterator[Pipeline]:
    with closing(Pipeline(*databases)) as pipeline:
        yield pipeline


class Live:
    """A loop in a thread of its own."""

    def __init__(self, pipeline: Pipeline, source: Source | None = None, **settings: object) -> None:
        self.pipeline, self.lines, self.stop = pipeline, [], threading.Event()
        self.settings = Settings(
            warehouse_url=pipeline.warehouse_url, live_interval=0.05, **settings  # type: ignore[arg-type]
        )
        environment = Environment(self.settings, Rules(), lambda line, _: self.lines.append(line))
        self.loop = SourceLoop(source or pipeline.source, pipeline.shop_url, environment, self.stop)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.loop.run()
        except BaseException as error:
            self.error = error

    def start(self) -> "Live":
        self.thread.start()
        return self

    def end(self) -> None:
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()

    def wait(self, query: str, *parameters: object) -> None:
        """Wait until the warehouse answers `query` with a row."""
        wait_until(lambda: bool(self.pipeline.warehouse.execute(query.encode(), parameters).rowcount), self)


def wait_until(is_so: Callable[[], bool], live: Live | None = None, seconds: float = 20) -> None:
    give_up_at = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up_at, live.lines if live else "it never was"
        time.sleep(0.02)


@contextmanager
def live(pipeline: Pipeline, **settings: object) -> Iterator[Live]:
    process = Live(pipeline, **settings).start()
    try:
        yield process
    finally:
        process.end()


def touch(pipeline: Pipeline, table: str, assignment: str, condition: str = "true") -> None:
    pipeline.do(f"update {table} set {assignment}, updated_at = clock_timestamp() where {condition}")


def new_orders(pipeline: Pipeline, *ids: int) -> None:
    for number in ids:
        with pipeline.shop.transaction():
            pipeline.order(number, "2024-05-01", updated_at="2024-05-01")
            pipeline.do(
                f"update sales_order set updated_at = clock_timestamp() where id = {number}",
                f"update order_item set updated_at = clock_timestamp() where sales_order_id = {number}",
            )


def test_orders_changes_and_new_versions_are_in_the_star_a_moment_later(shop: Pipeline) -> None:
    with live(shop) as process:
        new_orders(shop, 10, 11)
        process.wait("select from dwh.fact_order_item where order_id = '11' having count(*) = 1")
        touch(shop, "customer", "loyalty_tier = 'gold'")
        process.wait("select from dwh.dim_customer where loyalty_tier = 'gold' and is_current")
        touch(shop, "order_item", "status = 'returned', returned_at = now()", "sales_order_id = 10")
        process.wait("select from dwh.fact_order_item where order_id = '10' and status = 'returned'")
    assert shop.rows("select status, error from audit.run where flow = 'live-shop' order by run_id") == [
        ("succeeded", None)
    ]
    assert shop.rows(
        "select table_name, count(*) from audit.load inner join audit.run using (run_id) "
        "where flow = 'live-shop' group by 1 having count(*) > 1"
    ) == []
    run = shop.capture()
    assert run.changes() == {}
