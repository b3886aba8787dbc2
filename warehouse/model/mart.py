"""Read the declarations of metrics and marts: metrics.toml, marts/marts.toml, and a file with the query of each mart.

The report, the sheet, dashboards, docs and the semantic model take titles, definitions and units from here.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from warehouse.model.declaration import Column
from warehouse.model.tables import Index, Table

FOLDER: Final = Path(__file__).parent / "marts"
MARTS: Final = FOLDER / "marts.toml"
METRICS: Final = Path(__file__).parent / "metrics.toml"
SUBJECTS: Final = ("Sales", "Marketing leads", "Behaviour", "Customers", "Runs and data quality")
Unit = Literal["count", "units", "amount", "share", "date"]
# How a mart gets its rows. view: its query computes them whenever it is read; the others are tables. incremental: those
# of the days, months, products or customers whose details have changed are computed again. dependent: computed when a
# table that it reads has changed. daily: computed each day and after corrections, since it depends on the current day.
# external: another flow than refresh-marts writes them.
Kind = Literal["view", "incremental", "dependent", "daily", "external"]

# Grouping columns of stored marts over mart.sales that are attributes of a dimension, with table and column: if a load
# corrects the attribute in place, the member's lines count as changed. Others are keys, or columns of the line itself.
SHOWN_ATTRIBUTES: Final[Mapping[str, tuple[str, str]]] = {
    "category": ("dim_product", "category"),
    "customer_country": ("dim_customer", "country"),
    "payment_method_name": ("dim_payment_method", "name"),
    "promotion_name": ("dim_promotion", "name"),
}
# Columns by whose values changes are followed, with the expression over `changed` details.
FOLLOWED: Final[Mapping[str, str]] = {
    "ordered_date": "mart.local_date(changed.ordered_at)",
    "ordered_month": "date_trunc('month', mart.local_time(changed.ordered_at))::date",
    "product_id": "(select product_id from dwh.dim_product as one where one.product_key = changed.product_key)",
    "customer_id": "(select customer_id from dwh.dim_customer as one where one.customer_key = changed.customer_key)",
    "request_date": "changed.request_date",
    "request_month": "date_trunc('month', changed.request_date)::date",
}
# Followed columns that are natural keys, with their dimension.
MEMBERS: Final[Mapping[str, str]] = {"product_id": "dwh.dim_product", "customer_id": "dwh.dim_customer"}
UNKNOWN: Final = "unknown"
# Texts that fit into a B-tree entry: the warehouse's own texts, and natural keys, which dimensions index, too. Other
# texts of a source may be too long.
_SHORT_TEXTS: Final = frozenset({"source_system", "customer_id", "age_group"})


@dataclass(frozen=True)
class Metric:
    """A metric with one definition: an aggregate over a mart of details, or the ratio of two metrics."""

    name: str
    title: str
    description: str
    unit: Unit
    owner: str
    dataset: str | None = None
    sql: str | None = None
    type: str = "numeric"
    ratio: tuple[str, str] | None = None
    distinct: bool = False


@dataclass(frozen=True)
class Mart:
    """A view or table of schema mart: its content, grain, key and owner, and how it is computed."""

    name: str
    title: str
    description: str
    grain: str
    subject: str
    owner: str
    # Descriptions by column, including metrics.
    columns: Mapping[str, str]
    personal: Mapping[str, str]
    # Columns of the grain: no two rows have the same values in them.
    key: tuple[str, ...]
    # Columns, with types, by which the query groups the mart `dataset`; empty if it has an SQL file.
    dataset: str | None = None
    by: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    # Texts that replace nulls, by grouping column.
    unknown: Mapping[str, str] = field(default_factory=dict)
    # Grouping column by whose values it is refreshed incrementally.
    follows: str | None = None
    # Types of all columns, for a stored mart with an SQL file.
    types: Mapping[str, str] = field(default_factory=dict)
    indexes: tuple[str, ...] = ()
    # Stored marts and star tables, with schemas, whose changes a stored mart with an SQL file follows; empty if it
    # depends on the current day.
    reads: tuple[str, ...] = ()
    # The flow that fills it, if not refresh-marts.
    written_by: str | None = None
    # For answers, which reports show with a chart: the columns with the labels and the values of its bars.
    picture: tuple[str, str] | None = None
    # Column by which the bars are sorted, if not by value: days of the week.
    sequence: str | None = None
    # ORDER BY for showing the rows of a stored mart; the query of a view has its own.
    order: str = ""

    @property
    def stated_grain(self) -> str:
        """The grain as a sentence."""
        what = self.grain.removeprefix("one ")
        return f"One row {'for each' if what.startswith('of ') else 'per'} {what}."

    @property
    def kind(self) -> Kind:
        """How it gets its rows."""
        if self.written_by is not None:
            return "external"
        if self.follows is not None:
            return "incremental"
        if not self.types:
            return "view"
        return "dependent" if self.reads else "daily"

    @property
    def details(self) -> str | None:
        """The mart of details that it aggregates, directly or through another mart."""
        return None if self.dataset is None else read_marts()[self.dataset].details or self.dataset

    @property
    def shown_attributes(self) -> Sequence[tuple[str, str]]:
        """Tables and columns of the dimensions' attributes that it is grouped by."""
        return [SHOWN_ATTRIBUTES[name] for name in self.by if name in SHOWN_ATTRIBUTES]

    @property
    def shown(self) -> str:
        """Name of the view that reports and sheets read: the masked one if the mart has personal data."""
        return f"{self.name}_masked" if self.personal else self.name

    def select(self, limit: int) -> str:
        """Return the query for its first rows, as reports, sheets and dashboards show them."""
        order = f" order by {self.order}" if self.order else ""
        return f"select * from mart.{self.shown}{order} limit {limit}"

    def query(self, condition: str = "true") -> str:
        """Return the mart's query; `condition` restricts the details of a mart without an SQL file."""
        if self.dataset is None:
            return (FOLDER / f"{self.name}.sql").read_text()
        metrics = read_metrics()
        select = [
            *(f"{self.grouped(name)} as {name}" for name in self.by),
            *(f"{self._measured(metrics[name])} as {name}" for name in self.metrics),
        ]
        # Group by the last column first: it has the most values, so sorting needs fewer comparisons.
        groups = ", ".join(str(place) for place in range(len(self.by), 0, -1))
        return (
            f"select {', '.join(select)} from mart.{self.dataset} as {self.dataset} "
            f"where {condition} group by {groups}"
        )

    def definition(self) -> str:
        """Return its query with those of the views that it reads: if one of them changes, so may its rows."""
        return "\n".join([*(one.definition() for one in self._marts() if one.kind == "view"), self.query()])

    def stored_tables(self) -> set[str]:
        """Return the stored marts, with schema, that its rows come from: itself, or those that it reads as a view."""
        if self.kind != "view":
            return {f"mart.{self.name}"}
        return set().union(*(one.stored_tables() for one in self._marts()))

    def relations(self) -> list[tuple[str, str]]:
        """Return schema and name of what its query names in the schemas of star and marts, functions included."""
        found = re.findall(r"\b(dwh|mart)\.(\w+)", re.sub(r"--.*", "", self.query()))
        return list(dict.fromkeys(found))

    def _marts(self) -> list["Mart"]:
        """Return the marts that its query reads."""
        marts = read_marts()
        return [marts[name] for schema, name in self.relations() if schema == "mart" and name in marts]

    def table(self) -> Table:
        """Return the table of a stored mart."""
        types = self.types or {**self.by, **{name: read_metrics()[name].type for name in self.metrics}}
        is_indexable = all(types[name] != "text" or name in _SHORT_TEXTS for name in self.key)
        indexes = list(self.indexes)
        if self.follows is not None and not is_indexable:
            indexes.append(
                f"using hash ({self.follows})" if types[self.follows] == "text" else f"({self.follows})"
            )
        return Table(
            "mart",
            self.name,
            self.description,
            tuple(
                Column(
                    name,
                    kind,
                    self.columns[name],
                    personal=self.personal.get(name),
                    required=name in self.key,
                )
                for name, kind in types.items()
            ),
            # Without a primary key only the query keeps keys unique; `dwh reconcile` finds duplicates.
            {f"pk_{self.name}": f"primary key ({', '.join(self.key)})"} if is_indexable else {},
            tuple(Index(f"ix_{self.name}_{n}", definition) for n, definition in enumerate(indexes, 1)),
        )

    def _measured(self, metric: Metric) -> str | None:
        """Return the metric's SQL over its dataset, or the sum of its column in another mart."""
        if metric.dataset == self.dataset:
            return metric.sql
        assert not metric.distinct, f"{metric.name} does not add up over mart.{self.dataset}"
        return f"sum({self.dataset}.{metric.name})::{metric.type}"

    def grouped(self, name: str) -> str:
        column = f"{self.dataset}.{name}"
        if self.by[name] != "text":
            return column
        return f"coalesce({column}, '{self.unknown.get(name, UNKNOWN)}')"


