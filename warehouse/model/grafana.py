"""Generate the Grafana dashboard from the declaration of marts: `python -m warehouse.model.grafana FILE`."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from warehouse.model.mart import SUBJECTS, Mart, answers, read_metrics, title_of

SOURCE: Final = {"type": "postgres", "uid": "warehouse"}
# Size of a panel (the grid is 24 wide), and number of rows shown.
WIDTH, HEIGHT, SHOWN = 12, 9, 200
# Expansions of Grafana's macros, for a panel that shows a year.
MACROS: Final[Mapping[str, str]] = {
    r"\$__timeFilter\((\w+)\)": r"\1 between now() - interval '1 year' and now()",
    r"\$__timeFrom\(\)": "(now() - interval '1 year')",
    r"\$__timeTo\(\)": "now()",
    r"\$__timeGroup(?:Alias)?\((\w+),\s*[^)]*\)": r"date_trunc('hour', \1)",
}
UNITS: Final = {"share": "percentunit", "amount": "currency:", "count": "short", "units": "short"}


def dashboard() -> dict[str, Any]:
    """Return the dashboard: tables of freshness and failed checks, then a bar chart and a table for each answer."""
    panels: list[dict[str, Any]] = [
        _panel(1, "As of when is each table complete?", "table", "select * from mart.table_freshness", 0, 0),
        _panel(
            2,
            "Checks that failed or warned",
            "table",
            "select * from mart.data_quality where outcome in ('failed', 'warned')",
            WIDTH,
            0,
        ),
    ]
    top = HEIGHT
    for subject in SUBJECTS:
        marts = [mart for mart in answers() if mart.subject == subject]
        if not marts:
            continue
        panels.append(
            {
                "id": len(panels) + 1,
                "title": subject,
                "type": "row",
                "gridPos": {"x": 0, "y": top, "w": 24, "h": 1},
            }
        )
        top += 1
        for mart in marts:
            panels.append(_picture(len(panels) + 1, mart, 0, top))
            panels.append(_panel(len(panels) + 1, mart.title, "table", mart.select(SHOWN), WIDTH, top))
            top += HEIGHT
    return {
        "uid": "dwh-answers",
        "title": "Warehouse: sales, behaviour, customers",
        "timezone": "utc",
        "schemaVersion": 39,
        "refresh": "5m",
        "time": {"from": "now-1y", "to": "now"},
        "tags": ["dwh"],
        "panels": panels,
    }


def render() -> str:
    """Return the dashboard as JSON."""
    return json.dumps(dashboard(), indent=2) + "\n"


def panel_queries(text: str) -> list[tuple[str, str]]:
    """Return title and SQL of each panel in a dashboard's JSON, with macros expanded for the last year."""
    queries = []
    for panel in json.loads(text)["panels"]:
        for target in panel.get("targets", []):
            query = target["rawSql"]
            for macro, replacement in MACROS.items():
                query = re.sub(macro, replacement, query)
            queries.append((panel["title"], query))
    return queries


def _picture(number: int, mart: Mart, x: int, y: int) -> dict[str, Any]:
    assert mart.picture is not None
    label, value = mart.picture
    parts = [name for name in ("source_system", "currency") if name in mart.columns and name != label]
    # The key distinguishes what has the same label, as states of two countries; a sequence has one label per value.
    details = [name for name in mart.key if name not in (*parts, label, mart.sequence)]
    names = ", ".join([*parts, label, *details])
    query = f"select concat_ws(' · ', {names}) as name, {value} from ({mart.select(SHOWN)}) as shown"
    panel = _panel(number, f"{mart.title}: {title_of(value).lower()}", "barchart", query, x, y)
    metric = read_metrics().get(value)
    unit = UNITS.get(metric.unit if metric else "count", "short")
    panel["description"] = mart.description
    panel["fieldConfig"] = {"defaults": {"unit": "none" if unit == "currency:" else unit}, "overrides": []}
    panel["options"] = {"orientation": "horizontal", "xField": "name", "legend": {"showLegend": False}}
    return panel


def _panel(number: int, title: str, kind: str, query: str, x: int, y: int) -> dict[str, Any]:
    target = {"refId": "A", "format": "table", "rawQuery": True, "rawSql": query, "datasource": SOURCE}
    return {
        "id": number,
        "title": title,
        "type": kind,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "targets": [target],
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render())
