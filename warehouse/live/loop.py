"""The loop of `dwh live` for one source: poll for changes, publish them in batches, and recover from any error."""

import logging
import random
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from threading import Event
from time import monotonic

import psycopg

from warehouse.archive import upkeep
from warehouse.db import staying_session
from warehouse.db.connection_errors import explain_refusals, is_transient
from warehouse.db.connections import connect, without_password
from warehouse.db.locks import is_held, session_lock, source_lock
from warehouse.db.schema_version import ensure_migrated
from warehouse.errors import (
    AlreadyRecorded,
    BatchOutdated,
    ConnectionFailed,
    DeclarationError,
    LockHeld,
    RunLost,
    SourceError,
    SourceLocked,
    StaleDefinition,
    WarehouseError,
    summarize_error,
)
from warehouse.extract.cursor_reader import BatchLimits, CursorReader
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.limits import ReadLimits
from warehouse.extract.range_store import forget_unverified
from warehouse.history.change_log import STAR_LOCK
from warehouse.live.judge import LiveJudge
from warehouse.load.contract import prepare
from warehouse.load.publish import Published, publish
from warehouse.runs import live_process
from warehouse.runs.alerts.rules import Rules
from warehouse.runs.audit import CheckResult, Run, mark_crashed, record_checks, start_run
from warehouse.runs.definitions import (
    Definitions,
    compare_definitions,
    find_stale,
    read_contracts,
)
from warehouse.runs.live_process import flow_name
from warehouse.runs.lock_watch import watch_locks
from warehouse.runs.redact import redact
from warehouse.settings import Settings
from warehouse.sources.source import Source

Log = Callable[[str, int], None]

# Seconds before each retry after an error; each is varied at random.
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
# How long to wait for the lock on the source before checking whether to stop.
LOCK_SECONDS = 5.0
# How often to record that the process polls, and to check whether an undo stops it or another run has published.
HEARTBEAT_SECONDS = 5.0


@dataclass(frozen=True)
class Environment:
    """Settings and callbacks that a loop gets from its process."""

    settings: Settings
    rules: Rules
    log: Log
    # Start the server of an embedded warehouse again.
    restart: Callable[[], None] = lambda: None
    # Send the mail that a run has queued.
    send_mail: Callable[[], None] = lambda: None
    # Called with each published batch.
    published: Callable[[Run, Published], None] = lambda _run, _published: None


@dataclass
class _OpenRun:
    run: Run
    close: ExitStack
    started: float
    batches: int = 0


