"""Stage a feed: read the records of new files into schema staging, like the changed rows of a database."""

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql

from warehouse.db.time_zone import zone_of
from warehouse.errors import SchemaDrift, counted
from warehouse.extract.catalog import mirror_exists, mirrored_columns
from warehouse.extract.checksums import Hashing
from warehouse.extract.column import Column
from warehouse.extract.delete_threshold import DeleteThreshold
from warehouse.extract.snapshot import Snapshot
from warehouse.extract.source_identity import SourceIdentity
from warehouse.extract.staged import StagedTable
from warehouse.extract.staging_tables import batch_table, create_staging
from warehouse.extract.table_identity import TableIdentity
from warehouse.extract.watermark import read_watermark
from warehouse.feeds.bad_records import BadRecords
from warehouse.feeds.block_reader import BlockReader, ReadBlock
from warehouse.feeds.json_parse import TextFields
from warehouse.feeds.json_records import JsonRecords
from warehouse.feeds.landing import FeedFile, find_files, has_hashed_content, landing_folder
from warehouse.feeds.record import Problem, Record
from warehouse.feeds.rows import RowMaker, TableRows
from warehouse.feeds.second_reader import SecondReader, read_lines, second_reader
from warehouse.feeds.sender import Sender
from warehouse.feeds.staged import Columns, FieldSeen, FileProgress, StagedFeed
from warehouse.feeds.table_records import TableRecords
from warehouse.feeds.typed import MOST_SHOWN, escape, type_name
from warehouse.files.content import ContentReader
from warehouse.files.lake import READ_NEXT, REPLACED, FileUnreadable, UnreadFile, naming, readable, reading
from warehouse.files.unread import record_unread
from warehouse.runs.audit import Run, ensure_alive
from warehouse.runs.definitions import read_contracts
from warehouse.sources.feed import FILE_ID, LINE, RECORD_COLUMNS, RESCUED, ColumnType, FieldPolicy
from warehouse.sources.feed_tables import RESERVED_COLUMNS
from warehouse.sources.source import Source, Table

Progress = Callable[[str], None]
# Bytes of rows to collect before sending them. Twice as many are in memory, since the last ones are still being sent.
_SENT_AT_ONCE = 4 << 20
_TYPES: Mapping[str, ColumnType] = {
    "text": "text", "numeric": "numeric", "bigint": "bigint", "boolean": "boolean", "date": "date",
    "timestamp with time zone": "timestamptz", "jsonb": "jsonb",
}  # fmt: skip
# Column type for a new field, by the type of its values; text if they have several types.
_NEW: Mapping[str, ColumnType] = {
    "number": "numeric", "text": "text", "boolean": "boolean", "object": "jsonb", "list": "jsonb", "date": "date",
    "time": "text", "interval": "text",
}  # fmt: skip
# A row with this many columns fits into a page even if all values are in TOAST, each with an 18-byte pointer.
_MOST_COLUMNS: Final = 400
# Message of a file that is registered under the name of an earlier one.
_REPLACES: Final = "its content replaces what was loaded under this name before"
# Name at most this many undeclared fields in messages.
_NAMED_FIELDS: Final = 20


