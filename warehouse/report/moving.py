"""Interactive charts of the report, as Vega-Lite. They work offline; tables beside them show the same data."""

import json
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from warehouse.model.mart import title_of
from warehouse.report.read import Content, Row

FOLDER = Path(__file__).parent / "vega"
# The palette has no more distinct colours for lines.
MOST_LINES = 8
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"


@cache
def library() -> str:
    """Return Vega, Vega-Lite and its expression interpreter as one script. The interpreter needs no `unsafe-eval`."""
    interpreter = (FOLDER / "vega-interpreter.js").read_text()
    # Convert the interpreter from an ES module to the body of a function.
    interpreter = interpreter.replace("import {", "const {").replace("} from 'vega-util';", "} = vega;")
    interpreter = interpreter.replace("export { expression as expressionInterpreter };", "return expression;")
    scripts = [(FOLDER / name).read_text() for name in ("vega.min.js", "vega-lite.min.js")]
    return "\n".join([*scripts, f"const expressionInterpreter = (() => {{\n{interpreter}\n}})();"])


def daily_sales(content: Content) -> str | None:
    """Chart net sales by day of each source and currency, with a moving average of 28 days.

    Dragging in the lower part selects the days of the upper part.
    """
    groups = content.in_groups(content["daily_sales"])
    rows = [
        {
            "series": group,
            "day": row["ordered_date"].isoformat(),
            "net": round(float(row["net_amount"]), 2),
            "orders": row["order_count"],
        }
        for group, found in groups
        for row in found
    ]
    if not rows:
        return None
    series = [group for group, _ in groups]
    chosen = {"filter": "datum.series === shown"}
    mean = {
        "window": [{"op": "mean", "field": "net", "as": "mean"}],
        "frame": [-27, 0],
        "sort": [{"field": "day"}],
    }
    x: dict[str, Any] = {
        "field": "day",
        "type": "temporal",
        "title": None,
        # Days are in the company's time zone: a UTC scale keeps the browser from shifting them to the reader's.
        "scale": {"type": "utc"},
        "axis": {"format": "%-d %b %Y", "labelOverlap": True, "grid": False},
    }
    visible = {**x, "scale": {"type": "utc", "domain": {"param": "days"}}}
    y = {"field": "net", "type": "quantitative", "title": title_of("net_amount"), "axis": {"format": "~s"}}
    tooltip = [
        {"field": "day", "type": "temporal", "title": "Day", "format": "%a %-d %b %Y"},
        {"field": "net", "type": "quantitative", "title": title_of("net_amount"), "format": ",.2f"},
        {"field": "orders", "type": "quantitative", "title": title_of("order_count"), "format": ","},
    ]
    name = "Source and currency "
    shown: dict[str, Any] = {"name": "shown", "value": series[0]}
    if len(series) > 1:
        shown["bind"] = {"input": "select", "options": series, "name": name}
    return _script(
        {
            "params": [shown],
            "data": {"values": rows},
            "vconcat": [
                {
                    "height": 220,
                    "transform": [chosen, mean],
                    "layer": [
                        {
                            "mark": {
                                "type": "area",
                                "fillOpacity": 0.25,
                                "tooltip": True,
                                "clip": True,
                                # An area of a single day has no width.
                                "point": min(len(found) for _, found in groups) == 1,
                            },
                            "encoding": {"x": visible, "y": y, "tooltip": tooltip},
                        },
                        {
                            "mark": {"type": "line", "strokeWidth": 2.5, "clip": True},
                            "encoding": {"x": visible, "y": {**y, "field": "mean"}},
                        },
                    ],
                },
                {
                    "height": 48,
                    "transform": [chosen],
                    "params": [{"name": "days", "select": {"type": "interval", "encodings": ["x"]}}],
                    "mark": {"type": "area", "fillOpacity": 0.35},
                    "encoding": {"x": x, "y": {**y, "title": None, "axis": None}},
                },
            ],
        }
    )


def category_trends(content: Content) -> list[tuple[str, str]]:
    """Chart net sales by month of the largest categories, per source and currency; the legend selects categories."""
    return [(group, _trend(rows)) for group, rows in content.in_groups(content["category_by_month"])]


def _trend(rows: Sequence[Row]) -> str:
    totals: dict[str, Decimal] = {}
    for row in rows:
        totals[row["category"]] = totals.get(row["category"], Decimal()) + Decimal(str(row["net_amount"]))
    largest = sorted(totals, key=lambda name: -totals[name])[:MOST_LINES]
    values = [
        {
            "month": row["ordered_month"].isoformat(),
            "category": row["category"],
            "net": round(float(row["net_amount"]), 2),
        }
        for row in rows
        if row["category"] in largest
    ]
    return _script(
        {
            "data": {"values": values},
            "height": 240,
            "params": [
                {"name": "chosen", "select": {"type": "point", "fields": ["category"]}, "bind": "legend"}
            ],
            "mark": {"type": "line", "point": True, "tooltip": True},
            "encoding": {
                "x": {
                    "field": "month",
                    "type": "temporal",
                    "title": None,
                    "scale": {"type": "utc"},
                    "axis": {"format": "%b %Y", "tickCount": "month", "labelOverlap": True, "grid": False},
                },
                "y": {
                    "field": "net",
                    "type": "quantitative",
                    "title": title_of("net_amount"),
                    "axis": {"format": "~s"},
                },
                "color": {"field": "category", "type": "nominal", "title": None, "sort": largest},
                "opacity": {"condition": {"param": "chosen", "value": 1}, "value": 0.12},
                "tooltip": [
                    {"field": "category", "title": "Category"},
                    {"field": "month", "type": "temporal", "title": "Month", "format": "%B %Y"},
                    {
                        "field": "net",
                        "type": "quantitative",
                        "title": title_of("net_amount"),
                        "format": ",.2f",
                    },
                ],
            },
        }
    )


def _script(spec: dict[str, Any]) -> str:
    """Return JSON for a script element, with `<` escaped so that no text of a source can close the element."""
    text = json.dumps({"$schema": SCHEMA, **spec}, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c")
