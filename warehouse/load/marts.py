"""Refresh the stored marts: incrementally by what changed since their last refresh, or, if they are small, in full."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import md5
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import class_row, dict_row

from warehouse.db.identifiers import cast_to, listed
from warehouse.db.time_zone import zone_of
from warehouse.load.changed_marts import Since, changed_values
from warehouse.load.transaction import PLANNER_FOR_WHOLE_TABLES
from warehouse.model.mart import Mart, stored_marts
from warehouse.runs.audit import Load, Run, record_load

# Datasets of details that a stored mart follows, with their timestamp columns.
_TIME = {"sales": "ordered_at", "weblog": "request_timestamp"}

# Tables larger than this, in bytes, are analyzed before they are joined, if they have no statistics.
UNKNOWN_ABOVE: Final = 1 << 20

# Flows after which the marts that depend on the current day are computed again.
_RECOMPUTING = (
    "daily-warehouse", "undo", "replay-quarantine", "backfill", "rebuild", "reclassify-weblogs"
)  # fmt: skip


@dataclass(frozen=True)
class _State:
    """What a stored mart was last computed from."""

    definition: str
    load_id: int
    change_id: int
    # The change log still has all changes since then.
    is_followed: bool


def refresh(run: Run) -> tuple[Load, ...]:
    """Refresh every stored mart in one transaction: readers see the old rows until the commit.

    Writers of the star do not wait for it: all marts are computed from one repeatable-read snapshot.
    """
    with run.session("refresh") as connection:
        reached = _await_writers(connection)
        run.commit(connection)
        if run.dry_run_connection is None:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        loads = refresh_stored(connection, run.run_id, reached=reached)
        for load in loads:
            record_load(connection, run.run_id, load)
        run.commit(connection)
    return loads


def refresh_days(connection: psycopg.Connection, run_id: int) -> tuple[str, ...]:
    """Refresh the sales marts that are kept by day, after a batch of `dwh live`. Returns the marts that are up to date.

    Writers are locked out only in a first, short transaction that reads what is committed. Marts that follow months,
    products or customers are left to a scheduled run: each change would recompute their whole past every few seconds.
    So are marts that were never computed or whose definition has changed.
    """
    with connection.transaction():
        reached = _await_writers(connection)
    done = []
    with connection.transaction():
        # The sales of one day are summed faster than parallel workers start.
        connection.execute(
            f"{PLANNER_FOR_WHOLE_TABLES}; set local max_parallel_workers_per_gather = 0".encode()
        )
        for mart in stored_marts():
            if mart.dataset != "sales" or mart.follows != "ordered_date":
                continue
            state = _state(connection, mart.name)
            if state is None or not state.is_followed or state.definition != _definition(connection, mart):
                continue
            if state.load_id < reached[0] or state.change_id < reached[1]:
                # A mart that was emptied is computed in full: the changed days alone would leave it incomplete.
                values = (
                    changed_values(connection, mart, Since(state.load_id, state.change_id))
                    if _has_rows(connection, mart)
                    else None
                )
                _replace(connection, mart, values)
                _remember(connection, mart, state.definition, reached, run_id)
            done.append(mart.name)
    return tuple(done)


def refresh_stored(
    connection: psycopg.Connection,
    run_id: int,
    *,
    full_refresh: bool = False,
    reached: tuple[int, int] | None = None,
) -> tuple[Load, ...]:
    """Refresh the stored marts in the connection's transaction.

    `reached` is the newest load and change id that are committed before it; by default they are read now.

    A mart that follows its details is computed again only for the days, months, products or customers that changed, or
    in full if its definition changed, or with `full_refresh`. A mart that depends on the current day is computed once a
    day, when a source has a newer day of sales or of web-log requests, by each daily run and after a correction. A mart
    that reads another mart is computed when that one has changed.
    """
    if reached is None:
        reached = _await_writers(connection)
    connection.execute(PLANNER_FOR_WHOLE_TABLES.encode())
    _analyze_unknown(connection)
    loads = []
    changed: set[str] = set()
    for mart in stored_marts():
        started = time.monotonic()
        definition = _definition(connection, mart)
        if mart.kind == "daily":
            definition += " " + _calendar(connection, run_id)
        values = None
        state = None if full_refresh else _state(connection, mart.name)
        # An empty mart is computed in full.
        if state is not None and state.definition == definition and _has_rows(connection, mart):
            since = Since(state.load_id, state.change_id)
            if mart.kind == "daily":
                continue
            if mart.kind == "dependent":
                if changed.isdisjoint(mart.reads) and not _star_changed(connection, mart, since):
                    _remember(connection, mart, definition, reached, run_id)
                    continue
            elif state.is_followed:
                values = changed_values(connection, mart, since)
        with _concerning(mart.name):
            deleted, inserted = _replace(connection, mart, values)
        if deleted or inserted:
            changed.add(f"mart.{mart.name}")
            if values is None:
                # Other marts join it in this transaction: without statistics, the planner chooses a cross product.
                connection.execute(sql.SQL("analyze {}").format(_table(mart)))
        row = connection.execute(sql.SQL("select count(*) from {}").format(_table(mart))).fetchone()
        assert row is not None
        _remember(connection, mart, definition, reached, run_id)
        loads.append(
            Load(
                "mart",
                f"mart.{mart.name}",
                rows_read=row[0],
                rows_inserted=inserted,
                rows_deleted=deleted,
                seconds=round(time.monotonic() - started, 3),
            )
        )
    return tuple(loads)


def _remember(
    connection: psycopg.Connection, mart: Mart, definition: str, reached: tuple[int, int], run_id: int
) -> None:
    """Record the definition, newest load and newest change that a mart is current with, as of the transaction."""
    connection.execute(
        """
        insert into audit.mart_state (mart_name, definition, load_id, change_id, refreshed_at, run_id)
        values (%s, %s, %s, %s, now(), %s)
        on conflict (mart_name) do update set
            definition = excluded.definition, load_id = excluded.load_id, change_id = excluded.change_id,
            refreshed_at = excluded.refreshed_at, run_id = excluded.run_id
        """,
        [mart.name, definition, *reached, run_id],
    )


@contextmanager
def _concerning(name: str) -> Iterator[None]:
    """Mark an error as one of the mart, so that the alert goes to the mart's owner."""
    try:
        yield
    except psycopg.Error as error:
        setattr(error, "concerns", f"mart {name}")  # noqa: B010
        raise


