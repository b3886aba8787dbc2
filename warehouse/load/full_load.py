"""First and large loads: where every row is new nothing is looked up, and what can run in parallel does."""

import psycopg
from psycopg import sql

from warehouse.db.identifiers import listed
from warehouse.load.conform import (
    affected_table,
    analyze_batch,
    batch_table,
    comment_affected,
    conform,
    conformed,
    delivered_values,
)
from warehouse.load.conversion import create_unconvertible
from warehouse.sources.declaration import Entity


def affect_all(connection: psycopg.Connection, entity: Entity, rows: int) -> int:
    """Let every key of the mirror be affected, by a view, which costs nothing; how many `rows`."""
    if not rows:
        return 0
    connection.execute(
        sql.SQL(
            "drop table if exists {affected}; "
            "create view {affected} as "
            "select {keys}, true as _is_stamped, true as _is_new, false as _is_outdated from {mirror}"
        ).format(
            affected=affected_table(entity),
            keys=listed(entity.table.key),
            mirror=sql.Identifier("raw", entity.table.mirror),
        )
    )
    return rows


def forget_affected(connection: psycopg.Connection, entity: Entity) -> None:
    """Put an empty table where `affect_all` has put a view: nothing may depend on the mirror's columns."""
    connection.execute(
        sql.SQL(
            """
            create temp table nothing_affected on commit drop as select * from {affected} limit 0;
            drop view {affected};
            create unlogged table {affected} as select * from pg_temp.nothing_affected;
            drop table pg_temp.nothing_affected
            """
        ).format(affected=affected_table(entity))
    )
    comment_affected(connection, entity)


def conform_anew(connection: psycopg.Connection, entity: Entity) -> int:
    """Make the entity's batch anew by the source's SQL; how many rows.

    A table that is made by its query may be computed in parallel, one that is inserted into may not.

    Raises:
        DeclarationError: the SQL fails, or delivers other columns than the entity has.
    """
    batch = batch_table(entity.name)
    given = delivered_values(connection, entity)
    declared = connection.execute(
        """
        select attname, format_type(atttypid, atttypmod), attnotnull, col_description(attrelid, attnum)
        from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum
        """,
        [batch.as_string(connection)],
    ).fetchall()
    (said,) = connection.execute(
        "select obj_description(%s::regclass)", [batch.as_string(connection)]
    ).fetchone() or (None,)
    create_unconvertible(connection, entity.name)
    try:
        with connection.transaction():
            made = connection.execute(
                sql.SQL(
                    "create unlogged table staging.conforming as select {} from ({}) as conformed"
                ).format(
                    sql.SQL(", ").join(
                        sql.SQL("({})::{} as {}").format(
                            given.get(name, sql.NULL), sql.SQL(kind), sql.Identifier(name)
                        )
                        for name, kind, _, _ in declared
                    ),
                    conformed(entity),
                )
            )
    except psycopg.DataError:
        return conform(connection, entity)
    connection.execute(sql.SQL("drop table {}").format(batch))
    connection.execute(
        sql.SQL("alter table staging.conforming rename to {}").format(
            sql.Identifier(f"conformed_{entity.name}")
        )
    )
    connection.execute(sql.SQL("comment on table {} is {}").format(batch, sql.Literal(said)))
    for name, _, is_required, text in declared:
        column = sql.Identifier("staging", f"conformed_{entity.name}", name)
        connection.execute(sql.SQL("comment on column {} is {}").format(column, sql.Literal(text)))
        if is_required:
            connection.execute(
                sql.SQL("alter table {} alter column {} set not null").format(batch, sql.Identifier(name))
            )
    analyze_batch(connection, entity, list(given))
    return made.rowcount
