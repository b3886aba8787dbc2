"""Explain a member of a dimension by its versions: when and why each began and ended."""

from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql

from warehouse.explain.changes import changes_of
from warehouse.explain.node import Node
from warehouse.explain.origin import Origin, describe_batch, describe_run
from warehouse.explain.rows import find_rows
from warehouse.load.quarantine import is_waiting
from warehouse.model.star import BEGINNING, END_OF_TIME, TARGETS, Dimension
from warehouse.sources.source import Entity


def explain_member(
    connection: psycopg.Connection,
    origin: Origin,
    entity: Entity | None,
    dimension: Dimension,
    key: Sequence[str],
) -> Node | None:
    (natural,) = dimension.natural_key
    named = {natural: key[0], "source_system": origin.source.name}
    order = "valid_from" if dimension.has_history else None
    versions = find_rows(connection, "dwh", dimension.table, named, order=order)
    below = origin.of(entity, key) if entity else []
    if not versions and not below:
        return None
    title = f"dwh.{dimension.table} {natural} {key[0]} of {origin.source.name}"
    if not versions:
        return Node(f"{title}: not published", {}, below)
    version_nodes = [
        _version(connection, dimension, before, version, after)
        for before, version, after in zip(
            [None, *versions[:-1]], versions, [*versions[1:], None], strict=True
        )
    ]
    state = "in the source" if versions[-1].get("is_current", "true") == "true" else "deleted from the source"
    if versions[-1].get("is_deleted") == "true":
        state = "deleted from the source"
    if is_waiting(connection, origin.source.name, dimension.entity, key):
        state += "; its state in the source now is in quarantine"
    changes = [
        node
        for version in versions
        for node in changes_of(connection, f"dwh.{dimension.table}", [version[dimension.key]])
    ]
    return Node(title, {"state": state, "versions": len(versions)}, [*version_nodes, *below, *changes])


def _version(
    connection: psycopg.Connection,
    dimension: Dimension,
    before: Mapping[str, str | None] | None,
    version: Mapping[str, str | None],
    after: Mapping[str, str | None] | None,
) -> Node:
    facts: dict[str, object] = {name: version[name] for name in dimension.attributes}
    if dimension.has_history:
        facts["began"] = _began(dimension, before, version)
        facts["ended"] = _ended(connection, version, after)
    elif version["is_deleted"] == "true":
        facts["ended"] = "deleted from the source; facts may still refer to it"
    facts["written by"] = describe_run(connection, version["run_id"])
    facts |= describe_batch(connection, version["batch_id"])
    facts["facts that refer to it"] = _count_facts(connection, dimension, version[dimension.key])
    title = f"{dimension.key} {version[dimension.key]}"
    if dimension.has_history:
        title += f", valid {describe_validity(version)}"
    return Node(title + (", inferred" if version["is_inferred"] == "true" else ""), facts)


def _began(
    dimension: Dimension, before: Mapping[str, str | None] | None, version: Mapping[str, str | None]
) -> str:
    if version["is_inferred"] == "true":
        return "a fact referred to it then, and the source did not have it"
    if before is None:
        return "the first known version: valid from the beginning"
    if before["valid_to"] != version["valid_from"]:
        return "it came back after it was deleted from the source"
    changed = [
        f"{name} was {before[name] or 'empty'}" for name in dimension.tracked if before[name] != version[name]
    ]
    return f"it changed: {', '.join(changed)}" if changed else "it came back at once"


def _ended(
    connection: psycopg.Connection,
    version: Mapping[str, str | None],
    after: Mapping[str, str | None] | None,
) -> str:
    if version["is_current"] == "true":
        return "not yet"
    by = (
        f", found by {describe_run(connection, version['expired_by_run_id'])}"
        if version["expired_by_run_id"]
        else ""
    )
    if after is not None and after["valid_from"] == version["valid_to"]:
        return f"it changed{by}"
    return f"it was deleted from the source{by}"


def _count_facts(connection: psycopg.Connection, dimension: Dimension, key: str | None) -> str:
    counts = []
    for fact in TARGETS:
        if isinstance(fact, Dimension) or dimension.entity not in (*fact.references, *fact.derived):
            continue
        row = connection.execute(
            sql.SQL("select count(*) from {} where {} = {}").format(
                sql.Identifier("dwh", fact.table), sql.Identifier(dimension.key), sql.Literal(int(key or 0))
            )
        ).fetchone()
        assert row is not None
        counts.append(f"{row[0]:,} of {fact.entity}")
    return ", ".join(counts) or "no fact can"


def describe_validity(version: Mapping[str, str | None]) -> str:
    """Describe from when to when a version is valid."""

    def bound(moment: str | None, limit: str, word: str) -> str:
        return word if str(moment) == limit else str(moment)

    begin = bound(version["valid_from"], BEGINNING, "the beginning")
    return f"from {begin} to {bound(version['valid_to'], END_OF_TIME, 'now')}"
