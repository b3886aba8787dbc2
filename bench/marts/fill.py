"""A warehouse to read from: a shop's orders, a year of web logs, five years of audit trail, all marts refreshed."""

import shutil
import time
from pathlib import Path

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
from warehouse.runs.audit import start_run
from warehouse.settings import Settings
from warehouse.sources.registry import read_source

YEARS = 5
CHECKS_PER_RUN = 10


def fill(postgres: EmbeddedPostgres, folder: Path, orders: int, requests: int, runs: int) -> dict[str, float]:
    """Generate and load everything into database `warehouse`; seconds of each refresh."""
    for name in ("shop", "warehouse"):
        postgres.create_database(name)
    shop_url, url = postgres.url("shop"), postgres.url("warehouse")
    create_schema(shop_url)
    upgrade(url)
    generate(shop_url, rows=orders, customers=max(500, orders // 20))
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
    # Neither is read again.
    shutil.rmtree(landing)
    with connect(postgres.url(), autocommit=True) as connection:
        connection.execute("drop database shop")
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
    """Add `runs` runs over five years, each with three loads and ten check results, a few of which failed."""
    with connect(url) as connection:
        row = connection.execute("select max(run_id) from audit.run").fetchone()
        assert row is not None
        connection.execute(
            """
            insert into audit.run (flow, launched_by, code_version, host, pid, started_at, ended_at, status)
            select
                (array['ingest-shop', 'ingest-weblogs', 'refresh-marts'])[1 + n %% 3], 'schedule', 'x', 'etl', 1,
                moment, moment + interval '30 seconds',
                case when n %% 500 = 0 then 'failed' else 'succeeded' end
            from (
                select n, now() - (%(runs)s - n) * interval '1 year' * %(years)s / %(runs)s as moment
                from generate_series(0, %(runs)s - 1) as n
            ) as past
            """,
            {"runs": runs, "years": YEARS},
        )
        connection.execute(
            """
            insert into audit.load (
                run_id, source, table_name, rows_read, rows_inserted, rows_updated, rows_expired, rows_deleted,
                rows_unchanged, rows_quarantined, rows_cursor_missed, seconds, loaded_at
            )
            select run.run_id, 'shop', name, 10, 5, 2, 0, 0, 3, 0, 0, 0.1, run.ended_at from audit.run as run
            cross join unnest(array['raw.shop_order_item', 'dwh.fact_order_item', 'dwh.dim_customer']) as name
            where run.run_id > %s
            """,
            row,
        )
        connection.execute(
            """
            insert into audit.check_result (
                run_id, source, dataset, check_name, check_type, level, outcome, measured, rows_checked, checked_at
            )
            select
                run.run_id, 'shop', 'order_item', 'check ' || n, 'invalid', 'quarantine',
                case when (run.run_id + n) %% 97 = 0 then 'failed' else 'passed' end, 0, 10, run.ended_at
            from audit.run as run cross join generate_series(1, %s) as n where run.run_id > %s
            """,
            [CHECKS_PER_RUN, *row],
        )
