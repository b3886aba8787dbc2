"""What `dwh run` prints below its table."""

import pytest

from cli.run import show
from flows.result import FlowResult
from warehouse.history.dry_run import Example
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


def test_example_of_a_dry_run_has_values_as_sql_writes_them(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"name": "Ana", "is_current": True, "price_amount": 2.5}
    example = Example("dwh.dim_customer", "insert", ("1",), after=row)
    show(FlowResult("ingest-shop", 1, examples=[example], dry_run=True), as_json=False)
    assert "name Ana, is_current true, price_amount 2.5" in capsys.readouterr().out
