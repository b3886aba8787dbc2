"""Find the last rows of the audit trail by index, and let an undo restore what names a run that was removed."""

from warehouse.migrations.sql import execute

revision = "0058"
down_revision = "0057"
branch_labels = None
depends_on = None

CHANGES = "rows_inserted + rows_updated + rows_expired + rows_deleted > 0"


# An undo restores their rows as they were, and a run that changed nothing may have been removed since.
NAMES_OF_RUNS = {
    "watermark": "fk_watermark_run_id",
    "freshness": "fk_freshness_run",
    "file": "fk_file_run_id",
    "file_part": "fk_file_part_run_id",
}


def upgrade() -> None:
    execute("create index ix_load_table on audit.load (source, table_name, load_id)")
    execute(f"create index ix_load_changed on audit.load (source, table_name, load_id) where {CHANGES}")
    execute(
        "create index ix_verification_table on audit.verification (layer, source, table_name, verification_id)"
    )
    execute(
        "create index ix_check_result_check on audit.check_result "
        "(source, dataset, check_name, coalesce(column_name, ''), check_result_id)"
    )
    execute(
        "create index ix_check_result_found on audit.check_result "
        "(source, dataset, check_name, coalesce(column_name, ''), check_result_id) "
        "where outcome in ('failed', 'warned')"
    )
    execute("create index ix_run_geoip on audit.run (run_id) where parameters ->> 'geoip' is not null")
    execute("create index ix_outbox_sent_at on audit.outbox (sent_at) where resolved_at is not null")
    for table, constraint in NAMES_OF_RUNS.items():
        execute(f"alter table audit.{table} drop constraint {constraint}")


def downgrade() -> None:
    for table, constraint in NAMES_OF_RUNS.items():
        execute(
            f"alter table audit.{table} add constraint {constraint} foreign key (run_id) references audit.run (run_id)"
        )
    for index in (
        "load_table", "load_changed", "verification_table", "check_result_check", "check_result_found", "run_geoip",
        "outbox_sent_at",
    ):  # fmt: skip
        execute(f"drop index audit.ix_{index}")
