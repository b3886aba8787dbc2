"""Apache Superset (`make bi-superset`): each chart answers by its API as the mart does, dashboards are drawn."""

import json
import os
import re
import secrets
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.bi.kept_result import FOLDER, keep
from tests.browser import visit
from tests.marts import MartWorld
from warehouse.features import build
from warehouse.model.mart import SUBJECTS, answers
from warehouse.model.superset import bundle, chart_queries
from warehouse.runs.audit import start_run

pytestmark = pytest.mark.slow

PROGRAMS = Path(__file__).parent / ".venv" / "bin"
START = Path(__file__).parents[2] / "deployments" / "superset" / "start.sh"
WAIT_SECONDS = 600


@dataclass
class Superset:
    """A running server, and its API as the admin."""

    url: str
    password: str
    token: str = ""

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        with urlopen(Request(f"{self.url}{path}", data, headers), timeout=120) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def superset(mart_world: MartWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Superset]:
    if not (PROGRAMS / "superset").exists():
        pytest.skip("Superset is not installed: make bi-superset installs it")
    with start_run(mart_world.warehouse_url, flow="build-features") as run:
        build(run, currency="USD")
    password, name = secrets.token_hex(8), f"superset_{secrets.token_hex(4)}"
    mart_world.pipeline.warehouse.execute(
        f"create role {name} login password '{password}' in role dwh_reader".encode()
    )
    home = tmp_path_factory.mktemp("superset")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        "SUPERSET_HOME": str(home),
        "SUPERSET_WAREHOUSE_URL": re.sub(r"//[^@]*@", f"//{name}:{password}@", mart_world.warehouse_url),
        "SUPERSET_ADMIN_PASSWORD": password,
        "SUPERSET_PORT": str(port),
    }
    log = home / "log"
    with log.open("w") as written:
        process = subprocess.Popen(
            [START], env=environment, stdout=written, stderr=subprocess.STDOUT, cwd=home
        )
    server = Superset(f"http://127.0.0.1:{port}", password)
    give_up_at = monotonic() + WAIT_SECONDS
    try:
        while True:
            try:
                urlopen(f"{server.url}/health", timeout=5)
                break
            except OSError:
                assert process.poll() is None and monotonic() < give_up_at, log.read_text()[-3000:]
                sleep(1)
        login = {"username": "admin", "password": password, "provider": "db"}
        server.token = server.ask("/api/v1/security/login", login)["access_token"]
        yield server
    finally:
        process.terminate()
        process.wait(60)
        mart_world.pipeline.warehouse.execute(f"drop owned by {name}; drop role {name}".encode())


def plain(value: Any) -> Any:
    """A value as JSON has it: numbers to six places, days as their text."""
    if isinstance(value, Decimal | float | int) and not isinstance(value, bool):
        return round(float(value), 6)
    if hasattr(value, "isoformat"):
        return value.isoformat()[:10]
    return value


def milliseconds_to_day(name: str, value: Any) -> Any:
    """Days come as milliseconds since 1970."""
    import datetime

    if isinstance(value, int | float) and (name == "month" or name.endswith(("_date", "_at"))):
        return datetime.datetime.fromtimestamp(value / 1000, datetime.UTC).date().isoformat()
    return plain(value)


def test_every_charts_query_is_answered_with_the_marts_numbers(
    mart_world: MartWorld, superset: Superset
) -> None:
    listed = superset.ask("/api/v1/chart/?q=(page_size:200,columns:!(id,slice_name))")["result"]
    charts = {one["slice_name"]: one["id"] for one in listed}
    assert len(charts) == len(listed) == 2 * len(answers())
    queries = chart_queries(bundle())
    cells = 0
    for mart in answers():
        frame = mart_world.answer(mart)
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        (table,) = superset.ask(f"/api/v1/chart/{charts[mart.title]}/data/")["result"]
        found = [
            {name: milliseconds_to_day(name, value) for name, value in row.items()} for row in table["data"]
        ]
        assert found == [{name: plain(value) for name, value in row.items()} for row in rows], mart.name
        cells += sum(map(len, found))
        title = next(each for each in charts if each.startswith(f"{mart.title}: "))
        (bars,) = superset.ask(f"/api/v1/chart/{charts[title]}/data/")["result"]
        cursor = mart_world.pipeline.warehouse.execute(queries[title].encode())
        names = [column.name for column in cursor.description or ()]
        expected = [tuple(map(plain, row)) for row in cursor.fetchall()]
        found = [tuple(milliseconds_to_day(name, row[name]) for name in names) for row in bars["data"]]
        # Bars of one length come in any order.
        assert sorted(found, key=str) == sorted(expected, key=str), mart.name
        cells += len(found) * len(names)
    version = subprocess.run(
        [
            PROGRAMS / "python",
            "-c",
            "from importlib.metadata import version as v; print(v('apache-superset'))",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    keep("superset", version=version, charts=len(charts), cells_compared=cells, differing=0)


@pytest.mark.parametrize(
    "subject", [one for one in SUBJECTS if any(mart.subject == one for mart in answers())]
)
def test_dashboard_is_drawn_in_a_browser(superset: Superset, subject: str) -> None:
    slug = subject.lower().replace(" ", "-")
    count = 2 * sum(mart.subject == subject for mart in answers())
    with visit(f"{superset.url}/login/", width=1440, height=1000) as opened:
        page = opened.page
        answered: list[str] = []
        page.on("response", lambda response: answered.append(response.url))
        page.fill("#username, input[name=username]", "admin")
        page.fill("#password, input[name=password]", superset.password)
        page.keyboard.press("Enter")
        page.wait_for_url("**/superset/welcome/**", timeout=120_000)
        opened.errors.clear()
        page.goto(f"{superset.url}/superset/dashboard/{slug}/?standalone=1", timeout=120_000)
        page.wait_for_selector(".dashboard-component-chart-holder", timeout=120_000)
        # Charts are drawn as they come into view.
        for place in range(count):
            page.locator(".dashboard-component-chart-holder").nth(place).scroll_into_view_if_needed()
            page.wait_for_timeout(300)
        page.wait_for_function(
            "count => [...document.querySelectorAll('.dashboard-component-chart-holder')]"
            ".filter(one => one.querySelector('canvas, table tbody tr, .ant-empty')).length === count",
            arg=count,
            timeout=180_000,
        )
        assert page.locator("[role=alert]:visible").count() == 0
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(1000)
        page.screenshot(path=FOLDER / f"superset-{slug}.png")
    # The picture by which Superset counts its visitors is blocked by the page's policy.
    assert [url for url in answered if not url.startswith((superset.url, "data:", "blob:"))] == []
