"""Row counts of a merge of a batch into its target."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Counts:
    """Rows of the target that a merge inserted, updated, expired (as versions) and deleted."""

    inserted: int = 0
    updated: int = 0
    expired: int = 0
    deleted: int = 0
    # Re-keyed facts are included in `updated`.
    rekeyed: int = 0

    @property
    def changed(self) -> int:
        """Rows that were written from the batch."""
        return self.inserted + self.updated

    def with_rekeyed(self, facts: int) -> "Counts":
        """Add facts that were re-keyed afterwards, each of them an update."""
        return replace(self, updated=self.updated + facts, rekeyed=self.rekeyed + facts)