def stage_feed(
    run: Run,
    source: Source,
    lake_url: str,
    *,
    threshold: DeleteThreshold,
    full_refresh: bool = False,
    progress: Progress = lambda _: None,
) -> StagedFeed:
    """Read new files of the landing folder into schema staging. With `full_refresh`, all records are conformed again.

    Raises:
        DeclarationError: a contract is missing.
        LakeError: a file cannot be read.
        SchemaDrift: the fields have changed, and the feed's policy is to stop.
    """
    contracts = dict(read_contracts(source))
    if contract := source.record_contract():
        contracts[source.record.mirror] = contract
    with run.session("stage") as writer:
        landed = find_files(writer, source, lake_url)
        if landed.missing:
            progress(f"{landed.missing}: no files to read")
        for one in landed.unsettled:
            progress(f"{one.path}: is still being written")
        sender = Sender(writer)
        stager = Stager(writer, sender, source, progress)
        files = _register(writer, source.name, landed.files, run.run_id)
        ensure_alive(run)
        run.commit(writer)
        stager.create_tables()
        bad = BadRecords(writer, sender, source, lake_url, is_dry_run=run.dry_run_connection is not None)
        unread = list(landed.unread)
        to_read = sum(file.found.file.size_bytes for file in files if file.found.is_read)
        with (
            sender,
            bad,
            readable(landing_folder(lake_url, source)),
            _without_garbage_collection(),
            second_reader(stager.reader, to_read) as second,
        ):
            checked_at = time.monotonic()
            for file in list(files):
                if not file.found.is_read:
                    continue
                try:
                    stager.read(file, bad, second)
                except FileUnreadable as error:
                    # Continue with the other files.
                    bad.take_back(file)
                    stager.take_back(file)
                    files.remove(file)
                    _read_copy_of(file, files)
                    unread.append(UnreadFile(file.found.file.path, "unread", error.reason, error.hint))
                    progress(str(unread[-1]))
                # There may be many thousands of small files.
                if time.monotonic() - checked_at > 1:
                    ensure_alive(run)
                    checked_at = time.monotonic()
            stager.finish()
            ensure_alive(run)
        read = {file.found.file.path for file in files}
        record_unread(
            writer, source.name, unread, [one for one in landed.known if one.path not in read], run.run_id
        )
        stager.evolve()
        tables = stager.tables()
        run.commit(writer)
        fields = stager.fields()
    return StagedFeed(
        source,
        snapshot(source),
        tables,
        contracts,
        threshold,
        is_refresh_requested=full_refresh,
        files=tuple(files),
        fields=fields,
        unread=tuple(unread),
        columns=stager.columns,
        evolved_columns=stager.evolved_columns,
    )


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Disable garbage collection: records have no reference cycles, and looking for them takes 1/6 of parsing time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def snapshot(source: Source) -> Snapshot:
    """Return a snapshot with the present time only: files have neither transactions nor a database identity."""
    assert source.feed is not None
    identity = SourceIdentity(None, None, None, source.feed.landing, None, 0)
    return Snapshot(identity, datetime.now(UTC))


def _register(
    connection: psycopg.Connection, feed: str, landed: Sequence[FeedFile], run_id: int
) -> list[FileProgress]:
    """Return the progress of each file, with its row in audit.file. New files get their rows now, so that a retry has
    the same file_ids."""

    def known_id(found: FeedFile) -> int | None:
        known = found.known
        return known.file_id if known is not None and found.state not in ("replaced", "copy") else None

    without = [found for found in landed if known_id(found) is None]
    file_ids: dict[str, int] = {}
    if without:
        with connection.transaction():
            # A run that published nothing has left its rows: a copy, for example, is registered under its path only.
            file_ids.update(
                connection.execute(
                    "select path, file_id from audit.file "
                    "where feed = %s and path = any(%s) and status = 'partial' and size_bytes = -1",
                    [feed, [found.file.path for found in without]],
                ).fetchall()
            )
            without = [found for found in without if found.file.path not in file_ids]
            paths = [found.file.path for found in without]
            connection.execute(
                "update audit.file set status = 'replaced' where feed = %s and path = any(%s) and status <> 'replaced'",
                [feed, paths],
            )
            rows = connection.execute(
                """
                insert into audit.file (
                    feed, path, head_bytes, head_hash, tail_hash, size_bytes, modified_ns, byte_offset, line_count,
                    rows_loaded, rows_quarantined, status, run_id, message
                )
                select %s, path, 0, '', '', -1, 0, 0, 0, 0, 0, 'partial', %s, message
                from unnest(%s::text[], %s::text[]) with ordinality as landed (path, message, place)
                order by place
                returning path, file_id
                """,
                [feed, run_id, paths, [_REPLACES if one.state == "replaced" else None for one in without]],
            )
            file_ids.update(rows.fetchall())
    files = []
    for found in landed:
        file_id = known_id(found) or file_ids[found.file.path]
        offset = found.known.byte_offset if found.known and found.state == "grown" else 0
        files.append(FileProgress(found, file_id, byte_offset=offset))
    return files


