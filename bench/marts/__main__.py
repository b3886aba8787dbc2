"""Milliseconds that each mart takes to answer, as `dwh_reader`: `python -m bench.marts [--orders N --requests N]`.

Marts that hold answers are read whole, at most 10,000 rows; marts that hold details by key and by a page of 100. The
median of 20 is written to bench/results/marts.json. The warehouse is made in a temporary folder, or kept in --folder.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg import sql

from generators import geoip, weblogs
from generators.shop import create_schema, generate
from generators.shop.visitors import visitors
from stack.postgres import EmbeddedPostgres
from warehouse import weblogs as weblog_loader
from warehouse.db.connections import connect
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.stage import stage
from warehouse.features import build
from warehouse.load import marts
from warehouse.load.publish import publish
from warehouse.migrations import upgrade
from warehouse.model.mart import read_marts
from warehouse.runs.audit import start_run
from warehouse.settings import Settings
from warehouse.sources.registry import read_source

RESULT = Path(__file__).parents[1] / "results" / "marts.json"
TIMES, MOST_ROWS, PAGE = 20, 10_000, 100
# Marts of details: the columns of a key, and of the order of pages.
DETAILS: dict[str, tuple[str, ...]] = {
    "sales": ("source_system", "order_id"),
    "orders": ("source_system", "order_id"),
    "order_totals": ("source_system", "order_id"),
    "weblog": ("file_id", "line_number"),
    "customer_feature": ("as_of_date", "source_system", "customer_id"),
    "job_run": ("run_id",),
}


def main() -> None:
    """Make a warehouse, refresh its marts, read them, write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=20_000_000)
    parser.add_argument("--runs", type=int, default=50_000, help="runs in the audit trail")
    parser.add_argument("--folder", type=Path, help="keep the warehouse here")
    asked = parser.parse_args()
    with _folder(asked.folder) as folder:
        postgres = EmbeddedPostgres(folder / "postgres", 18, {"fsync": "off", "shared_buffers": "512MB"})
        postgres.start()
        try:
            seconds = _fill(postgres, folder, asked.orders, asked.requests, asked.runs)
            url = postgres.url("warehouse")
            times = _measure(url)
        finally:
            postgres.stop()
    result = {
        "measured_at": f"{datetime.now(UTC):%Y-%m-%d}",
        "orders": asked.orders,
        "requests": asked.requests,
        "runs": asked.runs,
        "slowest_ms": max(times.values()),
        "seconds": seconds,
        "median_ms": times,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    for name, milliseconds in sorted(times.items(), key=lambda item: -item[1]):
        sys.stdout.write(f"{name:<45}{milliseconds:9.1f} ms\n")


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-marts-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _fill(
    postgres: EmbeddedPostgres, folder: Path, orders: int, requests: int, runs: int
) -> dict[str, float]:
    """Generate and load everything; seconds of each refresh."""
    for name in ("shop", "warehouse"):
        postgres.create_database(name)
    shop_url, url = postgres.url("shop"), postgres.url("warehouse")
    create_schema(shop_url)
    upgrade(url)
    generate(shop_url, rows=orders, customers=max(5000, orders // 20))
    with start_run(url, flow="ingest-shop") as run:
        publish(run, stage(run, read_source("shop"), shop_url, threshold=DeleteThreshold(is_confirmed=True)))
    landing = folder / "lake" / "landing" / "weblogs"
    landing.mkdir(parents=True)
    geoip.write(folder / "home" / "geoip" / "demo.mmdb")
    usernames, product_ids = visitors(shop_url)
    weblogs.generate(landing, lines=requests, days=365, usernames=usernames, product_ids=product_ids)
    settings = Settings(_env_file=None, home=folder / "home", lake=str(folder / "lake"), warehouse_url=url)
    with start_run(url, flow="ingest-weblogs") as run:
        weblog_loader.load(settings, run)
    _age(url, runs)
    seconds = {}
    for name in ("first_refresh", "refresh_without_changes"):
        started = time.monotonic()
        with start_run(url, flow="refresh-marts") as run:
            marts.refresh(run)
        seconds[name] = round(time.monotonic() - started, 1)
    started = time.monotonic()
    with start_run(url, flow="build-features") as run:
        build(run, currency="USD")
    seconds["features"] = round(time.monotonic() - started, 1)
    with connect(url, autocommit=True) as connection:
        connection.execute("vacuum analyze")
    return seconds


def _age(url: str, runs: int) -> None:
    """Give the audit trail five years of runs, loads and check results, older than those that are there."""
    with connect(url) as connection:
        (first,) = connection.execute("select max(run_id) from audit.run").fetchone() or (0,)
        connection.execute(
            """
            insert into audit.run (flow, launched_by, code_version, host, pid, started_at, ended_at, status)
            select 'ingest-shop', 'schedule', 'x', 'etl', 1, moment, moment + interval '30 seconds', 'succeeded'
            from (select now() - n * interval '5 years' / %s as moment from generate_series(1, %s) as n) as past
            """,
            [max(runs, 1), runs],
        )
        connection.execute(
            """
            insert into audit.load (run_id, source, table_name, rows_read, rows_inserted, loaded_at)
            select run.run_id, 'shop', name, 10, 5, run.ended_at from audit.run as run
            cross join unnest(array['raw.shop_order_item', 'dwh.fact_order_item', 'dwh.dim_customer']) as name
            where run.run_id > %s
            """,
            [first],
        )


def _measure(url: str) -> dict[str, float]:
    times: dict[str, float] = {}
    with connect(url, autocommit=True) as connection:
        connection.execute("set role dwh_reader")
        for name in read_marts():
            relation = sql.Identifier("mart", name)
            if name not in DETAILS:
                times[name] = _median(
                    connection, sql.SQL("select * from {} limit {}").format(relation, sql.Literal(MOST_ROWS))
                )
                continue
            key = sql.SQL(", ").join(map(sql.Identifier, DETAILS[name]))
            page = sql.SQL("select * from {} order by {} limit {}").format(relation, key, sql.Literal(PAGE))
            times[f"{name}, a page"] = _median(connection, page)
            row = connection.execute(
                sql.SQL("select {} from {} offset 50 limit 1").format(key, relation)
            ).fetchone()
            if row is None:
                continue
            one = sql.SQL("select * from {} where ({}) = ({})").format(
                relation, key, sql.SQL(", ").join(map(sql.Literal, row))
            )
            times[f"{name}, by key"] = _median(connection, one)
    return times


def _median(connection: psycopg.Connection, query: sql.Composed) -> float:
    taken = []
    text = query.as_string(connection).encode()
    for _ in range(TIMES):
        started = time.perf_counter()
        connection.execute(text).fetchall()
        taken.append((time.perf_counter() - started) * 1000)
    return round(statistics.median(taken), 1)


if __name__ == "__main__":
    main()
