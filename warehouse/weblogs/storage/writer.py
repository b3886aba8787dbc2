"""Write rows in a background thread, so that they are sent to PostgreSQL while the next ones are parsed."""

import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from queue import Queue
from typing import Any

import psycopg
from psycopg import sql

from warehouse.db.connections import connect
from warehouse.weblogs.storage.partitions import PARENT, Partitions
from warehouse.weblogs.storage.rows import CountryRows, Piece

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
# psycopg would copy larger pieces once more.
_WRITE_BYTES = 1 << 16
# Fewer rows are cheaper to send through the parent table than by a COPY of their own.
_FEW_ROWS = 400
_COPY = sql.SQL("copy {} ({}) from stdin (format binary)")


Job = Callable[[psycopg.Connection], None]


class FactWriter:
    """Executes jobs on the load's connection, in a background thread."""

    def __init__(self, connection: psycopg.Connection, warehouse_url: str, codes: Sequence[str]) -> None:
        self._connection = connection
        self._warehouse_url = warehouse_url
        self._codes = codes
        self._partitions = Partitions(connection)
        self._queue: Queue[Job | None] = Queue()
        # Limits the rows in memory: one job running, one queued.
        self._slots = threading.Semaphore(2)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def send(self, rows: list[CountryRows]) -> None:
        """Queue rows; blocks while another job is queued."""
        self.do(lambda _: self._write(rows))

    def ensure_partitions(self, countries: Sequence[str]) -> None:
        """Create the missing partitions of countries before their rows come."""
        self._put(lambda _: self._make(countries))

    def prepare(self, step: Callable[[], None]) -> None:
        """Run a step in the background that the commit will need, as an import."""
        self._put(lambda _: step())

    def do(self, job: Job) -> None:
        """Queue a job that writes in the load's transaction; blocks while another job is queued."""
        self._slots.acquire()

        def run(connection: psycopg.Connection) -> None:
            try:
                job(connection)
            finally:
                self._slots.release()

        self._put(run)

    def _put(self, job: Job) -> None:
        self._raise()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="weblog writer", daemon=True)
            self._thread.start()
        self._queue.put(job)

    def finish(self) -> None:
        """Wait until all jobs are done, and raise the first error of one."""
        self._join()
        self._raise()

    def abandon(self) -> None:
        """Wait for the thread and ignore its errors: the transaction will be rolled back."""
        self._join()

    def refresh_partitions(self) -> None:
        """Look up the partitions again, after another process changed them."""
        self._partitions.refresh()

    def _join(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                job(self._connection)
            except BaseException as error:
                self._error = self._error or error

    def _make(self, countries: Sequence[str]) -> None:
        if self._error is not None:
            return
        missing = [country for country in countries if not self._partitions.has(country)]
        if missing:
            # Committed at once: other loaders need not wait for this batch.
            with connect(
                self._warehouse_url, autocommit=True, application_name="dwh: web log partitions"
            ) as connection:
                Partitions(connection).make(missing)
            self._partitions.refresh()

    def _write(self, rows: list[CountryRows]) -> None:
        self._make([self._codes[one.country] for one in rows])
        few: list[Piece] = []
        for one in rows:
            code = self._codes[one.country]
            if one.count < _FEW_ROWS:
                few.extend(one.pieces)
                continue
            for table, pieces in self._partitions.targets(code, one.pieces):
                copy_binary(self._connection, table, pieces)
        if few:
            copy_binary(self._connection, PARENT, few)


def copy_binary(connection: psycopg.Connection, table: sql.Identifier, pieces: Iterable[Piece]) -> int:
    """COPY rows that are in binary format; returns their number."""
    by_columns: dict[tuple[str, ...], list[memoryview]] = {}
    for piece in pieces:
        by_columns.setdefault(piece.columns, []).append(piece.content)
    count = 0
    for columns, contents in by_columns.items():
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        with connection.cursor() as cursor:
            with cursor.copy(_COPY.format(table, names)) as copy:
                copy.write(_HEADER)
                for content in contents:
                    for start in range(0, len(content), _WRITE_BYTES):
                        copy.write(content[start : start + _WRITE_BYTES])
                copy.write(_TRAILER)
            count += cursor.rowcount
    return count


def copy_rows(
    connection: psycopg.Connection,
    table: sql.Identifier,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
) -> None:
    """COPY rows of Python values, in text format."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    with (
        connection.cursor() as cursor,
        cursor.copy(sql.SQL("copy {} ({}) from stdin").format(table, names)) as copy,
    ):
        for row in rows:
            copy.write_row(row)
