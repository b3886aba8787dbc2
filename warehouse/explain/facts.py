"""Explain a fact: its measures, and the dimension versions that it refers to, with the reason for each."""

from collections.abc import Mapping, Sequence

import psycopg

from warehouse.explain.changes import changes_of
from warehouse.explain.members import describe_validity
from warehouse.explain.node import Node, format_key
from warehouse.explain.origin import Origin, describe_batch, describe_run
from warehouse.explain.rows import find_rows
from warehouse.model.fact_sql import dimension_of
from warehouse.model.star import DailySnapshot, Fact
from warehouse.sources.source import Entity

SHOWN_DAYS = 7


def explain_fact(
    connection: psycopg.Connection, origin: Origin, entity: Entity | None, fact: Fact, key: Sequence[str]
) -> Node | None:
    named = dict(zip(fact.natural_key, key, strict=True))
    rows = find_rows(connection, "dwh", fact.table, {**named, "source_system": origin.source.name})
    below = origin.of(entity, key) if entity else []
    if not rows and not below:
        return None
    title = f"dwh.{fact.table} {format_key(named)} of {origin.source.name}"
    if not rows:
        return Node(f"{title}: not published", {}, below)
    (row,) = rows[:1]
    references = [
        _reference(connection, origin.source.name, fact, row, name)
        for name in (*fact.references, *fact.derived)
    ]
    measures = {
        name: value
        for name, value in row.items()
        if not name.endswith("_key") and name not in ("run_id", "batch_id")
    }
    children = [
        *references,
        *below,
        *changes_of(connection, f"dwh.{fact.table}", [row[n] for n in (*fact.natural_key, "source_system")]),
    ]
    written = {"written by": describe_run(connection, row["run_id"])}
    return Node(title, {**measures, **written, **describe_batch(connection, row["batch_id"])}, children)


def explain_snapshot(
    connection: psycopg.Connection,
    origin: Origin,
    entity: Entity | None,
    snapshot: DailySnapshot,
    key: Sequence[str],
) -> Node | None:
    """Explain the last days of a daily snapshot."""
    named = dict(zip(snapshot.natural_key, key, strict=True))
    rows = find_rows(
        connection,
        "dwh",
        snapshot.table,
        {**named, "source_system": origin.source.name},
        order="snapshot_date",
    )
    below = origin.of(entity, key) if entity else []
    if not rows and not below:
        return None
    days = [
        Node(
            str(row["snapshot_date"]),
            {
                **{name: row[name] for name in (measure.name for measure in snapshot.measures)},
                **{f"{name}_key": row[f"{name}_key"] for name in snapshot.references},
                "is_carried_forward": row["is_carried_forward"],
                "written by": describe_run(connection, row["run_id"]),
                **describe_batch(connection, row["batch_id"]),
            },
        )
        for row in reversed(rows[-SHOWN_DAYS:])
    ]
    title = f"dwh.{snapshot.table} {format_key(named)} of {origin.source.name}"
    return Node(title, {"days": len(rows)}, [*days, *below])


def _reference(
    connection: psycopg.Connection,
    source: str,
    fact: Fact,
    row: Mapping[str, str | None],
    name: str,
) -> Node:
    """Explain which version of a dimension a fact refers to, and why."""
    dimension = dimension_of(name)
    key, at = row[dimension.key], row[fact.event_time]
    through = fact.derived.get(name)
    if key == "0":
        why = f"the {through} it refers to has no {name}" if through else f"it refers to no {name}"
        return Node(f"{name}: unknown", {dimension.key: "0", "why": why})
    versions = find_rows(connection, "dwh", dimension.table, {dimension.key: str(key)})
    if not versions:
        return Node(
            f"{name}: there is no version {key}",
            {dimension.key: key, "why": "the row is damaged: `dwh reconcile` shows the right value"},
        )
    (version,) = versions
    (natural,) = dimension.natural_key
    facts: dict[str, object] = {dimension.key: key}
    facts |= {name: version[name] for name in dimension.attributes}
    if not dimension.has_history:
        why = "the only row of this member: it is overwritten in place"
    else:
        facts |= {"valid": describe_validity(version)}
        valid = connection.execute(
            "select %s::timestamptz >= %s::timestamptz and %s::timestamptz < %s::timestamptz",
            [at, version["valid_from"], at, version["valid_to"]],
        ).fetchone() == (True,)
        why = f"it was valid at {fact.event_time} {at}"
        if not valid:
            why = f"NOT valid at {fact.event_time} {at}: the row is damaged, see `dwh reconcile`"
        version_count = len(
            find_rows(
                connection, "dwh", dimension.table, {natural: str(version[natural]), "source_system": source}
            )
        )
        why += f", one of {version_count} versions" if version_count > 1 else ", the only version"
    if version.get("is_inferred") == "true":
        why += "; inferred: a fact referred to it before the source had it"
    if through:
        via_key = dimension_of(through).key
        via = find_rows(connection, "dwh", f"dim_{through}", {via_key: str(row[via_key])})
        is_own = not via or via[0][natural] != version[natural]
        why += "; named by the row itself" if is_own else f"; reached through the {through}"
    return Node(f"{name} {version[natural]}", {**facts, "why": why})
