"""Where a read by the cursor's index begins: early enough to miss no row stamped since the last read (late commits)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import psycopg
from psycopg import sql

from warehouse.db.type_names import without_modifier
from warehouse.extract.column import Column
from warehouse.extract.snapshot import Snapshot
from warehouse.extract.watermark import Watermark, written_since_read
from warehouse.sources.source import Table

# Up to this many of the latest stamps without a time zone may be in the future without hiding later rows.
FUTURE_STAMPS = 100
# Time zones range from UTC-12 to UTC+14.
MOST_ZONES_DIFFER = timedelta(hours=26)
# Number of loads that are looked at: a day of them, if runs start every quarter of an hour.
LOADS_OF_A_DAY = 100
CLOCK_UNKNOWN = "the source's clock was set back by an unknown time"


@dataclass(frozen=True)
class SourceClock:
    """The source's clock at a read: how far it was set back since the last read, and its offset from UTC."""

    set_back: timedelta
    # UTC offset of the source's default time zone.
    utc_offset: timedelta
    # How far stamps without a time zone were behind this clock lately: sessions may have another zone.
    behind: timedelta = timedelta(0)

    @classmethod
    def of(
        cls,
        writer: psycopg.Connection,
        table: Table,
        columns: Sequence[Column],
        snapshot: Snapshot,
        watermark: Watermark,
    ) -> Self | None:
        """Return the clock at `snapshot`; None if it was set back by an unknown time since `watermark`."""
        behind = _usually_behind(writer, table, columns, snapshot.utc_offset)
        if snapshot.open_transactions is None or watermark.open_transactions is None:
            return cls(timedelta(0), snapshot.utc_offset, behind)
        set_back = snapshot.open_transactions.set_back_since(watermark.open_transactions)
        return None if set_back is None else cls(set_back, snapshot.utc_offset, behind)


def _usually_behind(
    writer: psycopg.Connection, table: Table, columns: Sequence[Column], utc_offset: timedelta
) -> timedelta:
    """Compute how far the highest stamps of the last day's loads were behind the source's clock, at the median.

    Larger lags than time zones can differ by are ignored, since they have another cause.
    """
    if not any(column.name == table.cursor and _has_no_zone(column.type) for column in columns):
        return timedelta(0)
    row = writer.execute(
        """
        select percentile_disc(0.5) within group (order by behind)
        from (
            select loaded_at at time zone 'UTC' + %(utc_offset)s - window_high::timestamp as behind
            from (
                select loaded_at, case when pg_input_is_valid(window_high, 'timestamp') then window_high end
                    as window_high
                from (
                    select loaded_at, window_low, window_high from audit.load
                    where source = %(source)s and table_name = %(table_name)s order by load_id desc limit %(loads)s
                ) as load
                where window_high > window_low and loaded_at > now() - interval '1 day'
            ) as load
            where isfinite(window_high::timestamp)
        ) as known
        where behind between interval '0' and %(most)s
        """,
        {
            "source": table.source,
            "table_name": f"raw.{table.mirror}",
            "utc_offset": utc_offset,
            "most": MOST_ZONES_DIFFER,
            "loads": LOADS_OF_A_DAY,
        },
    ).fetchone()
    return (row and row[0]) or timedelta(0)


def _has_no_zone(kind: str) -> bool:
    return without_modifier(kind) == "timestamp without time zone"


def is_moment(kind: str) -> bool:
    """Whether values of a type can be compared with the moment of a snapshot."""
    return without_modifier(kind) in _WINDOW_LOW


def outdated_cursors(
    connection: psycopg.Connection,
    watermarks: Mapping[Table, Watermark | None],
    columns: Mapping[Table, Sequence[Column]],
    snapshot: Snapshot,
) -> set[Table]:
    """Find tables whose last cursor value says nothing of the next read: it is later than the snapshot, so that a read
    from 'infinity' on would find nothing, or no value of the cursor's type, since another column was the cursor then.
    """
    conditions = {
        # By a cast from text: a literal of the type itself would be parsed before the condition is evaluated.
        table: sql.SQL("case when pg_input_is_valid({value}, {type}) then {is_late} else true end").format(
            value=sql.Literal(watermark.cursor_value),
            type=sql.Literal(kind),
            is_late=sql.SQL("{}::text::{} > {}").format(
                sql.Literal(watermark.cursor_value), sql.SQL(kind), sql.Literal(snapshot.clock(kind))
            )
            if is_moment(kind)
            else sql.SQL("false"),
        )
        for table, watermark in watermarks.items()
        if watermark is not None and watermark.cursor_value is not None
        for kind in (column.type for column in columns[table] if column.name == table.cursor)
    }
    if not conditions:
        return set()
    row = connection.execute(sql.SQL("select {}").format(sql.SQL(", ").join(conditions.values()))).fetchone()
    return {table for table, is_outdated in zip(conditions, row or (), strict=True) if is_outdated}


