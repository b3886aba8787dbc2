"""Result of a flow run: counts, checks and verdicts by table; of a dry run, example rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from warehouse.extract.verification import Verification
from warehouse.files.lake import UnreadFile
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
    # In a dry run: examples of rows that it would have changed.
    examples: Sequence[Example] = ()
    dry_run: bool = False
    # Files of the landing folder that were not read.
    unread_files: Sequence[UnreadFile] = ()
    # Ids of the runs that an undo has undone.
    undone: Sequence[int] = ()

    @property
    def every_load(self) -> Sequence[Load]:
        """Loads of this run and of its steps."""
        return [*self.loads, *(load for step in self.steps for load in step.every_load)]

    @property
    def every_unread_file(self) -> Sequence[UnreadFile]:
        """Files that this run and its steps did not read."""
        return [*self.unread_files, *(file for step in self.steps for file in step.every_unread_file)]

    @property
    def every_example(self) -> Sequence[Example]:
        """Examples of this run and of its steps."""
        return [*self.examples, *(example for step in self.steps for example in step.every_example)]
