"""A small shop, a day on which something happens to every kind of its rows, and what a warehouse tells of it."""

from datetime import datetime

import psycopg

from tests.pipeline import Pipeline, Row
from warehouse.model.star import DIMENSIONS, END_OF_TIME, FACTS


def open_shop(shop: Pipeline) -> None:
    """A few members and orders of every kind."""
    shop.open_shop()
    shop.without_foreign_keys()
    for number in range(2, 6):
        shop.insert("customer", id=number, name=f"Customer {number}")
    for number in range(1, 5):
        status = "lost" if number == 4 else "pending"
        shop.order(number, "2024-03-10", {"status": status}, {}, customer_id=number)


def change_everything(shop: Pipeline) -> None:
    """A day on which something happens to every kind of row."""
    shop.do(
        "update customer set country = 'UY' where id = 2",
        "update customer set email = 'new@example.com' where id = 3",
        "delete from customer where id = 5",
        "update category set name = 'Hand tools'",
        "update company set name = 'Acme II'",
        "update product set price = 120",
        "update order_item set status = 'returned', returned_at = now() where sales_order_id = 2",
        "update order_item set quantity = 0 where sales_order_id = 3",
        "update order_item set status = 'complete' where sales_order_id = 4",
        "delete from order_item where sales_order_id = 1 and line_number = 2",
    )
    shop.insert("customer", id=6, name="Fay")
    shop.insert("promotion")
    for number in range(10, 20):
        shop.order(
            number, "2024-06-01", {"promotion_id": 1}, {"quantity": number % 3}, customer_id=number % 8 + 1
        )


def comparable_content(connection: psycopg.Connection, changed_until: datetime) -> dict[str, list[Row]]:
    """Mirrors, star and trail of a warehouse but for web logs, sorted, without what no two runs share.

    That is ids of runs, batches and files (a server that was killed leaves some out), surrogate keys (facts tell their
    versions) and the moments of snapshots, which are those after the last change.
    """
    queries = {
        f"{schema}.{table}": f"select {columns} from {schema}.{table}"
        for schema, table, columns in connection.execute(
            """
            select table_schema, table_name, string_agg(
                case column_name when '_file_id' then '(select path from audit.file where file_id = _file_id)'
                    else quote_ident(column_name) end,
                ', ' order by ordinal_position
            )
            from information_schema.columns join information_schema.tables using (table_schema, table_name)
            where table_type = 'BASE TABLE'
                and column_name not in ('_run_id', 'run_id', 'expired_by_run_id', 'batch_id')
                and column_name <> replace(table_name, 'dim_', '') || '_key'
                and (table_schema = 'raw' or table_schema = 'dwh' and table_name = any(%s))
            group by 1, 2
            """,
            [[dimension.table for dimension in DIMENSIONS]],
        ).fetchall()
    }
    for fact in FACTS:
        named = [d for d in DIMENSIONS if d.entity in (*fact.references, *fact.derived)]
        versions = ", ".join(
            f"{d.entity}.{d.entity}_id as {d.entity}" + (f", {d.entity}.valid_from" if d.has_history else "")
            for d in named
        )
        joins = " ".join(f"join dwh.dim_{d.entity} as {d.entity} using ({d.key})" for d in named)
        (columns,) = connection.execute(
            "select string_agg('fact.' || quote_ident(attname), ', ' order by attnum) from pg_attribute "
            "where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped and attname <> all(%s)",
            [f"dwh.{fact.table}", ["run_id", "batch_id", *(d.key for d in named)]],
        ).fetchone() or (None,)
        if columns:
            queries[f"dwh.{fact.table}"] = (
                f"select {columns}, {versions} from dwh.{fact.table} as fact {joins}"
            )
    queries["audit.quarantine"] = (
        "select source, entity, row_key, rules, row_data::text, resolution from audit.quarantine where file_id is null"
    )
    queries["audit.watermark"] = (
        # The cursor of a feed is that of the last run alone.
        "select source, table_name, case when system_identifier is not null then cursor_value end, row_count "
        "from audit.watermark"
    )
    queries["audit.key_range"] = (
        "select source, table_name, low_key, row_count, verified_at is not null from audit.key_range"
    )
    return {
        table: sorted(
            _without_snapshots(connection.execute(query.encode()).fetchall(), changed_until), key=repr
        )
        for table, query in queries.items()
    }


def _without_snapshots(rows: list[Row], changed_until: datetime) -> list[Row]:
    end = datetime.fromisoformat(END_OF_TIME)

    def said(value: object) -> object:
        return "snapshot" if isinstance(value, datetime) and changed_until < value < end else value

    return [tuple(map(said, row)) for row in rows]
