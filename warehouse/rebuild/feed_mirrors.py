"""Rebuild the mirrors of a feed from its landing files and from records that were corrected in quarantine.

audit.file_read has the records that each run loaded from each file, and their columns; audit.quarantine has those that
were rejected later. Records that are in no file any more stay as they are in the live mirror, or are logged as lost.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import class_row, dict_row

from warehouse.db.identifiers import definitions, listed, qualified, same_key
from warehouse.errors import counted
from warehouse.extract.catalog import columns_of as staged_types
from warehouse.extract.catalog import mirrored_columns
from warehouse.extract.column import Column
from warehouse.extract.staging_tables import batch_table
from warehouse.feeds.landing import hashes_of
from warehouse.feeds.record import Record
from warehouse.feeds.replay import record_of
from warehouse.feeds.sender import Sender
from warehouse.feeds.stage import Stager, columns_of, open_records, place_of
from warehouse.feeds.staged import Columns
from warehouse.files.lake import printable_path, readable, reading
from warehouse.files.locations import Found, Location, files_below
from warehouse.rebuild.tables import ensure_mirror
from warehouse.reconcile.compare import EXPECTED, Comparison, create_expected
from warehouse.sources.feed import FILE_ID, LINE, RESCUED
from warehouse.sources.source import Source, Table

# Temporary tables: the reads of all runs, the record versions that are still valid, the rows to leave as they are.
READS: Final = sql.Identifier("pg_temp", "read_of_feed")
ALIVE: Final = sql.Identifier("pg_temp", "alive_version")
SKIPPED: Final = sql.Identifier("pg_temp", "skipped_row")
# Tables of the audit trail from which the state of a feed is derived.
TRAIL: Final = ("file", "file_read", "quarantine")
GONE: Final = "it does not lie in the landing folder any more"
CHANGED: Final = "it has other content now"
NOT_ALL: Final = "which of them were loaded is not known, as a run before the last upgrade did it"


@dataclass(frozen=True)
class LostRecords:
    """Loaded records of a file that cannot be restored: their number, and the reason.

    With `is_earlier` they are records that were replaced by lost ones: the last versions that are left.
    """

    file_id: int
    path: str
    records: int
    reason: str
    is_earlier: bool = False

    def __str__(self) -> str:
        what = f"{counted(self.records, 'record')} of {self.path}"
        if self.is_earlier:
            return f"{what} is given back in an earlier version: its later one is lost"
        return f"{what} cannot be given back: {self.reason}"


@dataclass(frozen=True)
class _Read:
    """The records that one run loaded from one file. Reads are numbered in the order of their runs."""

    number: int
    run_id: int
    file_id: int
    path: str
    written_at: datetime
    is_replay: bool
    record_lines: Any
    columns: Columns
    evolved_columns: Columns | None


def has_records(connection: psycopg.Connection, source: Source) -> bool:
    """Whether runs have loaded records of the feed."""
    return bool(connection.execute(_HAS_READS, [source.name]).rowcount)


class FeedMirrors:
    """All versions of a feed's records, read from files and quarantine into temporary tables of a transaction.

    `trail` is the schema with the tables of files, reads and quarantine: audit, or pg_temp for their state as of a run.
    The caller must hold the feed's lock, since the feed's staging tables are used.
    """

    def __init__(
        self, connection: psycopg.Connection, source: Source, lake: Location, *, trail: str = "audit"
    ) -> None:
        assert source.feed is not None
        self._connection, self._source = connection, source
        self._is_past = trail != "audit"
        self._trail = {name: sql.Identifier(trail, name) for name in TRAIL}
        self._folder = lake / source.feed.landing
        connection.execute(sql.SQL(_READS).format(**self._trail, reads=READS, feed=sql.Literal(source.name)))
        with connection.cursor(row_factory=class_row(_Read)) as cursor:
            self._reads = cursor.execute(_READ_ROWS.encode()).fetchall()
        # Only tables that runs have filled.
        self.tables = [one for one in source.tables if any(one.name in read.columns for read in self._reads)]
        # Why a file cannot be read, by its id.
        self._reasons: dict[int, str] = {}
        self._landed: dict[str, Found] = {}
        # Files that lie there by size and content hash, of the sizes that were looked for.
        self._hashed: dict[int, dict[str, Location]] = {}
        self.lost: list[LostRecords] = []
        # Files with lost records that are not all in the live mirrors, either.
        self.missing: set[int] = set()

    def ensure_mirror(self, table: Table) -> bool:
        """Create the mirror if it is missing, with the columns that runs gave it. Returns whether it was missing."""
        return ensure_mirror(self._connection, table, self._columns(table), None)

    def _columns(self, table: Table) -> tuple[Column, ...]:
        """Return the columns that runs gave a mirror."""
        kinds = {
            name: kind
            for read in self._reads
            for columns in (read.columns, read.evolved_columns or {})
            for name, kind in columns.get(table.name, {}).items()
        }
        return columns_of(self._source, table, kinds)

    def _types(self, table: Table) -> Mapping[str, str]:
        """Return the types of a mirror's columns, at present or as of the past run."""
        if self._is_past:
            return {column.name: column.type for column in self._columns(table)}
        return mirrored_columns(self._connection, table)

    def read(self) -> None:
        """Read all versions of all records, and find the loaded ones that are `lost`.

        All mirrors must exist, unless a past state is read.

        Raises:
            LakeError: the lake cannot be read.
        """
        for table in self.tables:
            types = self._types(table)
            self._connection.execute(
                sql.SQL(
                    "drop table if exists {versions}; "
                    "create temp table {name} ({columns}, _version bigint) on commit drop"
                ).format(
                    versions=_versions(table),
                    name=sql.Identifier(f"version_{table.mirror}"),
                    columns=definitions(types),
                )
            )
        # Read each replay separately: a line may have been replayed more than once.
        reads = sorted(self._reads, key=lambda one: (one.number if one.is_replay else 0, _shape(one)))
        with readable(self._folder):
            self._landed = {printable_path("/".join(one.parts)): one for one in files_below(self._folder)}
            for _, alike in groupby(reads, key=lambda one: (one.number if one.is_replay else 0, _shape(one))):
                self._read_alike(list(alike))
        for table in self.tables:
            self._connection.execute(sql.SQL("analyze {}").format(_versions(table)))
        self._connection.execute(
            sql.SQL(_ALIVE).format(
                **self._trail,
                alive=ALIVE,
                versions=_versions(self._source.record),
                reads=READS,
                key=listed(self._source.record.key),
                version_key=qualified("version", self._source.record.key),
                same=same_key(self._source.record.key, "version", "removed"),
                file_id=sql.Identifier(FILE_ID),
                line=sql.Identifier(LINE),
                source=sql.Literal(self._source.name),
                entity=sql.Literal(self._source.record.mirror),
            )
        )
        self.lost = self._find_lost()

    def rows(self, table: Table) -> sql.Composed:
        """Return the query for the rows of a mirror, with `_run_id` and `_is_deleted`."""
        record = self._source.record
        names = {
            "versions": _versions(table),
            "alive": ALIVE,
            "key": listed(table.key),
            "version_key": qualified("version", table.key),
            "record_key": qualified("alive", record.key),
            "same": same_key(record.key, "version", "alive"),
            "columns": listed(list(self._types(table))),
        }
        return sql.SQL(_RECORDS if table == record else _ITEMS).format(**names)

    def build(self, table: Table) -> Comparison:
        """Return the comparison of the rebuilt rows of a mirror with the live ones.

        It skips, on both sides, rows of files with lost records, and deleted rows that came from an unreadable file or
        were marked as deleted by a record version in one.
        """
        query = self.rows(table)
        names: dict[str, sql.Composable] = {
            "expected": EXPECTED,
            "mirror": sql.Identifier("raw", table.mirror),
            "skipped": SKIPPED,
            "key": listed(table.key),
            "same": same_key(table.key, "held", "expected"),
            "file_id": sql.Identifier(FILE_ID),
            "kept": sql.Literal(self._kept(table)),
            # `_run_id` of a deleted row is the run that marked it; that run may have read one of these files.
            "unread": sql.Literal(sorted(self._reasons)),
            "unread_runs": sql.Literal(
                sorted(
                    {one.run_id for one in self._reads if one.file_id in self._reasons and not one.is_replay}
                )
            ),
        }
        has_skipped = self._connection.execute(sql.SQL(_HAS_SKIPPED).format(**names)).rowcount
        if has_skipped:
            create_expected(self._connection, query)
            self._connection.execute(sql.SQL(_SKIP).format(**names))
        columns = [*mirrored_columns(self._connection, table), "_run_id", "_is_deleted"]
        return Comparison(
            "mirror",
            table.source,
            "raw",
            table.mirror,
            EXPECTED,
            table.key,
            tuple(name for name in columns if name not in table.key),
            sql.SQL("not exists (select from {} as skipped where {})").format(
                SKIPPED, same_key(table.key, "skipped", "found")
            )
            if has_skipped
            else sql.SQL("true"),
            by_image=True,
            query=None if has_skipped else query,
        )

    def _kept(self, table: Table) -> list[int]:
        """Return files with lost records that have rows in the live mirror; add those with too few to `missing`."""
        lost = {one.file_id for one in self.lost}
        names = {"file_id": sql.Identifier(FILE_ID), "mirror": sql.Identifier("raw", table.mirror)}
        rows = self._connection.execute(
            sql.SQL(
                "select file.file_id, count(*) filter (where not held._is_deleted) >= file.rows_loaded "
                "from {file} as file inner join {mirror} as held on held.{file_id} = file.file_id "
                "where file.file_id = any(%s) group by file.file_id, file.rows_loaded"
            ).format(**names, **self._trail),
            [sorted(lost)],
        ).fetchall()
        if table == self._source.record:
            self.missing |= lost - {file_id for file_id, has_all in rows if has_all}
        elif not self._connection.execute(sql.SQL("select from {mirror} limit 1").format(**names)).rowcount:
            # A record need not have items in this table; but a table without any row was dropped or emptied.
            self.missing |= lost
        return [file_id for file_id, _ in rows]

    def _read_alike(self, reads: Sequence[_Read]) -> None:
        """Stage and keep the records of reads with the same columns, or of one replay."""
        columns = reads[0].columns
        tables = tuple(one for one in self._source.tables if one.name in columns)
        sender = Sender(self._connection)
        stager = Stager(
            self._connection, sender, replace(self._source, tables=tables), lambda _: None, columns=columns
        )
        stager.create_tables()
        with sender:
            if reads[0].is_replay:
                self._add_entries(stager, reads[0])
            else:
                by_file = sorted(reads, key=lambda one: one.file_id)
                for file_id, of_file in groupby(by_file, lambda one: one.file_id):
                    self._add_records(stager, file_id, list(of_file))
            stager.finish()
        for table in tables:
            for name, kind in (reads[0].evolved_columns or {}).get(table.name, {}).items():
                stager.evolve_column(table, name, kind)
            self._keep(table, [one.number for one in reads])

    def _keep(self, table: Table, numbers: Sequence[int]) -> None:
        """Copy the staged rows of a table to its versions, each with the number of its read."""
        types = self._types(table)
        staged = staged_types(self._connection, "staging", table.mirror)
        names = [name for name in types if name in staged]
        retyped = [name for name in names if staged[name] != types[name]]
        self._connection.execute(
            sql.SQL(
                "insert into {versions} ({columns}, _version) select {values}, read.number from {batch} as batch "
                "inner join {reads} as read on batch.{file_id} = read.file_id and read.record_lines @> batch.{line} "
                "where read.number = any({numbers})"
            ).format(
                versions=_versions(table),
                columns=listed(names),
                values=sql.SQL(", ").join(
                    _rescued(retyped, types)
                    if name == RESCUED
                    else _fitted(name, types[name])
                    if name in retyped
                    else sql.Identifier("batch", name)
                    for name in names
                ),
                batch=batch_table(table),
                reads=READS,
                file_id=sql.Identifier(FILE_ID),
                line=sql.Identifier(LINE),
                numbers=sql.Literal(list(numbers)),
            )
        )

    def _add_records(self, stager: Stager, file_id: int, reads: Sequence[_Read]) -> None:
        location = self._locate(file_id)
        if location is None:
            return
        # Sorted ranges of lines, each with the CSV cells that identify the file.
        ranges = sorted(
            (lines.lower, lines.upper, place_of(file_id, one.path, one.written_at))
            for one in reads
            for lines in one.record_lines
        )
        starts = [first for first, _, _ in ranges]
        with reading(location) as content:
            for block in open_records(self._source, content, stager.texts).blocks():
                chosen: dict[str, list[Record]] = {}
                for record in block:
                    position = bisect_right(starts, record.line) - 1
                    if position >= 0 and record.line < ranges[position][1] and record.problem is None:
                        chosen.setdefault(ranges[position][2], []).append(record)
                for place, records in chosen.items():
                    stager.add(records, place)

    def _add_entries(self, stager: Stager, read: _Read) -> None:
        """Add records that were replayed from quarantine, in their original or corrected form."""
        with self._connection.cursor(row_factory=dict_row) as cursor:
            entries = cursor.execute(
                sql.SQL(_ENTRIES).format(**self._trail), {**vars(read), "feed": self._source.name}
            ).fetchall()
        for entry in entries:
            if record := record_of(entry, self._source):
                stager.add([record], place_of(read.file_id, read.path, read.written_at))

    def _locate(self, file_id: int) -> Location | None:
        """Return the present location of a file's content, under its own name or another; None if there is none."""
        places = self._connection.execute(
            sql.SQL(_PLACES).format(**self._trail), {"file_id": file_id, "feed": self._source.name}
        ).fetchall()
        self._reasons[file_id] = GONE
        location: Location | None = None
        for path, size, modified_ns, digest in places:
            if (found := self._landed.get(path)) is None:
                continue
            is_same = (found.size_bytes, found.modified_ns) == (size, modified_ns)
            if is_same or digest in hashes_of(found.location, size):
                location = found.location
                break
            self._reasons[file_id] = CHANGED
        else:
            if places:
                _, size, _, digest = places[0]
                location = self._same_content(size, digest)
        if location is not None:
            del self._reasons[file_id]
        return location

    def _same_content(self, size: int, digest: str) -> Location | None:
        """Return a file with this content, whatever its name is: it may have been renamed since the last run."""
        if size not in self._hashed:
            self._hashed[size] = {
                hashes_of(one.location, -1)[1]: one.location
                for one in self._landed.values()
                if one.size_bytes == size and one.obstacle is None
            }
        return self._hashed[size].get(digest)

    def _find_lost(self) -> list[LostRecords]:
        """Return files whose number of restored records differs from that in audit.file."""
        rows = self._connection.execute(
            sql.SQL(_LOST).format(
                **self._trail,
                alive=ALIVE,
                versions=_versions(self._source.record),
                same=same_key(self._source.record.key, "version", "alive"),
                file_id=sql.Identifier(FILE_ID),
                feed=sql.Literal(self._source.name),
            )
        ).fetchall()
        return [
            LostRecords(
                file_id,
                path,
                abs(loaded - found),
                self._reasons.get(file_id, NOT_ALL),
                is_earlier=found > loaded,
            )
            for file_id, path, loaded, found in rows
        ]


