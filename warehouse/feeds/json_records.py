"""Read JSON files record by record, with each record's bytes: one object per line, or an array of objects.

Numbers stay as they are written. Text that cannot be parsed becomes a record with a problem, and reading continues.
"""

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from warehouse.feeds.json_parse import TextFields, parse, parse_all
from warehouse.feeds.record import MOST_RECORD_BYTES, Problem, RawBlock, Record, in_blocks
from warehouse.files.content import ContentReader

_BLOCK = 1 << 20
_BOM = codecs.BOM_UTF8
_SPACE = re.compile(r"[ \t\r\n]*")
# Tokens by which the end of an invalid array element is found: strings, brackets and commas.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)
# If a parse error is this close to the end of the text, more text may resolve it: read on before reporting it.
_UNFINISHED = 16


class JsonRecords:
    """The records of a file from offset `begin` on, without blank lines. `texts` are the fields of text columns.

    After reading, `fault` is set if the file ends early.
    """

    def __init__(self, content: ContentReader, texts: TextFields, begin: int = 0) -> None:
        self._content, self._texts, self._begin = content, texts, begin
        self.fault: str | None = None
        self.is_array = content.head.removeprefix(_BOM).lstrip().startswith(b"[")

    def blocks(self) -> Iterator[Sequence[Record]]:
        """Yield all records in order, in blocks of limited size."""
        if not self.is_array:
            for block in self.raw_blocks():
                yield parse_lines(block, self._texts, self._begin)
            return
        reader = _ArrayReader(self._content, self._texts)
        yield from in_blocks(reader.records())
        self.fault = reader.fault

    def raw_blocks(self) -> Iterator[RawBlock]:
        """Yield the lines of a file with one record per line, including those before `begin`."""
        content = self._content
        line, offset, left = 0, 0, b""
        while block := content.read(_BLOCK):
            lines, end, rest = (left + block).rpartition(b"\n")
            if end:
                yield RawBlock(line, offset, lines)
                line += lines.count(b"\n") + 1
                offset += len(lines) + 1
            left = rest
            if len(left) > MOST_RECORD_BYTES:
                start, size = left, len(left)
                while (block := content.read(_BLOCK)) and b"\n" not in block:
                    size += len(block)
                before, _, left = block.partition(b"\n")
                size += len(before)
                yield RawBlock(line, offset, start, too_large=size)
                line += 1
                offset += size + 1
        # The rest after a line that is too large may contain several lines.
        lines, end, rest = left.rpartition(b"\n")
        if end:
            yield RawBlock(line, offset, lines)
        if rest:
            yield RawBlock(
                line + lines.count(b"\n") + len(end), offset + len(lines) + len(end), rest, is_last=True
            )


def parse_lines(block: RawBlock, texts: TextFields, begin: int = 0) -> list[Record]:
    """Parse the lines of a block that begin at offset `begin` or later."""
    if block.too_large:
        record = _too_large(block.line + 1, block.byte_offset, block.content, block.too_large)
        return [record] if block.byte_offset >= begin else []
    pieces = block.content.split(b"\n")
    offsets = list(accumulate((len(piece) + 1 for piece in pieces), initial=block.byte_offset))
    lines: Sequence[int] = range(block.line + 1, block.line + 1 + len(pieces))
    raws = [piece.strip(b" \t\r") for piece in pieces]
    if block.line == 0:
        raws[0] = raws[0].removeprefix(_BOM).strip(b" \t\r")
    if block.byte_offset < begin or not all(raws):
        kept = [n for n, raw in enumerate(raws) if raw and offsets[n] >= begin]
        raws = [raws[n] for n in kept]
        lines, offsets = [lines[n] for n in kept], [offsets[n] for n in kept]
    if max(map(len, raws), default=0) > MOST_RECORD_BYTES:
        return [
            _too_large(number, start, raw, len(raw))
            if len(raw) > MOST_RECORD_BYTES
            else _record(number, start, raw, parse(raw, texts))
            for number, start, raw in zip(lines, offsets, raws, strict=False)
        ]
    parsed = [parse(raw, texts, is_cut_off=True) for raw in raws] if block.is_last else parse_all(raws, texts)
    return list(map(_record, lines, offsets, raws, parsed))


def _record(line: int, offset: int, raw: bytes, parsed: dict[str, Any] | Problem) -> Record:
    if type(parsed) is dict:
        return Record(line, offset, raw, parsed)
    assert isinstance(parsed, Problem)
    return Record(line, offset, raw, None, parsed)


def _too_large(line: int, offset: int, start: bytes, size: int) -> Record:
    reason = f"It has {size:,} bytes; more than {MOST_RECORD_BYTES:,} are not read."
    return Record(line, offset, start, None, Problem("record is too large", reason))


