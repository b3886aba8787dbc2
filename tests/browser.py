"""A real browser for tests of pages: chromium, driven by Playwright; where it is missing, tests skip and say so."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass
class Visit:
    """An open page, with what it logged on its console, asked of the network, and was sent through sockets."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)

    def hear(self, socket: Any) -> None:
        """Note the address of a socket and what comes through it."""
        self.requests.append(socket.url)
        socket.on(
            "framereceived",
            lambda frame: self.received.append(frame.encode() if isinstance(frame, str) else frame),
        )


@contextmanager
def visit(url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Visit]:
    """Open a page in chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="no browser test: playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no browser test: chromium is not installed (Debian: apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
            timeout=120_000,
        )
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        page.set_default_timeout(120_000)
        opened = Visit(page)
        page.on("console", lambda said: opened.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: opened.errors.append(str(error)))
        page.on("request", lambda request: opened.requests.append(request.url))
        page.on("websocket", opened.hear)
        page.goto(url)
        yield opened
        browser.close()
