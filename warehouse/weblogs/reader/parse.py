"""Access log lines to columns: whole blocks at a time, and the odd lines one by one."""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from warehouse.weblogs.reader import fallback, native
from warehouse.weblogs.reader.addresses import Addresses, AddressReader
from warehouse.weblogs.reader.clock import days_since_epoch, offsets_of
from warehouse.weblogs.reader.swar import (
    Bytes,
    ByteWords,
    Mask,
    Places,
    digits,
    find,
    number,
    pairs,
    pattern,
    u64,
)

NEWLINE, RETURN, QUOTE, SPACE, DASH, BACKSLASH = b'\n\r" -\\'

# Around the opening quote of the request, in words that end at it: ' [17/May/2015:10:05:03 +0000] "'
_HEAD_WORDS = tuple(pattern(text) for text in (b" [../...", b"/....:..", b":..:.. .", b'....] ".'))
_STATUS_WORD = pattern(b'" ... ..')


@dataclass(frozen=True)
class Lines:
    """Where the lines of a buffer start and end; `ends` leave out \\n and \\r\\n."""

    buffer: Bytes
    starts: Places
    ends: Places

    def __len__(self) -> int:
        return len(self.starts)

    def text(self, line: int) -> bytes:
        """The line as it stands."""
        return self.buffer[self.starts[line] : self.ends[line]].tobytes()


@dataclass
class Columns:
    """Columns of the lines that could be read, in the order of `line` (positions in the block)."""

    line: Places
    seconds: Places  # since 1970-01-01 UTC
    status: Places
    size: Places
    address_start: Places
    address_end: Places
    user_start: Places
    user_end: Places
    request_start: Places
    request_end: Places
    referer_start: Places
    referer_end: Places
    agent_start: Places
    # 0 in the common format, which tells neither referer nor user agent.
    agent_end: Places

    @property
    def request(self) -> tuple[Places, Places]:
        """Start and end of the request lines."""
        return self.request_start, self.request_end

    @property
    def referer(self) -> tuple[Places, Places]:
        """Start and end of the referers."""
        return self.referer_start, self.referer_end

    @property
    def agent(self) -> tuple[Places, Places]:
        """Start and end of the user agents."""
        return self.agent_start, self.agent_end

    @property
    def user(self) -> tuple[Places, Places]:
        """Start and end of the user names."""
        return self.user_start, self.user_end

    def select(self, chosen: Mask | Places) -> "Columns":
        """The rows chosen."""
        return Columns(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True)
class Rejected:
    """A line that cannot be loaded: its position in the block, the rule that it breaks, and why."""

    line: int
    rule: str
    reason: str


@dataclass(frozen=True)
class Parsed:
    """A block, read: every line is either in `columns` (with its address) or in `rejected`."""

    lines: Lines
    columns: Columns
    addresses: Addresses
    rejected: list[Rejected]


def split_lines(buffer: Bytes, size: int) -> Lines:
    """Lines of the first `size` bytes, each of which ends with \\n."""
    ends = np.flatnonzero(buffer[:size] == NEWLINE)
    starts = np.empty_like(ends)
    starts[:1] = 0
    starts[1:] = ends[:-1] + 1
    returns = (ends > starts) & (buffer[ends - 1] == RETURN)
    return Lines(buffer, starts, ends - returns)


def parse(buffer: Bytes, size: int, address_reader: AddressReader) -> Parsed:
    """Read every line of a block of whole lines: regular ones together, the others by `odd_lines`."""
    words = ByteWords(buffer)
    if native.library is not None:
        starts, ends, table, others = native.scan_lines(buffer, size)
        lines, parts = Lines(buffer, starts, ends), [Columns(*table)] if table.size else []
    else:
        lines = split_lines(buffer, size)
        parts, others = _split_columns(lines, words, size)
    odd, rejected = _odd(lines, others)
    if len(odd.line):
        parts.append(odd)
    columns = parts[0] if len(parts) == 1 else _merge(parts)
    addresses = address_reader.read(buffer, words, columns.address_start, columns.address_end)
    if not addresses.valid.all():
        for place in np.flatnonzero(~addresses.valid).tolist():
            start, end = int(columns.address_start[place]), int(columns.address_end[place])
            said = fallback.shown(buffer[start:end].tobytes())[:100]
            rejected.append(Rejected(int(columns.line[place]), "bad_address", f"'{said}' is no IP address"))
        columns, addresses = columns.select(addresses.valid), addresses.select(addresses.valid)
        rejected.sort(key=lambda one: one.line)
    return Parsed(lines, columns, addresses, rejected)


def _split_columns(lines: Lines, words: ByteWords, size: int) -> tuple[list[Columns], Places]:
    """Columns of the regular lines, by format, and the numbers of the other lines."""
    quotes = np.flatnonzero(lines.buffer[:size] == QUOTE)
    upto = np.searchsorted(quotes, lines.ends)
    counts = np.diff(upto, prepend=0)
    parts: list[Columns] = []
    taken = np.zeros(len(lines), bool)
    for marks in (6, 2):
        at = np.flatnonzero(counts == marks)
        if len(at):
            mine = quotes if len(at) == len(lines) else quotes[np.repeat(counts == marks, counts)]
            places = [np.ascontiguousarray(column) for column in mine.reshape(-1, marks).T]
            part = _regular(lines, words, at, places)
            taken[part.line] = True
            parts.append(part)
    return parts, np.flatnonzero(~taken)


