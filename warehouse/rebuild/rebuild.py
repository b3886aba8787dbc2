"""Rebuild tables from archive and landing files: built beside the live ones, compared, and put in their place in one
transaction.

Mirrors, dimensions and daily snapshots are what the archive says, surrogate keys and runs included; mirrors of feeds
are what their files say. Facts are computed again from them, as `dwh reconcile --repair` does. Rows that are as they
should be are not touched: readers, views and privileges never notice. A table that is missing is created as declared,
with all that belongs to it.
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
from warehouse.db.locks import session_lock
from warehouse.db.roles import OWNER, apply_grants
from warehouse.db.schema_objects import SchemaObjects
from warehouse.errors import AccessRefused, RunLost, WarehouseError
from warehouse.extract.catalog import HOUSEKEEPING, find_missing
from warehouse.extract.column import Column
from warehouse.load.mirror_ddl import index_joins
from warehouse.load.transaction import PLANNER_FOR_WHOLE_TABLES, begin_publishing
from warehouse.migrations import declared
from warehouse.migrations.privileges import LOCK_TIMEOUT, LOCKED, MIGRATE_LOCK, ensure_may_migrate
from warehouse.model.star import FACTS
from warehouse.rebuild.archived_rows import read_nothing, read_rows
from warehouse.rebuild.captured_table import CapturedTable, first_archived_run, manifest_of
from warehouse.rebuild.feed_mirrors import FeedMirrors, has_records
from warehouse.rebuild.last_rows import last_rows, mirror_rows
from warehouse.rebuild.reach import has_rows, why_not
from warehouse.rebuild.tables import (
    add_key,
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
# By mirror, as raw.shop_customer, the columns of its key with their types, in their order.
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
    """A table cannot be rebuilt: the archive does not have all that was published of it."""


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
    """Rebuild `tables`, as raw.shop_customer or dwh.dim_customer, or all; returns what differed of each.

    `sources` are those whose facts are computed again. All of it commits together, or nothing does. If it `leaves_out`
    tables that cannot be rebuilt, it says so and rebuilds the others. Mirrors that are about to be loaded by other
    `keys` than they were archived by cannot.

    Raises:
        NotArchived: a table is none that can be rebuilt, or the archive does not have all that was published of it.
        ArchiveUnreachable: the archive cannot be read.
        LockHeld: a source is being loaded, and is still after `wait_seconds`.
        AccessRefused: this login may not create what is missing.
    """
    with ExitStack() as locks:
        for source in sources:
            locks.enter_context(
                session_lock(run.connection, f"source {source.name}", wait_seconds=wait_seconds)
            )
        # What is published and not in the archive yet belongs to the state.
        flush(run.warehouse_url, archive, progress=progress)
        with run.connect() as writer:
            begin_publishing(writer, run.run_id, planner=PLANNER_FOR_WHOLE_TABLES)
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
    """Declared sources that runs have loaded, in the order in which their facts follow from one another.

    Of an event that several sources have, the first that computes it keeps it; last are those that follow the star.
    """
    declared = declared_sources(folder)
    loaded = connection.execute("select distinct source from audit.watermark order by 1").fetchall()
    sources = [read_declaration(declared[name]) for (name,) in loaded if name in declared]
    rank: Counter[str] = Counter()
    declared_precedence = [entity.precedence for source in sources for entity in source.entities.values()]
    # One feed may come after another one, which comes after a database.
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
    """Rebuild `damaged` tables, and those that are missing; where the archive cannot help, the run goes on as it would
    without one, unless a table of the star is missing that is damaged or `needed`. `keys` as in `rebuild`.

    Raises:
        AccessRefused: such a table is missing, and this login may not create it.
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
    """A rebuild in its transaction: which tables there are, and what each is rebuilt from."""

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
        # Feeds of which records cannot be given back.
        self._incomplete: set[str] = set()

    def report_reach(self) -> None:
        """Name the run that began the archive: of what mirrors and dimensions were before, it has no more."""
        if self._first_run_id is not None:
            self._progress(
                f"the archive {self._archive.root} reaches back to run {self._first_run_id}: mirrors and dimensions "
                "as that run found them, and every batch since"
            )

    def tables(self, wanted: Collection[str] | None, keys: Keys, *, leaves_out: bool) -> set[str]:
        """The tables to rebuild, all that there are if none is named.

        Raises:
            NotArchived: one cannot be rebuilt; if it `leaves_out` such tables, it says so instead.
        """
        archived = {*self._captured, *self._published}
        known = {*archived, *self._of_feeds, *self._facts}
        # What had to be created is filled, too.
        chosen = known if wanted is None else {*wanted, *(self.created & known)}
        refused = [
            NotArchived(
                f"{name} cannot be rebuilt from the archive {self._archive.root}: it has no such table.",
                hint=f"It has {', '.join(sorted(archived))}; from files and by computing again come "
                f"{', '.join(sorted(known - archived))}.",
            )
            for name in sorted(chosen - known - self.created)
        ]
        chosen &= known
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
        """Rebuild the tables, those first that others are made of."""
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
            # Conform SQL may read views, and what is loaded below is logged by triggers.
            declared.apply(self._writer, SchemaObjects(self._writer))
        if wanted & self._facts:
            self._tell_lost_states(wanted & self._facts)
            for source in self._sources:
                facts = {f"dwh.{one.table}" for one in FACTS if one.entity in source.entities}
                if facts & wanted and not self._has_last_copy(source, facts):
                    # History is what was published then: the archive says it, and the change log may be gone.
                    yield from reconcile_star(self._writer, self._run.run_id, source, has_dimensions=False)
        if any(name.startswith("mart.") for name in self.created):
            yield from reconcile_marts(self._writer)

    def _has_last_copy(self, source: Source, facts: Collection[str]) -> bool:
        """Whether facts have what a feed's records were that nothing else has any more: they stay as they are."""
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

    def _tell_lost_states(self, facts: set[str]) -> None:
        """Say of empty facts how many rows wait in quarantine: an earlier state of theirs follows from nothing."""
        for fact in FACTS:
            name = f"dwh.{fact.table}"
            if name not in facts or has_rows(self._writer, "dwh", fact.table):
                continue
            (waiting,) = self._writer.execute(
                "select count(distinct (source, row_key)) from audit.quarantine "
                "where entity = %s and resolved_at is null and row_key is not null",
                [fact.entity],
            ).fetchone() or (0,)
            if waiting:
                self._progress(
                    f"{name}: {waiting:,} rows wait in quarantine; "
                    "if they were loaded before, their last good state is lost"
                )

    def _changed_definitions(self) -> dict[str, str]:
        """By table, what has changed since in what it is made by."""
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
            # The mirror had kept columns that the source has no more.
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
            # As it was: by another key than is declared now, the next run says so.
            add_key(writer, replace(mirror, key=table.key))
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
        if mirrors.missing:
            self._incomplete.add(source.name)

    def _rebuild_rows(self, name: str) -> Verdict:
        """Rebuild a table whose rows are archived as they were published, with its surrogate keys."""
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
    """Set owners and grants with what was created: a kill in between would leave tables that nobody may read.

    Returns False, with nothing set, if a table that is in use needs another owner: whoever reads it is not waited for.
    """
    try:
        ensure_may_migrate(writer, url)
        with writer.transaction():
            writer.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'".encode())
            apply_grants(writer)
    except AccessRefused:
        # What a loader may create, mirrors, is its own until the next migration, as when a load creates them.
        return True
    except LOCKED:
        return False
    return True


@contextmanager
def _explain_rights(writer: psycopg.Connection) -> Iterator[None]:
    """Who loads may make mirrors, not what belongs to the warehouse's owner: views of the star, and tables of marts."""
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
    """What a rebuild has changed is archived already: no later run archives it, nor is it later than the archive."""
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
