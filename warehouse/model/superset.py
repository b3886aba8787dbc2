"""Generate Superset's database, datasets, charts and dashboards from the declaration of marts.

`python -m warehouse.model.superset FOLDER` writes the YAML files that `superset import-dashboards` takes, zipped. Each
answer becomes a dataset, a bar chart and a table; each subject becomes a dashboard.
"""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid5

import yaml

from warehouse.model.mart import SUBJECTS, Mart, answers, read_metrics, title_of
from warehouse.model.masking import masked_views

VERSION: Final = "1.0.0"
DATABASE: Final = "Warehouse"
# deployments/superset/superset_config.py replaces this URI by one with the warehouse's address and password.
URI: Final = "postgresql+psycopg2://warehouse/warehouse"
SHOWN: Final = 200
BARS: Final = 30
# Size of a chart: the grid has twelve columns, and a unit of height is 8 pixels.
WIDTH, HEIGHT = 6, 50
_NAMESPACE: Final = UUID("7c0b1d0e-6f0f-4d5a-9d0b-6a1f4d1d8f20")


def bundle() -> Mapping[str, dict[str, Any]]:
    """Return the documents by file name."""
    files: dict[str, dict[str, Any]] = {
        "metadata.yaml": {"version": VERSION, "type": "Dashboard", "timestamp": "2026-01-01T00:00:00+00:00"},
        f"databases/{DATABASE}.yaml": {
            "database_name": DATABASE,
            "sqlalchemy_uri": URI,
            "expose_in_sqllab": True,
            "allow_dml": False,
            "allow_ctas": False,
            "allow_cvas": False,
            "allow_file_upload": False,
            "extra": {"allows_virtual_table_explore": True},
            "uuid": _uuid("database"),
            "version": VERSION,
        },
    }
    for mart in answers():
        files[f"datasets/{DATABASE}/{mart.shown}.yaml"] = _dataset(mart)
        files[f"charts/{mart.name}.yaml"] = _bar_chart(mart)
        files[f"charts/{mart.name}_table.yaml"] = _table(mart)
    for subject in SUBJECTS:
        if marts := [mart for mart in answers() if mart.subject == subject]:
            files[f"dashboards/{_slug(subject)}.yaml"] = _dashboard(subject, marts)
    return files


def render() -> Mapping[str, str]:
    """Return the YAML text of each file, by name."""
    return {name: yaml.safe_dump(content, sort_keys=False, width=120) for name, content in bundle().items()}


def write(folder: Path) -> None:
    """Replace the files of the bundle in a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in render().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def shown_columns(mart: Mart) -> Mapping[str, str]:
    """Return descriptions by column of the view that is shown, in which personal data are masked."""
    masked = {view.name: view.columns for view in masked_views()}
    return masked.get(mart.shown, mart.columns)


def bar_metric(mart: Mart) -> tuple[str, list[str]]:
    """Return the bar chart's metric and its grouping columns: first the labels of bars, then their stacked parts."""
    assert mart.picture is not None
    label, value = mart.picture
    parts = ["source_system", "currency"]
    if "product_rank" in mart.columns and "category" in mart.columns:
        parts = ["category", *parts]
    elif _is_share(value):
        # Shares cannot be summed, so each row is a bar.
        parts = list(mart.key)
    return value, [label, *(name for name in parts if name in mart.columns and name != label)]


