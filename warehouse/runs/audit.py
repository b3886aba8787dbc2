"""Write the audit trail: runs, loads and check results. Those of failed runs are kept, too."""

import getpass
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

import psycopg
from psycopg.types.json import Jsonb

from warehouse.db.connection_errors import explain_refusals, name_lost_connection
from warehouse.db.connections import connect, without_password
from warehouse.db.locks import RUN
from warehouse.db.poolers import SESSION_MODE, server_process
from warehouse.db.roles import give_to_loader
from warehouse.errors import (
    AlreadyRecorded,
    LockHeld,
    RunLost,
    UnsuitableDatabase,
    WarehouseError,
    summarize_error,
)
from warehouse.runs.alerts.outbox import enqueue_alert, enqueue_crash_alert, mark_enqueued
from warehouse.runs.alerts.rules import Rules
from warehouse.runs.redact import redact

CRASHED = "The process is gone: nothing of its open transaction was published."
# SQL condition of a dead run: its status is running, but no session holds its lock.
DEAD = f"""
    status = 'running' and not exists (
        select from pg_locks
        where locktype = 'advisory' and classid = {RUN} and objid::bigint = mod(run_id, 2147483648)
            and database = (select oid from pg_database where datname = current_database())
    )
    """
# Pauses before checking again whether the run's own session is alive: a restarting server ends sessions one by one.
LOST_AFTER_SECONDS = (0.2, 0.8)


@dataclass(frozen=True)
class Run:
    """A run in progress: its id, its flow, and the connection that holds its locks and writes its audit rows.

    A dry run does all its work in one transaction on `dry_run_connection`, which is rolled back. It takes real locks.
    """

    run_id: int
    flow: str
    connection: psycopg.Connection = field(repr=False)
    warehouse_url: str = field(repr=False)
    # Process id of the server session that holds the locks.
    server_process: int = field(repr=False)
    rules: Rules = field(default_factory=Rules, repr=False)
    dry_run_connection: psycopg.Connection | None = field(default=None, repr=False)
    # Whether published rows go into the archive.
    is_archived: bool = False
    # Dead runs that this run has marked as crashed at its start.
    found_dead: tuple[int, ...] = ()
    # For a live process: the connection on which it publishes all batches.
    kept_connection: psycopg.Connection | None = field(default=None, repr=False)
    # At most one background task that adds published batches to the archive; its result is None or why that failed.
    adding: list[Future[str | None]] = field(default_factory=list, repr=False)

    @property
    def audit_connection(self) -> psycopg.Connection:
        """The connection for findings such as check results: they are kept if the run fails, but not in a dry run."""
        return self.dry_run_connection or self.connection

    @contextmanager
    def connect(self, doing: str = "") -> Iterator[psycopg.Connection]:
        """Open another connection to the warehouse, committed at the end of the block.

        Raises:
            ConnectionFailed: it was lost.
        """
        with (
            connect(self.warehouse_url, application_name=f"dwh {self.flow} {doing}".rstrip()) as connection,
            name_lost_connection(connection, f"the warehouse ({without_password(self.warehouse_url)})"),
        ):
            yield connection

    @contextmanager
    def session(self, doing: str) -> Iterator[psycopg.Connection]:
        """Open a connection to write the run's rows, committed at the end of the block. A dry run has only one.

        Raises:
            ConnectionFailed: it was lost.
            RunLost: the dry run's connection is gone, and with it everything that it did.
        """
        if self.kept_connection is not None:
            with self.kept_connection.transaction():
                yield self.kept_connection
            return
        if self.dry_run_connection is None:
            with self.connect(doing) as connection:
                yield connection
            return
        if self.dry_run_connection.closed:
            raise RunLost(f"Dry run {self.run_id} ({self.flow}) lost its connection.", hint="Run it again.")
        yield self.dry_run_connection

    def commit(self, connection: psycopg.Connection) -> None:
        """Commit what a session has written so far; does nothing in a dry run."""
        if self.dry_run_connection is None:
            connection.commit()


