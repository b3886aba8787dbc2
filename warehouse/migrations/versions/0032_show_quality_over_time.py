"""What each check has found, run by run."""

from pathlib import Path

from warehouse.migrations.ddl import create_view, run

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[2] / "model" / "marts"


def upgrade() -> None:
    create_view(
        "mart.data_quality_history",
        "What each check of the data contracts has found, run by run.",
        (SQL / "data_quality_history.sql").read_text(),
        {
            "check_result_id": "Verdict, in audit.check_result",
            "run_id": "Run whose batch was checked",
            "flow": "Flow of that run",
            "source": "Source system or feed",
            "dataset": "What was checked, as order_item",
            "check_name": "Name of the check in the contract",
            "column_name": "Column, for checks of one column",
            "level": "quarantine (moves rows), fail (stops the run) or warn",
            "outcome": "passed, failed, warned, not_evaluated or not_applicable",
            "measured": "What was measured, mostly the number of failing rows in the batch",
            "rows_checked": "Rows in the batch",
            "measured_share": "measured as a share of the batch",
            "checked_at": "When it was checked (UTC)",
        },
    )


def downgrade() -> None:
    run("drop view mart.data_quality_history")
