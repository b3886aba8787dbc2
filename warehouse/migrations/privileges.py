"""What a login needs before it may migrate: looked up beforehand, so that all of it can be asked for at once."""

from typing import Final

import psycopg

from warehouse.db.connections import without_password
from warehouse.db.roles import LOADER, OWNER
from warehouse.errors import AccessRefused

# Session lock of whoever migrates, or sets owners and grants.
MIGRATE_LOCK: Final = "migrate"
# Whoever waits for a table's lock makes all later readers of that table wait: give up soon and try again.
LOCK_TIMEOUT: Final = "2s"
# Whoever else wants the same tables in another order is as little a failure as one who keeps them.
LOCKED: Final = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


def ensure_may_migrate(connection: psycopg.Connection, url: str) -> None:
    """Refuse a login without the privileges which a migration needs, before anything is changed.

    Raises:
        AccessRefused: names each missing privilege as the statement that grants it.
    """
    parameters = {"owner": OWNER, "loader": LOADER}
    statements = [statement for (statement,) in connection.execute(_MISSING, parameters).fetchall()]
    if statements:
        missing = "a privilege" if len(statements) == 1 else f"{len(statements)} privileges"
        raise AccessRefused(
            f"User {connection.info.user} is missing {missing} to migrate the warehouse {without_password(url)}.",
            hint=f"Let an administrator of the server run there: {'; '.join(statements)}; "
            "then run `dwh migrate` again.",
        )


_MISSING = """
    with role as (
        select
            oid, rolname,
            pg_has_role(oid, 'usage') as is_ours, pg_has_role(oid, 'member with admin option') as may_grant
        from pg_roles where rolname in (%(owner)s, %(loader)s)
    )

    select format('grant create on database %%I to %%I', current_database(), current_user)
    where not has_database_privilege(current_database(), 'create')
        and exists (
            select from unnest(array['raw', 'staging', 'dwh', 'mart', 'audit']) as schema (name)
            where to_regnamespace(schema.name) is null
        )
    union all
    select 'create schema public' where to_regnamespace('public') is null
    union all
    select format('grant usage, create on schema public to %%I', current_user)
    where to_regnamespace('public') is null
        or not has_schema_privilege('public', 'usage')
        or not has_schema_privilege('public', 'create') and not exists (
            select from pg_class where relname = 'alembic_version' and relnamespace = to_regnamespace('public')
        )
    union all
    select format('grant %%I to %%I', role.rolname, current_user)
    from role where role.rolname = %(owner)s and not role.is_ours and not role.may_grant
    union all
    select format('grant %%I to %%I', role.rolname, %(owner)s)
    from role
    where role.rolname = %(loader)s and not role.may_grant
        and exists (select from pg_roles where rolname = %(owner)s)
        and not pg_has_role(%(owner)s, role.oid, 'usage')
"""
