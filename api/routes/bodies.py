"""Read bodies strictly: limited in size and time, UTF-8, JSON without NaN and duplicate keys."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from decimal import Decimal
from email.message import Message
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from api.routes.problems import PROBLEM, TOO_LARGE

MAX_BYTES = 64 * 1024
SECONDS = 10.0
# How much of a too large body is read, so that its sender gets the answer rather than a broken connection.
DRAINED_BYTES = 2**20
DRAIN_SECONDS = 2.0
# Digits that a number of the body may have to stay an exact integer; a bigint has at most 19.
LONGEST_INTEGER = 20


class StrictRequest(Request):
    """A request whose body is read strictly."""

    async def body(self) -> bytes:
        """Read the body.

        Raises:
            HTTPException: 413 above 64 kB, 415 if its type is not JSON in UTF-8, 408 if it does not arrive in time.
        """
        if not hasattr(self, "_body"):
            self._check_headers()
            try:
                async with asyncio.timeout(SECONDS):
                    self._body = await self._read()
            except TimeoutError:
                raise HTTPException(
                    408, "The body did not arrive in time.", headers={"Connection": "close"}
                ) from None
        return self._body

    async def json(self) -> Any:
        """Parse the body.

        Raises:
            HTTPException: 400 if it is not JSON by RFC 8259, or has duplicate keys.
        """
        try:
            return json.loads(
                (await self.body()).decode("utf-8"),
                object_pairs_hook=_unique,
                parse_constant=_refuse_constant,
                parse_float=_parse_number,
            )
        except UnicodeDecodeError:
            message = "The body is not UTF-8"
        except RecursionError:
            message = "The body is nested too deeply"
        except ValueError as error:
            message = str(error) if isinstance(error, _NotStrict) else "The body is not JSON"
        # FastAPI answers any other exception without its message.
        raise HTTPException(400, f"{message}.", headers={PROBLEM: "invalid-request"})

    def _check_headers(self) -> None:
        headers = self.headers
        content_type = Message()
        content_type["content-type"] = headers.get("content-type", "")
        if content_type.get_content_type() != "application/json" or "content-type" not in headers:
            raise HTTPException(415, "The body has to be JSON: Content-Type: application/json.")
        if str(content_type.get_param("charset", "utf-8")).lower() not in ("utf-8", "utf8"):
            raise HTTPException(415, "The body has to be in UTF-8.")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise HTTPException(415, "The body may not be compressed.")

    async def _read(self) -> bytes:
        parts = []
        size = 0
        stream = self.stream()
        async for part in stream:
            size += len(part)
            if size > MAX_BYTES:
                break
            parts.append(part)
        else:
            return b"".join(parts)
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                async for part in stream:
                    size += len(part)
                    if size > DRAINED_BYTES:
                        break
        except TimeoutError:
            pass
        raise HTTPException(413, TOO_LARGE, headers={"Connection": "close", PROBLEM: "too-large"})


class StrictRoute(APIRoute):
    """A route that reads its body strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, called with a StrictRequest."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly


class _NotStrict(ValueError):
    """JSON that different parsers read differently."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) < len(pairs):
        raise _NotStrict("A key is there more than once in an object")
    return parsed


def _parse_number(text: str) -> int | float:
    """Parse 2.0 and 2e3 as integers, which they are in JSON; ones too long for an id become floats, and are refused."""
    number = Decimal(text)
    if number.adjusted() < LONGEST_INTEGER and number == number.to_integral_value():
        return int(number)
    return float(number)


def _refuse_constant(name: str) -> NoReturn:
    raise _NotStrict(f"{name} is not JSON")