class _ArrayReader:
    """Splits an array into its elements. `_text` from `_position` on is the text that is not split yet."""

    # Used only to find where an element ends: its bytes are then parsed like a line.
    _decoder = json.JSONDecoder(parse_int=str, parse_float=str)

    def __init__(self, content: ContentReader, texts: TextFields) -> None:
        self._content, self._texts = content, texts
        # Invalid UTF-8 passes through: it is reported when its record is parsed.
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._text, self._position, self._offset, self._is_over = "", 0, 0, False
        self.fault: str | None = None

    def records(self) -> Iterator[Record]:
        """Yield every element, and a bad record for text after the array."""
        self._read_on()
        self._skip("\ufeff")
        self._skip_space()
        place = 0
        # Another array may follow, if files were concatenated.
        while self._next() == "[":
            self._skip("[")
            indent = self._skip_space()
            while self._next() not in ("]", ""):
                place += 1
                yield self._element(place, indent)
                self._skip_space()
                if self._next() == ",":
                    self._skip(",")
                    self._skip_space()
            if self._next() != "]":
                self.fault = "its array has no end"
                return
            self._skip("]")
            self._skip_space()
        if self._next():
            while not self._is_over and len(self._text) - self._position < MOST_RECORD_BYTES:
                self._read_on()
            rest = self._take(len(self._text))
            reason = "The file goes on after the end of its array."
            yield Record(place + 1, self._offset, rest, None, Problem("record is after the end", reason))

    def _element(self, place: int, indent: str) -> Record:
        while True:
            try:
                _, end = self._decoder.raw_decode(self._text, self._position)
            except RecursionError:
                end = self._resynchronized(indent)
            except ValueError as error:
                at = getattr(error, "pos", len(self._text))
                may_go_on = "Unterminated" in str(error) or at + _UNFINISHED >= len(self._text)
                if may_go_on and not self._is_over and len(self._text) - self._position < MOST_RECORD_BYTES:
                    self._read_on(len(self._text) - self._position)
                    continue
                end = self._resynchronized(indent)
            else:
                # A number may continue in the next block.
                if end == len(self._text) and not self._is_over:
                    self._read_on()
                    continue
            offset, is_cut_off = self._offset, end == len(self._text)
            raw = self._take(end)
            return _record(
                place, offset, raw, parse(raw.rstrip(b" \t\r\n,"), self._texts, is_cut_off=is_cut_off)
            )

    def _resynchronized(self, indent: str) -> int:
        """Find the end of an invalid element: at the next line that is indented like the first element.

        In an array on one line it ends where its brackets are balanced. If there is no such place, it extends to the
        end of the file.
        """
        if "\n" in indent:
            while True:
                start = self._text.find(indent + "{", self._position + 1)
                if start >= 0:
                    return start
                if self._is_over or len(self._text) - self._position > MOST_RECORD_BYTES:
                    break
                self._read_on()
        else:
            while (end := self._end_of_brackets()) is None:
                size = len(self._text) - self._position
                if self._is_over or size > MOST_RECORD_BYTES:
                    break
                self._read_on(size)
            else:
                return end
        while not self._is_over:
            self._take(len(self._text))
            self._read_on()
        return len(self._text)

    def _end_of_brackets(self) -> int | None:
        """Return where the element's brackets and strings are closed; None if they are not in the text read so far."""
        depth = 0
        for token in _TOKEN.finditer(self._text, self._position):
            character = token.group()
            if depth == 0 and character in ",]":
                return token.start()
            if character in "[{":
                depth += 1
            elif character in "]}" and depth:
                depth -= 1
                if depth == 0:
                    return token.end()
        return None

    def _read_on(self, at_least: int = _BLOCK) -> None:
        block = self._content.read(max(at_least, _BLOCK))
        self._text = self._text[self._position :] + self._decode(block, not block)
        self._position, self._is_over = 0, not block

    def _next(self) -> str:
        while self._position >= len(self._text) and not self._is_over:
            self._read_on()
        return self._text[self._position : self._position + 1]

    def _skip(self, character: str) -> None:
        if self._next() == character:
            self._take(self._position + 1)

    def _skip_space(self) -> str:
        skipped = ""
        while self._next() in (" ", "\t", "\r", "\n") and self._next():
            match = _SPACE.match(self._text, self._position)
            assert match is not None
            skipped += match.group()
            self._take(match.end())
        return skipped

    def _take(self, end: int) -> bytes:
        raw = self._text[self._position : end].encode("utf-8", "surrogateescape")
        self._position = end
        self._offset += len(raw)
        return raw
