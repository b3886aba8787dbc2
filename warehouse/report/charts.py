"""Geometry of charts: convert values to percentages of the plot, which the template draws as SVG."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """Data of one column: values by series, value of the line chart, label and tooltip."""

    label: str
    title: str
    values: Mapping[str, float]
    line: float | None = None


@dataclass(frozen=True)
class Segment:
    """A segment of a column: its series, top edge and height, in percent of the plot from its top."""

    series: str
    y: float
    height: float


@dataclass(frozen=True)
class Column:
    """A column: left edge and width in percent of the plot, and its segments."""

    x: float
    width: float
    label: str
    title: str
    segments: tuple[Segment, ...]

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


@dataclass(frozen=True)
class Tick:
    """A grid line: its position in percent from the top, and its label."""

    y: float
    text: str


@dataclass(frozen=True)
class ColumnChart:
    """Stacked columns, a grid, and a line through `points` (x, y) where the slots have one."""

    columns: tuple[Column, ...]
    ticks: tuple[Tick, ...]
    baseline: float
    points: tuple[tuple[float, float], ...]
    legend: Mapping[str, str]
    # Every n-th column is labelled; on a narrow screen every 2n-th.
    label_every: int


@dataclass(frozen=True)
class Bar:
    """A horizontal bar: its share of the longest, in percent."""

    name: str
    detail: str
    value: str
    share: float


def stacked_columns(
    slots: Sequence[Slot], legend: Mapping[str, str], *, gap: float = 0.25, labels: int = 12
) -> ColumnChart | None:
    """Return a chart of stacked columns, in the legend's order from the bottom; None if there is nothing to draw.

    A column is at most a twelfth of the plot wide. `labels` is the number of labels that fit below the plot.
    """
    totals = [sum(max(value, 0) for value in slot.values.values()) for slot in slots]
    lines = [slot.line for slot in slots if slot.line is not None]
    steps = ticks(min([0, *lines]), max([0, *totals, *lines]))
    if not slots or steps[0] == steps[-1]:
        return None
    low, high = steps[0], steps[-1]

    def y(value: float) -> float:
        return round((high - value) / (high - low) * 100, 3)

    pitch = 100 / max(len(slots), 12)
    columns = []
    for position, slot in enumerate(slots):
        segments, reached = [], 0.0
        for series in legend:
            value = max(slot.values.get(series, 0), 0)
            if value:
                segments.append(
                    Segment(series, y(reached + value), round(y(reached) - y(reached + value), 3))
                )
                reached += value
        columns.append(
            Column(
                round(pitch * (position + gap / 2), 3),
                round(pitch * (1 - gap), 3),
                slot.label,
                slot.title,
                tuple(segments),
            )
        )
    points = tuple(
        (round(column.middle, 3), y(slot.line))
        for column, slot in zip(columns, slots, strict=True)
        if slot.line is not None
    )
    grid = tuple(Tick(y(step), compact(step)) for step in steps)
    return ColumnChart(tuple(columns), grid, y(0), points, legend, math.ceil(100 / pitch / labels))


def bars(
    rows: Sequence[tuple[str, str, float]], say: Callable[[float], str] = lambda value: f"{value:,.0f}"
) -> tuple[Bar, ...]:
    """Return a bar per (name, detail, value), scaled to the largest; `say` formats values. Negative ones have none."""
    largest = max((value for _, _, value in rows), default=0)
    return tuple(
        Bar(name, detail, say(value), round(max(value, 0) / largest * 100, 3) if largest > 0 else 0)
        for name, detail, value in rows
    )


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Return evenly spaced round numbers that enclose low and high, in about `wanted` steps; [0, 0] if low >= high."""
    if high <= low:
        return [0, 0]
    rough = (high - low) / wanted
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(nice * magnitude for nice in (1, 2, 2.5, 5, 10) if nice * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [count * step for count in range(first, last + 1)]


def compact(value: float) -> str:
    """Format a number for an axis: 950, 12k, 1.2M."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
