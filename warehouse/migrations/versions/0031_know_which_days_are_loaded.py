"""Days of feeds as partitions: which days a file tells of, and how loading a day anew ended."""

from warehouse.migrations.ddl import comment_columns, create_table, run

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

EVENTS = {
    "first_event_at": "Earliest of its lines by their own time (UTC); empty while none is loaded",
    "last_event_at": "Latest of its lines by their own time (UTC); empty while none is loaded",
}
REMOVED = "Of rows_loaded, those that retention{} has removed since"


def upgrade() -> None:
    for column in EVENTS:
        run(f"alter table audit.file add column {column} timestamptz")
    run(
        """
        update audit.file as file
        set first_event_at = loaded.first_event_at, last_event_at = loaded.last_event_at
        from (
            select file_id, min(requested_at) as first_event_at, max(requested_at) as last_event_at
            from dwh.fact_weblog group by file_id
        ) as loaded
        where file.file_id = loaded.file_id
        """
    )
    comment_columns("audit.file", EVENTS | {"rows_removed": REMOVED.format(" or a backfill")})
    run("create index ix_file_last_event_at on audit.file (feed, last_event_at)")
    create_table(
        "audit.partition_load",
        "One row per day of a feed that a backfill loaded anew: how that ended. `dwh status --days` shows the newest.",
        {
            "run_id": ("bigint not null", "Backfill that loaded it"),
            "feed": ("text not null", "Feed: a source, as shop, or weblogs"),
            "partition_date": ("date not null", "Day (UTC), by the time of the events themselves"),
            "status": ("text not null", "loaded or failed"),
            "rows_loaded": ("bigint not null default 0", "Rows of the day afterwards"),
            "message": ("text", "What went wrong, or what else there is to say"),
            "started_at": ("timestamptz not null", "When it was begun (UTC)"),
            "ended_at": ("timestamptz not null default clock_timestamp()", "When it was done (UTC)"),
        },
        [
            "constraint pk_partition_load primary key (feed, partition_date, run_id)",
            "constraint fk_partition_load_run_id foreign key (run_id) references audit.run (run_id)",
            "constraint ck_partition_load_status check (status in ('loaded', 'failed'))",
        ],
    )
    run("create index ix_partition_load_run_id on audit.partition_load (run_id)")


def downgrade() -> None:
    run("drop table audit.partition_load")
    run("drop index audit.ix_file_last_event_at")
    for column in reversed(EVENTS):
        run(f"alter table audit.file drop column {column}")
    comment_columns("audit.file", {"rows_removed": REMOVED.format("")})
