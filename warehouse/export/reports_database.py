"""Write the reports to a schema of another PostgreSQL, whose tables are replaced in one transaction."""

import time
from collections.abc import Callable, Sequence
from typing import Final

import psycopg
from psycopg import IsolationLevel, sql

from warehouse.db.connections import connect, without_password
from warehouse.db.identifiers import definitions, listed
from warehouse.db.lock_holder import find_holder
from warehouse.db.schema_version import ensure_migrated
from warehouse.errors import WarehouseError
from warehouse.export.tables import shown
from warehouse.extract.copy_stream import copy_stream
from warehouse.model.mart import Mart, answers
from warehouse.runs.audit import Load, Run

SETTING: Final = "DWH_EXPORT_URL"
SCHEMA: Final = "dwh_report"
# This comment marks the schema as ours. An export writes to no schema without it.
COMMENT: Final = "Reports of the warehouse. Its tables are replaced by each export; keep your own elsewhere."
_NEW: Final = "{} (new)"
# Lock timeout of one attempt. New readers queue behind a waiting lock: a pause between attempts lets them through.
_ATTEMPT: Final = "1s"
_PAUSE_SECONDS: Final = 1.0
# A table whose comment ends with this text was made by an export, which may drop it.
MARK: Final = "Replaced by each export of the warehouse."


class ReportsNotWritten(WarehouseError):
    """The reports cannot be written into the other database."""


def export_reports(
    run: Run, url: str, log: Callable[[str], None] = lambda _: None, wait_seconds: float = 60
) -> tuple[Load, ...]:
    """Replace the reports in schema `dwh_report` of the database at `url`; privileges on its tables stay.

    Raises:
        ConnectionFailed, AccessRefused: the database cannot be reached; the message has no password.
        ReportsNotWritten: the schema or a table of a report's name was not made by an export, other objects depend on
            its tables, or a session has locked one of them for `wait_seconds`.
    """
    ensure_migrated(run.warehouse_url)
    with (
        connect(url, application_name="dwh export", setting=SETTING) as target,
        connect(run.warehouse_url) as warehouse,
    ):
        warehouse.isolation_level, warehouse.read_only = IsolationLevel.REPEATABLE_READ, True
        place = f"schema {SCHEMA} of {without_password(url)}"
        try:
            with warehouse.transaction(), target.transaction():
                _own_schema(target, place)
                old = _own_tables(target, place)
                loads = tuple(_copy(warehouse, target, mart) for mart in answers())
                # Lock only now, with all rows copied: readers use the old tables until then and wait only for the swap.
                _lock(target, old, place, log, wait_seconds)
                _swap(target, old)
        except psycopg.errors.DependentObjectsStillExist as error:
            raise ReportsNotWritten(
                f"The tables in {place} cannot be replaced: {error.diag.message_detail}.",
                hint="Drop it, or let it use a copy of that table. The reports there are those of before.",
            ) from None
        except psycopg.errors.InsufficientPrivilege as error:
            raise ReportsNotWritten(
                f"The reports cannot be written into {place}: {error.diag.message_primary}.",
                hint=f"Grant that user: create on database, or make it the owner of schema {SCHEMA}.",
            ) from None
    return loads


def _own_schema(target: psycopg.Connection, place: str) -> None:
    """Create the schema; raise an error if it exists and no export has made it."""
    row = target.execute(
        "select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = %s", [SCHEMA]
    ).fetchone()
    if row is None:
        target.execute(
            sql.SQL("create schema {schema}; comment on schema {schema} is {comment}").format(
                schema=sql.Identifier(SCHEMA), comment=sql.Literal(COMMENT)
            )
        )
    elif row != (COMMENT,):
        raise ReportsNotWritten(
            f"There is a {place}, and no export has made it.",
            hint="Rename it, or name another database: dwh export --to URL.",
        )


def _own_tables(target: psycopg.Connection, place: str) -> list[str]:
    """Return the tables that exports have made, including those of reports that are no longer declared.

    Raises:
        ReportsNotWritten: another table has the name of a report.
    """
    names = {mart.name for mart in answers()}
    taken = {*names, *map(_NEW.format, names)}
    own = []
    for name, is_table, comment in target.execute(
        "select relname, relkind = 'r', coalesce(obj_description(oid, 'pg_class'), '') from pg_class "
        "where relnamespace = %(schema)s::regnamespace "
        # Include types: creating a table also creates a type of its name, which fails beside an enum or domain.
        "union all select typname, false, '' from pg_type "
        "where typnamespace = %(schema)s::regnamespace and typrelid = 0 and typcategory <> 'A'",
        {"schema": SCHEMA},
    ):
        # Earlier releases did not add the mark to the comment.
        if is_table and (comment.endswith(MARK) or (comment and name in names)):
            own.append(name)
        elif name in taken:
            raise ReportsNotWritten(
                f"There is a {name} in {place}, as a report is called, and no export has made it.",
                hint="Rename it, or move it to another schema.",
            )
    return own


