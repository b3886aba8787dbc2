"""Write the reports into a schema of another PostgreSQL: its tables are replaced in one transaction."""

import time
from typing import Final

import psycopg
from psycopg import IsolationLevel, sql

from warehouse.db.connections import connect, without_password
from warehouse.db.identifiers import definitions, listed
from warehouse.db.schema_version import ensure_migrated
from warehouse.errors import WarehouseError
from warehouse.export.tables import shown
from warehouse.extract.copy_stream import copy_stream
from warehouse.model.mart import Mart, answers
from warehouse.runs.audit import Load, Run

SETTING: Final = "DWH_EXPORT_URL"
SCHEMA: Final = "dwh_report"
# By this comment a schema is known as ours: no other is written to.
COMMENT: Final = "Reports of the warehouse. Its tables are replaced by each export; keep your own elsewhere."
_NEW: Final = "{} (new)"


class ReportsNotWritten(WarehouseError):
    """The reports cannot be written into the other database."""


def export_reports(run: Run, url: str) -> tuple[Load, ...]:
    """Replace the reports in schema `dwh_report` of the database at `url`; privileges on its tables stay.

    Raises:
        ConnectionFailed, AccessRefused: the database cannot be reached; the message has no password.
        ReportsNotWritten: the schema is another's, or something there depends on its tables.
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
                loads = tuple(_copy(warehouse, target, mart) for mart in answers())
                # Readers see the old tables until this transaction commits, and wait for no more than what follows.
                _swap(target)
        except psycopg.errors.DependentObjectsStillExist as error:
            raise ReportsNotWritten(
                f"The tables in {place} cannot be replaced: {error.diag.message_detail}.",
                hint="Move that view to a query of its own, or drop it. The reports there are those of before.",
            ) from None
        except psycopg.errors.InsufficientPrivilege as error:
            raise ReportsNotWritten(
                f"The reports cannot be written into {place}: {error.diag.message_primary}.",
                hint=f"Grant that user: create on database, or make it the owner of schema {SCHEMA}.",
            ) from None
    return loads


def _own_schema(target: psycopg.Connection, place: str) -> None:
    """Create the schema, or refuse one that is not ours."""
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


def _copy(warehouse: psycopg.Connection, target: psycopg.Connection, mart: Mart) -> Load:
    """Copy a report into a table beside the old one."""
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
    target.execute(sql.SQL("comment on table {} is {}").format(table, sql.Literal(mart.description)))
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


def _swap(target: psycopg.Connection) -> None:
    """Drop the old tables, give the new ones their names, and the privileges that the old ones had."""
    tables = target.execute(
        "select relname from pg_class where relnamespace = %s::regnamespace and relkind = 'r'", [SCHEMA]
    ).fetchall()
    names = [mart.name for mart in answers()]
    privileges = target.execute(_PRIVILEGES, [SCHEMA, names]).fetchall()
    new = {_NEW.format(name): name for name in names}
    for (table,) in tables:
        if table not in new:
            target.execute(sql.SQL("drop table {}").format(sql.Identifier(SCHEMA, table)))
    for draft, name in new.items():
        target.execute(
            sql.SQL("alter table {} rename to {}").format(sql.Identifier(SCHEMA, draft), sql.Identifier(name))
        )
    for (statement,) in privileges:
        target.execute(statement.encode())


_PRIVILEGES = """
    select format(
        'grant %%s on %%I.%%I to %%s%%s', entry.privilege_type, relnamespace::regnamespace, relname,
        case when entry.grantee = 0 then 'public' else entry.grantee::regrole::text end,
        case when entry.is_grantable then ' with grant option' else '' end
    )
    from pg_class cross join lateral aclexplode(relacl) as entry
    where relnamespace = %s::regnamespace and relkind = 'r' and relname = any(%s) and entry.grantee <> relowner
"""
