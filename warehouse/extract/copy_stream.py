"""Stream a binary COPY from one server into another through the client."""

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

    `reader` must be in a transaction. This uses libpq's blocking call, which takes half the time of psycopg's own
    reader, since that waits for each row separately.

    Raises:
        psycopg.Error: either side failed; the reader's transaction is then lost.
    """
    source = reader.pgconn
    with writer.cursor() as target:
        with target.copy(incoming) as batch:
            _expect(source.exec_(outgoing.as_bytes(reader)), pq.ExecStatus.COPY_OUT)
            rows = bytearray()
            while True:
                size, row = source.get_copy_data(0)
                if size < 0:
                    break
                if len(rows) + size < BYTES_PER_WRITE:
                    rows += row
                    continue
                # The row itself is not copied: it may have 1 GB.
                batch.write(rows)
                batch.write(row)
                rows.clear()
                del row
            batch.write(rows)
            result = source.get_result()
            while source.get_result():
                pass
            _expect(result, pq.ExecStatus.COMMAND_OK)
        return target.rowcount


def _expect(result: PGresult | None, status: pq.ExecStatus) -> None:
    if result is None:
        raise psycopg.OperationalError("the connection was lost while rows were copied")
    if result.status != status:
        raise psycopg.errors.error_from_result(result)
