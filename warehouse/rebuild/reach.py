"""Check whether the archive has all published rows of a table."""

import psycopg
from psycopg import sql

from warehouse.archive.delta import application
from warehouse.archive.place import Archive, table_path
from warehouse.rebuild.captured_table import CapturedTable


def why_not(
    writer: psycopg.Connection, archive: Archive, own: str, name: str, captured: CapturedTable | None
) -> str | None:
    """Return why the archive does not have all published rows of a table; None if it does."""
    schema, _, table_name = name.partition(".")
    path = table_path(captured.source, captured.name) if captured else f"{schema}/{table_name}"
    row = writer.execute(
        """
        select archived.archived_batch_id, archived.captured_run_id, archived.changes_until is not null,
            watermark.run_id,
            (
                select max(load.run_id) from audit.load
                where load.table_name = %(name)s and load.loaded_at > archived.changes_until
                    and load.rows_inserted + load.rows_updated + load.rows_expired + load.rows_deleted > 0
            )
        from audit.archive_table as archived
        left join audit.watermark on watermark.source = %(source)s and watermark.table_name = %(table)s
        where archived.path = %(path)s
        """,
        {
            "name": name, "path": path, "source": captured.source if captured else None,
            "table": captured.name if captured else None,
        },
    ).fetchone()  # fmt: skip
    if row is None:
        return f"this warehouse has archived nothing of it in {archive.root}"
    archived, captured_run, is_known, loaded_run, later_run = row
    if captured is not None and captured_run != loaded_run:
        return f"run {loaded_run} has loaded it, and the archive has it as of run {captured_run or 'none'}"
    if captured is None and not is_known:
        return "runs with DWH_ARCHIVE=false have loaded it since it was archived"
    if captured is None and later_run is not None:
        return f"run {later_run} has changed it since it was archived"
    table = archive.open(path)
    version = table.transaction_version(application(own)) if table else None
    if version != archived:
        reached = (
            f"has its batches up to {version or 'none'}, and should have those up to {archived or 'none'}"
        )
        return f"{archive.folder(path)} {reached}"
    if version is None and has_rows(writer, schema, table_name):
        return f"it has rows, and {archive.folder(path)} has none"
    return None


def has_rows(connection: psycopg.Connection, schema: str, table: str) -> bool:
    """Whether a table exists and has rows."""
    name = sql.Identifier(schema, table)
    if connection.execute("select to_regclass(%s)", [name.as_string()]).fetchone() == (None,):
        return False
    return bool(connection.execute(sql.SQL("select from {} limit 1").format(name)).rowcount)
