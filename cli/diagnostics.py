"""The checks of `dwh doctor`: what can be wrong before a run starts, and how to correct it."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, Literal

import psycopg

from cli.table_checks import TableNote, examine_table, group_notes, note_view
from cli.tracking import answers
from warehouse import geoip
from warehouse.db.connections import OLDEST_SERVER, connect, format_version, without_password
from warehouse.db.schema_version import compare_revision, ensure_suitable, newest, revision_of
from warehouse.errors import SourceChanged, WarehouseError, counted
from warehouse.extract.catalog import read_mirrors, source_columns
from warehouse.extract.column import Column
from warehouse.extract.drift import find_drift as find_column_drift
from warehouse.extract.snapshot import check_readable, snapshot_of
from warehouse.extract.source_identity import SourceIdentity, captured_identity, check_same_source
from warehouse.feeds.landing import landing_folder
from warehouse.feeds.stage import columns_of
from warehouse.files import lake
from warehouse.files.locations import location_of
from warehouse.load.declaration_check import find_declaration_faults
from warehouse.model.contracts import read_contract
from warehouse.model.drift import find_drift
from warehouse.model.star import TARGETS
from warehouse.runs.alerts import Mailbox, send_test
from warehouse.settings import ENV_FILE, Settings
from warehouse.sources.registry import (
    PACKAGED,
    declared_feeds,
    read_source,
    refused_sources,
    sources_with_url,
)
from warehouse.sources.source import Entity, Source, Table
from warehouse.weblogs.files import landing
from warehouse.weblogs.reader import native

OLD_GEOIP: Final = timedelta(days=60)
MOST_DIFFERENCES: Final = 5
LOW_DISK, NO_DISK = 2 * 2**30, 200 * 2**20


@dataclass(frozen=True)
class Finding:
    """The result of one check: fine, worth a note, or wrong, with what to do about it."""

    about: str
    verdict: Literal["ok", "note", "wrong"]
    what: str
    hint: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Check databases, grants, contracts, sources, GeoIP file, lake, parser, mail and disk; changes nothing."""
    yield from _guarded("warehouse", _warehouse, settings)
    yield from _contracts()
    try:
        sources, feeds = sources_with_url(settings), declared_feeds(settings.sources)
        for name, error in refused_sources(settings.sources).items():
            yield Finding(f"source {name}", "wrong", error.what, error.hint)
    except WarehouseError as error:
        sources, feeds = [], []
        yield Finding("sources", "wrong", error.what, error.hint)
    for source in sources:
        yield from _guarded(f"source {source}", partial(_source, source), settings)
    for feed in feeds:
        yield from _guarded(f"feed {feed}", partial(_feed, feed), settings)
    yield from verification_findings(settings)
    yield from _env_file()
    yield from _guarded("GeoIP file", _geoip, settings)
    yield from _guarded("lake", _lake, settings)
    yield from _guarded("web logs", _weblog_parser, settings)
    yield from _guarded("mail", _mail, settings)
    yield from _guarded("disk", _disk, settings)


def verification_findings(settings: Settings) -> Iterator[Finding]:
    """Note if the settings do not allow every row to be verified within DWH_VERIFY_WITHIN."""
    if settings.scan_interval > settings.verify_within:
        yield Finding(
            "settings",
            "note",
            f"DWH_SCAN_INTERVAL ({settings.scan_interval}) is longer than DWH_VERIFY_WITHIN "
            f"({settings.verify_within}): "
            "large tables without an index on their cursor are verified too late, which is mailed.",
            "Shorten DWH_SCAN_INTERVAL, or lengthen DWH_VERIFY_WITHIN.",
        )


def check_prefect(local_api_url: str | None) -> Finding:
    """Check that the Prefect server of PREFECT_API_URL, else that of the local stack, answers."""
    api_url = os.environ.get("PREFECT_API_URL") or local_api_url
    if api_url is None:
        what = "No Prefect server is known: runs are recorded in the warehouse only."
        return Finding("Prefect", "note", what, "Run `dwh up`, or set PREFECT_API_URL.")
    if answers(api_url):
        return Finding("Prefect", "ok", f"{api_url} answers.")
    return Finding(
        "Prefect", "wrong", f"{api_url} does not answer.", "Run `dwh up`, or correct PREFECT_API_URL."
    )


def send_test_mail(settings: Settings) -> Finding:
    """Send a test mail, and report whether the mail server accepted it."""
    about = "test mail"
    try:
        mailbox = Mailbox.of(settings)
        if mailbox is None:
            return Finding(about, "wrong", "Mail is not configured.", "Set DWH_SMTP_URL and DWH_ALERT_TO.")
        url = settings.warehouse_url
        send_test(mailbox, url.get_secret_value() if url else None)
    except WarehouseError as error:
        return Finding(about, "wrong", error.what, error.hint)
    return Finding(about, "ok", f"{mailbox.place} accepted a test mail to {', '.join(mailbox.recipients)}.")


