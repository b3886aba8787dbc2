"""Fill a warehouse to read from: orders, a year of web logs, leads, five years of audit trail, all marts refreshed."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg import sql

from generators import geoip, leads, weblogs
from generators.shop import create_schema, generate
from generators.shop.visitors import visitors
from stack.postgres import EmbeddedPostgres
from warehouse import weblogs as weblog_loader
from warehouse.db.connections import connect
from warehouse.db.identifiers import listed
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.stage import stage
from warehouse.features import build
from warehouse.feeds.stage import stage_feed
from warehouse.load import marts
from warehouse.load.publish import publish
from warehouse.migrations.revisions import upgrade
from warehouse.runs.audit import start_run
from warehouse.settings import Settings
from warehouse.sources.registry import read_source

YEARS = 5
CHECKS_PER_RUN = 10
# The shop is two years old, and features are built once a week.
WEEKS = 104
LEAD_LISTS = 20
# Share of web-log lines that stay in quarantine: 20,000 of 20,000,000.
BAD_LINES = 0.001


def fill(postgres: EmbeddedPostgres, folder: Path, orders: int, requests: int, runs: int) -> dict[str, float]:
    """Generate and load everything into database `warehouse`; returns the seconds of each step."""
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - started, 1)

    for name in ("shop", "warehouse"):
        postgres.create_database(name)
    shop_url, url = postgres.url("shop"), postgres.url("warehouse")
    create_schema(shop_url)
    upgrade(url)
    lake = folder / "lake"
    landing = lake / "landing" / "weblogs"
    landing.mkdir(parents=True)
    settings = Settings(_env_file=None, home=folder / "home", lake=str(lake), warehouse_url=url)
    lists = read_source("leads")
    assert lists.feed is not None
    with timed("generate"):
        generate(shop_url, rows=orders, customers=max(500, orders // 20))
        leads.generate(
            lake / lists.feed.landing,
            rows=orders // 10 // LEAD_LISTS,
            days=LEAD_LISTS,
            contacts=leads.contacts_of(shop_url),
        )
        geoip.write(folder / "home" / "geoip" / "demo.mmdb")
        usernames, product_ids = visitors(shop_url)
        weblogs.generate(
            landing,
            lines=requests,
            days=365,
            usernames=usernames,
            product_ids=product_ids,
            bad_share=BAD_LINES,
        )
    with timed("load_shop"), start_run(url, flow="ingest-shop") as run:
        publish(run, stage(run, read_source("shop"), shop_url, threshold=DeleteThreshold(is_confirmed=True)))
    with timed("load_leads"), start_run(url, flow="ingest-leads") as run:
        publish(run, stage_feed(run, lists, settings.lake, threshold=DeleteThreshold()))
    with timed("load_weblogs"), start_run(url, flow="ingest-weblogs") as run:
        weblog_loader.load(settings, run)
    # The files and the shop are not read again.
    shutil.rmtree(landing)
    with connect(postgres.url(), autocommit=True) as connection:
        connection.execute("drop database shop")
    with timed("audit_trail"):
        _age(url, runs)
    for name in ("first_refresh", "refresh_without_changes"):
        with timed(name), start_run(url, flow="refresh-marts") as run:
            marts.refresh(run)
    with timed("features"), start_run(url, flow="build-features") as run:
        build(run, currency="USD")
    with timed("vacuum"), connect(url, autocommit=True) as connection:
        _copy_features(url)
        connection.execute("vacuum analyze")
    return seconds


def _copy_features(url: str) -> None:
    """Copy the features of the newest day to the weeks before."""
    with connect(url) as connection:
        names = [
            column.name
            for column in connection.execute("select * from mart.customer_feature limit 0").description or ()
            if column.name != "as_of_date"
        ]
        connection.execute(
            sql.SQL(
                "insert into mart.customer_feature (as_of_date, {names}) select as_of_date - 7 * week, {names} "
                "from mart.customer_feature cross join generate_series(1, {weeks}) as week"
            ).format(names=listed(names), weeks=sql.Literal(WEEKS - 1))
        )


def _age(url: str, runs: int) -> None:
    """Add `runs` runs over five years, each with three loads, three verifications and ten check results.

    A few checks failed, and a few rows of each day were quarantined, of which one in a hundred is still there.
    """
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
        connection.execute(
            """
            insert into audit.verification (
                run_id, source, table_name, rows_source, rows_mirror, chunks, chunks_differing, verdict, seconds,
                verified_at, layer, rows_differing, rows_pending, rows_repaired
            )
            select
                run.run_id, 'shop', name, 1000, 1000, 4, 0, 'equal', 0.1, run.ended_at, 'mirror', 0, 0, 0
            from audit.run as run
            cross join unnest(array['sales_order', 'order_item', 'customer']) as name
            where run.run_id > %s
            """,
            row,
        )
        connection.execute(
            """
            insert into audit.quarantine (
                run_id, source, entity, row_key, rules, reason, row_data, quarantined_at, resolved_at, resolved_run_id,
                resolution
            )
            select
                run.run_id, 'shop', 'order_item', array[run.run_id::text, '1'], array['quantity is not positive'],
                'quantity is not positive', '{"quantity": 0}', run.ended_at,
                case when run.run_id %% 100 <> 0 then run.ended_at end,
                case when run.run_id %% 100 <> 0 then run.run_id end,
                case when run.run_id %% 100 <> 0 then 'released' end
            from audit.run as run where run.run_id > %s
            """,
            row,
        )
