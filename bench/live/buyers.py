"""Buyers in a process of their own: orders through the API at a rate, changes of status, and deletes of lines."""

import asyncio
import json
import random
import time
from collections import deque
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psycopg

from bench.api.clients import HEADER_END, LENGTH
from bench.live.watcher import Placed

CLIENTS = 8
CHANGED_SHARE, DELETED_SHARE = 0.20, 0.02
# Changes are made to an order that was placed so many orders ago, when the watcher no longer waits for its lines.
BEFORE = 500
# If the API stops answering for longer than this, the missed orders are not made up for.
MOST_BEHIND_SECONDS = 1.0


@dataclass
class Load:
    """What buyers did: orders placed, orders changed, lines deleted, refused requests, and seconds."""

    placed: int = 0
    changed: int = 0
    deleted: int = 0
    refused: int = 0
    seconds: float = 0.0


def buy(api: str, shop: str, rate: float, seconds: float, placed: Any, done: Any) -> None:
    """Place `rate` orders per second for `seconds`; puts each 201, then None, to `placed`, and the Load to `done`."""
    done.put(asyncio.run(_Buyers(api, rate, seconds, placed).buy(shop)))


class _Buyers:
    def __init__(self, api: str, rate: float, seconds: float, placed: Any) -> None:
        self._api, self._interval, self._placed = urlsplit(api), 1 / rate, placed
        self._next = time.monotonic()
        self._end = self._next + seconds
        # Orders and their numbers of lines.
        self._earlier: deque[tuple[int, int]] = deque()
        self._load = Load()

    async def buy(self, shop: str) -> Load:
        """Buy until the time is over."""
        began = time.monotonic()
        async with await psycopg.AsyncConnection.connect(shop, autocommit=True) as connection:
            self._customers, self._products, self._payments = [
                [key for (key,) in await (await connection.execute(query)).fetchall()]
                for query in (
                    "select id from customer limit 5000",
                    "select id from product limit 5000",
                    "select id from payment_method",
                )
            ]
            await asyncio.gather(*(self._client(seed, connection) for seed in range(CLIENTS)))
        self._placed.put(None)
        self._load.seconds = time.monotonic() - began
        return self._load

    async def _client(self, seed: int, connection: psycopg.AsyncConnection) -> None:
        drawn = random.Random(seed)
        streams = await asyncio.open_connection(self._api.hostname, self._api.port)
        while await self._take_turn():
            body = {
                "customerId": drawn.choice(self._customers),
                "payment_id": drawn.choice(self._payments),
                "products": [
                    {"productId": product, "quantity": drawn.randint(1, 3)}
                    for product in drawn.sample(self._products, drawn.choice((1, 1, 2, 3, 5)))
                ],
            }
            order = await self._send(streams, "POST", "/api/v1/orders", body)
            answered_at = time.time()
            if order is None:
                continue
            amount = sum(float(item["amount"]) for item in order["items"])
            self._placed.put(Placed(str(order["id"]), len(order["items"]), amount, answered_at))
            self._load.placed += 1
            self._earlier.append((order["id"], len(order["items"])))
            if len(self._earlier) > BEFORE:
                await self._change(streams, connection, drawn, *self._earlier.popleft())

    async def _change(
        self,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        connection: psycopg.AsyncConnection,
        drawn: random.Random,
        order_id: int,
        lines: int,
    ) -> None:
        """Change the status of an order, or delete a line of it, by chance."""
        if drawn.random() < CHANGED_SHARE:
            changed = await self._send(
                streams, "PATCH", f"/api/v1/orders/{order_id}", {"status": "processing"}
            )
            self._load.changed += changed is not None
        # Only orders with several lines lose one.
        if lines > 1 and drawn.random() < DELETED_SHARE * 5 / 3:
            await connection.execute(
                "delete from order_item where sales_order_id = %s and line_number = 2", [order_id]
            )
            self._load.deleted += 1

    async def _take_turn(self) -> bool:
        """Wait for the time of the next order; returns False once the benchmark's time is over."""
        moment = self._next = max(self._next + self._interval, time.monotonic() - MOST_BEHIND_SECONDS)
        if moment >= self._end:
            return False
        await asyncio.sleep(max(moment - time.monotonic(), 0))
        return True

    async def _send(
        self,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        method: str,
        path: str,
        body: dict[str, object],
    ) -> dict[str, Any] | None:
        """Send a request, and return the API's answer; None if it was refused."""
        reader, writer = streams
        content = json.dumps(body).encode()
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: {self._api.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        header = await reader.readuntil(HEADER_END)
        begin = header.lower().index(LENGTH) + len(LENGTH)
        answer = await reader.readexactly(int(header[begin : header.index(b"\r", begin)]))
        if not header.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 201 ")):
            self._load.refused += 1
            return None
        order: dict[str, Any] = json.loads(answer)
        return order
