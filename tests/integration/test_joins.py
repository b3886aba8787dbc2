"""Joins: what a source's SQL reads of other tables reaches the star when it changes there, or the SQL is refused."""

import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.integration.test_refused_rows import differences
from tests.pipeline import Captured, Pipeline
from warehouse.db.connections import connect
from warehouse.errors import DeclarationError
from warehouse.extract.catalog import source_columns
from warehouse.load.declaration_check import find_declaration_faults
from warehouse.sources.declaration import read_declaration
from warehouse.sources.source import Source

# Another people's shop: a purchase is paid in several payments, which have parts; rates are by currency and day.
MALL = (
    "create table purchase (id int primary key, grp text, currency text, day date, above int)",
    "create table payment (id int primary key, purchase_id int, amount int, note text)",
    "create table part (id int primary key, payment_id int, size int)",
    "create table rate (id int primary key, currency text, day date, rate int)",
    "create table setting (id int primary key, value text)",
)
TABLES = "".join(
    f'[tables.{name}]\nkey = ["id"]\n' for name in ("purchase", "payment", "part", "rate", "setting")
)
CHANGED = "from staging.mall_payment_method_changed_keys as changed inner join raw.mall_purchase as purchase using (id)"
PAYMENTS = """(select coalesce(sum(amount), 0) from raw.mall_payment as payment
    where payment.purchase_id = purchase.id and not payment._is_deleted)"""


def mall(folder: Path, name: str, joins: Mapping[str, str] | None = None, more: str = "") -> Source:
    """Declare the mall, whose purchases are conformed to payment methods of this `name`, an SQL expression."""
    lines = "".join(f"{table} = {condition}\n" for table, condition in (joins or {}).items())
    (folder / "mall" / "conform").mkdir(parents=True, exist_ok=True)
    (folder / "mall" / "source.toml").write_text(
        f'{TABLES}[entities.payment_method]\nfrom = "purchase"\nunmapped_columns = ["changed_at"]\n'
        + (f"[entities.payment_method.joins]\n{lines}" if joins else "")
        + more
    )
    (folder / "mall" / "conform" / "payment_method.sql").write_text(
        f"select purchase.id::text as payment_method_id, ({name})::text as name, 'card' as kind\n{CHANGED}\n"
        "where not purchase._is_deleted\n"
    )
    return read_declaration(folder / "mall")


@pytest.fixture
def opened(pipeline: Pipeline) -> Pipeline:
    """Two purchases with a payment each, and a third without any."""
    pipeline.do(
        *MALL,
        "insert into purchase values (1, 'a', 'USD', '2024-01-01', null), (2, 'a', 'EUR', '2024-01-02', 1), "
        "(3, 'b', 'USD', '2024-01-02', 2)",
        "insert into payment values (1, 1, 10, 'x'), (2, 2, 20, 'y')",
        "insert into part values (1, 1, 5), (2, 2, 7)",
        "insert into rate values (1, 'USD', '2024-01-01', 1), (2, 'USD', '2024-01-02', 2)",
        "insert into setting values (1, 'open')",
    )
    return pipeline


def names(mall: Pipeline) -> list[str]:
    """The conformed names, by key."""
    return [
        str(name)
        for (name,) in mall.rows(
            "select name from dwh.dim_payment_method where payment_method_key > 0 and not is_deleted "
            "order by payment_method_id"
        )
    ]


def conformed(run: Captured, table: str = "dim_payment_method") -> int:
    """How many keys a run conformed."""
    return run.counts(f"dwh.{table}").get("read", 0) if f"dwh.{table}" in run.loads else 0