def _guarded(
    about: str, check: Callable[[Settings], Iterator[Finding]], settings: Settings
) -> Iterator[Finding]:
    try:
        yield from check(settings)
    except WarehouseError as error:
        yield Finding(about, "wrong", error.what, error.hint)
    except psycopg.Error as error:
        yield Finding(about, "wrong", str(error).strip())


# Tables that runs of another login have created, and that this login may neither alter nor drop.
_FOREIGN_TABLES: Final = """
    select relowner::regrole::text, array_agg(format('%I.%I', nspname, relname) order by nspname, relname)
    from pg_class inner join pg_namespace on pg_namespace.oid = relnamespace
    where nspname in ('raw', 'staging') and relkind in ('r', 'p') and not pg_has_role(relowner, 'usage')
    group by 1 order by 1
"""


def _warehouse(settings: Settings) -> Iterator[Finding]:
    with connect(settings.warehouse, autocommit=True) as connection:
        ensure_suitable(connection)
        yield _server("warehouse", connection, settings.warehouse)
        revision = revision_of(connection)
        if error := compare_revision(without_password(settings.warehouse), revision):
            yield Finding("warehouse", "wrong", error.what, error.hint)
        else:
            yield Finding("warehouse", "ok", f"Its schema matches this code (revision {revision}).")
            yield from _declared(connection, settings.time_zone)
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
        user, may_create_temporary, missing = row
        for right in missing:
            yield Finding(
                "warehouse", "wrong", f"User {user} is missing {right}.", f"grant {right} to {user};"
            )
        for owner, tables in connection.execute(_FOREIGN_TABLES).fetchall():
            yield Finding(
                "warehouse",
                "wrong",
                f"Tables that loads replace belong to {owner}, whose rights {user} has not: {', '.join(tables[:3])}"
                f"{f' and {len(tables) - 3:,} more' if len(tables) > 3 else ''}.",
                "Let that login, or an administrator of the server, run `dwh migrate`.",
            )
        if not may_create_temporary:
            hint = f"grant temporary on database {connection.info.dbname} to {user};"
            yield Finding("warehouse", "wrong", f"User {user} may not create temporary tables.", hint)


def _declared(connection: psycopg.Connection, time_zone: str | None) -> Iterator[Finding]:
    # Imports Alembic, which is slow and which only this check needs.
    from warehouse.migrations import declared

    differences = find_drift(connection)
    missing_tables = {one.table for one in differences if one.is_missing_table}
    drift = [
        Finding("warehouse", "wrong", f"Table {one}.", one.hint)
        for one in differences
        if one.is_missing_table or one.table not in missing_tables
    ]
    repairable = [
        Finding("warehouse", "wrong", f"{difference[0].upper()}{difference[1:]}.", "Run `dwh migrate`.")
        for difference in declared.differences(connection, time_zone)
    ]
    for findings, kinds in ((drift, "parts of tables"), (repairable, "views, functions, comments or grants")):
        yield from findings[:MOST_DIFFERENCES]
        if (more := len(findings) - MOST_DIFFERENCES) > 0:
            what = f"{more:,} more {kinds} are not as declared."
            yield Finding("warehouse", "wrong", what, findings[-1].hint)
    if not drift and not repairable:
        yield Finding("warehouse", "ok", "Its tables, views, functions, comments and grants are as declared.")


def _contracts() -> Iterator[Finding]:
    entities = (*(target.entity for target in TARGETS), "weblog")
    broken = 0
    for entity in entities:
        try:
            read_contract(entity)
        except WarehouseError as error:
            broken += 1
            yield Finding("contracts", "wrong", error.what, error.hint or f"Correct checks/{entity}.yml.")
    if not broken:
        yield Finding(
            "contracts", "ok", f"All {len(entities)} can be read, and each has a rule at level fail."
        )


def _source(name: str, settings: Settings) -> Iterator[Finding]:
    about, url = f"source {name}", settings.source_url(name)
    source = read_source(name, settings.sources)
    for entity in source.entities.values():
        yield from relaxed_findings(about, entity)
    with snapshot_of(name, url) as (connection, snapshot):
        yield _server(about, connection, url)
        yield _identity(name, snapshot.identity, settings)
        if snapshot.identity.system_identifier is None:
            yield Finding(
                about,
                "note",
                "Its cluster cannot be identified: another one would be recognised by its database and counters only.",
                f"grant execute on function pg_control_system(), pg_control_checkpoint() to {connection.info.user};",
            )
        yield from _open_transactions(about, connection)
        table_findings = list(_tables(about, connection, source.tables))
        yield from table_findings
        if all(finding.verdict != "wrong" for finding in table_findings):
            columns = {table: source_columns(connection, table) for table in source.tables}
            changed = list(_changed_tables(about, columns, settings.warehouse))
            yield from changed
            if not changed:
                yield Finding(about, "ok", f"All {len(source.tables)} tables can be captured.")
            yield from _conform_sql(about, source, columns, settings.warehouse)


