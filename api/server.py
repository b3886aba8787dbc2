"""Serve the order API: one process, until a signal ends it."""

import ipaddress
import logging
import socket
from contextlib import suppress

import uvicorn

from api.app import create_app
from api.errors import OrderApiError
from api.repositories.unit_of_work import Shop

logger = logging.getLogger("dwh.api")

GRACE_SECONDS = 15


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(url: str, host: str, port: int, token: str | None = None) -> None:
    """Serve the shop at `url` until SIGTERM or Ctrl-C; requests that have begun are finished.

    Raises:
        OrderApiError: there is no token although others can connect, or the address cannot be used.
    """
    if token is None and not is_loopback(host):
        raise OrderApiError(
            f"The order API would listen on {host or 'all addresses'}, where others can connect, without a token.",
            "Set DWH_API_TOKEN or DWH_API_TOKEN_FILE (`openssl rand -hex 24` makes one), or leave out --host.",
            exit_code=2,
        )
    listener = _listen(host, port)
    app = create_app(Shop(url), token)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=60,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    address, bound = listener.getsockname()[:2]
    place = f"[{address}]:{bound}" if ":" in address else f"{address}:{bound}"
    logger.info("Order API on http://%s (documentation: /docs).", place)
    # uvicorn raises the signal again once it has shut down.
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    if not server.started:
        raise OrderApiError("The order API did not start.", "Its log says why.")
    logger.info("Order API ended; all requests are answered.")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address, family=family, backlog=2048)
    except OSError as error:
        raise OrderApiError(
            f"Port {port} of {host} cannot be used: {error.strerror or error}.",
            "Choose another one with --port, or another address with --host.",
        ) from None