def _read_copy_of(unread: FileProgress, files: Sequence[FileProgress]) -> None:
    """If a file cannot be read, read its first copy instead; further files are copies of that one."""
    original = None
    for file in files:
        if file.found.state == "copy" and file.found.content_hash == unread.found.content_hash:
            if original is None:
                original = file
                file.found = replace(file.found, state="new")
            elif file.found.known is not None:
                file.found = replace(
                    file.found, known=replace(file.found.known, path=original.found.file.path)
                )


def open_records(
    source: Source, content: ContentReader, texts: TextFields, begin: int = 0
) -> "JsonRecords | TableRecords":
    """Open a reader of a feed file's records from offset `begin` on. `texts` are those of a `Stager`."""
    assert source.feed is not None
    if source.feed.format == "table":
        return TableRecords(content, source.feed, source.record)
    return JsonRecords(content, texts, begin)


@dataclass
class _Columns:
    """The columns of a table: declared ones, evolved ones, and those that the engine adds."""

    table: Table
    kinds: dict[str, ColumnType]
    # Columns of the record's key, which rows of its lists have, too.
    record_key: Mapping[str, ColumnType]

    @property
    def all(self) -> tuple[Column, ...]:
        described = {name: Column(name, kind, None, None) for name, kind in self.kinds.items()}
        if self.table.items:
            place = self.table.key[-1]
            prefix = [Column(name, kind, None, "Key of the record") for name, kind in self.record_key.items()]
            own = (*prefix, Column(place, "integer", None, f"Place in the list '{self.table.items}', from 1"))
            added: Sequence[str] = (RESCUED, FILE_ID, LINE)
        else:
            own, added = (), tuple(RECORD_COLUMNS)
        return (
            *own,
            *described.values(),
            *(Column(name, RECORD_COLUMNS[name][0], None, RECORD_COLUMNS[name][1]) for name in added),
        )


def columns_of(source: Source, table: Table, kinds: Mapping[str, ColumnType]) -> tuple[Column, ...]:
    """Return all columns of a feed's table, including those that the engine adds. `kinds` are the table's own."""
    record = source.record
    return _sql_types(_Columns(table, dict(kinds), {name: record.columns[name] for name in record.key}).all)


def place_of(file_id: int, path: str, modified: datetime | int) -> str:
    """Return the COPY cells that identify a record's file, with \\0 in place of the line number.

    `modified` is the file's modification time, as a datetime or in nanoseconds since 1970.
    """
    moment = datetime.fromtimestamp(modified / 1e9, UTC) if isinstance(modified, int) else modified
    return "\t".join([str(file_id), escape(path), "\0", moment.isoformat()])


