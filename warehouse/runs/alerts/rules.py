"""When a run is worth a mail, and where the mail's links lead."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from warehouse.settings import Settings


@dataclass(frozen=True)
class Rules:
    """Thresholds for quarantined rows, errors that send no mail, and the address of the Prefect UI."""

    quarantine_rows: int = 1000
    quarantine_share: float = 0.05
    # The share of a handful of rows means nothing.
    quarantine_least_read: int = 100
    # A key range that was not verified for longer is late.
    verify_within: timedelta | None = None
    ui_url: str | None = None
    unreported: tuple[type[BaseException], ...] = ()
    # A problem that lasts is mailed again after so many hours; 0: never.
    reminder_hours: float = 24
    # Folder of the user's own sources (DWH_SOURCES), which may name owners.
    sources: Path | None = None

    @classmethod
    def of(cls, settings: Settings, unreported: tuple[type[BaseException], ...] = ()) -> Self:
        """Rules of the settings; errors of the types `unreported` send no mail."""
        return cls(
            quarantine_rows=settings.quarantine_alert_rows,
            quarantine_share=settings.quarantine_alert_share,
            verify_within=settings.verify_within,
            ui_url=settings.ui_url,
            unreported=unreported,
            reminder_hours=settings.reminder_hours,
            sources=settings.sources,
        )

    def breached(self, rows_quarantined: int, rows_read: int) -> bool:
        """Whether this many quarantined rows, of this many read, are worth a mail."""
        if rows_quarantined > self.quarantine_rows:
            return True
        return (
            rows_read >= self.quarantine_least_read and rows_quarantined / rows_read > self.quarantine_share
        )

    def run_link(self, prefect_run_id: object) -> str | None:
        """The run's page in the Prefect UI, if there is one."""
        if not self.ui_url or prefect_run_id is None:
            return None
        return f"{self.ui_url.rstrip('/')}/runs/flow-run/{prefect_run_id}"
