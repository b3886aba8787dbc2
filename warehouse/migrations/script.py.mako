"""${message}

Safety rules:
- The transaction holds its locks until it commits, and readers wait: no statement rewrites or scans a large table under
  an exclusive lock. Add columns nullable, fill them in batches, then constrain (`not valid`, `validate`).
- It waits half a minute for a lock, then gives up; `dwh migrate` can be run again.
- Runs of the previous code may still be active: rename or drop in a later release than the one that stops using it.
- Frozen: read no file that may change, import nothing from the warehouse but `execute`, never edit what is released.
- Both directions. Tables, columns, constraints, indexes and rows only: views, functions, triggers, comments and grants
  are declared in files and applied after the last migration. A renamed column of a logged table is also renamed in
  audit.row_schema (as 0038 does), or undo and as-of reads no longer find it in rows that were logged before.
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
