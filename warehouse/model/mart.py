"""Metrics and marts, each declared once: metrics.toml, marts/marts.toml, and a file with the query of each mart.

What the report, the sheet, dashboards, docs and the semantic file say of a number comes from here.
"""

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

# Columns of mart.sales that stored marts are grouped by, with the attribute that they show: where a load corrects it
# in place, the lines of that member have changed. Others are keys, or values of the line itself.
SHOWN_ATTRIBUTES: Final[Mapping[str, tuple[str, str]]] = {
    "category": ("dim_product", "category"),
    "customer_country": ("dim_customer", "country"),
    "payment_method_name": ("dim_payment_method", "name"),
    "promotion_name": ("dim_promotion", "name"),
}
# By what changed lines and requests are found, as an expression over them.
FOLLOWED: Final[Mapping[str, str]] = {
    "ordered_date": "mart.local_date(changed.ordered_at)",
    "ordered_month": "date_trunc('month', mart.local_time(changed.ordered_at))::date",
    "product_id": "(select product_id from dwh.dim_product as one where one.product_key = changed.product_key)",
    "customer_id": "(select customer_id from dwh.dim_customer as one where one.customer_key = changed.customer_key)",
    "request_date": "changed.request_date",
    "request_month": "date_trunc('month', changed.request_date)::date",
}
# Those of them that are natural keys, with the dimension that has them.
MEMBERS: Final[Mapping[str, str]] = {"product_id": "dwh.dim_product", "customer_id": "dwh.dim_customer"}
UNKNOWN: Final = "unknown"
# Texts that fit into an index: the warehouse's own, and keys, which dimensions have an index of too. Any other text of
# a source may be longer than an entry of a btree.
_SHORT_TEXTS: Final = frozenset({"source_system", "customer_id", "age_group"})


