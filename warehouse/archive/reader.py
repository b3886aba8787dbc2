"""Read a query of the warehouse as Arrow record batches: binary COPY, decoded by the ADBC driver, in bounded memory."""

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

# A batch ends with the row that exceeds it: a row of 200 MB is a batch of its own.
BATCH_BYTES: Final = 16 * 1024 * 1024
# The driver counts the open connections of a database without a lock: two at once, and one cannot be closed.
_COUNTING = Lock()


class UnreadableRows(WarehouseError):
    """Rows of the warehouse could not be read for the archive."""


@contextmanager
def open_reader(warehouse_url: str, query: str) -> "Iterator[pa.RecordBatchReader]":
    """Reader of the committed rows of `query`; numerics would be text.

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
    """The warehouse as ADBC knows it: it reads all types of the catalog once, and holds no connection."""
    import adbc_driver_postgresql
    from adbc_driver_manager import AdbcDatabase

    return AdbcDatabase(driver=adbc_driver_postgresql._driver_path(), uri=warehouse_url)


def _session_settings() -> dict[str, str]:
    # Those that decide how values are spelled: others have no effect on a COPY.
    spelling = (
        "TimeZone", "DateStyle", "IntervalStyle", "lc_monetary", "extra_float_digits", "bytea_output", "search_path",
        "statement_timeout",
    )  # fmt: skip
    return {name: WAREHOUSE_SETTINGS[name] for name in spelling} | {
        "jit": "off",
        "application_name": "dwh archive",
    }
