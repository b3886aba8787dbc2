"""Contracts: Soda and the quarantine judge alike, a gate stops the run, a wrong contract is told."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from tests.pipeline import Pipeline, content
from tests.weblog_lake import lines, make_lake
from warehouse.db.connection_errors import is_of_statement
from warehouse.db.connections import connect
from warehouse.errors import DeclarationError, QualityGateStopped
from warehouse.load.batch import Batch
from warehouse.load.contract import verify
from warehouse.load.conversion import create_unconvertible
from warehouse.load.quarantine import find_failing, move_failing
from warehouse.model import contracts as declared
from warehouse.model.contracts import CHECKS, read_contract
from warehouse.model.star import FACTS
from warehouse.runs.audit import start_run

LINE = {
    "source_system": "'shop'", "order_id": "'1'", "line_id": "'1'", "customer_id": "'1'", "product_id": "'1'",
    "ordered_at": "'2024-03-10'", "status": "'complete'", "quantity": "2", "unit_price_default_amount": "80",
    "unit_price_amount": "100", "discount_amount": "10", "order_total_amount": "190", "recorded_at": "'2024-03-10'",
    "has_customer": "true", "has_product": "true", "customer_name": "'Ana'", "customer_document_number": "'20111222'",
    "customer_birth_date": "'1990-05-17'",
}  # fmt: skip
# By rule, every value that breaks it, whatever else that breaks.
BREAKS = {
    "order id is missing": [{"order_id": "null"}],
    "line id is missing": [{"line_id": "null"}],
    "product id is missing": [{"product_id": "null"}],
    "order time is missing": [{"ordered_at": "null"}],
    "status is missing": [{"status": "null"}],
    "quantity is missing": [{"quantity": "null"}],
    "unit price is missing": [{"unit_price_amount": "null"}],
    "discount is missing": [{"discount_amount": "null"}],
    "order total is missing": [{"order_total_amount": "null"}],
    "record timestamp is missing": [{"recorded_at": "null"}],
    "order total is not positive": [{"order_total_amount": "0"}, {"order_total_amount": "-0.0001"}],
    "order total is not above the line's base price": [{"order_total_amount": "80"}, {"order_total_amount": "79.9999"}],
    "unit price is not above the base price": [{"unit_price_default_amount": "100"}, {"unit_price_amount": "79"}],
    "base price is not positive": [{"unit_price_default_amount": "0"}, {"unit_price_default_amount": "-1"}],
    "unit price is not positive": [{"unit_price_amount": "0"}, {"unit_price_amount": "-100"}],
    "unit price is not a number": [{"unit_price_amount": "'NaN'"}],
    "quantity is not positive": [{"quantity": "0"}, {"quantity": "-2"}, {"quantity": "'NaN'"}],
    "discount is not between 0 and the gross amount": [
        {"discount_amount": "-0.01"}, {"discount_amount": "200.01"}, {"discount_amount": "'NaN'"},
    ],
    "amounts are too large": [
        {"quantity": "1e12"}, {"unit_price_amount": "99999999999999"}, {"unit_price_amount": "'Infinity'"},
        {"quantity": "1.007", "unit_price_amount": "99304865938430.9831"},
        {"quantity": "0.001", "unit_price_amount": "1e14", "discount_amount": "0"},
        {"quantity": "1e15", "unit_price_amount": "0.001", "unit_price_default_amount": "null"},
    ],
    "status is unknown": [{"status": "'Complete'"}, {"status": "''"}],
    "order time is outside the calendar": [{"ordered_at": "'1899-12-31 23:59:59'"}, {"ordered_at": "'2100-01-01'"}],
    "return time is outside the calendar": [{"returned_at": "'1899-12-31 23:59:59'"}, {"returned_at": "'infinity'"}],
}  # fmt: skip
ALMOST = [
    {"order_total_amount": "80.0001"}, {"unit_price_default_amount": "99.9999"}, {"unit_price_default_amount": "null"},
    {"discount_amount": "0"}, {"discount_amount": "200"}, {"quantity": "0.001", "discount_amount": "0"},
    {"quantity": "1.001", "unit_price_amount": "99900099900099.9"},
    {"ordered_at": "'1900-01-01'"}, {"ordered_at": "'2099-12-31 23:59:59.999999'"}, {"returned_at": "'2024-04-01'"},
    {"customer_name": "null", "customer_document_number": "null", "customer_birth_date": "null"},
]  # fmt: skip


def fill(connection: psycopg.Connection, *lines: dict[str, str]) -> None:
    for number, broken in enumerate(lines, start=1):
        line = {**LINE, "line_id": f"'{number}'", **broken}
        connection.execute(
            f"insert into staging.conformed_order_item ({', '.join(line)}) values ({', '.join(line.values())})".encode()
        )


def test_soda_counts_what_the_quarantine_takes_rule_by_rule(pipeline: Pipeline) -> None:
    """In one transaction that nobody else can see, and that is then taken back."""
    contract = read_contract("order_item")
    lines = [(rule, values) for rule, broken in BREAKS.items() for values in broken]
    with (
        start_run(pipeline.warehouse_url, flow="ingest-shop") as run,
        connect(pipeline.warehouse_url) as connection,
    ):
        fill(connection, *(values for _, values in lines), *ALMOST)
        results = verify(connection, contract, "shop")
        batch = Batch(connection, run.run_id, pipeline.source.entities["order_item"], FACTS[0])
        create_unconvertible(batch)
        find_failing(batch, contract.row_rules)
        moved = move_failing(batch)
        taken = connection.execute(
            "select unnest(rules), count(*) from pg_temp.failing_rows group by 1"
        ).fetchall()
        by_line: dict[str | None, list[str]] = dict(
            connection.execute("select row_data ->> 'line_id', rules from pg_temp.failing_rows").fetchall()
        )
        left = connection.execute("select count(*) from staging.conformed_order_item").fetchone()
        connection.rollback()
    counted = {r.check_name: int(r.measured or 0) for r in results if r.level == "quarantine"}
    assert {name: count for name, count in counted.items() if count} == dict(taken)
    assert counted.keys() == BREAKS.keys()
    for number, (rule, values) in enumerate(lines, start=1):
        assert rule in by_line[None if "line_id" in values else str(number)], values
    assert (moved, left) == ((len(lines), len(lines)), (len(ALMOST),))
    assert {r.rows_checked for r in results} == {len(lines) + len(ALMOST)}
    assert pipeline.rows("select count(*) from staging.conformed_order_item") == [(0,)]


# --- gates ----------------------------------------------------------------------------------------------------


@pytest.fixture
def contracts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of contracts of this test alone, at first a copy of the real ones."""
    for path in CHECKS.iterdir():
        if path.name.endswith(".yml"):
            (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(declared, "CHECKS", tmp_path)
    return tmp_path / "order_item.yml"


def with_rule(contract: Path, rule: str) -> None:
    contract.write_text(contract.read_text() + rule)


FEW_ROWS = """
  - row_count:
      name: there are enough lines
      threshold:
        must_be_greater_than: 3
"""


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_contract_that_is_missing_or_empty_stops_the_run_before_anything_is_read(
    shop: Pipeline, contracts: Path, damage: str
) -> None:
    promotion = contracts.with_name("promotion.yml")
    promotion.unlink()
    if damage == "empty":
        promotion.write_text("dataset: warehouse/dwh/staging/conformed_promotion\n")
    before = content(shop.warehouse, ("raw", "dwh", "staging"))
    with pytest.raises(DeclarationError, match=f"contract .*promotion.*{damage}") as error:
        shop.capture(shop_url="postgresql://127.0.0.1:1/is_not_even_asked")
    assert error.value.exit_code == 2
    assert content(shop.warehouse, ("raw", "dwh", "staging")) == before
    assert shop.run_states() == [("ingest-shop", "failed", error.value.what)]


def test_web_logs_are_not_read_without_their_contract(
    tmp_path: Path, warehouse_url: str, contracts: Path
) -> None:
    contracts.with_name("weblog.yml").unlink()
    lake = make_lake(tmp_path / "lake", warehouse_url)
    lake.put("access.log", lines(1, 3))
    with pytest.raises(DeclarationError, match="There is no data contract for weblog"):
        lake.load()
    assert lake.rows("select path from audit.file") == []


def test_dataset_rule_stops_the_run_and_keeps_what_it_measured(shop: Pipeline, contracts: Path) -> None:
    with_rule(contracts, FEW_ROWS)
    shop.order(1, "2024-03-10")
    before = content(shop.warehouse, ("raw", "dwh"))
    with pytest.raises(QualityGateStopped) as error:
        shop.capture()
    assert error.value.exit_code == 3
    assert error.value.what == (
        "The contract of order_item stopped the run: "
        "there are enough lines (measured 1, wanted must be greater than: 3)."
    )
    assert content(shop.warehouse, ("raw", "dwh")) == before
    assert shop.rows("select count(*) from audit.load") == [(0,)]
    assert shop.rows("select count(*) from audit.watermark") == [(0,)]
    assert shop.rows(
        "select run_id, check_name, level, outcome, measured::int from audit.check_result where outcome = 'failed'"
    ) == [(1, "there are enough lines", "fail", "failed", 1)]
    assert shop.run_states() == [("ingest-shop", "stopped", error.value.what)]
    contracts.write_text((CHECKS / "order_item.yml").read_text())
    shop.capture()
    assert shop.facts() == [("1", "1")]


def test_order_line_that_is_there_twice_stops_the_run(shop: Pipeline) -> None:
    entity = shop.source.entities["order_item"]
    doubled = replace(
        entity, sql=f"select line.* from ({entity.sql}) as line cross join generate_series(1, 2)"
    )
    source = replace(shop.source, entities={**shop.source.entities, "order_item": doubled})
    shop.order(1, "2024-03-10")
    with pytest.raises(QualityGateStopped, match=r"order line is there more than once \(measured 1"):
        shop.capture(source=source)
    assert shop.rows("select count(*) from dwh.fact_order_item") == [(0,)]


def test_warning_lets_the_run_go_on(shop: Pipeline) -> None:
    shop.without_foreign_keys()
    shop.order(1, "2024-03-10", {"product_id": 9}, customer_id=9)
    run = shop.capture()
    assert [(c.check_name, c.level, c.outcome) for c in run.checks if c.outcome != "passed"] == [
        ("customer is not in the source", "warn", "warned"),
        ("product is not in the source", "warn", "warned"),
    ]
    assert shop.rows(
        "select check_name, outcome, measured::int, rows_checked::int from audit.check_result where outcome <> 'passed'"
    ) == [("customer is not in the source", "warned", 1, 1), ("product is not in the source", "warned", 1, 1)]
    assert len(shop.facts()) == 1 and shop.quarantined() == []


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("dataset: [", "is not YAML"),
        ("columns: []\n", "names no dataset"),
        ("- a list", "names no dataset"),
        (
            "dataset: warehouse/dwh/staging/nothing\ncolumns:\n  - name: id\n    checks:\n      - missing:\n",
            "not warehouse/dwh/staging/conformed_order_item",
        ),
        (
            "dataset: warehouse/dwh/staging/conformed_order_item\nchecks:\n"
            "  - failed_rows:\n      name: nonsense\n      expression: no_such_column > 0\n",
            "cannot be run",
        ),
        (
            "dataset: warehouse/dwh/staging/conformed_order_item\nchecks:\n"
            "  - failed_rows:\n      name: nonsense\n      expression: quantity >\n",
            "cannot be run",
        ),
        (
            "dataset: warehouse/dwh/staging/conformed_order_item\nchecks:\n"
            "  - failed_rows:\n      expression: quantity > 0\n",
            "a failed_rows check has no name",
        ),
        (
            "dataset: warehouse/dwh/staging/conformed_order_item\nchecks:\n  - no_such_check:\n      name: x\n",
            "cannot be run",
        ),
    ],
)
def test_wrong_contract_is_reported_and_nothing_is_published(
    shop: Pipeline, contracts: Path, broken: str, told: str
) -> None:
    contracts.write_text(broken)
    shop.order(1, "2024-03-10")
    before = content(shop.warehouse, ("raw", "dwh"))
    with pytest.raises(DeclarationError) as error:
        shop.capture()
    assert told in error.value.what
    assert "order_item" in str(error.value)
    assert content(shop.warehouse, ("raw", "dwh")) == before