@cache
def read_metrics() -> Mapping[str, Metric]:
    """Read all metrics, by name."""
    metrics = {}
    for name, entry in tomllib.loads(METRICS.read_text())["metric"].items():
        ratio = entry.pop("ratio", None)
        metrics[name] = Metric(
            name, dataset=entry.pop("from", None), ratio=tuple(ratio) if ratio else None, **entry
        )
    return metrics


@cache
def read_marts() -> Mapping[str, Mart]:
    """Read all marts, by name, in the order of their declaration."""
    entries: dict[str, Any] = tomllib.loads(MARTS.read_text())["mart"]
    described: dict[str, Mapping[str, str]] = {}
    marts = {}
    for name, entry in entries.items():
        if not isinstance(entry, dict) or "title" not in entry:
            continue
        own = entry.get("columns", {})
        by, metrics = entry.get("by", {}), tuple(entry.get("metrics", ()))
        dataset = entry.get("from")
        details = described.get(dataset, {}) if dataset else {}
        columns = {column: details.get(column, "") for column in by} | dict.fromkeys(metrics, "") | own
        # Columns that are metrics take the metric's description.
        described[name] = {
            column: text or read_metrics()[column].description for column, text in columns.items()
        }
        marts[name] = Mart(
            name,
            entry["title"],
            entry["comment"],
            entry["grain"],
            entry["subject"],
            entry["owner"],
            described[name],
            entry.get("personal", {}),
            tuple(by or entry["key"]),
            dataset,
            by,
            metrics,
            entry.get("unknown", {}),
            entry.get("follows"),
            entry.get("types", {}),
            tuple(entry.get("indexes", ())),
            tuple(entry.get("reads", ())),
            entry.get("written_by"),
            (entry["picture"][0], entry["picture"][1]) if "picture" in entry else None,
            entry.get("sequence"),
            entry.get("order", ""),
        )
    return marts


