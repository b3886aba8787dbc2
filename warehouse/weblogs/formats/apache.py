"""Parse Apache's LogFormat (https://httpd.apache.org/docs/current/mod/mod_log_config.html) into literals and fields."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Final

from warehouse.errors import DeclarationError
from warehouse.weblogs.formats.pattern import Field, Token, time_part
from warehouse.weblogs.formats.records import TimeParser
from warehouse.weblogs.formats.times import (
    any_time,
    epoch_seconds,
    is_time,
    strftime,
    strftime_names,
    strftime_pattern,
)

_DIRECTIVE = re.compile(r"%([<>!\d,]*)(?:\{([^}]*)\})?(\^..|[a-zA-Z%])")
_LOG_FORMAT = re.compile(r'\s*LogFormat\s+"((?:[^"\\]|\\.)*)"(?:\s+\S+)?\s*', re.IGNORECASE)
_DIRECTIVE_NAME = re.compile(r"\s*LogFormat\s", re.IGNORECASE)
_ESCAPED: Final = {"n": "\n", "t": "\t"}
# Name of the field, and its rank: of several fields with one name, the lowest rank counts.
_FIELDS: Final = {
    "a": ("address", 0), "h": ("address", 1), "u": ("user", 0), "r": ("request", 0), "m": ("method", 0),
    "U": ("path", 0), "q": ("query", 0), "H": ("protocol", 0), "s": ("status", 1), "b": ("response_bytes", 0),
    "B": ("response_bytes", 0), "O": ("response_bytes", 1), "I": ("request_bytes", 0), "v": ("host", 2),
    "V": ("host", 1), "D": ("microseconds", 0), "T": ("seconds", 0),
}  # fmt: skip
_HEADERS: Final = {
    "referer": ("referer", 0),
    "user-agent": ("user_agent", 0),
    "x-forwarded-for": ("forwarded_for", 0),
    "host": ("host", 0),
}
_VARIABLES: Final = {"ssl_protocol": ("tls", 0), "https": ("tls", 1), "request_scheme": ("tls", 2)}
_UNITS: Final = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}
# Values of directives. An identity (%l) has no dot or colon: an address there means that the line has another layout.
_PATTERNS: Final = {"l": rb"[^ \t.:,]*+", "D": rb"\d++|-", "T": rb"\d++|-"}
_MOMENT = re.compile(r"(?:(begin|end)(?::|$))?(.*)", re.DOTALL)
_EPOCHS: Final = ("sec", "msec", "usec")


def tokens_of(declared: str, zone: tzinfo | None) -> tuple[list[Token], TimeParser]:
    """Parse a LogFormat, with or without the directive's name; returns its tokens, and the parser of its times.

    Raises:
        DeclarationError: it has a time that cannot be read.
    """
    match = _LOG_FORMAT.fullmatch(declared)
    if match is None and _DIRECTIVE_NAME.match(declared):
        raise DeclarationError(
            f"'{declared[:60]}' is no LogFormat, or not all of it.",
            hint='As in the configuration: LogFormat "…" nickname',
        )
    text = match[1] if match else declared
    if match or r"\"" in text:
        text = re.sub(r"\\(.)", lambda escaped: _ESCAPED.get(escaped[1], escaped[1]), text)
    drafts: list[Token | _Time] = []
    for token in _tokens(text):
        if isinstance(token, str) and drafts and isinstance(drafts[-1], str):
            drafts[-1] += token
        else:
            drafts.append(token)
    parts, parse_time = _request_time([one for one in drafts if isinstance(one, _Time)], declared, zone)
    return [_field_of_time(one, parts) if isinstance(one, _Time) else one for one in drafts], parse_time


@dataclass(frozen=True, eq=False)
class _Time:
    """A directive %t: its format, empty for that of CLF, and whether it is the begin or end of the request."""

    source: str
    format: str
    moment: str

    @property
    def pattern(self) -> bytes:
        """Regular expression of its values."""
        if not self.format:
            return rb"[^\]]*+"
        if self.format in _EPOCHS:
            return rb"\d{1,19}"
        return strftime_pattern(self.format)


def _request_time(
    times: Sequence[_Time], declared: str, zone: tzinfo | None
) -> tuple[Sequence[_Time], TimeParser]:
    """Choose the directives that form the time of the request, and a parser of their values, joined by \\n.

    Raises:
        DeclarationError: they form no time, or several.
    """
    whole = [one for one in times if one.format in ("", *_EPOCHS)]
    parts = [one for one in times if one not in whole]
    if whole and is_time({name for one in parts for name in strftime_names(one.format)}):
        whole += parts
    if len(whole) > 1 or len({one.moment for one in whole or parts}) > 1:
        raise DeclarationError(
            f"The format '{declared}' has {len(times)} times.",
            hint="Which one is the request's cannot be told: have the server log one, with all of it.",
        )
    if whole or not parts:
        return whole, epoch_seconds if whole and whole[0].format else any_time(zone)
    return parts, strftime([one.format for one in parts], zone)


def _field_of_time(time: _Time, parts: Sequence[_Time]) -> Field:
    name = time_part(parts.index(time)) if time in parts else None
    return Field(name, time.source, pattern=time.pattern)


def _tokens(text: str) -> Iterator["Token | _Time"]:
    place = 0
    for match in (*_DIRECTIVE.finditer(text), None):
        literal = text[place : match.start() if match else None]
        if "%" in literal:
            raise _unfinished(literal[literal.index("%") :])
        if literal:
            yield literal
        if match is None:
            return
        place = match.end()
        modifiers, argument, code = match.groups()
        # The closing brace is missing, so that the argument extends to the next directive.
        if "{" in (argument or "") or (code != "t" and "%" in (argument or "")):
            raise _unfinished(match[0])
        if code == "%":
            yield "%"
        elif code == "t":
            yield from _time(match[0], argument or "")
        else:
            yield Field(*_field(match[0], modifiers, argument, code), _PATTERNS.get(code))


def _unfinished(text: str) -> DeclarationError:
    return DeclarationError(
        f"'{text[:40]}' is no directive of a LogFormat, or not all of it.",
        hint="A directive is as %h, %>s or %{Referer}i; a percent sign itself is %%.",
    )


def _time(source: str, argument: str) -> Iterator["Token | _Time"]:
    match = _MOMENT.fullmatch(argument)
    assert match is not None
    moment, declared = match[1] or "begin", match[2]
    if declared.endswith("_frac"):
        yield Field(None, source, pattern=rb"\d{1,6}")
    elif declared:
        yield _Time(source, declared, moment)
    else:
        # Apache writes %t in brackets.
        yield from ("[", _Time(source, "", moment), "]")


def _field(source: str, modifiers: str, argument: str | None, code: str) -> tuple[str | None, str, int]:
    name, rank = _FIELDS.get(code, (None, 0))
    if code == "s" and ">" in modifiers:
        rank = 0
    elif code == "T" and argument:
        name = _UNITS.get(argument)
    elif code == "i":
        name, rank = _HEADERS.get((argument or "").lower(), (None, 0))
    elif code in ("x", "e"):
        name, rank = _VARIABLES.get((argument or "").lower(), (None, 0))
    elif argument and code not in ("T",):
        # With an argument it is something else: %{c}a is the peer of the connection, %{ratio}n a note.
        name = None
    return name, source, rank
