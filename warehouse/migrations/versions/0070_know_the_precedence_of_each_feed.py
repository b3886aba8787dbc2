"""Know what each feed declares of events that several sources have: what one declares does not replace another's."""

from warehouse.migrations.sql import execute

revision = "0070"
down_revision = "0069"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute("alter table audit.precedence add column declared jsonb")


def downgrade() -> None:
    execute("alter table audit.precedence drop column declared")
