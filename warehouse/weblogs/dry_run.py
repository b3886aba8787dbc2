"""Dry run of a load of web logs: the loader with a sink that counts, and a publish that is rolled back."""

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
from warehouse.files.lake import Checkpoint, FileTask, UnreadFile
from warehouse.history.dry_run import EXAMPLES, Example, examples, quarantined
from warehouse.runs.audit import CheckResult, Load, Run
from warehouse.settings import Settings
from warehouse.weblogs import dry_run_diff
from warehouse.weblogs.batch import Batch, verify
from warehouse.weblogs.files import landing
from warehouse.weblogs.files.checkpoints import (
    FEED,
    PUBLISHED,
    FileProgress,
    checkpoint_of,
    existing_file_id,
    progress_of,
    progress_under_former_id,
)
from warehouse.weblogs.files.claims import Claims
from warehouse.weblogs.formats.declaration import read_formats
from warehouse.weblogs.loader import BATCH_BYTES, Loader
from warehouse.weblogs.maintenance.rederive import dry_run_rederive
from warehouse.weblogs.maintenance.reload import reopen_last_line
from warehouse.weblogs.quarantine import QuarantinedLine, copy_lines
from warehouse.weblogs.reader.traffic_rules import read_traffic_rules
from warehouse.weblogs.result import Progress, WeblogLoad
from warehouse.weblogs.storage.countries import name_countries
from warehouse.weblogs.storage.lookups import TABLES, Lookups
from warehouse.weblogs.storage.partitions import Partitions
from warehouse.weblogs.storage.rows import CountryRows
from warehouse.weblogs.storage.writer import copy_binary

_ROWS = sql.Identifier("pg_temp", "fact_weblog")


@dataclass(frozen=True)
class WeblogDryRun:
    """What a load would do: with each file and each table of the star, with some rows as examples."""

    weblogs: WeblogLoad
    loads: tuple[Load, ...]
    examples: tuple[Example, ...]


def dry_run_load(
    settings: Settings,
    run: Run,
    *,
    progress: Callable[[Progress], None] | None = None,
    batch_bytes: int = BATCH_BYTES,
) -> WeblogDryRun:
    """Find out what a load would do now; `run` must be a dry run.

    It does not block loaders while it reads. Only its last step excludes, for a moment, that loaders publish.

    Raises:
        GeoIpError: there are lines to load, and no GeoIP database.
        LakeError: a file cannot be read.
        LockHeld: web logs are being changed, or were while the dry run read them: its result would be out of date.
        QualityGateStopped: the contract would stop the load.
    """
    assert run.dry_run_connection is not None
    connection, rules = run.dry_run_connection, read_traffic_rules()
    formats = read_formats(settings)
    countries = geoip.open_file(settings)
    with (
        connect(
            run.warehouse_url, autocommit=True, application_name=f"dwh {run.flow} dry run: web logs"
        ) as reader,
        ExitStack() as held,
    ):
        with session_lock(reader, FEED):
            before = _last_writers(reader)
            rederived, rederived_examples = _rederive(run)
        dry_run_diff.prepare(connection, reader)
        claims = landing.claims(reader, settings, formats, is_exclusive=False)
        sink = DryRunSink(run, connection, reader, countries, claims)
        # New texts go into temporary tables beside the lookups.
        lookups = Lookups(reader, run.run_id, rules, "pg_temp")
        loader = Loader(
            sink,
            claims,
            lookups,
            countries,
            run.run_id,
            formats=formats,
            progress=progress,
            batch_bytes=batch_bytes,
            readable_share=settings.weblog_readable_share,
            limits=landing.limits(settings),
        )
        loaded = loader.load(wait_seconds=0)
        with session_lock(reader, FEED):
            _refuse_if_changed(reader, before)
            transaction_lock(connection, PUBLISHED)
            # From here on loaders may read again; to publish, they wait until this is rolled back.
            held.enter_context(session_lock(reader, FEED, shared=True))
        loads, load_examples = sink.publish_all(loaded)
        connection.rollback()
    return WeblogDryRun(loaded, (*rederived, *loads), (*rederived_examples, *load_examples))


def _rederive(run: Run) -> tuple[tuple[Load, ...], tuple[Example, ...]]:
    """Find out which stored texts would be derived again; rolls back at once, since loaders wait for its locks."""
    assert run.dry_run_connection is not None
    loads = dry_run_rederive(run)
    dimension_examples = examples(run, [load for load in loads if load.table_name.startswith("dwh.dim_")])
    run.dry_run_connection.rollback()
    return loads, dimension_examples


