"""Precedence: if several sources have the same event, the fact keeps the rows of the source that takes precedence.

One of these sources declares which sources may have the same events, and audit.precedence records it for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.types.json import Json

from warehouse.db.identifiers import listed, same_key
from warehouse.load.batch import Batch
from warehouse.load.followed import CORRECTING, looked_until
from warehouse.load.natural_keys import natural_values
from warehouse.model.star import FACTS, Fact
from warehouse.sources.source import Source

# Declarations by feed in a row of audit.precedence; rows of earlier releases have one declaration, without a name.
_DECLARED = """
    coalesce(declared, jsonb_build_object('', jsonb_build_object('key_columns', key_columns, 'sources', sources)))
"""


@dataclass(frozen=True)
class Precedence:
    """The columns that identify an event across sources, and the sources of higher and of lower precedence."""

    key: Sequence[str]
    higher: Sequence[str]
    lower: Sequence[str]


def record_precedence(connection: psycopg.Connection, run_id: int, source: Source) -> None:
    """Record the precedence that the feed `source` declares, in the publishing transaction."""
    if source.feed is None:
        return
    for fact in FACTS:
        entity = source.entities.get(fact.entity)
        row = connection.execute(
            f"select {_DECLARED} from audit.precedence where entity = %s", [fact.entity]
        ).fetchone()
        before = row[0] if row else {}
        # Replace this feed's declaration, also one without a name, which an earlier release has recorded.
        declared = {
            name: one
            for name, one in before.items()
            if name != source.name and (name or source.name not in one["sources"])
        }
        if entity is not None and entity.precedence:
            declared[source.name] = {
                "key_columns": sum({*one} <= {*source.record.key} for one in entity.key.values()),
                "sources": list(entity.precedence),
            }
        if declared == before:
            continue
        last = declared.get(source.name, {"key_columns": 0, "sources": []})
        connection.execute(
            """
            insert into audit.precedence (entity, key_columns, sources, declared, run_id) values (%s, %s, %s, %s, %s)
            on conflict (entity) do update set
                key_columns = excluded.key_columns, sources = excluded.sources, declared = excluded.declared,
                run_id = excluded.run_id
            """,
            [fact.entity, last["key_columns"], last["sources"], Json(declared), run_id],
        )


def read_precedences(batch: Batch) -> list[Precedence]:
    """Return the precedence of the batch's source, one for each declaration that names it."""
    if not isinstance(batch.target, Fact):
        return []
    precedences = []
    for count, sources in _declared(batch.connection, batch.target):
        if batch.source in sources:
            place = sources.index(batch.source)
            precedences.append(
                Precedence(batch.target.natural_key[:count], sources[:place], sources[place + 1 :])
            )
    return precedences


def higher_sources(batch: Batch) -> list[str]:
    """Return the sources that take precedence over the batch's source, also through several declarations.

    If the source to which an event was left loses it to a third source, this source's row may count again.
    """
    assert isinstance(batch.target, Fact)
    declared = [sources for _, sources in _declared(batch.connection, batch.target)]
    higher = {batch.source}
    while (
        more := {
            one
            for name in higher
            for sources in declared
            if name in sources
            for one in sources[: sources.index(name)]
        }
        - higher
    ):
        higher |= more
    return sorted(higher - {batch.source})


def _declared(connection: psycopg.Connection, fact: Fact) -> list[tuple[int, list[str]]]:
    """Return, per declaration about a fact, how many key columns identify an event, and the sources by precedence."""
    return connection.execute(
        "select (value ->> 'key_columns')::integer, array(select jsonb_array_elements_text(value -> 'sources')) "
        f"from audit.precedence cross join jsonb_each({_DECLARED}) where entity = %s order by key",
        [fact.entity],
    ).fetchall()


def yield_to_higher(batch: Batch) -> int:
    """Remove conformed rows whose event the fact has from a higher-precedence source; returns the number of events."""
    events = 0
    for precedence in read_precedences(batch):
        if not precedence.higher:
            continue
        (count,) = batch.execute(
            """
            with yielding as (
                delete from {conformed} as conformed where exists (
                    select from {target} as held where {same} and held.source_system = any({higher})
                )
                returning {key}
            )

            select count(*) from (select distinct {key} from yielding) as event
            """,
            same=same_key(precedence.key, "held", "conformed"),
            higher=sql.Literal(list(precedence.higher)),
            key=listed(precedence.key),
        ).fetchone() or (0,)
        events += int(count)
    return events


