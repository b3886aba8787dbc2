"""Explain a row: a fact by the versions that it names, a member by its life, both down to mirror, source and rules."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import psycopg
from psycopg import sql

from warehouse.errors import SettingsError
from warehouse.explain.node import Node, UnknownRow
from warehouse.explain.origin import Origin, run_said
from warehouse.explain.rows import find_rows, similar_keys
from warehouse.model.star import BEGINNING, DIMENSIONS, END_OF_TIME, TARGETS, Dimension, Fact
from warehouse.sources.declaration import Entity, Source, Table

HOUSEKEEPING = ("valid_from", "valid_to", "is_current", "row_hash", "run_id", "expired_by_run_id")


def explain(
    connection: psycopg.Connection,
    sources: Sequence[Source],
    table: str,
    key: Sequence[str],
    *,
    readers: Mapping[str, psycopg.Connection] | None = None,
) -> list[Node]:
    """Where rows of `table` with `key` came from: one tree for each source that knows the key.

    `table` is an entity, a dimension, a fact or a mirror; `readers` are connections to sources that can be asked.

    Raises:
        SettingsError: there is no such table, or the key has another number of columns.
        UnknownRow: no source has or had such a row; with keys that somebody may have meant.
    """
    target, mirror = _meant(sources, table)
    natural = target.natural_key if target else mirror.key if mirror else ()
    if len(key) == 1 != len(natural):
        key = key[0].split(":")
    if len(key) != len(natural):
        raise SettingsError(
            f"A key of {table} is ({', '.join(natural)}), not {' '.join(key)!r}.",
            hint=f"Give {len(natural)}, in this order: dwh explain {table} {' '.join(natural).upper()}.",
        )
    found = []
    for source in sources:
        origin = Origin(connection, source, (readers or {}).get(source.name))
        if mirror is not None:
            if mirror.source == source.name and (node := origin.mirrored(mirror, key)):
                found.append(node)
            continue
        entity = source.entities.get(target.entity) if target else None
        if isinstance(target, Dimension):
            node = _member(connection, origin, entity, target, key)
        else:
            assert isinstance(target, Fact)
            node = _fact(connection, origin, entity, target, key)
        if node is not None:
            found.append(node)
    if not found:
        where = ("dwh", target.table) if target else ("raw", mirror.mirror if mirror else "")
        alike = similar_keys(connection, *where, natural, key)
        raise UnknownRow(
            f"No source has or had {table} {' '.join(key)!r}, neither published, nor in quarantine, nor in a mirror.",
            hint=f"There are, for instance: {'; '.join(alike)}." if alike else f"{'.'.join(where)} is empty.",
        )
    return found


def _meant(sources: Sequence[Source], table: str) -> tuple[Dimension | Fact | None, Table | None]:
    """The dimension or fact that somebody means, or the mirror."""
    targets = {
        name: target for target in TARGETS for name in (target.entity, target.table, f"dwh.{target.table}")
    }
    if table in targets:
        return targets[table], None
    mirrors = {
        name: one for source in sources for one in source.tables for name in (one.mirror, f"raw.{one.mirror}")
    }
    if table in mirrors:
        return None, mirrors[table]
    known = (
        [target.entity for target in TARGETS]
        + ["weblog"]
        + [one for one in mirrors if one.startswith("raw.")]
    )
    close = get_close_matches(table, [*targets, *mirrors, "weblog"], 3)
    raise SettingsError(
        f"There is no table {table!r} that could be explained.",
        hint=f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(known)}.",
    )


def _fact(
    connection: psycopg.Connection, origin: Origin, entity: Entity | None, fact: Fact, key: Sequence[str]
) -> Node | None:
    named = dict(zip(fact.natural_key, key, strict=True))
    rows = find_rows(connection, "dwh", fact.table, {**named, "source_system": origin.source.name})
    below = origin.of(entity, key) if entity else []
    if not rows and not below:
        return None
    title = f"dwh.{fact.table} {_said(named)} of {origin.source.name}"
    if not rows:
        return Node(f"{title}: not published", {}, below)
    (row,) = rows[:1]
    references = [
        _reference(connection, origin.source.name, fact, row, name)
        for name in (*fact.references, *fact.derived)
    ]
    measures = {name: value for name, value in row.items() if not name.endswith("_key") and name != "run_id"}
    children = [
        *references,
        *below,
        *_changes(connection, f"dwh.{fact.table}", [row[n] for n in (*fact.natural_key, "source_system")]),
    ]
    return Node(title, {**measures, "written by": run_said(connection, row["run_id"])}, children)


def _reference(
    connection: psycopg.Connection, source: str, fact: Fact, row: Mapping[str, str | None], name: str
) -> Node:
    """The version that a fact names, and why that one."""
    dimension = next(one for one in DIMENSIONS if one.entity == name)
    key, at = row[dimension.key], row[fact.event_time]
    through = fact.derived.get(name)
    if key == "0":
        why = f"no {name} can be told from the {through} that it names" if through else f"it names no {name}"
        return Node(f"{name}: unknown", {dimension.key: "0", "why": why})
    versions = find_rows(connection, "dwh", dimension.table, {dimension.key: str(key)})
    if not versions:
        return Node(
            f"{name}: there is no version {key}",
            {dimension.key: key, "why": "the row is damaged: `dwh reconcile` says what it ought to be"},
        )
    (version,) = versions
    (natural,) = dimension.natural_key
    facts: dict[str, object] = {dimension.key: key}
    facts |= {name: version[name] for name in dimension.attributes}
    if not dimension.has_history:
        why = "the only row that it has: it is overwritten in place"
    else:
        facts |= {"valid": _validity(version)}
        valid = connection.execute(
            "select %s::timestamptz >= %s::timestamptz and %s::timestamptz < %s::timestamptz",
            [at, version["valid_from"], at, version["valid_to"]],
        ).fetchone() == (True,)
        why = f"it was valid at {fact.event_time} {at}"
        if not valid:
            why = f"NOT valid at {fact.event_time} {at}: the row is damaged, see `dwh reconcile`"
        lives = len(
            find_rows(
                connection, "dwh", dimension.table, {natural: str(version[natural]), "source_system": source}
            )
        )
        why += f", one of {lives} versions" if lives > 1 else ", the only version"
    if version.get("is_inferred") == "true":
        why += "; inferred: a row named it before the source held it"
    if through:
        why += f"; reached through the {through}"
    return Node(f"{name} {version[natural]}", {**facts, "why": why})


def _member(
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
    lives = [
        _version(connection, dimension, before, version, after)
        for before, version, after in zip(
            [None, *versions[:-1]], versions, [*versions[1:], None], strict=True
        )
    ]
    state = "there" if versions[-1].get("is_current", "true") == "true" else "gone from the source"
    if versions[-1].get("is_deleted") == "true":
        state = "gone from the source"
    changes = [
        node
        for version in versions
        for node in _changes(connection, f"dwh.{dimension.table}", [version[dimension.key]])
    ]
    return Node(title, {"state": state, "versions": len(versions)}, [*lives, *below, *changes])


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
        facts["ended"] = "it is gone from the source; facts may name it still"
    facts["written by"] = run_said(connection, version["run_id"])
    facts["facts that name it"] = _named_by(connection, dimension, version[dimension.key])
    title = f"{dimension.key} {version[dimension.key]}"
    if dimension.has_history:
        title += f", valid {_validity(version)}"
    return Node(title + (", inferred" if version["is_inferred"] == "true" else ""), facts)


def _began(
    dimension: Dimension, before: Mapping[str, str | None] | None, version: Mapping[str, str | None]
) -> str:
    if version["is_inferred"] == "true":
        return "a fact named it then, and the source did not hold it"
    if before is None:
        return "it holds since ever: it is the first that was known"
    if before["valid_to"] != version["valid_from"]:
        return "it came back, after it had vanished from the source"
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
        f", told by {run_said(connection, version['expired_by_run_id'])}"
        if version["expired_by_run_id"]
        else ""
    )
    if after is not None and after["valid_from"] == version["valid_to"]:
        return f"it changed{by}"
    return f"it vanished from the source{by}"


def _named_by(connection: psycopg.Connection, dimension: Dimension, key: str | None) -> str:
    counts = []
    for fact in (target for target in TARGETS if isinstance(target, Fact)):
        if dimension.entity not in (*fact.references, *fact.derived):
            continue
        row = connection.execute(
            sql.SQL("select count(*) from {} where {} = {}").format(
                sql.Identifier("dwh", fact.table), sql.Identifier(dimension.key), sql.Literal(int(key or 0))
            )
        ).fetchone()
        assert row is not None
        counts.append(f"{row[0]:,} of {fact.entity}")
    return ", ".join(counts) or "none could"


def _changes(connection: psycopg.Connection, table: str, key: Sequence[str | None]) -> list[Node]:
    """What the change feed tells of a row: who changed it, when, and what it was."""
    rows = connection.execute(
        """
        select changed_at, operation, run_id, database_user, changed_columns, before, after from audit.change_log
        where table_name = %s and row_key = %s::text[] order by change_id
        """,
        [table, list(key)],
    ).fetchall()
    return [
        Node(
            f"{operation} of {table} {' '.join(str(part) for part in key)} at {changed_at:%Y-%m-%d %H:%M:%S} UTC",
            {
                "by": run_said(connection, run_id) if run_id else f"hand, as {user}",
                **{
                    name: f"{before.get(name)} → {after.get(name)}"
                    for name in columns or ()
                    if name not in HOUSEKEEPING[3:]
                },
            },
        )
        for changed_at, operation, run_id, user, columns, before, after in rows
    ]


def _validity(version: Mapping[str, str | None]) -> str:
    def told(moment: str | None, edge: str, word: str) -> str:
        return word if str(moment) == edge else str(moment)

    return f"from {told(version['valid_from'], BEGINNING, 'ever')} to {told(version['valid_to'], END_OF_TIME, 'now')}"


def _said(key: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in key.items())
