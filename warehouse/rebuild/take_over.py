"""Let an empty warehouse take over the archive of a lost one: restore its runs, quarantine and watermarks."""

import json
from collections.abc import Callable, Sequence
from typing import Final

import psycopg
from psycopg import sql

from warehouse.archive.changed_rows import AUDIT_TABLES
from warehouse.archive.delta import application
from warehouse.archive.place import Archive, table_path
from warehouse.db.connections import connect
from warehouse.db.identifiers import listed
from warehouse.db.locks import transaction_lock
from warehouse.db.schema_version import ensure_migrated
from warehouse.files.locations import files_below
from warehouse.history.change_log import STAR_LOCK
from warehouse.rebuild.archived_rows import read_rows
from warehouse.rebuild.captured_table import CapturedTable, manifest_of
from warehouse.rebuild.last_rows import read_trail
from warehouse.rebuild.tables import continue_sequences

# Not restored: file_part belongs to web logs, which are loaded again from their files.
_LEFT_OUT: Final = ("file_part",)
LOST: Final = (
    "Not in the archive, and lost: the change log (undo and as-of of runs so far), results of checks and "
    "verifications, mails, verified key ranges."
)


def take_over(url: str, archive: Archive, progress: Callable[[str], None] = lambda _: None) -> bool:
    """Take over the archive's newest warehouse if this one has never loaded anything. Returns whether it did.

    It is one transaction: if it is killed, nothing has changed.
    """
    ensure_migrated(url)
    with connect(url, application_name="dwh rebuild") as connection:
        transaction_lock(connection, STAR_LOCK)
        if (
            connection.execute("select from audit.watermark limit 1").rowcount
            or archive.open("audit/run") is None
        ):
            return False
        if connection.execute("select from audit.load limit 1").rowcount:
            return False
        lost = _newest_warehouse(archive)
        connection.execute("update audit.archive set warehouse_id = %s", [lost])
        # Delete runs of failed attempts: they have loaded nothing.
        connection.execute("delete from audit.run")
        captured = manifest_of(connection, archive, lost)
        for name in AUDIT_TABLES:
            if name not in _LEFT_OUT:
                _restore(connection, archive, lost, name)
        # Mark all runs as pruned: without the change log they cannot be undone.
        connection.execute("update audit.run set pruned_at = clock_timestamp()")
        # A run is archived when it publishes, before it ends: set its end.
        connection.execute(_END_PUBLISHED.encode())
        behind = _forget_watermarks_ahead(connection, archive, lost, captured)
        _continue_archive(connection, archive, lost, captured)
        connection.commit()
    progress(
        f"The warehouse is empty: it takes over {archive.root}, which was written by warehouse {lost}. {LOST}"
    )
    for name in behind:
        progress(
            f"{name}: its last batches did not reach the archive; the next run reads the table as a whole"
        )
    return True


_END_PUBLISHED: Final = """
    update audit.run set status = 'succeeded', ended_at = published.loaded_at
    from (select run_id, max(loaded_at) as loaded_at from audit.load group by run_id) as published
    where run.run_id = published.run_id and run.status = 'running'
"""


def _newest_warehouse(archive: Archive) -> str:
    """Return the id of the warehouse that wrote to the archive last."""
    table = archive.open("audit/run")
    assert table is not None
    rows = table.to_pyarrow_table(columns=["_warehouse_id", "_captured_at"])
    newest = rows.sort_by([("_captured_at", "descending")])
    return str(newest.column("_warehouse_id")[0].as_py())


# Paths are unique. Archives of before have both files where an undo gave a path back to an earlier one: it did not
# archive that the later one, of which nothing is loaded any more, had lost it.
_FREE_PATHS: Final = """
    update pg_temp.restored_file as file set status = 'replaced'
    where status = 'partial' and size_bytes = -1 and exists (
        select from pg_temp.restored_file as other
        where other.feed = file.feed and other.path = file.path and other.file_id <> file.file_id
            and other.status <> 'replaced'
    )
"""


