"""Write docs/model.md from the catalog of a migrated database: `python -m warehouse.model.documentation URL FILE`."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.rows import dict_row

from warehouse.db.connections import connect
from warehouse.db.schema_version import ensure_migrated
from warehouse.model.mart import marts_by_subject, read_marts, read_metrics
from warehouse.model.schema import TABLES
from warehouse.model.star import DIMENSIONS

SQL = Path(__file__).parent / "catalog"
SCHEMAS = {
    "dwh": "The star",
    "mart": "Marts",
    "audit": "Audit trail",
    "staging": "Staging",
}
HOUSEKEEPING = ("run_id", "expired_by_run_id", "batch_id", "row_hash", "text_hash")
STARS = {"Sales": "fact_order_item", "Web log": "fact_weblog", "Inventory": "fact_inventory_day"}
# Headings of the index by schema, each with a pattern of table names; the first that matches counts.
PURPOSES = {
    "dwh": {
        "Facts": r"fact_",
        "Dimensions of sales": rf"dim_({'|'.join(dimension.entity for dimension in DIMENSIONS)})$",
        "Calendar": r"dim_date$",
        "Dimensions of web logs": r"dim_",
        "Web logs, aggregated": r"agg_",
    },
    "mart": {
        subject: rf"(?<!\w)({'|'.join(marts)})(_masked)?$" for subject, marts in marts_by_subject().items()
    }
    | {"Masked dimensions, joins": ""},
    "audit": {
        "Runs and what they loaded": r"run|load|watermark|key_range|step|freshness",
        "Files and web logs": r"file|weblog",
        "Quality and verification": r"check|quarantine|verification|difference|chunk",
        "Changes and undo": r"change|before_image|row_schema|layout|undo",
        "Archive": r"archive",
        "Everything else": "",
    },
    "staging": {"Conformed batches": r"conformed_", "Web logs": r"weblog", "Everything else": ""},
}
# Beginning of the comment of change views, which are not documented: there is one per table of the star, all alike.
CHANGE_VIEW = "Every row of dwh."
INTRODUCTION = """\
# Data model

Written from the catalog of a migrated database by `warehouse/model/documentation.py`, and kept current by a test:
change `warehouse/model` or the comments of the other tables, not this file.

Facts refer to dimensions by `<dimension>_key`, or by the name that the column's comment says; key 0 is the unknown
member. Foreign keys are declared on PostgreSQL 18, not enforced, for tables without partitions
([why](decisions/0005-inferred-members.md)); `mart.table_reference` lists every reference. Natural keys
(`<entity>_id`, with `source_system`) are text, so that every source fits. All times are UTC. `run_id` names the run,
in `audit.run`, that wrote a row last.

Schema `raw` holds the mirrors `raw.<source>_<table>`: the columns of the source's tables, as its catalog has them,
with `_run_id` and `_is_deleted`. Loads make them, and the partitions of `dwh.fact_weblog`, as they are needed.

Beside each dimension and fact `dwh.<table>` with a key stand the view `audit.<table>_change` (who changed which row,
from what to what) and the function `audit.<table>_at(run_id)` (the table as it was when that run had published).
"""


@dataclass(frozen=True)
class Column:
    """A column of a table or view, with the table that it refers to, if any."""

    name: str
    type: str
    is_required: bool
    comment: str
    refers_to: str | None


@dataclass(frozen=True)
class Relation:
    """A table or view."""

    schema: str
    name: str
    kind: str
    comment: str
    primary_key: tuple[str, ...]
    partitioned_by: str | None
    columns: tuple[Column, ...]


def render(url: str) -> str:
    """Return the document, from the catalog of the migrated database at `url`.

    Raises:
        ConnectionFailed, SchemaOutdated: there is no such database, or its schema is not this code's.
    """
    ensure_migrated(url)
    with connect(url) as connection:
        relations = read_relations(connection)
    parts = [INTRODUCTION, _index(relations)]
    by_name = {relation.name: relation for relation in relations if relation.schema == "dwh"}
    for title, fact in STARS.items():
        parts.append(f"## {title}\n\n{_diagram(_reached(by_name, fact))}")
    audit = [relation for relation in relations if relation.schema == "audit" and relation.kind == "table"]
    parts.append(f"## Audit trail\n\n{_diagram(audit)}")
    parts.append(_metrics())
    for schema, title in SCHEMAS.items():
        parts.append(f"## {title}: schema `{schema}`\n")
        parts += [_section(relation) for relation in relations if relation.schema == schema]
    return "\n".join(parts)


def read_relations(connection: psycopg.Connection) -> list[Relation]:
    """Read the warehouse's tables and views with comments and columns, except mirrors and change views."""

    def rows(name: str) -> list[dict[str, object]]:
        with connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute((SQL / f"{name}.sql").read_bytes()).fetchall()

    sources = connection.execute("select distinct source from audit.watermark").fetchall()
    made_by_loads = tuple(f"{source}_" for (source,) in sources)
    relations = [
        row
        for row in rows("relations")
        if (row["schema_name"] != "staging" or not str(row["relation_name"]).startswith(made_by_loads))
        and not str(row["comment"]).startswith(CHANGE_VIEW)
    ]
    references = {
        (row["schema_name"], row["relation_name"], row["column_name"]): str(row["referred_name"])
        for row in rows("references")
    } | {
        (table.schema, table.name, column.name): column.refers_to
        for table in TABLES
        for column in table.columns
        if column.refers_to
    }
    columns: dict[tuple[object, object], list[Column]] = {}
    for row in rows("columns"):
        table, name, comment = str(row["relation_name"]), str(row["column_name"]), str(row["comment"])
        referred = references.get((row["schema_name"], table, name))
        columns.setdefault((row["schema_name"], table), []).append(
            Column(name, _short(str(row["type"])), bool(row["is_required"]), comment, referred)
        )
    return [
        Relation(
            str(row["schema_name"]),
            str(row["relation_name"]),
            str(row["kind"]),
            str(row["comment"]),
            tuple(row["primary_key"]),  # type: ignore[arg-type]
            row["partitioned_by"],  # type: ignore[arg-type]
            tuple(columns[row["schema_name"], row["relation_name"]]),
        )
        for row in relations
    ]