class Stager:
    """Reads files into the staging tables of one feed. `columns` default to the present columns of its tables."""

    def __init__(
        self,
        writer: psycopg.Connection,
        sender: Sender,
        source: Source,
        progress: Progress,
        columns: Columns | None = None,
    ) -> None:
        self._writer, self._sender, self._source, self._progress = writer, sender, source, progress
        self._record = source.record
        self._items = [table for table in source.tables if table.items]
        key = {name: self._record.columns[name] for name in self._record.key}
        self.columns: Columns = columns or {table.name: self._kinds(table) for table in source.tables}
        self.evolved_columns: dict[str, dict[str, ColumnType]] = {}
        self._columns = {
            table.name: _Columns(table, dict(self.columns[table.name]), key) for table in source.tables
        }
        self._started = time.monotonic()
        self._is_first = not mirror_exists(writer, self._record)
        self._notes: dict[str, list[str]] = {table.name: [] for table in source.tables}
        self.texts = {
            table.items or "": [
                name for name, kind in self._columns[table.name].kinds.items() if kind == "text"
            ]
            for table in source.tables
        }
        columns_of_file = {name: columns.kinds for name, columns in self._columns.items()}
        assert source.feed is not None
        zone = ZoneInfo(source.feed.time_zone or zone_of(writer))
        self.reader = BlockReader(self._record, self._items, columns_of_file, self.texts, zone)
        self._rows = RowMaker(self._record, self._items, columns_of_file, zone)

    def _kinds(self, table: Table) -> dict[str, ColumnType]:
        """Return the declared columns, and those that earlier runs have added or widened."""
        assert self._source.feed is not None
        own = {*table.key, *RECORD_COLUMNS}
        kinds = dict(table.columns)
        for name, kind in mirrored_columns(self._writer, table).items():
            if name in own or kind not in _TYPES:
                continue
            mirrored = _TYPES[kind]
            is_evolving = self._source.feed.on_schema_change.changed_type == "evolve"
            if name not in kinds or (is_evolving and _wider(kinds[name], mirrored) == mirrored):
                kinds[name] = mirrored
        return kinds

    def create_tables(self) -> None:
        """Create or empty the staging tables."""
        for table in self._source.tables:
            create_staging(self._writer, {table: _sql_types(self._columns[table.name].all)})

    def add(self, records: Sequence[Record], place: str) -> dict[int, Problem]:
        """Add records of the file that `place` identifies. Returns, by position, problems of records without a key."""
        problems = self._rows.add(records, place)
        if self._rows.size >= _SENT_AT_ONCE:
            self._send()
        return problems

    def read(self, file: FileProgress, bad: BadRecords, second: SecondReader | None = None) -> None:
        """Read the records of a file that are not read yet, in parallel with the process `second`.

        Raises:
            FileUnreadable: it cannot be read, or was replaced meanwhile: then call `take_back`.
            LakeError: the lake cannot be read, or a bad record cannot be copied.
        """
        found = file.found
        place = place_of(file.file_id, found.file.path, found.file.modified_ns)
        with reading(found.file.location) as content:
            with naming(found.file.location):
                records = self._reader(file, content)
            if isinstance(records, JsonRecords) and not records.is_array:
                blocks = read_lines(records, self.reader, second, place, file.byte_offset)
            else:
                blocks = (self.reader.read(block, place) for block in _noting_known(records.blocks(), file))
            for block in _naming(blocks, found):
                file.records += block.records
                file.unreadable += len(block.bad)
                self._rows.join(block.rows)
                if self._rows.size >= _SENT_AT_ONCE:
                    self._send()
                for record, problem in block.bad:
                    file.cut_off_at = record.byte_offset if problem.rule == "record is cut off" else None
                    bad.add(file, record, problem)
            bad.end_file()
            fault = content.fault or records.fault
            file.fault = fault
            file.byte_offset = file.cut_off_at if file.cut_off_at is not None else content.position
            if file.is_array or content.is_compressed:
                # Such files are always read from the beginning.
                file.byte_offset = 0
            if not has_hashed_content(found, content.raw):
                raise FileUnreadable(found.file.location, REPLACED, READ_NEXT)
        self._progress(_describe(file))

    def take_back(self, file: FileProgress) -> None:
        """Delete the records of a file from the staging tables."""
        self.finish()
        for table in self._source.tables:
            self._writer.execute(
                sql.SQL("delete from {} where {} = %s").format(batch_table(table), sql.Identifier(FILE_ID)),
                [file.file_id],
            )

    def _reader(self, file: FileProgress, content: ContentReader) -> "JsonRecords | TableRecords":
        records = open_records(self._source, content, self.texts, file.byte_offset)
        if isinstance(records, TableRecords):
            # Rows have no byte offsets: treat the file like a JSON array, which is always read from the beginning.
            file.is_array, file.format = True, "workbook" if records.is_workbook else "csv"
        else:
            file.is_array = records.is_array
            file.format = "json array" if records.is_array else "json lines"
        return records

    def _send(self) -> None:
        """Send the rows that are in memory."""
        self._sender.send(
            [
                (
                    batch_table(rows.table),
                    [column.name for column in self._columns[rows.table.name].all],
                    rows.take(),
                )
                for rows in self._rows.tables
                if rows.lines
            ]
        )

    def finish(self) -> None:
        """Send the remaining rows, and wait until all rows are stored."""
        self._send()
        self._sender.wait()

    def evolve(self) -> None:
        """Apply the feed's schema-change policy to fields that are new, missing or of another type.

        Raises:
            SchemaDrift: the policy is to stop.
        """
        stopped = []
        for rows in self._rows.tables:
            stopped += self._evolve_new(rows)
            stopped += self._evolve_mistyped(rows)
            stopped += self._note_missing(rows)
        if stopped:
            raise SchemaDrift(
                f"The files of feed '{self._source.name}' have changed: {'; '.join(stopped)}.",
                hint="Nothing was published. Adapt the schema and the conform SQL, or let the feed go on: "
                f"\"rescue\" under [feed.on_schema_change] in the source.toml of '{self._source.name}'.",
            )

    def _evolve_new(self, rows: TableRows) -> list[str]:
        """Add columns for new fields, or note that they are rescued. Returns those that stop the run."""
        table, policy, columns = rows.table, self._policy.new_column, self._columns[rows.table.name]
        lists = {one.items for one in self._items} if table == self._record else set()
        noted, stopped = [], []
        for name, types in _seen(rows).items():
            if name in columns.kinds or name in lists:
                continue
            what = f"field {name} of {table.name} is not declared ({', '.join(sorted(types))})"
            if policy == "evolve" and self._can_evolve(table, name):
                kinds = {_NEW[one] for one in types if one != "null"}
                column_type: ColumnType = next(iter(kinds)) if len(kinds) == 1 else "text"
                self.evolve_column(table, name, column_type)
                what += f": column {name} {column_type} was added"
            elif policy == "stop":
                stopped.append(what)
            else:
                what += f": kept in {RESCUED}"
            noted.append(what)
        for what in noted[:_NAMED_FIELDS]:
            self._note(table, what)
        if more := noted[_NAMED_FIELDS:]:
            self._note(
                table, f"{len(more):,} more fields of {table.name} are not declared: see audit.feed_field"
            )
        return stopped

    def _evolve_mistyped(self, rows: TableRows) -> list[str]:
        """Widen columns for values of another type, or note that these are rescued. Returns those that stop the run."""
        table, policy, columns = rows.table, self._policy.changed_type, self._columns[rows.table.name]
        stopped = []
        for (name, kind), count in sorted(rows.mistyped.items()):
            where = f"{name} of {table.name} is a {kind} in {counted(count, 'row')}"
            what = f"{where}, and {columns.kinds[name]} is declared"
            if policy == "evolve" and name not in self._record.key:
                column_type = _wider(columns.kinds[name], _NEW[kind])
                self.evolve_column(table, name, column_type)
                self._note(table, f"{what}: the column is {column_type} from now on")
                continue
            if policy == "stop":
                stopped.append(what)
            self._note(table, f"{what}: kept in {RESCUED}")
        return stopped

    def _note_missing(self, rows: TableRows) -> list[str]:
        """Note fields that earlier files had, unless the policy is to ignore that. Returns those that stop the run."""
        table, policy = rows.table, self._policy.dropped_column
        if not rows.count or policy == "evolve":
            return []
        missing = sorted(self._known_fields(table) - _seen(rows).keys())
        what = [f"field {name} of {table.name} has stopped coming" for name in missing]
        for one in what:
            self._note(table, one)
        return what if policy == "stop" else []

    @property
    def _policy(self) -> FieldPolicy:
        assert self._source.feed is not None
        return self._source.feed.on_schema_change

    def _known_fields(self, table: Table) -> set[str]:
        rows = self._writer.execute(
            "select distinct field_name from audit.feed_field where source = %s and table_name = %s and is_declared",
            [self._source.name, table.name],
        ).fetchall()
        return {name for (name,) in rows} & self._columns[table.name].kinds.keys()

    def _can_evolve(self, table: Table, name: str) -> bool:
        """Whether a field may become a column: its name is valid and free, and the table has room for it."""
        names = {column.name for column in self._columns[table.name].all}
        return _is_column_name(name) and name not in RESERVED_COLUMNS | names and len(names) < _MOST_COLUMNS

    def evolve_column(self, table: Table, name: str, kind: ColumnType) -> None:
        """Add a column of this type for a field to the staging table, or widen the column that it has."""
        names = {
            "batch": batch_table(table), "column": sql.Identifier(name), "kind": sql.SQL(kind),
            "field": sql.Literal(name), "rescued": sql.Identifier(RESCUED), "kind_text": sql.Literal(kind),
        }  # fmt: skip
        if name not in self._columns[table.name].kinds:
            self._writer.execute(sql.SQL("alter table {batch} add column {column} {kind}").format(**names))
        value = "{rescued} -> {field}" if kind == "jsonb" else "({rescued} ->> {field})::{kind}"
        fits = "{rescued} ? {field}"
        if kind != "jsonb":
            fits += " and pg_input_is_valid({rescued} ->> {field}, {kind_text})"
        # Move the field's values that fit the type now out of _rescued_data. An update would move rows; alter table
        # keeps their order, by which the last version of a record is found.
        self._writer.execute(
            sql.SQL(
                "alter table {batch} "
                f"alter column {{column}} type {{kind}} using case when {fits} then {value} "
                "else {column}::{kind} end, "
                f"alter column {{rescued}} type jsonb using case when {fits} "
                "then nullif({rescued} - {field}, '{{}}') else {rescued} end"
            ).format(**names)
        )
        self._columns[table.name].kinds[name] = kind
        self.evolved_columns.setdefault(table.name, {})[name] = kind

    def _note(self, table: Table, text: str) -> None:
        self._notes[table.name].append(text)
        self._progress(text)

    def tables(self) -> tuple[StagedTable, ...]:
        """Return the staged tables. They contain all versions of the records: see `load.records`."""
        return tuple(self._staged(table) for table in self._source.tables)

    def _staged(self, table: Table) -> StagedTable:
        (rows,) = self._writer.execute(
            sql.SQL("select count(*) from {}").format(batch_table(table))
        ).fetchone() or (0,)
        return StagedTable(
            table,
            _sql_types(self._columns[table.name].all),
            None,
            full_refresh=self._is_first,
            window_low=None,
            rows_read=rows,
            rows_deleted=0,
            copy_seconds=time.monotonic() - self._started,
            scan_seconds=0.0,
            hashing=Hashing.RECORD,
            identity=TableIdentity({}, {}),
            before=read_watermark(self._writer, table),
            notes=tuple(self._notes[table.name]),
        )

    def fields(self) -> tuple[FieldSeen, ...]:
        """Return the fields in the records of this run, with their types."""
        return tuple(
            FieldSeen(rows.table.name, name, kind, name in self._columns[rows.table.name].kinds, count)
            for rows in self._rows.tables
            for name, kinds in _seen(rows).items()
            for kind, count in kinds.items()
        )


