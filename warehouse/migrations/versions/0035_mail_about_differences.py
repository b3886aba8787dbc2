"""Rows that are not as they should be are a problem of their own: no gate stopped anything."""

from warehouse.migrations.ddl import quoted, run

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

BEFORE = ("failed", "crashed", "late", "gate stopped", "brake pulled", "quarantine", "recovered")
KINDS = (*BEFORE[:5], "differences found", *BEFORE[5:])


def upgrade() -> None:
    _allow(KINDS)


def downgrade() -> None:
    run("update audit.outbox set kind = 'gate stopped' where kind = 'differences found'")
    _allow(BEFORE)


def _allow(kinds: tuple[str, ...]) -> None:
    run("alter table audit.outbox drop constraint ck_outbox_kind")
    run(
        "alter table audit.outbox add constraint ck_outbox_kind "
        f"check (kind in ({', '.join(map(quoted, kinds))}))"
    )
    meaning = quoted(f"What it tells: {', '.join(kinds)}")
    run(f"comment on column audit.outbox.kind is {meaning}")
