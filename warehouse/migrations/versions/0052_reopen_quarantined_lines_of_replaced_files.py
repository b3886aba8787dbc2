"""Reopen quarantined lines of replaced files, which a backfill has resolved although their files still count them."""

from warehouse.migrations.sql import execute

revision = "0052"
down_revision = "0051"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute(
        """
        with miscounted as (
            select file.file_id, last.resolved_run_id
            from audit.file as file
            cross join lateral (
                select entry.resolved_run_id from audit.quarantine as entry
                where entry.file_id = file.file_id and entry.resolution = 'replaced'
                order by entry.resolved_at desc limit 1
            ) as last
            where file.feed = 'weblogs' and file.status = 'replaced' and file.rows_quarantined > 0
                and file.rows_loaded = file.rows_removed
                and not exists (
                    select from audit.quarantine as entry
                    where entry.file_id = file.file_id and entry.resolved_at is null
                )
        )

        update audit.quarantine as entry set resolved_at = null, resolved_run_id = null, resolution = null
        from miscounted
        where entry.file_id = miscounted.file_id and entry.resolved_run_id = miscounted.resolved_run_id
            and entry.resolution = 'replaced'
        """
    )


def downgrade() -> None:
    """Nothing: the entries are as their files count them."""
