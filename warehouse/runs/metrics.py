"""Metrics of the warehouse in Prometheus's text format: freshness, rows, durations, quarantine, open problems.

The queries read only marts about runs and data quality, for which role dwh_monitor is enough: no personal data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

from warehouse.model.mart import refreshed_tables

# The last run and the last success of each flow. The recursive query finds the flows by a skip scan of the index.
_FLOWS = """
    with recursive known as (
        (select job.flow from mart.job_run as job order by job.flow limit 1)
        union all
        select next.flow from known cross join lateral (
            select job.flow from mart.job_run as job where job.flow > known.flow order by job.flow limit 1
        ) as next
    )
    select known.flow, last.status, last.duration_seconds, last.rows_read,
        last.rows_inserted + last.rows_updated + last.rows_expired + last.rows_deleted, last.rows_quarantined,
        (
            select job.started_at from mart.job_run as job
            where job.flow = known.flow and job.status = 'succeeded' order by job.run_id desc limit 1
        )
    from known cross join lateral (
        select job.* from mart.job_run as job
        where job.flow = known.flow and job.ended_at is not null order by job.run_id desc limit 1
    ) as last
    order by known.flow
"""


@dataclass(frozen=True)
class Metric:
    """A gauge: name, help text, labels, and a query that returns the labels' values and then the gauge's value."""

    name: str
    help: str
    labels: Sequence[str]
    query: str


# Several sources load the same tables of the star: none of them has these rows.
_OWNER = "case when table_name not like 'dwh.%' then source else '' end"
_METRICS = (
    Metric(
        "dwh_complete_timestamp_seconds",
        "As of when a source is complete in the warehouse, and the marts: time of the snapshot.",
        ("source",),
        "select source, min(complete_at) from mart.table_freshness "
        f"where complete_at is not null and (source <> 'mart' or table_name = any(array{refreshed_tables()})) "
        "group by source order by source",
    ),
    Metric(
        "dwh_table_rows",
        "Rows of a loaded table, by the server's statistics. Sources share the tables of the star: source is empty.",
        ("source", "table"),
        f"select distinct {_OWNER}, table_name, row_count_estimate from mart.table_freshness "
        "where row_count_estimate is not null order by 1, 2",
    ),
    Metric(
        "dwh_table_bytes",
        "Size of a loaded table on disk. Sources share the tables of the star: source is empty.",
        ("source", "table"),
        f"select distinct {_OWNER}, table_name, size_bytes from mart.table_freshness "
        "where size_bytes is not null order by 1, 2",
    ),
    Metric(
        "dwh_quarantine_rows",
        "Rows and lines in quarantine that break a rule; one that breaks two counts in both.",
        ("source", "entity", "rule"),
        "select source, entity, rule, waiting_count from mart.quarantine_by_rule order by 1, 2, 3",
    ),
    Metric(
        "dwh_quarantine_size",
        "Rows and lines in quarantine.",
        ("source",),
        "select source, waiting_count from mart.quarantine_size order by source",
    ),
    Metric(
        "dwh_table_differs",
        "Whether the last verification found the table to differ from the layer below: 1 or 0.",
        ("layer", "source", "table"),
        "select layer, source, table_name, (verdict = 'different')::int from mart.reconciliation order by 1, 2, 3",
    ),
    Metric(
        "dwh_open_problems",
        "Problems that last, as mailed.",
        ("flow", "kind"),
        "select flow, kind, count(*) from mart.open_problem group by flow, kind order by flow, kind",
    ),
)
_RUNS = (
    ("dwh_run_failed", "Whether the last run of the flow ended badly: 1 or 0."),
    ("dwh_run_seconds", "Duration of the last run of the flow."),
    ("dwh_run_rows_read", "Rows that the last run of the flow read."),
    ("dwh_run_rows_changed", "Rows that the last run of the flow changed in the star."),
    ("dwh_run_rows_quarantined", "Rows that the last run of the flow put into quarantine."),
    ("dwh_run_success_timestamp_seconds", "Start of the flow's last successful run."),
)
BAD = ("failed", "stopped", "crashed")


def render(connection: psycopg.Connection) -> str:
    """Return all metrics in Prometheus's text format."""
    lines: list[str] = []
    for metric in _METRICS:
        rows = connection.execute(metric.query.encode()).fetchall()
        lines += _gauge(metric.name, metric.help, metric.labels, rows)
    runs = [
        (flow, float(status in BAD), *figures)
        for flow, status, *figures in connection.execute(_FLOWS.encode())
    ]
    for number, (name, text) in enumerate(_RUNS, start=1):
        lines += _gauge(name, text, ("flow",), [(run[0], run[number]) for run in runs])
    return "\n".join(lines) + "\n"


def _gauge(name: str, text: str, labels: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} gauge"
    for *values, value in rows:
        if value is not None:
            named = ",".join(
                f'{label}="{_escaped(str(one))}"' for label, one in zip(labels, values, strict=True)
            )
            yield f"{name}{{{named}}} {_number(value)}"


def _number(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value.timestamp():.3f}"
    return f"{float(value):g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
