"""Parse the times of log lines to seconds since 1970-01-01 UTC."""

import calendar
import re
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Final

from warehouse.errors import DeclarationError
from warehouse.weblogs.formats.records import TimeParser
from warehouse.weblogs.reader.fallback import FIRST_YEAR, LAST_YEAR, Fault, clf_seconds, printable

# Times that a parser remembers: many lines have the same second, also if several servers write them.
_CACHED: Final = 4096
# Up to this second, numbers of seconds, milli-, micro- and nanoseconds since 1970 differ in size: the unit is certain.
_LAST_SECOND: Final = calendar.timegm((LAST_YEAR + 1, 1, 1, 0, 0, 0))
_EPOCH = re.compile(rb"(\d{1,19})(?:\.\d*)?")
_ISO = re.compile(
    rb"(\d{4})-(\d\d)-(\d\d)[T t_](\d\d):(\d\d)(?::(\d\d)(?:[.,]\d+)?)? ?(Z|z|UTC|[+-]\d\d(?::?\d\d)?)?"
)
CLF: Final = rb"\d\d/[A-Za-z]{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}"
_CLF = re.compile(CLF)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAMES: Final = "[A-Za-z]{3,9}"
# Directives of strftime: regular expression, and name of the part; None if the part is not needed.
_DIRECTIVES: Final = {
    "Y": (r"\d{4}", "year"),
    "m": (r"\d\d", "month"),
    "b": (_NAMES, "month_name"),
    "B": (_NAMES, "month_name"),
    "h": (_NAMES, "month_name"),
    "d": (r"\d\d", "day"),
    "e": (r"[ \d]\d", "day"),
    "H": (r"\d\d", "hour"),
    "I": (r"\d\d", "hour12"),
    "p": (r"[AaPp][Mm]", "half"),
    "M": (r"\d\d", "minute"),
    "S": (r"\d\d", "second"),
    "s": (r"\d{1,10}", "epoch"),
    "z": (r"Z|[+-]\d\d:?\d\d", "zone"),
    "a": (_NAMES, None),
    "A": (_NAMES, None),
    "f": (r"\d{1,9}", None),
    "L": (r"\d{1,9}", None),
    "j": (r"\d{3}", None),
    "u": (r"\d", None),
    "w": (r"\d", None),
}
_SHORT: Final = {"T": "%H:%M:%S", "R": "%H:%M", "F": "%Y-%m-%d", "D": "%m/%d/%y", "r": "%I:%M:%S %p"}


def cached(parse: Callable[[bytes], int | Fault]) -> TimeParser:
    """Cache the last few thousand results of a parser."""
    return lru_cache(_CACHED)(parse)


def any_time(zone: tzinfo | None) -> TimeParser:
    """Make a parser of times in Common Log Format, ISO 8601, RFC 3339, or (milli-, micro-, nano-)seconds since 1970."""

    def parse(text: bytes) -> int | Fault:
        if _CLF.fullmatch(text):
            return clf_seconds(text)
        if _EPOCH.fullmatch(text):
            return epoch_seconds(text)
        return iso_seconds(text, zone)

    return cached(parse)


def epoch_seconds(text: bytes) -> int | Fault:
    """Parse a number of seconds, milliseconds, microseconds or nanoseconds since 1970; its size decides which."""
    match = _EPOCH.fullmatch(text)
    if match is None:
        return Fault("malformed_line", f"'{printable(text)[:60]}' is no number of seconds since 1970")
    number = int(match[1])
    for _ in range(4):
        if number < _LAST_SECOND:
            return number
        number //= 1000
    return Fault("impossible_date", f"no request can be of {printable(text)[:60]}")


def iso_seconds(text: bytes, zone: tzinfo | None) -> int | Fault:
    """Parse a time as 2026-11-20T01:02:03.4+01:00; without an offset it is one of `zone`."""
    match = _ISO.fullmatch(text)
    if match is None:
        return Fault("malformed_line", f"'{printable(text)[:60]}' is no time")
    year, month, day, hour, minute, second = (int(match[group] or 0) for group in range(1, 7))
    return _seconds(text, (year, month, day, hour, minute, second), match[7], zone)


