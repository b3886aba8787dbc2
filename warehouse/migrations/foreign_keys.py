"""Foreign keys that the server does not enforce: BI tools draw joins from them, and loads pay nothing for them.

PostgreSQL has them from version 18 on, for tables that are not partitioned. `mart.table_reference` has all references.
"""

import psycopg
from psycopg import sql

from warehouse.model.schema import ForeignKey, foreign_keys

_FIRST_VERSION = 180000
_FOUND = """
    select relation.relname, one.conname
    from pg_constraint as one
    inner join pg_class as relation on one.conrelid = relation.oid
    where one.contype = 'f' and one.connamespace = 'dwh'::regnamespace
        and not (to_jsonb(one) ->> 'conenforced')::boolean
        -- One by another name is not ours.
        and starts_with(one.conname, 'fk_' || relation.relname || '_')
"""


def missing(connection: psycopg.Connection) -> list[ForeignKey]:
    """Declared references that the server could have as foreign keys, and has not."""
    found = _found(connection)
    return [key for key in _possible(connection) if (key.table, key.name) not in found]


def apply(connection: psycopg.Connection) -> None:
    """Bring the foreign keys to what is declared."""
    declared = {(key.table, key.name) for key in _possible(connection)}
    _drop(connection, _found(connection) - declared)
    for key in missing(connection):
        statement = "alter table {} add constraint {} foreign key ({}) references {} ({}) not enforced"
        connection.execute(
            sql.SQL(statement).format(
                sql.Identifier("dwh", key.table),
                sql.Identifier(key.name),
                sql.Identifier(key.column),
                sql.Identifier("dwh", key.referred_table),
                sql.Identifier(key.referred_column),
            )
        )


def drop(connection: psycopg.Connection) -> None:
    """Drop them: a migration can then drop or change the tables that they refer to."""
    _drop(connection, _found(connection))


def _possible(connection: psycopg.Connection) -> list[ForeignKey]:
    if connection.info.server_version < _FIRST_VERSION:
        return []
    partitioned = {
        name
        for (name,) in connection.execute(
            "select relname from pg_class where relkind = 'p' and relnamespace = 'dwh'::regnamespace"
        )
    }
    return [key for key in foreign_keys() if not partitioned & {key.table, key.referred_table}]


def _found(connection: psycopg.Connection) -> set[tuple[str, str]]:
    return set(connection.execute(_FOUND).fetchall())


def _drop(connection: psycopg.Connection, keys: set[tuple[str, str]]) -> None:
    for table, name in sorted(keys):
        connection.execute(
            sql.SQL("alter table {} drop constraint {}").format(
                sql.Identifier("dwh", table), sql.Identifier(name)
            )
        )