def test_payment_of_an_order_that_changes_moves_comes_and_goes_reaches_its_orders(
    opened: Pipeline, tmp_path: Path
) -> None:
    source = mall(tmp_path, PAYMENTS, {"payment": '"payment.purchase_id = purchase.id"'})
    opened.capture(source=source)
    assert names(opened) == ["10", "20", "0"]
    for statement, expected, keys in (
        ("update payment set amount = 11 where id = 1", ["11", "20", "0"], 1),
        ("update payment set purchase_id = 3 where id = 1", ["0", "20", "11"], 2),
        ("insert into payment values (3, 1, 5)", ["5", "20", "11"], 1),
        ("delete from payment where id = 1", ["5", "20", "0"], 1),
        ("insert into payment values (1, 2, 1)", ["5", "21", "0"], 1),
        ("update payment set id = 9, purchase_id = 3 where id = 1", ["5", "20", "1"], 2),
        ("update payment set note = 'not read'", ["5", "20", "1"], 0),
    ):
        opened.do(statement)
        run = opened.capture(source=source)
        assert (statement, names(opened), conformed(run)) == (statement, expected, keys)
    assert differences(opened, source=source) == {}
    indexes = "select indexname from pg_indexes where tablename = 'mall_payment' and indexname like 'ix%'"
    assert opened.rows(indexes) == [("ix_mall_payment_purchase_id",)]


def test_part_of_a_payment_reaches_the_order_though_both_move_at_once(
    opened: Pipeline, tmp_path: Path
) -> None:
    parts = """select coalesce(sum(size), 0) from raw.mall_part as part
        inner join raw.mall_payment as payment on part.payment_id = payment.id
        where payment.purchase_id = purchase.id and not payment._is_deleted and not part._is_deleted"""
    joins = {
        "payment": '"payment.purchase_id = purchase.id"',
        "part": '"part.payment_id = payment.id"',
    }
    source = mall(tmp_path, parts, joins)
    opened.capture(source=source)
    assert names(opened) == ["5", "7", "0"]
    opened.do("update part set size = 6 where id = 1")
    assert conformed(opened.capture(source=source)) == 1
    assert names(opened) == ["6", "7", "0"]
    # Payment 1 moves from purchase 1 to 3 while its part moves to payment 2: only what was before leads to purchase 1.
    opened.do("update part set payment_id = 2 where id = 1; update payment set purchase_id = 3 where id = 1")
    opened.capture(source=source)
    assert names(opened) == ["0", "13", "0"]
    assert differences(opened, source=source) == {}


def test_rates_by_currency_and_day_reach_only_the_orders_of_that_currency_and_day(
    opened: Pipeline, tmp_path: Path
) -> None:
    rate = """select sum(rate) from raw.mall_rate as rate
        where rate.currency = purchase.currency and rate.day = purchase.day and not rate._is_deleted"""
    source = mall(
        tmp_path,
        f"coalesce(({rate}), 0)",
        {"rate": '"rate.currency = purchase.currency and rate.day = purchase.day"'},
    )
    opened.capture(source=source)
    assert names(opened) == ["1", "0", "2"]
    opened.do("update rate set rate = 3 where id = 2")
    assert conformed(opened.capture(source=source)) == 1
    opened.do("update rate set currency = 'EUR' where id = 2")
    assert conformed(opened.capture(source=source)) == 2
    assert names(opened) == ["1", "3", "0"]
    opened.do(
        "update purchase set day = '2024-01-02' where id = 1; update rate set currency = 'USD' where id = 2"
    )
    opened.capture(source=source)
    assert names(opened) == ["3", "0", "3"]
    assert differences(opened, source=source) == {}


def test_rows_that_depend_on_rows_of_their_own_table_change_together(
    opened: Pipeline, tmp_path: Path
) -> None:
    group = "select count(*) from raw.mall_purchase as other where other.grp = purchase.grp and not other._is_deleted"
    source = mall(tmp_path, group, {"purchase": '"changed.grp = purchase.grp"'})
    opened.capture(source=source)
    assert names(opened) == ["2", "2", "1"]
    opened.do("update purchase set grp = 'b' where id = 1")
    opened.capture(source=source)
    assert names(opened) == ["2", "1", "2"]
    opened.do("delete from purchase where id = 3")
    opened.capture(source=source)
    assert names(opened) == ["1", "1"]
    assert differences(opened, source=source) == {}


