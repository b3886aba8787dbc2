"""Unwrap log lines that are embedded in other lines: in a CSV column, in quotes, in JSON of Docker, after a prefix."""

import csv
import json
import re
from collections.abc import Callable
from typing import Final

from warehouse.weblogs.reader.fallback import Fault

Unwrap = Callable[[bytes], bytes | Fault]
# The prefix of Kubernetes' container runtimes (CRI): time, stream, and F for a full line.
_CRI = re.compile(rb"\S+ (?:stdout|stderr) F (.*)", re.DOTALL)
_SYSLOG = re.compile(
    rb"(?:<\d{1,3}>)?(?:\d )?(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S+) \S+ "
    rb"[^\s:\[]+(?:\[\d+\])?: (.*)",
    re.DOTALL,
)
_QUOTES: Final = (b'"', b"'")
# A field of CSV may be as long as a line.
csv.field_size_limit(1 << 27)


def in_quotes(line: bytes) -> bytes | Fault:
    """Unwrap a line in single or double quotes; quotes within are doubled, escaped, or as they are."""
    text = line.strip()
    if len(text) < 2 or text[:1] not in _QUOTES or text[:1] != text[-1:]:
        return Fault("malformed_line", "not in quotes")
    quote, inner = text[:1], text[1:-1]
    # If all quotes within are doubled, or all have a backslash before them, that is how they are escaped.
    if inner.count(quote * 2) * 2 == inner.count(quote):
        return inner.replace(quote * 2, quote)
    if inner.count(b"\\" + quote) == inner.count(quote):
        return inner.replace(b"\\" + quote, quote)
    return inner


def in_csv(column: int, delimiter: str) -> Unwrap:
    """Make a function that returns a column of a CSV line, counted from 1."""

    def unwrap(line: bytes) -> bytes | Fault:
        try:
            (values,) = csv.reader([line.decode("latin-1")], delimiter=delimiter, strict=True)
        except (csv.Error, ValueError):
            return Fault("malformed_line", "not a line of CSV")
        if len(values) < column:
            return Fault("malformed_line", f"column {column} is missing: the line has {len(values)}")
        return values[column - 1].encode("latin-1")

    return unwrap


def in_json(key: str) -> Unwrap:
    """Make a function that returns the text under a key of a JSON object, as Docker's log."""

    def unwrap(line: bytes) -> bytes | Fault:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        text = value.get(key) if isinstance(value, dict) else None
        if not isinstance(text, str):
            return Fault("malformed_line", f"not a JSON object with a text under {key}")
        return text.rstrip("\r\n").encode("utf-8", "surrogatepass")

    return unwrap


def after_prefix(pattern: re.Pattern[bytes], what: str) -> Unwrap:
    """Make a function that returns what follows a prefix."""

    def unwrap(line: bytes) -> bytes | Fault:
        match = pattern.fullmatch(line)
        return Fault("malformed_line", f"not a line of {what}") if match is None else match[1]

    return unwrap


def unwrapper(wrapped: str, column: int, delimiter: str) -> Unwrap:
    """Return the function that unwraps a line, by the wrapping's name in a declaration."""
    return {
        "csv": in_csv(column, delimiter),
        "quotes": in_quotes,
        "docker": in_json("log"),
        "cri": after_prefix(_CRI, "a Kubernetes container log"),
        "syslog": after_prefix(_SYSLOG, "syslog"),
    }[wrapped]


WRAPPINGS: Final = ("csv", "quotes", "docker", "cri", "syslog")