def _changed_tables(
    about: str, columns: Mapping[Table, Sequence[Column]], warehouse: str
) -> Iterator[Finding]:
    """Tables whose columns were changed since they were read last, so that the next run stops."""
    with connect(warehouse) as connection:
        if revision_of(connection) != newest():
            return
        mirrors = read_mirrors(connection, list(columns))
    for mirror, (table, present_columns) in zip(mirrors, columns.items(), strict=True):
        try:
            find_column_drift(mirror, table, present_columns)
        except WarehouseError as error:
            yield Finding(about, "wrong", error.what, error.hint)


def _feed(name: str, settings: Settings) -> Iterator[Finding]:
    about = f"feed {name}"
    source = read_source(name, settings.sources)
    no_files = lake.what_is_missing(landing_folder(settings.lake, source))
    if no_files and source.folder is not None and source.folder.parent == PACKAGED:
        # A feed that comes with dwh and has no landing folder is not in use.
        return
    if no_files:
        yield Finding(about, "note", f"{no_files}: the feed is not loaded by `dwh run daily`.", "Create it.")
    source.record_contract()
    for entity in source.entities.values():
        yield from relaxed_findings(about, entity)
    columns = {table: columns_of(source, table, table.columns) for table in source.tables}
    yield from _conform_sql(about, source, columns, settings.warehouse)


def _conform_sql(
    about: str, source: Source, columns: Mapping[Table, Sequence[Column]], warehouse: str
) -> Iterator[Finding]:
    with connect(warehouse) as connection:
        if revision_of(connection) != newest():
            return
        # A load may hold locks on these tables: do not wait long for it, and do not make it wait for us.
        connection.execute("set lock_timeout = '2s'")
        try:
            faults = find_declaration_faults(connection, source, columns)
        except psycopg.errors.LockNotAvailable:
            yield Finding(about, "note", "It is being loaded: its SQL was not checked.", "Ask again later.")
            return
    for error in faults:
        yield Finding(about, "wrong", error.what, error.hint)
    if not faults:
        what = f"SQL and joins of its {len(source.entities)} entities follow all that they read."
        yield Finding(about, "ok", what)


def _identity(source: str, now: SourceIdentity, settings: Settings) -> Finding:
    about = f"source {source}"
    try:
        with connect(settings.warehouse) as warehouse:
            if revision_of(warehouse) != newest():
                return Finding(about, "ok", f"It is {now}.")
            before = captured_identity(warehouse, source)
        check_same_source(source, before, now)
    except SourceChanged as error:
        return Finding(about, "wrong", error.what, error.hint)
    except WarehouseError:
        # The check of the warehouse reports its own errors.
        return Finding(about, "ok", f"It is {now}.")
    return Finding(about, "ok", f"It is {now}{', as when it was read last' if before else ''}.")


def relaxed_findings(about: str, entity: Entity) -> Iterator[Finding]:
    """Note each rule of the contract that is relaxed for this source, with the reason."""
    try:
        contract = entity.contract()
    except WarehouseError as error:
        yield Finding(about, "wrong", error.what, error.hint)
        return
    for rule, reason in contract.relaxed.items():
        yield Finding(about, "note", f"Rule '{rule}' of {entity.name} is relaxed: {reason}")


def _tables(about: str, connection: psycopg.Connection, tables: Sequence[Table]) -> Iterator[Finding]:
    """Report the tables that cannot be captured, and notes on the others, one line for each kind of note."""
    notes: list[TableNote] = []
    for table in tables:
        try:
            has_transaction_ids = check_readable(connection, table)
            source_columns(connection, table)
        except WarehouseError as error:
            yield Finding(about, "wrong", error.what, error.hint)
            continue
        notes += examine_table(connection, table) if has_transaction_ids else [note_view(table)]
    for what, hint in group_notes(notes):
        yield Finding(about, "note", what, hint)


