"""Add formats and header lines to the files of web logs."""

from warehouse.migrations.sql import execute

revision = "0047"
down_revision = "0046"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute(
        "alter table audit.file add column header_lines integer[] not null default '{}', add column format text"
    )
    execute("alter table audit.file_part add column header_line_count integer not null default 0")
    _account(" + cardinality(header_lines)", " + header_line_count")
    # Filled by every load for itself.
    execute("truncate staging.weblog_file")
    execute("alter table staging.weblog_file add column header_line_count bigint not null")


def downgrade() -> None:
    execute("alter table staging.weblog_file drop column header_line_count")
    _account("", "")
    execute("alter table audit.file_part drop column header_line_count")
    execute("alter table audit.file drop column header_lines, drop column format")


def _account(of_file: str, of_part: str) -> None:
    """Which lines of a file and of its parts there are: all of them."""
    for table, sum_ in (
        ("file", f"lines_duplicated + rows_loaded + rows_quarantined{of_file}"),
        ("file_part", f"rows_loaded + rows_quarantined{of_part}"),
    ):
        execute(f"alter table audit.{table} drop constraint ck_{table}_line_count")
        execute(f"alter table audit.{table} add constraint ck_{table}_line_count check (line_count = {sum_})")
