"""Views and functions as repeatable migrations: created from their declarations wherever the database differs."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import psycopg
from psycopg import errors, sql

from warehouse.db.object_files import SchemaObject, in_order
from warehouse.errors import SchemaObjectInUse

# What PostgreSQL answers to a change of a table or view that another object depends on.
BLOCKED: Final = (errors.DependentObjectsStillExist, errors.FeatureNotSupported)
# ... and to a replacement that changes the columns of a view, or what a function takes and returns.
NOT_REPLACEABLE: Final = (errors.InvalidTableDefinition, errors.InvalidFunctionDefinition)


class SchemaObjects:
    """The declared objects of one database, in the transaction of `connection`.

    Grants of a dropped object are kept, and granted again when it is created.
    """

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._grants: dict[str, list[str]] = {}

    def lock(self, names: Iterable[str] | None = None) -> None:
        """Lock these views and those that depend on them, or all views of the warehouse, against readers.

        Readers lock a view before what it reads. A migration that locked a table first would deadlock with them.
        """
        if names is None:
            names = [name for name in self._existing() if name.startswith(("mart.", "audit."))]
        for kind, name in self._dependants(sorted(names)):
            if kind != "function":
                # Setting the same owner changes nothing but locks the view; `lock table` would lock its tables, too.
                owner = sql.SQL("alter {} {} owner to {}")
                row = self._connection.execute(
                    "select relowner::regrole::text from pg_class "
                    "where oid = %s::regclass and pg_has_role(relowner, 'usage')",
                    [name],
                ).fetchone()
                # None for a user's own view, which must not be changed.
                if row is not None:
                    self._connection.execute(owner.format(*map(sql.SQL, (kind, name, row[0]))))

    def apply(self, objects: Iterable[SchemaObject]) -> None:
        """Drop what is no longer declared, create what is missing, replace what differs; touch nothing else.

        Raises:
            SchemaObjectInUse: a user's own view depends on an object that has to be dropped.
        """
        declared = in_order(objects)
        gone = self.registered() - {one.full_name for one in declared}
        stale = {one.full_name for one in self.stale(declared)}
        self.lock([*gone, *stale])
        self._drop(gone & self._existing().keys())
        self._connection.execute("delete from audit.schema_object where object_name = any(%s)", [list(gone)])
        has_changed = bool(gone)
        for one in declared:
            # After a change, later objects may be stale, too: dropped with it, or reading other columns.
            if one.full_name in stale or (has_changed and self.stale([one])):
                self._replace(one)
                has_changed = True

    def drop_all(self) -> None:
        """Drop all declared objects, except those that users' own objects depend on, and trigger functions.

        Views would block a migration of their tables; `apply` creates them again.
        """
        registered = self.registered()
        held = {
            name
            for name in registered
            if any(dependant not in registered for _, dependant in self._dependants([name]))
        }
        triggers = {name for name, kind in self._existing().items() if kind == "trigger function"}
        self._drop((registered - held - triggers) & self._existing().keys())

    def users_objects(self) -> list[str]:
        """List users' own objects that depend on one of the warehouse, as 'object (on dependency)'."""
        registered = self.registered()
        return [
            f"{dependant} (on {name})"
            for name in sorted(registered)
            for _, dependant in self._dependants([name])
            if dependant not in registered
        ]

    def stale(self, objects: Iterable[SchemaObject]) -> list[SchemaObject]:
        """Return the declared objects that are missing in the database, or differ from it."""
        existing = self._existing()
        return [
            one
            for one in objects
            if existing.get(one.full_name) not in (one.kind, f"trigger {one.kind}")
            or not self._is_current(one)
        ]

    def _is_current(self, one: SchemaObject) -> bool:
        """Whether an existing object equals its declaration."""
        read = "pg_get_functiondef({}::regproc)" if one.kind == "function" else "pg_get_viewdef({}::regclass)"
        try:
            with self._connection.transaction(force_rollback=True):
                self._connection.execute(one.create_temporary().encode())
                row = self._connection.execute(
                    sql.SQL(f"select regexp_replace({read}, 'pg_temp(_\\d+)?\\.', {{}}), {read}").format(
                        sql.Literal(f"pg_temp.{one.name}"),
                        sql.Literal(f"{one.schema}."),
                        sql.Literal(f"{one.schema}.{one.name}"),
                    )
                ).fetchone()
        except (
            errors.UndefinedTable,
            errors.UndefinedColumn,
            errors.UndefinedFunction,
            # The database has a function of the same name with other arguments.
            errors.AmbiguousFunction,
        ):
            return False
        assert row is not None
        return bool(row[0] == row[1])

    def _replace(self, one: SchemaObject) -> None:
        try:
            with self._connection.transaction():
                self._connection.execute(one.create().encode())
                if one.kind == "function":
                    # With other arguments, the old function stays beside the new one.
                    (count,) = self._connection.execute(
                        "select count(*) from pg_proc where pronamespace = %s::regnamespace and proname = %s",
                        [one.schema, one.name],
                    ).fetchone() or (0,)
                    if count > 1:
                        raise errors.InvalidFunctionDefinition
        except (*NOT_REPLACEABLE, errors.WrongObjectType):
            self._drop({one.full_name})
            self._connection.execute(one.create().encode())
        for statement in self._grants.pop(one.full_name, ()):
            try:
                with self._connection.transaction():
                    self._connection.execute(statement.encode())
            except errors.UndefinedColumn:
                continue
        self._connection.execute(
            """
            insert into audit.schema_object (object_name, kind) values (%s, %s)
            on conflict (object_name) do update set kind = excluded.kind, applied_at = clock_timestamp()
            """,
            [one.full_name, one.kind],
        )

    def _drop(self, names: Iterable[str]) -> None:
        """Drop these objects and those of the warehouse that depend on them."""
        registered = self.registered()
        dependants = list(self._dependants(sorted(names)))
        if users := [name for _, name in dependants if name not in registered and name not in names]:
            raise SchemaObjectInUse(
                f"{', '.join(users)} depends on a view of the warehouse that has to be dropped and created again "
                f"({', '.join(sorted(names))}): nothing was changed.",
                hint=f"Drop {', '.join(users)}, run `dwh migrate`, and create it again.",
            )
        for kind, name in dependants:
            self._grants[name] = [
                statement for (statement,) in self._connection.execute(_GRANTS, {"name": name})
            ]
            for (drop,) in self._connection.execute(_DROPS, {"kind": kind, "name": name}).fetchall():
                self._connection.execute(drop.encode())

    def registered(self) -> set[str]:
        """Names of the objects that `apply` has created."""
        return {
            name
            for (name,) in self._connection.execute("select object_name from audit.schema_object").fetchall()
        }

    def _existing(self) -> dict[str, str]:
        return dict(self._connection.execute(_EXISTING).fetchall())

    def _dependants(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """(kind, name) of these objects and of all that depend on them, the last dependant first."""
        yield from self._connection.execute(_DEPENDANTS, {"names": list(names)}).fetchall()


# Several functions may have the same name, with other arguments.
_DROPS = """
    select format('drop %%s %%s', %(kind)s::text, %(name)s::text) where %(kind)s::text <> 'function'
    union all
    select format('drop function %%s', proc.oid::regprocedure)
    from pg_proc as proc
    inner join pg_namespace as namespace on proc.pronamespace = namespace.oid
    where %(kind)s::text = 'function' and format('%%I.%%I()', namespace.nspname, proc.proname) = %(name)s::text
"""

_EXISTING = """
    select
        format('%I.%I', namespace.nspname, relation.relname),
        case relation.relkind when 'v' then 'view' else 'materialized view' end
    from pg_class as relation
    inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
    where relation.relkind in ('v', 'm')
    union all
    select
        format('%I.%I()', namespace.nspname, proc.proname),
        case when proc.prorettype = 'trigger'::regtype then 'trigger function' else 'function' end
    from pg_proc as proc
    inner join pg_namespace as namespace on proc.pronamespace = namespace.oid
    where namespace.nspname not in ('pg_catalog', 'information_schema')
"""

_DEPENDANTS = """
    with recursive object (class_id, object_id, kind, name) as (
        select
            'pg_class'::regclass, relation.oid,
            case relation.relkind when 'v' then 'view' else 'materialized view' end,
            format('%%I.%%I', namespace.nspname, relation.relname)
        from pg_class as relation
        inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
        where relation.relkind in ('v', 'm')
        union all
        select 'pg_proc'::regclass, proc.oid, 'function', format('%%I.%%I()', namespace.nspname, proc.proname)
        from pg_proc as proc
        inner join pg_namespace as namespace on proc.pronamespace = namespace.oid
    ),

    uses (class_id, object_id, used_class_id, used_object_id) as (
        select 'pg_class'::regclass::oid, rule.ev_class, used.refclassid, used.refobjid
        from pg_depend as used
        inner join pg_rewrite as rule on used.objid = rule.oid
        where used.classid = 'pg_rewrite'::regclass and used.refobjid <> rule.ev_class
        union
        -- A function uses a view in its body, or by the type of its rows.
        select
            used.classid, used.objid,
            case when type.oid is null then used.refclassid else 'pg_class'::regclass end,
            coalesce(element.typrelid, type.typrelid, used.refobjid)
        from pg_depend as used
        left join pg_type as type on used.refclassid = 'pg_type'::regclass and used.refobjid = type.oid
        left join pg_type as element on type.typelem = element.oid and element.typrelid <> 0
        where used.classid = 'pg_proc'::regclass and used.refobjid <> used.objid
    ),

    dependant (class_id, object_id, depth) as (
        select object.class_id::oid, object.object_id, 0 from object where object.name = any(%(names)s)
        union all
        select uses.class_id, uses.object_id, dependant.depth + 1
        from dependant
        inner join uses on dependant.class_id = uses.used_class_id and dependant.object_id = uses.used_object_id
    )

    select object.kind, object.name
    from dependant inner join object using (class_id, object_id)
    group by object.kind, object.name order by max(dependant.depth) desc, object.name
"""

_GRANTS = """
    with object (kind, name, acl, owner, column_name) as (
        select '', format('%%I.%%I', namespace.nspname, relation.relname), relation.relacl, relation.relowner, ''
        from pg_class as relation
        inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
        where relation.relkind in ('v', 'm')
        union all
        select
            '', format('%%I.%%I', namespace.nspname, relation.relname), attribute.attacl, relation.relowner,
            format('(%%I)', attribute.attname)
        from pg_class as relation
        inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
        inner join pg_attribute as attribute on relation.oid = attribute.attrelid
        where relation.relkind in ('v', 'm')
        union all
        select
            'function ', format('%%I.%%I()', namespace.nspname, proc.proname),
            proc.proacl, proc.proowner, ''
        from pg_proc as proc
        inner join pg_namespace as namespace on proc.pronamespace = namespace.oid
    )

    select format('revoke all on function %%s from public', rtrim(object.name, '()')) as statement
    from object where object.name = %(name)s and object.kind <> '' and object.acl is not null
    union all
    select
        format(
            'grant %%s %%s on %%s%%s to %%s%%s', granted.privilege_type, object.column_name, object.kind,
            rtrim(object.name, '()'),
            case when granted.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(granted.grantee)) end,
            case when granted.is_grantable then ' with grant option' else '' end
        )
    from object
    cross join aclexplode(object.acl) as granted
    where object.name = %(name)s and granted.grantee <> object.owner
    order by statement desc
"""
