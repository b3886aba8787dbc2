"""A batch of a load, which is what it has read since its last commit; and the check of its data contract."""

import time
from dataclasses import dataclass, field

import psycopg

from warehouse.load import contract
from warehouse.model.contracts import read_contract
from warehouse.runs.audit import CheckResult, Run, record_checks
from warehouse.weblogs.files.checkpoints import FEED, FileProgress, stage_counts
from warehouse.weblogs.storage.aggregates import Aggregates


@dataclass
class Batch:
    """The files of a batch with their progress, and the counts that its rows add to the aggregates."""

    files: list[FileProgress] = field(default_factory=list)
    aggregates: Aggregates = field(default_factory=Aggregates)
    bytes_read: int = 0
    started: float = 0.0

    def add(self, file: FileProgress) -> None:
        """Add a file; the clock starts with the first one."""
        if not self.files:
            self.started = time.perf_counter()
        self.files.append(file)


def verify(connection: psycopg.Connection, run: Run, batch: Batch) -> list[CheckResult]:
    """Check the counts of the batch's files by the contract `weblog`; the results are recorded even if the run stops.

    Raises:
        QualityGateStopped: a check at level fail failed.
    """
    stage_counts(connection, batch.files)
    agreed = read_contract("weblog")
    results = contract.verify(connection, agreed, FEED)
    record_checks(run.audit_connection, run.run_id, results)
    contract.stop_on_failure(agreed, results)
    return results