@dataclass(frozen=True)
class Load:
    """Row counts of what one run did to one table."""

    source: str
    table_name: str
    window_low: str | None = None
    window_high: str | None = None
    rows_read: int = 0
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_expired: int = 0
    rows_deleted: int = 0
    rows_unchanged: int = 0
    rows_quarantined: int = 0
    rows_cursor_missed: int = 0
    # Those of rows_read that were found by comparing checksums of source and mirror.
    rows_found_by_checksum: int = 0
    # Those of rows_updated that were re-keyed.
    rows_rekeyed: int = 0
    seconds: float = 0.0
    # The reason if all rows of the table were conformed again.
    reconform_reason: str | None = None
    # The GeoIP database that a load of web logs used.
    geoip_database: str | None = None
    geoip_built_at: datetime | None = None
    # Rows and blocks that the source read for it, by the source's own statistics.
    source_rows_read: int | None = None
    source_blocks_read: int | None = None
    # Note about anything unusual.
    note: str | None = None

    def __str__(self) -> str:
        counts = {
            name.removeprefix("rows_"): value
            for name, value in vars(self).items()
            if name.startswith("rows_") and value
        }
        again = f" (conformed again: {self.reconform_reason})" if self.reconform_reason else ""
        summary = (
            ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items()) or "no change"
        )
        return f"{self.source} → {self.table_name}: {summary} in {self.seconds:.2f} s{again}"

    def joined(self, later: Self) -> Self:
        """Return the sum of this load and a later one of the same table in the same run."""
        counts = {
            name: value + getattr(later, name)
            for name, value in vars(self).items()
            if name.startswith("rows_") or name == "seconds"
        }
        return replace(later, **counts, reconform_reason=self.reconform_reason)


# Dataset, name, type and column of a check.
CheckIdentity = tuple[str, str, str, str | None]


@dataclass(frozen=True)
class CheckResult:
    """Result of one check of a contract on one batch."""

    source: str
    dataset: str
    check_name: str
    check_type: str
    column_name: str | None
    level: str
    outcome: str
    measured: float | None
    threshold: str | None
    rows_checked: int | None
    message: str | None = None

    @property
    def identity(self) -> CheckIdentity:
        """The key of the check within a source."""
        return self.dataset, self.check_name, self.check_type, self.column_name


# Ends of runs that could not be recorded, because the server was gone.
_unrecorded: list[tuple[Run, str, BaseException | None]] = []


@contextmanager
def start_run(
    warehouse_url: str,
    *,
    flow: str,
    deployment: str | None = None,
    prefect_run_id: str | None = None,
    launched_by: str | None = None,
    parameters: Mapping[str, object] | None = None,
    parent_run_id: int | None = None,
    rules: Rules | None = None,
    dry_run: bool = False,
    archive: bool = False,
    kept_connection: psycopg.Connection | None = None,
) -> Iterator[Run]:
    """Record a run for the length of the block; it ends as succeeded, failed, stopped (gate or threshold), cancelled
    (Ctrl-C or a signal), crashed, or skipped (another run held its lock, or has recorded the same failure).

    First marks dead runs, whose lock nobody holds any more, as crashed. Mails that `rules` ask for are queued in the
    transaction that records the end. A `dry_run` ends with that status, and with the error if there was one. With
    `archive`, published rows go into the archive. A live process passes the `kept_connection` on which it publishes.
    """
    rules = rules or Rules()
    if dry_run:
        parameters = {**(parameters or {}), "dry_run": True}
    with (
        explain_refusals(without_password(warehouse_url)),
        connect(warehouse_url, autocommit=True, application_name=f"dwh {flow}") as connection,
    ):
        _record_ends(connection, warehouse_url)
        found_dead = tuple(mark_crashed(connection, rules))
        with connection.transaction():
            row = connection.execute(
                """
                insert into audit.run
                    (flow, deployment, prefect_run_id, parent_run_id, launched_by, code_version, parameters, host, pid,
                    status)
                values (%s, %s, %s, %s, %s, %s, %s, %s, %s, 'running') returning run_id
                """,
                [
                    flow,
                    deployment,
                    prefect_run_id,
                    parent_run_id,
                    launched_by or _user(),
                    code_version(),
                    Jsonb(dict(parameters or {})),
                    socket.gethostname(),
                    os.getpid(),
                ],
            ).fetchone()
            assert row is not None
            run_id: int = row[0]
            # Lock before the row is visible, so that no run is ever 'running' without its lock.
            connection.execute("select pg_advisory_lock(%s, %s)", [RUN, run_id % 2**31])
        dry_run_connection = (
            connect(warehouse_url, application_name=f"dwh {flow} dry run") if dry_run else None
        )
        run = Run(
            run_id, flow, connection, warehouse_url, server_process(connection), rules, dry_run_connection,
            is_archived=archive and not dry_run, found_dead=found_dead, kept_connection=kept_connection,
        )  # fmt: skip
        try:
            with explain_refusals(without_password(warehouse_url)):
                try:
                    yield run
                finally:
                    give_to_loader(connection)
        except BaseException as error:
            if (lost := _find_lost(run, error)) is not None:
                _end(run, status_of(lost), lost)
                raise lost from error
            _end(run, status_of(error), error)
            raise
        _end(run, "succeeded", None)


