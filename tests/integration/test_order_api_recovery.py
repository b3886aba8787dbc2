"""Every order that was answered with 201 is in the shop exactly once, whatever was killed and whoever was away."""

import asyncio
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import httpx
import psutil
import psycopg
import pytest

from api.errors import ShopUnavailable
from api.repositories import unit_of_work
from api.repositories.unit_of_work import Shop, UnitOfWork
from generators.shop import create_schema
from stack.postgres import EmbeddedPostgres
from tests.order_api import HAMMERS, OrderApi, fill, order_api, problem
from tests.order_api import shop_copy as copy_shop
from tests.pipeline import Pipeline

CLIENTS = 8
PATIENCE_SECONDS = 60


@pytest.fixture
def shop_url(own_postgres: EmbeddedPostgres) -> str:
    """A shop on a server of this test alone."""
    own_postgres.create_database("shop")
    create_schema(own_postgres.url("shop"))
    fill(own_postgres.url("shop"))
    return own_postgres.url("shop")


def kill_server(postgres: EmbeddedPostgres) -> None:
    """Kill -9 the server, and start it again."""
    postmaster = psutil.Process(int((postgres.data / "postmaster.pid").read_text().split()[0]))
    family = [postmaster, *postmaster.children()]
    for process in family:
        process.kill()
    psutil.wait_procs(family)
    postgres.start()


@contextmanager
def clients(place: "Place") -> Iterator["Place"]:
    """Clients that order until the block ends; each repeats an order with its key until it is answered with 201."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        futures = [pool.submit(place.order_on, number) for number in range(CLIENTS)]
        try:
            yield place
        finally:
            place.stop.set()
    for future in futures:
        future.result()


class Place:
    """What clients have ordered: the id of the order that was answered, for each key; and answers without a key."""

    def __init__(self) -> None:
        self.url = ""
        self.stop = Event()
        self.by_key: dict[str, set[int]] = {}
        self.without_key: list[int] = []

    def wait_for_orders(self, seconds: float) -> None:
        """Let clients order for so long, and at least until some orders are answered."""
        before, since = len(self.by_key), time.monotonic()
        while time.monotonic() - since < seconds or len(self.by_key) < before + CLIENTS:
            assert time.monotonic() - since < PATIENCE_SECONDS
            time.sleep(0.01)

    def order_on(self, client: int) -> None:
        """Order until it is time to stop."""
        with httpx.Client(timeout=20, trust_env=False) as http:
            self._order_on(client, http)

    def _order_on(self, client: int, http: httpx.Client) -> None:
        drawn = random.Random(client)
        number = 0
        while not self.stop.is_set():
            number += 1
            key = f"{client}-{number}"
            order = {**HAMMERS, "customerId": drawn.randint(1, 30)}
            if number % 3 == 0:
                if (order_id := self._ask(http, order, {})) is not None:
                    self.without_key.append(order_id)
                continue
            # Twice: the second answer has to be the first.
            answered = 0
            while answered < 2:
                if (order_id := self._ask(http, order, {"Idempotency-Key": key})) is not None:
                    self.by_key.setdefault(key, set()).add(order_id)
                    answered += 1

    def _ask(self, http: httpx.Client, order: object, headers: dict[str, str]) -> int | None:
        try:
            answer = http.post(f"{self.url}/api/v1/orders", json=order, headers=headers)
        except httpx.TransportError:
            time.sleep(0.05)
            return None
        if answer.status_code == 201:
            return int(answer.json()["id"])
        problem(answer, 503)
        assert answer.headers["retry-after"] == "1"
        time.sleep(0.05)
        return None

    def verify(self, shop_url: str) -> None:
        """Each answered order is stored once, whole; a key has one order, and nobody else placed any."""
        assert self.by_key
        assert {len(order_ids) for order_ids in self.by_key.values()} == {1}
        keyed = [order_id for order_ids in self.by_key.values() for order_id in order_ids]
        answered = keyed + self.without_key
        assert len(set(answered)) == len(answered)
        with psycopg.connect(shop_url) as shop:
            stored = shop.execute(
                "select o.id, count(i.line_number) from sales_order as o"
                " left join order_item as i on i.sales_order_id = o.id group by o.id"
            ).fetchall()
            kept = shop.execute(
                "select idempotency_key, convert_from(answer, 'UTF8')::jsonb ->> 'id' from order_request"
            ).fetchall()
        assert {lines for _, lines in stored} == {1}
        assert set(answered) <= {order_id for order_id, _ in stored}
        # What was not answered, since its answer was lost, has no key.
        assert sorted(kept) == sorted((key, str(*ids)) for key, ids in self.by_key.items())


def kill_both(postgres: EmbeddedPostgres, shop_url: str, rounds: int, seconds: float) -> None:
    """Kill API and PostgreSQL by turns while clients order."""
    place = Place()
    drawn = random.Random(rounds)
    with order_api(shop_url) as api:
        place.url = api.url
        with clients(place):
            for _ in range(rounds):
                place.wait_for_orders(seconds * drawn.random())
                kill_server(postgres)
                place.wait_for_orders(seconds * drawn.random())
                restart_api(api)
            place.wait_for_orders(seconds)
        assert httpx.get(f"{place.url}/ping", trust_env=False).status_code == 200
    place.verify(shop_url)


def restart_api(api: OrderApi) -> None:
    """Kill -9 the process of the API, and start another one on its port."""
    port = int(api.url.rpartition(":")[2])
    (process,) = (
        one
        for one in psutil.Process().children(recursive=True)
        if one.cmdline()[2:6] == ["cli.main", "api", "--port", str(port)]
    )
    command, environment = process.cmdline(), process.environ()
    process.kill()
    process.wait()
    psutil.Popen(command, env=environment)


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Processes that took the place of a killed one end with the test."""
    yield
    for process in psutil.Process().children(recursive=True):
        if "cli.main" in process.cmdline():
            process.kill()
            process.wait()


