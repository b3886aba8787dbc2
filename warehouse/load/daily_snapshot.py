"""Load daily snapshots: every run writes the rows of its day, and carries rows forward over days without a run.

The first run of a day copies the rows of the day before and writes what changed; later runs write what changed. Days
are those of the company's time zone (DWH_TIME_ZONE).
"""

from collections.abc import Iterator
from datetime import date, datetime

from psycopg import sql

from warehouse.db.identifiers import assigned, differ, listed, qualified, same_key
from warehouse.load import scd1, scd2
from warehouse.load.batch import Batch, closed_table
from warehouse.load.changed_keys import has_closed
from warehouse.load.counts import Counts
from warehouse.model.calendar_sql import add_days
from warehouse.model.fact_sql import dimension_of, snapshot_columns, snapshot_query
from warehouse.model.star import DailySnapshot, Dimension

LINES = sql.Identifier("pg_temp", "snapshot_lines")


def is_pending(batch: Batch) -> bool:
    """Return whether a new day or expired versions require a daily snapshot to be written for an unchanged source."""
    if not isinstance(batch.target, DailySnapshot) or batch.taken_at is None:
        return False
    latest = _latest_day(batch)
    return latest is not None and (
        latest < _local_day(batch, batch.taken_at)
        or any(
            batch.exists("select from ({rows}) as outdated", rows=rows)
            for rows in _outdated(batch, batch.target)
        )
    )


def merge(batch: Batch, snapshot: DailySnapshot) -> Counts:
    """Write the rows of the day of the source's snapshot; running it again on the same day changes nothing."""
    assert batch.taken_at is not None
    latest = _latest_day(batch)
    # After a clock was set back, go on with the latest day instead of writing an earlier one.
    day = max(filter(None, (latest, _local_day(batch, batch.taken_at))))
    names = {"day": sql.Literal(day), "same": same_key(snapshot.natural_key, "deleted", "line")}
    queries = [
        _conformed(batch, snapshot, day),
        _carried_forward(batch, snapshot, latest, day),
        *_outdated(batch, snapshot),
    ]
    if batch.reconform_reason is not None:
        # The definition may have changed the time zone, in which earlier days began at other moments.
        queries.append(_earlier(batch, snapshot, day))
    fill_lines(
        batch,
        snapshot,
        batch.format(
            """
            select line.* from ({queries}) as line
            where line.snapshot_date < {day} or not exists (select from {deleted_keys} as deleted where {same})
            """,
            **names,
            queries=sql.SQL(" union all ").join(queries),
        ),
    )
    batch.connection.execute(
        add_days(
            sql.SQL("select distinct line.snapshot_date as day from pg_temp.snapshot_lines as line"),
            batch.run_id,
        )
    )
    infer_missing(batch, snapshot)
    inserted, updated = _upsert(batch, snapshot)
    deleted = batch.execute(
        """
        delete from {target} as line using {deleted_keys} as deleted
        where {same} and line.snapshot_date = {day} and line.source_system = {source}
        """,
        **names,
    ).rowcount
    return Counts(inserted=inserted, updated=updated, deleted=deleted)


def fill_lines(batch: Batch, snapshot: DailySnapshot, query: sql.Composable) -> None:
    """Fill the temporary table of snapshot lines. For each natural key and day, keep that with the lowest `rank`."""
    key = listed(snapshot.natural_key)
    batch.create_temporary(
        "snapshot_lines",
        """
        select distinct on ({key}, snapshot_date)
            line.*, line.snapshot_date::timestamp at time zone mart.time_zone() as began_at
        from ({query}) as line order by {key}, snapshot_date, rank
        """,
        key=key,
        query=query,
    )


def infer_missing(batch: Batch, snapshot: DailySnapshot) -> dict[Dimension, int]:
    """Insert inferred members for keys that the lines refer to and no dimension holds; returns counts by dimension."""
    return {
        dimension: scd2.infer_missing(batch, dimension, LINES, "began_at")
        if dimension.has_history
        else scd1.infer_missing(batch, dimension, LINES)
        for dimension in map(dimension_of, snapshot.references)
    }


def line_columns(snapshot: DailySnapshot) -> list[str]:
    """Return the columns that are copied unchanged from a line to its snapshot row."""
    return [*snapshot.natural_key, "source_system", *(measure.name for measure in snapshot.measures)]


