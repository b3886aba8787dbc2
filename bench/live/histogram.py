"""Draw the histogram of freshness."""

from collections.abc import Sequence
from pathlib import Path


def draw(seconds: Sequence[float], path: Path) -> None:
    """Draw how many orders were in the star after how long: steps of 50 ms, the last one open."""
    import matplotlib.pyplot as plt

    plt.switch_backend("svg")
    plt.rcParams["svg.fonttype"] = "none"
    plt.rcParams["svg.hashsalt"] = "live"
    figure, axes = plt.subplots(figsize=(8, 3.5))
    steps = [step * 50 for step in range(61)]
    axes.hist([min(1000 * one, 2999) for one in seconds], bins=steps, color="#3b6ea5")
    axes.set_xlabel("milliseconds from the answer 201 to the order in mart.sales, with all its lines")
    axes.set_ylabel("orders")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
