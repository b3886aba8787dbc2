"""Answer every error as problem+json (RFC 9457)."""

import logging
import traceback
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api import errors
from api.models import Problem

logger = logging.getLogger("dwh.api")

MEDIA_TYPE = "application/problem+json"
STATUS = {
    errors.InvalidOrder: HTTPStatus.BAD_REQUEST,
    errors.UnknownOrder: HTTPStatus.NOT_FOUND,
    errors.ImpossibleTransition: HTTPStatus.CONFLICT,
    errors.KeyReused: HTTPStatus.CONFLICT,
}
RETRY_AFTER_SECONDS = 1
# Header of an HTTPException with the kind of problem; it is removed before the answer is sent.
PROBLEM = "problem"
# How many faults an answer lists: a request of 1,000 products may have more.
MOST_FAULTS = 20
TOO_LARGE = "The body may have 64 kB and 1,000 products."


def problem(
    status: int,
    detail: str,
    kind: str = "",
    faults: list[errors.Fault] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """Build a problem+json response."""
    status = HTTPStatus(status)
    body: dict[str, Any] = {
        "type": f"urn:dwh:problem:{kind}" if kind else "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
    }
    if faults:
        body["errors"] = [
            {"pointer": fault.pointer, "detail": fault.detail} for fault in faults[:MOST_FAULTS]
        ]
    return Response(orjson.dumps(body), status.value, headers, MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, object]]:
    """Describe the error statuses of a route for the OpenAPI document; adds 500."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}},
        }
        for status in (*statuses, 500)
    }


def add_handlers(app: FastAPI) -> None:
    """Register handlers that answer every error of the app as a problem."""
    app.add_exception_handler(errors.RequestError, _refused)
    app.add_exception_handler(errors.ShopUnavailable, _unavailable)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, errors.RequestError)
    faults = error.faults if isinstance(error, errors.InvalidOrder) else None
    return problem(STATUS[type(error)], str(error), error.kind, faults)


async def _unavailable(_: Request, error: Exception) -> Response:
    return problem(503, str(error), "shop-unavailable", headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    details = error.errors()
    if any(detail["type"] == "too_long" and detail["loc"] == ("body", "products") for detail in details):
        return problem(413, TOO_LARGE, "too-large")
    faults = [errors.Fault(_pointer(detail["loc"]), detail["msg"]) for detail in details[:MOST_FAULTS]]
    return problem(400, "The request is not valid.", "invalid-request", faults)


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    kind = headers.pop(PROBLEM, "")
    return problem(error.status_code, str(error.detail), kind, headers=headers)


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)


async def _unexpected(request: Request, error: Exception) -> Response:
    number = uuid4()
    trace = "".join(traceback.format_exception(error)).rstrip()
    logger.error("Error %s in %s %s:\n%s", number, request.method, request.url.path, trace)
    return problem(500, f"Something went wrong; the log has it as error {number}.", "internal")


def _pointer(location: tuple[int | str, ...]) -> str:
    place, *parts = location
    if place != "body":
        return str(parts[0]) if parts else str(place)
    # A key in the body may contain a lone surrogate, which UTF-8 cannot encode.
    text = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
    return text.encode("utf-8", "backslashreplace").decode()