def _copy(warehouse: psycopg.Connection, target: psycopg.Connection, mart: Mart) -> Load:
    """Copy a report into a new table next to the old one."""
    started = time.monotonic()
    view = f"mart.{shown(mart)}"
    columns = warehouse.execute(
        """
        select attname, format_type(atttypid, atttypmod) from pg_attribute
        where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum
        """,
        [view],
    ).fetchall()
    table = sql.Identifier(SCHEMA, _NEW.format(mart.name))
    names = [name for name, _ in columns]
    target.execute(
        sql.SQL("create table {} ({})").format(table, definitions(dict(columns))),
    )
    comment = sql.Literal(f"{mart.description} {MARK}")
    target.execute(sql.SQL("comment on table {} is {}").format(table, comment))
    for name in names:
        if text := mart.columns.get(name):
            target.execute(
                sql.SQL("comment on column {}.{} is {}").format(
                    table, sql.Identifier(name), sql.Literal(text)
                )
            )
    rows = copy_stream(
        warehouse,
        sql.SQL("copy (select {} from {}) to stdout (format binary)").format(
            listed(names), sql.Identifier(*view.split("."))
        ),
        target,
        sql.SQL("copy {} ({}) from stdin (format binary)").format(table, listed(names)),
    )
    return Load(SCHEMA, mart.name, rows_read=rows, seconds=round(time.monotonic() - started, 3))


def _lock(
    target: psycopg.Connection,
    tables: Sequence[str],
    place: str,
    log: Callable[[str], None],
    wait_seconds: float,
) -> None:
    """Lock the tables to be replaced, in short attempts, so that no reader waits long in the lock queue.

    Raises:
        ReportsNotWritten: another session, named in the message, still uses one of them after `wait_seconds`.
    """
    if not tables:
        return
    names = sql.SQL(", ").join(sql.Identifier(SCHEMA, name) for name in tables)
    give_up_at = time.monotonic() + wait_seconds
    named: str | None = None
    while True:
        try:
            with target.transaction():
                target.execute(f"set local lock_timeout = '{_ATTEMPT}'".encode())
                target.execute(sql.SQL("lock table {} in access exclusive mode").format(names))
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            pass
        holder = find_holder(
            target,
            "held.granted and held.pid is distinct from pg_backend_pid() "
            "and nspname = %(schema)s and relname = any(%(names)s)",
            {"schema": SCHEMA, "names": list(tables)},
        )
        if time.monotonic() >= give_up_at:
            raise ReportsNotWritten(
                f"The tables in {place} cannot be replaced: "
                + (f"{holder.relation} is locked by {holder}" if holder else "one of them is locked")
                + f", and was for all of the {wait_seconds:,.0f} s that this run waited.",
                hint="Wait for it to end and run again, or end it there"
                + (f": {holder.ending}. " if holder else ". ")
                + "The reports there are those of before.",
            )
        if holder is not None and holder.ending != named:
            named = holder.ending
            log(f"waiting up to {wait_seconds:,.0f} s for {holder.relation}, which is locked by {holder}")
        time.sleep(_PAUSE_SECONDS)


def _swap(target: psycopg.Connection, old: Sequence[str]) -> None:
    """Drop the old tables, rename the new ones, and grant them the old ones' privileges."""
    names = [mart.name for mart in answers()]
    privileges = target.execute(_PRIVILEGES, {"schema": SCHEMA, "names": names}).fetchall()
    for table in old:
        target.execute(sql.SQL("drop table {}").format(sql.Identifier(SCHEMA, table)))
    for name in names:
        draft = sql.Identifier(SCHEMA, _NEW.format(name))
        target.execute(sql.SQL("alter table {} rename to {}").format(draft, sql.Identifier(name)))
    for (statement,) in privileges:
        target.execute(statement.encode())


# Grants on tables, and on columns that the report still has.
_PRIVILEGES = """
    select format(
        'grant %%s%%s on %%I.%%I to %%s%%s', entry.privilege_type, ' (' || quote_ident(granted.attname) || ')',
        relnamespace::regnamespace, relname,
        case when entry.grantee = 0 then 'public' else entry.grantee::regrole::text end,
        case when entry.is_grantable then ' with grant option' else '' end
    )
    from pg_class
    cross join lateral (
        select null as attname, relacl as acl
        union all
        select attname, attacl from pg_attribute as old
        where attrelid = pg_class.oid and not attisdropped and exists (
            select from pg_attribute as new
            where new.attrelid = to_regclass(format('%%I.%%I', %(schema)s::text, relname || ' (new)'))
                and new.attname = old.attname
        )
    ) as granted
    cross join lateral aclexplode(granted.acl) as entry
    where relnamespace = %(schema)s::regnamespace and relkind = 'r' and relname = any(%(names)s)
        and entry.grantee <> relowner
"""