@dataclass
class SourceLoop:
    """Keeps the star up to date with one source until `stop` is set."""

    source: Source
    url: str
    environment: Environment
    stop: Event
    _control: psycopg.Connection | None = None
    _writer: psycopg.Connection | None = None
    _open: _OpenRun | None = None
    _judge: LiveJudge | None = None
    _definitions: Definitions | None = None
    _waits_for: str | None = None
    _recorded_at: float = 0.0
    _checked_at: float = 0.0
    _was_connected: bool = False
    # The last failure, until its batch is published: its message, its kind if it is recorded, and the source's snapshot
    # if the rows are at fault. While the snapshot is the same, so are the rows.
    _failure: str | None = None
    _recorded: str | None = None
    _failed_at_snapshot: str | None = None
    # True once `_forget_unverified` was done for the watermarks that were read.
    _is_verified: bool = False
    _reader: CursorReader = field(init=False)

    def __post_init__(self) -> None:
        settings = self.environment.settings
        self._reader = CursorReader(
            self.source,
            self.url,
            read_contracts(self.source),
            ReadLimits.of(settings),
            DeleteThreshold(settings.max_delete_share, settings.delete_floor_rows),
            BatchLimits(settings.live_batch_rows, settings.live_batch_mb * 1024 * 1024),
            settings.source_lock_wait,
            self._log,
        )

    def run(self) -> None:
        """Work until `stop` is set, which ends the loop between two batches.

        Raises:
            LockHeld: another process is live for this source.
        """
        failures, warehouse = 0, without_password(self.environment.settings.warehouse)
        while not self.stop.is_set():
            try:
                with explain_refusals(warehouse), self._connected():
                    while not self.stop.is_set():
                        if self._turn():
                            failures = 0
            except LockHeld:
                raise
            except Exception as error:
                self._end_badly(error)
                pause = PAUSES[min(failures, len(PAUSES) - 1)] * random.uniform(0.75, 1.25)
                failures += 1
                self._record_wait(error, pause)
                self.stop.wait(pause)
                if is_transient(error) or isinstance(error, RunLost):
                    self._restart_server()
        self._record_stop()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Hold the connections to source and warehouse, and the lock by which one process at a time is live."""
        settings, name = self.environment.settings, flow_name(self.source.name)
        with ExitStack() as stack:
            ensure_migrated(settings.warehouse, settings.time_zone)
            control = stack.enter_context(
                connect(
                    settings.warehouse,
                    autocommit=True,
                    application_name=f"dwh live control {self.source.name}",
                )
            )
            try:
                stack.enter_context(
                    session_lock(
                        control,
                        live_process.lock_name(self.source.name),
                        wait_seconds=LOCK_SECONDS if self._was_connected else 0,
                    )
                )
            except LockHeld as held:
                if self._was_connected:
                    # Held by this process's lost session, whose end the server has not noticed yet.
                    raise ConnectionFailed(
                        f"The connection was lost; its lock is still held: {held.what}"
                    ) from None
                raise LockHeld(
                    f"`dwh live` of source '{self.source.name}' runs already: {held.what}",
                    hint="One is enough. To end it, send it SIGTERM; `dwh status` shows where it runs.",
                ) from None
            self._control = control
            self._writer = stack.enter_context(
                connect(settings.warehouse, application_name=f"dwh {name} publish")
            )
            staying_session.stay(self._writer)
            stack.callback(self._reader.close)
            if not self._was_connected:
                live_process.begin(control, self.source.name)
                # The start of a run would do this, too, but this process starts its first one only at a change.
                mark_crashed(control, self.environment.rules)
            self._was_connected, self._checked_at = True, 0.0
            prepare(control, self._reader.contracts.values(), self.source.name)
            before = self._positions()
            self._find_tables()
            if self._open is not None and self._positions() != before:
                # Another run has published meanwhile: later batches need a run with a later id.
                self._end_run()
                self._failed_at_snapshot = None
            # How the open run ends after an error depends on the error: see `_end_badly`.
            yield

    def _turn(self) -> bool:
        """Poll the source, and publish a batch if there are changes. Returns whether all of them are published.

        Returns False if it only waited: the last failure may occur again, so the pauses must not become short again.
        """
        self._end_run_in_time()
        try:
            has_moved = self._reader.has_moved()
        except psycopg.errors.LockNotAvailable:
            self._record_state(f"somebody has locked a table of source '{self.source.name}'")
            return False
        is_pending = has_moved and self._reader.snapshot != self._failed_at_snapshot
        if is_pending or monotonic() - self._checked_at >= HEARTBEAT_SECONDS:
            if self._is_held():
                self.stop.wait(HEARTBEAT_SECONDS)
                return False
            if self._is_stale():
                self._end_run()
                self._find_tables()
                self._failed_at_snapshot = None
                return False
            self._checked_at = monotonic()
        if is_pending:
            return self._publish_batch()
        if not has_moved:
            self._forget_failure()
        self._record_state(self._failure)
        self.stop.wait(self.environment.settings.live_interval)
        return self._failure is None

    def _publish_batch(self) -> bool:
        assert self._control is not None
        # Waiting for another source's long publish under the source's lock would block scheduled runs of this source.
        if is_held(self._control, STAR_LOCK):
            if monotonic() - self._recorded_at >= HEARTBEAT_SECONDS:
                self._record_state("it waits for another run that publishes")
            self.stop.wait(self.environment.settings.live_interval)
            return False
        run = self._run()
        assert self._writer is not None and self._open is not None and self._judge is not None
        try:
            with session_lock(
                run.connection,
                source_lock(self.source.name),
                wait_seconds=LOCK_SECONDS,
                waiting=self._log,
            ):
                # A run may have published, or an undo may have begun, while this waited for the lock.
                if self._is_stale() or self._is_held():
                    return False
                self._forget_unverified(self._writer)
                return self._publish_locked(run, self._open, self._judge, self._writer)
        except LockHeld as held:
            self._record_state(f"it waits for a run: {held.what}")
            return False

    def _forget_unverified(self, writer: psycopg.Connection) -> None:
        """Discard what a run verified that died before its final verification; a batch would replace its watermark."""
        if self._is_verified:
            return
        with writer.transaction():
            forgotten = forget_unverified(writer, self.source.name)
        if forgotten:
            self._find_tables()
        self._is_verified = True

    def _publish_locked(
        self, run: Run, opened: _OpenRun, judge: LiveJudge, writer: psycopg.Connection
    ) -> bool:
        wait = self.environment.settings.warehouse_lock_wait
        with watch_locks(run.warehouse_url, run.flow, wait, self._log):
            with writer.transaction():
                staged = self._reader.stage(writer, opened.batches + 1)
            if staged is None:
                self._log("the source's catalog has changed: it is read again")
                self._find_tables()
                return False
            if not staged.rows_read:
                return True
            try:
                published = publish(run, staged, judge=judge, definitions=self._definitions)
            except BatchOutdated:
                self._find_tables()
                return False
            judge.accept()
            opened.batches += 1
            self._forget_failure()
            with writer.transaction():
                self._reader.moved(writer, staged)
        self._record_state(None)
        self.environment.published(run, published)
        return True

    def _find_tables(self) -> None:
        assert self._writer is not None
        self._is_verified = False
        before = dict(self._reader.left_out)
        with self._writer.transaction():
            if self._reader.find_tables(self._writer):
                staying_session.sample_again(self._writer)
            else:
                staying_session.forget(self._writer)
        if self._reader.left_out != before:
            for name, reason in self._reader.left_out.items():
                self._log(f"{name} is left to scheduled runs: {reason}")

    def _is_stale(self) -> bool:
        """Whether another run, or an undo, has changed a watermark since this loop read it."""
        assert self._control is not None
        rows = self._control.execute(
            "select table_name, run_id, captured_at, complete_at from audit.watermark where source = %s",
            [self.source.name],
        ).fetchall()
        # A table that is no longer declared keeps its watermark.
        declared = {table.name for table in self.source.tables}
        now: dict[str, tuple[int, datetime, datetime]] = {
            name: (run_id, *at) for name, run_id, *at in rows if name in declared
        }
        return now != self._positions()

    def _positions(self) -> dict[str, tuple[int, datetime, datetime]]:
        """Return run and times of the watermarks that were read last, by table."""
        return {
            table.name: (one.watermark.run_id, one.watermark.captured_at, one.watermark.complete_at)
            for table, one in self._reader.tables.items()
            if one.watermark is not None
        }

    def _is_held(self) -> bool:
        """Whether an undo has stopped live loads of this source."""
        assert self._control is not None
        run_id = live_process.held_by(self._control, self.source.name)
        if run_id is None:
            return False
        self._end_run()
        self._record_state(
            f"run {run_id} has undone what live has published; `dwh live --resume` lets it load that again"
        )
        return True

    def _run(self) -> Run:
        """Return the open run; begin one if there is none."""
        if self._open is not None:
            # Its last try may have failed, after which the connection was closed.
            self._open.run = replace(self._open.run, kept_connection=self._writer)
        else:
            environment = self.environment
            ensure_migrated(environment.settings.warehouse, environment.settings.time_zone)
            assert self._control is not None
            upkeep.prepare(self._control, environment.settings.warehouse, environment.settings)
            stack = ExitStack()
            run = stack.enter_context(self._start_run(self._writer))
            if self._judge is None:
                self._judge = LiveJudge(run, environment.settings.live_min_rows)
            self._judge.run = run
            self._open = _OpenRun(run, stack, monotonic())
        if not self._open.batches:
            self._compare_definitions(self._open.run)
        return self._open.run

    def _start_run(self, kept_connection: psycopg.Connection | None = None) -> AbstractContextManager[Run]:
        return start_run(
            self.environment.settings.warehouse,
            flow=flow_name(self.source.name),
            parameters={"source": self.source.name},
            rules=self.environment.rules,
            archive=self.environment.settings.archive,
            kept_connection=kept_connection,
        )

    def _compare_definitions(self, run: Run) -> None:
        definitions = compare_definitions(run.connection, self.source, self._reader.contracts)
        stale = find_stale(run.connection, definitions)
        if stale := [one for one in stale if not definitions.is_removed(one.table_name)]:
            self._definitions = None
            raise StaleDefinition(
                f"What {', '.join(one.table_name for one in stale)} of '{self.source.name}' were made by has changed: "
                f"{stale[0].reason}.",
                hint=f"Live goes on after `dwh run {self.source.name}`, which conforms them again, or records "
                "what is no longer declared.",
            )
        self._definitions = definitions

    def _end_run_in_time(self) -> None:
        minutes = self.environment.settings.live_run_minutes
        if self._open is not None and self._open.batches and monotonic() - self._open.started >= 60 * minutes:
            self._end_run()

    def _end_run(self) -> None:
        """End the open run: as succeeded, since its batches are complete; as skipped if it only repeated a failure."""
        opened, self._open = self._open, None
        if opened is None:
            return
        if self._recorded is not None and not opened.batches:
            skipped = AlreadyRecorded(
                f"It published nothing: an earlier run of it has recorded why. {self._failure}"
            )
            self._record_failure(opened, skipped, [])
            return
        if self._judge is not None:
            # Results cannot be recorded on a lost connection; the end of the run still is, on another one.
            with suppress(psycopg.OperationalError, psycopg.InterfaceError):
                self._judge.write(opened.run)
        opened.close.close()
        self.environment.send_mail()

    def _end_badly(self, error: Exception) -> None:
        """End the open run after an error; if only a connection was lost, the run has succeeded.

        A repeated failure of the same kind is already recorded: the run then stays open for the next try.
        """
        checks = self._judge.reject() if self._judge is not None else []
        opened = self._open
        try:
            if is_transient(error) or isinstance(error, RunLost | BatchOutdated):
                self._end_run()
                return
            if opened is not None and opened.batches:
                self._end_run()
                opened = None
            self._failure = _reason(error)
            self._failed_at_snapshot = self._reader.snapshot if _is_of_rows(error) else None
            if (kind := _kind(error)) != self._recorded:
                self._record_failure(opened, error, checks)
                self._recorded = kind
        except Exception as failure:
            self._open = None
            self._log(f"the end of a run could not be recorded: {_reason(failure)}", logging.WARNING)

    def _forget_failure(self) -> None:
        """Forget the last failure, since its rows were published, or are no longer in the source."""
        self._failure = self._recorded = self._failed_at_snapshot = None

    def _record_failure(self, opened: _OpenRun | None, error: Exception, checks: list[CheckResult]) -> None:
        """Record a run that ends with `error`, once; its mail is queued with it."""
        self._open = None
        stack = opened.close if opened else ExitStack()
        try:
            with stack:
                run = opened.run if opened else stack.enter_context(self._start_run())
                record_checks(run.connection, run.run_id, checks)
                raise error
        except Exception as raised:
            if raised is not error and not isinstance(raised, RunLost):
                raise
        self.environment.send_mail()

    def _record_state(self, reason: str | None) -> None:
        """Record in audit.live that the process polls, every few seconds, or why it waits, at once."""
        if reason != self._waits_for and reason is not None:
            self._log(f"waits: {reason}", logging.WARNING)
        if reason == self._waits_for and monotonic() - self._recorded_at < HEARTBEAT_SECONDS:
            return
        assert self._control is not None
        self._waits_for, self._recorded_at = reason, monotonic()
        live_process.record_state(
            self._control,
            self.source.name,
            run_id=self._open.run.run_id if self._open else None,
            reason=reason,
        )

    def _record_wait(self, error: Exception, pause: float) -> None:
        what = _reason(error)
        self._log(f"{what} Trying again in {pause:.1f} s.", logging.WARNING)
        self._waits_for, self._recorded_at = what, monotonic()
        # This fails, too, if it is the warehouse that is down.
        with (
            suppress(psycopg.Error, WarehouseError),
            connect(self.environment.settings.warehouse, autocommit=True) as connection,
        ):
            if not self._was_connected:
                live_process.begin(connection, self.source.name)
            live_process.record_state(connection, self.source.name, run_id=None, reason=what)

    def _record_stop(self) -> None:
        """End the open run, and record that the process ends on request."""
        try:
            self._end_run()
            with connect(self.environment.settings.warehouse, autocommit=True) as connection:
                live_process.end(connection, self.source.name)
        except (psycopg.Error, WarehouseError) as error:
            self._log(f"its end could not be recorded: {_reason(error)}", logging.WARNING)

    def _restart_server(self) -> None:
        try:
            self.environment.restart()
        except WarehouseError as error:
            self._log(_reason(error), logging.WARNING)

    def _log(self, message: str, level: int = logging.INFO) -> None:
        self.environment.log(f"{self.source.name}: {message}", level)


def _reason(error: Exception) -> str:
    """Format the error and its hint in one line, without secrets."""
    return redact(f"{summarize_error(error)} {getattr(error, 'hint', '')}".strip())


def _kind(error: Exception) -> str:
    """Format the error without its numbers, which may differ when the same failure is repeated."""
    return f"{type(error).__name__} {re.sub('[0-9][0-9.,]*', '#', summarize_error(error))}"


def _is_of_rows(error: Exception) -> bool:
    """Whether the source's rows are at fault, so that a retry fails until something changes in the source."""
    if isinstance(error, SourceError | DeclarationError):
        return not isinstance(error, SourceLocked)
    return getattr(error, "exit_code", None) == 3
