"""Finds out in which format a log file is, by trying those that are known, and writes its declaration."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from warehouse.errors import WarehouseError, WrongParameters
from warehouse.files import lake
from warehouse.files.archive import unpacked
from warehouse.files.content import ContentReader
from warehouse.files.locations import Location
from warehouse.files.recognize import Recognized, recognized
from warehouse.files.rotation import MEMBER
from warehouse.settings import Settings
from warehouse.weblogs.files.landing import ignored_names, landing_folder, limits
from warehouse.weblogs.formats.declaration import (
    COMBINED,
    FormatEntry,
    LogFormat,
    WeblogFormats,
    formats_location,
    parse_formats,
    presets,
    read_format,
    read_formats,
)
from warehouse.weblogs.formats.wrapping import WRAPPINGS
from warehouse.weblogs.reader.addresses import AddressReader
from warehouse.weblogs.reader.buffers import PADDING
from warehouse.weblogs.reader.fallback import printable
from warehouse.weblogs.reader.parse import Parsed, Rejected

# Lines by which the format is chosen, and rows that are shown.
_CHOOSING, _SHOWN = 200, 10
_READ_BYTES = 4 << 20
_DELIMITERS: Final = (",", ";", "\t", "|")
_MAX_COLUMNS = 30
# Fewer lines than this share that can be read are chance.
_LEAST_SHARE = 0.5
_COMBINED_AND_MORE: Final = "nginx_main"
# Names of JSON keys, in lower case and without what is no letter or digit, by the field that they usually are.
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
class Inspection:
    """What a file is, and how its lines can be read."""

    path: str
    # What the file looks like, as 'an access log, compressed by gzip', and what to do where no format is known.
    kind: str
    hint: str
    format: LogFormat | None
    title: str
    lines: int = 0
    lines_parsed: int = 0
    # The first rows, and the first lines that cannot be read in the format.
    rows: tuple[Mapping[str, Any], ...] = ()
    faults: tuple[Mapping[str, Any], ...] = ()
    # Other formats in which as many lines can be read, of other visitors.
    alternatives: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    # The entry of weblogs.toml; None where it needs none.
    declaration: str | None = None
    is_declared: bool = False


@dataclass(frozen=True)
class _Trial:
    name: str
    format: LogFormat
    parsed: Parsed | None = field(repr=False, default=None)

    @property
    def score(self) -> tuple[int, int]:
        """Lines that can be read, and how much they say."""
        if self.parsed is None:
            return 0, 0
        extras = self.parsed.extras
        filled_columns = extras and (
            (extras.host_end > extras.host_start).any(),
            ~np.isnan(extras.request_seconds).all(),
            (extras.request_bytes >= 0).any(),
            (extras.is_tls >= 0).any(),
        )
        return len(self.parsed.columns.line), sum(map(bool, filled_columns or ()))


def inspect(settings: Settings, file: str, *, lines: int = 1000) -> Inspection:
    """Try the known formats on the first lines of a file: a path, or one below the landing folder.

    Raises:
        WrongParameters: there is no such file.
        DeclarationError: the formats that are declared cannot be read.
    """
    location, path = _locate(settings, file)
    name = path or location.name
    try:
        with _unpacked(location, settings) as (content, member):
            what = recognized(content)
            head = content.read(_READ_BYTES)
    except OSError as error:
        raise WarehouseError(
            f"{location} cannot be read: {error.strerror or error}.",
            hint="Check the permissions of the file.",
        ) from None
    if member is not None:
        name, path = f"{name}{MEMBER}{member}", path and f"{path}{MEMBER}{member}"
    every = [line.removesuffix(b"\r") for line in head.split(b"\n")]
    if not every[-1] or len(head) == _READ_BYTES:
        every.pop()
    every = every[:lines]
    if not every:
        return Inspection(name, str(what), what.kind.hint, None, "no format")
    declared = read_formats(settings)
    trials = sorted(
        (_try(trial, every[:_CHOOSING]) for trial in _candidates(declared, path, every[:_CHOOSING])),
        key=lambda trial: trial.score,
        reverse=True,
    )
    best = trials[0]
    readable, _ = best.score
    requests = sum(1 for line in every[:_CHOOSING] if line.strip()) - len(
        best.parsed.discarded if best.parsed else ()
    )
    if not readable or readable < _LEAST_SHARE * requests:
        return Inspection(name, str(what), what.kind.hint, None, "no format that is known", len(every))
    return _inspection(settings, name, path, what, declared, best, trials[1:], every)


def write_declaration(settings: Settings, inspection: Inspection) -> Location:
    """Add the entry of an inspected file to the declaration; returns where that is.

    Raises:
        WrongParameters: the file needs no declaration, or an earlier entry says which format it has.
    """
    location = formats_location(settings)
    if inspection.declaration is None:
        raise WrongParameters(
            f"There is nothing to declare for {inspection.path}.",
            hint="It is read as it is: dwh run weblogs" if inspection.format else inspection.hint,
        )
    declared = read_formats(settings) if location.is_file() else WeblogFormats()
    if any(entry.matches(inspection.path) for entry in declared.entries):
        raise WrongParameters(
            f"{location} declares another format for {inspection.path}, and its first entry that matches counts.",
            hint=f"Change that entry of {location}.",
        )
    before = location.read_bytes() if location.is_file() else b""
    content = before + (b"\n" if before else b"") + inspection.declaration.encode()
    parse_formats(content, str(location))
    if isinstance(location, Path):
        location.parent.mkdir(parents=True, exist_ok=True)
        new = location.with_name(f".{location.name}.new")
        new.write_bytes(content)
        new.replace(location)
    else:
        location.write_bytes(content)
    return location


def _locate(settings: Settings, file: str) -> tuple[Location, str | None]:
    """The file, and its path below the landing folder if it lies there."""
    landing = landing_folder(settings)
    local = Path(file)
    if local.is_file():
        if isinstance(landing, Path) and local.resolve().is_relative_to(landing.resolve()):
            return local, local.resolve().relative_to(landing.resolve()).as_posix()
        return local, None
    if not Path(file).is_absolute() and (landing / file).is_file():
        return landing / file, file
    raise WrongParameters(
        f"There is no file {file}.", hint=f"Give a path, or one below the landing folder {landing}."
    )


@contextmanager
def _unpacked(location: Location, settings: Settings) -> Iterator[tuple[ContentReader, str | None]]:
    """The content of a file; of an archive that of its first file, with its name."""
    with ExitStack() as opened:
        content = opened.enter_context(ContentReader(location))
        if recognized(content).is_archive:
            members = opened.enter_context(unpacked(location, limits(settings))).members
            first = next((one for one in members if one.location is not None), None)
            if first is not None and first.location is not None:
                yield opened.enter_context(ContentReader(first.location)), first.name
                return
        yield content, None


def _candidates(declared: WeblogFormats, path: str | None, lines: Sequence[bytes]) -> Iterator[_Trial]:
    """Formats to try: those that are declared, that of the file first; presets; and each of them within other lines."""
    seen: set[str] = set()
    own = [declared.of(path)] if path is not None else []
    known = [*own, *(entry.format for entry in declared.entries)]
    presets_ = [_preset(name) for name in presets()]
    wrapped = [
        replace(inner, **around)
        for around in _wrappings(lines)
        for inner in presets_
        if inner.kind not in ("json", "w3c")
    ]
    guessed = [LogFormat(json=fields)] if (fields := _guess_json(lines)) else []
    for one in (*known, LogFormat(), *presets_, *guessed, *wrapped):
        if str(one) not in seen:
            seen.add(str(one))
            yield _Trial(str(one), one)


def _preset(name: str) -> LogFormat:
    """A preset; of forwarded addresses alone one proxy is trusted, since else no address would be the visitor's."""
    found = LogFormat(preset=name)
    return replace(found, trusted_proxies=1) if name.startswith("forwarded") else found


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
    """Fields by the usual names of keys, where lines are JSON objects."""
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


