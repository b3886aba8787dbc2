"""Tables declared with their comments beside them, so that none is forgotten."""

from collections.abc import Mapping, Sequence

from alembic import op
from psycopg import sql


def create_table(
    name: str,
    comment: str,
    columns: Mapping[str, tuple[str, str]],
    constraints: Sequence[str] = (),
    *,
    unlogged: bool = False,
    suffix: str = "",
) -> None:
    """Create table `schema.table` of `column: (type, comment)`, with constraints and comments."""
    body = [f"{column} {kind}" for column, (kind, _) in columns.items()] + list(constraints)
    unlogged_sql = "unlogged " if unlogged else ""
    run(f"create {unlogged_sql}table {name} (\n    " + ",\n    ".join(body) + f"\n) {suffix}")
    run(f"comment on table {name} is {quoted(comment)}")
    comment_columns(name, {column: text for column, (_, text) in columns.items()})


def comment_columns(name: str, comments: Mapping[str, str]) -> None:
    """Comment the columns of a table or view."""
    for column, text in comments.items():
        run(f"comment on column {name}.{column} is {quoted(text)}")


def create_view(
    name: str, comment: str, select: str, columns: Mapping[str, str], *, materialized: bool = False
) -> None:
    """Create a view of the text of a file in warehouse/sql, with comments on it and its columns."""
    kind = "materialized view" if materialized else "view"
    run(f"create {kind} {name} as {select}")
    run(f"comment on {kind} {name} is {quoted(comment)}")
    comment_columns(name, columns)


def run(statement: str) -> None:
    """Execute DDL as it stands: colons and percent signs in it are text, not parameters."""
    op.get_bind().exec_driver_sql(statement.replace("%", "%%"))


def quoted(text: str) -> str:
    """`text` as an SQL literal."""
    return sql.Literal(text).as_string(None)
