"""Read CSV files and workbooks row by row, with any separator, encoding, order and spelling of the header.

Values are texts. Numbers and dates are normalized for their columns' types, including decimal commas.
"""

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import chain, islice
from typing import Any, Final, NamedTuple

from warehouse.feeds.record import MOST_RECORD_BYTES, Number, Problem, Record, in_blocks
from warehouse.feeds.typed import is_valid
from warehouse.feeds.workbook import UnreadableWorkbook, read_workbook
from warehouse.files.content import ContentReader
from warehouse.sources.feed import DecimalMark, Feed, plain_header
from warehouse.sources.source import Table

_SEPARATORS: Final = ",;\t|"
_WORKBOOK: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
# Patterns of numbers to normalize, by decimal mark. Numbers without separators need no normalization.
_NUMBERS: Final[Mapping[DecimalMark | None, re.Pattern[str]]] = {
    # Without a declared mark a comma is decimal, but 1,234 is ambiguous (it may separate thousands) and no number.
    None: re.compile(r"(?![+-]?[1-9]\d{0,2},\d{3}$)[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+", re.ASCII),
    ",": re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?", re.ASCII),
    ".": re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?", re.ASCII),
}
# Number of first rows in which to look for the header, since titles may be above it.
_TITLE_ROWS: Final = 20
# Name in _rescued_data for cells beyond the header.
REST: Final = "_rest"
_READ = 1 << 20
# Maximum number of characters in a cell.
_MOST_CELL: Final = 16 << 20
# Number of lines within a cell to check for being rows (after an unclosed quote).
_LINES_JUDGED: Final = 1000
# In a table of text columns only, a line with at least this many cells is taken for a row, not for text in a cell.
_TELLING_COLUMNS: Final = 4
# A row below the header that names at least this many columns is another header.
_TELLING_NAMES: Final = 3


