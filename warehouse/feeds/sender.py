"""Copy rows to staging in a background thread, so that parsing continues while the server stores rows."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql

# Arguments of one COPY: table, columns, and lines in COPY's text format.
Content = tuple[sql.Identifier, Sequence[str], bytes]


class Sender:
    """Copies rows into tables, in order. Leaving the context waits for all rows and ends the thread.

    Call `wait` before using the connection for anything else.
    """

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._pool = ThreadPoolExecutor(1, "copy")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=error is not None)
        if error is None:
            self.wait()

    def send(self, contents: Sequence[Content]) -> None:
        """Send rows in the background, after waiting for the previous ones: this limits the memory that is used.

        Raises:
            psycopg.Error: the previous rows could not be stored.
        """
        self.wait()
        self._pending = self._pool.submit(self._copy, contents)

    def wait(self) -> None:
        """Wait until all rows are stored.

        Raises:
            psycopg.Error: they could not be stored.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _copy(self, contents: Sequence[Content]) -> None:
        for table, columns, content in contents:
            names = sql.SQL(", ").join(map(sql.Identifier, columns))
            statement = sql.SQL("copy {} ({}) from stdin").format(table, names)
            with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
                copy.write(content)