@dataclass(frozen=True)
class Metric:
    """A number with one definition: an aggregate over a mart of details, or the ratio of two others."""

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
    """A view or table of schema mart: what it holds, one row per what, and who answers for it."""

    name: str
    title: str
    description: str
    grain: str
    subject: str
    owner: str
    # Description by column, metrics included.
    columns: Mapping[str, str]
    personal: Mapping[str, str]
    # Columns of the grain: no two rows have the same values in them.
    key: tuple[str, ...]
    # What its query groups a mart of details by, with types; empty where it has a file of its own.
    dataset: str | None = None
    by: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    # Text of a grouping column where a line has none.
    unknown: Mapping[str, str] = field(default_factory=dict)
    # Grouping column by whose values changes are followed.
    follows: str | None = None
    # Of a stored mart with a file of its own: the types of all columns.
    types: Mapping[str, str] = field(default_factory=dict)
    indexes: tuple[str, ...] = ()
    # Of such a mart that does not move with the calendar: the stored marts and tables of the star whose changes it
    # follows, with their schemas.
    reads: tuple[str, ...] = ()
    # The flow that fills it, where that is not refresh-marts.
    written_by: str | None = None
    # Of an answer that reports show: the column that names a row, and the one that is drawn.
    picture: tuple[str, str] | None = None
    # Column that says the order of the rows of its picture, where that is not the value that is drawn: days of a week.
    sequence: str | None = None
    # In which its rows are shown, where its query does not say: of a stored mart.
    order: str = ""

    @property
    def stated_grain(self) -> str:
        """What a row is, as a sentence."""
        what = self.grain.removeprefix("one ")
        return f"One row {'for each' if what.startswith('of ') else 'per'} {what}."

    @property
    def is_stored(self) -> bool:
        """Whether it is a table in place of a view."""
        return self.follows is not None or bool(self.types)

    @property
    def is_calendar(self) -> bool:
        """Whether it moves with the calendar: it is computed by the daily run and after corrections."""
        return bool(self.types) and not self.reads and self.written_by is None

    @property
    def details(self) -> str | None:
        """The mart of details whose changes it follows, directly or through the mart that it sums up."""
        return None if self.dataset is None else read_marts()[self.dataset].details or self.dataset

    @property
    def shown_attributes(self) -> Sequence[tuple[str, str]]:
        """Dimensions and their attributes that it is grouped by."""
        return [SHOWN_ATTRIBUTES[name] for name in self.by if name in SHOWN_ATTRIBUTES]

    @property
    def shown(self) -> str:
        """Name of the view that reports and sheets read: the masked one, where it shows personal data."""
        return f"{self.name}_masked" if self.personal else self.name

    def select(self, limit: int) -> str:
        """The select statement of its first rows, as every report, sheet and dashboard shows them."""
        order = f" order by {self.order}" if self.order else ""
        return f"select * from mart.{self.shown}{order} limit {limit}"

    def query(self, condition: str = "true") -> str:
        """The select statement; `condition` is one on the details, for marts that follow them."""
        if self.dataset is None:
            return (FOLDER / f"{self.name}.sql").read_text()
        metrics = read_metrics()
        select = [
            *(f"{self.grouped(name)} as {name}" for name in self.by),
            *(f"{self._measured(metrics[name])} as {name}" for name in self.metrics),
        ]
        # By their places in the list, the last first: it differs most, so rows are sorted with fewer comparisons.
        groups = ", ".join(str(place) for place in range(len(self.by), 0, -1))
        return (
            f"select {', '.join(select)} from mart.{self.dataset} as {self.dataset} "
            f"where {condition} group by {groups}"
        )

    def table(self) -> Table:
        """The table of a stored mart."""
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
            # Without one, the query alone makes keys unique; dwh reconcile would find two of a kind.
            {f"pk_{self.name}": f"primary key ({', '.join(self.key)})"} if is_indexable else {},
            tuple(Index(f"ix_{self.name}_{n}", definition) for n, definition in enumerate(indexes, 1)),
        )

    def _measured(self, metric: Metric) -> str | None:
        """The metric over details, or the sum of what the mart below has measured."""
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
    """All metrics by name."""
    found = {}
    for name, entry in tomllib.loads(METRICS.read_text())["metric"].items():
        ratio = entry.pop("ratio", None)
        found[name] = Metric(
            name, dataset=entry.pop("from", None), ratio=tuple(ratio) if ratio else None, **entry
        )
    return found


@cache
def read_marts() -> Mapping[str, Mart]:
    """All marts by name, in the order in which they are declared."""
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
        # A column that is a metric is described where the metric is declared.
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
    """Marts that reports, sheets and dashboards show whole, with a picture."""
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
    """Heading of a column: the metric's title, or its name in words."""
    metric = read_metrics().get(column)
    return metric.title if metric else column.replace("_", " ").capitalize()


def stored_marts() -> Sequence[Mart]:
    """Marts that refresh-marts maintains, each after those that it reads."""
    return [mart for mart in read_marts().values() if mart.is_stored and mart.written_by is None]


def marts_by_subject() -> Mapping[str, Sequence[str]]:
    """Names of the marts of each subject, in the order in which both are declared."""
    return {
        subject: [mart.name for mart in read_marts().values() if mart.subject == subject]
        for subject in SUBJECTS
    }


def tables() -> tuple[Table, ...]:
    """The tables of stored marts."""
    return tuple(mart.table() for mart in read_marts().values() if mart.is_stored)


def comments() -> dict[str, str]:
    """Comments of schema mart, its views, columns and functions by name; those of tables come with the tables."""
    entries: dict[str, Any] = tomllib.loads(MARTS.read_text())["mart"]
    found = {"mart": str(entries["comment"])}
    for name, entry in entries.items():
        if isinstance(entry, dict) and "title" not in entry:
            found[f"mart.{name}"] = entry["comment"]
            found |= {f"mart.{name}.{column}": text for column, text in entry.get("columns", {}).items()}
    for mart in read_marts().values():
        found[f"mart.{mart.name}"] = mart.description
        found |= {f"mart.{mart.name}.{column}": text for column, text in mart.columns.items()}
    return found
