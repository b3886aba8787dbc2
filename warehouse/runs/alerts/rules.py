"""What is worth a mail, and where its links lead."""

from dataclasses import dataclass
from typing import Self

from warehouse.settings import Settings


@dataclass(frozen=True)
class Rules:
    """Thresholds of quarantine, errors that are no news, and the address of the Prefect UI."""

    quarantine_rows: int = 1000
    quarantine_share: float = 0.05
    # A share of a handful of rows says nothing.
    quarantine_least_read: int = 100
    ui_url: str | None = None
    untold: tuple[type[BaseException], ...] = ()

    @classmethod
    def of(cls, settings: Settings, untold: tuple[type[BaseException], ...] = ()) -> Self:
        """Rules as the settings have them; errors of the types `untold` make no mail."""
        return cls(
            quarantine_rows=settings.quarantine_alert_rows,
            quarantine_share=settings.quarantine_alert_share,
            ui_url=settings.ui_url,
            untold=untold,
        )

    def breached(self, rows_quarantined: int, rows_read: int) -> bool:
        """Whether so many rows in quarantine, of so many read, are worth a mail."""
        if rows_quarantined > self.quarantine_rows:
            return True
        return (
            rows_read >= self.quarantine_least_read and rows_quarantined / rows_read > self.quarantine_share
        )

    def run_link(self, prefect_run_id: object) -> str | None:
        """Where the run is seen in the Prefect UI, if it is."""
        if not self.ui_url or prefect_run_id is None:
            return None
        return f"{self.ui_url.rstrip('/')}/runs/flow-run/{prefect_run_id}"
