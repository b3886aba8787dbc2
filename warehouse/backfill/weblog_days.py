"""Days of the web logs: the requests of a day, and the files of the landing folder that have requests of it."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from threading import Lock

import psycopg

from warehouse import weblogs
from warehouse.backfill.partition import DayLoad, Partition, Status, days_between
from warehouse.files import lake
from warehouse.files.content import ContentReader
from warehouse.files.lake import LakeFile
from warehouse.files.rotation import MEMBER
from warehouse.runs.audit import Run, mark_irreversible
from warehouse.settings import Settings
from warehouse.weblogs.files.checkpoints import FEED
from warehouse.weblogs.files.landing import discover
from warehouse.weblogs.formats.declaration import COMBINED, LogFormat, read_formats
from warehouse.weblogs.maintenance.retention import retained

EDGE_BYTES = 1 << 16
_READ = 1 << 20
# The time of a log line, which is before any text that a visitor can choose.
TIME = re.compile(rb'(?m)^[^"\[\n]*\[([^\]"\n]{20,30})\]')
# How long to wait for a load that is running.
LOCK_SECONDS = 900.0


@dataclass(frozen=True)
class DatedFile:
    """A file of the landing folder or the audit trail, with the days of its first and its last request."""

    path: str
    first: date
    last: date
    is_there: bool
    # Not loaded yet, or changed since it was.
    is_waiting: bool = False
    status: str = "new"
    loaded_at: datetime | None = None
    run_id: int | None = None

    def covers_day(self, day: date) -> bool:
        """Whether the day is between the first and the last one, inclusive."""
        return self.first <= day <= self.last

    def is_done_by(self, run_ids: Collection[int]) -> bool:
        """Whether one of these runs has loaded it completely, and it has not changed since."""
        return self.run_id in run_ids and not self.is_waiting and self.status != "partial"


@dataclass(frozen=True)
class WeblogDays:
    """Days of the web logs. A file is reloaded as a whole, with every day that it has requests of."""

    settings: Settings
    flow: str = "ingest-weblogs"
    name: str = FEED
    # A lock for each path, since several days are loaded at the same time.
    _locks: dict[str, Lock] = field(default_factory=dict, repr=False)

    def days(self, connection: psycopg.Connection, first: date, last: date) -> Mapping[date, Partition]:
        """Return the status of each day: loaded if it has requests, and none of its files waits to be loaded."""
        files = self._files(connection)
        rows: dict[date, int] = dict(
            connection.execute(
                """
                select request_date, sum(request_count)::bigint from dwh.agg_weblog_day
                where request_date between %s and %s group by 1 having sum(request_count) > 0
                """,
                [first, last],
            ).fetchall()
        )
        today, failure = datetime.now(UTC).date(), self._failure(connection)
        partitions = {}
        for day in days_between(first, last):
            files_of_day = [file for file in files if file.covers_day(day)]
            waiting = [file.path for file in files_of_day if file.is_waiting]
            status: Status = "loaded"
            message = None
            if waiting and failure:
                status, message = "failed", failure
            elif not rows.get(day):
                status = "missing"
                message = f"waits to be loaded: {', '.join(waiting[:3])}" if waiting else None
            elif waiting:
                status, message = "stale", f"changed since: {', '.join(waiting[:3])}"
            elif day >= today or any(file.status in ("partial", "truncated") for file in files_of_day):
                status = "partial"
            loaded_at = max((file.loaded_at for file in files_of_day if file.loaded_at), default=None)
            partitions[day] = Partition(self.name, day, status, rows.get(day, 0), loaded_at, message)
        return partitions

    def load(self, run: Run, day: date, same_backfill: Collection[int]) -> DayLoad:
        """Reload every file that has requests of the day and still exists, unless this backfill has loaded it."""
        files_of_day = [file for file in self._files(run.connection) if file.covers_day(day)]
        with self._to_itself(file.path for file in files_of_day):
            # The load of another day may have loaded some of them while this waited.
            paths = {
                file.path
                for file in self._files(run.connection)
                if file.covers_day(day) and file.is_there and not file.is_done_by(same_backfill)
            }
            if paths:
                mark_irreversible(run.connection, run.run_id)
                with retained(self.settings, run):
                    weblogs.load(self.settings, run, restart=paths, wait_seconds=LOCK_SECONDS)
        gone = [file.path for file in files_of_day if not file.is_there]
        row = run.connection.execute(
            "select coalesce(sum(request_count), 0)::bigint from dwh.agg_weblog_day where request_date = %s",
            [day],
        ).fetchone()
        assert row is not None
        message = None
        if gone:
            message = f"kept as it was, the file is gone from the landing folder: {', '.join(gone[:3])}"
        elif not files_of_day:
            message = "no file of the landing folder tells of it"
        return DayLoad(row[0], message)

    @contextmanager
    def _to_itself(self, paths: Iterable[str]) -> Iterator[None]:
        with ExitStack() as held:
            for path in sorted(paths):
                held.enter_context(self._locks.setdefault(path, Lock()))
            yield

    def _failure(self, connection: psycopg.Connection) -> str | None:
        row = connection.execute(
            """
            select status, run_id, error from audit.run
            where flow = %s and status not in ('running', 'skipped', 'dry run', 'undone') order by run_id desc limit 1
            """,
            [self.flow],
        ).fetchone()
        return None if row is None or row[0] == "succeeded" else f"run {row[1]} {row[0]}: {row[2]}"

    def _files(self, connection: psycopg.Connection) -> list[DatedFile]:
        formats = read_formats(self.settings)
        landed = {file.path: file for file in discover(self.settings).files}
        new = dict(landed)
        rows = connection.execute(
            "select file_id, run_id, loaded_at from audit.file where feed = %s", [FEED]
        ).fetchall()
        loaded: dict[int, tuple[int, datetime]] = {file_id: (run_id, at) for file_id, run_id, at in rows}
        files = []
        for checkpoint in lake.checkpoints(connection, FEED):
            if checkpoint.status == "replaced":
                continue
            file = new.pop(checkpoint.path, None)
            # A member of a tar or zip archive exists, and has changed, if its archive does.
            archive = landed.get(checkpoint.path.partition(MEMBER)[0]) if MEMBER in checkpoint.path else None
            changed = (file is not None and not checkpoint.is_stamped_as(file)) or (
                archive is not None and archive.modified_ns != checkpoint.modified_ns
            )
            days = [at.date() for at in (checkpoint.first_event_at, checkpoint.last_event_at) if at]
            if file is not None and changed:
                days += _days_of(file, formats.of(file.path)) or ()
            if days:
                run_id, loaded_at = loaded[checkpoint.file_id]
                files.append(
                    DatedFile(
                        checkpoint.path,
                        min(days),
                        max(days),
                        is_there=file is not None or archive is not None,
                        is_waiting=changed,
                        status=checkpoint.status,
                        loaded_at=loaded_at,
                        run_id=run_id,
                    )
                )
        for path, file in new.items():
            if span := _days_of(file, formats.of(path)):
                files.append(DatedFile(path, *span, is_there=True, is_waiting=True))
        return files


def _days_of(file: LakeFile, declared: LogFormat) -> tuple[date, date] | None:
    """Read the days (UTC) of the first and last request in a file's first and last bytes; None if these have none."""
    days = []
    if str(declared) != COMBINED:
        with suppress(OSError):
            days = [
                datetime.fromtimestamp(seconds, UTC).date()
                for edge in _edges(file)
                for seconds in declared.seconds_of(edge)
            ]
        return (min(days), max(days)) if days else None
    with suppress(OSError):
        for edge in _edges(file):
            for text in TIME.findall(edge):
                with suppress(ValueError):
                    moment = datetime.strptime(text.decode(), "%d/%b/%Y:%H:%M:%S %z")
                    days.append(moment.astimezone(UTC).date())
    return (min(days), max(days)) if days else None


def _edges(file: LakeFile) -> Iterator[bytes]:
    with ContentReader(file.location) as content:
        yield content.read(EDGE_BYTES)
        if not content.is_compressed:
            content.skip_to(max(content.position, file.size_bytes - EDGE_BYTES))
        tail = b""
        # A compressed file has to be read completely to find its end.
        while piece := content.read(_READ):
            tail = (tail + piece)[-EDGE_BYTES:]
        yield tail
