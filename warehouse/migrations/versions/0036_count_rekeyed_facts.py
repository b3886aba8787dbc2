"""How many facts a run has given other dimension rows, since a version or a member came late."""

from warehouse.migrations.ddl import comment_columns, run

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

COMMENT = "Facts that were there and got other dimension rows: a version or a member came late"


def upgrade() -> None:
    run("alter table audit.load add column rows_rekeyed bigint not null default 0")
    comment_columns("audit.load", {"rows_rekeyed": COMMENT})


def downgrade() -> None:
    run("alter table audit.load drop column rows_rekeyed")
