"""Records, the common form of parsed lines of any format, and how they are made from the fields of a line."""

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
    """A parsed line. `seconds` are since 1970-01-01 UTC; None stands for what the line does not have."""

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
    """Makes records from the fields of a format: `names` are its fields, `parse_time` parses its times."""

    names: frozenset[str]
    parse_time: TimeParser
    trusted_proxies: int | None = None

    @cached_property
    def missing(self) -> list[str]:
        """The required fields that the format does not have."""
        missing = [name for name in ("time", "status") if name not in self.names]
        if not self.names & {"address", "forwarded_for"}:
            missing.append("address")
        if "request" not in self.names and not ("method" in self.names and self.names & {"target", "path"}):
            missing.append("request")
        return missing

    @cached_property
    def duration(self) -> str | None:
        """The field with the duration of the request; of several, that of the smallest unit."""
        return next((name for name in reversed(DURATIONS) if name in self.names), None)

    def make(self, fields: Mapping[str, bytes]) -> Record | Fault:
        """Make a record, or return why there is none. Fields that the line does not have are absent or b'-'."""
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
        """Return the address of the connection or, behind trusted proxies, the one from which these were called."""
        if not self.trusted_proxies:
            return _without_port(address)
        chain = [one.strip() for one in (forwarded_for or b"").split(b",")]
        chain = [one for one in chain if one not in _NOTHING]
        # If the format has no address, that of the proxy that is connected to the server is empty here.
        chain.append(address)
        visitor = _without_port(chain[max(len(chain) - 1 - self.trusted_proxies, 0)])
        if visitor in _NOTHING:
            return Fault("bad_address", "there is neither an address nor a forwarded one")
        return visitor


def _without_port(address: bytes) -> bytes:
    """Remove port and brackets from 1.2.3.4:80, [2001:db8::1]:80 and [2001:db8::1]."""
    match = _PORT.fullmatch(address)
    return address if match is None else match[1] or match[2]


def _request(fields: Mapping[str, bytes]) -> bytes:
    """Build the request line from its parts."""
    method, protocol, query = (fields.get(name, b"") for name in ("method", "protocol", "query"))
    target = fields.get("target") or fields.get("path", b"")
    if method in _NOTHING and target in _NOTHING:
        return b""
    query = query.removeprefix(b"?")
    if "target" not in fields and query not in _NOTHING:
        target += b"?" + query
    return b" ".join([method, target] + ([protocol] if protocol not in _NOTHING else []))