def changed_by_cursor(
    reader: psycopg.Connection,
    table: Table,
    columns: Sequence[Column],
    watermark: Watermark,
    clock: SourceClock,
) -> sql.Composable:
    """SQL condition for a read by the cursor's index: the row may have been stamped and written since the last read."""
    return sql.SQL("{} and {}").format(
        stamped_since(reader, table, columns, watermark, clock), written_since_read(watermark)
    )


def stamped_since(
    reader: psycopg.Connection,
    table: Table,
    columns: Sequence[Column],
    watermark: Watermark,
    clock: SourceClock,
) -> sql.Composable:
    """SQL condition on the cursor alone: the row may have been stamped since the last read.

    Every transaction that the last snapshot did not see began at or after `open_transactions.since`. Its stamps are not
    earlier, unless the source's clock was set back. A client's clock may be behind the source's: therefore the window
    begins at the highest published cursor, if that is earlier. `reader` must have sequential scans disabled.
    """
    assert table.cursor is not None and watermark.open_transactions is not None
    (kind,) = (column.type for column in columns if column.name == table.cursor)
    plain = without_modifier(kind)
    row = reader.execute(
        sql.SQL("select low::text, is_after from {}").format(
            sql.SQL(_WINDOW_LOW[plain]).format(
                cursor=sql.Identifier(table.cursor),
                table=sql.Identifier(*table.at_source),
                high=sql.Literal(watermark.cursor_value),
                since=sql.Literal(watermark.open_transactions.since - clock.set_back),
                captured_at=sql.Literal(watermark.captured_at),
                utc_offset=sql.Literal(clock.utc_offset),
                behind=sql.Literal(clock.behind),
                # A type with a precision, such as timestamp(0), may round stamps down.
                rounding=sql.Literal(timedelta(0) if kind == plain else timedelta(seconds=1)),
                future_stamps=sql.Literal(FUTURE_STAMPS),
            )
        )
    ).fetchone()
    assert row is not None
    low, is_after = row
    return sql.SQL("{cursor} {sign} {low}::{kind}").format(
        cursor=sql.Identifier(table.cursor),
        sign=sql.SQL(">" if is_after and kind == plain else ">="),
        low=sql.Literal(low),
        kind=sql.SQL(kind),
    )


# By type of the cursor: `low`, where the window begins, and `is_after`, whether rows stamped exactly at `low` were read
# already, since every transaction that could add one began later. Clocks without a time zone are set back by an hour
# once a year, and a session with another time zone is behind or ahead of the source's clock by an unknown time. Their
# window is estimated from how long before the snapshot a transaction began, from the stamps that were read (the latest
# may be in the future), and from how far behind the stamps of other runs were.
_WINDOW_LOW = {
    "timestamp with time zone": """
        (
            select least(high, since - cut) as low, high < since - cut as is_after
            from (select {high}::timestamptz as high, {since}::timestamptz as since) as given
            -- A trigger may truncate stamps to seconds, minutes or hours: later transactions then have the same stamp.
            cross join lateral (
                select case high
                    when date_trunc('hour', high) then interval '1 hour'
                    when date_trunc('minute', high) then interval '1 minute'
                    when date_trunc('second', high) then interval '1 second'
                    else interval '0'
                end as unit
            ) as stamp
            cross join lateral (
                select
                    greatest({rounding}::interval, case when high + unit > since then unit else interval '0' end)
                        as cut
            ) as window_start
        ) as cursor_window
    """,
    "timestamp without time zone": """
        (
            select
                least(
                    coalesce(
                        (
                            select {cursor} from {table}
                            where {cursor} <= least({high}::timestamp, captured_at + {utc_offset}::interval)
                            order by {cursor} desc offset {future_stamps} limit 1
                        ) - (captured_at - since),
                        '-infinity'
                    ),
                    since + {utc_offset}::interval - {behind}::interval
                ) - {rounding}::interval - interval '1 hour' as low,
                false as is_after
            from (
                select
                    {captured_at}::timestamptz at time zone 'UTC' as captured_at,
                    {since}::timestamptz at time zone 'UTC' as since
            ) as given
        ) as cursor_window
    """,
    "date": """
        (
            select
                least({high}::date, ({since}::timestamptz at time zone 'UTC' - interval '1 day')::date) as low,
                false as is_after
        ) as cursor_window
    """,
}
