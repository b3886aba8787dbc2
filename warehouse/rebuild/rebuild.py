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

from warehouse.archive.flush import flush
from warehouse.archive.pending import warehouse_id
from warehouse.archive.place import Archive, ArchiveUnreachable, table_path
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.db.schema_objects import SchemaObjects
from warehouse.errors import WarehouseError
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


class NotArchived(WarehouseError):
    """A table cannot be rebuilt: the archive has no rows of it."""


def rebuild(
    run: Run,
    archive: Archive,
    sources: Sequence[Source],
    tables: Collection[str] | None = None,
    *,
    wait_seconds: float = 60,
    progress: Progress = lambda _: None,
) -> tuple[Verdict, ...]:
    """Rebuild `tables`, as raw.shop_customer or dwh.dim_customer, or all; returns what differed of each.

    `sources` are those whose facts are computed again. All of it commits together, or nothing does.

    Raises:
        NotArchived: a table is none that can be rebuilt, or the archive has nothing of it.
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
                for verdict in _rebuild(writer, run, archive, sources, tables, created, progress)
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
        rebuild(run, archive, sources, damaged, progress=log)
    except (NotArchived, ArchiveUnreachable) as error:
        log(f"not rebuilt: {error}")


def _rebuild(
    writer: psycopg.Connection,
    run: Run,
    archive: Archive,
    sources: Sequence[Source],
    tables: Collection[str] | None,
    created: set[str],
    progress: Progress,
) -> Iterator[Verdict]:
    own = warehouse_id(writer)
    captured = {f"raw.{one.mirror}": one for one in manifest_of(writer, archive, own)}
    dimensions = {f"dwh.{one.table}": one for one in DIMENSIONS}
    facts = {f"dwh.{one.table}" for one in (*FACTS, *SNAPSHOTS)}
    known = {*captured, *dimensions, *facts}
    wanted = known if tables is None else set(tables)
    if unknown := sorted(wanted - known):
        raise NotArchived(
            f"{', '.join(unknown)} cannot be rebuilt from the archive {archive.root}.",
            hint=f"It has {', '.join(sorted(captured) + sorted(dimensions))}; facts are computed again: "
            f"{', '.join(sorted(facts))}.",
        )

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