def _short(kind: str) -> str:
    return kind.replace("timestamp with time zone", "timestamptz")


def _index(relations: Sequence[Relation]) -> str:
    """Return the index: tables and views with the first sentence of their comments, by schema and purpose."""
    lines = ["## Index", ""]
    for schema, title in SCHEMAS.items():
        lines += [f"**{title}: schema `{schema}`**", ""]
        waiting = [relation for relation in relations if relation.schema == schema]
        for purpose, pattern in PURPOSES[schema].items():
            matching = [relation for relation in waiting if re.match(f".*(?:{pattern})", relation.name)]
            waiting = [relation for relation in waiting if relation not in matching]
            if matching:
                lines += [f"*{purpose}*", "", *map(_index_line, matching), ""]
    return "\n".join(lines)


def _index_line(relation: Relation) -> str:
    sentence, _, _ = relation.comment.partition(". ")
    anchor = f"{relation.schema}{relation.name}"
    return f"- [{relation.schema}.{relation.name}](#{anchor}): {sentence.rstrip('.').rstrip('?')}."


def _reached(relations: dict[str, Relation], start: str) -> list[Relation]:
    reached, waiting = [], [start]
    while waiting:
        name = waiting.pop(0)
        if relations[name] in reached:
            continue
        reached.append(relations[name])
        waiting += [column.refers_to for column in relations[name].columns if column.refers_to in relations]
    return reached


def _metrics() -> str:
    """Return the section of metrics with their definitions."""
    lines = ["## Metrics", ""]
    lines += ["Each is a column of that name wherever it is shown, with this definition.", ""]
    lines += ["| Metric | Definition | Unit | SQL over | Owner |", "|---|---|---|---|---|"]
    for metric in read_metrics().values():
        definition = (
            " / ".join(metric.ratio) if metric.ratio else f"{metric.sql}` over `mart.{metric.dataset}"
        )
        cells = (
            f"`{metric.name}`: {metric.title}",
            metric.description,
            metric.unit,
            f"`{definition}`",
            metric.owner,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _diagram(relations: Sequence[Relation]) -> str:
    names = {relation.name for relation in relations}
    lines = ["```mermaid", "erDiagram"]
    for relation in relations:
        lines.append(f"    {relation.name} {{")
        for column in relation.columns:
            # Diagrams skip housekeeping columns, which are in the tables below.
            if column.name in HOUSEKEEPING and relation.schema == "dwh":
                continue
            mark = (
                " PK" if column.name in relation.primary_key else " FK" if column.refers_to in names else ""
            )
            lines.append(f"        {re.sub(r'[^a-z]+', '_', column.type).strip('_')} {column.name}{mark}")
        lines.append("    }")
    for relation in relations:
        for column in relation.columns:
            if column.refers_to in names:
                lines.append(f"    {column.refers_to} ||--o{{ {relation.name} : {column.name}")
    return "\n".join([*lines, "```", ""])


def _section(relation: Relation) -> str:
    summary = [relation.comment if relation.kind != "stored view" else f"{relation.comment} Stored."]
    mart = read_marts().get(relation.name.removesuffix("_masked")) if relation.schema == "mart" else None
    if mart is not None:
        summary.append(f"{mart.stated_grain} Owner: {mart.owner}.")
    key = relation.primary_key
    # A masked view may not have all columns of its mart's key.
    if mart is not None and set(mart.key) <= {column.name for column in relation.columns}:
        key = mart.key
    if key:
        summary.append(f"Key: {', '.join(f'`{name}`' for name in key)}.")
    if relation.partitioned_by:
        summary.append(f"Partitioned by `{relation.partitioned_by.lower()}`.")
    is_table = relation.kind == "table"
    lines = [f"### {relation.schema}.{relation.name}", "", " ".join(summary), ""]
    lines += ["| Column | Type | Meaning |", "|---|---|---|"]
    for column in relation.columns:
        optional = "" if column.is_required or not is_table else ", may be empty"
        lines.append(
            f"| `{column.name}` | {column.type}{optional} | {column.comment.replace('|', chr(92) + '|')} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(render(sys.argv[1]))
