"""Runs know the run that they are a step of, and the one that they go on from; being left out is no failure."""

from pathlib import Path

from warehouse.migrations.ddl import comment_columns, create_view, run

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

SQL = Path(__file__).parents[2] / "model" / "marts"
SUPERSEDED = Path(__file__).parents[1] / "superseded"

RUN = {
    "parent_run_id": "Run that this one is a step of, if it is one",
    "resumes_run_id": "Run that this one goes on from, if it does: what had succeeded there is not done again",
}
ENDS = ("running", "succeeded", "failed", "stopped", "crashed")
MEANING = "running, succeeded, failed, stopped (by a gate or brake){}"
BEFORE, NOW = " or crashed", ", crashed or skipped (another run held the lock)"

JOB_RUN = {
    "run_id": "Run",
    "flow": "Flow that ran, as ingest-shop",
    "deployment": "Deployment that started it, if one did",
    "launched_by": "User or service that started it",
    "status": MEANING.format(NOW),
    "started_at": "When it started (UTC)",
    "ended_at": "When it ended (UTC); empty while it runs",
    "duration_seconds": "How long it took; empty while it runs",
    "rows_read": "Rows and lines that it and its steps read from sources",
    "rows_inserted": "Rows that it and its steps added to dimensions and facts, new versions included",
    "rows_updated": "Rows of dimensions and facts that it and its steps changed in place",
    "rows_closed": "Versions that it and its steps ended",
    "rows_deleted": "Rows that vanished",
    "rows_quarantined": "Rows and lines that it and its steps put into quarantine",
    "rows_cursor_missed": "Changed rows that a plain updated_at cursor would have lost",
    "message": "What went wrong, in a sentence",
    "advice": "What to do about it",
    "prefect_run_id": "Flow run in Prefect, if there is one",
    "code_version": "Commit of the code that ran",
    **RUN,
}
COMMENT = "One row per run of a flow, with what it did to the star{}."


def upgrade() -> None:
    for column, comment in RUN.items():
        run(f"alter table audit.run add {column} bigint")
        run(
            f"alter table audit.run add constraint fk_run_{column} "
            f"foreign key ({column}) references audit.run (run_id)"
        )
        comment_columns("audit.run", {column: comment})
    run("create index ix_run_parent_run_id on audit.run (parent_run_id) where parent_run_id is not null")
    run("create index ix_run_flow on audit.run (flow, run_id)")
    _allow((*ENDS, "skipped"), NOW)
    _show(SQL, COMMENT.format("; the rows of its steps are its own"), JOB_RUN)


def downgrade() -> None:
    run("drop view mart.job_run")
    run("update audit.run set status = 'failed' where status = 'skipped'")
    _allow(ENDS, BEFORE)
    run("drop index audit.ix_run_flow")
    for column in reversed(RUN):
        run(f"alter table audit.run drop column {column}")
    before = {name: text for name, text in JOB_RUN.items() if name not in RUN} | {
        "status": MEANING.format(BEFORE),
        "rows_read": "Rows and lines that it read from sources",
        "rows_inserted": "Rows that it added to dimensions and facts, new versions included",
        "rows_updated": "Rows of dimensions and facts that it changed in place",
        "rows_closed": "Versions that it ended",
        "rows_quarantined": "Rows and lines that it put into quarantine",
    }
    _show(SUPERSEDED, COMMENT.format(""), before)


def _allow(states: tuple[str, ...], last: str) -> None:
    listed = ", ".join(f"'{state}'" for state in states)
    run("alter table audit.run drop constraint ck_run_status")
    run(f"alter table audit.run add constraint ck_run_status check (status in ({listed}))")
    comment_columns("audit.run", {"status": MEANING.format(last)})


def _show(folder: Path, comment: str, columns: dict[str, str]) -> None:
    run("drop view if exists mart.job_run")
    create_view("mart.job_run", comment, (folder / "job_run.sql").read_text(), columns)
