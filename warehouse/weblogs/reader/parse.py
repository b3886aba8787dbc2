"""Parse blocks of access log lines into columns: regular lines by the compiled parser, the others by the fallback."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Address, IPv6Address

import numpy as np
import numpy.typing as npt

from warehouse.weblogs.reader import fallback, native
from warehouse.weblogs.reader.addresses import Addresses, AddressReader
from warehouse.weblogs.reader.buffers import Bytes, Mask, Places

NEWLINE, RETURN = b"\n\r"


@dataclass(frozen=True)
class Lines:
    """Where the lines of a buffer start and end; the ends are before \\n or \\r\\n."""

    buffer: Bytes
    starts: Places
    ends: Places

    def __len__(self) -> int:
        return len(self.starts)

    def text(self, line: int) -> bytes:
        """Return the bytes of a line, without its end."""
        return self.buffer[self.starts[line] : self.ends[line]].tobytes()


@dataclass
class Columns:
    """Columns of the parsed lines, in the order of `line` (positions in the block)."""

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
    # 0 in the common format, which has neither referer nor user agent.
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
        """Return the chosen rows."""
        return Columns(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True)
class Rejected:
    """A line that cannot be loaded: its position in the block, the rule that it breaks, and why."""

    line: int
    rule: str
    reason: str


@dataclass(frozen=True)
class Extras:
    """Columns that only some formats have, a value per parsed line.

    Start and end of the virtual host (equal if there is none); seconds that the request took (NaN: unknown); size of
    the request in bytes (-1: unknown); whether it was encrypted (-1: unknown).
    """

    host_start: Places
    host_end: Places
    request_seconds: npt.NDArray[np.float32]
    request_bytes: npt.NDArray[np.int64]
    is_tls: npt.NDArray[np.int8]

    def select(self, chosen: Mask | Places) -> "Extras":
        """Return the values of the chosen lines."""
        return Extras(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True)
class Parsed:
    """A parsed block: every line is in `columns` (with its address), in `rejected` or in `discarded`.

    Starts and ends in `columns` are positions in `texts`.
    """

    lines: Lines
    columns: Columns
    texts: Bytes
    addresses: Addresses
    rejected: list[Rejected]
    extras: Extras | None = None
    # Positions of header lines, which are no requests, but say how later lines are read.
    discarded: Sequence[int] = ()

    def visitors(self) -> list[str]:
        """Address or host name of each parsed line, as PostgreSQL writes it."""
        addresses, starts, ends = self.addresses, self.columns.address_start, self.columns.address_end
        return [
            str(IPv4Address(int(addresses.v4[row])))
            if addresses.is_v4[row]
            else str(IPv6Address(int(addresses.high[row]) << 64 | int(addresses.low[row])))
            if addresses.is_v6[row]
            else fallback.printable(self.texts[starts[row] : ends[row]].tobytes())
            for row in range(len(starts))
        ]


def split_lines(buffer: Bytes, size: int) -> Lines:
    """Lines of the first `size` bytes, each of which ends with \\n."""
    ends = np.flatnonzero(buffer[:size] == NEWLINE)
    starts = np.empty_like(ends)
    starts[:1] = 0
    starts[1:] = ends[:-1] + 1
    returns = (ends > starts) & (buffer[ends - 1] == RETURN)
    return Lines(buffer, starts, ends - returns)


def parse(buffer: Bytes, size: int, address_reader: AddressReader) -> Parsed:
    """Parse every line of a block of whole lines."""
    regular: list[Columns] = []
    if native.library is None:
        lines = split_lines(buffer, size)
        others = np.arange(len(lines))
    else:
        starts, ends, table, others = native.scan_lines(buffer, size)
        lines = Lines(buffer, starts, ends)
        regular = [Columns(*table)]
    irregular, rejected = _parse_each(lines, others)
    columns = regular[0] if regular and not len(irregular.line) else _merge([*regular, irregular])
    addresses = address_reader.read(buffer, columns.address_start, columns.address_end)
    return reject_bad_addresses(Parsed(lines, columns, buffer, addresses, rejected))


def reject_bad_addresses(parsed: Parsed) -> Parsed:
    """Reject the lines whose visitor has neither an address nor a host name."""
    columns, addresses, extras = parsed.columns, parsed.addresses, parsed.extras
    valid = addresses.valid
    if valid.all():
        return parsed
    rejected = list(parsed.rejected)
    for place in np.flatnonzero(~valid).tolist():
        start, end = int(columns.address_start[place]), int(columns.address_end[place])
        fault = fallback.address_fault(parsed.texts[start:end].tobytes())
        rejected.append(Rejected(int(columns.line[place]), fault.rule, fault.reason))
    return replace(
        parsed,
        columns=columns.select(valid),
        addresses=addresses.select(valid),
        extras=None if extras is None else extras.select(valid),
        rejected=sorted(rejected, key=lambda one: one.line),
    )


def _parse_each(lines: Lines, numbers: Places) -> tuple[Columns, list[Rejected]]:
    """Parse lines one by one."""
    rows: list[tuple[int, ...]] = []
    rejected: list[Rejected] = []
    for line in numbers.tolist():
        start = int(lines.starts[line])
        parsed = fallback.parse_line(lines.text(line))
        if isinstance(parsed, fallback.Fault):
            rejected.append(Rejected(line, parsed.rule, parsed.reason))
        else:
            spans = (start + place for place in parsed.spans)
            rows.append((line, parsed.seconds, parsed.status, parsed.size, *spans))
    table = np.array(rows, np.int64).reshape(-1, len(fields(Columns)))
    return Columns(*(np.ascontiguousarray(column) for column in table.T)), rejected


def _merge(parts: list[Columns]) -> Columns:
    merged = Columns(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Columns)))
    return merged.select(np.argsort(merged.line, kind="stable"))
