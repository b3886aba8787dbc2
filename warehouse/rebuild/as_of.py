"""Mirrors and dimensions as a past run left them, built from the archive into a schema of their own."""

from collections.abc import Callable, Collection

from psycopg import sql

from warehouse.archive.flush import flush
from warehouse.archive.pending import warehouse_id
from warehouse.archive.place import Archive, table_path
from warehouse.db.connections import connect
from warehouse.model.star import DIMENSIONS
from warehouse.rebuild.archived_state import (
    AsOf,
    build_mirror,
    build_rows,
    manifest_of,
    read_nothing,
    read_rows,
)
from warehouse.rebuild.rebuild import NotArchived
from warehouse.rebuild.tables import columns_of
from warehouse.reconcile.compare import EXPECTED
from warehouse.runs.audit import Run, ensure_alive

COMMENT = "Mirrors and dimensions as of run {}, rebuilt from the archive. Nothing reads it: drop it when you are done."


def rebuild_as_of(
    run: Run,
    archive: Archive,
    as_of_run_id: int,
    tables: Collection[str] | None = None,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, int]:
    """Build `tables`, or all mirrors and dimensions, as a run left them, into schema `rebuild_<run>`.

    A schema of that name is replaced; no live table is touched. Returns rows by table.

    Raises:
        NotArchived: the archive does not know the run, or one of the tables.
    """
    flush(run.warehouse_url, archive, progress=progress)
    with connect(run.warehouse_url, application_name=f"dwh {run.flow}") as writer:
        own = warehouse_id(writer)
        until = None
        if read_rows(writer, archive, "audit/run", own) is not None:
            row = writer.execute(
                "select max(_batch_id) from pg_temp.archived where _run_id = %s", [as_of_run_id]
            ).fetchone()
            until = row[0] if row else None
        if until is None:
            raise NotArchived(
                f"The archive {archive.root} knows nothing that run {as_of_run_id} has published.",
                hint="select run_id, flow, started_at from audit.run order by run_id desc lists runs; those before "
                "the archive was begun are not in it.",
            )
        moment = AsOf(as_of_run_id, until)
        schema = f"rebuild_{as_of_run_id}"
        writer.execute(
            sql.SQL(
                "drop schema if exists {schema} cascade; create schema {schema}; "
                "comment on schema {schema} is {text}"
            ).format(schema=sql.Identifier(schema), text=sql.Literal(COMMENT.format(as_of_run_id)))
        )
        captured = {f"raw.{one.mirror}": one for one in manifest_of(writer, archive, own, moment)}
        dimensions = {f"dwh.{one.table}": one for one in DIMENSIONS}
        known = {*captured, *dimensions}
        if unknown := sorted(set(tables or ()) - known):
            raise NotArchived(
                f"{', '.join(unknown)} cannot be built as of run {as_of_run_id}.",
                hint=f"Those that can be are {', '.join(sorted(known))}.",
            )
        counts = {}
        for name in sorted(set(tables) if tables else known):
            path = (
                table_path(captured[name].source, captured[name].name)
                if name in captured
                else name.replace(".", "/")
            )
            archived = read_rows(writer, archive, path, own, as_of=moment) or read_nothing(writer)
            if name in captured:
                build_mirror(writer, archived, captured[name].key, captured[name].columns)
            else:
                columns = columns_of(writer, "dwh", dimensions[name].table) or archived.types
                build_rows(writer, archived, (dimensions[name].key,), columns)
            counts[name] = writer.execute(
                sql.SQL("create table {} as select * from {}").format(
                    sql.Identifier(schema, name.partition(".")[2]), EXPECTED
                )
            ).rowcount
            progress(f"{schema}.{name.partition('.')[2]}: {counts[name]:,} rows as of run {as_of_run_id}")
        ensure_alive(run)
        writer.commit()
    return counts
