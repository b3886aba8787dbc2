"""Record what a source and its tables are."""

from warehouse.migrations.sql import execute

revision = "0044"
down_revision = "0043"
branch_labels = None
depends_on = None


def upgrade() -> None:
    execute(
        """
        alter table audit.watermark
            add column database_oid bigint,
            add column database_name text,
            add column wal_position pg_lsn,
            add column table_identity jsonb
        """
    )
    execute(
        """
        alter table audit.load
            add column rows_found_by_checksum bigint not null default 0,
            add column note text
        """
    )


def downgrade() -> None:
    execute("alter table audit.load drop column rows_found_by_checksum, drop column note")
    execute(
        """
        alter table audit.watermark
            drop column database_oid, drop column database_name, drop column wal_position, drop column table_identity
        """
    )