def _versions(table: Table) -> sql.Identifier:
    return sql.Identifier("pg_temp", f"version_{table.mirror}")


def _fitted(name: str, kind: str) -> sql.Composable:
    """Return SQL that casts a staged value to the mirror's type; null if it does not fit."""
    return sql.SQL("case when {} then {}::text::{} end").format(
        _fits(name, kind), sql.Identifier("batch", name), sql.SQL(kind)
    )


def _rescued(names: Sequence[str], types: Mapping[str, str]) -> sql.Composable:
    """Return SQL for the rescued fields, with the values added that do not fit the mirror's types."""
    unfit = [
        sql.SQL(
            "|| case when batch.{0} is not null and not {1} then jsonb_build_object({2}, batch.{0}) else '{{}}' end"
        ).format(sql.Identifier(name), _fits(name, types[name]), sql.Literal(name))
        for name in names
    ]
    value = sql.SQL("batch.{}").format(sql.Identifier(RESCUED))
    if not unfit:
        return value
    return sql.SQL("nullif(coalesce({}, '{{}}') {}, '{{}}')").format(value, sql.SQL(" ").join(unfit))


def _fits(name: str, kind: str) -> sql.Composable:
    return sql.SQL("pg_input_is_valid({}::text, {})").format(sql.Identifier("batch", name), sql.Literal(kind))


