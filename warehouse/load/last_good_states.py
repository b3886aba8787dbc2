"""Keep the last good state of published facts with their quarantine entry: a rebuild cannot compute it from mirrors."""

from typing import Final

from psycopg import sql

from warehouse.db.identifiers import listed, same_row_key
from warehouse.extract.catalog import columns_of
from warehouse.load.batch import Batch
from warehouse.load.precedence import read_precedences
from warehouse.model.star import Fact
from warehouse.model.tables import HAS_QUARANTINED_UPDATE

_WAITING: Final = (
    "waiting.source = {source} and waiting.entity = {entity} and waiting.resolved_at is null "
    "and waiting.row_key is not null"
)


def keep_last_good_states(batch: Batch) -> None:
    """Store each marked fact in its waiting entries, unless it is stored already and this run has not changed it."""
    batch.execute(
        f"""
        update audit.quarantine as waiting set published_row = to_jsonb(held)
        from {{target}} as held
        where held.source_system = {{source}} and held.{{mark}} and {{same}} and {_WAITING}
            and (waiting.published_row is null or held.run_id = {{run_id}})
            and waiting.published_row is distinct from to_jsonb(held)
        """,
        mark=sql.Identifier(HAS_QUARANTINED_UPDATE.name),
        same=same_row_key(batch.target.natural_key, "held", "waiting"),
    )


def restore_last_good_states(batch: Batch, fact: Fact) -> int:
    """Insert stored facts that are missing, except events that a source of higher precedence has; returns their number.

    pg_temp.restored_facts has them, as row_key and published_row.
    """
    yields = [
        batch.format(
            "and not exists (select from {target} as higher where {same} and higher.source_system = any({higher}))",
            same=same_row_key(precedence.key, "higher", "waiting"),
            higher=sql.Literal(list(precedence.higher)),
        )
        for precedence in read_precedences(batch)
        if precedence.higher
    ]
    restored = batch.create_temporary(
        "restored_facts",
        f"""
        select distinct on (waiting.row_key) waiting.row_key, waiting.published_row
        from audit.quarantine as waiting
        where {_WAITING} and waiting.published_row is not null
            and not exists (select from {{target}} as held where {{same}} and held.source_system = {{source}})
            {{yields}}
        order by waiting.row_key, waiting.quarantine_id desc
        """,
        same=same_row_key(fact.natural_key, "held", "waiting"),
        yields=sql.SQL(" ").join(yields),
    )
    if restored:
        # A column that the fact got later has its default.
        (columns,) = batch.execute(
            "select array_agg(name) from unnest({columns}::text[]) as name "
            "where not exists (select from pg_temp.restored_facts where not published_row ? name)",
            columns=sql.Literal([*columns_of(batch.connection, "dwh", fact.table)]),
        ).fetchone() or ([],)
        batch.execute(
            "insert into {target} ({columns}) select {columns} from pg_temp.restored_facts "
            "cross join jsonb_populate_record(null::{target}, published_row)",
            columns=listed(columns),
        )
    return restored
