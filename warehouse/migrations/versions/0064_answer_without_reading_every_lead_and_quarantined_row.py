"""Store conversion per lead source, which read every lead, and find all rows that wait in quarantine by an index."""

from warehouse.migrations.sql import execute

revision = "0064"
down_revision = "0063"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute("drop view if exists mart.lead_source_conversion cascade")
    execute(
        """
        create table mart.lead_source_conversion (
            lead_source text not null,
            lead_count bigint,
            matched_lead_count bigint,
            converted_lead_count bigint,
            lead_conversion_rate numeric,
            average_days_to_conversion numeric
        )
        """
    )
    execute("drop index audit.ix_quarantine_open")
    execute(
        "create index ix_quarantine_waiting on audit.quarantine (source, entity) where resolved_at is null"
    )


def downgrade() -> None:
    execute("drop index audit.ix_quarantine_waiting")
    execute(
        "create index ix_quarantine_open on audit.quarantine (source, entity) "
        "where resolved_at is null and row_key is not null"
    )
    execute("drop table mart.lead_source_conversion cascade")