def _try(trial: _Trial, lines: Sequence[bytes]) -> _Trial:
    return replace(trial, parsed=_parse(trial.format, lines))


def _parse(log_format: LogFormat, lines: Sequence[bytes]) -> Parsed:
    content = b"".join(line + b"\n" for line in lines)
    buffer = np.frombuffer(content + bytes(PADDING), np.uint8)
    return log_format.parser().parse(buffer, len(content), AddressReader())


def _inspection(
    settings: Settings,
    name: str,
    path: str | None,
    what: Recognized,
    declared: WeblogFormats,
    best: _Trial,
    others: Iterable[_Trial],
    lines: Sequence[bytes],
) -> Inspection:
    chosen = best.format
    parsed = _parse(chosen, lines)
    current = LogFormat() if path is None else declared.of(path)
    is_declared = str(chosen) == str(current)
    is_ignored = lake.ignored_part((path or name).split("/"), ignored_names(settings)) is not None
    entry = FormatEntry((_pattern(path or name, is_ignored=is_ignored),), chosen)
    notes = []
    if path is None:
        notes.append("The file does not lie in the landing folder: files names it as if it did.")
    if chosen.trusted_proxies:
        notes.append(
            "trusted_proxies is the number of proxies of your own before the server: correct it if it is not "
            f"{chosen.trusted_proxies}."
        )
    elif _has_forwarded_for(chosen):
        notes.append(
            "The lines have forwarded addresses. If proxies of your own stand before the server, add how many: "
            "trusted_proxies = 1."
        )
    equal = [one for one in others if one.score[0] == best.score[0] and one.parsed and best.parsed]
    if chosen.kind == "combined" and any(one.format.preset == _COMBINED_AND_MORE for one in equal):
        notes.append(
            "Another field stands behind the user agent. If that is X-Forwarded-For, and proxies stand before "
            f'the server, declare preset = "{_COMBINED_AND_MORE}" and how many: trusted_proxies = 1.'
        )
    alternatives = tuple(
        _title(one.format)
        for one in equal
        if one.parsed and best.parsed and one.parsed.visitors() != best.parsed.visitors()
    )
    return Inspection(
        name,
        str(what),
        what.kind.hint,
        chosen,
        _title(chosen),
        len(lines),
        len(parsed.columns.line),
        tuple(_rows(parsed)),
        tuple(_fault(one, parsed) for one in parsed.rejected[:_SHOWN]),
        alternatives[:5],
        tuple(notes),
        None if is_declared else _toml(entry),
        is_declared,
    )


