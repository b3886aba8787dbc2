"""Build tables as of a run from archive and landing files, in their own schema (`dwh rebuild --all --as-of RUN`)."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from typing import Final

import psycopg
from psycopg import sql

from warehouse.archive.flush import flush
from warehouse.archive.pending import warehouse_id
from warehouse.archive.place import Archive, table_path
from warehouse.db.identifiers import listed
from warehouse.db.locks import session_lock, source_lock
from warehouse.errors import AccessRefused, SchemaObjectInUse, counted
from warehouse.rebuild.archived_rows import ArchivedRows, AsOf, read_nothing, read_rows
from warehouse.rebuild.captured_table import manifest_of
from warehouse.rebuild.feed_mirrors import TRAIL, FeedMirrors
from warehouse.rebuild.last_rows import last_rows, mirror_rows, read_trail
from warehouse.rebuild.rebuild import NotArchived
from warehouse.rebuild.tables import columns_of, published_tables
from warehouse.runs.audit import Run, ensure_alive
from warehouse.sources.source import Source

Progress = Callable[[str], None]

# A schema whose comment ends with this text was made by a rebuild, which may replace it.
_MARK: Final = "Nothing reads it: drop it when you are done."
COMMENT: Final = (
    f"Mirrors, dimensions and daily snapshots as of run {{}}, rebuilt from archive and landing files. {_MARK}"
)
_FACTS: Final = (
    "select * from audit.<fact>_at({0}) reads a fact as run {0} left it, as far back as the change log goes."
)


def rebuild_as_of(
    run: Run,
    archive: Archive,
    feeds: Sequence[Source],
    as_of_run_id: int,
    tables: Collection[str] | None = None,
    *,
    wait_seconds: float = 60,
    progress: Progress = lambda _: None,
) -> dict[str, int]:
    """Build `tables`, or all mirrors, dimensions and daily snapshots, as of a run, in schema `rebuild_<run>`.

    `feeds` are the sources whose mirrors come from landing files; records that are in no file any more are logged and
    skipped. The schema of an earlier rebuild is replaced; live tables do not change. Returns the rows by table.

    Raises:
        NotArchived: the archive does not know the run, or one of the tables.
        AccessRefused: this login may not create schemas, or not drop the one of that name.
        SchemaObjectInUse: the schema of that name was not made by a rebuild, or has other objects in it or on it.
        LakeError: landing files cannot be read.
        LockHeld: a feed is being loaded, and is still after `wait_seconds`.
    """
    with ExitStack() as locks:
        for feed in feeds:
            if tables is None or {f"raw.{table.mirror}" for table in feed.tables} & {*tables}:
                locks.enter_context(
                    session_lock(run.connection, source_lock(feed.name), wait_seconds=wait_seconds)
                )
        flush(run.warehouse_url, archive, progress=progress)
        with run.connect() as writer:
            past = _Past(writer, archive, as_of_run_id, feeds, progress)
            buildable = past.tables
            if unknown := sorted(set(tables or ()) - buildable):
                raise NotArchived(
                    f"{', '.join(unknown)} cannot be built as of run {as_of_run_id}.",
                    hint=f"Those that can be are {', '.join(sorted(buildable))}. {_FACTS.format(as_of_run_id)}",
                )
            schema = f"rebuild_{as_of_run_id}"
            _make_schema(writer, schema, COMMENT.format(as_of_run_id), buildable)
            counts = {}
            for name, rows in past.build(buildable if tables is None else {*tables}):
                table = name.partition(".")[2]
                built = f"{schema}.{table}"
                counts[built] = writer.execute(
                    sql.SQL("create table {} as {}").format(sql.Identifier(schema, table), rows)
                ).rowcount
                progress(f"{built}: {counted(counts[built], 'row')} as of run {as_of_run_id}")
            ensure_alive(run)
            writer.commit()
    if tables is None:
        progress(f"Facts and marts are not built: {_FACTS.format(as_of_run_id)}")
    return counts


def _make_schema(writer: psycopg.Connection, schema: str, comment: str, tables: Collection[str]) -> None:
    """Create the schema, or replace that of an earlier rebuild; refuse if it contains anything but `tables`."""
    names = [name.partition(".")[2] for name in tables]
    row = writer.execute(
        """
        select
            coalesce(obj_description(oid, 'pg_namespace'), ''),
            array(
                select relname::text from pg_class
                where relnamespace = pg_namespace.oid and relkind = 'r' and relname = any(%s)
            )
        from pg_namespace where nspname = %s
        """,
        [names, schema],
    ).fetchone()
    if row and not row[0].endswith(_MARK):
        raise SchemaObjectInUse(
            f"There is a schema {schema}, and no rebuild has made it.",
            hint="Rename it: tables as of that run are built into a schema of that name.",
        )
    try:
        if row and row[1]:
            old = sql.SQL(", ").join(sql.Identifier(schema, name) for name in row[1])
            writer.execute(sql.SQL("drop table {}").format(old))
        if row:
            writer.execute(sql.SQL("drop schema {}").format(sql.Identifier(schema)))
        writer.execute(
            sql.SQL("create schema {schema}; comment on schema {schema} is {text}").format(
                schema=sql.Identifier(schema), text=sql.Literal(comment)
            )
        )
    except psycopg.errors.DependentObjectsStillExist as error:
        raise SchemaObjectInUse(
            f"Schema {schema} of an earlier rebuild cannot be replaced: {error.diag.message_detail}.",
            hint="Drop that, or move it to another schema.",
        ) from None
    except psycopg.errors.InsufficientPrivilege as error:
        writer.rollback()
        (role,) = writer.execute("select current_user").fetchone() or ("",)
        raise AccessRefused(
            f"{writer.info.user} may not make schema {schema}: {error.diag.message_primary}. Nothing was changed.",
            hint=f"Let a login run it that may create schemas and drop the one of that name, or: "
            f"grant create on database {writer.info.dbname} to {role}.",
        ) from error


class _Past:
    """The state as of a run: the tables that existed, and the query that rebuilds each."""

    def __init__(
        self,
        writer: psycopg.Connection,
        archive: Archive,
        run_id: int,
        feeds: Sequence[Source],
        progress: Progress,
    ) -> None:
        self._writer, self._archive, self._progress = writer, archive, progress
        self._own = warehouse_id(writer)
        self._moment = self._find_moment(run_id)
        self._captured = {
            f"raw.{one.mirror}": one for one in manifest_of(writer, archive, self._own, self._moment)
        }
        self._published = published_tables()
        if feeds:
            self._restore_trail()
        self._feeds = {
            f"raw.{table.mirror}": feed for feed in feeds for table in self._mirrors_of(feed).tables
        }
        self.tables = {*self._captured, *self._published, *self._feeds}

    def build(self, wanted: Collection[str]) -> Iterator[tuple[str, sql.Composable]]:
        """Yield each table's name and the query of its rows. Execute it before asking for the next: they share
        temporary tables."""
        for name in sorted({*wanted} & self._captured.keys()):
            captured = self._captured[name]
            archived = self._read(table_path(captured.source, captured.name))
            yield name, mirror_rows(self._writer, archived, captured, captured.columns)
        for name in sorted({*wanted} & self._published.keys()):
            schema, _, table_name = name.partition(".")
            archived = self._read(f"{schema}/{table_name}")
            columns = columns_of(self._writer, schema, table_name) or archived.types
            yield name, last_rows(self._writer, archived, self._published[name], columns)
        chosen = [self._feeds[name] for name in sorted({*wanted} & self._feeds.keys())]
        for feed in {one.name: one for one in chosen}.values():
            mirrors = self._mirrors_of(feed)
            mirrors.read()
            for table in mirrors.tables:
                if (name := f"raw.{table.mirror}") in wanted:
                    yield name, mirrors.rows(table)
            for lost in mirrors.lost:
                self._progress(f"{feed.name}: {lost}")

    def _mirrors_of(self, feed: Source) -> FeedMirrors:
        return FeedMirrors(self._writer, feed, self._archive.root.parent, trail="pg_temp")

    def _read(self, path: str) -> ArchivedRows:
        rows = read_rows(self._writer, self._archive, path, self._own, as_of=self._moment)
        return rows or read_nothing(self._writer)

    def _find_moment(self, run_id: int) -> AsOf:
        until = None
        if read_rows(self._writer, self._archive, "audit/run", self._own) is not None:
            row = self._writer.execute(
                "select max(_batch_id) from pg_temp.archived where _run_id = %s", [run_id]
            ).fetchone()
            until = row[0] if row else None
            if until is None and (before := self._last_published_until(run_id)):
                self._progress(
                    f"run {run_id} has published nothing: when it ended all was as run {before.run_id} left it"
                )
                return before
        if until is None:
            raise NotArchived(
                f"The archive {self._archive.root} knows nothing that run {run_id} has published.",
                hint="select run_id, flow, started_at from audit.run order by run_id desc lists runs; those before "
                "the archive was begun are not in it.",
            )
        return AsOf(run_id, until)

    def _last_published_until(self, run_id: int) -> AsOf | None:
        """Find the last run in pg_temp.archived (all of which have published) that ended no later than run `run_id`."""
        row = self._writer.execute(
            """
            select archived._run_id, max(archived._batch_id) from pg_temp.archived as archived
            inner join audit.run as publishing on archived._run_id = publishing.run_id
            inner join audit.run as quiet on publishing.ended_at <= quiet.ended_at
            where quiet.run_id = %s
            group by archived._run_id, publishing.ended_at order by publishing.ended_at desc limit 1
            """,
            [run_id],
        ).fetchone()
        return AsOf(*row) if row else None

    def _restore_trail(self) -> None:
        """Restore the audit trail's tables of files, reads and quarantine, as of that run, as temporary tables."""
        for name in TRAIL:
            self._writer.execute(
                sql.SQL("create temp table {} (like {} including defaults) on commit drop").format(
                    sql.Identifier(name), sql.Identifier("audit", name)
                )
            )
            if trail_table := read_trail(self._writer, self._archive, self._own, name, as_of=self._moment):
                columns, _, rows = trail_table
                self._writer.execute(
                    sql.SQL("insert into {} ({}) {}").format(
                        sql.Identifier("pg_temp", name), listed(list(columns)), rows
                    )
                )
