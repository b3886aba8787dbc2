"""Run work in one transaction of the shop's database, with retries after conflicts and lost connections."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.adapt import Loader
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from api.errors import ShopUnavailable
from api.repositories.keys import Keys
from api.repositories.orders import Orders

logger = logging.getLogger("dwh.api")
Result = TypeVar("Result")

CONNECTIONS = 10
# Requests that wait for a connection; more are refused at once.
WAITING = 100
WAIT_SECONDS = 3.0
ATTEMPTS = 4
# Set in every session: settings of role or database must not change the format of times or the time limits.
SESSION = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "search_path": "public",
    "default_transaction_isolation": "read committed",
    "synchronous_commit": "on",
    "statement_timeout": "5s",
    "idle_in_transaction_session_timeout": "10s",
    "jit": "off",
}
ROLE = "order_api"

# Errors after which the work is retried. The last two: between our reading and writing, a customer or product was
# deleted, or an id was taken.
AGAIN = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.ForeignKeyViolation,
    errors.UniqueViolation,
)
BUSY = (errors.QueryCanceled, errors.LockNotAvailable)
NOT_PREPARED = (errors.UndefinedTable, errors.UndefinedColumn, errors.InsufficientPrivilege)
AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
)


class Again(Exception):
    """Raised by work whose rows have changed since it read them: it has to be retried."""


class _TimeLoader(Loader):
    """Loads a timestamptz as RFC 3339 text in UTC; None for infinity, BC and years after 9999."""

    def load(self, data: Any) -> str | None:
        text = bytes(data).decode()
        return f"{text[:10]}T{text[11:-3]}Z" if text[4:5] == "-" and text.endswith("+00") else None


class UnitOfWork:
    """The repositories, in one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.orders = Orders(connection)
        self.keys = Keys(connection)


class Shop:
    """The shop's database: a pool of connections, which act as role order_api if their login is a member of it."""

    def __init__(self, url: str, connections: int = CONNECTIONS) -> None:
        self._pool: AsyncConnectionPool[AsyncConnection] = AsyncConnectionPool(
            url,
            kwargs={
                "application_name": "dwh-api",
                "connect_timeout": 5,
                "tcp_user_timeout": 10_000,
                # Prepare statements at their first execution, except those with prepare=False.
                "prepare_threshold": 0,
            },
            min_size=1,
            max_size=connections,
            max_waiting=WAITING,
            timeout=WAIT_SECONDS,
            # Stop reconnecting after 2 seconds, and let the next request try: the pool's pauses would grow to minutes.
            reconnect_timeout=2,
            configure=_configure,
            open=False,
            name="shop",
        )
        self._is_away = False

    async def open(self) -> None:
        """Open the pool in the background: a database that is away is connected to as soon as it is back."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    async def run(self, work: Callable[[UnitOfWork], Awaitable[Result]]) -> Result:
        """Do the work in one transaction; retry it after a conflict or a connection lost before the commit.

        Raises:
            ShopUnavailable: the database is away, too busy or not prepared. Nothing was stored, unless the message says
                that this is not known.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._attempt(work)
            except (*AGAIN, Again) as error:
                if attempt == ATTEMPTS:
                    if isinstance(error, Again | errors.SerializationFailure | errors.DeadlockDetected):
                        raise ShopUnavailable("The shop is busy.") from error
                    raise
                await asyncio.sleep(0.01 * attempt)
            except _Lost as lost:
                if attempt == ATTEMPTS:
                    raise self._away(lost.__cause__) from lost
                # The pool's idle connections may be lost, too: test all of them.
                await self._pool.check()
        raise AssertionError("unreachable")

    async def _attempt(self, work: Callable[[UnitOfWork], Awaitable[Result]]) -> Result:
        try:
            async with self._connection() as connection:
                result = await work(UnitOfWork(connection))
                await _commit(connection)
        except BUSY as error:
            raise ShopUnavailable("The shop is busy.") from error
        except NOT_PREPARED as error:
            logger.error(
                "The shop lacks what the order API needs (%s). `dwh api --prepare` creates it, as the owner of the "
                "shop's tables.",
                error.diag.message_primary,
            )
            raise ShopUnavailable("The shop is not prepared for orders.") from error
        except _Uncertain as error:
            raise self._away(
                error.__cause__, "It is not known whether the request was carried out."
            ) from error
        except AWAY as error:
            raise _Lost from error
        if self._is_away:
            self._is_away = False
            logger.info("The shop's database is back.")
        return result

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        failures = self._connection_failures()
        try:
            connection = await self._pool.getconn()
        except (PoolTimeout, TooManyRequests) as error:
            if self._connection_failures() > failures or self._is_away:
                raise self._away(error) from error
            raise ShopUnavailable("The shop is busy: all connections are in use.") from error
        try:
            yield connection
        except BaseException:
            with suppress(psycopg.Error):
                await connection.rollback()
            raise
        finally:
            await self._pool.putconn(connection)

    def _connection_failures(self) -> int:
        return self._pool.get_stats().get("connections_errors", 0)

    def _away(self, error: BaseException | None, detail: str = "") -> ShopUnavailable:
        if not self._is_away:
            self._is_away = True
            logger.warning("The shop's database is away: %s", str(error).strip().partition("\n")[0])
        return ShopUnavailable(f"The shop's database is away. {detail}".strip())


class _Lost(Exception):
    """The connection broke before the commit: nothing was stored."""


class _Uncertain(Exception):
    """The connection broke during the commit."""


async def _commit(connection: AsyncConnection) -> None:
    try:
        await connection.commit()
    except AWAY as error:
        raise _Uncertain from error


async def _configure(connection: AsyncConnection) -> None:
    connection.adapters.register_loader("timestamptz", _TimeLoader)
    for name, value in SESSION.items():
        await connection.execute("select set_config(%s, %s, false)", [name, value])
    # A login that is a member of the role acts as the role; any other needs the privileges itself.
    await connection.execute(
        "select set_config('role', rolname, false) from pg_roles where rolname = %s and pg_has_role(oid, 'member')",
        [ROLE],
    )
    await connection.commit()
