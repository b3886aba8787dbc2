"""SQL of migrations."""

from alembic import op


def execute(statement: str) -> None:
    """Execute SQL as it stands: colons and percent signs in it are text, not parameters."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))
