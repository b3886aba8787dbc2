"""Know the content of loaded files by checksum, so that one is known again under any name."""

from warehouse.migrations.sql import execute

revision = "0054"
down_revision = "0053"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Of what was loaded before, nobody knows it: such a file is known again by its name or the file system, as before.
    execute("alter table audit.file_part add column content_crc32 bigint")


def downgrade() -> None:
    execute("alter table audit.file_part drop column content_crc32")
