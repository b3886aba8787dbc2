"""Charts of the report: geometry in percent of a plot."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warehouse.report import figures
from warehouse.report.charts import Bar, Segment, Slot, Tick, bars, compact, stacked_columns, ticks


def test_columns_stack_from_the_baseline_in_the_order_of_the_legend() -> None:
    slots = [Slot(str(n), "", {"kept": 60, "discount": 20}, line=-20) for n in range(12)]
    chart = stacked_columns(slots, {"kept": "Kept", "discount": "Discount"})
    assert chart is not None
    assert chart.ticks == (
        Tick(100.0, "-25"), Tick(80.0, "0"), Tick(60.0, "25"), Tick(40.0, "50"), Tick(20.0, "75"), Tick(0.0, "100"),
    )  # fmt: skip
    assert chart.baseline == 80.0
    assert chart.columns[0].segments == (Segment("kept", 32.0, 48.0), Segment("discount", 16.0, 16.0))
    assert chart.points[0] == (4.167, 96.0)


def test_nothing_to_draw_is_no_chart() -> None:
    assert stacked_columns([], {"kept": "Kept"}) is None
    assert stacked_columns([Slot("a", "", {"kept": 0})], {"kept": "Kept"}) is None


def test_few_columns_stay_slim() -> None:
    chart = stacked_columns([Slot("a", "", {"kept": 1})], {"kept": "Kept"})
    assert chart is not None
    assert chart.columns[0].width == 6.25


def test_bars_are_scaled_to_the_longest() -> None:
    assert bars([("a", "x", 1500), ("b", "", 375), ("c", "", 0)]) == (
        Bar("a", "x", "1,500", 100.0),
        Bar("b", "", "375", 25.0),
        Bar("c", "", "0", 0.0),
    )
    assert bars([("a", "", 0)]) == (Bar("a", "", "0", 0),)


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.25, "0.25"), (950, "950"), (12_000, "12k"), (1_250_000, "1.25M"), (-3e9, "-3G")],
)
def test_axis_numbers_are_short(value: float, said: str) -> None:
    assert compact(value) == said


@given(
    st.floats(-1e12, 0).filter(lambda low: low == 0 or low < -1e-6),
    st.floats(0, 1e12).filter(lambda high: high == 0 or high > 1e-6),
)
def test_ticks_enclose_what_they_measure(low: float, high: float) -> None:
    steps = ticks(low, high)
    slack = (high - low) * 1e-6
    assert steps[0] <= low + slack and steps[-1] >= high - slack
    assert len(steps) <= 7


def test_labels_keep_their_distance_however_few_columns_there_are() -> None:
    for count, every in ((1, 3), (4, 3), (12, 3), (30, 6)):
        chart = stacked_columns([Slot("21 Nov", "", {"a": 1})] * count, {"a": "a"}, labels=5)
        assert chart is not None
        assert chart.label_every == every


def test_each_status_of_a_run_has_a_colour_of_its_own() -> None:
    style = (Path(figures.__file__).with_name("templates") / "style.css").read_text()
    # A class is the status' first word.
    fills = [re.search(rf"\.{status.split()[0]} {{ fill: ([^;]+);", style) for status in figures.STATUSES]
    colours = [fill[1] for fill in fills if fill]
    assert len(set(colours)) == len(colours) == len(figures.STATUSES)
