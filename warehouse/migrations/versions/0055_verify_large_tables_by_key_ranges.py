"""Verify large tables by key ranges."""

from warehouse.migrations.sql import execute

revision = "0055"
down_revision = "0054"
branch_labels = None
depends_on = None

KINDS = (
    "failed", "crashed", "late", "gate stopped", "delete threshold exceeded", "differences found", "quarantine",
    "recovered", "files not read",
)  # fmt: skip


def upgrade() -> None:
    # Which transactions were open, not only whether any was; those of the last read are not known.
    execute(
        """
        alter table audit.watermark
            alter column no_open_transactions drop default,
            alter column no_open_transactions drop not null,
            alter column no_open_transactions type jsonb using null
        """
    )
    execute("alter table audit.watermark rename column no_open_transactions to open_transactions")
    # What was read so far was complete; mirrors have this name unless it is too long.
    execute(
        """
        alter table audit.watermark
            add column mirror text,
            add column complete_at timestamptz,
            add column complete_xmin bigint,
            add column row_count bigint,
            add column rotation_started_at timestamptz,
            add column rotation_rows_verified bigint not null default 0,
            add column rotation_rows_deleted bigint not null default 0,
            add column changes_counted bigint,
            add column changes_unexplained bigint not null default 0
        """
    )
    # Not by an update, which the triggers of an older release would log.
    execute(
        """
        alter table audit.watermark
            alter column mirror type text using source || '_' || table_name,
            alter column complete_at type timestamptz using captured_at,
            alter column complete_xmin type bigint using snapshot_xmin
        """
    )
    execute(
        """
        alter table audit.watermark
            alter column complete_at set not null,
            alter column complete_xmin set not null
        """
    )
    execute(
        """
        create table audit.key_range (
            source text not null,
            table_name text not null,
            low_key text[] not null,
            verified_at timestamptz,
            snapshot_xmin bigint not null,
            row_count bigint not null,
            turn text not null,
            run_id bigint not null,
            constraint pk_key_range primary key (source, table_name, low_key),
            constraint ck_key_range_turn check (turn in ('whole', 'oldest', 'touched'))
        )
        """
    )
    execute("alter table audit.load add column source_rows_read bigint, add column source_blocks_read bigint")
    _allow(*KINDS, "verification late")


def downgrade() -> None:
    execute("delete from audit.outbox where kind = 'verification late'")
    _allow(*KINDS)
    execute("alter table audit.load drop column source_rows_read, drop column source_blocks_read")
    execute("drop table audit.key_range")
    execute(
        """
        alter table audit.watermark
            drop column changes_unexplained, drop column changes_counted, drop column rotation_rows_deleted,
            drop column rotation_rows_verified, drop column rotation_started_at, drop column row_count,
            drop column complete_xmin, drop column complete_at, drop column mirror
        """
    )
    execute("alter table audit.watermark rename column open_transactions to no_open_transactions")
    execute(
        """
        alter table audit.watermark
            alter column no_open_transactions type boolean using false,
            alter column no_open_transactions set default false,
            alter column no_open_transactions set not null
        """
    )


def _allow(*kinds: str) -> None:
    listed = ", ".join(f"'{kind}'" for kind in kinds)
    execute("alter table audit.outbox drop constraint ck_outbox_kind")
    execute(f"alter table audit.outbox add constraint ck_outbox_kind check (kind in ({listed}))")
