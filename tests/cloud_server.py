"""Prefect's server as Prefect Cloud shows itself: under a workspace's path, for a key only, and busy at times.

`python -m tests.cloud_server PORT`. What Cloud has otherwise (plans, limits, roles) is not imitated.
"""

import sys
from itertools import count
from typing import Any

ACCOUNT, WORKSPACE = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
PREFIX = f"/api/accounts/{ACCOUNT}/workspaces/{WORKSPACE}"
KEY = "pnu_0123456789abcdef0123456789abcdef0123"
# Of so many requests one is answered with 429.
BUSY_EVERY = 9


class Workspace:
    """A layer round the server's app: what has not the key or the path gets no further."""

    def __init__(self, app: Any) -> None:
        self._app, self._requests = app, count(1)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request or WebSocket on, or refuse it."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        path = scope["path"]
        if headers.get(b"authorization", b"").lower() != f"bearer {KEY}".encode() and not path.endswith(
            "/events/out"
        ):
            return await refuse(scope, send, 401)
        if not path.startswith(PREFIX):
            return await refuse(scope, send, 404)
        if scope["type"] == "http" and next(self._requests) % BUSY_EVERY == 0:
            return await refuse(scope, send, 429)
        inner = "/api" + path.removeprefix(PREFIX)
        kept = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
        return await self._app(
            {**scope, "path": inner, "raw_path": inner.encode(), "headers": kept}, receive, send
        )


async def refuse(scope: Any, send: Any, status: int) -> None:
    """Answer without the server."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4000 + status})
        return
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"detail": "refused"}'})


if __name__ == "__main__":
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(
        Workspace(create_app(final=True)), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning"
    )
