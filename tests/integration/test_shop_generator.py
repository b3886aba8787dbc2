"""The shop in a real database: its schema, its history, its days."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from api.errors import OrderApiError
from api.preparation import prepare
from generators.errors import GeneratorError
from generators.shop import create_schema, generate, simulate_day
from generators.shop.load import TABLES
from generators.shop.stock import LOT, REORDER_POINT

UNTIL = datetime(2026, 1, 1, tzinfo=UTC)
SMALL: dict[str, Any] = {"rows": 600, "companies": 60, "customers": 500, "products": 400, "until": UNTIL}
KEYS = dict.fromkeys(TABLES, "id") | {
    "order_item": "(sales_order_id, line_number)",
    "inventory": "(product_id, distribution_center_id)",
}
# what the shop itself refreshes at the end of a day
REFRESHED = "{rating_average, review_count, sold_count, quantity, updated_at}"

# how many rows break which rule, 0 each in a shop without defects
BROKEN = """
with line as (
    select *, sum(quantity * unit_price - discount_amount) over (partition by sales_order_id) as total
    from public.order_item
)

select
    (select count(*) from public.product where not (price > price_default and price_default > 0)),
    (select count(*) - count(distinct email) from public.customer),
    count(*) filter (where not line.unit_price > line.unit_price_default),
    count(*) filter (where not line.discount_amount between 0 and line.quantity * line.unit_price),
    count(*) filter (where not (line.total > 0 and line.total > line.unit_price_default)),
    count(*) filter (where (line.status = 'returned') <> (line.returned_at is not null)),
    count(*) filter (where line.status <> o.status and (line.status, o.status) <> ('returned', 'complete')),
    count(*) filter (where line.returned_at < o.ordered_at),
    count(*) filter (where o.ordered_at < c.created_at or o.ordered_at < p.created_at)
from line
join public.sales_order as o on o.id = line.sales_order_id
join public.customer as c on c.id = o.customer_id
join public.product as p on p.id = line.product_id
"""

# how many products and rows of inventory contradict the order lines, 0 each
CONTRADICTIONS = """
with line as (
    select product_id, sum(quantity) as units
    from public.order_item
    where status <> 'cancelled'
    group by product_id
)

select
    count(*) filter (where p.sold_count <> coalesce(line.units, 0)),
    count(*) filter (where (p.review_count = 0) <> (p.rating_average is null)),
    count(*) filter (where p.rating_average not between 1 and 5),
    count(*) filter (where not exists (select from public.inventory as i where i.product_id = p.id)),
    (select count(*) from public.inventory where quantity < 0),
    (
        select count(*)
        from public.order_item as i
        left join public.inventory as s
            on i.product_id = s.product_id and i.distribution_center_id = s.distribution_center_id
        where s.product_id is null
    )
