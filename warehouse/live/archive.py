"""Archive thread of `dwh live`: adds published batches to the archive, many at once, so that no batch waits for it."""

import logging
from collections.abc import Callable
from threading import Event

from warehouse.archive import upkeep
from warehouse.settings import Settings

# Time between two checks whether a batch has waited for DWH_ARCHIVE_DELAY.
CHECK_SECONDS = 10.0


class ArchiveLoop:
    """Adds batches that are due to the archive, whichever run published them, until `stop` is set."""

    def __init__(self, settings: Settings, stop: Event, log: Callable[[str, int], None]) -> None:
        self._settings, self._stop, self._log = settings, stop, log
        self._failure: str | None = None

    def run(self) -> None:
        """Work until `stop` is set. Batches that cannot be added wait; the same failure is logged once."""
        while not self._stop.wait(CHECK_SECONDS):
            self.add()

    def add(self, *, at_once: bool = False) -> None:
        """Add what is due, or, `at_once`, whatever waits: at the end of the process."""
        before = self._failure
        self._failure = upkeep.add_due(self._settings.warehouse, self._settings, at_once=at_once)
        if self._failure not in (None, before):
            self._log(f"archive: {self._failure}", logging.WARNING)
