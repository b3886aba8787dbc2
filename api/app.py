"""The FastAPI app: its routes, the shop's connections, removal of old idempotency keys, and the OpenAPI document."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline

from api.errors import ShopUnavailable
from api.models import Problem
from api.repositories.unit_of_work import Shop
from api.routes import orders, problems, service
from api.routes.guard import PROTECTED, Guard
from api.services.placing import remove_old_keys

logger = logging.getLogger("dwh.api")

CLEANUP_SECONDS = 600


def create_app(shop: Shop, token: str | None = None) -> FastAPI:
    """Create the order API on a shop; if there is a token, requests for orders have to send it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await shop.open()
        cleanup = asyncio.create_task(_remove_old_keys(shop))
        yield
        cleanup.cancel()
        with suppress(asyncio.CancelledError):
            await cleanup
        await shop.close()

    # FastAPIOffline serves the scripts of /docs itself; FastAPI would load them from a CDN.
    app = FastAPIOffline(
        title=service.NAME,
        version=service.VERSION,
        description="The shop's front door: orders are placed here, at the shop's prices.",
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.state.shop = shop
    app.include_router(service.router)
    app.include_router(orders.router)
    problems.add_handlers(app)
    app.add_middleware(Guard, token=token)
    app.openapi = lambda: _openapi(app, token is not None)  # type: ignore[method-assign]
    return app


async def _remove_old_keys(shop: Shop) -> None:
    while True:
        # What fails now is retried after CLEANUP_SECONDS.
        try:
            await remove_old_keys(shop)
        except ShopUnavailable:
            pass
        except Exception:
            logger.exception("Old keys could not be removed.")
        await asyncio.sleep(CLEANUP_SECONDS)


def _openapi(app: FastAPI, needs_token: bool) -> dict[str, Any]:
    """Build FastAPI's OpenAPI document, with our Problem in place of its error schemas, and with the token."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schemas["Problem"].pop("$defs")
        if needs_token:
            document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                if needs_token and path.startswith(PROTECTED):
                    operation["security"] = [{"token": []}]
                    operation["responses"] |= problems.documented(401)
        app.openapi_schema = document
    return app.openapi_schema