def strftime(declared: Sequence[str], zone: tzinfo | None) -> TimeParser:
    """Make a parser of a time in several parts, each in a format of strftime, joined by line ends.

    Raises:
        DeclarationError: a directive is not known, two parts have the same directive, or together they do not give day,
            minute and zone.
    """
    names: set[str] = set()
    parts = [_part_pattern(part, names) for part in declared]
    title = " and ".join(f"'{part}'" for part in declared)
    if not is_time(names):
        raise DeclarationError(
            f"The time format {title} does not say year, month, day, hour and minute.",
            hint="A time needs them, as in %Y-%m-%dT%H:%M:%S%z, and %p beside %I; Apache: log one %t with all of it.",
        )
    if not names & {"epoch", "zone"} and zone is None:
        raise DeclarationError(
            f"The time format {title} has no time zone.",
            hint='Declare the zone of the server\'s clock, as time_zone = "Europe/Berlin".',
        )
    compiled = re.compile("\n".join(parts).encode())

    def parse(text: bytes) -> int | Fault:
        match = compiled.fullmatch(text)
        if match is None:
            return Fault("malformed_line", f"'{printable(text)[:60]}' is no time as {title}")
        values = {name: value for name, value in match.groupdict().items() if value is not None}
        if "epoch" in values:
            return epoch_seconds(values["epoch"])
        month = int(values["month"]) if "month" in values else _month(values["month_name"])
        hour = int(values["hour"]) if "hour" in values else int(values["hour12"]) % 12
        if "hour12" in values and "hour" not in values and values["half"].lower() == b"pm":
            hour += 12
        moment = (
            int(values["year"]), month, int(values["day"]), hour, int(values["minute"]), int(values.get("second", 0)),
        )  # fmt: skip
        return _seconds(text, moment, values.get("zone"), zone)

    return cached(parse)


def strftime_pattern(declared: str) -> bytes:
    """Return the regular expression of a format of strftime, without groups.

    Raises:
        DeclarationError: it has a directive that is not known.
    """
    return re.sub(r"\(\?P<\w+>", "(?:", _part_pattern(declared, set())).encode()


def strftime_names(declared: str) -> set[str]:
    """Return the names of the parts in a format of strftime: year, month, zone …

    Raises:
        DeclarationError: it has a directive that is not known.
    """
    names: set[str] = set()
    _part_pattern(declared, names)
    return names


def is_time(names: Collection[str]) -> bool:
    """Whether these parts determine the minute, apart from its zone."""
    has = set(names).__contains__
    is_day = has("year") and has("day") and (has("month") or has("month_name"))
    return has("epoch") or (is_day and has("minute") and (has("hour") or (has("hour12") and has("half"))))


def _part_pattern(declared: str, names: set[str]) -> str:
    """Return the regular expression of one part, with a group for each name that is new, and add these to `names`."""
    before, pattern, formats = frozenset(names), "", declared
    for short, long in _SHORT.items():
        formats = formats.replace(f"%{short}", long)
    for literal, directive in re.findall(r"([^%]+)|%(.?)", formats, re.DOTALL):
        if literal or directive == "%":
            pattern += re.escape(literal or directive)
        elif directive in ("n", "t"):
            pattern += r"[ \t]"
        elif directive not in _DIRECTIVES:
            raise DeclarationError(
                f"The time format '{declared}' has %{directive}, which cannot be read.",
                hint=f"Directives that can: {', '.join(f'%{one}' for one in (*_DIRECTIVES, *_SHORT))}.",
            )
        else:
            piece, name = _DIRECTIVES[directive]
            if name in before:
                raise DeclarationError(
                    f"The time format '{declared}' says the {name} that another time of the line says.",
                    hint="Which time is the request's cannot be told: have the server log one, with all of it.",
                )
            has_no_group = name is None or name in names
            pattern += f"(?:{piece})" if has_no_group else f"(?P<{name}>{piece})"
            if name is not None:
                names.add(name)
    return pattern


def _month(name: bytes) -> int:
    short = name[:3].decode("ascii").lower()
    return _MONTHS.index(short) + 1 if short in _MONTHS else 0


def _seconds(
    text: bytes, moment: tuple[int, int, int, int, int, int], offset: bytes | None, zone: tzinfo | None
) -> int | Fault:
    """Convert a local time to seconds, by its offset from UTC or, without one, by the rules of `zone`."""
    year, month, day, hour, minute, second = moment
    if offset is None and zone is None:
        return Fault("malformed_line", f"'{printable(text)[:60]}' has no time zone: declare time_zone")
    fault = Fault("impossible_date", f"no request can be of {printable(text)[:60]}")
    # A leap second is 23:59:60.
    if not FIRST_YEAR <= year <= LAST_YEAR or second > 60:
        return fault
    try:
        place = zone if offset is None else _offset(offset)
        local = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=place)
    except ValueError:
        return fault
    return int(local.timestamp()) + (1 if second == 60 else 0)


def _offset(text: bytes) -> timezone:
    if text in (b"Z", b"z", b"UTC"):
        return UTC
    digits = text[1:].replace(b":", b"").ljust(4, b"0")
    minutes = int(digits[:2]) * 60 + int(digits[2:])
    if minutes >= 16 * 60 or int(digits[2:]) > 59:
        raise ValueError(text)
    return timezone(timedelta(minutes=-minutes if text.startswith(b"-") else minutes))
