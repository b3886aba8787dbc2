"""Read a warehouse query as Arrow record batches in bounded memory, by binary COPY through the ADBC driver."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Final

from warehouse.db.connections import WAREHOUSE_SETTINGS
from warehouse.errors import WarehouseError

if TYPE_CHECKING:
    import pyarrow as pa
    from adbc_driver_manager import AdbcConnection, AdbcDatabase

# A record batch ends after the row that exceeds this size; so a row of 200 MB ends its batch at once.
BATCH_BYTES: Final = 16 * 1024 * 1024
# The driver counts a database's open connections without a lock: a race would leave a connection that cannot be closed.
_COUNTING = Lock()


class UnreadableRows(WarehouseError):
    """Rows of the warehouse could not be read for the archive."""


@contextmanager
def open_reader(warehouse_url: str, query: str) -> "Iterator[pa.RecordBatchReader]":
    """Open a reader of the rows of `query`, in a session of its own: it sees committed rows. Numerics come as text.

    Raises:
        UnreadableRows: the query failed.
    """
    import pyarrow as pa
    from adbc_driver_manager import AdbcStatement, Error

    settings = ", ".join(
        f"set_config('{name}', '{value}', false)" for name, value in _session_settings().items()
    )
    try:
        with ExitStack() as stack:
            connection = stack.enter_context(_connection(warehouse_url))

            def execute(text: str) -> pa.RecordBatchReader:
                statement = stack.enter_context(AdbcStatement(connection))
                statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
                statement.set_sql_query(text)
                handle, _ = statement.execute_query()
                return stack.enter_context(pa.RecordBatchReader._import_from_c(handle.address))

            execute(f"select {settings}").read_all()
            yield execute(query)
    except (Error, pa.ArrowException) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UnreadableRows(f"Rows could not be read for the archive: {reason}.") from None


@contextmanager
def _connection(warehouse_url: str) -> "Iterator[AdbcConnection]":
    from adbc_driver_manager import AdbcConnection

    with _COUNTING:
        connection = AdbcConnection(_database(warehouse_url))
    try:
        yield connection
    finally:
        with _COUNTING:
            connection.close()


@lru_cache(maxsize=4)
def _database(warehouse_url: str) -> "AdbcDatabase":
    """Return the ADBC database, cached because it reads all types of the catalog once. It holds no connection."""
    import adbc_driver_postgresql
    from adbc_driver_manager import AdbcDatabase

    return AdbcDatabase(driver=adbc_driver_postgresql._driver_path(), uri=warehouse_url)


def _session_settings() -> dict[str, str]:
    # Only settings that affect how values are formatted matter for a COPY.
    spelling = (
        "TimeZone", "DateStyle", "IntervalStyle", "lc_monetary", "extra_float_digits", "bytea_output", "search_path",
        "statement_timeout",
    )  # fmt: skip
    return {name: WAREHOUSE_SETTINGS[name] for name in spelling} | {
        "jit": "off",
        "application_name": "dwh archive",
    }
