"""Stream a binary COPY from one server into another through the client."""

from collections.abc import Generator
from contextlib import suppress

import psycopg
from psycopg import pq, sql
from psycopg.pq.abc import PGresult

# Rows arrive one by one; a write for each would cost more than the copy itself. Counted in bytes: 512 rows may be 1 GB.
BYTES_PER_WRITE = 256 * 1024


def copy_stream(
    reader: psycopg.Connection,
    outgoing: sql.Composed,
    writer: psycopg.Connection,
    incoming: sql.Composed | sql.SQL,
) -> int:
    """Stream the rows of `outgoing` (copy … to stdout) into `incoming` (copy … from stdin); returns the rows copied.

    `reader` must be in a transaction.

    Raises:
        psycopg.Error: either side failed; the reader's transaction is then lost.
    """
    with writer.cursor() as target:
        with target.copy(incoming) as batch:
            for rows in copy_out(reader, outgoing):
                batch.write(rows)
                # Free it before the next one is read: each may have 1 GB.
                del rows
        return target.rowcount


def copy_out(reader: psycopg.Connection, outgoing: sql.Composed) -> Generator[bytes | bytearray | memoryview]:
    """Yield the rows of `outgoing` (copy … to stdout), many at a time, or one that is large.

    `reader` must be in a transaction. A caller that does not want all rows closes the generator, which cancels the
    statement; the transaction can then only continue from a savepoint. libpq's blocking call is used, since it takes
    half the time of psycopg's own reader, which waits for each row separately.

    Raises:
        psycopg.Error: it failed; the transaction is then lost.
    """
    source = reader.pgconn
    _expect(source.exec_(outgoing.as_bytes(reader)), pq.ExecStatus.COPY_OUT)
    rows = bytearray()
    try:
        while True:
            size, row = source.get_copy_data(0)
            if size < 0:
                break
            if len(rows) + size < BYTES_PER_WRITE:
                rows += row
                continue
            if rows:
                yield rows
            # A large row is passed on without a copy: it may have 1 GB.
            yield row
            rows = bytearray()
            del row
        if rows:
            yield rows
    except GeneratorExit:
        _cancel(source)
        raise
    result = source.get_result()
    while source.get_result():
        pass
    _expect(result, pq.ExecStatus.COMMAND_OK)


def _cancel(connection: pq.abc.PGconn) -> None:
    """Cancel a running COPY, and discard its remaining rows."""
    connection.get_cancel().cancel()
    with suppress(psycopg.Error):
        while connection.get_copy_data(0)[0] >= 0:
            pass
    while connection.get_result():
        pass


def _expect(result: PGresult | None, status: pq.ExecStatus) -> None:
    if result is None:
        raise psycopg.OperationalError("the connection was lost while rows were copied")
    if result.status != status:
        raise psycopg.errors.error_from_result(result)
