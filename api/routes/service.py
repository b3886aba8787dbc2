"""/ and /ping: what this service is, and whether it runs."""

from importlib.metadata import version

from fastapi import APIRouter
from pydantic import BaseModel

from api.routes.orders import PATH

NAME = "Order API"
VERSION = version("dwh")

router = APIRouter(tags=["service"])


class Pong(BaseModel):
    """The process answers."""

    status: str


class Index(BaseModel):
    """Name, version and links."""

    name: str
    version: str
    links: dict[str, str]


@router.get("/ping", summary="Is the process there?")
async def ping() -> Pong:
    """Asks nothing of the shop's database."""
    return Pong(status="ok")


@router.get("/", summary="Name, version and links")
async def index() -> Index:
    """Where to go from here."""
    links = {"orders": PATH, "documentation": "/docs", "openapi": "/openapi.json", "ping": "/ping"}
    return Index(name=NAME, version=VERSION, links=links)
