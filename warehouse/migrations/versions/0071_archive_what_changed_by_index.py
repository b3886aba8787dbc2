"""Find what has changed since it was archived by an index: each run read the logs and the dimensions whole."""

from warehouse.migrations.sql import execute

revision = "0071"
down_revision = "0070"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute("create index ix_change_table_name on audit.change (table_name, changed_at)")
    # Rows of mirrors, of which there are many more, are archived as they are captured.
    execute(
        "create index ix_before_image_table_name on audit.before_image (table_name, changed_at) "
        "where table_name like 'audit.%'"
    )
    execute(
        "create index ix_run_undone_by_run_id on audit.run (undone_by_run_id) where undone_by_run_id is not null"
    )
    execute(
        "create index ix_fact_inventory_day_run_id on dwh.fact_inventory_day using brin (run_id) "
        "with (pages_per_range = 32)"
    )


def downgrade() -> None:
    execute("drop index dwh.ix_fact_inventory_day_run_id")
    for index in ("ix_run_undone_by_run_id", "ix_before_image_table_name", "ix_change_table_name"):
        execute(f"drop index audit.{index}")
