"""Whether a source was quiet at the last snapshot: then no transaction can commit late with an older timestamp."""

from warehouse.migrations.ddl import comment_columns, run

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run("alter table audit.watermark add column was_quiet boolean not null default false")
    comment_columns(
        "audit.watermark",
        {
            "was_quiet": "Whether no transaction was in flight at the last snapshot, so that none can commit late"
        },
    )


def downgrade() -> None:
    run("alter table audit.watermark drop column was_quiet")
