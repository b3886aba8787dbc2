"""Sources as others have them: views, tables without a key, and two tables of one name in two schemas."""

from pathlib import Path

import pytest

from tests.integration.test_refused_rows import differences
from tests.pipeline import Pipeline
from warehouse.errors import SourceError
from warehouse.explain.explain import explain
from warehouse.sources.declaration import read_declaration
from warehouse.sources.source import Source, Table


def declare(folder: Path, text: str, sql: str) -> Source:
    (folder / "mall" / "conform").mkdir(parents=True, exist_ok=True)
    (folder / "mall" / "source.toml").write_text(text)
    (folder / "mall" / "conform" / "payment_method.sql").write_text(sql)
    return read_declaration(folder / "mall")


def review(pipeline: Pipeline, *tables: str) -> Source:
    return Source(
        "shop", "", tuple(Table("shop", name, "public", ("id", "part"), None) for name in tables), {}
    )


@pytest.mark.parametrize("kind", ["view", "materialized view", "table"])
def test_view_or_table_without_a_key_is_compared_by_the_declared_columns(
    pipeline: Pipeline, kind: str
) -> None:
    def changed(statement: str) -> dict[str, int]:
        pipeline.do(statement)
        if kind == "materialized view":
            pipeline.do("refresh materialized view thing")
        return pipeline.capture(source=source).counts("raw.shop_thing")

    source, base = review(pipeline, "thing"), "thing" if kind == "table" else "base"
    pipeline.do(
        f"create table {base} (id int, part int, note text)",
        f"insert into {base} select n, 1, 'x' from generate_series(1, 500) as n",
        *([] if kind == "table" else [f"create {kind} thing as select id, part, note from base"]),
    )
    assert pipeline.capture(source=source).counts("raw.shop_thing") == {"inserted": 500}
    assert changed(f"update {base} set note = 'y' where id in (3, 400)") == {"updated": 2}
    assert changed(f"insert into {base} values (501, 1, null), (501, 2, null)") == {"inserted": 2}
    assert changed(f"delete from {base} where id < 10") == {"deleted": 9}
    assert changed(f"update {base} set id = 1000 where id = 501 and part = 2") == {
        "inserted": 1,
        "deleted": 1,
    }
    assert changed("select 1") == {}
    assert pipeline.rows("select count(*)::int, max(id) from raw.shop_thing where not _is_deleted") == [
        (493, 1000)
    ]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [("(1, 1, 'x'), (1, 1, 'x')", "not unique"), ("(1, 1, 'x'), (2, null, 'y')", "null in some rows")],
)
@pytest.mark.parametrize("when", ["at first", "later"])
def test_declared_columns_that_do_not_identify_rows_are_refused(
    pipeline: Pipeline, rows: str, problem: str, when: str
) -> None:
    pipeline.do("create table base (id int, part int, note text)", "create view thing as select * from base")
    source = review(pipeline, "thing")
    if when == "later":
        pipeline.do("insert into base values (7, 7, 'z')")
        pipeline.capture(source=source)
    pipeline.do(f"insert into base values {rows}")
    with pytest.raises(SourceError) as error:
        pipeline.capture(source=source)
    assert (
        error.value.what == f"The key (id, part) that source 'shop' declares for public.thing is {problem}."
    )
    assert pipeline.rows("select to_regclass('raw.shop_thing') is not null") == [(when == "later",)]


def test_reconcile_of_a_view_distinguishes_pending_from_damaged_rows(pipeline: Pipeline) -> None:
    pipeline.do(
        "create table base (id int, part int, note text)",
        "insert into base select n, 1, 'x' from generate_series(1, 9) as n",
        "create view thing as select * from base",
    )
    source = review(pipeline, "thing")
    pipeline.capture(source=source)
    pipeline.do("update base set note = 'pending' where id = 1")
    assert differences(pipeline, source=source) == {}
    pipeline.warehouse.execute("update raw.shop_thing set note = 'damaged' where id = 2")
    assert differences(pipeline, source=source, repair=True) == {"thing": 1}
    pipeline.capture(source=source)
    assert pipeline.rows("select id, note from raw.shop_thing where id < 4 order by id") == [
        (1, "pending"), (2, "x"), (3, "x"),
    ]  # fmt: skip


TWO = """
[tables.crm_customer]
schema = "crm"
name = "customer"
key = ["id"]

[tables.customer]
schema = "till"
key = ["id"]

[entities.payment_method]
from = "customer"
unmapped_columns = ["changed_at"]

[entities.payment_method.joins]
crm_customer = "crm_customer.id = customer.crm_id"
"""
TWO_SQL = """
select customer.id::text as payment_method_id, crm_customer.name, 'card' as kind
from staging.mall_payment_method_changed_keys as changed
inner join raw.mall_customer as customer on changed.id = customer.id
left join raw.mall_crm_customer as crm_customer on customer.crm_id = crm_customer.id
where not customer._is_deleted
"""


def test_two_tables_of_one_name_in_two_schemas_are_captured_side_by_side(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    pipeline.do(
        "create schema crm",
        "create schema till",
        "create table crm.customer (id int primary key, name text)",
        "create table till.customer (id int primary key, crm_id int)",
        "insert into crm.customer values (1, 'Ana'), (2, 'Bo')",
        "insert into till.customer values (10, 1)",
    )
    source = declare(tmp_path, TWO, TWO_SQL)
    pipeline.capture(source=source)
    pipeline.do("update crm.customer set name = 'Eva' where id = 1", "delete from crm.customer where id = 2")
    pipeline.capture(source=source)
    assert pipeline.rows("select name from dwh.dim_payment_method where payment_method_key > 0") == [("Eva",)]
    assert pipeline.rows("select id, name, _is_deleted from raw.mall_crm_customer order by id") == [
        (1, "Eva", False), (2, "Bo", True),
    ]  # fmt: skip
    assert differences(pipeline, source=source) == {}
    (node,) = explain(
        pipeline.warehouse, [source], "payment_method", ("10",), readers={"mall": pipeline.shop}
    )
    titles = [child.title for child in node.children]
    assert "raw.mall_crm_customer id 1: mirror of crm.customer" in titles
