"""${message}

Rules: one idea each, in both directions; tables, columns, constraints, indexes and rows only: views, functions, comments
and grants are declared in files (CONTRIBUTING, 'A migration'), and applied after the last migration. Read no file that
may change later, import nothing from the warehouse but `execute`. Nothing that rewrites a large table under an
exclusive lock: add columns nullable, fill them in batches, then constrain. What is published is never edited.
"""

from warehouse.migrations.sql import execute

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "..."}


def downgrade() -> None:
    ${downgrades if downgrades else "..."}