def test_path_through_a_tree_changes_for_every_row_below(opened: Pipeline, tmp_path: Path) -> None:
    path = """with recursive up as (
            select purchase.grp as path, purchase.above
            union all
            select higher.grp || up.path, higher.above from up
            inner join raw.mall_purchase as higher on up.above = higher.id and not higher._is_deleted
        ) select path from up order by length(path) desc limit 1"""
    source = mall(tmp_path, path, {"purchase": '"changed.id = purchase.above"'})
    opened.capture(source=source)
    assert names(opened) == ["a", "aa", "aab"]
    opened.do("update purchase set grp = 'c' where id = 1")
    assert conformed(opened.capture(source=source)) == 3
    assert names(opened) == ["c", "ca", "cab"]
    opened.do("update purchase set above = null where id = 2")
    opened.capture(source=source)
    assert names(opened) == ["c", "a", "ab"]
    assert differences(opened, source=source) == {}


VIEWS = (
    "create view raw.paid as select payment.purchase_id, payment.amount, part.size from raw.mall_payment as payment "
    "inner join raw.mall_part as part on part.payment_id = payment.id "
    "where not payment._is_deleted and not part._is_deleted",
    "create view raw.paid_by_purchase as select purchase_id, sum(amount * size) as total from raw.paid group by 1",
    "create function raw.total_of(wanted int) returns numeric stable language sql "
    "as 'select total from raw.paid_by_purchase where purchase_id = wanted'",
)


@pytest.mark.parametrize(
    "name",
    [
        "coalesce((select total from raw.paid_by_purchase as paid where paid.purchase_id = purchase.id), 0)",
        "coalesce(raw.total_of(purchase.id), 0)",
    ],
)
def test_mirrors_behind_views_and_functions_count_as_read(
    opened: Pipeline, tmp_path: Path, name: str
) -> None:
    opened.capture(source=mall(tmp_path, "'0'"))
    for statement in VIEWS:
        opened.warehouse.execute(statement.encode())
    with pytest.raises(DeclarationError) as error:
        opened.capture(source=mall(tmp_path, name), full_refresh=True)
    assert "reads raw.mall_part; raw.mall_payment. Nothing says which keys" in error.value.what
    joins = {"payment": '"payment.purchase_id = purchase.id"', "part": '"part.payment_id = payment.id"'}
    source = mall(tmp_path, name, joins)
    opened.capture(source=source, full_refresh=True)
    opened.do("update part set size = 6 where id = 1", "update payment set purchase_id = 1 where id = 2")
    opened.capture(source=source)
    assert names(opened) == ["200", "0", "0"]
    assert differences(opened, source=source) == {}


def test_table_that_concerns_every_row_and_one_that_may_be_stale(opened: Pipeline, tmp_path: Path) -> None:
    setting = (
        "(select value from raw.mall_setting) || coalesce((select max(rate)::text from raw.mall_rate), '')"
    )
    stale = '[entities.payment_method.stale]\nrate = "Rates of past days never change."\n'
    source = mall(tmp_path, setting, {"setting": '"true"'}, stale)
    opened.capture(source=source)
    opened.do("update rate set rate = 9")
    assert conformed(opened.capture(source=source)) == 0
    opened.do("update setting set value = 'shut'")
    assert conformed(opened.capture(source=source)) == 3
    assert names(opened) == ["shut9"] * 3