def ensure_alive(run: Run) -> None:
    """Check that the run still holds its locks; call it before a commit.

    Raises:
        RunLost: its connection is gone, and its locks with it.
        UnsuitableDatabase: a pooler has given the session with the locks to another client.
    """
    lost = f"Run {run.run_id} ({run.flow}) lost the connection that held its locks"
    try:
        process = server_process(run.connection)
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise RunLost(
            f"{lost}: {str(error).strip()}.", hint="Its open transaction was rolled back. Run it again."
        ) from None
    if process != run.server_process:
        raise UnsuitableDatabase(
            f"{lost}: a connection pooler has given it to another client.",
            hint=SESSION_MODE.format(setting="DWH_WAREHOUSE_URL"),
        )


def add_parameters(run: Run, **parameters: str) -> None:
    """Add values that the run has determined to its parameters in audit.run."""
    run.connection.execute(
        "update audit.run set parameters = parameters || %s where run_id = %s",
        [Jsonb(parameters), run.run_id],
    )


def mark_irreversible(connection: psycopg.Connection, run_id: int) -> None:
    """Mark a run as not undoable, in the transaction in which it changes rows without before-images."""
    # Skip runs that are already marked: another load of the same run may have the row locked.
    connection.execute(
        "update audit.run set pruned_at = clock_timestamp() where run_id = %s and pruned_at is null", [run_id]
    )


def mark_crashed(connection: psycopg.Connection, rules: Rules | None = None) -> list[int]:
    """Mark dead runs as crashed and queue mail about them. Returns their ids."""
    with connection.transaction():
        rows = connection.execute(
            f"""
            update audit.run set ended_at = clock_timestamp(), error = %s,
                status = case when parameters ->> 'dry_run' = 'true' then 'dry run' else 'crashed' end
            where {DEAD} returning run_id, status
            """.encode(),
            [CRASHED],
        ).fetchall()
        run_ids = [run_id for run_id, status in rows if status == "crashed"]
        if run_ids:
            enqueue_crash_alert(connection, run_ids, rules or Rules())
    return run_ids


def record_load(connection: psycopg.Connection, run_id: int, *loads: Load) -> None:
    """Write loads to audit.load, in the transaction that they describe."""
    rows = [{"run_id": run_id, **vars(load)} for load in loads]
    if rows:
        names = ", ".join(rows[0])
        marks = ", ".join(f"%({name})s" for name in rows[0])
        with connection.cursor() as cursor:
            cursor.executemany(f"insert into audit.load ({names}) values ({marks})".encode(), rows)


def begin_batch(connection: psycopg.Connection, run_id: int, source: str, number: int) -> int:
    """Begin a batch of a live run, in the transaction that publishes it. Returns its id.

    The setting dwh.batch_id gives the batch's id to all rows that the transaction inserts and all changes that it logs.
    """
    row = connection.execute(
        """
        insert into audit.batch (run_id, source, batch_number, load_id) values (%s, %s, %s, 0)
        returning batch_id, set_config('dwh.batch_id', batch_id::text, true)
        """,
        [run_id, source, number],
    ).fetchone()
    assert row is not None
    return int(row[0])


def end_batch(connection: psycopg.Connection, run_id: int, batch_id: int, loads: Sequence[Load]) -> None:
    """Add a batch's counts to the loads of its run (one per table), and record its last load id."""
    for load in loads:
        counts = {
            name: value for name, value in vars(load).items() if name.startswith("rows_") or name == "seconds"
        }
        added = ", ".join(f"{name} = {name} + %({name})s" for name in counts)
        values = {**vars(load), "run_id": run_id}
        updated = connection.execute(
            f"""
            update audit.load set load_id = default, loaded_at = clock_timestamp(), {added},
                window_high = coalesce(%(window_high)s, window_high), note = coalesce(%(note)s, note)
            where run_id = %(run_id)s and source = %(source)s and table_name = %(table_name)s
            """.encode(),
            values,
        )
        if not updated.rowcount:
            record_load(connection, run_id, load)
    connection.execute(
        """
        update audit.batch set
            load_id = (select coalesce(max(load_id), 0) from audit.load where run_id = %(run_id)s),
            published_at = clock_timestamp(), rows_read = %(rows_read)s, rows_changed = %(rows_changed)s
        where batch_id = %(batch_id)s
        """,
        {
            "run_id": run_id,
            "batch_id": batch_id,
            "rows_read": sum(load.rows_read for load in loads if load.table_name.startswith("raw.")),
            "rows_changed": sum(
                load.rows_inserted + load.rows_updated + load.rows_expired + load.rows_deleted
                for load in loads
                if load.table_name.startswith("dwh.")
            ),
        },
    )


