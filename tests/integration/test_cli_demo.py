"""`dwh demo` from nothing, run again, and taken down: what a newcomer does first."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import psycopg
import pytest

from stack.postgres import EmbeddedPostgres
from tests.clock import await_whole_day

DWH = Path(sys.executable).with_name("dwh")


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_demo_goes_the_whole_way_and_leaves_no_process(times: int, tmp_path: Path) -> None:
    # It takes minutes on a slow machine, and loads what came until yesterday.
    await_whole_day(seconds=300)
    home = tmp_path / "a home"
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    # Databases of one's own are left alone by a demo, whether .env or the environment names them.
    mine = "postgresql://127.0.0.1:1/mine"
    elsewhere = {"DWH_SHOP_URL": mine, "DWH_NORTHWIND_URL": mine}
    env_file = tmp_path / ".env"
    env_file.write_text(f"DWH_WAREHOUSE_URL={mine}\nDWH_NORTHWIND_URL={mine}\n")
    messages: list[str] = []
    environment = {**kept, "HOME": str(tmp_path), "DWH_HOME": str(home)}

    def dwh(*arguments: str, **more: str) -> str:
        done = subprocess.run(
            [DWH, *arguments],
            cwd=tmp_path,
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        messages.append(done.stderr)
        return done.stdout

    try:
        output = dwh("demo", "--rows", "300", "--changes", "100", **elsewhere, PATH=os.defpath)
        env_file.unlink()
        # As it was called: it is in nobody's PATH before .venv is activated.
        assert f"Next: `{DWH} status`" in messages[0]
        for title in (
            "Top 5 devices by users",
            "Countries by logged users",
            "Top 5 most viewed products in the country with most logged users",
            "Monthly sales of the last year",
            "Conversion per lead source",
        ):
            assert title in output
        places = dict(re.findall(r"^(Live|Report|Prefect UI|SQL) +(.+)$", output, re.MULTILINE))
        live = re.fullmatch(
            r"order (\d+), placed through the API, was in mart\.sales after [\d,]+ ms", places["Live"]
        )
        assert live
        assert "<html" in Path(places["Report"]).read_text()
        assert "password" not in output
        pasted = [*shlex.split(places["SQL"]), "-Atc", "select count(*) from dwh.fact_order_item"]
        facts = subprocess.run(["env", *pasted], capture_output=True, text=True, check=True).stdout
        assert int(facts) > 300
        # All is in the archive, the last batch of live included, which ended before its rows had waited long enough.
        pasted[-1] = "select count(*) from audit.archive_pending where published_at is not null"
        waiting = subprocess.run(["env", *pasted], capture_output=True, text=True, check=True).stdout
        assert int(waiting) == 0
        api = places["Prefect UI"].removesuffix("/runs") + "/api"
        assert flow_runs(api) == {
            "daily-warehouse": 2,
            "ingest-shop": 2,
            "ingest-orders": 2,
            "ingest-leads": 2,
            "ingest-weblogs": 2,
            "refresh-marts": 2,
            "build-features": 1,
        }

        for _ in range(times - 1):
            dwh("demo", "--changes", "100")
        runs = json.loads(dwh("status", "--json", "--runs", "100"))["runs"]
        # With the runs of live, which has shown an order in the star.
        assert len(runs) == 14 * times
        assert {run["status"] for run in runs} == {"succeeded"}
        with psycopg.connect(EmbeddedPostgres(home / "postgres").url("warehouse")) as connection:
            files = connection.execute(
                "select feed, count(*), sum(rows_loaded + rows_quarantined) from audit.file group by feed order by feed"
            ).fetchall()
            leads = connection.execute(
                "select sum(lead_count), sum(converted_lead_count) > 0 from mart.lead_source_conversion"
            ).fetchone()
            quarantined = connection.execute(
                "select count(*) from audit.quarantine where source = 'leads'"
            ).fetchone()
            placed = connection.execute(
                "select count(*) > 0 from mart.sales where source_system = 'shop' and order_id = %s",
                [live[1]],
            ).fetchone()
        # A week, and yesterday, which the first demo simulated: there is no other day to come.
        assert files == [("leads", 8, 800), ("orders", 8, 400), ("weblogs", 8, 24_000)]
        # Each lead is in the mart or in quarantine, and some have converted.
        assert leads == (800 - quarantined[0], True)
        assert placed == (True,)
        assert_live_follows(home, json.loads(dwh("up", "--live", "--json")))
    finally:
        subprocess.run([DWH, "down"], cwd=tmp_path, env=environment, check=True, timeout=300)
    assert [process for process in psutil.process_iter() if str(home) in " ".join(words(process))] == []


def assert_live_follows(home: Path, state: dict[str, str]) -> None:
    """What is written in the shop is in the star soon, though nobody starts a run."""
    assert psutil.pid_exists(int(state["live_pid"]))
    server = EmbeddedPostgres(home / "postgres")
    with psycopg.connect(server.url("shop")) as shop:
        shop.execute("update company set name = 'Followed Ltd', updated_at = now() where id = 1")
    query = "select count(*) from dwh.dim_company where name = 'Followed Ltd' and is_current"
    with psycopg.connect(server.url("warehouse"), autocommit=True) as warehouse:
        give_up_at = time.monotonic() + 120
        while warehouse.execute(query).fetchone() != (1,):
            assert time.monotonic() < give_up_at, "live did not follow the shop"
            time.sleep(0.1)


def flow_runs(api: str) -> dict[str, int]:
    """Completed flow runs, by the name of their flow."""
    counts: dict[str, int] = {}

    def post(path: str) -> list[dict[str, str]]:
        request = Request(f"{api}/{path}/filter", b"{}", {"Content-Type": "application/json"})
        give_up_at = time.monotonic() + 120
        while True:
            try:
                with urlopen(request, timeout=60) as answer:
                    found: list[dict[str, str]] = json.load(answer)
                    return found
            except HTTPError as error:
                # SQLite is busy: Prefect's own client asks again, too.
                if error.code != 503 or time.monotonic() > give_up_at:
                    raise
                time.sleep(0.5)

    names = {flow["id"]: flow["name"] for flow in post("flows")}
    for run in post("flow_runs"):
        if run["state_type"] == "COMPLETED":
            counts[names[run["flow_id"]]] = counts.get(names[run["flow_id"]], 0) + 1
    return counts


def words(process: psutil.Process) -> list[str]:
    try:
        return [*process.cmdline(), *process.environ().values()]
    except psutil.Error:
        return []
