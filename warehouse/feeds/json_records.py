"""Reads JSON files record by record, with the bytes of each at hand: one object per line, or one array of objects.

Numbers stay as they are written. Whatever cannot be read becomes a record with a problem, and the next one is read.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

from warehouse.feeds.record import MOST_RECORD_BYTES, Number, Problem, Record
from warehouse.files.content import ContentReader

_BLOCK = 1 << 20
_BOM = codecs.BOM_UTF8
# orjson makes a double of a number, which holds 15 digits, and of two fields of one name keeps the last. It is exact
# for all records but those that look like this, or that have other than one `":` for each field.
_INEXACT = re.compile(rb"\d[\d.]{15}|\d[eE]|\\u0000")
_SPACE = re.compile(r"[ \t\r\n]*")
# Characters after an error that do not exist yet rather than being wrong.
_UNFINISHED = 16


class _Refused(ValueError):
    """A record that JSON's grammar allows and this reader does not, or the other way round."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.problem = Problem(rule, reason)


class JsonRecords:
    """Every record of a file, blank lines left out; once they are read, `fault` says whether the file breaks off."""

    def __init__(self, content: ContentReader) -> None:
        self._content = content
        self.fault: str | None = None
        self.is_array = content.head.removeprefix(_BOM).lstrip().startswith(b"[")

    def __iter__(self) -> Iterator[Record]:
        if not self.is_array:
            yield from _lines(self._content)
            return
        reader = _ArrayReader(self._content)
        yield from reader.records()
        self.fault = reader.fault


def parse(raw: bytes, *, is_cut_off: bool = False) -> dict[str, Any] | Problem:
    """The fields of a record, or why it cannot be read; `is_cut_off` says that the file ends within it."""
    try:
        value = orjson.loads(raw)
        is_exact = _INEXACT.search(raw) is None and raw.count(b'":') == _count_fields(value)
    except (orjson.JSONDecodeError, RecursionError):
        is_exact = False
    if not is_exact:
        try:
            value = _parse_exactly(raw)
        except _Refused as refused:
            return Problem("record is cut off", refused.problem.reason) if is_cut_off else refused.problem
    if not isinstance(value, dict):
        return Problem("record is not an object", f"It is {_kind(value)}.")
    return value


def _lines(content: ContentReader) -> Iterator[Record]:
    """Records of a file with one on each line."""
    line, offset, left = 0, 0, b""
    while block := content.read(_BLOCK):
        pieces = (left + block).split(b"\n")
        left = pieces.pop()
        for piece in pieces:
            line += 1
            if record := _record_of(line, offset, piece):
                yield record
            offset += len(piece) + 1
        if len(left) > MOST_RECORD_BYTES:
            line += 1
            start = left
            size = len(left)
            while (block := content.read(_BLOCK)) and b"\n" not in block:
                size += len(block)
            before, _, left = block.partition(b"\n")
            size += len(before)
            yield _too_large(line, offset, start, size)
            offset += size + 1
    if left and (record := _record_of(line + 1, offset, left, is_last=True)):
        yield record


def _record_of(line: int, offset: int, piece: bytes, *, is_last: bool = False) -> Record | None:
    raw = piece.strip(b" \t\r")
    if line == 1:
        raw = raw.removeprefix(_BOM).strip(b" \t\r")
    if not raw:
        return None
    if len(raw) > MOST_RECORD_BYTES:
        return _too_large(line, offset, raw, len(raw))
    parsed = parse(raw, is_cut_off=is_last)
    if isinstance(parsed, Problem):
        return Record(line, offset, raw, None, parsed)
    return Record(line, offset, raw, parsed)


def _too_large(line: int, offset: int, start: bytes, size: int) -> Record:
    reason = f"It has {size:,} bytes; more than {MOST_RECORD_BYTES:,} are not read."
    return Record(line, offset, start, None, Problem("record is too large", reason))


