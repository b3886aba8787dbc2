"""Benchmark the freshness of `dwh live` under load: the time from an order's 201 until a reader sees it in the star.

`python -m bench.live --rate 100 --seconds 600 --shop 1000000`: orders come through the API at a rate, a fifth of them
change their status, a fiftieth lose a line; meanwhile `ingest-shop` runs three times and `refresh-marts` once. Another
process queries mart.sales and mart.sales_by_day every 20 ms, as dwh_reader: an order counts from its 201 to the first
answer that has all its lines and amounts; one not seen in 60 s counts as 60 s. At the end all orders are compared. Shop
and warehouse are in two clusters, or, with --one-cluster, in one. Prints the figures, writes bench/results/live.json
(live_one_cluster.json), draws live.svg.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg

from bench.capture.shops import rest
from bench.live.buyers import Load, buy
from bench.live.watcher import PATIENCE_SECONDS, Placed, Seen, percentile, watch
from cli.api import running_api
from generators.shop import create_schema, generate
from stack.postgres import EmbeddedPostgres
from warehouse.migrations.revisions import upgrade

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
IDLE_SECONDS = 30.0
DWH = [sys.executable, "-m", "cli.main"]
# Scheduled runs that start during the measurement, at equal intervals.
SCHEDULED = (("run", "shop"), ("run", "marts"), ("run", "shop"), ("run", "shop"))


def main() -> None:
    """Measure, print and write the results."""
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
        results, seen = measure(clusters, folder, options)
    finally:
        for cluster in clusters:
            cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
    RESULTS.mkdir(exist_ok=True)
    name = "live_one_cluster" if options.one_cluster else "live"
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    from bench.live.histogram import draw

    draw(seen.orders, RESULTS / f"{name}.svg")
    for key, value in results.items():
        sys.stdout.write(f"{key:<28}{value}\n")


def measure(
    clusters: list[EmbeddedPostgres], folder: Path, options: argparse.Namespace
) -> tuple[dict[str, object], Seen]:
    """Run the benchmark once; returns the results, and the seconds of each order."""
    for cluster, database in zip(clusters, ("shop", "warehouse"), strict=True):
        cluster.create_database(database)
    shop, warehouse = clusters[0].url("shop"), clusters[1].url("warehouse")
    _report(f"generating a shop of {options.shop:,} orders")
    create_schema(shop)
    # Without bad rows: those in quarantine would differ between shop and star.
    generate(
        shop,
        rows=options.shop,
        customers=max(options.shop // 10, 1000),
        products=max(options.shop // 20, 1000),
        defects=0,
    )
    upgrade(warehouse)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DWH_", "PREFECT_"))}
    environment = {
        **kept,
        "DWH_HOME": str(folder / "home"),
        "DWH_LAKE": str(folder / "lake"),
        "DWH_SHOP_URL": shop,
        "DWH_WAREHOUSE_URL": warehouse,
    }
    _report("first load")
    _run(environment, "run", "shop")
    _run(environment, "run", "marts")
    # Autovacuum would do this in the minutes after a first load, during the measurement.
    rest(shop)
    rest(warehouse)
    with (folder / "live.log").open("ab") as log, running_api(shop, folder / "api.log") as api:
        live = subprocess.Popen([*DWH, "live", "shop"], env=environment, stdout=log, stderr=log)
        try:
            _wait_until_live(warehouse)
            _report(f"live is idle for {IDLE_SECONDS:.0f} s")
            before = _cpu_seconds(live.pid, shop, warehouse)
            transactions, batches = _transactions(shop), _batches(warehouse)["batches"]
            time.sleep(IDLE_SECONDS)
            idle = _spent(live.pid, shop, warehouse, before) / IDLE_SECONDS
            idle_transactions = (_transactions(shop) - transactions) / IDLE_SECONDS
            has_woken_itself = _batches(warehouse)["batches"] != batches
            _report(f"{options.rate:g} orders a second for {options.seconds:,.0f} s")
            placed: multiprocessing.Queue[Placed | None] = multiprocessing.Queue()
            seen: multiprocessing.Queue[Seen] = multiprocessing.Queue()
            done: multiprocessing.Queue[Load] = multiprocessing.Queue()
            watcher = multiprocessing.Process(target=watch, args=(warehouse, placed, seen))
            buyers = multiprocessing.Process(
                target=buy, args=(api, shop, options.rate, options.seconds, placed, done)
            )
            failed: list[str] = []
            jobs = threading.Thread(target=_run_schedule, args=(environment, options.seconds, failed))
            before = _cpu_seconds(live.pid, shop, warehouse)
            watcher.start()
            buyers.start()
            jobs.start()
            load = done.get(timeout=options.seconds + 60)
            busy = _spent(live.pid, shop, warehouse, before) / load.seconds
            measured = seen.get(timeout=2 * PATIENCE_SECONDS)
            for process in (watcher, buyers):
                process.join()
            jobs.join()
        finally:
            live.terminate()
            live.wait()
    _report("all rows are verified, and all orders compared")
    # Runs verify large tables in parts within a day. This one verifies them in full, to find all deleted lines.
    _run({**environment, "DWH_SCAN_ROWS": str(10**12)}, "run", "shop")
    orders, aggregate = measured.orders, measured.aggregate
    return {
        "orders_per_second": round(load.placed / load.seconds, 1),
        "p50_ms": percentile(orders, 0.50),
        "p95_ms": percentile(orders, 0.95),
        "p99_ms": percentile(orders, 0.99),
        "longest_ms": percentile(orders, 1.0),
        "aggregate_p95_ms": percentile(aggregate, 0.95),
        "differences": _differences(shop, warehouse),
        "idle_cpu_percent": round(100 * idle, 2),
        "idle_source_transactions_per_second": round(idle_transactions, 1),
        "has_woken_itself": has_woken_itself,
        "busy_cpu_percent": round(100 * busy, 1),
        "orders": len(orders),
        "status_changes": load.changed,
        "lines_deleted": load.deleted,
        "refused": load.refused,
        "questions_per_second": round(measured.questions / load.seconds, 1),
        **_batches(warehouse),
        "scheduled_runs": _scheduled_runs(warehouse),
        "scheduled_runs_failed": failed,
        "orders_before": options.shop,
        "is_one_cluster": options.one_cluster,
        "postgres": options.postgres,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "load_average_at_end": round(os.getloadavg()[0], 2),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }, measured


def _report(message: str) -> None:
    sys.stdout.write(f"{datetime.now(UTC):%H:%M:%S} {message}\n")
    sys.stdout.flush()


def _run(environment: Mapping[str, str], *arguments: str) -> None:
    ended = subprocess.run(
        [*DWH, *arguments], env=dict(environment), check=False, capture_output=True, text=True
    )
    if ended.returncode:
        raise RuntimeError(f"dwh {' '.join(arguments)} failed: {ended.stdout[-2000:]} {ended.stderr[-2000:]}")


def _run_schedule(environment: Mapping[str, str], seconds: float, failed: list[str]) -> None:
    for command in SCHEDULED:
        time.sleep(seconds / (len(SCHEDULED) + 1))
        started = time.monotonic()
        try:
            _run(environment, *command)
            _report(f"dwh {' '.join(command)} took {time.monotonic() - started:.1f} s")
        except RuntimeError as error:
            failed.append(" ".join(command))
            _report(str(error))


def _wait_until_live(warehouse: str) -> None:
    until = time.monotonic() + 60
    with psycopg.connect(warehouse, autocommit=True) as connection:
        while not connection.execute("select from audit.live where asked_at is not null").rowcount:
            if time.monotonic() > until:
                raise TimeoutError("dwh live does not ask")
            time.sleep(0.1)


def _cpu_seconds(pid: int, *databases: str) -> dict[int, float]:
    """Return the CPU seconds, by process, of live and of the server processes of its sessions."""
    pids = {pid}
    for url in databases:
        with psycopg.connect(url) as connection:
            pids |= {
                one
                for (one,) in connection.execute(
                    "select pid from pg_stat_activity where application_name ~ '^dwh (live|capture live)'"
                ).fetchall()
            }
    return {one: sum(psutil.Process(one).cpu_times()[:2]) for one in pids if psutil.pid_exists(one)}


def _spent(pid: int, shop: str, warehouse: str, before: Mapping[int, float]) -> float:
    now = _cpu_seconds(pid, shop, warehouse)
    return sum(seconds - before.get(one, 0.0) for one, seconds in now.items())


def _transactions(shop: str) -> int:
    """Return the number of transactions of the shop's database so far: each poll of live is one."""
    with psycopg.connect(shop, autocommit=True) as connection:
        row = connection.execute(
            "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
        ).fetchone()
    assert row is not None
    return int(row[0])


