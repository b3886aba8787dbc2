"""Key ranges of a large table: when each was verified last, and which are verified next.

`audit.key_range` has the lower bound of each; its upper bound is the next one's lower bound. The first range is open
below, the last one above: every possible key is in exactly one of them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed
from warehouse.extract.checksums import Checksums, row_count
from warehouse.extract.key_order import Bound, KeyOrder
from warehouse.sources.source import Table

# Why a range was verified: with its whole table; as the oldest of the rotation; since the batch or new keys are in it.
Turn = Literal["whole", "oldest", "touched"]
BOUND_VALUE = sql.Identifier("<value>")
NEVER = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class KeyRange:
    """Keys from `low` up to, but without, `high`, and when source and mirror were last verified to be equal in them."""

    low: Bound
    high: Bound
    # None if source and mirror differed after the last publish, or the verification was discarded.
    verified_at: datetime | None
    snapshot_xmin: int
    # Rows at the source at that verification.
    row_count: int
    turn: Turn

    @property
    def age_key(self) -> datetime:
        """Sort key: ranges that were verified the longest time ago come first."""
        return self.verified_at or NEVER


@dataclass(frozen=True)
class VerifiedRange:
    """A range in which the source equals the mirror with this batch applied, with the source's checksums."""

    low: Bound
    high: Bound
    turn: Turn
    checksums: Checksums
    # Rows of the mirror with the batch applied, before deletes were found.
    rows_expected: int
    rows_deleted: int = 0
    # True if the first or last key was deleted, so that deletes may go on in the next range.
    is_cut_off: bool = False
    # Rows that were not yet counted in this rotation.
    rows_first_verified: int = 0

    @property
    def row_count(self) -> int:
        """Rows at the source."""
        return row_count(self.checksums)


@dataclass(frozen=True)
class Pace:
    """How fast a table of `rows` rows is verified: completely `within` a time, if a run starts every `interval`."""

    rows: int
    interval: timedelta
    within: timedelta
    now: datetime

    @property
    def budget(self) -> int:
        """Rows to verify in a run."""
        share = self.interval / self.within if self.within else 1.0
        return round(self.rows * min(max(share, 0.0), 1.0))


def read_ranges(connection: psycopg.Connection, table: Table, order: KeyOrder) -> list[KeyRange]:
    """Read the ranges of a table, in the order of their keys; empty if it was not divided into ranges."""
    lows = sql.SQL(", ").join(
        sql.SQL("low_key[{}]::{} {}").format(
            sql.Literal(position),
            sql.SQL(part.type),
            sql.SQL("collate {}").format(sql.Identifier(part.mirror_collation))
            if part.mirror_collation
            else sql.SQL(""),
        )
        for position, part in enumerate(order.parts, start=1)
    )
    rows = connection.execute(
        sql.SQL(
            """
            select low_key, verified_at, snapshot_xmin, row_count, turn from audit.key_range
            where source = %s and table_name = %s order by cardinality(low_key) > 0, {lows}
            """
        ).format(lows=lows),
        [table.source, table.name],
    ).fetchall()
    highs: list[Bound] = [*(tuple(low) for low, *_ in rows[1:]), ()] if rows else []
    return [
        KeyRange(tuple(low), high, verified_at, xmin, count, turn)
        for (low, verified_at, xmin, count, turn), high in zip(rows, highs, strict=True)
    ]


def last_verification(connection: psycopg.Connection, table: Table, now: datetime) -> datetime | None:
    """Return the snapshot's time of the last run that verified key ranges of a table; None if no run is known."""
    row = connection.execute(
        """
        select captured_at from audit.verification
        -- A reconcile has no snapshot of its own.
        where layer = 'mirror' and source = %s and table_name = %s and verdict <> 'not_compared' and captured_at <= %s
        order by verification_id desc limit 1
        """,
        [table.source, table.name, now],
    ).fetchone()
    return row[0] if row else None


def touched_ranges(
    writer: psycopg.Connection,
    order: KeyOrder,
    ranges: Sequence[KeyRange],
    keys: sql.Composable,
    *,
    sample: int | None = None,
) -> set[Bound]:
    """Return the lower bounds of the ranges that contain keys of the table `keys`, or of a random `sample` of it."""
    if len(ranges) == 1:
        is_any = writer.execute(sql.SQL("select from {} limit 1").format(keys)).rowcount
        return {ranges[0].low} if is_any else set()
    return set(count_by_range(writer, order, ranges, keys, sample=sample))


