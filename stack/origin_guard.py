"""Refuse requests of foreign web pages (CSRF, DNS rebinding): the local servers have no login, and run commands.

A browser lets any page send requests to 127.0.0.1. It says in `Origin` which page sent them, and in `Host` by which
name the server was found; a page cannot change either. CORS settings only keep the page from reading the answer.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Close code of the WebSocket protocol (RFC 6455).
POLICY_VIOLATION = 1008


class OriginGuard:
    """Answers 403 to requests and WebSockets whose Origin is another site, or whose Host is no loopback name.

    Any port of a loopback name is allowed, so that a tunnel (ssh -L) works: origin and host then have the same port.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on requests of this server's own pages and of programs that are no browsers."""
        if scope["type"] not in ("http", "websocket") or is_allowed(_headers(scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            # Closed before it is accepted, so that the server answers the handshake with 403.
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        else:
            body = b"This Prefect server answers only its own pages, on this machine.\n"
            headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": body})


def is_allowed(headers: dict[str, list[str]]) -> bool:
    """Return whether the Host of a request is a loopback name, and its Origin, if it has one, the same host."""
    hosts, origins = headers.get("host", []), headers.get("origin", [])
    if len(hosts) != 1 or len(origins) > 1:
        return False
    try:
        host = urlsplit(f"//{hosts[0]}")
        is_ours = host.hostname in LOOPBACK and host.netloc == hosts[0] and host.username is None
        _ = host.port
    except ValueError:
        return False
    return is_ours and all(origin in (f"http://{hosts[0]}", f"https://{hosts[0]}") for origin in origins)


def _headers(scope: Scope) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").lower())
    return headers
