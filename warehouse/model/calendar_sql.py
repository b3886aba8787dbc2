"""SQL for the calendar: days that a batch needs, and the rows that dim_date should have."""

from collections.abc import Iterable
from pathlib import Path

from psycopg import sql

from warehouse.model.calendar import DATE, FIRST_DAY, LAST_DAY
from warehouse.model.declaration import Fact
from warehouse.model.star import FACTS, SNAPSHOTS

_DAY = (Path(__file__).parent / "day.sql").read_text()
_COLUMNS = sql.SQL(", ").join(
    sql.Identifier(column.name) for column in DATE.columns if column.name != "run_id"
)


def first_days() -> sql.Composed:
    """Select the days that migrations fill the calendar with."""
    return sql.SQL(
        "select generate_series({first}::timestamp, {last}, interval '1 day')::date as day"
    ).format(first=sql.Literal(FIRST_DAY), last=sql.Literal(LAST_DAY))


def days_of_batch(fact: Fact) -> sql.Composed:
    """Select every day between the first and last in the batch of a fact."""
    times = [sql.Identifier("line", date.time) for date in fact.dates]
    return sql.SQL(
        """
        select generate_series(batch.first_day, batch.last_day, interval '1 day')::date as day
        from (
            select
                mart.local_date(least({first}))::timestamp as first_day,
                mart.local_date(greatest({last}))::timestamp as last_day
            from staging.{batch} as line
        ) as batch
        """
    ).format(
        first=_each("min({})", times),
        last=_each("max({})", times),
        batch=sql.Identifier(f"conformed_{fact.entity}"),
    )


def add_days(days: sql.Composable, run_id: int) -> sql.Composed:
    """Insert the days that are missing in the calendar."""
    return sql.SQL(
        """
        insert into dwh.dim_date ({columns}, run_id)
        select {columns}, {run_id} from ({calendar}) as calendar
        where not exists (select from dwh.dim_date as known where known.date = calendar.date)
        """
    ).format(columns=_COLUMNS, run_id=sql.Literal(run_id), calendar=_calendar(days))


def expected_days() -> sql.Composed:
    """Select the rows that dim_date should have: for days that migrations and loads have added, and for facts' days."""
    named = [
        sql.SQL(
            """
            select generate_series(min(known.date), max(known.date), interval '1 day')::date as day
            from dwh.dim_date as known where known.run_id = 0 and known.date_key <> 0
            """
        ),
        sql.SQL(
            """
            select known.date from dwh.dim_date as known
            where known.date_key = to_char(known.date, 'YYYYMMDD')::integer
            """
        ),
        *(
            sql.SQL("select mart.local_date({time}) from dwh.{fact} where {time} is not null").format(
                time=sql.Identifier(date.time), fact=sql.Identifier(fact.table)
            )
            for fact in FACTS
            for date in fact.dates
        ),
        *(
            sql.SQL("select snapshot_date from dwh.{}").format(sql.Identifier(snapshot.table))
            for snapshot in SNAPSHOTS
        ),
    ]
    return _calendar(sql.SQL(" union ").join(named))


def _calendar(days: sql.Composable) -> sql.Composed:
    return sql.SQL("select calendar.* from ({days}) as named cross join lateral ({day}) as calendar").format(
        days=days, day=sql.SQL(_DAY)
    )


def _each(template: str, names: Iterable[sql.Identifier]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL(template).format(name) for name in names)
