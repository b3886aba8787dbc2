"""What the contract of the web log judges before a batch is published: counts per file."""

from warehouse.migrations.ddl import create_table, run

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_table(
        "staging.weblog_file",
        "Files of a batch of web logs: one row per file, with the lines that became rows and those that could not.",
        {
            "file_id": ("integer not null", "File: audit.file"),
            "path": ("text not null", "Its path in the landing folder"),
            "line_count": ("bigint not null", "Lines read in this batch"),
            "rows_loaded": ("bigint not null", "Lines that became rows"),
            "rows_quarantined": ("bigint not null", "Lines that went to audit.quarantine"),
            "malformed_line_count": ("bigint not null", "Lines that are not laid out as access log lines"),
            "impossible_date_count": ("bigint not null", "Lines of a time that does not exist"),
            "bad_status_count": ("bigint not null", "Lines whose status is no HTTP status"),
            "bad_address_count": ("bigint not null", "Lines whose address is no IP address"),
            "unfinished_line_count": (
                "bigint not null",
                "Last lines that break off; they are read again when they go on",
            ),
        },
        unlogged=True,
    )


def downgrade() -> None:
    run("drop table staging.weblog_file")
