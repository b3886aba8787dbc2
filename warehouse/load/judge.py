"""Record the results of a contract's checks, and decide what they mean; `dwh live` judges its run as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from warehouse.load.batch import Batch
from warehouse.model.contracts import Contract
from warehouse.runs.audit import CheckIdentity, CheckResult, Run, record_checks


@dataclass
class Judge:
    """Judges each batch by itself, and records its results immediately."""

    run: Run
    # Checks recorded for a batch that was then rolled back, and is loaded again without some of its rows.
    recorded: set[CheckIdentity] = field(default_factory=set, kw_only=True)

    def judge(self, batch: Batch, contract: Contract, results: list[CheckResult]) -> list[CheckResult]:
        """Record the results and return them as they count for the run. They are recorded outside the batch's
        transaction, to survive its rollback if a rule stops the run."""
        self.record(results)
        return results

    def record(self, results: Sequence[CheckResult]) -> None:
        """Record results that need no judgement."""
        record_checks(self.run.audit_connection, self.run.run_id, self.news(results))

    def news(self, results: Sequence[CheckResult]) -> list[CheckResult]:
        """Return the results of checks that are not recorded yet, and all failures."""
        return [one for one in results if one.outcome == "failed" or one.identity not in self.recorded]
