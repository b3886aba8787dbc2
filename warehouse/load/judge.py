"""What the results of a contract's checks mean for a run: each batch for itself, or the run of live so far."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from warehouse.load.batch import Batch
from warehouse.model.contracts import Contract
from warehouse.runs.audit import CheckIdentity, CheckResult, Run, record_checks


@dataclass
class Judge:
    """Judges each batch for itself, and records every result at once."""

    run: Run
    # Checks that are recorded of batches which were rolled back since, and are loaded again without some of their rows.
    recorded: set[CheckIdentity] = field(default_factory=set, kw_only=True)

    def judge(self, batch: Batch, contract: Contract, results: list[CheckResult]) -> list[CheckResult]:
        """The results as they count, recorded: not in the transaction of the batch, since those of a run that is
        stopped must survive its rollback."""
        self.record(results)
        return results

    def record(self, results: Sequence[CheckResult]) -> None:
        """Record results that need no judgement."""
        record_checks(self.run.audit_connection, self.run.run_id, self.news(results))

    def news(self, results: Sequence[CheckResult]) -> list[CheckResult]:
        """Results of checks that are not recorded yet, and further failures."""
        return [one for one in results if one.outcome == "failed" or one.identity not in self.recorded]