def _has_forwarded_for(log_format: LogFormat) -> bool:
    layout = log_format.resolved
    text = (layout.apache or layout.nginx or "").lower().replace("_", "-")
    return "x-forwarded-for" in text


def _title(log_format: LogFormat) -> str:
    title = str(presets()[log_format.preset]["title"]) if log_format.preset else {
        "combined": "Combined and Common Log Format", "json": "JSON lines", "w3c": "W3C extended log format",
        "apache": "an Apache LogFormat", "nginx": "an nginx log_format",
    }[log_format.kind]  # fmt: skip
    return f"{title}, wrapped ({log_format.wrapped})" if log_format.wrapped else title


def _rows(parsed: Parsed) -> Iterator[Mapping[str, Any]]:
    columns, extras, visitors = parsed.columns, parsed.extras, parsed.visitors()

    def text(start: Any, end: Any) -> str:
        return visible(printable(parsed.texts[int(start) : int(end)].tobytes()))

    for row in range(min(len(columns.line), _SHOWN)):
        found = {
            "line": int(columns.line[row]) + 1,
            "time": datetime.fromtimestamp(int(columns.seconds[row]), UTC),
            "visitor": visitors[row],
            "user": text(columns.user_start[row], columns.user_end[row]),
            "request": text(columns.request_start[row], columns.request_end[row]),
            "status": int(columns.status[row]),
            "bytes": int(columns.size[row]),
            "referer": text(columns.referer_start[row], columns.referer_end[row]),
            "user_agent": text(columns.agent_start[row], columns.agent_end[row]),
        }
        if extras is not None:
            seconds = float(extras.request_seconds[row])
            found |= {
                "host": text(extras.host_start[row], extras.host_end[row]),
                "seconds": None if np.isnan(seconds) else round(seconds, 6),
                "request_bytes": None if extras.request_bytes[row] < 0 else int(extras.request_bytes[row]),
                "is_tls": None if extras.is_tls[row] < 0 else bool(extras.is_tls[row]),
            }
        yield found


def _fault(rejected: Rejected, parsed: Parsed) -> Mapping[str, Any]:
    text = visible(printable(parsed.lines.text(rejected.line)[:200]))
    return {
        "line": rejected.line + 1,
        "rule": rejected.rule,
        "reason": visible(rejected.reason),
        "text": text,
    }


def visible(text: str) -> str:
    """Text without characters that a terminal would obey."""
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)


def _pattern(path: str, *, is_ignored: bool) -> str:
    """Which files have the format of this one: all of its folder, or those whose names differ in digits.

    Of a name that is ignored, those that end like it: a declaration that names them has them read.
    """
    folder, _, name = path.rpartition("/")
    if is_ignored:
        return f"{folder}/*{PurePosixPath(path).suffix}".removeprefix("/")
    return f"{folder}/**" if folder else re.sub(r"\d[\d_.T:-]*\d|\d", "*", name)


def _toml(entry: FormatEntry) -> str:
    chosen = entry.format
    options = {"preset": COMBINED} if chosen.preset is None and chosen.kind == COMBINED else {}
    options |= {name: value for name, value in chosen.options.items() if name != "json"}
    lines = ["[[formats]]", f"files = {_quoted(entry.files[0])}"]
    lines += [f"{name} = {_value(value)}" for name, value in options.items()]
    if chosen.json is not None:
        lines.append("[formats.json]")
        lines += [f"{name} = {_value(places)}" for name, places in chosen.json.items()]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    """A value in TOML; a list of one as this one."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return _value(value[0]) if len(value) == 1 else f"[{', '.join(map(_value, value))}]"
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    """A text in TOML; one with quotes as it is, if it can be."""
    is_plain = text.isprintable() and "'" not in text
    return f"'{text}'" if '"' in text and is_plain else json.dumps(text)