from public.product as p
left join line on p.id = line.product_id
"""

Contents = dict[str, dict[str, str]]


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, options="-c timezone=UTC") as connection:
        return connection.execute(statement).fetchall()


def contents(url: str, columns: str = "t::text") -> Contents:
    return {
        table: dict(query(url, f"select {key}::text, {columns} from public.{table} as t"))
        for table, key in KEYS.items()
    }


def differences(before: Contents, after: Contents) -> dict[str, int]:
    """How many rows of each table were inserted, updated and deleted."""
    return {
        f"{table}_{operation}": len(keys)
        for table in TABLES
        for operation, keys in (
            ("inserted", after[table].keys() - before[table].keys()),
            ("updated", {k for k, row in after[table].items() if before[table].get(k, row) != row}),
            ("deleted", before[table].keys() - after[table].keys()),
        )
        if keys
    }


def planned(url: str) -> Contents:
    """What only people change."""
    return contents(url, f"(to_jsonb(t) - '{REFRESHED}'::text[])::text")


def definitions(url: str) -> list[tuple[Any, ...]]:
    return query(
        url,
        """
        select conname, pg_get_constraintdef(oid) from pg_constraint
        where connamespace = 'public'::regnamespace
        union all
        select indexname, indexdef from pg_indexes where schemaname = 'public'
        order by 1, 2
        """,
    )


def test_every_table_and_column_has_a_comment(shop_url: str) -> None:
    described = query(
        shop_url,
        """
        select
            c.relname, count(*), count(col_description(c.oid, a.attnum)),
            min(obj_description(c.oid, 'pg_class'))
        from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0
        where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
        group by c.relname
        order by c.relname
        """,
    )
    assert [row[0] for row in described] == sorted(TABLES)
    assert all(columns == comments and comment for _, columns, comments, comment in described)


def test_creating_the_schema_again_changes_nothing(shop_url: str) -> None:
    generate(shop_url, **SMALL)
    before, data = definitions(shop_url), contents(shop_url)
    create_schema(shop_url)
    assert (definitions(shop_url), contents(shop_url)) == (before, data)


def test_trigger_stamps_real_changes_and_leaves_explicit_stamps(shop_url: str) -> None:
    with psycopg.connect(shop_url, autocommit=True, options="-c timezone=UTC") as connection:

        def after(change: str) -> str:
            connection.execute(f"update public.brand set {change}")
            row = connection.execute(
                "select case when updated_at > now() - interval '1 minute' then 'now'"
                " else coalesce(updated_at::date::text, 'null') end from public.brand"
            ).fetchone()
            assert row
            return str(row[0])

        connection.execute("insert into public.brand (name, updated_at) values ('a', '2020-01-01')")
        assert after("name = 'a'") == "2020-01-01"
        assert after("name = 'b'") == "now"
        assert after("updated_at = '2019-05-05'") == "2019-05-05"
        assert after("name = 'c', updated_at = null") == "null"
        assert after("name = 'd'") == "now"


def test_history_has_the_sizes_asked_for_and_keeps_the_rules(shop_url: str) -> None:
    steps: list[tuple[str, int, int]] = []
    counts = generate(shop_url, **SMALL, defects=0, progress=lambda *step: steps.append(step))
    rows = {table: query(shop_url, f"select count(*) from public.{table}")[0][0] for table in TABLES}
    assert {table: counts[table] for table in TABLES} == rows
    assert {table: rows[table] for table in ("sales_order", "company", "customer", "product")} == {
        "sales_order": 600,
        "company": 60,
        "customer": 500,
        "product": 400,
    }
    assert not any(count for name, count in counts.items() if name.startswith("defects"))
    assert ("sales_order", 600, 600) in steps
    assert query(shop_url, BROKEN) == [(0,) * 9]
    assert query(
        shop_url,
        """
        select
            count(*) filter (where num_nulls(birth_date, document_number, name) > 0),
            count(*) filter (where birth_date > created_at - interval '18 years'),
            (select count(distinct sales_order_id) from public.order_item),
            (select max(updated_at) <= '2026-01-01' from public.order_item)
        from public.customer
        """,
    ) == [(0, 0, 600, True)]


def test_history_shows_every_status_and_price_changes(shop_url: str) -> None:
    generate(shop_url, **SMALL | {"rows": 3000})
    assert query(shop_url, "select distinct status from public.sales_order order by 1") == [
        (status,) for status in ("cancelled", "complete", "pending", "processing", "returned", "shipped")
    ]
    old_prices = query(
        shop_url,
        "select count(*) from public.order_item as i join public.product as p on p.id = i.product_id"
        " where i.unit_price <> p.price and i.created_at < p.updated_at",
    )
    assert old_prices[0][0] > 500


def test_same_seed_gives_the_same_rows_and_another_seed_others(empty_database_url: Callable[[], str]) -> None:
    shops = []
    for seed in (7, 7, 8):
        url = empty_database_url()
        create_schema(url)
        generate(url, **SMALL, seed=seed)
        shops.append(contents(url))
    assert shops[0] == shops[1]
    assert all(shops[0][table] != shops[2][table] for table in ("customer", "product", "order_item"))


def test_defects_are_counted_exactly(shop_url: str) -> None:
    counts = generate(shop_url, **SMALL, defects=0.05)
    found = query(
        shop_url,
        """
        with line as (
            select
                *,
                unit_price <= unit_price_default as price,
                discount_amount not between 0 and quantity * unit_price as discount,
                sum(quantity * unit_price - discount_amount) over (partition by sales_order_id)
                <= greatest(0, unit_price_default) as total
            from public.order_item
        )
        select
            (select count(*) from public.customer where birth_date is null),
            (select count(*) from public.customer where document_number is null),
            (select count(*) from public.customer where name is null),
            count(*) filter (where price),
            count(*) filter (where discount),
            count(*) filter (where total),
            count(*) filter (where price or discount or total),
            count(*) filter (where num_nulls(c.birth_date, c.document_number, c.name) > 0)
        from line
        join public.sales_order as o on o.id = sales_order_id
        join public.customer as c on c.id = customer_id
        """,
    )
    defects = {name.removeprefix("defects_"): n for name, n in counts.items() if name.startswith("defects_")}
    assert tuple(defects.values()) == found[0]
    assert tuple(defects) == (
        *("customer_birth_date", "customer_document_number", "customer_name"),
        *("item_price", "item_discount", "item_total", "item_any", "item_customer"),
    )
    assert (sum(found[0][:3]), sum(found[0][3:5])) == (25, 30)


def test_loading_puts_keys_indexes_and_identities_back(shop_url: str) -> None:
    before = definitions(shop_url)
    generate(shop_url, **SMALL)
    assert definitions(shop_url) == before
    assert query(shop_url, "insert into public.brand (name) values ('x') returning id") == [(151,)]


def test_a_shop_that_holds_data_is_replaced_only_on_request(shop_url: str) -> None:
    generate(shop_url, **SMALL)
    before = contents(shop_url)
    with pytest.raises(GeneratorError, match="already holds data"):
        generate(shop_url, **SMALL)
    assert contents(shop_url) == before
    assert generate(shop_url, **SMALL | {"rows": 10}, replace=True)["sales_order"] == 10


def test_an_empty_shop_can_be_generated(shop_url: str) -> None:
    counts = generate(shop_url, rows=0, companies=0, customers=0, products=0, until=UNTIL)
    assert [counts[table] for table in ("company", "customer", "product", "sales_order", "order_item")] == [
        0
    ] * 5


def test_a_day_changes_exactly_the_rows_it_reports(shop_url: str) -> None:
    generate(shop_url, **SMALL, defects=0.02)
    came_back = 0
    for seed in range(3):
        before, planned_before = contents(shop_url), planned(shop_url)
        counts = simulate_day(shop_url, changes=1000, seed=seed, day=UNTIL + timedelta(days=seed))
        after = contents(shop_url)
        assert differences(before, after) == {name: n for name, n in counts.items() if n}
        assert sum(differences(planned_before, planned(shop_url)).values()) == 1000
        came_back += len({k for k in after["product"].keys() - before["product"].keys() if int(k) <= 400})
        for operation in (
            *(
                "customer_inserted",
                "customer_updated",
                "customer_deleted",
                "company_updated",
                "product_inserted",
            ),
            *("product_updated", "product_deleted", "sales_order_inserted", "sales_order_updated"),
            *("sales_order_deleted", "order_item_inserted", "order_item_updated", "order_item_deleted"),
            *("inventory_inserted", "inventory_updated", "inventory_deleted"),
        ):
            assert counts[operation] > 0, operation
    assert came_back > 0


def test_stock_and_counters_follow_the_order_lines_of_the_past_and_of_every_day(shop_url: str) -> None:
    generate(shop_url, **SMALL | {"rows": 2000})
    assert query(shop_url, CONTRADICTIONS) == [(0,) * 6]
    reviews = "select sum(review_count) from public.product"
    sold, reviewed, ratings, sold_out, ordered = query(
        shop_url,
        f"""
        select
            sum(sold_count), sum(review_count), count(distinct rating_average),
            (select count(*) from public.inventory where quantity = 0),
            (select count(*) from public.product as p where updated_at < (
                select max(created_at) from public.order_item as i
                where i.product_id = p.id and i.status <> 'cancelled' and i.created_at < '{UNTIL}'
            ))
        from public.product
        """,
    )[0]
    assert sold > 10 * reviewed > 0 and ratings > 20 and sold_out > 10 and ordered == 0
    for seed in range(4):
        simulate_day(shop_url, changes=1000, seed=seed, day=UNTIL + timedelta(days=seed), defects=0.05)
        assert query(shop_url, CONTRADICTIONS) == [(0,) * 6]
    assert query(shop_url, reviews)[0][0] > reviewed


def test_inventory_falls_with_sales_and_is_restocked_by_whole_lots(shop_url: str) -> None:
    generate(shop_url, **SMALL)
    shelves = "select product_id, distribution_center_id, quantity from public.inventory"
    units = """
    select product_id, distribution_center_id, sales_order_id, line_number, quantity, status
    from public.order_item
    """
    restocked = 0
    for seed in range(2):
        before = {(p, c): n for p, c, n in query(shop_url, shelves)}
        lines = {row[2:4]: row for row in query(shop_url, units)}
        simulate_day(shop_url, changes=1500, seed=seed, day=UNTIL + timedelta(days=seed))
        taken = dict.fromkeys(before, 0)
        for product, center, *key, quantity, status in query(shop_url, units):
            old = lines.get(tuple(key))
            if old is None or (status == "cancelled" != old[5]):
                taken.setdefault((product, center), 0)
                taken[product, center] += quantity if old is None else -quantity
        after = {(p, c): n for p, c, n in query(shop_url, shelves)}
        delivered = {shelf: after[shelf] - before[shelf] + taken[shelf] for shelf in before.keys() & after}
        assert {units % LOT for units in delivered.values()} == {0}
        assert all(
            units == 0 or (units > 0 and before[shelf] - taken[shelf] < REORDER_POINT)
            for shelf, units in delivered.items()
        )
        restocked += sum(units > 0 for units in delivered.values())
        assert any(taken[shelf] > 0 and not units for shelf, units in delivered.items())
    assert restocked > 10


def test_a_day_is_stamped_by_the_trigger_and_keeps_the_rules(shop_url: str) -> None:
    generate(shop_url, **SMALL, defects=0)
    counts = simulate_day(shop_url, changes=800, seed=1, day=UNTIL)
    stamped = sum(
        query(shop_url, f"select count(*) from public.{table} where updated_at > '{UNTIL}'")[0][0]
        for table in TABLES
    )
    first_order, last_stamp = query(
        shop_url,
        f"""
        select
            (select min(ordered_at) from public.sales_order where ordered_at > '{UNTIL}'),
            (select max(updated_at) from public.sales_order)
        """,
    )[0]
    assert last_stamp == UNTIL + timedelta(days=1)
    moved = query(shop_url, f"select max(updated_at) from public.customer where updated_at > '{UNTIL}'")[0][0]
    assert UNTIL < moved <= first_order, "who orders after a move lives elsewhere"
    assert stamped == sum(n for name, n in counts.items() if name.endswith(("_inserted", "_updated")))
    assert query(shop_url, BROKEN) == [(0,) * 9]
    assert query(
        shop_url,
        "select count(*), max(ordered_at) < '2026-01-02' from public.sales_order"
        " where ordered_at >= '2026-01-01'",
    ) == [(counts["sales_order_inserted"], True)]


def test_same_seed_on_the_same_shop_makes_the_same_day(empty_database_url: Callable[[], str]) -> None:
    days = []
    for _ in range(2):
        url = empty_database_url()
        create_schema(url)
        generate(url, **SMALL)
        counts = [simulate_day(url, changes=300, seed=seed, day=UNTIL) for seed in (1, 2)]
        days.append((counts, contents(url, "(to_jsonb(t) - 'updated_at')::text")))
    assert days[0] == days[1]


def test_days_follow_the_last_order_and_stay_out_of_the_future(shop_url: str) -> None:
    generate(shop_url, **SMALL | {"until": datetime.now(UTC) - timedelta(hours=30)})
    for seed in range(4):
        (last,) = query(shop_url, "select max(ordered_at) from public.sales_order")[0]
        (known,) = query(shop_url, "select max(id) from public.sales_order")[0]
        counts = simulate_day(shop_url, changes=100, seed=seed)
        new, early, late, future = query(
            shop_url,
            f"""
            select
                count(*),
                count(*) filter (where ordered_at < timestamptz '{last}' - interval '1 second'),
                count(*) filter (where ordered_at > timestamptz '{last}' + interval '1 day'),
                count(*) filter (where ordered_at > now())
            from public.sales_order
            where id > {known}
            """,
        )[0]
        assert (new, early, late, future) == (counts["sales_order_inserted"], 0, 0, 0)
        assert new > 0


def test_generated_data_end_yesterday(shop_url: str) -> None:
    generate(shop_url, **{name: size for name, size in SMALL.items() if name != "until"})
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    (last,) = query(shop_url, "select max(ordered_at) from public.sales_order")[0]
    assert midnight - timedelta(days=1) <= last < midnight


def test_simulated_days_sell_as_much_as_the_days_before(shop_url: str) -> None:
    generate(shop_url, **SMALL | {"rows": 4000})
    for seed in range(4):
        simulate_day(shop_url, seed=seed, day=UNTIL + timedelta(days=seed))
    before, simulated = query(
        shop_url,
        f"""
        select
            count(*) filter (where ordered_at >= timestamptz '{UNTIL}' - interval '28 days' and ordered_at < '{UNTIL}')
                / 28.0,
            count(*) filter (where ordered_at >= '{UNTIL}') / 4.0
        from public.sales_order
        """,
    )[0]
    assert 0.75 < simulated / before < 1.25


def test_a_day_in_a_tiny_shop_is_mostly_new_orders(shop_url: str) -> None:
    generate(shop_url, rows=2, companies=1, customers=2, products=1, until=UNTIL, defects=0)
    before = planned(shop_url)
    counts = simulate_day(shop_url, changes=60, seed=1, day=UNTIL)
    assert sum(differences(before, planned(shop_url)).values()) == 60
    assert counts["sales_order_inserted"] + counts["order_item_inserted"] > 40
    assert counts["sales_order_deleted"] == counts["customer_deleted"] == 0


def test_a_day_can_bring_bad_lines_or_nothing(shop_url: str) -> None:
    generate(shop_url, **SMALL, defects=0)
    before = contents(shop_url)
    assert sum(simulate_day(shop_url, changes=0, seed=1).values()) == 0
    assert contents(shop_url) == before
    counts = simulate_day(shop_url, changes=500, seed=1, day=UNTIL, defects=0.1)
    bad = query(
        shop_url,
        "select count(distinct sales_order_id) from public.order_item"
        " where unit_price <= unit_price_default or discount_amount > quantity * unit_price",
    )
    assert [(counts["defects_order"],)] == bad
    assert counts["defects_order"] == round(0.1 * counts["sales_order_inserted"]) > 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [("default_transaction_read_only = on", "takes no writes"), ("transaction_timeout = '1ms'", "gave up")],
)
def test_shop_that_refuses_or_gives_up_is_named(shop_url: str, setting: str, message: str) -> None:
    with psycopg.connect(shop_url, autocommit=True) as connection:
        if setting.startswith("transaction_timeout") and connection.info.server_version < 170000:
            pytest.skip("PostgreSQL 16 has no transaction_timeout")
        connection.execute(f"alter database {connection.info.dbname} set {setting}".encode())
    with pytest.raises(GeneratorError, match=message):
        generate(shop_url, **SMALL)
    with pytest.raises(OrderApiError, match=message):
        prepare(shop_url)


def test_missing_schema_and_missing_history_are_reported(
    empty_database_url: Callable[[], str], shop_url: str
) -> None:
    with pytest.raises(GeneratorError, match="lacks a table"):
        generate(empty_database_url(), **SMALL)
    with pytest.raises(GeneratorError, match="lacks a table"):
        simulate_day(empty_database_url(), seed=1)
    with pytest.raises(GeneratorError, match="no day to simulate"):
        simulate_day(shop_url, seed=1)
    generate(shop_url, **SMALL)
    with pytest.raises(GeneratorError, match="lies in the future"):
        simulate_day(shop_url, seed=1, day=datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(GeneratorError, match="Nobody could order"):
        simulate_day(shop_url, changes=10, seed=1, day=UNTIL - timedelta(days=2000))
