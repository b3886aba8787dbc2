"""Explain a row of the star or of a mirror: where it came from, down to the source and the rules that judged it."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import psycopg

from warehouse.errors import SettingsError
from warehouse.explain.facts import explain_fact, explain_snapshot
from warehouse.explain.members import explain_member
from warehouse.explain.node import Node, UnknownRow
from warehouse.explain.origin import Origin
from warehouse.explain.rows import similar_keys
from warehouse.model.star import TARGETS, TARGETS_BY_NAME, DailySnapshot, Dimension, Target
from warehouse.sources.source import Source, Table


def explain(
    connection: psycopg.Connection,
    sources: Sequence[Source],
    table: str,
    key: Sequence[str],
    *,
    readers: Mapping[str, psycopg.Connection] | None = None,
) -> list[Node]:
    """Explain where rows of `table` with `key` came from: one tree for each source that has the key.

    `table` is an entity, a dimension, a fact or a mirror; `readers` are connections to sources that can be queried.

    Raises:
        SettingsError: there is no such table, or the key has another number of columns.
        UnknownRow: no source has or had such a row; the hint has similar keys.
    """
    target, mirror = _resolve(sources, table)
    natural = target.natural_key if target else mirror.key if mirror else ()
    if len(key) == 1 != len(natural):
        key = key[0].split(":")
    if len(key) != len(natural):
        raise SettingsError(
            f"A key of {table} is ({', '.join(natural)}), not {' '.join(key)!r}.",
            hint=f"Give {len(natural)}, in this order: `dwh explain {table} {' '.join(natural).upper()}`.",
        )
    nodes = []
    for source in sources:
        origin = Origin(connection, source, (readers or {}).get(source.name))
        if mirror is not None:
            if mirror.source == source.name and (node := origin.mirrored(mirror, key)):
                nodes.append(node)
            continue
        entity = source.entities.get(target.entity) if target else None
        if isinstance(target, Dimension):
            node = explain_member(connection, origin, entity, target, key)
        elif isinstance(target, DailySnapshot):
            node = explain_snapshot(connection, origin, entity, target, key)
        else:
            assert target is not None
            node = explain_fact(connection, origin, entity, target, key)
        if node is not None:
            nodes.append(node)
    if not nodes:
        where = ("dwh", target.table) if target else ("raw", mirror.mirror if mirror else "")
        alike = similar_keys(connection, *where, natural, key)
        raise UnknownRow(
            f"No source has or had {table} {' '.join(key)!r}, neither published, nor in quarantine, nor in a mirror.",
            hint=f"There are, for instance: {'; '.join(alike)}." if alike else f"{'.'.join(where)} is empty.",
        )
    return nodes


def _resolve(sources: Sequence[Source], table: str) -> tuple[Target | None, Table | None]:
    """Find the dimension or fact, or the mirror, of that name."""
    if table in TARGETS_BY_NAME:
        return TARGETS_BY_NAME[table], None
    mirrors = {
        name: one for source in sources for one in source.tables for name in (one.mirror, f"raw.{one.mirror}")
    }
    if table in mirrors:
        return None, mirrors[table]
    names = (
        [target.entity for target in TARGETS]
        + ["weblog"]
        + [one for one in mirrors if one.startswith("raw.")]
    )
    close = get_close_matches(table, [*TARGETS_BY_NAME, *mirrors, "weblog"], 3)
    raise SettingsError(
        f"There is no table {table!r} that could be explained.",
        hint=f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(names)}.",
    )
