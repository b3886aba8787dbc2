"""Parse JSON records exactly: numbers stay as they are written, and unparseable records have a named problem.

orjson parses whole blocks. Records that orjson would change are parsed again by a slower, exact parser.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from warehouse.feeds.record import Number, Problem

# Names of fields that become texts, by the name of the list that they are in; "" stands for the record itself.
TextFields = Mapping[str, Sequence[str]]

# orjson converts numbers to doubles (15 digits), and keeps only the last of two fields with the same name. To find such
# records quickly, the text is translated: digits and points to 0, exponents to e, all white space to one character.
_CLASSES: Final = bytes(
    ord("0")
    if chr(code) in "0123456789."
    else ord("e")
    if chr(code) in "eE"
    else ord(" ")
    if chr(code) in " \t\r\n"
    else code
    if code < 128
    else ord("x")
    for code in range(256)
)
_LONG, _EXPONENT, _NUL, _SPACE_BEFORE_COLON = b"0" * 16, b"0e", b"\\u0000", b" :"
# A second, exact check of texts that the scan suspects: in JSON a number follows one of these characters.
_INEXACT: Final = re.compile(rb"[:,\[\s]-?(?:[\d.]{16}|[\d.]+[eE])|\\u0000|\s:")


class _Refused(ValueError):
    """A record cannot be loaded: it is not JSON, or PostgreSQL cannot store it."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.problem = Problem(rule, reason)


def parse_all(raws: Sequence[bytes], texts: TextFields) -> list[dict[str, Any] | Problem]:
    """Parse many records like `parse`, but faster: orjson's result is checked once for all of them."""
    try:
        values = list(map(orjson.loads, raws))
    except (orjson.JSONDecodeError, RecursionError):
        return [parse(raw, texts) for raw in raws]
    if not _is_exact(b"\n".join(raws), values, texts):
        return [parse(raw, texts) for raw in raws]
    return [value if type(value) is dict else _no_object(value) for value in values]


def parse(raw: bytes, texts: TextFields, *, is_cut_off: bool = False) -> dict[str, Any] | Problem:
    """Return the fields of a record, or why it cannot be parsed. If `is_cut_off`, the file may end within it."""
    try:
        value = orjson.loads(raw)
        is_exact = _is_exact(raw, [value], texts)
    except (orjson.JSONDecodeError, RecursionError):
        is_exact = False
    if not is_exact:
        try:
            value = _parse_exactly(raw)
        except _Refused as refused:
            return Problem("record is cut off", refused.problem.reason) if is_cut_off else refused.problem
    return value if isinstance(value, dict) else _no_object(value)


def _is_exact(text: bytes, values: Sequence[Any], texts: TextFields) -> bool:
    """Whether orjson's `values` are exactly what the text has: no number was rounded, no repeated field dropped."""
    scanned = text.translate(_CLASSES)
    is_doubtful = (
        _LONG in scanned or _EXPONENT in scanned or _NUL in text or _SPACE_BEFORE_COLON in scanned
    ) and _INEXACT.search(text) is not None
    # Each field has a colon after its name: if there are fewer fields than colons, a name was repeated.
    return (
        not is_doubtful and text.count(b'":') == _count_fields(values) and not _has_number_text(values, texts)
    )


def _has_number_text(values: Sequence[Any], texts: TextFields) -> bool:
    """Whether a text column has a number with a decimal point: as texts, 1.10 and 1.1 differ."""
    objects = [value for value in values if type(value) is dict]
    for items, names in texts.items():
        owners = objects
        if items:
            lists = [one[items] for one in objects if type(one.get(items)) is list]
            owners = [member for members in lists for member in members if type(member) is dict]
        if any(float in set(map(type, [one.get(name) for one in owners])) for name in names):
            return True
    return False


def _count_fields(values: Sequence[Any]) -> int:
    """Count the fields of all objects in `values`, nested ones included."""
    count = 0
    while values:
        objects = [one for one in values if type(one) is dict]
        count += sum(map(len, objects))
        nested = [
            member
            for one in objects
            for member in one.values()
            if type(member) is list or type(member) is dict
        ]
        for one in values:
            if type(one) is list:
                nested += [member for member in one if type(member) is dict or type(member) is list]
        values = nested
    return count


def _no_object(value: Any) -> Problem:
    if isinstance(value, list):
        kind = "a list"
    elif value is None or isinstance(value, bool):
        kind = "a constant"
    else:
        kind = "a number" if isinstance(value, Number | int | float) else "a text"
    return Problem("record is not an object", f"It is {kind}.")


def _parse_exactly(raw: bytes) -> Any:
    """Parse a record, with numbers as they are written.

    Raises:
        _Refused: it is not JSON, or PostgreSQL's jsonb cannot hold it.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Refused("record is not UTF-8", f"Byte {error.start + 1} of it is no text.") from None
    try:
        value = _exact.decode(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise _Refused(
                "more than one record on a line", f"Something follows after its character {error.pos}."
            ) from None
        raise _Refused("record is not JSON", f"{error.msg} at character {error.pos + 1}.") from None
    except RecursionError:
        raise _Refused(
            "record is nested too deeply", "Its lists and objects are nested too deeply."
        ) from None
    if "\\u" in text:
        _check_text(value)
    return value


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused("field is there twice", f"Field {twice[:100]!r} is there more than once.")
    return fields


def _constant(name: str) -> Any:
    raise _Refused("number is not finite", f"{name} is no number of JSON.")


_exact = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_float=Number, parse_int=Number, parse_constant=_constant
)


def _check_text(value: Any) -> None:
    """Check that PostgreSQL can hold all texts in a value.

    Raises:
        _Refused: a text has a lone surrogate or a NUL.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise _Refused("text has a NUL character", "PostgreSQL cannot hold it.")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Refused("text is no Unicode", "It has a lone surrogate, half of a character.") from None
    elif isinstance(value, dict):
        for name, member in value.items():
            _check_text(name)
            _check_text(member)
    elif isinstance(value, list):
        for member in value:
            _check_text(member)
