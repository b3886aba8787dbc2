"""Lines that cannot be loaded: kept in memory for a while, then written to audit.quarantine."""

from collections.abc import Sequence

import polars as pl
import psycopg
from psycopg import sql

from warehouse.weblogs.files.checkpoints import FEED, FileProgress
from warehouse.weblogs.reader.fallback import shown
from warehouse.weblogs.reader.parse import Lines, Rejected
from warehouse.weblogs.storage.aggregates import copy_frame
from warehouse.weblogs.storage.writer import FactWriter

_COLUMNS = ("row_key", "rules", "reason", "file_id", "line_number", "byte_offset", "raw_text")
_Row = tuple[str, str, str, int, int, int, str]
_MOST_LINES, _MOST_CHARACTERS = 50_000, 64 << 20


class Quarantine:
    """The quarantine of a load, written by its writer."""

    def __init__(self, writer: FactWriter, run_id: int, schema: str = "audit") -> None:
        self._writer, self._run_id = writer, run_id
        self._table = sql.Identifier(schema, "quarantine")
        self._rows: list[_Row] = []
        self._characters = 0

    def add(self, file: FileProgress, rejected: Sequence[Rejected], lines: Lines) -> None:
        """Set aside lines of the block that the file is at."""
        for one in rejected:
            line, raw_text = file.line_count + 1 + one.line, shown(lines.text(one.line))
            offset = file.byte_offset + int(lines.starts[one.line])
            key, rules = f"{{{file.file_id},{line}}}", f"{{{one.rule}}}"
            self._rows.append((key, rules, one.reason, file.file_id, line, offset, raw_text))
            self._characters += len(raw_text)
        if len(self._rows) >= _MOST_LINES or self._characters >= _MOST_CHARACTERS:
            self.write()

    def write(self) -> None:
        """Hand what waits to the writer."""
        rows, self._rows, self._characters = self._rows, [], 0
        self._writer.do(lambda connection: self._copy(connection, rows))

    def _copy(self, connection: psycopg.Connection, rows: list[_Row]) -> None:
        frame = pl.DataFrame(rows, schema=_COLUMNS, orient="row").with_columns(
            pl.lit(self._run_id).alias("run_id"),
            pl.lit(FEED).alias("source"),
            pl.lit("weblog").alias("entity"),
        )
        copy_frame(connection, self._table, frame)
