"""Read weblogs.toml, which declares the formats of the log files in the lake."""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from functools import cache, cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from warehouse.db.time_zone import declared_zone
from warehouse.errors import DeclarationError
from warehouse.files.locations import Location, location_of
from warehouse.settings import Settings
from warehouse.weblogs.formats import apache, nginx
from warehouse.weblogs.formats.blocks import (
    BlockParser,
    CombinedLines,
    CombinedParser,
    DeclaredParser,
    LineParser,
)
from warehouse.weblogs.formats.json_lines import JsonParser
from warehouse.weblogs.formats.pattern import PatternParser
from warehouse.weblogs.formats.records import FIELDS, RecordMaker, TimeParser
from warehouse.weblogs.formats.times import any_time
from warehouse.weblogs.formats.w3c import W3cParser
from warehouse.weblogs.formats.wrapping import WRAPPINGS, unwrapper
from warehouse.weblogs.reader.addresses import AddressReader
from warehouse.weblogs.reader.buffers import PADDING

FILE_NAME: Final = "weblogs.toml"
PRESETS_FILE: Final = Path(__file__).with_name("presets.toml")
COMBINED: Final = "combined"
KINDS: Final = ("apache", "nginx", "json", "w3c")
_OPTIONS: Final = ("preset", *KINDS, "trusted_proxies", "time_zone", "wrapped", "column", "delimiter")
_HINT: Final = "docs/web-logs.md shows declarations; `dwh weblogs inspect FILE` writes one."


