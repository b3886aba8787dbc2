"""The lines that are not laid out as most: read one by one, or told why they cannot be."""

import ipaddress
import re
from dataclasses import dataclass

from warehouse.weblogs.reader.clock import day_number, zone_seconds


def _quoted(name: bytes) -> bytes:
    return rb'"(?P<%s>[^"\\]*(?:\\.[^"\\]*)*)"' % name


# After the user agent, servers may log more fields; they are not read, but the line is whole. No part may be tried in
# many ways: a line can be a megabyte of anything.
_LINE = re.compile(
    rb'(?P<head>[^"]*) \[(?P<time>[^\]"]{0,60})\] '
    + _quoted(b"request")
    + rb"[ \t]+(?P<status>\S+)[ \t]+(?P<size>\S+)"
    rb"(?:[ \t]+" + _quoted(b"referer") + rb"[ \t]+" + _quoted(b"agent") + rb"(?:[ \t].*)?)?[ \t]*",
    re.DOTALL,
)
_TIME = re.compile(rb"(\d\d)/([A-Za-z]{3})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-]\d{4})")
_MAX_SIZE = 2**63 - 1


@dataclass(frozen=True)
class Fields:
    """A line that could be read; `spans` are start and end of address, user, request, referer, agent."""

    seconds: int
    status: int
    size: int
    spans: tuple[int, ...]


@dataclass(frozen=True)
class Fault:
    """A line that could not be read: the rule that it breaks, and why."""

    rule: str
    reason: str


def read(line: bytes) -> Fields | Fault:
    """Read a line in combined, common or vhost-prefixed format."""
    if not line.strip():
        return Fault("malformed_line", "empty line")
    match = _LINE.fullmatch(line)
    if match is None:
        return Fault("malformed_line", _what_is_wrong(line))
    head = _head(match["head"])
    if isinstance(head, Fault):
        return head
    seconds = _seconds(match["time"])
    if isinstance(seconds, Fault):
        return seconds
    status, size = match["status"], match["size"]
    if not (len(status) == 3 and status.isdigit() and 100 <= int(status) <= 599):
        return Fault("bad_status", f"'{shown(status)[:20]}' is no HTTP status")
    if size != b"-" and not (size.isdigit() and len(size) <= 19 and int(size) <= _MAX_SIZE):
        return Fault("malformed_line", f"'{shown(size)[:40]}' is no response size")
    referer, agent = (
        match.span(name) if match[name] is not None else (0, 0) for name in ("referer", "agent")
    )
    spans = (*head, *match.span("request"), *referer, *agent)
    return Fields(seconds, int(status), 0 if size == b"-" else int(size), spans)


def shown(raw: bytes) -> str:
    """Bytes as text that a database takes: what is no UTF-8, and NUL, is written as \\xNN."""
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
        return Fault("malformed_line", f"'{shown(text)[:60]}' is no time as [17/May/2015:10:05:03 +0000]")
    day = day_number(match[1], match[2], match[3])
    hour, minute, second = (int(match[group]) for group in (4, 5, 6))
    zone = zone_seconds(match[7])
    # A leap second is 23:59:60.
    if day is None or hour > 23 or minute > 59 or second > 60 or zone is None:
        return Fault("impossible_date", f"no request can be of {shown(text)}")
    return day * 86_400 + hour * 3600 + minute * 60 + second - zone


def _what_is_wrong(line: bytes) -> str:
    if b" [" not in line:
        return "there is no [time]"
    quotes = len(re.findall(rb'(?<!\\)"', line))
    if quotes % 2:
        return "a quote is not closed"
    return f"not laid out as an access log line ({quotes} quotes)"