class _ArrayReader:
    """Cuts an array into its elements: the text that is not yet cut is `_text`, from `_position` on."""

    # Finds where an element ends; its fields are read from its bytes, as those of a line are.
    _decoder = json.JSONDecoder(parse_int=str, parse_float=str)

    def __init__(self, content: ContentReader) -> None:
        self._content = content
        # Bytes that are no text pass through, and are judged with their record.
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._text, self._position, self._offset, self._is_over = "", 0, 0, False
        self.fault: str | None = None

    def records(self) -> Iterator[Record]:
        """Every element, then whatever else there is."""
        self._read_on()
        self._skip("\ufeff")
        self._skip_space()
        self._skip("[")
        place = 0
        indent = self._skip_space()
        while True:
            if self._next() in ("]", ""):
                break
            place += 1
            yield self._element(place, indent)
            self._skip_space()
            if self._next() == ",":
                self._skip(",")
                self._skip_space()
            elif self._next() not in ("]", ""):
                continue
        if self._next() != "]":
            self.fault = "its array has no end"
            return
        self._skip("]")
        self._skip_space()
        if self._next():
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
                # A number may go on in the next block.
                if end == len(self._text) and not self._is_over:
                    self._read_on()
                    continue
            offset, is_cut_off = self._offset, end == len(self._text)
            raw = self._take(end)
            parsed = parse(raw.rstrip(b" \t\r\n,"), is_cut_off=is_cut_off)
            if isinstance(parsed, Problem):
                return Record(place, offset, raw, None, parsed)
            return Record(place, offset, raw, parsed)

    def _resynchronized(self, indent: str) -> int:
        """Where the next element begins: at the next line that is indented as the first one; else nowhere."""
        if "\n" in indent:
            while True:
                start = self._text.find(indent + "{", self._position + 1)
                if start >= 0:
                    return start
                if self._is_over or len(self._text) - self._position > MOST_RECORD_BYTES:
                    break
                self._read_on()
        while not self._is_over:
            self._take(len(self._text))
            self._read_on()
        return len(self._text)

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


def _parse_exactly(raw: bytes) -> Any:
    """Parse a record with numbers as they are written.

    Raises:
        _Refused: it is no JSON, or holds what no JSON text of a database can.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Refused("record is not UTF-8", f"Byte {error.start + 1} of it is no text.") from None
    try:
        value = _exact.decode(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise _Refused(
                "more than one record on a line", f"Something follows after its character {error.pos}."
            ) from None
        raise _Refused("record is not JSON", f"{error.msg} at character {error.pos + 1}.") from None
    except RecursionError:
        raise _Refused(
            "record is nested too deeply", "Its lists and objects are nested too deeply."
        ) from None
    if "\\u" in text:
        _check_text(value)
    return value


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused("field is there twice", f"Field {twice[:100]!r} is there more than once.")
    return fields


def _constant(name: str) -> Any:
    raise _Refused("number is not finite", f"{name} is no number of JSON.")


_exact = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_float=Number, parse_int=Number, parse_constant=_constant
)


def _check_text(value: Any) -> None:
    """Refuse texts that PostgreSQL cannot hold.

    Raises:
        _Refused: a text has half of a character, or a NUL.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise _Refused("text has a NUL character", "PostgreSQL cannot hold it.")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Refused("text is no Unicode", "It has a lone surrogate, half of a character.") from None
    elif isinstance(value, dict):
        for name, member in value.items():
            _check_text(name)
            _check_text(member)
    elif isinstance(value, list):
        for member in value:
            _check_text(member)


def _count_fields(value: Any) -> int:
    if type(value) is dict:
        count = len(value)
        for member in value.values():
            if type(member) is dict or type(member) is list:
                count += _count_fields(member)
        return count
    if type(value) is list:
        return sum(map(_count_fields, value))
    return 0


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return "a constant"
    return "a number" if isinstance(value, Number | int | float) else "a text"
