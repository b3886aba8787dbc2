"""Try formats on the first lines of a file: declared ones, presets, JSON by its keys, and each within other lines."""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from warehouse.errors import WarehouseError
from warehouse.weblogs.formats.declaration import LogFormat, WeblogFormats, presets, read_format
from warehouse.weblogs.formats.wrapping import WRAPPINGS
from warehouse.weblogs.reader.addresses import AddressReader
from warehouse.weblogs.reader.buffers import PADDING
from warehouse.weblogs.reader.parse import Parsed

# Number of lines by which the format is chosen.
_CHOOSING: Final = 200
# A format has to read at least this share of the lines: fewer may be chance.
_LEAST_SHARE: Final = 0.5
_DELIMITERS: Final = (",", ";", "\t", "|")
_MAX_COLUMNS = 30
# Usual JSON keys of each field, in lower case, letters and digits only.
_JSON_KEYS: Final = {
    "time": ("time", "timestamp", "ts", "timeiso8601", "timelocal", "msec", "datetime", "date", "startutc", "starttime",
             "requesttime", "t"),
    "address": ("remoteaddr", "clientip", "remoteip", "remotehost", "clienthost", "clientaddr", "ip", "host.ip",
                "sourceip", "client", "remoteaddress", "clientaddress", "addr"),
    "forwarded_for": ("httpxforwardedfor", "xforwardedfor", "forwardedfor"),
    "user": ("remoteuser", "user", "username", "clientusername", "userid", "authuser"),
    "request": ("request", "requestline"),
    "method": ("method", "requestmethod", "httpmethod", "verb"),
    "target": ("uri", "requesturi", "url", "path", "requestpath", "target"),
    "protocol": ("protocol", "serverprotocol", "requestprotocol", "proto", "httpversion"),
    "status": ("status", "statuscode", "responsecode", "responsestatus", "downstreamstatus", "code"),
    "response_bytes": ("bodybytessent", "bytessent", "bytes", "size", "responsesize", "bytesout", "contentlength",
                       "downstreamcontentsize"),
    "request_bytes": ("requestlength", "bytesread", "bytesin", "requestsize", "requestcontentsize"),
    "referer": ("httpreferer", "referer", "referrer", "httpreferrer", "requestreferer"),
    "user_agent": ("httpuseragent", "useragent", "agent", "requestuseragent"),
    "host": ("host", "httphost", "servername", "vhost", "virtualhost", "requesthost"),
    "seconds": ("requesttime", "durationseconds", "seconds", "elapsed", "responsetime"),
    "milliseconds": ("durationms", "latencyms", "responsetimems", "elapsedms", "milliseconds"),
    "tls": ("sslprotocol", "https", "scheme", "tlsversion", "requestscheme"),
}  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A format, and lines that were parsed in it."""

    format: LogFormat
    parsed: Parsed = field(repr=False)

    @property
    def score(self) -> tuple[int, int]:
        """Number of lines that can be read, and number of optional columns that they fill."""
        extras = self.parsed.extras
        filled_columns = extras and (
            (extras.host_end > extras.host_start).any(),
            ~np.isnan(extras.request_seconds).all(),
            (extras.request_bytes >= 0).any(),
            (extras.is_tls >= 0).any(),
        )
        return len(self.parsed.columns.line), sum(map(bool, filled_columns or ()))


def rank_formats(declared: WeblogFormats, path: str | None, lines: Sequence[bytes]) -> list[Trial]:
    """Try every known format on the first lines of a file; the format in which most can be read comes first."""
    sample = lines[:_CHOOSING]
    trials = [Trial(one, parse_lines(one, sample)) for one in _candidates(declared, path, sample)]
    return sorted(trials, key=lambda trial: trial.score, reverse=True)


def is_readable(parsed: Parsed, lines: Sequence[bytes]) -> bool:
    """Whether enough of the lines are requests in the format in which they were parsed."""
    readable = len(parsed.columns.line)
    requests = sum(1 for line in lines if line.strip()) - len(parsed.discarded)
    return readable > 0 and readable >= _LEAST_SHARE * requests


def parse_lines(log_format: LogFormat, lines: Sequence[bytes]) -> Parsed:
    """Parse lines, given without their ends, in a format."""
    content = b"".join(line + b"\n" for line in lines)
    buffer = np.frombuffer(content + bytes(PADDING), np.uint8)
    return log_format.parser().parse(buffer, len(content), AddressReader())


def _candidates(declared: WeblogFormats, path: str | None, lines: Sequence[bytes]) -> Iterator[LogFormat]:
    """Yield the formats to try: the declared ones, that of the file first; presets; and presets within other lines."""
    seen: set[str] = set()
    own = [declared.of(path)] if path is not None else []
    declared_formats = [*own, *(entry.format for entry in declared.entries)]
    presets_ = [_preset(name) for name in presets()]
    wrapped = [
        replace(inner, **around)
        for around in _wrappings(lines)
        for inner in presets_
        if inner.kind not in ("json", "w3c")
    ]
    guessed = [LogFormat(json=fields)] if (fields := _guess_json(lines)) else []
    for candidate in (*declared_formats, LogFormat(), *presets_, *guessed, *wrapped):
        if str(candidate) not in seen:
            seen.add(str(candidate))
            yield candidate


def _preset(name: str) -> LogFormat:
    """Make the format of a preset; with forwarded addresses it trusts one proxy, or no address is the visitor's."""
    preset = LogFormat(preset=name)
    return replace(preset, trusted_proxies=1) if name.startswith("forwarded") else preset


def _wrappings(lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    sample = [line for line in lines if line.strip()][:20]
    for wrapped in WRAPPINGS:
        if wrapped != "csv":
            yield {"wrapped": wrapped}
    for delimiter in _DELIMITERS:
        texts = [
            line.decode("latin-1") for line in sample if delimiter.encode() in line or line.startswith(b'"')
        ]
        try:
            width = max((len(row) for row in csv.reader(texts, delimiter=delimiter)), default=0)
        except csv.Error:
            continue
        for column in range(1, min(width, _MAX_COLUMNS) + 1):
            options = {"wrapped": "csv", "column": column, "delimiter": delimiter}
            if width > 1 or delimiter == ",":
                yield options


def _guess_json(lines: Sequence[bytes]) -> Mapping[str, Sequence[str]] | None:
    """Guess the key of each field by the usual names of keys, if lines are JSON objects."""
    keys: dict[str, str] = {}
    for line in lines[:20]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            keys |= {key: _normal(key.rpartition(".")[2]) for key in _flat(value)}
    fields: dict[str, tuple[str, ...]] = {}
    used: set[str] = set()
    for name, usual in _JSON_KEYS.items():
        for word in usual:
            found = next((key for key, normal in keys.items() if normal == word and key not in used), None)
            if found is not None:
                fields[name] = (found,)
                used.add(found)
                break
    if "request" in fields and "method" in fields:
        del fields["request"]
    try:
        return read_format({"json": fields}).json if fields else None
    except WarehouseError:
        return None


def _flat(value: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[str]:
    for key, inner in value.items():
        if isinstance(inner, dict) and depth < 4:
            yield from _flat(inner, f"{prefix}{key}.", depth + 1)
        else:
            yield prefix + key


def _normal(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", key.lower())
