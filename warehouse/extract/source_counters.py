"""Statistics counters of the source's server: rows and blocks that a run read of a table, and changes of its rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from warehouse.extract.table_identity import TableIdentity


@dataclass(frozen=True)
class SourceCounters:
    """Counters of one table with its indexes: rows and blocks read by this transaction, and changes of rows.

    `changes` are inserts, updates and deletes since the counters were reset, including those rolled back: a hint
    that something changed, no more. `blocks_read` is None if the server does not count (track_counts is off).
    """

    rows_read: int
    blocks_read: int | None
    changes: int


def read_counters(reader: psycopg.Connection, identities: Sequence[TableIdentity]) -> list[SourceCounters]:
    """Read the counters of the relations of these tables; this needs no privilege.

    Reads of this transaction are counted up to now, changes up to its first look at the statistics.
    """
    rows = reader.execute(
        """
        with relation as (
            select place, oid from unnest(%(places)s::integer[], %(oids)s::oid[]) as relation (place, oid)
        ),

        part as (
            select place, oid from relation
            union all
            select place, indexrelid from pg_index inner join relation on indrelid = relation.oid
        ),

        reading as (
            select
                place,
                sum(pg_stat_get_xact_tuples_returned(oid)) as rows_read,
                sum(pg_stat_get_xact_blocks_fetched(oid)) as blocks_read
            from part group by place
        ),

        change as (
            select
                place,
                sum(
                    pg_stat_get_tuples_inserted(oid) + pg_stat_get_tuples_updated(oid) + pg_stat_get_tuples_deleted(oid)
                ) as changes
            from relation group by place
        )

        select
            coalesce(rows_read, 0)::bigint,
            case when current_setting('track_counts')::boolean then coalesce(blocks_read, 0)::bigint end,
            coalesce(changes, 0)::bigint
        from generate_series(0, %(last)s) as wanted (place)
        left join reading using (place)
        left join change using (place)
        order by place
        """,
        {
            "places": [place for place, one in enumerate(identities) for _ in one.relations],
            "oids": [oid for one in identities for oid in one.relations],
            "last": len(identities) - 1,
        },
    ).fetchall()
    return [SourceCounters(*row) for row in rows]