def _restore(connection: psycopg.Connection, archive: Archive, own: str, name: str) -> None:
    """Insert the archived rows of a table of the audit trail."""
    built = read_trail(connection, archive, own, name)
    if built is None:
        return
    types, key, rows = built
    if name == "file":
        connection.execute(sql.SQL("create temp table restored_file on commit drop as {}").format(rows))
        connection.execute(_FREE_PATHS.encode())
        rows = sql.SQL("select {} from pg_temp.restored_file").format(listed(list(types)))
    connection.execute(
        sql.SQL("insert into {} ({}) overriding system value {}").format(
            sql.Identifier("audit", name), listed(list(types)), rows
        )
    )
    if len(key) == 1 and types[key[0]] in ("bigint", "integer"):
        continue_sequences(connection, "audit", name, key[0], 0)


def _continue_archive(
    connection: psycopg.Connection, archive: Archive, own: str, captured: Sequence[CapturedTable]
) -> None:
    """Restore audit.archive_table from the archive, and continue its batch ids."""
    connection.execute("delete from audit.archive_table")
    by_path = {table_path(one.source, one.name): one for one in captured}
    last = 0
    # Tables that never had rows are in the manifest only.
    for path in sorted({*_paths(archive), *by_path}):
        table = archive.open(path)
        version = table.transaction_version(application(own)) if table else None
        one = by_path.get(path)
        if version is None and one is None:
            continue
        last = max(last, version or 0)
        schema = path.partition("/")[0]
        numbered = None
        if one is None and schema in ("dwh", "audit") and path != "audit/captured_table":
            numbered = _last_key(connection, archive, own, path)
        connection.execute(
            """
            insert into audit.archive_table
                (path, columns, captured_run_id, last_key, changes_until, archived_batch_id, archived_at)
            values (
                %(path)s, %(columns)s,
                (select run_id from audit.watermark where source = %(source)s and table_name = %(table)s),
                %(last_key)s, case when %(schema)s in ('dwh', 'audit') then clock_timestamp() end,
                %(version)s, clock_timestamp()
            )
            """,
            {
                "path": path,
                "columns": json.dumps([list(column) for column in one.columns.items()]) if one else None,
                "source": one.source if one else None,
                "table": one.name if one else None,
                "schema": schema,
                "last_key": numbered,
                "version": version,
            },
        )
    continue_sequences(connection, "audit", "archive_pending", "batch_id", last)


def _forget_watermarks_ahead(
    connection: psycopg.Connection, archive: Archive, own: str, captured: Sequence[CapturedTable]
) -> list[str]:
    """Delete watermarks that are ahead of their table's batches in the archive. Returns the tables."""
    behind = []
    for one in captured:
        table = archive.open(table_path(one.source, one.name))
        version = table.transaction_version(application(own)) if table else None
        if one.batch_id is not None and (version is None or version < one.batch_id):
            connection.execute(
                "delete from audit.watermark where source = %s and table_name = %s", [one.source, one.name]
            )
            behind.append(f"{one.source}.{one.name}")
    return behind


def _last_key(connection: psycopg.Connection, archive: Archive, own: str, path: str) -> int | None:
    """Return the largest archived key of a table with an integer key; None for other tables."""
    schema, _, name = path.partition("/")
    row = connection.execute(
        """
        select attname::text from pg_index inner join pg_attribute on attrelid = indrelid and attnum = any(indkey)
        where indrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) and indisprimary
            and indnkeyatts = 1 and atttypid in ('bigint'::regtype, 'integer'::regtype)
        """,
        [schema, name],
    ).fetchone()
    if row is None or (archived := read_rows(connection, archive, path, own)) is None:
        return None
    largest = connection.execute(
        sql.SQL("select max({}) from pg_temp.archived as archived").format(archived.typed(row[0], "bigint"))
    ).fetchone()
    return largest[0] if largest else None


def _paths(archive: Archive) -> list[str]:
    """Return the paths of all tables in the archive."""
    paths = {
        "/".join(one.parts[:2])
        for one in files_below(archive.root)
        if len(one.parts) > 3 and one.parts[2] == "_delta_log"
    }
    return sorted(paths)
