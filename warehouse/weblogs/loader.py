"""Loading web logs: every line of every file becomes a row or a quarantined line, once.

Several loaders may be at work on one lake, in any processes on any machines: they share out its files (`claims`), write
one dictionary, and publish their batches one after another.
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import psycopg

from warehouse import geoip
from warehouse.db.connections import connect
from warehouse.db.locks import session_lock, transaction_lock
from warehouse.errors import LockHeld
from warehouse.files import lake
from warehouse.files.lake import Work
from warehouse.geoip.database import Countries
from warehouse.load import contract
from warehouse.model.contracts import read_contract
from warehouse.runs.audit import CheckResult, Load, Run, add_parameters, record_checks, record_load
from warehouse.settings import Settings
from warehouse.weblogs.files.blocks import Block, BlockReader
from warehouse.weblogs.files.checkpoints import (
    FEED,
    PUBLISHED,
    FileProgress,
    begun,
    checkpoint_of,
    next_batch,
    register,
    save,
    stage_counts,
)
from warehouse.weblogs.files.claims import Claims
from warehouse.weblogs.maintenance.reload import begin_anew, reopen_last_line, replace_lines, supersede
from warehouse.weblogs.quarantine import Quarantine
from warehouse.weblogs.reader.addresses import AddressReader
from warehouse.weblogs.reader.parse import Parsed, Rejected, parse, split_lines
from warehouse.weblogs.reader.swar import ByteWords
from warehouse.weblogs.reader.traffic_rules import read_traffic_rules
from warehouse.weblogs.result import FileLoad, Progress, WeblogLoad
from warehouse.weblogs.storage.aggregates import Aggregates
from warehouse.weblogs.storage.countries import name_countries
from warehouse.weblogs.storage.lookups import Dictionaries
from warehouse.weblogs.storage.months import maintain_partitions
from warehouse.weblogs.storage.partitions import SHAPE
from warehouse.weblogs.storage.rows import RowBuffer, group_by_country, microseconds
from warehouse.weblogs.storage.writer import FactWriter

# What commits at once: large enough that counts are added up rarely, small enough that a killed load loses little.
BATCH_BYTES = 4 << 30
# Rows in memory when the countries with most of them are sent, and how many of the others may stay.
_SEND_ROWS, _STAY_ROWS = 1_000_000, 350_000
_FIRST_ROOM = 1 << 16
_PAUSE_SECONDS = 0.5


def load(
    settings: Settings,
    run: Run,
    *,
    progress: Callable[[Progress], None] | None = None,
    batch_bytes: int = BATCH_BYTES,
    wait_seconds: float = 60,
    anew: Collection[str] | None = None,
) -> WeblogLoad:
    """Load what is new in the landing folder into dwh.fact_weblog, batch by batch, each in one transaction.

    Files that other loaders are at are left to them; those of a loader that dies within `wait_seconds` after
    everything else is done are loaded here.

    With `anew`, paths below the landing folder, load these alone, from their beginning: what was loaded of them, and of
    other content that their paths had on the same days, is taken back in the transaction that publishes them.

    Raises:
        GeoIpError: there is no file that tells addresses' countries.
        LockHeld: something that bars all loads of web logs, as retention, does not end within `wait_seconds`.
        LakeError: a file cannot be read.
        QualityGateStopped: the contract stopped a batch; nothing of that batch was published.
    """
    site = read_traffic_rules()
    countries = geoip.read(geoip.path_of(settings))
    # Some licences ask that the source be named where its data are shown: the report reads it from here.
    add_parameters(run, geoip=str(countries))
    with (
        connect(run.warehouse_url, application_name=f"dwh {run.flow}: web logs") as connection,
        connect(
            run.warehouse_url, autocommit=True, application_name=f"dwh {run.flow}: dictionaries"
        ) as reader,
        session_lock(connection, FEED, shared=True, wait_seconds=wait_seconds),
    ):
        # What is entered in dictionaries is on disk before the batch that refers to it: one log, written in order.
        reader.execute("set synchronous_commit = off")
        writer = FactWriter(connection, run.warehouse_url, countries.codes)
        loader = Loader(
            settings,
            run,
            connection,
            reader,
            countries,
            Claims(reader, lake.folder(settings.lake, site.landing), site.ignore, anew),
            Dictionaries(reader, run.run_id, site),
            writer,
            Quarantine(writer, run.run_id),
            progress=progress,
            batch_bytes=batch_bytes,
            is_anew=anew is not None,
        )
        return loader.load(wait_seconds)


class Loader:
    """One load: `connection` writes batches; `reader` looks up, enters texts, and holds the locks on files."""

    def __init__(
        self,
        settings: Settings,
        run: Run,
        connection: psycopg.Connection,
        reader: psycopg.Connection,
        countries: geoip.GeoIp,
        claims: Claims,
        dictionaries: Dictionaries,
        writer: FactWriter,
        quarantine: Quarantine,
        *,
        progress: Callable[[Progress], None] | None = None,
        batch_bytes: int = BATCH_BYTES,
        is_anew: bool = False,
    ) -> None:
        self._settings = settings
        self._run, self._connection, self._reader = run, connection, reader
        self._countries, self._claims = countries, claims
        self._dictionaries, self._writer = dictionaries, writer
        self._progress, self._batch_bytes, self._is_anew = progress, batch_bytes, is_anew
        self._codes = np.array(countries.codes, "S2")
        self._seen = np.zeros(len(countries.codes), bool)
        self._contract = read_contract("weblog")
        # Ends the transaction that the partitions were looked up in.
        connection.commit()
        self._blocks = BlockReader()
        self._addresses = AddressReader()
        self._rows = (RowBuffer(4, _FIRST_ROOM), RowBuffer(6, _FIRST_ROOM))
        self._quarantine = quarantine
        self._aggregates = Aggregates()
        self._batch: list[FileProgress] = []
        self._batch_read = self._batch_lines = 0
        self._lines = self._bytes = 0
        self._files: dict[int, FileLoad] = {}
        self._checks: list[CheckResult] = []
        self._batch_started = time.perf_counter()

    def load(self, wait_seconds: float) -> WeblogLoad:
        started = time.perf_counter()
        idle_since: float | None = None
        with self._undone_on_error():
            self._writer.prepare(contract.prepare)
            while idle_since is None or time.perf_counter() - idle_since < wait_seconds:
                for work in self._claims.works():
                    idle_since = None
                    if work.former is not None and work.former.has_lines:
                        # It ends here under this id, and so must its last line.
                        ending = begun(Work(work.file, "grown", work.former), work.former.file_id)
                        self._reopen(ending)
                    self._load_file(self._register(work))
                self._commit()
                if not self._claims.elsewhere:
                    break
                idle_since = idle_since or time.perf_counter()
                time.sleep(_PAUSE_SECONDS)
        return WeblogLoad(
            tuple(self._files.values()),
            self._claims.unchanged or 0,
            self._claims.elsewhere,
            int(self._seen.sum()),
            tuple(self._checks),
            time.perf_counter() - started,
        )

    @contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._writer.abandon()
            if not self._connection.closed:
                self._connection.rollback()
            raise

    def _load_file(self, file: FileProgress) -> None:
        self._begin()
        self._batch.append(file)
        if self._is_anew:
            begin_anew(self._reader, file)
        else:
            self._reopen(file)
        for block in self._blocks.blocks(file.file.location, file.byte_offset):
            self._load_block(file, block)
            if self._batch_read >= self._batch_bytes:
                self._commit()
                file = next_batch(file)
                self._begin()
                self._batch.append(file)
        file.is_done, file.fault = True, self._blocks.fault
        self._claims.loaded(file.file, checkpoint_of(file))

    def _register(self, work: Work) -> FileProgress:
        return register(self._reader, work, self._run.run_id)

    def _reopen(self, file: FileProgress) -> None:
        reopen_last_line(self._reader, file, self._run.run_id)

    def _begin(self) -> None:
        if not self._batch:
            self._batch_started = time.perf_counter()

    def _load_block(self, file: FileProgress, block: Block) -> None:
        if block.is_oversized:
            rule = "unfinished_line" if block.is_open else "malformed_line"
            reason = f"a line of {block.byte_count:,} bytes; only its beginning is kept here"
            line_count, rejected = 1, [Rejected(0, rule, reason)]
            self._quarantine.add(file, rejected, split_lines(block.buffer, block.size))
        else:
            parsed = parse(block.buffer, block.size, self._addresses)
            lines = parsed.lines
            line_count, rejected = len(lines), parsed.rejected
            if block.is_open:
                rejected = judge_open_line(file, parsed)
            if not (block.is_open and rejected):
                self._add_rows(file, parsed, block.size)
            self._quarantine.add(file, rejected, lines)
            file.has_combined |= bool(parsed.columns.agent_end.any())
            if len(seconds := parsed.columns.seconds):
                file.reach(int(seconds.min()), int(seconds.max()))
        if block.is_open:
            file.unterminated_line_offset = file.byte_offset
        file.broken.update(one.rule for one in rejected)
        file.advance(block, line_count, len(rejected))
        self._batch_read += block.byte_count
        self._batch_lines += line_count
        self._lines += line_count
        self._bytes += block.byte_count
        if self._progress is not None:
            self._progress(
                Progress(file.file.path, len(self._files) + len(self._batch), self._lines, self._bytes)
            )

    def _add_rows(self, file: FileProgress, parsed: Parsed, size: int) -> None:
        columns, addresses, buffer = parsed.columns, parsed.addresses, parsed.lines.buffer
        if not len(columns.line):
            return
        words = ByteWords(buffer)
        found = self._dictionaries
        request, action, product, campaign = found.requests.keys(buffer, words, *columns.request)
        agent, device = found.agents.keys(buffer, words, *columns.agent)
        referer, site = found.referers.keys(buffer, words, *columns.referer)
        (user,) = found.users.keys(buffer, words, *columns.user)
        is_v4 = addresses.is_v4
        v6 = np.flatnonzero(~is_v4)
        country = self._countries.of_v4(addresses.v4)
        if len(v6):
            country[v6] = self._countries.of_v6(addresses.high[v6], addresses.low[v6])
        self._see(country)
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
        run_id = self._run.run_id
        if len(v6):
            v4 = np.flatnonzero(is_v4)
            mine = {name: column[v6] for name, column in values.items()}
            mine |= {"high": addresses.high[v6], "low": addresses.low[v6]}
            self._rows[1].append(run_id, file.file_id, country[v6], self._codes, mine)
            mine = {name: column[v4] for name, column in values.items()} | {"v4": addresses.v4[v4]}
            self._rows[0].append(run_id, file.file_id, country[v4], self._codes, mine)
        else:
            self._rows[0].append(run_id, file.file_id, country, self._codes, values | {"v4": addresses.v4})
        self._aggregates.add(country, columns.seconds, device, user, action, product)
        if sum(rows.count for rows in self._rows) >= _SEND_ROWS:
            self._send(stay=_STAY_ROWS)

    def _see(self, country: Countries) -> None:
        """Have partitions made of countries that come for the first time, while nothing is sent yet."""
        distinct = np.unique(country)
        new = distinct[~self._seen[distinct]]
        if len(new):
            self._seen[new] = True
            self._writer.make_room([self._countries.codes[index] for index in new.tolist()])

    def _send(self, stay: int = 0) -> None:
        if any(rows.count for rows in self._rows):
            self._writer.send(group_by_country(self._rows, len(self._codes), stay))

    def _commit(self) -> None:
        if not self._batch:
            self._claims.release()
            return
        self._quarantine.write()
        self._send()
        self._writer.finish()
        self._publish()
        self._claims.release()
        self._dictionaries.trim()
        self._remember()
        self._tend()

    def _publish(self) -> None:
        """Commit the batch: rows, aggregates, quarantine, checkpoints and counts, or nothing of it."""
        connection, run_id = self._connection, self._run.run_id
        transaction_lock(connection, PUBLISHED)
        connection.execute("select set_config('dwh.run_id', %s, true)", [str(run_id)])
        for file in self._batch:
            if file.is_anew:
                replace_lines(connection, file, run_id)
            if self._is_anew and file.is_done:
                supersede(connection, file, run_id)
        self._name_countries()
        self._aggregates.publish(connection, self._countries.codes, self._dictionaries.products)
        stage_counts(connection, self._batch)
        self._verify()
        for file in self._batch:
            save(connection, file, run_id)
        counts = [file.counts() for file in self._batch]
        read = sum(one.line_count for one in counts)
        quarantined = sum(one.rows_quarantined for one in counts)
        record_load(
            connection,
            run_id,
            Load(
                FEED,
                "dwh.fact_weblog",
                window_low=self._batch[0].file.path,
                window_high=self._batch[-1].file.path,
                rows_read=read,
                rows_inserted=read - quarantined,
                rows_quarantined=quarantined,
                geoip_database=self._countries.database_type,
                geoip_built_at=self._countries.built_at,
                seconds=time.perf_counter() - self._batch_started,
            ),
        )
        # Its locks bar others from these files: were they lost, nothing may be published.
        self._reader.execute("select")
        connection.commit()

    def _tend(self) -> None:
        connection = self._connection
        with suppress(LockHeld), session_lock(connection, SHAPE):
            if maintain_partitions(connection, self._settings.weblog_monthly_mb << 20):
                self._writer.look_again()
        # The next batch begins without the impatience of this step.
        connection.commit()

    def _verify(self) -> None:
        results = contract.verify(self._connection, self._contract, FEED)
        # On the run's own connection: those of a stopped run stay.
        record_checks(self._run.audit_connection, self._run.run_id, results)
        self._checks += results
        contract.stop_on_failure(self._contract, results)

    def _name_countries(self) -> None:
        """Countries that the GeoIP file has and ISO 3166 has not."""
        codes = [self._countries.codes[index] for index in np.flatnonzero(self._seen).tolist()]
        name_countries(self._connection, self._countries, codes, self._run.run_id)

    def _remember(self) -> None:
        for file in self._batch:
            before = self._files.get(file.file_id)
            counts = file.counts()
            self._files[file.file_id] = FileLoad(
                file.file.path,
                file.file_id,
                file.status,
                counts.line_count + (before.lines if before else 0),
                counts.rows_loaded + (before.rows_loaded if before else 0),
                counts.rows_quarantined + (before.rows_quarantined if before else 0),
                file.fault or file.message,
            )
        self._batch = []
        self._batch_read = self._batch_lines = 0
        self._aggregates = Aggregates()


def judge_open_line(file: FileProgress, parsed: Parsed) -> list[Rejected]:
    """A last line without an end is loaded if it is whole as far as one can see, else set aside for now."""
    if parsed.rejected:
        reason = f"the line has no end yet: {parsed.rejected[0].reason}"
    elif file.has_combined and not parsed.columns.agent_end.all():
        reason = "the line has no end yet: referer and user agent are missing"
    else:
        return []
    return [Rejected(0, "unfinished_line", reason)]
