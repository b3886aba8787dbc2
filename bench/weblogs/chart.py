"""Draw the chart of a run: throughput by rows already loaded."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter


def draw(growth: Sequence[dict[str, float]], target: Path) -> None:
    """Write the chart as SVG."""
    plt.switch_backend("svg")
    plt.rcParams["svg.fonttype"] = "none"
    plt.rcParams["svg.hashsalt"] = target.name
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    rows = [step["rows_before"] / 1e6 for step in growth]
    axes.plot(rows, [step["lines_per_second"] for step in growth], marker="o", color="#2563eb")
    axes.axhline(300_000, color="#9ca3af", linestyle="--", linewidth=1)
    axes.annotate("target", (rows[0], 300_000), (2, 4), textcoords="offset points", color="#6b7280")
    axes.set(
        ylim=(0, None),
        xlabel="rows already loaded (millions)",
        ylabel="lines per second, everything included",
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)
