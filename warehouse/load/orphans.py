"""Strays: what the star and the quarantine hold of a source, and its mirror does not."""

import psycopg
from psycopg import sql

from warehouse.db.identifiers import qualified, same_key
from warehouse.errors import DeleteThresholdExceeded
from warehouse.extract.deletes import BRAKE_ADVICE
from warehouse.load.conform import natural_keys
from warehouse.model.star import TARGETS, Dimension, Fact
from warehouse.sources.declaration import Entity


def holds_anything(connection: psycopg.Connection, source: str) -> bool:
    """Whether star or quarantine hold anything of a source: if not, its first load need not look for what it brings."""
    held = [
        sql.SQL("exists (select from {} where source_system = {})").format(
            sql.Identifier("dwh", target.table), sql.Literal(source)
        )
        for target in TARGETS
    ]
    held.append(
        sql.SQL("exists (select from audit.quarantine where source = {} and resolved_at is null)").format(
            sql.Literal(source)
        )
    )
    row = connection.execute(sql.SQL("select {}").format(sql.SQL(" or ").join(held))).fetchone()
    return bool(row and row[0])


def remove_orphans(
    connection: psycopg.Connection, entity: Entity, target: Dimension | Fact, max_share: float
) -> int:
    """Add to pg_temp.removed the keys of a target, and of lines that wait for it, that no mirror row has; how many.

    A mirror that was dropped or changed by hand tells nothing of what has left the source meanwhile.

    Raises:
        DeleteThresholdExceeded: more than `max_share` of the target would go.
    """
    names: dict[str, sql.Composable] = {
        "target": sql.Identifier("dwh", target.table),
        "natural": qualified("held", target.natural_key),
        "source": sql.Literal(entity.source),
        "entity": sql.Literal(entity.name),
        "live": sql.SQL(_live(target)),
        "keys": natural_keys(entity, target),
        "mirror": sql.Identifier("raw", entity.table.mirror),
        "same": same_key(target.natural_key, "known", "held"),
        "waiting": sql.SQL(", ").join(
            sql.SQL("row_key[{}] as {}").format(sql.Literal(place), sql.Identifier(name))
            for place, name in enumerate(target.natural_key, start=1)
        ),
    }
    strays = connection.execute(
        sql.SQL(_ADD).format(
            **names,
            held=sql.SQL(
                "select {natural} from {target} as held where source_system = {source} and {live}"
            ).format(**names),
        )
    ).rowcount
    if strays:
        row = connection.execute(
            sql.SQL("select count(*) from {target} as held where source_system = {source} and {live}").format(
                **names
            )
        ).fetchone()
        assert row is not None
        if strays > max_share * row[0]:
            raise DeleteThresholdExceeded(
                f"Too many rows of dwh.{target.table} have vanished from source '{entity.source}' since its mirror "
                f"was made anew: {strays:,} of {row[0]:,}, {strays / row[0]:.0%}; the limit is {max_share:.0%}.",
                hint=BRAKE_ADVICE,
            )
    return (
        strays
        + connection.execute(
            sql.SQL(_ADD).format(
                **names,
                held=sql.SQL(
                    "select {waiting} from audit.quarantine where source = {source} and entity = {entity} "
                    "and resolved_at is null and row_key is not null"
                ).format(**names),
            )
        ).rowcount
    )


def _live(target: Dimension | Fact) -> str:
    if isinstance(target, Fact):
        return "true"
    return "is_current and not is_inferred" if target.has_history else "not is_deleted and not is_inferred"


_ADD = """
    with known as (select {keys} from {mirror} as affected where not _is_deleted)

    insert into pg_temp.removed
    select held.* from ({held}) as held where not exists (select from known where {same})
"""
