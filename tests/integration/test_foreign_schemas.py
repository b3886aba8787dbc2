"""Two shops as other people build them: what is proposed can be declared, and then follows every change."""

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pytest

from cli.table_checks import examine_table
from tests.integration.test_refused_rows import differences
from tests.pipeline import Pipeline, Row, content
from warehouse.errors import DeclarationError, SettingsError
from warehouse.explain.explain import explain
from warehouse.extract.catalog import source_columns
from warehouse.load.declaration_check import find_declaration_faults
from warehouse.load.replace_day import rederive
from warehouse.rebuild.damage import find_damaged
from warehouse.runs.audit import start_run
from warehouse.sources.declaration import read_declaration
from warehouse.sources.live_tables import read_live_tables
from warehouse.sources.propose import Proposal, propose
from warehouse.sources.source import Source
from warehouse.undo.undo import undo

# A marketplace: sellers by line, payments in instalments, reviews without a key; no stamps.
MARKETPLACE = """
    create table customers (customer_id text primary key, customer_city text, customer_state text);
    create table sellers (seller_id text primary key, seller_city text);
    create table products (product_id text primary key, product_category_name text);
    create table product_category_name_translation (product_category_name text primary key, english text not null);
    create table orders (
        order_id text primary key, customer_id text not null references customers, order_status text,
        order_purchase_timestamp timestamp
    );
    create table order_items (
        order_id text references orders, order_item_id integer, product_id text references products,
        seller_id text references sellers, price numeric, freight_value numeric, primary key (order_id, order_item_id)
    );
    create table order_payments (
        order_id text references orders, payment_sequential integer, payment_type text, payment_value numeric,
        primary key (order_id, payment_sequential)
    );
    create table order_reviews (review_id text, order_id text, review_score integer);
    insert into customers values ('c1', 'Lima', 'LI'), ('c2', 'Cusco', 'CU');
    insert into sellers values ('s1', 'Quito'), ('s2', 'Loja');
    insert into products values ('p1', 'perfumaria'), ('p2', null);
    insert into product_category_name_translation values ('perfumaria', 'perfumery');
    insert into orders values ('o1', 'c1', 'delivered', '2018-01-02 03:04'), ('o2', 'c2', 'canceled', '2018-01-03');
    insert into order_items values
        ('o1', 1, 'p1', 's1', 10, 2), ('o1', 2, 'p2', 's2', 5, 1), ('o2', 1, 'p1', 's1', 10, 2);
    insert into order_payments values ('o1', 1, 'voucher', 4), ('o1', 2, 'credit_card', 14), ('o2', 1, 'boleto', 12);
    insert into order_reviews values ('r1', 'o1', 4), ('r1', 'o2', 1);
"""
# A record shop: every name in capitals, lines with a key of their own, a tree of employees.
RECORDS = """
    create schema music;
    set search_path = music;
    create table "Artist" ("ArtistId" integer primary key, "Name" text);
    create table "Album" ("AlbumId" integer primary key, "Title" text, "ArtistId" integer references "Artist");
    create table "Track" (
        "TrackId" integer primary key, "Name" text, "AlbumId" integer references "Album", "UnitPrice" numeric(10, 2)
    );
    create table "Customer" ("CustomerId" integer primary key, "FirstName" text, "LastName" text, "Country" text);
    create table "Invoice" (
        "InvoiceId" integer primary key, "CustomerId" integer references "Customer", "InvoiceDate" timestamp
    );
    create table "InvoiceLine" (
        "InvoiceLineId" integer primary key, "InvoiceId" integer not null references "Invoice",
        "TrackId" integer references "Track", "UnitPrice" numeric(10, 2), "Quantity" integer
    );
    create table "Order" ("select" integer primary key, "group" text);
    insert into "Artist" values (1, 'AC'), (2, 'Accept');
    insert into "Album" values (1, 'Rock', 1), (2, 'Balls', 2);
    insert into "Track" values (1, 'For Those', 1, 0.99), (2, 'Balls', 2, 1.99);
    insert into "Customer" values (1, 'Luis', 'Gon', 'Brazil');
    insert into "Invoice" values (1, 1, '2009-01-01');
    insert into "InvoiceLine" values (1, 1, 1, 0.99, 1), (2, 1, 2, 1.99, 2);
    reset search_path;
"""


def declared(folder: Path, name: str, files: Mapping[str, str]) -> Source:
    for path, text in files.items():
        (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / path).write_text(text)
    return read_declaration(folder / name)


