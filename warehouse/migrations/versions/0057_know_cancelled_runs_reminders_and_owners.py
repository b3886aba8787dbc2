"""Know cancelled runs, reminders of open problems, and to whom a mail goes."""

from warehouse.migrations.sql import execute

revision = "0057"
down_revision = "0056"
branch_labels = None
depends_on = None

STATUSES = ("running", "succeeded", "failed", "stopped", "crashed", "skipped", "undone", "dry run")
KINDS = (
    "failed", "crashed", "late", "gate stopped", "delete threshold exceeded", "differences found", "quarantine",
    "recovered", "files not read", "verification late",
)  # fmt: skip


def upgrade() -> None:
    _allow("run", "status", (*STATUSES, "cancelled"))
    _allow("outbox", "kind", (*KINDS, "reminder"))
    execute("alter table audit.outbox add column recipients text[], add column reminded_at timestamptz")
    # A problem of one flow that ended differently at each end, as crashes do, is one.
    execute(
        """
        update audit.outbox as mail set problem = mail.flow || ' crashed'
        where mail.kind = 'crashed' and mail.resolved_at is null
            and mail.mail_id = (
                select min(other.mail_id) from audit.outbox as other
                where other.flow = mail.flow and other.kind = 'crashed' and other.resolved_at is null
            )
            and not exists (
                select from audit.outbox as other
                where other.problem = mail.flow || ' crashed' and other.resolved_at is null
            )
        """
    )


def downgrade() -> None:
    execute("alter table audit.outbox drop column recipients, drop column reminded_at")
    execute("delete from audit.outbox where kind = 'reminder'")
    _allow("outbox", "kind", KINDS)
    execute("update audit.run set status = 'crashed' where status = 'cancelled'")
    _allow("run", "status", STATUSES)


def _allow(table: str, column: str, values: tuple[str, ...]) -> None:
    listed = ", ".join(f"'{value}'" for value in values)
    execute(f"alter table audit.{table} drop constraint ck_{table}_{column}")
    execute(f"alter table audit.{table} add constraint ck_{table}_{column} check ({column} in ({listed}))")
