"""Connect this process to a Prefect server before Prefect is imported: without one, Prefect would start its own."""

import logging
import os
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

TIMEOUT_SECONDS = 15.0
ENV_FILE = Path(".env")


def read_env_file() -> None:
    """Take the PREFECT_ settings of .env into the environment, which takes precedence.

    Prefect reads the file itself, but commands have to know its server before they import it.
    """
    if not ENV_FILE.is_file():
        return
    from dotenv import dotenv_values

    # Settings.load() reports a .env that cannot be read.
    logging.getLogger("dotenv").setLevel(logging.ERROR)
    with suppress(OSError, UnicodeDecodeError):
        for name, value in dotenv_values(ENV_FILE).items():
            if name.startswith("PREFECT_") and value:
                os.environ.setdefault(name, value)


def track_flows(home: Path) -> str | None:
    """Connect flows to the Prefect server of PREFECT_API_URL, else of the local stack.

    Returns its API's URL. None if no server answers: then flows run as plain functions, recorded only in the warehouse.
    """
    from stack.local import state

    given = os.environ.get("PREFECT_API_URL")
    local = None if given else state(home)
    api_url = given or (local.api_url if local else None)
    if api_url is None or not answers(api_url):
        from flows.engine import run_without_prefect

        run_without_prefect()
        if api_url is not None:
            from cli.output import err

            err.print(
                f"[yellow]Prefect does not answer at {api_url}: this run is recorded only in the warehouse.[/]"
            )
        return None
    if local is not None:
        # A user's Cloud key or profile must not be used with the local server.
        for name in [name for name in os.environ if name.startswith("PREFECT_") and "LOGGING" not in name]:
            del os.environ[name]
        os.environ.update(local.prefect_environment)
    # Prefect's own log is in its UI; the terminal shows that of the flows.
    if "DWH_DEBUG" not in os.environ:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    return api_url


def answers(api_url: str) -> bool:
    """Return whether a Prefect API answers at this URL, be it with an HTTP error."""
    try:
        with urllib.request.urlopen(f"{api_url}/health", timeout=TIMEOUT_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