def proposed(pipeline: Pipeline, name: str, schema: str, **chosen: str) -> Proposal:
    return propose(name, read_live_tables(pipeline.shop, [schema]), chosen)


@pytest.fixture
def foreign(pipeline: Pipeline, request: pytest.FixtureRequest) -> Pipeline:
    """A database that holds somebody else's shop only."""
    pipeline.do("drop schema public cascade", "create schema public", request.param)
    return pipeline


@pytest.mark.parametrize(
    ("foreign", "name", "schema", "entities", "keys"),
    [
        (
            MARKETPLACE, "olist", "public", ["company", "customer", "order_item", "product"],
            ["order_id", "order_item_id"],
        ),
        (RECORDS, "chinook", "music", ["customer", "order_item", "product"], ["InvoiceId", "InvoiceLineId"]),
    ],
    indirect=["foreign"],
)  # fmt: skip
def test_what_is_proposed_can_be_declared_and_waits_in_quarantine_until_it_is_filled_in(
    foreign: Pipeline, tmp_path: Path, name: str, schema: str, entities: list[str], keys: list[str]
) -> None:
    proposal = proposed(foreign, name, schema)
    source = declared(tmp_path, name, proposal.files)
    assert sorted(source.entities) == entities
    assert source.entities["order_item"].table.key == tuple(keys)
    # Casts of times without a zone would be of UTC.
    assert not [text for text in proposal.files.values() if re.search(r"[^l]::timestamptz", text)]
    columns = {table: source_columns(foreign.shop, table) for table in source.tables}
    assert find_declaration_faults(foreign.warehouse, source, columns) == []
    foreign.capture(source=source)
    assert foreign.rows("select count(*)::int from dwh.fact_order_item") == [(0,)]
    assert foreign.rows(
        "select count(*)::int from audit.quarantine where entity = 'order_item' and resolved_at is null"
    ) == [(3 if name == "olist" else 2,)]
    # No mirror is taken for one that was dropped, which a run would rebuild from the archive.
    assert find_damaged(foreign.warehouse, source) == []
    assert differences(foreign, source=source) == {}


@pytest.mark.parametrize("foreign", [MARKETPLACE], indirect=True)
def test_a_column_that_the_sql_delivers_cannot_be_unmapped(foreign: Pipeline, tmp_path: Path) -> None:
    files = dict(proposed(foreign, "olist", "public").files)
    before, header, after = files["source.toml"].partition("[entities.customer]")
    files["source.toml"] = (
        before + header + after.replace("# unmapped_columns = []", 'unmapped_columns = ["email"]', 1)
    )
    source = declared(tmp_path, "olist", files)
    columns = {table: source_columns(foreign.shop, table) for table in source.tables}
    assert [fault.what for fault in find_declaration_faults(foreign.warehouse, source, columns)] == [
        "conform/customer.sql of source 'olist' delivers what is declared as unmapped: email."
    ]


# A shop of many tenants: every key begins with the tenant, whose name may be anything.
TENANTS = """
    create table customers (
        tenant text, id integer, name text, email text, country text, updated_at timestamptz, primary key (tenant, id)
    );
    create index on customers (updated_at);
    create table products (tenant text, sku text, name text, price text, primary key (tenant, sku));
    create table orders (
        tenant text, id integer, customer_id integer, status text, ordered_at timestamptz, primary key (tenant, id),
        unique (id, tenant)
    );
    create table order_lines (
        tenant text, id integer, order_id integer not null, sku text, quantity integer, primary key (tenant, id),
        foreign key (order_id, tenant) references orders (id, tenant), foreign key (tenant, sku) references products
    );
    create table warehouses (tenant text, code text, name text, primary key (tenant, code));
    create table stock_levels (
        tenant text, sku text, code text, quantity integer, primary key (tenant, sku, code),
        foreign key (tenant, sku) references products, foreign key (tenant, code) references warehouses
    );
    create table tips (tenant text, id integer, order_id integer, amount numeric, primary key (tenant, id));
    insert into customers
    select tenant, id, 'Ana', 'ana@example.com', 'AR', '2024-01-01'
    from unnest(array['1', '1-2', 'a/b', 'O''Neil "%2F"']) as tenant cross join generate_series(2, 3) as id;
    insert into products select tenant, sku, 'Hammer', '10' from customers cross join unnest(array['2', '%/']) as sku
    on conflict do nothing;
    insert into orders select distinct tenant, 1, 3, 'complete', '2024-03-10'::timestamptz from customers;
    insert into orders values ('a/b', 2, null, 'complete', '2024-03-11'), ('a/b', 3, 3, 'complete', '2024-03-12');
    insert into order_lines select tenant, 5, 1, '2', 2 from orders where id = 1;
    insert into order_lines values ('a/b', 6, 2, '%/', 1), ('1', 6, 1, null, 1), ('a/b', 7, 3, '2', 2);
    insert into warehouses values ('a/b', 'W,1', 'North'), ('1', 'W,1', 'South');
    insert into stock_levels values ('a/b', '%/', 'W,1', 7), ('1', '2', 'W,1', 8);
"""
TENANT_VALUES = {
    "product": {"price_amount": "products.price::numeric", "currency": "'USD'"},
    "order_item": {
        "unit_price_amount": "products.price::numeric + coalesce(tip.amount, 0)", "discount_amount": "0::numeric",
        "currency": "'USD'", "order_total_amount": "1::numeric",
    },
}  # fmt: skip
UNFIT_PRICE = ["does not fit: unit_price_amount"]
TIPS = """
left join raw.saas_products as products
    on order_lines.tenant = products.tenant and order_lines.sku = products.sku and not products._is_deleted
left join (
    select tenant, order_id, sum(amount) as amount from raw.saas_tips where not _is_deleted group by tenant, order_id
) as tip on order_lines.tenant = tip.tenant and order_lines.order_id = tip.order_id
where not order_lines._is_deleted"""


