"""What `dwh run` prints below its table."""

import pytest

from cli.run import show
from flows.result import FlowResult
from warehouse.runs.audit import CheckResult


@pytest.mark.parametrize("dry_run", [False, True])
def test_rows_are_looked_for_in_quarantine_only_where_the_run_has_left_them(
    dry_run: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    check = CheckResult("shop", "order_item", "price", "invalid", None, "quarantine", "failed", 1, None, 7)
    show(FlowResult("ingest-shop", 1, checks=[check], dry_run=dry_run), as_json=False)
    output = capsys.readouterr().out
    assert "1 check, 1 failed or warned" in output
    assert ("dwh quarantine list" in output) is not dry_run