@pytest.mark.parametrize(
    ("name", "setup", "what", "lines"),
    [
        (
            PAYMENTS,
            "",
            "reads raw.mall_payment. Nothing says which keys of payment_method change with it",
            '[entities.payment_method.joins]\npayment = "payment.purchase_id = purchase.id"',
        ),
        (
            "select max(rate) from raw.mall_rate",
            "",
            "reads raw.mall_rate.",
            '[entities.payment_method.joins]\nrate = "rate.COLUMN = purchase.COLUMN"',
        ),
        (
            "select count(*) from raw.mall_purchase",
            "",
            "reads other rows of raw.mall_purchase beside the changed ones",
            '[entities.payment_method.joins]\npurchase = "changed.COLUMN = purchase.COLUMN"',
        ),
        (
            "select max(name) from dwh.dim_company",
            "",
            "reads dwh.dim_company, which is no mirror of a table of this source.",
            '[entities.payment_method.stale]\n"dwh.dim_company" = "why its changes need not be followed"',
        ),
        (
            "raw.hidden(purchase.id)",
            "create function raw.hidden(int) returns int stable language plpgsql as 'begin return 1; end'",
            "reads function raw.hidden, of which the database does not know what it reads (write it in SQL).",
            '[entities.payment_method.stale]\n"raw.hidden" = "why its changes need not be followed"',
        ),
        (
            "select max(value) from raw.copied",
            "create materialized view raw.copied as select 'x'::text as value",
            "reads raw.copied, which is no mirror",
            '"raw.copied" = "why',
        ),
    ],
)
def test_what_no_declaration_follows_is_refused_with_the_lines_to_add(
    opened: Pipeline, tmp_path: Path, name: str, setup: str, what: str, lines: str
) -> None:
    if setup:
        opened.warehouse.execute(setup.encode())
    with pytest.raises(DeclarationError) as error:
        opened.capture(source=mall(tmp_path, f"({name})"))
    assert what in error.value.what
    assert lines in error.value.hint
    assert error.value.what.startswith("conform/payment_method.sql of source 'mall' reads ")
    assert opened.rows("select to_regclass('raw.mall_purchase')") == [(None,)]
    # Said to be stale, it may be read.
    known_as = {"raw.mall_payment": "payment", "raw.mall_rate": "rate"}
    read = next((table for mirror, table in known_as.items() if mirror in name), None)
    read = read or ("purchase" if "mall_purchase" in name else f'"{lines.split(chr(34))[1]}"')
    stale = f'[entities.payment_method.stale]\n{read} = "So be it."\n'
    opened.capture(source=mall(tmp_path, f"({name})", more=stale))


def test_row_read_as_a_whole_changes_with_any_of_its_columns(opened: Pipeline, tmp_path: Path) -> None:
    whole = "select string_agg(to_jsonb(payment) ->> 'note', '') from raw.mall_payment as payment"
    whole = f"coalesce(({whole} where payment.purchase_id = purchase.id), '-')"
    source = mall(tmp_path, whole, {"payment": '"payment.purchase_id = purchase.id"'})
    opened.capture(source=source)
    opened.do("update payment set note = 'z' where id = 1")
    opened.capture(source=source)
    assert names(opened) == ["z", "y", "-"]


