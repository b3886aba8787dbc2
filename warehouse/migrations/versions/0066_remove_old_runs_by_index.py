"""Find what resumes a run by an index: removing a run looked through all runs for one that resumes it."""

from warehouse.migrations.sql import execute

revision = "0066"
down_revision = "0065"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute(
        "create index ix_run_resumes_run_id on audit.run (resumes_run_id) where resumes_run_id is not null"
    )


def downgrade() -> None:
    execute("drop index audit.ix_run_resumes_run_id")
