"""Know tables that a run has read and not compared."""

from warehouse.migrations.sql import execute

revision = "0068"
down_revision = "0067"
branch_labels = None
depends_on = None

VERDICTS = ("equal", "different", "repaired", "stale")


def upgrade() -> None:
    _allow(*VERDICTS, "not_compared")
    # Of no chunk of a mirror: nothing was found equal.
    execute(
        "update audit.verification set verdict = 'not_compared' "
        "where layer = 'mirror' and chunks = 0 and verdict = 'equal'"
    )


def downgrade() -> None:
    execute("update audit.verification set verdict = 'equal' where verdict = 'not_compared'")
    _allow(*VERDICTS)


def _allow(*verdicts: str) -> None:
    listed = ", ".join(f"'{verdict}'" for verdict in verdicts)
    execute("alter table audit.verification drop constraint ck_verification_verdict")
    execute(
        f"alter table audit.verification add constraint ck_verification_verdict check (verdict in ({listed}))"
    )
