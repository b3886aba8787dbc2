"""Absurd values: each row that has one ends in the star or in quarantine, under its column, and no run stops for it."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import pytest

from tests.integration.test_quarantine import relaxing
from tests.integration.test_refused_rows import converting, differences
from tests.pipeline import Pipeline, Row
from warehouse.load import conform
from warehouse.load.marts import refresh
from warehouse.load.replace_day import rederive
from warehouse.model import contracts
from warehouse.model.declaration import Dimension, Fact, Target
from warehouse.model.mart import stored_marts
from warehouse.model.star import TARGETS as ALL_TARGETS
from warehouse.model.tables import batch_table
from warehouse.reconcile.reconcile import reconcile_source
from warehouse.runs.audit import start_run
from warehouse.sources.registry import read_source
from warehouse.sources.source import Source

SHOP = read_source("shop")
TARGETS = [target for target in ALL_TARGETS if target.entity in SHOP.entities]
FIRST = 1001
# Too long for an index, and not to be compressed.
LONG = f"'{''.join(hashlib.md5(str(n).encode()).hexdigest() for n in range(100))}'"
# By kind of type, SQL of texts that a source could hold.
ODD: Mapping[str, list[str]] = {
    "numeric": ["'NaN'", "'Infinity'", "'-Infinity'", "'1e40'", "'-1e40'", "'1e130000'", "'1e999999'", "'dear'"],
    "integer": ["'99999999999999999999'", "'1.5'", "'many'"],
    "bigint": ["'99999999999999999999'", "'many'"],
    "date": ["'infinity'", "'-infinity'", "'0044-03-15 BC'", "'5874897-12-31'", "'5874898-01-01'", "'soon'"],
    "timestamptz": ["'infinity'", "'-infinity'", "'0044-03-15 BC'", "'20000-01-01'", "'300000-01-01'", "'soon'"],
    "text": ["''", "' '", LONG, "repeat('x', 20000)"],
}  # fmt: skip
NATURAL_KEYS = [LONG, "null"]


Cell = tuple[str, str, str]


@dataclass(frozen=True)
class Cells:
    """Odd values to be tried: each in every column of its type, or in every so many, beginning with this."""

    begin: int = 0
    step: int = 1

    def of(self, target: Target) -> list[Cell]:
        """Column, type, and the SQL of a text that is odd there, in order."""
        every = [(one, cell) for one in TARGETS for cell in odd_cells(one)]
        counts, seen, chosen = Counter(cell[1:] for _, cell in every), Counter[tuple[str, str]](), []
        for one, cell in every:
            step = min(self.step, counts[cell[1:]])
            if one is target and seen[cell[1:]] % step == self.begin % step:
                chosen.append(cell)
            seen[cell[1:]] += 1
        return chosen


ALL, FEW, MANY, LENIENT = Cells(), Cells(0, 12), Cells(4, 12), Cells(8, 12)


def odd_cells(target: Target) -> Iterator[Cell]:
    """Column that the shop fills, its type, and the SQL of a text that is odd there, in order."""
    unmapped = SHOP.entities[target.entity].unmapped_columns
    derived = {f"{name}_id" for name in target.derived} if isinstance(target, Fact) else set()
    for column in batch_table(target).columns:
        if column.name in target.natural_key:
            # A key is the source's own: only texts can be odd, as a dimension's may be.
            if not isinstance(target, Dimension):
                continue
            yield from ((column.name, "text", value) for value in NATURAL_KEYS)
        elif not column.name.endswith("source_system") and column.name not in derived | unmapped:
            yield from ((column.name, column.type, value) for value in ODD.get(column.type, []))
            yield column.name, column.type, "null"


def with_odd_values(source: Source, odd: Cells) -> Source:
    """The shop, whose SQL delivers one odd value in each row whose number says so, cast to the column's type."""
    entities = dict(source.entities)
    for target in TARGETS:
        entity = source.entities[target.entity]
        if not (cells := odd.of(target)):
            continue
        types = {name: kind for name, kind, _ in cells}
        columns = [
            column.name
            for column in batch_table(target).columns
            if not column.name.endswith("source_system") and column.name not in entity.unmapped_columns
        ]
        selected = ", ".join(
            f"case when odd.name = '{name}' then odd.value::{types[name]} else made.{name} end as {name}"
            if name in types
            else f"made.{name}"
            for name in columns
            if not (isinstance(target, Fact) and name in {f"{one}_id" for one in target.derived})
        )
        values = ", ".join(
            f"('{number}', '{name}', {value}::text)"
            for number, (name, _, value) in enumerate(cells, start=FIRST)
        )
        entities[target.entity] = replace(
            entity,
            sql=f"select {selected} from ({entity.sql}) as made "
            f"left join (values {values}) as odd (id, name, value) on made.{target.natural_key[0]} = odd.id",
        )
    return replace(source, entities=entities)


