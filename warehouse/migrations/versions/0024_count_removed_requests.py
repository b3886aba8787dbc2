"""What retention has removed of each file, so that lines are accounted for as long as the file is known."""

from warehouse.migrations.ddl import comment_columns, run

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run("alter table audit.file add column rows_removed bigint not null default 0")
    comment_columns("audit.file", {"rows_removed": "Of rows_loaded, those that retention has removed since"})
    run("alter table audit.file add constraint ck_file_rows_removed check (rows_removed <= rows_loaded)")


def downgrade() -> None:
    run("alter table audit.file drop column rows_removed")
