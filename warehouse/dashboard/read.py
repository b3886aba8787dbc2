"""Queries of the dashboard, run as role dwh_reader. Each function is one query that takes milliseconds."""

from datetime import date
from typing import Any

import pandas as pd
import psycopg
from psycopg import sql

from warehouse.db.connections import connect
from warehouse.db.roles import READER
from warehouse.model.mart import refreshed_tables

ALWAYS = (date(1900, 1, 1), date(2100, 1, 1))
# Marts of which the page reads all rows.
SHOWN_WHOLE = ("purchase_funnel", "traffic_source_conversion", "customer_segments")


def query(url: str, statement: sql.Composed | str, parameters: list[object] | None = None) -> pd.DataFrame:
    """Run a query in a read-only transaction, as role dwh_reader if the login may set it.

    Raises:
        ConnectionFailed: the warehouse cannot be reached.
    """
    with connect(url, autocommit=True, application_name="dwh dashboard") as connection:
        connection.execute("set default_transaction_read_only = on")
        if connection.execute("select pg_has_role(%s, 'set')", [READER]).fetchone() == (True,):
            connection.execute(sql.SQL("set role {}").format(sql.Identifier(READER)))
        return _frame(connection, statement, parameters)


def sources(url: str) -> pd.DataFrame:
    """Read sources and currencies with sales, those with most orders first."""
    return query(
        url,
        "select source_system, currency, net_amount, order_count, unit_count, discount_amount, return_rate, as_of_date "
        "from mart.total_sales where line_count > 0 order by order_count desc",
    )


def freshness(url: str) -> pd.DataFrame:
    """Read freshness, number of quarantined rows and number of failed checks per source."""
    return query(
        url,
        """
        select
            fresh.source,
            min(fresh.complete_at) filter (where fresh.source <> 'mart' or fresh.table_name = any(%s)) as complete_at,
            (select coalesce(sum(waiting.waiting_count), 0) from mart.quarantine_size as waiting
                where waiting.source = fresh.source) as waiting_count,
            (select count(*) from mart.data_quality as quality
                where quality.source = fresh.source and quality.outcome in ('failed', 'warned')) as failing_count
        from mart.table_freshness as fresh group by fresh.source order by fresh.source
        """,
        [refreshed_tables()],
    )


def complete_at(url: str, tables: set[str]) -> Any:
    """Read as of when tables are complete: NaT if one was never loaded."""
    frame = query(
        url,
        "select case when count(complete_at) >= %s then min(complete_at) end as complete_at "
        "from mart.table_freshness where table_name = any(%s)",
        [len(tables), list(tables)],
    )
    return pd.to_datetime(frame.complete_at[0])


def failing_checks(url: str) -> pd.DataFrame:
    """Read the checks whose last result is failed or warned, by source."""
    return query(
        url,
        """
        select source, dataset, check_name, outcome, measured, message, checked_at
        from mart.data_quality where outcome in ('failed', 'warned') order by source, dataset, check_name
        """,
    )


def months(
    url: str,
    source: str,
    currency: str,
    first: date,
    last: date,
    categories: list[str],
    country: str | None = None,
    segment: str | None = None,
) -> pd.DataFrame:
    """Read sales by category and month in a period. Empty `categories`, and None for the others, mean all."""
    statement = sql.SQL(
        """
        select
            ordered_month, category, sum(unit_count) as unit_count, sum(net_amount) as net_amount,
            sum(profit_amount) as profit_amount
        from {}
        where source_system = %s and currency = %s and ordered_month between %s and %s and line_count > 0
            and (cardinality(%s::text[]) = 0 or category = any(%s))
            and (%s::text is null or customer_country = %s) and {}
        group by ordered_month, category order by ordered_month, category
        """
    ).format(
        sql.Identifier("mart", months_mart(segment)),
        sql.SQL("true") if segment is None else sql.SQL("segment = {}").format(sql.Literal(segment)),
    )
    return query(url, statement, [source, currency, first, last, categories, categories, country, country])


def months_mart(segment: str | None) -> str:
    """Return the mart for sales by month: those by segment are a mart of their own, since segments change daily."""
    return "sales_by_country_month" if segment is None else "sales_by_segment_month"


def countries(url: str, source: str, currency: str) -> list[str]:
    """Read the countries in which a source's customers live, or lived when they ordered."""
    frame = query(
        url,
        """
        select customer_country as country from mart.sales_by_country_month
        where source_system = %s and currency = %s and line_count > 0
        union
        select country from mart.customer_activity_by_region where source_system = %s
        order by country
        """,
        [source, currency, source],
    )
    return list(frame.country)


def products(
    url: str, source: str, currency: str, country: str | None, categories: list[str]
) -> pd.DataFrame:
    """Read the best-selling products of each category and country."""
    return query(
        url,
        """
        select product_name, unit_count, net_amount, category, customer_country, product_rank
        from mart.top_products_by_region
        where source_system = %s and currency = %s and (%s::text is null or customer_country = %s)
            and (cardinality(%s::text[]) = 0 or category = any(%s))
        order by unit_count desc, category, customer_country, product_rank limit 100
        """,
        [source, currency, country, country, categories, categories],
    )


def customers(url: str, source: str, currency: str, country: str | None, segment: str | None) -> pd.DataFrame:
    """Read the hundred best customers, identified by surrogate key only."""
    return query(
        url,
        """
        select customer_rank, customer_key, net_amount, order_count, segment, customer_country, recency_days
        from mart.customer_ranking_masked
        where source_system = %s and currency = %s
            and (%s::text is null or coalesce(customer_country, 'unknown') = %s)
            and (%s::text is null or segment = %s)
        order by customer_rank limit 100
        """,
        [source, currency, country, country, segment, segment],
    )


def mart(url: str, name: str) -> pd.DataFrame:
    """Read all rows of a mart."""
    return query(url, sql.SQL("select * from {}").format(sql.Identifier("mart", name)))


def _frame(
    connection: psycopg.Connection, statement: sql.Composed | str, parameters: list[object] | None
) -> pd.DataFrame:
    text = statement.encode() if isinstance(statement, str) else statement
    cursor = connection.execute(text, parameters)
    frame = pd.DataFrame(cursor.fetchall(), columns=[column.name for column in cursor.description or ()])
    for name in frame.columns:
        if frame[name].map(lambda value: hasattr(value, "as_tuple")).any():
            frame[name] = frame[name].astype("float64")
    return frame
