"""What the merge of a batch did to its target, in rows."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Counts:
    """Rows of the target that a merge inserted, updated, expired (as versions) and deleted."""

    inserted: int = 0
    updated: int = 0
    expired: int = 0
    deleted: int = 0
    # Of those that were updated.
    rekeyed: int = 0

    @property
    def changed(self) -> int:
        """Rows that were written from the batch."""
        return self.inserted + self.updated

    def with_rekeyed(self, facts: int) -> "Counts":
        """Add facts that were re-keyed afterwards, each of them an update."""
        return replace(self, updated=self.updated + facts, rekeyed=self.rekeyed + facts)
