"""Contract checks of `dwh live`: dataset rules judge all batches of a run so far, since 1 bad row of 4 would be 25%."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from warehouse.load.batch import Batch
from warehouse.load.contract import OUTCOMES, compiled_checks
from warehouse.load.judge import Judge
from warehouse.model.contracts import Contract
from warehouse.runs.audit import CheckIdentity, CheckResult, Run, record_checks

# From best to worst: recorded for a run is the worst outcome of each check.
_ORDER = ("not_applicable", "passed", "relaxed", "warned", "failed", "not_evaluated")


@dataclass(frozen=True)
class RunningTotal:
    """What a check has measured so far: a count, or a share weighted by rows."""

    rows: int = 0
    measured: float = 0.0

    def plus(self, rows: int, measured: float, *, is_share: bool) -> "RunningTotal":
        """The total with another batch."""
        if not is_share:
            return RunningTotal(self.rows + rows, self.measured + measured)
        total = self.rows + rows
        return RunningTotal(total, (self.measured * self.rows + measured * rows) / total if total else 0.0)


@dataclass
class LiveJudge(Judge):
    """Judges row rules by the batch, and all other rules by the run so far, from `least_rows` rows on.

    Results are recorded once, at the end of the run: those of a batch each second would fill the audit trail.
    """

    least_rows: int = 100
    _totals: dict[CheckIdentity, RunningTotal] = field(default_factory=dict)
    _results: dict[CheckIdentity, CheckResult] = field(default_factory=dict)
    _pending: dict[CheckIdentity, tuple[RunningTotal, CheckResult]] = field(default_factory=dict)
    # True if the last batch was refused: the totals stay until it is tried again, even in another run.
    _is_held: bool = False

    def judge(self, batch: Batch, contract: Contract, results: list[CheckResult]) -> list[CheckResult]:
        """Judge the results of a batch together with the run so far, to which `accept` adds it after its publish."""
        checks = compiled_checks(contract, batch.source)
        return [
            self._judge(result, check)
            for result, check in zip(results, (*checks, *[None] * len(results)), strict=False)
        ]

    def record(self, results: Sequence[CheckResult]) -> None:
        """Keep results that need no judgement for the end of the run."""
        for result in results:
            self._keep(result, RunningTotal(), is_share=False)

    def accept(self) -> None:
        """Add the batch, which was published, to the run so far."""
        for key, (total, result) in self._pending.items():
            self._totals[key], self._results[key] = total, result
        self._pending.clear()
        self._is_held = False

    def reject(self) -> list[CheckResult]:
        """Discard the batch, which was not published; returns its results."""
        results = [result for _, result in self._pending.values()]
        self._pending.clear()
        self._is_held = True
        return results

    def write(self, run: Run) -> None:
        """Record one result for each check of the run; set the totals to zero, unless a refused batch waits."""
        record_checks(run.connection, run.run_id, list(self._results.values()))
        self._results.clear()
        if not self._is_held:
            self._totals.clear()

    def _judge(self, result: CheckResult, check: Any) -> CheckResult:
        if result.measured is None or check is None:
            return self._keep(result, RunningTotal(), is_share=False)
        is_share = "percent" in str(
            getattr(check, "metric_name", "") or getattr(check.check_yaml, "metric", "")
        )
        judged = self._keep(
            result, RunningTotal(result.rows_checked or 0, result.measured), is_share=is_share
        )
        if result.level == "quarantine" or result.outcome in ("not_evaluated", "relaxed"):
            return result
        outcome = check.evaluate_threshold(judged.measured).name.lower()
        outcome = OUTCOMES.get(outcome, outcome)
        message = result.message
        if outcome == "failed" and (judged.rows_checked or 0) < self.least_rows:
            outcome, message = "passed", f"Judged from {self.least_rows:,} rows on."
        return self._replace(replace(judged, outcome=outcome, message=message))

    def _keep(self, result: CheckResult, more: RunningTotal, *, is_share: bool) -> CheckResult:
        key = result.identity
        before, previous = self._totals.get(key, RunningTotal()), self._results.get(key)
        total = before.plus(more.rows, more.measured, is_share=is_share)
        if result.measured is not None:
            result = replace(result, measured=total.measured, rows_checked=total.rows)
        outcome = max((previous.outcome if previous else "", result.outcome), key=_rank)
        self._pending[key] = (total, replace(result, outcome=outcome))
        return result

    def _replace(self, result: CheckResult) -> CheckResult:
        total, _ = self._pending[result.identity]
        self._pending[result.identity] = (total, result)
        return result


def _rank(outcome: str) -> int:
    return _ORDER.index(outcome) if outcome in _ORDER else -1
