"""Name files that are not read."""

from warehouse.migrations.sql import execute

revision = "0045"
down_revision = "0044"
branch_labels = None
depends_on = None

STATUSES = ("loaded", "partial", "truncated", "copy", "replaced")
NEW_STATUSES = ("archive", "unrecognized", "unread", "ignored")
KINDS = (
    "failed", "crashed", "late", "gate stopped", "delete threshold exceeded", "differences found", "quarantine",
    "recovered",
)  # fmt: skip


def upgrade() -> None:
    execute("alter table audit.file add column inode text, add column hint text")
    _allow("file", "status", (*STATUSES, *NEW_STATUSES))
    _allow("outbox", "kind", (*KINDS, "files not read"))


def downgrade() -> None:
    execute(f"delete from audit.file where status in ({_quoted(NEW_STATUSES)})")
    execute("delete from audit.outbox where kind = 'files not read'")
    _allow("file", "status", STATUSES)
    _allow("outbox", "kind", KINDS)
    execute("alter table audit.file drop column inode, drop column hint")


def _allow(table: str, column: str, values: tuple[str, ...]) -> None:
    name = f"ck_{table}_{column}"
    execute(f"alter table audit.{table} drop constraint {name}")
    execute(f"alter table audit.{table} add constraint {name} check ({column} in ({_quoted(values)}))")


def _quoted(values: tuple[str, ...]) -> str:
    return ", ".join(f"'{value}'" for value in values)
