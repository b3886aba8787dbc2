"""What the results of a contract's checks mean for a run: each batch for itself, or the run of live so far."""

from collections.abc import Sequence
from dataclasses import dataclass

from warehouse.load.batch import Batch
from warehouse.model.contracts import Contract
from warehouse.runs.audit import CheckResult, Run, record_checks


@dataclass
class Judge:
    """Judges each batch for itself, and records every result at once."""

    run: Run

    def judge(self, batch: Batch, contract: Contract, results: list[CheckResult]) -> list[CheckResult]:
        """The results as they count, recorded: not in the transaction of the batch, since those of a run that is
        stopped must survive its rollback."""
        self.record(results)
        return results

    def record(self, results: Sequence[CheckResult]) -> None:
        """Record results that need no judgement."""
        record_checks(self.run.audit_connection, self.run.run_id, results)