@pytest.fixture
def lenient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contracts that ask for nothing but a key."""
    for target in TARGETS:
        (tmp_path / f"{target.entity}.yml").write_text(
            f"dataset: warehouse/dwh/staging/conformed_{target.entity}\n"
            f"columns:\n  - name: {target.natural_key[0]}\n    checks:\n      - missing:\n"
        )
    monkeypatch.setattr(contracts, "CHECKS", tmp_path)


def fill(shop: Pipeline, odd: Cells) -> None:
    """A row for each odd value, and one ordinary row, of every entity."""
    shop.without_foreign_keys()
    shop.insert("promotion")
    shop.order(1, "2024-03-10")
    shop.do("insert into inventory (product_id, distribution_center_id, quantity) values (1, 1, 5)")
    for target in TARGETS:
        for number, _ in enumerate(odd.of(target), start=FIRST):
            if isinstance(target, Dimension):
                own = {
                    "customer": {
                        "username": f"u{number}",
                        "email": f"{number}@x",
                        "document_number": str(number),
                    }
                }
                shop.insert(target.entity, id=number, **own.get(target.entity, {}))
            elif isinstance(target, Fact):
                shop.order(number, "2024-03-10")
            else:
                shop.do(
                    "insert into inventory (product_id, distribution_center_id, quantity) "
                    f"values ({number}, 1, 5)"
                )


def check_everything_is_somewhere(shop: Pipeline, source: Source, odd: Cells, *, only_unfit: bool) -> None:
    """Each row is in the star or waits, under a rule about its column; and a reconcile finds nothing."""
    for target in TARGETS:
        key = target.natural_key
        mirrored = shop.rows(
            f"select count(*)::integer from raw.{source.entities[target.entity].table.mirror}"
        )[0][0]
        present = (
            ""
            if not isinstance(target, Dimension)
            else (
                f"where {target.key} > 0 and not is_inferred"
                + (" and is_current" if target.has_history else "")
            )
        )
        published = {
            tuple(row) for row in shop.rows(f"select {', '.join(key)} from dwh.{target.table} {present}")
        }
        waiting: list[Row] = shop.rows(
            "select row_key, rules, reason from audit.quarantine where entity = %s and resolved_at is null",
            target.entity,
        )
        assert len(published) + len(waiting) == mirrored, target.entity
        assert not published & {tuple(row_key) for row_key, *_ in waiting}
        assert any(row[0] == "1" for row in published)
        cells = odd.of(target)
        for row_key, rules, _ in waiting:
            numbers = [int(part) for part in row_key if part and part.isdigit() and int(part) >= FIRST]
            if numbers and only_unfit:
                name = cells[numbers[0] - FIRST][0]
                assert all(rule.startswith("does not fit") for rule in rules)
                assert any(name in rule for rule in rules) or isinstance(target, Fact), (row_key, rules, name)
    assert differences(shop, source=source) == {}
    # Stored marts take the same values, all at once and line by line.
    with start_run(shop.warehouse_url, flow="refresh-marts") as run:
        refresh(run)
    shop.do("update order_item set quantity = quantity + 1", "update sales_order set updated_at = now()")
    shop.capture(source=source)
    with start_run(shop.warehouse_url, flow="refresh-marts") as run:
        refresh(run)
    with start_run(shop.warehouse_url, flow="reconcile") as run:
        verdicts = reconcile_source(run, source, shop.shop_url, repair=False)
    # Those of the calendar wait for the daily run.
    calendar = {f"mart.{mart.name}" for mart in stored_marts() if mart.kind == "daily"}
    assert {one.verdict for one in verdicts if one.table_name not in calendar} == {"equal"}
    assert {one.verdict for one in verdicts if one.table_name in calendar} <= {"equal", "stale"}


@pytest.mark.parametrize(
    ("is_large", "odd"),
    [
        pytest.param(False, FEW, id="few"),
        pytest.param(True, MANY, id="many"),
        pytest.param(False, ALL, marks=pytest.mark.slow, id="few, all values"),
        pytest.param(True, ALL, marks=pytest.mark.slow, id="many, all values"),
    ],
)
def test_rows_with_absurd_values_end_in_the_star_or_in_quarantine(
    shop: Pipeline, is_large: bool, odd: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_large:
        monkeypatch.setattr(conform, "PARALLEL_ABOVE", 1)
    source = with_odd_values(shop.source, odd)
    fill(shop, odd)
    shop.capture(source=source)
    check_everything_is_somewhere(shop, source, odd, only_unfit=False)


@pytest.mark.parametrize(
    "odd", [pytest.param(LENIENT, id="some"), pytest.param(ALL, marks=pytest.mark.slow, id="all")]
)
def test_rows_with_absurd_values_end_there_too_where_no_contract_foresees_them(
    shop: Pipeline, lenient: None, odd: Cells
) -> None:
    source = with_odd_values(shop.source, odd)
    fill(shop, odd)
    shop.capture(source=source)
    before = Counter(entity for (entity,) in shop.rows("select entity from audit.quarantine"))
    # judged again, and as bad as before: nothing is there twice
    for table in ("company", "customer", "product", "sales_order"):
        shop.do(f"update {table} set updated_at = '2024-08-01'")
    shop.capture(source=source)
    with start_run(shop.warehouse_url, flow="backfill") as run:
        rederive(run, source, date(2024, 3, 10))
    assert Counter(entity for (entity,) in shop.rows("select entity from audit.quarantine")) == before
    check_everything_is_somewhere(shop, source, odd, only_unfit=True)


def test_amount_that_is_too_large_only_when_it_is_calculated_waits_alone(shop: Pipeline) -> None:
    shop.do("alter table order_item alter quantity type numeric, alter unit_price type numeric")
    shop.order(1, "2024-03-10", {"quantity": "90000000000000", "unit_price": "90000000000000"}, {})
    source = relaxing(shop, **{"amounts are too large": "Some are in the currency of Zimbabwe."})
    run = shop.capture(source=source)
    assert shop.quarantined() == [
        (
            ["1", "1"],
            ["does not fit: gross_amount", "does not fit: net_amount", "does not fit: profit_amount"],
            None,
        )
    ]
    assert shop.facts("quantity::integer") == [("1", "2", 2)]
    assert run.counts("dwh.fact_order_item") == {"read": 2, "inserted": 1, "quarantined": 1}
    assert differences(shop, source=source) == {}
    with start_run(shop.warehouse_url, flow="backfill") as again:
        rederive(again, source, date(2024, 3, 10))
    assert (shop.facts("quantity::integer"), len(shop.quarantined())) == ([("1", "2", 2)], 1)
    shop.do("update order_item set quantity = 1 where line_number = 1")
    shop.capture(source=source)
    assert [resolution for *_, resolution in shop.quarantined()] == ["released"]


def test_row_for_which_a_rule_cannot_be_evaluated_waits_under_its_column(shop: Pipeline) -> None:
    shop.do("alter table order_item alter quantity type numeric, alter unit_price type numeric")
    shop.order(1, "2024-03-10", {"quantity": "1e100000", "unit_price": "1e100000"}, {})
    source = converting(
        shop.source,
        "order_item",
        "quantity * unit_price - discount_amount as amount",
        "quantity * 1000 as amount",
    )
    shop.capture(source=source)
    ((key, rules, _),) = shop.quarantined()
    assert key == ["1", "1"] and all(rule.startswith("does not fit: ") for rule in rules)
    assert "value overflows numeric format" in str(shop.rows("select reason from audit.quarantine")[0][0])
    assert shop.facts("quantity::integer") == [("1", "2", 2)]
    assert differences(shop, source=source) == {}


def test_value_that_cannot_be_converted_is_shown_as_the_source_has_it(shop: Pipeline) -> None:
    shop.do("alter table sales_order add ordered text", "alter table order_item add pieces text")
    shop.order(1, "2024-03-10", {"pieces": "two"}, {}, ordered="soon")
    source = converting(
        shop.source,
        "order_item",
        "sales_order.ordered_at,",
        "sales_order.ordered::timestamptz as ordered_at,",
    )
    source = converting(
        source,
        "order_item",
        "round(item.quantity::numeric, 3) as quantity",
        "item.pieces::numeric as quantity",
    )
    shop.capture(source=source)
    assert shop.rows(
        """
        select rules, row_data -> 'source' ->> 'pieces', row_data -> 'joined' -> 'sales_order' ->> 'ordered'
        from audit.quarantine order by row_key
        """
    ) == [
        (["does not fit: ordered_at", "does not fit: quantity"], "two", "soon"),
        (["does not fit: ordered_at"], None, "soon"),
    ]
    assert differences(shop, source=source, repair=True) == {}
    ages = shop.rows("select quarantine_id, quarantined_at from audit.quarantine order by 1")
    shop.do("update brand set name = 'Nut'")
    shop.capture(source=source)
    assert shop.rows("select quarantine_id, quarantined_at from audit.quarantine order by 1") == ages


def test_entries_that_a_reconcile_has_written_are_kept_by_the_next_load(shop: Pipeline) -> None:
    shop.do("alter table order_item add pieces text")
    shop.order(1, "2024-03-10", {"pieces": "two"}, {"pieces": "2", "status": "lost"})
    shop.insert("customer", id=2, name=None)
    source = converting(
        shop.source,
        "order_item",
        "round(item.quantity::numeric, 3) as quantity",
        "item.pieces::numeric as quantity",
    )
    shop.capture(source=source)
    columns = "quarantine_id, entity, rules, row_data, quarantined_at, resolution"
    entries = f"select {columns} from audit.quarantine order by 1"
    before = shop.rows(entries)
    shop.warehouse.execute("delete from audit.quarantine")
    assert differences(shop, source=source, repair=True) == {
        "audit.quarantine (customer)": 1,
        "audit.quarantine (order_item)": 2,
    }
    repaired = shop.rows(entries)
    assert sorted(str(row[1:3]) for row in repaired) == sorted(str(row[1:3]) for row in before)
    shop.do("update brand set name = 'Nut'", "update customer set updated_at = '2024-08-01' where id = 2")
    shop.capture(source=source)
    assert shop.rows(entries) == repaired