def record_checks(connection: psycopg.Connection, run_id: int, results: Sequence[CheckResult]) -> None:
    """Write check results. Use the run's own connection, so that those of a stopped run are kept."""
    if not results:
        return
    names = ["run_id", *vars(results[0])]
    marks = ", ".join(f"%({name})s" for name in names)
    with connection.cursor() as cursor:
        cursor.executemany(
            f"insert into audit.check_result ({', '.join(names)}) values ({marks})".encode(),
            [{"run_id": run_id, **vars(result)} for result in results],
        )


@cache
def code_version() -> str:
    """Return the version of the package and the commit; in an image the commit comes from DWH_COMMIT."""
    commit = os.environ.get("DWH_COMMIT", "")
    if not commit:
        folder = Path(__file__).parent
        try:
            described = subprocess.run(
                ["git", "describe", "--always", "--dirty"],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=5,
            )
            commit = described.stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            # There is no git in an image.
            pass
    try:
        package = version("dwh")
    except PackageNotFoundError:
        package = "not installed"
    return f"{package} ({commit or 'commit unknown'})"


def _end(run: Run, status: str, error: BaseException | None) -> None:
    if run.dry_run_connection is not None:
        status = "dry run"
        # Closing rolls back; it is no error if the server has closed the connection already.
        run.dry_run_connection.close()
    try:
        try:
            _write_end(run.connection, run, status, error)
        except (psycopg.OperationalError, psycopg.InterfaceError):
            with connect(run.warehouse_url, autocommit=True) as fresh:
                _write_end(fresh, run, status, error)
        mark_enqueued(error)
    except (psycopg.Error, WarehouseError):
        # The server is gone, and this run's lock with it. The next run of this process records the end; if another
        # process's run comes first, it marks this one as crashed.
        _unrecorded.append((run, status, error))
        sys.stderr.write(
            f"Run {run.run_id} ended as {status}, but that could not be recorded in the warehouse.\n"
        )


def _record_ends(connection: psycopg.Connection, warehouse_url: str) -> None:
    """Record the ends of this process's runs that could not be recorded when they ended."""
    for end in [end for end in _unrecorded if end[0].warehouse_url == warehouse_url]:
        _write_end(connection, *end)
        _unrecorded.remove(end)


def _find_lost(run: Run, error: BaseException) -> RunLost | None:
    """Return a `RunLost` error if the run's own connection is dead after `error`; else None."""
    if isinstance(error, RunLost | AlreadyRecorded) or not isinstance(error, Exception):
        return None
    # A server that restarts ends this session a moment after the one that failed.
    pauses = (0.0, *LOST_AFTER_SECONDS) if isinstance(error, psycopg.OperationalError) else (0.0,)
    for pause in pauses:
        time.sleep(pause)
        try:
            ensure_alive(run)
        except RunLost as lost:
            return RunLost(f"{lost.what} Before that: {summarize_error(error)}", hint=lost.hint)
        except UnsuitableDatabase:
            return None
    return None


def _write_end(connection: psycopg.Connection, run: Run, status: str, error: BaseException | None) -> None:
    with connection.transaction():
        connection.execute(
            """
            update audit.run set status = %s, ended_at = clock_timestamp(), error = %s, hint = %s
            -- An undo may have undone a live run before it ended: keep that status.
            where run_id = %s and status <> 'undone'
            """,
            [status, _summary(error), getattr(error, "hint", None) or None, run.run_id],
        )
        if run.dry_run_connection is None:
            enqueue_alert(connection, run.run_id, status, error, run.rules)


def _summary(error: BaseException | None) -> str | None:
    if error is None:
        return None
    return redact(summarize_error(error))


def status_of(error: BaseException) -> str:
    """Return the status of a run that ended with `error`."""
    if isinstance(error, LockHeld | AlreadyRecorded):
        return "skipped"
    if isinstance(error, WarehouseError) and error.exit_code == 3:
        return "stopped"
    if isinstance(error, Exception):
        return "failed"
    # Ctrl-C or a signal means that somebody has cancelled the run, or stopped its worker.
    is_signal = isinstance(error, KeyboardInterrupt) or getattr(error, "signal", None) is not None
    return "cancelled" if is_signal else "crashed"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
