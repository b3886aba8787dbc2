"""Bad records (that cannot be parsed): stage them for the quarantine, and copy their bytes to the bad-records path."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Self

import psycopg
from psycopg import sql

from warehouse.errors import visible
from warehouse.feeds.record import Problem, Record, printable
from warehouse.feeds.sender import Sender
from warehouse.feeds.staged import FileProgress
from warehouse.feeds.typed import escape
from warehouse.files import lake
from warehouse.files.lake import LakeError
from warehouse.files.locations import refuses_credentials
from warehouse.sources.source import Source, fitted

# Send staged bad records when they have this many characters.
_SENT_AT_ONCE = 1 << 20
# Longest file name that file systems allow.
_NAME_BYTES = 255
COLUMNS = ("file_id", "line_number", "byte_offset", "rule", "reason", "raw_text")


def bad_table(source: Source) -> sql.Identifier:
    """Return the staging table for bad records."""
    return sql.Identifier("staging", f"{source.record.mirror}_bad")


class BadRecords:
    """Collects the bad records of a run. Each file's bad records are copied to one file, which a retry overwrites."""

    def __init__(
        self,
        writer: psycopg.Connection,
        sender: Sender,
        source: Source,
        lake_url: str,
        *,
        is_dry_run: bool,
    ) -> None:
        self._writer, self._sender, self._table = writer, sender, bad_table(source)
        assert source.feed is not None
        self._folder = lake.folder(lake_url, source.feed.bad_records)
        self._is_dry_run = is_dry_run
        self._lines: list[str] = []
        self._size = 0
        self._copy: IO[bytes] | None = None
        writer.execute(
            sql.SQL(
                "drop table if exists {table}; create unlogged table {table} (file_id integer, line_number bigint, "
                "byte_offset bigint, rule text, reason text, raw_text text); comment on table {table} is {comment}"
            ).format(
                table=self._table,
                comment=sql.Literal(f"Records of feed {source.name} that the last run could not read."),
            )
        )
        for name in COLUMNS:
            writer.execute(
                sql.SQL("comment on column {}.{} is {}").format(
                    self._table, sql.Identifier(name), sql.Literal(f"See audit.quarantine: {name}")
                )
            )

    def add(self, file: FileProgress, record: Record, problem: Problem) -> None:
        """Add one bad record of a file.

        Raises:
            LakeError: its copy cannot be written.
        """
        cells: Sequence[object] = (
            file.file_id,
            record.line,
            record.byte_offset,
            escape(problem.rule),
            escape(problem.reason),
            escape(printable(record)),
        )
        self._lines.append("\t".join(map(str, cells)))
        self._size += len(self._lines[-1])
        if self._size >= _SENT_AT_ONCE:
            self._send()
        if self._is_dry_run:
            return
        with self._copying():
            if self._copy is None:
                # The name has the record's offset: if the file grows later, the earlier copy stays.
                original = PurePosixPath(file.found.file.path)
                ending = f".{file.file_id}-{record.byte_offset}.bad"
                name = fitted(original.name, _NAME_BYTES - len(ending)) + ending
                path = self._folder.joinpath(*original.parent.parts, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                self._copy = path.open("wb")
            self._copy.write(record.raw + b"\n")

    def end_file(self) -> None:
        """Close the copy of the file that was read.

        Raises:
            LakeError: it cannot be written.
        """
        if self._copy is not None:
            with self._copying():
                self._copy.close()
            self._copy = None

    def take_back(self, file: FileProgress) -> None:
        """Remove the staged bad records of a file that could not be read. Its copy is overwritten when it is read."""
        self.end_file()
        self._send()
        self._sender.wait()
        self._writer.execute(sql.SQL("delete from {} where file_id = %s").format(self._table), [file.file_id])

    @contextmanager
    def _copying(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # `readable` explains refused credentials and unreachable object stores.
            if not isinstance(self._folder, Path) and (error.errno is None or refuses_credentials(error)):
                raise
            raise LakeError(
                f"Records that cannot be read cannot be copied to {visible(str(self._folder))}: "
                f"{error.strerror or error}.",
                hint="Make room there, or correct the path or its permissions. Nothing was loaded.",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._copy is not None:
            # An error has interrupted the file: close its copy.
            with suppress(OSError):
                self._copy.close()
        if error is None:
            self._send()

    def _send(self) -> None:
        if self._lines:
            self._sender.send([(self._table, COLUMNS, ("\n".join(self._lines) + "\n").encode())])
            self._lines.clear()
            self._size = 0
