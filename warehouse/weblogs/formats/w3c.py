"""Parse the W3C extended log format (https://www.w3.org/TR/WD-logfile.html) of IIS: #Fields names the fields."""

import re
from collections.abc import Callable
from datetime import UTC, tzinfo
from typing import Final
from urllib.parse import unquote_to_bytes

from warehouse.weblogs.formats.records import Record, RecordMaker
from warehouse.weblogs.formats.times import any_time
from warehouse.weblogs.reader.fallback import BOM, Fault

DIRECTIVES: Final = (
    b"#Version:", b"#Fields:", b"#Software:", b"#Date:", b"#Start-Date:", b"#End-Date:", b"#Remark:", b"#GMT-Offset:",
)  # fmt: skip
_FIELDS: Final = {
    "c-ip": "address", "x-forwarded-for": "forwarded_for", "cs(x-forwarded-for)": "forwarded_for",
    "cs-username": "user", "cs-method": "method", "cs-uri": "target", "cs-uri-stem": "path", "cs-uri-query": "query",
    "cs-version": "protocol", "cs-protocol-version": "protocol", "sc-status": "status", "sc-bytes": "response_bytes",
    "cs-bytes": "request_bytes", "cs-host": "host", "cs(host)": "host", "x-host-header": "host",
    "cs(referer)": "referer", "cs(referrer)": "referer", "cs(user-agent)": "user_agent", "time-taken": "seconds",
    "cs-protocol": "tls", "ssl-protocol": "tls",
}  # fmt: skip
# time-taken is in seconds by the standard, but in milliseconds in logs of IIS and of what imitates it.
_IN_MILLISECONDS: Final = b"microsoft"
_TOKEN = re.compile(rb'"(?:[^"]|"")*+"|[^\s"]\S*+')


class W3cParser:
    """Parses lines by the #Fields line that was seen last."""

    def __init__(self, maker: Callable[..., RecordMaker], zone: tzinfo | None) -> None:
        self._new_maker = maker
        self._parse_time = any_time(zone or UTC)
        self._names: list[str] = []
        self._known: list[tuple[int, str]] = []
        self._maker: RecordMaker | None = None
        self._date = b""
        self._is_in_milliseconds = False
        self._missing = ""

    def parse(self, line: bytes) -> Record | Fault | None:
        """Parse a line; returns its record, or why it has none; None for a directive."""
        line = line.removeprefix(BOM)
        if line.startswith(DIRECTIVES):
            self.direct(line)
            return None
        if self._maker is None:
            if not line.strip():
                return Fault("malformed_line", "empty line")
            return Fault("malformed_line", self._missing or "no #Fields line stands before it")
        values = self._split(line)
        if len(values) != len(self._names):
            if not line.strip():
                return Fault("malformed_line", "empty line")
            count = len(self._names)
            return Fault("malformed_line", f"{len(values)} fields, where #Fields names {count}")
        fields = {name: values[place] for place, name in self._known}
        date = fields.get("date", self._date)
        fields["time"] = date + b"T" + fields.get("time", b"")
        # IIS writes + for a space.
        if b"\t" not in line:
            agent = fields.get("user_agent", b"")
            fields["user_agent"] = agent if b" " in agent else agent.replace(b"+", b" ")
        elif b"%" in line:
            for name in ("user_agent", "referer"):
                fields[name] = unquote_to_bytes(fields.get(name, b""))
        return self._maker.make(fields)

    def direct(self, line: bytes) -> None:
        """Apply a directive, a line that begins with #."""
        name, _, value = line.partition(b":")
        if name == b"#Software":
            self._is_in_milliseconds = _IN_MILLISECONDS in value.lower()
        elif name == b"#Date":
            self._date = value.split()[0] if value.split() else b""
        elif name == b"#Fields":
            self._names = [one.decode("utf-8", "replace").lower() for one in value.split()]
        if name in (b"#Software", b"#Fields") and self._names:
            self._choose()

    def _choose(self) -> None:
        known: dict[str, int] = {}
        for place, source in enumerate(self._names):
            name = source if source in ("date", "time") else _FIELDS.get(source)
            if name == "seconds" and self._is_in_milliseconds:
                name = "milliseconds"
            if name is not None and name not in known:
                known[name] = place
        self._known = [(place, name) for name, place in known.items()]
        maker = self._new_maker(frozenset(known) - {"date"}, self._parse_time)
        self._missing = ""
        if maker.missing:
            self._missing = f"#Fields does not name what is needed: {', '.join(maker.missing)}"
        self._maker = None if maker.missing else maker

    def _split(self, line: bytes) -> list[bytes]:
        if b"\t" in line:
            return line.split(b"\t")
        values = line.split()
        if b'"' in line:
            if len(values) != len(self._names) and line.count(b'"') % 2 == 0:
                values = [match[0] for match in _TOKEN.finditer(line)]
            values = [
                value[1:-1].replace(b'""', b'"')
                if len(value) > 1 and value[:1] == value[-1:] == b'"'
                else value
                for value in values
            ]
        return values
