"""Delete threshold: how many rows of a table may be deleted in one run without a confirmation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DeleteThreshold:
    """Maximum share of deleted rows, ignored up to `floor_rows` deletes: 1 of 9 payment methods is no accident.

    The delete of all rows of a table always exceeds it.
    """

    max_share: float = 0.10
    floor_rows: int = 10
    is_confirmed: bool = False
    # Options of this run that the confirming run must repeat: it would be refused without --accept-source, for example.
    options: tuple[str, ...] = ()

    def is_exceeded(self, deleted: int, held: int) -> bool:
        """Whether `deleted` of the `held` rows are too many."""
        if self.is_confirmed or not deleted:
            return False
        return deleted >= held or deleted > max(self.floor_rows, self.max_share * held)

    def is_exceeded_in_part(self, deleted: int, compared: int) -> bool:
        """Do what `is_exceeded` does, for a part of a table with `compared` rows: all of a few may be deleted."""
        return not self.is_confirmed and deleted > max(self.floor_rows, self.max_share * compared)

    def __str__(self) -> str:
        floor = f" (or {self.floor_rows:,} rows, but never all)" if self.floor_rows else ""
        return f"the limit is {self.max_share:.0%}{floor}"