def _latest_day(batch: Batch) -> date | None:
    row = batch.execute("select max(snapshot_date) from {target} where source_system = {source}").fetchone()
    return row[0] if row else None


def _local_day(batch: Batch, moment: datetime) -> date:
    row = batch.execute("select mart.local_date({moment})", moment=sql.Literal(moment)).fetchone()
    assert row is not None
    day: date = row[0]
    return day


def _earlier(batch: Batch, snapshot: DailySnapshot, day: date) -> sql.Composable:
    return batch.format(
        """
        select {columns}, fact.snapshot_date, fact.is_carried_forward, 4
        from {target} as fact where fact.source_system = {source} and fact.snapshot_date < {day}
        """,
        columns=qualified("fact", line_columns(snapshot)),
        day=sql.Literal(day),
    )


def _conformed(batch: Batch, snapshot: DailySnapshot, day: date) -> sql.Composable:
    return batch.format(
        "select {columns}, {day}::date as snapshot_date, false as is_carried_forward, 1 as rank "
        "from {conformed} as conformed",
        columns=qualified("conformed", line_columns(snapshot)),
        day=sql.Literal(day),
    )


def _carried_forward(batch: Batch, snapshot: DailySnapshot, latest: date | None, day: date) -> sql.Composable:
    """Select copies of the latest day's rows for each day after it, up to `day`."""
    return batch.format(
        """
        select {columns}, following.day::date, following.day::date < {day}::date, 2
        from {target} as fact
        cross join generate_series({latest}::date + interval '1 day', {day}::timestamp, interval '1 day')
            as following (day)
        where fact.snapshot_date = {latest}::date and fact.source_system = {source}
        """,
        columns=qualified("fact", line_columns(snapshot)),
        latest=sql.Literal(latest),
        day=sql.Literal(day),
    )


def _outdated(batch: Batch, snapshot: DailySnapshot) -> Iterator[sql.Composable]:
    """Select rows whose day began after this run closed the dimension version that they refer to."""
    for dimension in map(dimension_of, snapshot.references):
        if not has_closed(batch, dimension.entity):
            continue
        names = {"closed": closed_table(dimension.entity), "key": sql.Identifier(dimension.key)}
        (earliest,) = batch.execute("select min(valid_to) from {closed}", **names).fetchone() or (None,)
        if earliest is not None:
            yield batch.format(
                """
                select {columns}, fact.snapshot_date, fact.is_carried_forward, 3
                from {target} as fact inner join {closed} as version on fact.{key} = version.{key}
                where fact.source_system = {source}
                    and fact.snapshot_date >= {first_day}
                    and fact.snapshot_date::timestamp at time zone mart.time_zone() >= version.valid_to
                """,
                **names,
                columns=qualified("fact", line_columns(snapshot)),
                # A version that expired during a day was valid when that day began: skip the rows of that day.
                first_day=batch.format(
                    "({day}::date + ({day}::timestamp at time zone mart.time_zone() < {earliest})::integer)",
                    day=sql.Literal(_local_day(batch, earliest)),
                    earliest=sql.Literal(earliest),
                ),
            )


def _upsert(batch: Batch, snapshot: DailySnapshot) -> tuple[int, int]:
    columns = snapshot_columns(snapshot)
    key = ["snapshot_date", *snapshot.natural_key, "source_system"]
    row = batch.execute(
        """
        with merged as (
            insert into {target} as fact ({columns}, run_id)
            select {columns}, {run_id} from ({query}) as prepared
            on conflict ({key}) do update set {assigned}, run_id = excluded.run_id
            where {differ}
            -- only a row that was locked or updated before has an xmax
            returning fact.xmax = 0 as is_new
        )

        select count(*) filter (where is_new), count(*) filter (where not is_new) from merged
        """,
        columns=listed(columns),
        query=snapshot_query(snapshot, sql.SQL("table pg_temp.snapshot_lines")),
        key=listed(key),
        assigned=assigned([name for name in columns if name not in key], "excluded"),
        differ=differ(columns, "fact", "excluded"),
    ).fetchone()
    assert row is not None
    return row[0], row[1]