def refresh_outdated(connection: psycopg.Connection) -> None:
    """Refresh the stored marts if the definition or time zone of one has changed since it was computed."""
    outdated = [
        mart
        for mart in stored_marts()
        if (state := _state(connection, mart.name)) is None
        or state.definition.split()[0] != _definition(connection, mart)
    ]
    if outdated:
        refresh_stored(connection, 0)


def read(connection: psycopg.Connection, name: str) -> list[dict[str, Any]]:
    """Read all rows of a mart, in its own order."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.SQL("select * from {}").format(sql.Identifier("mart", name))).fetchall()


def _replace(connection: psycopg.Connection, mart: Mart, values: list[str] | None) -> tuple[int, int]:
    """Recompute a mart's rows for `values` of the followed column, or all rows if None; returns rows deleted, inserted.

    If all rows are recomputed and none differs, nothing is written.
    """
    if values == []:
        return 0, 0
    columns = listed([column.name for column in mart.table().columns])
    if values is None:
        # CREATE TABLE AS may run its query in parallel; INSERT may not.
        connection.execute(
            sql.SQL(
                "drop table if exists pg_temp.computed; "
                "create temp table computed on commit drop as select {} from ({}) as computed"
            ).format(cast_to({one.name: one.type for one in mart.table().columns}), sql.SQL(mart.query()))
        )
        if _is_as_computed(connection, mart, columns):
            return 0, 0
    changed: sql.Composable = sql.SQL("true")
    computed: sql.Composable = sql.SQL("table pg_temp.computed")
    if values is not None:
        assert mart.follows is not None and mart.dataset is not None
        kind = mart.by[mart.follows]
        chosen = sql.SQL("any({}::" + kind + "[])").format(sql.Literal(values))
        changed = sql.SQL("{} = {}").format(sql.Identifier(mart.follows), chosen)
        condition = f"{mart.grouped(mart.follows)} = {chosen.as_string(connection)}"
        if kind == "date" and mart.dataset in _TIME:
            # The index is on the timestamp, not on days of the company's time zone: add a wider range of time.
            moment = f"{mart.dataset}.{_TIME[mart.dataset]}"
            days = sql.SQL("{}::date[]").format(sql.Literal(values)).as_string(connection)
            # Near the limits of the type timestamp, adding days would overflow.
            condition += (
                f" and {moment} >= (select case when min(day) > '4700-01-01 BC' "
                f"then min(day) - interval '2 days' else '-infinity' end from unnest({days}) as one (day))"
                f" and {moment} <= (select case when max(day) < '290000-01-01' "
                f"then max(day) + interval '33 days' else 'infinity' end from unnest({days}) as one (day))"
            )
        computed = sql.SQL(mart.query(condition))
    deleted = connection.execute(sql.SQL("delete from {} where {}").format(_table(mart), changed)).rowcount
    inserted = connection.execute(
        sql.SQL("insert into {} ({}) select {} from ({}) as computed").format(
            _table(mart), columns, columns, computed
        )
    ).rowcount
    return deleted, inserted


def _analyze_unknown(connection: psycopg.Connection) -> None:
    """Analyze tables of the star and of marts without statistics, as after a rebuild or a restored dump.

    Without them, the planner expects one row from a join of whole tables by several columns. A table that a load is
    analyzing is skipped: each session would wait for the other's next table.
    """
    for (name,) in connection.execute(
        """
        select format('%%I.%%I', nspname, relname)
        from pg_class inner join pg_namespace on pg_namespace.oid = relnamespace
        where nspname in ('dwh', 'mart') and relkind = 'r' and pg_relation_size(pg_class.oid) > %s
            and not exists (select from pg_stats where schemaname = nspname and tablename = relname)
        """,
        [UNKNOWN_ABOVE],
    ).fetchall():
        connection.execute(sql.SQL("analyze (skip_locked) {}").format(sql.SQL(name)))


def _is_as_computed(connection: psycopg.Connection, mart: Mart, columns: sql.Composable) -> bool:
    """Return whether a mart has the same rows as pg_temp.computed, with the same duplicates."""
    row = connection.execute(
        sql.SQL(
            """
            select
                (select count(*) from {mart}) = (select count(*) from pg_temp.computed)
                and not exists (select {columns} from {mart} except all select {columns} from pg_temp.computed)
            """
        ).format(mart=_table(mart), columns=columns)
    ).fetchone()
    return row == (True,)


def _table(mart: Mart) -> sql.Identifier:
    return sql.Identifier("mart", mart.name)


def _definition(connection: psycopg.Connection, mart: Mart) -> str:
    """Hash what a mart's rows depend on besides its details: queries, time zone, definitions of web-log lookups."""
    parts = [mart.definition(), zone_of(connection)]
    if mart.details == "weblog":
        parts += [
            str(row)
            for row in connection.execute(
                "select table_name, part, hash from audit.definition where source = 'weblogs' order by 1, 2"
            ).fetchall()
        ]
    return md5("\n".join(parts).encode(), usedforsecurity=False).hexdigest()


