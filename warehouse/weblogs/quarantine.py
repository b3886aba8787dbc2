"""Lines that cannot be loaded: collected in memory, then written to a quarantine table."""

from collections.abc import Callable, Sequence

import polars as pl
import psycopg
from psycopg import sql

from warehouse.weblogs.files.checkpoints import FEED, FileProgress
from warehouse.weblogs.reader.fallback import printable
from warehouse.weblogs.reader.parse import Lines, Rejected
from warehouse.weblogs.storage.aggregates import copy_frame

_COLUMNS = ("row_key", "rules", "reason", "file_id", "line_number", "byte_offset", "raw_text")
QuarantinedLine = tuple[str, str, str, int, int, int, str]
_MAX_LINES, _MAX_CHARACTERS = 50_000, 64 << 20


class Quarantine:
    """Collects the lines of a load that cannot be loaded, and hands them to `send` before they fill the memory."""

    def __init__(self, send: Callable[[list[QuarantinedLine]], None]) -> None:
        self._send = send
        self._lines: list[QuarantinedLine] = []
        self._characters = 0

    def add(self, file: FileProgress, rejected: Sequence[Rejected], lines: Lines) -> None:
        """Add rejected lines of the block that the file is at."""
        for one in rejected:
            line, raw_text = file.line_count + 1 + one.line, printable(lines.text(one.line))
            offset = file.byte_offset + int(lines.starts[one.line])
            key, rules = f"{{{file.file_id},{line}}}", f"{{{one.rule}}}"
            self._lines.append((key, rules, one.reason, file.file_id, line, offset, raw_text))
            self._characters += len(raw_text)
        if len(self._lines) >= _MAX_LINES or self._characters >= _MAX_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Hand over what was collected."""
        if self._lines:
            lines, self._lines, self._characters = self._lines, [], 0
            self._send(lines)


def copy_lines(
    connection: psycopg.Connection, schema: str, lines: list[QuarantinedLine], run_id: int
) -> None:
    """COPY lines into the table `quarantine` of a schema."""
    frame = pl.DataFrame(lines, schema=_COLUMNS, orient="row").with_columns(
        pl.lit(run_id).alias("run_id"), pl.lit(FEED).alias("source"), pl.lit("weblog").alias("entity")
    )
    copy_frame(connection, sql.Identifier(schema, "quarantine"), frame)
