"""Write a load's rows, quarantine and checkpoints to the warehouse. A dry run has a sink of its own (dry_run.py)."""

import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Protocol

import psycopg

from warehouse.db.locks import session_lock, transaction_lock
from warehouse.errors import LockHeld
from warehouse.files.lake import Checkpoint, FileTask, UnreadFile
from warehouse.files.unread import record_unread
from warehouse.geoip import GeoIp
from warehouse.load import contract
from warehouse.model.contracts import read_contract
from warehouse.runs.audit import CheckResult, Load, Run, record_load
from warehouse.weblogs.batch import Batch, verify
from warehouse.weblogs.files.checkpoints import (
    FEED,
    PUBLISHED,
    FileProgress,
    progress_under_former_id,
    register,
    save,
)
from warehouse.weblogs.files.unread import set_aside
from warehouse.weblogs.maintenance.reload import (
    discard_again,
    reopen_last_line,
    replace_lines,
    restart_file,
    supersede,
)
from warehouse.weblogs.quarantine import QuarantinedLine, copy_lines
from warehouse.weblogs.storage.aggregate_tables import add_staged, clear_staged
from warehouse.weblogs.storage.countries import name_countries
from warehouse.weblogs.storage.months import maintain_partitions
from warehouse.weblogs.storage.partitions import SHAPE
from warehouse.weblogs.storage.rows import CountryRows
from warehouse.weblogs.storage.writer import FactWriter


class Sink(Protocol):
    """Interface between the loader and the tables of its rows; the rows of a batch are visible once it is published."""

    def begin(self, task: FileTask) -> FileProgress:
        """Return where to read on in a file; a new file gets an id."""

    def set_aside(self, task: FileTask, unread: UnreadFile) -> None:
        """Note that a file is not read."""

    def record_unread(self, unread: Sequence[UnreadFile], known: Sequence[Checkpoint]) -> None:
        """Record all files that are not read, at the end of a load; `known` is what was recorded before."""

    def ensure_partitions(self, countries: Sequence[str]) -> None:
        """Prepare for rows of countries that have not come before."""

    def send(self, rows: list[CountryRows]) -> None:
        """Take rows of the batch."""

    def quarantine(self, lines: list[QuarantinedLine]) -> None:
        """Take lines that cannot be loaded."""

    def publish(self, batch: Batch, products: Sequence[str]) -> list[CheckResult]:
        """Publish all that was sent, or nothing of it; `products` are those that the batch's aggregates refer to."""

    def maintain(self) -> None:
        """Do the maintenance that is due after a batch."""


class TableSink:
    """Writes into the warehouse: a batch is one transaction of `connection`, written by a thread of its own.

    `reader` holds the locks on the files. On an error inside the `with` block the open transaction is rolled back.
    """

    def __init__(
        self,
        run: Run,
        connection: psycopg.Connection,
        reader: psycopg.Connection,
        countries: GeoIp,
        *,
        monthly_bytes: int,
        is_restart: bool,
    ) -> None:
        self._run, self._connection, self._reader, self._countries = run, connection, reader, countries
        self._monthly_bytes, self._is_restart = monthly_bytes, is_restart
        self._codes: list[str] = []
        self._writer = FactWriter(connection, run.warehouse_url, countries.codes)
        # Ends the transaction in which the writer looked up the partitions.
        connection.commit()

    def __enter__(self) -> "TableSink":
        # A missing or invalid contract is an error before anything is read.
        read_contract("weblog")
        self._writer.prepare(contract.import_soda)
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if kind is not None:
            self._writer.abandon()
            if not self._connection.closed:
                self._connection.rollback()

    def begin(self, task: FileTask) -> FileProgress:
        """Register the file, and go to where its last load ended, or with `is_restart` to its beginning."""
        if former := progress_under_former_id(task):
            reopen_last_line(self._reader, former, self._run.run_id)
        file = register(self._reader, task, self._run.run_id)
        if self._is_restart or task.state == "reread":
            restart_file(self._reader, file)
        else:
            reopen_last_line(self._reader, file, self._run.run_id)
        return file

    def set_aside(self, task: FileTask, unread: UnreadFile) -> None:
        """Record at once that a file is not read: there are no rows to commit with it."""
        set_aside(self._reader, task, unread, self._run.run_id)

    def record_unread(self, unread: Sequence[UnreadFile], known: Sequence[Checkpoint]) -> None:
        """Record which files are no longer, or not yet, read."""
        record_unread(self._reader, FEED, unread, known, self._run.run_id)

    def ensure_partitions(self, countries: Sequence[str]) -> None:
        """Make the partitions of these countries, if they have none."""
        self._codes += countries
        self._writer.ensure_partitions(countries)

    def send(self, rows: list[CountryRows]) -> None:
        """COPY rows into their partitions."""
        self._writer.send(rows)

    def quarantine(self, lines: list[QuarantinedLine]) -> None:
        """COPY lines into audit.quarantine."""
        run_id = self._run.run_id
        self._writer.do(lambda connection: copy_lines(connection, "audit", lines, run_id))

    def publish(self, batch: Batch, products: Sequence[str]) -> list[CheckResult]:
        """Commit rows, aggregates, quarantine, checkpoints and counts of a batch together."""
        connection, run_id = self._connection, self._run.run_id
        self._writer.finish()
        transaction_lock(connection, PUBLISHED)
        connection.execute("select set_config('dwh.run_id', %s, true)", [str(run_id)])
        for file in batch.files:
            if file.is_restarted:
                replace_lines(connection, file, run_id)
            if self._is_restart and file.is_done:
                supersede(connection, file, run_id)
        name_countries(connection, self._countries, self._codes, run_id)
        clear_staged(connection)
        batch.aggregates.stage(connection, self._countries.codes, products)
        add_staged(connection)
        results = verify(connection, self._run, batch)
        for file in batch.files:
            save(connection, file, run_id)
            if file.is_reread:
                discard_again(connection, file, run_id)
        record_load(connection, run_id, self._summary(batch))
        # This connection's locks keep others from these files: if it is gone, nothing may be published.
        self._reader.execute("select")
        connection.commit()
        return results

    def maintain(self) -> None:
        """Divide partitions that have grown large, and make those of the coming months."""
        with suppress(LockHeld), session_lock(self._connection, SHAPE):
            if maintain_partitions(self._connection, self._monthly_bytes):
                self._writer.refresh_partitions()
        # So that this step's lock_timeout does not apply to the next batch.
        self._connection.commit()

    def _summary(self, batch: Batch) -> Load:
        counts = [file.counts() for file in batch.files]
        lines = sum(one.line_count for one in counts)
        quarantined = sum(one.rows_quarantined for one in counts)
        return Load(
            FEED,
            "dwh.fact_weblog",
            window_low=batch.files[0].file.path,
            window_high=batch.files[-1].file.path,
            rows_read=lines,
            rows_inserted=sum(one.rows_loaded for one in counts),
            rows_quarantined=quarantined,
            geoip_database=self._countries.database_type,
            geoip_built_at=self._countries.built_at,
            seconds=time.perf_counter() - batch.started,
        )