def _calendar(connection: psycopg.Connection, run_id: int) -> str:
    """Describe what the marts that depend on the current day were computed for: today, the newest day of each source's
    sales and of the web logs, and the last daily run or correction, after which earlier days may differ."""
    row = connection.execute(
        """
        select concat_ws(
            ' ', mart.local_date(now()),
            (select string_agg(as_of.source_system || ' ' || as_of.as_of_date, ' ' order by as_of.source_system)
                from mart.as_of as as_of),
            'logs ' || (
                select max(request_date) from mart.interactions_by_day where request_date <= mart.local_date(now())
            ),
            -- a run in progress may publish after this: it counts only for its own refresh, and once it has ended
            'run ' || (select max(run_id) from audit.run
                where flow = any(%(flows)s) and (
                    status not in ('running', 'dry run', 'skipped')
                    or run_id in (
                        select unnest(array[run_id, parent_run_id]) from audit.run where run_id = %(run_id)s
                    )
                ))
        )
        """,
        {"flows": list(_RECOMPUTING), "run_id": run_id},
    ).fetchone()
    assert row is not None
    return str(row[0])


def _has_rows(connection: psycopg.Connection, mart: Mart) -> bool:
    return bool(connection.execute(sql.SQL("select from {} limit 1").format(_table(mart))).rowcount)


def _await_writers(connection: psycopg.Connection) -> tuple[int, int]:
    """Return the ids of the newest load and the newest logged change of the star, after all writers have committed.

    Locks out writers until the commit: a change that committed later could have a lower id than the one returned.
    """
    connection.execute("lock table dwh.fact_order_item in share mode")
    row = connection.execute(
        """
        select
            (select coalesce(max(load_id), 0) from audit.load),
            (select coalesce(max(change_id), 0) from audit.change)
        """
    ).fetchone()
    assert row is not None
    return row


def _state(connection: psycopg.Connection, name: str) -> _State | None:
    with connection.cursor(row_factory=class_row(_State)) as cursor:
        return cursor.execute(
            """
            select
                definition, load_id, change_id,
                not exists (
                    select from audit.run where pruned_at is not null and started_at >= mart_state.refreshed_at
                ) as is_followed
            from audit.mart_state where mart_name = %s
            """,
            [name],
        ).fetchone()


def _star_changed(connection: psycopg.Connection, mart: Mart, since: Since) -> bool:
    """Return whether a star table that the mart reads was loaded, or changed in place, since."""
    row = connection.execute(
        """
        select
            exists (
                select from audit.load
                where load_id > %(load_id)s and table_name = any(%(tables)s)
                    and rows_inserted + rows_updated + rows_expired + rows_deleted > 0
            )
            or exists (select from audit.change_log where change_id > %(change_id)s and table_name = any(%(tables)s))
        """,
        {"load_id": since.load_id, "change_id": since.change_id, "tables": list(mart.reads)},
    ).fetchone()
    return row == (True,)
