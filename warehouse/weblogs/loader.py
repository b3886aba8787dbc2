"""Loads web logs: every line of every file becomes a row or a quarantined line, once.

Several loaders may work on one lake, in any processes on any machines: they share the files (`claims`), use the same
lookups, and publish their batches one after another.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from warehouse import geoip
from warehouse.archive.changed_rows import archive_trail
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.files.archive import DEFAULT_LIMITS, Limits
from warehouse.files.lake import REPLACED, FileUnreadable, LakeFile, UnreadFile, edges, naming
from warehouse.geoip.database import Countries
from warehouse.runs.audit import CheckResult, Run, add_parameters
from warehouse.runs.freshness import read_clock, record_complete
from warehouse.settings import Settings
from warehouse.weblogs.batch import Batch
from warehouse.weblogs.files import landing
from warehouse.weblogs.files.blocks import Block, BlockReader
from warehouse.weblogs.files.checkpoints import FEED, FileProgress, checkpoint_of, next_batch
from warehouse.weblogs.files.claims import Claims
from warehouse.weblogs.files.unread import judge
from warehouse.weblogs.formats.blocks import BlockParser
from warehouse.weblogs.formats.declaration import WeblogFormats, read_formats
from warehouse.weblogs.maintenance.rederive import rederive_texts
from warehouse.weblogs.quarantine import Quarantine
from warehouse.weblogs.reader.addresses import Addresses, AddressReader
from warehouse.weblogs.reader.buffers import Bytes, Mask, Places
from warehouse.weblogs.reader.parse import Lines, Parsed, Rejected, split_lines
from warehouse.weblogs.reader.traffic_rules import read_traffic_rules
from warehouse.weblogs.result import FileLoad, Progress, WeblogLoad
from warehouse.weblogs.sink import Sink, TableSink
from warehouse.weblogs.storage.lookups import Lookups
from warehouse.weblogs.storage.rows import RowBuffer, Shape, group_by_country, microseconds

# Bytes read per commit: large enough that aggregates are updated rarely, small enough that a killed load loses little.
BATCH_BYTES = 4 << 30
# At _SEND_ROWS rows in memory, those of the largest countries are sent, until at most _KEEP_ROWS are left.
_SEND_ROWS, _KEEP_ROWS = 1_000_000, 350_000
_INITIAL_ROWS = 1 << 16
_PAUSE_SECONDS = 0.5
# A log of another time zone, or of a clock that is a little fast, is not yet of the future.
_FUTURE_SECONDS = 86_400

Values: TypeAlias = npt.NDArray[np.generic]


def load(
    settings: Settings,
    run: Run,
    *,
    progress: Callable[[Progress], None] | None = None,
    batch_bytes: int = BATCH_BYTES,
    wait_seconds: float = 60,
    restart: Collection[str] | None = None,
    reconform: bool = False,
) -> WeblogLoad:
    """Load new lines of the landing folder into dwh.fact_weblog, batch by batch, each in one transaction.

    Files that other loaders work on are skipped. If such a loader dies within `wait_seconds` after everything else is
    done, this one loads its files.

    `restart` names paths below the landing folder: only these are loaded, from their beginning. The transaction that
    publishes them deletes what was loaded of them before, and of other content that these paths had on the same days.

    If traffic rules or ua-parser have changed, the attributes of stored texts are derived again first; with `reconform`
    even if there are more than DWH_RECONFORM_ROWS texts.

    Raises:
        ReconformLimitExceeded: there are more of these texts; nothing was read.
        DeclarationError: the formats of the logs cannot be read as declared.
        GeoIpError: there are lines to load, and no GeoIP database.
        LockHeld: retention or re-classification, which keep all loads out, does not end within `wait_seconds`.
        LakeError: a file cannot be read.
        QualityGateStopped: the contract stopped a batch; nothing of that batch was published.
    """
    rules, formats = read_traffic_rules(), read_formats(settings)
    countries = geoip.open_file(settings)
    limit = None if reconform else settings.reconform_rows
    rederived = rederive_texts(run, limit=limit, wait_seconds=wait_seconds)
    # Some licences require the database's name beside its data: the report reads it from the run's parameters.
    add_parameters(run, geoip=str(countries))
    with (
        connect(run.warehouse_url, application_name=f"dwh {run.flow}: web logs") as connection,
        connect(run.warehouse_url, autocommit=True, application_name=f"dwh {run.flow}: lookups") as reader,
        session_lock(connection, FEED, shared=True, wait_seconds=wait_seconds),
    ):
        # New texts need no fsync of their own: the WAL is in order, so the batch that refers to them flushes them.
        reader.execute("set synchronous_commit = off")
        monthly_bytes = settings.weblog_monthly_mb << 20
        with TableSink(
            run, connection, reader, countries, monthly_bytes=monthly_bytes, is_restart=restart is not None
        ) as sink:
            # Read before the folder is listed, since later files and lines may have to wait for the next load.
            complete_at = read_clock(reader)
            claims = landing.claims(reader, settings, formats, restart)
            lookups = Lookups(reader, run.run_id, rules)
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
            loaded = loader.load(wait_seconds)
            if restart is None and not loaded.claimed_by_others:
                record_complete(reader, run.run_id, FEED, complete_at)
    if run.is_archived and loaded.files:
        # After the lock of the feed is released: other runs may wait for it.
        with connect(run.warehouse_url, autocommit=True, application_name=f"dwh {run.flow}: trail") as writer:
            archive_trail(writer, run.run_id)
    return replace(loaded, rederived=rederived)


class Loader:
    """One load: reads the claimed files, looks up keys and countries, and sends rows to a sink."""

    def __init__(
        self,
        sink: Sink,
        claims: Claims,
        lookups: Lookups,
        countries: geoip.GeoIp,
        run_id: int,
        *,
        formats: WeblogFormats,
        progress: Callable[[Progress], None] | None = None,
        batch_bytes: int = BATCH_BYTES,
        readable_share: float = 0.1,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._readable_share = readable_share
        self._sink, self._claims, self._lookups = sink, claims, lookups
        self._countries, self._run_id, self._formats = countries, run_id, formats
        self._progress, self._batch_bytes = progress, batch_bytes
        self._codes = np.array(countries.codes, "S2")
        self._seen = np.zeros(len(countries.codes), bool)
        self._blocks = BlockReader(limits=limits)
        self._addresses = AddressReader()
        self._rows: dict[Shape, RowBuffer] = {}
        self._quarantine = Quarantine(sink.quarantine)
        self._batch = Batch()
        self._lines = self._bytes = 0
        self._files: dict[int, FileLoad] = {}
        self._checks: list[CheckResult] = []

    def load(self, wait_seconds: float) -> WeblogLoad:
        """Load all pending files, then wait up to `wait_seconds` for files of other loaders."""
        started = time.perf_counter()
        idle_since: float | None = None
        while idle_since is None or time.perf_counter() - idle_since < wait_seconds:
            for task in self._claims.pending():
                idle_since = None
                if verdict := judge(
                    task, partial(self._count_readable, task.file.path), self._readable_share
                ):
                    self._sink.set_aside(task, verdict)
                    self._claims.note(verdict)
                elif not is_gone(task.file):
                    self._load_file(self._sink.begin(task))
            self._commit()
            if not self._claims.claimed_by_others:
                break
            idle_since = idle_since or time.perf_counter()
            time.sleep(_PAUSE_SECONDS)
        unread = self._claims.unread
        self._sink.record_unread(unread, self._claims.known)
        return WeblogLoad(
            tuple(self._files.values()),
            tuple(unread),
            self._claims.unchanged or 0,
            self._claims.claimed_by_others,
            int(self._seen.sum()),
            tuple(self._checks),
            time.perf_counter() - started,
        )

    def _load_file(self, file: FileProgress) -> None:
        self._batch.add(file)
        if file.is_archive:
            file.is_done = True
            return
        declared = self._formats.of(file.file.path)
        parser, file.format = declared.parser(), str(declared)
        try:
            for block in self._read(file, parser):
                self._load_block(file, parser, block)
                if self._batch.bytes_read >= self._batch_bytes:
                    self._commit()
                    file = next_batch(file)
                    self._batch.add(file)
        except FileUnreadable as error:
            # What was read of it stays: the next load goes on from there, or finds another file in its place.
            if error.reason != REPLACED:
                self._claims.note(UnreadFile(file.file.path, "unread", error.reason, error.hint))
        else:
            file.is_done, file.fault = True, self._blocks.fault
        self._claims.loaded(file.file, checkpoint_of(file))

    def _read(self, file: FileProgress, parser: BlockParser) -> Iterator[Block]:
        """Blocks of a file from where it was loaded to, with errors that say which file it is.

        Raises:
            FileUnreadable: it is removed, replaced or damaged while it is read.
        """
        with naming(file.file.location):
            if file.tail is None:
                # Before its content can be another one's: afterwards it would be known by that.
                file.head, file.tail = edges(file.file.location, file.byte_offset)
            parser.resume(file.file.location, file.byte_offset)
            yield from self._blocks.blocks(file.file, file.byte_offset)

    def _count_readable(self, path: str, buffer: Bytes, size: int) -> int:
        parsed = self._formats.of(path).parser().parse(buffer, size, self._addresses)
        return len(parsed.columns.line) + len(parsed.discarded)

    def _load_block(self, file: FileProgress, parser: BlockParser, block: Block) -> None:
        read = read_block(file, parser, block, self._addresses)
        line_count, rejected = len(read.lines), read.rejected
        if read.parsed is not None:
            if not (block.is_unterminated and rejected):
                self._add_rows(file, read.parsed)
            if len(seconds := read.parsed.columns.seconds):
                file.extend_times(int(seconds.min()), int(seconds.max()))
        self._quarantine.add(file, rejected, read.lines)
        if block.is_unterminated:
            file.unterminated_line_offset = file.byte_offset
        file.broken_rules.update(one.rule for one in rejected)
        file.advance(block, line_count, len(rejected), read.discarded)
        self._batch.bytes_read += block.byte_count
        self._lines += line_count
        self._bytes += block.byte_count
        if self._progress is not None:
            self._progress(
                Progress(file.file.path, len(self._files) + len(self._batch.files), self._lines, self._bytes)
            )

    def _add_rows(self, file: FileProgress, parsed: Parsed) -> None:
        columns, addresses, buffer = parsed.columns, parsed.addresses, parsed.texts
        if not len(columns.line):
            return
        texts = self._lookups
        request, action, product, campaign = texts.requests.keys(buffer, *columns.request)
        agent, device = texts.agents.keys(buffer, *columns.agent)
        referer, site = texts.referers.keys(buffer, *columns.referer)
        (user,) = texts.users.keys(buffer, *columns.user)
        country = self._countries_of(addresses)
        self._ensure_partitions(country)
        values = {
            "requested_at": microseconds(columns.seconds),
            "response_bytes": columns.size,
            "line_number": file.line_count + 1 + columns.line,
            "request_key": request,
            "user_agent_key": agent,
            "referer_key": referer,
            "web_user_key": user,
            "status_code": columns.status,
            "device_key": device,
            "traffic_source_key": np.where(campaign > 0, campaign, site),
        }
        for shape, chosen, own in self._shapes(parsed):
            buffers = self._rows
            if shape not in buffers:
                buffers[shape] = RowBuffer(shape, _INITIAL_ROWS)
            row_values = {name: column[chosen] for name, column in values.items()} | own
            buffers[shape].append(self._run_id, file.file_id, country[chosen], self._codes, row_values)
        file.future_line_count += int((columns.seconds > time.time() + _FUTURE_SECONDS).sum())
        self._batch.aggregates.add(country, columns.seconds, device, user, action, product)
        if sum(rows.count for rows in self._rows.values()) >= _SEND_ROWS:
            self._send(keep=_KEEP_ROWS)

    def _countries_of(self, addresses: Addresses) -> Countries:
        """Look up the country of each address; that of a host name is unknown."""
        country = self._countries.of_v4(addresses.v4)
        if not addresses.is_v4.all():
            v6, hosts = addresses.is_v6, addresses.is_host
            country[v6] = self._countries.of_v6(addresses.high[v6], addresses.low[v6])
            country[hosts] = self._codes.tolist().index(geoip.UNKNOWN.encode())
        return country

    def _shapes(self, parsed: Parsed) -> Iterator[tuple[Shape, slice | Places, dict[str, Values]]]:
        """Group lines by the columns that they have; yields the shape of their rows, the lines, and these columns."""
        addresses, extras = parsed.addresses, parsed.extras
        if extras is None and addresses.is_v4.all():
            yield Shape(4), slice(None), {"v4": addresses.v4}
            return
        optional = self._optional(parsed)
        # One bit for each optional column, and the kind of the address.
        kinds = np.select([addresses.is_v4, addresses.is_v6], [4, 6], 0)
        shapes = kinds * np.int64(1 << len(optional))
        for bit, (is_there, _) in enumerate(optional.values()):
            shapes |= is_there.astype(np.int64) << bit
        for code in np.unique(shapes).tolist():
            chosen = np.flatnonzero(shapes == code)
            names = frozenset(name for bit, name in enumerate(optional) if code >> bit & 1)
            version = code >> len(optional)
            own: dict[str, Values] = {name: optional[name][1][chosen] for name in names}
            if version == 4:
                own["v4"] = addresses.v4[chosen]
            elif version == 6:
                own |= {"high": addresses.high[chosen], "low": addresses.low[chosen]}
            yield Shape(version, names), chosen, own

    def _optional(self, parsed: Parsed) -> dict[str, tuple[Mask, Values]]:
        """Return the optional columns of the lines: which lines have a value, and the values."""
        columns, addresses, extras, texts = parsed.columns, parsed.addresses, parsed.extras, self._lookups
        optional: dict[str, tuple[Mask, Values]] = {}
        is_host = addresses.is_host
        if is_host.any():
            client_host = np.zeros(len(is_host), np.int32)
            span = columns.address_start[is_host], columns.address_end[is_host]
            (client_host[is_host],) = texts.client_hosts.keys(parsed.texts, *span)
            optional["client_host_key"] = is_host, client_host
        if extras is not None:
            (host,) = texts.hosts.keys(parsed.texts, extras.host_start, extras.host_end)
            optional |= {
                "host_key": (host > 0, host),
                "request_seconds": (~np.isnan(extras.request_seconds), extras.request_seconds),
                "request_bytes": (extras.request_bytes >= 0, extras.request_bytes),
                "is_tls": (extras.is_tls >= 0, extras.is_tls),
            }
        return optional

    def _ensure_partitions(self, country: Countries) -> None:
        """Have partitions created for countries that come for the first time, before any of their rows is sent."""
        distinct = np.unique(country)
        new = distinct[~self._seen[distinct]]
        if len(new):
            self._seen[new] = True
            self._sink.ensure_partitions([self._countries.codes[index] for index in new.tolist()])

    def _send(self, keep: int = 0) -> None:
        if any(rows.count for rows in self._rows.values()):
            self._sink.send(group_by_country(self._rows.values(), len(self._codes), keep))

    def _commit(self) -> None:
        if not self._batch.files:
            self._claims.release()
            return
        self._quarantine.flush()
        self._send()
        self._checks += self._sink.publish(self._batch, self._lookups.products)
        self._claims.release()
        self._lookups.evict()
        for file in self._batch.files:
            self._files[file.file_id] = FileLoad.of(file, self._files.get(file.file_id))
        self._batch = Batch()
        self._sink.maintain()


@dataclass(frozen=True)
class _ReadBlock:
    """A parsed block: its rejected lines, and the positions of header lines, which say how later lines are read."""

    # None if the block is a line that is too long.
    parsed: Parsed | None
    lines: Lines
    rejected: Sequence[Rejected]
    discarded: Sequence[int]


def read_block(file: FileProgress, parser: BlockParser, block: Block, addresses: AddressReader) -> _ReadBlock:
    """Parse a block of a file; sets `file.has_combined` if its lines have a user agent."""
    if block.is_oversized:
        rule = "unfinished_line" if block.is_unterminated else "malformed_line"
        reason = f"a line of {block.byte_count:,} bytes; only its beginning is kept here"
        return _ReadBlock(None, split_lines(block.buffer, block.size), [Rejected(0, rule, reason)], ())
    parsed = parser.parse(block.buffer, block.size, addresses)
    read = _ReadBlock(parsed, parsed.lines, parsed.rejected, parsed.discarded)
    if block.is_unterminated:
        read = replace(read, rejected=check_unterminated_line(file, parsed), discarded=())
    file.has_combined |= bool(parsed.columns.agent_end.any())
    return read


def is_gone(file: LakeFile) -> bool:
    """Whether rotation has renamed or removed a file since it was listed; it is found again under its new name."""
    return isinstance(file.location, Path) and not file.location.exists()


def check_unterminated_line(file: FileProgress, parsed: Parsed) -> list[Rejected]:
    """Accept a last line without line end if it looks complete, otherwise reject it until the next load."""
    if parsed.rejected:
        reason = f"the line has no end yet: {parsed.rejected[0].reason}"
    elif parsed.discarded:
        reason = "the line has no end yet: it says how those after it are read"
    elif file.has_combined and not parsed.columns.agent_end.all():
        reason = "the line has no end yet: referer and user agent are missing"
    else:
        return []
    return [Rejected(0, "unfinished_line", reason)]