@pytest.mark.parametrize(
    ("query", "failure"),
    [
        ("select pg_sleep(60)", psycopg.errors.QueryCanceled),
        ("select pg_cancel_backend(pg_backend_pid()), pg_sleep(60)", psycopg.errors.QueryCanceled),
        ("select pg_terminate_backend(pg_backend_pid()), pg_sleep(60)", psycopg.OperationalError),
    ],
)
def test_cancelled_query_and_lost_connection_are_not_called_a_wrong_contract(
    pipeline: Pipeline, contracts: Path, query: str, failure: type[psycopg.Error]
) -> None:
    with_rule(contracts, f"\n  - failed_rows:\n      name: waits\n      query: {query}\n")
    with connect(pipeline.warehouse_url) as connection:
        fill(connection, {})
        connection.execute("set local statement_timeout = '2s'")
        with pytest.raises(failure) as raised:
            verify(connection, read_contract("order_item"), "shop")
    assert not is_of_statement(raised.value)


def test_rules_about_unmapped_columns_are_not_applicable(pipeline: Pipeline) -> None:
    contract = read_contract("order_item", frozenset({"unit_price_default_amount", "recorded_at"}))
    with connect(pipeline.warehouse_url) as connection:
        fill(connection, {"unit_price_default_amount": "null", "recorded_at": "null"})
        results = verify(connection, contract, "shop")
        batch = Batch(connection, 0, pipeline.source.entities["order_item"], FACTS[0])
        create_unconvertible(batch)
        find_failing(batch, contract.row_rules)
        moved = move_failing(batch)
        connection.rollback()
    assert moved == (0, 0)
    assert {r.check_name for r in results if r.outcome == "not_applicable"} == {
        "record timestamp is missing",
        "order total is not above the line's base price",
        "unit price is not above the base price",
        "base price is not positive",
    }
    assert {r.outcome for r in results if r.outcome != "not_applicable"} == {"passed"}


