"""A web page of somebody else, in the operator's browser: it can start nothing on the local Prefect server."""

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from stack.origin_guard import is_allowed

PATIENCE_SECONDS = 240
PAGE = """<!doctype html><script>
const attempts = ATTEMPTS, results = {};
const ask = async ([name, kind, url, body]) => {
  try {
    if (kind === "socket") {
      results[name] = await new Promise((done) => {
        const socket = new WebSocket(url);
        socket.onopen = () => done("open");
        socket.onerror = () => done("refused");
      });
    } else {
      const type = kind === "no-cors" ? "text/plain" : "application/json";
      const answer = await fetch(url, {method: "POST", mode: kind, headers: {"Content-Type": type}, body});
      results[name] = answer.type === "opaque" ? "sent" : String(answer.status);
    }
  } catch (error) { results[name] = "refused"; }
};
Promise.all(attempts.map(ask)).then(() => fetch("/done", {method: "POST", body: JSON.stringify(results)}));
</script>"""


@pytest.fixture
def server(prefect_server: None) -> str:
    """Host and port of the local server."""
    return urlsplit(os.environ["PREFECT_API_URL"]).netloc


def send(server: str, path: str, body: object, **headers: str) -> tuple[int, Any]:
    """POST without a browser; returns status and answer. A server that is busy with its database is asked again."""
    while (answered := _send_once(server, path, body, headers))[0] == 503:
        time.sleep(0.5)
    return answered


def _send_once(server: str, path: str, body: object, headers: dict[str, str]) -> tuple[int, Any]:
    connection = HTTPConnection(server, timeout=PATIENCE_SECONDS)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        text = answer.read().decode()
        return answer.status, json.loads(text) if text.startswith(("{", "[")) else text
    finally:
        connection.close()


def handshake(server: str, **headers: str) -> int:
    """Status that a WebSocket's handshake is answered with."""
    host, _, port = server.partition(":")
    lines = {
        "Host": server, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", **headers,
    }  # fmt: skip
    with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as connection:
        request = (
            "GET /api/events/in HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
        )
        connection.sendall(request.encode())
        return int(connection.recv(64).split()[1])


def make_flow(server: str) -> str:
    status, flow = send(server, "/api/flows/", {"name": "hostile"})
    assert status in (200, 201)
    return str(flow["id"])


def hostile_requests(flow_id: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """What a page would send: a run with a command, and a deployment whose pull step is one."""
    command = {"job_variables": {"command": "touch /tmp/owned"}}
    return {
        "run": ("/api/flow_runs/", {"flow_id": flow_id, "name": "hostile", **command}),
        "deployment": (
            "/api/deployments/",
            {
                "flow_id": flow_id,
                "name": "hostile",
                "pull_steps": [
                    {"prefect.deployments.steps.run_shell_script": {"script": "touch /tmp/owned"}}
                ],
            },
        ),
    }


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Host": "evil.example:4200", "Origin": "http://evil.example:4200"},
    ],
)
def test_request_with_a_foreign_origin_or_host_is_refused(server: str, headers: dict[str, str]) -> None:
    flow_id = make_flow(server)
    for path, body in hostile_requests(flow_id).values():
        assert send(server, path, body, **headers)[0] == 403
    assert handshake(server, **headers) == 403
    assert named_hostile(server) == {"flow_runs": 0, "deployments": 0}


def test_own_page_and_programs_are_served(server: str) -> None:
    """Without this, the others would prove nothing: the same requests are taken from those who may send them."""
    flow_id = make_flow(server)
    for kind, (path, body) in hostile_requests(flow_id).items():
        for headers in ({}, {"Origin": f"http://{server}"}):
            status, made = send(server, path, body, **headers)
            assert status in (200, 201), made
            if kind == "run":
                delete(server, f"/api/flow_runs/{made['id']}")
    delete(server, f"/api/deployments/{made['id']}")
    assert handshake(server) == 101
    assert handshake(server, Origin=f"http://{server}") == 101
    assert named_hostile(server) == {"flow_runs": 0, "deployments": 0}


