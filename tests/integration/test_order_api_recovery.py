"""Every order that was answered with 201 is in the shop exactly once, whatever was killed and whoever was away."""

import asyncio
import os
import random
import shutil
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import httpx
import psutil
import psycopg
import pytest

from api.errors import ShopUnavailable
from api.repositories import unit_of_work
from api.repositories.unit_of_work import Shop, UnitOfWork
from api.services.placing import remove_old_keys
from generators.shop import create_schema
from stack.postgres import EmbeddedPostgres
from tests.conftest import MAJOR, RUN_FOLDER, SETTINGS
from tests.order_api import HAMMERS, OrderApi, fill, order_api, problem
from tests.order_api import shop_copy as copy_shop

CLIENTS = 8
PATIENCE_SECONDS = 120
# Payment method of orders without a key: with one, there is no other order than those that were answered.
WITHOUT_KEY = 1


@dataclass(frozen=True)
class World:
    """A server of these tests alone, and the API of a shop on it."""

    postgres: EmbeddedPostgres
    api: OrderApi


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    folder = Path(os.environ[RUN_FOLDER]) / f"own postgres {uuid.uuid4().hex[:8]}"
    postgres = EmbeddedPostgres(folder, MAJOR, SETTINGS)
    postgres.start()
    try:
        postgres.create_database("shop")
        create_schema(postgres.url("shop"))
        fill(postgres.url("shop"))
        with order_api(postgres.url("shop")) as api:
            yield World(postgres, api)
    finally:
        # Processes that took the place of a killed one.
        for process in api_processes():
            process.kill()
            process.wait()
        postgres.stop()
        shutil.rmtree(postgres.folder)


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

    def __init__(self, url: str) -> None:
        self.url = url
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
        with httpx.Client(timeout=60, trust_env=False) as http:
            self._order_on(client, http)

    def _order_on(self, client: int, http: httpx.Client) -> None:
        drawn = random.Random(client)
        number = 0
        while not self.stop.is_set():
            number += 1
            key = f"{client}-{number}"
            order = {**HAMMERS, "customerId": drawn.randint(1, 30)}
            if number % 3 == 0:
                if (order_id := self._ask(http, {**order, "payment_id": WITHOUT_KEY}, {})) is not None:
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
                "select o.id, o.payment_method_id = %s, count(i.line_number) from sales_order as o"
                " left join order_item as i on i.sales_order_id = o.id group by o.id",
                [WITHOUT_KEY],
            ).fetchall()
            kept = shop.execute(
                "select idempotency_key, convert_from(answer, 'UTF8')::jsonb ->> 'id' from order_request"
            ).fetchall()
        assert {lines for *_, lines in stored} == {1}
        assert {order_id for order_id, has_no_key, _ in stored if not has_no_key} == set(keyed)
        # Of orders without a key, an answer may have been lost.
        assert {order_id for order_id, has_no_key, _ in stored if has_no_key} >= set(self.without_key)
        assert sorted(kept) == sorted((key, str(*ids)) for key, ids in self.by_key.items())


def kill_both(world: World, rounds: int, seconds: float) -> None:
    """Kill API and PostgreSQL by turns while clients order."""
    with psycopg.connect(world.api.shop_url) as shop:
        shop.execute("truncate order_item, order_request, sales_order")
    place = Place(world.api.url)
    drawn = random.Random(rounds)
    with clients(place):
        for _ in range(rounds):
            place.wait_for_orders(seconds * drawn.random())
            kill_server(world.postgres)
            place.wait_for_orders(seconds * drawn.random())
            restart_api(world.api)
        place.wait_for_orders(seconds)
    place.verify(world.api.shop_url)


def api_processes() -> list[psutil.Process]:
    """Processes of the API that these tests have started, and that still run."""
    found = []
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            if process.cmdline()[2:4] == ["cli.main", "api"]:
                found.append(process)
    return found


def restart_api(api: OrderApi) -> None:
    """Kill -9 the process of the API, and start another one on its port."""
    port = api.url.rpartition(":")[2]
    (process,) = (one for one in api_processes() if one.cmdline()[-1] == port)
    command, environment = process.cmdline(), process.environ()
    process.kill()
    process.wait()
    psutil.Popen(command, env=environment)


def test_database_that_is_away_is_reported_and_used_again_once_it_is_back(world: World) -> None:
    api, postgres = world.api, world.postgres
    ((before,),) = api.rows("select count(*) from sales_order")
    # Several connections are open and idle when the server restarts: nobody notices.
    with ThreadPoolExecutor(4) as pool:
        assert {one.status_code for one in pool.map(lambda _: api.place(), range(20))} == {201}
    api.shop.close()
    postgres.stop()
    postgres.start()
    assert api.place().status_code == 201
    postgres.stop()
    for answer in (api.place(), api.http.get("/api/v1/orders")):
        assert problem(answer, 503)["detail"] == "The shop's database is away."
        assert answer.headers["retry-after"] == "1"
    assert api.http.get("/ping").status_code == 200
    postgres.start()
    until = time.monotonic() + PATIENCE_SECONDS
    while (answer := api.place()).status_code != 201:
        problem(answer, 503)
        assert time.monotonic() < until
    with psycopg.connect(api.shop_url) as shop:
        assert shop.execute("select count(*) from sales_order").fetchone() == (before + 22,)


def test_every_201_is_in_the_shop_once_after_kill_9_of_api_and_postgresql(world: World) -> None:
    kill_both(world, rounds=1, seconds=1.0)


@pytest.mark.slow
def test_every_201_is_in_the_shop_once_after_many_kills(world: World) -> None:
    kill_both(world, rounds=15, seconds=4.0)


def test_request_that_finds_no_free_connection_or_waits_too_long_is_refused(
    postgres: EmbeddedPostgres, shop_template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(unit_of_work.SESSION, "statement_timeout", "1500ms")

    async def ask(url: str) -> list[object]:
        shop = Shop(url, connections=1)
        await shop.open()
        await shop.run(lambda unit: unit.keys.remove_old(1))
        patience, shop._pool.timeout = shop._pool.timeout, 0.3

        async def lock(unit: UnitOfWork) -> str | None:
            return await unit.orders.lock(1)

        try:
            answers = await asyncio.gather(*(shop.run(lock) for _ in range(4)), return_exceptions=True)
            locking.rollback()
            shop._pool.timeout = patience
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


def test_keys_are_removed_after_a_day_unless_they_are_in_use(
    postgres: EmbeddedPostgres, shop_template: str
) -> None:
    async def remove(url: str) -> int:
        shop = Shop(url)
        await shop.open()
        try:
            return await remove_old_keys(shop)
        finally:
            await shop.close()

    with copy_shop(postgres, shop_template) as url, psycopg.connect(url, autocommit=True) as shop:
        shop.execute(
            "insert into order_request (idempotency_key, request_hash, created_at)"
            " select n, '', now() - n * interval '1 hour' from generate_series(1, 11000) as n"
        )
        with psycopg.connect(url) as using:
            using.execute("update order_request set answer = '' where idempotency_key = '9000'")
            assert asyncio.run(remove(url)) == 11000 - 23 - 1
        kept = shop.execute("select idempotency_key::int from order_request order by 1").fetchall()
        assert kept == [(n,) for n in (*range(1, 24), 9000)]
        assert asyncio.run(remove(url)) == 1
