"""Reconcile: what is corrupted in any layer is found, named and mended, and nothing else is touched."""

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from generators.shop import generate, simulate_day
from stack.postgres import EmbeddedPostgres
from tests.pipeline import Pipeline, content
from tests.weblog_lake import BRAZIL, line, lines, make_lake
from warehouse.db.connections import connect
from warehouse.errors import DifferencesFound, SchemaDrift
from warehouse.load import marts
from warehouse.reconcile.reconcile import reconcile_source, reconcile_weblog_files, stop_on_differences
from warehouse.reconcile.verdict import MOST_LISTED, Verdict
from warehouse.runs.audit import start_run
from warehouse.sources.source import SchemaPolicy, Table

UNTIL = datetime(2026, 1, 1, tzinfo=UTC)
Found = Counter[tuple[str, str]]


@pytest.fixture(scope="module")
def lived(
    postgres: EmbeddedPostgres, shop_template: str, warehouse_template: str
) -> Iterator[tuple[str, str]]:
    """Templates of a shop and its warehouse after three days with history, holes, quarantine and stored marts."""
    names = f"lived_shop_{uuid.uuid4().hex[:8]}", f"lived_warehouse_{uuid.uuid4().hex[:8]}"
    for name, template in zip(names, (shop_template, warehouse_template), strict=True):
        postgres.create_database(name, template)
    shop = Pipeline(postgres.url(names[0]), postgres.url(names[1]))
    generate(shop.shop_url, rows=200, companies=20, customers=80, products=60, until=UNTIL, defects=0.05)
    shop.insert("promotion", id=9001, code="GONE")
    shop.do(
        "delete from order_item where sales_order_id = (select max(id) from sales_order) and line_number > 1"
    )
    shop.capture()
    for day in range(2):
        simulate_day(shop.shop_url, changes=150, seed=day, defects=0.1)
        if day:
            shop.do("delete from promotion where id = 9001")
        shop.capture()
    shop.await_open_transactions()
    shop.capture()
    with start_run(shop.warehouse_url, flow="refresh-marts") as run:
        marts.refresh(run)
    shop.close()
    yield names
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def shop(lived: tuple[str, str], database: Callable[[str], str]) -> Iterator[Pipeline]:
    """A copy of both."""
    made = Pipeline(database(lived[0]), database(lived[1]))
    # The copied shop is another database than the one that the copied warehouse has read.
    made.warehouse.execute(
        "update audit.watermark set database_oid = %s, database_name = %s",
        made.shop.execute(
            "select oid::bigint, datname from pg_database where datname = current_database()"
        ).fetchone(),
    )
    yield made
    made.close()


