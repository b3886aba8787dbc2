"""`dwh dashboard`: the live dashboard in a browser."""

from typing import Annotated

import typer


def dashboard(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to serve on.")] = 8501,
    headless: Annotated[bool, typer.Option("--headless", help="Open no browser.")] = False,
) -> None:
    """Serve the live dashboard on this machine until Ctrl-C; needs the extra `dashboard` (Streamlit).

    Example: `dwh dashboard`
    """
    import os
    import subprocess
    import sys
    from importlib.util import find_spec

    from flows.databases import with_urls
    from warehouse.dashboard import APP
    from warehouse.errors import SettingsError
    from warehouse.settings import Settings

    if find_spec("streamlit") is None:
        raise SettingsError(
            "The dashboard needs Streamlit, which is not installed.", hint="pip install 'dwh[dashboard]'"
        )
    settings = with_urls(Settings.load())
    options = {
        "server.port": str(port),
        "server.address": "127.0.0.1",
        "server.headless": str(headless).lower(),
        # Else the first start waits for an answer on the terminal.
        "server.showEmailPrompt": "false",
        "browser.gatherUsageStats": "false",
        "client.showErrorDetails": "none",
        # Hide Streamlit's developer menu: its Deploy button would publish the page on another company's service.
        "client.toolbarMode": "minimal",
        "server.fileWatcherType": "none",
    }
    command = [sys.executable, "-m", "streamlit", "run", str(APP)]
    command += [f"--{name}={value}" for name, value in options.items()]
    # Pass the URL, which holds a password, in the environment, where no other user can read it.
    raise typer.Exit(subprocess.call(command, env={**os.environ, "DWH_WAREHOUSE_URL": settings.warehouse}))
