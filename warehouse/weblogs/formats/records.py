"""What a line of any format says, and how its fields become a record."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from warehouse.weblogs.reader.fallback import (
    DECLARE,
    OTHER_FORMAT,
    Fault,
    byte_count,
    is_address,
    printable,
    status_code,
)

# Fields that a format may have. Times are parsed by the format's own parser.
DURATIONS: Final = {"seconds": 1.0, "milliseconds": 1e-3, "microseconds": 1e-6, "nanoseconds": 1e-9}
FIELDS: Final = (
    "time", "address", "forwarded_for", "user", "request", "method", "target", "path", "query", "protocol", "status",
    "response_bytes", "referer", "user_agent", "host", "request_bytes", "tls", *DURATIONS,
)  # fmt: skip
_NOTHING = (b"", b"-")
_UNENCRYPTED = (b"http", b"ws", b"off", b"0", b"false", b"none", b"null", *_NOTHING)
_NUMBER = re.compile(rb"\d{1,18}(?:\.\d{1,18})?(?:[eE][+-]?\d{1,2})?|\.\d{1,18}")
_PORT = re.compile(rb"(\d{1,3}(?:\.\d{1,3}){3}):\d{1,5}|\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?")
_HOST_PORT = re.compile(rb":\d{1,5}\Z")

TimeParser = Callable[[bytes], int | Fault]


class Record(NamedTuple):
    """A parsed line. Seconds since 1970-01-01 UTC; None where the line does not say."""

    seconds: int
    status: int
    size: int
    address: bytes
    user: bytes
    request: bytes
    referer: bytes
    agent: bytes
    host: bytes
    request_seconds: float | None
    request_bytes: int | None
    is_tls: bool | None


@dataclass(frozen=True)
class RecordMaker:
    """Makes records of fields: which there are, how times are written, and how many proxies are trusted."""

    names: frozenset[str]
    parse_time: TimeParser
    trusted_proxies: int | None = None

    @cached_property
    def missing(self) -> list[str]:
        """What a log line must say, and these fields do not."""
        missing = [name for name in ("time", "status") if name not in self.names]
        if not self.names & {"address", "forwarded_for"}:
            missing.append("address")
        if "request" not in self.names and not ("method" in self.names and self.names & {"target", "path"}):
            missing.append("request")
        return missing

    @cached_property
    def duration(self) -> str | None:
        """The field that says how long a request took, the most exact one."""
        return next((name for name in reversed(DURATIONS) if name in self.names), None)

    def make(self, fields: Mapping[str, bytes]) -> Record | Fault:
        """The record of a line, or why there is none. Fields that the line lacks are left out or b'-'."""
        get = fields.get
        seconds = self.parse_time(get("time", b""))
        if isinstance(seconds, Fault):
            return seconds
        status = status_code(get("status", b""))
        if isinstance(status, Fault):
            return status
        size = byte_count(get("response_bytes", b"-") or b"-")
        if isinstance(size, Fault):
            return size
        address = self._visitor(get("address", b""), get("forwarded_for"))
        if isinstance(address, Fault):
            return address
        request_seconds = request_bytes = is_tls = None
        if self.duration is not None and (text := get(self.duration, b"")) not in _NOTHING:
            if not _NUMBER.fullmatch(text):
                return Fault("malformed_line", f"'{printable(text)[:40]}' is no duration")
            request_seconds = float(text) * DURATIONS[self.duration]
        if (text := get("request_bytes", b"")) not in _NOTHING:
            count = byte_count(text)
            if isinstance(count, Fault):
                return Fault("malformed_line", f"'{printable(text)[:40]}' is no request size")
            request_bytes = count
        if (encryption := get("tls")) is not None:
            is_tls = encryption.lower() not in _UNENCRYPTED
        user = get("user", b"")
        if b" " in user and user.strip(b"- \t"):
            tokens = user.split(b" ")
            if b"-" in tokens or any(map(is_address, tokens)):
                return Fault(OTHER_FORMAT, "more fields than a user stand where the user should" + DECLARE)
        host = get("host", b"")
        if b"," in host:
            return Fault(OTHER_FORMAT, "a list stands where the virtual host should" + DECLARE)
        return Record(
            seconds,
            status,
            size,
            address,
            b"" if not user.strip(b"- \t") else user,
            get("request") or _request(fields),
            get("referer", b""),
            get("user_agent", b""),
            b"" if host in _NOTHING else _HOST_PORT.sub(b"", host).lower(),
            request_seconds,
            request_bytes,
            is_tls,
        )

    def _visitor(self, address: bytes, forwarded_for: bytes | None) -> bytes | Fault:
        """The visitor's address: that of the connection, or the last one that no trusted proxy has added."""
        if not self.trusted_proxies:
            return _without_port(address)
        chain = [one.strip() for one in (forwarded_for or b"").split(b",")]
        chain = [one for one in chain if one not in _NOTHING]
        # The proxy that is connected to the server stands nowhere, if the format has no address.
        chain.append(address)
        visitor = _without_port(chain[max(len(chain) - 1 - self.trusted_proxies, 0)])
        if visitor in _NOTHING:
            return Fault("bad_address", "there is neither an address nor a forwarded one")
        return visitor


def _without_port(address: bytes) -> bytes:
    """1.2.3.4:80, [2001:db8::1]:80 and [2001:db8::1] without port and brackets."""
    match = _PORT.fullmatch(address)
    return address if match is None else match[1] or match[2]


def _request(fields: Mapping[str, bytes]) -> bytes:
    """The request line by its parts."""
    method, protocol, query = (fields.get(name, b"") for name in ("method", "protocol", "query"))
    target = fields.get("target") or fields.get("path", b"")
    if method in _NOTHING and target in _NOTHING:
        return b""
    query = query.removeprefix(b"?")
    if "target" not in fields and query not in _NOTHING:
        target += b"?" + query
    return b" ".join([method, target] + ([protocol] if protocol not in _NOTHING else []))
