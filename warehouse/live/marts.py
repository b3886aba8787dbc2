"""Stored marts of the day follow live: a thread of its own refreshes them, so that no batch waits for it."""

import logging
from collections.abc import Callable
from threading import Event

import psycopg

from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.errors import LockHeld, summarize_error
from warehouse.load.marts import refresh_days
from warehouse.runs.redact import redact

# Between two refreshes at least; what people look at is to be five seconds old at most.
PAUSE_SECONDS = 2.0
# After an error.
RETRY_SECONDS = 30.0
# How long its lock on the fact, behind which publishing runs queue, may wait for somebody who writes it.
LOCK_SECONDS = 5


class MartLoop:
    """Refreshes the marts of the day whenever a batch was published, until `stop` is set."""

    def __init__(self, url: str, stop: Event, log: Callable[[str, int], None]) -> None:
        self._url, self._stop, self._log = url, stop, log
        self._pending = Event()
        self._run_id = 0

    def published(self, run_id: int) -> None:
        """Learn that a run of live has published a batch."""
        self._run_id = run_id
        self._pending.set()

    def wake(self) -> None:
        """Let it look whether to stop."""
        self._pending.set()

    def run(self) -> None:
        """Work until `stop` is set."""
        while not self._stop.is_set():
            try:
                with connect(
                    # Whoever waits for its lock waits longer for a holder of this name.
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
            # The lock of refresh-marts: whoever has it brings them up to date.
            with session_lock(connection, "marts"):
                refresh_days(connection, self._run_id)
        except LockHeld:
            self._pending.set()
