"""Keep the last good state of facts with their quarantine entry, so that a rebuild restores it."""

from warehouse.migrations.sql import execute

revision = "0076"
down_revision = "0075"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The next run fills it for facts that are marked already.
    execute("alter table audit.quarantine add column published_row jsonb")


def downgrade() -> None:
    execute("alter table audit.quarantine drop column published_row")