def test_every_201_is_in_the_shop_once_after_kill_9_of_api_and_postgresql(
    own_postgres: EmbeddedPostgres, shop_url: str
) -> None:
    kill_both(own_postgres, shop_url, rounds=1, seconds=1.0)


@pytest.mark.slow
def test_every_201_is_in_the_shop_once_after_many_kills(
    own_postgres: EmbeddedPostgres, shop_url: str
) -> None:
    kill_both(own_postgres, shop_url, rounds=15, seconds=4.0)


def test_database_that_is_away_is_reported_and_used_again_once_it_is_back(
    own_postgres: EmbeddedPostgres, shop_url: str
) -> None:
    with order_api(shop_url) as api:
        # Several connections are open and idle when the server restarts: nobody notices.
        with ThreadPoolExecutor(4) as pool:
            assert {one.status_code for one in pool.map(lambda _: api.place(), range(20))} == {201}
        api.shop.close()
        own_postgres.stop()
        own_postgres.start()
        assert api.place().status_code == 201
        own_postgres.stop()
        for answer in (api.place(), api.http.get("/api/v1/orders")):
            assert problem(answer, 503)["detail"] == "The shop's database is away."
            assert answer.headers["retry-after"] == "1"
        assert api.http.get("/ping").status_code == 200
        own_postgres.start()
        until = time.monotonic() + 10
        while (answer := api.place()).status_code != 201:
            problem(answer, 503)
            assert time.monotonic() < until
        with psycopg.connect(shop_url) as shop:
            assert shop.execute("select count(*) from sales_order").fetchone() == (22,)


def test_request_that_finds_no_free_connection_or_waits_too_long_is_refused(
    postgres: EmbeddedPostgres, shop_template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_of_work, "WAIT_SECONDS", 0.3)
    monkeypatch.setitem(unit_of_work.SESSION, "statement_timeout", "800ms")

    async def ask(url: str) -> list[object]:
        shop = Shop(url, connections=1)
        await shop.open()
        await shop.run(lambda unit: unit.keys.remove_old(1))

        async def lock(unit: UnitOfWork) -> str | None:
            return await unit.orders.lock(1)

        try:
            answers = await asyncio.gather(*(shop.run(lock) for _ in range(4)), return_exceptions=True)
            locking.rollback()
            return [*answers, await shop.run(lock)]
        finally:
            await shop.close()

    with copy_shop(postgres, shop_template) as url, psycopg.connect(url) as locking:
        locking.execute("lock table sales_order")
        *refused, answered = asyncio.run(ask(url))
    assert sorted(str(one) for one in refused) == [
        "The shop is busy.",
        *["The shop is busy: all connections are in use."] * 3,
    ]
    assert {type(one) for one in refused} == {ShopUnavailable}
    assert answered is None


def test_order_and_its_changes_are_in_the_star_after_the_next_runs(
    postgres: EmbeddedPostgres, shop_template: str, warehouse_url: str, tmp_path: Path
) -> None:
    with copy_shop(postgres, shop_template) as url, order_api(url) as api:
        pipeline = Pipeline(url, warehouse_url)
        pipeline.capture()
        order_id = api.place().json()["id"]
        star = (
            "select order_id, status, gross_amount, discount_amount, returned_at is null from dwh.fact_order_item"
            " order by 1"
        )
        pipeline.capture()
        assert [tuple(map(str, row)) for row in pipeline.rows(star)] == [
            (str(order_id), "pending", "200.0000", "60.0000", "True")
        ]
        for status in ("processing", "shipped", "complete", "returned"):
            api.change(order_id, {"status": status})
        pipeline.capture()
        assert [tuple(map(str, row)) for row in pipeline.rows(star)] == [
            (str(order_id), "returned", "200.0000", "60.0000", "False")
        ]
        pipeline.close()
