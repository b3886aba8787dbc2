"""Parse a line of the combined or common format by regular expressions, or find out why it cannot be parsed.

The compiled parser (scan.c) parses regular lines and passes the others to this one. Without it, all are parsed here.
"""

import datetime
import ipaddress
import re
from dataclasses import dataclass

from warehouse.errors import visible as visible_text

# A line can be a megabyte of anything: possessive quantifiers keep every pattern from backtracking.
_INNER = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_LINE = re.compile(
    rb'(?P<head>[^"]*) \[(?P<time>[^\]"]{0,60})\] "(?P<request>%(inner)s)"[ \t]++(?P<status>\S++)[ \t]++(?P<size>\S++)'
    rb'(?:[ \t]++"(?P<referer>%(inner)s)"[ \t]++"(?P<agent>%(inner)s)"'
    # Servers may log more fields after the user agent: they are ignored.
    rb'(?P<more>(?:[ \t]++(?:"%(inner)s"|[^ \t"]++))++)?+)?[ \t]*+' % {b"inner": _INNER},
    re.DOTALL,
)
# For lines with an unescaped quote in a field: the request ends where a status and a size follow a quote.
_BEFORE_REQUEST = re.compile(rb'(?P<head>[^"]*) \[(?P<time>[^\]"]{0,60})\] "', re.DOTALL)
_AFTER_REQUEST = re.compile(
    rb'"[ \t]++(?P<status>\d{3})[ \t]++(?P<size>\d{1,19}+|-)(?=[ \t]*+(?:\Z|(?<=[ \t])"))'
)
_BETWEEN = re.compile(rb'"[ \t]++"')
_TIME = re.compile(rb"(\d\d)/([A-Za-z]{3})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-]\d{4})")
_ZONE = re.compile(rb"([+-])(\d\d)(\d\d)")
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_EPOCH = datetime.date(1970, 1, 1).toordinal()
# The days that the in-memory aggregates have room for (storage/aggregates.py). scan.c has the same limits.
FIRST_YEAR, LAST_YEAR = 1970, 2148
# PostgreSQL's own limit is 15:59; no place on earth is beyond 14:00.
_MAX_ZONE_HOURS = 15
_MAX_SIZE = 2**63 - 1
# Byte order mark, which some programs write before the first line of a file in UTF-8.
BOM = b"\xef\xbb\xbf"

# The rule that lines break if they are evidently of another format than the declared one.
OTHER_FORMAT = "other_format"
DECLARE = ": see `dwh weblogs inspect`, and declare the format of the file"
FORWARDED = "a list of forwarded addresses stands where the visitor's address should" + DECLARE
_UNESCAPED = "a quote inside a field is not escaped"


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
    """Parse a line in combined or common format."""
    if not line.strip():
        return Fault("malformed_line", "empty line")
    found = _layout(line)
    if isinstance(found, Fault):
        return found
    head = _head(line[slice(*found["head"])])
    if isinstance(head, Fault):
        return head
    seconds = clf_seconds(line[slice(*found["time"])])
    if isinstance(seconds, Fault):
        return seconds
    status = status_code(line[slice(*found["status"])])
    if isinstance(status, Fault):
        return status
    size = byte_count(line[slice(*found["size"])])
    if isinstance(size, Fault):
        return size
    spans = (*head, *found["request"], *found.get("referer", (0, 0)), *found.get("agent", (0, 0)))
    return Fields(seconds, status, size, spans)


def status_code(text: bytes) -> int | Fault:
    """Parse an HTTP status."""
    if len(text) == 3 and text.isdigit() and 100 <= int(text) <= 599:
        return int(text)
    return Fault("bad_status", f"'{visible(text)[:20]}' is no HTTP status")


def byte_count(text: bytes) -> int | Fault:
    """Parse a size in bytes; 0 for '-'."""
    if text == b"-":
        return 0
    if text.isdigit() and len(text) <= 19 and int(text) <= _MAX_SIZE:
        return int(text)
    return Fault("malformed_line", f"'{visible(text)[:40]}' is no response size")


def printable(raw: bytes) -> str:
    """Decode bytes to text that PostgreSQL accepts: NUL and invalid UTF-8 become \\xNN."""
    return raw.decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def visible(raw: bytes) -> str:
    """Decode bytes to text for a reason: invisible characters, as a zero-width space, become escapes as \\u200b."""
    return visible_text(printable(raw))