def chart_queries(files: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Return the SQL of each chart in a bundle by title, as Superset builds it from chart and dataset."""
    datasets = {file["uuid"]: file for name, file in files.items() if name.startswith("datasets/")}
    queries = {}
    for name, chart in files.items():
        if not name.startswith("charts/"):
            continue
        dataset = datasets[chart["dataset_uuid"]]
        measures = {metric["metric_name"]: metric["expression"] for metric in dataset["metrics"]}
        (query,) = json.loads(chart["query_context"])["queries"]
        columns = [
            column if isinstance(column, str) else f'{column["sqlExpression"]} as "{column["label"]}"'
            for column in query["columns"]
        ]
        metrics = query["metrics"] or []
        places = range(1, len(columns) + 1)
        text = f"select {', '.join([*columns, *(f'{measures[one]} as {one}' for one in metrics)])} "
        text += f"from {dataset['schema']}.{dataset['table_name']}"
        if query["filters"]:
            conditions = (f"{one['col']} {one['op']} {one['val']}" for one in query["filters"])
            text += f" where {' and '.join(conditions)}"
        if metrics:
            text += f" group by {', '.join(map(str, places))}"
        if query["orderby"]:
            order = (f"{column} {'asc' if upwards else 'desc'}" for column, upwards in query["orderby"])
            text += f" order by {', '.join(order)}"
        queries[chart["slice_name"]] = f"{text} limit {query['row_limit']}"
    return queries


def _dataset(mart: Mart) -> dict[str, Any]:
    columns = [
        {
            "column_name": name,
            "verbose_name": title_of(name),
            "description": description,
            "type": _type(name),
            "is_dttm": _type(name) == "DATE",
            "is_active": True,
            "groupby": True,
            "filterable": True,
        }
        for name, description in shown_columns(mart).items()
    ]
    return {
        "table_name": mart.shown,
        "schema": "mart",
        "description": f"{mart.description} {mart.stated_grain} Owner: {mart.owner}.",
        "main_dttm_col": None,
        "metrics": [
            {
                "metric_name": f"sum_{name}",
                "expression": f"sum({name})",
                "verbose_name": title_of(name),
                "description": description,
            }
            for name, description in shown_columns(mart).items()
            if _type(name) == "NUMERIC"
        ],
        "columns": columns,
        "uuid": _uuid("dataset", mart.name),
        "version": VERSION,
        "database_uuid": _uuid("database"),
    }


def _bar_chart(mart: Mart) -> dict[str, Any]:
    value, groups = bar_metric(mart)
    metric = f"sum_{value}"
    label, *series = groups
    axis: str | dict[str, str] = label
    is_ordered = mart.sequence is not None
    if mart.sequence not in (None, label):
        # Superset sorts an axis by its labels, so the labels begin with the sequence.
        expression = f"{mart.sequence} || ' ' || {label}"
        axis = {"expressionType": "SQL", "label": title_of(label), "sqlExpression": expression}
    # A sequence is drawn whole: months of the smaller sources and currencies are its shortest bars.
    limit = SHOWN if is_ordered else BARS
    # Of a ranking only the first rows are drawn: a filter finds them by an index.
    filters = [
        {"col": name, "op": "<=", "val": BARS} for name in shown_columns(mart) if name.endswith("_rank")
    ]
    params = {
        "adhoc_filters": [
            {
                "clause": "WHERE",
                "expressionType": "SIMPLE",
                "subject": one["col"],
                "operator": one["op"],
                "operatorId": "LESS_THAN_OR_EQUAL",
                "comparator": one["val"],
            }
            for one in filters
        ],
        "viz_type": "echarts_timeseries_bar",
        "x_axis": axis,
        "time_grain_sqla": None,
        "metrics": [metric],
        "groupby": series,
        "row_limit": limit,
        "orientation": "vertical" if is_ordered else "horizontal",
        # Amounts of different currencies are never added up, and shares cannot be.
        "stack": None if _is_share(value) or "currency" in mart.columns else "Stack",
        "show_legend": bool(series),
        "rich_tooltip": True,
        "sort_series_type": "sum",
        **_sorting(label, axis if isinstance(axis, str) else axis["label"], metric, bool(series), is_ordered),
        "y_axis_format": ".1%" if _is_share(value) else "SMART_NUMBER",
        "truncateYAxis": False,
    }
    query = {
        "filters": filters,
        "columns": [axis, *series],
        "metrics": [metric],
        "orderby": [[metric, False]],
        "row_limit": limit,
    }
    return _chart(mart, mart.name, f"{mart.title}: {title_of(value).lower()}", params, query)


def _table(mart: Mart) -> dict[str, Any]:
    columns = list(shown_columns(mart))
    formats = {name: {"d3NumberFormat": _format(name)} for name in columns if _format(name)}
    params = {
        "viz_type": "table",
        "query_mode": "raw",
        "all_columns": columns,
        "row_limit": SHOWN,
        "order_by_cols": [json.dumps(one) for one in _order(mart)],
        "column_config": formats,
        "show_cell_bars": False,
        "table_timestamp_format": "%Y-%m-%d",
        "server_pagination": False,
        "include_search": True,
    }
    query = {"columns": columns, "metrics": None, "orderby": _order(mart), "row_limit": SHOWN}
    return _chart(mart, f"{mart.name}_table", mart.title, params, query)


def _sorting(label: str, name: str, metric: str, has_parts: bool, is_ordered: bool) -> dict[str, Any]:
    """Return the sorting: the longest bar on top, or bars ordered by label; a time axis has its own order."""
    if _type(label) == "DATE":
        return {}
    by = ("name" if is_ordered else "sum") if has_parts else (name if is_ordered else metric)
    return {"x_axis_sort": by, "x_axis_sort_asc": True}


def _format(column: str) -> str:
    if _is_share(column):
        return ".1%"
    if _type(column) != "NUMERIC":
        return ""
    return ",.2f" if column.endswith("_amount") else ","


def _order(mart: Mart) -> list[list[str | bool]]:
    """Return the columns that a table is sorted by, each with whether it is ascending."""
    parts = [part.split() for part in mart.order.split(", ") if part]
    return [[name, "desc" not in direction] for name, *direction in parts]


def _chart(
    mart: Mart, name: str, title: str, params: dict[str, Any], query: dict[str, Any]
) -> dict[str, Any]:
    context = {
        "datasource": {"id": 0, "type": "table"},
        "force": False,
        "queries": [
            {"filters": [], "extras": {"having": "", "where": ""}, "applied_time_extras": {}, **query}
        ],
        "form_data": params,
        "result_format": "json",
        "result_type": "full",
    }
    return {
        "slice_name": title,
        "description": mart.description,
        "viz_type": params["viz_type"],
        "params": {"adhoc_filters": [], **params},
        "query_context": json.dumps(context),
        "cache_timeout": None,
        "uuid": _uuid("chart", name),
        "version": VERSION,
        "dataset_uuid": _uuid("dataset", mart.name),
    }


def _dashboard(subject: str, marts: list[Mart]) -> dict[str, Any]:
    position: dict[str, Any] = {
        "DASHBOARD_VERSION_KEY": "v2",
        "ROOT_ID": {"id": "ROOT_ID", "type": "ROOT", "children": ["GRID_ID"]},
        "GRID_ID": {"id": "GRID_ID", "type": "GRID", "parents": ["ROOT_ID"], "children": []},
        "HEADER_ID": {"id": "HEADER_ID", "type": "HEADER", "meta": {"text": subject}},
    }
    for number, mart in enumerate(marts, 1):
        row = f"ROW-{number}"
        names = {f"CHART-{mart.name}": mart.name, f"CHART-{mart.name}-table": f"{mart.name}_table"}
        position["GRID_ID"]["children"].append(row)
        position[row] = {
            "id": row,
            "type": "ROW",
            "parents": ["ROOT_ID", "GRID_ID"],
            "children": list(names),
            "meta": {"background": "BACKGROUND_TRANSPARENT"},
        }
        for chart, name in names.items():
            position[chart] = {
                "id": chart,
                "type": "CHART",
                "parents": ["ROOT_ID", "GRID_ID", row],
                "children": [],
                "meta": {"width": WIDTH, "height": HEIGHT, "chartId": 0, "uuid": _uuid("chart", name)},
            }
    return {
        "dashboard_title": subject,
        "description": f"Answers on {subject.lower()}, as the warehouse's model defines them.",
        "slug": _slug(subject),
        "published": True,
        "css": "",
        "position": position,
        "metadata": {"refresh_frequency": 300, "color_scheme": "supersetColors", "expanded_slices": {}},
        "uuid": _uuid("dashboard", subject),
        "version": VERSION,
    }


def _type(column: str) -> str:
    metric = read_metrics().get(column)
    if column == "month" or column.endswith(("_date", "_month", "_at")) or (metric and metric.unit == "date"):
        return "DATE"
    if metric or column.endswith(("_count", "_amount", "_share", "_rate", "_days", "_score")):
        return "NUMERIC"
    if column.startswith("share_of_") or column.endswith(("_rank", "_number", "_key", "_of_week")):
        return "NUMERIC" if column.startswith("share_of_") else "BIGINT"
    return "TEXT"


def _is_share(column: str) -> bool:
    metric = read_metrics().get(column)
    return (metric is not None and metric.unit == "share") or column.endswith(("_share", "_rate")) or (
        column.startswith("share_of_")
    )  # fmt: skip


def _uuid(*names: str) -> str:
    return str(uuid5(_NAMESPACE, "/".join(names)))


def _slug(subject: str) -> str:
    return subject.lower().replace(" ", "-")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