def _seen(rows: TableRows) -> dict[str, Counter[str]]:
    """Count the values of each field by type. Names that are too long for an index are truncated."""
    seen: dict[str, Counter[str]] = {}
    for name, types in rows.seen.items():
        shown = name if len(name) <= MOST_SHOWN else f"{name[:MOST_SHOWN]}…"
        for kind, count in types.items():
            seen.setdefault(shown, Counter())[type_name(kind)] += count
    return seen


def _wider(one: ColumnType, other: ColumnType) -> ColumnType:
    """Return a type that holds the values of both types."""
    if one == other:
        return one
    return "numeric" if {one, other} == {"bigint", "numeric"} else "text"


def _is_column_name(name: str) -> bool:
    return (
        name.isidentifier() and name == name.lower() and len(name.encode()) < 60 and not name.startswith("_")
    )


def _sql_types(columns: Iterable[Column]) -> tuple[Column, ...]:
    """Return the columns with PostgreSQL's names of their types."""
    return tuple(
        replace(column, type="timestamp with time zone") if column.type == "timestamptz" else column
        for column in columns
    )


def _noting_known(blocks: Iterator[Sequence[Record]], file: FileProgress) -> Iterator[Sequence[Record]]:
    """Yield the blocks of a file that is read from its beginning, and note where the records end that are known."""
    left = 0 if file.found.begins_as == file.file_id else file.found.known_records
    for block in blocks:
        if 0 < left <= len(block):
            file.known_until = block[left - 1].line
        left -= len(block)
        yield block


def _naming(blocks: Iterator[ReadBlock], found: FeedFile) -> Iterator[ReadBlock]:
    """Yield the blocks of a file, with errors that name the file."""
    with naming(found.file.location):
        yield from blocks


def _describe(file: FileProgress) -> str:
    found = file.found
    what = {"replaced": " (its content replaces what was loaded before)", "grown": " (it goes on)"}
    unreadable = f", {file.unreadable:,} of them cannot be read" if file.unreadable else ""
    fault = f"; {file.fault}" if file.fault else ""
    return (
        f"{found.file.path}{what.get(found.state, '')}: {counted(file.records, 'record')}{unreadable}{fault}"
    )
