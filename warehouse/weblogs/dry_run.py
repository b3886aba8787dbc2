"""A dry run of a load of web logs: the loader itself, of which nothing is kept, and whose last step is rolled back."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count

import psycopg
from psycopg import sql

from warehouse import geoip
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock, transaction_lock
from warehouse.errors import LockHeld
from warehouse.files import lake
from warehouse.files.lake import Checkpoint, Work
from warehouse.history.dry_run import EXAMPLES, Example, quarantined
from warehouse.runs.audit import Load, Run
from warehouse.settings import Settings
from warehouse.weblogs import dry_run_diff
from warehouse.weblogs.files.checkpoints import (
    FEED,
    PUBLISHED,
    FileProgress,
    begun,
    checkpoint_of,
    known_as,
    stage_counts,
)
from warehouse.weblogs.files.claims import Claims
from warehouse.weblogs.loader import BATCH_BYTES, Loader
from warehouse.weblogs.maintenance.reload import reopen_last_line
from warehouse.weblogs.quarantine import Quarantine
from warehouse.weblogs.reader.traffic_rules import TrafficRules, read_traffic_rules
from warehouse.weblogs.result import Progress, WeblogLoad
from warehouse.weblogs.storage.lookups import TABLES, Dictionaries
from warehouse.weblogs.storage.rows import CountryRows
from warehouse.weblogs.storage.writer import FactWriter, Job, copy_binary

_ROWS = sql.Identifier("pg_temp", "fact_weblog")


@dataclass(frozen=True)
class Rehearsal:
    """What a load would do: with each file, with each table of the star, and with which rows, for example."""

    weblogs: WeblogLoad
    loads: tuple[Load, ...]
    examples: tuple[Example, ...]


def rehearse(
    settings: Settings,
    run: Run,
    *,
    progress: Callable[[Progress], None] | None = None,
    batch_bytes: int = BATCH_BYTES,
) -> Rehearsal:
    """What a load would do that begins now; `run` must be a dry run.

    Nobody waits for it while it reads; only its last step, a moment long, takes its turn with those of loaders.

    Raises:
        GeoIpError: there is no file that tells addresses' countries.
        LakeError: a file cannot be read.
        LockHeld: somebody loads or removes web logs, or has since it began: what is left to do depends on them.
        QualityGateStopped: the contract would stop the load.
    """
    assert run.dry_run_connection is not None
    site, countries = read_traffic_rules(), geoip.read(geoip.path_of(settings))
    with connect(
        run.warehouse_url, autocommit=True, application_name=f"dwh {run.flow} dry run: web logs"
    ) as reader:
        with session_lock(reader, FEED):
            before = _last_writers(reader)
        dry_run_diff.prepare(run.dry_run_connection, reader)
        loader = _Rehearsal(
            settings, run, run.dry_run_connection, reader, countries, site, progress, batch_bytes
        )
        return loader.rehearse(before)


class _Unclaimed(Claims):
    """Files as they lie there, whoever may come to load them meanwhile; what is loaded of them is never committed."""

    def stands(self, checkpoint: Checkpoint) -> None:
        """A file that goes on under another id is loaded as far as `checkpoint` says."""
        self._pending[checkpoint.file_id] = checkpoint

    def release(self) -> None:
        """Nothing is held."""

    def _take(self, keys: Sequence[int]) -> bool:
        return True


class _Unkept(FactWriter):
    """Has PostgreSQL read and count the rows, and keeps the first few."""

    def __init__(
        self, trial: psycopg.Connection, warehouse_url: str, codes: Sequence[str], reader: psycopg.Connection
    ) -> None:
        super().__init__(trial, warehouse_url, codes)
        self._reader = reader
        self.row_count = 0
        self.examples: list[dry_run_diff.Row] = []
        self.new_countries: set[str] = set()

    def _put(self, job: Job) -> None:
        job(self._connection)

    def _make(self, countries: Sequence[str]) -> None:
        self.new_countries |= {country for country in countries if not self._partitions.has(country)}

    def _write(self, rows: list[CountryRows]) -> None:
        self.row_count += sum(copy_binary(self._reader, _ROWS, one.pieces) for one in rows)
        if len(self.examples) < EXAMPLES:
            self.examples += dry_run_diff.some(self._reader, _ROWS, EXAMPLES - len(self.examples))
        self._reader.execute(sql.SQL("truncate {}").format(_ROWS))


class _Rehearsal(Loader):
    """Enters texts beside the dictionaries, for `reader` alone; `trial` is open from the first line to the last."""

    def __init__(
        self,
        settings: Settings,
        run: Run,
        trial: psycopg.Connection,
        reader: psycopg.Connection,
        countries: geoip.GeoIp,
        site: TrafficRules,
        progress: Callable[[Progress], None] | None,
        batch_bytes: int,
    ) -> None:
        self._looks = _Unclaimed(reader, lake.folder(settings.lake, site.landing), site.ignore)
        self._unkept = _Unkept(trial, run.warehouse_url, countries.codes, reader)
        super().__init__(
            settings,
            run,
            trial,
            reader,
            countries,
            self._looks,
            Dictionaries(reader, run.run_id, site, "pg_temp"),
            self._unkept,
            Quarantine(self._unkept, run.run_id, "pg_temp"),
            progress=progress,
            batch_bytes=batch_bytes,
        )
        self._new_ids = count(-1, -1)
        # Files whose last line goes on, as they stood.
        self._reopened: list[FileProgress] = []

    def rehearse(self, before: "_Writers") -> Rehearsal:
        """Read everything, then publish it and roll that back."""
        loaded = self.load(wait_seconds=0)
        with ExitStack() as held:
            with session_lock(self._reader, FEED):
                _refuse_if_changed(self._reader, before)
                transaction_lock(self._connection, PUBLISHED)
                # Loaders may come again: until this is rolled back, they wait only to publish.
                held.enter_context(session_lock(self._reader, FEED, shared=True))
            loads, examples = self._tell(loaded)
            # Before loaders may publish again.
            self._connection.rollback()
        return Rehearsal(loaded, loads, examples)

    def _register(self, work: Work) -> FileProgress:
        file_id = known_as(work)
        return begun(work, next(self._new_ids) if file_id is None else file_id)

    def _reopen(self, file: FileProgress) -> None:
        before = replace(file)
        with self._connection.transaction(force_rollback=True):
            reopen_last_line(self._connection, file, self._run.run_id)
        if file.line_count < before.line_count:
            self._reopened.append(before)
            self._looks.stands(checkpoint_of(file))

    def _publish(self) -> None:
        connection = self._connection
        self._aggregates.stage(connection, self._countries.codes, self._dictionaries.products, "pg_temp")
        # Rolled back at once, for the tables are those of loaders at work.
        with connection.transaction(force_rollback=True):
            transaction_lock(connection, PUBLISHED)
            stage_counts(connection, self._batch)
            self._verify()

    def _tend(self) -> None:
        """No row would change."""

    def _tell(self, loaded: WeblogLoad) -> tuple[tuple[Load, ...], tuple[Example, ...]]:
        trial, run_id = self._connection, self._run.run_id
        paths = {file.file_id: file.path for file in loaded.files}
        former = {file.file_id: file.file.path for file in self._reopened}
        taken_back = dry_run_diff.remember(
            trial, [(file.file_id, file.line_count) for file in self._reopened]
        )
        for file in self._reopened:
            reopen_last_line(trial, file, run_id)
        trial.execute("select set_config('dwh.run_id', %s, true)", [str(run_id)])
        self._name_countries()
        dry_run_diff.publish(trial)

        loads = [
            Load(
                FEED,
                "dwh.fact_weblog",
                rows_read=loaded.lines,
                rows_inserted=self._unkept.row_count,
                rows_deleted=len(taken_back),
                rows_quarantined=loaded.rows_quarantined,
                seconds=round(loaded.seconds, 3),
            )
        ]
        examples = dry_run_diff.requests("insert", self._unkept.examples, paths)
        examples += dry_run_diff.requests("delete", taken_back[:EXAMPLES], former)
        if self._unkept.new_countries:
            said = "countries that get a partition of their own"
            key = tuple(sorted(self._unkept.new_countries))
            examples.append(Example("dwh.fact_weblog", "partition", key, said))
        tables = [dry_run_diff.entered(self._reader, table) for table in TABLES]
        tables.append(dry_run_diff.named(trial, run_id))
        tables += dry_run_diff.changed(trial)
        for load, found in tables:
            if any((load.rows_inserted, load.rows_updated, load.rows_deleted)):
                loads.append(load)
                examples += found
        for one in quarantined(trial, run_id, schema="pg_temp"):
            file_id, line = one.row_key
            examples.append(replace(one, row_key=(paths[int(file_id)], line)))
        return tuple(loads), tuple(examples)


# What was changed last, and by which run: of files, loads, and each dictionary.
_Writers = set[tuple[str, str, int]]


def _last_writers(reader: psycopg.Connection) -> _Writers:
    parts = [
        sql.SQL(
            "(select {table}, loaded_at::text, run_id from {table_name} where {feed} = {name} "
            "order by loaded_at desc limit 1)"
        ).format(
            table=sql.Literal(table),
            table_name=sql.Identifier("audit", table),
            feed=sql.Identifier(feed),
            name=sql.Literal(FEED),
        )
        for table, feed in (("file", "feed"), ("load", "source"))
    ]
    for table in TABLES:
        key = sql.Identifier(f"{table.removeprefix('dim_')}_key")
        parts.append(
            sql.SQL("(select {}, {}::text, run_id from {} order by {} desc limit 1)").format(
                sql.Literal(table), key, sql.Identifier("dwh", table), key
            )
        )
    return set(reader.execute(sql.SQL(" union all ").join(parts)).fetchall())


def _refuse_if_changed(reader: psycopg.Connection, before: _Writers) -> None:
    changed = _last_writers(reader) - before
    if not changed:
        return
    row = reader.execute(
        "select flow, run_id, started_at from audit.run where run_id = %s",
        [max(run_id for _, _, run_id in changed)],
    ).fetchone()
    assert row is not None
    flow, run_id, since = row
    raise LockHeld(
        f"Web logs were changed while the dry run read them, by {flow}, run {run_id} (since {since:%Y-%m-%d %H:%M:%S} "
        "UTC): what it has found out is no longer what a load would do.",
        hint="Run it again when no load of web logs is due: nothing was changed.",
    )
