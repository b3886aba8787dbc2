"""Rules for alerts: which runs cause a mail, and the address that its links lead to."""

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
    # Below this number of rows the share means nothing.
    quarantine_least_read: int = 100
    # Verification of a key range is late after this time.
    verify_within: timedelta | None = None
    ui_url: str | None = None
    unreported: tuple[type[BaseException], ...] = ()
    # A lasting problem is mailed again after this many hours; 0 means never.
    reminder_hours: float = 24
    # Folder of the user's own sources (DWH_SOURCES), which may declare owners.
    sources: Path | None = None

    @classmethod
    def of(cls, settings: Settings, unreported: tuple[type[BaseException], ...] = ()) -> Self:
        """Return the rules of the settings. Errors of the types `unreported` send no mail."""
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
        """Whether to send a mail for this many quarantined rows out of this many read."""
        if rows_quarantined > self.quarantine_rows:
            return True
        return (
            rows_read >= self.quarantine_least_read and rows_quarantined / rows_read > self.quarantine_share
        )

    def run_link(self, prefect_run_id: object) -> str | None:
        """Return the URL of the run's page in the Prefect UI, if there is one."""
        if not self.ui_url or prefect_run_id is None:
            return None
        return f"{self.ui_url.rstrip('/')}/runs/flow-run/{prefect_run_id}"
