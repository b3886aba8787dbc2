"""Divide the partitions of large countries by month, and create the partitions of coming months."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import psycopg
from psycopg import sql

from warehouse.weblogs.storage.partitions import PARENT, Leaf, Partitions, make_table

# Readers and loaders queue behind a waiting lock: give up after this time, and try again after the next batch.
_LOCK_TIMEOUT = "2s"


def maintain_partitions(connection: psycopg.Connection, monthly_bytes: int) -> bool:
    """Divide countries whose partition is larger than `monthly_bytes`, and create the coming months of divided ones.

    Each country has its own transaction; none may be open. Returns whether anything changed.
    """
    with connection.transaction():
        partitions = Partitions(connection)
        sizes: dict[str, int] = dict(
            connection.execute(
                """
                select child.relname, pg_relation_size(child.oid)
                from pg_inherits as attached
                join pg_class as child on child.oid = attached.inhrelid
                where attached.inhparent = 'dwh.fact_weblog'::regclass and child.relkind = 'r'
                """
            ).fetchall()
        )
        row = connection.execute(
            """
            select clock_timestamp(), max(request_date)
            from dwh.agg_weblog_day
            where request_count > 0 and request_date < date_trunc('month', clock_timestamp()) + interval '2 months'
            """
        ).fetchone()
    assert row is not None
    now, newest = row
    until = _months_on(now.date(), 2)
    changed = False
    for country, leaves in partitions.leaves.items():
        if not partitions.is_divided(country):
            if sizes[leaves[0].name] <= monthly_bytes:
                continue
            done = _in_time(connection, _divide, leaves[0], _months_on(newest or now.date(), 1), until)
        elif (end := _end(leaves)) < until:
            done = _in_time(connection, _extend, country, end, until)
        else:
            continue
        if not done:
            break
        changed = True
    return changed


def _in_time(connection: psycopg.Connection, change: Callable[..., None], *arguments: object) -> bool:
    try:
        with connection.transaction():
            connection.execute("select set_config('lock_timeout', %s, true)", [_LOCK_TIMEOUT])
            change(connection, *arguments)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        return False
    return True


def _divide(connection: psycopg.Connection, whole: Leaf, begin: date, until: date) -> None:
    """Make a country's partition the first of several, for all rows before `begin`: they are not rewritten.

    Only rows of later months, from servers with a wrong clock, move to the partition `_other`.
    """
    name, description = whole.name, f"Partition of dwh.fact_weblog: requests from country {whole.country}"
    before = Leaf(f"{name}_before_{begin:%Y_%m}", whole.country, None, begin)
    other = Leaf(f"{name}_other", whole.country)
    for statement in ("alter table {parent} detach partition {whole}", "alter table {whole} rename to {new}"):
        connection.execute(
            sql.SQL(statement).format(parent=PARENT, whole=whole.table, new=sql.Identifier(before.name))
        )
    _comment(connection, before, f"{description} before {begin:%Y-%m}.")
    make_table(
        connection, name, f"{description}, divided by month.", sql.SQL("partition by range (requested_at)")
    )
    make_table(connection, other.name, f"{description} in months that have no partition.")
    _move(connection, before, other, begin, None)
    # The constraint is validated in one scan; without it, each of the two ATTACH statements would scan the rows.
    constraint = sql.Identifier(f"ck_{before.name}")
    connection.execute(
        sql.SQL("alter table {} add constraint {} check (country = {} and requested_at < {})").format(
            before.table, constraint, sql.Literal(whole.country), _utc(begin)
        )
    )
    _attach(connection, whole, other)
    _attach(connection, whole, before)
    connection.execute(
        sql.SQL("alter table {} attach partition {} for values in ({})").format(
            PARENT, whole.table, sql.Literal(whole.country)
        )
    )
    connection.execute(sql.SQL("alter table {} drop constraint {}").format(before.table, constraint))
    _extend(connection, whole.country, begin, until)


def _extend(connection: psycopg.Connection, country: str, begin: date, until: date) -> None:
    """Create the partitions of a divided country's months from `begin` until before `until`."""
    name = f"fact_weblog_{country.lower()}"
    whole, other = Leaf(name, country), Leaf(f"{name}_other", country)
    while begin < until:
        end = _months_on(begin, 1)
        month = Leaf(f"{name}_{begin:%Y_%m}", country, begin, end)
        make_table(
            connection,
            month.name,
            f"Partition of dwh.fact_weblog: requests from country {country} in {begin:%Y-%m}.",
        )
        _move(connection, other, month, begin, end)
        _attach(connection, whole, month)
        begin = end


def _attach(connection: psycopg.Connection, whole: Leaf, leaf: Leaf) -> None:
    bounds: sql.Composable = sql.SQL("default")
    if leaf.high is not None:
        low = _utc(leaf.low) if leaf.low else sql.SQL("minvalue")
        bounds = sql.SQL("for values from ({}) to ({})").format(low, _utc(leaf.high))
    connection.execute(
        sql.SQL("alter table {} attach partition {} {}").format(whole.table, leaf.table, bounds)
    )


def _move(connection: psycopg.Connection, source: Leaf, target: Leaf, low: date, high: date | None) -> None:
    """Move rows of the time from `low` until before `high` from one table to another."""
    until = sql.SQL("and requested_at < {}").format(_utc(high)) if high else sql.SQL("")
    connection.execute(
        sql.SQL(
            "with moved as (delete from {source} where requested_at >= {low} {until} returning *) "
            "insert into {target} select * from moved"
        ).format(source=source.table, target=target.table, low=_utc(low), until=until)
    )


def _comment(connection: psycopg.Connection, leaf: Leaf, text: str) -> None:
    connection.execute(sql.SQL("comment on table {} is {}").format(leaf.table, sql.Literal(text)))


def _end(leaves: list[Leaf]) -> date:
    return max(leaf.high for leaf in leaves if leaf.high)


def _months_on(day: date, months: int) -> date:
    """Return the first day of the month that is `months` after that of `day`."""
    for _ in range(months):
        day = (day.replace(day=28) + timedelta(days=4)).replace(day=1)
    return day.replace(day=1)


def _utc(day: date) -> sql.Literal:
    return sql.Literal(datetime(day.year, day.month, day.day, tzinfo=UTC))
