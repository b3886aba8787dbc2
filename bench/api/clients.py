"""Clients of the order API with little overhead: one process, a connection each, the next order after the answer."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

HEADER_END = b"\r\n\r\n"
LENGTH = b"content-length: "


@dataclass
class Answers:
    """Seconds and ids of the orders that were placed, and all answers other than 201."""

    seconds: list[float] = field(default_factory=list)
    order_ids: list[int] = field(default_factory=list)
    refusals: list[bytes] = field(default_factory=list)


def place_orders(
    url: str, bodies: Sequence[bytes], clients: int, key_prefix: str = ""
) -> tuple[float, Answers]:
    """Place an order for each body, by several clients at once; returns the seconds in total, and the answers."""
    return asyncio.run(_place_orders(url, bodies, clients, key_prefix))


async def _place_orders(
    url: str, bodies: Sequence[bytes], clients: int, key_prefix: str
) -> tuple[float, Answers]:
    parts = urlsplit(url)
    answers = Answers()
    numbered = iter(enumerate(bodies))
    connections = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(clients)]
    started = time.perf_counter()
    await asyncio.gather(
        *(_client(connection, parts.netloc, numbered, answers, key_prefix) for connection in connections)
    )
    seconds = time.perf_counter() - started
    for _, writer in connections:
        writer.close()
    return seconds, answers


async def _client(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    host: str,
    bodies: Iterator[tuple[int, bytes]],
    answers: Answers,
    key_prefix: str,
) -> None:
    reader, writer = connection
    for number, body in bodies:
        key = f"Idempotency-Key: {key_prefix}-{number}\r\n" if key_prefix else ""
        head = (
            f"POST /api/v1/orders HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{key}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        started = time.perf_counter()
        writer.write(head.encode() + body)
        header = await reader.readuntil(HEADER_END)
        begin = header.lower().index(LENGTH) + len(LENGTH)
        answer = await reader.readexactly(int(header[begin : header.index(b"\r", begin)]))
        answers.seconds.append(time.perf_counter() - started)
        if header.startswith(b"HTTP/1.1 201 "):
            answers.order_ids.append(int(answer[len(b'{"id":') : answer.index(b",")]))
        else:
            answers.refusals.append(header + answer)