def _open_transactions(about: str, connection: psycopg.Connection) -> Iterator[Finding]:
    """Note if this login cannot see since when transactions of the source are open."""
    row = connection.execute(
        "select pg_has_role('pg_read_all_stats', 'usage'), current_setting('track_activities')::boolean"
    ).fetchone()
    assert row is not None
    may_read, is_tracked = row
    if not may_read:
        yield Finding(
            about,
            "note",
            "It does not show since when transactions are open: rows of large tables that are committed later than "
            "DWH_LATE_COMMIT_WINDOW are found by verification only.",
            f"grant pg_read_all_stats to {connection.info.user};",
        )
    elif not is_tracked:
        yield Finding(
            about,
            "note",
            "track_activities is off: rows of large tables that are committed later than DWH_LATE_COMMIT_WINDOW are "
            "found by verification only.",
            "alter system set track_activities = on; select pg_reload_conf();",
        )


def _server(about: str, connection: psycopg.Connection, url: str) -> Finding:
    version = connection.info.server_version
    what = f"{without_password(url)} answers, PostgreSQL {format_version(version)}."
    if version < OLDEST_SERVER:
        hint = f"It is read all the same; what is tested are {format_version(OLDEST_SERVER)} and newer."
        return Finding(about, "note", what, hint)
    return Finding(about, "ok", what)


def _geoip(settings: Settings) -> Iterator[Finding]:
    path = geoip.path_of(settings)
    is_missing = settings.geoip_path is None and not path.exists()
    if is_missing and (no_logs := lake.what_is_missing(landing.landing_folder(settings))):
        what = f"There is none at {path}, and no web logs that need it: {no_logs}."
        yield Finding("GeoIP file", "note", what, "Before you load web logs: `dwh geoip update`.")
        return
    countries = geoip.read(path)
    what = f"{path} ({countries}) knows {countries.check()} countries."
    if datetime.now(UTC) - countries.built_at > OLD_GEOIP and path != settings.home / geoip.DEMO:
        hint = "Run `dwh geoip update`, then `dwh run reclassify`: addresses change countries."
        yield Finding("GeoIP file", "note", f"{what} It is older than {OLD_GEOIP.days} days.", hint)
    else:
        yield Finding("GeoIP file", "ok", what)


def _lake(settings: Settings) -> Iterator[Finding]:
    folder = landing.landing_folder(settings)
    if missing := lake.what_is_missing(folder):
        can_be_created = (
            isinstance(folder, Path) and not folder.exists() and not Path(settings.lake).is_file()
        )
        hint = f"mkdir -p {folder}" if can_be_created else "Is DWH_LAKE correct?"
        yield Finding("lake", "note", f"{missing}: no web logs will be loaded.", hint)
        return
    landed = landing.discover(settings)
    yield Finding("lake", "ok", f"{folder} holds {counted(len(landed.files), 'web log file')}.")
    for file in landed.unread:
        if file.status != "ignored":
            yield Finding("lake", "note", f"{file.path} {file.reason}: it is not read.", file.hint)


def _weblog_parser(_: Settings) -> Iterator[Finding]:
    if native.fault is not None:
        yield Finding("web logs", "note", native.fault.what, native.fault.hint)
    else:
        yield Finding("web logs", "ok", "The compiled parser reads them.")


def _mail(settings: Settings) -> Iterator[Finding]:
    mailbox = Mailbox.of(settings)
    if mailbox is None:
        hint = "Set DWH_SMTP_URL and DWH_ALERT_TO."
        yield Finding("mail", "note", "DWH_SMTP_URL is not set: no mail is sent.", hint)
        return
    try:
        with mailbox.open():
            pass
    except OSError as error:
        hint = "Correct DWH_SMTP_URL, or ask who runs that server; SSL_CERT_FILE names certificates to trust."
        yield Finding("mail", "wrong", f"The mail server {mailbox.place} refuses: {error}.", hint)
    else:
        hint = "`dwh doctor --send-mail` sends a test mail."
        yield Finding("mail", "ok", f"The mail server {mailbox.place} answers.", hint)


def _env_file() -> Iterator[Finding]:
    """Note if others than its owner can read .env, which may hold passwords."""
    if ENV_FILE.is_file() and ENV_FILE.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        what = f"{ENV_FILE} can be read by others than its owner: it may hold passwords."
        yield Finding(".env", "note", what, f"chmod 600 {ENV_FILE}")


def _disk(settings: Settings) -> Iterator[Finding]:
    folders = [settings.home]
    if isinstance(location := location_of(settings.lake), Path):
        folders.append(location)
    for folder in dict.fromkeys(map(_existing, folders)):
        free = shutil.disk_usage(folder).free
        what = f"{free / 2**30:,.1f} GiB are free on the disk of {folder}."
        if free < NO_DISK:
            yield Finding("disk", "wrong", what, "Free some space before the next run.")
        else:
            yield Finding("disk", "note" if free < LOW_DISK else "ok", what)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
