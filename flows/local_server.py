"""The local stack's Prefect server, behind the origin guard: `python -m flows.local_server PORT`.

It does what `prefect server start --host 127.0.0.1` does; that command cannot wrap the app in a middleware.
"""

import sys

from stack.origin_guard import OriginGuard

HOST = "127.0.0.1"


def main(port: int) -> None:
    """Serve until a signal stops it."""
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    settings = get_current_settings().server
    uvicorn.run(
        OriginGuard(create_app(final=True)),
        host=HOST,
        port=port,
        timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
