"""What a flow returns: counts and verdicts, never rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from warehouse.extract.verification import Verification
from warehouse.history.dry_run import Example
from warehouse.reconcile.verdict import Verdict
from warehouse.runs.audit import CheckResult, Load


@dataclass(frozen=True)
class FlowResult:
    """What one run of a flow did; a flow that runs other flows returns their results as steps."""

    flow: str
    run_id: int
    loads: Sequence[Load] = ()
    checks: Sequence[CheckResult] = ()
    verifications: Sequence[Verification] = ()
    verdicts: Sequence[Verdict] = ()
    steps: "Sequence[FlowResult]" = ()
    # Of a dry run: rows that it would have changed.
    examples: Sequence[Example] = ()
    dry_run: bool = False
    # Runs that were taken back.
    undone: Sequence[int] = ()

    @property
    def every_load(self) -> Sequence[Load]:
        """Loads of this run and of its steps."""
        return [*self.loads, *(load for step in self.steps for load in step.every_load)]

    @property
    def every_example(self) -> Sequence[Example]:
        """Examples of this run and of its steps."""
        return [*self.examples, *(example for step in self.steps for example in step.every_example)]
