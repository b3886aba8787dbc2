"""Everything that can be wrong before a run starts: what it is, and how to mend it."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

import psycopg

from warehouse import geoip
from warehouse.db.connections import connect, without_password
from warehouse.db.schema_version import newest, revision_of
from warehouse.errors import WarehouseError
from warehouse.extract.catalog import source_columns
from warehouse.extract.snapshot import check_readable, snapshot_of
from warehouse.files import lake
from warehouse.files.locations import location_of
from warehouse.runs.alerts import Mailbox
from warehouse.settings import Settings
from warehouse.sources.declaration import Source, Table, read_source
from warehouse.weblogs.reader import native
from warehouse.weblogs.reader.traffic_rules import read_traffic_rules

OLDEST_SERVER: Final = 160000
OLD_GEOIP: Final = timedelta(days=60)
MOST_DIFFERENCES: Final = 5
LITTLE_DISK, NO_DISK = 2 * 2**30, 200 * 2**20


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: fine, worth a note, or wrong, with what to do about it."""

    about: str
    verdict: Literal["ok", "note", "wrong"]
    what: str
    hint: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at databases, grants, source tables, GeoIP file, lake, parser, mail and disk in turn; changes nothing."""
    for about, look in (
        ("warehouse", _warehouse),
        ("source", _source),
        ("GeoIP file", _geoip),
        ("lake", _lake),
        ("web logs", _weblog_parser),
        ("mail", _mail),
        ("disk", _disk),
    ):
        yield from _guarded(about, look, settings)


def _guarded(
    about: str, look: Callable[[Settings], Iterator[Finding]], settings: Settings
) -> Iterator[Finding]:
    try:
        yield from look(settings)
    except WarehouseError as error:
        yield Finding(about, "wrong", error.what, error.hint)
    except psycopg.Error as error:
        yield Finding(about, "wrong", str(error).strip())


def _warehouse(settings: Settings) -> Iterator[Finding]:
    with connect(settings.warehouse, autocommit=True) as connection:
        yield _server("warehouse", connection, settings.warehouse)
        revision = revision_of(connection)
        if revision == newest():
            yield Finding("warehouse", "ok", f"Its tables are those of this code (revision {revision}).")
            yield from _declared(connection)
        else:
            what = f"It is at revision {revision or 'none'}; this code needs {newest()}."
            yield Finding("warehouse", "wrong", what, "Run `dwh migrate`.")
        row = connection.execute(
            """
            select current_user, has_database_privilege(current_database(), 'temporary'),
                array(
                    select privilege.name || ' on schema ' || schema.name
                    from unnest(array['raw', 'staging', 'dwh', 'mart', 'audit']) as schema (name)
                    cross join unnest(array['usage', 'create']) as privilege (name)
                    where to_regnamespace(schema.name) is not null
                        and (privilege.name = 'usage' or schema.name in ('raw', 'staging', 'dwh'))
                        and not has_schema_privilege(schema.name, privilege.name)
                )
            """
        ).fetchone()
        assert row is not None
        user, may_make_temporary, lacking = row
        for right in lacking:
            yield Finding("warehouse", "wrong", f"User {user} lacks {right}.", f"grant {right} to {user};")
        if not may_make_temporary:
            advice = f"grant temporary on database {connection.info.dbname} to {user};"
            yield Finding("warehouse", "wrong", f"User {user} may not make temporary tables.", advice)


def _declared(connection: psycopg.Connection) -> Iterator[Finding]:
    # Alembic is heavy, and of the checks this one alone needs it.
    from warehouse.migrations import declared

    differences = list(declared.differences(connection))
    for difference in differences[:MOST_DIFFERENCES]:
        yield Finding("warehouse", "wrong", f"{difference[0].upper()}{difference[1:]}.", "Run `dwh migrate`.")
    if (more := len(differences) - MOST_DIFFERENCES) > 0:
        what = f"{more:,} more tables, views, comments or grants are not as declared."
        yield Finding("warehouse", "wrong", what, "Run `dwh migrate`.")
    if not differences:
        yield Finding("warehouse", "ok", "Its views, functions, comments and grants are as declared.")


def _source(settings: Settings) -> Iterator[Finding]:
    source = read_source(settings.source)
    with snapshot_of(settings.captured) as (connection, snapshot):
        yield _server("source", connection, settings.captured)
        if snapshot.system_identifier is None:
            yield Finding(
                "source",
                "note",
                "Its identity cannot be read, so that a failover or restore would go unnoticed.",
                f"grant execute on function pg_control_system(), pg_control_checkpoint() to {connection.info.user};",
            )
        broken = 0
        for table in source.tables:
            for finding in _table(connection, source, table):
                broken += finding.verdict == "wrong"
                yield finding
        if not broken:
            yield Finding(
                "source", "ok", f"All {len(source.tables)} tables of '{source.name}' can be captured."
            )


def _table(connection: psycopg.Connection, source: Source, table: Table) -> Iterator[Finding]:
    try:
        check_readable(connection, table)
        source_columns(connection, table)
    except WarehouseError as error:
        yield Finding("source", "wrong", error.what, error.hint)
        return
    row = connection.execute(
        """
        select
            exists (
                select from pg_index as key
                where key.indrelid = relation.oid and key.indisunique and key.indpred is null and key.indisvalid
                    and (
                        select array_agg(attribute.attname::text order by attribute.attname::text)
                        from pg_attribute as attribute
                        where attribute.attrelid = relation.oid and attribute.attnum = any(key.indkey)
                    ) = %(key)s
            ),
            exists (
                -- Before each updated row: 1 row, 2 before, 16 update.
                select from pg_trigger as trigger
                where trigger.tgrelid = relation.oid and not trigger.tgisinternal
                    and trigger.tgenabled in ('O', 'A') and trigger.tgtype & 19 = 19
            )
        from pg_class as relation
        where relation.oid = to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text))
        """,
        {"key": sorted(table.key), "schema": table.schema, "name": table.name},
    ).fetchone()
    assert row is not None
    is_unique, has_trigger = row
    key = ", ".join(table.key)
    if not is_unique:
        yield Finding(
            "source",
            "wrong",
            f"Nothing keeps ({key}) of {table} unique, which '{source.name}' declares as its key.",
            f"create unique index concurrently on {table} ({key});",
        )
    if table.cursor and not has_trigger:
        yield Finding(
            "source",
            "note",
            f"No trigger of {table} sets {table.cursor}: updates that forget it are found by transaction id alone.",
            f"Add a trigger before update that sets {table.cursor}.",
        )


def _server(about: str, connection: psycopg.Connection, url: str) -> Finding:
    version = connection.info.server_version
    said = f"{without_password(url)} answers, PostgreSQL {version // 10000}.{version % 10000}."
    if version < OLDEST_SERVER:
        return Finding(about, "wrong", said, "Use PostgreSQL 16 or newer.")
    return Finding(about, "ok", said)


def _geoip(settings: Settings) -> Iterator[Finding]:
    path = geoip.path_of(settings)
    countries = geoip.read(path)
    said = f"{path} ({countries}) tells {len(countries.codes) - 1} countries."
    if datetime.now(UTC) - countries.built_at > OLD_GEOIP and path != settings.home / geoip.DEMO:
        advice = "`dwh geoip update`, then `dwh run reclassify`: addresses move."
        yield Finding("GeoIP file", "note", f"{said} It is older than {OLD_GEOIP.days} days.", advice)
    else:
        yield Finding("GeoIP file", "ok", said)


def _lake(settings: Settings) -> Iterator[Finding]:
    rules = read_traffic_rules()
    folder = lake.folder(settings.lake, rules.landing)
    if missing := lake.what_is_missing(folder):
        can_be_made = isinstance(folder, Path) and not folder.exists() and not Path(settings.lake).is_file()
        advice = f"mkdir -p {folder}" if can_be_made else "Is DWH_LAKE right?"
        yield Finding("lake", "note", f"{missing}: no web logs will be loaded.", advice)
        return
    files = lake.discover(folder, rules.ignore)
    yield Finding("lake", "ok", f"{folder} holds {len(files)} web log files.")


def _weblog_parser(_: Settings) -> Iterator[Finding]:
    if native.library is None:
        yield Finding("web logs", "note", native.SLOW_PARSER, native.INSTALL_COMPILER)
    else:
        yield Finding("web logs", "ok", "The compiled parser reads them.")


def _mail(settings: Settings) -> Iterator[Finding]:
    mailbox = Mailbox.of(settings)
    if mailbox is None:
        advice = "Set DWH_SMTP_URL and DWH_ALERT_TO."
        yield Finding("mail", "note", "DWH_SMTP_URL is not set: nobody is mailed.", advice)
        return
    try:
        with mailbox.open():
            pass
    except OSError as error:
        advice = "Mend DWH_SMTP_URL, or ask who runs that server; SSL_CERT_FILE names certificates to trust."
        yield Finding("mail", "wrong", f"The mail server {mailbox.place} refuses: {error}.", advice)
    else:
        advice = "`dwh doctor --send-mail` sends a test."
        yield Finding("mail", "ok", f"The mail server {mailbox.place} answers.", advice)


def _disk(settings: Settings) -> Iterator[Finding]:
    folders = [settings.home]
    if isinstance(location := location_of(settings.lake), Path):
        folders.append(location)
    for folder in dict.fromkeys(map(_existing, folders)):
        free = shutil.disk_usage(folder).free
        said = f"{free / 2**30:,.1f} GiB are free where {folder} is."
        if free < NO_DISK:
            yield Finding("disk", "wrong", said, "Make room before the next run.")
        else:
            yield Finding("disk", "note" if free < LITTLE_DISK else "ok", said)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(way for way in (folder, *folder.parents) if way.exists())