def reconcile(shop: Pipeline, *, repair: bool = False) -> tuple[Verdict, ...]:
    with start_run(shop.warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_source(run, shop.source, shop.shop_url, repair=repair)
        stop_on_differences(verdicts)
    return verdicts


def problems(verdicts: Sequence[Verdict]) -> Found:
    return Counter((d.table_name, d.problem) for verdict in verdicts for d in verdict.differences)


@dataclass(frozen=True)
class Corruption:
    """Something done to the warehouse behind the engine's back, and the differences that it makes."""

    table: str
    problem: str
    statement: str
    rows: int = 1


# Each takes a row of its own; constraints that would bar one are dropped before.
UNBARRED = """
    alter table dwh.dim_customer drop constraint ex_dim_customer_overlap;
    alter table dwh.dim_customer drop constraint ck_dim_customer_is_current;
    drop index dwh.uq_dim_customer_current;
"""
# As a damaged index would have it: the key is there, and does not see the row.
UNSEEN = """
    update pg_index set indisready = false where indexrelid = '{index}'::regclass;
    {statement};
    update pg_index set indisready = true where indexrelid = '{index}'::regclass
"""
# The n-th of the rows that fulfil a condition.
NTH = "(select {key} from {table} where {where} order by {key} offset {n} limit 1)"


def nth(n: int, table: str, key: str, where: str = "true") -> str:
    return NTH.format(n=n, table=table, key=key, where=where)


NOW = "is_current and customer_key > 0"


def sold(n: int) -> str:
    """Condition on the n-th line that was bought and not returned."""
    return (
        "(order_id, line_id) = (select order_id, line_id from dwh.fact_order_item where customer_key > 0 "
        f"and status = 'complete' and order_id ~ '^[0-9]+$' order by 1, 2 offset {n} limit 1)"
    )


PAST = "not is_current and not is_inferred"
CORRUPTIONS = {
    "a mirrored value": Corruption(
        "raw.shop_customer",
        "changed",
        f"update raw.shop_customer set name = 'O''Brien \"%s\" {{}}' where id = {nth(0, 'raw.shop_customer', 'id')}",
    ),
    "a mirrored value that equals another in value alone": Corruption(
        "raw.shop_order_item",
        "changed",
        "update raw.shop_order_item set discount_amount = discount_amount + 0.01 "
        "where (sales_order_id, line_number) = "
        "(select sales_order_id, line_number from raw.shop_order_item order by 1, 2 limit 1)",
    ),
    "a mirrored row that is missing": Corruption(
        "raw.shop_product",
        "missing",
        f"delete from raw.shop_product where id = {nth(0, 'raw.shop_product', 'id')}",
    ),
    "a mirrored row that is marked as deleted": Corruption(
        "raw.shop_company",
        "missing",
        f"update raw.shop_company set _is_deleted = true where id = {nth(0, 'raw.shop_company', 'id')}",
    ),
    "a mirrored row that the source never had": Corruption(
        "raw.shop_customer",
        "extra",
        "insert into raw.shop_customer select (forged).* from (select jsonb_populate_record(c, '{\"id\": 99999999}') "
        "as forged from raw.shop_customer as c limit 1) as one",
    ),
    "a mirrored row that is there twice": Corruption(
        "raw.shop_brand",
        "duplicated",
        UNSEEN.format(
            index="raw.pk_shop_brand",
            statement="insert into raw.shop_brand select * from raw.shop_brand limit 1",
        ),
    ),
    "an attribute of a present version": Corruption(
        "dwh.dim_customer",
        "changed",
        f"update dwh.dim_customer set loyalty_tier = 'x' where customer_key = "
        f"{nth(1, 'dwh.dim_customer', 'customer_key', NOW)}",
    ),
    "an untracked attribute": Corruption(
        "dwh.dim_customer",
        "changed",
        f"update dwh.dim_customer set email = 'x' where customer_key = "
        f"{nth(2, 'dwh.dim_customer', 'customer_key', NOW)}",
    ),
    "an attribute of a past version": Corruption(
        "dwh.dim_customer",
        "changed",
        f"update dwh.dim_customer set country = 'XX' where customer_key = "
        f"{nth(0, 'dwh.dim_customer', 'customer_key', PAST)}",
    ),
    "a past version that is missing": Corruption(
        "dwh.dim_customer",
        "missing",
        f"delete from dwh.dim_customer where customer_key = {nth(1, 'dwh.dim_customer', 'customer_key', PAST)}",
    ),
    "a present version that is missing": Corruption(
        "dwh.dim_product",
        "missing",
        "delete from dwh.dim_product where product_key = (select product_key from dwh.dim_product "
        "inner join dwh.fact_order_item using (product_key) where is_current and product_key > 0 order by 1 limit 1)",
    ),
    "a version of a member that never was": Corruption(
        "dwh.dim_company",
        "extra",
        "insert into dwh.dim_company (source_system, company_id, name, valid_from, row_hash, run_id) "
        "values ('shop', '99999999', 'Forged', '1900-01-01', 0, 1)",
    ),
    "a version that never was of a member that is": Corruption(
        "dwh.dim_customer",
        "extra",
        "insert into dwh.dim_customer (source_system, customer_id, valid_from, valid_to, is_current, row_hash, run_id, "
        "expired_by_run_id) select source_system, customer_id, '1950-01-01', '1960-01-01', false, 0, 1, 1 "
        f"from dwh.dim_customer where customer_key = {nth(3, 'dwh.dim_customer', 'customer_key', NOW)}",
    ),
    "a wrong begin": Corruption(
        "dwh.dim_product",
        "changed",
        "update dwh.dim_product set valid_from = valid_from + interval '1 hour' where product_key = "
        f"{nth(2, 'dwh.dim_product', 'product_key', 'is_current and product_key > 0')}",
    ),
    "a wrong end": Corruption(
        "dwh.dim_product",
        "changed",
        "update dwh.dim_product set valid_to = valid_to - interval '1 second' where product_key = "
        f"{nth(0, 'dwh.dim_product', 'product_key', PAST)}",
    ),
    "versions that overlap": Corruption(
        "dwh.dim_customer",
        "changed",
        "update dwh.dim_customer set valid_to = valid_to + interval '1 day' where customer_key = "
        f"{nth(2, 'dwh.dim_customer', 'customer_key', PAST)}",
    ),
    "a past version that says it is present": Corruption(
        "dwh.dim_customer",
        "changed",
        "update dwh.dim_customer set is_current = true where customer_key = "
        f"{nth(3, 'dwh.dim_customer', 'customer_key', PAST)}",
    ),
    "a present version that says it is past": Corruption(
        "dwh.dim_customer",
        "changed",
        "update dwh.dim_customer set is_current = false where customer_key = "
        f"{nth(5, 'dwh.dim_customer', 'customer_key', NOW)}",
    ),
    "a run that did not close it": Corruption(
        "dwh.dim_product",
        "changed",
        "update dwh.dim_product set expired_by_run_id = null where product_key = "
        f"{nth(1, 'dwh.dim_product', 'product_key', PAST)}",
    ),
    "a member without history": Corruption(
        "dwh.dim_payment_method",
        "changed",
        "update dwh.dim_payment_method set name = 'x' where payment_method_key = "
        f"{nth(0, 'dwh.dim_payment_method', 'payment_method_key', 'payment_method_key > 0')}",
    ),
    "a member without history that is missing": Corruption(
        "dwh.dim_distribution_center",
        "missing",
        "delete from dwh.dim_distribution_center where distribution_center_key = (select distribution_center_key "
        "from dwh.fact_order_item where distribution_center_key > 0 order by 1 limit 1)",
    ),
    "a member that vanished and says that it did not": Corruption(
        "dwh.dim_promotion",
        "changed",
        "update dwh.dim_promotion set is_deleted = false where promotion_id = '9001'",
    ),
    "an amount": Corruption(
        "dwh.fact_order_item",
        "changed",
        f"update dwh.fact_order_item set net_amount = net_amount + 0.01 where {sold(0)}",
    ),
    "a key that names nobody": Corruption(
        "dwh.fact_order_item",
        "changed",
        f"update dwh.fact_order_item set promotion_key = -1 where {sold(1)}",
    ),
    "a key of another customer": Corruption(
        "dwh.fact_order_item",
        "changed",
        "update dwh.fact_order_item set customer_key = (select max(customer_key) from dwh.dim_customer "
        "where is_current and customer_id <> '99999999') "
        f"where {sold(2)}",
    ),
    "a fact that is missing": Corruption(
        "dwh.fact_order_item",
        "missing",
        f"delete from dwh.fact_order_item where {sold(3)}",
    ),
    "a fact that never was": Corruption(
        "dwh.fact_order_item",
        "extra",
        "insert into dwh.fact_order_item select (forged).* from (select jsonb_populate_record(f, "
        "'{\"order_id\": \"Robert''); drop table dwh.fact_order_item; --\"}') as forged "
        "from dwh.fact_order_item as f limit 1) as one",
    ),
    "a fact that is there twice": Corruption(
        "dwh.fact_order_item",
        "duplicated",
        UNSEEN.format(
            index="dwh.pk_fact_order_item",
            statement=f"insert into dwh.fact_order_item select * from dwh.fact_order_item where {sold(4)}",
        ),
    ),
    "a day of the calendar": Corruption(
        "dwh.dim_date", "changed", "update dwh.dim_date set month_name = 'Brumaire' where date_key = 20240310"
    ),
    "a day that is missing": Corruption(
        "dwh.dim_date", "missing", "delete from dwh.dim_date where date_key = 20251103"
    ),
    "a line that waits no more": Corruption(
        "audit.quarantine (order_item)",
        "missing",
        "delete from audit.quarantine where quarantine_id = "
        + nth(0, "audit.quarantine", "quarantine_id", "resolved_at is null"),
    ),
    "a line that waits for nothing": Corruption(
        "audit.quarantine (order_item)",
        "extra",
        "insert into audit.quarantine (run_id, source, entity, row_key, rules, reason, row_data) values "
        "(1, 'shop', 'order_item', array['1', '99'], array['x'], 'x', '{}')",
    ),
}
# What keeps no trace: the change log records nothing.
WITHOUT_TRACE = "set session_replication_role = replica"


def corrupt(shop: Pipeline, names: Sequence[str]) -> Found:
    """Do all of `names`; the differences that they make."""
    expected: Found = Counter()
    shop.warehouse.execute(UNBARRED.encode())
    for name in names:
        one = CORRUPTIONS[name]
        assert shop.warehouse.execute(one.statement.encode()).rowcount == one.rows, name
        expected[one.table, one.problem] += one.rows
    return expected


def assert_seen_by_index(shop: Pipeline, table: str, column: str, index: str) -> None:
    """Whoever reads a table in the order of `column` by an `index`, as its plan names it, sees every row."""
    [(all_rows,)] = shop.rows(f"select count(*) from {table}")
    with shop.warehouse.transaction():
        shop.warehouse.execute(b"set local enable_seqscan = off; set local enable_bitmapscan = off")
        by_index = f"select count(*) from (select * from {table} order by {column} offset 0) as one"
        assert index in str(shop.rows(f"explain {by_index}"))
        assert shop.rows(by_index) == [(all_rows,)], table


@pytest.mark.parametrize("trace", [pytest.param("with a trace", marks=pytest.mark.slow), "without a trace"])
def test_corruption_of_every_layer_is_found_named_and_repaired(shop: Pipeline, trace: str) -> None:
    undisturbed = content(shop.warehouse)
    waiting = shop.rows("select row_key, rules from audit.quarantine where resolved_at is null order by 1")
    if trace == "without a trace":
        shop.warehouse.execute(WITHOUT_TRACE.encode())
    expected = corrupt(shop, list(CORRUPTIONS))
    damaged = content(shop.warehouse)
    with pytest.raises(DifferencesFound) as error:
        reconcile(shop)
    assert error.value.exit_code == 3 and "dwh reconcile --repair" in error.value.hint
    # told without a trace of what was tried
    assert content(shop.warehouse) == damaged
    mended = reconcile(shop, repair=True)
    assert problems(mended) == expected
    assert content(shop.warehouse) == undisturbed
    assert waiting == shop.rows(
        "select row_key, rules from audit.quarantine where resolved_at is null order by 1"
    )
    # Indexes that had let a copy in see every row again.
    assert_seen_by_index(shop, "dwh.fact_order_item", "source_system", "Index")
    assert_seen_by_index(shop, "raw.shop_brand", "id", "Index")
    assert {verdict.verdict for verdict in reconcile(shop)} == {"equal"}
    assert shop.capture().changes() == {}


def test_every_wrong_key_of_a_line_whose_newer_state_waits_is_repaired(shop: Pipeline) -> None:
    [(order_id, line_id, customer_id, product_id)] = shop.rows(
        "select order_id, line_id, customer_id, product_id from dwh.fact_order_item "
        "inner join dwh.dim_customer using (customer_key) inner join dwh.dim_product using (product_key) "
        f"where {sold(5)}"
    )
    # Its members get newer versions, and the line a state that is refused.
    shop.do(
        f"update customer set name = name || ' II' where id = {customer_id}",
        f"update product set name = name || ' II' where id = {product_id}",
    )
    shop.capture()
    line = f"sales_order_id = {order_id} and line_number = {line_id}"
    shop.do(f"update order_item set quantity = 0 where {line}")
    shop.capture()
    undisturbed = content(shop.warehouse)
    fact = f"order_id = '{order_id}' and line_id = '{line_id}'"
    assert shop.rows(f"select has_quarantined_update from dwh.fact_order_item where {fact}") == [(True,)]
    shop.warehouse.execute(
        f"""
        update dwh.fact_order_item set
            customer_key =
                (select customer_key from dwh.dim_customer where customer_id = '{customer_id}' and is_current),
            product_key = (select product_key from dwh.dim_product where product_id = '{product_id}' and is_current)
        where {fact}
        """.encode()
    )
    assert content(shop.warehouse) != undisturbed
    assert problems(reconcile(shop, repair=True)) == {("dwh.fact_order_item", "changed"): 2}
    assert content(shop.warehouse) == undisturbed
    assert {verdict.verdict for verdict in reconcile(shop)} == {"equal"}


def test_copy_is_removed_where_other_versions_overlap_until_they_are_repaired(shop: Pipeline) -> None:
    undisturbed = content(shop.warehouse)
    indexes = "indrelid = 'dwh.dim_customer'::regclass"
    shop.warehouse.execute(
        f"""
        update pg_index set indisready = false where {indexes};
        insert into dwh.dim_customer select * from dwh.dim_customer
        where customer_key = {nth(0, "dwh.dim_customer", "customer_key", NOW)};
        update dwh.dim_customer set valid_to = valid_to + interval '1 day'
        where customer_key = {nth(0, "dwh.dim_customer", "customer_key", PAST)};
        update pg_index set indisready = true where {indexes}
        """.encode()
    )
    found = problems(reconcile(shop, repair=True))
    assert {problem: rows for (table, problem), rows in found.items() if table == "dwh.dim_customer"} == {
        "duplicated": 1,
        "changed": 1,
    }
    assert content(shop.warehouse) == undisturbed
    assert_seen_by_index(shop, "dwh.dim_customer", "customer_key", "pk_dim_customer")
    assert {verdict.verdict for verdict in reconcile(shop)} == {"equal"}


def test_web_logs_that_were_corrupted_are_found_named_and_repaired(
    tmp_path: Path, warehouse_url: str
) -> None:
    lake = make_lake(tmp_path, warehouse_url)
    lake.put(
        "a.log", lines(0, 40) + b"no access log\n" + line(50, user="ana", request="GET /product/7 HTTP/1.1")
    )
    lake.put("b.log", line(60, address=BRAZIL, user="ana") + line(61, address=BRAZIL, agent="-"))
    lake.load()

    def reconcile(*, repair: bool = False) -> tuple[Verdict, ...]:
        with start_run(warehouse_url, flow="reconcile") as run:
            verdicts = reconcile_weblog_files(run, repair=repair)
            stop_on_differences(verdicts)
        return verdicts

    assert {verdict.verdict for verdict in reconcile()} == {"equal"}
    with connect(warehouse_url, autocommit=True) as warehouse:
        undisturbed = content(warehouse, ("dwh",))
        warehouse.execute(
            b"""
            update dwh.agg_weblog_country set request_count = request_count + 1 where country = 'AR';
            delete from dwh.agg_weblog_country where country = 'BR';
            update dwh.agg_weblog_device set user_count = 7 where device_key = 0;
            insert into dwh.agg_weblog_day values ('2026-11-21', 'view', 3, 1);
            delete from dwh.agg_weblog_country_product;
            delete from dwh.agg_weblog_country_user where country = 'BR';
            update dwh.agg_weblog_device_user set last_seen_date = '2026-01-01';
            insert into dwh.fact_weblog select * from dwh.fact_weblog where file_id = 1 and line_number = 3;
            insert into dwh.fact_weblog select (forged).* from (select jsonb_populate_record(one, '{"line_number": 99}')
                as forged from dwh.fact_weblog as one where file_id = 2 limit 1) as rows;
            """
        )
        with pytest.raises(DifferencesFound):
            reconcile()
        pairs = warehouse.execute("select count(*) from dwh.agg_weblog_device_user").fetchone() or (0,)
        assert problems(reconcile(repair=True)) == {
            ("dwh.agg_weblog_country", "changed"): 1,
            ("dwh.agg_weblog_country", "missing"): 1,
            ("dwh.agg_weblog_device", "changed"): 1,
            ("dwh.agg_weblog_day", "extra"): 1,
            ("dwh.agg_weblog_country_product", "missing"): 1,
            ("dwh.agg_weblog_country_user", "missing"): 1,
            ("dwh.agg_weblog_device_user", "changed"): pairs[0],
            ("dwh.fact_weblog", "duplicated"): 1,
            ("dwh.fact_weblog", "extra"): 1,
        }
        assert content(warehouse, ("dwh",)) == undisturbed
        # A line that is gone is in its file alone.
        warehouse.execute(b"delete from dwh.fact_weblog where file_id = 1 and line_number = 3")
        with pytest.raises(DifferencesFound) as error:
            reconcile(repair=True)
    assert problems(error.value.verdicts)["dwh.fact_weblog", "unrepairable"] == 1
    assert "file_id 1, line_number 3, path a.log: unrepairable" in error.value.what
    assert "runbook" in error.value.hint


# --- news is no damage ----------------------------------------------------------------------------------------


def pending(verdicts: Sequence[Verdict]) -> dict[str, int]:
    return {verdict.table_name: verdict.rows_pending for verdict in verdicts if verdict.rows_pending}


def test_what_the_source_has_changed_since_the_last_run_is_no_difference(shop: Pipeline) -> None:
    before = content(shop.warehouse)
    shop.do(
        "update customer set name = 'News', updated_at = null where id = (select min(id) from customer)",
        "delete from order_item where (sales_order_id, line_number) in (select sales_order_id, line_number "
        "from order_item order by 1, 2 limit 3)",
    )
    shop.insert("customer", id=90_000_001)
    verdicts = reconcile(shop)
    assert pending(verdicts) == {"customer": 2, "order_item": 3}
    assert {verdict.verdict for verdict in verdicts} == {"equal"}
    assert pending(reconcile(shop, repair=True)) == {"customer": 2, "order_item": 3}
    assert content(shop.warehouse) == before
    assert shop.capture().counts("raw.shop_customer").keys() >= {"inserted", "updated"}


def test_mapping_that_was_edited_is_found_in_rows_that_no_source_has_changed_and_brought_to_them(
    shop: Pipeline,
) -> None:
    company = shop.source.entities["company"]
    edited = replace(company, sql=company.sql.replace("company.name,", "upper(company.name) as name,"))
    shop.source = replace(shop.source, entities={**shop.source.entities, "company": edited})
    before = content(shop.warehouse)
    with pytest.raises(DifferencesFound) as error:
        reconcile(shop)
    found = problems(error.value.verdicts)
    assert content(shop.warehouse) == before
    (current,) = shop.rows("select count(*) from dwh.dim_company where is_current and company_key > 0")[0]
    assert {table for table, _ in found} == {"dwh.dim_company"}
    assert problems(reconcile(shop, repair=True)) == found
    assert shop.rows(
        "select count(*) from dwh.dim_company where is_current and company_key > 0 and name = upper(name)"
    ) == [(current,)]
    assert {verdict.verdict for verdict in reconcile(shop)} == {"equal"}
    assert shop.capture().changes() == {}


def test_damaged_and_pending_rows_of_one_chunk_are_distinguished(shop: Pipeline) -> None:
    """Four rows in sixty-four chunks: by hand, all rows are brought into one."""
    shop.do(
        "create table thing (id int primary key, name text)",
        "insert into thing values (1, 'a'), (2, 'b'), (3, 'c')",
    )
    shop.source = replace(shop.source, tables=(Table("shop", "thing", "public", ("id",), None),), entities={})
    buckets = (
        "select n from generate_series(1, 20000) as n where hash_record_extended(row(n), 0) & 63 = 7 limit 4"
    )
    shop.do("truncate thing", f"insert into thing select n, 'old' from ({buckets}) as one (n)")
    shop.await_open_transactions()
    shop.capture()
    ids = [key for (key,) in shop.shop.execute("select id from thing order by id").fetchall()]
    shop.do(f"update thing set name = 'news' where id = {ids[0]}", f"delete from thing where id = {ids[1]}")
    shop.warehouse.execute(f"update raw.shop_thing set name = 'forged' where id = {ids[2]}".encode())
    with pytest.raises(DifferencesFound) as error:
        reconcile(shop)
    (verdict,) = [v for v in error.value.verdicts if v.table_name == "thing"]
    assert (verdict.rows_pending, [str(d) for d in verdict.differences]) == (
        2, [f"raw.shop_thing id {ids[2]}: changed (name is 'forged', should be 'old')"],
    )  # fmt: skip
    reconcile(shop, repair=True)
    assert shop.rows("select id, name from raw.shop_thing order by id") == [(key, "old") for key in ids]


@pytest.mark.parametrize(
    ("change", "pending"),
    [
        ("alter table thing attach partition later for values in ('b')", 20),
        ("alter type mood rename value 'glad' to 'happy'", 20),
    ],
)
def test_rows_that_come_or_change_without_a_transaction_are_pending_and_no_damage(
    shop: Pipeline, change: str, pending: int
) -> None:
    columns = "(id int, half text not null, feels mood default 'glad', note text"
    shop.do(
        "create type mood as enum ('sad', 'glad')",
        f"create table thing {columns}, primary key (id, half)) partition by list (half)",
        "create table thing_a partition of thing for values in ('a')",
        f"create table later {columns}, primary key (id, half))",
        "insert into thing select n, 'a' from generate_series(1, 20) as n",
        "insert into later select n, 'b' from generate_series(1, 20) as n",
    )
    table = Table("shop", "thing", "public", ("id", "half"), None)
    shop.source = replace(shop.source, tables=(table,), entities={})
    shop.await_open_transactions()
    shop.capture()
    shop.do(change)

    def verdict() -> Verdict:
        (one,) = [one for one in reconcile(shop, repair=True) if one.table_name == "thing"]
        return one

    assert (verdict().rows_pending, verdict().rows_differing) == (pending, 0)
    shop.warehouse.execute("update raw.shop_thing set note = 'forged' where id = 7")
    assert [one.row_key for one in verdict().differences] == [{"id": "7", "half": "a"}]
    shop.capture()
    assert (verdict().rows_pending, verdict().rows_differing) == (0, 0)
    assert shop.rows("select id, half, feels, note from raw.shop_thing order by 2, 1") == [
        (*row,) for row in shop.shop.execute("select id, half, feels::text, note from thing order by 2, 1")
    ]


def test_key_that_was_respelled_by_hand_is_damage(shop: Pipeline) -> None:
    """Equal, and not the same: 1.00 and 1.0."""
    shop.do("create table thing (id numeric primary key)", "insert into thing values (1.00)")
    shop.source = replace(shop.source, tables=(Table("shop", "thing", "public", ("id",), None),), entities={})
    shop.capture()
    shop.warehouse.execute("update raw.shop_thing set id = 1.0")
    with pytest.raises(DifferencesFound) as error:
        reconcile(shop)
    (verdict,) = [v for v in error.value.verdicts if v.table_name == "thing"]
    assert [str(d) for d in verdict.differences] == [
        "raw.shop_thing id 1.00: changed (id is '1.0', should be '1.00')"
    ]
    reconcile(shop, repair=True)
    assert shop.rows("select id::text from raw.shop_thing") == [("1.00",)]


def test_key_of_another_type_is_loaded_before_it_is_reconciled(shop: Pipeline) -> None:
    shop.do("create table thing (id int primary key)", "insert into thing values (1)")
    thing = Table("shop", "thing", "public", ("id",), None, SchemaPolicy(changed_type="evolve"))
    shop.source = replace(shop.source, tables=(thing,), entities={})
    shop.capture()
    shop.do("alter table thing alter id type bigint", "insert into thing values (3000000000)")
    with pytest.raises(SchemaDrift) as error:
        reconcile(shop, repair=True)
    assert error.value.what == (
        "Table public.thing of source 'shop' has changed since it was read last: its key id is new or of another type, "
        "and rows are matched by it."
    )
    assert error.value.hint == "Load it first: `dwh run shop`."
    shop.capture()
    assert {verdict.verdict for verdict in reconcile(shop) if verdict.table_name == "thing"} == {"equal"}
    assert shop.rows("select id from raw.shop_thing order by 1") == [(1,), (3_000_000_000,)]


def test_damage_hides_neither_behind_the_net_nor_behind_the_cursor(shop: Pipeline) -> None:
    """Rows that every run reads again, and rows that transactions in flight bring into the net."""
    with connect(shop.shop_url) as late:
        late.execute("update brand set name = name where id = (select min(id) from brand)")
        shop.insert("customer", id=90_000_001)
        shop.capture()
        before = content(shop.warehouse)
        shop.warehouse.execute(b"update raw.shop_customer set name = 'Forged' where id = 90000001")
        shop.warehouse.execute(b"insert into raw.shop_customer (id, _run_id) values (90000002, 1)")
        with pytest.raises(DifferencesFound) as error:
            reconcile(shop)
        assert problems(error.value.verdicts) == {
            ("raw.shop_customer", "changed"): 1, ("raw.shop_customer", "extra"): 1,
        }  # fmt: skip
        reconcile(shop, repair=True)
        assert content(shop.warehouse) == before


def test_a_mart_that_was_repaired_has_one_source(shop: Pipeline) -> None:
    shop.warehouse.execute("delete from mart.sales_by_day")
    assert [
        one.rows_repaired > 0 for one in reconcile(shop, repair=True) if one.table_name == "mart.sales_by_day"
    ] == [True]
    assert shop.rows("select source from mart.table_freshness where table_name = 'mart.sales_by_day'") == [
        ("mart",)
    ]


def test_mirror_that_was_emptied_is_filled_again_and_a_source_that_was_emptied_is_news(
    shop: Pipeline,
) -> None:
    before = content(shop.warehouse)
    shop.warehouse.execute(
        b"delete from raw.shop_order_item where not _is_deleted; delete from raw.shop_customer where not _is_deleted; "
        b"truncate dwh.fact_order_item"
    )
    mended = reconcile(shop, repair=True)
    assert content(shop.warehouse) == before
    (fact,) = [v for v in mended if v.table_name == "dwh.fact_order_item"]
    assert (fact.rows_differing, len(fact.differences)) == (fact.rows_expected, MOST_LISTED)
    assert fact.amounts["net_amount"]["found"] is None and fact.amounts["net_amount"]["expected"]
    ((lines,),) = shop.shop.execute("select count(*) from order_item")
    shop.do("truncate order_item")
    assert pending(reconcile(shop, repair=True)) == {"order_item": lines}
    assert content(shop.warehouse) == before
