"""`dwh api`: serve the shop's order API."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

START_SECONDS = 60


def api(
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine DWH_API_TOKEN is needed.")
    ] = ("127.0.0.1"),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")
    ] = 8000,
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare", help="Create what the API needs in the shop, as the owner of its tables, and end."
        ),
    ] = False,
) -> None:
    """Serve the shop's order API until it is stopped. Its documentation is at /docs.

    Examples: `dwh api`, `dwh api --port 8080`, `dwh api --prepare`
    """
    from api.preparation import prepare as prepare_shop
    from api.server import serve
    from cli.output import show_log
    from flows.databases import SHOP, embedded_databases, shop_url
    from warehouse.settings import Settings

    settings = Settings.load()
    is_embedded = settings.api_shop_url is None and SHOP in embedded_databases(settings)
    url = settings.api_shop_url.get_secret_value() if settings.api_shop_url else shop_url(settings)
    if is_embedded:
        from generators.shop import create_schema

        create_schema(url)
    if is_embedded or prepare:
        prepare_shop(url)
    if prepare:
        return
    token = settings.api_token.get_secret_value() if settings.api_token else None
    with show_log("order API"):
        serve(url, host, port, token)


@contextmanager
def running_api(shop_url: str, log: Path | None = None) -> Iterator[str]:
    """Run the order API as a child process on a free local port; yields its URL once it answers.

    First creates what the API needs in the shop (see `api.preparation`): `shop_url` must log in as its tables' owner.
    """
    from api.preparation import prepare
    from stack.files import free_port

    prepare(shop_url)
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DWH_API_")}
    with (log or Path(os.devnull)).open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "api", "--port", str(port)],
            env={**environment, "DWH_API_SHOP_URL": shop_url},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_it_answers(process, url)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_until_it_answers(process: "subprocess.Popen[bytes]", url: str) -> None:
    from api.errors import OrderApiError

    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url}/ping", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise OrderApiError("The order API did not start.", "Run `dwh api` to see why.")