def filled(files: Mapping[str, str], values: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What is proposed, with values for columns that it marks as TODO; those without one are unmapped."""
    result = dict(files)
    for path in [one for one in files if one.startswith("conform/")]:
        entity, unmapped = path[len("conform/") : -len(".sql")], []
        lines = []
        for line in files[path].splitlines():
            if todo := re.match(r"    null::\w+ as (\w+),? -- TODO", line):
                value = values.get(entity, {}).get(todo[1])
                if value is None:
                    unmapped.append(todo[1])
                    continue
                line = f"    {value} as {todo[1]},"
            lines.append(
                re.sub(r",? -- .*", ",", line) if line.startswith("    ") and " as " in line else line
            )
        result[path] = "\n".join(lines).replace(",\nfrom ", "\nfrom ") + "\n"
        before, header, after = result["source.toml"].partition(f"[entities.{entity}]\n")
        after = after.replace("# unmapped_columns = []", f"unmapped_columns = {unmapped}", 1)
        result["source.toml"] = before + header + after
    return result


@pytest.mark.parametrize("foreign", [TENANTS], indirect=True)
def test_composite_keys_of_many_tenants_are_proposed_and_followed_by_the_declaration_alone(
    foreign: Pipeline, tmp_path: Path
) -> None:
    files = filled(proposed(foreign, "saas", "public").files, TENANT_VALUES)
    files["conform/order_item.sql"] = files["conform/order_item.sql"].replace(
        "\nwhere not order_lines._is_deleted", TIPS
    )
    files["source.toml"] = files["source.toml"].replace(
        "parents = { orders", 'parents = { products = ["tenant", "sku"], orders'
    )
    files["source.toml"] += "\n[entities.order_item.joins]\n" + (
        'tips = "tips.tenant = order_lines.tenant and tips.order_id = order_lines.order_id"\n'
    )
    source = declared(tmp_path, "saas", files)
    assert {name: (entity.table.key, entity.key) for name, entity in source.entities.items()} == {
        "customer": (("tenant", "id"), {"customer_id": ("tenant", "id")}),
        "product": (("tenant", "sku"), {"product_id": ("tenant", "sku")}),
        "distribution_center": (("tenant", "code"), {"distribution_center_id": ("tenant", "code")}),
        "order_item": (
            ("tenant", "order_id", "id"),
            {"order_id": ("tenant", "order_id"), "line_id": ("id",)},
        ),
        "inventory": (
            ("tenant", "sku", "code"),
            {"product_id": ("tenant", "sku"), "distribution_center_id": ("tenant", "code")},
        ),
    }
    columns = {table: source_columns(foreign.shop, table) for table in source.tables}
    assert find_declaration_faults(foreign.warehouse, source, columns) == []
    # A key that has more columns than are unique is guarded.
    notes = [note.what for table in source.tables for note in examine_table(foreign.shop, table)]
    assert not [what for what in notes if "guards" in what]
    foreign.capture(source=source)

    def lines() -> list[Row]:
        return foreign.facts(
            "customer.customer_id", "customer.name", "product.product_id", "fact.net_amount::integer"
        )

    neil = 'O\'Neil "%252F"'
    assert lines() == [
        ("1-2/1", "5", "1-2/3", "Ana", "1-2/2", 20),
        ("1/1", "5", "1/3", "Ana", "1/2", 20),
        (f"{neil}/1", "5", f"{neil}/3", "Ana", f"{neil}/2", 20),
        ("a%2Fb/1", "5", "a%2Fb/3", "Ana", "a%2Fb/2", 20),
        ("a%2Fb/2", "6", "", None, "a%2Fb/%25%2F", 10),
        ("a%2Fb/3", "7", "a%2Fb/3", "Ana", "a%2Fb/2", 20),
    ]
    stock = (
        "select product_id, distribution_center_id, mart.key_part(product_id, 1), quantity::integer "
        "from dwh.fact_inventory_day order by 1"
    )
    assert foreign.rows(stock) == [
        ("1/2", "1/W,1", "1", 8),
        ("a%2Fb/%25%2F", "a%2Fb/W,1", "a/b", 7),
    ]
    indexes = "select substring(indexdef from 'USING (.*)') from pg_indexes where tablename = %s order by 1"
    assert foreign.rows(indexes, "saas_order_lines") == [("btree (tenant, order_id, id)",), ("hash (sku)",)]
    waiting = ["product id is missing", "unit price is missing"]
    assert foreign.quarantined() == [(["1/1", "6"], waiting, None)]
    (node,) = explain(foreign.warehouse, [source], "order_item", [f"{neil}/1", "5"])
    assert [str(one.title) for one in node.children if "raw." in str(one.title)] == [
        'raw.saas_order_lines tenant O\'Neil "%2F", order_id 1, id 5: mirror of public.order_lines',
        'raw.saas_products tenant O\'Neil "%2F", sku 2: mirror of public.products',
        'raw.saas_orders tenant O\'Neil "%2F", id 1: mirror of public.orders',
    ]
    # A followed table, a parent, a new version, a moved line, deletes, and a value that does not fit: each of one
    # tenant, while other tenants have rows with the same numbers.
    foreign.do(
        "insert into tips values ('1-2', 1, 1, 3)",
        "update orders set customer_id = 2 where (tenant, id) = ('1', 1)",
        "update customers set name = 'Bea', updated_at = '2024-03-10 12:00+00' where (tenant, id) = ('a/b', 3)",
        "update order_lines set order_id = 2 where (tenant, id) = ('a/b', 5)",
        "update order_lines set sku = '2' where (tenant, id) = ('1', 6)",
        "delete from order_lines where tenant like 'O%'",
        "delete from orders where tenant like 'O%'",
        "delete from customers where tenant like 'O%' and id = 3",
        "update products set price = 'dear' where (tenant, sku) = ('a/b', '%/')",
        "delete from stock_levels where tenant = '1'",
    )
    before = content(foreign.warehouse)
    first = foreign.capture(source=source)
    with start_run(foreign.warehouse_url, flow="undo") as run:
        undo(run, first.run_id)
    assert content(foreign.warehouse) == before
    foreign.capture(source=source)
    changed = [
        ("1-2/1", "5", "1-2/3", "Ana", "1-2/2", 26),
        ("1/1", "5", "1/2", "Ana", "1/2", 20),
        ("1/1", "6", "1/2", "Ana", "1/2", 10),
        ("a%2Fb/2", "5", "", None, "a%2Fb/2", 20),
        ("a%2Fb/2", "6", "", None, "a%2Fb/%25%2F", 10),
        ("a%2Fb/3", "7", "a%2Fb/3", "Bea", "a%2Fb/2", 20),
    ]
    assert lines() == changed
    assert [one for one in foreign.versions("customer", "name", "is_current") if one[0][-1] == "3"] == [
        ("1-2/3", "Ana", True, "ever", "now"),
        ("1/3", "Ana", True, "ever", "now"),
        (f"{neil}/3", "Ana", False, "ever", "run 3"),
        ("a%2Fb/3", "Ana", False, "ever", "2024-03-10 12:00:00"),
        ("a%2Fb/3", "Bea", True, "2024-03-10 12:00:00", "now"),
    ]
    unfit = [(["a%2Fb/%25%2F"], ["does not fit: price_amount"], None), (["a%2Fb/2", "6"], UNFIT_PRICE, None)]
    assert foreign.quarantined() == [(["1/1", "6"], waiting, "released"), *unfit]
    assert differences(foreign, source=source) == {}
    # Rows of the star that somebody has damaged are found by their keys, and a day's by the mirrors' and the star's.
    foreign.warehouse.execute("update dwh.dim_customer set name = 'x' where customer_id like 'a%'")
    foreign.warehouse.execute("delete from dwh.fact_order_item where order_id = '1/1'")
    foreign.warehouse.execute(
        "update dwh.fact_order_item set order_id = 'a%2Fb/9' where line_id = '5' and order_id like 'a%'"
    )
    with start_run(foreign.warehouse_url, flow="backfill") as backfill:
        for day in (date(2024, 3, 10), date(2024, 3, 11)):
            rederive(backfill, source, day)
    assert differences(foreign, source=source, repair=True) == {"dwh.dim_customer": 3}
    assert lines() == changed
    assert differences(foreign, source=source) == {}
    for wrong, fault in (
        ("mart.composite_key(customers.id::text, customers.tenant::text)", "(customer_id) = (2/"),
        ("customers.id::text", "(customer_id) = ("),
        ("customers.tenant || '-' || customers.id", "(customer_id) = ("),
        (
            "mart.composite_key(customers.tenant, customers.id)",
            "mart.composite_key(text, integer) does not exist",
        ),
    ):
        right = "mart.composite_key(customers.tenant::text, customers.id::text)"
        sql = files["conform/customer.sql"].replace(right, wrong)
        with pytest.raises(DeclarationError) as error:
            foreign.capture(source=declared(tmp_path, "saas", {**files, "conform/customer.sql": sql}))
        assert fault in error.value.what
        assert "mart.composite_key(tenant" in error.value.hint
    files["conform/order_item.sql"] = files["conform/order_item.sql"].replace(
        "mart.composite_key(orders.tenant::text, orders.customer_id::text)", "orders.customer_id::text"
    )
    message = r"customer_id = [23], which no customer can have: it consists of tenant, id\."
    with pytest.raises(DeclarationError, match=message):
        foreign.capture(source=declared(tmp_path, "saas", files))


# As frameworks make tables: stamps under other names and of other precisions, names that need care.
FRAMEWORKS = """
    create table users (id uuid primary key, name text, created_at timestamp(6), updated_at timestamp(6));
    create table users_deleted (id int primary key, "updatedAt" timestamptz(3));
    create table "customer_changed_keys" (id int primary key, "modifiedDate" timestamp(0), updated date);
    create table "order.line" (id int primary key, write_date timestamp);
    create table order_line (id int primary key, last_update date);
    create table public_order_line (id int primary key, "Updated_At" timestamptz, last_update timestamptz);
    create table "in
two lines" ("i
d" int);
    create table changed (id int primary key, updated_at timestamptz);
    create table "binary" (code text not null, note text, unique (code) include (note));
    create table visit (id int, day date not null, primary key (day, id)) partition by range (day);
    create table visit_1 partition of visit for values from ('2024-01-01') to ('2025-01-01');
    insert into visit select id, '2024-03-01' from generate_series(1, 1000) as id;
    analyze visit_1;
"""


@pytest.mark.parametrize("foreign", [FRAMEWORKS], indirect=True)
def test_each_table_is_proposed_under_a_name_that_can_be_declared_with_the_stamp_of_its_framework(
    foreign: Pipeline, tmp_path: Path
) -> None:
    proposal = proposed(foreign, "web", "public")
    toml = proposal.files["source.toml"]
    assert "# about 1,000 rows, " in toml.partition("[tables.visit]")[0].rpartition("[tables.")[2]
    toml = toml.replace(
        '# [tables."in\\ntwo lines"]\n# key = []', '[tables."in\\ntwo lines"]\nkey = ["i\\nd"]'
    )
    source = declared(tmp_path, "web", {**proposal.files, "source.toml": toml})
    assert {table.name: (table.at_source[1], table.cursor) for table in source.tables} == {
        "users": ("users", "updated_at"),
        "public_users_deleted": ("users_deleted", "updatedAt"),
        "public_customer_changed_keys": ("customer_changed_keys", "modifiedDate"),
        "order_line": ("order.line", "write_date"),
        "public_order_line": ("order_line", None),
        "public_public_order_line": ("public_order_line", "Updated_At"),
        "in\ntwo lines": ("in\ntwo lines", None),
        "public_changed": ("changed", "updated_at"),
        "binary": ("binary", None),
        "visit": ("visit", None),
    }
    foreign.capture(source=source)
    assert differences(foreign, source=source) == {}


MARKET_SQL = """
    with payment as (
        select order_id, sum(payment_value) as amount from raw.olist_order_payments where not _is_deleted
            and order_id in (select order_id from staging.olist_order_item_changed_keys) group by order_id
    ),
    line_count as (
        select order_id, count(*) as lines from raw.olist_order_items where not _is_deleted
            and order_id in (select order_id from staging.olist_order_item_changed_keys) group by order_id
    )
    select
        line.order_id, line.order_item_id::text as line_id, orders.customer_id, line.product_id,
        orders.order_purchase_timestamp at time zone 'UTC' as ordered_at,
        case orders.order_status when 'delivered' then 'complete' when 'canceled' then 'cancelled' end as status,
        1::numeric as quantity, payment.amount / line_count.lines as unit_price_amount, 0::numeric as discount_amount,
        payment.amount as order_total_amount, 'BRL' as currency, true as has_customer, true as has_product
    from staging.olist_order_item_changed_keys as changed
    inner join raw.olist_order_items as line using (order_id, order_item_id)
    inner join line_count on line.order_id = line_count.order_id
    left join payment on line.order_id = payment.order_id
    left join raw.olist_orders as orders on line.order_id = orders.order_id and not orders._is_deleted
    where not line._is_deleted
"""
MARKET_TOML = """
[tables.orders]
key = ["order_id"]
[tables.order_items]
key = ["order_id", "order_item_id"]
[tables.order_payments]
key = ["order_id", "payment_sequential"]
[tables.order_reviews]
key = ["review_id", "order_id"]
[tables.products]
key = ["product_id"]
[tables.product_category_name_translation]
key = ["product_category_name"]

[entities.product]
from = "products"
unmapped_columns = [
    "company_id", "brand", "price_default_amount", "price_amount", "currency", "review_count", "sold_count",
    "changed_at",
]
[entities.product.joins]
product_category_name_translation = \\
    "product_category_name_translation.product_category_name = products.product_category_name"
order_items = "order_items.product_id = products.product_id"
order_reviews = "order_reviews.order_id = order_items.order_id"

[entities.order_item]
from = "order_items"
parents = { orders = ["order_id"] }
unmapped_columns = [
    "promotion_id", "payment_method_id", "distribution_center_id", "unit_price_default_amount", "returned_at",
    "lead_id", "recorded_at", "customer_name", "customer_document_number", "customer_birth_date", "changed_at",
]
[entities.order_item.joins]
order_items = "changed.order_id = order_items.order_id"
order_payments = "order_payments.order_id = order_items.order_id"
""".replace("\\\n    ", "")
MARKET_PRODUCT = """
    select
        products.product_id, products.product_id as name, translation.english as category,
        rated.average as rating_average
    from staging.olist_product_changed_keys as changed
    inner join raw.olist_products as products using (product_id)
    left join raw.olist_product_category_name_translation as translation
        on products.product_category_name = translation.product_category_name and not translation._is_deleted
    left join lateral (
        select avg(review_score) as average from raw.olist_order_reviews as review
        inner join raw.olist_order_items as line on review.order_id = line.order_id and not line._is_deleted
        where line.product_id = products.product_id and not review._is_deleted
    ) as rated on true
    where not products._is_deleted
"""


@pytest.mark.parametrize("foreign", [MARKETPLACE], indirect=True)
def test_payments_reviews_and_translations_of_a_marketplace_reach_its_lines_and_products(
    foreign: Pipeline, tmp_path: Path
) -> None:
    files = {
        "source.toml": MARKET_TOML,
        "conform/order_item.sql": MARKET_SQL,
        "conform/product.sql": MARKET_PRODUCT,
    }
    source = declared(tmp_path, "olist", files)

    def state() -> tuple[list[float], list[tuple[str, str | None, float | None]]]:
        lines = foreign.rows("select net_amount from dwh.fact_order_item order by order_id, line_id")
        products = foreign.rows(
            "select product_id, category, rating_average from dwh.dim_product "
            "where product_key > 0 and is_current order by 1"
        )
        return [float(amount) for (amount,) in lines], [
            (a, b, float(c) if c else None) for a, b, c in products
        ]

    foreign.capture(source=source)
    assert state() == ([9, 9, 12], [("p1", "perfumery", 2.5), ("p2", None, 4)])
    foreign.do(
        "update order_payments set payment_value = 16 where order_id = 'o1' and payment_sequential = 2"
    )
    foreign.capture(source=source)
    assert state()[0] == [10, 10, 12]
    foreign.do("update order_reviews set review_score = 5 where order_id = 'o2'")
    foreign.do("update product_category_name_translation set english = 'scents'")
    foreign.capture(source=source)
    assert state()[1] == [("p1", "scents", 4.5), ("p2", None, 4)]
    foreign.do(
        "insert into order_items values ('o2', 2, 'p2', 's2', 1, 1)",
        "delete from order_payments where payment_type = 'voucher'",
    )
    foreign.capture(source=source)
    assert state() == ([8, 8, 6, 6], [("p1", "scents", 4.5), ("p2", None, 4.5)])
    assert differences(foreign, source=source) == {}


CHINOOK_PRODUCT = """
    select
        track."TrackId"::text as product_id, track."Name" as name, artist."Name" as brand, album."Title" as category,
        track."UnitPrice" as price_amount, 'USD' as currency
    from staging.chinook_product_changed_keys as changed
    inner join raw."chinook_Track" as track on changed."TrackId" = track."TrackId"
    left join raw."chinook_Album" as album on track."AlbumId" = album."AlbumId" and not album._is_deleted
    left join raw."chinook_Artist" as artist on album."ArtistId" = artist."ArtistId" and not artist._is_deleted
    where not track._is_deleted
"""


@pytest.mark.parametrize("foreign", [RECORDS], indirect=True)
def test_an_artist_reaches_the_tracks_of_its_albums_under_names_in_capitals(
    foreign: Pipeline, tmp_path: Path
) -> None:
    files = dict(proposed(foreign, "chinook", "music", product="Track").files)
    assert '[tables.Order]\nkey = ["select"]' in files["source.toml"]
    section = '[entities.product]\nfrom = "Track"\nparents = { Album = ["AlbumId"] }\n'
    head = files["source.toml"].partition("[entities.")[0]
    files = {
        "source.toml": head + section + 'unmapped_columns = ["company_id", "price_default_amount", "rating_average", '
        '"review_count", "sold_count", "changed_at"]\n'
        """[entities.product.joins]\nArtist = '"Artist"."ArtistId" = "Album"."ArtistId"'\n""",
        "conform/product.sql": CHINOOK_PRODUCT,
    }  # fmt: skip
    source = declared(tmp_path, "chinook", files)
    foreign.capture(source=source)
    foreign.do("""update music."Artist" set "Name" = 'ACDC' where "ArtistId" = 1""")
    run = foreign.capture(source=source)
    assert foreign.versions("product", "name", "brand", "category") == [
        ("1", "For Those", "AC", "Rock", "ever", "run 2"),
        ("1", "For Those", "ACDC", "Rock", "run 2", "now"),
        ("2", "Balls", "Accept", "Balls", "ever", "now"),
    ]
    assert run.counts("dwh.dim_product")["read"] == 1
    assert differences(foreign, source=source) == {}


@pytest.mark.parametrize(
    ("chosen", "what"),
    [
        ({"planet": "orders"}, "The warehouse has no entity 'planet'."),
        ({"customer": "people"}, "There is no table 'people'."),
        (
            {"order_item": "orders"},
            "Table orders cannot be order_item: its key is (order_id), that of order_item (order_id, line_id).",
        ),
    ],
)
@pytest.mark.parametrize("foreign", [MARKETPLACE], indirect=True)
def test_what_cannot_be_proposed_is_refused(foreign: Pipeline, chosen: dict[str, str], what: str) -> None:
    with pytest.raises(SettingsError) as error:
        proposed(foreign, "olist", "public", **chosen)
    assert error.value.what == what
    if "cannot be" in what:
        assert error.value.hint.startswith("Declare its key by hand")


@pytest.mark.parametrize("foreign", [MARKETPLACE], indirect=True)
def test_tables_without_a_key_and_tables_of_one_name_are_named_in_the_proposal(foreign: Pipeline) -> None:
    foreign.do("create schema crm", "create table crm.customers (id int primary key, updated_at timestamptz)")
    proposal = propose("olist", read_live_tables(foreign.shop))
    assert "order_reviews has no key: name columns that identify a row." in proposal.notes
    toml = proposal.files["source.toml"]
    assert "# of: review_id, order_id, review_score\n" in toml and "# [tables.order_reviews]\n" in toml
    assert (
        '[tables.crm_customers]\nschema = "crm"\nname = "customers"\nkey = ["id"]\ncursor = "updated_at"'
        in toml
    )
    assert '[entities.customer]\nfrom = "public_customers"' in toml
    assert '# order_items = "order_items.product_id = products.product_id"' in toml


@pytest.mark.parametrize("foreign", [MARKETPLACE], indirect=True)
def test_table_without_columns_and_key_that_includes_others_are_proposed(foreign: Pipeline) -> None:
    foreign.do("create table hollow ()", "create table incl (id int not null, name text not null)")
    foreign.do("create unique index on incl (id) include (name)")
    proposal = propose("olist", read_live_tables(foreign.shop))
    assert "hollow has no key: name columns that identify a row." in proposal.notes
    assert '[tables.incl]\nkey = ["id"]\n' in proposal.files["source.toml"]


@pytest.mark.parametrize("foreign", [MARKETPLACE], indirect=True)
def test_a_table_that_inherits_is_proposed_with_a_note_that_its_rows_are_its_parents_too(
    foreign: Pipeline,
) -> None:
    foreign.do(
        "create table vip (discount int, primary key (customer_id)) inherits (customers)",
        "create table part (id int primary key) partition by range (id)",
        "create table part_1 partition of part for values from (1) to (9)",
    )
    proposal = propose("olist", read_live_tables(foreign.shop))
    assert [note for note in proposal.notes if "inherits" in note] == [
        "vip inherits from customers: its rows are read as rows of that table, too. Declare it only for columns of its "
        "own."
    ]
    assert (
        "# inherits from customers: its rows are read there, too\n[tables.vip]\n"
        in proposal.files["source.toml"]
    )


ERP = """
    create table res_partner (id int primary key, name text);
    create table product_product (id int primary key);
    create table stock_warehouse (id int primary key);
    create table sale_order (id int primary key, partner_id int references res_partner);
    create table sale_order_line (
        id int primary key, order_id int not null references sale_order, product_id int references product_product
    );
"""


@pytest.mark.parametrize("foreign", [ERP], indirect=True)
def test_tables_of_an_erp_are_recognized_and_others_are_named_with_the_option_to_choose_them(
    foreign: Pipeline,
) -> None:
    proposal = propose("erp", read_live_tables(foreign.shop))
    assert sorted(proposal.files) == [
        "conform/customer.sql", "conform/distribution_center.sql", "conform/order_item.sql", "conform/product.sql",
        "source.toml",
    ]  # fmt: skip
    assert [note for note in proposal.notes if "No table" in note] == [
        "No table was taken for company, promotion, payment_method, lead, order_lead, lead_conversion, inventory: "
        "where there is one, move the folder away and name it, as --entity company=TABLE."
    ]


VIEWS = """
    create table t_guest (guest_no integer primary key, name text, updated_at timestamptz);
    create table orders_raw (order_id integer, line_id integer, guest integer, primary key (order_id, line_id));
    create view customers as select guest_no as customer_id, name, updated_at from t_guest;
    create view v_totals as select guest, count(*) as lines from orders_raw group by guest;
    create materialized view sold as select guest, count(*) as lines from orders_raw group by guest;
    create unique index on sold (guest);
    insert into t_guest values (1, 'Ana', '2026-01-01'), (2, 'Bo', '2026-01-02');
"""


@pytest.mark.parametrize("foreign", [VIEWS], indirect=True)
def test_views_are_proposed_with_what_seems_to_be_their_key_and_read_where_an_entity_needs_them(
    foreign: Pipeline, tmp_path: Path
) -> None:
    proposal = proposed(foreign, "cafe", "public")
    toml = proposal.files["source.toml"]
    assert '# a view\n[tables.customers]\nkey = ["customer_id"]\ncursor = "updated_at"\n' in toml
    assert "# of: guest, lines\n# a view\n# [tables.v_totals]\n# key = []" in toml
    assert "# of: guest, lines\n# a materialized view\n# [tables.sold]\n# key = []" in toml
    assert set(proposal.notes) >= {
        "customers is a view: make sure that customer_id identifies a row.",
        "v_totals is a view: it is read only if you declare it, with columns that identify a row.",
        "sold is a materialized view: it is read only if you declare it, with columns that identify a row.",
    }
    source = declared(tmp_path, "cafe", proposal.files)
    assert sorted(table.name for table in source.tables) == ["customers", "orders_raw", "t_guest"]
    assert source.entities["customer"].table.name == "customers"
    foreign.capture(source=source)
    assert foreign.rows("select customer_id, name from raw.cafe_customers order by 1") == [
        (1, "Ana"),
        (2, "Bo"),
    ]
