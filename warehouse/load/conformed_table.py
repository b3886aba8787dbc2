"""Rebuild the table of a batch's conformed rows by CREATE TABLE AS, whose query may run in parallel."""

from collections.abc import Callable

from psycopg import sql

from warehouse.load.batch import Batch

_NEW = sql.Identifier("staging", "conforming")


def replace_conformed(batch: Batch, value: Callable[[str], sql.Composable], rows: sql.Composable) -> int:
    """Replace the table by one with the same columns, comments and constraints, and the rows of `rows` (a FROM item).

    `value` returns the expression of a column by its name. Returns the number of rows.
    """
    name = batch.conformed.as_string(batch.connection)
    declared = batch.connection.execute(
        """
        select attname, format_type(atttypid, atttypmod), attnotnull, col_description(attrelid, attnum)
        from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum
        """,
        [name],
    ).fetchall()
    (comment,) = batch.connection.execute("select obj_description(%s::regclass)", [name]).fetchone() or (
        None,
    )
    created = batch.execute(
        "create unlogged table {new} as select {values} from {rows}",
        new=_NEW,
        values=sql.SQL(", ").join(
            sql.SQL("({})::{} as {}").format(value(name), sql.SQL(kind), sql.Identifier(name))
            for name, kind, _, _ in declared
        ),
        rows=rows,
    )
    changes = [
        batch.format("drop table {conformed}"),
        batch.format(
            "alter table {new} rename to {name}",
            new=_NEW,
            name=sql.Identifier(f"conformed_{batch.entity.name}"),
        ),
        batch.format("comment on table {conformed} is {comment}", comment=sql.Literal(comment)),
    ]
    for name, _, is_required, text in declared:
        column = sql.Identifier(name)
        changes.append(
            batch.format(
                "comment on column {conformed}.{column} is {text}", column=column, text=sql.Literal(text)
            )
        )
        if is_required:
            changes.append(
                batch.format("alter table {conformed} alter column {column} set not null", column=column)
            )
    batch.connection.execute(sql.SQL("; ").join(changes))
    return created.rowcount
