"""Parse blocks of lines in any declared format into the columns that the combined format has."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from warehouse.files.content import ContentReader
from warehouse.files.locations import Location
from warehouse.weblogs.formats.records import Record
from warehouse.weblogs.formats.w3c import DIRECTIVES, W3cParser
from warehouse.weblogs.formats.wrapping import Unwrap
from warehouse.weblogs.reader.addresses import AddressReader
from warehouse.weblogs.reader.buffers import PADDING, Bytes
from warehouse.weblogs.reader.fallback import Fault, parse_line
from warehouse.weblogs.reader.parse import (
    Columns,
    Extras,
    Parsed,
    Rejected,
    parse,
    reject_bad_addresses,
    split_lines,
)

_READ = 1 << 20
# Texts of a record, in the order of their columns: address, user, request, referer, user agent; then the virtual host.
_TEXTS = ("address", "user", "request", "referer", "agent", "host")


class LineParser(Protocol):
    """Parses a line into a record; None for a header line, which says how later lines are read."""

    def parse(self, line: bytes) -> Record | Fault | None:
        """Parse a line; returns its record, or why it has none."""


class BlockParser(Protocol):
    """Parses the blocks of one file, in their order."""

    def resume(self, location: Location, offset: int) -> None:
        """Get ready to read the file from `offset` on."""

    def parse(self, buffer: Bytes, size: int, addresses: AddressReader) -> Parsed:
        """Parse every line of a block of whole lines."""


class CombinedParser:
    """The combined and the common format, by the compiled parser."""

    def resume(self, location: Location, offset: int) -> None:
        """Do nothing: lines of these formats depend on no header."""

    def parse(self, buffer: Bytes, size: int, addresses: AddressReader) -> Parsed:
        """Parse every line of a block of whole lines."""
        return parse(buffer, size, addresses)


class CombinedLines:
    """The combined and the common format line by line, for lines that are embedded in others."""

    def parse(self, line: bytes) -> Record | Fault:
        """Parse a line; returns its record, or why it has none."""
        fields = parse_line(line)
        if isinstance(fields, Fault):
            return fields
        spans = fields.spans
        address, user, request, referer, agent = (
            line[spans[place] : spans[place + 1]] for place in range(0, 10, 2)
        )
        return Record(
            fields.seconds,
            fields.status,
            fields.size,
            address,
            user,
            request,
            referer,
            agent,
            b"",
            None,
            None,
            None,
        )


class DeclaredParser:
    """Parses a declared format line by line; `unwrap` takes a line out of the one in which it is embedded."""

    def __init__(self, lines: LineParser, unwrap: Unwrap | None = None) -> None:
        self._lines, self._unwrap = lines, unwrap

    def resume(self, location: Location, offset: int) -> None:
        """Read the header lines before `offset`, which say how later lines are read."""
        if offset and isinstance(self._lines, W3cParser):
            for line in _directives(location, offset):
                self._lines.parse(line)

    def parse(self, buffer: Bytes, size: int, addresses: AddressReader) -> Parsed:
        """Parse every line of a block of whole lines."""
        lines = split_lines(buffer, size)
        numbers: list[int] = []
        records: list[Record] = []
        rejected: list[Rejected] = []
        discarded: list[int] = []
        content = buffer[:size].tobytes()
        for number, (start, end) in enumerate(zip(lines.starts.tolist(), lines.ends.tolist(), strict=True)):
            record = self._parse(content[start:end])
            if isinstance(record, Record):
                numbers.append(number)
                records.append(record)
            elif record is None:
                discarded.append(number)
            else:
                rejected.append(Rejected(number, record.rule, record.reason))
        columns, texts, extras = _columns(numbers, records)
        return reject_bad_addresses(
            Parsed(
                lines,
                columns,
                texts,
                addresses.read(texts, columns.address_start, columns.address_end),
                rejected,
                extras,
                discarded,
            )
        )

    def _parse(self, line: bytes) -> Record | Fault | None:
        if self._unwrap is None:
            return self._lines.parse(line)
        if not line.strip():
            return Fault("malformed_line", "empty line")
        inner = self._unwrap(line)
        return inner if isinstance(inner, Fault) else self._lines.parse(inner)


def _columns(numbers: Sequence[int], records: Sequence[Record]) -> tuple[Columns, Bytes, Extras]:
    """Convert records to columns, and the texts to which these point."""
    texts = [text for record in records for text in (*record[3:8], record[8])]
    content = b"".join(texts)
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends])[: len(texts)]
    starts, ends = starts.reshape(-1, len(_TEXTS)), ends.reshape(-1, len(_TEXTS))
    places = [np.ascontiguousarray(edge[:, text]) for text in range(5) for edge in (starts, ends)]
    numeric = [np.array([record[column] for record in records], np.int64) for column in range(3)]
    buffer = np.frombuffer(content + bytes(PADDING), np.uint8)
    return (
        Columns(np.array(numbers, np.int64), *numeric, *places),
        buffer,
        Extras(
            np.ascontiguousarray(starts[:, 5]),
            np.ascontiguousarray(ends[:, 5]),
            np.array(
                [np.nan if one.request_seconds is None else one.request_seconds for one in records],
                np.float32,
            ),
            np.array([-1 if one.request_bytes is None else one.request_bytes for one in records], np.int64),
            np.array([-1 if one.is_tls is None else one.is_tls for one in records], np.int8),
        ),
    )


def _directives(location: Location, offset: int) -> list[bytes]:
    """Read the lines of a file before `offset` that are W3C directives."""
    directives: list[bytes] = []
    with ContentReader(location) as content:
        # Begin with a line end, so that a directive in the first line is found, too.
        rest = b"\n"
        while content.position < offset and (piece := content.read(min(_READ, offset - content.position))):
            piece = rest + piece
            complete, _, last = piece.rpartition(b"\n")
            place = complete.find(b"\n#")
            while place >= 0:
                end = complete.find(b"\n", place + 1)
                line = complete[place + 1 : end if end >= 0 else len(complete)].removesuffix(b"\r")
                if line.startswith(DIRECTIVES):
                    directives.append(line)
                place = complete.find(b"\n#", place + 1)
            # Keep only the beginning of a long incomplete line: directives are shorter.
            rest = b"\n" + last[: 1 << 16]
    return directives
