"""What a source counts of its tables: what a run read of them, and how often rows of them were changed."""

from dataclasses import dataclass

import psycopg

from warehouse.extract.table_identity import TableIdentity


@dataclass(frozen=True)
class SourceCounters:
    """Of one table with its indexes: rows and blocks that this session's transaction has read, and changes of rows.

    `changes` are inserts, updates and deletes since the server's counters began, rolled back or not: a hint that
    something has happened, never evidence. Blocks are None where the server does not count them.
    """

    rows_read: int
    blocks_read: int | None
    changes: int


def read_counters(reader: psycopg.Connection, identity: TableIdentity) -> SourceCounters:
    """Read the counters of a table's relations; anybody may."""
    row = reader.execute(
        """
        with relation as (
            select oid from unnest(%(oids)s::oid[]) as relation (oid)
        ),

        part as (
            select oid from relation
            union all
            select indexrelid from pg_index where indrelid = any(%(oids)s::oid[])
        )

        select
            coalesce(sum(pg_stat_get_xact_tuples_returned(oid)), 0)::bigint,
            case when current_setting('track_counts')::boolean
                then coalesce(sum(pg_stat_get_xact_blocks_fetched(oid)), 0)::bigint
            end,
            (
                select coalesce(sum(
                    pg_stat_get_tuples_inserted(oid) + pg_stat_get_tuples_updated(oid) + pg_stat_get_tuples_deleted(oid)
                ), 0)::bigint
                from relation
            )
        from part
        """,
        {"oids": list(identity.relations)},
    ).fetchone()
    assert row is not None
    return SourceCounters(*row)
