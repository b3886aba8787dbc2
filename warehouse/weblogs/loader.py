"""Loads web logs: every line of every file becomes a row or a quarantined line, once.

Several loaders may work on one lake, in any processes on any machines: they share the files (`claims`), use the same
lookups, and publish their batches one after another.
"""

import time
from collections.abc import Callable, Collection

import numpy as np

from warehouse import geoip
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock
from warehouse.files import lake
from warehouse.geoip.database import Countries
from warehouse.runs.audit import CheckResult, Run, add_parameters
from warehouse.settings import Settings
from warehouse.weblogs.batch import Batch
from warehouse.weblogs.files.blocks import Block, BlockReader
from warehouse.weblogs.files.checkpoints import FEED, FileProgress, checkpoint_of, next_batch
from warehouse.weblogs.files.claims import Claims
from warehouse.weblogs.quarantine import Quarantine
from warehouse.weblogs.reader.addresses import AddressReader
from warehouse.weblogs.reader.parse import Parsed, Rejected, parse, split_lines
from warehouse.weblogs.reader.traffic_rules import read_traffic_rules
from warehouse.weblogs.result import FileLoad, Progress, WeblogLoad
from warehouse.weblogs.sink import Sink, TableSink
from warehouse.weblogs.storage.lookups import Lookups
from warehouse.weblogs.storage.rows import RowBuffer, group_by_country, microseconds

# Read for one commit: large enough that counts are added up rarely, small enough that a killed load loses little.
BATCH_BYTES = 4 << 30
# With so many rows in memory, those of the largest countries are sent; of the others so many may stay.
_SEND_ROWS, _KEEP_ROWS = 1_000_000, 350_000
_INITIAL_ROWS = 1 << 16
_PAUSE_SECONDS = 0.5