class TableRecords:
    """The rows of a file below its header, without empty ones, with the interface of `JsonRecords`."""

    is_array = False

    def __init__(self, content: ContentReader, feed: Feed, table: Table) -> None:
        self._content, self._feed, self._table = content, feed, table
        self.fault: str | None = None
        self._names = {plain_header(name): name for name in table.columns} | {
            plain_header(other): name for name, others in feed.header_names.items() for other in others
        }
        self.is_workbook = content.head.startswith(_WORKBOOK)

    def blocks(self) -> Iterator[Sequence[Record]]:
        """Yield all rows in order, in blocks of limited size."""
        return in_blocks(self._sheets() if self.is_workbook else self._lines())

    def _lines(self) -> Iterator[Record]:
        lines = _decoded(self._content)
        head = list(islice(lines, _TITLE_ROWS))
        separator = self._separator([line.text for line in head])
        header: list[str] | None = None

        def ends_quote(first: str, last: str) -> bool:
            if header is None or first.count(separator) != len(header) - 1:
                return False
            return self._is_whole_row(header, last, separator)

        for row in _csv_rows(chain(head, lines), separator, ends_quote):
            if row.error:
                problem = Problem("row cannot be read", f"{row.error}.")
                yield Record(row.line, row.line - 1, row.raw, None, problem, row.text)
            elif not any(cell.strip() for cell in row.cells):
                continue
            elif header is None:
                header = self._header(row.cells)
                if header is None and row.line > _TITLE_ROWS:
                    break
            elif again := self._header_again(header, row.cells):
                header = again
            else:
                # Rows have numbers instead of byte offsets, which csv does not report.
                yield self._record(row.line, header, row.cells, row)
        if header is None and head:
            yield self._without_header(_Row(1, head))

    def _sheets(self) -> Iterator[Record]:
        """Yield the rows of all sheets with a header, numbered consecutively over all sheets."""
        raw = bytearray()
        while block := self._content.read(_READ):
            raw += block
        number, has_header, last = 0, False, -1
        header: list[str] | None = None
        head: list[_Line] = []
        try:
            for sheet, rows in read_workbook(bytes(raw)):
                if sheet != last:
                    header, last = None, sheet
                for cells in rows:
                    number += 1
                    if all(cell is None or not str(cell).strip() for cell in cells):
                        continue
                    texts = ["" if cell is None else str(cell) for cell in cells]
                    text = "\t".join(texts) + "\n"
                    line = _Line(text, text.encode("utf-8", "backslashreplace"))
                    if header is None:
                        head = head if len(head) == _TITLE_ROWS else [*head, line]
                        header = self._header(texts)
                        has_header |= header is not None
                        continue
                    if again := self._header_again(header, texts):
                        header = again
                        continue
                    yield self._record(number, header, cells, _Row(number, [line]))
        except UnreadableWorkbook as error:
            problem = Problem(
                "workbook cannot be read", f"It is damaged, too large, or protected by a password: {error}"
            )
            yield Record(number + 1, 0, bytes(raw), None, problem)
            return
        if not has_header and number:
            yield self._without_header(_Row(1, head))

    def _without_header(self, head: "_Row") -> Record:
        columns = ", ".join(self._table.columns)
        problem = Problem("header is missing", f"None of its first rows names the columns {columns}.")
        return Record(1, 0, head.raw, None, problem, head.text)

    def _separator(self, head: Sequence[str]) -> str:
        """Return the separator with which the first rows have the most known column names."""

        def found(separator: str) -> int:
            rows = csv.reader(head, delimiter=separator)
            try:
                return max(
                    (sum(plain_header(cell) in self._names for cell in row) for row in rows), default=0
                )
            except csv.Error:
                return 0

        return max(_SEPARATORS, key=found)

    def _header(self, cells: Sequence[str]) -> list[str] | None:
        """Return the column names, with known spellings replaced by the table's names; None if it is not a header."""
        names = [
            self._names.get(plain_header(cell), cell.strip() or f"column_{n}")
            for n, cell in enumerate(cells, 1)
        ]
        return names if self._known(names).issuperset(self._table.key) else None

    def _known(self, names: Sequence[str]) -> set[str]:
        return {name for name in names if name in self._table.columns}

    def _header_again(self, header: Sequence[str], cells: Sequence[str]) -> list[str] | None:
        """Return the new column names if a row is another header, as in concatenated files; None if it is data, whose
        cells may be column names, too."""
        key = [cells[place] for place in map(header.index, self._table.key) if place < len(cells)]
        # A header has no digits in its key columns, but nearly all keys do: skip the slower check for them.
        if any(map(str.isdigit, "".join(key))) or (names := self._header(cells)) is None:
            return None
        has_no_key = all(plain_header(cell) in self._names for cell in key)
        is_as_full = len(self._known(names)) >= max(len(self._known(header)), _TELLING_NAMES)
        return names if has_no_key or is_as_full else None

    def _is_whole_row(self, header: Sequence[str], line: str, separator: str) -> bool:
        """Whether a line within a quoted cell looks like a row, by its cells' types: then the quote is not closed."""
        cells = next(csv.reader([line], delimiter=separator), [])
        if len(cells) != len(header):
            return False
        values = {name: self._value(name, cell.strip()) for name, cell in zip(header, cells, strict=True)}
        kinds = self._table.columns
        typed = {name: value for name, value in values.items() if value and kinds.get(name, "text") != "text"}
        if not all(is_valid(kinds[name], value) for name, value in typed.items()):
            return False
        has_type = bool(typed) or (len(header) >= _TELLING_COLUMNS and set(kinds.values()) == {"text"})
        return has_type and all(values[name] for name in self._table.key)

    def _record(self, line: int, header: Sequence[str], cells: Sequence[Any], row: "_Row") -> Record:
        fields: dict[str, Any] = {}
        for name, cell in zip(header, cells, strict=False):
            value = cell.strip() if isinstance(cell, str) else cell
            if value is None or value == "":
                continue
            if name in fields:
                problem = Problem("field is there twice", f"Two columns are {name!r}.")
                return Record(line, line - 1, row.raw, None, problem, row.text)
            fields[name] = self._value(name, value)
        if rest := [cell for cell in cells[len(header) :] if cell not in (None, "")]:
            fields[REST] = rest
        if any("\0" in text for text in (*fields, *fields.values(), *rest) if isinstance(text, str)):
            problem = Problem("text has a NUL character", "PostgreSQL cannot hold it.")
            return Record(line, line - 1, row.raw, None, problem, row.text)
        return Record(line, line - 1, row.raw, fields)

    def _value(self, name: str, value: Any) -> Any:
        kind = self._table.columns.get(name)
        if isinstance(value, float) and value.is_integer():
            # Workbooks store all numbers as floats.
            value = int(value)
        if kind == "text" and isinstance(value, datetime | date):
            return value.isoformat()
        if not isinstance(value, str):
            return value
        if kind in ("numeric", "bigint"):
            mark = self._feed.decimal_mark
            if not _NUMBERS[mark].fullmatch(value):
                return value
            return Number(value.replace(",", "") if mark == "." else value.replace(".", "").replace(",", "."))
        if kind in ("date", "timestamptz"):
            return _as_iso(value, self._feed.date_formats)
        return value


