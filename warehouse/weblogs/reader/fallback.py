"""Parses a log line by regular expressions: every format that is known, and the reason why a line is none.

The compiled parser (scan.c) parses regular lines and leaves the others to this one. Without it, all are parsed here.
"""

import datetime
import ipaddress
import re
from dataclasses import dataclass


def _quoted(name: bytes) -> bytes:
    return rb'"(?P<%s>[^"\\]*(?:\\.[^"\\]*)*)"' % name


# Servers may log more fields after the user agent: they are ignored. A line can be a megabyte of anything, so no part
# of the pattern may backtrack in many ways.
_LINE = re.compile(
    rb'(?P<head>[^"]*) \[(?P<time>[^\]"]{0,60})\] '
    + _quoted(b"request")
    + rb"[ \t]+(?P<status>\S+)[ \t]+(?P<size>\S+)"
    rb"(?:[ \t]+" + _quoted(b"referer") + rb"[ \t]+" + _quoted(b"agent") + rb"(?:[ \t].*)?)?[ \t]*",
    re.DOTALL,
)
_TIME = re.compile(rb"(\d\d)/([A-Za-z]{3})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-]\d{4})")
_ZONE = re.compile(rb"([+-])(\d\d)(\d\d)")
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_EPOCH = datetime.date(1970, 1, 1).toordinal()
# The days that the in-memory aggregates have room for (storage/aggregates.py). scan.c has the same limits.
_FIRST_YEAR, _LAST_YEAR = 1970, 2148
# PostgreSQL's own limit is 15:59; no place on earth is beyond 14:00.
_MAX_ZONE_HOURS = 15
_MAX_SIZE = 2**63 - 1


@dataclass(frozen=True)
class Fields:
    """A parsed line; `spans` are start and end of address, user, request, referer, agent."""

    seconds: int
    status: int
    size: int
    spans: tuple[int, ...]


@dataclass(frozen=True)
class Fault:
    """Why a line cannot be parsed: the rule that it breaks, and the reason."""

    rule: str
    reason: str


def parse_line(line: bytes) -> Fields | Fault:
    """Parse a line in combined, common or vhost-prefixed format."""
    if not line.strip():
        return Fault("malformed_line", "empty line")
    match = _LINE.fullmatch(line)
    if match is None:
        return Fault("malformed_line", _layout_fault(line))
    head = _head(match["head"])
    if isinstance(head, Fault):
        return head
    seconds = _seconds(match["time"])
    if isinstance(seconds, Fault):
        return seconds
    status, size = match["status"], match["size"]
    if not (len(status) == 3 and status.isdigit() and 100 <= int(status) <= 599):
        return Fault("bad_status", f"'{printable(status)[:20]}' is no HTTP status")
    if size != b"-" and not (size.isdigit() and len(size) <= 19 and int(size) <= _MAX_SIZE):
        return Fault("malformed_line", f"'{printable(size)[:40]}' is no response size")
    referer, agent = (
        match.span(name) if match[name] is not None else (0, 0) for name in ("referer", "agent")
    )
    spans = (*head, *match.span("request"), *referer, *agent)
    return Fields(seconds, int(status), 0 if size == b"-" else int(size), spans)


def printable(raw: bytes) -> str:
    """Bytes as text that PostgreSQL accepts: NUL and invalid UTF-8 are written as \\xNN."""
    return raw.decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def _head(head: bytes) -> tuple[int, int, int, int] | Fault:
    """Start and end of address and user in 'address ident user', which a virtual host may precede."""
    tokens = head.split(b" ")
    first = 1 if len(tokens) >= 4 and not _is_address(tokens[0]) and _is_address(tokens[1]) else 0
    if len(tokens) - first < 3:
        return Fault("malformed_line", "address, identity and user are not all there")
    start = sum(len(token) + 1 for token in tokens[:first])
    end = start + len(tokens[first])
    user = end + 1 + len(tokens[first + 1]) + 1
    if start == end or user >= len(head):
        return Fault("malformed_line", "address or user is empty")
    return start, end, user, len(head)


def _is_address(token: bytes) -> bool:
    try:
        ipaddress.ip_address(token.decode("ascii"))
    except ValueError:
        return False
    return True


def _seconds(text: bytes) -> int | Fault:
    match = _TIME.fullmatch(text)
    if match is None:
        return Fault("malformed_line", f"'{printable(text)[:60]}' is no time as [17/May/2015:10:05:03 +0000]")
    day = _day_number(match[1], match[2], match[3])
    hour, minute, second = (int(match[group]) for group in (4, 5, 6))
    zone = _zone_seconds(match[7])
    # A leap second is 23:59:60.
    if day is None or hour > 23 or minute > 59 or second > 60 or zone is None:
        return Fault("impossible_date", f"no request can be of {printable(text)}")
    return day * 86_400 + hour * 3600 + minute * 60 + second - zone


def _day_number(day: bytes, month: bytes, year: bytes) -> int | None:
    """Days since 1970-01-01; None where there is no such day, or no request can be of it."""
    if month not in _MONTHS or not _FIRST_YEAR <= int(year) <= _LAST_YEAR:
        return None
    try:
        return datetime.date(int(year), _MONTHS.index(month) + 1, int(day)).toordinal() - _EPOCH
    except ValueError:
        return None


def _zone_seconds(zone: bytes) -> int | None:
    """Seconds that a zone as +0530 is ahead of UTC; None where there is no such zone."""
    match = _ZONE.fullmatch(zone)
    if match is None or int(match[2]) > _MAX_ZONE_HOURS or int(match[3]) > 59:
        return None
    seconds = int(match[2]) * 3600 + int(match[3]) * 60
    return -seconds if match[1] == b"-" else seconds


def _layout_fault(line: bytes) -> str:
    if b" [" not in line:
        return "there is no [time]"
    quotes = len(re.findall(rb'(?<!\\)"', line))
    if quotes % 2:
        return "a quote is not closed"
    return f"not laid out as an access log line ({quotes} quotes)"
