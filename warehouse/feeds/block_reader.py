"""Read blocks of records: their rows by table as COPY reads them, and the records that cannot be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from warehouse.feeds.json_parse import TextFields
from warehouse.feeds.json_records import parse_lines
from warehouse.feeds.record import Problem, RawBlock, Record
from warehouse.feeds.rows import RowMaker, TableRows
from warehouse.sources.feed import ColumnType
from warehouse.sources.source import Table


class ReadBlock(NamedTuple):
    """What a block of records has become."""

    records: int
    # Those that cannot be read, without their fields, and why.
    bad: Sequence[tuple[Record, Problem]]
    # By table, that of the records first.
    rows: Sequence[TableRows]


@dataclass(frozen=True)
class BlockReader:
    """Reads the blocks of one feed; it can be sent to another process."""

    record: Table
    items: Sequence[Table]
    columns: dict[str, dict[str, ColumnType]]
    texts: TextFields

    def read_lines(self, block: RawBlock, place: str, begin: int = 0) -> ReadBlock:
        """Read lines that begin at the offset `begin` or later; see `read` for `place`."""
        return self.read(parse_lines(block, self.texts, begin), place)

    def read(self, block: Sequence[Record], place: str) -> ReadBlock:
        """Make the rows of records; `place` are the cells that say which file they are of, see `RowMaker.add`."""
        maker = RowMaker(self.record, self.items, self.columns)
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
