"""Divide keys into ranges of about as many rows: those of a mirror, or of a range to which a batch adds many."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed, same_key
from warehouse.extract.key_order import Bound, KeyOrder
from warehouse.extract.key_ranges import KeyRange, count_by_range
from warehouse.extract.staging_tables import batch_table
from warehouse.sources.source import Table

# Number of a batch's keys that are looked up to estimate how many of them are new in which range.
SAMPLE = 1000


@dataclass(frozen=True)
class Split:
    """A range, by its lower bound, that was divided into parts; of each its lower bound and rows."""

    low: Bound
    parts: tuple[tuple[Bound, int], ...]


def split_grown(
    writer: psycopg.Connection,
    table: Table,
    order: KeyOrder,
    ranges: Sequence[KeyRange],
    rows_read: int,
    range_rows: int,
) -> tuple[list[KeyRange], tuple[Split, ...]]:
    """Split the ranges that have more than twice `range_rows` with the batch of `rows_read` rows, so that no run has to
    verify all that a bulk load has brought. Returns all ranges, the parts in place of the whole, and the splits.
    """
    # What few rows bring is within the tolerance of a budget, and not looked up.
    if rows_read <= range_rows:
        return list(ranges), ()
    batch = batch_table(table)
    counted = count_by_range(
        writer,
        order,
        ranges,
        batch,
        sample=SAMPLE,
        where=sql.SQL("not exists (select from {} as mirror where not _is_deleted and {})").format(
            sql.Identifier("raw", table.mirror), same_key(table.key, "mirror", "batch")
        ),
    )
    share = max(rows_read / SAMPLE, 1.0)
    divided: list[KeyRange] = []
    splits = []
    for one in ranges:
        parts = [(one.low, one.row_count)]
        if one.row_count + counted.get(one.low, 0) * share > 2 * range_rows:
            parts = cut(writer, table, order, one.low, one.high, range_rows, batch=batch)
        if len(parts) == 1:
            divided.append(one)
            continue
        highs = [*(low for low, _ in parts[1:]), one.high]
        divided += [
            replace(one, low=low, high=high, row_count=rows)
            for (low, rows), high in zip(parts, highs, strict=True)
        ]
        splits.append(Split(one.low, tuple(parts)))
    return divided, tuple(splits)


def cut(
    connection: psycopg.Connection,
    table: Table,
    order: KeyOrder,
    low: Bound,
    high: Bound,
    range_rows: int,
    *,
    batch: sql.Composable | None = None,
) -> list[tuple[Bound, int]]:
    """Divide the keys from `low` to `high` of the mirror, and of a `batch`, into ranges of about `range_rows`.

    Returns (lower bound, rows) of each.
    """
    key = listed([part.name for part in order.parts])
    within = order.within(low, high)
    keys = sql.SQL("select {} from {} where not _is_deleted and {}").format(
        key, sql.Identifier("raw", table.mirror), within
    )
    if batch is not None:
        keys = sql.SQL("{} union select {} from {} where {}").format(keys, key, batch, within)
    rows = connection.execute(
        sql.SQL(
            """
            select array[{parts}]::text[], number
            from (
                select {key}, row_number() over sorted, lead(true) over sorted is null
                from ({keys}) as keys
                window sorted as (order by {sorted})
            ) as numbered ({parts}, number, is_last)
            where (number - 1) % {size} = 0 or is_last
            order by number
            """
        ).format(
            # Named by position: a key column of a source may have any name, also `number` or `is_last`.
            parts=listed([f"part {place}" for place, _ in enumerate(order.parts)]),
            key=key,
            keys=keys,
            sorted=order.sorted(),
            size=sql.Literal(range_rows),
        )
    ).fetchall()
    if not rows:
        return [(low, 0)]
    first = [row for row in rows if (row[1] - 1) % range_rows == 0]
    ends = [number for _, number in first[1:]] + [rows[-1][1] + 1]
    # The first range begins at `low`, whatever its first key is now.
    return [
        (low if place == 0 else tuple(bound), end - number)
        for place, ((bound, number), end) in enumerate(zip(first, ends, strict=True))
    ]
