"""Batches of live reach the archive: a thread of its own adds them, many at once, so that no batch waits for it."""

import logging
from collections.abc import Callable
from threading import Event

from warehouse.archive import upkeep
from warehouse.settings import Settings

# Between two checks whether anything has waited for DWH_ARCHIVE_DELAY.
CHECK_SECONDS = 10.0


class ArchiveLoop:
    """Adds what is due to the archive, whoever has published it, until `stop` is set."""

    def __init__(self, settings: Settings, stop: Event, log: Callable[[str, int], None]) -> None:
        self._settings, self._stop, self._log = settings, stop, log

    def run(self) -> None:
        """Work until `stop` is set; what cannot be added waits, and is said once."""
        failure: str | None = None
        while not self._stop.wait(CHECK_SECONDS):
            before, failure = failure, upkeep.add_due(self._settings.warehouse, self._settings)
            if failure not in (None, before):
                self._log(f"archive: {failure}", logging.WARNING)
