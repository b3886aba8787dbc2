"""Mart thread of `dwh live`: refreshes the stored marts of the day, so that no batch waits for it."""

import logging
from collections.abc import Callable
from threading import Event

import psycopg

from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.errors import LockHeld, summarize_error
from warehouse.load.marts import refresh_days
from warehouse.runs.redact import redact

# Shortest time between two refreshes; marts should be at most five seconds old.
PAUSE_SECONDS = 2.0
# Pause after an error.
RETRY_SECONDS = 30.0
# Longest wait for a lock on a fact table, since runs that publish queue behind a lock that waits.
LOCK_SECONDS = 5


class MartLoop:
    """Refreshes the marts of the day whenever a batch was published, until `stop` is set."""

    def __init__(self, url: str, stop: Event, log: Callable[[str, int], None]) -> None:
        self._url, self._stop, self._log = url, stop, log
        self._pending = Event()
        self._run_id = 0

    def published(self, run_id: int) -> None:
        """Request a refresh, since a run of `dwh live` has published a batch."""
        self._run_id = run_id
        self._pending.set()

    def wake(self) -> None:
        """Wake the thread, so that it sees that `stop` is set."""
        self._pending.set()

    def run(self) -> None:
        """Work until `stop` is set."""
        while not self._stop.is_set():
            try:
                with connect(
                    # A session that waits for its lock waits longer for a holder of this name: see `locks.LIVE`.
                    self._url,
                    autocommit=True,
                    application_name="dwh live-marts",
                ) as connection:
                    # Writers queue behind a lock that waits for a long transaction.
                    connection.execute(f"set lock_timeout = '{LOCK_SECONDS}s'".encode())
                    while not self._stop.is_set():
                        self._pending.wait()
                        self._pending.clear()
                        self._refresh(connection)
                        self._stop.wait(PAUSE_SECONDS)
            except Exception as error:
                self._log(f"marts of the day: {redact(summarize_error(error))}", logging.WARNING)
                self._pending.set()
                self._stop.wait(RETRY_SECONDS)

    def _refresh(self, connection: psycopg.Connection) -> None:
        try:
            # The lock of flow refresh-marts: the flow refreshes these marts as well if it holds the lock.
            with session_lock(connection, "marts"):
                refresh_days(connection, self._run_id)
        except LockHeld:
            self._pending.set()