def _shape(read: _Read) -> str:
    return repr((read.columns, read.evolved_columns))


_HAS_READS: Final = """
    select from audit.file_read inner join audit.file using (file_id) where file.feed = %s limit 1
"""
_READS: Final = """
    drop table if exists {reads};
    create temp table read_of_feed on commit drop as
    select read.*, row_number() over (order by read.read_at, read.run_id) as number
    from {file_read} as read inner join {file} as file on read.file_id = file.file_id
    where file.feed = {feed}
"""
_READ_ROWS: Final = """
    select number, run_id, file_id, path, written_at, is_replay, record_lines, columns, evolved_columns
    from pg_temp.read_of_feed order by number
"""
_ENTRIES: Final = """
    select line_number, edited_text, row_data::text as row_text, raw_text from {quarantine}
    where source = %(feed)s and file_id = %(file_id)s and resolved_run_id = %(run_id)s and resolution = 'replayed'
        and line_number <@ %(record_lines)s::int8multirange
    order by line_number
"""
# Try the file's own path first, then files with the same content (copies, renamed files). A file that has grown since
# begins with the old content.
_PLACES: Final = """
    select place.path, file.size_bytes, file.modified_ns, file.content_hash
    from {file} as file
    inner join (
        select file_id, feed, path, content_hash from {file}
        union
        select file_id, feed, path, content_hash from audit.file
    ) as place on place.feed = file.feed
    where file.file_id = %(file_id)s and file.feed = %(feed)s and file.content_hash is not null
        and (place.content_hash = file.content_hash or place.file_id = file.file_id)
    group by place.path, file.size_bytes, file.modified_ns, file.content_hash
    order by bool_or(place.path = file.path) desc, bool_or(place.file_id = file.file_id) desc, place.path
"""
# A version that was quarantined after it was loaded (by a newer rule) is invalid, and so are all earlier versions.
_ALIVE: Final = """
    drop table if exists {alive};
    create temp table alive_version on commit drop as
    with removed as (
        select {version_key}, max(version._version) as _version
        from {versions} as version
        inner join {reads} as read on read.number = version._version
        inner join {quarantine} as entry
            on entry.file_id = version.{file_id} and entry.line_number = version.{line}
            and entry.quarantined_at > read.read_at
        where entry.source = {source} and entry.entity = {entity}
        group by {version_key}
    )

    select {version_key}, version._version, read.run_id as _run_id,
        lead(read.run_id) over (partition by {version_key} order by version._version) as _next_run_id
    from {versions} as version
    inner join {reads} as read on read.number = version._version
    left join removed on {same}
    where removed._version is null or version._version > removed._version;
    analyze {alive}
"""
_RECORDS: Final = """
    select {columns}, _run_id, false as _is_deleted
    from (
        select version.*, alive._run_id from {versions} as version
        inner join {alive} as alive on {same} and alive._version = version._version
        where alive._next_run_id is null
    ) as last
"""
# If a record's next version no longer has a list item, the run of that version has marked the item as deleted.
_ITEMS: Final = """
    select {columns}, coalesce(_next_run_id, _run_id) as _run_id, _next_run_id is not null as _is_deleted
    from (
        select distinct on ({version_key}) version.*, alive._run_id, alive._next_run_id
        from {versions} as version
        inner join {alive} as alive on {same} and alive._version = version._version
        order by {version_key}, version._version desc
    ) as last
"""
_HAS_SKIPPED: Final = """
    select from {mirror} where {file_id} = any({kept})
        or _is_deleted and ({file_id} = any({unread}) or _run_id = any({unread_runs}))
    limit 1
"""
_SKIP: Final = """
    drop table if exists {skipped};
    create temp table skipped_row on commit drop as
    select {key} from {mirror} as held
    where {file_id} = any({kept})
        or _is_deleted and ({file_id} = any({unread}) or _run_id = any({unread_runs})) and not exists (
            select from {expected} as expected where {same} and not expected._is_deleted
        );
    delete from {expected} as expected where {file_id} = any({kept}) or exists (
        select from {skipped} as held where {same}
    )
"""
_LOST: Final = """
    select file.file_id, file.path, file.rows_loaded, coalesce(held.records, 0)
    from {file} as file
    left join (
        select version.{file_id} as file_id, count(*) as records
        from {versions} as version
        inner join {alive} as alive on {same} and alive._version = version._version
        where alive._next_run_id is null
        group by 1
    ) as held on held.file_id = file.file_id
    where file.feed = {feed} and file.rows_loaded <> coalesce(held.records, 0)
    order by file.file_id
"""