def displace_lower(batch: Batch) -> int:
    """Delete facts of lower-precedence sources for the events of the batch; returns the number of facts deleted."""
    return sum(
        batch.execute(
            "delete from {target} as held where held.source_system = any({lower}) "
            "and exists (select from {conformed} as conformed where {same})",
            same=same_key(precedence.key, "held", "conformed"),
            lower=sql.Literal(list(precedence.lower)),
        ).rowcount
        for precedence in read_precedences(batch)
        if precedence.lower
    )


def displace_restored(connection: psycopg.Connection, run_ids: Sequence[int]) -> dict[str, int]:
    """Delete lower-precedence facts of events that an undo of `run_ids` has restored.

    Since these runs, another source's facts may have taken the place of those restored; an undo may also restore facts
    of a higher source beside those of a lower one. Returns the number of facts deleted by table.
    """
    deleted: dict[str, int] = {}
    declared = [(fact, *one) for fact in FACTS for one in _declared(connection, fact)]
    for fact, count, sources in declared:
        key, name = fact.natural_key[:count], f"dwh.{fact.table}"
        deleted.setdefault(name, 0)
        deleted[name] += connection.execute(
            sql.SQL(
                """
                delete from {target} as held
                using (
                    select distinct {row_key} from audit.change inner join audit.row_schema using (row_schema_id)
                    where run_id = any({run_ids}) and table_name = {name}
                ) as changed
                where {is_changed} and exists (
                    select from {target} as higher
                    where {same} and array_position({sources}, higher.source_system)
                        < array_position({sources}, held.source_system)
                )
                """
            ).format(
                target=sql.Identifier("dwh", fact.table),
                # The natural key comes first in the key of a fact.
                row_key=sql.SQL(", ").join(
                    sql.SQL("row_key[{}] as {}").format(sql.Literal(place), sql.Identifier(name))
                    for place, name in enumerate(key, start=1)
                ),
                run_ids=sql.Literal(list(run_ids)),
                name=sql.Literal(name),
                is_changed=same_key(key, "held", "changed"),
                same=same_key(key, "higher", "held"),
                sources=sql.Literal(sources),
            )
        ).rowcount
    return deleted


def is_restored(batch: Batch) -> bool:
    """Return whether displaced facts of the batch's source may have been restored, as they were when displaced.

    That is so if, since `looked_until`, a run of another source was undone, which includes the run that declared the
    precedence, or a source of higher precedence was repaired.
    """
    return _has_loads(
        batch,
        "load.source = any({higher}) and run.flow = any({correcting}) or load.source <> {source} and run.flow = 'undo'",
    )


def may_return(batch: Batch) -> bool:
    """Return whether events of the batch's source that were left to another source may count again.

    That is so if, since `looked_until`, runs of a source of higher precedence have deleted facts, an undo or a repair
    may have, or the declared precedence has changed.
    """
    if not isinstance(batch.target, Fact):
        return False
    return is_restored(batch) or _has_loads(
        batch,
        "load.source = any({higher}) and load.rows_deleted > 0 "
        "or load.run_id = (select run_id from audit.precedence where entity = {entity})",
    )


def _has_loads(batch: Batch, condition: str) -> bool:
    """Return whether the batch's fact has loads after `looked_until` for which `condition` holds."""
    query = sql.SQL(
        "select from audit.load inner join audit.run using (run_id) "
        f"where load.load_id > {{looked}} and load.table_name = {{table}} and ({condition}) limit 1"
    )
    return bool(
        batch.connection.execute(
            query.format(
                looked=sql.Literal(looked_until(batch)),
                table=sql.Literal(f"dwh.{batch.target.table}"),
                higher=sql.Literal(higher_sources(batch)),
                correcting=sql.Literal(list(CORRECTING)),
                source=sql.Literal(batch.source),
                entity=sql.Literal(batch.target.entity),
            )
        ).rowcount
    )


def returning_keys(batch: Batch) -> sql.Composable | None:
    """Select the keys of mirror rows that the fact has no row of, if some `may_return`; else None."""
    if not may_return(batch):
        return None
    return batch.format(
        """
        select {source_key}, 0 from {mirror} as mirror where not mirror._is_deleted and not exists (
            select from {target} as held where {same} and held.source_system = {source}
        )
        """,
        same=sql.SQL(" and ").join(
            sql.SQL("{} = {}").format(sql.Identifier("held", natural), value)
            for natural, value in natural_values(batch.entity, "mirror").items()
        ),
    )
