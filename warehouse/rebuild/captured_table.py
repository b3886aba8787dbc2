"""Schema history of archived source tables, read from the manifest: keys, columns and their changes by batch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, NamedTuple

import psycopg

from warehouse.archive.place import Archive
from warehouse.extract.drift import hash_alike
from warehouse.rebuild.archived_rows import AsOf, read_rows


class Shape(NamedTuple):
    """Column types of a table from one batch on, until the next shape."""

    batch_id: int
    types: Mapping[str, str]


class Gap(NamedTuple):
    """A range of batches without a column: the first one, and the first that has the column again (or None)."""

    first_batch_id: int
    until_batch_id: int | None


@dataclass(frozen=True)
class CapturedTable:
    """A source table as of its last archived batch. `columns` are types by column."""

    source: str
    name: str
    mirror: str
    key: tuple[str, ...]
    columns: Mapping[str, str]
    comment: str | None
    captured_run_id: int
    # The last batch with rows, if any.
    batch_id: int | None
    column_comments: Mapping[str, str]
    # One entry for each change of the columns, in the order of the batches.
    shapes: Sequence[Shape]

    def why_not_by(self, key: Mapping[str, str]) -> str | None:
        """Return why archived rows cannot be matched by `key` (types by column); None if they can."""
        archived = {name: self.columns[name] for name in self.key}
        if tuple(key) == self.key and all(hash_alike(kind, key[name]) for name, kind in archived.items()):
            return None
        by, now = (", ".join(f"{name} {kind}" for name, kind in one.items()) for one in (archived, key))
        return f"it was archived by the key ({by}), which is ({now}) now"

    @property
    def retyped(self) -> Mapping[str, int]:
        """Columns whose type has changed, each with the first batch of its present type."""
        last_types: dict[str, str] = {}
        first_batch_ids = {}
        for shape in self.shapes:
            for name, kind in shape.types.items():
                if last_types.setdefault(name, kind) != kind:
                    first_batch_ids[name] = shape.batch_id
            last_types |= shape.types
        return first_batch_ids

    @property
    def gaps(self) -> Mapping[str, Sequence[Gap]]:
        """Columns that were dropped at some time, each with the ranges of batches without it."""
        gaps_by_column: dict[str, list[Gap]] = {}
        for shape, following in zip_longest(self.shapes, self.shapes[1:]):
            missing = {name for one in self.shapes for name in one.types if one.batch_id < shape.batch_id}
            for name in missing - shape.types.keys():
                gap = Gap(shape.batch_id, following.batch_id if following else None)
                gaps_by_column.setdefault(name, []).append(gap)
        return gaps_by_column


def manifest_of(
    connection: psycopg.Connection, archive: Archive, warehouse_id: str, as_of: AsOf | None = None
) -> list[CapturedTable]:
    """Return the archive's captured tables, each as of its last batch (not later than `as_of`)."""
    if read_rows(connection, archive, "audit/captured_table", warehouse_id, as_of=as_of) is None:
        return []
    rows = connection.execute(_CAPTURED).fetchall()
    shapes: dict[tuple[str, str], list[Shape]] = {}
    for source, name, batch_id, columns in connection.execute(_SHAPES):
        shape = Shape(batch_id, _types_of(columns))
        shapes.setdefault((source, name), []).append(shape)
    return [
        CapturedTable(
            source,
            name,
            mirror,
            tuple(key),
            _types_of(columns),
            comment,
            run_id,
            batch_id,
            {column: text for column, _, *comments in json.loads(described or "[]") for text in comments},
            shapes[(source, name)],
        )
        for source, name, mirror, key, columns, comment, run_id, batch_id, described in rows
    ]


def first_archived_run(connection: psycopg.Connection) -> int | None:
    """Return the run that began the archive. Call it right after `manifest_of`, whose temporary table it reads."""
    row = connection.execute("select min(_run_id) from pg_temp.archived").fetchone()
    return row[0] if row else None


def _types_of(columns: str) -> Mapping[str, str]:
    return {name: kind for name, kind, *_ in json.loads(columns)}


# Comments come from the last batch read from the source: batches of an undo or a repair have none.
_CAPTURED: Final = """
    with last as (
        select distinct on (source, table_name)
            source, table_name, mirror, key::text[], columns, run_id::bigint,
            max(batch_id::bigint) over (partition by source, table_name) as batch_id
        from pg_temp.archived order by source, table_name, _batch_id desc, kind = 'baseline'
    ),

    described as (
        select distinct on (source, table_name) source, table_name, table_comment, columns
        from pg_temp.archived where kind not in ('undo', 'repair')
        order by source, table_name, _batch_id desc, kind = 'baseline'
    )

    select last.source, last.table_name, last.mirror, last.key, last.columns, described.table_comment, last.run_id,
        last.batch_id, described.columns
    from last left join described on last.source = described.source and last.table_name = described.table_name
    order by last.source, last.table_name
"""
# A batch without rows has no id: the batch id of its manifest row stands in for it.
_SHAPES: Final = """
    select source, table_name, batch_id, columns from (
        select source, table_name, columns, _batch_id, kind <> 'baseline' as is_batch,
            coalesce(batch_id::bigint, _batch_id) as batch_id,
            lag(columns) over (
                partition by source, table_name order by _batch_id, kind <> 'baseline'
            ) as columns_before
        from pg_temp.archived
    ) as entry
    where columns is distinct from columns_before order by source, table_name, _batch_id, is_batch
"""
