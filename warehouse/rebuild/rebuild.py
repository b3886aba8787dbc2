"""Rebuild tables from the archive: built beside the live ones, compared, and put in their place in one transaction.

Mirrors and dimensions are what the archive says, surrogate keys and runs included. Facts are computed again from
them, as `dwh reconcile --repair` does. Rows that are as they should be are not touched: readers, views and privileges
never notice. A table that is missing is created as declared, with all that belongs to it.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

import psycopg
from psycopg import sql

from warehouse.archive.delta import application
from warehouse.archive.flush import flush
from warehouse.archive.pending import warehouse_id
from warehouse.archive.place import Archive, table_path
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.db.schema_objects import SchemaObjects
from warehouse.errors import RunLost, WarehouseError
from warehouse.load.mirror_ddl import index_joins
from warehouse.load.transaction import PLANNER_FOR_WHOLE_TABLES, begin_publishing
from warehouse.migrations import declared, upgrade
from warehouse.model.star import DIMENSIONS, FACTS, SNAPSHOTS
from warehouse.rebuild.archived_state import (
    CapturedTable,
    build_mirror,
    build_rows,
    manifest_of,
    read_nothing,
    read_rows,
)
from warehouse.rebuild.damage import find_damaged
from warehouse.rebuild.tables import columns_of, continue_sequences, create_missing, ensure_mirror
from warehouse.reconcile.compare import DIFFERENT, EXPECTED, Comparison, compare, list_differences
from warehouse.reconcile.star import reconcile_star
from warehouse.reconcile.verdict import Verdict, record
from warehouse.runs.audit import Load, Run, ensure_alive, record_load
from warehouse.sources.declaration import Source

Progress = Callable[[str], None]


NOT_ALL = (
    "Nothing was changed. The next run of its source archives it whole where the archive is on, `dwh archive "
    "--restart` lets the archive begin anew with what the warehouse has, and `dwh reconcile --repair` repairs it from "
    "the source."
)


class NotArchived(WarehouseError):
    """A table cannot be rebuilt: the archive does not have all that was published of it."""


def rebuild(
    run: Run,
    archive: Archive,
    sources: Sequence[Source],
    tables: Collection[str] | None = None,
    *,
    wait_seconds: float = 60,
    leaves_out: bool = False,
    progress: Progress = lambda _: None,
) -> tuple[Verdict, ...]:
    """Rebuild `tables`, as raw.shop_customer or dwh.dim_customer, or all; returns what differed of each.

    `sources` are those whose facts are computed again. All of it commits together, or nothing does. If it `leaves_out`
    tables that cannot be rebuilt, it says so and rebuilds the others.

    Raises:
        NotArchived: a table is none that can be rebuilt, or the archive does not have all that was published of it.
        ArchiveUnreachable: the archive cannot be read.
        LockHeld: a source is being loaded, and is still after `wait_seconds`.
    """
    with ExitStack() as locks:
        for source in sources:
            locks.enter_context(
                session_lock(run.connection, f"source {source.name}", wait_seconds=wait_seconds)
            )
        # What is published and not in the archive yet belongs to the state.
        flush(run.warehouse_url, archive, progress=progress)
        with connect(run.warehouse_url, application_name=f"dwh {run.flow}") as writer:
            begin_publishing(writer, run.run_id, planner=PLANNER_FOR_WHOLE_TABLES)
            created = set(create_missing(writer))
            verdicts = tuple(
                verdict.repaired() if verdict.rows_differing else verdict
                for verdict in _rebuild(
                    writer, run, archive, sources, tables, created, progress, leaves_out=leaves_out
                )
            )
            record(writer, run.run_id, verdicts)
            for verdict in verdicts:
                if verdict.rows_differing:
                    record_load(
                        writer,
                        run.run_id,
                        Load(
                            verdict.source,
                            verdict.table_name,
                            rows_read=verdict.rows_expected,
                            rows_updated=verdict.rows_differing,
                            seconds=verdict.seconds,
                        ),
                    )
            _remember(writer, verdicts)
            ensure_alive(run)
            writer.commit()
        if created:
            # Owners and grants of what was created.
            upgrade(run.warehouse_url)
    return verdicts


def rebuild_damaged(
    run: Run,
    archive: Archive,
    source: Source,
    sources: Sequence[Source],
    log: Callable[[str], None],
) -> None:
    """Rebuild what is damaged of `source`; where the archive cannot help, the run goes on as it would without one.

    `sources` are those whose facts are computed again where a fact is damaged.
    """
    damaged = find_damaged(run.connection, source)
    if not damaged:
        return
    log(f"dropped or emptied since the last run: {', '.join(damaged)}; rebuilt from the archive")
    try:
        rebuild(run, archive, sources, damaged, leaves_out=True, progress=log)
    except RunLost:
        raise
    except (WarehouseError, psycopg.Error) as error:
        log(f"not rebuilt: {error}")


def _rebuild(
    writer: psycopg.Connection,
    run: Run,
    archive: Archive,
    sources: Sequence[Source],
    tables: Collection[str] | None,
    created: set[str],
    progress: Progress,
    *,
    leaves_out: bool,
) -> Iterator[Verdict]:
    own = warehouse_id(writer)
    captured = {f"raw.{one.mirror}": one for one in manifest_of(writer, archive, own)}
    dimensions = {f"dwh.{one.table}": one for one in DIMENSIONS}
    facts = {f"dwh.{one.table}" for one in (*FACTS, *SNAPSHOTS)}
    known = {*captured, *dimensions, *facts}
    wanted = known if tables is None else set(tables)
    refused = [
        NotArchived(
            f"{name} cannot be rebuilt from the archive {archive.root}: it has no such table.",
            hint=f"It has {', '.join(sorted(captured) + sorted(dimensions))}; facts are computed again: "
            f"{', '.join(sorted(facts))}.",
        )
        for name in sorted(wanted - known)
    ]
    wanted &= known
    for name in sorted(wanted - facts):
        if why := _why_not(writer, archive, own, name, captured.get(name)):
            refused.append(NotArchived(f"{name} cannot be rebuilt: {why}.", hint=NOT_ALL))
            wanted.remove(name)
    if refused and not leaves_out:
        raise refused[0]
    for refusal in refused:
        progress(f"not rebuilt: {refusal}")

    def report(verdict: Verdict) -> Verdict:
        progress(str(verdict))
        return verdict

    for name in sorted(wanted & captured.keys()):
        if ensure_mirror(writer, captured[name]):
            created.add(name)
        yield report(_rebuild_mirror(writer, archive, own, captured[name]))
    for source in sources:
        if created & {f"raw.{table.mirror}" for table in source.tables}:
            index_joins(writer, source)
    for name in sorted(wanted & dimensions.keys()):
        yield report(_rebuild_rows(writer, archive, own, "dwh", name.partition(".")[2], dimensions[name].key))
    if created:
        # Conform SQL may read views, and what is loaded below is logged by triggers.
        declared.apply(writer, SchemaObjects(writer))
    if wanted & facts:
        for source in sources:
            if {f"dwh.{target}" for target in _targets(source)} & wanted:
                # History is what was published then: the archive says it, and the change log may be gone.
                yield from reconcile_star(writer, run.run_id, source, has_dimensions=False, progress=progress)


def _why_not(
    writer: psycopg.Connection, archive: Archive, own: str, name: str, captured: CapturedTable | None
) -> str | None:
    """Why the archive is not what a mirror or dimension has to be; None if it has all that was published of it."""
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
    if version is None and _has_rows(writer, schema, table_name):
        return f"it has rows, and {archive.folder(path)} has none"
    return None


def _has_rows(connection: psycopg.Connection, schema: str, table: str) -> bool:
    name = sql.Identifier(schema, table)
    if connection.execute("select to_regclass(%s)", [name.as_string()]).fetchone() == (None,):
        return False
    return bool(connection.execute(sql.SQL("select from {} limit 1").format(name)).rowcount)


def _remember(writer: psycopg.Connection, verdicts: Sequence[Verdict]) -> None:
    """What a rebuild has changed is archived already: no later run archives it, nor is it later than the archive."""
    writer.execute(
        "update audit.archive_table set changes_until = clock_timestamp() where path = any(%s)",
        [[one.table_name.replace(".", "/") for one in verdicts if one.source == "archive"]],
    )


def _targets(source: Source) -> Iterator[str]:
    for target in (*FACTS, *SNAPSHOTS):
        if target.entity in source.entities:
            yield target.table


def _rebuild_mirror(writer: psycopg.Connection, archive: Archive, own: str, table: CapturedTable) -> Verdict:
    archived = read_rows(writer, archive, table_path(table.source, table.name), own) or read_nothing(writer)
    columns = columns_of(writer, "raw", table.mirror)
    values = {name: kind for name, kind in columns.items() if name not in ("_run_id", "_is_deleted")}
    build_mirror(writer, archived, table.key, values)
    return _put_in_place(
        writer,
        Comparison(
            "mirror",
            table.source,
            "raw",
            table.mirror,
            EXPECTED,
            table.key,
            tuple(name for name in columns if name not in table.key),
            sql.SQL("true"),
            by_image=True,
        ),
    )


def _rebuild_rows(
    writer: psycopg.Connection, archive: Archive, own: str, schema: str, table: str, key: str
) -> Verdict:
    """Rebuild a table whose rows are archived as they were published, with its surrogate keys."""
    archived = read_rows(writer, archive, f"{schema}/{table}", own)
    if archived is None:
        raise NotArchived(
            f"{schema}.{table} is in no archive: {archive.root} has no table of it.",
            hint="It is archived by the next run of a source that publishes something.",
        )
    row = writer.execute(
        sql.SQL("select coalesce(max({}), 0) from pg_temp.archived as archived").format(
            archived.typed(key, "bigint")
        )
    ).fetchone()
    assert row is not None
    columns = columns_of(writer, schema, table)
    build_rows(writer, archived, (key,), columns)
    verdict = _put_in_place(
        writer,
        Comparison(
            "star",
            "archive",
            schema,
            table,
            EXPECTED,
            (key,),
            tuple(name for name in columns if name != key),
            sql.SQL("true"),
        ),
    )
    continue_sequences(writer, schema, table, key, row[0])
    return verdict


def _put_in_place(writer: psycopg.Connection, comparison: Comparison) -> Verdict:
    """Compare pg_temp.expected with the table, and replace the rows that differ."""
    verdict = compare(writer, comparison)
    if not verdict.rows_differing:
        return verdict
    verdict = replace(verdict, differences=list_differences(writer, comparison))
    names = comparison.names
    # First all that is wrong, then all that is right: no constraint sees both versions of a member.
    writer.execute(
        sql.SQL(
            "delete from {table} where ctid in (select place from {different} where place is not null)"
        ).format(table=names["table"], different=DIFFERENT)
    )
    writer.execute(
        sql.SQL(
            "insert into {table} ({all}) select {all} from {expected} as expected "
            "where expected.ctid in (select wanted from {different} where wanted is not null)"
        ).format(table=names["table"], different=DIFFERENT, expected=EXPECTED, all=names["compared"])
    )
    return verdict
