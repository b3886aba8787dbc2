"""From an order's 201 to its lines in the star: freshness of `dwh live` under load, measured by a reader of its own.

`python -m bench.live --rate 100 --seconds 600 --shop 1000000`: orders come through the API at a rate, a fifth of them
change their status, of a fiftieth a line is deleted; `ingest-shop` runs three times meanwhile and `refresh-marts` once.
Another process asks mart.sales every 20 ms, as dwh_reader: an order counts from its 201 to the first answer that has
all its lines and amounts; one not seen in 60 s counts as 60 s. In the end all orders are compared. Shop and warehouse
are in two clusters, or, with --one-cluster, in one. Prints the figures, writes bench/results/live.json, draws live.svg.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg

from bench.live.watcher import PATIENCE_SECONDS, Placed, watch
from cli.api import running_api
from generators.shop import create_schema, generate
from stack.postgres import EmbeddedPostgres
from warehouse.migrations import upgrade

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
CLIENTS = 8
CHANGED_SHARE, DELETED_SHARE = 0.20, 0.02
IDLE_SECONDS = 20.0
DWH = [sys.executable, "-m", "cli.main"]


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(prog="bench.live", description=__doc__)
    parser.add_argument("--rate", type=float, default=100.0, help="orders a second")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--shop", type=int, default=1_000_000, help="orders that the shop has already")
    parser.add_argument("--one-cluster", action="store_true", help="shop and warehouse in one cluster")
    parser.add_argument("--postgres", type=int, default=18, choices=(16, 18))
    options = parser.parse_args()
    folder = ROOT / ".dwh" / "bench" / "live"
    shutil.rmtree(folder, ignore_errors=True)
    clusters = [EmbeddedPostgres(folder / "shop", options.postgres)]
    clusters.append(
        clusters[0] if options.one_cluster else EmbeddedPostgres(folder / "warehouse", options.postgres)
    )
    for cluster in clusters:
        cluster.start()
    try:
        results, latencies = measure(clusters, folder, options)
    finally:
        for cluster in clusters:
            cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
    RESULTS.mkdir(exist_ok=True)
    name = "live_one_cluster" if options.one_cluster else "live"
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    from bench.live.histogram import draw

    draw(latencies, RESULTS / f"{name}.svg")
    for key, value in results.items():
        sys.stdout.write(f"{key:<28}{value}\n")


def measure(
    clusters: list[EmbeddedPostgres], folder: Path, options: argparse.Namespace
) -> tuple[dict[str, object], list[float]]:
    """One run: what is kept of it, and the seconds of each order."""
    for cluster, database in zip(clusters, ("shop", "warehouse"), strict=True):
        cluster.create_database(database)
    shop, warehouse = clusters[0].url("shop"), clusters[1].url("warehouse")
    create_schema(shop)
    upgrade(warehouse)
    generate(shop, rows=options.shop, defects=0)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DWH_", "PREFECT_"))}
    environment = {
        **kept,
        "DWH_HOME": str(folder / "home"),
        "DWH_SHOP_URL": shop,
        "DWH_WAREHOUSE_URL": warehouse,
    }
    _run(environment, "run", "shop")
    _run(environment, "run", "marts")
    with (folder / "live.log").open("ab") as log, running_api(shop, folder / "api.log") as api:
        live = subprocess.Popen([*DWH, "live", "shop"], env=environment, stdout=log, stderr=log)
        try:
            _wait_until_live(warehouse)
            idle = _idle_cpu_percent(live.pid, IDLE_SECONDS)
            placed: multiprocessing.Queue[Placed | None] = multiprocessing.Queue()
            seen: multiprocessing.Queue[tuple[str, list[float]]] = multiprocessing.Queue()
            watcher = multiprocessing.Process(target=watch, args=(warehouse, placed, seen))
            watcher.start()
            load = Load(api, shop, options.rate, options.seconds, placed)
            jobs = threading.Thread(target=_scheduled, args=(environment, options.seconds))
            jobs.start()
            load.run()
            placed.put(None)
            measured = dict(seen.get() for _ in range(2))
            watcher.join()
            jobs.join()
        finally:
            live.terminate()
            live.wait()
    _run(environment, "run", "shop")
    latencies, aggregate = sorted(measured["orders"]), sorted(measured["aggregate"])
    return {
        "orders": len(latencies),
        "orders_per_second": round(len(load.ids) / load.took, 1),
        "p50_ms": _percentile(latencies, 0.50),
        "p95_ms": _percentile(latencies, 0.95),
        "p99_ms": _percentile(latencies, 0.99),
        "longest_ms": _percentile(latencies, 1.0),
        "aggregate_p95_ms": _percentile(aggregate, 0.95),
        "differences": _differences(shop, warehouse),
        "idle_cpu_percent": idle,
        "batches": _batches(warehouse),
        "orders_before": options.shop,
        "is_one_cluster": options.one_cluster,
        "refused": load.refused,
        "measured_at": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }, latencies


class Load:
    """Orders through the API at a rate, with changes of status and deletes of lines after them."""

    def __init__(self, api: str, shop: str, rate: float, seconds: float, placed: Any) -> None:
        self._api, self._shop, self._placed = api, shop, placed
        self._interval, self._end = 1 / rate, time.monotonic() + seconds
        self._next, self._lock = time.monotonic(), threading.Lock()
        self.ids: list[int] = []
        self.refused = 0
        self.took = seconds
        with psycopg.connect(shop) as connection:
            self._customers, self._products, self._payments = (
                [
                    key
                    for (key,) in connection.execute(f"select id from {table} limit 5000".encode()).fetchall()
                ]
                for table in ("customer", "product", "payment_method")
            )

    def run(self) -> None:
        """Work until the time is over."""
        began = time.monotonic()
        threads = [threading.Thread(target=self._client, args=(seed,)) for seed in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.took = time.monotonic() - began

    def _client(self, seed: int) -> None:
        rng = random.Random(seed)
        with psycopg.connect(self._shop, autocommit=True) as connection:
            while self._take_turn():
                body = {
                    "customerId": rng.choice(self._customers),
                    "payment_id": rng.choice(self._payments),
                    "products": [
                        {"productId": product, "quantity": rng.randint(1, 3)}
                        for product in rng.sample(self._products, rng.choice((1, 1, 2, 3, 5)))
                    ],
                }
                answer = self._send("POST", "/api/v1/orders", body)
                answered_at = time.time()
                if answer is None:
                    continue
                amount = sum(float(item["amount"]) for item in answer["items"])
                # One whose lines change at once would be seen otherwise.
                is_changed, is_deleted = rng.random() < CHANGED_SHARE, rng.random() < DELETED_SHARE
                self._placed.put(Placed(str(answer["id"]), len(answer["items"]), amount, answered_at))
                self.ids.append(answer["id"])
                if len(self.ids) > 500 and (is_changed or is_deleted):
                    earlier = self.ids[-500]
                    if is_changed:
                        self._send("PATCH", f"/api/v1/orders/{earlier}", {"status": "processing"})
                    if is_deleted:
                        connection.execute(
                            "delete from order_item where sales_order_id = %s and line_number = 2", [earlier]
                        )

    def _take_turn(self) -> bool:
        """Wait for the moment of the next order; False where the time is over."""
        with self._lock:
            moment = self._next = max(self._next + self._interval, time.monotonic() - 1.0)
        if moment >= self._end:
            return False
        time.sleep(max(moment - time.monotonic(), 0))
        return True

    def _send(self, method: str, path: str, body: Mapping[str, object]) -> dict[str, Any] | None:
        request = urllib.request.Request(
            f"{self._api}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except OSError:
            self.refused += 1
            return None


def _run(environment: Mapping[str, str], *arguments: str) -> None:
    subprocess.run([*DWH, *arguments], env=dict(environment), check=True, capture_output=True)


def _scheduled(environment: Mapping[str, str], seconds: float) -> None:
    """What the schedule starts meanwhile."""
    for command in (("run", "shop"), ("run", "marts"), ("run", "shop"), ("run", "shop")):
        time.sleep(seconds / 5)
        subprocess.run([*DWH, *command], env=dict(environment), check=False, capture_output=True)


def _wait_until_live(warehouse: str) -> None:
    until = time.monotonic() + 60
    with psycopg.connect(warehouse, autocommit=True) as connection:
        while not connection.execute("select from audit.live where asked_at is not null").rowcount:
            if time.monotonic() > until:
                raise TimeoutError("dwh live does not ask")
            time.sleep(0.1)


def _idle_cpu_percent(pid: int, seconds: float) -> float:
    """Share of one core that the process and its sessions' server processes take while nothing happens, in percent."""
    processes = [psutil.Process(pid)]
    processes += [
        one
        for one in psutil.process_iter()
        if "dwh live" in " ".join(one.cmdline()) or "dwh capture live" in " ".join(one.cmdline())
    ]
    before = [sum(one.cpu_times()[:2]) for one in processes]
    time.sleep(seconds)
    spent = sum(sum(one.cpu_times()[:2]) - start for one, start in zip(processes, before, strict=True))
    return round(100 * spent / seconds, 2)


def _differences(shop: str, warehouse: str) -> int:
    """Orders whose lines or amounts differ between shop and star."""
    with psycopg.connect(shop) as source, psycopg.connect(warehouse) as star:
        ordered = source.execute(
            "select sales_order_id::text, count(*), sum(round(quantity * unit_price - discount_amount, 2)) "
            "from order_item group by 1"
        ).fetchall()
        loaded = star.execute(
            "select order_id, count(*), sum(round(net_amount, 2)) from mart.sales "
            "where source_system = 'shop' group by 1"
        ).fetchall()
    return len(set(ordered) ^ set(loaded))


def _batches(warehouse: str) -> int:
    with psycopg.connect(warehouse) as connection:
        row = connection.execute("select count(*) from audit.batch").fetchone()
        return int(row[0]) if row else 0


def _percentile(values: list[float], share: float) -> float | None:
    if not values:
        return None
    seconds = values[min(int(share * len(values)), len(values) - 1)]
    return round(1000 * min(seconds, PATIENCE_SECONDS), 1)


if __name__ == "__main__":
    main()
