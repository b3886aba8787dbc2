"""Choose the path patterns of a declaration: the widest ones by which no other file of the lake would be misread."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final, TypeAlias

from warehouse.errors import WarehouseError
from warehouse.files import lake
from warehouse.files.archive import Limits, unpacked
from warehouse.files.content import ContentReader
from warehouse.files.lake import Landing
from warehouse.files.locations import Location
from warehouse.files.recognize import recognized
from warehouse.files.rotation import MEMBER
from warehouse.settings import Settings
from warehouse.weblogs.files.landing import ignored_names, landing_folder
from warehouse.weblogs.formats.declaration import FormatEntry, LogFormat, WeblogFormats
from warehouse.weblogs.inspect.candidates import is_readable, parse_lines, rank_formats

# How many of the other files that a pattern matches are looked at, and how many lines of each.
_LOOKED_AT: Final = 200
_LINES: Final = 100
# Archives that unpack to more are not looked into.
_UNPACKED: Final = Limits(total_bytes=256 << 20)
_DIGITS = re.compile(r"\d[\d_.T:-]*\d|\d")
_WORD = re.compile(r"[^\W\d_]+(?:[_-][^\W\d_]+)*")
_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.\w+)$", re.IGNORECASE)
# A path, and the first lines of that file.
_Sample: TypeAlias = tuple[str, list[bytes]]


@dataclass(frozen=True)
class Choice:
    """Patterns of a declaration, and the files that it would misread: none, unless every pattern misreads some."""

    patterns: tuple[str, ...]
    misread: tuple[str, ...] = ()
    # Files that a wider pattern would have misread.
    avoided: tuple[str, ...] = ()
    # Number of files that the pattern matches and that were not looked at.
    not_looked_at: int = 0


def choose_patterns(
    settings: Settings, declared: WeblogFormats, path: str, chosen: LogFormat, *, is_landed: bool
) -> Choice:
    """Choose the widest patterns for a file in the format `chosen` by which no other file is misread.

    `path` is below the landing folder, or, without `is_landed`, the name of a file that lies elsewhere.
    """
    is_ignored = lake.ignored_part(path.split("/"), ignored_names(settings)) is not None
    neighbours = _Neighbours(settings, declared, path if is_landed else None)
    avoided: tuple[str, ...] = ()
    for patterns in _patterns(path, is_ignored=is_ignored):
        misread, not_looked_at = neighbours.misread(FormatEntry(patterns, chosen))
        if not misread:
            return Choice(patterns, (), avoided, not_looked_at)
        avoided = tuple(misread)
    return Choice(patterns, avoided)


def _patterns(path: str, *, is_ignored: bool) -> Iterator[tuple[str, ...]]:
    """Yield patterns for a file, widest first: its folder, names that begin alike or differ in digits, its name.

    They also match what rotation appends to the name. Those for a name that is ignored end with its suffix, since only
    then such a file is read.
    """
    folder, _, name = path.rpartition("/")
    varying = _DIGITS.sub("*", name)
    if is_ignored:
        suffix = PurePosixPath(name).suffix
        for stem in (f"*{suffix}", varying if varying.endswith(suffix) else name, name):
            yield f"{folder}/{stem}".removeprefix("/"), f"{folder}/{stem}.*".removeprefix("/")
        yield (f"{folder}/{name}",)
        return
    if folder:
        yield (f"{folder}/**",)
        yield (f"{folder}/*",)
        if word := _WORD.match(name):
            yield (f"{folder}/{word[0]}*",)
    else:
        # Without a slash, it matches in any folder; those below, which begin with one, match only at the top.
        yield (f"{varying}*".replace("**", "*"),)
    yield (f"{folder}/{varying}*".replace("**", "*"),)
    yield (f"{folder}/{name}*",)
    yield (f"{folder}/{name}",)


@dataclass
class _Neighbours:
    """The other files of the lake, and what a declaration would make of them."""

    settings: Settings
    declared: WeblogFormats
    own_path: str | None
    _samples: dict[str, list[_Sample]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        landing = landing_folder(self.settings)
        found: Landing = lake.discover(landing, ignored_names(self.settings), self.declared.names)
        self._files: dict[str, tuple[Location, bool]] = {
            file.path: (file.location, False) for file in found.files
        } | {
            # Files of an ignored folder are never read, whatever is declared.
            one.path: (landing / one.path, True)
            for one in found.unread
            if one.status == "ignored" and not one.path.endswith("/")
        }

    def misread(self, entry: FormatEntry) -> tuple[list[str], int]:
        """Find files that an entry at the end of the declaration would misread; counts those not looked at."""
        matched = [
            path
            for path, (_, is_ignored) in self._files.items()
            if (entry.names(path) if is_ignored else self._may_match(entry, path)) and path != self.own_path
        ]
        chosen = _spread(matched)[:_LOOKED_AT]
        misread = [
            member
            for path in chosen
            for member, lines in self._sampled(path)
            if member != self.own_path
            and entry.matches(member)
            and not self.declared.declares(member)
            and self._is_misread(lines, entry.format, is_ignored=self._files[path][1])
        ]
        return sorted(misread), len(matched) - len(chosen)

    def _may_match(self, entry: FormatEntry, path: str) -> bool:
        # The names of an archive's files are not known before it is unpacked.
        return bool(_ARCHIVE.search(path)) or (entry.matches(path) and not self.declared.declares(path))

    def _is_misread(self, lines: Sequence[bytes], chosen: LogFormat, *, is_ignored: bool) -> bool:
        if not any(line.strip() for line in lines):
            return False
        new = parse_lines(chosen, lines)
        if is_ignored:
            return not is_readable(new, lines)
        now = parse_lines(LogFormat(), lines)
        if len(now.columns.line) > len(new.columns.line):
            return True
        if len(now.columns.line) == len(new.columns.line) > 0 and now.visitors() != new.visitors():
            return True
        # Lines that no format can read are not misread by this one.
        return not is_readable(new, lines) and is_readable(
            rank_formats(self.declared, None, lines)[0].parsed, lines
        )

    def _sampled(self, path: str) -> list[_Sample]:
        if path not in self._samples:
            self._samples[path] = _sample(path, self._files[path][0])
        return self._samples[path]


def _sample(path: str, location: Location) -> list[_Sample]:
    """Read the first lines of a file, or of each file of an archive; none if it cannot be read."""
    try:
        with ContentReader(location) as content:
            if not recognized(content).is_archive:
                return [(path, _first_lines(content))]
        samples = []
        with unpacked(location, _UNPACKED) as archive:
            for member in archive.members:
                if member.location is not None:
                    with ContentReader(member.location) as content:
                        samples.append((f"{path}{MEMBER}{member.name}", _first_lines(content)))
        return samples
    except (OSError, WarehouseError):
        return []


def _first_lines(content: ContentReader) -> list[bytes]:
    lines = recognized(content).head.lstrip(b"\0").split(b"\n")
    return [line.removesuffix(b"\r") for line in (lines[:-1] or lines)[:_LINES]]


def _spread(paths: Sequence[str]) -> list[str]:
    """Order paths so that different kinds come first: of names that differ in digits only, the first, then the rest."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for path in sorted(paths):
        kinds[_DIGITS.sub("0", path)].append(path)
    ranked = [(rank, path) for paths_of_kind in kinds.values() for rank, path in enumerate(paths_of_kind)]
    return [path for _, path in sorted(ranked)]