def test_page_in_a_browser_starts_nothing(server: str, tmp_path: Path) -> None:
    if (browser := shutil.which("chromium") or shutil.which("chromium-browser")) is None:
        pytest.skip("there is no Chromium here")
    flow_id = make_flow(server)
    port = server.rpartition(":")[2]
    attempts = []
    # By its address from a page on another port, and by a name that resolves to 127.0.0.1.
    for name, host in (
        ("address", server),
        ("localhost", f"localhost:{port}"),
        ("rebound", f"evil.example:{port}"),
    ):
        for kind, (path, body) in hostile_requests(flow_id).items():
            for mode in ("no-cors", "cors"):
                attempts.append((f"{name} {kind} {mode}", mode, f"http://{host}{path}", json.dumps(body)))
        attempts.append((f"{name} socket", "socket", f"ws://{host}/api/events/in", ""))
    for page_host in ("127.0.0.1", "evil.example"):
        with hostile_site(attempts) as (site_port, results):
            visit(browser, f"http://{page_host}:{site_port}/", tmp_path / page_host, results)
        # An opaque answer says nothing: the server counts.
        assert set(results) == {name for name, *_ in attempts}
        assert {value for name, value in results.items() if "no-cors" not in name} == {"refused"}
        assert named_hostile(server) == {"flow_runs": 0, "deployments": 0}


def test_command_of_our_pool_cannot_be_changed_by_a_run(prefect_server: None) -> None:
    from prefect.workers.process import ProcessJobConfiguration, ProcessWorker

    from flows.deploy import _with_fixed_command

    template = _with_fixed_command(ProcessWorker.get_default_base_job_template())
    assert _with_fixed_command(template) == template
    import asyncio

    configuration = asyncio.run(
        ProcessJobConfiguration.from_template_and_values(
            template, {"command": "touch /tmp/owned", "env": {"A": "b"}}
        )
    )
    assert (configuration.command, configuration.env) == (None, {"A": "b"})


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("127.0.0.1:4200", None, True),
        ("localhost:4200", None, True),
        ("[::1]:4200", "http://[::1]:4200", True),
        ("localhost:8080", "http://localhost:8080", True),
        ("localhost:4200", "http://localhost:8080", False),
        ("localhost:4200", "http://127.0.0.1:4200", False),
        ("localhost.evil.example", None, False),
        ("127.0.0.1.evil.example:4200", None, False),
        ("evil.example@127.0.0.1:4200", None, False),
        ("127.0.0.1:4200/x", None, False),
        ("127.0.0.1:x", None, False),
        ("", None, False),
    ],
)
def test_names_that_count_as_this_machine(host: str, origin: str | None, allowed: bool) -> None:
    headers = {"host": [host], **({"origin": [origin]} if origin else {})}
    assert is_allowed(headers) is allowed


def named_hostile(server: str) -> dict[str, int]:
    """How many things of that name the server has."""
    named = {"name": {"any_": ["hostile"]}}
    return {
        "flow_runs": len(send(server, "/api/flow_runs/filter", {"flow_runs": named})[1]),
        "deployments": len(send(server, "/api/deployments/filter", {"deployments": named})[1]),
    }


def delete(server: str, path: str) -> None:
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    status = 0
    # A busy server may refuse it for the moment.
    while status not in (204, 404):
        assert time.monotonic() < give_up_at, status
        connection = HTTPConnection(server, timeout=PATIENCE_SECONDS)
        connection.request("DELETE", path)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        status = answer.status


@contextmanager
def hostile_site(attempts: list[tuple[str, str, str, str]]) -> Iterator[tuple[int, dict[str, str]]]:
    """A site that serves the page and hears what it could do."""
    results: dict[str, str] = {}

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = PAGE.replace("ATTEMPTS", json.dumps(attempts)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def do_POST(self) -> None:
            results.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    try:
        yield site.server_port, results
    finally:
        site.shutdown()
        site.server_close()


def visit(browser: str, url: str, profile: Path, results: dict[str, str]) -> None:
    """Open the page in Chromium until it has told what it could do."""
    process = subprocess.Popen(
        [
            browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            f"--user-data-dir={profile}", "--host-resolver-rules=MAP evil.example 127.0.0.1",
            "--disable-features=LocalNetworkAccessChecks,PrivateNetworkAccessRespectPreflightResults,BlockInsecurePrivateNetworkRequests",
            "--remote-debugging-port=0", url,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    waited = threading.Event()
    try:
        for _ in range(PATIENCE_SECONDS * 5):
            if results:
                return
            waited.wait(0.2)
        raise AssertionError("the page never told what it could do")
    finally:
        process.terminate()
        process.wait(120)
