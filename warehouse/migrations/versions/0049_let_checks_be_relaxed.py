"""Let the result of a check be that it is relaxed."""

from warehouse.migrations.sql import execute

revision = "0049"
down_revision = "0048"
branch_labels = None
depends_on = None

BEFORE = "passed", "failed", "warned", "not_evaluated", "not_applicable"


def upgrade() -> None:
    _constrain((*BEFORE, "relaxed"))


def downgrade() -> None:
    execute("delete from audit.check_result where outcome = 'relaxed'")
    _constrain(BEFORE)


def _constrain(outcomes: tuple[str, ...]) -> None:
    listed = ", ".join(f"'{outcome}'" for outcome in outcomes)
    execute("alter table audit.check_result drop constraint ck_check_result_outcome")
    execute(
        "alter table audit.check_result add constraint ck_check_result_outcome "
        f"check (outcome = any (array[{listed}]::text[]))"
    )
