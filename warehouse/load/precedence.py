"""Events that several sources have: a fact counts each once, as the source that takes precedence has it.

Which sources may have the same events, the declaration of one of them says; audit.precedence knows it for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed, same_key
from warehouse.load.batch import Batch
from warehouse.load.followed import CORRECTING, looked_until
from warehouse.model.star import FACTS, Fact
from warehouse.sources.source import Source

LOWER_PRECEDENCE = "event is another source's"


@dataclass(frozen=True)
class Precedence:
    """The columns that say whether two rows are of the same event, and the sources before and after this one."""

    key: Sequence[str]
    higher: Sequence[str]
    lower: Sequence[str]


def record_precedence(connection: psycopg.Connection, run_id: int, source: Source) -> None:
    """Record what `source` declares, in the transaction that publishes its rows."""
    for entity in source.entities.values():
        if entity.precedence and source.feed is not None:
            connection.execute(
                """
                insert into audit.precedence as known (entity, key_columns, sources, run_id) values (%s, %s, %s, %s)
                on conflict (entity) do update set
                    key_columns = excluded.key_columns, sources = excluded.sources, run_id = excluded.run_id
                where (known.key_columns, known.sources) is distinct from (excluded.key_columns, excluded.sources)
                """,
                [entity.name, len(source.record.key), list(entity.precedence), run_id],
            )


def read_precedence(batch: Batch) -> Precedence | None:
    """What takes precedence over the batch's source, and over what it does; None where no other has its events."""
    if not isinstance(batch.target, Fact):
        return None
    row = batch.connection.execute(
        "select key_columns, sources from audit.precedence where entity = %s and %s = any(sources)",
        [batch.entity.name, batch.source],
    ).fetchone()
    if row is None:
        return None
    count, sources = row
    place = sources.index(batch.source)
    return Precedence(batch.target.natural_key[:count], sources[:place], sources[place + 1 :])


def yield_to_higher(batch: Batch) -> int:
    """Take rows out of the batch whose event a source that takes precedence has; returns how many events."""
    precedence = read_precedence(batch)
    if precedence is None or not precedence.higher:
        return 0
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
    return int(count)


def displace_lower(batch: Batch) -> int:
    """Delete the facts of events that the batch has from sources that it takes precedence over; returns how many."""
    precedence = read_precedence(batch)
    if precedence is None or not precedence.lower:
        return 0
    return batch.execute(
        "delete from {target} as held where held.source_system = any({lower}) "
        "and exists (select from {conformed} as conformed where {same})",
        same=same_key(precedence.key, "held", "conformed"),
        lower=sql.Literal(list(precedence.lower)),
    ).rowcount


def displace_restored(connection: psycopg.Connection, run_ids: Sequence[int]) -> dict[str, int]:
    """Delete facts whose event a source that takes precedence has, of the events that the undone `run_ids` had changed.

    What their undo restores may meanwhile have become another source's, and what it restores of that one may stand
    beside it. Returns by table how many were deleted.
    """
    deleted = {}
    rows = connection.execute(
        "select entity, key_columns, sources from audit.precedence order by entity"
    ).fetchall()
    for entity, count, sources in rows:
        fact = next(one for one in FACTS if one.entity == entity)
        key = fact.natural_key[:count]
        deleted[f"dwh.{fact.table}"] = connection.execute(
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
                name=sql.Literal(f"dwh.{fact.table}"),
                is_changed=same_key(key, "held", "changed"),
                same=same_key(key, "higher", "held"),
                sources=sql.Literal(sources),
            )
        ).rowcount
    return deleted


def returning_keys(batch: Batch) -> sql.Composable | None:
    """Select the keys of rows that yielded to an event that is gone from the source that took precedence; or None.

    They are looked for where that source's runs have deleted facts since this source last looked, or where an undo or a
    repair may have.
    """
    precedence = read_precedence(batch)
    if precedence is None or not precedence.higher:
        return None
    is_due = batch.connection.execute(
        """
        select from audit.load inner join audit.run using (run_id)
        where load.source = any(%s) and load.table_name = %s and (load.rows_deleted > 0 or run.flow = any(%s))
            and load.load_id > %s
        limit 1
        """,
        [list(precedence.higher), f"dwh.{batch.target.table}", list(CORRECTING), looked_until(batch)],
    ).rowcount
    if not is_due:
        return None
    pairs = list(zip(batch.entity.table.key, batch.target.natural_key, strict=True))
    return batch.format(
        """
        select {source_key}, 0 from {mirror} as mirror where not mirror._is_deleted and not exists (
            select from {target} as held where {same} and held.source_system = {source}
        )
        """,
        same=sql.SQL(" and ").join(
            sql.SQL("{} = {}::text").format(sql.Identifier("held", natural), sql.Identifier("mirror", name))
            for name, natural in pairs
        ),
    )
