"""Count web-log lines that are dated in the future, for the contract of web logs."""

from warehouse.migrations.sql import execute

revision = "0074"
down_revision = "0073"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Nothing in a staging table is kept.
    execute("truncate staging.weblog_file")
    execute("alter table staging.weblog_file add column future_line_count bigint not null")


def downgrade() -> None:
    execute("alter table staging.weblog_file drop column future_line_count")