def test_join_that_the_database_refuses_is_named(opened: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(DeclarationError) as error:
        opened.capture(source=mall(tmp_path, PAYMENTS, {"payment": '"payment.order_no = purchase.id"'}))
    assert error.value.what == (
        "The join of payment in [entities.payment_method] of source 'mall' fails: "
        "column payment.order_no does not exist."
    )


def test_mirror_that_is_made_again_concerns_every_row_that_it_may_have_led_to(
    opened: Pipeline, tmp_path: Path
) -> None:
    source = mall(tmp_path, PAYMENTS, {"payment": '"payment.purchase_id = purchase.id"'})
    opened.capture(source=source)
    opened.warehouse.execute(
        "drop table raw.mall_payment; delete from audit.watermark where table_name = 'payment'"
    )
    opened.do("update payment set purchase_id = 3 where id = 1")
    opened.capture(source=source)
    assert names(opened) == ["0", "20", "10"]
    evolve = 'on_schema_change = "evolve"\n'
    text = (tmp_path / "mall" / "source.toml").read_text()
    (tmp_path / "mall" / "source.toml").write_text(evolve + text)
    opened.do(
        "alter table payment alter purchase_id type bigint; update payment set purchase_id = 1 where id = 2"
    )
    opened.capture(source=read_declaration(tmp_path / "mall"))
    assert names(opened) == ["20", "0", "10"]


EVERYTHING = f"""concat_ws('/',
    {PAYMENTS},
    (select sum(part.size) from raw.mall_part as part inner join raw.mall_payment as payment
        on part.payment_id = payment.id and not payment._is_deleted
        where payment.purchase_id = purchase.id and not part._is_deleted),
    (select string_agg(rate.rate::text, ',' order by rate.id) from raw.mall_rate as rate
        where rate.currency = purchase.currency and rate.day = purchase.day and not rate._is_deleted),
    (select string_agg(other.id::text, ',' order by other.id) from raw.mall_purchase as other
        where other.grp = purchase.grp and not other._is_deleted),
    (select string_agg(value, ',' order by id) from raw.mall_setting where not _is_deleted))"""
ALL_JOINS = {
    "payment": '"payment.purchase_id = purchase.id"',
    "part": '"part.payment_id = payment.id"',
    "rate": '["rate.currency = purchase.currency and rate.day = purchase.day"]',
    "purchase": '"changed.grp = purchase.grp"',
    "setting": '"true"',
}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
def test_after_any_history_the_star_is_as_a_fresh_load_makes_it(
    opened: Pipeline, tmp_path: Path, seed: int
) -> None:
    source, dice = mall(tmp_path, EVERYTHING, ALL_JOINS), random.Random(seed)
    columns = {
        "purchase": {"grp": ("'a'", "'b'"), "currency": ("'USD'", "'EUR'"), "day": ("'2024-01-01'", "'2024-01-02'")},
        "payment": {"purchase_id": ("1", "2", "3", "null"), "amount": ("1", "2")},
        "part": {"payment_id": ("1", "2", "3"), "size": ("1", "2")},
        "rate": {"currency": ("'USD'", "'EUR'"), "day": ("'2024-01-01'", "'2024-01-02'"), "rate": ("1", "2")},
        "setting": {"value": ("'x'", "'y'")},
    }  # fmt: skip

    def statement() -> str:
        # Settings, which concern every row, would hide what the others miss.
        table = dice.choices(list(columns), (3, 3, 3, 3, 0.2))[0]
        key, values = dice.randint(1, 4), {name: dice.choice(of) for name, of in columns[table].items()}
        assigned = ", ".join(f"{name} = {value}" for name, value in values.items())
        if dice.random() < 0.3:
            return f"delete from {table} where id = {key}"
        return (
            f"insert into {table} (id, {', '.join(values)}) values ({key}, {', '.join(values.values())}) "
            f"on conflict (id) do update set {assigned}"
        )

    opened.capture(source=source)
    for _ in range(8):
        opened.do("; ".join(statement() for _ in range(dice.randint(1, 6))))
        opened.capture(source=source)
        assert differences(opened, source=source) == {}, opened.runs


def found_before_a_run(opened: Pipeline, source: Source) -> list[str]:
    """What `dwh doctor` says about the SQL and the joins of a source."""
    columns = {table: source_columns(opened.shop, table) for table in source.tables}
    with connect(opened.warehouse_url) as connection:
        return [error.what for error in find_declaration_faults(connection, source, columns)]


def test_an_entity_that_is_declared_by_another_key_is_checked_by_that_key(
    opened: Pipeline, tmp_path: Path
) -> None:
    opened.capture(source=mall(tmp_path, "purchase.grp"))
    opened.do("alter table purchase add column no int generated always as (id + 10) stored unique")
    for file, old, new in (
        ("source.toml", '[tables.purchase]\nkey = ["id"]', '[tables.purchase]\nkey = ["no"]'),
        ("conform/payment_method.sql", "using (id)", "using (no)"),
        ("conform/payment_method.sql", "purchase.id::text as", "purchase.no::text as"),
    ):
        path = tmp_path / "mall" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    source = read_declaration(tmp_path / "mall")
    assert found_before_a_run(opened, source) == []
    opened.warehouse.execute("drop table raw.mall_purchase")
    assert found_before_a_run(opened, source) == []
    opened.capture(source=source, confirm_deletes=True)
    assert names(opened) == ["a", "a", "b"]
    assert differences(opened, source=source) == {}


def test_what_is_not_followed_is_found_before_the_first_run(opened: Pipeline, tmp_path: Path) -> None:
    def faults(source: Source) -> list[str]:
        return found_before_a_run(opened, source)

    assert faults(mall(tmp_path, PAYMENTS)) == [
        "conform/payment_method.sql of source 'mall' reads raw.mall_payment. Nothing says which keys of payment_method "
        "change with it, so they would go stale."
    ]
    joined = {"payment": '"payment.purchase_id = purchase.id"'}
    assert faults(mall(tmp_path, f"\n\n{PAYMENTS} as x", joined)) == [
        "conform/payment_method.sql of source 'mall' fails: syntax error at or near \"as\" (line 4)."
    ]
    assert faults(mall(tmp_path, PAYMENTS, joined)) == []
    assert opened.rows("select count(*) from pg_class where relname like 'mall%'") == [(0,)]
    opened.capture(source=mall(tmp_path, PAYMENTS, joined))
    opened.do("alter table payment drop column amount")
    toml = tmp_path / "mall" / "source.toml"
    declared = toml.read_text()
    toml.write_text(f'on_schema_change = "ignore"\n{declared}')
    assert faults(read_declaration(tmp_path / "mall")) == []
    toml.write_text(f'on_schema_change = "evolve"\n{declared}')
    assert faults(read_declaration(tmp_path / "mall")) == [
        "conform/payment_method.sql of source 'mall' reads amount of public.payment, which the source does not have "
        "any more: the next run stops."
    ]
    # No row has changed, and yet the run must not drop the column.
    with pytest.raises(DeclarationError, match='column "amount" does not exist') as error:
        opened.capture(source=read_declaration(tmp_path / "mall"))
    assert error.value.hint.startswith(
        "Changed keys have (id), and a mirror has the columns that its table has"
    )
    assert faults(mall(tmp_path, "select max(rate) from raw.mall_rate", joined)) != []


def test_order_reaches_all_its_lines_and_a_customer_those_of_its_orders(shop: Pipeline) -> None:
    shop.insert("customer", id=2, document_number="20999", name="Bea")
    for number, lines in ((1, 3), (2, 2), (3, 1)):
        shop.order(number, f"2024-03-0{number}", *({} for _ in range(lines)))
    shop.capture()

    def lines() -> list[tuple[object, ...]]:
        return shop.rows(
            "select order_id, count(*), min(ordered_at)::date::text, min(customer_id) from dwh.fact_order_item "
            "inner join dwh.dim_customer using (customer_key) group by order_id order by order_id"
        )

    shop.do(
        "update sales_order set customer_id = 2, ordered_at = '2024-03-11', updated_at = now() where id = 1"
    )
    assert conformed(shop.capture(), "fact_order_item") == 3
    assert lines() == [("1", 3, "2024-03-11", "2"), ("2", 2, "2024-03-02", "1"), ("3", 1, "2024-03-03", "1")]
    # An order and one of its lines; of the orders of a customer, who is a way further.
    shop.do(
        "update sales_order set ordered_at = '2024-03-12', updated_at = now() where id = 2",
        "update order_item set quantity = 7, updated_at = now() where sales_order_id = 2 and line_number = 1",
    )
    assert conformed(shop.capture(), "fact_order_item") == 2
    shop.do("update customer set document_number = '20998', updated_at = now() where id = 2")
    assert conformed(shop.capture(), "fact_order_item") == 3
    assert lines() == [("1", 3, "2024-03-11", "2"), ("2", 2, "2024-03-12", "1"), ("3", 1, "2024-03-03", "1")]
    assert differences(shop) == {}