def _regular(lines: Lines, words: ByteWords, at: Places, quotes: list[Places]) -> Columns:
    """Those of the lines `at` (with 6 quotes, or 2 in the common format) that are laid out as most lines are."""
    start, end = lines.starts[at], lines.ends[at]
    fits = (quotes[0] - start >= 38) & (end - quotes[1] >= 7)
    if len(quotes) == 6:
        fits &= (quotes[5] == end - 1) & (quotes[4] - quotes[3] == 2)
    if not fits.all():
        at, start, end = at[fits], start[fits], end[fits]
        quotes = [place[fits] for place in quotes]
    buffer, first, second = lines.buffer, quotes[0], quotes[1]
    head = [words.at8[first - back] for back in (30, 22, 14, 6)]
    fits = np.ones(len(at), bool)
    for word, (mask, value) in zip(head, _HEAD_WORDS, strict=True):
        fits &= (word & mask) == value
    seconds, known = _clock(head)
    fits &= known
    status, known = _status(words.at8[second])
    fits &= known
    if len(quotes) == 6:
        size_end = quotes[2] - 1
        fits &= (buffer[size_end] == SPACE) & (buffer[quotes[3] + 1] == SPACE)
        fits &= (buffer[quotes[3] - 1] != BACKSLASH) & (buffer[quotes[5] - 1] != BACKSLASH)
    else:
        size_end = end
    fits &= buffer[second - 1] != BACKSLASH
    size, known = _size(words, second + 6, size_end)
    fits &= known
    address_end = _first_space(words, start, first)
    fits &= (words.at4[address_end] & np.uint32(0x00FFFFFF)) == np.uint32(0x202D20)
    user_start, user_end = address_end + 3, first - 30
    fits &= (user_end > user_start) & (address_end > start)
    absent = np.zeros(len(at), np.int64)
    spans = (quotes[2] + 1, quotes[3], quotes[4] + 1, quotes[5]) if len(quotes) == 6 else (absent,) * 4
    columns = Columns(
        at, seconds, status, size, start, address_end, user_start, user_end, first + 1, second, *spans
    )
    return columns if fits.all() else columns.select(fits)


def _clock(head: list[npt.NDArray[np.uint64]]) -> tuple[Places, Mask]:
    """UTC seconds of the times in the four words of a line's head, and whether they are times at all."""
    first, second, third, fourth = head
    days, known = days_since_epoch(first >> u64(16), (second >> u64(8)) & u64(0xFFFFFFFF))
    clock = (second >> u64(48)) | ((third & u64(0xFFFF00)) << u64(8)) | (third & u64(0xFFFF00000000))
    values, numeric = digits(clock | u64(0x3030 << 48))
    lanes = pairs(values)
    hour, minute, second_ = (((lanes >> u64(shift)) & u64(0xFF)).astype(np.int64) for shift in (0, 16, 32))
    offset, in_zone = offsets_of((third >> u64(56)) | ((fourth & u64(0xFFFFFFFF)) << u64(8)))
    known &= numeric & in_zone & (hour < 24) & (minute < 60) & (second_ <= 60)
    return days * 86_400 + hour * 3600 + minute * 60 + second_ - offset, known


def _status(word: npt.NDArray[np.uint64]) -> tuple[Places, Mask]:
    mask, value = _STATUS_WORD
    values, numeric = digits(((word >> u64(16)) & u64(0xFFFFFF)) << u64(40) | u64(0x3030303030))
    status = number(values).astype(np.int64)
    return status, ((word & mask) == value) & numeric & (status >= 100) & (status <= 599)


def _size(words: ByteWords, start: Places, end: Places) -> tuple[Places, Mask]:
    """Response sizes of up to eight digits, right-aligned in a word; '-' is 0, as Apache means it."""
    length = end - start
    word = words.at8[np.maximum(end - 8, 0)]
    shift = ((8 - np.clip(length, 1, 8)) * 8).astype(np.uint64)
    blank = (u64(1) << shift) - u64(1)
    values, numeric = digits((word & ~blank) | (u64(0x3030303030303030) & blank))
    dash = (length == 1) & ((word >> u64(56)) == DASH)
    size = np.where(dash, 0, number(values).astype(np.int64))
    return size, (dash | numeric) & (length >= 1) & (length <= 8)


def _first_space(words: ByteWords, start: Places, limit: Places) -> Places:
    """Place of the first space from `start` on; `start` itself where there is none before `limit`."""
    near = find(words.at8[start], SPACE)
    place = start + near
    far = np.flatnonzero(near == 8)
    for _ in range(6):
        if not len(far):
            return place
        step = find(words.at8[place[far]], SPACE)
        place[far] += step
        far = far[(step == 8) & (place[far] < limit[far])]
    place[far] = start[far]
    return place


def _odd(lines: Lines, at: Places) -> tuple[Columns, list[Rejected]]:
    """The lines `at`, each by itself."""
    rows: list[tuple[int, ...]] = []
    rejected: list[Rejected] = []
    for line in at.tolist():
        start = int(lines.starts[line])
        read = fallback.read(lines.text(line))
        if isinstance(read, fallback.Fault):
            rejected.append(Rejected(line, read.rule, read.reason))
        else:
            rows.append(
                (line, read.seconds, read.status, read.size, *(start + place for place in read.spans))
            )
    table = np.array(rows, np.int64).reshape(-1, len(fields(Columns)))
    return Columns(*(np.ascontiguousarray(column) for column in table.T)), rejected


def _merge(parts: list[Columns]) -> Columns:
    if not parts:
        return Columns(*(np.zeros(0, np.int64) for _ in fields(Columns)))
    merged = Columns(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Columns)))
    return merged.select(np.argsort(merged.line, kind="stable"))