def _differences(shop: str, warehouse: str) -> int:
    """Count the orders whose lines or amounts differ between shop and star."""
    with psycopg.connect(shop) as source, psycopg.connect(warehouse) as star:
        ordered = source.execute(
            "select sales_order_id::text, count(*), sum(round(quantity * unit_price - discount_amount, 2)) "
            "from order_item group by 1"
        ).fetchall()
        loaded = star.execute(
            "select order_id, count(*), sum(round(net_amount, 2)) from mart.sales "
            "where source_system = 'shop' group by 1"
        ).fetchall()
    return len({one for one, *_ in set(ordered) ^ set(loaded)})


def _batches(warehouse: str) -> dict[str, object]:
    with psycopg.connect(warehouse) as connection:
        row = connection.execute(
            "select count(*), round(avg(rows_read), 1)::float8, max(rows_read) from audit.batch"
        ).fetchone()
    return dict(zip(("batches", "rows_per_batch", "largest_batch_rows"), row or (), strict=True))


def _scheduled_runs(warehouse: str) -> Sequence[str]:
    """List all runs but those of live and the first load, with status and seconds."""
    with psycopg.connect(warehouse) as connection:
        rows = connection.execute(
            "select format('%s %s %s s', flow, status, round(extract(epoch from ended_at - started_at), 1)) "
            "from audit.run where flow !~ '^live' order by run_id offset 2"
        ).fetchall()
    return [text for (text,) in rows]


if __name__ == "__main__":
    main()