def test_freshness_is_judged_as_of_now_however_long_the_process_has_been_there(pipeline: Pipeline) -> None:
    contract = read_contract("order_item")
    check = {"freshness": {"column": "recorded_at", "threshold": {"unit": "minute", "must_be_less_than": 1}}}
    contract = replace(contract, document={**contract.document, "checks": [check]})
    (begin,) = pipeline.warehouse.execute("select clock_timestamp()::text").fetchone() or ()

    def outcomes(recorded_at: str) -> list[str]:
        with pipeline.warehouse.transaction(force_rollback=True):
            fill(pipeline.warehouse, {"recorded_at": recorded_at})
            results = verify(pipeline.warehouse, contract, "shop")
            return [result.outcome for result in results if result.check_type == "freshness"]

    assert outcomes("clock_timestamp()") == ["passed"]
    # Fresh as of the first check, but not as of this one.
    time.sleep(2)
    assert outcomes(f"'{begin}'::timestamptz - interval '59 s'") == ["failed"]


def test_soda_is_loaded_without_a_word() -> None:
    """Whichever of its packages is asked for first."""
    load = "from warehouse.load import contract; contract._data_source()"
    done = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_contract_does_not_ask_what_the_warehouse_is_called(pipeline: Pipeline) -> None:
    assert pipeline.warehouse.info.dbname not in (CHECKS / "order_item.yml").read_text()
    pipeline.open_shop()
    pipeline.order(1, "2024-03-10")
    assert {check.outcome for check in pipeline.capture().checks} == {"passed"}
