"""Baseline: the whole schema as of this revision, frozen in the SQL file beside this one."""

from pathlib import Path

from alembic import op

from warehouse.db.roles import drop_roles, ensure_roles
from warehouse.migrations.sql import driver_of, execute

revision = "0037"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    ensure_roles(driver_of(op.get_bind()))
    # Functions come before the tables that they read.
    execute("set local check_function_bodies = off")
    execute(Path(__file__).with_suffix(".sql").read_text())
    execute("set local check_function_bodies = on")


def downgrade() -> None:
    # Loads make mirrors and partitions in these schemas, so everything in them goes.
    for schema in ("audit", "mart", "dwh", "raw", "staging"):
        execute(f"drop schema {schema} cascade")
    drop_roles(driver_of(op.get_bind()))
