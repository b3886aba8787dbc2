"""Roles of the warehouse, and what each owns and may do: set after every upgrade, so that no new table is forgotten."""

from collections.abc import Sequence

from sqlalchemy import Connection

from warehouse.errors import AccessRefused

OWNER, LOADER, READER, MARKETING = "dwh_owner", "dwh_loader", "dwh_reader", "dwh_marketing"
ROLES = {
    OWNER: "Owns tables and views of the warehouse: for logins that migrate.",
    LOADER: "Loads the warehouse: for logins of flows. Owns mirrors, staging and what it makes partitions of.",
    READER: "Reads dwh and mart: for logins of analysts and BI tools.",
    MARKETING: "Reads marts without personal data, and masked ones: for logins of marketing.",
}
SCHEMAS = ("staging", "raw", "dwh", "mart", "audit")

# What of the audit trail analysts read: how the star has changed.
CHANGES = """
    select oid::regclass::text from pg_class
    where relnamespace = 'audit'::regnamespace and relkind = 'v' and relname ~ '_change$|^change_log$'
"""

# What the engine makes, empties, attaches to or refreshes has to be the loader's: these acts ask for ownership.
OWNED_BY_LOADER = """
    namespace.nspname in ('raw', 'staging') or relation.relkind = 'm'
    or relation.oid in (select relid from pg_partition_tree('dwh.fact_weblog'))
"""

RELATIONS = f"""
    select format('%%I.%%I', namespace.nspname, relation.relname) as name, relation.relkind, namespace.nspname,
        relation.relname, case when {OWNED_BY_LOADER} then '{LOADER}' else '{OWNER}' end as owner
    from pg_class as relation
    join pg_namespace as namespace on namespace.oid = relation.relnamespace
    where namespace.nspname in ({", ".join(map(repr, SCHEMAS))}) and relation.relkind in ('r', 'p', 'v', 'm')
    order by relation.oid
"""


def ensure_roles(connection: Connection) -> None:
    """Make the roles that are missing; other warehouses of the cluster share them.

    Raises:
        AccessRefused: they are missing, and whoever migrates may not make them.
    """
    known = {name for (name,) in connection.exec_driver_sql("select rolname from pg_roles")}
    missing = [role for role in ROLES if role not in known]
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
        connection.exec_driver_sql(
            f"""
            do $$ begin
                create role {role} nologin;
                comment on role {role} is '{ROLES[role]}';
            exception when duplicate_object or unique_violation then null;
            end $$
            """
        )


def apply_grants(connection: Connection) -> None:
    """Owners and grants of everything that the warehouse has now; nothing before the roles exist."""
    if _scalar(connection, "select to_regclass('audit.personal_data')") is None:
        return
    # A dump that was restored on another server comes without them.
    ensure_roles(connection)
    run = connection.exec_driver_sql
    _join(connection)
    for schema in SCHEMAS:
        run(f"alter schema {schema} owner to {OWNER}")
        run(f"grant usage on schema {schema} to {LOADER}")
    # In mart for the moment only: an owner must be one who could have made the view there.
    run(f"grant create on schema raw, staging, dwh, mart to {LOADER}")
    relations = run(RELATIONS).all()
    for name, kind, _, _, owner in relations:
        what = {"v": "view", "m": "materialized view"}.get(kind, "table")
        run(f"alter {what} {name} owner to {owner}".replace("%", "%%"))
    run(f"revoke create on schema mart from {LOADER}")
    for (function,) in run(
        "select oid::regprocedure::text from pg_proc where pronamespace = 'audit'::regnamespace"
    ).all():
        run(f"alter function {function} owner to {OWNER}")
    maintain = ", maintain" if int(str(_scalar(connection, "show server_version_num"))) >= 170000 else ""
    for schema in ("dwh", "audit"):
        run(
            f"grant select, insert, update, delete, truncate{maintain} on all tables in schema {schema} to {LOADER}"
        )
    run(f"grant select on all tables in schema mart to {LOADER}")
    run(f"grant usage on schema dwh, mart to {READER}")
    run(f"grant select on all tables in schema dwh, mart to {READER}")
    run(f"grant usage on schema audit to {READER}")
    for (view,) in run(CHANGES).all():
        run(f"grant select on {view} to {READER}")
    run(f"alter default privileges for role {LOADER} in schema dwh grant select on tables to {READER}")
    if _scalar(
        connection,
        "select pg_has_role(relowner, 'usage') from pg_class where oid = 'public.alembic_version'::regclass",
    ):
        run(f"grant select on public.alembic_version to {LOADER}, {READER}")
        run(f"grant select, insert, update, delete on public.alembic_version to {OWNER}")
    run(f"grant usage on schema mart to {MARKETING}")
    run(f"revoke all on all tables in schema mart from {MARKETING}")
    personal = {
        table for (table,) in run("select table_name from audit.personal_data where schema_name = 'mart'")
    }
    for name, _, schema, table, _ in relations:
        if schema == "mart" and table not in personal:
            run(f"grant select on {name} to {MARKETING}".replace("%", "%%"))


def remove_grants(connection: Connection) -> None:
    """Everything back to whoever migrates; roles that nobody else uses are dropped."""
    run = connection.exec_driver_sql
    run(f"alter default privileges for role {LOADER} in schema dwh revoke select on tables from {READER}")
    for schema in SCHEMAS:
        run(f"alter schema {schema} owner to current_user")
    for name, kind, _, _, _ in run(RELATIONS).all():
        what = {"v": "view", "m": "materialized view"}.get(kind, "table")
        run(f"alter {what} {name} owner to current_user".replace("%", "%%"))
    for schema in SCHEMAS:
        run(f"revoke all on all tables in schema {schema} from {_list(tuple(ROLES))}")
        run(f"revoke all on schema {schema} from {_list(tuple(ROLES))}")
    run(f"revoke all on public.alembic_version from {_list(tuple(ROLES))}")
    for role in (MARKETING, READER, OWNER, LOADER):
        run(
            f"""
            do $$ begin
                if not exists (select from pg_auth_members where roleid = '{role}'::regrole
                    and member not in (select oid from pg_roles where rolname in ('{OWNER}', current_user))) then
                    drop role {role};
                end if;
            exception when dependent_objects_still_exist or insufficient_privilege then null;
            end $$
            """
        )


def _join(connection: Connection) -> None:
    # Who gives away a table must be able to act as whom it is given to.
    connection.exec_driver_sql(
        f"""
        do $$ begin
            if not pg_has_role('{OWNER}', '{LOADER}', 'usage') then
                grant {LOADER} to {OWNER};
            end if;
            if not pg_has_role(current_user, '{OWNER}', 'usage') then
                execute format('grant {OWNER} to %%I', current_user);
            end if;
        end $$
        """
    )


def _scalar(connection: Connection, query: str) -> object:
    return connection.exec_driver_sql(query).scalar()


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