def _layout(line: bytes) -> dict[str, tuple[int, int]] | Fault:
    """Find start and end of each field of the line."""
    match = _LINE.fullmatch(line)
    # If several places look like the end of the request, what matched as fields after the user agent may be part of it.
    if match is not None and (
        match["more"] is None or len(_AFTER_REQUEST.findall(line, match.end("time"))) < 2
    ):
        return {name: match.span(name) for name, value in match.groupdict().items() if value is not None}
    before = _BEFORE_REQUEST.match(line)
    if before is None:
        return Fault("malformed_line", _layout_fault(line))
    ends = list(_AFTER_REQUEST.finditer(line, before.end()))
    if not ends:
        return Fault("malformed_line", _layout_fault(line))
    if len(ends) > 1:
        return Fault("malformed_line", f"{_UNESCAPED}: where the request ends is not certain")
    (after,) = ends
    fields = {name: before.span(name) for name in ("head", "time")}
    fields |= {name: after.span(name) for name in ("status", "size")}
    fields["request"] = (before.end(), after.start())
    end = len(line.rstrip(b" \t"))
    if end <= after.end():
        return fields
    if line[end - 1 : end] != b'"':
        return Fault("malformed_line", _layout_fault(line))
    start = line.index(b'"', after.end()) + 1
    between = list(_BETWEEN.finditer(line, start, end - 1))
    if len(between) > 1:
        return Fault("malformed_line", f"{_UNESCAPED}: where referer and user agent end is not certain")
    if not between:
        return Fault("malformed_line", _layout_fault(line))
    fields["referer"] = (start, between[0].start())
    fields["agent"] = (between[0].end(), end - 1)
    return fields


def _head(head: bytes) -> tuple[int, int, int, int] | Fault:
    """Find start and end of address and user in 'address identity user'; blank or '-' is a visitor without login."""
    tokens = head.split(b" ")
    if len(tokens) < 3:
        return Fault("malformed_line", "address, identity and user are not all there")
    address, identity, *user = tokens
    if not address or not identity:
        return Fault("malformed_line", "address or identity is empty")
    if address.endswith(b","):
        return Fault(OTHER_FORMAT, FORWARDED)
    if is_address(identity.rstrip(b",")):
        return Fault(
            OTHER_FORMAT, "two addresses, or a virtual host and an address, stand before the user" + DECLARE
        )
    first = len(BOM) if address.startswith(BOM) else 0
    start = len(address) + 1 + len(identity) + 1
    if all(token.strip() in (b"", b"-") for token in user) and (len(user) == 1 or identity == b"-"):
        return first, len(address), start, start + (1 if user == [b"-"] else 0)
    if len(user) > 1 and b"-" in user:
        return Fault(
            OTHER_FORMAT,
            f"{len(tokens)} fields stand before the time, not address, identity and user" + DECLARE,
        )
    return first, len(address), start, len(head)


def address_fault(text: bytes) -> Fault:
    """Explain why a text is not the address of a visitor."""
    if b"," in text:
        return Fault(OTHER_FORMAT, FORWARDED)
    return Fault("bad_address", f"'{visible(text)[:100]}' is neither an IP address nor a host name")


def is_address(token: bytes) -> bool:
    """Whether a text is an IP address."""
    try:
        ipaddress.ip_address(token.decode("ascii"))
    except ValueError:
        return False
    return True


def clf_seconds(text: bytes) -> int | Fault:
    """Parse a time as 17/May/2015:10:05:03 +0000 to seconds since 1970-01-01 UTC."""
    match = _TIME.fullmatch(text)
    if match is None:
        return Fault("malformed_line", f"'{visible(text)[:60]}' is no time as [17/May/2015:10:05:03 +0000]")
    day = _day_number(match[1], match[2], match[3])
    hour, minute, second = (int(match[group]) for group in (4, 5, 6))
    zone = _zone_seconds(match[7])
    # A leap second is 23:59:60.
    if day is None or hour > 23 or minute > 59 or second > 60 or zone is None:
        return Fault("impossible_date", f"no request can be of {visible(text)}")
    return day * 86_400 + hour * 3600 + minute * 60 + second - zone


def _day_number(day: bytes, month: bytes, year: bytes) -> int | None:
    """Return the days since 1970-01-01; None if there is no such day from FIRST_YEAR to LAST_YEAR."""
    if month not in _MONTHS or not FIRST_YEAR <= int(year) <= LAST_YEAR:
        return None
    try:
        return datetime.date(int(year), _MONTHS.index(month) + 1, int(day)).toordinal() - _EPOCH
    except ValueError:
        return None


def _zone_seconds(zone: bytes) -> int | None:
    """Return the seconds that a zone as +0530 is ahead of UTC; None if there is no such zone."""
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