@dataclass(frozen=True)
class LogFormat:
    """A declared format: a preset, an Apache or nginx format string, JSON keys, or W3C; and how lines are wrapped."""

    preset: str | None = None
    apache: str | None = None
    nginx: str | None = None
    json: Mapping[str, Sequence[str]] | None = None
    w3c: bool = False
    trusted_proxies: int | None = None
    time_zone: str | None = None
    wrapped: str | None = None
    column: int = 1
    delimiter: str = ","

    @property
    def kind(self) -> str:
        """combined, apache, nginx, json or w3c."""
        return next((kind for kind in KINDS if getattr(self.resolved, kind)), COMBINED)

    @cached_property
    def resolved(self) -> "LogFormat":
        """The format with the preset's layout in place of its name."""
        if self.preset is None:
            return self
        layout = {name: value for name, value in presets()[self.preset].items() if name != "title"}
        return LogFormat(**{**self.options, "preset": None, **_normalized(layout)})

    @property
    def options(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        default = LogFormat.__dataclass_fields__
        return {name: value for name in _OPTIONS if (value := getattr(self, name)) != default[name].default}

    def __str__(self) -> str:
        """The preset or kind, and a short hash of the options if there are others."""
        name = self.preset or self.kind
        if self.options in ({}, {"preset": name}, {"w3c": True}):
            return name
        content = json.dumps(self.options, sort_keys=True).encode()
        return f"{name} {hashlib.sha256(content).hexdigest()[:8]}"

    def parser(self) -> BlockParser:
        """A parser for one file.

        Raises:
            DeclarationError: the declared layout cannot be read, or has not all fields that a request needs.
        """
        lines = self._lines()
        if self.wrapped is not None:
            return DeclaredParser(
                lines or CombinedLines(), unwrapper(self.wrapped, self.column, self.delimiter)
            )
        return CombinedParser() if lines is None else DeclaredParser(lines)

    def seconds_of(self, text: bytes) -> Sequence[int]:
        """Parse the times of a text's lines to seconds since 1970-01-01 UTC; its first and last line may be cut off."""
        buffer = np.frombuffer(text + b"\n" + bytes(PADDING), np.uint8)
        parsed = self.parser().parse(buffer, len(text) + 1, AddressReader())
        seconds: list[int] = parsed.columns.seconds.tolist()
        return seconds

    def _lines(self) -> LineParser | None:
        """The parser of its lines; None for the combined format."""
        layout, zone = self.resolved, self._zone()
        if layout.apache is not None:
            tokens, parse_time = apache.tokens_of(layout.apache, zone)
            return PatternParser(tokens, partial(self._maker, parse_time=parse_time), layout.apache)
        if layout.nginx is not None:
            tokens, unescape = nginx.tokens_of(layout.nginx)
            maker = partial(self._maker, parse_time=any_time(zone))
            return PatternParser(tokens, maker, layout.nginx, unescape)
        if layout.json is not None:
            return JsonParser(layout.json, partial(self._maker, parse_time=any_time(zone)))
        if layout.w3c:
            return W3cParser(self._w3c_maker, zone)
        return None

    def _zone(self) -> tzinfo | None:
        return None if self.time_zone is None else declared_zone(self.time_zone)

    def _w3c_maker(self, names: frozenset[str], parse_time: TimeParser) -> RecordMaker:
        return RecordMaker(names, parse_time, self.trusted_proxies)

    def _maker(self, names: frozenset[str], parse_time: TimeParser) -> RecordMaker:
        maker = RecordMaker(names, parse_time, self.trusted_proxies)
        if maker.missing:
            raise DeclarationError(
                f"The format has no {', no '.join(maker.missing)}.",
                hint="A request needs a time, an address, a request and a status: have the server log them.",
            )
        if "address" not in names and not self.trusted_proxies:
            raise DeclarationError(
                "The format has forwarded addresses alone, and anybody may send those.",
                hint="Declare how many proxies stand before the server, as trusted_proxies = 1. Each adds the address "
                "that it was called from to the end of the list.",
            )
        return maker


@dataclass(frozen=True)
class FormatEntry:
    """An entry of weblogs.toml: patterns of paths below the landing folder, and the format of these files."""

    files: tuple[str, ...]
    format: LogFormat

    def matches(self, path: str) -> bool:
        """Whether the entry is for the file of this path."""
        return any(_glob(pattern).fullmatch(path) for pattern in self.files)

    def names(self, path: str) -> bool:
        """Whether the entry is for the file of this path by a pattern that ends with the file's suffix."""
        suffix = PurePosixPath(path).suffix
        return any(
            suffix and pattern.endswith(suffix) and _glob(pattern).fullmatch(path) for pattern in self.files
        )


@dataclass(frozen=True)
class WeblogFormats:
    """All entries, in order. The first that matches a path gives its format; the default is the combined format."""

    entries: tuple[FormatEntry, ...] = ()
    location: Location | None = field(default=None, compare=False)

    def of(self, path: str) -> LogFormat:
        """The format of a file, by its path below the landing folder."""
        return next((entry.format for entry in self.entries if entry.matches(path)), LogFormat())

    def declares(self, path: str) -> bool:
        """Whether an entry says which format the file has."""
        return any(entry.matches(path) for entry in self.entries)

    def names(self, path: str) -> bool:
        """Whether an entry names the file by the end of its name: then it is read, even if such names are ignored."""
        return any(entry.names(path) for entry in self.entries)


def formats_location(settings: Settings) -> Location:
    """Where formats are declared: DWH_WEBLOG_FORMATS, else weblogs.toml in the lake."""
    return settings.weblog_formats or location_of(settings.lake) / FILE_NAME


def read_formats(settings: Settings) -> WeblogFormats:
    """Read the declared formats.

    Raises:
        DeclarationError: the declaration cannot be used, or is missing where DWH_WEBLOG_FORMATS says that it is.
    """
    location = formats_location(settings)
    if settings.weblog_formats is None and not location.is_file():
        return WeblogFormats(location=location)
    try:
        content = location.read_bytes()
    except OSError as error:
        raise DeclarationError(
            f"{location} cannot be read: {error.strerror or error}.",
            hint="It declares the formats of web logs: correct DWH_WEBLOG_FORMATS, or unset it.",
        ) from None
    declared = parse_formats(content, str(location), location)
    lake = location_of(settings.lake)
    for number, entry in enumerate(declared.entries, start=1):
        for pattern in entry.files:
            if isinstance(lake, Path) and pattern.startswith(f"{lake.absolute()}/"):
                raise DeclarationError(
                    f"{location}, format {number}: files = {pattern!r} matches no file.",
                    hint='Paths are those below the landing folder, as "cdn/**".',
                )
    return declared


def parse_formats(content: bytes, name: str, location: Location | None = None) -> WeblogFormats:
    """Parse a declaration, and make a parser of each entry to check it.

    Raises:
        DeclarationError: the declaration cannot be used.
    """
    try:
        declared = tomllib.loads(content.decode("utf-8-sig"))
    except (ValueError, tomllib.TOMLDecodeError) as error:
        raise DeclarationError(f"{name} is no TOML: {error}.", hint=_HINT) from None
    entries = declared.get("formats", [])
    if unknown := sorted(set(declared) - {"formats"}):
        raise DeclarationError(f"{name}: '{unknown[0]}' is not known.", hint=_HINT)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DeclarationError(f"{name}: formats are declared as [[formats]].", hint=_HINT)
    read = []
    for number, entry in enumerate(entries, start=1):
        try:
            read.append(read_entry(entry))
            _check_reach(read[-1], read[:-1])
        except DeclarationError as error:
            raise DeclarationError(f"{name}, format {number}: {error.what}", hint=error.hint) from None
    return WeblogFormats(tuple(read), location)


def read_entry(entry: Mapping[str, Any]) -> FormatEntry:
    """Read an entry of a declaration.

    Raises:
        DeclarationError: it cannot be used.
    """
    options = dict(entry)
    files = options.pop("files", None)
    files = [files] if isinstance(files, str) else files
    if not files or not isinstance(files, list) or not all(isinstance(one, str) and one for one in files):
        raise DeclarationError(
            'files is missing: the paths below the landing folder, as files = "cdn/**".', hint=_HINT
        )
    for pattern in files:
        _check_pattern(pattern)
    return FormatEntry(tuple(files), read_format(options))


def _check_pattern(pattern: str) -> None:
    """Refuse a pattern that matches no path."""
    parts = pattern.removeprefix("/").removesuffix("/").split("/")
    wrong = next((part for part in parts if part in ("", ".", "..")), None)
    if wrong is not None or pattern.strip() != pattern or "://" in pattern:
        raise DeclarationError(
            f"files = {pattern!r} matches no file: it is no path below the landing folder.",
            hint='As "cdn/**", "cdn/*.log" or "*.log"; without empty parts, ".", ".." and blanks around it.',
        )


def _check_reach(entry: FormatEntry, earlier: Sequence[FormatEntry]) -> None:
    """Refuse an entry with a pattern whose files all match an earlier entry."""
    for pattern in entry.files:
        number = next((n for n, one in enumerate(earlier, start=1) if _covers(one, pattern)), None)
        if number is not None:
            raise DeclarationError(
                f"files = {pattern!r} never counts: format {number} is that of all these files.",
                hint=f"The first one counts: move it before format {number}, or remove it.",
            )


def _covers(entry: FormatEntry, pattern: str) -> bool:
    """Whether an entry matches every path that a pattern does; tried with names that no pattern contains."""
    wildcards = re.split(r"(\*\*/|\*\*|\*|\?)", _anchored(pattern))
    names = {"*": "\1\1\1", "?": "\1"}
    return all(
        entry.matches(
            "".join({**names, "**/": folders, "**": f"{folders}\1"}.get(one, one) for one in wildcards)
        )
        for folders in ("", "\1/\1/\1/")
    )


def read_format(options: Mapping[str, Any]) -> LogFormat:
    """Make a format from its options, and a parser of it to check it.

    Raises:
        DeclarationError: it cannot be used.
    """
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise DeclarationError(
            f"'{unknown[0]}' is no option of a format.", hint=f"Options: {', '.join(_OPTIONS)}."
        )
    kinds = [name for name in ("preset", *KINDS) if options.get(name)]
    if len(kinds) != 1:
        raise DeclarationError(
            f"A format is one of preset, {', '.join(KINDS)}; here are {len(kinds)}.", hint=_HINT
        )
    for name, value in options.items():
        expected = _TYPES.get(name, str)
        # In Python, bool is a subclass of int.
        is_right = isinstance(value, expected) and not (expected is int and isinstance(value, bool))
        if not is_right or (isinstance(value, int) and not 0 <= value <= _MAX_NUMBER):
            raise DeclarationError(f"{name} = {value!r} is no {_WORDS[expected]}.", hint=_HINT)
    if (preset := options.get("preset")) is not None and preset not in presets():
        raise DeclarationError(f"There is no preset '{preset}'.", hint=f"Presets: {', '.join(presets())}.")
    if (wrapped := options.get("wrapped")) is not None and wrapped not in WRAPPINGS:
        raise DeclarationError(
            f"Lines are not wrapped as '{wrapped}'.", hint=f"One of: {', '.join(WRAPPINGS)}."
        )
    if len(options.get("delimiter", ",")) != 1 or options.get("column", 1) < 1:
        raise DeclarationError("delimiter is one character, and column counts from 1.", hint=_HINT)
    if (zone := options.get("time_zone")) is not None:
        declared_zone(zone)
    log_format = LogFormat(**_normalized(options))
    log_format.parser()
    return log_format


_TYPES: Final[dict[str, type]] = {"trusted_proxies": int, "column": int, "w3c": bool, "json": dict}
_MAX_NUMBER: Final = 1000
_WORDS: Final[dict[type, str]] = {
    int: "number from 0 to 1000",
    bool: "true or false",
    dict: "table",
    str: "text",
}


def _normalized(options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the JSON keys of each field to a tuple.

    Raises:
        DeclarationError: a field is not known, or has no key.
    """
    options = dict(options)
    if "json" not in options:
        return options
    fields = {}
    for name, places in options["json"].items():
        if name not in FIELDS:
            raise DeclarationError(f"json.{name} is no field.", hint=f"Fields: {', '.join(FIELDS)}.")
        places = [places] if isinstance(places, str) else places
        if (
            not isinstance(places, list | tuple)
            or not places
            or not all(isinstance(one, str) for one in places)
        ):
            raise DeclarationError(f"json.{name} is no place, and no list of them.", hint=_HINT)
        fields[name] = tuple(places)
    return {**options, "json": fields}


@cache
def presets() -> Mapping[str, Mapping[str, Any]]:
    """Layouts by name, each with its title."""
    return tomllib.loads(PRESETS_FILE.read_text())


@cache
def _glob(pattern: str) -> re.Pattern[str]:
    """Compile a pattern of paths: * matches within a name, ** across folders; a name alone matches in any folder."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", _anchored(pattern))
    meanings = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meanings.get(piece, re.escape(piece)) for piece in pieces), re.DOTALL)


def _anchored(pattern: str) -> str:
    """Complete a pattern to whole paths: without a slash it is a name in any folder, with one at its end a folder."""
    if "/" not in pattern:
        pattern = f"**/{pattern}"
    if pattern.endswith("/"):
        pattern += "**"
    return pattern.removeprefix("/")
