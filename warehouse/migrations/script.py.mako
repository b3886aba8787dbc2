"""${message}

Rules: one idea each. A comment on every table and column. Both directions. Nothing that rewrites a large table under
an exclusive lock; add columns nullable, fill in batches, then constrain. What is published is never edited.
"""

from warehouse.migrations.ddl import run

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "..."}


def downgrade() -> None:
    ${downgrades if downgrades else "..."}