class _Line(NamedTuple):
    """A line with its end, decoded and as it came."""

    text: str
    raw: bytes


@dataclass(frozen=True)
class _Row:
    """A row of a table with the number of its first line and its lines, or why it cannot be read."""

    line: int
    lines: Sequence[_Line]
    cells: Sequence[str] = ()
    error: str = ""

    @property
    def raw(self) -> bytes:
        """Its bytes as they came, without the last line end."""
        return b"".join(line.raw for line in self.lines).rstrip(b"\r\n")

    @property
    def text(self) -> str:
        """Its lines as they were decoded, without the last line end."""
        return "".join(line.text for line in self.lines).rstrip("\r\n")


def _csv_rows(
    lines: Iterator[_Line], separator: str, ends_quote: Callable[[str, str], bool]
) -> Iterator[_Row]:
    """Yield the rows of a CSV text. If a quote is not closed, only its own line cannot be read.

    `ends_quote` is called with the first and the last line of a row so far, and returns whether the last is a row of
    its own.
    """
    # Lines that an unclosed quote has swallowed, and the lines of the row that csv is reading.
    ahead: deque[_Line] = deque()
    row: list[_Line] = []

    def supply() -> Iterator[str]:
        while (line := ahead.popleft() if ahead else next(lines, None)) is not None:
            row.append(line)
            if 1 < len(row) <= _LINES_JUDGED and ends_quote(row[0].text, line.text):
                raise csv.Error("a quote is not closed: the lines below are rows of their own")
            yield line.text

    csv.field_size_limit(_MOST_CELL)
    reader = csv.reader(supply(), delimiter=separator, strict=True)
    number = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            # Read the swallowed lines again, as rows.
            ahead.extendleft(reversed(row[1:]))
            del row[1:]
            reader = csv.reader(supply(), delimiter=separator, strict=True)
            yield _Row(number, [*row], error=str(error))
        else:
            if cells is None:
                return
            yield _Row(number, [*row], cells)
        number += len(row)
        row.clear()


def _decoded(content: ContentReader) -> Iterator[_Line]:
    """Yield the lines of a text, with any line ends; lines that are not valid UTF-8 are decoded as Windows-1252."""
    left, encoding = b"", "utf-8-sig"
    while True:
        block = content.read(_READ)
        lines = (left + block).splitlines(keepends=True)
        # Keep an incomplete last line (also one that ends in CR: LF may follow), unless it is too long for a record.
        is_open = (
            bool(block)
            and bool(lines)
            and len(lines[-1]) < MOST_RECORD_BYTES
            and not lines[-1].endswith(b"\n")
        )
        left = lines.pop() if is_open else b""
        for line in lines:
            end = "" if line.endswith((b"\n", b"\r")) else "\n"
            try:
                text = line.decode(encoding)
            except UnicodeDecodeError:
                text = line.decode("cp1252", "replace")
            yield _Line(text + end, line)
            encoding = "utf-8"
        if not block:
            return


def _as_iso(value: str, formats: Sequence[str]) -> str:
    """Convert a date or time in one of these formats to ISO 8601; return other values unchanged."""
    for one in formats:
        try:
            moment = datetime.strptime(value, one)
        except ValueError:
            continue
        return moment.isoformat() if re.search("%[HIMSfz]", one) else moment.date().isoformat()
    return value
