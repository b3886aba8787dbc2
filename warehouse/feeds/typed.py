"""Convert values of records to their columns' types, as text for COPY. Values that do not fit raise `Mistyped`."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from datetime import time as time_of_day
from decimal import Decimal
from functools import cache, lru_cache, partial
from typing import Any, Final

from warehouse.feeds.record import Number
from warehouse.sources.feed import ColumnType, Feed

# Longer keys may not fit into the mirror's B-tree index.
MOST_KEY_BYTES: Final = 1000
# Number of characters of a mistyped value that the quarantine's reason shows.
MOST_SHOWN: Final = 100
NULL: Final = "\\N"
# re.ASCII, since Python's \d matches digits of other scripts, which PostgreSQL does not accept.
_NUMBER = re.compile(r"[+-]?(\d{1,1000})(\.\d{0,1000})?([eE][+-]?\d{1,3})?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


class Mistyped(ValueError):
    """A value does not fit its column's type."""


def escape(text: str) -> str:
    """Escape a text for COPY."""
    if _SPECIAL.search(text) is None:
        return text
    return _SPECIAL.sub(lambda match: _ESCAPES[match.group()], text)


def to_json(value: Any) -> str:
    """Return a value as JSON. Numbers stay as they were written; those too large for PostgreSQL become texts."""
    if isinstance(value, Number):
        return str(value) if _NUMBER.fullmatch(value) and not value.startswith("+") else _quoted(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(name)}: {to_json(member)}" for name, member in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(to_json, value)) + "]"
    if isinstance(value, datetime | date):
        return _quoted(value.isoformat())
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    return repr(value) if isinstance(value, int | float) else _quoted(str(value))


def type_name(kind: type) -> str:
    """Return the name of a Python type in the terms of JSON, such as 'number' or 'object'."""
    return _TYPE_NAMES.get(kind, kind.__name__)


_TYPE_NAMES: Final[Mapping[type, str]] = {
    str: "text", Number: "number", int: "number", float: "number", Decimal: "number", bool: "boolean",
    type(None): "null", dict: "object", list: "list", date: "date", datetime: "date",
    time_of_day: "time", timedelta: "interval",
}  # fmt: skip


def _quoted(text: str) -> str:
    import orjson

    return orjson.dumps(str(text)).decode()


def _text(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return value if _SPECIAL.search(value) is None else escape(value)
    if kind is int or kind is float or kind is Number:
        return str(value)
    raise Mistyped


def _numeric(value: Any) -> str:
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is float:
        return repr(value)
    if (kind is Number or kind is str) and _NUMBER.fullmatch(value):
        return str(value)
    raise Mistyped


def _bigint(value: Any) -> str:
    kind = type(value)
    if kind is float and value.is_integer():
        value = int(value)
    if kind is bool or not _INTEGER.fullmatch(text := str(value)):
        raise Mistyped
    return text


def _boolean(value: Any) -> str:
    if value is True or value is False:
        return "t" if value else "f"
    if type(value) is str and value.lower() in ("true", "false"):
        return value.lower()[0]
    raise Mistyped


def _date(value: Any) -> str:
    kind = type(value)
    if kind is datetime:
        return str(value.date().isoformat())
    if kind is date:
        return str(value.isoformat())
    if kind is not str:
        raise Mistyped
    return _date_of_text(value)


@lru_cache(10_000)
def _date_of_text(value: str) -> str:
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(value).date().isoformat()
    except ValueError:
        raise Mistyped from None


def _timestamptz(value: Any, zone: tzinfo) -> str:
    kind = type(value)
    try:
        if kind is str:
            moment = datetime.fromisoformat(value)
        elif kind is datetime:
            moment = value
        elif kind is date:
            moment = datetime(value.year, value.month, value.day)
        else:
            raise Mistyped
    except ValueError:
        raise Mistyped from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).isoformat()


def _jsonb(value: Any) -> str:
    return escape(to_json(value))


@cache
def converters(zone: tzinfo) -> Mapping[ColumnType, Callable[[Any], str]]:
    """Return the converter of each type. Times and dates without a zone are in `zone`; of a time that the clocks there
    show twice, the first is meant."""
    return {
        "text": _text,
        "numeric": _numeric,
        "bigint": _bigint,
        "boolean": _boolean,
        "date": _date,
        "timestamptz": partial(_timestamptz, zone=zone),
        "jsonb": _jsonb,
    }


def is_valid(kind: ColumnType, value: Any) -> bool:
    """Whether a value can be converted to a type."""
    try:
        converters(UTC)[kind](value)
    except Mistyped:
        return False
    return True


def describe_type(kind: ColumnType, feed: Feed) -> str:
    """Describe how a feed's files must write this type: 'a time in ISO 8601 or a format of date_formats'."""
    match kind:
        case "date" | "timestamptz":
            what = "a date" if kind == "date" else "a time"
            return f"{what} in ISO 8601" + (" or a format of date_formats" if feed.date_formats else "")
        case "numeric":
            mark = feed.decimal_mark or "not declared"
            return "a number" + (f" (decimal_mark: {mark})" if feed.format == "table" else "")
        case "bigint":
            return "an integer of at most 18 digits"
        case "boolean":
            return "true or false"
        case "text":
            return "a text or a number"
        case "jsonb":
            return "JSON"


def convert_all(
    kind: ColumnType, values: Sequence[Any], types: Collection[type], zone: tzinfo
) -> Sequence[str]:
    """Convert the values of a column, none of them null. `types` are the Python types that occur among them; times
    without a zone are in `zone`.

    Raises:
        Mistyped: a value does not fit the column's type.
    """
    if kind == "text" and set(types) == {str}:
        text = "\0".join(values)
        if "\\" in text or "\t" in text or "\n" in text or "\r" in text:
            return list(map(escape, values))
        return values
    if kind == "numeric" and {int, float}.issuperset(types):
        return list(map(repr, values))
    return list(map(converters(zone)[kind], values))
