"""Binary COPY from one server into another, as fast as the client can hand the bytes on."""

import psycopg
from psycopg import pq, sql
from psycopg.pq.abc import PGresult

# Rows arrive one by one; written one by one, the calls would cost more than the copying.
ROWS_PER_WRITE = 512


def copy_stream(
    reader: psycopg.Connection,
    outgoing: sql.Composed,
    writer: psycopg.Connection,
    incoming: sql.Composed | sql.SQL,
) -> int:
    """Copy what `outgoing` (copy … to stdout) says into what `incoming` (copy … from stdin) says; rows copied.

    `reader` must be in a transaction. psycopg's own reader waits for each row anew; libpq's blocking call, which this
    uses, takes half the time.

    Raises:
        psycopg.Error: either side failed; the reader's transaction is then lost.
    """
    source = reader.pgconn
    with writer.cursor() as target:
        with target.copy(incoming) as batch:
            _expect(source.exec_(outgoing.as_bytes(reader)), pq.ExecStatus.COPY_OUT)
            rows: list[bytes | memoryview] = []
            while True:
                status, row = source.get_copy_data(0)
                if status < 0:
                    break
                rows.append(row)
                if len(rows) == ROWS_PER_WRITE:
                    batch.write(b"".join(rows))
                    rows.clear()
            batch.write(b"".join(rows))
            _expect(source.get_result(), pq.ExecStatus.COMMAND_OK)
            while source.get_result():
                pass
        return target.rowcount


def _expect(result: PGresult | None, status: pq.ExecStatus) -> None:
    if result is None:
        raise psycopg.OperationalError("the connection was lost while rows were copied")
    if result.status != status:
        raise psycopg.errors.error_from_result(result)
