"""Build mart.customer_feature as of a day, from the present tables or from the tables as of a past time."""

import re
import time
from datetime import date, datetime
from pathlib import Path

import psycopg
from psycopg import errors, sql

from warehouse.db.identifiers import listed
from warehouse.errors import WarehouseError
from warehouse.load.transaction import PLANNER_FOR_WHOLE_TABLES
from warehouse.model.mart import read_marts
from warehouse.runs.audit import Load, Run, record_load

QUERY = Path(__file__).parent / "customer_feature.sql"
NAME = "customer_feature"
# Tables with functions that return their past state from the change log.
_LOGGED = re.compile(r"\bdwh\.(dim_customer|dim_product|dim_distribution_center|fact_order_item)\b")


class FeaturesRefused(WarehouseError):
    """The features cannot be built as of that day, or from the tables as of that time."""


def build(
    run: Run, *, currency: str, as_of: date | None = None, known_at: datetime | None = None
) -> tuple[Load, ...]:
    """Build the features as of a day, replacing rows of the same day; rows of other days stay.

    Only events before the end of `as_of` and versions valid then count; the default is each source's own day
    (mart.as_of). `known_at` uses the tables as of that time, as far back as the change log goes.

    Raises:
        FeaturesRefused: a day or time is in the future, or the change log does not go back to `known_at`.
    """
    started = time.monotonic()
    with run.session("features") as connection:
        _check_day(connection, as_of)
        connection.execute(PLANNER_FOR_WHOLE_TABLES.encode())
        connection.execute(
            "select set_config('dwh.as_of_date', %s, true), set_config('dwh.currency', %s, true)",
            [as_of.isoformat() if as_of else "", currency],
        )
        query = QUERY.read_text()
        if known_at is not None:
            query = _as_known_after(query, _last_run_before(connection, known_at))
        columns = [column.name for column in read_marts()[NAME].table().columns]
        built = [name for name in columns if name not in ("known_at", "run_id")]
        connection.execute(
            sql.SQL("create temp table built_feature on commit drop as {}").format(sql.SQL(query))
        )
        deleted = connection.execute(
            """
            delete from mart.customer_feature as feature using (
                select distinct source_system, as_of_date from pg_temp.built_feature
            ) as built
            where feature.source_system = built.source_system and feature.as_of_date = built.as_of_date
            """
        ).rowcount
        inserted = connection.execute(
            sql.SQL(
                "insert into mart.customer_feature ({}, known_at, run_id) select {}, %s, %s from pg_temp.built_feature"
            ).format(listed(built), listed(built)),
            [known_at, run.run_id],
        ).rowcount
        load = Load(
            "mart",
            f"mart.{NAME}",
            rows_read=inserted,
            rows_inserted=inserted,
            rows_deleted=deleted,
            seconds=round(time.monotonic() - started, 3),
        )
        record_load(connection, run.run_id, load)
        run.commit(connection)
    return (load,)


def _check_day(connection: psycopg.Connection, as_of: date | None) -> None:
    (today,) = connection.execute("select mart.local_date(now())").fetchone() or (None,)
    if as_of is not None and today is not None and as_of > today:
        raise FeaturesRefused(
            f"Features as of {as_of} cannot be built: that day lies in the future.",
            hint=f"Choose a day up to {today}: dwh run features --as-of {today}",
        )


def _last_run_before(connection: psycopg.Connection, known_at: datetime) -> int:
    """Return the last run that published before a time, for the as-of functions of the tables."""
    # Refuse a time in the future: rows with that known_at would claim later knowledge than they have.
    if connection.execute("select where %s > clock_timestamp()", [known_at]).rowcount:
        raise FeaturesRefused(
            f"What will be known at {known_at:%Y-%m-%d %H:%M} UTC lies in the future.",
            hint="Leave out --known-at: features are built by what is known now.",
        )
    row = connection.execute(
        """
        select load.run_id from audit.load as load
        where load.loaded_at <= %s and load.table_name like any (array['dwh.dim%%', 'dwh.fact%%'])
        order by load.load_id desc limit 1
        """,
        [known_at],
    ).fetchone()
    if row is None:
        raise FeaturesRefused(
            f"Nothing was known at {known_at:%Y-%m-%d %H:%M} UTC: no run had published by then.",
            hint="Choose a later time; mart.job_run lists the runs.",
        )
    run_id: int = row[0]
    try:
        with connection.transaction():
            connection.execute("select count(*) from audit.published_after(%s)", [run_id])
    except errors.RaiseException as error:
        raise FeaturesRefused(
            f"What was known at {known_at:%Y-%m-%d %H:%M} UTC can no longer be told: {error.diag.message_primary}",
            hint="Choose a later time. DWH_CHANGE_LOG_DAYS says how long the change log is kept.",
        ) from None
    return run_id


def _as_known_after(query: str, run_id: int) -> str:
    """Rewrite the query to read the tables as of a run, without web requests that later runs loaded."""
    query = _LOGGED.sub(rf"audit.\1_at({run_id})", re.sub(r"--.*", "", query))
    return query.replace(
        "from dwh.fact_weblog as weblog",
        "from (select * from dwh.fact_weblog where run_id not in "
        f"(select later.run_id from audit.published_after({run_id}) as later)) as weblog",
    )
