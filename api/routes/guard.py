"""Access control: clients need the token; if none is set, only programs on this machine have access, no web pages."""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from api.routes.problems import problem
from stack.origin_guard import is_allowed

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PROTECTED = "/api/"


class Guard:
    """Answers 401 to requests without the token; if there is no token, 403 to foreign Origin and Host headers."""

    def __init__(self, app: App, token: str | None) -> None:
        self._app = app
        self._expected = f"bearer {token}".encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on allowed requests; paths that are not PROTECTED need no token."""
        if scope["type"] != "http" or self._is_allowed(scope):
            await self._app(scope, receive, send)
        elif self._expected:
            refusal = problem(
                401,
                "A token is needed: Authorization: Bearer …",
                "unauthorized",
                headers={"WWW-Authenticate": "Bearer", "Connection": "close"},
            )
            await refusal(scope, receive, send)
        else:
            message = "Without a token, only programs on this machine may ask."
            await problem(403, message, "forbidden", headers={"Connection": "close"})(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        if self._expected is None:
            named = {
                name: [value.decode("latin-1").lower() for value in headers.get(name.encode(), [])]
                for name in ("host", "origin")
            }
            return is_allowed({name: values for name, values in named.items() if values})
        if not scope["path"].startswith(PROTECTED):
            return True
        given = headers.get(b"authorization", [])
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        return hmac.compare_digest(scheme.lower() + b" " + token.strip(), self._expected)
