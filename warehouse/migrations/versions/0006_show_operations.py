"""What people read of the warehouse itself: runs, freshness, quality and proof."""

from pathlib import Path

from warehouse.migrations.ddl import create_view, run

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[2] / "model" / "marts"
# Later migrations show some of it differently.
SUPERSEDED = Path(__file__).parents[1] / "superseded"

VIEWS = {
    "job_run": (
        "One row per run of a flow, with what it did to the star.",
        {
            "run_id": "Run",
            "flow": "Flow that ran, as ingest-shop",
            "deployment": "Deployment that started it, if one did",
            "launched_by": "User or service that started it",
            "status": "running, succeeded, failed, stopped (by a gate or brake) or crashed",
            "started_at": "When it started (UTC)",
            "ended_at": "When it ended (UTC); empty while it runs",
            "duration_seconds": "How long it took; empty while it runs",
            "rows_read": "Rows and lines that it read from sources",
            "rows_inserted": "Rows that it added to dimensions and facts, new versions included",
            "rows_updated": "Rows of dimensions and facts that it changed in place",
            "rows_closed": "Versions that it ended",
            "rows_deleted": "Rows that vanished",
            "rows_quarantined": "Rows and lines that it put into quarantine",
            "rows_cursor_missed": "Changed rows that a plain updated_at cursor would have lost",
            "message": "What went wrong, in a sentence",
            "advice": "What to do about it",
            "prefect_run_id": "Flow run in Prefect, if there is one",
            "code_version": "Commit of the code that ran",
        },
    ),
    "table_freshness": (
        "As of when each loaded table is complete, and when it last changed.",
        {
            "source": "Source system or feed",
            "table_name": "Table, with its schema",
            "complete_at": "When its source was last loaded: the table holds everything up to then (UTC)",
            "changed_at": "When a load last changed the table (UTC)",
            "run_id": "Run that last loaded it",
            "row_count_estimate": "About how many rows it has, by the planner's statistics",
            "size_bytes": "Its size on disk in bytes, indexes and partitions included",
        },
    ),
    "data_quality": (
        "The last verdict of each check of the data contracts.",
        {
            "source": "Source system or feed",
            "dataset": "What was checked, as order_item",
            "check_name": "Name of the check in the contract",
            "check_type": "Kind of check, as missing, failed_rows or duplicate",
            "column_name": "Column, for checks of one column",
            "level": "quarantine (moves rows), fail (stops the run) or warn",
            "outcome": "passed, failed, warned, not_evaluated or not_applicable",
            "measured": "What was measured, mostly the number of failing rows in the batch",
            "threshold": "What was demanded",
            "rows_checked": "Rows in the batch",
            "message": "What else there is to say",
            "checked_at": "When it was checked (UTC)",
            "last_found_at": "When the check last failed or warned (UTC)",
            "run_id": "Run that was checked",
        },
    ),
    "quarantine_by_rule": (
        "How many rows and lines wait in quarantine, per rule; a row that broke two counts in both.",
        {
            "source": "Source system or feed",
            "entity": "What it would have become, as order_item or weblog",
            "rule": "Rule that was broken",
            "waiting_count": "Rows that wait",
            "oldest_at": "When the oldest of them was put there (UTC)",
            "newest_at": "When the newest of them was put there (UTC)",
            "newest_quarantine_id": "The newest of them, in audit.quarantine",
        },
    ),
    "capture_proof": (
        "Whether each captured table and its mirror held the same rows when last compared.",
        {
            "source": "Source system",
            "table_name": "Table in the source",
            "verdict": "equal or different",
            "rows_source": "Rows in the source at the run's snapshot",
            "rows_mirror": "Rows in the mirror after the run",
            "chunks": "Chunks that were compared",
            "chunks_differing": "Chunks in which they differ",
            "seconds": "Time that the comparison took, in seconds",
            "proved_at": "When they were compared (UTC)",
            "run_id": "Run that was proved",
        },
    ),
}


def upgrade() -> None:
    for name, (comment, columns) in VIEWS.items():
        create_view(
            f"mart.{name}",
            comment,
            ((SUPERSEDED if name == "job_run" else SQL) / f"{name}.sql").read_text(),
            columns,
        )


def downgrade() -> None:
    for name in reversed(VIEWS):
        run(f"drop view mart.{name}")