def answers() -> Sequence[Mart]:
    """Return the marts that reports, sheets and dashboards show, with a chart."""
    return [mart for mart in read_marts().values() if mart.picture is not None]


def format_cell(column: str, value: object) -> str:
    """Format a value of a mart for people, by the unit of its metric or the end of its name."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column.endswith(("_share", "_rate", "share_of_previous", "share_of_first")):
        return f"{value:.1%}"
    if column.endswith("_amount"):
        return f"{value:,.2f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if column.endswith(("_key", "_id", "_number", "_rank")) or isinstance(value, str):
        return str(value)
    if isinstance(value, int | float | Decimal):
        return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"
    return str(value)


def title_of(column: str) -> str:
    """Return the heading of a column: the metric's title, or its name in words."""
    metric = read_metrics().get(column)
    return metric.title if metric else column.replace("_", " ").capitalize()


def stored_marts() -> Sequence[Mart]:
    """Return the marts that refresh-marts maintains, each after those that it reads."""
    return [mart for mart in read_marts().values() if mart.kind not in ("view", "external")]


def refreshed_tables() -> list[str]:
    """Return the tables of these marts, with schema."""
    return [f"mart.{mart.name}" for mart in stored_marts()]


def marts_by_subject() -> Mapping[str, Sequence[str]]:
    """Return the names of each subject's marts, in the order of declaration."""
    return {
        subject: [mart.name for mart in read_marts().values() if mart.subject == subject]
        for subject in SUBJECTS
    }


def tables() -> tuple[Table, ...]:
    """Return the tables of stored marts."""
    return tuple(mart.table() for mart in read_marts().values() if mart.kind != "view")


def comments() -> dict[str, str]:
    """Return the comments of schema mart, its relations, columns and functions, by name."""
    entries: dict[str, Any] = tomllib.loads(MARTS.read_text())["mart"]
    texts = {"mart": str(entries["comment"])}
    for name, entry in entries.items():
        if isinstance(entry, dict) and "title" not in entry:
            texts[f"mart.{name}"] = entry["comment"]
            texts |= {f"mart.{name}.{column}": text for column, text in entry.get("columns", {}).items()}
    for mart in read_marts().values():
        texts[f"mart.{mart.name}"] = mart.description
        texts |= {f"mart.{mart.name}.{column}": text for column, text in mart.columns.items()}
    return texts
