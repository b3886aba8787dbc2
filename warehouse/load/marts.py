"""Maintain the stored marts: by what changed since they were last refreshed, or, where they are small, once more."""

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
from warehouse.runs.freshness import read_clock, record_complete

# Details that a stored mart follows, with the column of their time.
_TIME = {"sales": "ordered_at", "weblog": "request_timestamp"}

# A table in more bytes than this is not joined without statistics.
UNKNOWN_ABOVE: Final = 1 << 20

# Flows after which the marts of the calendar are computed again.
_RECOMPUTING = (
    "daily-warehouse", "undo", "replay-quarantine", "backfill", "rebuild", "reclassify-weblogs"
)  # fmt: skip


@dataclass(frozen=True)
class _State:
    """What a stored mart was last made of."""

    definition: str
    load_id: int
    change_id: int
    # Whether the change log still has everything since then.
    is_followed: bool


def refresh(run: Run) -> tuple[Load, ...]:
    """Refresh every stored mart in one transaction: readers see the old rows until the commit.

    Nobody who writes the star waits for it: all marts are made of one snapshot.
    """
    with run.session("refresh") as connection:
        complete_at = read_clock(connection)
        reached = _await_writers(connection)
        run.commit(connection)
        if run.dry_run_connection is None:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        loads = refresh_stored(connection, run.run_id, reached=reached)
        for load in loads:
            record_load(connection, run.run_id, load)
        record_complete(connection, run.run_id, "mart", complete_at)
        run.commit(connection)
    return loads


def refresh_days(connection: psycopg.Connection, run_id: int) -> tuple[str, ...]:
    """Bring up to date, in two transactions, the marts of sales that are kept by day: those of today follow live.

    Nobody waits for it longer than to learn what is committed. Others follow months, products or customers, whose whole
    past would be computed again every few seconds: a scheduled run does that. A mart that cannot be followed (never
    computed, defined otherwise) is left to one, too. Returns the marts that were up to date or are now.
    """
    with connection.transaction():
        reached = _await_writers(connection)
    done = []
    with connection.transaction():
        # The sales of a day are added up before workers have started.
        connection.execute(
            f"{PLANNER_FOR_WHOLE_TABLES}; set local max_parallel_workers_per_gather = 0".encode()
        )
        for mart in stored_marts():
            if mart.dataset != "sales" or mart.follows is None or mart.by[mart.follows] != "date":
                continue
            if "month" in mart.follows:
                continue
            state = _state(connection, mart.name)
            if state is None or not state.is_followed or state.definition != _definition(connection, mart):
                continue
            if state.load_id < reached[0] or state.change_id < reached[1]:
                # Days alone would leave one that was emptied with these days for good.
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
    """Bring the stored marts up to date in the connection's transaction; what was `reached` before it, they have.

    A mart that follows its details is computed again only for the days, months, products or customers that changed;
    all of it where its definition changed, or with `full_refresh`.
    One that moves with the calendar is computed once a day, when a source has a newer day of sales or the web logs of
    requests, by each daily run and after a correction; one that reads another mart, when that has changed.
    """
    if reached is None:
        reached = _await_writers(connection)
    connection.execute(PLANNER_FOR_WHOLE_TABLES.encode())
    _analyze_unknown(connection)
    definitions = {mart.name: _definition(connection, mart) for mart in stored_marts()}
    states = {
        mart.name: state
        for mart in stored_marts()
        if mart.follows
        and not full_refresh
        and (state := _state(connection, mart.name)) is not None
        and state.is_followed
        and state.definition == definitions[mart.name]
        # Of an empty one everything has changed: which values need not be found out.
        and _has_rows(connection, mart)
    }
    loads = []
    changed: set[str] = set()
    for mart in stored_marts():
        started = time.monotonic()
        if mart.is_calendar:
            definitions[mart.name] += " " + _calendar(connection, run_id)
            if not full_refresh and _is_of_today(connection, mart, definitions[mart.name]):
                continue
        elif mart.reads and not full_refresh and changed.isdisjoint(mart.reads):
            known = _state(connection, mart.name)
            if (
                known is not None
                and known.definition == definitions[mart.name]
                and _has_rows(connection, mart)
                and not _star_changed(connection, mart, Since(known.load_id, known.change_id))
            ):
                continue
        state = states.get(mart.name)
        values = (
            changed_values(connection, mart, Since(state.load_id, state.change_id))
            if state is not None
            else None
        )
        with _concerning(mart.name):
            deleted, inserted = _replace(connection, mart, values)
        if deleted or inserted:
            changed.add(f"mart.{mart.name}")
            if values is None:
                # Others join it in this transaction: without statistics that is planned as a cross product.
                connection.execute(sql.SQL("analyze {}").format(_table(mart)))
        row = connection.execute(sql.SQL("select count(*) from {}").format(_table(mart))).fetchone()
        assert row is not None
        _remember(connection, mart, definitions[mart.name], reached, run_id)
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
    """Record what a mart is made of now."""
    connection.execute(
        """
        insert into audit.mart_state (mart_name, definition, load_id, change_id, refreshed_at, run_id)
        values (%s, %s, %s, %s, clock_timestamp(), %s)
        on conflict (mart_name) do update set
            definition = excluded.definition, load_id = excluded.load_id, change_id = excluded.change_id,
            refreshed_at = excluded.refreshed_at, run_id = excluded.run_id
        """,
        [mart.name, definition, *reached, run_id],
    )


