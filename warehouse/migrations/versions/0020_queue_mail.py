"""Mail waits in the warehouse, written together with the state that it tells of."""

from warehouse.migrations.ddl import create_table, run

revision = "0020"
down_revision = "0015"
branch_labels = None
depends_on = None

KINDS = ("failed", "crashed", "late", "gate stopped", "brake pulled", "quarantine", "recovered")


def upgrade() -> None:
    create_table(
        "audit.outbox",
        "One row per mail, sent or waiting. One problem is one mail: while it lasts, it is counted, not told again.",
        {
            "mail_id": ("bigint generated always as identity", "Id of the mail"),
            "run_id": ("bigint", "Run that it tells of; empty where none ran when it should have"),
            "flow": ("text not null", "Flow that it tells of"),
            "kind": ("text not null", f"What it tells: {', '.join(KINDS)}"),
            "problem": ("text not null", "What makes two failures the same problem: flow, kind and error"),
            "subject": ("text not null", "Subject line"),
            "body_text": ("text not null", "The mail as plain text"),
            "body_html": ("text not null", "The mail as HTML"),
            "created_at": ("timestamptz not null default clock_timestamp()", "When it was written (UTC)"),
            "seen_count": ("integer not null default 1", "How often the problem has been met"),
            "seen_at": ("timestamptz not null default clock_timestamp()", "When it was last met (UTC)"),
            "resolved_at": ("timestamptz", "When the problem was over (UTC); empty while it lasts"),
            "due_at": ("timestamptz not null default clock_timestamp()", "Not to be sent before (UTC)"),
            "attempts": ("integer not null default 0", "How often sending has been tried"),
            "sent_at": ("timestamptz", "When a mail server took it (UTC); empty while it waits"),
            "error": ("text", "What the mail server said to the last attempt that failed"),
        },
        [
            "constraint pk_outbox primary key (mail_id)",
            "constraint fk_outbox_run_id foreign key (run_id) references audit.run (run_id)",
            f"constraint ck_outbox_kind check (kind in ({', '.join(map(repr, KINDS))}))",
        ],
    )
    run("create unique index uq_outbox_problem on audit.outbox (problem) where resolved_at is null")
    run("create index ix_outbox_due_at on audit.outbox (due_at) where sent_at is null")
    run("create index ix_outbox_run_id on audit.outbox (run_id)")


def downgrade() -> None:
    run("drop table audit.outbox")
