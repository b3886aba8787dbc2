"""Detect the format of a log file by trying all known formats on its first lines."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from warehouse.errors import WarehouseError, WrongParameters, visible
from warehouse.files.archive import unpacked
from warehouse.files.content import ContentReader
from warehouse.files.kinds import INSPECT, MOVE
from warehouse.files.locations import Location
from warehouse.files.recognize import Recognized, recognized
from warehouse.files.rotation import MEMBER
from warehouse.settings import Settings
from warehouse.weblogs.files.landing import landing_folder, limits
from warehouse.weblogs.formats.declaration import FormatEntry, LogFormat, WeblogFormats, presets, read_formats
from warehouse.weblogs.inspect.candidates import Trial, is_readable, parse_lines, rank_formats
from warehouse.weblogs.inspect.entry import format_entry
from warehouse.weblogs.inspect.pattern import Choice, choose_patterns
from warehouse.weblogs.reader.fallback import printable
from warehouse.weblogs.reader.parse import Parsed, Rejected

# Number of rows that are shown.
_SHOWN = 10
_READ_BYTES = 4 << 20
# Number of paths that a message names.
_NAMED = 5
_COMBINED_AND_MORE: Final = "nginx_main"
# Hint for a file whose usual hint is to inspect it, if inspecting it has found no format.
_DECLARE: Final = (
    "If its lines are requests, declare their format in weblogs.toml (docs/web-logs.md, 'Declare a format'). Else: "
    + MOVE[0].lower()
    + MOVE[1:]
)


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
    # Other formats that read as many lines, but find other visitors in them.
    alternatives: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    # The entry of weblogs.toml; None where it needs none.
    declaration: str | None = None
    is_declared: bool = False
    # Files of other formats that the declaration would cover as well: then it is not written.
    misread: tuple[str, ...] = ()


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
            f"{visible(str(location))} cannot be read: {error.strerror or error}.",
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
    best, *others = rank_formats(declared, path, every)
    if not is_readable(best.parsed, every[: len(best.parsed.lines)]):
        hint = _DECLARE if what.kind.hint == INSPECT else what.kind.hint
        return Inspection(name, str(what), hint, None, "no format that is known", len(every))
    return _inspection(settings, name, path, what, declared, best, others, every)


def _locate(settings: Settings, file: str) -> tuple[Location, str | None]:
    """Find the file, and its path below the landing folder if it is in there."""
    landing = landing_folder(settings)
    local = Path(file)
    if local.is_file():
        if isinstance(landing, Path) and local.resolve().is_relative_to(landing.resolve()):
            return local, local.resolve().relative_to(landing.resolve()).as_posix()
        return local, None
    if not Path(file).is_absolute() and (landing / file).is_file():
        return landing / file, file
    raise WrongParameters(
        f"There is no file {visible(file)}.", hint=f"Give a path, or one below the landing folder {landing}."
    )


@contextmanager
def _unpacked(location: Location, settings: Settings) -> Iterator[tuple[ContentReader, str | None]]:
    """Open a file or, if it is an archive, its first file; yields its reader, and the name within the archive."""
    with ExitStack() as opened:
        content = opened.enter_context(ContentReader(location))
        if recognized(content).is_archive:
            members = opened.enter_context(unpacked(location, limits(settings))).members
            first = next((one for one in members if one.location is not None), None)
            if first is not None and first.location is not None:
                yield opened.enter_context(ContentReader(first.location)), first.name
                return
        yield content, None


def _inspection(
    settings: Settings,
    name: str,
    path: str | None,
    what: Recognized,
    declared: WeblogFormats,
    best: Trial,
    others: Iterable[Trial],
    lines: Sequence[bytes],
) -> Inspection:
    chosen = best.format
    parsed = parse_lines(chosen, lines)
    current = LogFormat() if path is None else declared.of(path)
    is_declared = str(chosen) == str(current)
    notes: list[str] = []
    choice = None
    if not is_declared:
        choice = choose_patterns(settings, declared, path or name, chosen, is_landed=path is not None)
        notes += _notes_on(choice)
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
    equal = [one for one in others if one.score[0] == best.score[0]]
    if chosen.kind == "combined" and any(one.format.preset == _COMBINED_AND_MORE for one in equal):
        notes.append(
            "Another field stands behind the user agent. If that is X-Forwarded-For, and proxies stand before "
            f'the server, declare preset = "{_COMBINED_AND_MORE}" and how many: trusted_proxies = 1.'
        )
    alternatives = tuple(
        _title(one.format) for one in equal if one.parsed.visitors() != best.parsed.visitors()
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
        None if choice is None else format_entry(FormatEntry(choice.patterns, chosen)),
        is_declared,
        () if choice is None else choice.misread,
    )


def _notes_on(choice: Choice) -> Iterator[str]:
    if choice.avoided and not choice.misread:
        yield (
            "The declaration is for files named like this one alone, since others beside it have another format: "
            f"{shortened(choice.avoided)}."
        )
    if choice.not_looked_at:
        yield f"{choice.not_looked_at:,} more files that the pattern matches were not looked at."


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


def shortened(paths: Sequence[str]) -> str:
    """List the first paths, and how many more there are."""
    more = f" and {len(paths) - _NAMED:,} more" if len(paths) > _NAMED else ""
    return visible(", ".join(paths[:_NAMED])) + more
