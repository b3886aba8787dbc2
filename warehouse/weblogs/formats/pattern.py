"""Parse lines of a fixed layout of literals and fields, as Apache's LogFormat and nginx's log_format describe it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from warehouse.errors import DeclarationError
from warehouse.weblogs.formats.records import Record, RecordMaker
from warehouse.weblogs.reader.fallback import Fault

# A line can be a megabyte of anything: possessive quantifiers keep every pattern from backtracking.
_QUOTED: Final = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
# Servers join the values of several tries: 10.0.0.1:80, 10.0.0.2:80.
_LISTED: Final = rb"[^ ,\t]*+(?:,[ ]?[^ ,\t]*+)*+"
_REQUEST: Final = rb"(?:-|[^ \t]++ [^ \t]++(?: [^ \t]++)?+)"
_NAMES_WITH_LISTS: Final = (None, "forwarded_for")


@dataclass(frozen=True)
class Field:
    """A field of a line: its name among the fields of records, or None where it is not needed.

    Of two fields with one name, that of the lower rank counts. `pattern` is a regular expression of the field's values.
    """

    name: str | None
    source: str
    rank: int = 0
    pattern: bytes | None = None


Token = str | Field


def time_part(number: int) -> str:
    """Name the field with a part of the request's time, which may be date, time of day or zone."""
    return "time" if number == 0 else f"time {number}"


class PatternParser:
    """Parses lines that consist of literals and fields."""

    def __init__(
        self,
        tokens: Sequence[Token],
        maker: Callable[[frozenset[str]], RecordMaker],
        declared: str,
        unescape: Callable[[bytes], bytes] | None = None,
    ) -> None:
        tokens = _without_duplicates(_joined_targets(tokens))
        names = [token.name for token in tokens if isinstance(token, Field) and token.name]
        self._maker = maker(frozenset(names))
        self._names = tuple(names)
        self._time_parts = [name for name in map(time_part, range(len(names))) if name in names]
        self._unescape = unescape
        self._pattern = re.compile(_pattern(tokens, declared), re.DOTALL)

    def parse(self, line: bytes) -> Record | Fault:
        """Parse a line; returns its record, or why it has none."""
        match = self._pattern.fullmatch(line)
        if match is None:
            if not line.strip():
                return Fault("malformed_line", "empty line")
            return Fault("malformed_line", "not laid out as its format declares")
        fields = dict(zip(self._names, match.groups(), strict=True))
        if self._unescape is not None and b"\\" in line:
            fields = {name: self._unescape(value) for name, value in fields.items()}
        if len(self._time_parts) > 1:
            fields["time"] = b"\n".join(fields[name] for name in self._time_parts)
        return self._maker.make(fields)


def _joined_targets(tokens: Sequence[Token]) -> list[Token]:
    """Join a path and a query with nothing between them, as in %U%q and $uri$is_args$args, to one target."""
    joined: list[Token] = []
    for token in tokens:
        before = joined[-1] if joined else ""
        if isinstance(token, Field) and isinstance(before, Field) and before.name in ("path", "target"):
            joined[-1] = Field("target", before.source + token.source, rank=1)
        else:
            joined.append(token)
    return joined


def _without_duplicates(tokens: Sequence[Token]) -> list[Token]:
    best: dict[str, Field] = {}
    for token in tokens:
        if isinstance(token, Field) and token.name and token.rank < best.get(token.name, _LAST).rank:
            best[token.name] = token
    chosen = list(map(id, best.values()))
    return [
        Field(None, token.source)
        if isinstance(token, Field) and token.name and id(token) not in chosen
        else token
        for token in tokens
    ]


_LAST = Field(None, "", rank=1 << 30)


def _pattern(tokens: Sequence[Token], declared: str) -> bytes:
    """Build the regular expression of a line, with a group for each field that has a name.

    Raises:
        DeclarationError: nothing stands between two fields.
    """
    pattern = b""
    for place, token in enumerate(tokens):
        if isinstance(token, str):
            pattern += re.escape(token.encode())
            continue
        before = tokens[place - 1] if place else ""
        after = tokens[place + 1] if place + 1 < len(tokens) else ""
        if isinstance(after, Field):
            raise DeclarationError(
                f"Nothing stands between {token.source} and {after.source} in '{declared}'.",
                hint="Where one ends and the other begins cannot be told: have the server log a blank between them.",
            )
        piece = token.pattern or _piece(token.name, before if isinstance(before, str) else "", after)
        pattern += b"(%s)" % piece if token.name else b"(?:%s)" % piece
    return pattern + rb"[ \t]*+"


def _piece(name: str | None, before: str, after: str) -> bytes:
    """Return the regular expression of a field between two literals."""
    if before.endswith('"') and after.startswith('"'):
        return _QUOTED
    if not after:
        return rb".*"
    if name == "request" and after[0] in " \t":
        return _REQUEST
    if name == "user" and after.startswith(" ") and after.strip():
        # Names of users may have blanks.
        return rb"(?:(?!%s).)*+" % re.escape(after.encode())
    if name in _NAMES_WITH_LISTS and after[0] in " \t":
        return _LISTED
    return rb"[^%s]*+" % re.escape(after[0].encode())