def count_by_range(
    writer: psycopg.Connection,
    order: KeyOrder,
    ranges: Sequence[KeyRange],
    keys: sql.Composable,
    *,
    sample: int | None = None,
    where: sql.Composable | None = None,
) -> dict[Bound, int]:
    """Count keys of the table `keys` by the lower bound of their range: those `where` a condition on `batch` holds."""
    keep_bounds(writer, order, {one.low: 0 for one in ranges})
    rows = writer.execute(
        sql.SQL(
            """
            select coalesce(({low}), array[]::text[]), count(*)
            from (select {key} from {keys} order by random() limit {sample}) as batch
            where {where} group by 1
            """
        ).format(
            key=listed([part.name for part in order.parts]),
            keys=keys,
            sample=sql.Literal(sample),
            where=where or sql.SQL("true"),
            low=bound_of(order, "batch", order.texts(of="bound")),
        )
    ).fetchall()
    return {tuple(low): number for low, number in rows}


def keep_bounds(writer: psycopg.Connection, order: KeyOrder, values: Mapping[Bound, int]) -> None:
    """Write the lower bounds of ranges, each with a value, to pg_temp.range_bound; an open bound is omitted."""
    writer.execute("drop table if exists pg_temp.range_bound")
    writer.execute(
        sql.SQL("create temp table range_bound ({}, {} integer) on commit drop").format(
            sql.SQL(", ").join(
                sql.SQL("{} {}").format(sql.Identifier(part.name), sql.SQL(part.type)) for part in order.parts
            ),
            BOUND_VALUE,
        )
    )
    with (
        writer.cursor() as cursor,
        cursor.copy(sql.SQL("copy pg_temp.range_bound from stdin")) as copy,
    ):
        for low, value in values.items():
            if low:
                copy.write_row((*low, value))
    writer.execute(
        sql.SQL("create index on pg_temp.range_bound ({}); analyze pg_temp.range_bound").format(
            order.sorted()
        )
    )


def bound_of(order: KeyOrder, row: str, wanted: sql.Composable) -> sql.Composable:
    """Query that selects `wanted` from `bound`, the lower bound of the range of a `row`; no row if that is open."""
    return sql.SQL(
        "select {wanted} from pg_temp.range_bound as bound where ({bounds}) <= ({values}) "
        "order by {descending} limit 1"
    ).format(
        wanted=wanted,
        bounds=order.sorted(of="bound"),
        values=order.sorted(of=row),
        descending=order.sorted(of="bound", is_descending=True),
    )


def choose_ranges(
    ranges: Sequence[KeyRange],
    touched: Collection[Bound],
    pace: Pace,
    range_rows: int,
    *,
    is_hurried: bool = False,
) -> list[tuple[KeyRange, Turn]]:
    """Choose the ranges to verify next, each with the reason: at least one, else as many rows as `pace.budget`.

    At most half of the budget is for the range of the newest keys and for those `touched` by the batch, the rest for
    those verified the longest time ago. These get up to a whole budget if they would otherwise be late. If the
    rotation `is_hurried`, the run verifies one and a half budgets, at most a quarter of one for the first kind.
    If the budget has room for one range only, the two kinds take turns.
    """

    def cost(one: KeyRange) -> int:
        # To look for rows in an empty range is not free either.
        return max(one.row_count, range_rows // 10)

    def age(one: KeyRange) -> datetime:
        # A time in the future shows that the clock was ahead: the range counts as never verified.
        return one.age_key if one.age_key <= pace.now else NEVER

    # Ranges that are not verified are always chosen, whatever the budget.
    chosen: list[tuple[KeyRange, Turn]] = [(one, "oldest") for one in ranges if one.verified_at is None]
    by_age = sorted((one for one in ranges if one.verified_at is not None), key=age)
    newest = max(map(age, ranges))
    is_turn_of_recent = {one.turn for one in ranges if age(one) == newest} == {"oldest"}
    recent = [one for one in by_age if one.low in touched or one is ranges[-1]]
    taken: set[Bound] = set()
    spent = waited = 0
    budget = pace.budget
    needed = min(_needed_now([(age(one), cost(one)) for one in by_age], pace), budget)
    for one in recent:
        if spent + cost(one) > budget / (4 if is_hurried else 2) and (taken or not is_turn_of_recent):
            break
        chosen.append((one, "touched"))
        taken.add(one.low)
        spent += cost(one)
    for one in (one for one in by_age if one.low not in taken):
        if chosen and waited >= needed and spent + cost(one) > budget * (1.5 if is_hurried else 1):
            break
        chosen.append((one, "oldest"))
        spent += cost(one)
        waited += cost(one)
    return chosen


def _needed_now(ages: Sequence[tuple[datetime, int]], pace: Pace) -> int:
    """Rows to verify now so that no range is late if later runs verify a whole budget; `ages` has the oldest first."""
    needed = sum_of_costs = 0
    for age, cost in ages:
        sum_of_costs += cost
        runs_left = (age + pace.within - pace.now) / pace.interval - 1 if pace.interval else 0.0
        needed = max(needed, round(sum_of_costs - pace.budget * max(runs_left, 0.0)))
    return needed
