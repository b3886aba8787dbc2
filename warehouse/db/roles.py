"""Roles of the warehouse, and what each owns and may do: set after every upgrade, so that no new table is forgotten."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from warehouse.errors import AccessRefused

OWNER, LOADER, READER, MARKETING, MONITOR, LEAD_READER = (
    "dwh_owner", "dwh_loader", "dwh_reader", "dwh_marketing", "dwh_monitor", "dwh_lead_reader",
)  # fmt: skip
ROLES = {
    OWNER: "Owns tables and views of the warehouse: for logins that migrate.",
    LOADER: "Loads the warehouse: for logins of flows. Owns mirrors, staging and what it makes partitions of.",
    READER: "Reads dwh and mart: for logins of analysts and BI tools.",
    MARKETING: "Reads marts without personal data, and masked ones: for logins of marketing.",
    LEAD_READER: "Reads mart.leads, with names and e-mail addresses: for logins of those who write to leads.",
    MONITOR: "Reads the marts about runs and data quality, no business data: for logins of dashboards of operations.",
}
_EXISTING = "select rolname from pg_roles"
# Tables that belong to an administrator or a login instead of the loader's role, and that this user may give to it.
_MADE_HERE = f"""
    select format('alter table %I.%I owner to {LOADER}', namespace.nspname, relation.relname)
    from pg_class as relation
    inner join pg_namespace as namespace on relation.relnamespace = namespace.oid
    inner join pg_roles as loader on loader.rolname = '{LOADER}'
    where
        relation.relowner <> loader.oid and relation.relkind in ('r', 'p')
        and (
            namespace.nspname in ('raw', 'staging')
            or relation.oid in (select part.relid from pg_partition_tree(to_regclass('dwh.fact_weblog')) as part)
        )
        and pg_has_role(relation.relowner, 'usage') and pg_has_role(loader.oid, 'set')
"""
_GRANTS = (Path(__file__).parent / "grants.sql").read_text()


def ensure_roles(connection: psycopg.Connection) -> None:
    """Create missing roles; other warehouses of the cluster share them.

    Raises:
        AccessRefused: roles are missing, and this user may not create them.
    """
    missing = _absent(name for (name,) in connection.execute(_EXISTING))
    if missing and not _scalar(
        connection, "select rolsuper or rolcreaterole from pg_roles where rolname = current_user"
    ):
        statements = " ".join(f"create role {role} nologin;" for role in missing)
        raise AccessRefused(
            f"Roles are missing that {_scalar(connection, 'select current_user')} may not make: {', '.join(missing)}.",
            hint=f"Let an administrator of the server run: {statements} grant {OWNER} and {LOADER} to the login "
            "that migrates; then run `dwh migrate` again.",
        )
    for role in missing:
        # Another warehouse of the cluster may be migrated at the same time.
        _execute(
            connection,
            f"""
            do $$ begin
                create role {role} nologin;
                comment on role {role} is '{ROLES[role]}';
            exception when duplicate_object or unique_violation then null;
            end $$
            """,
        )


def apply_grants(connection: psycopg.Connection) -> None:
    """Set owners and grants of everything in the database; does nothing before its first migration."""
    if _scalar(connection, "select to_regclass('audit.personal_data')") is None:
        return
    # A dump that was restored on another server has no roles.
    ensure_roles(connection)
    _join(connection)
    # Temporarily: the new owner of a stored mart needs the privilege to create in its schema.
    _execute(connection, f"grant create on schema mart to {LOADER}")
    # Twice: a change of owners revokes grants.
    for _ in range(2):
        for statement, _ in _execute(connection, _GRANTS).fetchall():
            _execute(connection, statement)
    _execute(connection, f"revoke create on schema mart from {LOADER}")
    _execute(
        connection,
        f"alter default privileges for role {LOADER} in schema dwh grant select on tables to {READER}",
    )
    # Needed where schema public is closed to PUBLIC, since the revision of the warehouse is read from it.
    if _scalar(connection, "select has_schema_privilege('public', 'usage with grant option')"):
        for role in (LOADER, READER):
            if not _scalar(connection, f"select has_schema_privilege('{role}', 'public', 'usage')"):
                _execute(connection, f"grant usage on schema public to {role}")
    if _scalar(
        connection,
        "select pg_has_role(relowner, 'usage') from pg_class where oid = 'public.alembic_version'::regclass",
    ):
        _execute(connection, f"grant select on public.alembic_version to {LOADER}, {READER}")
        _execute(connection, f"grant select, insert, update, delete on public.alembic_version to {OWNER}")


def give_to_loader(connection: psycopg.Connection) -> None:
    """Give tables that runs of this login created to the loader's role, so that runs of another login can use them.

    `connection` must be in autocommit mode. A table in use is skipped until the next call.
    """
    with suppress(psycopg.Error):
        statements = [statement for (statement,) in _execute(connection, _MADE_HERE)]
        if statements and not _alter(connection, statements):
            for statement in statements:
                _alter(connection, [statement])


def _alter(connection: psycopg.Connection, statements: Iterable[str]) -> bool:
    """Execute all in one transaction; returns False, with nothing changed, if one of the tables is in use."""
    try:
        with connection.transaction():
            _execute(connection, "set local lock_timeout = '50ms'")
            for statement in statements:
                _execute(connection, statement)
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def missing_grants(connection: psycopg.Connection) -> list[str]:
    """Return statements for missing owners and grants, except those of tables that loads create."""
    # In a database that was restored on another server: grants cannot be looked up without roles.
    if missing := _absent(name for (name,) in connection.execute(_EXISTING)):
        return [f"create role {role} nologin" for role in missing]
    return [
        statement for statement, is_made_by_loads in _execute(connection, _GRANTS) if not is_made_by_loads
    ]


def drop_roles(connection: psycopg.Connection) -> None:
    """Drop the roles after the schemas, unless other logins or databases use them."""
    _execute(connection, f"revoke all on public.alembic_version from {', '.join(ROLES)}")
    if _scalar(connection, "select has_schema_privilege('public', 'usage with grant option')"):
        _execute(connection, f"revoke all on schema public from {LOADER}, {READER}")
    for role in (LEAD_READER, MONITOR, MARKETING, READER, OWNER, LOADER):
        _execute(
            connection,
            f"""
            do $$ begin
                if not exists (select from pg_auth_members where roleid = '{role}'::regrole
                    and member not in (select oid from pg_roles where rolname in ('{OWNER}', current_user))) then
                    drop role {role};
                end if;
            exception when dependent_objects_still_exist or insufficient_privilege then null;
            end $$
            """,
        )


def _join(connection: psycopg.Connection) -> None:
    # To give a table to another owner, a user must be able to act as that owner.
    _execute(
        connection,
        f"""
        do $$ begin
            if not pg_has_role('{OWNER}', '{LOADER}', 'usage') then
                grant {LOADER} to {OWNER};
            end if;
            if not pg_has_role(current_user, '{OWNER}', 'usage') then
                execute format('grant {OWNER} to %I', current_user);
            end if;
        end $$
        """,
    )


def _absent(existing: Iterable[str]) -> list[str]:
    names = set(existing)
    return [role for role in ROLES if role not in names]


def _scalar(connection: psycopg.Connection, query: str) -> object:
    (value,) = _execute(connection, query).fetchone() or (None,)
    return value


def _execute(connection: psycopg.Connection, statement: str) -> psycopg.Cursor[tuple[Any, ...]]:
    return connection.execute(statement.encode())