def load(
    settings: Settings,
    run: Run,
    *,
    progress: Callable[[Progress], None] | None = None,
    batch_bytes: int = BATCH_BYTES,
    wait_seconds: float = 60,
    restart: Collection[str] | None = None,
) -> WeblogLoad:
    """Load new lines of the landing folder into dwh.fact_weblog, batch by batch, each in one transaction.

    Files that other loaders work on are left to them. If such a loader dies within `wait_seconds` after everything else
    is done, its files are loaded here.

    `restart` names paths below the landing folder: only these are loaded, from their beginning. The transaction that
    publishes them deletes what was loaded of them before, and of other content that these paths had on the same days.

    Raises:
        GeoIpError: there is no GeoIP database.
        LockHeld: retention or re-classification, which keep all loads out, does not end within `wait_seconds`.
        LakeError: a file cannot be read.
        QualityGateStopped: the contract stopped a batch; nothing of that batch was published.
    """
    rules = read_traffic_rules()
    countries = geoip.read(geoip.path_of(settings))
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
            claims = Claims(reader, lake.folder(settings.lake, rules.landing), rules.ignore, restart)
            lookups = Lookups(reader, run.run_id, rules)
            loader = Loader(
                sink, claims, lookups, countries, run.run_id, progress=progress, batch_bytes=batch_bytes
            )
            return loader.load(wait_seconds)


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
        progress: Callable[[Progress], None] | None = None,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self._sink, self._claims, self._lookups = sink, claims, lookups
        self._countries, self._run_id = countries, run_id
        self._progress, self._batch_bytes = progress, batch_bytes
        self._codes = np.array(countries.codes, "S2")
        self._seen = np.zeros(len(countries.codes), bool)
        self._blocks = BlockReader()
        self._addresses = AddressReader()
        self._rows = (RowBuffer(4, _INITIAL_ROWS), RowBuffer(6, _INITIAL_ROWS))
        self._quarantine = Quarantine(sink.quarantine)
        self._batch = Batch()
        self._lines = self._bytes = 0
        self._files: dict[int, FileLoad] = {}
        self._checks: list[CheckResult] = []

    def load(self, wait_seconds: float) -> WeblogLoad:
        """Load all pending files; those of other loaders are waited for as long as that."""
        started = time.perf_counter()
        idle_since: float | None = None
        while idle_since is None or time.perf_counter() - idle_since < wait_seconds:
            for task in self._claims.pending():
                idle_since = None
                self._load_file(self._sink.begin(task))
            self._commit()
            if not self._claims.claimed_by_others:
                break
            idle_since = idle_since or time.perf_counter()
            time.sleep(_PAUSE_SECONDS)
        return WeblogLoad(
            tuple(self._files.values()),
            self._claims.unchanged or 0,
            self._claims.claimed_by_others,
            int(self._seen.sum()),
            tuple(self._checks),
            time.perf_counter() - started,
        )

    def _load_file(self, file: FileProgress) -> None:
        self._batch.add(file)
        for block in self._blocks.blocks(file.file.location, file.byte_offset):
            self._load_block(file, block)
            if self._batch.bytes_read >= self._batch_bytes:
                self._commit()
                file = next_batch(file)
                self._batch.add(file)
        file.is_done, file.fault = True, self._blocks.fault
        self._claims.loaded(file.file, checkpoint_of(file))

    def _load_block(self, file: FileProgress, block: Block) -> None:
        if block.is_oversized:
            rule = "unfinished_line" if block.is_unterminated else "malformed_line"
            reason = f"a line of {block.byte_count:,} bytes; only its beginning is kept here"
            line_count, rejected = 1, [Rejected(0, rule, reason)]
            self._quarantine.add(file, rejected, split_lines(block.buffer, block.size))
        else:
            parsed = parse(block.buffer, block.size, self._addresses)
            lines = parsed.lines
            line_count, rejected = len(lines), parsed.rejected
            if block.is_unterminated:
                rejected = check_unterminated_line(file, parsed)
            if not (block.is_unterminated and rejected):
                self._add_rows(file, parsed, block.size)
            self._quarantine.add(file, rejected, lines)
            file.has_combined |= bool(parsed.columns.agent_end.any())
            if len(seconds := parsed.columns.seconds):
                file.extend_times(int(seconds.min()), int(seconds.max()))
        if block.is_unterminated:
            file.unterminated_line_offset = file.byte_offset
        file.broken_rules.update(one.rule for one in rejected)
        file.advance(block, line_count, len(rejected))
        self._batch.bytes_read += block.byte_count
        self._lines += line_count
        self._bytes += block.byte_count
        if self._progress is not None:
            self._progress(
                Progress(file.file.path, len(self._files) + len(self._batch.files), self._lines, self._bytes)
            )

    def _add_rows(self, file: FileProgress, parsed: Parsed, size: int) -> None:
        columns, addresses, buffer = parsed.columns, parsed.addresses, parsed.lines.buffer
        if not len(columns.line):
            return
        texts = self._lookups
        request, action, product, campaign = texts.requests.keys(buffer, *columns.request)
        agent, device = texts.agents.keys(buffer, *columns.agent)
        referer, site = texts.referers.keys(buffer, *columns.referer)
        (user,) = texts.users.keys(buffer, *columns.user)
        is_v4 = addresses.is_v4
        v6 = np.flatnonzero(~is_v4)
        country = self._countries.of_v4(addresses.v4)
        if len(v6):
            country[v6] = self._countries.of_v6(addresses.high[v6], addresses.low[v6])
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
        run_id = self._run_id
        if len(v6):
            v4 = np.flatnonzero(is_v4)
            of_v6 = {name: column[v6] for name, column in values.items()}
            of_v6 |= {"high": addresses.high[v6], "low": addresses.low[v6]}
            self._rows[1].append(run_id, file.file_id, country[v6], self._codes, of_v6)
            of_v4 = {name: column[v4] for name, column in values.items()} | {"v4": addresses.v4[v4]}
            self._rows[0].append(run_id, file.file_id, country[v4], self._codes, of_v4)
        else:
            self._rows[0].append(run_id, file.file_id, country, self._codes, values | {"v4": addresses.v4})
        self._batch.aggregates.add(country, columns.seconds, device, user, action, product)
        if sum(rows.count for rows in self._rows) >= _SEND_ROWS:
            self._send(keep=_KEEP_ROWS)

    def _ensure_partitions(self, country: Countries) -> None:
        """Announce countries that come for the first time, before any of their rows is sent."""
        distinct = np.unique(country)
        new = distinct[~self._seen[distinct]]
        if len(new):
            self._seen[new] = True
            self._sink.ensure_partitions([self._countries.codes[index] for index in new.tolist()])

    def _send(self, keep: int = 0) -> None:
        if any(rows.count for rows in self._rows):
            self._sink.send(group_by_country(self._rows, len(self._codes), keep))

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


def check_unterminated_line(file: FileProgress, parsed: Parsed) -> list[Rejected]:
    """A last line without an end is loaded if it is whole as far as one can see, else set aside for now."""
    if parsed.rejected:
        reason = f"the line has no end yet: {parsed.rejected[0].reason}"
    elif file.has_combined and not parsed.columns.agent_end.all():
        reason = "the line has no end yet: referer and user agent are missing"
    else:
        return []
    return [Rejected(0, "unfinished_line", reason)]