@contextmanager
def _concerning(name: str) -> Iterator[None]:
    """Let mail about an error go to the mart's owner."""
    try:
        yield
    except psycopg.Error as error:
        setattr(error, "concerns", f"mart {name}")  # noqa: B010
        raise


def refresh_outdated(connection: psycopg.Connection) -> None:
    """Compute stored marts again where their definition or the time zone is another one than they were made with."""
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
    """Compute the rows of these values of the followed column again, or all rows; returns rows deleted and inserted.

    All rows are left as they are where they turn out the same: a day without a change is to leave no trace.
    """
    if values == []:
        return 0, 0
    columns = listed([column.name for column in mart.table().columns])
    if values is None:
        # A table made by a query is filled in parallel; one that rows are inserted into is not.
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
            # By the index of time, which knows nothing of days in the company's zone.
            moment = f"{mart.dataset}.{_TIME[mart.dataset]}"
            days = sql.SQL("{}::date[]").format(sql.Literal(values)).as_string(connection)
            # Days that are nearly out of a timestamp's range have none before or after.
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
    """Analyze tables of the star and of marts without statistics, as after a rebuild, or a dump that was restored.

    Else joins of whole tables by several columns are planned as if they met in a single row. A table that a load is
    analyzing is left to it: each would wait for the other's next table.
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
    """Whether a mart has the rows of pg_temp.computed, each as often."""
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
    """Hash of what a mart's rows depend on besides its details: query, time zone, descriptions of web-log texts."""
    parts = [mart.query(), zone_of(connection)]
    if mart.details == "weblog":
        parts += [
            str(row)
            for row in connection.execute(
                "select table_name, part, hash from audit.definition where source = 'weblogs' order by 1, 2"
            ).fetchall()
        ]
    return md5("\n".join(parts).encode(), usedforsecurity=False).hexdigest()


def _calendar(connection: psycopg.Connection, run_id: int) -> str:
    """Today, the day up to which the sales of each source and the web logs reach, and the last run after which all of
    them may be others: a daily one, or a correction."""
    row = connection.execute(
        """
        select concat_ws(
            ' ', mart.local_date(now()),
            (select string_agg(as_of.source_system || ' ' || as_of.as_of_date, ' ' order by as_of.source_system)
                from mart.as_of as as_of),
            'logs ' || (select max(request_date) from mart.interactions_by_day),
            -- One that goes on may publish after this: it counts for its own refresh, and once it has ended.
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


def _is_of_today(connection: psycopg.Connection, mart: Mart, definition: str) -> bool:
    """Whether the mart was computed with this definition on this day, and from any data at all."""
    state = _state(connection, mart.name)
    if state is None or state.definition != definition:
        return False
    return _has_rows(connection, mart)


def _has_rows(connection: psycopg.Connection, mart: Mart) -> bool:
    return bool(connection.execute(sql.SQL("select from {} limit 1").format(_table(mart))).rowcount)


def _await_writers(connection: psycopg.Connection) -> tuple[int, int]:
    """Newest load and newest logged change of the star.

    Waits for whoever is writing, and lets nobody write until the commit: a change that commits later would have an id
    before the one that is remembered.
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
    """Whether a table of the star that the mart reads was loaded, or changed in place, since."""
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
