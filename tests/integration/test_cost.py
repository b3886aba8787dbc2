"""What a run costs follows what changed, not how much there is."""

from tests.pipeline import Pipeline
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.stage import stage
from warehouse.load.publish import publish
from warehouse.runs.audit import start_run

# Lines of orders in the shop. Smaller tables may be read whole: for hundreds of changes that costs less than an index.
LINES = 40_000


def rows_scanned(pipeline: Pipeline) -> dict[str, int]:
    """Rows read by sequential scans, by table, once every session of a run has ended and reported them."""
    pipeline.wait_for(
        "select where not exists (select from pg_stat_activity where application_name ~ '^dwh .+ ' "
        "and datname = current_database())"
    )
    return dict(
        pipeline.warehouse.execute(
            "select schemaname || '.' || relname, seq_tup_read from pg_stat_user_tables"
        ).fetchall()
    )


def test_publishing_a_few_changes_does_not_read_all_lines_of_all_orders(pipeline: Pipeline) -> None:
    pipeline.open_shop()
    pipeline.do(
        """insert into customer (id, document_number, name, username, email, birth_date, country, updated_at)
        select id, '30' || id, 'Ada', 'ada' || id, 'ada@' || id, '1980-01-01', 'AR', '2024-01-01'
        from generate_series(2, 5000) as id""",
        """insert into product (id, company_id, category_id, brand_id, name, price_default, price, currency, updated_at)
        select id, 1, 1, 1, 'Nail', 80, 100, 'USD', '2024-01-01' from generate_series(2, 5000) as id""",
        """insert into sales_order (id, customer_id, payment_method_id, status, ordered_at, updated_at)
        select id, 1 + id % 5000, 1, 'pending', '2024-03-01'::timestamptz + id * interval '1 minute', '2024-01-01'
        from generate_series(1, 10000) as id""",
        """insert into order_item (sales_order_id, line_number, product_id, distribution_center_id, quantity,
            unit_price_default, unit_price, discount_amount, status, created_at, updated_at)
        select id, line, 1 + (id + line) % 5000, 1, 1, 80, 100, 0, 'pending', '2024-01-01', '2024-01-01'
        from generate_series(1, 10000) as id cross join generate_series(1, 4) as line""",
    )
    pipeline.await_open_transactions()
    pipeline.capture()
    # What is open in other databases of the server, as that of another test, keeps new rows in sight: one run of three
    # that reads no line in vain is enough.
    for number in range(3):
        scanned = rows_scanned_by_a_few_changes(pipeline, number)
        if scanned == {}:
            return
    raise AssertionError(scanned)


def rows_scanned_by_a_few_changes(pipeline: Pipeline, number: int) -> dict[str, int]:
    """Rows that a run of a few changes has read of tables which it read whole, by table; not of small ones."""
    pipeline.await_open_transactions()
    pipeline.do(
        "update order_item set quantity = quantity + 1, updated_at = now() "
        "where sales_order_id = 17 and line_number = 2",
        "update sales_order set status = 'shipped', updated_at = now() where id = 33",
        "update product set price = price + 1, updated_at = now() where id <= 300",
        f"update customer set loyalty_tier = 'gold {number}', updated_at = now() where id <= 300",
        f"delete from order_item where sales_order_id = {18 + number} and line_number = 1",
    )
    with start_run(pipeline.warehouse_url, flow="ingest-shop") as run:
        staged = stage(run, pipeline.source, pipeline.shop_url, threshold=DeleteThreshold(1.0, 10, False))
        before = rows_scanned(pipeline)
        published = publish(run, staged)
    after = rows_scanned(pipeline)
    changed = {
        load.table_name: load.rows_inserted + load.rows_updated + load.rows_deleted
        for load in published.loads
    }
    # The other lines of both orders have another total.
    assert (changed["raw.shop_order_item"], changed["dwh.fact_order_item"]) == (2, 8)
    scanned = {table: rows - before.get(table, 0) for table, rows in after.items()}
    return {table: rows for table, rows in scanned.items() if rows >= LINES}
