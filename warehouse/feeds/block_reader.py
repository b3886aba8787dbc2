"""Convert blocks of records to rows for COPY by table, and collect bad records."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import NamedTuple

from warehouse.feeds.json_parse import TextFields
from warehouse.feeds.json_records import parse_lines
from warehouse.feeds.record import Problem, RawBlock, Record
from warehouse.feeds.rows import RowMaker, TableRows
from warehouse.sources.feed import ColumnType
from warehouse.sources.source import Table


class ReadBlock(NamedTuple):
    """Result of reading a block of records."""

    records: int
    # Bad records, without their fields, each with its problem.
    bad: Sequence[tuple[Record, Problem]]
    # Rows by table, the record's own table first.
    rows: Sequence[TableRows]


@dataclass(frozen=True)
class BlockReader:
    """Reads the blocks of one feed. It can be pickled, to be sent to another process."""

    record: Table
    items: Sequence[Table]
    columns: dict[str, dict[str, ColumnType]]
    texts: TextFields
    # Zone of times without one.
    zone: tzinfo

    def read_lines(self, block: RawBlock, place: str, begin: int = 0) -> ReadBlock:
        """Read the lines of a block that begin at offset `begin` or later; see `RowMaker.add` for `place`."""
        return self.read(parse_lines(block, self.texts, begin), place)

    def read(self, block: Sequence[Record], place: str) -> ReadBlock:
        """Convert records to rows; see `RowMaker.add` for `place`."""
        maker = RowMaker(self.record, self.items, self.columns, self.zone)
        readable = [record for record in block if record.problem is None]
        missing = maker.add(readable, place)
        bad = []
        if len(readable) < len(block) or missing:
            problems = {readable[position].line: problem for position, problem in missing.items()}
            bad = [
                (record._replace(fields=None), problem)
                for record in block
                if (problem := record.problem or problems.get(record.line))
            ]
        return ReadBlock(len(block), bad, maker.tables)
