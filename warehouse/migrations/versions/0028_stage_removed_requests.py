"""Requests that retention deletes in a batch: what aggregates and files are mended by."""

from warehouse.migrations.ddl import create_table, run

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_table(
        "staging.weblog_gone",
        "Requests that retention has just deleted from a partition which also holds younger ones.",
        {
            "requested_at": ("timestamptz not null", "When the request was made (UTC)"),
            "country": ("text not null", "Country that it had"),
            "device_key": ("smallint not null", "Device: dim_device"),
            "request_key": ("integer not null", "Request line: dim_request"),
            "file_id": ("integer not null", "File of the line: audit.file"),
        },
        unlogged=True,
    )


def downgrade() -> None:
    run("drop table staging.weblog_gone")
