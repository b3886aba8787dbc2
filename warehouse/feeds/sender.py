"""Send rows to staging by a thread: the next records are parsed while the server stores the last ones."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql

# What COPY reads, and into which table: name, columns, lines.
Content = tuple[sql.Identifier, Sequence[str], bytes]


class Sender:
    """Copies rows into tables, in the order in which they were given; as a context manager it ends the thread.

    Whoever uses the connection for something else has to `wait` before.
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
        """Send rows, once those before are stored: at most these are in memory beside what is being read.

        Raises:
            psycopg.Error: the rows before could not be stored.
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
