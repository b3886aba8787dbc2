"""When tables were loaded, as their tasks show it on the page of a run."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from flows.table_assets import load_spans

BEGAN = datetime(2026, 11, 29, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def load(table: str, seconds: str, recorded_after: float) -> dict[str, Any]:
    return {"table_name": table, "seconds": Decimal(seconds), "loaded_at": at(recorded_after)}


def test_loads_of_one_transaction_stand_one_after_the_other() -> None:
    loads = [load("raw.a", "2", 10), load("dwh.dim_a", "1.5", 10), load("dwh.fact_b", "3", 10)]
    assert load_spans(loads, BEGAN) == {
        "raw.a": (at(3.5), at(5.5)),
        "dwh.dim_a": (at(5.5), at(7)),
        "dwh.fact_b": (at(7), at(10)),
    }


def test_load_that_was_recorded_earlier_stands_where_it_was() -> None:
    loads = [load("dwh.dim_a", "1", 4), load("mart.b", "2", 10)]
    assert load_spans(loads, BEGAN) == {"dwh.dim_a": (at(3), at(4)), "mart.b": (at(8), at(10))}


def test_no_load_begins_before_its_run_and_loads_of_one_table_are_one_task() -> None:
    loads = [load("dwh.dim_a", "5", 6), load("dwh.dim_b", "3", 6), load("dwh.dim_a", "1", 9)]
    assert load_spans(loads, BEGAN) == {"dwh.dim_a": (at(0), at(9)), "dwh.dim_b": (at(3), at(6))}
