"""Undo: restore every row that a run published to what it was before, in one transaction."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg
from psycopg.rows import class_row

from warehouse.archive.changed_rows import archive_changed_rows, note_rows_of
from warehouse.archive.mirrors import MirrorChanges
from warehouse.db.locks import session_lock, source_lock, transaction_lock
from warehouse.errors import UndoBlocked, UndoRefused, counted
from warehouse.extract.range_store import forget_ranges_since
from warehouse.history.change_log import STAR_LOCK
from warehouse.load.precedence import displace_restored
from warehouse.runs import live_process
from warehouse.runs.audit import Load, Run, ensure_alive, record_load
from warehouse.runs.freshness import forget_complete
from warehouse.undo.undo_log import UndoLog, changed_tables
from warehouse.weblogs.files.checkpoints import FEED
from warehouse.weblogs.maintenance.delete_rows import delete_rows_of_runs
from warehouse.weblogs.maintenance.rederive import recount_texts, update_fact

Progress = Callable[[str], None]
FLOW = "undo"
FEED_WAIT_SECONDS = 60


@dataclass(frozen=True)
class Publication:
    """A run and what it published."""

    run_id: int
    flow: str
    status: str
    started_at: datetime
    ended_at: datetime | None
    undone_at: datetime | None
    undone_by_run_id: int | None
    pruned_at: datetime | None
    source: str | None
    is_feed: bool
    has_changes: bool
    first_load_id: int | None
    published_at: datetime | None
    sources: int

    def __str__(self) -> str:
        return f"run {self.run_id} ({self.flow}, {self.started_at:%Y-%m-%d %H:%M} UTC)"


@dataclass(frozen=True)
class Undone:
    """Runs that were undone, newest first, and the number of rows of each table that this changed."""

    runs: tuple[Publication, ...]
    loads: tuple[Load, ...]

    @property
    def run_ids(self) -> list[int]:
        """Their ids."""
        return [run.run_id for run in self.runs]


def lock_of(connection: psycopg.Connection, run_id: int) -> str:
    """Name of the lock that the run held while it loaded; its undo must hold it, too.

    Raises:
        UndoRefused: there is nothing to undo; says why.
    """
    source = _publication(connection, run_id).source
    assert source is not None
    return source_lock(source)


def undo(run: Run, run_id: int, *, cascade: bool = False, progress: Progress = lambda _: None) -> Undone:
    """Undo run `run_id`, and later runs of its source: if these changed anything, only with `cascade`. `run` is the run
    that does so.

    Rows that they inserted are deleted, rows that they updated or deleted are restored: in mirrors, star, quarantine,
    watermarks and files. Their loads and checks stay in the audit trail.

    Raises:
        UndoRefused: it published nothing, is undone already, or is older than the change log.
        UndoBlocked: a later run, or somebody by hand, changed rows since, and `cascade` is not given.
    """
    with run.connect() as connection:
        transaction_lock(connection, STAR_LOCK, progress)
        connection.execute(
            "select set_config('dwh.run_id', %s, true), set_config('dwh.is_undo', 'on', true)",
            [str(run.run_id)],
        )
        connection.execute("set local work_mem = '96MB'; set local jit = off")
        target = _publication(connection, run_id)
        with _feed_lock(run, target):
            # Later runs that changed nothing have only moved watermarks: they are undone even without `cascade`.
            later = _later_runs(connection, target)
            if not cascade:
                _refuse_blocked(connection, target, later)
            targets = (*reversed(later), target)
            mirrors = None
            if run.is_archived and target.source is not None:
                mirrors = MirrorChanges(connection, target.source)
                run_ids = [one.run_id for one in targets]
                mirrors.note_rows_of(run_ids)
                note_rows_of(connection, run_ids)
            try:
                loads = _undo_runs(connection, run.run_id, targets)
            except psycopg.IntegrityError as error:
                raise UndoRefused(
                    f"Rows that {target} changed cannot be restored: {error.diag.message_primary}.",
                    hint="Somebody has changed it by hand since: see audit.change_log. Nothing was undone.",
                ) from error
            if mirrors is not None:
                mirrors.archive(run.run_id, "undo")
                archive_changed_rows(connection, run.run_id, with_noted=True)
            ensure_alive(run)
            connection.commit()
    for load in loads:
        progress(str(load))
    return Undone(targets, loads)


_PUBLISHED_NOTHING: Final = "published nothing of its own to a source's tables"
_NOT_PUBLISHED: Final = {
    "running": "is not at its end, and has published nothing yet",
    "skipped": "was skipped: it published nothing",
    "stopped": "was stopped by a quality gate or threshold: it published nothing",
    "failed": "failed before it published anything",
    "crashed": "crashed before it published anything",
    "cancelled": "was cancelled before it published anything",
}


@contextmanager
def _feed_lock(run: Run, target: Publication) -> Iterator[None]:
    """Hold the lock that loads of a feed hold beside that of the flow."""
    if not target.is_feed:
        yield
        return
    assert target.source is not None
    with session_lock(run.connection, target.source, wait_seconds=FEED_WAIT_SECONDS):
        yield


def _publication(connection: psycopg.Connection, run_id: int) -> Publication:
    with connection.cursor(row_factory=class_row(Publication)) as cursor:
        publication = cursor.execute(_PUBLICATION, {"run_id": run_id, "undo": FLOW, "feed": FEED}).fetchone()
    if publication is None:
        raise UndoRefused(f"There is no run {run_id}.", hint="`dwh status --runs 50` lists runs.")
    hint = "Nothing was changed."
    if publication.flow == FLOW:
        what, hint = (
            f"Run {run_id} is itself an undo.",
            "Run the flow again to load it again.",
        )
    elif publication.status == "undone":
        when = f"{publication.undone_at:%Y-%m-%d %H:%M} UTC"
        what = f"Run {run_id} was undone already, by run {publication.undone_by_run_id} at {when}."
    elif publication.status == "dry run":
        what = f"Run {run_id} was a dry run: it published nothing."
    elif publication.source is None:
        what = (
            f"Run {run_id} ({publication.flow}) {_NOT_PUBLISHED.get(publication.status, _PUBLISHED_NOTHING)}."
        )
        if steps := _steps(connection, run_id):
            hint = f"Its steps are runs of their own: {', '.join(steps)}."
    elif publication.sources > 1:
        what = f"Run {run_id} ({publication.flow}) cannot be undone: it loaded rows of {publication.sources} sources."
        hint = "An undo holds the lock of one source. " + hint
    elif publication.pruned_at is not None and (
        publication.ended_at is None or publication.pruned_at <= publication.ended_at
    ):
        # The run has marked itself: see `mark_irreversible`.
        lost = (
            "removed or moved web-log requests"
            if publication.is_feed
            else "dropped a column of a mirror or changed its type, or created a mirror that was gone"
        )
        what = f"Run {run_id} ({publication.flow}) cannot be undone: it {lost}, of which no before-images are kept."
    elif publication.pruned_at is not None:
        what = (
            f"Run {run_id} ({publication.flow}) can no longer be undone: its before-images were deleted at "
            f"{publication.pruned_at:%Y-%m-%d %H:%M} UTC."
        )
        hint = "DWH_CHANGE_LOG_DAYS says how long before-images are kept."
    else:
        return publication
    raise UndoRefused(what, hint=hint)


def _steps(connection: psycopg.Connection, run_id: int) -> list[str]:
    """The runs that are steps of a run, each with its flow."""
    rows = connection.execute(
        """
        select format('%%s (%%s)', run_id, flow) from audit.run where parent_run_id = %s order by run_id
        """,
        [run_id],
    ).fetchall()
    return [step for (step,) in rows]


def _later_runs(connection: psycopg.Connection, target: Publication) -> Sequence[Publication]:
    """Find later runs of the same source, oldest first: one that changed anything may have read what `target` wrote.

    A run that published both before and after it counts as later.
    """
    rows = connection.execute(
        """
        select load.run_id
        from audit.load as load inner join audit.run as run using (run_id)
        where load.source = %(source)s and load.load_id > %(first_load_id)s and load.run_id <> %(run_id)s
            and run.status <> 'undone' and run.flow <> %(undo)s
        group by load.run_id
        -- Not web-log runs that only moved requests to another country: undo deletes the requests there.
        having (
            not %(is_feed)s or sum(load.rows_inserted + load.rows_quarantined + load.rows_deleted) > 0
            or sum(load.rows_updated) = 0
        )
        -- A backfill loads days of many sources in one run: it counts only if it changed rows of this source.
        and (
            sum(load.rows_inserted + load.rows_updated + load.rows_expired) > 0
            or sum(load.rows_deleted + load.rows_quarantined) > 0
            or (select count(distinct other.source) from audit.load as other where other.run_id = load.run_id) = 1
        )
        order by max(load.load_id)
        """,
        {**vars(target), "undo": FLOW},
    ).fetchall()
    return [_publication(connection, run_id) for (run_id,) in rows]


def _refuse_blocked(
    connection: psycopg.Connection, target: Publication, later: Sequence[Publication]
) -> None:
    if blocking := [publication for publication in later if publication.has_changes]:
        raise UndoBlocked(
            f"Later runs were built on {target}: {', '.join(map(str, blocking))}.",
            hint=f"Undo them first, or all at once: `dwh undo {target.run_id} --cascade`. Nothing was changed.",
        )
    rows = connection.execute(_BY_HAND, vars(target)).fetchall()
    if rows:
        changes = "; ".join(
            f"{counted(count, 'row')} of {table} by {user}, last at {at:%Y-%m-%d %H:%M:%S} UTC"
            for table, user, count, at in rows
        )
        raise UndoBlocked(
            f"Rows that {target} wrote were changed by hand since: {changes}.",
            hint=f"`dwh undo {target.run_id} --cascade` undoes these changes, too. Nothing was changed.",
        )


def _undo_runs(
    connection: psycopg.Connection, run_id: int, targets: Sequence[Publication]
) -> tuple[Load, ...]:
    """Undo several runs at once: a row that several of them changed is restored to its first before-image."""
    source, run_ids = targets[-1].source, [target.run_id for target in targets]
    assert source is not None
    loads = []
    if targets[-1].is_feed and (removed := delete_rows_of_runs(connection, run_ids)):
        loads.append(Load(source, "dwh.fact_weblog", rows_deleted=removed))
    logs = [UndoLog(connection, table, run_ids) for table in changed_tables(connection, run_ids)]
    # Delete referencing rows before, and restore them after, the rows that they refer to.
    deleted = Counter({log.table.full_name: log.delete_inserted() for log in reversed(logs)})
    restored = {log.table.full_name: log.restore_changed() for log in logs}
    deleted.update(displace_restored(connection, run_ids))
    for name, (updated, inserted) in restored.items():
        if deleted[name] or updated or inserted:
            loads.append(
                Load(source, name, rows_deleted=deleted[name], rows_updated=updated, rows_inserted=inserted)
            )
    for log in logs:
        log.drop_added_columns()
    forget_complete(connection, source, min(run_ids))
    forget_ranges_since(connection, source, min(run_ids))
    if targets[-1].is_feed and any(load.table_name.startswith("dwh.dim_") for load in loads):
        # Restored texts have their earlier classification: give requests and aggregates the same.
        update_fact(connection)
        recount_texts(connection)
    record_load(connection, run_id, *loads)
    live_process.hold(
        connection,
        source,
        run_id,
        is_undone=any(one.flow.startswith(live_process.FLOW_PREFIX) for one in targets),
    )
    connection.execute(
        """
        update audit.run set status = 'undone', undone_at = clock_timestamp(), undone_by_run_id = %s,
            -- A run of `dwh live` may not have ended yet.
            ended_at = coalesce(ended_at, clock_timestamp())
        where run_id = any(%s)
        """,
        [run_id, run_ids],
    )
    return tuple(loads)


_PUBLICATION = """
    select
        run.run_id, run.flow, run.status, run.started_at, run.ended_at, run.undone_at, run.undone_by_run_id,
        run.pruned_at, load.source, coalesce(load.is_feed, false) as is_feed,
        coalesce(load.has_changes, false) as has_changes, load.first_load_id, load.published_at,
        coalesce(load.sources, 0) as sources
    from audit.run as run
    left join lateral (
        select
            max(load.source) as source, count(distinct load.source) as sources, max(load.source) = %(feed)s as is_feed,
            sum(
                load.rows_inserted + load.rows_updated + load.rows_expired + load.rows_deleted
                    + load.rows_quarantined
            ) > 0 as has_changes,
            -- Each batch of a `dwh live` run gives the run's loads new ids.
            least(
                min(load.load_id), (select min(batch.load_id) from audit.batch as batch where batch.run_id = run.run_id)
            ) as first_load_id, max(load.loaded_at) as published_at
        from audit.load as load
        where load.run_id = run.run_id and load.table_name not like 'mart.%%' and load.source <> 'calendar'
        having count(*) > 0
    ) as load on run.flow <> %(undo)s
    where run.run_id = %(run_id)s
"""

_BY_HAND = """
    with written as (
        select table_name, row_key from audit.change where run_id = %(run_id)s
        union
        select table_name, row_key from audit.before_image where run_id = %(run_id)s
    ),

    by_hand as (
        select change.table_name, change.row_key, change.database_user, change.changed_at,
            change.before[array_position(row_schema.columns, 'run_id')] as written_by
        from audit.change inner join audit.row_schema using (row_schema_id)
        where change.run_id is null and change.changed_at > %(published_at)s
        union all
        select image.table_name, image.row_key, image.database_user, image.changed_at,
            image.before[array_position(row_schema.columns, '_run_id')]
        from audit.before_image as image inner join audit.row_schema using (row_schema_id)
        where image.run_id is null and image.changed_at > %(published_at)s and image.table_name like 'raw.%%'
    )

    select table_name, database_user, count(*), max(changed_at)
    from by_hand
    where written_by = %(run_id)s::text or (table_name, row_key) in (select table_name, row_key from written)
    group by table_name, database_user
    order by table_name, database_user
"""
