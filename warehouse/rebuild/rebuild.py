"""Rebuild tables from archive and landing files in one transaction (`dwh rebuild`).

Mirrors, dimensions and daily snapshots come from the archive, with their surrogate keys and run ids; mirrors of feeds
come from their files. Facts are recomputed from them, as `dwh reconcile --repair` does. The result is compared with the
live table, and only rows that differ are replaced, so that readers, views and privileges are not disturbed. A missing
table is created as declared, with its indexes, views, comments and grants.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Final

import psycopg
from psycopg import sql

from warehouse.archive.flush import flush
from warehouse.archive.pending import warehouse_id
from warehouse.archive.place import Archive, table_path
from warehouse.db.locks import session_lock, source_lock
from warehouse.db.roles import OWNER, apply_grants
from warehouse.db.schema_objects import SchemaObjects
from warehouse.errors import AccessRefused, RunLost, WarehouseError, counted
from warehouse.extract.catalog import HOUSEKEEPING, find_missing
from warehouse.extract.column import Column
from warehouse.extract.range_store import discard_ranges
from warehouse.load.mirror_ddl import add_key, index_joins
from warehouse.load.transaction import PLANNER_FOR_WHOLE_TABLES, begin_publishing
from warehouse.migrations import declared
from warehouse.migrations.privileges import LOCK_TIMEOUT, LOCKED, MIGRATE_LOCK, ensure_may_migrate
from warehouse.model.star import FACTS
from warehouse.rebuild.archived_rows import read_nothing, read_rows
from warehouse.rebuild.captured_table import CapturedTable, first_archived_run, manifest_of
from warehouse.rebuild.feed_mirrors import FeedMirrors, has_records
from warehouse.rebuild.last_rows import last_rows, mirror_rows
from warehouse.rebuild.reach import why_not
from warehouse.rebuild.tables import (
    columns_of,
    continue_sequences,
    create_missing,
    ensure_mirror,
    published_tables,
)
from warehouse.reconcile.compare import (
    DIFFERENT,
    EXPECTED,
    Comparison,
    compare,
    create_expected,
    fill,
    list_differences,
)
from warehouse.reconcile.marts import reconcile_marts
from warehouse.reconcile.star import reconcile_star
from warehouse.reconcile.verdict import Verdict, record
from warehouse.runs.audit import Load, Run, ensure_alive, record_load
from warehouse.runs.definitions import find_stale_targets, read_contracts
from warehouse.settings import Settings
from warehouse.sources.declaration import read_declaration
from warehouse.sources.registry import declared_sources
from warehouse.sources.source import Source, Table

Progress = Callable[[str], None]
# Types of the key columns, in the key's order, by mirror such as raw.shop_customer.
Keys = Mapping[str, Mapping[str, str]]

NOT_ALL: Final = (
    "Nothing was changed. The next run of its source archives it whole where the archive is on, `dwh archive "
    "--restart` starts a new archive from what the warehouse has, and `dwh reconcile --repair` repairs it from "
    "the source."
)
CHANGED: Final = (
    "what it is made by has changed since ({}): its history is what was published then, and the next run of its source "
    "computes the present state again"
)


class NotArchived(WarehouseError):
    """A table cannot be rebuilt: the archive does not have all of its published rows."""


def rebuild(
    run: Run,
    archive: Archive,
    sources: Sequence[Source],
    tables: Collection[str] | None = None,
    *,
    wait_seconds: float = 60,
    leaves_out: bool = False,
    keys: Keys = MappingProxyType({}),
    progress: Progress = lambda _: None,
) -> tuple[Verdict, ...]:
    """Rebuild `tables` (such as raw.shop_customer or dwh.dim_customer), or all, in one transaction.

    `sources` are those whose facts are recomputed. With `leaves_out`, tables that cannot be rebuilt are skipped and
    logged. A mirror cannot be rebuilt if it was archived under another key than `keys` has for it. Returns the
    differences by table.

    Raises:
        NotArchived: a table cannot be rebuilt, or the archive does not have all of its published rows.
        ArchiveUnreachable: the archive cannot be read.
        LockHeld: a source is being loaded, and is still after `wait_seconds`.
        AccessRefused: this login may not create what is missing.
    """
    with ExitStack() as locks:
        for source in sources:
            locks.enter_context(
                session_lock(run.connection, source_lock(source.name), wait_seconds=wait_seconds)
            )
        # Published batches that are not in the archive yet are part of the state to rebuild.
        flush(run.warehouse_url, archive, progress=progress)
        with run.connect() as writer:
            begin_publishing(writer, run, planner=PLANNER_FOR_WHOLE_TABLES)
            with _explain_rights(writer):
                work = _Rebuild(writer, run, archive, sources, set(create_missing(writer)), progress)
                if tables is None:
                    work.report_reach()
                wanted = work.tables(tables, keys, leaves_out=leaves_out)
                verdicts = tuple(
                    verdict.repaired() if verdict.rows_differing else verdict
                    for verdict in work.rebuild(wanted)
                )
            record(writer, run.run_id, verdicts)
            for verdict in verdicts:
                if verdict.rows_differing:
                    record_load(
                        writer,
                        run.run_id,
                        Load(
                            verdict.load_source,
                            verdict.table_name,
                            rows_read=verdict.rows_expected,
                            rows_updated=verdict.rows_differing,
                            seconds=verdict.seconds,
                        ),
                    )
            _remember(writer, verdicts)
            with (
                session_lock(run.connection, MIGRATE_LOCK, wait_seconds=wait_seconds)
                if work.created
                else nullcontext()
            ):
                is_granted = not work.created or _grant(writer, run.warehouse_url)
                ensure_alive(run)
                writer.commit()
        if not is_granted:
            from warehouse.migrations.revisions import upgrade

            upgrade(run.warehouse_url)
    return verdicts


def loaded_sources(connection: psycopg.Connection, folder: Path | None) -> list[Source]:
    """Return the declared sources that runs have loaded, in the order in which to recompute their facts.

    If several sources have the same event, the first one to compute it keeps it: so sources are ordered by precedence,
    with those that follow the star last.
    """
    declared = declared_sources(folder)
    loaded = connection.execute("select distinct source from audit.watermark order by 1").fetchall()
    sources = [read_declaration(declared[name]) for (name,) in loaded if name in declared]
    rank: Counter[str] = Counter()
    declared_precedence = [entity.precedence for source in sources for entity in source.entities.values()]
    # Precedence is transitive (database, feed, another feed): repeat until the ranks are stable.
    for _ in sources:
        for names in declared_precedence:
            for before, after in pairwise(names):
                rank[after] = min(max(rank[after], rank[before] + 1), len(sources))
    return sorted(sources, key=lambda one: (one.follows_star, rank[one.name], one.feed is not None, one.name))


def rebuild_damaged(
    run: Run,
    settings: Settings,
    damaged: Collection[str],
    log: Callable[[str], None],
    *,
    needed: Collection[str] = (),
    keys: Keys = MappingProxyType({}),
) -> None:
    """Rebuild `damaged` tables, and all missing ones, at the start of a run. `keys` as in `rebuild`.

    If that fails, the run continues as it would without an archive.

    Raises:
        AccessRefused: a `damaged` or `needed` table of the star is missing, and this login may not create it.
    """
    try:
        sources = loaded_sources(run.connection, settings.sources) if damaged else ()
        rebuild(run, Archive.of(settings), sources, damaged, leaves_out=True, keys=keys, progress=log)
    except RunLost:
        raise
    except (WarehouseError, psycopg.Error) as error:
        needed_tables = [name for name in (*damaged, *needed) if name.startswith("dwh.")]
        if isinstance(error, AccessRefused) and find_missing(run.connection, needed_tables):
            raise
        log(f"not rebuilt: {error}")


class _Rebuild:
    """One rebuild, in its transaction: finds the tables and the origin of each, and rebuilds them."""

    def __init__(
        self,
        writer: psycopg.Connection,
        run: Run,
        archive: Archive,
        sources: Sequence[Source],
        created: set[str],
        progress: Progress,
    ) -> None:
        self._writer, self._run, self._archive, self._sources = writer, run, archive, sources
        self.created, self._progress = created, progress
        self._own = warehouse_id(writer)
        self._captured = {f"raw.{one.mirror}": one for one in manifest_of(writer, archive, self._own)}
        self._first_run_id = first_archived_run(writer) if self._captured else None
        self._feeds = [one for one in sources if one.feed is not None and has_records(writer, one)]
        self._of_feeds = {f"raw.{table.mirror}" for source in self._feeds for table in source.tables}
        self._published = published_tables()
        self._facts = {f"dwh.{one.table}" for one in FACTS}
        # Feeds with loaded records that are in no file or quarantine any more.
        self._incomplete: set[str] = set()

    def report_reach(self) -> None:
        """Log the run that began the archive: there is no earlier state of mirrors and dimensions in it."""
        if self._first_run_id is not None:
            self._progress(
                f"the archive {self._archive.root} reaches back to run {self._first_run_id}: mirrors and dimensions "
                "as that run found them, and every batch since"
            )

    def tables(self, wanted: Collection[str] | None, keys: Keys, *, leaves_out: bool) -> set[str]:
        """Return the names of the tables to rebuild: `wanted` or all, and those that had to be created.

        Raises:
            NotArchived: one of them cannot be rebuilt. With `leaves_out`, it is skipped and logged instead.
        """
        archived = {*self._captured, *self._published}
        rebuildable = {*archived, *self._of_feeds, *self._facts}
        # Tables that were missing are filled even if they were not asked for.
        chosen = rebuildable if wanted is None else {*wanted, *(self.created & rebuildable)}
        refused = [
            NotArchived(
                f"{name} cannot be rebuilt from the archive {self._archive.root}: it has no such table.",
                hint=f"It has {', '.join(sorted(archived))}; from files and by computing again come "
                f"{', '.join(sorted(rebuildable - archived))}.",
            )
            for name in sorted(chosen - rebuildable - self.created)
        ]
        chosen &= rebuildable
        for name in sorted(chosen & archived):
            captured = self._captured.get(name)
            why = why_not(self._writer, self._archive, self._own, name, captured)
            if why is None and captured is not None and name in keys:
                why = captured.why_not_by(keys[name])
            if why:
                refusal = NotArchived(f"{name} cannot be rebuilt: {why}.", hint=NOT_ALL)
                chosen.remove(name)
                if wanted is None or name in wanted:
                    refused.append(refusal)
                else:
                    self._progress(f"not rebuilt: {refusal}")
        if refused and not leaves_out:
            raise refused[0]
        for refusal in refused:
            self._progress(f"not rebuilt: {refusal}")
        return chosen

    def rebuild(self, wanted: set[str]) -> list[Verdict]:
        """Rebuild the tables in the order of their dependencies."""
        verdicts = []
        for verdict in self._rebuild(wanted):
            self._progress(str(verdict))
            verdicts.append(verdict)
        changed = self._changed_definitions()
        for name in sorted({one.table_name for one in verdicts} & changed.keys()):
            self._progress(f"{name}: {changed[name]}")
        return [replace(one, note=changed.get(one.table_name, "")) for one in verdicts]

    def _rebuild(self, wanted: set[str]) -> Iterator[Verdict]:
        for name in sorted(wanted & self._captured.keys()):
            yield self._rebuild_mirror(self._captured[name])
        for source in self._feeds:
            yield from self._rebuild_feed(source, wanted)
        for source in self._sources:
            if self.created & {f"raw.{table.mirror}" for table in source.tables}:
                index_joins(self._writer, source)
        for name in sorted(wanted & self._published.keys()):
            yield self._rebuild_rows(name)
        if self.created:
            # Create views and triggers first: conform SQL may read views, and triggers log the rows loaded below.
            declared.apply(self._writer, SchemaObjects(self._writer))
        if wanted & self._facts:
            self._name_undeclared(wanted & self._facts)
            for source in self._sources:
                facts = {f"dwh.{one.table}" for one in FACTS if one.entity in source.entities}
                if facts & wanted and not self._has_last_copy(source, facts):
                    # Not the dimensions: their history comes from the archive, as it was published.
                    yield from reconcile_star(self._writer, self._run.run_id, source, has_dimensions=False)
        if any(name.startswith("mart.") for name in self.created):
            yield from reconcile_marts(self._writer, repair=True)

    def _has_last_copy(self, source: Source, facts: Collection[str]) -> bool:
        """Whether the facts may hold the only copy of lost feed records. Then they must stay unchanged."""
        if source.name not in self._incomplete:
            return False
        held = [
            name
            for name in sorted(facts)
            if self._writer.execute(
                sql.SQL("select from {} where source_system = %s limit 1").format(
                    sql.Identifier(*name.split("."))
                ),
                [source.name],
            ).rowcount
        ]
        if held:
            self._progress(
                f"{', '.join(held)}: the rows of '{source.name}' stay as they are, since they may be the last "
                "of records that are lost; `dwh reconcile` lists those without a record, and removes them with --repair"
            )
        return bool(held)

    def _name_undeclared(self, facts: set[str]) -> None:
        """Log sources that are no longer declared and of whose rows a fact has none: they cannot be recomputed."""
        loaded = self._writer.execute(
            "select distinct load.table_name, load.source from audit.load as load "
            "inner join audit.watermark as watermark using (source) "
            "where load.table_name = any(%s) and load.source <> all(%s) order by 1, 2",
            [list(facts), [source.name for source in self._sources]],
        ).fetchall()
        for name, source in loaded:
            rows = sql.SQL("select from {} where source_system = %s limit 1").format(
                sql.Identifier(*name.split("."))
            )
            if not self._writer.execute(rows, [source]).rowcount:
                self._progress(
                    f"{name}: the rows of '{source}' are not computed again, since no such source is declared any "
                    f"more: put its folder back into DWH_SOURCES, then `dwh rebuild {name}`"
                )

    def _changed_definitions(self) -> dict[str, str]:
        """Return a note for each table whose SQL or declaration has changed since it was loaded."""
        return {
            stale.table_name: CHANGED.format(stale.reason)
            for source in self._sources
            for stale in find_stale_targets(self._writer, source, read_contracts(source))
        }

    def _rebuild_mirror(self, table: CapturedTable) -> Verdict:
        writer = self._writer
        declared_as = {
            one.mirror: one for source in self._sources for one in source.tables if one.source == table.source
        }
        mirror = declared_as.get(table.mirror) or Table(table.source, table.name, "", table.key, None)
        kinds = dict(table.columns)
        policy = mirror.on_schema_change.dropped_column
        if policy == "ignore":
            # With this policy the mirror keeps columns that the source has dropped.
            kinds = {name: kind for shape in table.shapes for name, kind in shape.types.items()} | kinds
        columns = [Column(name, kind, None, table.column_comments.get(name)) for name, kind in kinds.items()]
        if is_new := ensure_mirror(writer, mirror, columns, table.comment):
            self.created.add(f"raw.{table.mirror}")
        archived = read_rows(
            writer, self._archive, table_path(table.source, table.name), self._own
        ) or read_nothing(writer)
        types = columns_of(writer, "raw", table.mirror)
        values = {name: kind for name, kind in types.items() if name not in HOUSEKEEPING}
        verdict = _put_in_place(
            writer,
            Comparison(
                "mirror",
                table.source,
                "raw",
                table.mirror,
                EXPECTED,
                table.key,
                tuple(name for name in types if name not in table.key),
                sql.SQL("true"),
                by_image=True,
                query=mirror_rows(writer, archived, table, values, keeps_dropped=policy != "evolve"),
            ),
        )
        if is_new:
            # Add the archived key. If another one is declared now, the next run reports it.
            add_key(writer, replace(mirror, key=table.key))
        if is_new or verdict.rows_differing:
            discard_ranges(writer, table.source, table.name)
        return verdict

    def _rebuild_feed(self, source: Source, wanted: set[str]) -> Iterator[Verdict]:
        """Rebuild mirrors of a feed from its landing files."""
        chosen = [one for one in source.tables if f"raw.{one.mirror}" in wanted]
        if not chosen:
            return
        mirrors = FeedMirrors(self._writer, source, self._archive.root.parent)
        new = [table for table in mirrors.tables if mirrors.ensure_mirror(table)]
        self.created |= {f"raw.{table.mirror}" for table in new}
        mirrors.read()
        for table in mirrors.tables:
            if table in chosen or f"raw.{table.mirror}" in self.created:
                yield _put_in_place(self._writer, mirrors.build(table))
                if table in new:
                    add_key(self._writer, table)
        for lost in mirrors.lost:
            if lost.file_id in mirrors.missing:
                self._progress(f"{source.name}: {lost}")
        if kept := [one for one in mirrors.lost if not one.is_earlier and one.file_id not in mirrors.missing]:
            records = counted(sum(one.records for one in kept), "record")
            self._progress(
                f"{source.name}: left as they are, not compared: {records} of {counted(len(kept), 'file')}, "
                f"as {kept[0].path}: {kept[0].reason}"
            )
        if mirrors.missing:
            self._incomplete.add(source.name)

    def _rebuild_rows(self, name: str) -> Verdict:
        """Rebuild a dimension, daily snapshot or reference table from its archived rows, surrogate keys included."""
        writer, key = self._writer, self._published[name]
        schema, _, table = name.partition(".")
        archived = read_rows(writer, self._archive, f"{schema}/{table}", self._own) or read_nothing(writer)
        columns = columns_of(writer, schema, table)
        last = None
        if columns[key[0]] == "bigint":
            (last,) = writer.execute(
                sql.SQL("select coalesce(max({}), 0) from pg_temp.archived as archived").format(
                    archived.typed(key[0], "bigint")
                )
            ).fetchone() or (0,)
        verdict = _put_in_place(
            writer,
            Comparison(
                "star",
                "archive",
                schema,
                table,
                EXPECTED,
                key,
                tuple(name for name in columns if name not in key),
                sql.SQL("true"),
                query=last_rows(writer, archived, key, columns),
            ),
        )
        if last is not None:
            continue_sequences(writer, schema, table, key[0], last)
        return verdict


def _grant(writer: psycopg.Connection, url: str) -> bool:
    """Set owners and grants in the transaction that creates tables: a killed process leaves no table unreadable.

    Returns False, with nothing set, if a table needs another owner and is in use: readers are not waited for.
    """
    try:
        ensure_may_migrate(writer, url)
        with writer.transaction():
            writer.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'".encode())
            apply_grants(writer)
    except AccessRefused:
        # A loader may create only mirrors. It owns them until the next migration, as after an ordinary load.
        return True
    except LOCKED:
        return False
    return True


@contextmanager
def _explain_rights(writer: psycopg.Connection) -> Iterator[None]:
    """Explain missing privileges: a loader may create mirrors, but not the owner's views and mart tables."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        writer.rollback()
        if writer.execute("select pg_has_role(%s, 'usage')", [OWNER]).fetchone() == (True,):
            raise
        raise AccessRefused(
            f"{writer.info.user} may not create what is missing: {error.diag.message_primary}. Nothing was changed.",
            hint=f"Let a login that has role {OWNER} run `dwh rebuild`.",
        ) from error


def _remember(writer: psycopg.Connection, verdicts: Sequence[Verdict]) -> None:
    """Mark this rebuild's changes as archived: later runs do not archive them again, later rebuilds accept them."""
    writer.execute(
        "update audit.archive_table set changes_until = clock_timestamp() where path = any(%s)",
        [[one.table_name.replace(".", "/") for one in verdicts if one.source == "archive"]],
    )


def _put_in_place(writer: psycopg.Connection, comparison: Comparison) -> Verdict:
    """Compare the expected rows with the table, and replace those that differ."""
    if filled := fill(writer, comparison):
        return filled
    if comparison.query:
        create_expected(writer, comparison.query)
    verdict = compare(writer, comparison)
    if not verdict.rows_differing:
        return verdict
    verdict = replace(verdict, differences=list_differences(writer, comparison))
    names = comparison.names
    # Delete before inserting: unique constraints must not see the old and the new row of a member together.
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
