"""Apache's LogFormat: https://httpd.apache.org/docs/current/mod/mod_log_config.html."""

import re
from collections.abc import Iterator
from datetime import tzinfo
from typing import Final

from warehouse.errors import DeclarationError
from warehouse.weblogs.formats.pattern import Field, Token
from warehouse.weblogs.formats.records import TimeParser
from warehouse.weblogs.formats.times import any_time, epoch_seconds, strftime

_DIRECTIVE = re.compile(r"%([<>!\d,]*)(?:\{([^}]*)\})?(\^..|[a-zA-Z%])")
_LOG_FORMAT = re.compile(r'\s*LogFormat\s+"((?:[^"\\]|\\.)*)"(?:\s+\S+)?\s*', re.IGNORECASE)
_ESCAPED: Final = {"n": "\n", "t": "\t"}
# Name of the field, and its rank among those of the same name.
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
# An identity with a dot or a colon is an address: then another field than the identity stands there.
_PATTERNS: Final = {"l": rb"[^ \t.:,]*+", "D": rb"\d++|-", "T": rb"\d++|-"}
_EPOCHS: Final = ("sec", "msec", "usec")


def tokens_of(declared: str, zone: tzinfo | None) -> tuple[list[Token], TimeParser]:
    """Literals and fields of a LogFormat, with or without the directive's name, and the parser of its times.

    Raises:
        DeclarationError: it has a time that cannot be read.
    """
    match = _LOG_FORMAT.fullmatch(declared)
    text = match[1] if match else declared
    if match or r"\"" in text:
        text = re.sub(r"\\(.)", lambda escaped: _ESCAPED.get(escaped[1], escaped[1]), text)
    tokens: list[Token] = []
    times: list[TimeParser] = []
    for token, parse_time in _tokens(text, zone):
        if isinstance(token, str) and tokens and isinstance(tokens[-1], str):
            tokens[-1] += token
        else:
            tokens.append(token)
        if parse_time is not None:
            times.append(parse_time)
    if len(times) > 1:
        raise DeclarationError(
            f"The format '{declared}' has {len(times)} times.",
            hint="Which one is the request's cannot be told: have the server log one, with all of it.",
        )
    return tokens, times[0] if times else any_time(zone)


def _tokens(text: str, zone: tzinfo | None) -> Iterator[tuple[Token, TimeParser | None]]:
    place = 0
    for match in _DIRECTIVE.finditer(text):
        if match.start() > place:
            yield text[place : match.start()], None
        place = match.end()
        modifiers, argument, code = match.groups()
        if code == "%":
            yield "%", None
        elif code == "t":
            yield from _time(match[0], argument, zone)
        else:
            yield Field(*_field(match[0], modifiers, argument, code), _PATTERNS.get(code)), None
    if place < len(text):
        yield text[place:], None


def _time(
    source: str, argument: str | None, zone: tzinfo | None
) -> Iterator[tuple[Token, TimeParser | None]]:
    declared = (argument or "").removeprefix("begin:").removeprefix("end:")
    if declared in ("", "begin", "end"):
        # Its brackets are part of it.
        yield "[", None
        yield Field("time", source, pattern=rb"[^\]]*+"), any_time(zone)
        yield "]", None
    elif declared in _EPOCHS:
        yield Field("time", source, pattern=rb"\d{1,19}"), epoch_seconds
    elif declared.endswith("_frac"):
        yield Field(None, source, pattern=rb"\d{1,6}"), None
    else:
        pattern, parse = strftime(declared, zone)
        yield Field("time", source, pattern=pattern), parse


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
        # %{c}a is the connection's other end, %{ratio}n a note.
        name = None
    return name, source, rank