class DryRunSink:
    """Counts rows and keeps the first few as examples; `connection` has the open transaction of the dry run.

    PostgreSQL checks the rows: they are copied into a temporary table of `reader`, which is emptied at once.
    """

    def __init__(
        self,
        run: Run,
        connection: psycopg.Connection,
        reader: psycopg.Connection,
        countries: geoip.GeoIp,
        claims: Claims,
    ) -> None:
        self._run, self._connection, self._reader = run, connection, reader
        self._countries, self._claims = countries, claims
        self._partitions = Partitions(connection)
        connection.commit()
        self._new_ids = count(-1, -1)
        # Files whose last line would be read again, as they were before.
        self._reopened: list[FileProgress] = []
        self._codes: list[str] = []
        self._row_count = 0
        self._examples: list[dry_run_diff.Row] = []

    def begin(self, task: FileTask) -> FileProgress:
        """Return where to read on; a new file gets a negative id."""
        if former := progress_under_former_id(task):
            self._reopen(former)
        file_id = existing_file_id(task)
        file = progress_of(task, next(self._new_ids) if file_id is None else file_id)
        self._reopen(file)
        return file

    def set_aside(self, task: FileTask, unread: UnreadFile) -> None:
        """Record nothing: the result of the dry run lists the file."""

    def record_unread(self, unread: Sequence[UnreadFile], known: Sequence[Checkpoint]) -> None:
        """Record nothing: the result of the dry run lists the files."""

    def ensure_partitions(self, countries: Sequence[str]) -> None:
        """Remember the countries, for `publish_all`."""
        self._codes += countries

    def send(self, rows: list[CountryRows]) -> None:
        """Have PostgreSQL check and count the rows."""
        self._row_count += sum(copy_binary(self._reader, _ROWS, one.pieces) for one in rows)
        if len(self._examples) < EXAMPLES:
            self._examples += dry_run_diff.some(self._reader, _ROWS, EXAMPLES - len(self._examples))
        self._reader.execute(sql.SQL("truncate {}").format(_ROWS))

    def quarantine(self, lines: list[QuarantinedLine]) -> None:
        """COPY lines into a temporary table."""
        copy_lines(self._connection, "pg_temp", lines, self._run.run_id)

    def publish(self, batch: Batch, products: Sequence[str]) -> list[CheckResult]:
        """Verify the batch, and keep its aggregates for `publish_all`."""
        connection = self._connection
        batch.aggregates.stage(connection, self._countries.codes, products, "pg_temp")
        # Rolled back at once: real loaders use the same staging tables.
        with connection.transaction(force_rollback=True):
            transaction_lock(connection, PUBLISHED)
            return verify(connection, self._run, batch)

    def maintain(self) -> None:
        """Do nothing: a dry run does not show maintenance of partitions."""

    def publish_all(self, loaded: WeblogLoad) -> tuple[tuple[Load, ...], tuple[Example, ...]]:
        """Publish everything in the transaction of the dry run; returns the changes and examples of each table."""
        connection, run_id = self._connection, self._run.run_id
        paths = {file.file_id: file.path for file in loaded.files}
        former_paths = {file.file_id: file.file.path for file in self._reopened}
        reread = dry_run_diff.remember(
            connection, [(file.file_id, file.line_count) for file in self._reopened]
        )
        for file in self._reopened:
            reopen_last_line(connection, file, run_id)
        connection.execute("select set_config('dwh.run_id', %s, true)", [str(run_id)])
        name_countries(connection, self._countries, self._codes, run_id)
        dry_run_diff.publish(connection)

        loads = [
            Load(
                FEED,
                "dwh.fact_weblog",
                rows_read=loaded.lines,
                rows_inserted=self._row_count,
                rows_deleted=len(reread),
                rows_quarantined=loaded.rows_quarantined,
                seconds=round(loaded.seconds, 3),
            )
        ]
        examples = dry_run_diff.requests("insert", self._examples, paths)
        examples += dry_run_diff.requests("delete", reread[:EXAMPLES], former_paths)
        if new := tuple(sorted(code for code in self._codes if not self._partitions.has(code))):
            examples.append(Example("dwh.fact_weblog", "partition", new, "countries that get a partition"))
        tables = [dry_run_diff.new_texts(self._reader, table) for table in TABLES]
        tables.append(dry_run_diff.new_countries(connection, run_id))
        tables += dry_run_diff.changed(connection)
        for load, rows in tables:
            if any((load.rows_inserted, load.rows_updated, load.rows_deleted)):
                loads.append(load)
                examples += rows
        for one in quarantined(connection, run_id, schema="pg_temp"):
            file_id, line = one.row_key
            examples.append(replace(one, row_key=(paths[int(file_id)], line)))
        return tuple(loads), tuple(examples)

    def _reopen(self, file: FileProgress) -> None:
        before = replace(file)
        with self._connection.transaction(force_rollback=True):
            reopen_last_line(self._connection, file, self._run.run_id)
        if file.line_count < before.line_count:
            self._reopened.append(before)
            self._claims.record(checkpoint_of(file))


# For audit.file, audit.load and each dictionary: the table, its last change, and the run that made it.
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
        "UTC): its result is out of date.",
        hint="Nothing was changed. Run it again when no load of web logs is due.",
    )
